"""Weak recovery and the steps that follow it, for labels of two and three fields."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import sympy as sp

from dmft.arrays import Array, half_width
from dmft.errors import NotClosed
from dmft.gaussian.channels.curve import Curve
from dmft.gaussian.channels.declared import Label, SignedLabel, signed_label
from dmft.gaussian.channels.priors import GAUSSIAN
from dmft.gaussian.channels.several import REPLICAS, Several
from dmft.gaussian.expectation import Gaussian
from dmft.record import Record
from dmft.workflow.static.bayes import CLOSED, QMC, QUADRATURE, Threshold
from dmft.workflow.static.several_fields import FINE_NODES, SURE, several_of, with_finer_nodes

# Eigenvalues below this part of the largest, or of one, are zero.
ZERO = 1e-6
# Remaining variance next to exact recovery, and the largest alpha at which steps are sought.
EXACT, LARGEST = 1e-12, 1e4
BISECTIONS = 24
# Overlaps of a learned direction between which a crossing is sought, and its accuracy.
OVERLAPS, CROSSED = np.linspace(0.02, 0.98, 13), 1e-4
# Half a step of slopes at a crossing; eigenvalues by quasi-Monte Carlo that differ less are equal.
STEP, EQUAL = 5e-3, 1e-2


@dataclass(frozen=True, eq=False)
class StaircaseStep(Record):
    """Directions that are learned together.

    Attributes
    ----------
    samples_per_dim : Threshold
        Samples from which they are learned.
    directions : (n, k)
        Orthonormal rows.
    reason : str
    jump : Threshold or None
        Samples at which their overlap jumps, where it does so later.
    """

    samples_per_dim: Threshold
    directions: Array
    reason: str
    jump: Threshold | None = None


class Weak(NamedTuple):
    """What is learned from nothing: trivial directions, threshold, first directions, steps.

    `turn` is tr q/k where the second step leaves the line of the first; 0 if there is none.
    """

    trivial: Array
    threshold: Threshold
    directions: Array
    steps: tuple[StaircaseStep, ...]
    curve: Curve | None
    message: str
    turn: float = 0.0


@lru_cache(maxsize=16)
def staircase(label: Label) -> Weak:
    """All of it for one label, in closed form where it has two values."""
    label.check_numbers()
    channel = several_of(label)
    signs = signed_label(label.expr, label.fields, channel.noise, channel.flip)
    closed = _closed_binary(label, channel)
    if closed is not None:
        first, second, formula, error, proof = *closed, 0.0, CLOSED
    elif signs is not None:
        (first, second), formula, error, proof = signs.around(0.0), "", 1e-10, QUADRATURE
    else:
        coarse, fine = (channel.uninformed_at(n) for n in FINE_NODES[channel.width])
        first, second = fine
        error = float(np.abs(second - coarse[1]).max()) / max(float(np.abs(second).max()), 1e-30)
        formula, proof = "", QUADRATURE
    trivial = _range(first)
    k = channel.width
    if len(trivial):
        zero = Threshold(0.0, 0.0, proof)
        steps = [StaircaseStep(zero, trivial, "E[h | y] does not vanish")]
        message, turn = _follow(channel, steps) if len(trivial) < k else ("", 0.0)
        return Weak(trivial, zero, trivial, tuple(steps), None, message, turn)
    largest = float(np.linalg.eigvalsh(second).max())
    if largest < ZERO:
        never = Threshold(np.inf, 0.0, proof)
        return Weak(trivial, never, trivial, (), None, "E[hh^T - I | y] vanishes")
    value = 1.0 / largest
    weak = Threshold(value, error * value, proof, formula)
    easy = _easy(second, largest)
    steps = [StaircaseStep(weak, easy, "E[hh^T - I | y] does not vanish")]
    if len(easy) == k:
        return Weak(trivial, weak, easy, tuple(steps), None, "")
    if signs is not None and len(easy) == 1 and abs(easy[0, signs.number]) > 1 - ZERO:
        curve = Curve(signs.channel, GAUSSIAN)
        return Weak(trivial, weak, easy, _signed_steps(signs, curve, steps[0]), curve, "")
    message, turn = _follow(channel, steps)
    return Weak(trivial, weak, easy, tuple(steps), None, message, turn)


def _closed_binary(label: Label, channel: Several) -> tuple[Array, Array, str] | None:
    """E[M M^T] and E[G x G] of a label with two values, from E[s], E[s z], E[s z z^T].

    With s = +-1: G(+-1) = +-(C - mu I)/(1 +- mu), so E[G x G] = (C - mu I) x (C - mu I)/(1 - mu^2).
    """
    if not channel.is_discrete or len(channel.atoms) != 2 or label.noise != 0:
        return None
    low, high = (sp.nsimplify(v, rational=True) for v in channel.atoms)
    sign = sp.expand((2 * label.expr - low - high) / (high - low))
    law, fields = Gaussian(label.fields, sp.eye(label.width)), label.fields
    kept = 1 - 2 * sp.nsimplify(label.flip, rational=True)
    if label.flip != 0 and low != -high:
        return None
    try:
        mean = kept * law.expect(sign)
        first = sp.Matrix([kept * law.expect(sign * z) for z in fields])
        second = sp.Matrix([[kept * law.expect(sign * a * b) for a in fields] for b in fields])
    except NotClosed:
        return None
    gap = second - mean * sp.eye(label.width)
    rest = 1 - mean**2
    table = np.array(gap.evalf(), dtype=float)
    m = np.array(first.evalf(), dtype=float)
    formula = ""
    if label.width == 2 and gap[0, 0] == gap[1, 1]:
        formula = str(sp.simplify(rest / (sp.Abs(gap[0, 0]) + sp.Abs(gap[0, 1])) ** 2))
    scale = float(rest)
    return m @ m.T / scale, np.kron(table, table) / scale, formula if table.any() else ""


def _range(matrix: Array) -> Array:
    """Orthonormal rows that span a positive semidefinite matrix, with signs made canonical."""
    values, vectors = np.linalg.eigh(matrix)
    rows = vectors[:, values > ZERO * max(float(values.max()), 1.0)].T
    return _canonical(rows, matrix.shape[0])


def _canonical(rows: Array, width: int) -> Array:
    """The same span with rows along axes where it holds them."""
    if not len(rows):
        return np.zeros((0, width))
    projector = rows.T @ rows
    axes = np.flatnonzero(np.abs(np.diag(projector) - 1.0) < ZERO)
    if len(axes) == len(rows):
        return np.eye(width)[axes]
    return rows * np.where(rows[:, np.abs(rows).argmax(axis=1)].diagonal() < 0, -1.0, 1.0)[:, None]


def _easy(second: Array, largest: float, apart: float = 1e-4) -> Array:
    """Range of the positive semidefinite matrices in the top eigenspace of q -> E[G q G]."""
    values, vectors = np.linalg.eigh(second)
    k = round(np.sqrt(len(second)))
    top = vectors[:, values > largest * (1 - apart)]
    # The image of the identity in the eigenspace is positive: the operator preserves the cone.
    matrix = (top @ (top.T @ np.eye(k).ravel())).reshape(k, k)
    return _range(0.5 * (matrix + matrix.T))


def _signed_steps(
    signs: SignedLabel, curve: Curve, first: StaircaseStep
) -> tuple[StaircaseStep, ...]:
    """The step of the field, then that of the others, whose sign alone the label sees."""
    top = curve.highest
    jump = None if top is None else Threshold(top.alpha, curve.error * top.alpha, QUADRATURE)
    start = StaircaseStep(first.samples_per_dim, first.directions, first.reason, jump)

    rows = np.eye(len(signs.fields))[signs.others]

    def line(overlap: float, variance: float) -> float:
        return 1.0 / _largest(signs.around(overlap, variance)[1], rows)[0]

    def unstable(alpha: float) -> bool:
        stable = [r for r in curve.roots(alpha) if r.stable]
        return alpha > line(float(stable[0].overlap), float(stable[0].variance))

    low, high = float(first.samples_per_dim) * (1 + 1e-9), min(curve.supremum, LARGEST)
    reason = "E[zz^T - I | y, learned] does not vanish"
    if not unstable(high * (1 - 1e-9)):
        if curve.supremum == np.inf:
            return (start,)
        # The field is recovered exactly; corrections are of order sqrt(V).
        at = 2 * line(1.0, EXACT) - line(1.0, 4 * EXACT)
        both = Threshold(max(at, curve.supremum), 1e-8 * at, QUADRATURE)
        return start, StaircaseStep(both, rows, reason)
    for _ in range(BISECTIONS):
        middle = float(np.sqrt(low * high))
        low, high = (low, middle) if unstable(middle) else (middle, high)
    at = Threshold(high, 2e-6 * high, QUADRATURE)
    return start, StaircaseStep(at, rows, reason)


def _follow(channel: Several, steps: list[StaircaseStep]) -> tuple[str, float]:
    """Append what is learned next, or say why not; with the trace of a crossing."""
    turn = 0.0
    while True:
        learned = np.concatenate([s.directions for s in steps])
        if len(learned) == channel.width:
            return "", turn
        rest = np.linalg.svd(learned)[2][len(learned) :]
        first, _, _ = channel.around(learned, 0.5)
        given = _range_within(first, rest)
        if len(given):
            reason = "E[h | y, learned] does not vanish"
            steps.append(StaircaseStep(steps[-1].samples_per_dim, given, reason))
            continue
        if len(learned) > 1:
            return "later steps are derived after one learned direction only", turn
        crossing = _crossing(channel, learned)
        if crossing is None:
            return "the other directions stay at zero overlap on the branch of the learned one", 0.0
        at, rows, q = crossing
        turn = q / channel.width
        steps.append(StaircaseStep(at, rows, "E[zz^T - I | y, learned] does not vanish"))


# First moments given the learned directions are zero below this, the error of few points.
NOISE = 5e-4


def _range_within(first: Array, rest: Array) -> Array:
    """Directions in the span of `rest` along which a first moment does not vanish."""
    values, vectors = np.linalg.eigh(rest @ first @ rest.T)
    return _canonical((vectors[:, values > NOISE]).T @ rest, first.shape[0])


def _crossing(channel: Several, learned: Array) -> tuple[Threshold, Array, float] | None:
    """Where alpha(q) of the learned direction meets the line 1/lambda(q) of the others, and q."""
    from scipy.optimize import brentq

    rest = np.linalg.svd(learned)[2][1:]

    def lines(q: float, seed: int = 0, by: Several = channel) -> Array:
        """Log alpha(q) less log 1/lambda(q), and the latter."""
        _, second, m = by.around(learned, q, seed=seed)
        line = -np.log(_largest(second, rest)[0])
        return np.array([np.log(q / (1 - q) / m) - line, line])

    gaps = [lines(q)[0] for q in OVERLAPS]
    for low, high, at_low, at_high in zip(OVERLAPS, OVERLAPS[1:], gaps, gaps[1:], strict=False):
        if at_low < 0 <= at_high:
            q = float(brentq(lambda q: float(lines(q)[0]), low, high, xtol=CROSSED))
            steps = lines(q + STEP) - lines(q - STEP)
            # Where the lines of other points cross, to first order.
            cross = np.array([1.0, -steps[1] / steps[0]])[::-1]
            each = np.array([lines(q, n) @ cross for n in range(REPLICAS)])
            finer = lines(q, 0, with_finer_nodes(channel)) @ cross
            at = float(np.exp(each.mean()))
            error = at * (float(half_width(each, SURE)) + 2.0 * float(abs(finer - each[0])))
            _, rows = _largest(channel.around(learned, q)[1], rest)
            return Threshold(at, error, QMC), rows, q
    return None


def _largest(second: Array, rest: Array) -> tuple[float, Array]:
    """Largest eigenvalue of q -> E[G q G] on the unlearned directions, and their range."""
    lift = np.kron(rest, rest)
    table = lift @ second @ lift.T
    table = 0.5 * (table + table.T)
    largest = max(float(np.linalg.eigvalsh(table)[-1]), 1e-300)
    return largest, _canonical(_easy(table, largest, EQUAL) @ rest, rest.shape[1])
