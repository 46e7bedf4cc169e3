"""Solve the equations of random networks: closed where sites are Gaussian, else by sweeps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import sympy as sp

from dmft.arrays import Array, extrapolation, half_width
from dmft.codegen.two_time_site import build_network, gaussian_sites
from dmft.equations.two_time.network import NetworkEquations
from dmft.errors import BadParameter
from dmft.gaussian.nodes.rules import scrambled_sobol, to_normal
from dmft.laws import Law, Normal
from dmft.model.random_network import RandomNetwork, starts_of, step_of, valued
from dmft.names import VERSION, Status
from dmft.progress import ProgressOption
from dmft.solvers.checkpoint import Stepper, asked, march
from dmft.solvers.jobs import Job, run_tasks, thread_count
from dmft.solvers.solution import Values
from dmft.solvers.two_time.network_closed import Closed
from dmft.solvers.two_time.network_sweep import SiteProblem, Sweep, kept_columns
from dmft.solvers.two_time.run import NETWORK_AXES, NetworkRun
from dmft.validation import as_count, checked
from dmft.workflow.solve import Solver

# Innovations of a population that are Sobol points.
POINTS = 64
# Share of cases that an interval holds.
COVERED = 0.95
# Rounding of a closed recursion, relative to the largest value.
ROUNDING = 1e-11
# Gibibytes of histories and derivatives that are held at once.
MOST_MEMORY = 8.0
# Options that are whole numbers, and their ends.
LIMITS = (("paths", 2, 10**9), ("sweeps", 1, 10**6), ("extrapolate", 0, 6),
          ("keep_paths", 0, 10**9), ("seed", 0, 2**128))  # fmt: skip


@checked
@dataclass(frozen=True)
class NetworkOptions:
    """How the equations of a random network are solved.

    Attributes
    ----------
    dt : float
        Step of the sites: Euler steps of an ode; 1 for a map.
    method : {"closed", "sweep"}, optional
        "closed" is a recursion of means and covariances, for Gaussian sites; by default it is
        taken where it holds.
    paths : int
        Sampled paths of each sweep and population.
    sweeps : int
        Independent sweeps, whose spread is the error.
    extrapolate : int
        Stages of Richardson extrapolation in dt, each with half the step of the last.
    keep_paths : int
        States of so many sites of each sweep are returned.
    seed : int
    threads : int, optional
        All cores by default; they do not change the result.
    timeout : float, optional
        Seconds.
    progress : None, bool or callable
    """

    dt: float | None = None
    method: Literal["closed", "sweep"] | None = None
    paths: int = 2000
    sweeps: int = 4
    extrapolate: int = 0
    keep_paths: int = 0
    seed: int = 0
    threads: int | None = None
    timeout: float | None = None
    progress: ProgressOption = None

    def __post_init__(self) -> None:
        for name, least, most in LIMITS:
            as_count(getattr(self, name), name, least, most)


OPTIONS = tuple(one.name for one in fields(NetworkOptions))


def solve_network(
    equations: NetworkEquations,
    start: Any,
    t_max: float,
    options: NetworkOptions,
    given: Mapping[str, Any],
) -> NetworkRun:
    """Solve the equations of a random network from t = 0 to `t_max` in the time of the sites.

    A run with the step dt is the limit N -> infinity of networks with the same Euler step
    ([eissfeller_opper_1992]).
    """
    network = equations.model
    if network.kind == "map" and options.extrapolate:
        raise BadParameter("a map is exact at its steps: leave extrapolate= out")
    dt, steps = step_of(network, t_max, options.dt)
    if abs(steps * dt - float(t_max)) > 1e-9 * float(t_max):
        raise BadParameter(
            f"t_max = {t_max} is not a multiple of dt = {dt}: use {steps * dt:g} or another dt"
        )
    values = valued(equations.parameters, given, OPTIONS)
    laws = starts_of(network, start)
    run = partial(_solved, equations, laws, values, options)
    found = [run(dt, steps)]
    for stage in range(1, options.extrapolate + 1):
        if found[-1].status is Status.OK:
            found.append(run(dt / 2**stage, steps * 2**stage))
    if len(found) == 1 or found[-1].status is not Status.OK:
        return found[-1]
    return _extrapolated(found)


def _solved(
    equations: NetworkEquations,
    laws: Sequence[Law],
    values: Mapping[sp.Symbol, float],
    options: NetworkOptions,
    dt: float,
    steps: int,
) -> NetworkRun:
    network = equations.model
    normal = all(isinstance(law, Normal) for law in laws)
    gaussian = None if options.method == "sweep" else gaussian_sites(equations, values, dt, normal)
    if gaussian is None and options.method == "closed":
        raise BadParameter(
            'method="closed" needs sites whose step is linear in state and field, without site '
            "parameters, from a normal start, and without memory unless the output is linear; "
            "leave method= out"
        )
    problem = build_network(equations, values, dt)
    job = Job(steps * (1 if gaussian else options.sweeps),
              math.inf if options.timeout is None else options.timeout)  # fmt: skip
    if gaussian is not None:
        moments = [(float(law.mean), float(law.variance)) for law in laws]
        _check_memory(8 * network.populations * (steps + 1) ** 2, "a larger dt=, or a shorter time")
        runs: list[Any] = [Closed(problem, gaussian, steps, moments)]
        _march(runs[0], job)
    else:
        runs = run_sweeps(Sweep, network, problem, laws, steps, options, job)
    return _record(equations, runs, values, options, dt, job)


def _march(run: Stepper, job: Job) -> None:
    def after(_: Any) -> Status:
        job.add(1)
        return asked(job)

    march(run, after)


def sampled(network: RandomNetwork, generator: np.random.Generator, size: int) -> Array:
    """Values of the site parameters, (symbols, size)."""
    rows = [np.atleast_2d(law.sample(generator, size)) for _, law in network.parameters]
    return np.concatenate(rows) if rows else np.empty((0, size))


def run_sweeps(
    kind: type[Sweep],
    network: RandomNetwork,
    problem: SiteProblem,
    laws: Sequence[Law],
    steps: int,
    options: NetworkOptions,
    job: Job,
) -> list[Any]:
    """Independent sweeps, each of them to its end."""
    paths, threads = options.paths, thread_count(options.threads)
    _, columns, *rows = kept_columns(steps, all(problem.proportional))
    of_path = 5 * steps + (columns * sum(rows) if network.has_memory else 4 * steps) // 2
    held = network.populations * (paths * of_path + 6 * (steps + 1) ** 2)
    _check_memory(held * min(options.sweeps, threads), "fewer paths=, a larger dt=, or threads=1")

    def task(seed: np.random.SeedSequence) -> Sweep:
        generator = np.random.default_rng(seed)
        begun = [law.sample(generator, paths) for law in laws]
        sites = [sampled(network, generator, paths) for _ in laws]
        sweep = kind(problem, steps, paths, begun, sites, generator)
        sweep.points = np.array([_normal_points(y, paths) for y in seed.spawn(len(laws))])
        _march(sweep, job)
        # Of the paths, what the record keeps.
        sweep.states = sweep.states[:1, :, : options.keep_paths].copy()
        sweep.outputs, sweep.basis, sweep.columns = sweep.states, [], []
        return sweep

    seeds = np.random.SeedSequence(options.seed).spawn(options.sweeps)
    return run_tasks([partial(task, y) for y in seeds], job, threads, options.progress, "sweeps")


def _normal_points(seed: np.random.SeedSequence, paths: int) -> Array:
    """Scrambled Sobol points of the first innovations; a power of two of them is balanced."""
    count = 2 ** (paths - 1).bit_length()
    return to_normal(scrambled_sobol(POINTS, count, seed)[:, :paths])


def _check_memory(numbers: int, instead: str) -> None:
    size = 8 * numbers / 2**30
    if size > MOST_MEMORY:
        raise BadParameter(f"the histories of this run require {size:.3g} GiB: use {instead}")


def _record(
    equations: NetworkEquations,
    runs: Sequence[Any],
    values: Mapping[sp.Symbol, float],
    options: NetworkOptions,
    dt: float,
    job: Job,
) -> NetworkRun:
    """Means over the sweeps up to the earliest end, and their errors."""
    network = equations.model
    done = min(run.done for run in runs)
    ended = next((run for run in runs if run.done == done and run.status is not Status.OK), None)
    size = done + 1 if ended is None else max(done, 1)
    closed = isinstance(runs[0], Closed)
    names = {"mean": "state_mean", "corr": "state_corr", "output_mean": "mean",
             "output_corr": "corr", "resp": "resp"}  # fmt: skip
    arrays, error = {}, {}
    for name, attribute in names.items():
        stack = np.stack([_cut(getattr(run, attribute), size) for run in runs])
        if name == "resp":
            stack = stack / dt
        arrays[name], error[name] = _averaged(stack, network.fractions is not None)
    if network.multiplier is not None:
        stack = np.stack([run.multiplier[:size] for run in runs])
        # The multiplier of the last step is that of a step beyond the run.
        stack[:, -1] = stack[:, -2] if size > 1 else np.nan
        arrays["multiplier"], error["multiplier"] = _averaged(stack[:, None], False)
    if closed:
        for name, found in arrays.items():
            scale = float(np.abs(found).max(initial=0.0))
            error[name] = np.full(found.shape, ROUNDING * scale + runs[0].lost)
    paths = None
    if options.keep_paths and not closed:
        kept = np.stack([run.states[0, :size, : options.keep_paths] for run in runs])
        paths = np.ascontiguousarray(kept)
    status = Status.OK if ended is None else ended.status
    how = "closed recursion" if closed else f"{len(runs)} sweeps of {options.paths} paths"
    message = how if ended is None else f"{how}; {ended.message}"
    if status is Status.NONFINITE and any(y.has(network.state) for y in network.noise):
        message += "; is noise= negative at some states? It is half a variance per unit time"
    return NetworkRun(
        t=np.arange(size) * dt,
        arrays=Values(arrays),
        error=Values(error),
        status=status,
        message=message,
        paths=paths,
        statistics={"steps": done, "seconds": job.seconds(), "sweeps": 0 if closed else len(runs)},
        parameters={y.name: v for y, v in values.items()},
        provenance={
            "problem": equations.fingerprint, "dmft": VERSION, "version": VERSION,
            "kind": "network", "time_unit": "steps" if network.kind == "map" else "t of the sites",
            "method": "closed" if closed else "sweep", "dt": dt, "seed": options.seed,
            "approximation": how, "dropped_terms": list(equations.dropped),
            "changed_terms": equations.changed_terms,
        },
    )  # fmt: skip


def _cut(array: Array, size: int) -> Array:
    return array[:, :size] if array.ndim == 2 else array[:, :size, :size]


def _averaged(stack: Array, several: bool) -> tuple[Array, Array]:
    """Mean over sweeps and its 95 % half-width, populations last or absent."""
    mean, error = stack.mean(axis=0), half_width(stack, COVERED)
    if several:
        return np.moveaxis(mean, 0, -1), np.moveaxis(error, 0, -1)
    return mean[0], error[0]


def _extrapolated(runs: Sequence[NetworkRun]) -> NetworkRun:
    """Richardson's extrapolation of runs with steps dt, dt/2, ..., at the times of the first."""
    levels = [(_thinned(run.arrays, 2**n), _thinned(run.error, 2**n)) for n, run in enumerate(runs)]
    weighted = list(zip(extrapolation(len(runs)), levels, strict=True))
    arrays = {n: sum(w * y[n] for w, (y, _) in weighted) for n in levels[0][0]}
    error = {n: sum(abs(w) * y[n] for w, (_, y) in weighted) for n in levels[0][1]}
    before = _thinned(runs[-1].arrays, 2 ** (len(runs) - 1))
    dt = runs[0].provenance["dt"]
    return replace(
        runs[-1],
        t=runs[0].t,
        arrays=Values(arrays),
        error=Values(error),
        paths=None,
        message=f"{runs[-1].message}; extrapolated from dt = {dt:g} to 0; the result differs by "
        f"{max(float(np.abs(arrays[n] - before[n]).max()) for n in arrays):.2g} from that at dt = "
        f"{runs[-1].provenance['dt']:g}",
    )


def _thinned(arrays: Mapping[str, Array], stride: int) -> dict[str, Array]:
    return {
        name: y[(slice(None, None, stride),) * len(NETWORK_AXES[name])]
        for name, y in arrays.items()
    }


SOLVER = Solver(
    "random networks", NetworkOptions, solve_network,
    ": they take dt=, paths=, sweeps=, extrapolate=, method=, seed=",
)  # fmt: skip
