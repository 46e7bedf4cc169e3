"""What each command does: call the verbs on the declaration, report, return the `Status`."""

from __future__ import annotations

import argparse
import inspect
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dmft.cli.file import question
from dmft.cli.report import (
    keep,
    log,
    print_json,
    progress_option,
    report_ensemble,
    report_run,
    written,
)
from dmft.cli.schema import EXAMPLE
from dmft.cli.toml import BUILT_IN, Axis, Declaration, declaration_of
from dmft.compiled import cache_directory
from dmft.errors import BadParameter, DmftError, ExpressionRefused
from dmft.model import SGD, GradientDescent
from dmft.names import Status
from dmft.progress import ProgressOption

# Keys of [solve] that a descent knows; all but the first are its own.
DESCENT_KEYS = ("t_max", "samples", "scrambles", "seed")


def write_latex(declared: Declaration, path: str) -> None:
    """Write the equations and the risk as a document that compiles."""
    from dmft.display.latex import latex

    latex(path, derived(declared), title=declared.path.stem)
    log(written("equations", path))


def derived(declared: Declaration) -> Any:
    """Equations of the declaration; with [algorithm] dim the map of one step."""
    from dmft.equations.derive import derive

    model: Any = declared.model
    algorithm: Any = declared.algorithm  # of any kind, each of which has an overload
    return derive(model) if declared.is_rule else derive(model, algorithm, dim=declared.dim)


def derive_command(declared: Declaration, arguments: argparse.Namespace) -> Status:
    """Print the equations."""
    equations = derived(declared)
    # Two-time equations are closed by their own averages.
    open_kernels = list(getattr(equations, "open_kernels", ()))
    if arguments.json:
        terms = {k: {n: str(e) for n, e in v.items()} for k, v in equations.terms.items()}
        print_json(
            {
                "kind": equations.kind,
                "time_unit": equations.time_unit,
                "fingerprint": equations.fingerprint,
                "terms": terms,
                "text": str(equations),
                "latex": equations.latex(),
                "open_expectations": open_kernels,
            }
        )
    else:
        print(equations)
    for message in open_kernels:
        log(f"open expectation, so these equations cannot be solved yet: {message}")
    return Status.OK


def export_command(declared: Declaration, arguments: argparse.Namespace) -> Status:
    """Write the right-hand side as a file that stands alone."""
    from dmft.codegen.export.system import export

    path = Path(arguments.out)
    if not path.absolute().parent.is_dir():
        raise BadParameter(f"{path}: there is no folder {path.parent}")
    file = export(derived(declared), path, **declared.numbers("export"))
    log(written("right-hand side", str(file)))
    return Status.OK


def solved(declared: Declaration, arguments: argparse.Namespace) -> Any:
    """Solve the declared equations from the declared start."""
    from dmft.workflow.solve import solve

    return solve(
        derived(declared),
        declared.start(),
        progress=progress_option(arguments),
        **solve_options(declared),
    )


def solve_options(declared: Declaration) -> dict[str, Any]:
    """What [solve] and [parameters] say to `dmft.solve`."""
    return {**run_options(declared), **declared.parameters}


def run_options(declared: Declaration, saved: bool = True) -> dict[str, Any]:
    """What [solve] says to `dmft.solve`, with or without the times at which a run is saved."""
    table = declared.table("solve")
    is_descent = isinstance(declared.algorithm, GradientDescent)
    for name in table:
        if is_descent and name not in DESCENT_KEYS:
            raise BadParameter(
                f"{declared.path}, [solve] {name}: gradient-descent saves all steps; the keys "
                f"are {', '.join(DESCENT_KEYS)}"
            )
        if not is_descent and name in DESCENT_KEYS[1:]:
            raise BadParameter(
                f'{declared.path}, [solve] {name}: requires kind = "gradient-descent"'
            )
    if is_descent:
        return dict(table)
    keys, save_at = clock(table)
    return {**keys, "save_at": save_at} if saved else keys


def clock(table: Mapping[str, Any]) -> tuple[dict[str, Any], int | np.ndarray | None]:
    """Split [solve] into what is passed on and the saved times."""
    keys = dict(table)
    points, spacing = keys.pop("points", None), keys.pop("spacing", "linear")
    return keys, save_times(keys["t_max"], points, spacing, keys.pop("first", None))


def save_times(
    t_max: float, points: int | None, spacing: str, first: float | None
) -> int | np.ndarray | None:
    """Return the saved times: 0, then evenly or geometrically up to t_max."""
    if spacing == "linear":
        if first is not None:
            raise BadParameter('[solve] first requires spacing = "log"')
        return points
    count = 200 if points is None else points
    low = t_max * 1e-4 if first is None else first
    if not low < t_max or count < 3:
        raise BadParameter(f"[solve]: a log spacing needs first < t_max and 3 points, got {count}")
    return np.concatenate([[0.0], np.geomspace(low, t_max, count - 1)])


