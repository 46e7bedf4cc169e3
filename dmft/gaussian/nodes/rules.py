"""Nodes and weights of standard normal averages in a few dimensions, with what measures the error.

Four rules. Smooth integrands of at most `TENSOR_DIMENSIONS` variables take a tensor Gauss-Hermite
rule, those of at most six a body-centred lattice in a ball; their error is read
off coarser ones. Where all averages are nearly those of sums of error functions
(`dmft.equations.averages.neighbour`) a rule is such a sum, without weights. Everything else
takes scrambled Sobol points mapped by the inverse normal distribution function, in independent
replicas: their spread is the error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import gamma, lgamma
from typing import Any, Literal, NamedTuple

import numpy as np

from dmft.arrays import Array
from dmft.errors import BadParameter
from dmft.gaussian.nodes.grid import half_range

Kind = Literal["sobol", "gauss-hermite", "lattice", "mixture"]

TENSOR_DIMENSIONS = 2
# From here on the trapezoidal rule takes the place of Gauss-Hermite: the same exponential
# convergence, with points that are no denser at the centre. Weights below the last are never seen.
MOST_POINTS = 128
MOST_TRAPEZOIDS, MOST_ON_A_LINE = 1024, 2**16
WIDTH = 8.6
SMALLEST_WEIGHT = 1e-17
# Two-sided 99 % quantiles of Student's t, by degrees of freedom (replicas - 1).
STUDENT_99 = (63.66, 9.925, 5.841, 4.604, 4.032, 3.707, 3.499, 3.355, 3.250, 3.169, 3.106)
# The difference of two rules is at least this many times the error of the finer one.
COARSE_FACTOR = 1.0
# Replicas that lie apart are spread over this divided by the points of one: at 2.5 standard
# deviations, beyond which nodes are put about events of their own, that is a stratum of an axis.
# Never over more than the second: shifted points have unequal weights.
APART, FARTHEST = 64.0, 0.25
# The differences to the sums of error functions with a term less and with two less are at least so
# many times the error.
OF_SHORTER = (2.0, 32.0)
# Directions of a ring, about; rings beyond a rule, and how far they are apart.
DIRECTIONS, RINGS, RING = 1024, 48, 0.25
# Steps of t where averages are integrated over u = sinh(t), and those of coarser rules.
SCALE_STEPS = (0.3, 0.35)
# Angles by which further coarser rules are turned, where integrands may break.
TURNED = (0.5, 0.8)


class Law(NamedTuple):
    """A normal law of the variables of nodes: its mean (dim,) and inverse covariance (dim, dim)."""

    mean: Array
    precision: Array


@dataclass(frozen=True, eq=False)
class NodeRule:
    """Points z (dim, n) and weights (n,) with sum_q w_q F(z_q) ~ E[F(z)], z ~ N(0, I).

    The answers of `groups` tell the error: replicas of "sobol", coarser rules of other kinds.
    With `noise`, the last row is the noise of the label, not a field. `mixture` holds weights and
    scales of sums of error functions, of students and of teachers (2, 2, terms + 1), flat;
    `scales` nodes and weights of an integral over u > 0 of averages; `signs` take the place of the
    last field.
    """

    normal: Array
    weight: Array
    kind: Kind
    label: str
    groups: tuple[NodeRule, ...] = ()
    noise: bool = False
    mixture: Array | None = None
    scales: tuple[Array, Array] | None = None
    signs: Array | None = None

    @property
    def widths(self) -> dict[str, int]:
        """Lengths of these arrays."""
        more = {} if self.mixture is None else {"terms": self.mixture.size}
        more |= {} if self.scales is None else {"cosines": self.scales[0].size}
        return {"nodes": self.weight.size, **more}

    @property
    def arrays(self) -> dict[str, Array]:
        """Arrays that averages at the nodes read."""
        found = {"weight": self.weight, "normal": self.normal}
        if self.mixture is not None:
            found["mixture"] = self.mixture
        if self.scales is not None:
            found["cosine"], found["cosine_weight"] = self.scales
        if self.noise:
            found |= {"normal": self.normal[:-1], "noise_at": self.normal[-1]}
        if self.signs is not None:
            signs = self.signs[None, : self.weight.size]  # those of some points are in turn, too
            found["normal"] = np.concatenate([found["normal"], signs])
        return found

    def with_signs(self, both: bool) -> NodeRule:
        """The same rule with a sign at each point: 1, or both in turn at half the weight."""
        n, signs = 1 + both, np.tile([1.0, -1.0][: 1 + both], self.weight.size)
        normal, weight = np.repeat(self.normal, n, axis=1), np.repeat(self.weight / n, n)
        groups = tuple(group.with_signs(both) for group in self.groups)
        return replace(self, normal=normal, weight=weight, signs=signs, groups=groups)

    def with_mixture(self, mixture: Array) -> NodeRule:
        """The same rule for differences to sums of error functions."""
        groups = tuple(group.with_mixture(mixture) for group in self.groups)
        return replace(self, mixture=mixture, groups=groups)

    def with_scales(self, samples: int, step: float = SCALE_STEPS[0]) -> NodeRule:
        """The same rule with u = sinh(t) for averages over n samples, which decay as exp(-n t).

        Even functions of exp(-u^2 X) are analytic for |Im t| < pi/4, so that the trapezoidal rule
        has an error of exp(-2 pi (pi/4) / step), 7e-8, or exp(-14) where t ends.
        """
        t = np.arange(0.0, 2.0 + 14.0 / samples, step)
        weight = step * np.cosh(t) * np.where(t > 0.0, 1.0, 0.5)
        groups = tuple(group.with_scales(samples, SCALE_STEPS[1]) for group in self.groups)
        return replace(self, scales=(np.sinh(t), weight), groups=groups)

    def with_noise(self, noise: bool = True) -> NodeRule:
        """The same rule, its last row the noise of the label."""
        groups = tuple(group.with_noise(noise) for group in self.groups)
        return replace(self, noise=noise, groups=groups)

    def padded(self, rows: int) -> NodeRule:
        """The same rule with rows of zeros below, for fields that the averages do not need."""
        if len(self.normal) - self.noise >= rows:
            return self
        assert not self.noise, "rows of noise follow all fields"
        zeros = np.zeros((rows - len(self.normal), self.weight.size))
        groups = tuple(group.padded(rows) for group in self.groups)
        return replace(self, normal=np.concatenate([self.normal, zeros]), groups=groups)

    def with_laws(self, laws: Sequence[Law]) -> NodeRule:
        """The same points for some other normal laws as well, weighted as one mixture.

        Far or narrow events under one of the laws are met, and with m laws more no average loses
        more than the points that are added: the mixture has 1 / (m + 1) of the density of N(0, I).
        """
        if not laws:
            return self
        size = len(self.normal)
        every = [Law(np.zeros(size), np.eye(size)), *laws]
        roots = [np.linalg.cholesky(law.precision) for law in every]
        points = np.concatenate(
            [
                law.mean[:, None] + np.linalg.solve(root.T, self.normal)
                for law, root in zip(every, roots, strict=True)
            ],
            axis=1,
        )
        # Logarithms of the densities relative to N(0, I).
        logs = np.stack(
            [
                np.log(np.diag(root)).sum()
                - 0.5 * np.sum((root.T @ (points - law.mean[:, None])) ** 2, axis=0)
                for law, root in zip(every, roots, strict=True)
            ]
        )
        logs += 0.5 * np.sum(points**2, axis=0)
        most = logs.max(axis=0)
        weight = np.tile(self.weight, len(every)) * np.exp(-most) / np.exp(logs - most).sum(axis=0)
        groups = tuple(group.with_laws(laws) for group in self.groups)
        label = f"{self.label}, and about {len(laws)} rare events"
        return replace(self, normal=points, weight=weight, groups=groups, label=label)

    def widened(self, factor: float) -> NodeRule:
        """The same points, `factor` times as far out, and weighted for N(0, I) again.

        Points at equal steps of probability leave to a few of them what grows like a polynomial
        far out, as the square of a cubic label does.
        """
        ratio = factor ** len(self.normal) * np.exp(
            0.5 * (1.0 - factor**2) * np.sum(self.normal**2, axis=0)
        )
        groups = tuple(group.widened(factor) for group in self.groups)
        return replace(self, normal=factor * self.normal, weight=self.weight * ratio, groups=groups)

    def apart(self, seed: int) -> NodeRule:
        """The same rule, its replicas shifted by random vectors, and weighted for N(0, I).

        Beyond a jump across an axis all replicas may count the same number of Sobol points, off by
        a part of one. Shifted replicas differ, so that their spread is the error; the rule itself
        stays.
        """
        draw = np.random.default_rng([seed, len(self.groups)])
        reach = min(APART / self.groups[0].weight.size, FARTHEST)
        groups = tuple(
            group.shifted(draw.uniform(-0.5, 0.5, len(self.normal)) * reach)
            for group in self.groups
        )
        return replace(self, groups=groups)

    def shifted(self, away: Array) -> NodeRule:
        """The points moved by a vector (dim,), weighted for N(0, I) again."""
        ratio = np.exp(-away @ self.normal - 0.5 * away @ away)
        return replace(self, normal=self.normal + away[:, None], weight=self.weight * ratio)

    def ring(self, radius: float) -> NodeRule:
        """Some of its points moved to one distance from the origin, times the density of that."""
        points = self.normal[:, :: max(1, self.weight.size // DIRECTIONS)]
        size = np.sqrt(np.sum(points**2, axis=0))
        points = points[:, size > 0.0] * (radius / size[size > 0.0])
        dim = int(np.sum(points.any(axis=1)))
        logarithm = (dim - 1) * np.log(radius) - 0.5 * radius**2
        logarithm -= (0.5 * dim - 1) * np.log(2.0) + lgamma(0.5 * dim)
        density = np.exp(logarithm) / points.shape[1]
        return replace(self, normal=points, weight=np.full(points.shape[1], density), groups=())

    def with_tails(self) -> NodeRule:
        """The rule with rings beyond its farthest point, for slowly decaying integrands."""
        last = np.sqrt(np.max(np.sum(self.normal**2, axis=0)))
        rings = [self.ring(last + (n + 0.5) * RING) for n in range(RINGS)]
        normal = np.concatenate([self.normal, *(r.normal for r in rings)], axis=1)
        weight = np.concatenate([self.weight, *(RING * r.weight for r in rings)])
        return replace(self, normal=normal, weight=weight, groups=())

    def error(self, value: Array, groups: Sequence[Array]) -> Array:
        """Error of `value` (99 %), what this rule gives, from what its groups give."""
        return spread(self.kind, value, groups)


def spread(kind: str, value: Array, groups: Sequence[Array]) -> Array:
    """Error of a value from the values of the groups of its rule.

    Sobol: the standard error of the mean of the replicas times Student's 99 % quantile. Replicas
    are not quite normal: over random laws and integrands 97 to 100 % of the claims held.
    Gauss-Hermite and lattices: the distance to the coarser rules, the largest. Error functions:
    the distances to the sums with a term and two terms less over `OF_SHORTER`, the larger one, as
    either may cross zero.
    """
    if kind == "mixture":
        gaps = [np.abs(g - value) / n for g, n in zip(groups, OF_SHORTER, strict=True)]
        return np.max(np.stack(gaps), axis=0)
    if kind != "sobol":
        return COARSE_FACTOR * np.abs(np.stack(groups) - value).max(axis=0)
    count = len(groups)
    deviation = np.std(np.stack(groups), axis=0, ddof=1) / np.sqrt(count)
    return np.asarray(STUDENT_99[min(count, len(STUDENT_99) + 1) - 2] * deviation)


def mixture_rule(
    fields: int, mixtures: Sequence[Array], first: int, terms: int | None = None
) -> NodeRule:
    """Sums of error functions instead of points; the longest where `terms` is None.

    The first of `mixtures` has `first` terms, each of the others one more.
    """
    longest = first + len(mixtures) - 1
    count = longest if terms is None else int(terms)
    if not first + 1 < count <= longest:
        raise BadParameter(
            f"nodes = {terms!r}: sums of error functions have {first + 2} to {longest} terms; "
            "for Sobol points use a power of two from 16"
        )
    empty = NodeRule(np.zeros((fields, 1)), np.zeros(1), "mixture", "")  # a point of no weight

    def of(terms: int) -> NodeRule:
        label = f"sums of {terms} error functions instead of the activations"
        return replace(empty, mixture=mixtures[terms - first], label=label)

    return replace(of(count), groups=(of(count - 1), of(count - 2)))


def normal_rule(dim: int, nodes: int, replicas: int = 8, seed: int = 0) -> NodeRule:
    """Scrambled Sobol rule: at least 4 independent replicas of `nodes` points, a power of two.

    The spread of the replicas is the error; equal seeds give equal rules.
    """
    for name, value, low in (("nodes", nodes, 2), ("replicas", replicas, 4), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < low:
            raise BadParameter(f"{name} must be an integer of at least {low}, got {value!r}")
    if nodes & (nodes - 1):
        raise BadParameter(
            f"nodes = {nodes} must be a power of two (Sobol points are balanced only then); "
            f"use {1 << (int(nodes).bit_length())}"
        )
    return _sobol(int(dim), int(nodes), int(replicas), int(seed))


# Few: a rule of many fields has 30 MB.
@lru_cache(maxsize=3)
def _sobol(dim: int, nodes: int, replicas: int, seed: int) -> NodeRule:
    label = f"scrambled Sobol nodes in {dim} dimensions, seed {seed}"
    streams = np.random.SeedSequence(seed).spawn(replicas)
    groups = []
    for stream in streams:
        normal = to_normal(scrambled_sobol(dim, nodes, stream))
        groups.append(NodeRule(normal, np.full(nodes, 1.0 / nodes), "sobol", f"{nodes} {label}"))
    return NodeRule(
        np.ascontiguousarray(np.concatenate([g.normal for g in groups], axis=1)),
        np.full(nodes * replicas, 1.0 / (nodes * replicas)),
        "sobol",
        f"{replicas} x {nodes} {label}",
        tuple(groups),
    )


# Half of the resolution of the Sobol points, 2^-30.
HALF_STEP = 2.0**-31


def scrambled_sobol(dim: int, nodes: int, stream: np.random.SeedSequence) -> Array:
    """One scramble of Sobol points in the unit cube, (dim, nodes)."""
    return np.ascontiguousarray(sobol_engine(dim, stream).random(nodes).T)


def sobol_engine(dim: int, stream: np.random.SeedSequence | int) -> Any:
    """SciPy's engine of one scramble of Sobol points."""
    from scipy.stats import qmc

    # SciPy spawns a generator from a generator, but none from a number.
    seed = stream if isinstance(stream, int) else np.random.default_rng(stream)
    return qmc.Sobol(dim, scramble=True, seed=seed)


