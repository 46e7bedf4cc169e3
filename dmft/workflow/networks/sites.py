"""The site of a random network as functions of arrays, and nodes for averages at rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import sympy as sp
from scipy.linalg import block_diag

from dmft.arrays import Array
from dmft.equations.two_time.network import NetworkEquations
from dmft.errors import BadParameter
from dmft.gaussian.closed.switch import SWITCHES
from dmft.gaussian.nodes.grid import array_function, legendre
from dmft.laws import Discrete, JointNormal, Normal
from dmft.model.random_network import (
    GaussianInput,
    RandomNetwork,
    S,
    T,
    exact_zero,
    refuse_jumps,
)
from dmft.validation import is_number, shown

# Nodes of a smooth average over the field, fewer at each node of a law and on the way to a fixed
# point, those of a parameter's law, and panels around a kink.
NODES, FEWER, OF_LAWS, PANELS, IN_PANEL, END = 481, 121, 24, 24, 12, 9.0
# Fields of the declaration that are arguments of a diagram by their names.
NUMBERS = ("mean", "std", "symmetry", "noise", "input")


def declared(system: RandomNetwork | NetworkEquations) -> RandomNetwork:
    """The network of a system; refused where its equations were changed."""
    if isinstance(system, RandomNetwork):
        return system
    if system.is_changed:
        raise BadParameter(
            "fixed points and stationary states are those of the declared network: pass the "
            "network, or solve the changed equations for a long time"
        )
    return system.model


def at_values(
    system: RandomNetwork | NetworkEquations, given: Mapping[str, Any], some: bool = False
) -> RandomNetwork:
    """The network at values of its symbols (or `some` of them), and of declared numbers by name."""
    network = declared(system)
    known = {y.name: y for y in network.scalars}
    swap, fields = {}, {}
    for name, value in given.items():
        if not is_number(value) or not np.isfinite(float(value)):
            raise BadParameter(f"{name} must be a finite number, got {shown(value)}")
        if name in known:
            swap[known[name]] = exact_zero(sp.Float(float(value)))
        elif name in NUMBERS and network.populations == 1:
            old = getattr(network, name)
            new = exact_zero(sp.Float(float(value)))
            fields[name] = ((new,),) if isinstance(old[0], tuple) else (new,)
        else:
            raise BadParameter(
                f"{name} is neither a symbol of the network, {sorted(known)}, nor one of "
                f"{list(NUMBERS)}"
            )
    if fields:
        network = _with_fields(network, fields)
    network = substituted(network, swap) if network.scalars else network
    left = [] if some else sorted(map(str, network.scalars))
    if left:
        raise BadParameter(f"no value for {left[0]}; pass {left[0]}=...")
    return network


@dataclass(frozen=True)
class Numbers:
    """Numbers of a network as functions of its symbols; the first have names of the declaration.

    Compiled once for all points of a diagram.
    """

    network: RandomNetwork
    names: tuple[str, ...]
    exprs: tuple[sp.Expr, ...]

    @cached_property
    def _function(self) -> Any:
        return sp.lambdify(list(self.network.scalars), list(self.exprs), "math")

    def at(self, values: Mapping[str, float]) -> list[float] | None:
        """The numbers; None for other values, which `at_values` reads or refuses."""
        symbols = [y.name for y in self.network.scalars]
        if not set(symbols) <= set(values) <= {*symbols, *self.names}:
            return None
        found = [float(y) for y in self._function(*(float(values[n]) for n in symbols))]
        found[: len(self.names)] = [
            float(values.get(n, y)) for n, y in zip(self.names, found, strict=False)
        ]
        return found if np.isfinite(found).all() and found[0] >= 0.0 else None


def _with_fields(network: RandomNetwork, fields: Mapping[str, Any]) -> RandomNetwork:
    made = object.__new__(RandomNetwork)
    for each in network.__dataclass_fields__:
        object.__setattr__(made, each, fields.get(each, getattr(network, each)))
    made._check()
    return made


def substituted(network: RandomNetwork, swap: Mapping[sp.Symbol, sp.Expr]) -> RandomNetwork:
    """The network with numbers for symbols."""

    def at(value: Any) -> Any:
        if isinstance(value, sp.Expr) and not isinstance(value, sp.Symbol):
            return value.xreplace(swap)
        if isinstance(value, sp.Symbol):
            return swap.get(value, value)
        if isinstance(value, GaussianInput):
            return GaussianInput(value.covariance.xreplace(swap))
        return tuple(map(at, value)) if isinstance(value, tuple) else value

    names = ("rate", "output", "mean", "std", "symmetry", "noise", "input", "low_rank",
             "multiplier", "covariance", "memory")  # fmt: skip
    return _with_fields(network, {name: at(getattr(network, name)) for name in names})


@dataclass(frozen=True)
class Site:
    """Functions of arrays (x, h, *sites) of one population, at numbers for all symbols.

    `rate`, `by_state` and `by_field` (x, h, nu, *sites) are f and its derivatives, of positive
    sites those of x rho + lambda, with `growth` (h, nu, *sites), the rate at x = 0. `is_linear`
    is true if the rate is affine in the state, with a constant slope.
    """

    rate: Callable[..., Any]
    by_state: Callable[..., Any]
    by_field: Callable[..., Any]
    output: Callable[..., Any]
    slope: Callable[..., Any]
    growth: Callable[..., Any] | None
    is_linear: bool


@dataclass(frozen=True)
class Rest:
    """A network at rest: numbers, sites, nodes of the site parameters."""

    network: RandomNetwork

    @property
    def populations(self) -> int:
        """Number of populations."""
        return self.network.populations

    @cached_property
    def matrices(self) -> tuple[Array, Array, Array]:
        """Mean, standard deviation and symmetry of the couplings, (P, P) each."""
        mean, std, symmetry = (
            np.array([[float(y) for y in row] for row in getattr(self.network, name)])
            for name in ("mean", "std", "symmetry")
        )
        return mean, std, symmetry

    @cached_property
    def shares(self) -> Array:
        """Fractions of the populations."""
        return np.array(self.network.shares)

    @cached_property
    def sites(self) -> list[Site]:
        """Functions of each population."""
        network = self.network
        x, h = network.state, network.field
        nu = network.multiplier[0] if network.multiplier else sp.Dummy("nu")
        own = network.site_symbols
        found = []
        for rate, output in zip(network.rate, network.output, strict=True):
            if rate.has(T):
                raise BadParameter(f"the rate {rate} depends on the time: there is no fixed point")
            if network.kind == "map":
                rate = rate - x
            every = [array_function([x, h, nu, *own], y)
                     for y in (rate, sp.diff(rate, x), sp.diff(rate, h))]  # fmt: skip
            outputs = [array_function([x, *own], y) for y in (output, sp.diff(output, x))]
            growth = None
            if network.positive:
                inflow = rate.subs(x, 0)
                at_zero = sp.expand((rate - inflow) / x).subs(x, 0)
                growth = array_function([h, nu, *own], at_zero)
            is_linear = not sp.diff(rate, x).has(x, h)
            found.append(
                Site(every[0], every[1], every[2], outputs[0], outputs[1], growth, is_linear)
            )
        return found

    @cached_property
    def inputs(self) -> list[tuple[Callable[..., Any], float]]:
        """Constant input as a function of the site parameters, and the variance of a random one."""
        found = []
        symbols = list(self.network.site_symbols)
        for drive, variance in zip(self.network.drive, self.network.input_covariance, strict=True):
            if (drive + variance).has(T, S):
                raise BadParameter(
                    f"the input {drive + variance} depends on the time: there is no fixed point"
                )
            found.append((array_function(symbols, drive), float(variance)))
        return found

    @cached_property
    def normal(self) -> NormalLoadings | None:
        """The site parameters where these are normal loadings."""
        return NormalLoadings.of(self.network)

    @cached_property
    def laws(self) -> tuple[Array, Array]:
        """Nodes (n, N) and weights (N,) of the site parameters."""
        given = _given_left(self.normal)
        if given is not None:
            return given
        points, weights = np.empty((0, 1)), np.ones(1)
        for _, law in self.network.parameters:
            new, weight = _nodes_of(law)
            count = weights.size
            points = np.vstack([
                np.repeat(points, weight.size, axis=1), np.tile(new, (1, count)),
            ])  # fmt: skip
            weights = np.repeat(weights, weight.size) * np.tile(weight, count)
        return points, weights

    @cached_property
    def loadings(self) -> list[tuple[Callable[..., Any], Callable[..., Any]]]:
        """Pairs (m, n) of the low-rank part as functions of the site parameters."""
        own = list(self.network.site_symbols)
        return [(array_function(own, m), array_function(own, n)) for m, n in self.network.low_rank]


@dataclass(frozen=True)
class NormalLoadings:
    """Normal loadings (m, n) that sites know by the low-rank part alone, which is affine in them.

    Means (S,) and covariances (S, S) of the site parameters; means (2 R,) and slopes (2 R, S) of
    m_1, n_1, m_2, ... by these.
    """

    mean: Array
    cov: Array
    middle: tuple[sp.Expr, ...]
    slopes: sp.Matrix

    @classmethod
    def of(cls, network: RandomNetwork) -> NormalLoadings | None:
        """Loadings of a network, without any where it has none; None for other laws."""
        own, laws = list(network.site_symbols), [law for _, law in network.parameters]
        pairs = [y for pair in network.low_rank for y in pair]
        others = (*network.rate, *network.output, *network.drive, *network.input_covariance)
        normal = all(isinstance(law, Normal | JointNormal) for law in laws)
        if not normal or any(y.free_symbols & set(own) for y in others):
            return None
        slopes = sp.Matrix(len(pairs), len(own), lambda i, j: sp.diff(pairs[i], own[j]))
        if slopes.free_symbols & set(own):
            return None
        parts = [law.covariance if isinstance(law, JointNormal) else law.variance for law in laws]
        cov = block_diag(*map(np.atleast_2d, parts)) if parts else np.zeros((0, 0))
        mean = np.array([y for law in laws for y in np.atleast_1d(law.mean)], dtype=np.float64)
        middle = tuple(y.xreplace(dict(zip(own, map(sp.Float, mean), strict=True))) for y in pairs)
        return cls(mean, cov, middle, slopes)

    @property
    def numbers(self) -> list[sp.Expr]:
        """Means of all m, of all n, and their covariances (m, m) and (n, m), row by row."""
        m, n = self.slopes[::2, :], self.slopes[1::2, :]
        cov = sp.Matrix(*self.cov.shape, self.cov.ravel().tolist())
        return [*self.middle[::2], *self.middle[1::2], *(m * cov * m.T), *(n * cov * m.T)]

    def array(self, first: int) -> Array:
        """Slopes (R, S) of all m (first = 0) or all n (1), where these are numbers."""
        size = len(self.middle) // 2
        return np.array(self.slopes[first::2, :], dtype=np.float64).reshape(size, len(self.mean))


def _given_left(loadings: NormalLoadings | None) -> tuple[Array, Array] | None:
    """Nodes of normal loadings (m, n) along the m, with the means of the n given them.

    Exact because the low-rank part is linear in each n.
    """
    if loadings is None or not loadings.middle or not len(loadings.mean):
        return None
    A, cov = loadings.array(0), loadings.cov
    values, vectors = np.linalg.eigh(A @ cov @ A.T)
    kept = values > 1e-14 * max(values.max(), 1e-300)
    z, weight = _grid(int(kept.sum()))
    along = cov @ A.T @ (vectors[:, kept] / np.sqrt(values[kept]))
    return loadings.mean[:, None] + along @ z, weight


def has_kinks(network: RandomNetwork) -> bool:
    """Whether averages at rest need panels on both sides of a kink."""
    return network.positive or any(y.has(*SWITCHES) for y in (*network.rate, *network.output))


def _grid(count: int) -> tuple[Array, Array]:
    """Nodes (count, N) and weights of independent standard normal variables."""
    z, w = _hermite(OF_LAWS)
    nodes, parts = (
        [y.ravel() for y in np.meshgrid(*[one] * count, indexing="ij")] for one in (z, w)
    )
    return np.array(nodes).reshape(count, -1), np.prod(np.array(parts), axis=0, initial=1.0)


def _nodes_of(law: Any) -> tuple[Array, Array]:
    if isinstance(law, Discrete):
        return np.array([law.values]), np.array(law.weights)
    if isinstance(law, JointNormal):
        grid, weight = _grid(len(law.mean))
        values, vectors = np.linalg.eigh(np.array(law.covariance))
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        return np.array(law.mean)[:, None] + root @ grid, weight
    if isinstance(law, Normal):
        z, weight = _grid(1)
        return law.mean + np.sqrt(law.variance) * z, weight
    u, weight = np.polynomial.legendre.leggauss(4 * OF_LAWS)
    return law.quantile((u + 1.0) / 2.0)[None], weight / 2.0


@cache
def _hermite(count: int) -> tuple[Array, Array]:
    z, w = np.polynomial.hermite_e.hermegauss(count)
    return z, w / w.sum()


@cache
def equal_steps(count: int) -> tuple[Array, Array]:
    """The trapezoidal rule of a standard normal variable.

    Poles of the output next to the axis matter less than for Gauss nodes: at a standard deviation
    of 3 of tanh, 64 of these err by 4 %, 121 steps by 1e-11.
    """
    z = np.linspace(-END, END, count)
    w = np.exp(-(z**2) / 2.0)
    return z, w / w.sum()


def normal_nodes(kink: float | None = None, count: int = NODES) -> tuple[Array, Array]:
    """Nodes and weights of a standard normal variable; panels on both sides of a kink."""
    if kink is None:
        return equal_steps(count)
    x, w = legendre(IN_PANEL)
    split = min(max(kink, -END), END)
    edges = np.unique(np.concatenate([
        np.linspace(-END, split, PANELS + 1), np.linspace(split, END, PANELS + 1),
    ]))  # fmt: skip
    half, middle = np.diff(edges) / 2.0, (edges[1:] + edges[:-1]) / 2.0
    z = (middle[:, None] + half[:, None] * x).ravel()
    weight = (half[:, None] * w).ravel() * np.exp(-(z**2) / 2.0)
    return z, weight / weight.sum()


def populated(network: RandomNetwork) -> Rest:
    """A network at rest; refused where couplings are not those of `mean`, `std`, `symmetry`."""
    if network.covariance is not None:
        raise BadParameter(
            "fixed points are derived for couplings declared by mean, std and symmetry; solve "
            "networks with covariance= and memory= for a long time"
        )
    if any(y != 0 for y in network.noise):
        raise BadParameter(
            f"sites with noise = {network.noise[0]} have no fixed point: use dmft.stationary, or "
            "noise=0"
        )
    if network.redrawn:
        raise BadParameter(
            "sites whose couplings are redrawn at each step have no fixed point: use "
            "dmft.stationary, or solve for a long time"
        )
    for rate, output in zip(network.rate, network.output, strict=True):
        refuse_jumps(output, rate)
    return Rest(network)
