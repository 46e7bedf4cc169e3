"""The record of a two-time problem: signals at each step, rows X(t, s) at saved times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from dmft.arrays import Array
from dmft.errors import BadParameter
from dmft.solvers.solution import Solution, Values

if TYPE_CHECKING:
    from dmft import netcdf

# Points of the local polynomials, as in the thinning.
STENCIL = 6


@dataclass(frozen=True, eq=False, repr=False)
class TwoTimeRun(Solution):
    """Solution of a two-time problem.

    Signals and functions are attributes and can also be read by key. Signals, which include
    diagonals (``C_diagonal``), are arrays over all steps (T,). A function of two times is a table
    over the saved times, ``run.C[i, j]`` = C(t_i, t_j), which is zero for j > i if the function is
    causal. `row` returns X(t, .) on the grid of the solver.

    Attributes
    ----------
    t : (T,)
        Times of the steps.
    saved : (K,)
        Times of the saved rows.
    signals : Values
    offsets, s, pairs
        Concatenated rows: row i has the times s[offsets[i]:offsets[i + 1]].
    error : Values
        Estimated errors: (T,) for signals, (K,) for functions (the largest over s). The estimate is
        the largest difference in [t/2, t] from a run with steps twice as long on a grid thinned at
        ten times the tolerance, plus a tenth of `tol`; it is mostly ten times the true error. NaN
        without such a run.
    status, message, statistics, parameters, provenance
        As for a `Trajectory`.
    causal : tuple of str
        Functions that vanish for s > t.

    Examples
    --------
    >>> import dmft
    >>> run = dmft.solve(dmft.literature.spherical_p_spin(3), None, 2.0, save_at=[1.0, 2.0])
    >>> run.C.round(3).tolist(), round(run.at("R", 2.0, 1.5), 3)
    ([[1.0, 0.935], [0.935, 1.0]], 0.368)
    >>> bool(abs(run.E[-1] + 0.926219) < run.error.E[-1])
    True
    """

    saved: Array
    signals: Values
    offsets: NDArray[np.int64]
    s: Array
    pairs: Values
    error: Values
    causal: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the signals and of the functions of two times, without diagonals."""
        diagonals = {f"{name}_diagonal" for name in self.pairs}
        return (*(n for n in self.signals if n not in diagonals), *self.pairs)

    KIND = "dmft two-time run"
    _NO_FINAL = (
        "two-time problems start at t = 0: solve with a larger t_max and checkpoint= to resume"
    )
    COORDINATES = ("t", "saved")
    NAMES: ClassVar[Mapping[str, str]] = {
        "signals": "signal_{}", "pairs": "pair_{}", "error": "error_{}",
    }  # fmt: skip

    def _groups(self) -> tuple[Mapping[str, Array], ...]:
        return (self.signals,)

    def _find(self, name: str) -> Array | None:
        return self.table(name) if name in self.pairs else super()._find(name)

    def _shown(self) -> str:
        return (
            f"t = {self.t[-1]:g}, {self.t.size - 1} steps, {self.saved.size} rows; "
            f"{', '.join(self.names)}"
        )

    def row(self, name: str, t: float) -> tuple[Array, Array]:
        """Return times s and values X(t, s) of the row saved at t.

        Parameters
        ----------
        name : str
            Name of a function of two times.
        t : float
            A time with a saved row.

        Returns
        -------
        (ndarray, ndarray)
            Times s up to t, and X(t, s).

        Raises
        ------
        BadParameter
            If no row was saved at t (`save_at`), or if there is no such function.

        Examples
        --------
        >>> import dmft
        >>> run = dmft.solve(dmft.literature.spherical_p_spin(3), None, 2.0, save_at=[1.0, 2.0])
        >>> s, values = run.row("C", 2.0)
        >>> float(s[-1]), float(values[-1])
        (2.0, 1.0)
        """
        number = self._row_number(name, t)
        part = slice(self.offsets[number], self.offsets[number + 1])
        return self.s[part], self.pairs[name][part]

    def at(self, name: str, t: float, s: float) -> float:
        """Return X(t, s) at a saved time t and any s <= t.

        Parameters
        ----------
        name : str
            Name of a function of two times.
        t : float
            A time with a saved row.
        s : float
            Any time from 0 to t.

        Returns
        -------
        float

        Examples
        --------
        >>> import dmft
        >>> run = dmft.solve(dmft.literature.spherical_p_spin(3), None, 2.0, save_at=[1.0, 2.0])
        >>> round(run.at("R", 2.0, 1.5), 3), run.at("R", 1.0, 2.0)  # causal
        (0.368, 0.0)
        """
        if s < 0.0:
            raise BadParameter(f"{name}(t, s) has no value at s = {s:g}: times begin at 0")
        if s > t:
            return 0.0 if name in self.causal else self.at(name, s, t)
        times, values = self.row(name, t)
        return float(interpolate(times, values, np.array([float(s)]))[0])

    def integral(self, name: str, t: float) -> tuple[Array, Array]:
        """Return times s and the integrals of X(t, u) over s < u < t.

        Parameters
        ----------
        name : str
            Name of a function of two times.
        t : float
            A time with a saved row.

        Returns
        -------
        (ndarray, ndarray)
            Times s, and the integral from each to t.

        Examples
        --------
        >>> import dmft
        >>> run = dmft.solve(dmft.literature.spherical_p_spin(3), None, 2.0, save_at=[1.0, 2.0])
        >>> s, susceptibility = run.integral("R", 2.0)
        >>> round(float(susceptibility[0]), 3)
        0.758
        """
        times, values = self.row(name, t)
        return times, integrals(times, values)

    def table(self, name: str) -> Array:
        """Return the table X(t_i, t_j) at the saved times, (K, K).

        Parameters
        ----------
        name : str
            Name of a function of two times.

        Returns
        -------
        (K, K) ndarray
            Table; zero above the diagonal for a causal function.

        Examples
        --------
        >>> import dmft
        >>> run = dmft.solve(dmft.literature.spherical_p_spin(3), None, 2.0, save_at=[1.0, 2.0])
        >>> run.table("C").round(3).tolist()
        [[1.0, 0.935], [0.935, 1.0]]
        """
        size = self.saved.size
        table = np.zeros((size, size))
        for i in range(size):
            part = slice(self.offsets[i], self.offsets[i + 1])
            table[i, : i + 1] = interpolate(
                self.s[part], self.pairs[name][part], self.saved[: i + 1]
            )
        return table if name in self.causal else np.tril(table) + np.tril(table, -1).T

    def _row_number(self, name: str, t: float) -> int:
        if name not in self.pairs:
            raise BadParameter(f"no function {name!r} of two times; available: {list(self.pairs)}")
        if not self.saved.size:
            raise BadParameter("no row was saved")
        number = int(np.argmin(np.abs(self.saved - t)))
        if abs(self.saved[number] - t) > 1e-9 * max(1.0, abs(t)):
            raise BadParameter(
                f"no row was saved at t = {t:g}, the nearest is t = {self.saved[number]:g}; "
                "solve again with this time in save_at"
            )
        return number

    def _displayed(self) -> list[netcdf.Variable]:
        rows: list[netcdf.Variable] = [("t", ("t",), self.t), ("saved", ("saved",), self.saved)]
        rows += [(n, ("t",), values) for n, values in self.signals.items()]
        rows += [(n, ("saved", "saved_2"), self.table(n)) for n in self.pairs]
        errors = self.error.items()
        return rows + [(f"{n}_error", self._axes("error", n, y), y) for n, y in errors]

    def _axes(self, field: str, name: str, values: Array) -> tuple[str, ...]:
        saved = field == "saved" or (field == "error" and name in self.pairs)
        own = {"s": "entry", "pairs": "entry", "offsets": "edge"}.get(field, "t")
        return ("saved",) if saved else (own,)


def interpolate(s: Array, values: Array, at: Array) -> Array:
    """Values of a row at other times within it, by polynomials through six neighbours."""
    count = min(STENCIL, s.size)
    first = np.clip(np.searchsorted(s, at) - count // 2, 0, s.size - count)
    nodes = s[first[:, None] + np.arange(count)]
    result = np.zeros(at.size)
    for k in range(count):
        weight = np.ones(at.size)
        for m in range(count):
            if m != k:
                weight *= (at - nodes[:, m]) / (nodes[:, k] - nodes[:, m])
        result += weight * values[first + k]
    return result


def integrals(s: Array, values: Array) -> Array:
    """Integral of a row from each of its times to its end."""
    x, w = np.polynomial.legendre.leggauss(3)
    half, middle = np.diff(s) / 2.0, (s[1:] + s[:-1]) / 2.0
    points = middle[:, None] + half[:, None] * x
    inner = interpolate(s, values, points.ravel()).reshape(points.shape)
    panels = half * (inner @ w)
    return np.concatenate([np.cumsum(panels[::-1])[::-1], [0.0]])
