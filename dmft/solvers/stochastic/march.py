"""Drives the compiled loops over paths: chunks in threads, time limits, interrupts, moments."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmft.arrays import Array
from dmft.names import Status
from dmft.progress import ProgressOption
from dmft.solvers.events import Event
from dmft.solvers.jobs import Job, run_tasks
from dmft.solvers.pointers import entry, pointer
from dmft.solvers.problem import Problem
from dmft.solvers.runge_kutta import explicit
from dmft.solvers.runge_kutta.explicit import evaluate_rows
from dmft.solvers.runge_kutta.layout import Events
from dmft.solvers.signatures import DOMAIN, RHS
from dmft.solvers.stochastic import loop as codes
from dmft.solvers.stochastic.loop import COVARIANCE, Plan, Scratch, Walk

STATUS = {
    codes.WALKING: Status.INTERRUPTED,
    codes.ARRIVED: Status.OK,
    codes.PASSED: Status.EVENT,
    codes.BEYOND: Status.DIVERGED,
    codes.OUTSIDE: Status.LEFT_DOMAIN,
    codes.NONFINITE: Status.NONFINITE,
    codes.INDEFINITE: Status.LEFT_DOMAIN,
}
COUNTED_CODES = (codes.ARRIVED, codes.PASSED)
# A call costs half a millisecond, a step of one path up to that (averages on nodes): a chunk has
# at least this many steps of paths, and there are up to CHUNKS of them to share out, of not more
# than so many paths and saved numbers.
CHUNK_STEPS, CHUNKS, LARGEST_CHUNK, CHUNK_NUMBERS = 2**14, 64, 2**14, 2**22
# Threads look at interrupts and clocks about this often, first after this many steps of paths.
SLICE_SECONDS = 0.1
FIRST_SLICE = 2**10


@dataclass(frozen=True)
class PathSetup:
    """A checked request; `start` holds one row for all paths or one for each."""

    problem: Problem
    method: str
    paths: int
    start: Array
    plan: Plan
    events: tuple[Event, ...]
    table: Events
    keep_paths: bool
    threads: int
    timeout: float
    progress: ProgressOption
    # (paths, E): what the threshold of each path exceeds that of the event by; or one row.
    shift: Array


@dataclass(frozen=True)
class Chunk:
    """What consecutive paths gave; moments (T, n + m) over the counted ones."""

    first: int
    code: NDArray[np.int64]
    t: Array
    trial: Array
    when: Array
    count: int
    mean: Array
    square: Array  # sum of squared deviations
    values: Array | None
    steps: int
    band: int


def march_paths(setup: PathSetup) -> tuple[list[Chunk], Job]:
    """Run all chunks in threads; Ctrl-C and timeout keep what is finished."""
    size, advance = _chunk_size(setup), _advance_function(setup.method)
    job = Job(setup.paths * setup.plan.steps, setup.timeout)
    chunks = [
        partial(_run_chunk, setup, advance, job, first, min(size, setup.paths - first))
        for first in range(0, setup.paths, size)
    ]
    return run_tasks(chunks, job, setup.threads, setup.progress, "paths"), job


def _chunk_size(setup: PathSetup) -> int:
    """Paths in a chunk: a function of the request, never of the threads."""
    rows = setup.plan.save.size * (setup.start.shape[1] + len(setup.problem.observables))
    by_memory = max(1, CHUNK_NUMBERS // max(1, rows))
    wanted = max(-(-setup.paths // CHUNKS), -(-CHUNK_STEPS // setup.plan.steps))
    return int(min(LARGEST_CHUNK, by_memory, wanted))


def _advance_function(method: str) -> Callable[..., None]:
    """Compiled loop of a method, loaded by the first run that uses it."""
    from dmft.solvers.stochastic import schemes

    return schemes.advance_euler if method == "euler" else schemes.advance_weak


def _run_chunk(
    setup: PathSetup, advance: Callable[..., None], job: Job, first: int, count: int
) -> Chunk:
    problem, plan = setup.problem, setup.plan
    walk, scratch = _allocate(setup, first, count)
    functions = (
        pointer(problem.rhs, RHS),
        pointer(problem.diffusion, COVARIANCE),
        pointer(problem.observe or explicit.nothing, RHS),
        pointer(problem.domain or explicit.everywhere, DOMAIN),
    )
    until, piece = 0, max(1, FIRST_SLICE // count)
    while until < plan.steps and np.any(walk.code == codes.WALKING) and not job.cancelled():
        began = time.perf_counter()
        ahead = min(plan.steps, until + piece)
        advance(*functions, plan, setup.table, walk, scratch, first, ahead)
        job.add((ahead - until) * count)
        seconds = max(time.perf_counter() - began, 1e-6)
        piece = max(1, min(8 * piece, int((ahead - until) * SLICE_SECONDS / seconds)))
        until = ahead
    job.add((plan.steps - until) * count)
    walking = walk.code == codes.WALKING
    walk.t[walking] = plan.t_start + walk.step[walking] * plan.h
    values = _with_observables(setup, walk.out)
    counted = values[np.isin(walk.code, COUNTED_CODES)]
    mean = counted.mean(axis=0) if len(counted) else np.zeros(values.shape[1:])
    return Chunk(
        first, walk.code, walk.t, walk.trial, walk.when, len(counted), mean,
        ((counted - mean) ** 2).sum(axis=0), values if setup.keep_paths else None,
        int(walk.step.sum()), int(scratch.band[0]),
    )  # fmt: skip


def _rows(values: Array, first: int, count: int) -> Array:
    """Rows of consecutive paths, of one row for all or of one for each."""
    return values[first : first + count].copy() if len(values) > 1 else values.repeat(count, axis=0)


def _allocate(setup: PathSetup, first: int, count: int) -> tuple[Walk, Scratch]:
    plan, start = setup.plan, _rows(setup.start, first, count)
    n, events, observables = start.shape[1], len(setup.events), len(setup.problem.observables)
    walk = Walk(
        y=start,
        trial=start.copy(),
        step=np.zeros(count, dtype=np.int64),
        code=np.zeros(count, dtype=np.int64),
        t=np.full(count, plan.t_start),
        when=np.full((count, events), np.nan),
        gap=np.full((count, events), np.nan),
        sign=np.zeros((count, events)),
        shift=_rows(setup.shift, first, count),
        owed=np.zeros(count, dtype=np.int64),
        out=np.full((count, plan.save.size, n), np.nan),
    )
    if plan.save.size and plan.save[0] == 0:
        walk.out[:, 0] = start
        walk.owed[:] = 1
    vectors = {name: np.zeros(n) for name in ("slope", "ahead", "point", "new", "increments")}
    matrices = {name: np.zeros((n, n)) for name in ("areas", "sigma", "root", "up", "down")}
    return walk, Scratch(
        **vectors,
        **matrices,
        seen=np.zeros(observables if events else 0),
        lanes=np.zeros(4),
        have=np.full(1, -1, dtype=np.int64),
        theta=np.zeros(events),
        band=np.zeros(1, dtype=np.int64),
    )


def _with_observables(setup: PathSetup, out: Array) -> Array:
    """Append the observables to the saved states: (C, T, n) -> (C, T, n + m)."""
    problem, plan = setup.problem, setup.plan
    if not problem.observables:
        return out
    seen = np.empty((*out.shape[:2], len(problem.observables)))
    t = plan.t_start + plan.save * plan.h
    observe = entry(problem.observe, "RHS")
    for c in range(out.shape[0]):
        evaluate_rows(observe, t, out[c], plan.widths, plan.par, seen[c])
    seen[np.isnan(out[:, :, 0])] = np.nan
    return np.concatenate([out, seen], axis=2)


def merge_moments(chunks: list[Chunk]) -> tuple[int, Array, Array]:
    """Count, mean and sum of squared deviations of all chunks, merged in their order."""
    count = sum(chunk.count for chunk in chunks)
    mean = np.asarray(sum(chunk.count * chunk.mean for chunk in chunks) / max(count, 1))
    parts = (chunk.square + chunk.count * (chunk.mean - mean) ** 2 for chunk in chunks)
    return count, mean, np.asarray(sum(parts))


def gather(chunks: list[Chunk], name: str) -> Any:
    """One attribute of all chunks, path after path."""
    return np.concatenate([getattr(chunk, name) for chunk in chunks])
