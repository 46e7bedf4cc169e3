"""Compiled steps on weights that are scaled by what was seen of gradients: the plain definition.

With g = sum_mu psi^mu x^mu / n_b - zeta w/sqrt(d), w <- w + gamma/(p sqrt(d)) s and

    signs       s = sign(g)
    moments     V <- beta_2 V + (1 - beta_2) g^2,  m <- beta_1 m + (1 - beta_1) g,
                s = m/(sqrt(V/c) + eps), c = 1 - beta_2^n where V began at zero (torch.optim.Adam)
    sums        V <- V + g^2/d,  s = g/sqrt(V)
    norm        N <- N + |G|^2/d, G = g/(p sqrt(d)),  s = g/sqrt(N).

A decoupled decay is no part of g: w <- w - gamma zeta/(p d) w beside the step.

Numba's cache does not notice changes of the functions that come from `kernels`: their stamp stands
here, and tests/emit/restamp.py renews it.
"""

from __future__ import annotations

import math

import numpy as np
from numba import types

from dmft.compiled import njit
from dmft.simulation.passage import WATCH_NOTHING
from dmft.simulation.risks.risk import MATRIX, VECTOR
from dmft.simulation.steps.common import (
    COMMON,
    FLIPPED,
    GAIN,
    PASSED,
    REACHED,
    SPREAD,
    draw_cluster,
    draw_sign,
    has_passed,
    length_status,
    write_fields,
    write_noisy_label,
)
from dmft.simulation.steps.optimiser import LOST, follow, shorten_rows
from dmft.simulation.steps.rows import add_multiple, dot, draw_input, measure, move_rows
from dmft.simulation.steps.sample import UPDATE

# Hashes of the files whose compiled functions are called here (tests/emit).
COMPILED_WITH = {
    "dmft.simulation.steps.common": "9dfbaa1c3494",
    "dmft.simulation.steps.optimiser": "7a95b5765b35",
    "dmft.simulation.steps.rows": "5beb1f4d3fff",
}

# Kinds of steps, and the numbers of one: its kind, beta_1, 1 - beta_2 (or kappa_2 where it is to be
# multiplied with the time of a step), eps, whether V is corrected for having begun at zero.
SIGNS, MOMENTS, SUMS, NORM = range(4)
KIND, FIRST_MEMORY, FORGOTTEN, PER_TIME, BESIDE, CORRECTED = range(6)


@njit(nogil=True, cache=True, error_model="numpy", inner=True)
def scale_step(G, V, average, total, how, forgotten, count):  # type: ignore[no-untyped-def]
    """Turn gradients g, the first rows of G, into steps s."""
    p, d = V.shape
    kind, beta = int(how[KIND]), how[FIRST_MEMORY]
    if kind == NORM:
        square = 0.0
        for j in range(p):
            square += dot(G[j], G[j])
        total[0] += square / (p * d) / (p * d)
    correction = 1.0
    if how[CORRECTED] > 0.0:
        correction = -math.expm1(count * math.log1p(-forgotten))
    for j in range(p):
        for i in range(d):
            g = G[j, i]
            if kind == SIGNS:
                G[j, i] = np.sign(g)
                continue
            divisor = total[0]
            if kind == MOMENTS:
                V[j, i] += forgotten * (g * g - V[j, i])
                average[j, i] = beta * average[j, i] + (1.0 - beta) * g
                g, divisor = average[j, i], V[j, i] / correction
            elif kind == SUMS:
                V[j, i] += g * g / d
                divisor = V[j, i]
            divisor = math.sqrt(divisor) + how[BESIDE]
            G[j, i] = g / divisor if divisor > 0.0 else 0.0


@njit(
    types.UniTuple(types.int64, 2)(
        MATRIX,
        MATRIX,
        VECTOR,
        MATRIX,
        MATRIX,
        MATRIX,
        MATRIX,
        MATRIX,
        VECTOR,
        VECTOR,
        UPDATE,
        VECTOR,
        *COMMON,
    ),
    nogil=True,
    cache=True,
    error_model="numpy",
)
def advance_scaled_weights(  # type: ignore[no-untyped-def]
    W, W_star, deviations, Q, M, G, V, average, total, how, update, numbers, P, a, a_star, rates,
    counts, watch, risk, sigma, slope, sigma_star, pull, par, par_star, label, rule, clusters,
    generator,
):  # fmt: skip
    """Carry W (p, d) on in place; returns the status code and the steps done.

    V and average (p, d) and total (1,) are what the optimiser keeps; the first rows of G (., d) are
    the step, behind them stand its other rows. The rest is as of `advance_general_weights`.
    """
    p, d = W.shape
    k, batch, root_d = W_star.shape[0], counts[2], math.sqrt(d)
    X, psi, h, h_star = np.empty(d), np.empty(p), np.empty(p), np.empty(k)
    push = np.zeros(a.size)
    for step in range(counts[0]):
        now = min(step, rates.shape[0] - 1)
        spread, time = rates[now, SPREAD], rates[now, GAIN] * batch / d
        for j in range(p):
            for i in range(d):
                G[j, i] = 0.0
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
            write_noisy_label(h_star, a_star, noise, sign, sigma_star, par_star, label)
            update(
                h, h_star, dot(X, X) / d, numbers, a, sigma, slope, pull, par, label, psi, push
            )  # fmt: skip
            for j in range(p):
                add_multiple(G[j], psi[j] / batch, X)
        if rates[now, LOST] > 0.0:
            for j in range(p):
                add_multiple(G[j], -rates[now, LOST] / (time * root_d), W[j])
        forgotten = how[FORGOTTEN] + how[PER_TIME] * time
        scale_step(G, V, average, total, how, forgotten, counts[1] + step + 1)
        for j in range(p):
            for i in range(d):
                G[j, i] *= time * root_d
        shorten_rows(W, rates, now)
        move_rows(W, G, Q, 0)
        code = length_status(Q)
        if code != REACHED:
            return code, step + 1
        follow(G, W, rates, now)
        if watch[0] != WATCH_NOTHING and (counts[1] + step + 1) % int(watch[2]) == 0:
            measure(W, W_star, deviations, Q, M)
            if has_passed(
                Q, M, P, a, a_star, risk, sigma, sigma_star, par, par_star, rule, clusters, watch
            ):
                return PASSED, step + 1
    return REACHED, counts[0]
