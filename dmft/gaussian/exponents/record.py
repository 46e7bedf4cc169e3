"""The record of an exponent: its value, the coefficient that decides, directions, words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import total_ordering
from typing import Any

import sympy as sp

from dmft.arrays import Array
from dmft.gaussian.exponents.coefficients import Index
from dmft.gaussian.exponents.leaps import LeapStep, Y, as_combination
from dmft.record import Shown
from dmft.summary import Summary, figures

# Relative error of a coefficient above which it is printed: six digits are shown.
SHOWN_ERROR = 1e-6


@dataclass(frozen=True)
class Witness:
    """Nonzero coefficient E[T(y) phi(U h) He_n] that determines an exponent.

    Attributes
    ----------
    index : tuple of int
        Multi-index n; in later steps of a leap it refers to the directions not yet learned.
    value : sympy.Expr
        Value of the coefficient; a float if it is known numerically.
    transformation : sympy.Expr
        Function T as an expression in the symbol y; y if no transformation is needed.
    learned : int
        Number of directions learned before, on which phi depends.
    error : float
        Error of the value; 0 if it is exact.
    feature : sympy.Expr or None
        Function phi, if it is known in closed form.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.Symbol("z", real=True)
    >>> found = dmft.information_exponent(z**3 - 3*z, z).witness
    >>> found.index, found.value
    ((3,), 6)
    """

    index: Index
    value: sp.Expr
    transformation: sp.Expr = Y
    learned: int = 0
    error: float = 0.0
    feature: sp.Expr | None = None


@total_ordering
@dataclass(frozen=True, eq=False)
class Exponent(Shown):
    """Exponent of a target: an integer, or infinity (oo), with its justification.

    Attributes
    ----------
    name : str
    value : sympy.Integer or oo
        The exponent; oo only for constants, of which nothing can be learned.
    target, fields
        The function and the fields for which the exponent was requested.
    witness : Witness or None
        The nonzero coefficient that determines the exponent; None for oo.
    steps : tuple of LeapStep
        Order and directions of each step, for leap exponents.
    proof : str
        "symbolic" (closed forms and symmetries), "certified" (zeros by symmetry, values enclosed
        in balls that exclude zero: extra `certify`), or "numerical" (zero means below `threshold`).
    threshold : float or None

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.Symbol("z", real=True)
    >>> exponent = dmft.information_exponent(sp.Abs(z), z)
    >>> int(exponent), exponent == 2, exponent.witness.index
    (2, True, (2,))
    """

    name: str
    value: sp.Expr
    target: sp.Expr
    fields: tuple[sp.Symbol, ...]
    witness: Witness | None = None
    steps: tuple[LeapStep, ...] = ()
    proof: str = "symbolic"
    threshold: float | None = field(default=None)

    def __int__(self) -> int:
        if self.value is sp.oo:
            raise OverflowError(f"the {self.name} of {self.target} is infinite: it is constant")
        return int(self.value)

    __index__ = __int__

    def __eq__(self, other: object) -> bool:
        return bool(self.value == (other.value if isinstance(other, Exponent) else other))

    def __lt__(self, other: Any) -> bool:
        return bool(self.value < (other.value if isinstance(other, Exponent) else other))

    def __hash__(self) -> int:
        return hash(self.value)

    def __repr__(self) -> str:
        return str(self.value)

    def __format__(self, given: str) -> str:
        return format(repr(self), given)

    def _summary(self) -> Summary:
        how = "" if self.threshold is None else f", zero means below {self.threshold:g}"
        rows = []
        if self.witness is not None:
            value = f"${sp.latex(self.witness.value)}$"
            if self.witness.value.has(sp.Float):
                value = figures(float(self.witness.value), self.witness.error)
            rows.append(
                (f"${_names(self, latex=True)}$", value, "decides: all lower orders vanish")
            )
            rows.append(("samples", _samples(self.name, int(self)), "by order, in dimension d"))
        for number, step in enumerate(self.steps, start=1):
            found = (sp.latex(as_combination(v, self.fields)) for v in step.directions)
            rows.append((f"step {number}", f"order {step.order}", f"finds ${', '.join(found)}$"))
        title = f"{self.name.capitalize()} {self.value} of $y = {sp.latex(self.target)}$"
        return Summary(f"{title} ({self.proof}{how})", tuple(rows))

    @property
    def directions(self) -> list[Array]:
        """Directions (n, k) that each step of a leap adds, as orthonormal rows."""
        return [step.directions for step in self.steps]

    def explain(self) -> str:
        """Return the justification of the exponent, as text.

        Returns
        -------
        str

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> z = sp.Symbol("z", real=True)
        >>> print(dmft.information_exponent(z**3, z).explain().split(" decides")[0])
        information exponent 1 of y = z**3 (symbolic): E[y He_1(z)] = 3.00000
        """
        if self.witness is None:
            return f"{self.name} oo: {self.target} is constant, nothing can be learned"
        how = "" if self.threshold is None else f", zero means below {self.threshold:g}"
        cost = _samples(self.name, int(self))
        shown = self.witness.error > SHOWN_ERROR * abs(float(self.witness.value))
        error = f" ± {self.witness.error:.0e}" if shown else ""
        lines = [
            f"{self.name} {self.value} of y = {self.target} ({self.proof}{how}): "
            f"{_names(self)} = {sp.N(self.witness.value, 6)}{error} decides, "
            f"all lower orders vanish; of order {cost} samples in dimension d"
        ]
        if self.witness.transformation != Y:
            lines.append(f"T(y) = {self.witness.transformation}")
        for i, step in enumerate(self.steps, 1):
            names = ", ".join(str(as_combination(v, self.fields)) for v in step.directions)
            lines.append(f"step {i}: order {step.order} finds {names}")
        return "\n".join(lines)

    def _repr_latex_(self) -> str:
        if self.witness is None:
            return r"$\displaystyle \infty$"
        body = rf"{self.value}:\ {_names(self, latex=True)} = {sp.latex(self.witness.value)}"
        return rf"$\displaystyle {body}$"


def _samples(name: str, k: int) -> str:
    """Samples that learning takes, by the exponent (theory/batch_reuse D.4, regimes)."""
    if not name.startswith("generative"):
        return {1: "d", 2: "d log d"}.get(k, f"d^{k - 1}")
    return "d" if k < 3 else f"d^{k // 2}" if k % 2 == 0 else f"d^({k}/2)"


def _names(exponent: Exponent, latex: bool = False) -> str:
    """E[T(y) phi(U h) He_n(z)] of the witness, as text or LaTeX."""
    witness = exponent.witness
    assert witness is not None
    learned: list[Array] = []
    slots: Sequence[sp.Expr] = exponent.fields
    for step in exponent.steps:
        if len(learned) == witness.learned > 0:
            slots = step.names(exponent.fields)
            break
        learned += list(step.directions)
    known = [as_combination(v, exponent.fields) for v in learned[: witness.learned]]
    factors = known if witness.feature is None else witness.feature
    return coefficient_name(witness.index, witness.transformation, factors, slots, latex=latex)


def coefficient_name(
    index: Index,
    transformation: sp.Expr,
    learned: Sequence[sp.Expr] | sp.Expr,
    slots: Sequence[sp.Expr],
    *,
    latex: bool = False,
) -> str:
    """E[T(y) phi(U h) He_n(V h)] with phi or U `learned` and V `slots`, as text or LaTeX."""
    show = sp.latex if latex else str
    parts = ["y" if transformation == Y else "T(y)"]
    if isinstance(learned, sp.Expr):
        parts += [] if learned == 1 else [f"({show(learned)})"]
    elif learned:
        known = ", ".join(map(show, learned))
        parts.append(rf"\phi({known})" if latex else f"phi({known})")
    he = r"\mathrm{He}_{%d}(%s)" if latex else "He_%d(%s)"
    parts += [he % (m, show(x)) for m, x in zip(index, slots, strict=True) if m]
    body = (r"\," if latex else " ").join(parts)
    return rf"\mathbb{{E}}[{body}]" if latex else f"E[{body}]"
