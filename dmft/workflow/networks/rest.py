r"""Fixed points of random networks and their stability.

Equation    f(x, h) = 0, h = u + mu M + m kappa + sqrt(q) z + gamma sigma^2 chi phi(x),
            q = sigma^2 E phi^2, M = E phi, kappa = E n phi, chi = E z phi / sqrt(q);
            stable to single sites where sigma^2 E (d phi / d eta)^2 < 1
Source      [bunin_2017], [mastrogiuseppe_ostojic_2018]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray
from scipy.linalg import block_diag
from scipy.optimize import brentq, root

from dmft.arrays import Array
from dmft.gaussian.nodes.grid import array_function
from dmft.model.random_network import RandomNetwork
from dmft.names import Status
from dmft.record import Record
from dmft.workflow.networks.explicit_rest import gaussian_sites, guesses, lotka_volterra
from dmft.workflow.networks.sites import FEWER, NODES, Rest, has_kinks, normal_nodes, populated

# Steps of the relaxation of a site towards its rest state, and the accuracy of its rate.
RELAXATIONS, AT_REST = 200, 1e-13
# Largest residual of a fixed point, distance below which two are the same, and error of replicons.
ACCEPTED, SAME, MARGINAL = 1e-8, 1e-6, 1e-9
# Distance from a known fixed point within which the iteration is not followed up.
NEAR = 1e-4
# Iterations before Newton's method, from each guess, and averages that have diverged.
WARM_UP, LARGEST = 60, 1e8
# Multipliers between which the constraint is met.
MULTIPLIERS = np.concatenate([-np.geomspace(100.0, 0.01, 13), np.geomspace(0.01, 100.0, 13)])
# Change of the averages whose growth is measured.
PERTURBED = 1e-6


@dataclass(frozen=True, eq=False)
class NetworkFixedPoint(Record):
    """Fixed point of a random network; with P > 1 populations arrays have shape (P,).

    Attributes
    ----------
    output_mean, output_second_moment : float or (P,) array
        Averages E phi and E phi^2 of the output.
    state_mean, state_second_moment : float or (P,) array
    response : float or (P,) array
        Response chi = E d phi / d h of a site, including its memory term.
    survival : float or (P,) array
        Fraction of sites whose growth rate at zero is positive, without immigration; 1 if states
        need not be positive.
    loadings : (rank,) array
        Overlaps kappa with the low-rank part.
    multiplier : float
        Value of nu; nan if no multiplier is declared.
    replicon : float
        Stability parameter sigma^2 E (d phi/d eta)^2, below 1 if the point is stable; for several
        populations the spectral radius of the corresponding matrix.
    spectral_edge : float
        Right edge of the bulk of the Jacobian's spectrum; nan for populations.
    outliers : complex array
        Outliers of the matrix of couplings times slopes that are due to the means and the low-rank
        part, for leaky sites without symmetry; empty otherwise.
    bulk_radius : float
        Radius of the bulk of that matrix, sigma sqrt(E phi'^2).
    stable : bool
        Whether the replicon is below 1, and perturbations of the averages of all sites decay (for
        sites that are neither leaky nor maps of the field, only non-oscillating perturbations).
        False for a marginal point, whose replicon is 1 up to 1e-9.
    residual : float
        Largest change of the averages in a further iteration.
    status : Status

    Examples
    --------
    >>> import dmft
    >>> point, = dmft.fixed_points(dmft.literature.lotka_volterra(1.0, 0.5))
    >>> round(point.output_mean, 6), round(point.survival, 6), round(point.replicon, 6)
    (0.502403, 0.958681, 0.23967)
    """

    output_mean: Any
    output_second_moment: Any
    state_mean: Any
    state_second_moment: Any
    response: Any
    survival: Any
    loadings: Array
    multiplier: float
    replicon: float
    spectral_edge: float
    outliers: NDArray[np.complex128]
    bulk_radius: float
    stable: bool
    residual: float
    status: Status


@dataclass
class Sample:
    """Sites at rest at the nodes of one population.

    `left` is the covariance of site parameters and z given a node, where it is not zero.
    """

    z: Array
    weight: Array
    sites: Array
    x: Array
    phi: Array
    field: Array
    left: Array | None = None


class Search:
    """Averages of sites at rest as a function of themselves."""

    def __init__(self, network: RandomNetwork) -> None:
        self.rest = populated(network)
        self.kinked, self.gaussian = has_kinks(network), gaussian_sites(network)
        self.held = None
        if network.multiplier is not None:
            _, expr, value = network.multiplier
            call = array_function([network.state, *network.site_symbols], expr)
            self.held = call, float(value)

    @property
    def size(self) -> int:
        """Number of unknown averages."""
        count = self.rest.populations
        return 3 * count + len(self.rest.loadings) + (self.held is not None)

    def parts(self, unknown: Array) -> tuple[Array, Array, Array, Array, float]:
        """E phi^2, E phi, chi, kappa and the multiplier."""
        count = self.rest.populations
        second, mean, chi = unknown[: 3 * count].reshape(3, count)
        rest = unknown[3 * count :]
        nu = float(rest[-1]) if self.held else 0.0
        return second, mean, chi, rest[: len(self.rest.loadings)], nu

    def sample(self, a: int, unknown: Array, start: float = 0.0) -> Sample:
        """Sites of population a at rest, at nodes of their field and parameters."""
        rest = self.rest
        _, mean, _, kappa, nu = self.parts(unknown)
        q, back = self.variance(a, unknown), self.back(a, unknown)
        constant = float(rest.shares * rest.matrices[0][a] @ mean)
        if self.gaussian is not None:
            return self._gaussian_sample(q, constant, kappa)
        points, of_laws = rest.laws
        low = sum(
            (m(*points) * k for (m, _), k in zip(rest.loadings, kappa, strict=True)),
            np.zeros(of_laws.size),
        )
        base = constant + low + rest.inputs[a][0](*points)
        # The place of the kink depends on the node of the parameters' laws.
        kinks = [self._kink(a, float(y), np.sqrt(q), nu, own) if self.kinked else None
                 for y, own in zip(base, points.T, strict=True)]  # fmt: skip
        axes = [normal_nodes(y, NODES if of_laws.size == 1 else FEWER) for y in kinks]
        every, along = (np.concatenate(y) for y in zip(*axes, strict=True))
        counts = [z.size for z, _ in axes]
        grid = np.repeat(base, counts) + np.sqrt(q) * every
        sites = np.repeat(points, counts, axis=1)
        x = settled(rest, a, grid, back, nu, sites, start)
        phi = np.broadcast_to(rest.sites[a].output(x, *sites), x.shape)
        weight = np.repeat(of_laws, counts) * along
        return Sample(every, weight, sites, x, phi, grid + back * phi)

    def _gaussian_sample(self, q: float, constant: float, kappa: Array) -> Sample:
        """Gaussian sites at nodes of their field, with the means of all else given it."""
        rest, loadings = self.rest, self.rest.normal
        assert loadings is not None
        m = loadings.array(0).T @ kappa
        along = loadings.cov @ m
        spread = np.sqrt(q + m @ along)
        z, weight = normal_nodes()
        middle = np.array(loadings.middle[::2], dtype=np.float64) @ kappa
        h = constant + float(rest.inputs[0][0](*loadings.mean)) + middle + spread * z
        given = np.append(along, np.sqrt(q)) / (spread or 1.0)
        sites = loadings.mean[:, None] + np.outer(given[:-1], z)
        x = settled(rest, 0, h, 0.0, 0.0, sites, 0.0)
        phi = np.broadcast_to(rest.sites[0].output(x, *sites), x.shape)
        left = block_diag(loadings.cov, np.eye(1)) - np.outer(given, given)
        return Sample(given[-1] * z, weight, sites, x, phi, h, left)

    def _kink(self, a: int, base: float, root_q: float, nu: float, own: Array) -> float:
        """Node z at which a site dies out; where its field vanishes for other kinks."""
        growth = self.rest.sites[a].growth
        if growth is None or root_q == 0.0:
            return -base / root_q if root_q > 0.0 else 0.0

        def rate(z: float) -> float:
            return float(growth(base + root_q * z, nu, *own))

        low, high = -40.0, 40.0
        return float(brentq(rate, low, high)) if rate(low) * rate(high) < 0.0 else 0.0

    def back(self, a: int, unknown: Array) -> float:
        """Part of a site's own output in its field."""
        _, std, symmetry = self.rest.matrices
        return float(self.rest.shares * symmetry[a] * std[a] * std[:, a] @ self.parts(unknown)[2])

    def variance(self, a: int, unknown: Array) -> float:
        """Variance of the field, without low-rank part."""
        std, second = self.rest.matrices[1], np.maximum(self.parts(unknown)[0], 0.0)
        return float(self.rest.shares * std[a] ** 2 @ second) + self.rest.inputs[a][1]

    def slopes(self, a: int, unknown: Array, s: Sample) -> Array:
        """Derivative of the output by the Gaussian part of the field at each node."""
        own = self.own_slopes(a, unknown, s, 0.0)
        return np.asarray(own / (1.0 - self.back(a, unknown) * own))

    def own_slopes(self, a: int, unknown: Array, s: Sample, rate: float) -> Array:
        """Slopes phi' f_h / (rate - f_x) without the memory; of extinct sites zero."""
        site, nu = self.rest.sites[a], self.parts(unknown)[4]
        by_state, by_field = (
            np.broadcast_to(y(s.x, s.field, nu, *s.sites), s.x.shape)
            for y in (site.by_state, site.by_field)
        )
        slope = np.broadcast_to(site.slope(s.x, *s.sites), s.x.shape)
        with np.errstate(divide="ignore", invalid="ignore"):
            found = slope * by_field / (rate - by_state)
        return np.where(by_field == 0.0, 0.0, found)

    def __call__(self, unknown: Array, start: float = 0.0) -> Array:
        """The averages that follow from assumed ones."""
        count = self.rest.populations
        new = np.append(np.zeros(self.size - 1), unknown[-1])  # a multiplier is added to
        kappa = np.zeros(len(self.rest.loadings))
        for a in range(count):
            s = self.sample(a, unknown, start)
            new[a] = s.weight @ s.phi**2
            new[count + a] = s.weight @ s.phi
            spread = s.field - s.field.mean()
            if self.kinked and spread.any():
                q = self.variance(a, unknown)
                new[2 * count + a] = s.weight @ (s.z * s.phi) / np.sqrt(q) if q > 0.0 else 0.0
            else:
                new[2 * count + a] = s.weight @ self.slopes(a, unknown, s)
            kappa += self.rest.shares[a] * np.array(
                [s.weight @ (n(*s.sites) * s.phi) for _, n in self.rest.loadings]
            )
            if self.held is not None:
                function, value = self.held
                new[-1] += self.rest.shares[a] * (s.weight @ function(s.x, *s.sites) - value)
        new[3 * count : 3 * count + kappa.size] = kappa
        return new

    def at_constraint(self, guess: Array, start: float) -> Array:
        """A guess with the smallest multiplier of its sites that meets the constraint, if any."""
        if self.held is None:
            return guess

        def gap(nu: float) -> float:
            return float(self(np.append(guess[:-1], nu), start)[-1] - nu)

        with np.errstate(all="ignore"):
            gaps = np.array([gap(nu) for nu in MULTIPLIERS])
            ends = np.flatnonzero(gaps[1:] * gaps[:-1] <= 0.0)
            if not ends.size:
                return guess
            nearest = min(ends, key=lambda i: abs(MULTIPLIERS[i] + MULTIPLIERS[i + 1]))
            nu = brentq(gap, MULTIPLIERS[nearest], MULTIPLIERS[nearest + 1])
        return np.append(guess[:-1], nu)


def settled(
    rest: Rest, a: int, h: Array, back: float, nu: float, sites: Array, start: float
) -> Array:
    """Rest states that the flow of each site reaches from `start`, by implicit steps that grow."""
    site, step = rest.sites[a], 1.0
    x = np.full(h.shape, start if start or not rest.network.positive else 1.0)
    if site.is_linear and not back:
        none = np.zeros(h.shape)
        slope = site.by_state(none, h, nu, *sites)
        return np.where(slope < 0.0, -site.rate(none, h, nu, *sites) / slope, np.nan)
    with np.errstate(all="ignore"):
        for _ in range(RELAXATIONS):
            phi = np.broadcast_to(site.output(x, *sites), x.shape)
            field = h + back * phi
            rate = np.broadcast_to(site.rate(x, field, nu, *sites), x.shape)
            slope = site.by_state(x, field, nu, *sites) + back * site.by_field(
                x, field, nu, *sites
            ) * site.slope(x, *sites)
            change = rate / (1.0 / step - np.minimum(slope, 0.0))
            x = x + change
            if rest.network.positive:
                x = np.maximum(x, 0.0)
            if np.abs(change).max() <= AT_REST * max(1.0, float(np.abs(x).max())) and step > 1e3:
                break
            step *= 2.0
    return x


def rest_points(network: RandomNetwork, start: float | None = None) -> list[NetworkFixedPoint]:
    """All fixed points that are found from several guesses of the averages."""
    explicit = lotka_volterra(network)
    search = Search(network)
    if explicit is not None:
        points = [described(search, guess) for guess in explicit]
        return [point for point in points if point.status is Status.OK]
    begin = 0.0 if start is None else float(start)
    if search.gaussian is not None:
        found = [_with_response(search, at) for at in search.gaussian.unknowns()]
    else:
        found = _searched(search, begin)
    found.sort(key=lambda y: y.round(8).tolist())
    return [described(search, at, start=begin) for at in found]


def _with_response(search: Search, at: Array) -> Array:
    """The unknown of Gaussian sites with their response, which plays no role for them."""
    at = np.insert(at, 2, 0.0)
    at[2] = search(at)[2]
    return at


def _searched(search: Search, begin: float) -> list[Array]:
    found: list[Array] = []
    rest, held = search.rest, search.held is not None
    for guess in guesses(len(rest.loadings), rest.populations, int(held)):
        begun = search.at_constraint(guess, begin)
        # Under a constraint the iteration may leave a point that Newton's method finds.
        for near in (relaxed(search, begun, begin), *[begun] * held):
            if near is None or any(np.abs(near - other).max() < NEAR for other in found):
                continue
            at = solved(search, near, begin)
            if at is not None and not any(np.abs(at - other).max() < SAME for other in found):
                found.append(at)
    return found


def relaxed(search: Search, at: Array, start: float) -> Array | None:
    """What damped iteration from a guess reaches; None where it diverges."""
    with np.errstate(all="ignore"):
        for _ in range(WARM_UP):
            new = search(at, start)
            if not np.isfinite(new).all() or np.abs(new).max() > LARGEST:
                return None
            if np.abs(new - at).max() < NEAR * max(1.0, np.abs(at).max()) / 10.0:
                break
            at = 0.5 * at + 0.5 * new
    return at


def solved(search: Search, at: Array, start: float) -> Array | None:
    """The fixed point of the averages near what damped iteration reached; None without one."""
    with np.errstate(all="ignore"):
        result: Any = root(partial(_gap, search, start), at, tol=1e-13)
        best = result.x if np.isfinite(result.x).all() else at
        gap = search(best, start) - best
    largest = float(np.abs(best).max())
    return best if np.abs(gap).max() < ACCEPTED * max(1.0, largest) < ACCEPTED * LARGEST else None


def _gap(search: Search, start: float, at: Array) -> Array:
    return np.asarray(search(at, start) - at)


def described(search: Search, at: Array, start: float = 0.0) -> NetworkFixedPoint:
    """The record of a fixed point: moments, response, stability."""
    rest = search.rest
    count = rest.populations
    second, mean, chi, kappa, nu = search.parts(at)
    samples = [search.sample(a, at, start) for a in range(count)]
    states = np.array([[s.weight @ s.x, s.weight @ s.x**2] for s in samples])
    survival = np.ones(count)
    for a, s in enumerate(samples):
        growth = rest.sites[a].growth
        if growth is not None:
            bare = s.field - search.back(a, at) * s.phi  # what an extinct site sees
            rate = np.broadcast_to(growth(bare, nu, *s.sites), s.x.shape)
            survival[a] = float(s.weight @ (rate > 0.0))
    slopes = [search.slopes(a, at, s) for a, s in enumerate(samples)]
    std = rest.matrices[1]
    matrix = np.array([
        [rest.shares[b] * std[a, b] ** 2 * (samples[b].weight @ slopes[b] ** 2)
         for b in range(count)] for a in range(count)
    ])  # fmt: skip
    replicon = float(np.abs(np.linalg.eigvals(matrix)).max())
    outliers, bulk = _outliers(search, at, samples)
    edge = _edge(search, at, samples[0]) if count == 1 else np.nan
    residual = float(np.abs(search(at, start) - at).max())
    scale = max(1.0, float(np.abs(at).max()))
    one = rest.network.fractions is None

    def shaped(values: Any) -> Any:
        return float(values[0]) if one else np.array(values)

    return NetworkFixedPoint(
        output_mean=shaped(mean), output_second_moment=shaped(second),
        state_mean=shaped(states[:, 0]), state_second_moment=shaped(states[:, 1]),
        response=shaped(chi), survival=shaped(survival), loadings=kappa,
        multiplier=nu if search.held else np.nan, replicon=replicon, spectral_edge=edge,
        outliers=outliers, bulk_radius=bulk,
        stable=bool(replicon < 1.0 - MARGINAL and (
            outliers.real.max() < 1.0 if outliers.size else not _run_away(search, at, start)
        )),
        residual=residual,
        status=Status.OK if residual < ACCEPTED * scale else Status.NOT_CONVERGED,
    )  # fmt: skip


def _run_away(search: Search, at: Array, start: float) -> bool:
    """Whether a perturbation of the averages grows: by a real factor above 1 of their map.

    All factors of modulus above 1 count for maps of the field alone, whose next averages these are.
    A multiplier follows the averages, so that its constraint holds.
    """
    count, network = search.rest.populations, search.rest.network
    # Where sites have kinks the response is a ratio that vanishing fields leave open.
    moved = [n for n in range(at.size) if not (search.kinked and 2 * count <= n < 3 * count)]
    base, step = search(at, start), PERTURBED * max(1.0, float(np.abs(at).max()))
    changes = [(search(at + step * np.eye(at.size)[n], start) - base)[moved] for n in moved]
    slopes = np.array(changes) / step
    if search.held is not None:
        by_multiplier, held = slopes[-1], slopes[-1, -1] - 1.0
        slopes = (slopes - np.outer(slopes[:, -1], by_multiplier) / held)[:-1, :-1]
    factors = np.linalg.eigvals(slopes)
    if network.kind == "map" and not any(y.has(network.state) for y in network.rate):
        return bool(np.abs(factors).max() > 1.0 + NEAR)
    real = factors.real[np.abs(factors.imag) < NEAR]
    return bool(real.size and real.max() > 1.0 + NEAR)


def _outliers(
    search: Search, at: Array, samples: Sequence[Sample]
) -> tuple[NDArray[np.complex128], float]:
    """Outliers (10) of leaky sites without symmetry, and the radius of the bulk."""
    rest = search.rest
    mean, std, symmetry = rest.matrices
    empty = np.empty(0, np.complex128)
    if rest.populations > 1:
        return empty, float("nan")
    s, sigma = samples[0], std[0, 0]
    slope = np.broadcast_to(rest.sites[0].slope(s.x, *s.sites), s.x.shape)
    bulk = float(sigma * np.sqrt(s.weight @ slope**2))
    network = rest.network
    leaky = sp.expand(network.rate[0] - network.field + network.state) == 0
    if not leaky or symmetry[0, 0] or network.kind == "map":
        return empty, bulk
    modes = [(m(*s.sites), n(*s.sites)) for m, n in rest.loadings]
    if mean[0, 0]:
        modes.append((mean[0, 0] * np.ones(s.x.size), np.ones(s.x.size)))
    if not modes:
        return empty, bulk
    q = max(sigma**2 * at[0] + rest.inputs[0][1], 0.0)
    eta = np.sqrt(q) * s.z
    ones, size, rank = np.ones(s.x.size), len(modes), len(rest.loadings)
    left = np.zeros((size, size + 1))
    if s.left is not None and search.rest.normal is not None:
        m, n = (search.rest.normal.array(i) for i in (0, 1))
        left[:rank, :rank] = n @ s.left[:-1, :-1] @ m.T
        left[:rank, size] = n @ s.left[:-1, -1]
    A = np.zeros((size + 1, size + 1))
    for i, (_, n) in enumerate(modes):
        for j, (m, _) in enumerate(modes):
            A[i, j] = s.weight @ (n * m * slope * ones) + left[i, j] * (s.weight @ slope)
        across = s.weight @ (n * slope * s.z) + left[i, size] * (s.weight @ slope)
        A[i, size] = across / np.sqrt(q) if q > 0.0 else 0.0
    for j, (m, _) in enumerate(modes):
        A[size, j] = sigma**2 * (s.weight @ (m * s.phi * slope))
    A[size, size] = sigma**2 * (s.weight @ (s.phi * slope * eta)) / q if q > 0.0 else 0.0
    return np.linalg.eigvals(A).astype(np.complex128), bulk


def _edge(search: Search, at: Array, s: Sample) -> float:
    """Right edge of the Jacobian's bulk: the largest rate with sigma^2 E g^2 = 1."""
    _, std, symmetry = search.rest.matrices
    sigma2 = std[0, 0] ** 2
    if sigma2 == 0.0:
        return float("nan")

    def excess(rate: float) -> float:
        own, R = search.own_slopes(0, at, s, rate), 0.0
        for _ in range(500):
            new = float(s.weight @ (own / (1.0 - symmetry[0, 0] * sigma2 * R * own)))
            if abs(new - R) < 1e-14:
                break
            R = 0.5 * (R + new)
        g = own / (1.0 - symmetry[0, 0] * sigma2 * R * own)
        return float(sigma2 * (s.weight @ g**2)) - 1.0

    site, nu = search.rest.sites[0], search.parts(at)[4]
    top = float(np.max(np.broadcast_to(site.by_state(s.x, s.field, nu, *s.sites), s.x.shape)))
    high = top + 1.0
    while excess(high) > 0.0:
        high = top + 2.0 * (high - top)
        if high - top > 1e8:
            return float("nan")
    low = high
    for _ in range(200):
        low = top + 0.8 * (low - top)
        if excess(low) > 0.0:
            return float(brentq(excess, low, high, xtol=1e-13))
    return float("nan")
