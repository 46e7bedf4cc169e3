"""Fixed points of state evolution for labels of two and three fields, by continuation from ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from dmft.arrays import Array, half_width
from dmft.errors import BadParameter
from dmft.gaussian.channels.declared import Label
from dmft.gaussian.channels.several import REPLICAS, Average, Several
from dmft.gaussian.nodes.rules import scrambled_sobol, to_normal

# First overlaps, of no knowledge and next to the teacher.
NUDGE, NEAR = 1e-2, 1.0 - 1e-3
# Points while the overlap still moves, by whether the label is discrete; steps; a settled change.
FEW, MOST_STEPS, SETTLED = {True: 1024, False: 1024}, 400, {True: 1e-5, False: 1e-4}
# Nodes of panels by the number of fields, for averages and for the operators at q = 0.
NODES, FINE_NODES = {2: 16, 3: 8}, {2: (40, 60), 3: (16, 20)}
# Nodes with noise are doubled up to these until m is resolved to this part at these overlaps.
MOST_NODES, RESOLVED, RIDGES = {2: 64, 3: 16}, 5e-4, (0.5, 0.99)
# Overlaps below this are zero where zero is a fixed point; a smaller remaining variance is exact.
ZERO, EXACT = 1e-4, 1e-5
# The remaining variance of a direction that labels determine goes to zero, and is followed to here.
LEAST = 1e-7
# Changes are relative to this many remaining variances where the overlap is larger.
WHOLE = 10.0
# Anderson's acceleration: past steps that are combined.
DEPTH = 4
# Two states whose overlaps differ by less are one; steps of the Jacobian.
SAME, STEP = 2e-2, 0.1
# Points of the risk, and of the error of nodes, which is the change with more of them.
RISK_POINTS, NODE_POINTS, FINER = 1 << 12, 256, 1.5
# Share of cases that intervals of means of few scrambles hold.
SURE = 0.99


class State(NamedTuple):
    """A fixed point: overlap, precision, error of the overlap, entropy Psi_out, stability."""

    overlap: Array
    precision: Array
    error: float
    entropy: float
    stable: bool


@lru_cache(maxsize=16)
def several_of(label: Label) -> Several:
    """The channel of a label of several fields."""
    label.check_numbers()
    if label.drawn:
        raise BadParameter(
            "static limits of label_channel are derived for teachers of one field; for several "
            "fields use label_noise or label_flip"
        )
    k = min(label.width, 3)
    noise, flip = float(label.noise), float(label.flip)
    channel = Several(label.expr, label.fields, noise, flip, NODES[k])
    # Panels are not split at ridges, whose width is that of the noise.
    while noise and channel.nodes < MOST_NODES[k]:
        if max(node_error(channel, q * np.eye(label.width)) for q in RIDGES) < RESOLVED:
            break
        channel = replace(channel, nodes=2 * channel.nodes)
    return channel


def posterior_overlap(precision: Array) -> Array:
    """F(qhat) = qhat (I + qhat)^-1 of the Gaussian prior, at most 1 - LEAST in any direction.

    Symmetric, since antisymmetric rounding would grow from step to step, and without what noise of
    averages makes negative.
    """
    if not np.isfinite(precision).all():
        return precision
    values, vectors = np.linalg.eigh(precision)
    values = np.maximum(values, 0.0)
    return np.asarray(vectors * np.minimum(values / (1.0 + values), 1.0 - LEAST) @ vectors.T)


def is_trivial(channel: Several) -> bool:
    """Whether zero is no fixed point."""
    return bool(np.trace(channel.uninformed[0]) > 1e-6)


def step(
    channel: Several, alpha: float, q: Array, start: Array, points: int | None = None
) -> Array:
    """One step of state evolution; symmetries of the label that the start has stay."""
    m = channel.symmetrised(channel.average(q, points).information, start)
    return posterior_overlap(alpha * m)


def fixed_point(channel: Several, alpha: float, start: Array) -> State:
    """The fixed point that the iteration reaches from a start, with its Jacobian's stability."""
    few = FEW[channel.is_discrete]
    zero_is_fixed = not is_trivial(channel)
    q = iterated(lambda q: step(channel, alpha, q, start, few), start, 1e-3, zero_is_fixed)
    if _ends(q, zero_is_fixed):
        return end_state(channel, alpha, q)
    settled = SETTLED[channel.is_discrete]
    q = iterated(lambda q: step(channel, alpha, q, start), q, settled, zero_is_fixed)
    if _ends(q, zero_is_fixed):
        return end_state(channel, alpha, q)
    found = channel.average(q)
    values, vectors = np.linalg.eigh(q)
    exact = (values > 1.0 - EXACT) & (not (channel.is_discrete or channel.noise))
    left = vectors[:, ~exact] if exact.any() else np.eye(len(q))
    rate = _largest_rate(lambda q: step(channel, alpha, q, start, few), q, left)
    rest = np.eye(len(q)) - q
    change = float(np.abs(rest @ found.information @ rest).max())
    noise = alpha * change * relative_error(channel, q, found, left @ left.T)
    error = (noise + settled) / max(1.0 - rate, 0.05)
    precision = alpha * channel.symmetrised(found.information, start)
    if not exact.any():
        return State(q, precision, error, found.entropy, rate < 1.0)
    known = vectors[:, exact] @ vectors[:, exact].T
    precision[np.abs(known) > ZERO] = np.inf * np.sign(known[np.abs(known) > ZERO])
    q = known + left @ (left.T @ q @ left) @ left.T
    return State(q, precision, error, np.inf, rate < 1.0)


