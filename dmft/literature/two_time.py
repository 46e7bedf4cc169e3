"""Two-time problems of the literature, random networks, and signals at initialisation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy as sp
from scipy.optimize import brentq

from dmft.equations.two_time.problem import TwoTime
from dmft.errors import BadParameter, NotClosed
from dmft.gaussian.expectation import Gaussian
from dmft.gaussian.nodes.grid import array_function
from dmft.gaussian.pair_series import Output
from dmft.gaussian.tables.tabled import tabled_expectation
from dmft.laws import JointNormal
from dmft.model import FIELD, Committee, GradientDescent, Model
from dmft.model.random_network import GaussianInput, RandomNetwork, S, T
from dmft.validation import as_count

VARIANCES = sp.symbols("a b", positive=True)
COVARIANCE = sp.Symbol("c", real=True)
X, H = sp.symbols("x h", real=True)


def pair_average(activation: sp.Expr) -> sp.Expr:
    """C_phi = E phi(x) phi(y) in `VARIANCES` and `COVARIANCE`, or `NotClosed`."""
    x, y = sp.symbols("x y", real=True)
    a, b = VARIANCES
    phi = Committee(activation, 1).activation
    law = Gaussian([x, y], cov=[[a, COVARIANCE], [COVARIANCE, b]])
    result: sp.Expr = law.expect(phi.subs(FIELD, x) * phi.subs(FIELD, y))
    return result


def lotka_volterra(
    competition: Any, std: Any, symmetry: Any = 0, immigration: Any = 0, capacity: Any = 1
) -> RandomNetwork:
    r"""Lotka-Volterra community of many species with random interactions.

    Equation    dx_i/dt = x_i (capacity - x_i - sum_j alpha_ij x_j) + immigration
    Scaling     alpha has mean competition/N and variance std^2/N; the correlation of alpha_ij and
                alpha_ji is `symmetry`
    Source      [bunin_2017], [roy_2019]

    Parameters
    ----------
    competition, std, symmetry, immigration, capacity : float or sympy.Expr

    Examples
    --------
    >>> import dmft
    >>> point, = dmft.fixed_points(dmft.literature.lotka_volterra(4.0, 0.8, 0.5))
    >>> round(point.output_mean, 5), round(point.survival, 4), point.stable
    (0.22717, 0.6269, True)
    """
    K, lam, mu = (sp.sympify(y, strict=True) for y in (capacity, immigration, competition))
    return RandomNetwork(
        X * (K - X + H) + lam, X, H, mean=-mu, std=std, symmetry=symmetry, positive=True
    )


def replicator(cooperation: Any, std: Any, symmetry: Any = 0) -> RandomNetwork:
    r"""Replicators with random payoffs (Opper and Diederich).

    Equation    dx_i/dt = x_i (-cooperation x_i + sum_j J_ij x_j - nu(t)), mean of x kept at 1
    Scaling     J has variance std^2/N; the u of the paper is cooperation/2
    Source      [opper_diederich_1992]

    Parameters
    ----------
    cooperation, std, symmetry : float or sympy.Expr

    Examples
    --------
    >>> import dmft
    >>> point, = dmft.fixed_points(dmft.literature.replicator(1.0, 1.0))
    >>> round(point.output_second_moment, 4), round(point.multiplier, 4)
    (2.1776, -0.6945)
    """
    u, nu = sp.sympify(cooperation, strict=True), sp.Symbol("nu", real=True)
    return RandomNetwork(
        X * (-u * X + H - nu), X, H, std=std, symmetry=symmetry, positive=True,
        multiplier=(nu, X, 1),
    )  # fmt: skip


def low_rank_network(
    activation: sp.Expr,
    gain: Any,
    mean: tuple[float, float] = (0.0, 0.0),
    std: tuple[float, float] = (1.0, 1.0),
    correlation: float = 0.0,
) -> RandomNetwork:
    r"""Random network plus a connectivity of rank one (Mastrogiuseppe and Ostojic).

    Equation    dx/dt = -x + (g chi + m n^T / N) phi(x), loadings (m, n) jointly normal
    Source      [mastrogiuseppe_ostojic_2018]

    Parameters
    ----------
    activation : sympy.Expr
        phi, in one symbol.
    gain : float or sympy.Expr
    mean, std : (float, float)
        Of the loadings m and n.
    correlation : float

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> x = sp.Symbol("x", real=True)
    >>> network = dmft.literature.low_rank_network(sp.tanh(x), 0.8, (1.0, 2.0), (0.0, 0.0))
    >>> [round(float(point.loadings[0]), 4) for point in dmft.fixed_points(network)]
    [0.0, -1.7504, 1.7504]
    """
    phi = Committee(activation, 1).activation.xreplace({FIELD: X})
    if std == (0.0, 0.0):
        return RandomNetwork(-X + H, X, H, output=phi, std=gain, low_rank=[mean])
    m, n = sp.symbols("m n", real=True)
    across = correlation * std[0] * std[1]
    law = JointNormal([[std[0] ** 2, across], [across, std[1] ** 2]], mean)
    return RandomNetwork(
        -X + H, X, H, output=phi, std=gain, parameters={(m, n): law}, low_rank=[(m, n)]
    )


def driven_network(activation: sp.Expr, gain: Any, amplitude: Any, frequency: Any) -> RandomNetwork:
    r"""Random network with a Gaussian periodic input of random phases.

    Equation    dx/dt = -x + g chi phi(x) + I (a cos omega t + b sin omega t)/sqrt(2), a and b
                standard normal for each site
    Source      [rajan_2010]

    Parameters
    ----------
    activation : sympy.Expr
        phi, in one symbol.
    gain, amplitude, frequency : float or sympy.Expr

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> erf = sp.erf(sp.sqrt(sp.pi) * sp.Symbol("z", real=True) / 2)
    >>> state = dmft.stationary(dmft.literature.driven_network(erf, 1.5, 1.85, 1))
    >>> round(state.variance, 5), state.lyapunov_exponent < 0
    (1.38342, True)
    """
    phi = Committee(activation, 1).activation.xreplace({FIELD: X})
    size, omega = (sp.sympify(y, strict=True) for y in (amplitude, frequency))
    wave = GaussianInput(size**2 / 2 * sp.cos(omega * (T - S)))
    return RandomNetwork(-X + H, X, H, output=phi, std=gain, input=wave)


@dataclass(frozen=True)
class SignalPropagation:
    """Signals of two inputs through the layers of a wide random network.

    Attributes
    ----------
    variance : float
        q*, of the pre-activations in deep layers.
    correlation : float
        c*, of two inputs in deep layers; below 1 in the chaotic phase.
    chi : float
        sigma_w^2 E phi'^2 at q*: gradients grow with it in each layer.
    depth_scales : mapping
        In layers: "variance", "correlation" and "gradient" (negative where gradients vanish).
    edge_of_chaos : (float, float)
        Standard deviation of the weights, and q*, where chi = 1 at this bias.
    """

    variance: float
    correlation: float
    chi: float
    depth_scales: dict[str, float]
    edge_of_chaos: tuple[float, float]


class Layers:
    """The map of variances and covariances from layer to layer."""

    def __init__(self, activation: sp.Expr) -> None:
        phi = Committee(activation, 1).activation
        self.pair = _averaged(phi)
        self.slopes = _averaged(sp.diff(phi, FIELD))
        points = (-1.7, 0.3, 2.1)
        self.is_homogeneous = all(
            abs(float(phi.subs(FIELD, 2 * y) - 2 * phi.subs(FIELD, y))) < 1e-14 for y in points
        )

    def next(self, q: float, c: float, weight: float, bias: float) -> tuple[float, float]:
        """Variance and correlation in the next layer."""
        new = weight * self.pair(q, q) + bias
        return new, (weight * self.pair(q, c * q) + bias) / new

    def variance(self, weight: float, bias: float) -> float:
        """Largest stable fixed point of the variance."""
        grid = np.geomspace(1e-9, 1e6, 400)
        values = np.array([weight * self.pair(q, q) + bias - q for q in grid])
        signs = np.flatnonzero((values[:-1] > 0.0) & (values[1:] <= 0.0))
        if not signs.size:
            if values[-1] > 0.0:
                raise BadParameter("the variance grows from layer to layer without bound")
            return 0.0
        low, high = grid[signs[-1]], grid[signs[-1] + 1]
        return float(
            brentq(lambda q: weight * self.pair(q, q) + bias - q, low, high, xtol=1e-15, rtol=1e-15)
        )


def _averaged(function: sp.Expr) -> Callable[[float, float], float]:
    """E f(x) f(y) at equal variances q and covariance c."""
    try:
        x, y = sp.symbols("x y", real=True)
        q = sp.Symbol("q", positive=True)
        law = Gaussian([x, y], cov=[[q, COVARIANCE], [COVARIANCE, q]])
        closed = law.expect(function.subs(FIELD, x) * function.subs(FIELD, y))
        call = array_function([q, COVARIANCE], closed)
        return lambda v, c: float(np.real(call(v, min(c, v))))
    except NotClosed:
        table = Output.of(function, FIELD)
        return lambda v, c: float(table.pair(c, v))


def signal_propagation(
    activation: sp.Expr, weight_std: float, bias_std: float = 0.0
) -> SignalPropagation:
    r"""Depth scales of wide networks at initialisation.

    Equation    q' = sigma_w^2 E phi(sqrt(q) z)^2 + sigma_b^2, chi = sigma_w^2 E phi'^2;
                depth scales -1/log of the slopes of the maps of q and c at their fixed points
    Valid for   width -> infinity, independent layers
    Source      [poole_2016], [schoenholz_2017]

    Parameters
    ----------
    activation : sympy.Expr
        phi, in one symbol.
    weight_std, bias_std : float
        sigma_w and sigma_b.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> found = dmft.literature.signal_propagation(sp.tanh(sp.Symbol("z", real=True)), 1.3, 0.3)
    >>> round(found.variance, 6), round(found.depth_scales["correlation"], 3)
    (0.607047, 16.108)
    """
    weight, bias = float(weight_std) ** 2, float(bias_std) ** 2
    if not (weight > 0.0 and bias >= 0.0):
        raise BadParameter(
            f"weight_std = {weight_std} must be positive, bias_std = {bias_std} not negative"
        )
    layers = Layers(activation)
    q = layers.variance(weight, bias)
    chi = weight * layers.slopes(q, q) if q else weight * layers.slopes(1e-12, 1e-12)
    c = _correlation(layers, q, weight, bias, chi)
    step = 1e-4 * max(q, 1e-6)
    up, down = (weight * layers.pair(y, y) for y in (q + step, max(q - step, 1e-300)))
    slope = (up - down) / (2.0 * step) if q > step else chi
    at_c = weight * layers.slopes(q, c * q) if q else chi
    return SignalPropagation(
        q,
        c,
        chi,
        {"variance": _scale(slope), "correlation": _scale(at_c), "gradient": -_scale(chi)},
        _edge(layers, bias),
    )


def _correlation(layers: Layers, q: float, weight: float, bias: float, chi: float) -> float:
    """Stable fixed point of the correlation."""
    if chi <= 1.0 or q == 0.0:
        return 1.0

    def gap(c: float) -> float:
        return layers.next(q, c, weight, bias)[1] - c

    grid = np.linspace(0.0, 1.0 - 1e-9, 400)
    values = [gap(c) for c in grid]
    first = next((i for i, y in enumerate(values) if y <= 0.0), None)
    if first is None:
        return 1.0
    return 0.0 if first == 0 else float(brentq(gap, grid[first - 1], grid[first], xtol=1e-15))


def _scale(slope: float) -> float:
    """Depth scale -1/log(slope)."""
    if slope <= 0.0:
        return 0.0
    log = math.log(slope)
    return math.inf if abs(log) < 1e-9 else -1.0 / log


def _edge(layers: Layers, bias: float) -> tuple[float, float]:
    """Weights and variance where chi = 1 at this bias, explicit in q."""

    def excess(q: float) -> float:
        return q - layers.pair(q, q) / layers.slopes(q, q) - bias

    if layers.is_homogeneous:
        weight = 1.0 / layers.slopes(1.0, 1.0)
        return (math.sqrt(weight) if bias == 0.0 else math.nan), math.nan
    if bias == 0.0:
        return math.sqrt(1.0 / layers.slopes(1e-14, 1e-14)), 0.0
    grid = np.geomspace(1e-8, 1e4, 200)
    values = np.array([excess(q) for q in grid])
    signs = np.flatnonzero((values[:-1] <= 0.0) & (values[1:] > 0.0))
    if not signs.size:
        return math.nan, math.nan
    q = float(brentq(excess, grid[signs[0]], grid[signs[0] + 1], xtol=1e-15, rtol=1e-15))
    return math.sqrt(1.0 / layers.slopes(q, q)), q


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

    Equation    dh/dt = -h + g J phi(h), J_ij ~ N(0, 1/N); C(t, s) = E h(t) h(s); R(t, s) is
                the response of the leak, to which couplings without symmetry add nothing
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
    Source      theory/batch_reuse B.5 has the same curves in closed form (Marchenko-Pastur law)

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