def to_normal(points: Array) -> Array:
    """Standard normal variables from points of the unit cube, which are overwritten."""
    from scipy.special import ndtri

    # A point of the grid at zero would be at minus infinity: half a grid step inside.
    np.maximum(points, HALF_STEP, out=points)
    return np.asarray(ndtri(points, out=points))


@lru_cache(maxsize=8)
def tensor_rule(
    dim: int, points: int, may_break: bool = False, even: bool = False, thin: bool = False
) -> NodeRule:
    """Tensor rule with `points` nodes an axis, and a coarser one for the error.

    Gauss-Hermite up to `MOST_POINTS`, trapezoidal beyond and for functions with `thin` layers: both
    converge geometrically for analytic integrands. One of both rules has a node at zero: where an
    integrand has a layer thinner than the nodes are apart, the error depends on how they lie about
    it, and rules that lie alike agree by no merit. With `may_break` there are several coarser
    rules, with turned axes. Of `even` integrands it has one of the points z and -z.
    """
    points = _checked_points(points, most_points(dim))
    fine, fewer = _product(dim, points, even, thin), (3 * points) // 4
    fewer -= (points + fewer + 1) % 2  # one of both is odd
    groups = [_product(dim, fewer, even, thin)]
    for less, angle in enumerate(TURNED if may_break else (), start=1):
        rule = _product(dim, max(1, fewer - less), even, thin)
        groups.append(replace(rule, normal=_turned(rule.normal, angle)))
    return NodeRule(fine.normal, fine.weight, fine.kind, fine.label, tuple(groups))


