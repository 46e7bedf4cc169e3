"""When each direction of a target is learned: one-pass SGD, data reuse, generic algorithms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.errors import BadParameter
from dmft.gaussian.exponents.coefficients import Index, as_fields
from dmft.gaussian.exponents.kinds import generative_exponent, leap_exponent
from dmft.gaussian.exponents.leaps import LeapStep, as_combination, canonical
from dmft.gaussian.exponents.record import Exponent, coefficient_name
from dmft.model import MultiIndex
from dmft.record import Record
from dmft.summary import Summary
from dmft.validation import checked, shown

ONE_PASS, REUSE, GENERIC = ALGORITHMS = ("one-pass SGD", "data reuse", "generic")
# Overlaps of unit directions below this are rounding of the numerical engine.
SAME_SPACE = 1e-5


@dataclass(frozen=True)
class Verdict:
    """Number of samples after which an algorithm learns a subspace of the target.

    Attributes
    ----------
    algorithm : str
    step : int or None
        Step of the (generative) leap that learns it, from 1; None if it is never learned.
    order : int or None
        Order of the tensor that this step overcomes.
    exponent : sympy.Rational or oo
        Power of d in the number of samples, of the most expensive step so far; oo if never learned.
    logarithm : bool
        Whether the number of samples has a factor log d.
    reason : str
        The coefficient that determines the step, or the reason why there is none.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.Symbol("z", real=True)
    >>> row = dmft.learnability(sp.Abs(z), z).table[0]
    >>> verdict = row.verdicts[0]
    >>> verdict.order, verdict.exponent, verdict.logarithm
    (2, 1, True)
    """

    algorithm: str
    step: int | None
    order: int | None
    exponent: sp.Expr
    logarithm: bool
    reason: str

    @property
    def samples(self) -> str:
        """Number of samples in dimension d, as text."""
        if self.step is None:
            return "never"
        power = "d" if self.exponent == 1 else f"d^{self.exponent}"
        if not self.exponent.is_Integer:
            power = f"d^({self.exponent})"
        return f"{power} log d" if self.logarithm else power

    def latex(self) -> str:
        r"""Return the number of samples as LaTeX, without dollar signs.

        Returns
        -------
        str

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> z = sp.Symbol("z", real=True)
        >>> row = dmft.learnability(sp.Abs(z), z).table[0]
        >>> print(row.verdicts[0].latex())
        d\,\log d
        """
        if self.step is None:
            return r"\text{never}"
        power = "d" if self.exponent == 1 else rf"d^{{{self.exponent}}}"
        return rf"{power}\,\log d" if self.logarithm else power


@dataclass(frozen=True, eq=False)
class LearnabilityRow:
    """Row of the table: a subspace of the fields, with a verdict for each algorithm.

    Attributes
    ----------
    directions : (n, k) ndarray
        Orthonormal rows.
    fields : tuple of sympy.Symbol
        Of the target.
    verdicts : tuple of Verdict
        Verdict of each algorithm; ``row[algorithm]`` returns one.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.Symbol("z", real=True)
    >>> row = dmft.learnability(sp.Abs(z), z).table[0]
    >>> row.name, row["data reuse"].samples
    ('z', 'd log d')
    """

    directions: Array
    fields: tuple[sp.Symbol, ...]
    verdicts: tuple[Verdict, ...]

    @property
    def name(self) -> str:
        """Directions as combinations of the fields."""
        return ", ".join(map(str, self.names))

    @property
    def names(self) -> list[sp.Expr]:
        """Directions as combinations of the fields, largest entry one."""
        return [as_combination(v, self.fields) for v in self.directions]

    def __getitem__(self, algorithm: str) -> Verdict:
        for verdict in self.verdicts:
            if verdict.algorithm == algorithm:
                return verdict
        known = ", ".join(v.algorithm for v in self.verdicts)
        raise KeyError(f"no algorithm {algorithm!r} in this table, it has {known}")


@dataclass(frozen=True, eq=False)
class Learnability(Record):
    """Table of the number of samples after which each subspace of the target is learned.

    Attributes
    ----------
    target, fields
        The target and its fields.
    table : tuple of LearnabilityRow
        `row[algorithm]` is a `Verdict` with step, order, exponent of the samples and reason.
    exponents : dict
        Leap (or generative leap) exponent of each algorithm, with its steps and `.proof`.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.Symbol("z", real=True)
    >>> verdict = dmft.learnability(sp.Abs(z), z).table[0]["data reuse"]
    >>> verdict.samples, verdict.step, verdict.order
    ('d log d', 1, 2)
    """

    target: sp.Expr
    fields: tuple[sp.Symbol, ...]
    table: tuple[LearnabilityRow, ...]
    exponents: dict[str, Exponent]

    @property
    def algorithms(self) -> tuple[str, ...]:
        """Algorithms, in the order of the columns."""
        return tuple(self.exponents)

    def _summary(self) -> Summary:
        rows = []
        for row in self.table:
            steps = ("" if v.step is None else f" (step {v.step})" for v in row.verdicts)
            cells = (f"${v.latex()}${y}" for v, y in zip(row.verdicts, steps, strict=True))
            rows.append((f"${', '.join(map(sp.latex, row.names))}$", *cells))
        return Summary(
            f"Samples to learn each direction of $y = {sp.latex(self.target)}$ in dimension d",
            tuple(rows),
            ("direction", *self.algorithms),
            ("`.explain()` gives the reason for each entry.",),
        )

    def explain(self) -> str:
        """Return the reason for every entry, as text.

        Returns
        -------
        str

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> z = sp.Symbol("z", real=True)
        >>> found = dmft.learnability(sp.Abs(z), z)
        >>> print(found.explain().splitlines()[0])
        y = Abs(z)
        """
        lines = [f"y = {self.target}"]
        for algorithm, e in self.exponents.items():
            how = "" if e.threshold is None else f", zero means below {e.threshold:g}"
            lines.append(f"{algorithm}: {e.name} {e} ({e.proof}{how})")
        for row in self.table:
            for v in row.verdicts:
                when = "" if v.step is None else f" samples, step {v.step} of order {v.order}"
                lines.append(f"{row.name}, {v.algorithm}: {v.samples}{when}: {v.reason}")
        return "\n".join(lines)

    def latex(self) -> str:
        r"""Return the table as a LaTeX tabular environment.

        Returns
        -------
        str

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> z = sp.Symbol("z", real=True)
        >>> print(dmft.learnability(z**3 - 3 * z, z).latex().splitlines()[5])
        $z$ & $d^{2}$ (step 1) & $d$ (step 1) & $d$ (step 1) \\
        """
        return self._summary().latex()


@checked
def learnability(
    target: sp.Expr | MultiIndex,
    fields: sp.Symbol | Sequence[sp.Symbol] | None = None,
    algorithms: Sequence[str] = ALGORITHMS,
) -> Learnability:
    r"""Compute the number of samples after which each direction of a target is learned.

    Equation    the cost of a direction is the largest cost of the steps up to the one that learns
                it. A step of order k costs d, d log d, d^{k-1} samples for k = 1, 2, 3 and more in
                the leap (one pass) and the generative leap (reuse), and d^{max(1, k/2)} (generic)
    Shapes      one row for each subspace that the algorithms treat equally, directions (n, k)
    Scaling     exponents of the dimension d of the input; the number of fields k is fixed
    Valid for   square-integrable targets of orthonormal directions (P = I), and students with
                nonzero coefficients of the same order and the right sign. Additive Gaussian label
                noise has no effect
    Source      theory/batch_reuse B.2, D.3, D.4; theory/one_pass H; derivations/exponents.py

    Parameters
    ----------
    target : sympy.Expr or MultiIndex
    fields : symbols
        Fields of the target, unless it is a `MultiIndex`.
    algorithms : sequence of str
        Columns of the table: "one-pass SGD" (each sample is used once), "data reuse" (samples are
        used in several steps) and "generic" (the best known polynomial-time algorithm).

    Returns
    -------
    Learnability
        Table in which ``table[row][algorithm]`` is a `Verdict`. The exponents are those of
        `leap_exponent` and `generative_exponent`, whose `.proof` states the method.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z1, z2 = sp.symbols("z1 z2", real=True)
    >>> print(dmft.learnability(z1 + z2**3 - 3*z2, [z1, z2]))
    Samples to learn each direction of y = z_1 + z_2³ - 3 z_2 in dimension d
      direction  one-pass SGD  data reuse  generic
      z_1        d (step 1)    d (step 1)  d (step 1)
      z_2        d² (step 2)   d (step 1)  d (step 1)
    `.explain()` gives the reason for each entry.
    """
    expr, symbols = _declared(target, fields)
    wanted = (algorithms,) if isinstance(algorithms, str) else tuple(algorithms)
    unknown = [a for a in wanted if not (isinstance(a, str) and a in ALGORITHMS)]
    if unknown or not wanted:
        raise BadParameter(
            f"algorithms = {shown(algorithms)}: choose among {', '.join(map(repr, ALGORITHMS))}"
        )
    exponents: dict[str, Exponent] = {}
    generative: Exponent | None = None
    for algorithm in wanted:
        if algorithm == ONE_PASS:
            exponents[algorithm] = leap_exponent(expr, symbols)
        else:
            generative = generative or generative_exponent(expr, symbols, leap=True)
            exponents[algorithm] = generative
    rows = [
        LearnabilityRow(space, symbols, tuple(_verdict(a, e, space) for a, e in exponents.items()))
        for space in _subspaces([e.directions for e in exponents.values()], len(symbols))
    ]
    rows.sort(key=_when)
    return Learnability(expr, symbols, tuple(rows), exponents)


def _declared(
    target: sp.Expr | MultiIndex, fields: sp.Symbol | Sequence[sp.Symbol] | None
) -> tuple[sp.Expr, tuple[sp.Symbol, ...]]:
    if isinstance(target, MultiIndex):
        if fields is not None and as_fields(fields) != target.fields:
            raise BadParameter(f"the fields of this MultiIndex are {target.fields}, got {fields!r}")
        return target.expr, target.fields
    if fields is None:
        raise BadParameter(f"fields of the target {target} are needed, for example [z1, z2]")
    return target, as_fields(fields)


def _subspaces(flags: Sequence[Sequence[Array]], width: int) -> list[Array]:
    """Subspaces that all algorithms treat as one: common refinement of their steps.

    Where the steps of two algorithms do not fit (projectors that do not commute), the steps
    themselves are listed. What no step finds comes last.
    """
    distinct: list[Array] = []
    for flag in flags:
        for space in flag:
            if not any(_inside(space, s) and _inside(s, space) for s in distinct):
                distinct.append(space)
    pieces = [np.eye(width)]
    for space in distinct:
        split = []
        for piece in pieces:
            overlaps, turned = np.linalg.eigh(piece @ (space.T @ space) @ piece.T)
            sharp = (overlaps < SAME_SPACE) | (overlaps > 1 - SAME_SPACE)
            if not sharp.all():
                found = np.concatenate(distinct)
                return distinct + _left_over(found, width)
            parts = [turned.T[overlaps > 0.5] @ piece, turned.T[overlaps < 0.5] @ piece]
            split += [p for p in parts if len(p)]
        pieces = split
    return [canonical(p) for p in pieces]


def _left_over(found: Array, width: int) -> list[Array]:
    _, singular, rows = np.linalg.svd(found)
    rank = int((singular > SAME_SPACE).sum())
    return [canonical(rows[rank:])] if rank < width else []


def _inside(space: Array, other: Array) -> bool:
    """Whether the rows of one lie in the span of the other's (orthonormal) rows."""
    return bool(np.abs(space - space @ other.T @ other).max() < SAME_SPACE)


