"""Compiled steps of the overlaps' chain, and what all simulators share.

One file on purpose: Numba's cache notices changes of the file that holds a compiled function, not
of other files whose functions it calls. Activations and the risk come in as function pointers.

The chain (theory/one_pass B.6): given the overlaps, fields of a batch are Gaussian, lambda = A z
with A A^T = Omega of rank r, and what a sample x has outside the span of the weights enters only
through its Gram matrix, which is Wishart with d - r degrees of freedom. With c = gamma/(p n_b) and
Psi the updates psi of the batch,

    M += (c/d) Psi H*^T
    Q += (c/d) (Psi H^T + H Psi^T) + (c/d)^2 [Psi Z^T Z Psi^T + Wishart(d - r, Psi Psi^T)],

then division by the lengths on the sphere. A trained readout moves by
(c rho_a/d) sum_mu E sigma(h). With the spherical gradient the step of neuron j leaves out
c_j w_j, c_j = (c/d) (Psi H^T)_jj, before that division. The z of a sample from a cluster has the
cluster's mean and variance; outside the span of the weights the variance multiplies its Psi Psi^T.
The law is that of weights in R^d for every d; increments below 1e-16 of an overlap are lost to
rounding.
"""

from __future__ import annotations

import math

import numpy as np
from numba import typeof, types
from numpy.typing import NDArray

from dmft.compiled import njit
from dmft.simulation.ensemble import WATCH_OVERLAP
from dmft.simulation.risk import FUNCTION, MATRIX, RISK, RULE, UNCOUNTED, VECTOR
from dmft.simulation.steps.optimiser import FIRST, GAIN

GENERATOR = typeof(np.random.default_rng(0))
INTEGERS = types.int64[::1]

# How a call ended.
REACHED, PASSED, DIVERGED, NONFINITE = range(4)
# Constraints.
FREE, SPHERE, SPHERE_GRADIENT = range(3)
# Squared length of a student, in units of d, beyond which a run counts as diverged.
DIVERGED_LENGTH = 1e12
# A pivot below this fraction of the largest diagonal entry is rounding, not variance: the rank
# ends there. About 60 units in the last place, what a few subtractions of order one leave.
RANK_TOLERANCE = 1.4e-14

# Columns of `rates`, the numbers of a step, after `GAIN`: the standard deviation of the label's
# noise, rho_a, the probability that a label is flipped (`DRAWN`: labels are drawn), the length that
# gradients are shortened to (0: none, -1: all have the length one), and then those of the
# optimiser. `Constants.rates` writes them.
SPREAD, TRAINED, FLIPPED, SHORTENED = range(GAIN + 1, FIRST)
DRAWN = -1.0

# Arguments that all loops take after their state:
# P, a, a_star, rates, counts, watch, risk, sigma, slope, sigma_star, pull, par, par_star, label,
# rule, clusters, generator;
# rates has a row for each of the steps, or one for all;
# counts = [steps, first step, n_b, constraint, d, fields, passes]; constraint is one of FREE,
# SPHERE, SPHERE_GRADIENT; pull(f, label) is the error -dl/df at the output f, of the label written
# into label[0]. Of a rule of a user's own pull is 1 and slope is psi: label and par are one array,
# which begins with the label, all teacher fields and the output. With fields > 0 sigma_star is a
# multi-index target g, the only term of the label (a_star = [1]): it takes the first field, and the
# others at the beginning of par_star, where they are written. A row of clusters is the probability
# of this cluster and all before it, the root of its scale, and its mean in the rows of the teacher;
# there is none where x ~ N(0, I). With fields = k + 1 the label also takes the cluster's number.
COMMON = (
    MATRIX, VECTOR, VECTOR, MATRIX, INTEGERS, VECTOR,
    RISK, FUNCTION, FUNCTION, FUNCTION, FUNCTION, VECTOR, VECTOR, VECTOR, RULE, MATRIX, GENERATOR,
)  # fmt: skip


@njit(cache=True, **UNCOUNTED)
def semidefinite_factor(
    S: NDArray[np.float64], L: NDArray[np.float64], pivots: NDArray[np.int64], threshold: float
) -> int:
    """Pivoted Cholesky: S = L[:, :rank] L[:, :rank]^T, with the rank returned.

    S is overwritten. Rows of L keep their order; row pivots[c] of L is zero right of column c.
    Pivots up to `threshold` count as zero, and so does a NaN.
    """
    n = S.shape[0]
    for c in range(n):
        at, best = -1, threshold
        for i in range(n):
            if S[i, i] > best:
                at, best = i, S[i, i]
        if at < 0:
            return c
        pivots[c] = at
        root = math.sqrt(best)
        for i in range(n):
            L[i, c] = S[i, at] / root
        for i in range(n):
            for j in range(i + 1):
                S[i, j] -= L[i, c] * L[j, c]
                S[j, i] = S[i, j]
        # Exactly zero, so that no later column sees the rounding of this one.
        for i in range(n):
            S[i, at] = 0.0
            S[at, i] = 0.0
    return n


