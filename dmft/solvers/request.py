"""Checks of what a caller hands to a solver, before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmft.errors import BadParameter, ShapeMismatch
from dmft.solvers.events import Event
from dmft.solvers.problem import Block

# Entries that Python looks at faster than NumPy does.
FEW = 32


def check_names(names: Sequence[str], given: Mapping[str, Any], what: str) -> Sequence[str]:
    """Names that a problem has, when all of them are given, finite, and no other."""
    if given.keys() != set(names):
        missing = [name for name in names if name not in given]
        unknown = [name for name in given if name not in names]
        raise BadParameter(
            f"{what}s of this problem: {list(names)}; missing {missing}, unknown {unknown}"
        )
    for name in names:
        if not math.isfinite(float(given[name])):
            raise BadParameter(f"{what} {name} = {given[name]!r} is not a finite number")
    return names


def check_blocks(
    layout: tuple[Block, ...], given: Mapping[str, ArrayLike], widths: Mapping[str, int], what: str
) -> dict[str, NDArray[np.float64]]:
    """Own copies of the blocks of a layout, when shapes and values are right and none is left."""
    expected = [block.name for block in layout]
    if given.keys() != set(expected):
        missing = [name for name in expected if name not in given]
        unknown = [name for name in given if name not in expected]
        found = f"missing {missing}" if missing else f"unknown {unknown}"
        raise BadParameter(f"{what} blocks of this problem: {expected}; {found}")
    arrays = {}
    for block in layout:
        array = np.array(given[block.name], dtype=np.float64)
        shape = block.shape(widths)
        if array.shape != shape:
            raise ShapeMismatch(f"{block.name} has shape {array.shape}, expected {shape}")
        if not all_finite(array):
            raise BadParameter(f"{block.name} holds a value that is not finite: {array.tolist()}")
        arrays[block.name] = array
    return arrays


def all_finite(array: NDArray[np.float64]) -> bool:
    """Whether no entry is nan or infinite; of few entries, without NumPy's 5 us for a reduction."""
    if array.size > FEW:
        return bool(np.isfinite(array).all())
    return all(map(math.isfinite, array.ravel().tolist()))


def check_events(events: Event | Sequence[Event]) -> tuple[Event, ...]:
    """One event or several; anything else is refused with an example."""
    found = (events,) if isinstance(events, Event) else tuple(events)
    for event in found:
        if not isinstance(event, Event):
            raise BadParameter(
                f'events are dmft.Event records, as dmft.Event("risk", 0.1); got {event!r}'
            )
    return found
