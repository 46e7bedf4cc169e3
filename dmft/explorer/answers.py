"""Numbers that the page asks for: a run, points of a simulation, rectangles of a diagram."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dmft.arrays import Array, cosines
from dmft.errors import BadParameter
from dmft.explorer.systems import System
from dmft.model import SGD, Alignment, Overlaps
from dmft.names import Status
from dmft.workflow.diagrams.sweep import phase_diagram
from dmft.workflow.escape import escape_time
from dmft.workflow.solve import solve

# Times of a curve; the first of them is this part of the last.
TIMES, FIRST = 160, 1e-5
# A move that takes longer is given up, with its status.
TIMEOUT, MAX_STEPS = 20.0, 300_000
# Curves of one block that are drawn.
MOST_CURVES = 40
# Of a simulation: steps of all seeds together, seeds, saved times, smallest dimension.
STEPS, RUNS, SAVED, LEAST_DIM = 4e6, 4, 30, 30
MEASURES = {
    "final_risk": "risk at the final time",
    "overlap": "largest cosine with the teacher",
    "escape_time": "time to half the risk of the start",
}
# Points of one question about a diagram.
MOST_POINTS = 1200


def times_of(t_max: float, is_map: bool) -> Array:
    """0, then evenly on a log axis up to t_max; whole steps of a map."""
    if is_map:
        steps = np.geomspace(1.0, t_max, TIMES)
        return np.unique(np.round(np.concatenate([[0.0], steps])))
    return np.concatenate([[0.0], np.geomspace(FIRST * t_max, t_max, TIMES)])


def curves(run: Any) -> list[dict[str, Any]]:
    """Overlaps of a run, each a curve with its place."""
    found = []
    for name in ("M", "Q", "e", "m"):
        if name not in run.names:
            continue
        rows = np.asarray(run[name], dtype=np.float64)
        rows = rows.reshape(len(rows), -1) if name in "em" else rows
        for place in _places(name, rows.shape[1:]):
            index = "" if rows.shape[1:] == (1,) else "_" + "".join(str(n + 1) for n in place)
            at = np.ravel_multi_index(place, rows.shape[1:])
            values = rows.reshape(len(rows), -1)[:, at]
            curve = {"block": name, "name": name + index, "place": list(place), "values": values}
            found.append(curve)
    return found


def _places(name: str, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    places = [place for place in np.ndindex(*shape) if name != "Q" or place[0] <= place[1]]
    if len(places) > MOST_CURVES:
        places = [place for place in places if len(set(place)) == 1 or 0 in place]
    return places[:MOST_CURVES]


def solved(
    system: System, start: Overlaps | Alignment, t_max: float, off: Sequence[str],
    parameters: Mapping[str, Any], judge: bool, options: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """A run: times, risk, overlaps, how it ended, and the start as numbers.

    What rounding leaves costs more than the run and is looked at only to `judge` it.
    """
    equations, switches = system.running(off)
    times = times_of(t_max, equations.kind == "map")
    run = solve(
        equations, start, float(times[-1]), save_at=times, timeout=TIMEOUT, max_steps=MAX_STEPS,
        progress=False, **options, **parameters, **switches,
    )  # fmt: skip
    return {
        "t": run.t,
        "risk": run.risk,
        "curves": curves(run),
        "status": str(run.status),
        "message": run.message if judge or run.status is not Status.OK else "",
        "start": numbers(start),
    }


def numbers(start: Overlaps | Alignment) -> dict[str, Any]:
    """A start as plain numbers."""
    names = ("e", "m") if isinstance(start, Alignment) else ("Q", "M", "P")
    return {name: np.asarray(getattr(start, name)).tolist() for name in names}


def steps_in(system: System, t_max: float, dim: int, parameters: Mapping[str, Any]) -> float:
    """Steps of the algorithm until t_max."""
    algorithm = system.algorithm
    letters = {s: parameters.get(s.name, s) for s in algorithm.learning_rate.free_symbols}
    rate = parameters.get("learning_rate", algorithm.learning_rate.subs(letters))
    if system.equations.kind == "map":
        return t_max
    width = getattr(system.model.student, "width", 1)
    return float(t_max * dim * width / float(rate))


def simulated(
    system: System, start: Overlaps | Alignment, t_max: float, dim: int,
    parameters: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Means and errors of a few runs in a dimension as large as the budget of steps allows."""
    from dmft.simulation.simulate import simulate

    if not isinstance(system.algorithm, SGD):
        raise BadParameter("only SGD has steps to simulate; this is " + repr(system.algorithm)[:60])
    one = steps_in(system, t_max, 1, parameters)
    if system.equations.kind != "map":
        dim = min(dim, int(STEPS / RUNS / one))
    if dim < LEAST_DIM:
        raise BadParameter(
            f"{RUNS} runs until t = {t_max:.3g} in {LEAST_DIM} dimensions take "
            f"{RUNS * LEAST_DIM * one:.1g} steps, more than {STEPS:.0e}: lower the final time, or "
            "raise the learning rate"
        )
    ensemble = simulate(
        system.model, system.algorithm, dim, t_max, RUNS, start, "overlaps",
        save_at=np.geomspace(1e-3 * t_max, t_max, SAVED), progress=False, **parameters,
    )  # fmt: skip
    return {
        "t": ensemble.t,
        "risk": ensemble.mean.risk,
        "stderr": ensemble.stderr.risk,
        "curves": curves(_Means(ensemble)),
        "dim": dim,
        "runs": RUNS,
        "status": str(ensemble.status),
        "message": ensemble.message,
    }