def factor(matrix: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Factor A (n, r) with A A^T = matrix, and its pivot rows (r,)."""
    n = matrix.shape[0]
    L, pivots = np.zeros((n, n)), np.zeros(n, dtype=np.int64)
    threshold = RANK_TOLERANCE * float(np.max(np.diag(matrix), initial=0.0))
    rank = semidefinite_factor(np.array(matrix, dtype=np.float64), L, pivots, threshold)
    return np.ascontiguousarray(L[:, :rank]), pivots[:rank].copy()


@njit(cache=True, **UNCOUNTED)
def length_status(Q: NDArray[np.float64]) -> int:
    """REACHED while every squared length is finite and moderate."""
    for j in range(Q.shape[0]):
        if math.isnan(Q[j, j]):
            return NONFINITE
        if not Q[j, j] <= DIVERGED_LENGTH:
            return DIVERGED
    return REACHED


@njit(cache=True, inline="always", **UNCOUNTED)
def write_label(label, y, h_star, f):  # type: ignore[no-untyped-def]
    """Write the label, and for rules of a user's own all that they may read."""
    label[0] = y
    if label.size > 1:
        for r in range(h_star.size):
            label[1 + r] = h_star[r]
        label[1 + h_star.size] = f


@njit(cache=True, inline="always", **UNCOUNTED)
def write_fields(par_star, h_star, fields, cluster):  # type: ignore[no-untyped-def]
    """Write what a multi-index target reads beside its first field."""
    for r in range(1, min(fields, h_star.size)):
        par_star[r - 1] = h_star[r]
    if fields > h_star.size:
        par_star[h_star.size - 1] = cluster


@njit(cache=True, **UNCOUNTED, inner=True)
def draw_cluster(generator, clusters):  # type: ignore[no-untyped-def]
    """Draw the number of a cluster; -1 where there is none."""
    last = clusters.shape[0] - 1
    if last < 0:
        return -1
    chance, number = generator.random(), 0
    while number < last and chance >= clusters[number, 0]:
        number += 1
    return number


@njit(cache=True, **UNCOUNTED, inner=True)
def draw_sign(generator, chance):  # type: ignore[no-untyped-def]
    """-1 with this chance, else 1; nothing is drawn where there is none.

    Of labels that are drawn a level between -1 and 1, see `signed`.
    """
    if chance < 0.0:
        return 2.0 * generator.random() - 1.0
    return -1.0 if chance > 0.0 and generator.random() < chance else 1.0


@njit(cache=True, inline="always", **UNCOUNTED)
def signed(sign, y):  # type: ignore[no-untyped-def]
    """A label y or -y; at a uniform level in [-1, 1) 1 or -1, whose mean is y."""
    if sign == 1.0 or sign == -1.0:
        return sign * y
    return 1.0 if sign < y else -1.0


@njit(nogil=True, cache=True, error_model="numpy", inner=True)
def write_noisy_label(h_star, a_star, noise, sign, sigma_star, par_star, label):  # type: ignore[no-untyped-def]
    """The label of a sample."""
    y = 0.0
    for r in range(a_star.size):
        y += a_star[r] * sigma_star(h_star[r], par_star)
    write_label(label, signed(sign, y / a_star.size) + noise, h_star, 0.0)


@njit(cache=True, **UNCOUNTED, inner=True)
def shortening(level, length):  # type: ignore[no-untyped-def]
    """What a gradient of this length is multiplied by."""
    if length <= 0.0:
        return 1.0
    return 1.0 / length if level < 0.0 else min(1.0, level / length)


@njit(cache=True, **UNCOUNTED, inner=True)
def shorten_step(cross, own, gram, level, unit):  # type: ignore[no-untyped-def]
    """Shorten the increments of a step whose gradient has the length sqrt(tr gram)/unit."""
    if level == 0.0:
        return
    square = 0.0
    for j in range(gram.shape[0]):
        square += gram[j, j]
    share = shortening(level, math.sqrt(square) / unit)
    for j in range(gram.shape[0]):
        for r in range(cross.shape[1]):
            cross[j, r] *= share
        for i in range(gram.shape[0]):
            own[j, i] *= share
            gram[j, i] *= share * share


@njit(nogil=True, cache=True, error_model="numpy", inner=True)
def has_passed(  # type: ignore[no-untyped-def]
    Q, M, P, a, a_star, risk, sigma, sigma_star, par, par_star, rule, clusters, watch
):
    """Whether these overlaps are past the watched level."""
    if watch[0] == WATCH_OVERLAP:
        return np.abs(M).max() >= watch[1]
    found = risk(Q, M, P, a, a_star, sigma, sigma_star, par, par_star, rule, clusters)
    return found <= watch[1]


@njit(cache=True, **UNCOUNTED, inner=True)
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


@njit(cache=True, **UNCOUNTED, inner=True)
def draw_fields(  # type: ignore[no-untyped-def]
    generator, root, B, L, rank, z, h, h_star, clusters, cluster
):
    """Draw one sample's coordinates z in the span of the weights, and its fields; |z|^2.

    The means of clusters lie in the span of the teacher's rows, the first coordinates.
    """
    known = root.shape[1]
    square = 0.0
    for c in range(known + rank, z.size):
        z[c] = 0.0
    for c in range(known + rank):
        z[c] = generator.standard_normal()
        square += z[c] * z[c]
    if cluster >= 0:
        square = 0.0
        for c in range(known + rank):
            z[c] *= clusters[cluster, 1]
            if c < known:
                for r in range(h_star.size):
                    z[c] += clusters[cluster, 2 + r] * root[r, c]
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


@njit(nogil=True, cache=True, error_model="numpy", inner=True)
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
    Y[:, :] = 0.0
    for j in range(p):
        for c in range(columns):
            for i in range(s):
                Y[j, c] += L[j, i] * T[i, c]
    for j in range(p):
        for i in range(p):
            for c in range(columns):
                out[j, i] += Y[j, c] * Y[i, c]


@njit(cache=True, **UNCOUNTED, inner=True)
def normalise(Q: NDArray[np.float64], M: NDArray[np.float64]) -> None:
    """Divide every student by its length |w_j| / sqrt(d)."""
    for j in range(Q.shape[0]):
        inverse = 1.0 / math.sqrt(Q[j, j])
        for r in range(M.shape[1]):
            M[j, r] *= inverse
        for i in range(Q.shape[0]):
            Q[j, i] *= inverse
            Q[i, j] *= inverse
        Q[j, j] = 1.0


@njit(cache=True, **UNCOUNTED, inner=True)
def move_readout(a: NDArray[np.float64], rate: float, push: NDArray[np.float64]) -> None:
    """Add the step of the readout; the sum over the batch is used up."""
    for j in range(a.size):
        a[j] += rate * push[j]
        push[j] = 0.0


@njit(cache=True, **UNCOUNTED, inner=True)
def add_sample(psi, h, h_star, z, cross, own, S, V, several, scale):  # type: ignore[no-untyped-def]
    """Add one sample to Psi H*^T, Psi H^T, Psi Psi^T and, in a batch of several, Psi Z^T.

    There Psi Psi^T is that of what is outside the span, with the variance of the cluster.
    """
    share = scale if several else 1.0
    for j in range(psi.size):
        for r in range(h_star.size):
            cross[j, r] += psi[j] * h_star[r]
        for i in range(psi.size):
            own[j, i] += psi[j] * h[i]
            S[j, i] += share * (psi[j] * psi[i])
        if several:
            for c in range(z.size):
                V[j, c] += psi[j] * z[c]


@njit(nogil=True, cache=True, error_model="numpy", inner=True)
def fill_gram(generator, S, V, degrees, L, order, T, Y, gram):  # type: ignore[no-untyped-def]
    """Psi X^T X Psi^T: the part in the span of the weights and the Wishart part outside it."""
    p = S.shape[0]
    for j in range(p):
        for i in range(p):
            gram[j, i] = 0.0
            for c in range(V.shape[1]):
                gram[j, i] += V[j, c] * V[i, c]
    add_wishart(generator, S, degrees, L, order, T, Y, gram)


@njit(cache=True, **UNCOUNTED, inner=True)
def apply_step(Q, M, scale, cross, own, gram):  # type: ignore[no-untyped-def]
    """Add the increments of one step."""
    p, k = M.shape
    for j in range(p):
        for r in range(k):
            M[j, r] += scale * cross[j, r]
        for i in range(p):
            Q[j, i] += scale * (own[j, i] + own[i, j]) + scale * scale * gram[j, i]


@njit(cache=True, **UNCOUNTED, inner=True)
def take_out_radial(Q, M, scale, own, Q_new, M_new):  # type: ignore[no-untyped-def]
    """Overlaps of w_j' - c_j w_j from those of w (Q, M) and of w' (Q_new, M_new, overwritten)."""
    p, k = M.shape
    for j in range(p):
        c = scale * own[j, j]
        for r in range(k):
            M_new[j, r] -= c * M[j, r]
        for i in range(j + 1):
            c_i = scale * own[i, i]
            # w_i' . w_j / d = Q_ij + scale Psi_i H_j.
            Q_new[j, i] -= c * (Q[j, i] + scale * own[i, j]) + c_i * scale * own[j, i]
            Q_new[j, i] += (c - 1.0) * c_i * Q[j, i]
            Q_new[i, j] = Q_new[j, i]
