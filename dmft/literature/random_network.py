r"""Chaos of random recurrent networks: the stationary solution as a particle in a potential.

Equation    Delta'' = -V'(Delta), V' = -Delta + g^2 C_phi(Delta; Delta_0), V(Delta_0) = V(0) = 0;
            Lyapunov exponent -1 + sqrt(1 - E_0), E_0 the ground state of -d^2/dtau^2 - V''(Delta)
Source      [sompolinsky_1988]
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sympy as sp
from numpy.polynomial import chebyshev, legendre
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import CubicHermiteSpline
from scipy.linalg import eigh
from scipy.optimize import brentq

from dmft.errors import BadParameter, NotClosed
from dmft.gaussian.expectation import Gaussian
from dmft.gaussian.tables.direct import direct_pair
from dmft.model import FIELD, Committee

Array = NDArray[np.float64]
# Nodes of the integral that fixes Delta_0, of the potential's polynomial, of the eigenproblem.
LEVEL, DEGREE, STATES = 24, 40, 400
# Panels of the time along the orbit.
ORBIT = 2000
# Half-width of the eigenproblem in decay times of Delta: exp(-22) is 3e-10.
REACH = 22.0
# Variances beyond this are those of activations without bound.
LARGEST = 1e12


VARIANCES = sp.symbols("a b", positive=True)
COVARIANCE = sp.Symbol("c", real=True)


def pair_average(activation: sp.Expr) -> sp.Expr:
    """C_phi = E phi(x) phi(y) as an expression in `VARIANCES` and `COVARIANCE`.

    Raises
    ------
    NotClosed
        When it has no closed form.
    """
    x, y = sp.symbols("x y", real=True)
    a, b = VARIANCES
    phi = Committee(activation, 1).activation
    law = Gaussian([x, y], cov=[[a, COVARIANCE], [COVARIANCE, b]])
    result: sp.Expr = law.expect(phi.subs(FIELD, x) * phi.subs(FIELD, y))
    return result


@dataclass(frozen=True)
class NetworkStatics:
    """Stationary state of a random network at N -> infinity.

    Attributes
    ----------
    gain : float
    variance : float
        Delta_0, of a neuron's field; zero where the rest state is stable (no chaos).
    lyapunov : float
        Largest Lyapunov exponent.
    tau : (n,)
        Lags at which the orbit was computed; `autocorrelation` knows all up to the last.

    Examples
    --------
    >>> import sympy as sp
    >>> from dmft.literature import random_network_statics
    >>> quiet = random_network_statics(sp.tanh(sp.Symbol("z", real=True)), 0.5)
    >>> quiet.variance, quiet.lyapunov
    (0.0, -0.5)
    """

    gain: float
    variance: float
    lyapunov: float
    tau: Array = field(repr=False)
    delta: Any = field(repr=False)

    def autocorrelation(self, tau: ArrayLike) -> Array:
        """Delta(tau) at lags up to `self.tau[-1]`, both signs."""
        lag = np.abs(np.asarray(tau, dtype=np.float64))
        if self.delta is None:
            return np.zeros(lag.shape)
        if np.any(lag > self.tau[-1]):
            raise BadParameter(f"lags up to {self.tau[-1]:.4g} are known, got {lag.max():.4g}")
        return np.asarray(self.delta(lag))


def random_network_statics(activation: Any, gain: float) -> NetworkStatics:
    r"""Variance, autocorrelation and Lyapunov exponent of a random recurrent network.

    Equation    dh/dt = -h + g J phi(h), J_ij ~ N(0, 1/N), N -> infinity
    Valid for   odd sigmoids phi; g phi'(0) > 1 for chaos, below it the rest state is stable
    Source      [sompolinsky_1988]

    Parameters
    ----------
    activation : sympy.Expr
        phi, in one symbol.
    gain : float
        g.

    Raises
    ------
    BadParameter
        For activations that are not odd, have no slope at zero, or let the variance grow for ever.

    Examples
    --------
    >>> import sympy as sp
    >>> from dmft.literature import random_network_statics
    >>> z = sp.Symbol("z", real=True)
    >>> state = random_network_statics(sp.erf(sp.sqrt(sp.pi) * z / 2), 2)
    >>> round(state.variance, 6), round(state.lyapunov, 4)
    (2.06408, 0.1231)
    """
    phi = Committee(activation, 1).activation
    g = float(gain)
    if not (math.isfinite(g) and g > 0.0):
        raise BadParameter(f"gain must be positive, got {gain!r}")
    if sp.simplify(phi + phi.subs(FIELD, -FIELD)) != 0:
        raise BadParameter(f"the activation {phi} is not odd: the stationary mean is not zero")
    slope = sp.diff(phi, FIELD).subs(FIELD, 0)
    if not slope.is_comparable:
        raise BadParameter(f"the activation {phi} has no slope at zero")
    if g * float(slope) <= 1.0:
        return NetworkStatics(g, 0.0, g * float(slope) - 1.0, np.array([np.inf]), None)
    return _chaotic(_averages(phi), g)


def _averages(phi: sp.Expr) -> Callable[[Array, float], Array]:
    """Function (covariances, variance) -> E phi(x) phi(y): closed form, or by quadrature."""
    try:
        closed = pair_average(phi)
    except NotClosed:
        return lambda delta, variance: np.array(
            [direct_pair(phi, phi, variance, d, variance) for d in delta]
        )
    f = sp.lambdify([*VARIANCES, COVARIANCE], closed, ["scipy", "numpy"])
    return lambda delta, variance: np.asarray(f(variance, variance, delta), dtype=np.float64)


def _chaotic(average: Callable[[Array, float], Array], g: float) -> NetworkStatics:
    variance = _variance(average, g)
    # F = -V' on [0, Delta_0]; odd, so that F / Delta has no pole.
    x = (chebyshev.chebpts1(DEGREE + 1) + 1.0) / 2.0 * variance
    values = g * g * average(x, variance)
    domain = [0.0, variance]
    ratio = chebyshev.Chebyshev.fit(x, 1.0 - values / x, DEGREE, domain=domain)
    delta = ratio * chebyshev.Chebyshev([variance / 2.0, variance / 2.0], domain=domain)
    reach = REACH / math.sqrt(float(ratio(0.0)))
    tau, y, rate = _motion(_speed(ratio, delta, variance), variance, reach)
    path = CubicHermiteSpline(tau, y, rate)

    def orbit(lag: Array) -> Array:
        return np.asarray(variance / np.cosh(path(lag)) ** 2)

    curvature = delta.deriv()
    ground = _ground_state(lambda tau: curvature(orbit(np.abs(tau))), reach)
    return NetworkStatics(g, variance, math.sqrt(1.0 - ground) - 1.0, tau, orbit)


def _variance(average: Callable[[Array, float], Array], g: float) -> float:
    """Delta_0 from V(Delta_0) = V(0)."""
    x, w = legendre.leggauss(LEVEL)
    unit, weight = (x + 1.0) / 2.0, w / 2.0

    def level(log: float) -> float:
        """Integral of V' / Delta_0^2 over the orbit."""
        variance = math.exp(log)
        total = weight @ average(unit * variance, variance)
        return g * g * float(total) / variance - 0.5

    low, high = math.log(1e-6), math.log(4.0)
    while level(high) > 0.0:
        high += 1.0
        if high > math.log(LARGEST):
            raise BadParameter(
                f"at gain = {g} the variance grows beyond {LARGEST:.0e}: the activation must be "
                "bounded for a stationary state"
            )
    if level(low) <= 0.0:
        raise BadParameter(f"gain = {g} is too close to the transition: Delta_0 is below 1e-6")
    return math.exp(brentq(level, low, high, xtol=1e-12, rtol=1e-12))