def _verdict(algorithm: str, exponent: Exponent, space: Array) -> Verdict:
    """The first step after which the whole subspace is learned, and its cost."""
    learned = np.zeros((0, space.shape[1]))
    cost: tuple[sp.Expr, bool] = (sp.S.Zero, False)
    for number, step in enumerate(exponent.steps, 1):
        before, learned = learned, np.concatenate([learned, step.directions])
        cost = max(cost, _cost(algorithm, step.order))
        if not _inside(space, learned):
            continue
        reason = _coefficient(step, before, space, exponent.fields)
        if step.order > 1:
            reason += ", all lower orders vanish"
        if algorithm == REUSE:
            worst = max(s.order for s in exponent.steps[:number])
            reason += (
                "; in finitely many steps on n = O(d) samples"
                if worst == 1
                else "; never in finitely many steps on n = O(d) samples"
            )
        return Verdict(algorithm, number, step.order, *cost, reason)
    names = ", ".join(str(as_combination(v, exponent.fields)) for v in space)
    return Verdict(algorithm, None, None, sp.oo, False, f"y does not depend on {names}")


def _coefficient(step: LeapStep, learned: Array, space: Array, fields: Sequence[sp.Symbol]) -> str:
    """The largest coefficient of the step's tensor that sees the subspace, with its value."""
    seen = np.linalg.norm(step.basis @ space.T, axis=1)

    def weight(entry: tuple[Index, sp.Expr, sp.Expr]) -> float:
        return float(abs(entry[1])) * max(s for s, n in zip(seen, entry[0], strict=True) if n)

    index, value, transformation = max(step.coefficients, key=weight)
    known: list[sp.Expr] | sp.Expr = [as_combination(v, fields) for v in learned]
    if step.feature is not None and (index, value) == (step.index, step.strength):
        known = step.feature
    name = coefficient_name(index, transformation, known, step.names(fields))
    return f"{name} = {sp.N(value, 6)}"


def _cost(algorithm: str, order: int) -> tuple[sp.Expr, bool]:
    """Exponent of d, and whether log d multiplies it (theory/batch_reuse D.3, D.4)."""
    if algorithm == GENERIC:
        return sp.Max(1, sp.Rational(order, 2)), False
    return sp.Integer(max(1, order - 1)), order == 2


def _when(row: LearnabilityRow) -> tuple[tuple[float, float], ...]:
    """Sort key: what is learned first comes first."""
    return tuple((float(v.exponent), float(v.step or np.inf)) for v in row.verdicts)
