r"""Mean and spread of escape times over random starts and over the noise of the samples.

Near the start the overlaps are d^(-1/2) times random numbers, and the samples add noise of the
same size: d<M^2>/dt = 2 lambda <M^2> + D/d, with D the variance of psi_j h*_r times gamma/(p n_b).
An escape ends at a threshold of the risk or of an overlap, as a value of u.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.equations.escape.laws import Law, q_star
from dmft.equations.escape.uninformative import mu, q
from dmft.equations.risk import population_risk
from dmft.errors import BadParameter
from dmft.validation import checked

Values = Mapping[sp.Symbol, sp.Expr]

# Points of the quadrature of a first passage, and the starts it is averaged over.
PASSAGE_POINTS, START_POINTS = 20_001, 2_001
# Standard deviations of starts and of resting noise that are counted.
WIDEST = 8.0
# Relative error of the integral over the transient.
RTOL = 1e-11
# Logarithm of the largest Arrhenius factor that floats can hold.
LARGEST_LOG = 600.0


def growth_spread(p: int, k: int, dim: float, grown: float) -> tuple[float, float]:
    r"""Mean and standard deviation of log u at the start, carried back by linear growth.

    Equation    u = (1/p) sum over p k overlaps, each N(0, (1 + kappa)/d): a chi-squared variable
    """
    from scipy.special import digamma, polygamma

    half = p * k / 2
    mean = math.log(2 * (1 + grown) / (p * dim)) + float(digamma(half))
    return mean, math.sqrt(float(polygamma(1, half)))


def transient_noise(law: Law, values: Values, length: float) -> float:
    r"""kappa: variance that the samples add, in units of the start's, carried back to t = 0.

    Equation    kappa = int_0^infinity D(q(t)) exp(-2 int_0^t lambda(q)) dt; D / (2 Lambda) at
                fixed lengths
    """
    noise = law.facts.noise.subs(values)
    growth = float(law.growth.subs(values))
    settled = float(dict(law.where).get(q_star, sp.S.One).subs(values))
    if law.facts.sphere or length == settled:
        return float(noise.subs(q, settled)) / (2 * growth)
    from scipy.integrate import solve_ivp

    rate = law.facts.drift.coeff(mu, 1).subs(values)
    move, grow, add = (sp.lambdify(q, e) for e in (law.facts.length_rate.subs(values), rate, noise))

    def flow(_: float, y: Array) -> list[float]:
        return [move(y[0]), 2 * grow(y[0]), add(y[0]) * math.exp(-y[1])]

    # Up to where the rest is below rounding and the length has settled.
    horizon = 40.0 / (2 * growth)
    run = solve_ivp(
        flow, (0.0, horizon), [length, 0.0, 0.0], rtol=RTOL, atol=1e-14, method="DOP853"
    )
    return float(run.y[2, -1])


def diffusion_passage(law: Law, values: Values, dim: float, m_1: float) -> tuple[float, float]:
    r"""Mean and standard deviation of the first passage of one overlap through m_1.

    Equation    dm = (c m^(l-1) - b m) dt + sqrt(D/d) dW, m(0) ~ N(0, 1/d); mean
                T(x) = int_x^{m_1} dy e^{-W(y)} int_0^y (2/D) e^{W(z)} dz, W' = 2 drift / D;
                even l: |m|, reflected at 0; odd l: reflected far on the side that is not learned
    Valid for   one neuron on the sphere, 1/d small: near the start the noise is that at m = 0
    Source      backward equations of a one-dimensional diffusion; derivations/escape_formulas.py
    """
    order = law.exponent - 1
    flow, whole = law.facts.flow.subs(values), law.facts.drift.subs(values)
    signal = law.direction * float(flow.coeff(mu, order)) * dim ** ((1 - order) / 2)
    noise = float(law.facts.noise.subs(values))
    noisy = float((whole - flow).expand().coeff(mu, 1))
    decay = noisy if order else float(whole.expand().coeff(mu, 1))
    if noise == 0.0:
        raise BadParameter(
            "without noise of the samples the mean over random starts does not exist: starts near "
            "zero overlap never leave; the time from the typical start is .time(dim)"
        )
    end = m_1 * math.sqrt(dim)
    even = law.exponent % 2 == 0
    # At rest on the side that is not learned the overlap has this deviation.
    resting = math.sqrt(noise / (-2 * noisy)) if noisy < 0 else 1.0
    low = 0.0 if even else -WIDEST * max(1.0, resting)
    x = _grid(low, end)
    potential = _cumulative(2 / noise * (signal * x**order + decay * x), x)
    if float(np.max(np.maximum.accumulate(potential) - potential)) > LARGEST_LOG:
        raise BadParameter(
            "the time in which noise carries this start over the barrier exceeds the largest "
            "float: lower the learning rate, see .maximal_learning_rate(dim)"
        )
    first = _passage(x, potential, np.full(x.size, 2 / noise))
    second = _passage(x, potential, 4 / noise * first)
    starts = np.linspace(-WIDEST, WIDEST, START_POINTS)
    weight = np.exp(-(starts**2) / 2)
    weight /= weight.sum()
    at = np.abs(starts) if even else starts
    times = np.where(at >= end, 0.0, np.interp(at, x, first))
    squares = np.where(at >= end, 0.0, np.interp(at, x, second))
    mean = float(weight @ times)
    return mean, math.sqrt(max(float(weight @ squares) - mean**2, 0.0))


def _grid(low: float, end: float) -> Array:
    """Points from `low` to `end`: dense around the starts, geometric beyond."""
    stretched = np.linspace(math.asinh(low), math.asinh(end), PASSAGE_POINTS)
    grid: Array = np.sinh(stretched)
    grid[0], grid[-1] = low, end
    return grid


def _cumulative(values: Array, x: Array) -> Array:
    """Integral from the first point, by the trapezoidal rule."""
    steps = (values[1:] + values[:-1]) / 2 * np.diff(x)
    return np.concatenate([[0.0], np.cumsum(steps)])


def _passage(x: Array, potential: Array, source: Array) -> Array:
    """int_x^end dy e^{-W(y)} int_low^y source(z) e^{W(z)} dz at all points."""
    climb = np.diff(potential)
    rise = np.exp(-climb)
    # The exponential is integrated exactly within a step, the source is its mean there.
    small = np.abs(climb) < 1e-8
    within = np.where(small, 1 - climb / 2, -np.expm1(-climb) / np.where(small, 1.0, climb))
    gain = np.diff(x) * within * (source[1:] + source[:-1]) / 2
    inner = np.zeros(x.size)
    for i in range(gain.size):
        inner[i + 1] = inner[i] * rise[i] + gain[i]
    outer = _cumulative(inner, x)
    remaining: Array = outer[-1] - outer
    return remaining


@checked
@dataclass(frozen=True)
class Threshold:
    """What a run is watched for: see `EscapeFormula.time`."""

    dim: float
    fraction: float = 0.5
    overlap: float | None = None
    u: float | None = None
    u0: float | None = None
    reference: str = "start"

    def __post_init__(self) -> None:
        if not 0.0 < self.fraction < 1.0:
            raise BadParameter(f"fraction = {self.fraction!r} must lie strictly between 0 and 1")
        if self.overlap is not None and not 0.0 < self.overlap <= 1.0:
            raise BadParameter(f"overlap = {self.overlap!r} is a cosine: it must lie in (0, 1]")
        if self.reference not in ("start", "plateau"):
            raise BadParameter(f'reference must be "start" or "plateau", got {self.reference!r}')
        for name, value in (("u", self.u), ("u0", self.u0), ("dim", self.dim)):
            if value is not None and not value > 0:
                raise BadParameter(f"{name} must be positive, got {value!r}")
        if not math.isfinite(self.dim):  # a formula: it need be no whole number, nor a small one
            raise BadParameter(f"dim must be finite, got {self.dim!r}")


def threshold_overlap(
    law: Law, values: Values, threshold: Threshold, start: float, lengths: tuple[float, float]
) -> float:
    """Value of u at the threshold; `lengths` are q at the start and on the plateau."""
    facts = law.facts
    if threshold.u is not None:
        return float(threshold.u)
    if threshold.overlap is not None:
        return float(facts.widths[1].subs(values)) * lengths[1] * threshold.overlap**2
    if facts.single and facts.sphere:
        return _single(law, values, threshold, start)
    risk = facts.risk.subs(values)
    p = float(facts.widths[0].subs(values))
    before, plateau = (float(risk.coeff(mu, 0).subs(q, length)) for length in lengths)
    fall = -p * float(risk.coeff(mu, 2).subs(q, lengths[1]))
    if threshold.reference == "start":
        before -= fall * start
        target = (1 - threshold.fraction) * before
        if target >= plateau:
            raise BadParameter(
                f"the risk falls by {1 - plateau / before:.3g} of its initial value while lengths "
                f"relax, before anything is learned: fraction = {threshold.fraction:g} must be "
                'larger, or use reference="plateau" or overlap='
            )
    else:
        target = (1 - threshold.fraction) * plateau
    return (plateau - target) / fall


def _single(law: Law, values: Values, threshold: Threshold, start: float) -> float:
    """One neuron on the sphere: the whole risk as a function of m."""
    risk = _risk_of(law, values)
    m_0 = start**0.5 if threshold.reference == "start" else 0.0
    target = (1 - threshold.fraction) * risk(m_0)
    polynomial = sp.Poly(law.facts.risk.subs(values), mu)
    powers = [n for (n,) in polynomial.monoms() if n]
    if law.facts.ends and powers == [law.exponent]:
        slope = -float(polynomial.coeff_monomial(mu**law.exponent)) * law.direction**law.exponent
        value = (float(polynomial.coeff_monomial(1)) - target) / slope
        return float(value ** (2 / law.exponent))
    if not risk(1.0) < target:
        raise BadParameter(
            f"the risk never falls by the fraction {threshold.fraction:g}: it is "
            f"{risk(1.0):.6g} at full overlap and {risk(m_0):.6g} at the start"
        )
    from scipy.optimize import brentq

    root = brentq(lambda m: risk(m) - target, m_0, 1.0, xtol=1e-15, rtol=1e-14)
    return float(root) ** 2


def _risk_of(law: Law, values: Values) -> Callable[[float], float]:
    """Population risk at an overlap m in the direction that is learned."""
    facts = law.facts
    if facts.ends:
        polynomial = facts.risk.subs(values)
        return lambda m: float(polynomial.subs(mu, law.direction * m))
    whole = population_risk(facts.model)
    given = {s.name: float(values[s]) for s in facts.model.parameters}
    return lambda m: whole(Q=[[1.0]], M=[[law.direction * m]], P=[[1.0]], **given)
