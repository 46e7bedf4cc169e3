"""Real form of expectations that were computed with complex exponentials."""

from __future__ import annotations

from itertools import combinations

import sympy as sp

from dmft.errors import NotClosed
from dmft.gaussian.guard import GUARD_DIGITS


def in_real_form(value: sp.Expr, waves: bool, whole: bool) -> sp.Expr:
    """An average with complex exponentials or `waves` without them; `whole` is for code.

    Raises
    ------
    NotClosed
    """
    value = real_value(value) if value.has(sp.I) else value
    if not waves:
        return value
    value = combined(value)
    return without_differences(value) if whole else value


def real_value(value: sp.Expr) -> sp.Expr:
    """Write complex exponentials as cosines; the imaginary parts of a real average cancel.

    Examples
    --------
    >>> import sympy as sp
    >>> a, m = sp.symbols("a m")
    >>> real_value(sp.exp(-a + sp.I * m) / 2 + sp.exp(-a - sp.I * m) / 2)
    exp(-a)*cos(m)
    """
    if value.is_number and value.has(sp.Float):
        return sp.re(value.evalf(GUARD_DIGITS))
    value = value.replace(sp.erf, _error_function)
    flat = sp.expand(value, func=False, power_exp=False)
    waves = {e: _wave(e) for e in flat.atoms(sp.exp) if e.has(sp.I)}
    flat = sp.expand(flat.xreplace(waves), power_exp=False)
    real = sp.Add(*[t for t in sp.Add.make_args(flat) if sp.I not in t.as_powers_dict()])
    if real.has(sp.I):
        raise NotClosed("it leaves an error function of a complex argument")
    return real


def combined(value: sp.Expr) -> sp.Expr:
    """One exponential in each summand: of two, one may overflow where their product does not.

    Examples
    --------
    >>> import sympy as sp
    >>> a, b = sp.symbols("a b")
    >>> combined(sp.exp(-a) * sp.exp(b) / 2 + 1)
    exp(-a + b)/2 + 1
    """
    terms = []
    for term in sp.Add.make_args(value):
        factors = sp.Mul.make_args(term)
        powers = [f for f in factors if isinstance(f, sp.exp)]
        if len(powers) > 1:
            rest = [f for f in factors if not isinstance(f, sp.exp)]
            term = sp.Mul(sp.exp(sp.Add(*[f.exp for f in powers])), *rest)
        terms.append(term)
    return sp.Add(*terms)


def without_differences(value: sp.Expr) -> sp.Expr:
    """Write k (e^A - e^B) as k (e^A + e^B) tanh((A - B)/2), where A and B may be close.

    For small covariances the difference would lose its digits; nothing here can overflow more
    than the exponentials themselves.

    Examples
    --------
    >>> import sympy as sp
    >>> a, c = sp.symbols("a c")
    >>> without_differences(sp.exp(c - a) / 2 - sp.exp(-a - c) / 2)
    (exp(-a - c)/2 + exp(-a + c)/2)*tanh(c)
    """
    terms = [_exponent(t) for t in sp.Add.make_args(value)]
    plain = [i for i, (_, e) in enumerate(terms) if e.free_symbols or e.has(sp.Float)]
    paired: set[int] = set()
    result = []
    for i, j in combinations(plain, 2):
        (k, first), (negative, second) = terms[i], terms[j]
        if paired & {i, j} or sp.expand(k + negative) != 0:
            continue
        half = sp.expand((first - second) / 2)
        if half.could_extract_minus_sign():
            half, k = -half, -k
        paired |= {i, j}
        result.append(k * (sp.exp(first) + sp.exp(second)) * sp.tanh(half))
    rest = [k * sp.exp(e) for i, (k, e) in enumerate(terms) if i not in paired]
    return sp.Add(*rest, *result) if paired else value


def _exponent(term: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    """Write a term as (k, A) with the value k e^A."""
    factors = sp.Mul.make_args(term)
    exponent = sp.expand(sp.Add(*[f.exp for f in factors if isinstance(f, sp.exp)]))
    return sp.Mul(*[f for f in factors if not isinstance(f, sp.exp)]), exponent


def _wave(exponential: sp.Expr) -> sp.Expr:
    exponent = sp.expand(exponential.exp)
    phase = exponent.coeff(sp.I)
    size = sp.exp(sp.expand(exponent - sp.I * phase))
    return size * (sp.cos(phase) + sp.I * sp.sin(phase))


def _error_function(argument: sp.Expr) -> sp.Expr:
    """Error function of an imaginary argument as a real function."""
    imaginary = argument.coeff(sp.I)
    if imaginary != 0 and sp.expand(argument - sp.I * imaginary) == 0:
        return sp.I * sp.erfi(imaginary)
    return sp.erf(argument)
