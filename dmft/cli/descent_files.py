"""Descent on repeated data from a declaration file: solve, simulate, report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dmft.cli.report import matrix, print_json, table
from dmft.cli.toml import Declaration
from dmft.errors import BadParameter
from dmft.model import GradientDescent

# Keys of [solve] that a descent knows, and those that it alone knows.
KEYS = ("t_max", "samples", "scrambles", "seed")
OWN = KEYS[1:]
ARRAYS = ("M", "Q", "Q2", "corr", "resp", "readout", "train_loss", "risk", "error_rate")


def refuse(declared: Declaration, command: str) -> None:
    """Refuse a command that is about differential equations."""
    if isinstance(declared.algorithm, GradientDescent):
        raise BadParameter(
            f'{declared.path}: the command {command} is not for kind = "gradient-descent"; use '
            'solve, simulate, or phase with measure = "overlap" or "learned_directions"'
        )


def refuse_options(declared: Declaration, table: Mapping[str, Any]) -> None:
    """Refuse keys of [solve] that only a descent knows."""
    for name in OWN:
        if name in table:
            raise BadParameter(
                f'{declared.path}, [solve] {name}: requires kind = "gradient-descent"'
            )


def solver_keys(declared: Declaration, table: Mapping[str, Any]) -> dict[str, Any]:
    """Checked keys of [solve]."""
    for name in table:
        if name not in KEYS:
            raise BadParameter(
                f"{declared.path}, [solve] {name}: gradient-descent saves all steps; the keys "
                f"are {', '.join(KEYS)}"
            )
    return dict(table)


def simulated(declared: Declaration, keys: dict[str, Any], progress: bool | None) -> Any:
    """Run the declared descent in R^d."""
    from dmft.simulation.simulate import simulate

    keys.setdefault("t_max", declared.options.get("solve", {}).get("t_max"))
    if keys["t_max"] is None:
        raise BadParameter(f"{declared.path}: [simulate] or [solve] must contain t_max")
    start = declared.start() if "start" in declared.options else None
    algorithm = declared.algorithm
    assert isinstance(algorithm, GradientDescent)
    return simulate(declared.model, algorithm, start=start, progress=progress, **keys)


def report(run: Any, P: np.ndarray, json: bool) -> None:
    """Print a solved descent."""
    names = [n for n in ARRAYS if n in run.arrays]
    if json:
        values = {n: run.arrays[n] for n in names}
        errors = {n: run.error[n] for n in names}
        facts = {"status": run.status, "message": run.message, "t": run.t, **values}
        print_json({**facts, "error": errors, "parameters": run.parameters,
                    "statistics": run.statistics, "provenance": run.provenance})  # fmt: skip
        return
    print(f"status: {run.status} ({run.message})")
    columns = {"step": run.t, "train loss": _padded(run.train_loss, run.t.size)}
    if "risk" in names:
        columns |= {"risk": run.arrays["risk"], "+-": run.error["risk"]}
    if "error_rate" in names:
        columns["error rate"] = run.arrays["error_rate"]
    print(table(columns | {"max cosine": _cosine(run.M, run.Q, P)}))
    print(f"after {run.t[-1]:.0f} steps:")
    print(matrix("Q", run.Q[-1]))
    print(matrix("M", run.M[-1]))


def report_ensemble(ensemble: Any, theory: Sequence[Any], json: bool) -> None:
    """Print simulated descents, beside the theory where that was asked for."""
    if json:
        result: dict[str, Any] = {
            "status": ensemble.status,
            "message": ensemble.message,
            "t": ensemble.t,
            "mean": dict(ensemble.mean),
            "stderr": dict(ensemble.stderr),
            "provenance": ensemble.provenance,
        }
        for run in theory:
            result["theory"] = {n: run.arrays[n] for n in ARRAYS if n in run.arrays}
        print_json(result)
        return
    print(f"status: {ensemble.status} ({ensemble.message})")
    size = ensemble.t.size
    columns: dict[str, Any] = {
        "step": ensemble.t,
        "train loss": _padded(ensemble.mean["train_loss"], size),
        "+-": _padded(ensemble.stderr["train_loss"], size),
        "M[1,1]": ensemble.mean["M"][:, 0, 0],
        "+- ": ensemble.stderr["M"][:, 0, 0],
    }
    for run in theory:
        columns["theory loss"] = _padded(run.train_loss, size)
        columns["theory M[1,1]"] = _padded(run.M[:, 0, 0], size)
    print(table(columns))


def _padded(values: np.ndarray, size: int) -> np.ndarray:
    """Values of the first times, nan behind them: the last overlaps have no gradient."""
    result = np.full(size, np.nan)
    result[: min(size, len(values))] = values[:size]
    return result


def _cosine(M: np.ndarray, Q: np.ndarray, P: np.ndarray) -> np.ndarray:
    """Largest cosine of a student and a teacher row, how far learning has come."""
    lengths = np.einsum("tjj->tj", Q)[:, :, None] * np.diag(P)[None, None, :]
    return np.asarray((np.abs(M) / np.sqrt(lengths)).max(axis=(1, 2)))
