"""Values of averages: guard digits of floats, and the real form of complex exponentials.

What cancels in between is right to the last digit of a double.
"""

from __future__ import annotations

from functools import reduce
from itertools import islice
from math import prod

import sympy as sp

from dmft.errors import NotClosed
from dmft.gaussian.closed.orthant import FourSigns

# Digits in which floats are computed with, and of the value: nearly parallel fields cancel half of
# those of a double, differences of kinks, exponentials and high powers all of them.
GUARD_DIGITS, FLOAT_DIGITS = 60, 15


def guarded(value: sp.Expr) -> sp.Expr:
    """Give floats guard digits, at the exact values that they hold."""
    return value.xreplace({f: sp.Float(f, GUARD_DIGITS) for f in value.atoms(sp.Float)})


def unguarded(value: sp.Expr) -> sp.Expr:
    """Evaluate a number that holds floats; those in an expression lose their guard digits."""
    floats = value.atoms(sp.Float)
    if floats and value.is_number:
        return sp.Float(sp.N(value, FLOAT_DIGITS), FLOAT_DIGITS)
    return value.xreplace({f: sp.Float(f, FLOAT_DIGITS) for f in floats})


def collapsed(value: sp.Expr) -> sp.Expr:
    """One number with guard digits for a sum of such numbers, which is long to evaluate later.

    What takes long to evaluate (`FourSigns`) stays, with one number in front of it.
    """
    if not (value.is_number and value.has(sp.Float)):
        return value
    slow = value.atoms(FourSigns)
    if not slow:
        return value.n(GUARD_DIGITS)
    names = {f: sp.Dummy() for f in slow}
    flat = sp.Poly(value.xreplace(names), *names.values())
    terms = [
        c.n(GUARD_DIGITS) * sp.Mul(*(f**n for f, n in zip(slow, powers, strict=True)))
        for powers, c in flat.terms()
    ]
    return sp.Add(*terms)


# Values that expand to more summands keep their products of sums, which are shorter.
SUMMANDS = 512
# Largest tree of a value for code; larger ones take minutes to be made real and compiled.
LARGEST = 50_000
Parts = tuple[sp.Expr, sp.Expr]


def in_real_form(value: sp.Expr, waves: bool, whole: bool) -> sp.Expr:
    """An average with complex exponentials or `waves` without them; `whole` is for code."""
    complex_parts = value.has(sp.I)
    long = any(islice(sp.preorder_traversal(value), LARGEST, None))
    if whole and (waves or complex_parts) and long:
        raise NotClosed("it is too long for code")
    value = real_value(combined(value)) if complex_parts else value
    if not waves:
        return value
    value = combined(value)
    return without_differences(value) if whole else value


def real_value(value: sp.Expr) -> sp.Expr:
    """Write complex exponentials as cosines; the imaginary parts of a real average cancel."""
    if value.is_number and value.has(sp.Float):
        return sp.re(value.evalf(GUARD_DIGITS))
    return _expanded(_parts(value)[0])


def _parts(value: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    """Real and imaginary part; products of sums stay products."""
    if value == sp.I or not value.has(sp.I):
        return (sp.S.Zero, sp.S.One) if value == sp.I else (value, sp.S.Zero)
    if isinstance(value, sp.exp):
        size, phase = _parts(sp.expand(value.exp))
        return sp.exp(size) * sp.cos(phase), sp.exp(size) * sp.sin(phase)
    if isinstance(value, sp.erf):
        real, imaginary = _parts(sp.expand(value.args[0]))
        if real == 0:
            return sp.S.Zero, sp.erfi(imaginary)
    if value.is_Add:
        real, imaginary = zip(*map(_parts, value.args), strict=True)
        return sp.Add(*real), sp.Add(*imaginary)
    if value.is_Mul:
        return reduce(_product, map(_parts, value.args))
    if value.is_Pow and value.exp.is_Integer and value.exp > 0:
        return reduce(_product, [_parts(value.base)] * int(value.exp))
    raise NotClosed("it leaves an error function of a complex argument")


def _product(first: Parts, second: Parts) -> Parts:
    (a, b), (c, d) = first, second
    return a * c - b * d, a * d + b * c


def _expanded(value: sp.Expr) -> sp.Expr:
    """Sum of products, unless that is far longer."""
    return sp.expand(value, func=False, power_exp=False) if _summands(value) <= SUMMANDS else value


def _summands(value: sp.Expr) -> int:
    """Bound on the number of terms of the expanded value."""
    if value.is_Add:
        return sum(map(_summands, value.args))
    if value.is_Mul:
        return prod(map(_summands, value.args))
    if value.is_Pow and value.exp.is_Integer and value.exp > 0:
        return _summands(value.base) ** int(value.exp)
    return 1


def combined(value: sp.Expr) -> sp.Expr:
    """One exponential in each summand: of two, one may overflow where their product does not."""
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
    """
    terms = [_exponent(t) for t in sp.Add.make_args(value)]
    unpaired: dict[sp.Expr, list[int]] = {}
    rest, result = {}, []
    for j, (k, second) in enumerate(terms):
        rest[j] = k * sp.exp(second)
        if not (second.free_symbols or second.has(sp.Float)):
            continue
        if not unpaired.get(-k):
            unpaired.setdefault(k, []).append(j)
            continue
        i = unpaired[-k].pop(0)
        k, first = terms[i]
        half = sp.expand((first - second) / 2)
        if half.could_extract_minus_sign():
            half, k = -half, -k
        del rest[i], rest[j]
        result.append(k * (sp.exp(first) + sp.exp(second)) * sp.tanh(half))
    return sp.Add(*rest.values(), *result) if result else value


def _exponent(term: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    """Write a term as (k, A) with the value k e^A."""
    factors = sp.Mul.make_args(term)
    exponent = sp.expand(sp.Add(*[f.exp for f in factors if isinstance(f, sp.exp)]))
    return _expanded(sp.Mul(*[f for f in factors if not isinstance(f, sp.exp)])), exponent
