"""Order in which directions of a multi-index target can be learned: steps, exact for polynomials.

A step finds the smallest k at which E[T(y) phi(U h) H_k(V h)] does not vanish for all phi (and T),
U the directions learned so far and V those orthogonal to them, and adds the span of that tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from math import factorial, perm, prod
from typing import TYPE_CHECKING

import numpy as np
import sympy as sp
from numpy.polynomial.hermite_e import hermevander

from dmft.arrays import Array
from dmft.errors import BadParameter
from dmft.gaussian.exponents.coefficients import Coefficients, Index, indices, norm
from dmft.gaussian.nodes.grid import PANELS, TooManyNodes, evaluator

if TYPE_CHECKING:
    from scipy.interpolate import CubicSpline

# Orders that are tried.
MAX_ORDER = 10


@dataclass(frozen=True)
class LeapStep:
    """Step of learning, with its order, new directions and largest coefficient.

    Attributes
    ----------
    order : int
        Order k of the tensor that the step overcomes.
    directions : (n, k) ndarray
        New directions, as orthonormal rows.
    index : tuple of int
        Multi-index, over the directions not yet learned, of the largest coefficient.
    strength : sympy.Expr
        Value of this coefficient (for functions of unit norm, if it is numerical).
    transformation : sympy.Expr
        Function T(y) of this coefficient; y for leap exponents without transformation.
    error : float
        Error of the quadrature; 0 if the value is exact.
    largest_zero : float
        Largest coefficient that is treated as zero.
    basis : (m, k) ndarray
        Directions to which the indices refer.
    coefficients : tuple
        Nonzero entries of the tensor: (index, largest value over phi and T, T).
    feature : sympy.Expr or None
        Function phi of the value, if it is known in closed form.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z1, z2 = sp.symbols("z1 z2", real=True)
    >>> step = dmft.leap_exponent(z1 + z2**3 - 3*z2, [z1, z2]).steps[1]
    >>> step.order, step.directions.tolist()
    (3, [[0.0, 1.0]])
    """

    order: int
    directions: Array
    index: Index
    strength: sp.Expr
    transformation: sp.Expr
    error: float = 0.0
    largest_zero: float = 0.0
    basis: Array = field(default_factory=lambda: np.ones((1, 1)))
    coefficients: tuple[tuple[Index, sp.Expr, sp.Expr], ...] = ()
    feature: sp.Expr | None = None

    def names(self, fields: Sequence[sp.Symbol]) -> list[sp.Expr]:
        """Return the directions to which the indices refer, as combinations of the fields.

        Parameters
        ----------
        fields : sequence of sympy.Symbol
            Of the target.

        Returns
        -------
        list of sympy.Expr
            One for each row of `basis`.

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> z1, z2 = sp.symbols("z1 z2", real=True)
        >>> step = dmft.leap_exponent(z1 + z2**3 - 3*z2, [z1, z2]).steps[1]
        >>> step.names([z1, z2])
        [z2]
        """
        return [as_combination(v, fields) for v in self.basis]


Y = sp.Symbol("y", real=True)


def polynomial_steps(expr: sp.Expr, fields: Sequence[sp.Symbol]) -> list[LeapStep]:
    """Steps of a polynomial with rational coefficients, in rational arithmetic.

    Equation    E[phi(U h) H_k(V h) y] vanishes for all phi iff E[d_V^k y | U h] is the zero
                polynomial (Stein)
    Source      theory/batch_reuse D.4
    """
    polynomial = sp.Poly(expr, *fields)
    width = len(fields)
    learned: list[sp.Matrix] = []
    steps: list[LeapStep] = []
    while True:
        rest = _orthogonal_complement(learned, width)
        conditional = conditional_derivatives(polynomial, learned, rest)
        if not conditional:
            return steps
        order = min(sum(alpha) for alpha in conditional)
        tensor = {a: p for a, p in conditional.items() if sum(a) == order}
        rows = [
            sum((w * b / b.dot(b) for w, b in zip(column, rest, strict=True)), sp.zeros(width, 1))
            for column in _unfolded(tensor, len(rest), order)
        ]
        new = _gram_schmidt([sp.Matrix(v) for v in sp.Matrix.hstack(*rows).columnspace()])
        entries = [(a, max(p.values(), key=abs), Y) for a, p in tensor.items()]
        index, strength, _ = max(entries, key=lambda entry: abs(entry[1]))
        directions = canonical(_unit_rows(new))
        step = LeapStep(order, directions, index, strength, Y, basis=_unit_rows(rest))
        steps.append(replace(step, coefficients=tuple(entries)))
        learned = learned + new


def _unit_rows(vectors: Sequence[sp.Matrix]) -> Array:
    rows = np.array([np.array(v.T, dtype=float)[0] for v in vectors])
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def _gram_schmidt(vectors: Sequence[sp.Matrix]) -> list[sp.Matrix]:
    """Orthogonal, not normalised: entries stay rational."""
    return [sp.Matrix(v) for v in sp.GramSchmidt(list(vectors))]


def _orthogonal_complement(learned: Sequence[sp.Matrix], width: int) -> list[sp.Matrix]:
    if not learned:
        return [sp.eye(width).col(i) for i in range(width)]
    return _gram_schmidt(sp.Matrix.hstack(*learned).T.nullspace())


def conditional_derivatives(
    polynomial: sp.Poly, learned: Sequence[sp.Matrix], rest: Sequence[sp.Matrix]
) -> dict[Index, dict[Index, sp.Expr]]:
    """E[d_v^alpha y | u] for |alpha| >= 1 as {alpha: {monomial of u: coefficient}}, zeros dropped.

    h = sum_i u_i a_i + sum_i v_i b_i with orthogonal a, b: v_i ~ N(0, 1/|b_i|^2) independent.
    """
    if not rest:
        return {}
    basis = [*learned, *rest]
    coordinates = [sp.Dummy() for _ in basis]
    image = sp.Matrix.hstack(*basis) * sp.Matrix(coordinates)
    rotated = sp.Poly(
        polynomial.as_expr().xreplace(dict(zip(polynomial.gens, image, strict=True))), *coordinates
    )
    variances = [1 / b.dot(b) for b in rest]
    result: dict[Index, dict[Index, sp.Expr]] = {}
    for powers, coefficient in rotated.terms():
        u, v = powers[: len(learned)], powers[len(learned) :]
        for alpha in _even_gaps(v):
            if not any(alpha):
                continue
            weight = coefficient
            for m, a, s in zip(v, alpha, variances, strict=True):
                weight *= perm(m, a) * sp.factorial2(m - a - 1) * s ** ((m - a) // 2)
            table = result.setdefault(alpha, {})
            table[u] = table.get(u, sp.S.Zero) + weight
    cleaned = {a: {u: c for u, c in t.items() if c != 0} for a, t in result.items()}
    return {a: t for a, t in cleaned.items() if t}


def _even_gaps(powers: Index) -> list[Index]:
    """All alpha <= powers with powers - alpha even in each entry."""
    if not powers:
        return [()]
    return [(a, *rest) for a in range(powers[0], -1, -2) for rest in _even_gaps(powers[1:])]


def _unfolded(
    tensor: dict[Index, dict[Index, sp.Expr]], width: int, order: int
) -> list[list[sp.Expr]]:
    """Columns of the tensor's first unfolding, over monomials of u and the other slots."""
    monomials = sorted({u for table in tensor.values() for u in table})
    columns = []
    for others in indices(width, order - 1):
        for u in monomials:
            raised = [tuple(o + (i == j) for j, o in enumerate(others)) for i in range(width)]
            column = [tensor.get(a, {}).get(u, sp.S.Zero) for a in raised]
            if any(column):
                columns.append(column)
    return columns


