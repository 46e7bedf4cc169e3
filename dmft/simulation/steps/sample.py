"""Updates of one sample from their definitions: what `simulated_by` of a record names.

Plain loops that Numba compiles: an update writes psi (p,), which multiplies x/sqrt(d) in the rows,
and adds to `push`, of the size of a, what a trained readout moves along. It is called where the
label has been written, once for each pass over a sample:

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

from dmft.compiled import njit
from dmft.simulation.risks.risk import FUNCTION, VECTOR

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
