"""Random networks of N units: couplings are drawn and the units integrated."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import ArrayLike, NDArray

from dmft.arrays import Array
from dmft.errors import BadParameter
from dmft.laws import Law
from dmft.model.random_network import (
    GaussianInput,
    RandomNetwork,
    S,
    T,
    starts_of,
    step_of,
    valued,
)
from dmft.names import VERSION, Status
from dmft.progress import ProgressOption
from dmft.simulation.ensemble import AXES, NetworkEnsemble, averaged
from dmft.solvers.jobs import Job, run_tasks, thread_count
from dmft.solvers.run import saved_steps
from dmft.special.sampling import as_seeds
from dmft.validation import checked, shown

# Saved times by default; states beyond this have diverged; steps between renormalisations.
POINTS, LARGEST, RENORMALISED = 21, 1e12, 10
# Units whose couplings still fit into memory.
MOST_UNITS = 2**15
# Steps of the secant iteration for a multiplier.
SECANTS = 50


@dataclass(frozen=True)
class Units:
    """A network of N units: its functions of arrays, by population."""

    network: RandomNetwork
    values: Mapping[sp.Symbol, float]
    dim: int
    dt: float

    def number(self, expr: sp.Expr) -> float:
        """An expression in parameters as a number."""
        return float(expr.xreplace({y: sp.Float(v) for y, v in self.values.items()}))

    def function(self, expr: sp.Expr, *first: sp.Symbol) -> Callable[..., Any]:
        """Function of arrays of the given symbols, then of the site parameters."""
        at = expr.xreplace({y: sp.Float(v) for y, v in self.values.items()})
        return sp.lambdify([*first, *self.network.site_symbols], at, ["scipy", "numpy"], cse=True)

    @property
    def sizes(self) -> list[int]:
        """Units of each population."""
        edges = np.rint(np.cumsum([0.0, *self.network.shares]) * self.dim).astype(int)
        return [int(y) for y in np.diff(edges)]


def refuse_options(given: Any) -> None:
    """Refuse what only models under an algorithm have."""
    if given:
        raise BadParameter(
            "random networks have no algorithm, events or methods: simulate(network, dim=, t_max=, "
            "seeds=, start=, dt=)"
        )


@checked
def simulate_network(
    network: RandomNetwork,
    dim: int,
    t_max: float,
    seeds: int | Sequence[int],
    start: Any,
    *,
    dt: float | None = None,
    save_at: int | ArrayLike | None = None,
    lyapunov: bool = False,
    jacobian: bool = False,
    threads: int | None = None,
    progress: ProgressOption = None,
    **parameters: float,
) -> NetworkEnsemble:
    """Draw couplings, integrate N units, and average over units; one network for each seed."""
    if network.covariance is not None:
        raise BadParameter(
            "covariance= and memory= define the limit of the couplings, not their distribution: "
            "simulate a network that is declared by mean, std and symmetry"
        )
    if not 2 * network.populations <= dim <= MOST_UNITS:
        raise BadParameter(
            f"dim = {shown(dim)} must be at least 2 units of each population, and at most "
            f"{MOST_UNITS}, whose couplings are a matrix of 8 GiB"
        )
    step, _ = step_of(network, t_max, dt)
    units = Units(network, valued(network.scalars, parameters), dim, step)
    saved = saved_steps(POINTS if save_at is None else save_at, float(t_max), step)
    numbers = as_seeds(seeds)
    laws = starts_of(network, start)
    job = Job(len(numbers) * int(saved[-1]))
    tasks = [partial(_run, units, laws, seed, saved, lyapunov, jacobian, job) for seed in numbers]
    found = run_tasks(tasks, job, thread_count(threads), progress, "simulate")
    return _assembled(units, numbers, np.asarray(saved * step), found, job)


class Couplings:
    """One draw of the random matrix, with its mean and low-rank part."""

    def __init__(self, units: Units, generator: np.random.Generator, sites: list[Array]) -> None:
        self.units, self.generator, self.sites = units, generator, sites
        network, sizes = units.network, units.sizes
        edges = np.cumsum([0, *sizes])
        self.parts = [slice(a, b) for a, b in pairwise(edges)]
        self.means = np.array([[units.number(y) for y in row] for row in network.mean])
        self.std = np.array([[units.number(y) for y in row] for row in network.std])
        self.gamma = np.array([[units.number(y) for y in row] for row in network.symmetry])
        self.low_rank = [
            [np.concatenate([np.broadcast_to(units.function(y)(*s), (n,))
                             for s, n in zip(sites, sizes, strict=True)]) for y in pair]
            for pair in network.low_rank
        ]  # fmt: skip
        self.matrix = self._drawn()

    def _drawn(self) -> Array:
        """Matrix of variance std^2/N whose entries ij and ji have the correlation `symmetry`."""
        size = sum(self.units.sizes)
        normal = self.generator.standard_normal((size, size))
        matrix = np.empty((size, size))
        for a, rows in enumerate(self.parts):
            for b, columns in enumerate(self.parts):
                g = self.gamma[a, b]
                own = math.sqrt((1.0 + math.sqrt(max(1.0 - g * g, 0.0))) / 2.0)
                z = own * normal[rows, columns] + g / (2.0 * own) * normal[columns, rows].T
                matrix[rows, columns] = z * (self.std[a, b] / math.sqrt(size))
        return matrix

    def redraw(self) -> None:
        """A new matrix, where each step has its own."""
        if self.units.network.redrawn:
            self.matrix = self._drawn()

    def __call__(self, outputs: Array) -> Array:
        """Couplings times outputs (N,) or (N, n)."""
        field = self.matrix @ outputs
        size = outputs.shape[0]
        for a, rows in enumerate(self.parts):
            for b, columns in enumerate(self.parts):
                if self.means[a, b]:
                    field[rows] += self.means[a, b] / size * outputs[columns].sum(axis=0)
        for m, n in self.low_rank:
            field += np.multiply.outer(m, n @ outputs / size)
        return field

    def dense(self) -> Array:
        """The whole matrix."""
        return self(np.eye(self.matrix.shape[0]))


class Network:
    """One network under way."""

    def __init__(
        self, units: Units, laws: Sequence[Law], generator: np.random.Generator, steps: int
    ) -> None:
        self.units, self.generator = units, generator
        network = units.network
        x, h = network.state, network.field
        self.nu = network.multiplier[0] if network.multiplier else sp.Dummy("nu")
        sizes = units.sizes
        self.sites = [
            np.concatenate([np.atleast_2d(y.sample(generator, n)) for _, y in network.parameters])
            if network.parameters else np.empty((0, n)) for n in sizes
        ]  # fmt: skip
        self.x = np.concatenate(
            [law.sample(generator, n) for law, n in zip(laws, sizes, strict=True)]
        )
        self.couplings = Couplings(units, generator, self.sites)
        self.output = [units.function(y, x) for y in network.output]
        self.slope = [units.function(sp.diff(y, x), x) for y in network.output]
        rates = [_split(network, y) for y in network.rate]
        self.rate = [units.function(y, x, h, T, self.nu) for y in rates]
        self.by_state = [units.function(sp.diff(y, x), x, h, T, self.nu) for y in rates]
        self.by_field = [units.function(sp.diff(y, h), x, h, T, self.nu) for y in rates]
        self.inflow = [
            units.function(y.subs(x, 0), T) if network.positive else None for y in network.rate
        ]
        self.noise = [
            None if y == 0 else units.function(sp.sqrt(2 * y), x, T) for y in network.noise
        ]
        self.inputs = [self._input(a, steps) for a in range(network.populations)]
        self.held = None
        if network.multiplier:
            self.held = (
                units.function(network.multiplier[1], x),
                units.number(network.multiplier[2]),
            )
        self.last = 0.0

    def _input(self, a: int, steps: int) -> Callable[[int], Any]:
        given, dt = self.units.network.input[a], self.units.dt
        if not isinstance(given, GaussianInput):
            call = self.units.function(given, T)
            return lambda k: call(k * dt, *self.sites[a])
        times = np.arange(steps) * dt
        expr = given.covariance.xreplace({y: sp.Float(v) for y, v in self.units.values.items()})
        call = sp.lambdify([T, S], expr, ["scipy", "numpy"])
        matrix = np.broadcast_to(call(times[:, None], times[None, :]), (steps, steps))
        values, vectors = np.linalg.eigh(matrix)
        kept = values > 1e-12 * values.max()
        root = vectors[:, kept] * np.sqrt(values[kept])
        drawn = root @ self.generator.standard_normal((root.shape[1], self.units.sizes[a]))
        return lambda k: drawn[k]

    def over(self, functions: Sequence[Any], x: Array, *rest: Any) -> Array:
        """Function of each population at the states of its units."""
        out = np.empty_like(x)
        for a, rows in enumerate(self.couplings.parts):
            arguments = [y[rows] if isinstance(y, np.ndarray) else y for y in rest]
            out[rows] = functions[a](x[rows], *arguments, *self.sites[a])
        return out

    def phi(self) -> Array:
        """Outputs of all units."""
        return self.over(self.output, self.x)

    def field(self, k: int) -> Array:
        """Field of all units at step k."""
        h = self.couplings(self.phi())
        for a, rows in enumerate(self.couplings.parts):
            h[rows] += self.inputs[a](k)
        return h

    def step(self, k: int) -> None:
        """Take step k."""
        self.couplings.redraw()
        h = self.field(k)
        white = self.generator.standard_normal(self.x.size) if any(self.noise) else None
        if self.held is not None:
            self.last = self._multiplier(h, k, white)
        self.x = self.moved(self.x, h, k, self.last, white)

    def moved(self, x: Array, h: Array, k: int, nu: float, white: Array | None) -> Array:
        """States after step k."""
        network, dt = self.units.network, self.units.dt
        rate = self.over(self.rate, x, h, k * dt, nu)
        if network.positive:
            new = x * np.exp(dt * rate)
            for a, rows in enumerate(self.couplings.parts):
                new[rows] += dt * self.inflow[a](k * dt, *self.sites[a])  # type: ignore[misc]
            return new
        new = rate.copy() if network.kind == "map" else x + dt * rate
        for a, rows in enumerate(self.couplings.parts):
            if self.noise[a] is not None and white is not None:
                strength = self.noise[a](x[rows], k * dt, *self.sites[a])  # type: ignore[misc]
                new[rows] += math.sqrt(dt) * strength * white[rows]
        return new

    def _multiplier(self, h: Array, k: int, white: Array | None) -> float:
        assert self.held is not None
        function, value = self.held

        def gap(nu: float) -> float:
            moved = self.moved(self.x, h, k, nu, white)
            return float(np.mean(self.over([function] * len(self.sites), moved))) - value

        low, high = self.last, self.last + 0.1
        f_low, f_high = gap(low), gap(high)
        for _ in range(SECANTS):
            if abs(f_high) < 1e-12 * max(1.0, abs(value)) or f_high == f_low:
                break
            low, high, f_low = high, high - f_high * (high - low) / (f_high - f_low), f_high
            f_high = gap(high)
        return high

    def tangent(self, y: Array, k: int) -> Array:
        """A perturbation after step k; called before the step."""
        h, t = self.field(k), k * self.units.dt
        dh = self.couplings(self.over(self.slope, self.x) * y)
        by_state = self.over(self.by_state, self.x, h, t, self.last)
        by_field = self.over(self.by_field, self.x, h, t, self.last)
        network, dt = self.units.network, self.units.dt
        change = by_state * y + by_field * dh
        if network.kind == "map":
            return change
        if network.positive:
            rate = self.over(self.rate, self.x, h, t, self.last)
            return np.asarray(np.exp(dt * rate) * (y + self.x * dt * change))
        return np.asarray(y + dt * change)

    def spectrum(self, k: int) -> NDArray[np.complex128]:
        """Eigenvalues of the Jacobian of the rates at the present states."""
        h, t = self.field(k), k * self.units.dt
        by_state = self.over(self.by_state, self.x, h, t, self.last)
        by_field = self.over(self.by_field, self.x, h, t, self.last)
        if self.units.network.positive:
            rate = self.over(self.rate, self.x, h, t, self.last)
            by_state, by_field = rate + self.x * by_state, self.x * by_field
        slope = self.over(self.slope, self.x)
        matrix = by_field[:, None] * self.couplings.dense() * slope
        return np.asarray(np.linalg.eigvals(matrix + np.diag(by_state)))


def _split(network: RandomNetwork, rate: sp.Expr) -> sp.Expr:
    """Growth rate of positive states; the rate itself of others."""
    if not network.positive:
        return rate
    return sp.expand((rate - rate.subs(network.state, 0)) / network.state)


@dataclass
class Found:
    """What one network gave."""

    values: dict[str, Array]
    status: Status
    exponent: float
    spectrum: NDArray[np.complex128] | None


def _run(
    units: Units, laws: Sequence[Law], seed: int, saved: NDArray[np.int64], lyapunov: bool,
    jacobian: bool, job: Job,
) -> Found:  # fmt: skip
    generator = np.random.default_rng(np.random.SeedSequence(seed))
    steps = int(saved[-1])
    with np.errstate(all="ignore"):
        network = Network(units, laws, generator, max(steps, 1))
        states, outputs = [], []
        y = generator.standard_normal(network.x.size) if lyapunov else None
        growth, half, status = 0.0, steps // 2, Status.OK
        for k in range(steps + 1):
            if k in saved:
                states.append(network.x.copy())
                outputs.append(network.phi())
            if k == steps or job.cancelled():
                status = status if k == steps else Status.INTERRUPTED
                break
            if y is not None:
                y = network.tangent(y, k)
                if k % RENORMALISED == 0 or k + 1 in (half, steps):
                    size = float(np.linalg.norm(y))
                    y = y / size
                    growth += math.log(size) if k >= half else 0.0
            network.step(k)
            job.add(1)
            largest = float(np.abs(network.x).max())
            if not largest < LARGEST:
                status = Status.DIVERGED if math.isfinite(largest) else Status.NONFINITE
                break
        ended = status is Status.OK
        spectrum = network.spectrum(steps) if jacobian and ended else None
    exponent = growth / ((steps - half) * units.dt) if lyapunov and ended else math.nan
    return Found(_averages(network, states, outputs, saved.size), status, exponent, spectrum)


def _averages(
    network: Network, states: list[Array], outputs: list[Array], count: int
) -> dict[str, Array]:
    """Averages over the units of each population at the saved times; NaN where it had ended."""
    several = network.units.network.fractions is not None
    found: dict[str, list[Array]] = {name: [] for name in AXES}
    for rows in network.couplings.parts:
        for front, kept in (("", states), ("output_", outputs)):
            table = np.full((count, rows.stop - rows.start), np.nan)
            for i, row in enumerate(kept):
                table[i] = row[rows]
            found[f"{front}mean"].append(table.mean(axis=1))
            found[f"{front}corr"].append(table @ table.T / table.shape[1])
    return {n: np.stack(y, axis=-1) if several else y[0] for n, y in found.items()}


def _assembled(
    units: Units, seeds: tuple[int, ...], t: Array, found: list[Found], job: Job
) -> NetworkEnsemble:
    arrays = {name: np.stack([one.values[name] for one in found]) for name in AXES}
    exponents = np.array([one.exponent for one in found])
    spectra = [one.spectrum for one in found if one.spectrum is not None]
    return NetworkEnsemble(
        t=t,
        **averaged(arrays, seeds, tuple(one.status for one in found)),
        dim=units.dim,
        lyapunov_exponents=None if np.isnan(exponents).all() else exponents,
        eigenvalues=np.stack(spectra) if len(spectra) == len(found) else None,
        provenance={
            "network": str(units.network), "dt": units.dt, "version": VERSION,
            "time_unit": "steps" if units.network.kind == "map" else "t of the sites",
        },
        statistics={"seconds": job.seconds()},
        parameters={y.name: v for y, v in units.values.items()},
    )  # fmt: skip
