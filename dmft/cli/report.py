"""Results as text for people and as JSON for programs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dmft.arrays import cosines
from dmft.names import Status
from dmft.record import plain

# Rows of the table that `dmft solve` prints; the whole run is in --json, --save and --plot.
TABLE_ROWS = 12
# Larger matrices than this are summarised, not printed.
PRINTED_WIDTH = 8

EXIT_CODES = {Status.OK: 0, Status.EVENT: 0, Status.TOLERANCE_NOT_MET: 4, Status.INTERRUPTED: 130}
# Everything else that a run can end with is a numerical failure.
NUMERICAL_FAILURE = 3


def exit_code(status: Status) -> int:
    """Exit code of a command whose run ended so."""
    return EXIT_CODES.get(status, NUMERICAL_FAILURE)


def print_json(result: Mapping[str, Any]) -> None:
    """Print one JSON object to standard output."""
    print(json.dumps(plain(result), allow_nan=False))


def table(columns: Mapping[str, Any], rows: int = TABLE_ROWS) -> str:
    """Return equally long columns as text, thinned to about this many rows, ends included."""
    arrays = {name: np.asarray(values, dtype=np.float64) for name, values in columns.items()}
    length = len(next(iter(arrays.values())))
    if length == 0:
        return "(no points)"
    picked = np.unique(np.linspace(0, length - 1, min(length, rows)).round().astype(int))
    wide = {name: max(14, len(name)) for name in arrays}
    lines = ["  ".join(f"{name:>14}" for name in arrays)]
    lines += ["  ".join(f"{y[i]:>{wide[n]}.7g}" for n, y in arrays.items()) for i in picked]
    return "\n".join(lines)


def matrix(name: str, values: np.ndarray) -> str:
    """Return a small matrix as text, or the range of a large one."""
    values = np.atleast_2d(values)
    if max(values.shape) > PRINTED_WIDTH:
        low, high = float(values.min()), float(values.max())
        return f"{name}: {values.shape[0]} x {values.shape[1]}, from {low:.6g} to {high:.6g}"
    head = f"{name} = "
    rows = ["  ".join(f"{x:>10.6f}" for x in row) for row in values]
    return "\n".join((head if i == 0 else " " * len(head)) + row for i, row in enumerate(rows))


def written(what: str, path: str | Path) -> str:
    """Return the line that says where a file went."""
    return f"{what} written to {path}"


def report_run(run: Any, arguments: argparse.Namespace) -> None:
    """Print a run of overlaps, and write the files that were asked for."""
    is_descent, is_sequence = "train_loss" in run.names, "m" in run.names
    if arguments.json:
        seen = {n: run[n] for n in ("Q", "M", "P", "e", "m") if n in (*run, *run.constants)}
        shown = {**run.arrays, "error": run.error} if is_descent else {**run.observables, **seen}
        facts = ("parameters", "statistics", "provenance")
        print_json({**_head(run), **shown, **{name: getattr(run, name) for name in facts}})
    else:
        print(f"status: {run.status} ({run.message})")
        columns = {"step" if is_descent else "t": run.t, **_columns(run)}
        if is_sequence:
            columns |= _alignments(run)
        else:
            columns["max cosine"] = cosines(run.M, run.Q, run.P).max(axis=(1, 2))
        print(table(columns))
        if len(run) and not is_sequence:
            t = run.t[-1]
            print(f"after {t:.0f} steps:" if is_descent else f"at t = {t:.6g}:")
            print(matrix("Q", run.Q[-1]))
            print(matrix("M", run.M[-1]))
    keep(arguments, run, run)


def report_ensemble(ensemble: Any, theory: Sequence[Any], arguments: argparse.Namespace) -> None:
    """Print means and errors of simulated runs, beside the theory where that was asked for."""
    is_descent = "train_loss" in ensemble.names
    if arguments.json:
        names = [name for name in ensemble.names if is_descent or name != "readout"]
        both = {n: {name: getattr(ensemble, n)[name] for name in names} for n in ("mean", "stderr")}
        result = {**_head(ensemble), **both, "provenance": ensemble.provenance}
        for run in theory:
            known = run.arrays if is_descent else {name: run[name] for name in names}
            result["theory"] = {"status": run.status, "t": run.t, **known}
        print_json(result)
    else:
        print(f"status: {ensemble.status} ({ensemble.message})")
        named = {"risk": "risk"} if "risk" in ensemble.names else {}
        first = ensemble.names[0]
        shown = {"train_loss": "train loss", "M": "M[1,1]"} if is_descent else named
        columns = {"step" if is_descent else "t": ensemble.t}
        for number, (name, words) in enumerate((shown or {first: f"{first}_11"}).items()):
            signs = "+-" + " " * number
            for key, values in ((words, ensemble.mean), (signs, ensemble.stderr)):
                columns[key] = _first(values[name], ensemble.t.size)
            for run in theory:
                found = _first(run[name], run.t.size)
                columns[f"theory {words}"] = np.interp(ensemble.t, run.t, found, right=np.nan)
        print(table(columns))
    keep(arguments, ensemble, *theory, ensemble)


def _head(run: Any) -> dict[str, Any]:
    return {"status": run.status, "message": run.message, "t": run.t}


def _first(values: Any, size: int) -> np.ndarray:
    """First entry by time, nan behind the last one: the last overlaps have no gradient."""
    result = np.full(size, np.nan)
    result[: min(size, len(values))] = np.reshape(values, (len(values), -1))[:size, 0]
    return result


def _columns(run: Any) -> dict[str, Any]:
    """The risk; of a rule its scalars and measures, of a descent what is known of its errors."""
    if "train_loss" in run.names:
        found = {"train loss": _first(run.train_loss, run.t.size)}
        if "risk" in run.names:
            found |= {"risk": run.risk, "+-": run.error["risk"]}
        return found | ({"error rate": run.error_rate} if "error_rate" in run.names else {})
    if getattr(run.problem.origin, "family", "") != "rule":
        return {"risk": run.risk}
    scalars = {n: y for n, y in run.blocks.items() if y.ndim == 1}
    return {**scalars, **run.observables}


def _alignments(run: Any) -> dict[str, Any]:
    columns = {}
    for name in ("e", "m"):
        for n, column in enumerate(run[name].reshape(run.t.size, -1).T if name in run else ()):
            columns[name if run[name].ndim == 1 else f"{name}[{n}]"] = column
    return columns


def progress_option(arguments: argparse.Namespace) -> bool | None:
    """False when the user wants silence, else the default (a bar on a terminal)."""
    return False if getattr(arguments, "no_progress", False) else None


def keep(arguments: argparse.Namespace, saved: Any, *shown: Any) -> None:
    """Save first, then draw: a failing picture loses nothing."""
    if arguments.save:
        saved.save(arguments.save)
        log(written("result", arguments.save))
    if arguments.plot:
        from dmft.display.plots import plot

        plot(*shown, path=arguments.plot)
        log(written("figure", arguments.plot))


def log(message: str) -> None:
    """Say something that is not a result."""
    print(message, file=sys.stderr)