def solve_command(declared: Declaration, arguments: argparse.Namespace) -> Status:
    """Integrate and report."""
    run = solved(declared, arguments)
    report_run(run, arguments)
    if not arguments.warnings:  # these would not be shown again
        remember(declared, arguments.overrides, run)
    return Status(run.status)


def warm_command(declared: Declaration, arguments: argparse.Namespace) -> Status:
    """Compile all that the file's equations are solved with, and solve them once where it says how.

    The run is not shown: it is what the next `dmft solve` repeats.
    """
    from dmft.workflow.warm import warm

    declared.refuse_rule("warm")
    count = warm(declared.model, declared.algorithm, dim=declared.dim)
    status = Status.OK
    if {"solve", "start"} <= set(declared.options):
        run = solved(declared, arguments)
        status = Status(run.status)
        if not arguments.warnings:
            remember(declared, arguments.overrides, run)
    log(f"ready: {count} compiled functions in {cache_directory()}")
    return status


def warm_library(progress: ProgressOption) -> None:
    """Compile the functions of the library."""
    from dmft.workflow.warm import warm

    log(f"ready: {warm(progress=progress)} functions of the library")


def remember(declared: Declaration, overrides: Sequence[str], run: Any) -> None:
    """Keep what `dmft.cli.file` needs to solve this file once more, where that can be kept."""
    if isinstance(declared.algorithm, GradientDescent):
        return
    from dmft.workflow.kept_runs import keep as keep_run
    from dmft.workflow.kept_runs import key_of
    from dmft.workflow.solving.one_pass import request_of

    try:
        key = key_of(question(declared.raw, overrides))
        start: Any = declared.start()
        given = request_of(run.problem, start, solve_options(declared))
    except (TypeError, ValueError, OSError, ImportError, DmftError):
        return
    if given is not None:
        keep_run(key, given, run)


def simulate_command(declared: Declaration, arguments: argparse.Namespace) -> Status:
    """Run the algorithm at finite dimension; with --theory, solve the equations too."""
    from dmft.simulation.simulate import simulate

    keys = {**declared.table("simulate"), **declared.parameters}
    algorithm = declared.algorithm
    is_descent = isinstance(algorithm, GradientDescent)
    if is_descent and arguments.save:
        raise BadParameter("--save is for solved descents; use --json to print runs in R^d")
    if not isinstance(algorithm, SGD | GradientDescent):
        raise ExpressionRefused(f'{declared.path}: only kind = "sgd" has steps to simulate')
    timing = declared.options.get("solve", {"t_max": keys.get("t_max")})
    timing, save_at = (timing, None) if is_descent else clock(timing)  # a descent saves all steps
    t_max = keys.pop("t_max", timing.get("t_max"))
    if t_max is None:
        raise ExpressionRefused(f"{declared.path}: [simulate] or [solve] must contain t_max")
    if isinstance(save_at, np.ndarray) and t_max < save_at[-1]:
        save_at = save_at[save_at <= t_max]
    ensemble = simulate(
        declared.model,
        None if declared.is_rule else algorithm,
        t_max=t_max,
        start=declared.start() if "start" in declared.options else None,
        save_at=save_at,
        progress=progress_option(arguments),
        **keys,
    )
    theory = [solved(declared, arguments)] if arguments.theory else []
    report_ensemble(ensemble, theory, arguments)
    return Status(ensemble.status)


def escape_command(declared: Declaration, arguments: argparse.Namespace) -> Status:
    """Solve, then locate the escape; a run that does not escape is a result too."""
    from dmft.analysis.escape import Censored
    from dmft.workflow.escape import escape_time

    if isinstance(declared.algorithm, GradientDescent):
        raise BadParameter(
            f'{declared.path}: the command escape is not for kind = "gradient-descent"; use '
            'solve, simulate, or phase with measure = "overlap" or "learned_directions"'
        )
    run = solved(declared, arguments)
    escape = escape_time(run, **declared.options.get("escape", {}))
    facts = {
        "threshold": escape.threshold,
        "reference": escape.reference,
        "reference_risk": escape.reference_value,
        "reference_time": escape.reference_time,
        "status": run.status,
        "message": run.message,
    }
    if isinstance(escape, Censored):
        status = Status(escape.status)
        answer = f"no escape until t = {escape.horizon:.10g} ({escape.message})"
        facts |= {"escaped": False, "t": None, "horizon": escape.horizon}
    else:
        # A failure after the escape is no failure of this command.
        status = Status.OK
        answer = f"escape at t = {escape.value:.10g}"
        facts |= {"escaped": True, "t": escape.value, "relaxed_only": escape.relaxed}
    if arguments.json:
        print_json(facts)
    else:
        print(answer)
        print(threshold_text(escape))
    keep(arguments, run, run, escape)
    return status


