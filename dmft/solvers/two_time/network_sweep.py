r"""One causal sweep over sampled paths of the sites of a random network.

At each step the correlations and responses of the outputs are means over the paths; row k of a
triangular factor of the field's covariance, times innovations that are orthonormal in the sample,
is the field's Gaussian part. There is no outer iteration. The factor has columns only for steps
whose field does not follow from that of earlier ones: few where sites are smooth in time.

Source      [eissfeller_opper_1992]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmft.arrays import Array
from dmft.names import Status
from dmft.solvers.checkpoint import Stepper
from dmft.solvers.two_time.network_kernels import (
    BLOCK,
    add_rows,
    correlate,
    factor_row,
    orthonormalise,
    respond,
)

# Columns of the response that are all kept: the latest, and so many older ones.
LATEST, OLDER = 64, 96
# Steps whose responses without memory are one matrix product.
STRIP = 32
# States beyond this have diverged.
LARGEST = 1e12
# Steps of the secant iteration for a multiplier, and its accuracy.
SECANTS, ACCURACY = 50, 1e-12


@dataclass(frozen=True, eq=False)
class SiteProblem:
    """Steps of the sites of each population, without symbols; lists have one function for each.

    `step(x, h, xi, t, sites, nu)` gives the next state and its derivatives by state and field, each
    (S,); `xi` is standard normal or None. `output(x, sites)` gives phi and its slope; `field(t,
    means, loadings, sites)` what a field has beside its Gaussian part and its memory; `kernel(corr,
    resp, t, s)` the weights (k,) of earlier outputs in the field, from rows (P, k), or None, and
    `proportional` whether they are constants times the responses;
    `covariance(corr, t, s)` (k + 1,); `loadings(outputs, sites)` overlaps with the low-rank part,
    from outputs and site parameters of all populations. `coupled` is the factor of the Gaussian
    part of the field (0 where it was dropped), `held` the constraint of the multiplier (a function
    of x and sites, whose mean has the weights `shares`, and its value), and `same_output` says
    whether sites send their states.
    """

    step: Sequence[Callable[..., Any]]
    output: Sequence[Callable[..., Any]]
    field: Sequence[Callable[..., Any]]
    kernel: Sequence[Callable[..., Any] | None]
    proportional: Sequence[bool]
    covariance: Sequence[Callable[..., Any]]
    loadings: Sequence[Callable[..., Any]]
    noisy: Sequence[bool]
    coupled: Sequence[float]
    held: tuple[Callable[..., Any], float] | None
    shares: Sequence[float]
    dt: float
    same_output: bool = False

    @property
    def populations(self) -> int:
        """Number of populations."""
        return len(self.step)


def kept_columns(steps: int, proportional: bool) -> tuple[int, int, int, int]:
    """Stride of old columns; room for columns, for recent steps of each and for nodes of its past.

    Responses are linear between columns that are kept. So are weights of the past that are
    proportional to them: only sums over the past with hat functions at the nodes are needed.
    """
    if steps <= LATEST + OLDER:
        return 1, steps + 1, steps + 2, 1
    stride = -(-steps // OLDER)
    held = (LATEST + stride + 1, steps // stride + 1) if proportional else (steps + 2, 1)
    return stride, LATEST + OLDER + 2, *held


@dataclass
class Columns:
    """Derivatives of the paths by fields at earlier steps: the columns that are kept.

    All columns of recent steps, and of older ones every `stride`-th. `proportional` says whether
    outputs return by weights proportional to the responses. The past up to step `edge` is then held
    as sums at the nodes, those of the outputs themselves in `outputs`.
    """

    paths: int
    steps: int
    proportional: bool
    slots: list[int] = field(default_factory=list)
    begun: list[int] = field(default_factory=list)
    edge: int = 0

    def __post_init__(self) -> None:
        self.stride, room, self.ring, nodes = kept_columns(self.steps, self.proportional)
        self.free = list(range(room))[::-1]
        blocks, rows = -(-self.paths // BLOCK), (room, self.ring + nodes)
        self.kicks = np.zeros((blocks, room, BLOCK), np.float32)
        self.past = np.zeros((blocks, *rows, BLOCK), np.float32)
        self.outputs = np.zeros((nodes, self.paths))

    def add_memory(self, k: int, weight: Array, outputs: Array, total: Array) -> None:
        """Add the outputs before step k times their weights, (k,)."""
        if k == 0:
            self.outputs[0] = outputs[0]
        while len(self.outputs) > 1 and self.edge + self.stride <= k - LATEST:
            self._fold(outputs)
        nodes = weight[: self.edge + 1 : self.stride].copy()
        add_rows(self.outputs, np.arange(nodes.size), nodes, total)
        late = np.arange(self.edge + 1, k)
        add_rows(outputs, late, weight[late], total)

    def _fold(self, outputs: Array) -> None:
        """Add the steps up to the next node to the nodes on both sides; columns there are old."""
        old = [y for y, m in zip(self.slots, self.begun, strict=True) if m <= self.edge]
        node = self.edge // self.stride
        for n in range(1, self.stride + 1):
            row = self.past[:, old, (self.edge + n) % self.ring]
            for at, share in ((node, 1.0 - n / self.stride), (node + 1, n / self.stride)):
                self.past[:, old, self.ring + at] += share * row
                self.outputs[at] += share * outputs[self.edge + n]
        self.edge += self.stride

    def move(self, k: int, weight: Array, *derivatives: Array) -> tuple[list[int], Array]:
        """Move all columns through step k: their steps, and the means of their responses."""
        self._drop(k)
        new, out = self.free.pop(), np.empty(len(self.slots) + 1)
        slots, begun = (np.array(y, dtype=np.int64) for y in (self.slots, self.begun))
        nodes, late = np.arange(0, self.edge + 1, self.stride), np.arange(self.edge + 1, k)
        places = np.concatenate([self.ring + nodes // self.stride, late % self.ring])
        # A column is zero up to its own step.
        first = np.where(begun > self.edge, nodes.size + begun - self.edge, begun // self.stride)
        weight = weight[np.concatenate([nodes, late])]
        here = (k + 1) % self.ring
        respond(self.kicks, self.past, slots, first, places, weight, *derivatives, here, new, out)
        self.slots.append(new)
        self.begun.append(k)
        return self.begun, out

    def _drop(self, k: int) -> None:
        """Give up columns that are neither recent nor on the coarse grid."""
        if self.stride == 1:
            return
        for slot, m in list(zip(self.slots, self.begun, strict=True)):
            if k - m >= LATEST and m % self.stride:
                self.slots.remove(slot)
                self.begun.remove(m)
                self.free.append(slot)


class Repeated(Stepper):
    """A march that keeps no checkpoint: it is repeated from its seed."""

    problem: SiteProblem
    steps: int
    done: int

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.done >= self.steps

    def where(self, status: Status) -> str:
        """Time at which the sweep ended."""
        return f"{status} at t = {self.done * self.problem.dt:g}"

    def stored(self) -> dict[str, Any]:
        """Nothing: a sweep is repeated from its seed."""
        return {"done": self.done}

    def restore(self, data: Mapping[str, Any]) -> None:
        """Start again."""


class Sweep(Repeated):
    """One sweep under way; `paths` are those of each population, `sites` its parameters (n, S)."""

    # Whether all steps have a column in the factor.
    EVERY = False

    def __init__(
        self,
        problem: SiteProblem,
        steps: int,
        paths: int,
        start: Sequence[Array],
        sites: Sequence[Array],
        generator: np.random.Generator,
    ) -> None:
        self.problem, self.steps, self.paths, self.sites = problem, steps, paths, sites
        self.status, self.message, self.done = Status.OK, "", 0
        size, count = steps + 1, problem.populations
        self.states = np.zeros((count, size, paths))
        self.outputs = self.states if problem.same_output else np.zeros_like(self.states)
        self.corr, self.resp = (np.zeros((count, size, size)) for _ in range(2))
        self.state_corr = np.zeros((count, size, size))
        self.mean, self.state_mean = np.zeros((count, size)), np.zeros((count, size))
        self.multiplier = np.zeros(size)
        # The factor of each population, and the steps of its columns.
        self.roots, self.pivots = np.zeros((count, size, size)), list[int]()
        # Responses: while there is a memory, else of all steps from derivatives of each.
        remembers = any(call is not None for call in problem.kernel)
        self.columns = [Columns(paths, steps, y) for y in problem.proportional if remembers]
        self.moves = np.empty((count, 0 if remembers else 3, size, paths), np.float32)
        # Orthonormal rows of each population: fixed ones, then innovations and white noise.
        self.generator, self.innovations = generator, np.empty((count, 0), dtype=np.int64)
        # Normal points (count, n, paths) for the first innovations; later ones are pseudo-random.
        self.points = np.empty((count, 0, paths))
        rows = [2 + len(sites[a]) + steps * (1 + problem.noisy[a]) for a in range(count)]
        self.basis, self.held = [np.empty((n, paths)) for n in rows], [0] * count
        for a, x in enumerate(start):
            for row in (np.ones(paths), x, *sites[a]):
                self._add(a, row)
        for a, x in enumerate(start):
            self.states[a, 0] = x
        self.slopes = np.array([self._outputs(a) for a in range(count)])

    def _add(self, a: int, row: Array) -> int:
        """Place of a row among the orthonormal ones, or as it is where paths are too few."""
        n = self.held[a]
        self.basis[a][n], self.held[a] = row, n + 1
        if self.paths > 2 * n:
            orthonormalise(self.basis[a], n)
        return n

    def _innovation(self, a: int) -> int:
        """Place of a new innovation."""
        r, points = len(self.pivots) - 1, self.points[a]
        return self._add(
            a, points[r] if r < len(points) else self.generator.standard_normal(self.paths)
        )

    def _outputs(self, a: int) -> Array:
        """Write outputs and their averages at the present step; return the slopes."""
        k = self.done
        phi, slope = self.problem.output[a](self.states[a, k], self.sites[a])
        self.outputs[a, k] = phi
        self.mean[a, k], self.state_mean[a, k] = phi.mean(), self.states[a, k].mean()
        if not all(self.problem.proportional):  # the memory needs all of them
            correlate(self.outputs[a], np.arange(k + 1), k, self.corr[a, k])
        return np.ascontiguousarray(np.broadcast_to(slope, (self.paths,)), dtype=np.float64)

    def step(self) -> None:
        """Take one step of all populations."""
        k, p = self.done, self.problem
        self._factor()
        loadings = [f(self.outputs[:, k], self.sites) for f in p.loadings]
        fields, weights = zip(
            *(self._field(a, loadings) for a in range(p.populations)), strict=True
        )
        normal = self.generator.standard_normal
        self.white = [
            self.basis[a][self._add(a, normal(self.paths))] if noisy else None
            for a, noisy in enumerate(p.noisy)
        ]
        nu = self._multiplier(fields)
        found = [self._moved(a, fields[a], nu) for a in range(p.populations)]
        self.multiplier[k] = nu
        self.derivatives = np.array([y[1:] for y in found]).swapaxes(0, 1)
        for a, (new, _, _) in enumerate(found):
            self.states[a, k + 1] = new
        self.done += 1
        largest = float(np.abs(self.states[:, k + 1]).max())
        if not largest < LARGEST:
            self.stop(Status.DIVERGED if np.isfinite(largest) else Status.NONFINITE)
            return
        for a, (_, by_state, by_field) in enumerate(found):
            self.slopes[a] = self._outputs(a)
            moved = by_state, by_field, self.slopes[a]
            if not self.columns:
                self.moves[a, :, k] = moved
            else:
                slots, values = self.columns[a].move(k, weights[a], *moved)
                self.resp[a, k + 1, : k + 1] = between(np.array(slots), values, k + 1)
        if self.finished:
            self._finish(self.steps + 1)

    def stop(self, status: Status) -> None:
        """End here."""
        super().stop(status)
        self._finish(max(self.done, 1))

    def _finish(self, size: int) -> None:
        """Correlations at all times before `size`, and responses without memory."""
        for a, (phi, x) in enumerate(zip(self.outputs, self.states, strict=True)):
            self.corr[a, :size, :size] = phi[:size] @ phi[:size].T / self.paths
            same = self.problem.same_output
            self.state_corr[a, :size, :size] = (
                self.corr[a, :size, :size] if same else x[:size] @ x[:size].T / self.paths
            )
            if not self.columns:
                self.resp[a, :size, :size] = responses(*self.moves[a, :, : size - 1])
        self.moves = np.empty((0, 0, 0, 0), np.float32)

    def _factor(self) -> None:
        """Rows of the factors at the present step, with a column for what is new in a field."""
        k, p = self.done, self.problem
        at = np.array([*self.pivots, k])
        corr = np.zeros((p.populations, at.size))
        for a, phi in enumerate(self.outputs):
            correlate(phi, at, k, corr[a])
        new = self.EVERY
        for a in range(p.populations):
            row = np.asarray(p.covariance[a](corr, k * p.dt, at * p.dt))
            row = np.broadcast_to(row, at.shape).astype(np.float64)
            new |= factor_row(self.roots[a], row, at.size - 1) and p.coupled[a] != 0.0
        if new:
            self.pivots.append(k)
            drawn = [[self._innovation(a)] for a in range(p.populations)]
            self.innovations = np.hstack([self.innovations, drawn])

    def _field(self, a: int, loadings: Sequence[float]) -> tuple[Array, Array]:
        """Field of each path, and the weights of earlier outputs in it."""
        k, p = self.done, self.problem
        total = np.zeros(self.paths)
        total += p.field[a](k * p.dt, self.mean[:, k], loadings, self.sites[a])
        r = len(self.pivots)
        if p.coupled[a]:
            # A step without a column of its own has its row after those of all columns.
            row = self.roots[a, r - (r > 0 and self.pivots[-1] == k), :r]
            add_rows(self.basis[a], self.innovations[a], p.coupled[a] * row, total)
        weight, kernel = np.zeros(max(k, 1)), p.kernel[a]
        if not self.columns:
            return total, weight
        if kernel is not None:
            s = np.arange(k) * p.dt
            weight[:k] = kernel(self.corr[:, k, :k], self.resp[:, k, :k], k * p.dt, s)
        self.columns[a].add_memory(k, weight, self.outputs[a], total)
        return total, weight

    def _moved(self, a: int, h: Array, nu: float) -> tuple[Array, Array, Array]:
        k, xi = self.done, self.white[a]
        found = self.problem.step[a](
            self.states[a, k], h, xi, k * self.problem.dt, self.sites[a], nu
        )
        new, by_state, by_field = (np.broadcast_to(y, (self.paths,)).astype(float) for y in found)
        return new, by_state, by_field

    def _multiplier(self, fields: Sequence[Array]) -> float:
        """Value of nu that keeps the constraint after this step."""
        if self.problem.held is None:
            return 0.0
        function, value = self.problem.held

        def gap(nu: float) -> float:
            moved = (self._moved(a, h, nu)[0] for a, h in enumerate(fields))
            means = [np.mean(function(x, *y)) for x, y in zip(moved, self.sites, strict=True)]
            return float(np.dot(self.problem.shares, means)) - value

        return constrained(gap, self.multiplier[self.done - 1] if self.done else 0.0, value)


def constrained(gap: Callable[[float], float], low: float, value: float) -> float:
    """Multiplier near `low` at which an average differs by `gap` = 0 from its `value` (secants)."""
    high = low + 0.1
    f_low, f_high = gap(low), gap(high)
    for _ in range(SECANTS):
        if abs(f_high) <= ACCURACY * max(1.0, abs(value)) or f_high == f_low:
            break
        low, high, f_low = high, high - f_high * (high - low) / (f_high - f_low), f_high
        f_high = gap(high)
    return high


def between(columns: NDArray[np.int64], values: Array, count: int) -> Array:
    """Responses at all steps m < count from those of the columns that are kept."""
    if columns.size == count:
        return values
    return np.asarray(np.interp(np.arange(count), columns, values))


def responses(by_state: Array, by_field: Array, slope: Array) -> Array:
    """Means over paths of slope[k] by_state[k] .. by_state[m + 1] by_field[m], at (k + 1, m).

    Derivatives by all earlier fields move through a strip of steps at once.
    """
    steps, paths = slope.shape
    found, kicks = np.zeros((steps + 1, steps + 1)), by_field.copy()
    with np.errstate(all="ignore"):
        for low in range(0, steps, STRIP):
            high = min(low + STRIP, steps)
            gain = np.cumprod(by_state[low:high], axis=0)
            found[low + 1 : high + 1, :low] = (gain * slope[low:high]) @ kicks[:low].T
            kicks[:low] *= gain[-1]
            for k in range(low, high):
                kicks[low:k] *= by_state[k]
                found[k + 1, low : k + 1] = kicks[low : k + 1] @ slope[k]
    return found / paths


# Size of a perturbation at which all of its past is scaled down.
TOO_LARGE = 1e60


class Perturbed(Sweep):
    """A sweep over sites and their perturbations; `growth` is log(E y^2) / 2.

    The couplings act on psi = phi'(x) y of a perturbation y. (x, y) is a process whose fields have
    the covariances of the outputs phi and psi, and the same memory; the exponent is that of E y^2.
    Outputs and perturbations of outputs alternate as rows of one process, so that one triangular
    factor for each receiving population holds the covariances within and between both fields.
    """

    EVERY = True

    def __init__(
        self, problem: SiteProblem, steps: int, paths: int, start: Sequence[Array],
        sites: Sequence[Array], generator: np.random.Generator,
    ) -> None:  # fmt: skip
        count, size = problem.populations, 2 * (steps + 1)
        self.rows = np.zeros((count, size, paths))
        self.joint, self.table = np.zeros((count, size, size)), np.zeros((count, size))
        self.fresh = generator.standard_normal((count, size, paths))
        self.y = generator.standard_normal((count, paths))
        self.y /= math.sqrt(float(np.mean(self.y**2)))
        self.scale, self.growth = 0.0, np.zeros(steps + 1)
        super().__init__(problem, steps, paths, start, sites, generator)

    def step(self) -> None:
        """Take one step of the sites and of the perturbations."""
        k, p, y, count = self.done, self.problem, self.y, len(self.y)
        self.rows[:, 2 * k], self.rows[:, 2 * k + 1] = self.outputs[:, k], self.slopes * y
        super().step()
        if self.status is not Status.OK:
            return
        self.fresh[:, 2 * k] = [self.basis[a][n] for a, n in enumerate(self.innovations[:, k])]
        s: Array = p.dt * np.arange(k + 1, dtype=np.float64)
        strength = [np.repeat(self._strength(a, k * p.dt, s), 2, axis=1) for a in range(count)]
        for row in (2 * k, 2 * k + 1):
            for b in range(count):
                correlate(self.rows[b], np.arange(row + 1), row, self.table[b])
            for a in range(count):
                table, root = (strength[a] * self.table[:, : 2 * k + 2]).sum(axis=0), self.joint[a]
                factor_row(root, table, row)
        zeta = np.zeros_like(y)
        for a, kernel in enumerate(p.kernel):
            own = p.coupled[a] * self.joint[a, 2 * k + 1, : 2 * k + 2]
            add_rows(self.fresh[a], np.arange(own.size), own, zeta[a])
            if kernel is not None and k:
                weight = np.zeros(2 * k)
                weight[1::2] = kernel(self.corr[:, k, :k], self.resp[:, k, :k], k * p.dt, s[:k])
                add_rows(self.rows[a], np.arange(2 * k), weight, zeta[a])
        by_state, by_field = self.derivatives
        self.y = by_state * y + by_field * zeta
        size = float(np.mean(self.y**2))
        self.growth[k + 1] = self.scale + 0.5 * math.log(size) if size > 0.0 else -math.inf
        if size > TOO_LARGE or 0.0 < size < 1.0 / TOO_LARGE:
            factor = 1.0 / math.sqrt(size)
            self.scale -= math.log(factor)
            self.y *= factor
            self.rows[:, 1::2] *= factor
            self.joint[:, 1::2] *= factor

    def _strength(self, a: int, t: float, s: Array) -> Array:
        """Variances of the couplings: covariance of the field per that of the outputs, (P, k)."""
        shape = self.problem.populations, s.size
        rows = [np.zeros(shape), *(np.eye(shape[0])[:, :, None] * np.ones(s.size))]
        zero, *ones = (np.asarray(self.problem.covariance[a](y, t, s)) for y in rows)
        return np.array([np.broadcast_to(one - zero, s.shape) for one in ones])