def most_points(dim: int) -> int:
    """Points of an axis of the largest tensor rule."""
    return MOST_TRAPEZOIDS if dim > 1 else MOST_ON_A_LINE


def _checked_points(points: int, most: int = MOST_TRAPEZOIDS) -> int:
    if not 2 <= points <= most:
        raise BadParameter(f"points of an axis must lie in [2, {most}], got {points!r}")
    return int(points)


def _turned(points: Array, angle: float) -> Array:
    """Points (dim, n) with their first two axes turned, which changes no standard normal law."""
    result = points.copy()
    if len(points) > 1:
        cos, sin = np.cos(angle), np.sin(angle)
        result[:2] = np.array([[cos, -sin], [sin, cos]]) @ points[:2]
    return result


# Square of the radius of the ball over the points of a diameter: steps are as small then as the
# ball is large, for what aliasing and cutting leave of smooth activations at fields of order one.
REACH = 2.4
# Points of a lattice at most; of a diameter of one, by dimension, where nothing is said.
MOST_IN_LATTICE = 2**20
# Points of a diameter of coarser lattices relative to those of the finer one: differences to two
# of these were above its error in 97 % of random integrands (100 % in four and five dimensions).
COARSER_IN_THREE, COARSER = 0.67, 0.8
LATTICE_POINTS = {3: 32, 4: 16, 5: 12, 6: 10}


