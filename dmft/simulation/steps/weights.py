"""Compiled steps of weights, vectors in R^d, from the definition: one loop for every algorithm.

A step is made of functions that know nothing of each other: what is drawn (`common`, `draw_input`),
the update of one sample (`update`, a function of one sample), what the optimiser makes of the sum
(`optimiser`, `scale_step`), the constraint (`move_rows`, `normalise_rows`). Repeated steps are
`counts[6]` whole steps, constraint included, on one batch (theory/batch_reuse D.1, D.2).

Numba's cache does not notice changes of functions in other files: their stamps are renewed by
tests/emit/restamp.py.

Updates of one sample, which `simulated_by` of a record names, are plain loops that Numba compiles:
an update writes psi (p,), which multiplies x/sqrt(d) in the rows, and adds to `push`, of the size
of a, what a trained readout moves along. It is called where the label has been written, once for
each pass over a sample:

    h (p,), h_star (k,)     fields of the sample
    stretch                 |x|^2/d
    numbers                 values of the record's `scalars`, in their order
    a (p,)                  readouts; those of several outputs one after the other
    sigma, slope, pull      activation, its derivative (field, par) and -dl/df (output, label)
    par, label              parameters of the activation; the label, noise included, is label[0]

Gradients at fields g are `gradient_at(g, a, sigma, slope, pull, par, label, psi, push)`, the fields
of weights that a sample moved by c psi x^T/sqrt(d) are h + c psi |x|^2/d, exactly at every d.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from dmft.compiled import njit
from dmft.compiled.vectors import copy_into
from dmft.simulation.ensemble import WATCH_NOTHING
from dmft.simulation.risk import FUNCTION, MATRIX, VECTOR
from dmft.simulation.steps.common import (
    COMMON,
    FLIPPED,
    FREE,
    PASSED,
    REACHED,
    SHORTENED,
    SPHERE_GRADIENT,
    SPREAD,
    TRAINED,
    draw_cluster,
    draw_sign,
    has_passed,
    length_status,
    shortening,
    write_fields,
    write_noisy_label,
)
from dmft.simulation.steps.optimiser import (
    GAIN,
    LOST,
    begin_step,
    end_step,
    follow,
    shorten_rows,
)

ARGUMENTS = (
    VECTOR, VECTOR, types.float64, VECTOR, VECTOR, FUNCTION, FUNCTION, FUNCTION, VECTOR, VECTOR,
    VECTOR, VECTOR,
)  # fmt: skip
UPDATE = types.FunctionType(types.void(*ARGUMENTS))


@njit(nogil=True, cache=True, error_model="numpy", inner=True)
def gradient_at(g, a, sigma, slope, pull, par, label, psi, push):  # type: ignore[no-untyped-def]
    """psi_j = a_j sigma'(g_j) e at the output of the fields g; e sigma(g_j) is added to `push`."""
    f = 0.0
    for j in range(g.size):
        f += a[j] * sigma(g[j], par)
    error = pull(f / g.size, label)
    for j in range(g.size):
        psi[j] = a[j] * slope(g[j], par) * error
        push[j] += error * sigma(g[j], par)


def gradient(  # type: ignore[no-untyped-def]
    h, h_star, stretch, numbers, a, sigma, slope, pull, par, label, psi, push
):
    """One gradient at the fields of the sample."""
    if label.size > 1:  # a rule of a user's own, whose slope also reads the output
        f = 0.0
        for j in range(h.size):
            f += a[j] * sigma(h[j], par)
        label[1 + h_star.size] = f / h.size
    gradient_at(h, a, sigma, slope, pull, par, label, psi, push)


@njit(nogil=True, cache=True, error_model="numpy", inner=True)
def gradient_beyond(  # type: ignore[no-untyped-def]
    h, scale, a, sigma, slope, pull, par, label, psi, push
):
    """A gradient at h + scale psi(h), psi that at h."""
    moved = np.zeros(h.size)
    gradient_at(h, a, sigma, slope, pull, par, label, psi, moved)
    for j in range(h.size):
        moved[j] = h[j] + scale * psi[j]
    gradient_at(moved, a, sigma, slope, pull, par, label, psi, push)


