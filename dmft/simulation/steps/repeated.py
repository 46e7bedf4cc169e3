"""Compiled steps of algorithms that use a sample more than once (batch_reuse.md D.1, D.2).

A repetition is [kind, rho, times]. Displaced steps take their one gradient at the fields

    h + rho psi(h) |x|^2/d,   or   h + rho psi(h)/|psi(h)| |x|/sqrt(d)   (normalised)

which are those of weights W + rho psi x^T/sqrt(d) (normalised: over |psi| |x|/sqrt(d)) at the same
sample, exactly at every d; rho is negative for sharpness-aware steps. Repeated steps are `times`
whole steps, constraint included, on one batch.

The chain draws fields and |x|^2 once a step and carries the fields of the sample along with the
overlaps: with c = gamma/p a pass makes h_j' = (h_j + c psi_j |x|^2/d) / (length of w_j). One sample
a step; batches are simulated by their weights.

Numba's cache does not notice changes of the functions that come from `kernels`: their stamp stands
here, and tests/emit/restamp.py renews it.
"""

from __future__ import annotations

import math

import numpy as np
from numba import types

from dmft.compiled import njit
from dmft.simulation.declaration import NORMALISED, REPEATED
from dmft.simulation.passage import WATCH_NOTHING
from dmft.simulation.risk import MATRIX, VECTOR
from dmft.simulation.steps.common import (
    COMMON,
    FREE,
    GAIN,
    INTEGERS,
    PASSED,
    REACHED,
    SPHERE_GRADIENT,
    SPREAD,
    TRAINED,
    apply_step,
    draw_cluster,
    draw_fields,
    factor_students,
    has_passed,
    length_status,
    move_readout,
    normalise,
    sample_updates,
    take_out_radial,
    write_fields,
)
from dmft.simulation.steps.optimiser import begin_step, begin_step_of_overlaps
from dmft.simulation.steps.rows import (
    add_multiple,
    dot,
    draw_input,
    measure,
    move_rows,
    normalise_rows,
)

# Hashes of the files whose compiled functions are called here (tests/emit).
COMPILED_WITH = {
    "dmft.simulation.steps.common": "6cd1823ef5ab",
    "dmft.simulation.steps.optimiser": "783f470f72b3",
    "dmft.simulation.steps.rows": "fb1f9f03c45b",
}


@njit(nogil=True, cache=True, error_model="numpy", inner=True)
def displace(h, psi, size, repeat, moved):  # type: ignore[no-untyped-def]
    """Write the displaced fields; `size` is |x|^2/d."""
    scale = repeat[1] * size
    if repeat[0] == NORMALISED:
        square = 0.0
        for j in range(psi.size):
            square += psi[j] * psi[j]
        scale = repeat[1] * math.sqrt(size / square) if square > 0.0 else 0.0
    for j in range(h.size):
        moved[j] = h[j] + scale * psi[j]


@njit(
    types.UniTuple(types.int64, 2)(MATRIX, MATRIX, MATRIX, INTEGERS, VECTOR, *COMMON),
    nogil=True,
    cache=True,
    error_model="numpy",
)
def advance_repeated_overlaps(  # type: ignore[no-untyped-def]
    Q, M, root, pivots, repeat, P, a, a_star, rates, counts, watch, risk,
    sigma, slope, sigma_star, pull, par, par_star, label, rule, clusters, generator,
):  # fmt: skip
    """Carry Q (p, p) and M (p, k) on in place; returns the status code and the steps done."""
    p, k = M.shape
    known, dim, fields = root.shape[1], counts[4], counts[5]
    passes = int(repeat[2]) if repeat[0] == REPEATED else 1
    B, L, rest = np.empty((p, known)), np.zeros((p, p)), np.empty((p, p))
    order = np.empty(p, np.int64)
    h, h_star, psi, z = np.empty(p), np.empty(k), np.empty(p), np.zeros(known + p)
    moved, push = np.empty(p), np.zeros(p)
    cross, own, gram = np.empty((p, k)), np.empty((p, p)), np.empty((p, p))
    Q_old, M_old = np.empty((p, p)), np.empty((p, k))
    for step in range(counts[0]):
        now = min(step, rates.shape[0] - 1)
        spread = rates[now, SPREAD]
        scale = rates[now, GAIN] / dim
        rank = factor_students(Q, M, root, pivots, B, L, rest, order)
        rank = min(rank, dim - known)
        cluster = draw_cluster(generator, clusters)
        square = draw_fields(generator, root, B, L, rank, z, h, h_star, clusters, cluster)
        variance = clusters[cluster, 1] * clusters[cluster, 1] if cluster >= 0 else 1.0
        noise = spread * generator.standard_normal() if spread > 0.0 else 0.0
        degrees = dim - known - rank
        if degrees > 0:
            square += variance * generator.chisquare(degrees)
        write_fields(par_star, h_star, fields, cluster)
        for _ in range(passes):
            sample_updates(
                h, h_star, a, a_star, noise, sigma, slope, sigma_star, pull,
                par, par_star, label, psi, push,
            )  # fmt: skip
            if repeat[0] != REPEATED:
                displace(h, psi, square / dim, repeat, moved)
                push[:] = 0.0
                sample_updates(
                    moved, h_star, a, a_star, noise, sigma, slope, sigma_star, pull,
                    par, par_star, label, psi, push,
                )  # fmt: skip
            move_readout(a, scale * rates[now, TRAINED], push)
            for j in range(p):
                for r in range(k):
                    cross[j, r] = psi[j] * h_star[r]
                for i in range(p):
                    own[j, i] = psi[j] * h[i]
                    gram[j, i] = psi[j] * psi[i] * square
            if counts[3] == SPHERE_GRADIENT:
                Q_old[:, :] = Q
                M_old[:, :] = M
            kept = begin_step_of_overlaps(Q, M, own, rates, now)
            for j in range(p):
                h[j] *= kept
            apply_step(Q, M, scale, cross, own, gram)
            if counts[3] == SPHERE_GRADIENT:
                take_out_radial(Q_old, M_old, scale, own, Q, M)
                for j in range(p):
                    h[j] -= scale * own[j, j] * h[j]
            for j in range(p):
                h[j] += scale * psi[j] * square
            code = length_status(Q)
            if code != REACHED:
                return code, step + 1
            if counts[3] != FREE:
                for j in range(p):
                    h[j] /= math.sqrt(Q[j, j])
                normalise(Q, M)
        if watch[0] == WATCH_NOTHING or (counts[1] + step + 1) % int(watch[2]) != 0:
            continue
        if has_passed(
            Q, M, P, a, a_star, risk, sigma, sigma_star, par, par_star, rule, clusters, watch
        ):
            return PASSED, step + 1
    return REACHED, counts[0]


