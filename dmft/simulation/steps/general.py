"""Compiled steps of any update of one sample, in several passes where it is used more than once.

The update is a function that comes in as `update`, with its `numbers`
(`dmft.simulation.steps.sample`). Repeated steps are `counts[6]` whole steps, constraint included,
on one batch (theory/batch_reuse D.1, D.2).

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
from dmft.compiled.copying import copy_into
from dmft.simulation.passage import WATCH_NOTHING
from dmft.simulation.risks.risk import MATRIX, VECTOR
from dmft.simulation.steps.common import (
    COMMON,
    FLIPPED,
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
    draw_sign,
    factor_students,
    has_passed,
    length_status,
    move_readout,
    normalise,
    take_out_radial,
    write_fields,
    write_noisy_label,
)
from dmft.simulation.steps.optimiser import begin_step, begin_step_of_overlaps, end_step, follow
from dmft.simulation.steps.rows import (
    add_multiple,
    dot,
    draw_input,
    measure,
    move_rows,
    normalise_rows,
)
from dmft.simulation.steps.sample import UPDATE

# Hashes of the files whose compiled functions are called here (tests/emit).
COMPILED_WITH = {
    "dmft.compiled.copying": "c5364e4a5c02",
    "dmft.simulation.steps.common": "9dfbaa1c3494",
    "dmft.simulation.steps.optimiser": "7a95b5765b35",
    "dmft.simulation.steps.rows": "5beb1f4d3fff",
}


@njit(
    types.UniTuple(types.int64, 2)(MATRIX, MATRIX, MATRIX, INTEGERS, UPDATE, VECTOR, *COMMON),
    nogil=True,
    cache=True,
    error_model="numpy",
)
def advance_general_overlaps(  # type: ignore[no-untyped-def]
    Q, M, root, pivots, update, numbers, P, a, a_star, rates, counts, watch, risk,
    sigma, slope, sigma_star, pull, par, par_star, label, rule, clusters, generator,
):  # fmt: skip
    """Carry Q (p, p) and M (p, k) on in place; returns the status code and the steps done."""
    p, k = M.shape
    known, dim, fields = root.shape[1], counts[4], counts[5]
    passes = counts[6]
    B, L, rest = np.empty((p, known)), np.zeros((p, p)), np.empty((p, p))
    order = np.empty(p, np.int64)
    h, h_star, psi, z = np.empty(p), np.empty(k), np.empty(p), np.zeros(known + p)
    push = np.zeros(a.size)
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
        sign = draw_sign(generator, rates[now, FLIPPED])
        degrees = dim - known - rank
        if degrees > 0:
            square += variance * generator.chisquare(degrees)
        write_fields(par_star, h_star, fields, cluster)
        write_noisy_label(h_star, a_star, noise, sign, sigma_star, par_star, label)
        for _ in range(passes):
            update(
                h, h_star, square / dim, numbers, a, sigma, slope, pull, par, label, psi, push
            )  # fmt: skip
            move_readout(a, scale * rates[now, TRAINED], push)
            for j in range(p):
                for r in range(k):
                    cross[j, r] = psi[j] * h_star[r]
                for i in range(p):
                    own[j, i] = psi[j] * h[i]
                    gram[j, i] = psi[j] * psi[i] * square
            if counts[3] == SPHERE_GRADIENT:
                copy_into(Q_old, Q)
                copy_into(M_old, M)
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
        MATRIX, MATRIX, VECTOR, MATRIX, MATRIX, MATRIX, VECTOR, UPDATE, VECTOR, *COMMON
    ),
    nogil=True,
    cache=True,
    error_model="numpy",
)
def advance_general_weights(  # type: ignore[no-untyped-def]
    W, W_star, deviations, Q, M, G, push, update, numbers, P, a, a_star, rates, counts, watch, risk,
    sigma, slope, sigma_star, pull, par, par_star, label, rule, clusters, generator,
):  # fmt: skip
    """Carry W (p, d) on in place; returns the status code and the steps done.

    deviations (d,) are those of the inputs, with no entries where all are one. Q and M are work
    space for the constraint and for what is watched. G (p, d) and push (p,) are the last step of
    weights and readout, which the optimiser may remember; behind it G holds its other rows.
    """
    p, d = W.shape
    k, batch = W_star.shape[0], counts[2]
    root_d = math.sqrt(d)
    passes = counts[6]
    X, noise, sign = np.empty((batch, d)), np.zeros(batch), np.empty(batch)
    psi, h, h_star = np.empty(p), np.empty(p), np.empty(k)
    cluster = np.empty(batch, np.int64)
    for step in range(counts[0]):
        now = min(step, rates.shape[0] - 1)
        spread = rates[now, SPREAD]
        for mu in range(batch):
            cluster[mu] = draw_cluster(generator, clusters)
            draw_input(generator, W_star, clusters, cluster[mu], deviations, X[mu])
            if spread > 0.0:
                noise[mu] = spread * generator.standard_normal()
            sign[mu] = draw_sign(generator, rates[now, FLIPPED])
        for _ in range(passes):
            begin_step(G, push, W, rates, now)
            for mu in range(batch):
                for j in range(p):
                    h[j] = dot(W[j], X[mu]) / root_d
                for r in range(k):
                    h_star[r] = dot(W_star[r], X[mu]) / root_d
                write_fields(par_star, h_star, counts[5], cluster[mu])
                write_noisy_label(h_star, a_star, noise[mu], sign[mu], sigma_star, par_star, label)
                update(
                    h, h_star, dot(X[mu], X[mu]) / d, numbers,
                    a, sigma, slope, pull, par, label, psi, push,
                )  # fmt: skip
                for j in range(p):
                    add_multiple(G[j], rates[now, GAIN] * psi[j] / root_d, X[mu])
            for j in range(a.size):
                a[j] += rates[now, GAIN] * rates[now, TRAINED] / d * push[j]
            end_step(G, W, rates, now)
            move_rows(W, G, Q, counts[3])
            code = length_status(Q)
            if code != REACHED:
                return code, step + 1
            normalise_rows(W, Q, counts[3])
            follow(G, W, rates, now)
        if watch[0] != WATCH_NOTHING and (counts[1] + step + 1) % int(watch[2]) == 0:
            measure(W, W_star, deviations, Q, M)
            if has_passed(
                Q, M, P, a, a_star, risk, sigma, sigma_star, par, par_star, rule, clusters, watch
            ):
                return PASSED, step + 1
    return REACHED, counts[0]