def ahead(  # type: ignore[no-untyped-def]
    h, h_star, stretch, numbers, a, sigma, slope, pull, par, label, psi, push
):
    """At h + rho psi(h) |x|^2/d, the fields of weights W + rho psi x^T/sqrt(d)."""
    gradient_beyond(h, numbers[0] * stretch, a, sigma, slope, pull, par, label, psi, push)


def back(  # type: ignore[no-untyped-def]
    h, h_star, stretch, numbers, a, sigma, slope, pull, par, label, psi, push
):
    """At h - rho psi(h) |x|^2/d."""
    gradient_beyond(h, -numbers[0] * stretch, a, sigma, slope, pull, par, label, psi, push)


def at_radius(  # type: ignore[no-untyped-def]
    h, h_star, stretch, numbers, a, sigma, slope, pull, par, label, psi, push
):
    """At h - rho psi(h)/|psi(h)| |x|/sqrt(d), the radius rho in the space of the weights."""
    unused = np.zeros(h.size)
    gradient_at(h, a, sigma, slope, pull, par, label, psi, unused)
    square = 0.0
    for j in range(h.size):
        square += psi[j] * psi[j]
    scale = -numbers[0] * math.sqrt(stretch / square) if square > 0.0 else 0.0
    gradient_beyond(h, scale, a, sigma, slope, pull, par, label, psi, push)


def of_outputs(  # type: ignore[no-untyped-def]
    h, h_star, stretch, numbers, a, sigma, slope, pull, par, label, psi, push
):
    """Gradient of a loss of several outputs; a has a row for each, pull reads [outputs, labels]."""
    p = h.size
    count = a.size // p
    seen, value = np.zeros(2 * count), np.empty(p)
    for j in range(p):
        value[j] = sigma(h[j], par)
        psi[j] = 0.0
    for o in range(count):
        for j in range(p):
            seen[o] += a[o * p + j] * value[j] / p
        seen[count + o] = 1.0 if label[0] == o else 0.0
    for o in range(count):
        error = pull(float(o), seen)
        for j in range(p):
            psi[j] += a[o * p + j] * error
            push[o * p + j] += error * value[j]
    for j in range(p):
        psi[j] *= slope(h[j], par)


@lru_cache(maxsize=64)
def compiled_update(function: Callable[..., None]) -> Any:
    """An update that compiled steps can call; those of the library are kept on disk."""
    kept = function.__module__ == __name__
    return njit(types.void(*ARGUMENTS), nogil=True, error_model="numpy", cache=kept)(function)


# Hashes of the files whose compiled functions are called here (tests/emit).
COMPILED_WITH = {
    "dmft.compiled.vectors": "ad8a71f6d01c",
    "dmft.simulation.steps.common": "d450b9e44fdf",
    "dmft.simulation.steps.optimiser": "a3193573f5cb",
}

# Kinds of steps: the gradients themselves, or what is made of them (`scale_step`). Then the numbers
# of one: its kind, beta_1, 1 - beta_2 (or kappa_2 where it is to be multiplied with the time of a
# step), eps, whether V is corrected for having begun at zero.
PLAIN, SIGNS, MOMENTS, SUMS, NORM = range(5)
KIND, FIRST_MEMORY, FORGOTTEN, PER_TIME, BESIDE, CORRECTED = range(6)
# V, average, total and `how` of algorithms that do not scale steps.
UNSCALED: tuple[NDArray[np.float64], ...] = (
    np.empty((0, 0)),
    np.empty((0, 0)),
    np.zeros(1),
    np.zeros(6),
)
# Lets sums over the d inputs vectorise; NaN and infinity keep their meaning.
REORDER = {"reassoc", "contract"}