def as_combination(vector: Array, fields: Sequence[sp.Symbol]) -> sp.Expr:
    """A direction as a combination of fields, its largest entry one."""
    scaled = vector / vector[np.argmax(np.round(np.abs(vector), 9))]
    terms = [_number(float(a)) * x for a, x in zip(scaled, fields, strict=True) if abs(a) > 1e-8]
    return sp.Add(*terms)


def _number(a: float) -> sp.Expr:
    """A fraction of small denominator where one fits, otherwise four digits."""
    fraction = Fraction(a).limit_denominator(12)
    return sp.Rational(fraction) if abs(a - fraction) < 1e-8 else sp.Float(a, 4)


def canonical(directions: Array) -> Array:
    """Orthonormal basis of the same span that names coordinates where it can; signs fixed."""
    projector = directions.T @ directions
    basis: list[Array] = []
    for _ in range(len(directions)):
        # Pivot on the coordinate that lies most within what is left of the span.
        pivot = int(np.argmax(np.round(np.diag(projector), 9)))
        vector = projector[pivot] / np.sqrt(projector[pivot, pivot])
        basis.append(vector)
        projector = projector - np.outer(vector, vector)
    clean = np.array(basis)
    clean[np.abs(clean) < 1e-9] = 0.0
    return clean


# Singular values of tensors of unit-size functions: zero up to here (theory/batch_reuse D.4, where
# numerical zeros stay below and the nonzero values are 7e-2 or more).
THRESHOLD = 1e-6
# Two levels of quadrature must agree to this before a zero is believed.
QUADRATURE_ERROR = 1e-7
# A nonzero singular value exceeds the change between the levels by this factor.
SAFETY = 10.0
TRANSFORMATIONS = 6
FEATURES = 5
# Points at which "depends on the learned directions only" is tried, and how closely.
PROBES = 64
PROBE_ERROR = 1e-9
# Frequencies and phases of the random features: any fixed seed serves.
SEED = 20240601
# Label noise: Gauss nodes, and knots of the averaged transformations.
NOISE_NODES, NOISE_KNOTS = 40, 2001
# Values of several quadrature points are multiplied at once, in blocks that stay in cache.
BLOCK = 1 << 16


