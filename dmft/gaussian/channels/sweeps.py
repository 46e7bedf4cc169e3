"""Labels of several fields: conditioned on all fields but one, as intervals and roots of it.

Valid for   labels that are piecewise polynomial of degree two in one field given the others, and
            switching functions of degree two in it
Source      theory/static_limits 2.4
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.arrays import Array
from dmft.errors import BadParameter
from dmft.gaussian.channels.panels import LOG_TWO_PI, between, quiet, towards_singular
from dmft.gaussian.channels.pieces import without_kinks
from dmft.gaussian.closed.switch import SWITCHES
from dmft.gaussian.nodes.kinks import branches_of, projected, projections, switches, values_of

# Edges of panels of a conditioned field, in its standard deviations; where it is singular, with
# up to so many nodes (lines of fixed points and their errors), which lose more by a longer panel
# than by the tail, and with more (weak recovery).
SPREAD, SINGULAR, FARTHER = (-8.5, -2.5, 2.5, 8.5), (-7.0, 0.0, 7.0), (-8.5, 0.0, 8.5)
FEW = 32
# Slopes and differences below this part of the label's size are zero.
ZERO = 1e-9
# Squares of slopes below this are zero.
SMALLEST = 1e-300
# The label among the symbols of break points, and where its roots are beyond reach.
LABEL, FAR = sp.Symbol("y", real=True), 9
# Points of the first field on which zeros without a formula are bracketed, and halvings of these.
SCAN, HALVINGS = 257, 48


class Sums(NamedTuple):
    """Sums over a batch: Z (B,), E[z 1_y] (B, k) and E[z z^T 1_y] (B, k, k)."""

    mass: Array
    first: Array
    second: Array


class Pieces(NamedTuple):
    """Intervals of the last field at nodes: ends and coefficients c0 + c1 z + c2 z^2."""

    low: Array
    high: Array
    coefficients: tuple[Array, Array, Array]


class Nodes(NamedTuple):
    """Nodes: fields, weights, mean and scale of the last field, and which of a batch they are."""

    fields: list[Array]
    weight: Array
    mean: Array
    scale: float
    label: NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Sweep:
    """Sums over one field in closed form, over nodes of the others.

    `before` are fields whose sweeps come first: what depends on them is left to them. With
    `shared`, sweeps of these fields share each place by the squares of their slopes instead. Then
    no sum runs across a ridge, which is narrower than the nodes where the last field hardly
    changes the label.
    """

    expr: sp.Expr
    fields: tuple[sp.Symbol, ...]
    last: int
    before: tuple[int, ...] = ()
    nodes: int = 16
    smoothed: bool = True
    shared: tuple[int, ...] = ()

    @cached_property
    def others(self) -> tuple[int, ...]:
        """Fields of nodes, in the order of conditioning."""
        return tuple(n for n in range(len(self.fields)) if n != self.last)

    @property
    def order(self) -> list[int]:
        """All fields, the last one last."""
        return [*self.others, self.last]

    @cached_property
    def _symbols(self) -> list[sp.Symbol]:
        return [self.fields[n] for n in self.order]

    @cached_property
    def _edges(self) -> list[list[Callable[..., Array]]]:
        """Break points of each field as functions of the label and of the fields before it."""
        symbols = self._symbols
        functions = switches(self.expr, self.fields)
        steep = sp.factor(slope(_without_steps(self.expr), symbols[-1]))
        # Factors with kinks vanish where the label switches.
        smooth = [f for f in sp.Mul.make_args(steep) if not f.has(*SWITCHES)]
        functions += [f for f in smooth if f.has_free(*symbols[:-1])]
        moving = _ends_of_level_sets(self.expr, symbols, functions) if self.smoothed else []
        found = []
        for level, group in enumerate(projections([*functions, *moving], symbols)):
            used = functions if level == len(symbols) - 1 else group
            found.append([s for f in used for s in _zeros(f, symbols, level)])
        return found

    @property
    def is_solved(self) -> bool:
        """Whether the break points have formulas."""
        try:
            return bool(self._edges)
        except BadParameter:
            return False

    @cached_property
    def is_flat(self) -> bool:
        """Whether the label is constant in the last field between its break points."""
        return degree_in(self.expr, self.fields[self.last]) == 0

    @cached_property
    def _value(self) -> Callable[..., Array]:
        return quiet(self._symbols, self.expr)

    @cached_property
    def _slopes(self) -> list[Callable[..., Array]]:
        """Derivatives by the fields of the sweeps before."""
        return [quiet(self._symbols, slope(self.expr, self.fields[n])) for n in self.before]

    @cached_property
    def _shared_slopes(self) -> list[Callable[..., Array]]:
        """Derivatives by the fields that share places, the last one first."""
        own = sorted(self.shared, key=lambda n: n != self.last)
        return [quiet(self._symbols, slope(self.expr, self.fields[n])) for n in own]

    @property
    def _singular(self) -> tuple[float, ...]:
        return SINGULAR if self.nodes <= FEW else FARTHER

    def share(self, fields: list[Array], z: Array) -> Array:
        """The part of a place that this sweep sums."""
        squares = [slope(*fields, z) ** 2 for slope in self._shared_slopes]
        return np.asarray(squares[0] / np.maximum(sum(squares), SMALLEST))

    def at_nodes(self, omega: Array, variance: Array, y: Array | float = 0.0) -> Nodes:
        """Nodes of the other fields for each omega (B, k), with the law of the last given them.

        Nodes are split where the level set of y has an end or turns back.
        """
        order = self.order
        root = np.linalg.cholesky(variance[np.ix_(order, order)])
        count = len(omega)
        fields: list[Array] = []
        innovations: list[Array] = []
        weight = np.ones((1, count))
        for level, n in enumerate(self.others):
            mean = omega[:, n] + sum(
                (root[level, s] * u for s, u in enumerate(innovations)), np.zeros((1, count))
            )
            scale = root[level, level]
            z, inner = self._panels(level, y, fields, mean, float(scale))
            u = (z - mean) / scale
            inner = inner * np.exp(-0.5 * (u * u + LOG_TWO_PI)) / scale
            shape = (-1, count)
            fields = [np.broadcast_to(f, z.shape).reshape(shape) for f in fields]
            innovations = [np.broadcast_to(v, z.shape).reshape(shape) for v in innovations]
            weight = (weight * inner).reshape(shape)
            fields.append(z.reshape(shape))
            innovations.append(u.reshape(shape))
        mean = omega[:, self.last] + sum(
            (root[-1, s] * u for s, u in enumerate(innovations)), np.zeros((1, count))
        )
        kept = np.nonzero(weight)  # panels without length have none
        return Nodes([f[kept] for f in fields], weight[kept], mean[kept], root[-1, -1], kept[1])

    def _panels(
        self, level: int, y: Array | float, fields: list[Array], mean: Array, scale: float
    ) -> tuple[Array, Array]:
        """Nodes and weights of one field, between its break points."""
        spread = np.stack([mean + scale * t for t in (self._singular if self.smoothed else SPREAD)])
        points = self._within(level, y, fields, spread[0], spread[-1])
        edges = np.concatenate([spread, points])
        order = np.argsort(edges, axis=0)
        edges = np.take_along_axis(edges, order, axis=0)
        if not self.smoothed:
            return between(edges, self.nodes)
        singular = (order >= len(spread)) & (edges < edges[-1])
        return towards_singular(edges, singular, self.nodes)

    def _within(
        self, level: int, y: Array | float, fields: list[Array], low: Array, high: Array
    ) -> Array:
        """Break points of one field between two ends; as many as a place has, others are `high`."""
        points = np.array([f(y, *fields) + 0 * low for f in self._edges[level]] or [high])
        points = np.sort(np.where((points > low) & (points < high), points, high), axis=0)
        return points[: int((points < high).sum(axis=0).max())]

    def groups(self, omega: Array, variance: Array, y: Array) -> list[NDArray[np.intp]]:
        """Numbers of labels whose nodes have equally many break points in the first field."""
        first = self.others[0]
        mean, scale = omega[:, first], np.sqrt(variance[first, first])
        ends = (mean + scale * t for t in (self._singular[0], self._singular[-1]))
        points = self._within(0, y, [], *ends)
        counts = (points < mean + scale * self._singular[-1]).sum(axis=0)
        return [np.flatnonzero(counts == n) for n in np.unique(counts)]

    def pieces(self, fields: list[Array]) -> Pieces:
        """Intervals of the last field and the label on them."""
        edges = np.stack([f(0.0, *fields) + 0 * fields[0] for f in self._edges[-1]] or [fields[0]])
        edges = np.sort(edges, axis=0) if self._edges[-1] else edges[:0]
        outside = np.full((1, *fields[0].shape), np.inf)
        low, high = np.concatenate([-outside, edges]), np.concatenate([edges, outside])
        start = np.where(np.isfinite(low), low, np.where(np.isfinite(high), high - 3.0, -1.5))
        end = np.where(np.isfinite(high), high, np.where(np.isfinite(low), low + 3.0, 1.5))
        points = [start + part * (end - start) for part in (0.2, 0.45, 0.8)]
        if self.is_flat:
            nothing = np.zeros(low.shape)
            c0 = np.where(high > low, self._value(*fields, points[1]), 0.0)
            return Pieces(low, high, (c0, nothing, nothing))
        with np.errstate(all="ignore"):
            a, b, c = (self._value(*fields, p) for p in points)
            one, two = (b - a) / (points[1] - points[0]), (c - b) / (points[2] - points[1])
            c2 = (two - one) / (points[2] - points[0])
            c2 = np.where(np.abs(c2) > ZERO * (1 + np.abs(one)), c2, 0.0)
            c1 = one - c2 * (points[0] + points[1])
            size = 1 + np.abs(a)
            c1 = np.where((np.abs(c1) > ZERO * size) | (c2 != 0), c1, 0.0)
            c0 = b - points[1] * (c1 + c2 * points[1])
        wide = high > low
        return Pieces(low, high, tuple(np.where(wide, x, 0.0) for x in (c0, c1, c2)))  # type: ignore[arg-type]

    def is_left(self, fields: list[Array], found: Pieces) -> Array:
        """Where the label depends on no field of the sweeps before."""
        left = np.ones(found.low.shape, dtype=bool)
        middle = np.where(np.isfinite(found.low), found.low + 0.37, found.high - 0.37)
        both = np.isfinite(found.low) & np.isfinite(found.high)
        with np.errstate(invalid="ignore"):
            middle = np.where(both, 0.463 * found.low + 0.537 * found.high, middle)
        middle = np.where(np.isfinite(middle), middle, 0.137)
        for slope in self._slopes:
            left &= np.abs(slope(*fields, middle)) < ZERO
        return left

    def gathered(self, nodes: Nodes, sums: Array, count: int) -> Sums:
        """Moments for each label of a batch, in the order of the fields.

        From sums of 1, z and z^2 of the last field, (3, intervals, nodes).
        """
        zeroth, one, two = nodes.weight * sums.sum(axis=1)
        k, last = len(self.fields), self.last

        def total(terms: Array) -> Array:
            return np.asarray(np.bincount(nodes.label, terms, count), dtype=float)

        first, second = np.zeros((count, k)), np.zeros((count, k, k))
        first[:, last], second[:, last, last] = total(one), total(two)
        for n, z in zip(self.others, nodes.fields, strict=True):
            first[:, n] = total(zeroth * z)
            second[:, n, last] = second[:, last, n] = total(one * z)
            for m, x in zip(self.others, nodes.fields, strict=True):
                second[:, n, m] = total(zeroth * z * x)
        return Sums(total(zeroth), first, second)


def interval_sums(found: Pieces, mean: Array, scale: float | Array) -> Array:
    """Probability, E[z] and E[z^2] of the last field on each interval."""
    from scipy.special import ndtr

    def at(edges: Array) -> Array:
        t = (edges - mean) / scale
        density = np.exp(-0.5 * (t * t + LOG_TWO_PI))
        with np.errstate(invalid="ignore"):
            return np.array([ndtr(t), ndtr(-t), density, np.where(density > 0, t * density, 0.0)])

    if mean.ndim < found.low.ndim:  # neighbours share an end
        edges = at(np.concatenate([found.low[:1], found.high]))
        low, high = edges[:, :-1], edges[:, 1:]
    else:
        low, high = at(found.low), at(found.high)
    mass = np.where(low[0] > 0.5, low[1] - high[1], high[0] - low[0])
    first, second = low[2] - high[2], mass + low[3] - high[3]
    return np.array(
        [
            mass,
            mean * mass + scale * first,
            mean**2 * mass + 2 * mean * scale * first + scale**2 * second,
        ]
    )


def root_sums(
    found: Pieces,
    y: Array,
    mean: Array,
    scale: float,
    share: Callable[[Array], Array] | None = None,
) -> Array:
    """Density of y at its roots in each interval, times 1, z and z^2, and a share at the root."""
    c0, c1, c2 = found.coefficients
    total = np.zeros((3, *found.low.shape))
    with np.errstate(all="ignore"):
        discriminant = c1 * c1 - 4 * c2 * (c0 - y)
        root = np.sqrt(np.maximum(discriminant, 0.0))
        q = -0.5 * (c1 + np.where(c1 < 0, -1.0, 1.0) * root)
        candidates = [(c0 - y) / q]
        if np.any(c2):
            candidates.append(q / c2)
        for z in candidates:
            inside = np.isfinite(z) & (z > found.low) & (z < found.high) & (discriminant > 0)
            inside &= (c1 != 0) | (c2 != 0)
            z = np.where(inside, z, 0.0)
            density = np.exp(-0.5 * (((z - mean) / scale) ** 2 + LOG_TWO_PI)) / scale
            density = np.where(inside, density / root, 0.0)
            if share is not None:
                density = density * share(z)
            for power, sums in enumerate(total):
                sums += density * z**power
    return total


def noisy_sums(found: Pieces, y: Array, mean: Array, scale: float, noise: float) -> Array:
    """The same with Gaussian noise on affine pieces (theory/static_limits (8))."""
    c0, c1, _ = found.coefficients
    total = noise + (c1 * scale) ** 2
    gap = y - c0 - c1 * mean
    centre = mean + c1 * scale**2 * gap / total
    spread = scale * np.sqrt(noise / total)
    log = -0.5 * (gap**2 / total + np.log(total) + LOG_TWO_PI)
    return np.exp(log) * interval_sums(found, centre, spread)


def _ends_of_level_sets(
    expr: sp.Expr, symbols: Sequence[sp.Symbol], functions: Sequence[sp.Expr]
) -> list[sp.Expr]:
    """Functions of the label and all fields but the last that vanish where its roots change.

    Two roots of g = y meet, a root meets a zero of `functions`, or leaves to infinity.
    """
    last = symbols[-1]
    ends = [f for f in functions if f.has_free(last) and f.is_polynomial(last)]
    found: list[sp.Expr] = []
    for branch in branches_of(expr):
        if branch.has_free(last) and branch.is_polynomial(last):
            found += projected([branch - LABEL], ends, last)
            if sp.LC(branch, last).has_free(*symbols):
                found += [(branch - LABEL).xreplace({last: sp.Integer(s * FAR)}) for s in (1, -1)]
    return [f for f in dict.fromkeys(found) if f.has_free(LABEL) and f.has_free(*symbols)]


def _zeros(
    function: sp.Expr, symbols: Sequence[sp.Symbol], level: int
) -> list[Callable[..., Array]]:
    """Zeros in one field as functions of the label and the fields before it."""
    try:
        solved = solutions(function, symbols[level])
    except BadParameter:
        if not function.has_free(LABEL):
            raise
        return _bracketed(function, symbols[0]) if level == 0 else []
    kept = [s for s in dict.fromkeys(solved) if not s.has_free(*symbols[level:])]
    return [_filled([LABEL, *symbols[:level]], s) for s in kept]


def _bracketed(function: sp.Expr, variable: sp.Symbol) -> list[Callable[..., Array]]:
    """Zeros in the first field by the changes of sign, each as a function of the label."""
    value = quiet([LABEL, variable], function)
    grid = np.linspace(-FAR, FAR, SCAN)[:, None]

    def zero(y: Array, number: int) -> Array:
        positive = value(np.atleast_1d(y), grid) > 0
        changes = positive[1:] != positive[:-1]
        first = changes & (np.cumsum(changes, axis=0) == number + 1)
        at = first.argmax(axis=0)
        low, high = grid[at, 0], grid[at + 1, 0]
        rising = positive[at + 1, np.arange(at.size)]
        for _ in range(HALVINGS):
            middle = 0.5 * (low + high)
            right = (value(y, middle) > 0) == rising
            low, high = np.where(right, low, middle), np.where(right, middle, high)
        return np.where(first.any(axis=0), 0.5 * (low + high), np.inf)

    most = int(sp.degree(function, variable)) if function.is_polynomial(variable) else 4
    return [partial(zero, number=n) for n in range(most)]


def solutions(function: sp.Expr, variable: sp.Symbol) -> list[sp.Expr]:
    """Zeros in one variable of a switching function, for degrees one and two."""
    found: list[sp.Expr] = []
    for factor in sp.Mul.make_args(sp.factor(function)):
        base = factor.as_base_exp()[0]
        if not base.has_free(variable):
            continue
        if not base.is_polynomial(variable) or sp.degree(base, variable) > 2:
            raise BadParameter(
                f"zeros of {base} in {variable} have no formula here: labels of several fields "
                "must switch at zeros of functions of degree one or two in each field"
            )
        c = sp.Poly(base, variable).all_coeffs()
        if len(c) == 2:
            found.append(-c[1] / c[0])
        else:
            inner = c[1] ** 2 - 4 * c[0] * c[2]
            # Next to a pair of complex zeros level sets are narrow: its real part counts too.
            first = sp.sqrt(sp.Max(0, inner) if function.has_free(LABEL) else inner)
            found += [(-c[1] + r) / (2 * c[0]) for r in (first, -sp.sqrt(inner))]
    return found


def degree_in(expr: sp.Expr, variable: sp.Symbol) -> int | None:
    """Highest degree of the pieces in one field; None where they are no polynomials."""
    smooth = without_kinks(expr, _any_branch)
    if not smooth.is_polynomial(variable):
        return None
    return int(sp.degree(smooth, variable)) if smooth.has_free(variable) else 0


def _any_branch(node: sp.Expr) -> sp.Expr:
    """A combination of the branches of a switch with free coefficients."""
    return sp.Add(*(sp.Dummy(real=True) * v for v in values_of(node)))


def _without_steps(expr: sp.Expr) -> sp.Expr:
    """The label with steps replaced by constants, for its slopes between them."""
    return expr.replace(sp.Heaviside, lambda *_: sp.Dummy(real=True)).replace(
        sp.sign, lambda *_: sp.Dummy(real=True)
    )


def slope(expr: sp.Expr, z: sp.Symbol) -> sp.Expr:
    """The derivative between kinks: no Dirac factors."""
    smooth = sp.diff(expr, z).doit().replace(sp.DiracDelta, lambda *_: sp.S.Zero)
    smooth = smooth.replace(sp.Derivative, lambda *_: sp.S.Zero)
    return smooth.replace(sp.Heaviside, lambda t, *_: (1 + sp.sign(t)) / 2)


def _filled(fields: list[sp.Symbol], expr: sp.Expr) -> Callable[..., Array]:
    """A break point as a function of other fields; infinite where it does not exist."""
    function = quiet(fields, expr)

    def evaluate(*at: Array) -> Array:
        found = function(*at)
        return np.where(np.isfinite(found), found, np.inf)

    return evaluate
