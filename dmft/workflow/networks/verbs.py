"""`stationary` and `lyapunov_exponent`, and measures of random networks for diagrams."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy as sp

from dmft.arrays import half_width
from dmft.codegen.two_time_site import build_network
from dmft.equations.two_time.network import NetworkEquations, derive_network
from dmft.errors import BadParameter
from dmft.laws import Normal
from dmft.model.random_network import RandomNetwork, refuse_jumps, starts_of, step_of
from dmft.names import Status
from dmft.record import Record
from dmft.solvers.jobs import Job
from dmft.solvers.two_time.network_sweep import Perturbed
from dmft.validation import checked
from dmft.workflow.networks.explicit_rest import AtRest, GaussianSites, gaussian_sites, growth_sites
from dmft.workflow.networks.rest import NetworkFixedPoint, rest_points
from dmft.workflow.networks.sites import at_values, declared
from dmft.workflow.networks.stationary import Stationary, leaky_states, stationary_state
from dmft.workflow.solving.network import COVERED, NetworkOptions, run_sweeps


@dataclass(frozen=True)
class LyapunovExponent(Record):
    """Largest Lyapunov exponent of a random network.

    Attributes
    ----------
    value : float
    error : float
        Half-width of the 95 % interval over sweeps; 0 if the exponent is not sampled.
    method : str
        "stationary" (Gaussian sites) or "perturbed sweep".

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> x, h = sp.symbols("x h", real=True)
    >>> found = dmft.lyapunov_exponent(dmft.RandomNetwork(-x + h, x, h, output=sp.tanh(x), std=2))
    >>> round(float(found), 4), found.method
    (0.1125, 'stationary')
    """

    value: float
    error: float
    method: str

    def __float__(self) -> float:
        return self.value


@checked
def stationary(system: RandomNetwork | NetworkEquations, **parameters: float) -> Stationary:
    r"""Compute the stationary state of a random network.

    Equation    C'' = C - g^2 C_phi(C; C_0) for tau > 0, C'(0+) = -noise
    Valid for   one population of leaky sites (rate -x + h, or the map h), odd output, couplings of
                mean zero, symmetry 0; white noise. Leaky sites may have an input whose covariance
                is a cosine, or a cosine with a uniform phase (the state that follows it); maps may
                have a constant random input
    Source      [sompolinsky_1988], [schuecker_2018], [molgedey_1992]

    Parameters
    ----------
    system : RandomNetwork or NetworkEquations
    **parameters
        Values of symbols by name.

    Returns
    -------
    Stationary

    Raises
    ------
    BadParameter
        For other networks; use `dmft.solve` with a long final time instead.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> x, h, g = sp.symbols("x h g", real=True)
    >>> network = dmft.RandomNetwork(-x + h, x, h, output=sp.tanh(x), std=g)
    >>> state = dmft.stationary(network, g=1.5)
    >>> round(state.variance, 6), round(float(state.correlation(4.0)), 5)
    (0.747686, 0.60269)
    """
    return stationary_state(at_values(system, parameters))


@checked
def lyapunov_exponent(
    system: RandomNetwork | NetworkEquations, start: Any = None, t_max: float = 60.0, **options: Any
) -> LyapunovExponent:
    r"""Compute the largest Lyapunov exponent of a random network.

    For Gaussian sites it is computed by `stationary`. For other sites a perturbation y is
    integrated along with the sampled paths, including its effect on the field, and the exponent is
    the growth rate of log(E y^2)/2 in the second half of the run.

    Valid for   networks of `stationary`; other networks with declared mean, std and symmetry whose
                rates and outputs are continuous
    Source      [sompolinsky_1988]; dmft/solvers/two_time/network_sweep.py

    Parameters
    ----------
    system : RandomNetwork or NetworkEquations
    start : number or law of `dmft.laws`, optional
        Start of a sampled run; by default standard normal.
    t_max : float
        Length of the sampled run.
    **options
        Values of symbols, and ``dt=``, ``paths=``, ``sweeps=``, ``seed=``, ``threads=`` as for
        `dmft.solve`.

    Returns
    -------
    LyapunovExponent

    Raises
    ------
    BadParameter

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> x, h = sp.symbols("x h", real=True)
    >>> network = dmft.RandomNetwork(-x + h, x, h, output=sp.tanh(x), std=0.5, symmetry=0.5)
    >>> found = dmft.lyapunov_exponent(network, dmft.laws.Normal(), 10.0, paths=400, sweeps=2)
    >>> found.value < 0, found.method
    (True, 'perturbed sweep')
    """
    known = {n: options.pop(n) for n in list(options) if n in NetworkOptions.__dataclass_fields__}
    network = at_values(system, options)
    if not known and start is None:
        try:
            return LyapunovExponent(stationary_state(network).lyapunov_exponent, 0.0, "stationary")
        except BadParameter:
            pass
    return _sampled(network, start, t_max, NetworkOptions(**known))


def _sampled(
    network: RandomNetwork, start: Any, t_max: float, options: NetworkOptions
) -> LyapunovExponent:
    if network.covariance is not None:
        raise BadParameter(
            "sampled exponents are for couplings with declared mean, std and symmetry"
        )
    for output, rate in zip(network.output, network.rate, strict=True):
        refuse_jumps(output, rate)
    equations = derive_network(network)
    dt, steps = step_of(network, t_max, options.dt)
    steps = max(4, steps)
    problem = build_network(equations, {}, dt)
    laws = starts_of(network, Normal() if start is None else start)
    job = Job(steps * options.sweeps)
    runs = run_sweeps(Perturbed, network, problem, laws, steps, options, job)
    bad = next((run for run in runs if run.status is not Status.OK), None)
    if bad is not None:
        raise BadParameter(f"the sites have no stationary motion: {bad.message}")
    half = steps // 2
    rates = np.array([(run.growth[-1] - run.growth[half]) / ((steps - half) * dt) for run in runs])
    error = float(half_width(rates, COVERED))
    return LyapunovExponent(float(rates.mean()), error, "perturbed sweep")


# Measures of diagrams --------------------------------------------------------------------------


def _rank(point: NetworkFixedPoint) -> tuple[float, float]:
    """By the mean square; of states that differ by a sign, the one of positive mean is last."""
    square = float(np.max(point.output_second_moment))
    return round(square, 9), float(np.max(point.output_mean))


OF_STATIONARY: Mapping[str, Callable[[Stationary], float]] = {
    "chaos": lambda state: state.lyapunov_exponent,
    "variance": lambda state: state.variance,
}
OF_POINT: Mapping[str, Callable[[NetworkFixedPoint | AtRest], float]] = {
    "stability": lambda point: point.replicon - 1.0,
    "survival": lambda point: float(np.max(point.survival)),
    "output_mean": lambda point: float(np.max(point.output_mean)),
}
MEASURES = ("chaos", "variance", "stability", "divergence", "survival", "output_mean")


def _value(name: str, network: RandomNetwork) -> float:
    """A measure of a network of numbers; of its fixed point nan where there is none."""
    if name == "divergence":
        raise BadParameter("the divergence line is derived for positive rates x (K - c x + h)")
    if name in OF_STATIONARY:
        return OF_STATIONARY[name](stationary_state(network))
    try:
        points = rest_points(network)
    except BadParameter:
        return math.nan
    # That of the largest mean square.
    return OF_POINT[name](max(points, key=_rank)) if points else math.nan


def _of_gaussian(name: str, sites: GaussianSites) -> Callable[..., float]:
    """A measure of Gaussian sites, with `many` for all points of a diagram."""

    def many(points: Sequence[Mapping[str, float]]) -> Iterator[float]:
        states = sites.at(points)
        if states is None:
            yield from (_value(name, at_values(sites.network, point)) for point in points)
            return
        for found in states:
            mean, replicon = float(found[1]), float(found[-1])
            yield OF_POINT[name](AtRest(replicon, 1.0 if mean == mean else math.nan, mean))

    def measure(**values: float) -> float:
        return next(many([values]))

    measure.many = many  # type: ignore[attr-defined]
    return measure


def _at_zero(network: RandomNetwork) -> Callable[..., float] | None:
    """Replicon minus one of the zero state; None where zero is no fixed point.

    The response solves chi = r / (1 - symmetry std^2 chi r), r = -phi' f_h / f_x.
    """
    x, h = network.state, network.field
    zero = {x: 0, h: 0}
    if network.populations > 1 or network.positive or network.multiplier is not None:
        return None
    rate = network.rate[0] - (x if network.kind == "map" else 0)
    quiet = rate.subs(zero) == 0 and network.output[0].subs(x, 0) == 0
    if not quiet or network.parameters or network.covariance is not None:
        return None
    if network.input[0] != 0 or network.noise[0] != 0 or network.mean[0][0] != 0:
        return None
    own = (-sp.diff(network.output[0], x) * sp.diff(rate, h) / sp.diff(rate, x)).subs(zero)
    exprs = [own, network.std[0][0], network.symmetry[0][0]]
    call = sp.lambdify(list(network.scalars), exprs, ["scipy", "numpy"])

    def measure(**values: float) -> float:
        unknown = set(values) - {"std", "symmetry", *(y.name for y in network.scalars)}
        if unknown:
            return _value("stability", at_values(network, values))
        r, std, symmetry = map(float, call(*(values[y.name] for y in network.scalars)))
        std, symmetry = values.get("std", std), values.get("symmetry", symmetry)
        back = symmetry * (std * r) ** 2
        chi = r * 2.0 / (1.0 + math.sqrt(max(1.0 - 4.0 * back, 0.0)))
        return (std * chi) ** 2 - 1.0

    return measure


def network_measure(name: str, system: RandomNetwork | NetworkEquations) -> Callable[..., float]:
    """A measure of a network as a function of named values; figures show its name.

    "chaos": largest Lyapunov exponent of the stationary state; "variance": its C(0); "stability":
    replicon minus one of the fixed point (the zero state where it is one); "divergence": inverse
    mean of positive sites, in units of the capacity; "survival", "output_mean": of the fixed point.
    """
    measure = _measured(name, system)
    measure.__name__ = name
    return measure


def _measured(name: str, system: RandomNetwork | NetworkEquations) -> Callable[..., float]:
    if name not in MEASURES:
        raise BadParameter(
            f"{name!r} is not a measure of random networks; choose one of {[*MEASURES]}, or a "
            "function"
        )
    network = declared(system)
    sites = growth_sites(network)
    quiet = _at_zero(network) if name == "stability" and sites is None else None
    if quiet is not None:
        return quiet
    gaussian = gaussian_sites(network) if name in OF_POINT and sites is None else None
    if gaussian is not None:
        return _of_gaussian(name, gaussian)
    state = leaky_states(network) if name in OF_STATIONARY else None
    if state is not None:
        return lambda **values: OF_STATIONARY[name](state(**values))
    if sites is None or (name not in OF_POINT and name != "divergence"):
        return lambda **values: _value(name, at_values(system, values))

    def explicit(**values: float) -> float:
        roots = sites.at(values)
        if roots is None:  # other fields by name, or values that are refused
            other = growth_sites(at_values(network, values))
            roots = None if other is None else other.at({})
        if roots is None:
            return math.nan
        return roots.inverse_mean() if name == "divergence" else OF_POINT[name](roots.largest)

    return explicit
