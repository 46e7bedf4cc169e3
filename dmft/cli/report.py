"""Results as text for people and as JSON for programs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

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
    lines = ["  ".join(f"{name:>14}" for name in arrays)]
    lines += ["  ".join(f"{values[i]:>14.7g}" for values in arrays.values()) for i in picked]
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
    if arguments.json:
        print_json(
            {
                "status": run.status,
                "message": run.message,
                "t": run.t,
                **run.observables,
                **{n: run[n] for n in ("Q", "M", "P", "e", "m") if n in (*run, *run.constants)},
                "parameters": run.parameters,
                "statistics": run.statistics,
                "provenance": run.provenance,
            }
        )
    else:
        print(f"status: {run.status} ({run.message})")
        is_sequence = "m" in run.names
        seen = _alignments(run) if is_sequence else largest_overlaps(run.Q, run.M, run.P)
        print(table({"t": run.t, **_columns(run), **seen}))
        if len(run) and not is_sequence:
            print(f"at t = {run.t[-1]:.6g}:")
            print(matrix("Q", run.Q[-1]))
            print(matrix("M", run.M[-1]))
    keep(arguments, run, run)


def _columns(run: Any) -> dict[str, Any]:
    """The risk; of a rule its scalars and measures."""
    if getattr(run.problem.origin, "family", "") != "rule":
        return {"risk": run.risk}
    scalars = {n: y for n, y in run.blocks.items() if y.ndim == 1}
    return {**scalars, **run.observables}


def _alignments(run: Any) -> dict[str, Any]:
    """Columns of the alignments of a sequence model."""
    columns = {}
    for name in ("e", "m"):
        for n, column in enumerate(run[name].reshape(run.t.size, -1).T if name in run else ()):
            columns[name if run[name].ndim == 1 else f"{name}[{n}]"] = column
    return columns


def largest_overlaps(Q: np.ndarray, M: np.ndarray, P: np.ndarray) -> dict[str, Any]:
    """Return a column that shows at a glance how far learning has come."""
    lengths = np.einsum("tjj->tj", Q)[:, :, None] * np.diag(P)[None, None, :]
    return {"max cosine": (np.abs(M) / np.sqrt(lengths)).max(axis=(1, 2))}


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
