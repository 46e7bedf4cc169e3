r"""The overlaps of one-pass SGD as an exact Markov chain, at a cost independent of d.

Given the overlaps, the fields of a batch are Gaussian, lambda = A z with A A^T = Omega of rank r,
and what a sample x has outside the span of the weights enters only through its Gram matrix, which
is Wishart with d - r degrees of freedom (one_pass.md B.6). With c = gamma/(p n_b) and Psi the
updates psi of the batch,

    M += (c/d) Psi H*^T
    Q += (c/d) (Psi H^T + H Psi^T) + (c/d)^2 [Psi Z^T Z Psi^T + Wishart(d - r, Psi Psi^T)],

then division by the lengths on the sphere. The law is that of weights in R^d for every d;
increments below 1e-16 of an overlap are lost to rounding.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from dmft.model import Overlaps
from dmft.simulation.declaration import Experiment
from dmft.simulation.factor import RANK_TOLERANCE, factor, semidefinite_factor
from dmft.simulation.passage import WATCH_NOTHING, has_passed
from dmft.simulation.risk import MATRIX, Rule
from dmft.simulation.steps import (
    COMMON,
    INTEGERS,
    PASSED,
    REACHED,
    Constants,
    Runner,
    length_status,
    sample_updates,
)


@njit(nogil=True, cache=True, error_model="numpy")
def factor_students(Q, M, root, pivots, B, L, rest, order):  # type: ignore[no-untyped-def]
    """Factor h = B z1 + L z2 given h* = root z1; returns the rank of the second part."""
    p, rank = B.shape
    for j in range(p):
        for c in range(rank):
            value = M[j, pivots[c]]
            for e in range(c):
                value -= B[j, e] * root[pivots[c], e]
            B[j, c] = value / root[pivots[c], c]
    largest = 0.0
    for j in range(p):
        largest = max(largest, Q[j, j])
        for i in range(j + 1):
            value = Q[j, i]
            for c in range(rank):
                value -= B[j, c] * B[i, c]
            rest[j, i] = value
            rest[i, j] = value
    return semidefinite_factor(rest, L, order, RANK_TOLERANCE * largest)


@njit(nogil=True, cache=True, error_model="numpy")
def draw_fields(generator, root, B, L, rank, z, h, h_star):  # type: ignore[no-untyped-def]
    """Draw one sample's coordinates z in the span of the weights, and its fields; |z|^2."""
    known = root.shape[1]
    square = 0.0
    for c in range(known + rank, z.size):
        z[c] = 0.0
    for c in range(known + rank):
        z[c] = generator.standard_normal()
        square += z[c] * z[c]
    for r in range(h_star.size):
        h_star[r] = 0.0
        for c in range(known):
            h_star[r] += root[r, c] * z[c]
    for j in range(h.size):
        h[j] = 0.0
        for c in range(known):
            h[j] += B[j, c] * z[c]
        for c in range(rank):
            h[j] += L[j, c] * z[known + c]
    return square


@njit(nogil=True, cache=True, error_model="numpy")
def add_wishart(generator, S, degrees, L, order, T, Y, out):  # type: ignore[no-untyped-def]
    """Add a Wishart(degrees, S) draw to `out`; S is overwritten. Bartlett's decomposition."""
    p = S.shape[0]
    largest = 0.0
    for j in range(p):
        largest = max(largest, S[j, j])
    s = semidefinite_factor(S, L, order, RANK_TOLERANCE * largest)
    columns = min(s, degrees)
    for i in range(s):
        for c in range(columns):
            if c < i:
                T[i, c] = generator.standard_normal()
            elif c == i:
                T[i, c] = math.sqrt(generator.chisquare(degrees - i))
            else:
                T[i, c] = 0.0
    for j in range(p):
        for c in range(columns):
            Y[j, c] = 0.0
            for i in range(s):
                Y[j, c] += L[j, i] * T[i, c]
    for j in range(p):
        for i in range(p):
            for c in range(columns):
                out[j, i] += Y[j, c] * Y[i, c]


@njit(nogil=True, cache=True, error_model="numpy")
def normalise(Q: NDArray[np.float64], M: NDArray[np.float64]) -> None:
    """Divide every student by its length |w_j| / sqrt(d)."""
    p, k = M.shape
    for j in range(p):
        inverse = 1.0 / math.sqrt(Q[j, j])
        for r in range(k):
            M[j, r] *= inverse
        for i in range(p):
            Q[j, i] *= inverse
            Q[i, j] *= inverse
        Q[j, j] = 1.0


@njit(nogil=True, cache=True, error_model="numpy")
def clear(matrix: NDArray[np.float64]) -> None:
    """Set to zero in place."""
    for i in range(matrix.shape[0]):
        for j in range(matrix.shape[1]):
            matrix[i, j] = 0.0


