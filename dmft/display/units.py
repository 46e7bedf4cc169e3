"""Averages over runs after their equivalent units are put into the same order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmft.arrays import Array
from dmft.solvers.solution import COUNTED, Values


def aligned(ensemble: Any, theories: Sequence[Any]) -> tuple[Any, Any]:
    """Mean and standard error of the overlaps of runs whose units are in the order of a theory.

    Which of several equivalent units learns a teacher neuron differs from run to run, so that the
    plain average mixes units after they specialise. In each run, units with equal readouts are
    permuted so that Q_jj and M_jr are closest, over all saved times, to the first theory of the
    same widths (without one, to the first run). Without single runs the plain average is returned.
    """
    runs = getattr(ensemble, "runs", None) or getattr(ensemble, "paths", None)
    if runs is None or not {"M", "Q"} <= set(runs) or runs["M"].shape[-2] < 2:
        return ensemble.mean, ensemble.stderr
    ended = getattr(ensemble, "seed_status", None) or ensemble.path_status
    counted = np.flatnonzero(np.isin([str(s) for s in ended], [str(s) for s in COUNTED]))
    M, Q = runs["M"][counted], runs["Q"][counted]
    if len(M) < 2:
        return ensemble.mean, ensemble.stderr
    kinds = _readouts(runs, M.shape[2])
    wanted = next(
        (_rows(_at(r, "M", ensemble.t), _at(r, "Q", ensemble.t)) for r in theories
         if hasattr(r, "Q") and np.shape(getattr(r, "M", ()))[1:] == M.shape[2:]),
        _rows(M[0], Q[0]),
    )  # fmt: skip
    orders = np.array([_order(_rows(m, q), wanted, kinds) for m, q in zip(M, Q, strict=True)])
    if np.all(orders == np.arange(M.shape[2])):
        return ensemble.mean, ensemble.stderr
    M = np.array([m[:, order] for m, order in zip(M, orders, strict=True)])
    Q = np.array([q[:, order][:, :, order] for q, order in zip(Q, orders, strict=True)])
    error = {n: y.std(0, ddof=1) / np.sqrt(len(y)) for n, y in (("M", M), ("Q", Q))}
    return Values({"M": M.mean(0), "Q": Q.mean(0)}), Values(error)


def _at(run: Any, name: str, t: Array) -> Array:
    """Overlaps of a theory at other times."""
    values = np.asarray(getattr(run, name))
    columns = values.reshape(len(values), -1).T
    return np.stack([np.interp(t, run.t, y) for y in columns], axis=1).reshape(
        -1, *values.shape[1:]
    )


def _rows(M: Array, Q: Array) -> Array:
    """M_jr and Q_jj of each unit, (p, T, k + 1)."""
    lengths = np.diagonal(Q, axis1=1, axis2=2)
    return np.concatenate([M, lengths[:, :, None]], axis=2).swapaxes(0, 1)


def _readouts(runs: Any, p: int) -> Array:
    """Readouts with which units start, (p, outputs)."""
    return np.reshape(runs["readout"][0, 0], (-1, p)).T if "readout" in runs else np.ones((p, 1))


def _order(found: Array, wanted: Array, kinds: Array) -> NDArray[np.int64]:
    """Permutation of units with equal readouts that is closest to the wanted rows."""
    from scipy.optimize import linear_sum_assignment

    distance = np.nansum((wanted[:, None] - found[None]) ** 2, axis=(2, 3))
    same = np.all(kinds[:, None] == kinds[None], axis=2)
    order: NDArray[np.int64] = linear_sum_assignment(np.where(same, distance, np.inf))[1]
    return order