@lru_cache(maxsize=4)
def lattice_rule(dim: int, points: int, even: bool = False) -> NodeRule:
    r"""Body-centred cubic lattice in a ball, `points` on a diameter along an axis.

    Equation    E[F(z)] = \sum_q w_q F(z_q), w_q proportional to exp(-z_q^2 / 2) at the points of
                h Z^n and h (Z + 1/2)^n with |z_q| < R, R^2 = `REACH` points, h = 2 R / points
    Valid for   analytic integrands; the error falls as exp(-points). Its reciprocal lattice D_n is
                the densest packing in three to five dimensions: no lattice needs fewer points

    Of `even` integrands F(-z) = F(z) it has one of the points z and -z. Two coarser lattices in
    smaller balls, one of them turned, tell the error.
    """
    points = min(_checked_points(points), most_in_lattice(dim))
    coarse = _lattice(dim, int(points * (COARSER_IN_THREE if dim == 3 else COARSER)), even)
    turn, _ = np.linalg.qr(np.random.default_rng(dim).standard_normal((dim, dim)))
    turned = replace(coarse, normal=np.ascontiguousarray(turn @ coarse.normal))
    return replace(_lattice(dim, points, even), groups=(coarse, turned))


def most_in_lattice(dim: int) -> int:
    """Points of a diameter of the largest lattice, by the volume of its ball."""
    volume = 2.0 * (0.5 * np.sqrt(np.pi)) ** dim / gamma(0.5 * dim + 1.0)
    return int((MOST_IN_LATTICE / volume) ** (1.0 / dim))


