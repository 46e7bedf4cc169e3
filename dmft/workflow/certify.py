"""Certificates of expectations, risks and Hermite coefficients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sympy as sp

from dmft.equations.risk import PopulationRisk
from dmft.errors import BadParameter
from dmft.gaussian.certified.certificate import (
    Certificate,
    certify_expectation,
    certify_hermite,
    certify_risk,
)
from dmft.gaussian.expectation import Gaussian
from dmft.model import Model
from dmft.validation import checked

__all__ = ["Certificate", "certify", "certify_hermite"]


@checked
def certify(
    what: sp.Expr | PopulationRisk | Model,
    law: Gaussian | None = None,
    values: Mapping[sp.Symbol, Any] | None = None,
    digits: int = 15,
    *,
    Q: Any = None,
    M: Any = None,
    P: Any = None,
    readout: Sequence[Any] | None = None,
) -> Certificate:
    r"""Compute an interval that provably contains an expectation or a population risk.

    Equation    E[what] over x ~ N(mean, cov) of `law`; or R = E(f* - f)^2 / 2 at overlaps
    Shapes      `what` is an expression and `law` the distribution of its fields; or a risk (or a
                model) with Q (p, p), M (p, k), P (k, k; identity by default), readout (p,)
    Valid for   rational covariances and means. A float is read as its binary fraction, so a
                singular matrix of floats may raise an error: use sympy.Rational
    Source      theory/one_pass A; derivations/certificates.py

    Parameters
    ----------
    what : sympy.Expr, PopulationRisk or Model
        Quantity to enclose.
    law : Gaussian, optional
        Distribution of the fields of an expression.
    values : mapping, optional
        Exact numbers for symbols.
    digits : int
        Requested number of digits; the computation is refined until it is reached.
    Q, M, P, readout : array_like, optional
        Overlaps at which a risk is enclosed.

    Returns
    -------
    Certificate
        `.mid`, `.radius`, `.ball`, `.digits`, `.seconds`, `.steps`, `.contains(value)`.

    Raises
    ------
    MissingExtra
        If python-flint is not installed: pip install "dmft[certify]".
    NotClosed
        If there is no rigorous reduction or no rigorous bound (for example if the function is not
        integrable).
    InvalidCovariance, BadParameter, ShapeMismatch

    Notes
    -----
    Each method is rigorous and independent of the closed forms of `Gaussian.expect`:

    - one field: Arb's quadrature and a bound on the tails;
    - two fields: the closed-form average over one given the other, Hermite coefficients with
      Parseval's remainder, or a nested integral (about 10 digits);
    - three and four fields: the theorems of Wick and Stein, conditioning, tilting and Price's
      identity in exact fractions.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> x, y = sp.symbols("x y", real=True)
    >>> law = dmft.Gaussian([x, y], [[1, sp.Rational(1, 2)], [sp.Rational(1, 2), 1]])
    >>> proof = dmft.certify(sp.tanh(x) * sp.Max(0, y), law)
    >>> round(float(proof), 12), proof.digits >= 15, proof.radius < 1e-15
    (0.151426377401, True, True)
    """
    if isinstance(what, PopulationRisk | Model):
        if law is not None or Q is None or M is None:
            raise BadParameter("the certificate of a risk requires Q=..., M=... (and P, readout)")
        model = what.model if isinstance(what, PopulationRisk) else what
        return certify_risk(model, Q, M, P, readout, values, digits)
    if any(v is not None for v in (Q, M, P, readout)):
        raise BadParameter(f"Q, M, P and readout belong to a risk, got the expression {what}")
    if law is None:
        raise BadParameter("the certificate of an expectation requires the law of its fields")
    return certify_expectation(what, law, values, digits)