@njit(
    types.UniTuple(types.int64, 2)(
        MATRIX, MATRIX, VECTOR, MATRIX, MATRIX, MATRIX, VECTOR, VECTOR, *COMMON
    ),
    nogil=True,
    cache=True,
    error_model="numpy",
)
def advance_repeated_weights(  # type: ignore[no-untyped-def]
    W, W_star, deviations, Q, M, G, push, repeat, P, a, a_star, rates, counts, watch, risk,
    sigma, slope, sigma_star, pull, par, par_star, label, rule, clusters, generator,
):  # fmt: skip
    """Carry W (p, d) on in place; returns the status code and the steps done.

    deviations (d,) are those of the inputs, with no entries where all are one. Q and M are work
    space for the constraint and for what is watched. G (p, d) and push (p,) are
    the last step of weights and readout, which the optimiser may remember.
    """
    p, d = W.shape
    k, batch = W_star.shape[0], counts[2]
    root_d, last = math.sqrt(d), np.zeros(p)
    passes = int(repeat[2]) if repeat[0] == REPEATED else 1
    X, noise = np.empty((batch, d)), np.zeros(batch)
    psi, h, h_star, moved = np.empty(p), np.empty(p), np.empty(k), np.empty(p)
    cluster = np.empty(batch, np.int64)
    for step in range(counts[0]):
        now = min(step, rates.shape[0] - 1)
        spread = rates[now, SPREAD]
        for mu in range(batch):
            cluster[mu] = draw_cluster(generator, clusters)
            draw_input(generator, W_star, clusters, cluster[mu], deviations, X[mu])
            if spread > 0.0:
                noise[mu] = spread * generator.standard_normal()
        for _ in range(passes):
            begin_step(G, push, W, rates, now)
            for mu in range(batch):
                for j in range(p):
                    h[j] = dot(W[j], X[mu]) / root_d
                for r in range(k):
                    h_star[r] = dot(W_star[r], X[mu]) / root_d
                write_fields(par_star, h_star, counts[5], cluster[mu])
                last[:] = 0.0
                sample_updates(
                    h, h_star, a, a_star, noise[mu], sigma, slope, sigma_star, pull,
                    par, par_star, label, psi, last,
                )  # fmt: skip
                if repeat[0] != REPEATED:
                    displace(h, psi, dot(X[mu], X[mu]) / d, repeat, moved)
                    last[:] = 0.0
                    sample_updates(
                        moved, h_star, a, a_star, noise[mu], sigma, slope, sigma_star, pull,
                        par, par_star, label, psi, last,
                    )  # fmt: skip
                for j in range(p):
                    push[j] += last[j]
                for j in range(p):
                    add_multiple(G[j], rates[now, GAIN] * psi[j] / root_d, X[mu])
            for j in range(p):
                a[j] += rates[now, GAIN] * rates[now, TRAINED] / d * push[j]
            move_rows(W, G, Q, counts[3])
            code = length_status(Q)
            if code != REACHED:
                return code, step + 1
            normalise_rows(W, Q, counts[3])
        if watch[0] != WATCH_NOTHING and (counts[1] + step + 1) % int(watch[2]) == 0:
            measure(W, W_star, deviations, Q, M)
            if has_passed(
                Q, M, P, a, a_star, risk, sigma, sigma_star, par, par_star, rule, clusters, watch
            ):
                return PASSED, step + 1
    return REACHED, counts[0]
