"""The record of an exponent: its value, the coefficient that decides, directions, words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import total_ordering
from typing import Any

import numpy as np
import sympy as sp

from dmft.gaussian.coefficients import Index
from dmft.gaussian.grid import Array
from dmft.gaussian.leaps import LeapStep, Y

# Relative error of a coefficient above which it is printed: six digits are shown.
SHOWN_ERROR = 1e-6


@dataclass(frozen=True)
class Witness:
    """The coefficient that decides: E[T(y) phi(U h) He_n] with its value.

    Attributes
    ----------
    index : tuple of int
        Multi-index n; in later steps of a leap it counts the directions not yet learned.
    value : sympy.Expr
        The coefficient; a float when known numerically.
    transformation : sympy.Expr
        T as an expression in the symbol y; y itself where none is needed.
    learned : int
        Number of directions learned before (phi is a function of those).
    error : float
        Error of the value; 0 when it is exact.
    """

    index: Index
    value: sp.Expr
    transformation: sp.Expr = Y
    learned: int = 0
    error: float = 0.0


@total_ordering
@dataclass(frozen=True, eq=False)
class Exponent:
    """An exponent of a target: an integer (or oo) that knows why.

    Attributes
    ----------
    name : str
    value : sympy.Integer or oo
        oo for constants only: nothing can be learned.
    target, fields
        What was asked.
    witness : Witness or None
        The coefficient that decides, None for oo.
    steps : tuple of LeapStep
        For leaps: order and directions of each step.
    proof : str
        "symbolic" (closed forms and symmetries) or "numerical" (zero means below `threshold`).
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
        if isinstance(other, Exponent):
            return bool(self.value == other.value)
        return bool(self.value == other)

    def __lt__(self, other: Any) -> bool:
        return bool(self.value < (other.value if isinstance(other, Exponent) else other))

    def __hash__(self) -> int:
        return hash(self.value)

    def __repr__(self) -> str:
        return str(self.value)

    @property
    def directions(self) -> list[Array]:
        """Directions (n, k) that each step of a leap adds, orthonormal rows."""
        return [step.directions for step in self.steps]

    def explain(self) -> str:
        """Why the exponent has its value, in words."""
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
            names = ", ".join(_direction(v, self.fields) for v in step.directions)
            lines.append(f"step {i}: order {step.order} finds {names}")
        return "\n".join(lines)

    def _repr_latex_(self) -> str:
        if self.witness is None:
            return r"$\displaystyle \infty$"
        body = rf"{self.value}:\ {_names(self, latex=True)} = {sp.latex(self.witness.value)}"
        return rf"$\displaystyle {body}$"


def _samples(name: str, k: int) -> str:
    """Samples that learning takes, by the exponent (batch_reuse.md D.4, regimes)."""
    if k < 3:
        return ("d", "d log d")[k - 1]
    if not name.startswith("generative"):
        return f"d^{k - 1}"
    return f"d^{k // 2}" if k % 2 == 0 else f"d^({k}/2)"


def _names(exponent: Exponent, latex: bool = False) -> str:
    """E[T(y) phi(U h) He_n(z)] of the witness, as text or LaTeX."""
    witness = exponent.witness
    assert witness is not None
    label = "y" if witness.transformation == Y else "T(y)"
    learned = [v for step in exponent.steps for v in step.directions][: witness.learned]
    parts = [label]
    if learned:
        known = ", ".join(_direction(v, exponent.fields, latex) for v in learned)
        parts.append(rf"\phi({known})" if latex else f"phi({known})")
        # Later directions are counted along a basis of what is not learned.
        fields: Sequence[Any] = [sp.Symbol(f"v_{i + 1}") for i in range(len(witness.index))]
    else:
        fields = exponent.fields
    he = r"\mathrm{He}_{%d}(%s)" if latex else "He_%d(%s)"
    show = sp.latex if latex else str
    parts += [he % (m, show(x)) for m, x in zip(witness.index, fields, strict=True) if m]
    body = (r"\," if latex else " ").join(parts)
    return rf"\mathbb{{E}}[{body}]" if latex else f"E[{body}]"


def _direction(vector: Array, fields: Sequence[sp.Symbol], latex: bool = False) -> str:
    """A direction as a combination of fields, its largest entry one."""
    scaled = vector / vector[np.argmax(np.round(np.abs(vector), 9))]
    terms = [_number(float(a)) * x for a, x in zip(scaled, fields, strict=True) if abs(a) > 1e-8]
    total = sp.Add(*terms)
    return sp.latex(total) if latex else str(total)


def _number(a: float) -> sp.Expr:
    """A fraction of small denominator where one fits, otherwise four digits."""
    fraction = Fraction(a).limit_denominator(12)
    return sp.Rational(fraction) if abs(a - fraction) < 1e-8 else sp.Float(a, 4)
