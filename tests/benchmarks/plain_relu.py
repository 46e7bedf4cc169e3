"""Baseline: the ReLU right-hand side as a plain scalar compiled loop over all fields.

Every integral is called for each pair or quadruple of fields by the formulas of theory/one_pass A.3
as they stand: distinct fields of a quadruple, orthant probabilities of up to four of them, the last
by 80 Gauss-Legendre nodes in t = sin(theta). Only the benchmarks use this; it is checked against
the library before timing.
"""

import math

import numpy as np
from numba import njit

X, W = np.polynomial.legendre.leggauss(80)
THETA = 0.25 * math.pi * (X + 1.0)
T, DT = np.sin(THETA), 0.25 * math.pi * W * np.cos(THETA)
PAIRS = np.array(
    [(0, 1, 2, 3), (0, 2, 1, 3), (0, 3, 1, 2), (1, 2, 0, 3), (1, 3, 0, 2), (2, 3, 0, 1)]
)


@njit(cache=True)
def asin(x):
    return math.asin(min(1.0, max(-1.0, x)))


@njit(cache=True)
def I3(c11, c12, c13, c23, c33):
    root = math.sqrt(max(c11 * c33 - c13**2, 0.0))
    angle = asin(c13 / math.sqrt(c11 * c33))
    return c12 * root / (2 * math.pi * c11) + c23 * (0.25 + angle / (2 * math.pi))


@njit(cache=True)
def given(C, j):
    return C - np.outer(C[:, j], C[j, :]) / C[j, j]


@njit(cache=True)
def angle_given(t, ij, ik, il, jk, jl, kl):
    """asin of the correlation of k and l given i and j, at correlations t R."""
    jj, kk, ll = 1.0 - (t * ij) ** 2, 1.0 - (t * ik) ** 2, 1.0 - (t * il) ** 2
    jk, jl, kl = t * (jk - t * ij * ik), t * (jl - t * ij * il), t * (kl - t * ik * il)
    return asin((kl - jk * jl / jj) / math.sqrt((kk - jk * jk / jj) * (ll - jl * jl / jj)))


@njit(cache=True)
def orthant(C, A):
    """Probability that the fields A are all positive."""
    n = A.size
    R = np.empty((n, n))
    for i in range(n):
        for j in range(n):
            R[i, j] = C[A[i], A[j]] / math.sqrt(C[A[i], A[i]] * C[A[j], A[j]])
    total = 0.5**n
    for i in range(n):
        for j in range(i):
            total += 2.0**-n * 2.0 / math.pi * asin(R[i, j])
    if n < 4:
        return total
    total = 1.0 / 16.0
    for i, j, k, l in PAIRS:  # noqa: E741
        for s in range(T.size):
            angle = angle_given(T[s], R[i, j], R[i, k], R[i, l], R[j, k], R[j, l], R[k, l])
            weight = DT[s] * R[i, j] / (2 * math.pi * math.sqrt(1.0 - T[s] ** 2 * R[i, j] ** 2))
            total += weight * (0.25 + angle / (2 * math.pi))
    return total


@njit(cache=True)
def without(A, j):
    return A[j != A]


@njit(cache=True)
def I4(C, j, l, m, n):  # noqa: E741
    """E[lambda_m lambda_n 1(all four positive)]."""
    A = np.unique(np.array([j, l, m, n]))
    total = C[m, n] * orthant(C, A)
    for a in A:
        D = given(C, a)
        rest = without(A, a)
        for b in rest:
            weight = C[m, a] / math.sqrt(2 * math.pi * C[a, a])
            weight *= D[n, b] / math.sqrt(2 * math.pi * D[b, b])
            total += weight * orthant(given(D, b), without(rest, b))
    return total


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
            noisy = noise * orthant(C, np.unique(np.array([j, l])))
            for m in range(N):
                for n in range(N):
                    noisy += c[m] * c[n] * I4(C, j, l, m, n)
            dQ[j, l] = total + gamma / p * noisy


@njit(cache=True)
def repeat_rates(n, Q, M, P, gamma, noise, dQ, dM):
    for _ in range(n):
        rates(Q, M, P, gamma, noise, dQ, dM)