def _lattice(dim: int, points: int, even: bool) -> NodeRule:
    radius = np.sqrt(REACH * points)
    step = 2.0 * radius / points
    whole = np.arange(-points, points + 1)
    axes = (step * whole, step * (whole + 0.5))
    normal = np.concatenate([_ball(axis, dim, radius) for axis in axes], axis=1)
    weight = np.exp(-0.5 * np.sum(normal**2, axis=0))
    normal, weight = _half(normal, weight, even)
    label = f"lattice of {weight.size} nodes, {points} on a diameter, in {dim} dimensions"
    return NodeRule(normal, weight / weight.sum(), "lattice", label)


def _half(normal: Array, weight: Array, even: bool) -> tuple[Array, Array]:
    """For even integrands one of the points z and -z, with the weight of both."""
    if not even:
        return normal, weight
    first = normal[np.argmax(normal != 0.0, axis=0), np.arange(weight.size)]
    return normal[:, first >= 0.0], (weight * (1.0 + np.sign(first)))[first >= 0.0]


def _ball(axis: Array, dim: int, radius: float) -> Array:
    """Points of a product of equal axes in a ball, (dim, n)."""
    points: Array = np.zeros((0, 1))
    axis = axis[np.abs(axis) < radius]
    for _ in range(dim):
        count = points.shape[1]
        points = np.concatenate([np.repeat(points, axis.size, axis=1), np.tile(axis, count)[None]])
        points = points[:, np.sum(points**2, axis=0) < radius**2]
    return points


