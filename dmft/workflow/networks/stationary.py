r"""Stationary states of random networks: correlation, spectrum, largest Lyapunov exponent.

Equation    leaky sites dx = (-x + h) dt + sqrt(2 D) dW, symmetry 0: C'' = C - g^2 C_phi(C; C_0)
            for tau > 0, C'(0+) = -D; exponent -1 + sqrt(1 - E_0), E_0 the ground state of
            -d^2/dtau^2 + 1 - g^2 C_phi'(tau); a periodic input: Fourier series on its period;
            maps: q = g^2 E phi^2 + b^2 + 2 D
Source      [sompolinsky_1988], [schuecker_2018], [molgedey_1992]
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any

import numpy as np
import sympy as sp
from numpy.polynomial import chebyshev, legendre
from numpy.typing import ArrayLike
from scipy.interpolate import CubicHermiteSpline
from scipy.optimize import brentq

from dmft.arrays import Array
from dmft.errors import BadParameter
from dmft.gaussian.nodes.grid import array_function
from dmft.gaussian.pair_series import Output
from dmft.laws import Uniform
from dmft.model.random_network import RandomNetwork, S, T
from dmft.record import Record
from dmft.special.hermite_line import power_series
from dmft.workflow.networks.ground_state import ground_state
from dmft.workflow.networks.sites import Numbers, at_values

# Nodes of integrals over the correlation, degree of its force, panels of the orbit.
LEVEL, DEGREE, ORBIT = 48, 60, 400
# Decay times of the correlation that the eigenproblem holds: exp(-22) is 3e-10.
REACH = 22.0
# Variances between which a stationary one is looked for.
SMALLEST, LARGEST = 1e-6, 1e12
# Points of a period, and damped iterations of its Fourier series.
PERIOD, PHASES, ITERATIONS = 128, 32, 20_000
# Points of a scan for the largest root, and the grid of its upper ends.
SCANNED, STEP = 80, 1.0


@dataclass(frozen=True, eq=False)
class Stationary(Record):
    """Stationary state of a random network.

    Attributes
    ----------
    variance : float
        Variance C(0) of the state.
    output_variance : float
        Second moment E phi^2 of the output.
    lyapunov_exponent : float
        Largest Lyapunov exponent; nan if it is not available.
    decay_rate : float
        Rate at which the correlation decays at large lags; 0 for periodic states, nan for maps.
    lags, values : (n,) arrays
        Lags at which the correlation was computed; `correlation` interpolates.
    period : float
        Period of a driven state; inf otherwise.
    orbit : callable or None
        Function that interpolates the correlation between the lags.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> x, h = sp.symbols("x h", real=True)
    >>> network = dmft.RandomNetwork(-x + h, x, h, output=sp.erf(sp.sqrt(sp.pi) * x / 2), std=2)
    >>> state = dmft.stationary(network)
    >>> round(state.variance, 6), round(state.lyapunov_exponent, 4)
    (2.06408, 0.1231)
    """

    variance: float
    output_variance: float
    lyapunov_exponent: float
    decay_rate: float
    lags: Array = field(repr=False)
    values: Array = field(repr=False)
    period: float = math.inf
    orbit: Any = field(default=None, repr=False, compare=False)

    def correlation(self, tau: ArrayLike) -> Array:
        """Correlation C(tau) = E x(t) x(t + tau).

        Parameters
        ----------
        tau : array_like
            Lags of either sign; whole numbers for a map.

        Returns
        -------
        ndarray

        Raises
        ------
        BadParameter
            For lags outside the computed range.

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> erf = sp.erf(sp.sqrt(sp.pi) * sp.Symbol("z", real=True) / 2)
        >>> state = dmft.stationary(dmft.literature.driven_network(erf, 1.5, 1.85, 1))
        >>> bool(abs(state.correlation(state.period) - state.variance) < 1e-12)
        True
        """
        lag = np.abs(np.asarray(tau, dtype=np.float64))
        if math.isfinite(self.period):
            lag = np.mod(lag, self.period)
        if self.orbit is None:
            return np.interp(lag, self.lags, self.values)
        if np.any(lag > self.lags[-1]):
            raise BadParameter(f"lags up to {self.lags[-1]:.4g} are known, got {lag.max():.4g}")
        return np.asarray(self.orbit(lag))

    def power_spectrum(self, omega: ArrayLike) -> Array:
        """Power spectrum S(omega), the integral of C(tau) cos(omega tau) over all lags.

        Parameters
        ----------
        omega : array_like

        Returns
        -------
        ndarray

        Raises
        ------
        BadParameter
            For periodic states, whose spectrum consists of discrete lines.

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> x, h = sp.symbols("x h", real=True)
        >>> network = dmft.RandomNetwork(-x + h, x, h, output=sp.tanh(x), std=2)
        >>> slow, fast = dmft.stationary(network).power_spectrum([0.0, 2.0])
        >>> bool(slow > fast > 0)
        True
        """
        if math.isfinite(self.period):
            raise BadParameter("a periodic state has spectral lines at multiples of 2 pi / period")
        omega = np.asarray(omega, dtype=np.float64)
        if self.variance == 0.0:
            return np.zeros(omega.shape)
        lags = np.linspace(0.0, float(self.lags[-1]), 20_001)
        cosines = np.cos(np.multiply.outer(omega, lags))
        return np.asarray(2.0 * np.trapezoid(cosines * self.correlation(lags), lags, axis=-1))

    @property
    def dimension(self) -> float:
        """Not available: the participation dimension is not derived for nonlinear sites.

        Raises
        ------
        BadParameter
        """
        raise BadParameter(
            "the participation dimension needs the covariance of pairs of sites, of order "
            "1/sqrt(N), which the theory of a single site does not contain: measure it on "
            "simulated states"
        )


def stationary_state(network: RandomNetwork) -> Stationary:
    """Stationary state of the declared network; refused where none is derived."""
    _check(network)
    g = float(network.std[0][0])
    output = Output.of(network.output[0], network.state)
    random = network.input_covariance[0]
    if network.parameters:
        return _phased(network, output, g)
    if network.kind == "map":
        return _of_map(network, output, g)
    if random != 0:
        if random.has(T, S):
            return _driven(network, output, g)
        raise BadParameter(
            "a constant random input is supported only for maps: solve the ode for a long time"
        )
    return _leaky(output, g, float(network.noise[0]))


def _leaky(output: Output, g: float, noise: float) -> Stationary:
    slope = float(output.slope(np.float64(0.0)))
    if noise == 0.0 and g * abs(slope) <= 1.0:
        return Stationary(0.0, 0.0, g * abs(slope) - 1.0, 1.0 - g * abs(slope),
                          np.array([0.0, np.inf]), np.zeros(2))  # fmt: skip
    return _autonomous(output, g, noise)


def leaky_states(network: RandomNetwork) -> Callable[..., Stationary] | None:
    """States of leaky sites without input at values by name, compiled once; None for others."""
    try:
        _check(network)
    except BadParameter:
        return None
    phi, random = network.output[0], network.input_covariance[0] != 0
    others = phi.free_symbols & set(network.scalars)
    if network.kind == "map" or network.parameters or random or others:
        return None
    numbers = Numbers(network, ("std", "noise"), (network.std[0][0], network.noise[0]))

    def state(**values: float) -> Stationary:
        found = numbers.at(values)
        if found is None or found[1] < 0.0:
            return stationary_state(at_values(network, values))
        return _leaky(Output.of(phi, network.state), *found)

    return state


def _constant(network: RandomNetwork) -> float:
    variance = network.input_covariance[0]
    if variance.has(T, S):
        raise BadParameter(f"the input {variance} of a map must not depend on the step")
    return float(variance)


def _check(network: RandomNetwork) -> None:
    x, h = network.state, network.field
    refusal = None
    if network.populations > 1 or network.low_rank:
        refusal = "one population without low-rank part"
    elif network.parameters and _wave(network) is None:
        refusal = "site parameters that are the uniform phase of an input I cos(omega t + phase)"
    elif network.has_memory or network.covariance is not None:
        refusal = "symmetry = 0 (with memory sites are not Gaussian)"
    elif network.positive or network.multiplier is not None:
        refusal = "states without positivity or multiplier"
    elif network.mean[0][0] != 0:
        refusal = "couplings of mean zero"
    elif network.kind == "ode" and sp.expand(network.rate[0] - h + x) != 0:
        refusal = "the rate -x + h"
    elif network.kind == "map" and sp.expand(network.rate[0] - h) != 0:
        refusal = "the next state h"
    elif network.drive[0] != 0 and not network.parameters:
        refusal = (
            "an input that is zero, a dmft.GaussianInput or a cosine of a uniform random phase"
        )
    elif network.noise[0] != 0 and network.input[0] != 0 and network.kind == "ode":
        refusal = "white noise of an ode without input, or an input without noise"
    elif network.noise[0].free_symbols - set(network.scalars):
        refusal = "noise of constant strength"
    elif network.output[0].has(sp.sign, sp.Heaviside):
        refusal = "outputs without jumps"
    elif not _is_odd(network.output[0], x):
        refusal = "odd outputs (others have a mean)"
    if refusal:
        raise BadParameter(
            f"stationary states are derived for {refusal}; otherwise solve for a long time and "
            "check whether the correlation at a lag still changes"
        )


def _is_odd(phi: sp.Expr, x: sp.Symbol) -> bool:
    even = sp.nsimplify(phi + phi.subs(x, -x), rational=True)
    return bool(sp.simplify(even.rewrite(sp.Piecewise)) == 0)


# Without periodic input -------------------------------------------------------------------------


def _autonomous(output: Output, g: float, noise: float) -> Stationary:
    variance = _variance(output, g, noise)
    if variance == 0.0:
        return Stationary(0.0, 0.0, 0.0, 0.0, np.array([0.0, np.inf]), np.zeros(2))
    orbits = _orbits()
    c = orbits.nodes * variance
    ratio = 1.0 - g * g * output.pair(c, variance) / c
    rate = math.sqrt(max(float(orbits.at_zero @ ratio), 0.0))
    if rate == 0.0:
        raise BadParameter("the correlation does not decay: the network is at its transition")
    reach = REACH / rate
    tau, rates = orbits.motion(ratio, noise / variance, reach)
    path = CubicHermiteSpline(tau, orbits.y**2, rates)

    def orbit(lag: Array) -> Array:
        return np.asarray(variance * np.exp(-path(lag)))

    def potential(lags: Array) -> Array:
        c = orbit(np.minimum(np.abs(lags), tau[-1]))
        return np.asarray(1.0 - g * g * output.slopes(c, variance))

    ground = ground_state(potential, reach, rate**2)
    lags = np.linspace(0.0, tau[-1], 401)
    return Stationary(
        variance, float(output.pair(variance, variance)), math.sqrt(1.0 - ground) - 1.0, rate,
        lags, orbit(lags), orbit=orbit,
    )  # fmt: skip


def _variance(output: Output, g: float, noise: float) -> float:
    """Largest C_0 with D^2 / 2 = C_0^2 / 2 - g^2 int_0^C_0 C_phi; 0 at the transition."""

    def level(log: float) -> float:
        return g * g * output.integral_ratio(log) - 0.5 + 0.5 * (noise / math.exp(log)) ** 2

    low, high = math.log(SMALLEST), STEP * math.ceil((math.log(4.0) + math.log1p(noise)) / STEP)
    while high > math.log(LARGEST) or level(high) > 0.0:
        high += STEP
        if high > math.log(LARGEST):
            raise BadParameter(
                f"at std = {g} and noise = {noise} the variance grows beyond {LARGEST:.0e}: the "
                "output must be bounded for a stationary state"
            )
    # From above, because the largest root is the state; at zero noise zero is one, too.
    grid = np.linspace(high, low, SCANNED)
    table = _scanned(output, high, low)
    values = g * g * table - 0.5 + 0.5 * (noise / np.exp(grid)) ** 2
    crossing = np.flatnonzero(values > 0.0)
    if not crossing.size:
        return 0.0
    first = int(crossing[0])
    return math.exp(brentq(level, grid[first], grid[first - 1], xtol=1e-13, rtol=1e-13))


@lru_cache(maxsize=256)
def _scanned(output: Output, high: float, low: float) -> Array:
    return np.array([output.integral_ratio(y) for y in np.linspace(high, low, SCANNED)])


@dataclass(frozen=True)
class Orbits:
    """Linear maps from 1 - g^2 C_phi / C at Chebyshev points of C / C_0 to the motion of C.

    `nodes` (DEGREE + 1,) are C / C_0, `at_zero` the row that gives the value at C = 0, `y` (ORBIT +
    1,) the grid where C = C_0 exp(-y^2), with Gauss points `inner` (ORBIT, 5) in each interval. -2
    V / C^2 at the inner points, then at y[1:], is rows @ ratio + (D / C_0)^2 late.
    """

    nodes: Array
    at_zero: Array
    y: Array
    inner: Array
    weight: Array
    rows: Array
    late: Array

    def motion(self, ratio: Array, noise: float, reach: float) -> tuple[Array, Array]:
        """Times at values of y, and rates of y^2, which is smooth in time with noise too."""
        inner = self.inner
        fast = np.sqrt(self.rows @ ratio + noise**2 * self.late)
        slow = 2.0 * inner / fast[: inner.size].reshape(inner.shape)
        tau = np.concatenate([[0.0], np.cumsum(slow @ self.weight)])
        if tau[-1] < reach:
            raise BadParameter(f"the correlation is known only to {tau[-1]:.4g} < {reach:.4g}")
        return tau, np.concatenate([[noise], fast[inner.size :]])


@cache
def _orbits() -> Orbits:
    """The maps, without cancellation at either end: -2 V is integrated from the nearer one."""
    nodes = (chebyshev.chebpts1(DEGREE + 1) + 1.0) / 2.0

    def values(c: Array) -> Array:
        return np.asarray(chebyshev.chebvander(2.0 * c - 1.0, DEGREE))

    y = np.linspace(0.0, math.sqrt(1.5 * REACH) + 1.0, ORBIT + 1)
    x, w = legendre.leggauss(5)
    inner = (y[1:] + y[:-1])[:, None] / 2.0 + (y[1] - y[0]) / 2.0 * x
    d = np.exp(-(np.concatenate([inner.ravel(), y[1:]]) ** 2))
    is_late = d >= 0.5
    rows = np.zeros((d.size, DEGREE + 1))
    for point, share in zip(*legendre.leggauss(LEVEL), strict=True):
        unit, part = (point + 1.0) / 2.0, share / 2.0
        u = np.where(is_late, 1.0 - unit * (1.0 - d), unit * d)
        factor = np.where(is_late, -2.0 * u * (1.0 - d) / d**2, 2.0 * unit)
        rows += (part * factor)[:, None] * values(u)
    inverse = np.linalg.inv(values(nodes))
    return Orbits(nodes, values(np.zeros(1))[0] @ inverse, y, inner, w * (y[1] - y[0]) / 2.0,
                  rows @ inverse, np.where(is_late, d**-2.0, 0.0))  # fmt: skip


# Maps and periodic inputs -----------------------------------------------------------------------


def _of_map(network: RandomNetwork, output: Output, g: float) -> Stationary:
    """Equal-time variance, the plateau of the correlation, the exponent."""
    bias, white = _constant(network), 2.0 * float(network.noise[0])

    def gap(log: float) -> float:
        v = math.exp(log)
        return g * g * float(output.pair(v, v)) + bias + white - v

    grid = np.linspace(math.log(SMALLEST), math.log(1e6), 400)
    values = np.array([gap(y) for y in grid])
    signs = np.flatnonzero((values[:-1] > 0.0) & (values[1:] <= 0.0))
    if not signs.size:
        if values[0] <= 0.0:
            slope = g * abs(float(output.slope(np.float64(0.0))))
            return Stationary(0.0, 0.0, math.log(slope) if slope else -math.inf, math.nan,
                              np.array([0.0, 1.0]), np.zeros(2))  # fmt: skip
        raise BadParameter(f"at std = {g} the variance grows without bound")
    first = int(signs[-1])
    q = math.exp(brentq(gap, grid[first], grid[first + 1], xtol=1e-15, rtol=1e-15))
    slope = g * g * float(output.slopes(q, q))
    if network.redrawn:
        c = bias
    elif slope <= 1.0 and white == 0.0:
        c = q
    else:

        def plateau(y: float) -> float:
            return g * g * float(output.pair(y, q)) + bias - y

        inner = np.linspace(0.0, q * (1.0 - 1e-9), 400)
        first = int(np.argmax(np.array([plateau(y) for y in inner]) <= 0.0))
        c = float(brentq(plateau, inner[first - 1], inner[first], xtol=1e-15)) if first else 0.0
    return Stationary(
        q, float(output.pair(q, q)), 0.5 * math.log(slope), math.nan,
        np.array([0.0, 1.0, np.inf]), np.array([q, c, c]),
    )  # fmt: skip


def _driven(network: RandomNetwork, output: Output, g: float) -> Stationary:
    """Periodic state that follows a Gaussian periodic input, by its Fourier series."""
    lag = sp.Symbol("lag", real=True)
    given = network.input_covariance[0]
    expr = sp.simplify(given.xreplace({T: S + lag}))
    if expr.has(S):
        raise BadParameter(f"the input covariance {given} must depend on t - s alone")
    frequencies = {sp.Abs(f.args[0] / lag) for f in expr.atoms(sp.cos)}
    if len(frequencies) != 1 or not next(iter(frequencies)).is_number:
        raise BadParameter(f"the input {expr} must be periodic: a cosine of omega (t - s)")
    omega = float(next(iter(frequencies)))
    period = 2.0 * math.pi / omega
    tau = np.arange(PERIOD) * period / PERIOD
    drive = np.fft.rfft(np.broadcast_to(array_function([lag], expr)(tau), tau.shape))
    damping = 1.0 / (1.0 + (omega * np.arange(drive.size)) ** 2)
    c = _settled(
        np.fft.irfft(drive * damping, PERIOD), damping,
        lambda c: g * g * np.fft.rfft(output.pair(c, c[0])) + drive, 1e-14, 0.0,
    )  # fmt: skip
    exponent = _on_the_circle(g * g * output.slopes(c, c[0]), omega)
    return Stationary(
        float(c[0]), float(output.pair(c[0], c[0])), exponent, 0.0,
        np.append(tau, period), np.append(c, c[0]), period,
    )  # fmt: skip


def _settled(
    c: Array, damping: Any, series: Callable[[Array], Any], tol: float, least: float
) -> Array:
    """The covariance on a period that is its own image, by damped steps from a first one."""
    for _ in range(ITERATIONS):
        new = np.fft.irfft(series(c) * damping, c.size)
        gap = float(np.abs(new - c).max())
        c = 0.5 * (c + new)
        if gap < tol * max(least, float(c[0])):
            break
    return c


def _on_the_circle(slopes: Array, omega: float) -> float:
    """Exponent of a periodic state: top eigenvalue of d^2/dtau^2 + g^2 C_phi' on the circle."""
    table = np.fft.fft(slopes) / slopes.size
    size = slopes.size // 2
    number = np.arange(-size // 2, size // 2 + 1)
    hop = table[np.mod(number[:, None] - number[None, :], slopes.size)].real
    top = float(np.linalg.eigvalsh(hop - np.diag((omega * number) ** 2.0)).max())
    return math.sqrt(top) - 1.0 if top > 0.0 else -1.0


def _wave(network: RandomNetwork) -> tuple[float, float] | None:
    """Amplitude and frequency of an input I cos(omega t + phase) of uniform phases."""
    if len(network.parameters) != 1 or network.kind == "map":
        return None
    (symbols, law), given = network.parameters[0], network.drive[0]
    if not isinstance(law, Uniform) or abs(law.high - law.low - 2.0 * math.pi) > 1e-9:
        return None
    if len(given.atoms(sp.cos)) != 1:
        return None
    wave = next(iter(given.atoms(sp.cos)))
    omega, size = sp.diff(wave.args[0], T), given / wave
    phase = sp.expand(wave.args[0] - omega * T)
    if not (omega.is_number and size.is_number) or sp.Abs(phase) != sp.Abs(symbols[0]):
        return None
    return float(abs(size)), float(abs(omega))


def _phased(network: RandomNetwork, output: Output, g: float) -> Stationary:
    """Periodic state of sites with random phases of fixed amplitude: averages over the phase."""
    wave = _wave(network)
    assert wave is not None
    size, omega = wave
    line, steps = output.line, np.arange(PHASES)
    middle = size / math.sqrt(1.0 + omega**2) * np.cos(2.0 * np.pi * steps / PHASES)
    damping = 1.0 / (1.0 + (omega * np.arange(PHASES // 2 + 1)) ** 2)

    def averages(function: Any, c: Array) -> Array:
        table = np.stack([line(function, m, c[0])[:-1] for m in middle])
        rho = c / c[0] if c[0] > 0.0 else np.zeros(PHASES)
        rows = [np.mean(table * np.roll(table, -k, axis=0), axis=0) for k in steps]
        return np.array([power_series(row, r) for row, r in zip(rows, rho, strict=True)])

    c = _settled(
        np.ones(PHASES), damping, lambda c: g * g * np.fft.rfft(averages(output.phi, c)), 1e-12, 1.0
    )
    exponent = _on_the_circle(g * g * averages(output.slope, c), omega)
    tau = steps * 2.0 * math.pi / omega / PHASES
    total = c + size**2 / (1.0 + omega**2) / 2.0 * np.cos(omega * tau)
    return Stationary(
        float(total[0]), float(averages(output.phi, c)[0]), exponent, 0.0,
        np.append(tau, 2.0 * math.pi / omega), np.append(total, total[0]), 2.0 * math.pi / omega,
    )  # fmt: skip
