"""Response of the gradients of a finished descent, measured on some of its samples."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dmft.solvers.descent.process import Arrays
from dmft.solvers.descent.response_lines import along_lines
from dmft.solvers.descent.samples import Samples
from dmft.solvers.descent.sweep import Sweep, by_time, overlaps
from dmft.solvers.descent.task import DescentTask, Nodes

Array = NDArray[np.float64]
# Samples are summed in this many parts, whatever the number of threads.
PARTS = 16
# Passes over the lines end when the response changes by less, relative to its largest entry.
SETTLED = 1e-3
# Of paths and of lines: their number times (T p)^2, at most; and the least number of either: with
# 32 lines to a scramble, 7 entries of 100 lay beyond three of the errors claimed.
PATHS, LINES, FEWEST = 2**21, 2**16, 64
# Pieces of a line for each field: more than this is a descent that jumps to and fro.
PIECES = 3
# Least slope of a field along the lines in units of its length: below, lines meet too few kinks.
LEAST_SLOPE = 0.01


def measured(sweep: Sweep, nodes: Nodes, past: Array, threads: int = 1) -> Array | None:
    """R_l (n, n, p, p) of the n steps that were done, by the derivative of paths or of lines.

    `past` holds the gradients of the samples as `dmft.solvers.descent.sweep.march_on` left them;
    the number of threads never changes a result. None without slopes (`DescentTask.slopes`), and
    where lines do not resolve the kinks.
    """
    task = sweep.task
    if task.slopes is None or sweep.done == 0:
        return None
    count = sample_count(task, nodes.normal.shape[1], nodes.scrambled)
    few = Nodes(
        np.ascontiguousarray(nodes.normal[:, :count]), np.ascontiguousarray(nodes.mask[:, :count]),
        nodes.cluster[:count], nodes.scrambled,
    )  # fmt: skip
    with ThreadPoolExecutor(threads) as pool, np.errstate(all="ignore"):
        # What is not finite is told by the status.
        samples = Samples.of(task, few, past[:, :count], pool, threads)
        if task.knots.size == 0:
            return _by_paths(sweep, samples)
        direction = line_direction(sweep)
        return None if direction is None else _by_lines(sweep, samples, direction)


def _beside(sweep: Sweep) -> Arrays:
    """Arrays in which the response is built beside that of the sweep.

    Not R_theta of the sweep: that holds the noise of Stein's identity, which fields do not feel (it
    is orthogonal to what gradients make of their paths), but products of slopes do.
    """
    own = ("R_l", "R_theta", "R_free", "slopes", "to_star", "to_driving", "to_past")
    return sweep.arrays._replace(**{n: np.zeros_like(getattr(sweep.arrays, n)) for n in own})


def _by_paths(sweep: Sweep, samples: Samples) -> Array:
    """Response along the paths; what weights answer to it is built beside."""
    task, p = sweep.task, sweep.task.p
    big = sweep.done * p
    gradients = samples.past[:big]
    history = np.empty((big * (1 + p), gradients.shape[1]))
    history[:big] = gradients
    along, beside = replace(samples, past=history), _beside(sweep)
    for t in range(sweep.done):
        task.process.fields(t, task.par[t], beside)
        row = along.slopes(t, task.slopes, big, sweep.readout[t], sweep.field_weights(t), beside)
        beside.slopes[:, : t + 1] = row.reshape(p, t + 1, p)
        sweep.answer(t, beside)
    return by_time(beside.R_l, sweep.done)


def _by_lines(sweep: Sweep, samples: Samples, direction: Array) -> Array | None:
    """Response along lines of samples.

    A pass over the lines takes R_theta from the pass before, which makes one more step exact and
    the others better by a factor of the learning rate; horizons double, so that none begins from
    nothing.
    """
    p = sweep.task.p
    big = sweep.done * p
    slopes = np.zeros((big, big))
    horizon = known = 0
    while horizon < sweep.done:
        horizon = min(max(1, 2 * horizon), sweep.done)
        for t in range(known, horizon):  # a guess: as one step before
            now, one = slice(t * p, (t + 1) * p), slice((t - 1) * p, t * p)
            if t > 0:
                slopes[now, p : (t + 1) * p] = slopes[one, : t * p]
                slopes[now, :p] = slopes[one, :p] if t > 1 else 0.0
        for _ in range(horizon):
            found = _pass_of_lines(sweep, samples, direction, horizon, slopes)
            if found is None:
                return None
            size = horizon * p
            change = float(np.max(np.abs(found - slopes[:size, :size])))
            slopes[:size, :size] = found
            if not change > SETTLED * float(np.max(np.abs(found))):
                break
        known = horizon
    return by_time(_answers(sweep, slopes, sweep.done).R_l, sweep.done)


def _answers(sweep: Sweep, slopes: Array, steps: int) -> Arrays:
    """Kernels and fields of the first `steps` times at these slopes, over (time, neuron)."""
    task, p = sweep.task, sweep.task.p
    beside = _beside(sweep)
    for t in range(steps):
        task.process.fields(t, task.par[t], beside)
        row = slopes[t * p : (t + 1) * p, : (t + 1) * p]
        beside.slopes[:, : t + 1] = row.reshape(p, t + 1, p)
        sweep.answer(t, beside)
    return beside


def _pass_of_lines(
    sweep: Sweep, samples: Samples, direction: Array, steps: int, slopes: Array
) -> Array | None:
    """E[dg/dr] of the first `steps` times from what fields take of the past at other slopes.

    None where lines break up.
    """
    task, p = sweep.task, sweep.task.p
    big, count = steps * p, samples.label.size
    beside = _answers(sweep, slopes, steps)
    fixed = np.concatenate([task.teacher_readout, task.scalars])
    parts = min(PARTS, count)
    sums = np.zeros((parts, big, big))
    direction = direction[:big] / np.linalg.norm(direction[:big])
    to_past = beside.to_past[:steps, :, :steps]
    head = task.sample, task.slopes, steps
    rest = (
        count // parts, pieces(task), int(task.trained),
        samples.normal, samples.star, samples.label, samples.mask,
        np.hstack([sweep.readout[:steps], np.tile(fixed, (steps, 1))]), task.knots, direction,
        beside.to_star[:steps].reshape(big, task.k), _driven(sweep, steps),
        np.ascontiguousarray(to_past).reshape(big, big), sums,
    )  # fmt: skip

    def work(first: int, last: int) -> bool:
        return bool(along_lines(*head, first, last, *rest))

    cuts = np.linspace(0, parts, min(samples.threads, parts) + 1).astype(int)
    if not all(samples.pool.map(work, cuts[:-1], cuts[1:])):
        return None
    by_fields = sums.sum(axis=0) / (parts * (count // parts))
    by_driving = np.einsum(
        "asm,sml->asl", by_fields.reshape(big, steps, p), beside.to_driving[:steps]
    )
    return np.asarray(by_driving.reshape(big, big))


def _driven(sweep: Sweep, steps: int) -> Array:
    """What the fields of the first `steps` times take of z, over (time, neuron)."""
    p = sweep.task.p
    big = steps * p
    root = sweep.root[:big, :big].reshape(steps, p, big)
    return np.matmul(sweep.arrays.to_driving[:steps], root).reshape(big, big)


def pieces(task: DescentTask) -> int:
    """Pieces that a line may have: one more than fields times knots where none turns back."""
    return PIECES * task.steps * task.p * task.knots.size + FEWEST


def sample_count(task: DescentTask, samples: int, scrambled: bool) -> int:
    """Samples on which the response is measured: as many as cost a small part of the descent.

    A path takes (T p)^3 / 6 operations, a line (T p)^4 / 6 and more; a power of two.
    """
    if not scrambled:
        return 1  # gradients are linear: all samples have one response
    big = task.steps * task.p
    wanted = min(samples // 4, PATHS // big**2)
    if task.knots.size:
        wanted = min(samples // 64, LINES // big**2)
    return min(samples, max(FEWEST, 1 << max(0, wanted.bit_length() - 1)))


def line_direction(sweep: Sweep) -> Array | None:
    """Direction (n p,) in which all fields move, or None where some hardly do.

    It is where the sum over fields of 1/slope^2 is least: what lines contribute at a kink goes with
    the inverse of the slope there.
    """
    n, p = sweep.done, sweep.task.p
    big = n * p
    Q, _ = overlaps(sweep)
    length = np.sqrt(np.einsum("tjj->tj", Q[:n]).reshape(big))
    rows = _driven(sweep, n) / length[:, None]
    best, least = None, LEAST_SLOPE
    for first in range(p):
        # Fields that move against each other count with their signs.
        e = rows[first] / np.linalg.norm(rows[first])
        for _ in range(50):
            slope = rows @ e
            slope = np.where(slope < 0, -1.0, 1.0) * np.maximum(np.abs(slope), LEAST_SLOPE / 2)
            step = rows.T @ slope**-3.0
            e = e + step / np.linalg.norm(step)
            e /= np.linalg.norm(e)
        lowest = float(np.abs(rows @ e).min())
        if lowest > least:
            best, least = e, lowest
    return best
