"""Output channel of a label of one Gaussian field: log Z, its score, and averages over labels.

Equation    Z(y; omega, V) = int dz N(z; omega, V) P(y | z), g = d log Z/d omega
Valid for   piecewise smooth labels y = g(z) (+ noise, flips), and labels drawn with P(y = 1 | z);
            closed for flat and affine pieces, also with noise; level sets without noise; Gauss
            rules otherwise
Source      theory/static_limits (1), (6)-(8)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, pairwise
from typing import ClassVar

import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.gaussian.channels import panels
from dmft.gaussian.channels.branches import Branch, Likelihood, Moments, Parts, at_roots, combined
from dmft.gaussian.channels.pieces import REACH, pieces, stripped, zeros_of

# Fields of omega: edges in units of its standard deviation.
OUTER = np.array([0.0, 0.5, 1.5, 3.0, 5.0, 9.0])
# Nodes of a Gauss rule over z within one piece, in two panels.
SMOOTH = 32
# More panels follow where half the nodes change log Z by more than this, up to a number of panels
# and for labels that are not as rare as this.
AGREES, MOST_PANELS, FAINT = 1e-5, 32, -60.0
# Nodes of panels, more where the density of labels is singular.
ORDER, FINE_ORDER, NOISY_ORDER = 12, 20, 10
# Break points closer than this are one; two functions that agree this far from a zero of their
# difference do not cross there.
SAME, ASIDE = 1e-10, 1e-6
# Panels in y in units of the noise.
NOISE_PANEL = 1.5
# Edges of omega without noise are at least so far apart, in units of sqrt(V) and of its spread.
APART, CLOSE = 0.5, 0.49
# Pairs of nodes of an average are taken at most this many at a time.
BLOCK = 1 << 13
# Standard deviations beyond which a Gaussian is left out; overlaps below this are not divided by.
FAR, TINY = 9.0, 1e-300


# A function of the moments given y, of V, y and omega, which broadcast.
Statistic = Callable[[Moments, Array, Array, Array], Array]


@dataclass(frozen=True, eq=False)
class Channel:
    """Law of a label y given one field z: g(z), with Gaussian noise of variance `noise`.

    Before the noise y -> -y has probability `flip`. With `drawn`, `expr` is the mean of labels +1
    and -1; with a `mixture` of (probability, label), y is one of several functions at random.
    Averages are also split at `split`, further fields. `prior_variance` is the second moment of the
    field.
    """

    expr: sp.Expr
    field: sp.Symbol
    noise: float = 0.0
    flip: float = 0.0
    drawn: bool = False
    prior_variance: float = 1.0
    mixture: tuple[tuple[float, sp.Expr], ...] = ()
    split: tuple[float, ...] = ()
    width: ClassVar[int] = 1

    @cached_property
    def cases(self) -> tuple[tuple[float, sp.Expr], ...]:
        """Probabilities and functions; one without strictly monotone outer functions.

        Without noise, y enters by level sets only.
        """
        if self.mixture:
            return self.mixture
        if self.flip:
            cases = (1.0 - self.flip, self.expr), (self.flip, -self.expr)
            return tuple(case for case in cases if case[0] > 0.0)
        if self.noise or self.drawn:
            return ((1.0, self.expr),)
        return ((1.0, stripped(self.expr, (self.field,))[0]),)

    @property
    def inner(self) -> sp.Expr:
        """The first of the functions."""
        return self.cases[0][1]

    @cached_property
    def branches(self) -> tuple[Branch, ...]:
        """Flat and strictly monotone pieces of all functions."""
        reach = REACH * float(np.sqrt(self.prior_variance))
        return tuple(
            Branch(piece, self.field, reach, share)
            for share, expr in self.cases
            for piece in pieces(expr, self.field, reach)
        )

    @cached_property
    def curved(self) -> tuple[Branch, ...]:
        """Pieces that are not flat."""
        return tuple(b for b in self.branches if not b.is_flat)

    @cached_property
    def atoms(self) -> dict[float, list[Branch]]:
        """Flat pieces by their values."""
        found: dict[float, list[Branch]] = {}
        for branch in sorted(self.branches, key=lambda b: b.limits[0]):
            if branch.is_flat:
                found.setdefault(branch.limits[0], []).append(branch)
        return found

    @cached_property
    def discrete(self) -> tuple[float, ...] | None:
        """All values of the label, sorted; None where it is continuous."""
        if self.drawn:
            return (-1.0, 1.0)
        return None if self.noise or self.curved else tuple(self.atoms)

    @cached_property
    def functions(self) -> tuple[Callable[[Array], Array], ...]:
        """Each of the functions, of an array of fields."""
        return tuple(panels.quiet([self.field], expr) for _, expr in self.cases)

    @property
    def label(self) -> Callable[[Array], Array]:
        """The label before noise and flips, without outer functions, of an array of fields."""
        return self.functions[0]

    @cached_property
    def breaks(self) -> Array:
        """Places where averages over z are split: ends of pieces and preimages of their values."""
        points = {e for b in self.branches for e in (b.low, b.high) if np.isfinite(e)}
        points |= set(self.split)
        if not (self.noise or self.drawn):
            for branch in self.curved:
                inside = np.array([v for v in self.values if branch.contains(np.array(v))])
                points |= {float(z) for z in branch.inverse(inside)}
        reach = self.branches[0].reach
        for (_, one), (_, other) in combinations(self.cases, 2):  # roots meet where they cross
            z = np.array([float(r) for r in zeros_of([one - other], self.field, reach)])
            gap = panels.quiet([self.field], one - other)
            points |= set(z[(gap(z - ASIDE) != 0) & (gap(z + ASIDE) != 0)].tolist())
        found = np.array(sorted(p for p in points if abs(p) < reach - SAME))
        return found[np.diff(found, prepend=-np.inf) > SAME]

    @cached_property
    def values(self) -> Array:
        """Special values of y, where its density may be singular or change its form."""
        return np.array(sorted({v for b in self.branches for v in b.limits if np.isfinite(v)}))

    @cached_property
    def is_singular(self) -> bool:
        """Whether the density of y is singular at critical values."""
        if self.noise or self.drawn or len(self.branches) == 1:
            return False
        return any(b.piece.kind != "affine" for b in self.curved)

    def moments(self, y: Array, omega: Array, variance: Array) -> Moments:
        """Log Z and the first two moments of (z - omega)/sqrt(V) given y; arrays broadcast."""
        y, omega, variance = (np.asarray(a, dtype=float) for a in (y, omega, variance))
        return combined(self._parts(y, omega, variance))

    def log_z(self, y: Array, omega: Array, variance: Array) -> Array:
        """Logarithm of Z; of a continuous label the density of y."""
        return self.moments(y, omega, variance).log_z

    def score(self, y: Array, omega: Array, variance: Array) -> Array:
        """Derivative of log Z by omega."""
        return np.asarray(self.moments(y, omega, variance).first / np.sqrt(variance))

    def score_slope(self, y: Array, omega: Array, variance: Array) -> Array:
        """Derivative of the score by omega: (Var[z | y]/V - 1)/V."""
        _, first, second = self.moments(y, omega, variance)
        return np.asarray((second - first**2 - 1.0) / variance)

    def _parts(self, y: Array, omega: Array, variance: Array) -> list[Parts]:
        if self.drawn:
            return [self.likelihood.part(y, omega, variance)]
        if not self.noise:
            atoms = [b.atom(y, omega, variance) for flat in self.atoms.values() for b in flat]
            at = y.reshape((1,) * (np.broadcast(omega, variance).ndim - y.ndim) + y.shape)
            roots = [at_roots(*self._roots(at), omega, variance)] if self.curved else []
            for atom in atoms:  # the value of an atom has no density
                roots = [
                    r._replace(log=np.where(atom.log > -np.inf, -np.inf, r.log)) for r in roots
                ]
            return atoms + roots
        return [
            b.noisy(y, omega, variance, self.noise)
            if b.piece.kind in ("flat", "affine")
            else self._curved_part(b, y, omega, variance)
            for b in self.branches
        ]

    def _roots(self, y: Array) -> tuple[Array, Array]:
        """All z with g(z) = y on a leading axis, and logarithms of their densities in y."""
        found = [b.root(y) for b in self.curved]
        return np.array([z for z, _ in found]), np.array([log for _, log in found])

    def _curved_part(self, branch: Branch, y: Array, omega: Array, variance: Array) -> Parts:
        """A curved piece with noise: a Gauss rule where both Gaussian factors are large.

        Where these places are apart, the largest contribution is from between them.
        """
        y, omega, variance = np.broadcast_arrays(y, omega, variance)
        wide, far = 9.0 * np.sqrt(self.noise), 9.0 * np.sqrt(variance)
        low, high = (np.clip(omega + sign * far, *branch.ends) for sign in (-1.0, 1.0))
        here = low < high
        parts = [np.full((1, *here.shape), empty) for empty in (-np.inf, 0.0, 0.0)]
        if not here.any():
            return Parts(*parts)
        y, omega, variance, low, high = (a[here] for a in (y, omega, variance, low, high))
        ends = np.sort([branch.inverse(y - wide), branch.inverse(y + wide)], axis=0)
        low, high = np.sort([np.maximum(ends[0], low), np.minimum(ends[1], high)], axis=0)
        given = np.stack([y, omega, variance, low, high])
        found = self._by_rule(branch, given, 2, SMOOTH)
        rough, count = self._by_rule(branch, given, 2, SMOOTH // 2)[0], 2
        todo = np.flatnonzero(found[0] > FAINT)
        # Saturating and steep labels: more panels where fewer nodes have another result.
        while (
            todo := todo[np.abs(found[0, todo] - rough[todo]) > AGREES]
        ).size and count < MOST_PANELS:
            rough, count = found[0].copy(), 2 * count
            found[:, todo] = self._by_rule(branch, given[:, todo], count, SMOOTH)
        for part, values in zip(parts, found, strict=True):
            part[0, here] = values
        return Parts(*parts)

    def _by_rule(self, branch: Branch, given: Array, count: int, order: int) -> Array:
        """Log Z and moments (3, N) of a curved piece by a number of panels between two ends."""
        y, omega, variance, low, high = given
        edges = low + np.linspace(0.0, 1.0, count + 1)[:, None] * (high - low)
        z, weight = panels.between(edges, order)
        u = (z - omega) / np.sqrt(variance)
        gap = (y - branch.quick_value(z)) ** 2 / self.noise
        with np.errstate(divide="ignore"):
            log = np.log(weight) - 0.5 * (u * u + gap + np.log(variance * self.noise))
        log = log - panels.LOG_TWO_PI + np.log(branch.share)
        return np.stack(combined([Parts(log, u, u * u)]))

    @cached_property
    def likelihood(self) -> Likelihood:
        """P(y | z) of drawn labels."""
        return Likelihood(self.inner, self.field, self.branches[0].reach, tuple(self.breaks))

    def _noisy_edges(self, mean: Array, variance: Array) -> Array:
        """Edges in y: layers of the noise about special values, quantiles of pieces elsewhere."""
        width, scale = np.sqrt(self.noise), np.sqrt(variance)
        z = mean + np.multiply.outer(panels.SPREAD, scale)
        bulk = [b.value(np.clip(z, *b.ends)) for b in self.branches]
        least, most = np.min(bulk, axis=(0, 1)), np.max(bulk, axis=(0, 1))
        layers = np.add.outer(self.values, width * panels.MIRRORED).ravel()
        ends = least - 9 * width, most + 9 * width
        marks = np.concatenate(
            [
                *bulk,
                *(v + width * panels.MIRRORED[:, None] for v in (least, most)),
                np.clip(np.broadcast_to(layers[:, None], (len(layers), len(mean))), *ends),
            ]
        )
        return panels.thinned(np.sort(marks, axis=0), NOISE_PANEL * width)

    def rule_z(
        self, mean: Array, variance: Array | float, order: int = 12, edges: Array | None = None
    ) -> tuple[Array, Array, Array]:
        """Fields z, labels y and weights, shape (N, S), of the joint law where z ~ N(mean, V).

        Panels end at the kinks of the label, and at other `edges`.
        """
        mean, variance = np.broadcast_arrays(np.atleast_1d(np.asarray(mean, float)), variance)
        points = self.likelihood.resolving if self.drawn else self.breaks
        points = points if edges is None else np.concatenate([points, edges])
        z, weight = panels.window(points, mean, variance, order, self.is_singular)
        if self.drawn:
            cases = [
                (np.full_like(z, s), weight * self.likelihood.chance(np.array(s), z))
                for s in (1.0, -1.0)
            ]
        else:
            cases = [
                (f(z), p * weight) for f, (p, _) in zip(self.functions, self.cases, strict=True)
            ]
        if self.noise:
            nodes, heights = np.polynomial.hermite_e.hermegauss(2 * order)
            heights, nodes = heights / heights.sum(), np.sqrt(self.noise) * nodes
            cases = [(y + e, h * w) for y, w in cases for e, h in zip(nodes, heights, strict=True)]
        y = np.concatenate([y for y, _ in cases])
        weight = np.concatenate([w for _, w in cases])
        return np.tile(z, (len(cases), 1)).T, y.T, weight.T

    def average(
        self,
        function: Statistic,
        overlap: float,
        order: int | None = None,
        variance: float | None = None,
    ) -> Array:
        """E over omega ~ N(0, q) and y of a function of the moments, V, y and omega.

        Leading axes of the function stay. V is the prior variance minus q; where it is tiny, it is
        given to all of its digits.
        """
        left = np.array(self.prior_variance - overlap if variance is None else variance)
        total = np.zeros(())
        for moments, y, omega, weight in self.nodes(overlap, left, order):
            found = function(moments, left, y, omega)
            found = np.where(weight > 0, weight * found, 0.0)
            total = total + found.sum(axis=tuple(range(-weight.ndim, 0)))
        return total

    def nodes(
        self, overlap: float, variance: Array, order: int | None = None
    ) -> Iterator[tuple[Moments, Array, Array, Array]]:
        """Moments, labels y, omega ~ N(0, q) and weights of their joint law, in blocks."""
        order = order or self.order
        omega, weight = self.outer(overlap, float(variance), order)
        if self.noise:
            # Panels in y for each omega; those of zero length are left out.
            edges = self._noisy_edges(omega, np.broadcast_to(variance, omega.shape))
            y, inner = panels.between(edges, order)
            kept = inner > 0
            omega, y = np.broadcast_to(omega, y.shape)[kept], y[kept]
            weight = (weight * inner)[kept]
            for start in range(0, len(y), BLOCK):
                part = slice(start, start + BLOCK)
                moments = self.moments(y[part], omega[part], variance)
                yield moments, y[part], omega[part], weight[part] * np.exp(moments.log_z)
            return
        for value in self.discrete or self.atoms:
            moments = self.moments(np.array(value), omega, variance)
            yield moments, np.array(value), omega, weight * np.exp(moments.log_z)
        if self.drawn or not self.curved:
            return
        # Draw h and set y = g(h): no density of y, no Jacobian. Roots of g = y belong to h alone:
        # the field omega given h is the inner variable.
        h, weight = self.outer(self.prior_variance, float(variance), order)
        x, inner = panels.between(panels.SPREAD, order) if overlap else (np.zeros(1), np.ones(1))
        inner = inner * np.exp(-0.5 * (x * x + panels.LOG_TWO_PI)) if overlap else inner
        scale = np.sqrt(variance * overlap / self.prior_variance)
        here = [(h > b.low) & (h < b.high) for b in self.curved]
        y = np.concatenate([b.value(h[n]) for b, n in zip(self.curved, here, strict=True)])
        share = [b.share * weight[n] for b, n in zip(self.curved, here, strict=True)]
        h, weight = np.concatenate([h[n] for n in here]), np.concatenate(share)
        size, (z, log) = max(1, BLOCK // len(x)), self._roots(y)
        # Other roots have less than 1e-17 of the probability, here or given the same omega.
        apart = 2 * FAR * np.sqrt(variance * self.prior_variance / max(overlap, TINY))
        near = (np.abs(z) < FAR * np.sqrt(self.prior_variance)) & (np.abs(z - h) < apart)
        for start in range(0, len(h), size):
            n = slice(start, start + size)
            kept = near[:, n].any(axis=1)
            omega = (overlap / self.prior_variance) * h[n, None] + scale * x
            moments = combined([at_roots(z[kept, n, None], log[kept, n, None], omega, variance)])
            yield moments, y[n, None], omega, weight[n, None] * inner

    @cached_property
    def order(self) -> int:
        """Nodes of a panel."""
        return FINE_ORDER if self.is_singular else NOISY_ORDER if self.noise else ORDER

    def outer(self, spread: float, variance: float, order: int) -> tuple[Array, Array]:
        """Nodes of N(0, spread), with layers of width sqrt(V) about the break points.

        The positive half where the label is even or odd.
        """
        if spread == 0:
            return np.zeros(1), np.ones(1)
        scale, width = np.sqrt(spread), np.sqrt(variance)
        edges = np.concatenate([-scale * OUTER, scale * OUTER])
        edges = np.concatenate([edges, np.add.outer(self.breaks, width * panels.MIRRORED).ravel()])
        edges = np.unique(np.clip(edges, -9 * scale, 9 * scale))
        # Noise smooths the places at which densities are singular.
        kept = self.breaks[(np.abs(self.breaks) < 9 * scale) & (not self.noise)]
        if self.is_symmetric:
            edges, kept = edges[edges >= 0], np.unique([0.0, *kept[kept >= 0]])
        gap = min(NOISE_PANEL * width, scale) if self.noise else min(APART * width, CLOSE * scale)
        apart = np.abs(np.subtract.outer(edges, kept)).min(axis=1, initial=np.inf) > gap
        edges = np.unique(np.concatenate([kept, panels.thinned(edges[apart], gap)]))
        x, weight = panels.between(edges, order, self.is_singular)
        return x, (1 + self.is_symmetric) * weight * np.exp(
            -0.5 * (x / scale) ** 2 - 0.5 * panels.LOG_TWO_PI
        ) / scale

    def information(
        self, overlap: float, variance: float | None = None, finer: float = 1.0
    ) -> float:
        """m(q) = E[g^2], the right-hand side of state evolution per sample."""
        order = round(finer * self.order)
        return float(self.average(lambda m, v, *_: m.first**2 / v, overlap, order, variance))

    def entropy(
        self, overlap: float, variance: float | None = None, order: int | None = None
    ) -> float:
        """Psi_out(q) = E[log Z]."""
        return float(self.average(lambda m, *_: m.log_z, overlap, order, variance))

    @cached_property
    def uninformed(self) -> tuple[float, float]:
        """E[E[z | y]^2] and E[E[He_2(z) | y]^2] of the standardised field (theory (10))."""
        return self.uninformed_at(40)

    def uninformed_at(self, order: int) -> tuple[float, float]:
        """The same with a number of nodes in each panel."""
        first, second = self.average(
            lambda m, *_: np.array([m.first**2, (m.second - 1.0) ** 2]), 0.0, order
        )
        return 0.0 if self.is_even else float(first), float(second)

    @cached_property
    def _mirrored(self) -> set[tuple[float, sp.Expr]]:
        return {(p, e.xreplace({self.field: -self.field})) for p, e in self.cases}

    @cached_property
    def is_even(self) -> bool:
        """Whether the label does not tell z from -z."""
        return self._mirrored == {*self.cases}

    @cached_property
    def is_symmetric(self) -> bool:
        """Whether z -> -z maps the label to itself or to its negative."""
        return self.is_even or self._mirrored == {(p, -e) for p, e in self.cases}

    @cached_property
    def density_share(self) -> float:
        """Probability of a label without noise that is not on a flat piece."""
        if self.noise or self.drawn:
            return 0.0
        at = np.zeros(()), np.array(self.prior_variance)
        flat = [b.mass(*at).log[0] for values in self.atoms.values() for b in values]
        return 1.0 - float(np.sum(np.exp(flat)))

    @cached_property
    def jumps(self) -> bool:
        """Whether P(y | z) jumps at a value of z."""
        return any(
            a.high == b.low and abs(a.limits[1] - b.limits[0]) > SAME
            for a, b in pairwise(self.branches)
        )
