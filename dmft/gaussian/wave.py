"""Real form of expectations that were computed with complex exponentials."""

from __future__ import annotations

import sympy as sp

from dmft.errors import NotClosed


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
        return sp.re(value.evalf())
    value = value.replace(sp.erf, _error_function)
    flat = sp.expand(value, func=False, power_exp=False)
    waves = {e: _wave(e) for e in flat.atoms(sp.exp) if e.has(sp.I)}
    flat = sp.expand(flat.xreplace(waves), power_exp=False)
    real = sp.Add(*[t for t in sp.Add.make_args(flat) if sp.I not in t.as_powers_dict()])
    if real.has(sp.I):
        raise NotClosed("it leaves an error function of a complex argument")
    return real


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