# Points of a half-range rule on either side of zero, at most and as a part of those of an axis.
MOST_HALF, HALF_SHARE = 48, 0.375


@lru_cache(maxsize=8)
def halved_rule(dim: int, points: int) -> NodeRule:
    """Tensor rule for integrands that are smooth on either side of zero of the first axis."""
    points = _checked_points(points)
    fine, coarse = (_halved_product(dim, n) for n in (points, max(2, (3 * points) // 4)))
    return replace(fine, groups=(coarse,))


def _halved_product(dim: int, points: int) -> NodeRule:
    z, w = half_range(min(MOST_HALF, max(2, round(HALF_SHARE * points))))
    first, share = np.concatenate([-z[::-1], z]), 0.5 * np.concatenate([w[::-1], w])
    if dim > 1:
        rest = _product(dim - 1, points)
        normal = np.concatenate(
            [np.repeat(first, rest.weight.size)[None], np.tile(rest.normal, first.size)]
        )
        weight = np.outer(share, rest.weight).ravel()
    else:
        normal, weight = first[None], share
    kept = weight > SMALLEST_WEIGHT
    label = f"{points} Gauss-Hermite nodes per axis in {dim} dimensions, the first axis in halves"
    return NodeRule(np.ascontiguousarray(normal[:, kept]), weight[kept], "gauss-hermite", label)


# Nodes of a rule that is exact for polynomials.
MOST_EXACT = 2**17


def exact_points(degree: int) -> int:
    """Gauss-Hermite points of an axis that integrate polynomials of this degree exactly."""
    return degree // 2 + 1


def exact_dimensions(degree: int, most: int = MOST_EXACT) -> int:
    """Largest number of dimensions in which `exact_rule` keeps to this many nodes."""
    points = exact_points(degree)
    if points > MOST_POINTS:
        return 0
    return int(np.log(most) / np.log(max(points, 2)) + 1e-9)


@lru_cache(maxsize=8)
def exact_rule(dim: int, degree: int) -> NodeRule:
    """Tensor Gauss-Hermite rule without truncation, exact for polynomials up to a total degree.

    Its error, told by the rule with a point more an axis, is that of rounding.
    """
    points = exact_points(degree)
    fine, finer = (_product(dim, n, smallest=0.0) for n in (points, points + 1))
    label = f"{fine.label}, exact for polynomials of degree {degree}"
    return replace(fine, label=label, groups=(finer,))


def _product(
    dim: int, points: int, even: bool = False, thin: bool = False, smallest: float = SMALLEST_WEIGHT
) -> NodeRule:
    name = "trapezoidal" if thin or points > MOST_POINTS else "Gauss-Hermite"
    z, w = np.polynomial.hermite_e.hermegauss(min(points, MOST_POINTS))
    if name == "trapezoidal":
        z = WIDTH * (2.0 * np.arange(points) + 1 - points) / max(points - 1, 1)
        w = np.exp(-0.5 * z**2)
    w = w / w.sum()
    normal = np.array(np.meshgrid(*[z] * dim, indexing="ij")).reshape(dim, -1)
    weight = np.prod(np.meshgrid(*[w] * dim, indexing="ij"), axis=0).ravel()
    kept = weight > smallest
    normal, weight = _half(normal[:, kept], weight[kept], even)
    label = f"{points} {name} nodes per axis in {dim} dimensions"
    return NodeRule(np.ascontiguousarray(normal), weight, "gauss-hermite", label)