def _speed(ratio: Any, delta: Any, variance: float) -> Any:
    """Function -2 V / (Delta^2 (1 - Delta / Delta_0)), finite at both ends, no cancellation."""
    x, w = legendre.leggauss(LEVEL)
    unit, weight = (x + 1.0) / 2.0, w / 2.0

    def fast(d: Any) -> Array:
        d = np.atleast_1d(np.asarray(d, dtype=np.float64))
        left = variance - d
        low = 2.0 * (ratio(unit[:, None] * d) * unit[:, None] * weight[:, None]).sum(axis=0)
        high = (delta(variance - unit[:, None] * left) * weight[:, None]).sum(axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            late = -2.0 * high * variance / d**2
            return np.where(d < 0.5 * variance, low / (left / variance), late)

    return fast


def _motion(fast: Any, variance: float, reach: float) -> tuple[Array, Array, Array]:
    """Times at values of y and rates dy/dtau, where Delta = Delta_0 / cosh(y)^2.

    The motion of y is smooth at both ends of the orbit: dy/dtau = sqrt(fast) / 2.
    """
    x, w = legendre.leggauss(5)
    # At its end y grows at half the decay rate of Delta.
    y = np.linspace(0.0, 0.5 * REACH + 4.0, ORBIT + 1)
    inner = (y[1:] + y[:-1])[:, None] / 2.0 + (y[1] - y[0]) / 2.0 * x
    slow = 2.0 / np.sqrt(fast((variance / np.cosh(inner) ** 2).ravel())).reshape(inner.shape)
    tau = np.concatenate([[0.0], np.cumsum(slow @ w * (y[1] - y[0]) / 2.0)])
    if tau[-1] < reach:
        raise BadParameter(f"the orbit is slower than its end: {tau[-1]:.4g} < {reach:.4g}")
    return tau, y, 0.5 * np.sqrt(fast(variance / np.cosh(y) ** 2))


def _ground_state(potential: Any, reach: float) -> float:
    """Lowest eigenvalue of -d^2/dtau^2 + W on the line, on a sinc grid (exponential accuracy)."""
    h = reach / STATES
    number = np.arange(-STATES, STATES + 1)
    apart = number[:, None] - number[None, :]
    with np.errstate(divide="ignore"):
        kinetic = np.where(apart == 0, np.pi**2 / 3.0, 2.0 * (-1.0) ** apart / apart**2.0) / h**2
    matrix = kinetic + np.diag(potential(number * h))
    return float(eigh(matrix, eigvals_only=True, subset_by_index=[0, 0])[0])
