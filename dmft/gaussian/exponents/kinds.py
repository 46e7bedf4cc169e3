"""Exponents that say how hard a target is: information, leap, generative, generative leap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import sympy as sp

from dmft.errors import BadParameter
from dmft.gaussian.closed.wick import hermite
from dmft.gaussian.exponents import leaps
from dmft.gaussian.exponents.coefficients import (
    Coefficient,
    Coefficients,
    Index,
    as_expression,
    as_fields,
    indices,
    norm,
    polynomial_coefficients,
)
from dmft.gaussian.exponents.leap_proofs import Label, deciding_moment, enclosed, proven_steps
from dmft.gaussian.exponents.leaps import THRESHOLD, numerical_steps
from dmft.gaussian.exponents.record import Exponent, Witness
from dmft.validation import checked, checked_or

# A coefficient known in floating point only counts as zero below this part of sqrt(E y^2).
ZERO_COEFFICIENT = 1e-10
# Values of `.proof`.
SYMBOLIC, CERTIFIED, NUMERICAL = "symbolic", "certified", "numerical"
# A nonzero coefficient exceeds its error by this factor.
SAFETY = 10.0


@checked_or(f="of a rule of vectors it is one plus the power of a small overlap in its rate")
def information_exponent(f: sp.Expr, fields: sp.Symbol | Sequence[sp.Symbol]) -> Exponent:
    r"""Compute the information exponent, the order of the first nonzero Hermite coefficient.

    Equation    min {k >= 1 : E[f(h) He_n(h)] != 0 for a multi-index |n| = k}, h ~ N(0, I)
    Shapes      fields: one symbol or k symbols; int-valued result, oo for a constant
    Valid for   square-integrable f; symbolic where coefficients close or sign flips decide,
                otherwise zero means below 1e-10 of sqrt(E f^2)
    Source      theory/one_pass H; theory/batch_reuse D.4; derivations/exponents.py

    Parameters
    ----------
    f : sympy.Expr
        The target.
    fields : sympy.Symbol or sequence of them
        Its fields, standard normal.

    Returns
    -------
    Exponent
        An integer, or oo, with its `witness` and `explain()`.

    Raises
    ------
    BadParameter
        If f contains symbols other than the fields or is not integrable, or if all coefficients up
        to order 10 vanish and f is not a polynomial.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.Symbol("z", real=True)
    >>> dmft.information_exponent(z**3 - 3*z, z)
    3
    >>> dmft.information_exponent(sp.Max(0, z), z).witness.value
    1/2
    """
    expr, symbols, active = _declared(f, fields)
    result = Exponent("information exponent", sp.oo, expr, symbols)
    if not active:
        return result
    coefficients = Coefficients(expr, active)
    polynomial = expr.is_polynomial(*active)
    known = polynomial_coefficients(expr, active) if polynomial else {}
    top = sp.Poly(expr, *active).total_degree() if polynomial else leaps.MAX_ORDER
    zeros_are_exact = True
    for order in range(1, top + 1):
        found: dict[Index, Coefficient] = {}
        silent: list[Coefficient] = []
        for n in indices(len(active), order):
            c = coefficients[n] if not polynomial else _known(known.get(n, sp.S.Zero))
            if _vanishes(c, n, coefficients):
                silent.append(c)
            else:
                found[n] = c
        if found:
            best = max(found, key=lambda n: float(abs(found[n].value)) / norm(n))
            value, error, proof = found[best].value, found[best].error, NUMERICAL
            if zeros_are_exact:
                value, error, proof = _decided(expr, active, best, found[best])
            witness = Witness(_padded(best, active, symbols), value, error=error)
            return _judged(result, order, witness, proof, ZERO_COEFFICIENT)
        zeros_are_exact = zeros_are_exact and all(c.exact for c in silent)
    if polynomial or _is_constant(coefficients):
        return result
    raise BadParameter(
        f"{expr} has no Hermite coefficient up to order {top} above {ZERO_COEFFICIENT}, "
        "and is not constant"
    )


@checked
def leap_exponent(g: sp.Expr, fields: sp.Symbol | Sequence[sp.Symbol]) -> Exponent:
    r"""Compute the leap exponent, the largest order of a step when directions are learned in turn.

    Equation    from U = {}: k = min {k : E[g phi(U h) H_k(V h)] != 0 for a function phi}, V
                orthogonal to U; add the span of that tensor to U; repeat; the leap is the largest k
    Shapes      int-valued; `.steps` contain order and directions (n, k) of each step
    Valid for   polynomials with rational coefficients exactly, in any number of fields; other
                functions of up to four fields numerically (zero means below 1e-6)
    Source      theory/batch_reuse D.4; derivations/exponents.py

    Parameters
    ----------
    g : sympy.Expr
        The target.
    fields : sympy.Symbol or sequence of them
        Its fields, standard normal.

    Returns
    -------
    Exponent
        An integer, or oo, with its `steps`, `directions` and `explain()`.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z1, z2 = sp.symbols("z1 z2", real=True)
    >>> leap = dmft.leap_exponent(z1 + z2**3 - 3*z2, [z1, z2])
    >>> leap, [step.order for step in leap.steps]
    (3, [1, 3])
    """
    expr, symbols, active = _declared(g, fields)
    result = Exponent("leap exponent", sp.oo, expr, symbols)
    if not active:
        return result
    if len(active) == 1:
        return _single_step(result, information_exponent(expr, active), active)
    if expr.is_polynomial(*active) and all(c.is_Rational for c in sp.Poly(expr, *active).coeffs()):
        return _leap(result, leaps.polynomial_steps(expr, active), active, SYMBOLIC)
    return _leap(result, *_steps(expr, active, every=False))


@checked
def generative_exponent(
    g: sp.Expr,
    fields: sp.Symbol | Sequence[sp.Symbol],
    *,
    leap: bool = False,
    label_noise: sp.Expr | float = 0,
) -> Exponent:
    r"""Compute the generative exponent, the lowest order at which labels depend on the fields.

    Equation    min {k >= 1 : E[T(y) He_n(h)] != 0 for a T and |n| = k}, y = g(h) + noise;
                equivalently E[He_n(h) | y] does not vanish identically
    Shapes      int-valued; with `leap=True` the generative leap exponent; its `.steps` contain
                order and directions (n, k) of each step
    Valid for   symbolic where sign flips exclude the lower orders and a moment of y decides;
                otherwise piecewise smooth functions of up to four fields, numerically (zero means
                below 1e-6)
    Source      theory/batch_reuse D.4; derivations/exponents.py

    Parameters
    ----------
    g : sympy.Expr
        The target.
    fields : sympy.Symbol or sequence of them
        Its fields, standard normal.
    leap : bool
        Whether to compute the generative leap exponent, for directions learned one after another.
    label_noise : number
        Variance of Gaussian label noise. It changes only the witness, not the exponent.

    Returns
    -------
    Exponent
        An integer, or oo, with its `witness` and `explain()`.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.Symbol("z", real=True)
    >>> dmft.generative_exponent(z**3 - 3*z, z)
    1
    >>> print(dmft.generative_exponent(z**4 - 6*z**2 + 3, z).explain())
    generative exponent 2 of y = z**4 - 6*z**2 + 3 (symbolic): E[T(y) He_2(z)] = 192.000 decides,
    all lower orders vanish; of order d samples in dimension d
    T(y) = y**2
    """
    expr, symbols, active = _declared(g, fields)
    name = "generative leap exponent" if leap else "generative exponent"
    result = Exponent(name, sp.oo, expr, symbols)
    if not active:
        return result
    noise = _noise(label_noise)
    if leap and len(active) == 1:
        alone = generative_exponent(expr, active, label_noise=noise)
        return _single_step(result, alone, active)
    moment = None if leap else deciding_moment(Label(expr, active, noise))
    if moment is not None:
        n, value, power = moment
        witness = Witness(_padded(n, active, symbols), value, leaps.Y**power)
        return _judged(result, sum(n), witness, SYMBOLIC, 0.0)
    steps, active, proof = _steps(expr, active, every=True, complete=leap, noise=noise)
    judged = _leap(result, steps, active, proof)
    return judged if leap else replace(judged, steps=())


# Calls with equal arguments share their steps in a session.
@lru_cache(maxsize=128)
def _steps(
    expr: sp.Expr,
    fields: tuple[sp.Symbol, ...],
    *,
    every: bool,
    complete: bool = True,
    noise: sp.Expr = sp.S.Zero,
) -> tuple[list[leaps.LeapStep], tuple[sp.Symbol, ...], str]:
    """Steps of any target with the fields they count and how they are known."""
    steps = numerical_steps(
        Coefficients(expr, fields),
        every_transformation=every,
        first_only=not complete,
        noise=float(noise),
    )
    proven = proven_steps(expr, fields, steps, every=every, complete=complete, noise=noise)
    if proven is None:
        return steps, fields, NUMERICAL
    balls = any(step.error > 0 for step in proven)
    return proven, fields, CERTIFIED if balls else SYMBOLIC


def _declared(
    f: sp.Expr, fields: sp.Symbol | Sequence[sp.Symbol]
) -> tuple[sp.Expr, tuple[sp.Symbol, ...], tuple[sp.Symbol, ...]]:
    """Expression, fields, and those fields that the expression holds."""
    symbols = as_fields(fields)
    expr = as_expression(f, symbols)
    extra = sorted(map(str, expr.free_symbols - set(symbols)))
    if extra:
        raise BadParameter(
            f"{expr} contains {', '.join(extra)}, which are not among the fields {symbols}"
        )
    if expr.is_polynomial(*symbols):
        expr = sp.expand(expr)
    return expr, symbols, tuple(x for x in symbols if expr.has_free(x))


def _decided(
    expr: sp.Expr, fields: Sequence[sp.Symbol], n: Index, c: Coefficient
) -> tuple[sp.Expr, float, str]:
    """Value, error and proof of a coefficient below which all zeros are exact."""
    if c.exact:
        return c.value, c.error, SYMBOLIC
    found = enclosed(expr * sp.Mul(*map(hermite, n, fields)), fields)
    if found is None:
        return c.value, c.error, NUMERICAL
    return c.value, max(found[1], c.error), CERTIFIED


def _noise(label_noise: sp.Expr | float) -> sp.Expr:
    """Variance of the label noise as an exact number; floats as they are written."""
    if isinstance(label_noise, float | np.floating):
        label_noise = sp.Rational(str(label_noise)) if np.isfinite(label_noise) else sp.nan
    value = sp.sympify(label_noise, strict=True)
    if not (value.is_number and value.is_finite and value.is_nonnegative):
        raise BadParameter(f"label_noise must be a variance, a number >= 0, got {label_noise}")
    return value


def _known(value: sp.Expr) -> Coefficient:
    return Coefficient(value, not value.has(sp.Float))


def _vanishes(c: Coefficient, n: Index, coefficients: Coefficients) -> bool:
    if c.exact:
        return c.value == 0 or (abs(sp.N(c.value, 30)) < 1e-20 and sp.simplify(c.value) == 0)
    limit = ZERO_COEFFICIENT * norm(n) * coefficients.scale
    if abs(c.value) > max(limit, SAFETY * c.error):
        return False
    if c.error > limit:
        raise BadParameter(
            f"the Hermite coefficient {n} of {coefficients.expr} has an error of "
            f"{c.error:.1e}; deciding whether it is zero needs {limit:.1e}"
        )
    return True


def _is_constant(coefficients: Coefficients) -> bool:
    nodes = coefficients.grid(0)
    mean = nodes.weights @ nodes.values
    variance = nodes.weights @ (nodes.values - mean) ** 2
    return bool(variance <= (ZERO_COEFFICIENT * coefficients.scale) ** 2)


def _leap(
    result: Exponent, steps: Sequence[leaps.LeapStep], active: Sequence[sp.Symbol], proof: str
) -> Exponent:
    """Exponent of a sequence of steps: its largest order, decided by the first such step."""
    if not steps:
        return result
    order = max(step.order for step in steps)
    position = [step.order for step in steps].index(order)
    step = steps[position]
    learned = sum(len(s.directions) for s in steps[:position])
    index = _padded(step.index, active, result.fields) if learned == 0 else step.index
    columns = [result.fields.index(x) for x in active]
    padded = []
    width = len(result.fields)
    for s in steps:
        directions, basis = (np.zeros((len(v), width)) for v in (s.directions, s.basis))
        directions[:, columns], basis[:, columns] = s.directions, s.basis
        padded.append(replace(s, directions=directions, basis=basis))
    witness = Witness(index, step.strength, step.transformation, learned, step.error, step.feature)
    return replace(_judged(result, order, witness, proof, THRESHOLD), steps=tuple(padded))


def _single_step(result: Exponent, exponent: Exponent, active: Sequence[sp.Symbol]) -> Exponent:
    """Leap of a target of one field: its exponent, which finds that field."""
    if exponent.witness is None:
        return result
    w, order = exponent.witness, int(exponent)
    entries = ((w.index, w.value, w.transformation),)
    step = leaps.LeapStep(order, np.ones((1, 1)), *entries[0], error=w.error, coefficients=entries)
    leap = _leap(result, [step], active, exponent.proof)
    return replace(leap, threshold=exponent.threshold)


def _judged(
    result: Exponent, order: int, witness: Witness, proof: str, threshold: float
) -> Exponent:
    return replace(
        result,
        value=sp.Integer(order),
        witness=witness,
        proof=proof,
        threshold=threshold if proof == NUMERICAL else None,
    )


def _padded(n: Index, active: Sequence[sp.Symbol], fields: Sequence[sp.Symbol]) -> Index:
    table = dict(zip(active, n, strict=True))
    return tuple(table.get(x, 0) for x in fields)
