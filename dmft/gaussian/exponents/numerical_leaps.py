"""Order in which directions of any piecewise smooth target can be learned, by quadrature."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from math import factorial, prod
from typing import TYPE_CHECKING

import numpy as np
import sympy as sp
from numpy.polynomial.hermite_e import hermevander

from dmft.arrays import Array
from dmft.errors import BadParameter
from dmft.gaussian.exponents.coefficients import Coefficients, Index, indices, norm
from dmft.gaussian.exponents.leaps import MAX_ORDER, LeapStep, Y, canonical
from dmft.gaussian.nodes.grid import PANELS, TooManyNodes, evaluator

if TYPE_CHECKING:
    from scipy.interpolate import CubicSpline

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
            f"{self.coefficients.expr} depends on directions that show in no tensor up to order "
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
