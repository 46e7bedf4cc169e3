r"""What rounding of the closed forms leaves in a run.

The rates and the risk are evaluated with bounds (`dmft.equations.rounding.bounds`) at states of
the run. Where a bound passes 1e-10 of the size of the terms, the run carries an error. An error e
of the rates is carried along by the flow: to first order a part of it along the motion shifts the
time, and the rest adds up,

    error(t) = int_0^t e ds + |f(t)| int_0^t |e| / |f| ds,

with f the rates. Growth across the motion (an unstable direction in which nothing moves yet) is
not in it. Nor is the error of the integrator, which rtol and atol bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmft.arrays import Array
from dmft.equations.equations import Equations
from dmft.equations.parameter_values import Values
from dmft.equations.rounding.bounds import rounding
from dmft.equations.rounding.conditioning import WORTH_SAYING, light
from dmft.equations.rounding.rules import Bounded, relative_rounding
from dmft.errors import NotClosed
from dmft.solvers.trajectory import Trajectory

# States of a run at which rounding is looked at, and those of a run where it matters.
LOOKED_AT, FOLLOWED = 8, 64
# Entries (pairs of students times pairs of fields times states) that are evaluated at once.
ENTRIES = 20_000
# Logarithm of a ratio below which both ends of an interval count as equal.
NEARLY_EQUAL = 1e-3


def with_rounding(run: Trajectory, equations: Equations, rtol: float) -> Trajectory:
    """A run of closed forms with the rounding that they leave, where that is worth saying.

    That is where the bounds pass 1e-10 of the size of the terms, or where what they leave in the
    overlaps passes what the integrator may leave in one step, `rtol`. In any case
    ``provenance["rounding"]`` is the largest bound relative to the size of the terms; it is not
    there where no state has a bound. Runs on tables and on nodes keep what these claim. Averages of
    four signs are left out (`dmft.equations.rounding.conditioning.light`).
    """
    if not equations.bounds_rounding:
        return run
    if equations.noise or run.t.size == 0:
        return run
    places = _places(run, LOOKED_AT)
    if not places.size:
        return run
    try:
        found = _bounds(run, equations, places)
    except NotClosed:  # a function without a rule: nothing is said
        return run
    relative = relative_rounding(found)
    known = np.isfinite(relative)
    if not known.all():  # as units of length zero: look at the other states
        places, relative = places[known], relative[known]
        found = {n: Bounded(*(part[known] for part in parts)) for n, parts in found.items()}
    if not places.size:
        return run
    worst = float(np.max(relative))
    run = replace(run, provenance={**run.provenance, "rounding": worst})
    left = max(
        float(np.max(error / np.maximum(1.0, np.abs(run[name][places]))))
        for name, error in _carried(run.t[places], found).items()
        if name in run.blocks
    )
    if worst <= WORTH_SAYING and left <= max(WORTH_SAYING, rtol):
        return run
    text = f"rounding of closed forms up to {worst:.0e} of the size of their terms"
    error = _error(run, equations)
    largest = max(float(np.max(e / np.maximum(1.0, np.abs(run[n])))) for n, e in error.items())
    return replace(
        run,
        error=error,
        message=f"{run.message}; {text} leaves {largest:.0e} (run.error)",
        provenance={
            **run.provenance,
            "approximation": f"{run.provenance.get('approximation', '')}; {text}",
        },
    )


def _places(run: Trajectory, most: int) -> NDArray[np.int64]:
    """Saved states to look at: spread over the run, the last and the first among them."""
    finite = np.all(
        [np.isfinite(b.reshape(run.t.size, -1)).all(axis=1) for b in run.blocks.values()], axis=0
    )
    kept = np.flatnonzero(finite)
    p, k = run.widths["p"], run.widths["k"]
    count = int(np.clip(ENTRIES // (p * (p + k)) ** 2, 2, most))
    return kept[np.unique(np.linspace(0, kept.size - 1, count).astype(int))] if kept.size else kept


def _bounds(run: Trajectory, equations: Equations, places: Any) -> dict[str, Bounded]:
    """Bounds of the rates, by block, and of the risk at saved states."""
    values = _values(run)
    states = {name: block[places] for name, block in run.blocks.items()}
    definitions = light(equations.on_nodes)
    rates = rounding(definitions, states, values, "rate")
    # The terms of dQ_jj are the same number twice; wide limits have no Q.
    if equations.algorithm.on_sphere and "Q" in rates:
        own = np.arange(run.widths["p"])
        error = rates["Q"].error.copy()
        error[:, own, own] = 0.0
        rates["Q"] = rates["Q"]._replace(error=error)
    return {**rates, **rounding(definitions, states, values, "observable")}


def _values(run: Trajectory) -> Values:
    return Values(dict(run.widths), dict(run.parameters), dict(run.constants))


def _error(run: Trajectory, equations: Equations) -> dict[str, Array]:
    """Errors of the blocks and of the observables at all saved times."""
    places = _places(run, FOLLOWED)
    found = _bounds(run, equations, places)
    carried = _carried(run.t[places], {n: part for n, part in found.items() if n in run.blocks})
    full = {b: carried.get(b, np.zeros_like(run.blocks[b][places])) for b in run.blocks}
    for name in run.observables:
        known = found[name].error if name in found else np.zeros(places.size)
        full[name] = known + _moved_by(run, equations, places, full, name)
    errors = {n: _at_all_times(run.t, run.t[places], values) for n, values in full.items()}
    return {name: np.where(np.isnan(e), np.inf, e) for name, e in errors.items()}


@np.errstate(over="ignore", invalid="ignore")  # an error of inf is one that is not known
def _carried(t: Array, found: Mapping[str, Bounded]) -> dict[str, Array]:
    """Errors of the blocks from those of their rates, as the flow carries them along."""
    moving = list(found)
    rates, errors = (
        np.concatenate([found[name][n].reshape(t.size, -1) for name in moving], axis=1)
        for n in (0, 1)
    )
    speed = np.linalg.norm(rates, axis=1)
    relative = np.divide(
        np.linalg.norm(errors, axis=1), speed, out=np.zeros_like(speed), where=speed > 0.0
    )
    carried = _integral(t, errors) + np.abs(rates) * _integral(t, relative[:, None])
    ends = np.cumsum([int(np.prod(found[name].value.shape[1:])) for name in moving])
    columns = np.split(carried, ends[:-1], axis=1)
    return {
        name: part.reshape(found[name].value.shape)
        for name, part in zip(moving, columns, strict=True)
    }


def _integral(t: Array, values: Array) -> Array:
    """Integral from the start, of exponentials between the times."""
    low, high = np.minimum(values[1:], values[:-1]), np.maximum(values[1:], values[:-1])
    with np.errstate(all="ignore"):
        growth = np.log(high / low)
        mean = np.where((low > 0.0) & (growth > NEARLY_EQUAL), (high - low) / growth, high)
    return np.concatenate(
        [np.zeros_like(values[:1]), np.cumsum(np.diff(t)[:, None] * mean, axis=0)]
    )


def _moved_by(
    run: Trajectory, equations: Equations, places: Any, errors: Mapping[str, Array], name: str
) -> Array:
    """Change of an observable as the overlaps move by their errors."""
    values, definitions = _values(run), light(equations.on_nodes)

    def at(**sides: int) -> Array:
        states = {b: v[places] + sides.get(b, 0) * errors[b] for b, v in run.blocks.items()}
        found = rounding(definitions, states, values, "observable")
        return found[name].value if name in found else np.zeros(len(places))

    here = at()
    total = np.zeros_like(here)
    for block in run.blocks:
        changes = [np.abs(at(**{block: side}) - here) for side in (-1, 1)]
        total = total + np.fmax(*changes)  # outside of its domain a risk is no number
    return np.where(np.isnan(total), 0.0, total)


def _at_all_times(t: Array, known: Array, values: Array) -> Array:
    """Errors at all saved times from those at some of them."""
    flat = values.reshape(known.size, -1)
    rows = [np.interp(t, known, column) for column in flat.T]
    return np.stack(rows, axis=1).reshape(t.size, *values.shape[1:])
