"""Guard digits of floats: what cancels in between is right to the last digit of a double."""

from __future__ import annotations

import sympy as sp

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
