"""Thresholds to watch for: what a user declares, and its form as data for the compiled loop."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmft.arrays import cosines
from dmft.errors import BadParameter
from dmft.record import Shown
from dmft.solvers.problem import Block, Problem
from dmft.solvers.runge_kutta.layout import COSINE, OBSERVABLE, STATE, Events
from dmft.validation import checked, shown

# Name of the time among quantities.
TIME = "t"
_ENTRY = re.compile(r"\s*(\w+)\s*(?:\[\s*(\d+(?:\s*,\s*\d+)*)\s*\])?\s*")


@dataclass(frozen=True)
class LargestCosine(Shown):
    """Largest cosine |M_jr| / sqrt(Q_jj P_rr) between a student unit and a teacher direction.

    Attributes
    ----------
    cross : str
        State block (p, k).
    own : str
        State block (p, p); its diagonal is used.
    other : str
        Constant block (k, k); its diagonal is used.

    Examples
    --------
    >>> Event(LargestCosine(), 0.9, direction=1).name
    'largest cosine rises to 0.9'
    """

    cross: str = "M"
    own: str = "Q"
    other: str = "P"

    def value(
        self, state: Mapping[str, NDArray[np.float64]], constants: Mapping[str, NDArray[np.float64]]
    ) -> float:
        """Return the largest cosine at one state.

        Parameters
        ----------
        state : mapping of str to ndarray
            Q (p, p) and M (p, k).
        constants : mapping of str to ndarray
            P (k, k).

        Returns
        -------
        float

        Examples
        --------
        >>> import numpy as np
        >>> state = {"M": np.array([[0.3, -0.8]]), "Q": np.array([[4.0]])}
        >>> LargestCosine().value(state, {"P": np.eye(2)})
        0.4
        """
        return float(cosines(state[self.cross], state[self.own], constants[self.other]).max())


@checked
@dataclass(frozen=True)
class Event(Shown):
    """Event: a quantity reaches a threshold. By default the run ends there (`terminal=True`).

    A terminal event prevents later events of the same quantity, and a warning is issued if there
    are any: use ``terminal=False`` for all but the last.

    Attributes
    ----------
    quantity : str, LargestCosine, SymPy expression, or callable(t, state) -> float
        An observable ("risk"), the time ("t"), an entry of the state ("M[0, 1]", with indices
        from 0), a formula in these ("M[0,0]/sqrt(Q[0,0])"), or the largest cosine of the overlaps.
        Symbols of SymPy expressions have these names or the names of `Equations.explicit`
        ("M_11"). A function receives the time and the state variables by name and is called about
        twelve times per step.
    threshold : float
    direction : int
        -1 for falling crossings only, +1 for rising ones only, 0 for both.
    terminal : bool
        Whether the run ends there (default); otherwise the event is recorded and the run continues.
    name : str
        For messages and records; by default the description of the event.

    Examples
    --------
    >>> Event("risk", 0.1, direction=-1).name
    'risk falls to 0.1'
    >>> Event("M[0,0]/sqrt(Q[0,0])", 0.9).name, Event("t", 5.0).name
    ('M[0,0]/sqrt(Q[0,0]) crosses 0.9', 't = 5')
    """

    quantity: Any
    threshold: float
    direction: int = 0
    terminal: bool = True
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "threshold", float(self.threshold))
        if not np.isfinite(self.threshold):
            raise BadParameter(f"the threshold of an event must be finite, not {self.threshold}")
        if self.direction not in (-1, 0, 1):
            raise BadParameter(f"direction must be -1, 0 or 1, not {self.direction!r}")
        if not isinstance(self.quantity, str | LargestCosine) and not (
            hasattr(self.quantity, "free_symbols") or callable(self.quantity)
        ):
            raise BadParameter(
                f"no event on {shown(self.quantity)}: a quantity is a string ('risk', 'M[0,0]', "
                "'M[0,0]/sqrt(Q[0,0])', 't'), a SymPy expression, a function of (t, state) or "
                "dmft.LargestCosine()"
            )
        if isinstance(self.quantity, type):
            raise BadParameter(f"no event on a class: write {self.quantity.__name__}(...)")
        if not self.name:
            verb = {-1: "falls to", 0: "crosses", 1: "rises to"}[self.direction]
            verb = "=" if self.quantity == TIME else verb
            object.__setattr__(self, "name", f"{self.what} {verb} {self.threshold:.6g}")

    @property
    def what(self) -> str:
        """The quantity as text."""
        if isinstance(self.quantity, LargestCosine):
            return "largest cosine"
        if isinstance(self.quantity, str) or hasattr(self.quantity, "free_symbols"):
            return str(self.quantity)
        name = getattr(self.quantity, "__name__", type(self.quantity).__name__)
        return "a function of the state" if name == "<lambda>" else str(name)


def is_plain(event: Event, problem: Problem) -> bool:
    """Whether the integrators take an event as it is, or refuse it in words of their own."""
    quantity = event.quantity
    if isinstance(quantity, LargestCosine):
        return True
    if not isinstance(quantity, str):
        return False
    entry = _ENTRY.fullmatch(quantity)
    names = (*problem.observables, *(block.name for block in problem.state))
    return quantity in problem.observables or (entry is not None and entry[1] in names)


def number_of(value: Any, function: Any) -> float:
    """The number that a user's function returned.

    Raises `BadParameter` where it is none.
    """
    array = np.asarray(float(value) if getattr(value, "is_Number", False) else value)
    if array.size != 1 or array.dtype.kind not in "biuf":
        raise BadParameter(
            f"an event's function must return one number, got {value!r:.80} from "
            f"{getattr(function, '__name__', function)!r}"
        )
    return float(array.reshape(()))


class _Encoder:
    """Collects the columns of the event table."""

    def __init__(self, problem: Problem, widths: Mapping[str, int], par: NDArray[np.float64]):
        self.problem, self.widths, self.par = problem, widths, par
        self.terms: list[tuple[int, int, float]] = []

    def encode(self, quantity: Any) -> tuple[int, int, int]:
        """Return kind, first, last."""
        if isinstance(quantity, LargestCosine):
            return self._cosine(quantity)
        if not isinstance(quantity, str):
            raise BadParameter(
                f"no event on {shown(quantity)} here: expressions and functions are supported by "
                "dmft.solve, solve_stages and simulate"
            )
        if quantity in self.problem.observables:
            return OBSERVABLE, self.problem.observables.index(quantity), 0
        match = _ENTRY.fullmatch(quantity)
        index = tuple(int(x) for x in match[2].split(",")) if match and match[2] else ()
        found = match and _find(self.problem.state, match[1], self.widths)
        if not found or (found[0].axes and not index):
            raise BadParameter(
                f"no event on {quantity!r}: choose an observable of {self.problem.observables} or "
                f"an entry of a state block of {[b.name for b in self.problem.state]}, as 'Q[0, 0]'"
                "; runs of dmft.solve also accept formulas of these and the time 't'"
            )
        block, offset = found
        shape = block.shape(self.widths)
        if len(index) != len(shape) or any(i >= n for i, n in zip(index, shape, strict=True)):
            raise BadParameter(
                f"event on {quantity!r}: {block.name} has shape {shape}, so that an entry has "
                f"{len(shape)} indices"
            )
        return STATE, offset + (int(np.ravel_multi_index(index, shape)) if shape else 0), 0

    def _cosine(self, cosine: LargestCosine) -> tuple[int, int, int]:
        cross = _find(self.problem.state, cosine.cross, self.widths)
        own = _find(self.problem.state, cosine.own, self.widths)
        other = _find(self.problem.constants, cosine.other, self.widths)
        if cross is None or own is None or other is None:
            raise BadParameter(f"this problem lacks a block of {cosine}")
        p, k = cross[0].shape(self.widths)
        start = len(self.problem.parameters) + other[1]
        for j in range(p):
            for r in range(k):
                weight = float(self.par[start + r * (k + 1)])
                self.terms.append((cross[1] + j * k + r, own[1] + j * (p + 1), weight))
        return COSINE, len(self.terms) - p * k, len(self.terms)


def _find(
    layout: tuple[Block, ...], name: str, widths: Mapping[str, int]
) -> tuple[Block, int] | None:
    offset = 0
    for block in layout:
        if block.name == name:
            return block, offset
        offset += block.size(widths)
    return None


def encode_events(
    events: Sequence[Event], problem: Problem, widths: Mapping[str, int], par: NDArray[np.float64]
) -> Events:
    """Turn events into the table that the compiled loop reads."""
    return _encoded(events, problem, widths, par) if events else _no_events()


@cache
def _no_events() -> Events:
    number, whole = np.empty(0), np.empty(0, dtype=np.int64)
    return Events(whole, whole, whole, number, whole, whole, whole, whole, number)


def _encoded(
    events: Sequence[Event], problem: Problem, widths: Mapping[str, int], par: NDArray[np.float64]
) -> Events:
    encoder = _Encoder(problem, widths, par)
    rows = [encoder.encode(event.quantity) for event in events]
    kind, first, last = np.array(rows, dtype=np.int64).reshape(-1, 3).T.copy()
    terms = np.array(encoder.terms, dtype=np.float64).reshape(-1, 3)
    return Events(
        kind=kind,
        first=first,
        last=last,
        threshold=np.array([e.threshold for e in events], dtype=np.float64),
        direction=np.array([e.direction for e in events], dtype=np.int64),
        terminal=np.array([e.terminal for e in events], dtype=np.int64),
        numerator=terms[:, 0].astype(np.int64),
        denominator=terms[:, 1].astype(np.int64),
        weight=np.ascontiguousarray(terms[:, 2]),
    )
