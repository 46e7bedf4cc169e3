"""What the solver of two-time problems is given: compiled functions and their layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmft.record import Short
from dmft.solvers.two_time.step import DIAGONAL, EARLY, LATE, X_RATE, Z_RATE


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
