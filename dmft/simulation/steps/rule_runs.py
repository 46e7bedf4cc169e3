"""Simulated runs of a rule that is written with vectors, in R^d or by its exact chain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmft.arrays import Array
from dmft.errors import BadParameter
from dmft.initial_conditions import Overlaps
from dmft.model.update import VectorRule
from dmft.names import VERSION, Status
from dmft.progress import ProgressOption
from dmft.simulation.ensemble import Ensemble, averaged
from dmft.simulation.steps.vector_chain import Chain
from dmft.simulation.steps.vectors import Step, Weights
from dmft.solvers.jobs import Job, run_tasks
from dmft.solvers.request import saved_steps
from dmft.special.streams import as_seeds
from dmft.validation import is_whole, shown

# Saved times by default.
POINTS = 101


def simulate_rule(
    rule: VectorRule,
    dim: int,
    t_max: float,
    seeds: int | Sequence[int],
    start: Any,
    method: str = "weights",
    *,
    save_at: int | ArrayLike | None = None,
    progress: ProgressOption = None,
    keep_runs: bool = True,
    **parameters: float,
) -> Ensemble:
    """Runs of a rule for several seeds: weights in R^d, or the exact chain of overlaps."""
    if not isinstance(start, Overlaps):
        raise BadParameter(f"a rule starts from dmft.Overlaps of its rows, got {shown(start)}")
    if isinstance(dim, bool) or not is_whole(dim) or dim < 1:
        raise BadParameter(f"dim = {shown(dim)} must be a positive integer")
    if method not in ("weights", "overlaps"):
        raise BadParameter(f'method must be "weights" or "overlaps", got {shown(method)}')
    step = Step(rule, int(dim), start, parameters)
    numbers = as_seeds(seeds)
    if not t_max > 0.0:
        raise BadParameter(f"t_max = {t_max!r} must be positive")
    saved = saved_steps(POINTS if save_at is None else save_at, float(t_max), step.dt)
    make = Weights if method == "weights" else Chain
    state = make(step, start, numbers)
    job = Job(int(saved[-1]))
    (arrays,) = run_tasks([lambda: _run(state, saved, job)], job, 1, progress, "simulate")
    finite = [all(np.isfinite(y[s]).all() for y in arrays.values()) for s in range(len(numbers))]
    status = tuple(Status.OK if one else Status.NONFINITE for one in finite)
    P = start.P.sum(axis=0) if start.P.ndim == 3 else start.P
    found = Ensemble(
        t=np.asarray(saved * step.dt, dtype=np.float64), dim=int(dim),
        **averaged(arrays, numbers, status),
        provenance={
            "version": VERSION, "model": repr(rule), "method": method,
            "time_step_times_dim": step.g, "time_unit": "t = steps * learning_rate / d",
        },
        parameters={str(s): y for s, y in step.values.items()}, constants={"P": P},
    )  # fmt: skip
    return found if keep_runs else replace(found, runs=None)


def _run(state: Any, saved: NDArray[np.int64], job: Job) -> dict[str, Array]:
    """Values at the saved steps, seed first."""
    rows: list[dict[str, Array]] = []
    wanted = set(saved.tolist())
    with np.errstate(all="ignore"):
        for n in range(int(saved[-1]) + 1):
            if n in wanted:
                rows.append(state.seen())
            if n < saved[-1]:
                state.advance()
                job.add(1)
            if job.cancelled():
                raise KeyboardInterrupt
    return {name: np.stack([row[name] for row in rows], axis=1) for name in rows[0]}
