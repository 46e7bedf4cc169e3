"""Two-time problems of the literature: written as any user would, or derived."""

from __future__ import annotations

from typing import Any

import numpy as np
import sympy as sp

from dmft.equations.two_time.problem import TwoTime
from dmft.errors import BadParameter, NotClosed
from dmft.gaussian.tables.tabled import tabled_expectation
from dmft.literature.random_network import COVARIANCE, VARIANCES, pair_average
from dmft.model import FIELD, Committee, GradientDescent, Model
from dmft.validation import as_count

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
    p = as_count(p, "p", 2)
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
            C(t, s): {
                "sphere": -mu(t) * C(t, s),
                "noise": force,
                "memory": sp.Integral(memory * C(u, s), (u, 0, t)),
            },
            R(t, s): {
                "sphere": -mu(t) * R(t, s), "memory": sp.Integral(memory * R(u, s), (u, s, t)),
            },
        },
        values={
            C(t, t): {"sphere": 1}, R(t, t): {"kick": 1}, mu(t): {"temperature": T, "work": work},
            E(t): {"energy": E_t},
        },
        causal=[R],
        name=f"spherical {p}-spin glass",
        source="cugliandolo_kurchan_1993",
    )  # fmt: skip


def random_network(
    activation: sp.Expr, gain: float | sp.Expr, variance: float | sp.Expr = 1
) -> TwoTime:
    r"""Random recurrent network from random initial fields (Sompolinsky, Crisanti, Sommers).

    Equation    dh/dt = -h + g J phi(h), J_ij ~ N(0, 1/N); C(t, s) = E h(t) h(s), and R(t, s) is
                the response of the leak alone: an asymmetric J gives no other
    Scaling     t in membrane times; the fields start independent of J with the given variance
    Valid for   activations whose pair average has a closed form (erf, sin, polynomials), or a
                table (tanh and others without symbols; 10 microseconds an average)
    Source      [sompolinsky_1988]

    Parameters
    ----------
    activation : sympy.Expr
        phi, in one symbol.
    gain, variance : float or sympy.Symbol
        g, and C(0, 0).

    Raises
    ------
    NotClosed
        For an activation that is neither.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.Symbol("z", real=True)
    >>> network = dmft.literature.random_network(sp.erf(sp.sqrt(sp.pi) * z / 2), gain=2)
    >>> run = dmft.solve(network, None, 5.0, tol=1e-4)
    >>> bool(1.5 < run.C_diagonal[-1] < 2.5)
    True
    """
    a, b = VARIANCES
    g = sp.sympify(gain, strict=True)
    try:
        average = pair_average(activation)
    except NotClosed:
        phi, law = Committee(activation, 1).activation, {"xx": a, "xy": COVARIANCE, "yy": b}
        average = tabled_expectation([phi, phi], "xy", lambda x, y: law["".join(sorted(x + y))])
    drive = g**2 * average.subs({COVARIANCE: C(t, u), a: C(t, t), b: C(u, u)}, simultaneous=True)
    return TwoTime(
        rates={
            C(t, s): {"leak": -C(t, s), "drive": sp.Integral(drive * R(s, u), (u, 0, s))},
            R(t, s): {"leak": -R(t, s)},
            C(t, t): {"leak": -2 * C(t, t), "drive": 2 * sp.Integral(drive * R(t, u), (u, 0, t))},
        },
        values={R(t, t): {"kick": 1}},
        start={C(0, 0): variance},
        causal=[R],
        name="random recurrent network",
        source="sompolinsky_1988",
    )


def ridge_flow(
    samples_per_dim: float | sp.Expr,
    ridge: float | sp.Expr,
    start: tuple[Any, Any, Any],
    label_noise: float | sp.Expr = 0,
) -> TwoTime:
    r"""Ridge regression by gradient flow: the two-time equations of one linear neuron.

    Equation    dw/dt = -ridge w - sum_mu (h^mu - y^mu) x^mu / sqrt(d), n = samples_per_dim * d;
                theta = part of w orthogonal to the teacher, e = h - y residual of a sample:
                C, R of theta (R to a force on the weights), D = E e e, K regular part of the
                response of e to its field
    Scaling     sum over samples, no 1/n; M = w w*/d, Q(t, t) = C(t, t) + M^2 / rho, training loss
                D(t, t) / 2, population loss (Q - 2 M + rho + Delta) / 2
    Source      Marchenko-Pastur gives the same curves in closed form, test of these equations

    Parameters
    ----------
    samples_per_dim : float or sympy.Symbol
        alpha.
    ridge : float or sympy.Symbol
    start : (q, m, rho)
        Overlaps w w / d, w w* / d, w* w* / d at t = 0.
    label_noise : float or sympy.Symbol
        Delta.

    Examples
    --------
    >>> import dmft
    >>> problem = dmft.literature.ridge_flow(2.0, 0.1, start=(1.0, 0.2, 1.0), label_noise=0.3)
    >>> run = dmft.solve(problem, None, 1.0, tol=1e-5)
    >>> bool(abs(run.M[-1] - 0.7574181) < 1e-4)
    True
    """
    from dmft.equations.derive import derive
    from dmft.equations.two_time.gaussian_flow import Rows, gaussian_flow

    line = Committee(FIELD, 1)
    descent = GradientDescent(1, samples_per_dim, ridge)
    flow = derive(Model(line, line, label_noise), descent, scaling="gradient-flow")
    rows = (np.array([[sp.sympify(y, strict=True)]]) for y in start)
    problem = gaussian_flow(flow, Rows(*rows), {})
    # R to a force on the weights, which is that to the gradient of a sample with another sign.
    turned = {f: -f for e in (*problem.rates.values(), *problem.values.values())
              for f in e.atoms(sp.core.function.AppliedUndef) if f.func == R}  # fmt: skip
    rates, values = (
        {
            key: {n: (-e if key.func == R else e).xreplace(turned) for n, e in terms.items()}
            for key, terms in problem.named.items()
            if key in group
        }
        for group in (problem.rates, problem.values)
    )
    name = "ridge regression by gradient flow"
    return TwoTime(rates, values, problem.start, problem.causal, name)