def with_finer_nodes(channel: Several) -> Several:
    """The channel with more nodes of conditioned fields."""
    return replace(channel, nodes=int(FINER * channel.nodes))


def node_error(channel: Several, q: Array, weight: Array | None = None) -> float:
    """Relative error of tr(m weight) that the nodes of conditioned fields leave.

    Twice the change with finer nodes, which have an error as well.
    """
    weight = np.eye(len(q)) if weight is None else weight
    pair = channel, with_finer_nodes(channel)
    one, two = (float(np.sum(weight * c.average(q, NODE_POINTS).information)) for c in pair)
    return 2.0 * abs(one - two) / max(two, 1e-300)


def relative_error(
    channel: Several, q: Array, found: Average, weight: Array | None = None
) -> float:
    """Relative error of tr(m weight) by scrambles and nodes."""
    each = np.sum(found.tables * (np.eye(len(q)) if weight is None else weight), axis=(1, 2))
    return float(half_width(each, SURE) / np.mean(each)) + node_error(channel, q, weight)


def _ends(q: Array, zero_is_fixed: bool) -> bool:
    return (zero_is_fixed and float(np.trace(q)) < ZERO) or float(np.trace(np.eye(len(q)) - q)) < (
        EXACT * len(q)
    )


def end_state(channel: Several, alpha: float, q: Array) -> State:
    """No overlap, exact recovery, or an overlap so close to one that nodes resolve no more."""
    k = len(q)
    if np.trace(q) < ZERO:
        zero = np.zeros((k, k))
        largest = float(np.linalg.eigvalsh(channel.uninformed[1]).max())
        return State(zero, zero, 0.0, channel.average(zero).entropy, alpha * largest < 1.0)
    if channel.is_discrete or channel.noise:
        found = channel.average(q)
        hat, left = alpha * channel.symmetrised(found.information, q), np.trace(np.eye(k) - q)
        return State(q, hat, float(left), found.entropy, True)
    return State(np.eye(k), np.diag(np.full(k, np.inf)), 0.0, np.inf, True)


def iterated(
    advance: Callable[[Array], Array],
    q: Array,
    tol: float,
    zero_is_fixed: bool,
    steps: int = MOST_STEPS,
) -> Array:
    """Plain steps while the overlap grows, Anderson's acceleration where steps shrink."""
    changes: list[Array] = []
    images: list[Array] = []
    last = np.inf
    for _ in range(steps):
        image = advance(q)
        if not np.isfinite(image).all():  # no overlap of this trace: a field is not in the label
            return q
        change = image - q
        size, left = float(np.abs(change).max()), float(np.trace(np.eye(len(q)) - q))
        # Next to exact recovery the remaining variance is what converges, or grows.
        scale = min(max(float(np.abs(q).max()), NUDGE), WHOLE * left)
        lowest, now = (np.linalg.eigvalsh(np.eye(len(q)) - a)[0] for a in (q, image))
        rests = abs(now - lowest) < tol * WHOLE * len(q) * now or now <= LEAST * (1.0 + tol)
        if (size < tol * scale and rests) or _ends(image, zero_is_fixed):
            return image
        if size > last:
            changes, images = [], []
        changes, images = [*changes, change][-DEPTH:], [*images, image][-DEPTH:]
        q, last = _accelerated(changes, images), size
    return q


def _accelerated(changes: list[Array], images: list[Array]) -> Array:
    """Combination of images with the smallest combined change; the last image where it leaves."""
    image = images[-1]
    if len(changes) < 3:
        return image
    rows = np.array([(c - changes[-1]).ravel() for c in changes[:-1]])
    part = np.linalg.lstsq(rows.T, -changes[-1].ravel(), rcond=1e-8)[0]
    mixed = image + sum(p * (i - image) for p, i in zip(part, images[:-1], strict=True))
    values = np.linalg.eigvalsh(mixed)
    moved = float(np.abs(mixed - image).max())
    inside = values[0] > -1e-12 and values[-1] < 1.0 and np.abs(part).sum() < 20.0
    return mixed if inside and moved < 0.25 * float(np.abs(image).max()) else image


