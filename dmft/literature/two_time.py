"""Two-time problems of the literature, written as any user would write them."""

from __future__ import annotations

import sympy as sp

from dmft.errors import BadParameter
from dmft.model.two_time import TwoTime

t, s, u = sp.symbols("t s u")
C, R = sp.symbols("C R", cls=sp.Function)


def spherical_p_spin(p: int, temperature: float | sp.Expr = 0) -> TwoTime:
    r"""Spherical p-spin glass after a quench from infinite temperature (Cugliandolo, Kurchan).

    Equation    E[H H'] = N q^p / 2, ds/dt = -mu s - grad H + xi, <xi xi> = 2 T delta
    Scaling     energy per spin; threshold energy at T = 0: -sqrt(2 (p - 1) / p). Papers with
                E[H H'] = N q^p have energies and times that differ by sqrt(2)
    Valid for   N -> infinity at fixed times; gradient flow is T = 0
    Source      [cugliandolo_kurchan_1993]

    Parameters
    ----------
    p : int
        Interacting spins, at least 2.
    temperature : float or sympy.Symbol
        T; a symbol is given to `solve` by name.

    Examples
    --------
    >>> import dmft
    >>> run = dmft.solve(dmft.literature.spherical_p_spin(3), None, 1.0)
    >>> round(float(run.E[-1]), 4)
    -0.7825
    """
    if not isinstance(p, int) or isinstance(p, bool) or p < 2:
        raise BadParameter(f"p must be a whole number >= 2, got {p!r}")
    T = sp.sympify(temperature, strict=True)
    if T.is_number and not (T.is_real and T >= 0):
        raise BadParameter(f"temperature must be >= 0, got {temperature!r}")
    mu, E = sp.symbols("mu E", cls=sp.Function)
    q = sp.Symbol("q")
    f1, f2 = (sp.Lambda(q, sp.diff(q**p / 2, q, n)) for n in (1, 2))
    force = sp.Integral(f1(C(t, u)) * R(s, u), (u, 0, s))
    memory = f2(C(t, u)) * R(t, u)
    E_t = -sp.Integral(f1(C(t, u)) * R(t, u), (u, 0, t))
    work = sp.Integral((f1(C(t, u)) + f2(C(t, u)) * C(t, u)) * R(t, u), (u, 0, t))
    return TwoTime(
        rates={
            C(t, s): -mu(t) * C(t, s) + force + sp.Integral(memory * C(u, s), (u, 0, t)),
            R(t, s): -mu(t) * R(t, s) + sp.Integral(memory * R(u, s), (u, s, t)),
        },
        values={C(t, t): 1, R(t, t): 1, mu(t): T + work, E(t): E_t},
        causal=[R],
        name=f"spherical {p}-spin glass",
        source="cugliandolo_kurchan_1993",
    )
