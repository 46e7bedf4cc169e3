"""Saved states whose overlaps pass Cauchy-Schwarz within the band that compiled code clamps."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmft.solvers.problem import Problem

# Excess that the rounding of products explains: counted, but not worth a sentence.
ROUNDING = 1e-14


def parallel_statistics(
    problem: Problem,
    y: NDArray[np.float64],
    widths: NDArray[np.int64],
    par: NDArray[np.float64],
) -> dict[str, Any]:
    """Count the saved states in which fields beyond Cauchy-Schwarz were taken as parallel.

    Parameters
    ----------
    problem : Problem
        Nothing is counted where its `parallel_band` is 0.
    y : (T, n)
        Saved states.
    widths, par
        As the compiled functions take them.

    Returns
    -------
    dict
        parallel_states, and parallel_excess = max(C_ij^2 / (C_ii C_jj)) - 1 of them, or 0.
    """
    if problem.parallel_band <= 0.0 or problem.covariance is None:
        return {}
    excess = np.array([_excess(problem.covariance(row, widths, par)) for row in y])
    inside = (excess > 0.0) & (excess <= problem.parallel_band)
    largest = float(excess[inside].max()) if inside.any() else 0.0
    return {"parallel_states": int(inside.sum()), "parallel_excess": largest}


def parallel_message(statistics: dict[str, Any], states: int) -> str:
    """End of the message of a run, empty where only rounding was clamped."""
    excess = statistics.get("parallel_excess", 0.0)
    if excess <= ROUNDING:
        return ""
    count = statistics["parallel_states"]
    return (
        f"; {count} of {states} saved states have squared overlaps beyond Cauchy-Schwarz by up to "
        f"{excess:.1e} (relative): fields taken as parallel"
    )


def _excess(C: NDArray[np.float64]) -> float:
    """Largest C_ij^2 / (C_ii C_jj) - 1 of two fields; -1 for one field, NaN if undefined."""
    i, j = np.triu_indices(C.shape[0], 1)
    size = np.sqrt(C[i, i] * C[j, j])
    with np.errstate(divide="ignore", invalid="ignore"):
        # Factored as in `dmft.special.orthant`, which compares it with its band.
        ratio = -(size - C[i, j]) * (size + C[i, j]) / size**2
    return float(ratio.max(initial=-1.0))