def threshold_text(escape: Any) -> str:
    """Return what counted as an escape."""
    if escape.reference == "overlap":
        return f"threshold: largest cosine {escape.threshold:.7g}"
    if escape.reference == "threshold":
        return f"threshold: {escape.threshold:.7g}"
    return (
        f"threshold: risk {escape.threshold:.7g}, from the risk {escape.reference_value:.7g} "
        f"of the {escape.reference} at t = {escape.reference_time:.7g}"
    )


def limits_command(declared: Declaration, arguments: argparse.Namespace) -> Status:
    """Compute the static limits that [limits] names, of the declared label."""
    from dmft.workflow.static.bayes import bayes_optimal, state_evolution
    from dmft.workflow.static.erm import erm, optimal_ridge, separability
    from dmft.workflow.static.spectral import spectral
    from dmft.workflow.static.thresholds import recovery_phase, sample_complexity, thresholds

    verbs: tuple[Callable[..., Any], ...] = (
        thresholds, bayes_optimal, state_evolution, recovery_phase, sample_complexity, erm,
        optimal_ridge, separability, spectral,
    )  # fmt: skip
    keys = dict(declared.table("limits"))
    verb = keys.pop("verb")
    function = next(f for f in verbs if f.__name__ == verb)
    taken = dict(list(inspect.signature(function).parameters.items())[1:])
    for name in keys:
        if name not in taken:
            raise BadParameter(f"{declared.path}, [limits]: {verb} takes {', '.join(taken)}")
    for name, one in taken.items():
        if one.default is one.empty and name not in keys:
            raise BadParameter(f"{declared.path}, [limits]: {verb} needs {name}")
    found = function(declared.model, **keys)
    facts = {f.name: getattr(found, f.name) for f in fields(found)} if is_dataclass(found) else {
        "phase": str(found), "message": found.message}  # fmt: skip
    if arguments.json:
        print_json(facts)
    else:
        print(found if is_dataclass(found) else f"{found}: {found.message}")
    keep(arguments, found, found)
    return Status(facts.get("status", "ok"))


# Final time of files that do not say one.
T_MAX = 100.0
TITLE = "An erf committee learns another (Saad and Solla)"


def example() -> Declaration:
    """The declaration of `dmft example`."""
    return declaration_of(Path("example.toml"), {"title": TITLE, **tomllib.loads(EXAMPLE)})


def explore_command(declared: Declaration, arguments: argparse.Namespace) -> Status:
    """Serve the page until Ctrl-C, or write it."""
    target = arguments.static
    if target is not None and not Path(target).absolute().parent.is_dir():
        raise BadParameter(f"--static {target}: there is no folder {Path(target).parent}")
    session = session_of(declared)
    if target is not None:
        from dmft.explorer.static import write_static

        log(written("page", str(write_static(session, target))))
        return Status.OK
    from dmft.explorer.server import serve

    def ready(url: str) -> None:
        print(url, flush=True)
        log("The page answers at this address, on this machine only; Ctrl-C ends it.")

    serve(session, arguments.port, browser=not arguments.no_browser, ready=ready)
    return Status.OK


def session_of(declared: Declaration) -> Any:
    """What the page shows of a declaration: axes of its diagrams are ends of sliders."""
    from dmft.explorer.session import Session

    declared.refuse_rule("explore")
    solve = declared.options.get("solve", {})
    axes = [axis for table in declared.axes.values() for axis in table]
    middles = {axis.name: middle(axis) for axis in axes if axis.name not in BUILT_IN}
    return Session(
        declared.model,
        declared.algorithm,
        start=start_of(declared),
        t_max=solve.get("t_max", T_MAX),
        dim=declared.dim,
        ranges={axis.name: (axis.start, axis.stop) for axis in axes},
        title=str(declared.raw.get("title", "")),
        values={**middles, **declared.numbers("explore")},
        tables=declared.raw,
        options={n: v for n, v in solve.items() if n in ("method", "rtol", "atol", "events")},
    )


def middle(axis: Axis) -> float:
    """Value of a letter that only an axis gives."""
    if axis.scale == "log":
        return float((axis.start * axis.stop) ** 0.5)
    return (axis.start + axis.stop) / 2


def start_of(declared: Declaration) -> Any:
    """Where the student starts: numbers, or how it is drawn."""
    keys = declared.options.get("start")
    if keys is None:
        return None
    if keys["kind"] != "random":
        return declared.start()
    return {name: value for name, value in keys.items() if name != "kind"}
