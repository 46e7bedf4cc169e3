"""Output channel of a label of two or three fields, and its averages by quasi-Monte Carlo.

Equation    Z(y; omega, V), g = V^-1 (E[z | y] - omega), m(q) = E[g g^T]
Valid for   discrete labels, labels with a density and mixed ones, flips; noise where the label is
            piecewise affine in one field
Source      theory/static_limits (1), (2), 2.4, (11)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import permutations, product
from typing import Any, NamedTuple

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.arrays import Array
from dmft.errors import BadParameter
from dmft.gaussian.channels.panels import between, quiet, regression, squares, widened
from dmft.gaussian.channels.pieces import stripped, with_one_sign
from dmft.gaussian.channels.sweeps import (
    Sums,
    Sweep,
    degree_in,
    interval_sums,
    noisy_sums,
    root_sums,
    slope,
)
from dmft.gaussian.nodes.rules import scrambled_sobol, to_normal

MOST_FIELDS = 3
# Points at which the structure of a label is read, and their seed.
PROBES, PROBE_SCALE, SEED = 4096, 1.5, 20260
# Steps for the shape of a covariance.
TYLER = 100
# Sobol points of an average and independent scrambles among them.
POINTS, REPLICAS = {True: 4096, False: 8192}, 4
# Nodes of a batch in memory; masses below this are not divided by.
BATCH, SMALLEST = 1 << 20, 1e-250
# Variance below which sweeps share places.
NARROW = 0.999
# Labels equal an atom up to this relative difference.
ATOM = 1e-9


class Average(NamedTuple):
    """E[g g^T] and E[log Z] of independent scrambles."""

    tables: Array
    logs: Array

    @property
    def information(self) -> Array:
        """Mean of E[g g^T]."""
        return np.asarray(self.tables.mean(axis=0))

    @property
    def error(self) -> Array:
        """Standard errors of its entries."""
        return np.asarray(np.std(self.tables, axis=0, ddof=1) / np.sqrt(len(self.tables)))

    @property
    def entropy(self) -> float:
        """Mean of E[log Z]."""
        return float(self.logs.mean())


@dataclass(frozen=True, eq=False)
class Several:
    """Law of a label y given k = 2 or 3 fields of unit covariance."""

    expr: sp.Expr
    fields: tuple[sp.Symbol, ...]
    noise: float = 0.0
    flip: float = 0.0
    nodes: int = 16

    def __post_init__(self) -> None:
        if len(self.fields) > MOST_FIELDS:
            raise BadParameter(
                f"static limits of several fields are computed up to {MOST_FIELDS}; the label has "
                f"{len(self.fields)}"
            )

    @property
    def width(self) -> int:
        """Number of fields."""
        return len(self.fields)

    @cached_property
    def inner(self) -> sp.Expr:
        """The label without strictly monotone outer functions, where y enters by level sets."""
        if self.noise or self.flip:
            return self.expr
        return stripped(self.expr, self.fields)[0]

    @cached_property
    def _probes(self) -> tuple[Array, Array, NDArray[np.bool_]]:
        """Random fields (k, n), labels (n,), and whether these depend on each field (k, n)."""
        fields = np.random.default_rng(SEED).normal(scale=PROBE_SCALE, size=(self.width, PROBES))
        slopes = [quiet(self.fields, slope(self.inner, z)) for z in self.fields]
        return fields, self.label(fields), np.array([np.abs(s(*fields)) > ATOM for s in slopes])

    def label(self, fields: Array) -> Array:
        """Labels (n,) without noise and flips at fields (k, n)."""
        return quiet(self.fields, self.inner)(*fields)

    @cached_property
    def atoms(self) -> Array:
        """Values of positive probability, before flips."""
        _, y, depends = self._probes
        return np.unique(np.round(y[~depends.any(axis=0)], 12))

    @cached_property
    def is_discrete(self) -> bool:
        """Whether the label has no density."""
        return not self.noise and not self._probes[2].any()

    @property
    def values(self) -> Array:
        """All values of a discrete label."""
        return np.unique([*self.atoms, *(-self.atoms)]) if self.flip else self.atoms

    @cached_property
    def sweeps(self) -> tuple[Sweep, ...]:
        """Sweeps that together hold every place at which the label has a density."""
        most = 1 if self.noise else 2
        degrees = {n: degree_in(self.inner, z) for n, z in enumerate(self.fields)}
        usable = [n for n, d in degrees.items() if d is not None and d <= most]
        depends: Any = self._probes[2]
        found: list[int] = []
        left = depends.any(axis=0)
        while usable and (not found or left.any()):
            best = max(usable, key=lambda n: (np.sum(left & depends[n]), n))
            if found and not np.any(left & depends[best]):
                break
            usable.remove(best)
            found.append(best)
            left = left & ~depends[best]
            if self.noise:
                left = np.zeros_like(left)
        if not found or left.any():
            what = "affine" if self.noise else "polynomial of degree two"
            raise BadParameter(
                f"{self.expr}{' with noise' * bool(self.noise)} is not piecewise {what} in one of "
                "its fields, as static limits of several fields need; simulate AMP at finite "
                "dimension instead, or approximate the label by such pieces"
            )
        return tuple(
            Sweep(self.inner, self.fields, n, tuple(found[:i]), *self._panels)
            for i, n in enumerate(found)
        )

    @cached_property
    def sharing(self) -> tuple[Sweep, ...]:
        """Sweeps that share the places at which a label without noise has a density.

        For small variances, at which sums of one sweep run across ridges.
        """
        if self.noise or self.is_discrete:
            return self.sweeps
        depends: Any = self._probes[2]
        found = []
        for n, z in enumerate(self.fields):
            degree = degree_in(self.inner, z)
            if degree is not None and 0 < degree <= 2 and depends[n].any():
                found.append(Sweep(self.inner, self.fields, n, (), *self._panels))
        kept = [sweep for sweep in found if sweep.is_solved]
        fields = tuple(sweep.last for sweep in kept)
        covered = np.any(depends[list(fields)], axis=0) if fields else np.zeros(1, dtype=bool)
        if not np.array_equal(covered, depends.any(axis=0)):
            return self.sweeps
        return tuple(replace(sweep, shared=fields) for sweep in kept)

    @property
    def _panels(self) -> tuple[int, bool]:
        """Nodes of a panel, and whether they are denser at its ends, for singular densities."""
        return (3 * self.nodes // 4, False) if self.is_discrete else (self.nodes, True)

    def sums(self, y: Array, omega: Array, variance: Array) -> Sums:
        """Z and its first two moments for labels (B,) at omega (B, k)."""
        if not self.flip:
            return self._plain_sums(y, omega, variance)
        kept, turned = (self._plain_sums(s * y, omega, variance) for s in (1.0, -1.0))
        return _mixed(kept, turned, self.flip)

    def _plain_sums(self, y: Array, omega: Array, variance: Array) -> Sums:
        k, count = self.width, len(y)
        total = Sums(np.zeros(count), np.zeros((count, k)), np.zeros((count, k, k)))
        is_narrow = float(np.linalg.eigvalsh(variance)[0]) < NARROW
        size = max(1, BATCH // (5 * self.nodes) ** (k - 1))
        for number, sweep in enumerate(self.sharing if is_narrow else self.sweeps):
            for group in sweep.groups(omega, variance, y):
                for start in range(0, len(group), size):
                    part = group[start : start + size]
                    found = self._batch(sweep, number == 0, y[part], omega[part], variance)
                    for sums, more in zip(total, found, strict=True):
                        sums[part] += more
        return total

    def value_sums(self, omega: Array, variance: Array) -> list[Sums]:
        """Sums for each value of a discrete label at once, without flips of these."""
        (sweep,) = self.sweeps
        count = max(1, BATCH // (5 * self._panels[0]) ** (self.width - 1))
        parts: list[list[Sums]] = [[] for _ in self.atoms]
        for start in range(0, len(omega), count):
            part = omega[start : start + count]
            nodes = sweep.at_nodes(part, variance)
            found = sweep.pieces(nodes.fields)
            sums = interval_sums(found, nodes.mean, nodes.scale)
            for value, kept in zip(self.atoms, parts, strict=True):
                here = np.abs(found.coefficients[0] - value) < ATOM * (1 + abs(value))
                kept.append(sweep.gathered(nodes, np.where(here, sums, 0.0), len(part)))
        return [Sums(*(np.concatenate(e) for e in zip(*kept, strict=True))) for kept in parts]

    def _batch(self, sweep: Sweep, is_first: bool, y: Array, omega: Array, variance: Array) -> Sums:
        """Sums of one sweep; atoms belong to the first one."""
        at_atom = np.zeros(len(y), dtype=bool)
        for value in () if self.noise else self.atoms:
            at_atom |= np.abs(y - value) < ATOM * (1 + abs(value))
        nodes = sweep.at_nodes(omega, variance, y)
        found = sweep.pieces(nodes.fields)
        count, y, at_atom = len(y), y[nodes.label], at_atom[nodes.label]
        if self.noise:
            sums = noisy_sums(found, y, nodes.mean, nodes.scale, self.noise)
            return sweep.gathered(nodes, sums, count)
        sums = np.zeros((3, *found.low.shape))
        if is_first:
            c0, c1, c2 = found.coefficients
            flat = (c1 == 0) & (c2 == 0) & (np.abs(c0 - y) < ATOM * (1 + np.abs(y)))
            sums += np.where(flat & at_atom, interval_sums(found, nodes.mean, nodes.scale), 0.0)
        if not self.is_discrete:
            here = sweep.is_left(nodes.fields, found) & ~at_atom
            share = partial(sweep.share, nodes.fields) if sweep.shared else None
            sums += np.where(here, root_sums(found, y, nodes.mean, nodes.scale, share), 0.0)
        return sweep.gathered(nodes, sums, count)

    def log_z(self, y: Array, omega: Array, variance: Array) -> Array:
        """Log Z (B,) at omega (B, k) and one V (k, k)."""
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(self.sums(y, omega, variance).mass))

    def score(self, y: Array, omega: Array, variance: Array) -> Array:
        """Gradient g (B, k) of log Z by omega; zero where Z underflows."""
        mass, first, _ = self.sums(y, omega, variance)
        return _score(mass, first, omega, variance)

    def average(self, overlap: Array, points: int | None = None, seed: int = 0) -> Average:
        """m(q) and E[log Z] at an overlap (k, k), with errors from independent scrambles."""
        points = points or POINTS[self.is_discrete]
        variance = np.eye(self.width) - overlap
        values, vectors = np.linalg.eigh(overlap)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        found = []
        for scramble in np.random.SeedSequence(seed).spawn(REPLICAS):
            parts = []
            for weight, omega, sums in self._samples(root, variance, points // REPLICAS, scramble):
                g = _score(sums.mass, sums.first, omega, variance)
                log = np.log(np.maximum(sums.mass, SMALLEST))
                parts.append((weight, squares(g), log, _excess(sums, omega, variance)))
            found.append([np.concatenate(each) for each in zip(*parts, strict=True)])
        weight, rows, log, excess = (np.array(each) for each in zip(*found, strict=True))
        if not self.is_discrete:  # sums over all values leave nothing
            x = np.einsum("rbij,ij->rb", excess, variance)
            rows = rows - regression(weight, x, rows, variance) * excess
            log = log - regression(weight, x, log) * x
        tables = np.einsum("rb,rbij->rij", weight, rows)
        return Average(tables, np.einsum("rb,rb->r", weight, log))

    def around(
        self, learned: Array, overlap: float, points: int | None = None, seed: int = 0
    ) -> tuple[Array, Array, float]:
        """Moments at overlap q with the rows of `learned`: of the others, and m along these.

        E[M M^T] and E[G x G] with M = E[z | y, omega] - omega and G = E[z z^T | y, omega] - I on
        the complement; m is the mean of E[g g^T] on the learned directions.
        """
        k = self.width
        span = learned.T @ learned
        rest, variance = np.eye(k) - span, np.eye(k) - overlap * span
        points = (points or POINTS[self.is_discrete]) // REPLICAS
        first, second, m = np.zeros((k, k)), np.zeros((k * k, k * k)), 0.0
        scramble = np.random.SeedSequence(seed)
        for weight, omega, sums in self._samples(
            np.sqrt(overlap) * span, variance, points, scramble
        ):
            mass = np.where(sums.mass > SMALLEST, sums.mass, 1.0)
            g = _score(sums.mass, sums.first, omega, variance)
            m += float(np.einsum("b,bi,ij,bj->", weight, g, span, g)) / len(learned)
            mean = (sums.first / mass[:, None] - omega) @ rest
            spread = rest @ (sums.second / mass[:, None, None] - np.eye(k)) @ rest
            first += np.einsum("b,bi,bj->ij", weight, mean, mean)
            second += _tensor(weight, spread)
        return first, second, m

    def _samples(
        self, root: Array, variance: Array, points: int, scramble: np.random.SeedSequence
    ) -> Iterator[tuple[Array, Array, Sums]]:
        """Weights, omega = root xi and sums: at each value of a discrete label, else at labels
        drawn about omega.
        """
        extra = 0 if self.is_discrete else self.width + bool(self.noise)
        draws = to_normal(scrambled_sobol(self.width + extra, points, scramble))
        omega = (root @ draws[: self.width]).T
        if self.is_discrete:
            plain = dict(zip(self.atoms, self.value_sums(omega, variance), strict=True))
            nothing = Sums(*(0.0 * a for a in plain[self.atoms[0]]))
            for value in self.values:
                kept, turned = (plain.get(s * value, nothing) for s in (1.0, -1.0))
                sums = _mixed(kept, turned, self.flip)
                yield sums.mass / points, omega, sums
            return
        noise = np.sqrt(self.noise) * draws[-1] if self.noise else 0.0
        wide, share = widened(draws[self.width : 2 * self.width])
        z = omega.T + np.linalg.cholesky(variance) @ wide
        for sign, chance in ((1.0, 1 - self.flip), (-1.0, self.flip)):
            if chance > 0:
                sums = self.sums(sign * self.label(z) + noise, omega, variance)
                yield chance * share, omega, sums

    @cached_property
    def symmetries(self) -> tuple[tuple[Array, int], ...]:
        """Signed permutations of the fields that map the label to itself (1) or its negative."""
        found = []
        for order in permutations(range(self.width)):
            for signs in product((1, -1), repeat=self.width):
                images = {
                    z: s * self.fields[n] for z, n, s in zip(self.fields, order, signs, strict=True)
                }
                image = with_one_sign(self.inner.xreplace(images))
                kept = [s for s in (1, -1) if image == with_one_sign(s * self.inner)]
                if kept:
                    matrix = np.zeros((self.width, self.width))
                    matrix[range(self.width), order] = signs
                    found.append((matrix, kept[0]))
        return tuple(found)

    def symmetrised(self, table: Array, keeping: Array) -> Array:
        """Mean of a matrix over the symmetries that keep another one."""
        kept = [p for p, _ in self.symmetries if np.allclose(p @ keeping @ p.T, keeping)]
        return np.asarray(np.mean([p @ table @ p.T for p in kept], axis=0))

    # Without knowledge: omega = 0, V = I -----------------------------------------------------

    @cached_property
    def uninformed(self) -> tuple[Array, Array]:
        """E[M M^T] (k, k), M = E[z | y], and E[G x G] (k^2, k^2), G = E[z z^T - I | y]."""
        return self.uninformed_at(self.nodes)

    def uninformed_at(self, nodes: int) -> tuple[Array, Array]:
        """The same with a number of nodes on each panel."""
        channel = replace(self, nodes=nodes)
        y, weight = channel.label_rule(nodes)
        k = self.width
        mass, first, second = channel.sums(y, np.zeros((len(y), k)), np.eye(k))
        kept = mass > SMALLEST
        weight = np.where(kept, weight, 0.0)
        mass = np.where(kept, mass, 1.0)
        m, g = first / mass[:, None], second / mass[:, None, None] - np.eye(k)
        # What symmetries of the label make zero is zero to all digits.
        m = np.mean([m @ p.T for p, sign in self.symmetries if sign > 0], axis=0)
        g = np.mean([p @ g @ p.T for p, sign in self.symmetries if sign > 0], axis=0)
        weight = weight * mass
        return (np.einsum("b,bi,bj->ij", weight, m, m), _tensor(weight, g))

    @cached_property
    def identifies(self) -> bool:
        """Whether k noiseless labels of random inputs fix all k fields.

        The remaining covariance S of exact recovery solves S^-1 = k E[n n^T / n^T S n], n along the
        label's gradient; no solution exists where gradients concentrate on fewer directions.
        """
        if self.noise or self.is_discrete:
            return False
        fields = self._probes[0] / PROBE_SCALE
        n = np.array([quiet(self.fields, slope(self.inner, z))(*fields) for z in self.fields])
        n = n[:, np.abs(n).max(axis=0) > ATOM]
        n = n / np.linalg.norm(n, axis=0)
        covariance = np.eye(self.width)
        for _ in range(TYLER):
            share = np.sum(n * np.linalg.solve(covariance, n), axis=0)
            covariance = (n / share) @ n.T
            covariance *= self.width / np.trace(covariance)
            covariance += 1e-6 * np.eye(self.width)
        return bool(np.linalg.eigvalsh(covariance)[0] > 1e-3)

    def label_rule(self, nodes: int) -> tuple[Array, Array]:
        """Labels and weights dy of sums over y: atoms, and panels between special values."""
        if self.is_discrete:
            return self.values, np.ones(len(self.values))
        y = self._probes[1]
        spread = np.quantile(y, [0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98])
        ends = self._range
        noise = 9.0 * np.sqrt(self.noise)
        scale = float(np.std(y)) + np.sqrt(self.noise)
        tails = scale * 2.0 ** np.arange(-6, 12)
        special = self.special
        edges = [ends[0] - noise, ends[1] + noise, *special, *spread]
        for value in special:
            edges += [*(value + tails), *(value - tails)]
        if self.flip:
            edges += [-e for e in edges]
        inside = np.unique(np.clip(edges, min(edges[:2]), max(edges[:2])))
        inside = inside[np.diff(inside, prepend=-np.inf) > 1e-9 * scale]
        y, weight = between(inside, nodes, smoothed=not self.noise)
        if self.noise:
            return y, weight
        atoms = self.values
        return np.concatenate([y, atoms]), np.concatenate([weight, np.ones(len(atoms))])

    @cached_property
    def _range(self) -> tuple[float, float]:
        """Least and largest label within 8.5 standard deviations of all fields."""
        axis = np.linspace(-8.5, 8.5, 69)
        grid = np.stack([a.ravel() for a in np.meshgrid(*[axis] * self.width)])
        grid = grid[:, np.sum(grid**2, axis=0) <= 8.6**2]
        y = self.label(grid)
        return float(min(y.min(), *self.special)), float(max(y.max(), *self.special))

    @cached_property
    def special(self) -> Array:
        """Values of the label at which its density may be singular."""
        zero = np.zeros(self.width)
        near = 1e-7 * np.array(list(product((1, -1), repeat=self.width)))
        found = [*self.atoms, *self.label((zero + near).T)]
        for sweep in self.sweeps:
            probe = [f[None] for n, f in enumerate(self._probes[0][:, :64]) if n != sweep.last]
            pieces = sweep.pieces(probe)
            c0, c1, c2 = pieces.coefficients
            for end in (pieces.low, pieces.high):
                z = np.where(np.isfinite(end), end, 0.0)
                at = np.where(np.isfinite(end), c0 + z * (c1 + z * c2), np.nan).ravel()
                values, counts = np.unique(np.round(at[np.isfinite(at)], 9), return_counts=True)
                found += [v for v, n in zip(values, counts, strict=True) if n > 8]
        return np.unique(np.round(found, 6))


def _mixed(kept: Sums, turned: Sums, flip: float) -> Sums:
    """Sums of a label that is flipped with a probability."""
    return Sums(*((1 - flip) * a + flip * b for a, b in zip(kept, turned, strict=True)))


def _tensor(weight: Array, g: Array) -> Array:
    """E[G x G] (k^2, k^2) of matrices (B, k, k)."""
    size = g.shape[1] ** 2
    return np.asarray(np.einsum("b,bij,bkl->ikjl", weight, g, g).reshape(size, size))


def _excess(sums: Sums, omega: Array, variance: Array) -> Array:
    """V^-1 (E[(z - omega)(z - omega)^T | y] - V) V^-1, whose mean is zero; zero where Z underflows.

    A control variate: without noise, a small V makes E[g g^T | gradient] known up to it.
    """
    safe = sums.mass > SMALLEST
    mass = np.where(safe, sums.mass, 1.0)
    mean = sums.first / mass[:, None]
    spread = sums.second / mass[:, None, None] - squares(mean) + squares(mean - omega) - variance
    inverse = np.linalg.inv(variance)
    return np.where(safe[:, None, None], inverse @ spread @ inverse, 0.0)


def _score(mass: Array, first: Array, omega: Array, variance: Array) -> Array:
    safe = mass > SMALLEST
    mean = first / np.where(safe, mass, 1.0)[:, None]
    return np.where(safe[:, None], np.linalg.solve(variance, (mean - omega).T).T, 0.0)
