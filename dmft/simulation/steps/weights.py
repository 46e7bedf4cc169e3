"""Compiled steps of the weights themselves: vectors in R^d, the plain definition.

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
    GAIN,
    PASSED,
    REACHED,
    SHORTENED,
    SPREAD,
    TRAINED,
    draw_cluster,
    draw_sign,
    has_passed,
    length_status,
    sample_updates,
    shortening,
    write_fields,
)
from dmft.simulation.steps.optimiser import begin_step, end_step, follow
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
    "dmft.compiled.copying": "c5364e4a5c02",
    "dmft.simulation.steps.common": "9dfbaa1c3494",
    "dmft.simulation.steps.optimiser": "7a95b5765b35",
    "dmft.simulation.steps.rows": "5beb1f4d3fff",
}


@njit(nogil=True, cache=True, error_model="numpy", inner=True)
def shorten(G, before, rate, level):  # type: ignore[no-untyped-def]
    """Shorten what was added to the step `before`: a rate times the gradient of all neurons."""
    square = 0.0
    for j in range(before.shape[0]):
        for i in range(before.shape[1]):
            square += (G[j, i] - before[j, i]) ** 2
    share = shortening(level, math.sqrt(square) / rate)
    for j in range(before.shape[0]):
        for i in range(before.shape[1]):
            G[j, i] = before[j, i] + share * (G[j, i] - before[j, i])


@njit(
    types.UniTuple(types.int64, 2)(MATRIX, MATRIX, VECTOR, MATRIX, MATRIX, MATRIX, VECTOR, *COMMON),
    nogil=True,
    cache=True,
    error_model="numpy",
)
def advance_weights(  # type: ignore[no-untyped-def]
    W, W_star, deviations, Q, M, G, push, P, a, a_star, rates, counts, watch, risk,
    sigma, slope, sigma_star, pull, par, par_star, label, rule, clusters, generator,
):  # fmt: skip
    """Carry W (p, d) on in place; returns the status code and the steps done.

    deviations (d,) are those of the inputs, with no entries where all are one. Q and M are work
    space for the constraint and for what is watched. G (p, d) and push (p,) are the last step of
    weights and readout, which the optimiser may remember; behind it G holds its other rows.
    """
    p, d = W.shape
    k, batch, root_d = W_star.shape[0], counts[2], math.sqrt(d)
    X, psi, h, h_star = np.empty(d), np.empty(p), np.empty(p), np.empty(k)
    before = np.empty((p if rates[0, SHORTENED] != 0.0 else 0, d))
    for step in range(counts[0]):
        now = min(step, rates.shape[0] - 1)
        spread = rates[now, SPREAD]
        begin_step(G, push, W, rates, now)
        if rates[now, SHORTENED] != 0.0:
            copy_into(before, G[:p])
        for _ in range(batch):
            cluster = draw_cluster(generator, clusters)
            draw_input(generator, W_star, clusters, cluster, deviations, X)
            for j in range(p):
                h[j] = dot(W[j], X) / root_d
            for r in range(k):
                h_star[r] = dot(W_star[r], X) / root_d
            noise = spread * generator.standard_normal() if spread > 0.0 else 0.0
            sign = draw_sign(generator, rates[now, FLIPPED])
            write_fields(par_star, h_star, counts[5], cluster)
            sample_updates(
                h, h_star, a, a_star, noise, sign, sigma, slope, sigma_star, pull,
                par, par_star, label, psi, push,
            )  # fmt: skip
            for j in range(p):
                add_multiple(G[j], rates[now, GAIN] * psi[j] / root_d, X)
        if rates[now, SHORTENED] != 0.0:
            shorten(G, before, rates[now, GAIN] * p * batch, rates[now, SHORTENED])
        for j in range(p):
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
