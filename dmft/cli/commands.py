"""What each command does: read the declaration, call the verbs, report.

Each command returns the `Status` of what it computed; the exit code follows from it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dmft.cli.expression import parse_expression
from dmft.cli.report import matrix, print_json, table, written
from dmft.cli.toml import Declaration, read_declaration
from dmft.errors import BadParameter
from dmft.names import Status

EXIT_CODES = {
    Status.OK: 0,
    Status.EVENT: 0,
    Status.TOLERANCE_NOT_MET: 4,
    Status.INTERRUPTED: 130,
}
# Everything else that a run can end with is a numerical failure.
NUMERICAL_FAILURE = 3


def run_command(arguments: argparse.Namespace) -> int:
    """Run one command on its declaration and return the exit code."""
    declared = override(read_declaration(arguments.file), arguments.overrides)
    if arguments.latex:
        write_latex(declared, arguments.latex)
    commands: dict[str, Callable[[Declaration, argparse.Namespace], Status]] = {
        "derive": derive_command,
        "solve": solve_command,
    }
    status = commands[arguments.command](declared, arguments)
    return EXIT_CODES.get(status, NUMERICAL_FAILURE)


def override(declared: Declaration, settings: list[str]) -> Declaration:
    """Apply --set NAME=VALUE to the letters of [parameters]."""
    values = dict(declared.parameters)
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or name not in values:
            raise BadParameter(
                f"--set {setting}: write NAME=VALUE with a letter of [parameters]: {sorted(values)}"
            )
        values[name] = float(parse_expression(text, {}))
    return replace(declared, parameters=values)


def log(message: str) -> None:
    """Say something that is not a result."""
    print(message, file=sys.stderr)


def write_latex(declared: Declaration, path: str) -> None:
    """Write the equations and the risk as a document that compiles."""
    from dmft.display.latex import document
    from dmft.equations import derive

    equations = derive(declared.model, declared.algorithm)
    Path(path).write_text(document(equations, title=declared.path.stem), encoding="utf-8")
    log(written("equations", path))


def derive_command(declared: Declaration, arguments: argparse.Namespace) -> Status:
    """Print the equations."""
    from dmft.equations import derive

    equations = derive(declared.model, declared.algorithm)
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
                "open_expectations": list(equations.open_kernels),
            }
        )
    else:
        print(equations)
    for message in equations.open_kernels:
        log(f"open expectation, so these equations cannot be solved yet: {message}")
    return Status.OK


def solved(declared: Declaration, arguments: argparse.Namespace) -> Any:
    """Solve the declared equations from the declared start."""
    from dmft.equations import derive
    from dmft.workflow import solve

    keys: dict[str, Any] = {**declared.table("solve"), **declared.parameters}
    points, spacing = keys.pop("points", None), keys.pop("spacing", "linear")
    first = keys.pop("first", None)
    save_at = save_times(keys["t_max"], points, spacing, first)
    equations = derive(declared.model, declared.algorithm)
    start = declared.start()
    return solve(
        equations,
        start,
        keys.pop("t_max"),
        save_at=save_at,
        progress=progress_option(arguments),
        **keys,
    )


def save_times(
    t_max: float, points: int | None, spacing: str, first: float | None
) -> int | np.ndarray | None:
    """Return the saved times: 0, then evenly or geometrically up to t_max."""
    if spacing == "linear":
        if first is not None:
            raise BadParameter('[solve] first goes with spacing = "log"')
        return points
    count = 200 if points is None else points
    low = t_max * 1e-4 if first is None else first
    if not low < t_max or count < 3:
        raise BadParameter(f"[solve]: a log spacing needs first < t_max and 3 points, got {count}")
    return np.concatenate([[0.0], np.geomspace(low, t_max, count - 1)])


def progress_option(arguments: argparse.Namespace) -> bool | None:
    """False when the user wants silence, else the default (a bar on a terminal)."""
    return False if arguments.no_progress else None


def solve_command(declared: Declaration, arguments: argparse.Namespace) -> Status:
    """Integrate and report."""
    run = solved(declared, arguments)
    if arguments.json:
        print_json(
            {
                "status": run.status,
                "message": run.message,
                "t": run.t,
                "risk": run.risk,
                "Q": run.Q,
                "M": run.M,
                "P": run.P,
                "parameters": run.parameters,
                "statistics": run.statistics,
                "provenance": run.provenance,
            }
        )
    else:
        print(f"status: {run.status} ({run.message})")
        print(table({"t": run.t, "risk": run.risk, **largest_overlaps(run)}))
        if len(run):
            print(f"at t = {run.t[-1]:.6g}:")
            print(matrix("Q", run.Q[-1]))
            print(matrix("M", run.M[-1]))
    keep(arguments, run, run)
    return Status(run.status)


def largest_overlaps(run: Any) -> dict[str, Any]:
    """Columns that show at a glance how far learning has come."""
    cosine = np.abs(run.M) / np.sqrt(
        np.einsum("tjj->tj", run.Q)[:, :, None] * np.diag(run.P)[None, None, :]
    )
    return {"max cosine": cosine.max(axis=(1, 2))}


def keep(arguments: argparse.Namespace, saved: Any, *shown: Any, **options: Any) -> None:
    """Save first, then draw: a failing picture loses nothing."""
    if arguments.save:
        saved.save(arguments.save)
        log(written("result", arguments.save))
    if arguments.plot:
        from dmft.display import plot

        plot(*shown, path=arguments.plot, **options)
        log(written("figure", arguments.plot))
