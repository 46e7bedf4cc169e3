r"""Directions of a target that no number of steps on repeated data can learn, by symmetry.

Let F be orthogonal with y(F h*) = s y(h*). Where the student answers a turn of its own fields,
h -> e h, with f -> s f, every average of a descent that starts at M = 0 is invariant under
(h*, h, y) -> (F h*, e h, s y), and M^t F = e M^t at all t: overlaps lie in one eigenspace of F.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.gaussian.nodes.grid import evaluator
from dmft.model import FIELD
from dmft.model.algorithm import GradientDescent
from dmft.model.loss import LABEL, PREDICTION

# All permutations of the fields with all flips up to here; flips and exchanges of two beyond.
ALL_TURNS = 3
# Points at which a symmetry is tried before SymPy proves it.
PROBES, PROBE_ERROR, SEED = 32, 1e-9, 20251125


@dataclass(frozen=True)
class Symmetry:
    """y(F h*) = sign y(h*) with M F = turn M: F has the given `order` and `flips` of the fields."""

    order: tuple[int, ...]
    flips: tuple[int, ...]
    sign: int
    turn: int

    def matrix(self) -> Array:
        """F as a matrix (k, k): (F h)_r = flips_r h_order(r)."""
        k = len(self.order)
        F = np.zeros((k, k))
        F[np.arange(k), list(self.order)] = self.flips
        return F

    def text(self, fields: Sequence[sp.Symbol], latex: bool = False) -> str:
        """The symmetry in words of the fields: y(-z1, z2) = y(z1, z2)."""
        show = sp.latex if latex else str
        moved = [f * fields[o] for o, f in zip(self.order, self.flips, strict=True)]
        left = f"y({', '.join(map(show, moved))})"
        right = f"{'-' if self.sign < 0 else ''}y({', '.join(map(show, fields))})"
        if self.turn > 0:
            return f"{left} = {right}"
        parity = "even" if self.sign > 0 else "odd"
        if all(
            o == r and f > 0 for r, (o, f) in enumerate(zip(self.order, self.flips, strict=True))
        ):
            student = f"f(-h) = {'-' if self.sign < 0 else ''}f(h)"
            return student if latex else f"the student is {parity}, {student}"
        student = rf"\text{{{parity} student}}" if latex else f"the student is {parity}"
        return f"{left} = {right}{', ' if latex else ' and '}{student}"


def symmetries(
    target: sp.Expr, fields: Sequence[sp.Symbol], activation: sp.Expr, algorithm: GradientDescent
) -> list[Symmetry]:
    """Signed permutations of the fields that bind the overlaps."""
    parity = student_parity(activation)
    result = []
    for order, flips in _turns(len(fields)):
        sign = _sign_under(target, fields, order, flips)
        if sign == 1:
            result.append(Symmetry(order, flips, 1, 1))
        if sign is not None and parity == sign and _keeps_loss(algorithm, sign):
            result.append(Symmetry(order, flips, sign, -1))
    return result


def student_parity(activation: sp.Expr) -> int | None:
    """1 for an even activation, -1 for an odd one, None for others."""
    mirrored = activation.xreplace({FIELD: -FIELD})
    for sign in (1, -1):
        if sp.simplify(mirrored - sign * activation) == 0:
            return sign
    return None


def reach(found: Sequence[Symmetry], width: int) -> Array:
    """Orthonormal rows (n, width) of the directions that every symmetry leaves open."""
    if not found:
        return np.eye(width)
    # M F = e M for every row of M.
    rows = [s.matrix().T - s.turn * np.eye(width) for s in found]
    _, singular, right = np.linalg.svd(np.concatenate(rows))
    result: Array = right[int((singular > PROBE_ERROR).sum()) :]
    return result


def closing(found: Sequence[Symmetry], direction: Array) -> Symmetry | None:
    """A symmetry that alone forbids a direction, None where it takes several."""
    for symmetry in found:
        F = symmetry.matrix()
        if np.abs(direction @ F + symmetry.turn * direction).max() < PROBE_ERROR:
            return symmetry
    return None


def _turns(width: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    identity = tuple(range(width))
    if width <= ALL_TURNS:
        orders = list(itertools.permutations(identity))
    else:
        orders = [identity]
        for a, b in itertools.combinations(identity, 2):
            swapped = list(identity)
            swapped[a], swapped[b] = b, a
            orders.append(tuple(swapped))
    for order in orders:
        yield from ((order, flips) for flips in itertools.product((1, -1), repeat=width))


def _sign_under(
    target: sp.Expr, fields: Sequence[sp.Symbol], order: Sequence[int], flips: Sequence[int]
) -> int | None:
    """Sign s with y(F h*) = s y(h*), None where there is none that SymPy proves."""
    moved = {x: f * fields[o] for x, o, f in zip(fields, order, flips, strict=True)}
    image = target.xreplace(moved)
    points = np.random.default_rng(SEED).standard_normal((len(fields), PROBES))
    here, there = (evaluator(e, fields)(points) for e in (target, image))
    for sign in (1, -1):
        close = np.abs(there - sign * here) <= PROBE_ERROR * (1 + np.abs(here))
        if close.all() and sp.simplify(sp.expand(image - sign * target)) == 0:
            return sign
    return None


def _keeps_loss(algorithm: GradientDescent, sign: int) -> bool:
    loss = algorithm.loss_expr
    image = loss.xreplace({PREDICTION: sign * PREDICTION, LABEL: sign * LABEL})
    return bool(sp.simplify(sp.expand(image - loss)) == 0)