def _largest_rate(advance: Callable[[Array], Array], q: Array, left: Array) -> float:
    """Spectral radius of the Jacobian of the map on symmetric matrices of the columns of `left`."""
    k = left.shape[1]
    basis = []
    for i in range(k):
        for j in range(i, k):
            unit = np.zeros((k, k))
            unit[i, j] = unit[j, i] = 1.0 if i == j else np.sqrt(0.5)
            basis.append(left @ unit @ left.T)
    size = STEP * min(float(np.linalg.eigvalsh(np.eye(k) - left.T @ q @ left).min()), 0.5)
    columns = []
    for unit in basis:
        ends = [advance(q + s * size * unit) for s in (1.0, -1.0)]
        change = (ends[0] - ends[1]) / (2 * size)
        columns.append([float(np.sum(change * other)) for other in basis])
    return float(np.abs(np.linalg.eigvals(np.array(columns))).max())


def reached_from_ends(channel: Several, alpha: float) -> list[State]:
    """Fixed points from both ends, by overlap; one where they agree."""
    low, high = (fixed_point(channel, alpha, q * np.eye(channel.width)) for q in (NUDGE, NEAR))
    same = np.abs(low.overlap - high.overlap).max() < SAME
    return [low] if same else [low, high]


def free_entropy(state: State, alpha: float) -> float:
    """Replica-symmetric free entropy of the Gaussian prior at a fixed point."""
    q, hat = state.overlap, state.precision
    if state.entropy == np.inf:  # exact recovery from a label with a density
        return np.inf
    inner = 0.5 * np.trace(hat) - 0.5 * np.linalg.slogdet(np.eye(len(q)) + hat)[1]
    return float(-0.5 * np.trace(q @ hat) + inner + alpha * state.entropy)


def claimed(
    measure: Callable[[Several, Array, int], Array], channel: Several, q: Array, error: float
) -> tuple[float, float]:
    """Mean of a measure of scrambles at q, and its error by these, nodes and the error of q."""
    each, size = measure(channel, q, RISK_POINTS), float(np.abs(q).max())
    few, others = NODE_POINTS, [(with_finer_nodes(channel), q)]
    others += [(channel, (1.0 - min(error / size, 1.0)) * q)] if size > 0 else []
    here = measure(channel, q, few)
    moved = sum(abs(float(np.mean(measure(*y, few) - here))) for y in others)
    return float(each.mean()), float(half_width(each, SURE)) + 2.0 * moved


def entropies(channel: Several, q: Array, points: int) -> Array:
    """Psi_out at an overlap, of each scramble."""
    return channel.average(q, points).logs


def noiseless(label: Label) -> Several:
    """The channel of a label without its noise; the flip keeps outer functions."""
    return Several(label.expr, label.fields, flip=0.5, nodes=NODES[label.width])


def risks_of(clean: Several, q: Array, points: int) -> Array:
    """E Var(g | omega)/2 of each scramble.

    Of a label with a density as E(g - g')^2/4 of fields that share omega.
    """
    k = len(q)
    if clean.is_discrete:
        p, y = _masses(clean, q, points), clean.atoms
        return np.asarray(0.5 * np.mean(y**2 @ p - (y @ p) ** 2, axis=-1))
    values, vectors = np.linalg.eigh(q)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    rest, found = np.linalg.cholesky(np.eye(k) - q + 1e-15 * np.eye(k)), []
    for stream in np.random.SeedSequence(1).spawn(REPLICAS):
        draws = to_normal(scrambled_sobol(3 * k, points, stream))
        omega = root @ draws[:k]
        one, two = (clean.label(omega + rest @ draws[n * k : (n + 1) * k]) for n in (1, 2))
        found.append(0.25 * np.mean((one - two) ** 2))
    return np.array(found)


def error_rates_of(channel: Several, q: Array, points: int) -> Array:
    """1 - E max_y P(y | omega) of a label with two values, without flips, of each scramble."""
    return np.asarray(_masses(channel, q, points).min(axis=1).mean(axis=-1))


def _masses(channel: Several, q: Array, points: int) -> Array:
    """Probabilities of the values of a discrete label at Sobol points of omega, by scramble."""
    values, vectors = np.linalg.eigh(q)
    variance, found = np.eye(len(q)) * (1 + 1e-12) - q, []
    for stream in np.random.SeedSequence(2).spawn(REPLICAS):
        draws = to_normal(scrambled_sobol(len(q), points, stream))
        omega = (vectors * np.sqrt(np.maximum(values, 0.0))) @ draws
        found.append([s.mass for s in channel.value_sums(omega.T, variance)])
    return np.array(found)
