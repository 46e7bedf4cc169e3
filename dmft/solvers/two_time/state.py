"""State of a two-time march: kept times, rows near the end, weights of the past."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmft.record import Short
from dmft.solvers.pointers import pointer
from dmft.solvers.two_time.advance import advance
from dmft.solvers.two_time.step import (
    DIAGONAL,
    EARLY,
    LATE,
    LOCAL,
    PAIR,
    ROWS,
    SIGNALS,
    X_RATE,
    Z_RATE,
    Work,
    begin,
)
from dmft.solvers.two_time.thin import thin

Array = NDArray[np.float64]
# The number of its axes (from the last) that are times, for each array of the state.
TIMES = {
    "x": 1, "q": 1, "Z": 1, "FZ": 0, "X": 1, "FX": 1, "G": 2, "A": 1, "BL": 1, "BE": 1, "S": 1,
    "J": 0, "out": 1,
}  # fmt: skip
# Times for which there is room at first.
ROOM = 256


@dataclass(frozen=True, eq=False, repr=False)
class VolterraProblem(Short):
    """A causal two-time problem without symbols.

    Attributes
    ----------
    functions : tuple
        Compiled first, late, early, local, signals; signatures in `dmft.solvers.two_time.step`.
    pairs, signals : tuple of str
        Functions of two times; of one time, diagonals included.
    causal : tuple of str
        The pairs that vanish above the diagonal.
    parameters : tuple of str
        Order of ``par``.
    pair_rate, signal_rate : bool arrays
        Whether the functions give a rate, or the value itself.
    late, early : bool arrays
        For each memory term, whether u > s and u < s contribute.
    diagonal : int array
        The signal that is the diagonal of each pair.
    totals : int
        Number of integrals over (0, t) of row functions alone.
    start : callable(parameters) -> (z,) signals at t = 0
    source : str
        Text of the compiled functions.
    origin
        The equations.
    """

    functions: tuple[Any, ...]
    pairs: tuple[str, ...]
    signals: tuple[str, ...]
    causal: tuple[str, ...]
    parameters: tuple[str, ...]
    pair_rate: NDArray[Any]
    signal_rate: NDArray[Any]
    late: NDArray[Any]
    early: NDArray[Any]
    diagonal: NDArray[Any]
    totals: int
    start: Callable[[Mapping[str, float]], NDArray[np.float64]]
    source: str = field(repr=False)
    fingerprint: str = ""
    origin: Any = field(default=None, repr=False)
    kind: str = field(default="two-time", init=False)

    def _in_words(self) -> str:
        return (
            f"two-time: {', '.join((*self.pairs, *self.signals))}; parameters "
            f"{', '.join(self.parameters) or 'none'}"
        )

    @property
    def flags(self) -> NDArray[np.int64]:
        """Table that the compiled step reads."""
        rows = (self.pair_rate, self.signal_rate, self.late, self.early, self.diagonal)
        table = np.zeros((5, max(1, *(r.size for r in rows))), dtype=np.int64)
        for number, row in zip((X_RATE, Z_RATE, LATE, EARLY, DIAGONAL), rows, strict=True):
            table[number, : row.size] = row
        return table


@dataclass
class State:
    """Arrays of a march; those with `ROWS` rows hold the last one at the end.

    Attributes
    ----------
    problem : VolterraProblem
    par : parameters in the order of the problem
    n : complete times
    arrays : by name
        x (n,) kept times; q (n,) weights of integrals over (0, t); Z (z, n) signals, FZ their
        rates; X, FX (ROWS, x, n) functions and rates of the last rows; G (k, n, n) weights of the
        memory terms; A first factors of the last row; BL, BE (ROWS, k, n) second factors as
        B(u, s) and B(s, u); S, J integrals; out workspace.
    """

    problem: VolterraProblem
    par: Array
    n: int
    arrays: dict[str, Array]

    @classmethod
    def begin(cls, problem: VolterraProblem, values: Mapping[str, float]) -> State:
        """State at t = 0."""
        par = np.array([values[name] for name in problem.parameters], dtype=np.float64)
        pairs, signals = len(problem.pairs), len(problem.signals)
        k = problem.late.size
        shapes: dict[str, tuple[int, ...]] = {
            "x": (ROOM,), "q": (ROOM,), "Z": (signals, ROOM), "FZ": (ROWS, signals),
            "X": (ROWS, pairs, ROOM), "FX": (ROWS, pairs, ROOM), "G": (k, ROOM, ROOM),
            "A": (k + problem.totals, ROOM), "BL": (ROWS, k, ROOM), "BE": (ROWS, k, ROOM),
            "S": (k, ROOM), "J": (problem.totals,), "out": (pairs, ROOM),
        }  # fmt: skip
        state = cls(problem, par, 1, {name: np.zeros(shape) for name, shape in shapes.items()})
        state.arrays["Z"][:, 0] = problem.start(values)
        begin(*state.functions, par, problem.flags, state.work)
        return state

    @property
    def functions(self) -> list[Any]:
        """Those of the problem as the compiled step takes them: by their addresses."""
        kinds = (PAIR, PAIR, PAIR, LOCAL, SIGNALS)
        return [pointer(f, kind) for f, kind in zip(self.problem.functions, kinds, strict=True)]

    @property
    def work(self) -> Work:
        """Arrays as the compiled step takes them."""
        return Work(**self.arrays)

    @property
    def t(self) -> float:
        """Time of the last complete row."""
        return float(self.arrays["x"][self.n - 1])

    def advance(self, count: int, control: Array, times: Array, ending: NDArray[Any]) -> None:
        """Take up to `count` steps (see `dmft.solvers.two_time.advance.advance`)."""
        if self.n + count + 1 >= self.arrays["x"].size:
            self._resize((self.n + count + 2) * 3 // 2)
        problem = self.problem
        self.n = advance(
            *self.functions, self.par, problem.flags, self.work, self.n, count, control, times,
            ending,
        )  # fmt: skip

    def thin(self, ratio: float, tol: float) -> None:
        """Drop the times that the last row does not need."""
        a, n = self.arrays, self.n
        rows = np.concatenate([a["A"][:, :n], a["X"][-1, :, :n]])
        kept = np.ones(n, dtype=np.int64)
        count = thin(self.work, n, ratio, tol, kept, rows)
        if count == n:
            return
        chosen = kept[:count]
        for name, axes in TIMES.items():
            array = a[name]
            if axes == 1:
                array[..., :count] = array[..., chosen]
                array[..., count:n] = 0.0
            elif axes == 2:
                array[:, :count, :count] = array[:, chosen[:, None], chosen[None, :]]
                array[:, count:n, :] = 0.0
                array[:, :, count:n] = 0.0
        self.n = count

    def _resize(self, room: int) -> None:
        for name, axes in TIMES.items():
            old = self.arrays[name]
            shape = old.shape[: old.ndim - axes] + (room,) * axes
            new = np.zeros(shape)
            new[tuple(slice(size) for size in old.shape)] = old
            self.arrays[name] = new

    def stored(self) -> dict[str, Array]:
        """Arrays without their empty room."""
        n = self.n
        return {name: self.arrays[name][_within(n, axes)] for name, axes in TIMES.items()}

    def restore(self, n: int, arrays: Mapping[str, Array]) -> None:
        """Take over what `stored` gave."""
        self.n = n
        if n + 2 > self.arrays["x"].size:
            self._resize(n + ROOM)
        for name, axes in TIMES.items():
            self.arrays[name][...] = 0.0
            self.arrays[name][_within(n, axes)] = arrays[name]


def _within(n: int, axes: int) -> Any:
    """Index of the first n times along the last axes."""
    return (Ellipsis,) + (slice(n),) * axes
