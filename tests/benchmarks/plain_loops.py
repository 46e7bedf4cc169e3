"""Baseline: the erf right-hand side as a plain scalar compiled loop over all fields.

Every integral is called for every pair or quadruple of fields, with the determinant formulas of
theory/one_pass A.2 and libm's arcsine, as the published Cython and C++ codes. No symmetry is used,
nothing is hoisted. Only the benchmarks use this; it is checked against the library before timing.
"""

import math

import numpy as np
from numba import njit


@njit(cache=True)
def I2(c11, c12, c22):
    return 2 / math.pi * math.asin(c12 / math.sqrt((1 + c11) * (1 + c22)))


@njit(cache=True)
def I3(c11, c12, c13, c23, c33):
    lam = (1 + c11) * (1 + c33) - c13**2
    return 2 / (math.pi * math.sqrt(lam)) * (c23 - c12 * c13 / (1 + c11))


@njit(cache=True)
def In(c11, c12, c22):
    return 2 / (math.pi * math.sqrt((1 + c11) * (1 + c22) - c12**2))


@njit(cache=True)
def I4(C, a, b, m, n):
    lam4 = (1 + C[a, a]) * (1 + C[b, b]) - C[a, b] ** 2
    lam0 = (
        lam4 * C[m, n]
        - C[b, m] * C[b, n] * (1 + C[a, a])
        - C[a, m] * C[a, n] * (1 + C[b, b])
        + C[a, b] * (C[a, m] * C[b, n] + C[a, n] * C[b, m])
    )
    lam1 = (
        lam4 * (1 + C[m, m])
        - C[b, m] ** 2 * (1 + C[a, a])
        - C[a, m] ** 2 * (1 + C[b, b])
        + 2 * C[a, b] * C[a, m] * C[b, m]
    )
    lam2 = (
        lam4 * (1 + C[n, n])
        - C[b, n] ** 2 * (1 + C[a, a])
        - C[a, n] ** 2 * (1 + C[b, b])
        + 2 * C[a, b] * C[a, n] * C[b, n]
    )
    return 4 / (math.pi**2 * math.sqrt(lam4)) * math.asin(lam0 / math.sqrt(lam1 * lam2))


@njit(cache=True)
def rates(Q, M, P, gamma, noise, dQ, dM):
    """Free weights, unit readouts."""
    p, k = M.shape
    N = p + k
    C = np.empty((N, N))
    C[:p, :p] = Q
    C[:p, p:] = M
    C[p:, :p] = M.T
    C[p:, p:] = P
    c = np.empty(N)
    c[:p] = -1.0 / p
    c[p:] = 1.0 / k
    for j in range(p):
        for r in range(k):
            total = 0.0
            for m in range(N):
                total += c[m] * I3(C[j, j], C[j, p + r], C[j, m], C[p + r, m], C[m, m])
            dM[j, r] = total
        for l in range(p):  # noqa: E741
            total = 0.0
            for m in range(N):
                total += c[m] * I3(C[j, j], C[j, l], C[j, m], C[l, m], C[m, m])
                total += c[m] * I3(C[l, l], C[l, j], C[l, m], C[j, m], C[m, m])
            noisy = noise * In(C[j, j], C[j, l], C[l, l])
            for m in range(N):
                for n in range(N):
                    noisy += c[m] * c[n] * I4(C, j, l, m, n)
            dQ[j, l] = total + gamma / p * noisy


@njit(cache=True)
def risk(Q, M, P):
    p, k = M.shape
    total = 0.0
    for j in range(p):
        for l in range(p):  # noqa: E741
            total += I2(Q[j, j], Q[j, l], Q[l, l]) / p**2
        for r in range(k):
            total -= 2 * I2(Q[j, j], M[j, r], P[r, r]) / (p * k)
    for r in range(k):
        for s in range(k):
            total += I2(P[r, r], P[r, s], P[s, s]) / k**2
    return total / 2


@njit(cache=True)
def repeat_rates(n, Q, M, P, gamma, noise, dQ, dM):
    for _ in range(n):
        rates(Q, M, P, gamma, noise, dQ, dM)


@njit(cache=True)
def euler(Q, M, P, gamma, noise, dt, steps):
    """Forward Euler, overwriting Q and M."""
    dQ, dM = np.empty_like(Q), np.empty_like(M)
    for _ in range(steps):
        rates(Q, M, P, gamma, noise, dQ, dM)
        Q += dt * dQ
        M += dt * dM