@njit(nogil=True, cache=True, error_model="numpy")
def add_sample(psi, h, h_star, z, cross, own, S, V, keep):  # type: ignore[no-untyped-def]
    """Add one sample to Psi H*^T, Psi H^T, Psi Psi^T and, if asked to, Psi Z^T."""
    for j in range(psi.size):
        for r in range(h_star.size):
            cross[j, r] += psi[j] * h_star[r]
        for i in range(psi.size):
            own[j, i] += psi[j] * h[i]
            S[j, i] += psi[j] * psi[i]
        if keep:
            for c in range(z.size):
                V[j, c] += psi[j] * z[c]


@njit(nogil=True, cache=True, error_model="numpy")
def fill_gram(generator, S, V, inside, degrees, batch, L, order, T, Y, gram):  # type: ignore[no-untyped-def]
    """Psi X^T X Psi^T: the part in the span of the weights and the Wishart part outside it.

    For one sample Psi Psi^T has rank one, and both are its square length times psi psi^T.
    """
    p = S.shape[0]
    if batch == 1:
        if degrees > 0:
            inside += generator.chisquare(degrees)
        for j in range(p):
            for i in range(p):
                gram[j, i] = inside * S[j, i]
        return
    for j in range(p):
        for i in range(p):
            gram[j, i] = 0.0
            for c in range(V.shape[1]):
                gram[j, i] += V[j, c] * V[i, c]
    add_wishart(generator, S, degrees, L, order, T, Y, gram)


@njit(nogil=True, cache=True, error_model="numpy")
def apply_step(Q, M, scale, cross, own, gram):  # type: ignore[no-untyped-def]
    """Add the increments of one step."""
    p, k = M.shape
    for j in range(p):
        for r in range(k):
            M[j, r] += scale * cross[j, r]
        for i in range(p):
            Q[j, i] += scale * (own[j, i] + own[i, j]) + scale * scale * gram[j, i]


@njit(
    types.UniTuple(types.int64, 2)(MATRIX, MATRIX, MATRIX, INTEGERS, *COMMON),
    nogil=True,
    cache=True,
    error_model="numpy",
)
def advance_overlaps(  # type: ignore[no-untyped-def]
    Q, M, root, pivots, P, a, a_star, rates, counts, watch,
    sigma, slope, sigma_star, par, par_star, rule, generator,
):  # fmt: skip
    """Carry Q (p, p) and M (p, k) on in place; returns the status code and the steps done."""
    p, k = M.shape
    known, batch, dim = root.shape[1], counts[2], counts[4]
    B, L, rest, order = (
        np.empty((p, known)),
        np.zeros((p, p)),
        np.empty((p, p)),
        np.empty(p, np.int64),
    )
    h, h_star, psi, z = np.empty(p), np.empty(k), np.empty(p), np.zeros(known + p)
    cross, own, gram, S = np.empty((p, k)), np.empty((p, p)), np.empty((p, p)), np.empty((p, p))
    V, T, Y = np.zeros((p, known + p)), np.empty((p, p)), np.empty((p, p))
    for step in range(counts[0]):
        rank = factor_students(Q, M, root, pivots, B, L, rest, order)
        rank = min(rank, dim - known)
        clear(cross)
        clear(own)
        clear(S)
        clear(V)
        inside = 0.0
        for _ in range(batch):
            inside += draw_fields(generator, root, B, L, rank, z, h, h_star)
            noise = rates[1] * generator.standard_normal() if rates[1] > 0.0 else 0.0
            sample_updates(
                h, h_star, a, a_star, noise, sigma, slope, sigma_star, par, par_star, psi
            )
            add_sample(psi, h, h_star, z, cross, own, S, V, batch > 1)
        fill_gram(generator, S, V, inside, dim - known - rank, batch, L, order, T, Y, gram)
        apply_step(Q, M, rates[0] / dim, cross, own, gram)
        code = length_status(Q)
        if code != REACHED:
            return code, step + 1
        if counts[3]:
            normalise(Q, M)
        if (
            watch[0] != WATCH_NOTHING
            and (counts[1] + step + 1) % int(watch[2]) == 0
            and has_passed(Q, M, P, a, a_star, sigma, sigma_star, par, par_star, rule, watch)
        ):
            return PASSED, step + 1
    return REACHED, counts[0]


def chain_runner(
    experiment: Experiment,
    start: Overlaps,
    rule: Rule,
    watch: NDArray[np.float64],
    generator: np.random.Generator,
) -> Runner:
    """A run of the chain from these overlaps."""
    Q, M, P = (np.array(x, dtype=np.float64, order="C") for x in (start.Q, start.M, start.P))
    root, pivots = factor(P)
    constants = Constants(P, experiment, rule, watch, generator)

    def advance(first: int, steps: int) -> tuple[int, int]:
        return advance_overlaps(Q, M, root, pivots, *constants.arguments(first, steps))

    return Runner(advance, lambda: (Q.copy(), M.copy()), P, watch)
