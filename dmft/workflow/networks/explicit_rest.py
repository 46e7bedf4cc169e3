r"""Fixed points of random networks whose averages at rest are explicit.

Positive sites with the rate x (K - c x + h), all explicit in Delta:

Equation    x = max(0, Delta + z) in units of its spread; sigma = sqrt(w_2) / (w_2 + gamma w_0),
            w_n the moments of max(0, Delta + z); stable where w_0 < w_2
Source      [bunin_2017], [opper_diederich_1992]

Sites that are Gaussian at rest, at many parameters at once:

Equation    x = -(c + b h)/a ~ N(mu, v), h = u + mean M + sum_r m_r kappa_r + sqrt(q) z;
            kappa_r = E n_r E phi + cov(n_r, x) E phi'
Source      [mastrogiuseppe_ostojic_2018]
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, NamedTuple

import numpy as np
import sympy as sp
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr

from dmft.arrays import Array
from dmft.errors import BadParameter
from dmft.gaussian.nodes.grid import array_function
from dmft.model.random_network import RandomNetwork, S, T
from dmft.workflow.networks import sites
from dmft.workflow.networks.sites import Numbers

# Range and number of the values of Delta that are scanned.
DELTAS = (-12.0, 40.0, 4001)
# Values beyond, where std is 1 / Delta.
FARTHEST, FAR = 1e6, 400


@cache
def _grid() -> tuple[Array, tuple[Array, Array]]:
    """Values of Delta that are scanned, with w_0 and w_2."""
    far = np.geomspace(DELTAS[1], FARTHEST, FAR)[1:]
    grid = np.concatenate([np.linspace(*DELTAS), far])
    w0, _, w2 = moments(grid)
    return grid, (w0, w2)


def moments(delta: Any) -> tuple[Any, Any, Any]:
    """w_0, w_1, w_2: moments of max(0, Delta + z)."""
    density = np.exp(-(delta**2) / 2.0) / np.sqrt(2.0 * np.pi)
    w0 = ndtr(delta)
    return w0, delta * w0 + density, (1.0 + delta**2) * w0 + delta * density


@dataclass(frozen=True)
class GrowthSites:
    """Positive sites with the rate x (K - c x + h), whose fixed points are explicit in Delta.

    `numbers` are the standard deviation, mean and symmetry of the couplings, K and c, the mean that
    a multiplier keeps, which then replaces K, and the derivative of the growth rate by it.
    """

    numbers: Numbers
    is_held: bool

    def at(self, values: Mapping[str, float]) -> Roots | None:
        """All fixed points at values of the symbols and of std, mean and symmetry by name."""
        found = self.numbers.at(values)
        if found is None:
            return None
        std, mean, symmetry, K, c, held, slope = found
        return Roots(K, c, mean, std, symmetry, held if self.is_held else None, slope)


class AtRest(NamedTuple):
    """What diagrams show of a fixed point."""

    replicon: float
    survival: float
    output_mean: float


@dataclass(frozen=True)
class Roots:
    """Fixed points of growth sites at numbers."""

    capacity: float
    crowding: float
    mean: float
    std: float
    symmetry: float
    held: float | None
    by_multiplier: float

    @cached_property
    def deltas(self) -> list[float]:
        """Roots Delta with a positive mean."""
        every = _deltas(self.std / self.crowding, self.symmetry)
        return [delta for delta in every if self.averages(delta) is not None]

    @property
    def largest(self) -> AtRest:
        """The fixed point of the largest root; nan without one."""
        if not self.deltas:
            return AtRest(*[float("nan")] * 3)
        found, (w0, _, w2) = self.averages(self.deltas[-1]), moments(self.deltas[-1])
        assert found is not None
        return AtRest(float(w0 / w2), float(w0), float(found[1]))

    def averages(self, delta: float) -> Array | None:
        """E x^2, E x, chi (and nu) at one root; None where the mean is not positive."""
        w0, w1, w2 = moments(delta)
        v = self.std * np.sqrt(w2)
        inverse = -self.mean + delta * v / w1  # capacity over mean
        nu = 0.0
        if self.held is not None:
            mean = self.held
            nu = (inverse * mean - self.capacity) / self.by_multiplier
        elif inverse == 0.0 or self.capacity / inverse <= 0.0:
            return None
        else:
            mean = self.capacity / inverse
        unknown = [(mean * v / (self.std * w1)) ** 2, mean, w0 / v]
        return np.array([*unknown, nu] if self.held is not None else unknown)

    def inverse_mean(self) -> float:
        """Capacity over the mean at the largest root; negative beyond the divergence."""
        every = _deltas(self.std / self.crowding, self.symmetry)
        if not every:
            return float("nan")
        _, w1, w2 = moments(every[-1])
        return float(-self.mean + every[-1] * self.std * np.sqrt(w2) / w1)


def growth_sites(network: RandomNetwork) -> GrowthSites | None:
    """The network as explicit growth sites; None for other sites."""
    if not network.positive or network.populations > 1 or network.low_rank or network.parameters:
        return None
    x, h = network.state, network.field
    nu = network.multiplier[0] if network.multiplier else sp.Dummy("nu")
    growth = sp.expand(network.rate[0] / x)
    by_state, by_field, by_nu = (sp.diff(growth, y) for y in (x, h, nu))
    given = network.drive[0]
    alone = {x, h, nu, T}
    if network.output[0] != x or network.rate[0].subs(x, 0) != 0 or by_field != 1:
        return None
    if network.input_covariance[0] != 0:
        return None
    if (by_state.free_symbols | given.free_symbols) & alone:
        return None
    if by_nu.free_symbols & alone:
        return None
    capacity = growth.subs({x: 0, h: 0, nu: 0}) + given
    couplings = (network.std[0][0], network.mean[0][0], network.symmetry[0][0])
    held = sp.S.Zero if network.multiplier is None else network.multiplier[2]
    exprs = (*couplings, capacity, -by_state, held, by_nu)
    names = ("std", "mean", "symmetry")
    return GrowthSites(Numbers(network, names, exprs), network.multiplier is not None)


def lotka_volterra(network: RandomNetwork) -> list[Array] | None:
    """Averages of growth sites at all fixed points; None for other sites."""
    sites = growth_sites(network)
    if sites is None or network.scalars:
        return None
    roots = sites.at({})
    if roots is None or roots.crowding <= 0.0 or roots.std == 0.0:
        return None
    if not roots.deltas:
        raise BadParameter(_no_rest(roots))
    found = (roots.averages(delta) for delta in roots.deltas)
    return [y for y in found if y is not None]


def _deltas(sigma: float, gamma: float) -> list[float]:
    """All Delta with sigma(Delta) = sigma."""

    def gap(delta: Any) -> Any:
        w0, _, w2 = moments(delta)
        with np.errstate(all="ignore"):
            return np.sqrt(w2) / (w2 + gamma * w0) - sigma

    grid, (w0, w2) = _grid()
    with np.errstate(all="ignore"):
        values = np.sqrt(w2) / (w2 + gamma * w0) - sigma
    found = []
    changes = (values[:-1] * values[1:] <= 0.0) & (np.abs(np.diff(values)) < 1e6)
    for i in np.flatnonzero(changes):
        if values[i] != 0.0 or i == 0:
            found.append(float(brentq(gap, grid[i], grid[i + 1], xtol=1e-14, rtol=1e-15)))
    return found


def _no_rest(roots: Roots) -> str:
    if np.isnan(roots.inverse_mean()):
        return (
            f"no fixed point at std = {roots.std:g}, symmetry = {roots.symmetry:g}: no Delta "
            "balances the field"
        )
    limit = roots.inverse_mean() + roots.mean
    return (
        f"no fixed point: at mean = {roots.mean:g} states grow without bound; at std = "
        f"{roots.std:g} and symmetry = {roots.symmetry:g} the mean must be below {limit:g}"
    )


# Numbers of the networks that rows belong to.
Rows = NDArray[np.intp]
# Damped iterations before Newton's method, and the relative change at which they end.
WARM_UP, WARM = 60, 1e-5
# Largest average of an iteration that converges; accepted residual; two points closer are one.
LARGEST, ACCEPTED, SAME = 1e8, 1e-8, 1e-6
# Steps of Newton's method, of its differences, and the residual at which it ends.
NEWTON, STEP, SETTLED = 20, 1e-7, 1e-14
# Networks that are iterated together.
TOGETHER = 64


@dataclass(frozen=True)
class GaussianSites:
    """One population with a rate c + a x + b h, symmetry 0 and at most normal loadings.

    `numbers` are std, mean, the input and its variance, c, a, b, then the means of m and n and
    the covariances (m, m) and (n, m). Unknown are E phi^2, E phi and kappa_r, (2 + rank,).
    """

    network: RandomNetwork
    numbers: sites.Numbers

    @property
    def rank(self) -> int:
        """Number of pairs of loadings."""
        return len(self.network.low_rank)

    @cached_property
    def _output(self) -> Any:
        x, phi = self.network.state, self.network.output[0]
        return array_function([x, *self.network.scalars], sp.Tuple(phi, sp.diff(phi, x)))

    def at(self, points: Sequence[Mapping[str, float]]) -> list[Array] | None:
        """States of largest E phi^2, then E phi, at each point: the unknown, then the replicon.

        nan where there is no state; None where a point has other values than those missing.
        """
        rows = [self.numbers.at(point) for point in points]
        if any(row is None for row in rows):
            return None
        names = [y.name for y in self.network.scalars]
        table, scalars = np.array(rows), np.array([[p[n] for n in names] for p in points])
        found: list[Array] = []
        for start in range(0, len(points), TOGETHER):
            part = slice(start, start + TOGETHER)
            states, replicons = _Averages(self, table[part], scalars[part]).states()
            for state, replicon in zip(states, replicons, strict=True):
                kept = np.lexsort((state[:, 1], state[:, 0].round(9)))
                kept = kept[np.isfinite(state[kept, 0])]
                best = kept[-1] if kept.size else 0
                found.append(np.append(state[best], replicon[best]))
        return found

    def unknowns(self) -> list[Array]:
        """All states of a network without symbols, each once."""
        found: list[Array] = []
        rows = np.array([self.numbers.at({})])
        for state in _Averages(self, rows, np.empty((1, 0))).states()[0][0]:
            if np.isfinite(state).all() and all(np.abs(state - y).max() > SAME for y in found):
                found.append(state)
        return found


class _Averages:
    """Averages of Gaussian sites at numbers: arrays (P, ...) over P networks."""

    def __init__(self, sites: GaussianSites, rows: Array, scalars: Array) -> None:
        size = sites.rank
        self.sites, self.scalars = sites, scalars
        self.columns = [*rows[:, :7].T, *np.split(rows[:, 7:], [size, 2 * size], axis=1)]
        self.has_mean = bool(rows[:, 1].any())

    def averages(self, at: Array, which: Rows, nodes: int = sites.NODES) -> tuple[Array, Array]:
        """One iteration at unknowns (B, 2 + R) of networks `which` (B,), and E (dx/dh phi')^2."""
        std, mean, drive, variance, c, a, b, m, n, across = (y[which] for y in self.columns)
        kappa, size, slope = at[:, 2:], self.sites.rank, -b / a
        C = across.reshape(len(at), 2, size, size)
        own, other = (np.einsum("brs,bs->br", C[:, i], kappa) for i in (0, 1))
        field = drive + mean * at[:, 1] + np.sum(m * kappa, axis=1)
        spread = variance + std**2 * at[:, 0] + np.sum(own * kappa, axis=1)
        z, w = sites.equal_steps(nodes)
        root = slope * np.sqrt(np.maximum(spread, 0.0))
        x = (slope * field - c / a)[:, None] + root[:, None] * z
        parts = self.sites._output(x, *(y[:, None] for y in self.scalars[which].T))
        phi, by_x = (np.broadcast_to(y, x.shape) for y in parts)
        first, turned = phi @ w, (slope * (by_x @ w))[:, None]
        new = np.column_stack([phi**2 @ w, first, n * first[:, None] + turned * other])
        return new, slope**2 * (by_x**2 @ w)

    def states(self) -> tuple[Array, Array]:
        """States (P, G, 2 + R) from each of G guesses, nan where none is reached, and replicons."""
        start = guesses(self.sites.rank, 1, 0)
        start = np.delete(start, 2, axis=1)  # no memory: the response plays no role
        if not self.has_mean:
            start[:, 1] = 0.0
            start = np.unique(start, axis=0)
        count = len(self.columns[0])
        which = np.repeat(np.arange(count), len(start))
        at = np.tile(start, (count, 1))
        with np.errstate(all="ignore"):
            self._relax(at, which)
            self._polish(at, which)
            new, squared = self.averages(at, which)
            left = np.abs(new - at).max(axis=1)
            at[~(left < ACCEPTED * np.maximum(1.0, np.abs(at).max(axis=1)))] = np.nan
        replicon = self.columns[0][which] ** 2 * squared
        return at.reshape(count, len(start), -1), replicon.reshape(count, -1)

    def _relax(self, at: Array, which: Rows) -> None:
        """Damped iteration of all rows, in place; nan where it diverges."""
        rows = np.arange(len(at))
        for _ in range(WARM_UP):
            old, new = at[rows], self.averages(at[rows], which[rows], sites.FEWER)[0]
            size = np.maximum(1.0, np.abs(old).max(axis=1))
            moves = ~(np.abs(new - old).max(axis=1) < WARM * size)
            at[rows] = np.where(moves[:, None], 0.5 * (old + new), old)
            at[rows[~(np.abs(new).max(axis=1) < LARGEST)]] = np.nan
            rows = rows[moves & np.isfinite(at[rows]).all(axis=1)]
            if not rows.size:
                return

    def _polish(self, at: Array, which: Rows) -> None:
        """Newton's method with differences, in place, while it reduces the residual."""
        rows, best = np.flatnonzero(np.isfinite(at).all(axis=1)), np.full(len(at), np.inf)
        trial = at.copy()
        for _ in range(NEWTON):
            gap = self.averages(trial[rows], which[rows])[0] - trial[rows]
            left = np.abs(gap).max(axis=1)
            better = left < best[rows]
            rows, gap, left = rows[better], gap[better], left[better]
            at[rows], best[rows] = trial[rows], left
            moves = left > SETTLED * np.maximum(1.0, np.abs(at[rows]).max(axis=1))
            rows, gap = rows[moves], gap[moves]
            if not rows.size:
                return
            trial[rows] -= _solved(self._slopes(at[rows], which[rows], gap), gap)

    def _slopes(self, at: Array, which: Rows, gap: Array) -> Array:
        """Jacobian (B, size, size) of new - at."""
        columns = []
        for i in range(at.shape[1]):
            step = STEP * np.maximum(1.0, np.abs(at[:, i]))
            moved = at.copy()
            moved[:, i] += step
            ahead = self.averages(moved, which)[0] - moved
            columns.append((ahead - gap) / step[:, None])
        return np.stack(columns, axis=2)


def _solved(matrices: Array, right: Array) -> Array:
    """Solutions (B, n); least squares where a matrix is singular."""
    try:
        return np.asarray(np.linalg.solve(matrices, right[..., None])[..., 0])
    except np.linalg.LinAlgError:
        return np.asarray((np.linalg.pinv(matrices) @ right[..., None])[..., 0])


def gaussian_sites(network: RandomNetwork) -> GaussianSites | None:
    """The network as Gaussian sites; None for others."""
    x, h = network.state, network.field
    if network.populations > 1 or network.positive or network.multiplier is not None:
        return None
    if network.redrawn:  # no fixed point
        return None
    if network.symmetry[0][0] != 0 or network.covariance is not None or network.noise[0] != 0:
        return None
    loadings = sites.NormalLoadings.of(network)
    if loadings is None or sites.has_kinks(network):
        return None
    rate = network.rate[0] - (x if network.kind == "map" else 0)
    a, b, c = sp.diff(rate, x), sp.diff(rate, h), rate.subs({x: 0, h: 0})
    drive, variance = network.drive[0], network.input_covariance[0]
    out = {x, h, T, S, *network.site_symbols}
    if (set().union(*(y.free_symbols for y in (a, b, c, drive, variance))) & out) or a == 0:
        return None
    couplings = (network.std[0][0], network.mean[0][0])
    exprs = (*couplings, drive, variance, c, a, b, *loadings.numbers)
    return GaussianSites(network, sites.Numbers(network, ("std", "mean", "input"), exprs))


def guesses(rank: int, populations: int, others: int) -> Array:
    """Averages from which searches start: at zero, small, large, and with either sign.

    Rows of E phi^2, E phi and chi of each population, the kappa, and zeros for others.
    """
    found = []
    for size, signs in itertools.product((0.0, 0.3, 2.0), itertools.product((1, -1), repeat=rank)):
        for sign in (1, -1):
            each = np.repeat([size, sign * size, 0.5], populations)
            found.append([*each, *(size * y for y in signs), *[0.0] * others])
    return np.array(list(dict.fromkeys(map(tuple, found))))