class _Means:
    """Mean overlaps of an ensemble, by name as those of a run."""

    def __init__(self, ensemble: Any) -> None:
        self.names = tuple(ensemble.names)
        self.mean = ensemble.mean

    def __getitem__(self, name: str) -> Any:
        return self.mean[name]


Start = Callable[[Mapping[str, float]], Overlaps | Alignment]


def diagram(
    system: System, start: Start, t_max: float, off: Sequence[str], parameters: Mapping[str, Any],
    measure: str, axes: Mapping[str, Sequence[float]], options: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """A measure on a grid of two values, x then y; a point that fails has its status."""
    if measure not in MEASURES:
        raise BadParameter(f"no measure is called {measure!r:.60}; available: {list(MEASURES)}")
    (x, xs), (y, ys) = axes.items()
    if len(xs) * len(ys) > MOST_POINTS:
        raise BadParameter(f"{len(xs)} x {len(ys)} points: at most {MOST_POINTS} are allowed")
    equations, switches = system.running(off)
    options = {**options, "timeout": TIMEOUT, "max_steps": MAX_STEPS, "progress": False}
    given: dict[str, Any] = {n: v for n, v in parameters.items() if n not in axes}
    given |= switches
    if {x, y} & set(parameters) == {x, y}:
        found = phase_diagram(
            measure, (x, xs), (y, ys), equations=equations, start=start({}), t_max=t_max,
            **options, **given,
        )  # fmt: skip
    else:

        def at(**values: float) -> Any:
            moved = {name: value for name, value in values.items() if name in parameters}
            run = solve(
                equations, start(values), t_max, save_at=2 if measure == "final_risk" else None,
                **options, **given, **moved,
            )  # fmt: skip
            return _measured(measure, run)

        found = phase_diagram(at, (x, xs), (y, ys), progress=False)
    return {"values": found.values, "status": found.status.tolist()}


def _measured(measure: str, run: Any) -> Any:
    """A measure of a run from another start."""
    if measure == "escape_time":
        return escape_time(run)
    if measure == "final_risk":
        return run
    if "m" in run.names:
        return float(np.abs(run.m[-1]).max())
    return float(cosines(run.M[-1], run.Q[-1], run.P).max())
