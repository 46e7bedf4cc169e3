"""Runs of the exact Markov chain of the overlaps (see `common` for its law)."""

from __future__ import annotations

import math

import numpy as np
from numba import types
from numpy.typing import NDArray

from dmft.compiled import njit
from dmft.compiled.vectors import copy_into
from dmft.model import Overlaps
from dmft.simulation.declaration import Experiment
from dmft.simulation.ensemble import WATCH_NOTHING, WATCH_OVERLAP
from dmft.simulation.jobs import Constants, Runner
from dmft.simulation.risk import MATRIX, VECTOR, Rule
from dmft.simulation.steps.common import (
    COMMON,
    FLIPPED,
    FREE,
    INTEGERS,
    PASSED,
    REACHED,
    SHORTENED,
    SPHERE_GRADIENT,
    SPREAD,
    TRAINED,
    add_sample,
    apply_step,
    draw_cluster,
    draw_fields,
    draw_sign,
    factor,
    factor_students,
    fill_gram,
    has_passed,
    length_status,
    move_readout,
    normalise,
    shorten_step,
    signed,
    take_out_radial,
    write_fields,
    write_label,
    write_noisy_label,
)
from dmft.simulation.steps.optimiser import GAIN, begin_step_of_overlaps
from dmft.simulation.steps.weights import UPDATE

# Hashes of the files whose compiled functions are called here (tests/emit).
COMPILED_WITH = {
    "dmft.compiled.vectors": "ad8a71f6d01c",
    "dmft.simulation.steps.common": "d450b9e44fdf",
    "dmft.simulation.steps.optimiser": "a3193573f5cb",
}


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

    update = experiment.update
    advance = constants.advance(
        advance_overlaps if update is None else advance_general_overlaps,
        (Q, M, root, pivots),
        update,
    )

    def overlaps() -> dict[str, NDArray[np.float64]]:
        return {"Q": Q.copy(), "M": M.copy(), "readout": constants.readout.copy()}

    return Runner(advance, overlaps, P, watch)


@njit(
    types.UniTuple(types.int64, 2)(MATRIX, MATRIX, MATRIX, INTEGERS, *COMMON),
    nogil=True,
    cache=True,
    error_model="numpy",
)
def advance_overlaps(  # type: ignore[no-untyped-def]
    Q, M, root, pivots, P, a, a_star, rates, counts, watch, risk,
    sigma, slope, sigma_star, pull, par, par_star, label, rule, clusters, generator,
):  # fmt: skip
    """Carry Q (p, p) and M (p, k) on in place; returns the status code and the steps done."""
    p, k = M.shape
    known, batch, dim, fields = root.shape[1], counts[2], counts[4], counts[5]
    terms, trained = a_star.size, rates[0, TRAINED] > 0.0
    B, L, rest = np.empty((p, known)), np.zeros((p, p)), np.empty((p, p))
    order, scale = np.empty(p, np.int64), 1.0
    h, h_star, psi, z = np.empty(p), np.empty(k), np.empty(p), np.zeros(known + p)
    cross, own, gram, S = np.empty((p, k)), np.empty((p, p)), np.empty((p, p)), np.empty((p, p))
    V, T, Y = np.zeros((p, known + p)), np.empty((p, p)), np.empty((p, p))
    Q_old, M_old, push = np.empty((p, p)), np.empty((p, k)), np.zeros(p)
    for step in range(counts[0]):
        now = min(step, rates.shape[0] - 1)
        spread = rates[now, SPREAD]
        rank = min(factor_students(Q, M, root, pivots, B, L, rest, order), dim - known)
        for matrix in (cross, own, S, V):
            for i in range(matrix.size):
                matrix.flat[i] = 0.0
        inside = 0.0
        for _ in range(batch):
            cluster = draw_cluster(generator, clusters)
            inside += draw_fields(generator, root, B, L, rank, z, h, h_star, clusters, cluster)
            scale = clusters[cluster, 1] * clusters[cluster, 1] if cluster >= 0 else 1.0
            noise = spread * generator.standard_normal() if spread > 0.0 else 0.0
            sign = draw_sign(generator, rates[now, FLIPPED])
            # One gradient, written out: a call would cost as much as the rest of the step.
            f, y = 0.0, 0.0
            for j in range(p):
                f += a[j] * sigma(h[j], par)
            write_fields(par_star, h_star, fields, cluster)
            for r in range(terms):
                y += a_star[r] * sigma_star(h_star[r], par_star)
            write_label(label, signed(sign, y / terms) + noise, h_star, f / p)
            error = pull(f / p, label)
            for j in range(p):
                psi[j] = a[j] * slope(h[j], par) * error
                if trained:
                    push[j] += error * sigma(h[j], par)
            add_sample(psi, h, h_star, z, cross, own, S, V, batch > 1, scale)
        degrees = dim - known - rank
        if batch == 1:
            # Psi Psi^T has rank one: the parts in and outside the span are one square length.
            inside += scale * generator.chisquare(degrees) if degrees > 0 else 0.0
            for j in range(p):
                for i in range(p):
                    gram[j, i] = inside * S[j, i]
        else:
            fill_gram(generator, S, V, degrees, L, order, T, Y, gram)
        shorten_step(cross, own, gram, rates[now, SHORTENED], p * batch * math.sqrt(dim))
        if counts[3] == SPHERE_GRADIENT:
            copy_into(Q_old, Q)
            copy_into(M_old, M)
        begin_step_of_overlaps(Q, M, own, rates, now)
        apply_step(Q, M, rates[now, GAIN] / dim, cross, own, gram)
        if trained:
            move_readout(a, rates[now, GAIN] * rates[now, TRAINED] / dim, push)
        if counts[3] == SPHERE_GRADIENT:
            take_out_radial(Q_old, M_old, rates[now, GAIN] / dim, own, Q, M)
        code = length_status(Q)
        if code != REACHED:
            return code, step + 1
        if counts[3] != FREE:
            normalise(Q, M)
        if watch[0] == WATCH_NOTHING or (counts[1] + step + 1) % int(watch[2]) != 0:
            continue
        # `has_passed`, written out: passing its arrays on would cost as much as half a step.
        if watch[0] == WATCH_OVERLAP:
            largest = 0.0
            for j in range(p):
                for r in range(k):
                    largest = max(largest, abs(M[j, r]))
            if largest >= watch[1]:
                return PASSED, step + 1
        elif risk(Q, M, P, a, a_star, sigma, sigma_star, par, par_star, rule, clusters) <= watch[1]:
            return PASSED, step + 1
    return REACHED, counts[0]


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
    """Carry Q and M on as `advance_overlaps` does, by another update, in several passes.

    The update is one of a sample. Fields and |x|^2 are drawn once a step, and the fields of
    the sample are carried along with the overlaps: with c = gamma/p a pass makes
    h_j' = (h_j + c psi_j |x|^2/d) / (length of w_j). One sample a step: batches are simulated by
    their weights (theory/batch_reuse D.1, D.2).
    """
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
            update(h, h_star, square / dim, numbers, a, sigma, slope, pull, par, label, psi, push)
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
