"""Floor 2: Gaussian calculus. Closed forms, Hermite expansions and exponents of functions."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from dmft.errors import NotClosed

if TYPE_CHECKING:
    import sympy as sp

# A recorder of the steps that the rules of the calculus announce in this context (`dmft.explain`,
# `dmft.gaussian.recorder.Recorder`); nobody listens by default.
LISTENER: ContextVar[Any] = ContextVar("listener", default=None)

FAMILIES = (
    "polynomials (Hermite included), erf(a*z + c), exp(-b*z**2 + l*z), sign, Heaviside, Abs, "
    "Max/Min (ReLU), Piecewise with linear switches, sin, cos, sinh, cosh, their products, sums "
    "and derivatives, with coefficients free of the fields"
)
WAYS_OUT = (
    f"closed families are: {FAMILIES}. Ways out: rewrite the expression into these families; "
    "Gaussian.quad(expr, values) for a number with its error; Gaussian.series(expr, order) for a "
    "series in the correlation with its bound (products of functions of two fields)"
)


def refuse(expr: sp.Expr, reason: str) -> NotClosed:
    """Error that names the sub-expression, the reason and the ways out."""
    error = NotClosed(
        f"no closed form for the Gaussian expectation of {expr}: {reason}; {WAYS_OUT}"
    )
    error.expression, error.reason = expr, reason
    return error