@njit(nogil=True, cache=True, error_model="numpy", fastmath=REORDER, inner=True)
def dot(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Sum of x_i y_i."""
    total = 0.0
    for i in range(x.size):
        total += x[i] * y[i]
    return total


@njit(nogil=True, cache=True, error_model="numpy", fastmath=REORDER, inner=True)
def add_multiple(x: NDArray[np.float64], factor: float, y: NDArray[np.float64]) -> None:
    """Add factor y to x, in place."""
    for i in range(x.size):
        x[i] += factor * y[i]


@njit(nogil=True, cache=True, error_model="numpy", fastmath=REORDER, inner=True)
def weighted_dot(x, y, deviations):  # type: ignore[no-untyped-def]
    """Sum of x_i y_i over inputs of these standard deviations, one where there are none."""
    if deviations.size == 0:
        return dot(x, y)
    total = 0.0
    for i in range(x.size):
        total += x[i] * y[i] * deviations[i] * deviations[i]
    return total


@njit(nogil=True, cache=True, error_model="numpy", inner=True)
def draw_input(generator, W_star, clusters, cluster, deviations, X):  # type: ignore[no-untyped-def]
    """Draw one input x (d,), of a cluster where that is not negative.

    Deviations are those of the d coordinates, and then those in each cluster where they differ.
    """
    for i in range(X.size):
        X[i] = generator.standard_normal()
    if deviations.size > 0:
        first = (1 + cluster) * X.size if deviations.size > X.size else 0
        for i in range(X.size):
            X[i] *= deviations[first + i]
    if cluster >= 0:
        for i in range(X.size):
            X[i] *= clusters[cluster, 1]
        for r in range(W_star.shape[0]):
            add_multiple(X, clusters[cluster, 2 + r] / math.sqrt(X.size), W_star[r])


@njit(nogil=True, cache=True, error_model="numpy")
def measure(W, W_star, deviations, Q, M):  # type: ignore[no-untyped-def]
    """Write Q = W Sigma W^T / d and M = W Sigma W*^T / d."""
    p, d = W.shape
    for j in range(p):
        for i in range(j + 1):
            Q[j, i] = weighted_dot(W[j], W[i], deviations) / d
            Q[i, j] = Q[j, i]
        for r in range(W_star.shape[0]):
            M[j, r] = weighted_dot(W[j], W_star[r], deviations) / d


@njit(nogil=True, cache=True, error_model="numpy", inner=True)
def move_rows(W, G, Q, constraint):  # type: ignore[no-untyped-def]
    """Add the step G to W, radial parts left out where asked for; squared lengths go to Q_jj."""
    p, d = W.shape
    if constraint == SPHERE_GRADIENT:
        for j in range(p):
            add_multiple(G[j], -dot(G[j], W[j]) / d, W[j])
    for j in range(p):
        add_multiple(W[j], 1.0, G[j])
        Q[j, j] = dot(W[j], W[j]) / d


@njit(nogil=True, cache=True, error_model="numpy", inner=True)
def normalise_rows(W, Q, constraint):  # type: ignore[no-untyped-def]
    """Divide every row by its length, the root of Q_jj, where it is kept."""
    if constraint != FREE:
        for j in range(W.shape[0]):
            inverse = 1.0 / math.sqrt(Q[j, j])
            for i in range(W.shape[1]):
                W[j, i] *= inverse


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


@njit(nogil=True, cache=True, error_model="numpy", inner=True)
def scale_step(G, V, average, total, how, forgotten, count):  # type: ignore[no-untyped-def]
    """Turn gradients g = sum_mu psi^mu x^mu / n_b - zeta w/sqrt(d), the first rows of G, into s.

    The weights move by gamma/(p sqrt(d)) s, with
        signs       s = sign(g)
        moments     V <- beta_2 V + (1 - beta_2) g^2,  m <- beta_1 m + (1 - beta_1) g,
                    s = m/(sqrt(V/c) + eps), c = 1 - beta_2^n where V began at zero (torch's Adam)
        sums        V <- V + g^2/d,  s = g/sqrt(V)
        norm        N <- N + |G|^2/d, G = g/(p sqrt(d)),  s = g/sqrt(N).
    """
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


@njit(nogil=True, cache=True, error_model="numpy", inner=True)
def take_scaled_step(G, W, V, average, total, how, rates, now, time, count):  # type: ignore[no-untyped-def]
    """Turn gradients g into the step of this time; a decoupled decay is no part of g."""
    p, d = W.shape
    root_d = math.sqrt(d)
    if rates[now, LOST] > 0.0:
        for j in range(p):
            add_multiple(G[j], -rates[now, LOST] / (time * root_d), W[j])
    scale_step(G, V, average, total, how, how[FORGOTTEN] + how[PER_TIME] * time, count)
    for j in range(p):
        for i in range(d):
            G[j, i] *= time * root_d
    shorten_rows(W, rates, now)


@njit(
    types.UniTuple(types.int64, 2)(
        MATRIX, MATRIX, VECTOR, MATRIX, MATRIX, MATRIX, VECTOR, MATRIX, MATRIX, VECTOR, VECTOR,
        UPDATE, VECTOR, *COMMON,
    ),
    nogil=True,
    cache=True,
    error_model="numpy",
)  # fmt: skip
def advance_weights(  # type: ignore[no-untyped-def]
    W, W_star, deviations, Q, M, G, push, V, average, total, how, update, numbers,
    P, a, a_star, rates, counts, watch, risk, sigma, slope, sigma_star, pull, par, par_star, label,
    rule, clusters, generator,
):  # fmt: skip
    """Carry W (p, d) on in place; returns the status code and the steps done.

    deviations (d,) are those of the inputs, with no entries where all are one. Q and M are work
    space for the constraint and for what is watched. G (p, d) and push are the last step of
    weights and readout, which the optimiser may remember; G holds its other rows after them.
    V and average (p, d) and total (1,) are what optimisers keep that scale steps by `how`.
    """
    p, d = W.shape
    k, batch, passes, root_d = W_star.shape[0], counts[2], counts[6], math.sqrt(d)
    scales = how[KIND] != PLAIN
    # Samples are kept where they are used again.
    kept = batch if passes > 1 else 1
    X, noise, sign = np.empty((kept, d)), np.empty(kept), np.empty(kept)
    cluster, psi, h, h_star = np.empty(kept, np.int64), np.empty(p), np.empty(p), np.empty(k)
    before = np.empty((p if rates[0, SHORTENED] != 0.0 else 0, d))
    for step in range(counts[0]):
        now = min(step, rates.shape[0] - 1)
        spread, gain = rates[now, SPREAD], rates[now, GAIN]
        # Gradients are what is scaled, their sum times the gain the step of all others.
        times, over = (1.0, float(batch)) if scales else (gain, root_d)
        for turn in range(passes):
            if scales:
                for j in range(p):
                    for i in range(d):
                        G[j, i] = 0.0
            else:
                begin_step(G, push, W, rates, now, generator)
            if rates[now, SHORTENED] != 0.0:
                copy_into(before, G[:p])
            for mu in range(batch):
                n = mu if passes > 1 else 0
                x = X[n]
                if turn == 0:
                    cluster[n] = draw_cluster(generator, clusters)
                    draw_input(generator, W_star, clusters, cluster[n], deviations, x)
                    noise[n] = spread * generator.standard_normal() if spread > 0.0 else 0.0
                    sign[n] = draw_sign(generator, rates[now, FLIPPED])
                for j in range(p):
                    h[j] = dot(W[j], x) / root_d
                for r in range(k):
                    h_star[r] = dot(W_star[r], x) / root_d
                write_fields(par_star, h_star, counts[5], cluster[n])
                write_noisy_label(h_star, a_star, noise[n], sign[n], sigma_star, par_star, label)
                update(
                    h, h_star, dot(x, x) / d, numbers, a, sigma, slope, pull, par, label, psi, push
                )
                for j in range(p):
                    add_multiple(G[j], times * psi[j] / over, x)
            if rates[now, SHORTENED] != 0.0:
                shorten(G, before, gain * p * batch, rates[now, SHORTENED])
            if scales:
                time, count = gain * batch / d, counts[1] + step + 1
                take_scaled_step(G, W, V, average, total, how, rates, now, time, count)
            else:
                for j in range(a.size):
                    a[j] += gain * rates[now, TRAINED] / d * push[j]
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
