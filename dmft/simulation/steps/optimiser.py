"""What the numbers of an optimiser make of a step on weights and of a step of the chain.

All that a simulation knows of them: how fast time runs, their columns of `rates`, and compiled
functions that begin a step on vectors in R^d or on overlaps. Written from the definition of the
step (torch.optim.SGD's: v <- beta v + g + zeta w, w <- w - v; decoupled v <- beta v + g,
w <- w - zeta w - v), not from the equations.

Numba does not notice changes of these functions in the files that call them (tests/emit).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from numpy.typing import ArrayLike

from dmft.compiled import njit
from dmft.model.hyperparameters import ADDITIVE, ROWS

# As of `dmft.simulation.risk`, not imported: the clock of experiments reads this file.
UNCOUNTED: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}
# The first column of `rates`, gamma/(p n_b), and those after the columns of `common`: the share of
# the weights that a step takes away, and the part of the last step that it takes again.
GAIN, FIRST = 0, 5
LOST, KEPT = FIRST, FIRST + 1
# The part of a step that a velocity takes up, and the part that moves the weights at once.
TAKEN, DIRECT = FIRST + 2, FIRST + 3
# The part of its distance to the weights that their average goes.
NEARER = FIRST + 4
# The share of the weights that is taken away beside a step, as decoupled decays do.
SHORTER = FIRST + 5
# The standard deviation of noise that is added to a step, over sqrt(d).
STIRRED = FIRST + 6
COLUMNS = FIRST + 7


def columns(numbers: Mapping[str, float], step: ArrayLike) -> dict[int, ArrayLike]:
    """Columns of `rates` by their places; `step` is gamma/(p d), of each step or of all."""
    share = numbers.get("weight_decay", 0.0) * step  # type: ignore[operator]
    return {
        LOST: 0.0 if "decoupled" in numbers else share,
        SHORTER: share if "decoupled" in numbers else 0.0,
        KEPT: numbers.get("momentum", 0.0),
        TAKEN: numbers.get("momentum_rate", 0.0) * step,  # type: ignore[operator]
        DIRECT: numbers.get("momentum_direct", 0.0),
        NEARER: numbers.get("average_rate", 0.0) * step * pace(numbers),  # type: ignore[operator]
        STIRRED: math.sqrt(sum(numbers.get(n, 0.0) for n in ADDITIVE)) * step,  # type: ignore[operator]
    }


def kept_rows(numbers: Mapping[str, float]) -> tuple[str, ...]:
    """Rows that a neuron keeps after its last step, velocities first."""
    return tuple(row for row, number in reversed(list(ROWS.items())) if number in numbers)


def pace(numbers: Mapping[str, float]) -> float:
    """Time of a step in units of gamma/(p d)."""
    return 1.0 / (1.0 - numbers.get("momentum", 0.0))


@njit(cache=True, **UNCOUNTED, inner=True)
def begin_step(G, push, W, rates, now, generator):  # type: ignore[no-untyped-def]
    """Write what is known of the step G of the rows W and of `push` before its samples are drawn.

    They hold the last step.
    """
    part, share = rates[now, KEPT], rates[now, LOST]
    deviation = rates[now, STIRRED] * math.sqrt(W.shape[1])
    for j in range(push.size):
        push[j] *= part
    for j in range(W.shape[0]):
        for i in range(W.shape[1]):
            G[j, i] = part * G[j, i] - share * W[j, i]
            if deviation > 0.0:
                G[j, i] += deviation * generator.standard_normal()


@njit(cache=True, **UNCOUNTED, inner=True)
def shorten_rows(W, rates, now):  # type: ignore[no-untyped-def]
    """Take from the weights what a decay beside the step takes."""
    share = rates[now, SHORTER]
    if share == 0.0:
        return
    for j in range(W.shape[0]):
        for i in range(W.shape[1]):
            W[j, i] -= share * W[j, i]


@njit(cache=True, **UNCOUNTED, inner=True)
def end_step(G, W, rates, now):  # type: ignore[no-untyped-def]
    """Turn the step G[: p] of the samples into that of the weights; velocities are G[p : 2 p].

    With the learning rate, part of `gain`: v <- beta v + (1 - beta) G / gain, and the weights
    move by alpha_1 G + gain v. Earlier gradients move them at the rate of this step.
    """
    shorten_rows(W, rates, now)
    p, taken, direct, gain = W.shape[0], rates[now, TAKEN], rates[now, DIRECT], rates[now, GAIN]
    if taken == 0.0:
        return
    for j in range(p):
        for i in range(G.shape[1]):
            G[p + j, i] += taken * (G[j, i] / gain - G[p + j, i])
            G[j, i] = direct * G[j, i] + gain * G[p + j, i]


@njit(cache=True, **UNCOUNTED, inner=True)
def follow(G, W, rates, now):  # type: ignore[no-untyped-def]
    """Move the averages, the last rows of G, towards the weights."""
    nearer = rates[now, NEARER]
    if nearer == 0.0:
        return
    p, first = W.shape[0], G.shape[0] - W.shape[0]
    for j in range(p):
        for i in range(W.shape[1]):
            G[first + j, i] += nearer * (W[j, i] - G[first + j, i])


@njit(cache=True, **UNCOUNTED, inner=True)
def begin_step_of_overlaps(Q, M, own, rates, now):  # type: ignore[no-untyped-def]
    """Overlaps of rows that lose a share of their length, and those of a step with these rows.

    Returns what the rows were multiplied by.
    """
    share = rates[now, LOST] + rates[now, SHORTER]  # the same without memory
    if share == 0.0:
        return 1.0
    kept = 1.0 - share
    for j in range(Q.shape[0]):
        for i in range(Q.shape[0]):
            Q[j, i] *= kept * kept
            own[j, i] *= kept
        for r in range(M.shape[1]):
            M[j, r] *= kept
    return kept
