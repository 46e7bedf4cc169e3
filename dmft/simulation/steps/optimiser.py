"""What the numbers of an optimiser make of a step on weights and of a step of the chain.

All that a simulation knows of them: how fast time runs, their columns of `rates`, and compiled
functions that begin a step on vectors in R^d or on overlaps. Written from the definition of the
step (torch.optim.SGD's: v <- beta v + g + zeta w, w <- w - v), not from the equations.

Numba does not notice changes of these functions in the files that call them (tests/emit).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import ArrayLike

from dmft.compiled import njit

# As of `dmft.simulation.risk`, which this file may not import: the clock of experiments reads it.
UNCOUNTED: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}
# Columns of `rates` after those of `common`: the share of the weights that a step takes away, and
# the part of the last step that it takes again.
FIRST = 3
LOST, KEPT = FIRST, FIRST + 1
COLUMNS = FIRST + 2


def columns(numbers: Mapping[str, float], step: ArrayLike) -> dict[int, ArrayLike]:
    """Columns of `rates` by their places; `step` is gamma/(p d), of each step or of all."""
    return {
        LOST: numbers.get("weight_decay", 0.0) * step,  # type: ignore[operator]
        KEPT: numbers.get("momentum", 0.0),
    }


def pace(numbers: Mapping[str, float]) -> float:
    """Time of a step in units of gamma/(p d)."""
    return 1.0 / (1.0 - numbers.get("momentum", 0.0))


@njit(cache=True, **UNCOUNTED, inner=True)
def begin_step(G, push, W, rates, now):  # type: ignore[no-untyped-def]
    """Write what is known of the step G of the rows W and of `push` before its samples are drawn.

    They hold the last step.
    """
    part, share = rates[now, KEPT], rates[now, LOST]
    for j in range(W.shape[0]):
        push[j] *= part
        for i in range(W.shape[1]):
            G[j, i] = part * G[j, i] - share * W[j, i]


@njit(cache=True, **UNCOUNTED, inner=True)
def begin_step_of_overlaps(Q, M, own, rates, now):  # type: ignore[no-untyped-def]
    """Overlaps of rows that lose a share of their length, and those of a step with these rows.

    Returns what the rows were multiplied by.
    """
    share = rates[now, LOST]
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
