"""The squared loss in closed form, for any label: only E[y h*] and E[y^2] enter."""

from __future__ import annotations

import math
from dataclasses import dataclass

import sympy as sp

from dmft.emit.formula import parse_expression
from dmft.errors import NotClosed
from dmft.gaussian.channels.declared import Label
from dmft.gaussian.expectation import Gaussian
from dmft.workflow.static.record import StaticLimit

ALPHA, RIDGE, FIRST, SECOND, V = sp.symbols("alpha lambda c_1 y_2 V", positive=True)


@dataclass(frozen=True)
class LabelMoments:
    """E[y h*_r], E[y^2] and E[g h*_r], E[g^2] of the label before noise and flips.

    `error` is that of quadrature, 0 for closed forms.
    """

    first: tuple[sp.Expr, ...]
    second: sp.Expr
    clean_first: tuple[sp.Expr, ...]
    clean_second: sp.Expr
    error: float

    @classmethod
    def of(cls, label: Label) -> LabelMoments:
        """Moments at normal teacher fields, closed where the calculus closes them."""
        label.check_numbers()
        law = Gaussian(list(label.fields), cov=sp.eye(label.width))
        error = 0.0

        def mean(expr: sp.Expr) -> sp.Expr:
            nonlocal error
            try:
                found = law.expect(expr)
                if found.is_number:
                    return found
            except NotClosed:
                pass
            value = law.quad(expr)
            error = max(error, value.error)
            return sp.Float(float(value), 17)

        clean = tuple(mean(label.expr * z) for z in label.fields)
        square = mean(label.expr**2)
        first = tuple((1 - 2 * label.flip) * c for c in clean)
        second = sp.S.One if label.drawn else square + label.noise
        return cls(first, second, clean, square, error)

    @property
    def optimal_ridge(self) -> sp.Expr:
        """(E[y^2] - c_1^2)/c_1^2, infinite where the label has no linear part."""
        linear = sp.Add(*(c**2 for c in self.first))
        if linear == 0 or abs(float(linear)) <= self.error**2:
            return sp.oo
        return sp.simplify((self.second - linear) / linear)


def squared_loss() -> dict[str, sp.Expr]:
    r"""V in closed form; M, Q and what follows from them in V.

    Equation    lambda V^2 + (lambda + alpha - 1) V - 1 = 0, m = alpha c_1 V/(1 + V),
                q = (m^2 + a (E[y^2] - 2 c_1 m))/(1 - a), a = alpha V^2/(1 + V)^2
    Valid for   lambda > 0, a linear student, any label
    Source      theory/static_limits (15)
    """
    b = RIDGE + ALPHA - 1
    a = ALPHA * V**2 / (1 + V) ** 2
    m = ALPHA * FIRST * V / (1 + V)
    q = (m**2 + a * (SECOND - 2 * FIRST * m)) / (1 - a)
    residual = SECOND - 2 * FIRST * m + q
    return {
        "V": (sp.sqrt(b**2 + 4 * RIDGE) - b) / (2 * RIDGE), "M": m, "Q": q, "stability": a,
        "test_loss": residual / 2, "train_loss": residual / (2 * (1 + V) ** 2),
    }  # fmt: skip


def at_numbers(alpha: float, ridge: float, first: float, second: float) -> dict[str, float]:
    """The closed form in numbers; without a ridge its limit, of minimum norm where alpha < 1.

    `first` is the length of E[y h*].
    """
    if ridge == 0.0 and alpha <= 1.0:
        m, a = alpha * first, alpha
        spread = second - 2.0 * first * m
        q = math.inf if alpha == 1.0 else (m**2 + a * spread) / (1.0 - a)
        return {"V": math.inf, "M": m, "Q": q, "stability": a,
                "test_loss": (spread + q) / 2.0, "train_loss": 0.0}  # fmt: skip
    b = ridge + alpha - 1.0
    root = math.sqrt(b * b + 4.0 * ridge)
    response = 2.0 / (root + b) if b > 0.0 else (root - b) / (2.0 * ridge)
    share = response / (1.0 + response)
    a, m = alpha * share**2, alpha * first * share
    q = (m**2 + a * (second - 2.0 * first * m)) / (1.0 - a)
    residual = second - 2.0 * first * m + q
    return {"V": response, "M": m, "Q": q, "stability": a, "test_loss": residual / 2.0,
            "train_loss": residual / (2.0 * (1.0 + response) ** 2)}  # fmt: skip


@dataclass(frozen=True, eq=False)
class OptimalRidge(StaticLimit):
    """Ridge of the least test loss, a number by `float`.

    Attributes
    ----------
    value : float
        Infinite where the label has no linear part: the best linear student is zero.
    error : float
        0 for closed forms.
    proof : "closed form" or "quadrature"
    formula : str
        The value as SymPy writes it; `expr` reads it.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.Symbol("z", real=True)
    >>> model = dmft.Model(dmft.Committee(z, 1), dmft.MultiIndex(sp.sign(z), [z]))
    >>> dmft.optimal_ridge(model).expr
    -1 + pi/2
    """

    value: float
    error: float
    proof: str
    formula: str

    KIND = "dmft optimal ridge"

    def __float__(self) -> float:
        return self.value

    @property
    def expr(self) -> sp.Expr:
        """The value as a SymPy expression."""
        return parse_expression(self.formula, {})