def numerical_steps(
    coefficients: Coefficients,
    *,
    every_transformation: bool,
    first_only: bool = False,
    noise: float = 0.0,
) -> list[LeapStep]:
    """Steps by quadrature: random smooth transformations of y and features of learned directions.

    Equation    singular values of E[T_l(y) phi_m(U h) H_k(V h)] unfolded along its first slot;
                T_l(y) = cos(w_l arctan((y - c)/s) + b_l), or y/std alone, averaged over label noise
    Source      theory/batch_reuse D.4
    """
    engine = _Engine(coefficients, every_transformation, noise)
    width = len(coefficients.fields)
    learned = np.zeros((0, width))
    steps: list[LeapStep] = []
    while not engine.depends_only_on(learned):
        step = engine.step(learned)
        steps.append(step)
        if first_only:
            break
        learned = np.concatenate([learned, step.directions])
    return steps


class _Engine:
    """Tensors E[T_l(y) phi_m(U h) He_n(V h)] of one target."""

    def __init__(
        self, coefficients: Coefficients, every_transformation: bool, noise: float
    ) -> None:
        self.coefficients, self.noise = coefficients, noise
        self.width = len(coefficients.fields)
        self.levels = len(PANELS[self.width][1]) if self.width in PANELS else 1
        nodes = coefficients.grid(0)
        # Rounded, so that a mean of zero is printed as such; any centre serves.
        self.centre = round(float(nodes.weights @ nodes.values), 9)
        spread = float(np.sqrt(nodes.weights @ (nodes.values - self.centre) ** 2))
        # A constant that is written with functions varies by rounding only.
        self.size = spread if spread > PROBE_ERROR * coefficients.scale else 1.0 + abs(self.centre)
        rng = np.random.default_rng(SEED)
        self.frequencies = rng.uniform(0.5, 3.0, TRANSFORMATIONS)
        self.phases = rng.uniform(0.0, 2 * np.pi, TRANSFORMATIONS)
        self.slopes = rng.standard_normal((FEATURES, self.width))
        self.offsets = rng.uniform(0.0, 2 * np.pi, FEATURES)
        self.every = every_transformation

    def transformed(self, values: Array) -> Array:
        """T_l(y), shape (l, n): bounded by one, or of unit variance."""
        if not self.every:
            return ((values - self.centre) / self.size)[None]
        if self.noise == 0:
            return self.bounded(values)
        return np.asarray(self.averaged(np.arctan((values - self.centre) / self.size))).T

    def bounded(self, values: Array) -> Array:
        """T_l(y) itself, shape (l, n)."""
        angle = np.arctan((values - self.centre) / self.size)
        turned = self.frequencies[:, None] * angle
        turned += self.phases[:, None]
        return np.asarray(np.cos(turned, out=turned))

    @cached_property
    def averaged(self) -> CubicSpline:
        """E[T_l(g + noise)] as a function of arctan((g - c)/s): smooth, so a spline is exact."""
        from scipy.interpolate import CubicSpline

        x, weights = np.polynomial.hermite_e.hermegauss(NOISE_NODES)
        angles = np.linspace(-np.pi / 2, np.pi / 2, NOISE_KNOTS)
        inside = np.clip(angles, angles[1] / 2 + angles[0] / 2, angles[-1] / 2 + angles[-2] / 2)
        labels = self.centre + self.size * np.tan(inside)
        total = np.zeros((NOISE_KNOTS, TRANSFORMATIONS))
        for node, weight in zip(x, weights / weights.sum(), strict=True):
            total += weight * self.bounded(labels + np.sqrt(self.noise) * node).T
        return CubicSpline(angles, total)

    def transformation(self, which: int) -> sp.Expr:
        """T_l as an expression in y."""
        if not self.every:
            return Y
        centre, size, frequency, phase = (
            sp.Float(v, 4) if v else sp.S.Zero
            for v in (self.centre, self.size, self.frequencies[which], self.phases[which])
        )
        return sp.cos(frequency * sp.atan((Y - centre) / size) + phase)

    def features(self, learned: Array) -> Array:
        """Slopes of phi_m(U h) = cos(slope . h + offset), one constant feature first."""
        if not len(learned):
            return np.zeros((1, self.width))
        slopes = self.slopes[:, : len(learned)] @ learned
        return np.concatenate([np.zeros((1, self.width)), slopes])

    def depends_only_on(self, learned: Array) -> bool:
        """Whether y(P_U h) = y(h) at random points."""
        if len(learned) == self.width:
            return True
        points = np.random.default_rng(SEED).standard_normal((self.width, PROBES))
        function = evaluator(self.coefficients.expr, self.coefficients.fields)
        gap = np.abs(function(points) - function(learned.T @ (learned @ points)))
        return bool(np.all(gap <= PROBE_ERROR * self.size))

    def step(self, learned: Array) -> LeapStep:
        """The next directions, given those learned."""
        rest = np.eye(self.width)
        if len(learned):
            rest = canonical(np.linalg.svd(learned)[2][len(learned) :])
        largest_zero = 0.0
        for order in range(1, MAX_ORDER + 1):
            tensor, kept, error, zero = self.settled(learned, rest, order)
            largest_zero = max(largest_zero, zero)
            if kept.shape[1]:
                entries = self.entries(tensor, len(rest), order)
                entry = max(entries, key=lambda entry: abs(entry[1]))
                directions = canonical(kept.T @ rest)
                step = LeapStep(order, directions, *entry, error, largest_zero, rest)
                return replace(step, coefficients=tuple(entries))
        raise BadParameter(
            f"{self.coefficients.expr} depends on directions that appear in no tensor up to order "
            f"{MAX_ORDER} above {THRESHOLD}"
        )

    def entries(
        self, tensor: Array, width: int, order: int
    ) -> list[tuple[Index, sp.Expr, sp.Expr]]:
        """Each index with its largest value over transformations and features, if nonzero."""
        found = []
        for n, part in zip(indices(width, order), np.moveaxis(tensor, 2, 0), strict=True):
            which = np.unravel_index(np.abs(part).argmax(), part.shape)
            if abs(part[which]) > THRESHOLD:
                value = sp.Float(part[which], 6)
                found.append((n, value, self.transformation(int(which[0]))))
        return found

    def settled(self, learned: Array, rest: Array, order: int) -> tuple[Array, Array, float, float]:
        """Tensor, its span (columns), error and largest zero, where two levels agree on them.

        What is kept must exceed the change between the levels; only what is held for zero must
        be known to `QUADRATURE_ERROR`.
        """
        previous, error = self.tensor(learned, rest, order, 0), float("inf")
        for level in range(1, self.levels):
            try:
                current = self.tensor(learned, rest, order, level)
            except TooManyNodes:
                if level == 1:
                    raise
                break
            table, change = (
                self.unfold(t, len(rest), order) for t in (current, current - previous)
            )
            left, singular, _ = np.linalg.svd(table, full_matrices=len(table) > table.shape[1])
            rank = int((singular > THRESHOLD).sum())
            error = float(np.linalg.norm(change, 2))
            open_error = float(np.linalg.norm(left[:, rank:].T @ change))
            sure = not rank or singular[rank - 1] > SAFETY * error
            if sure and open_error < QUADRATURE_ERROR:
                return current, left[:, :rank], error, float(singular[rank:].max(initial=0.0))
            previous = current
        raise BadParameter(
            f"the quadrature of {self.coefficients.expr} at order {order} has an error of "
            f"{error:.1e}; deciding whether it is zero needs {QUADRATURE_ERROR}"
        )

    def tensor(self, learned: Array, rest: Array, order: int, level: int) -> Array:
        """E[T_l phi_m He_n(V h)] / sqrt(k!), shape (l, m, multi-indices of order k)."""
        nodes = self.coefficients.grid(level)
        slopes = self.features(learned)
        offsets = np.concatenate([[0.0], self.offsets])[: len(slopes), None]
        wanted = indices(len(rest), order)
        total = np.zeros((1 if not self.every else TRANSFORMATIONS, len(slopes) * len(wanted)))
        for start in range(0, nodes.weights.size, BLOCK):
            part = slice(start, start + BLOCK)
            points = nodes.points[:, part]
            table = np.moveaxis(hermevander(rest @ points, order), -1, 0)
            he = np.stack([prod(table[m, i] for i, m in enumerate(n)) for n in wanted])
            phi = np.cos(slopes @ points + offsets)
            columns = (phi[:, None] * he[None]).reshape(-1, points.shape[1])
            total += (self.transformed(nodes.values[part]) * nodes.weights[part]) @ columns.T
        scale = np.sqrt(float(factorial(order)))
        return total.reshape(len(total), len(slopes), len(wanted)) / scale

    def unfold(self, tensor: Array, width: int, order: int) -> Array:
        """Shape (directions, everything else)."""
        position = {n: i for i, n in enumerate(indices(width, order))}
        blocks = []
        for others in indices(width, order - 1):
            raised = [tuple(o + (i == j) for j, o in enumerate(others)) for i in range(width)]
            weight = np.sqrt(factorial(order - 1)) / norm(others)
            picked = tensor[:, :, [position[n] for n in raised]]
            blocks.append(weight * picked.reshape(-1, width).T)
        return np.concatenate(blocks, axis=1)
