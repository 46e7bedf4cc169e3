"""`sweep`: a measure at any number of points, on any engine, with a store that survives."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dmft.analysis.sweeps.points import Axis, as_points
from dmft.analysis.sweeps.run_sweep import run_sweep
from dmft.analysis.sweeps.sweep import Sweep
from dmft.errors import BadParameter
from dmft.model import Alignment, Overlaps
from dmft.names import VERSION
from dmft.progress import ProgressOption
from dmft.solvers.checkpoint import Digest
from dmft.validation import checked_or
from dmft.workflow.diagrams.measures import (
    BUILT_IN,
    EquationMeasure,
    System,
    measure_of,
    of_networks,
    one_warning,
)
from dmft.workflow.solve import declared

# Larger arrays of a start are known by a digest to the store of a sweep.
LISTED = 10_000


@checked_or(measure=BUILT_IN)
def sweep(
    points: Mapping[str, ArrayLike] | Sequence[Mapping[str, Any] | Axis] | Axis,
    measure: str | Callable[..., Any],
    *,
    equations: System | None = None,
    start: Overlaps | Alignment | None = None,
    t_max: float | None = None,
    fraction: float = 0.5,
    reference: str = "start",
    overlap: float | None = None,
    quantities: Sequence[str] | None = None,
    store: str | Path | None = None,
    identity: Mapping[str, Any] | None = None,
    executor: Any = "threads",
    workers: int | None = None,
    part: tuple[int, int] = (0, 1),
    progress: ProgressOption = None,
    **options: Any,
) -> Sweep:
    r"""Evaluate a measure at many points; with a store, finished points are never recomputed.

    Parameters
    ----------
    points : mapping of names to values, list of axes, or list of mappings
        A mapping or a list of axes gives all combinations of the values (the last name varies
        fastest); a list of mappings gives the points themselves. An axis is (name, values) or
        (name, lowest, highest), which has 33 values evenly spaced.
    measure : str or callable(**parameters)
        The built-in measures of `dmft.phase_diagram`, or a function that returns a number, a
        `Trajectory`, an `EscapeTime`, a `Censored`, a pair (number, status), or a mapping of
        `quantities` to numbers. With executors other than threads it is sent to other processes.
        Built-in measures compute each chunk of points in one compiled loop. An object with a method
        ``many(points)`` is called with whole chunks, as lists of mappings; the method returns an
        iterator over the results (an exception if a point fails).
    equations, start, t_max, fraction, reference, overlap, **options
        For the built-in measures, as in `dmft.phase_diagram`. The exception is "growth_rate": here
        Newton's method finds the fixed point from `start` separately at each point, so that a
        store can be reused for any points.
    quantities : sequence of str, optional
        Names of the numbers that the measure returns; one by default.
    store : path, optional
        Folder of results. Points that it contains are not computed again; new ones are written to
        disk before they are counted. Using the store of a different sweep raises an error.
    identity : mapping, optional
        Further data that must agree with those of the store, for example the version of your data.
        For built-in measures, the store already compares the equations with their declared numbers,
        the start, the tolerances and the version of the library. For a function it compares the
        name, a digest of the code, the bound arguments (also by `functools.partial`), and the plain
        data and functions of its module that it uses. Other dependencies, such as files, must be
        listed here.
    executor : "threads", "processes", an executor, or a function that makes one
        Any object with submit() and futures as in `concurrent.futures`, for example a
        `dask.distributed.Client` (extra ``dask``). Threads are efficient for measures that release
        the interpreter's lock, as all solvers of this library do.
    workers : int, optional
        One per core by default. Results do not depend on the number.
    part : (i, n)
        Compute only every n-th point, starting from the i-th, so that n tasks of a cluster can
        share a store. The result contains only these points, as a list. An error is raised if the
        part is already being computed, or if n differs from that of running tasks.
    progress : None, bool or callable

    Returns
    -------
    Sweep
        Failed and censored points have a status. After Ctrl-C the finished points are returned.

    Raises
    ------
    BadParameter
        For a name that the equations do not contain, or a store that cannot be written, belongs to
        another sweep, or is in use.

    Examples
    --------
    >>> import dmft
    >>> model = dmft.literature.phase_retrieval(1, label_noise=0.1)
    >>> eqs = dmft.derive(model, dmft.SGD(0.05, constraint="sphere"))
    >>> result = dmft.sweep(
    ...     {"learning_rate": [0.05, 0.1], "label_noise": [0.0, 1.0]}, "final_risk",
    ...     equations=eqs, start=dmft.Overlaps([[1.0]], [[0.1]]), t_max=5.0)
    >>> result.values["final_risk"].shape, result.count()
    ((2, 2), {'ok': 4})
    """
    where = as_points(points)
    known, provenance = dict(identity or {}), None
    names: Sequence[str]
    if quantities is not None and not callable(measure):
        raise BadParameter(f'the measure "{measure}" has one quantity: leave quantities= out')
    measure, equations = of_networks(measure, equations)
    system = {"equations": equations, "start": start, "t_max": t_max}
    how = {"fraction": fraction, "reference": reference, "overlap": overlap}
    first = {} if callable(measure) else where.at(0)
    chosen = measure_of(measure, system, how, options, first)
    if callable(measure):
        names = ("value",) if quantities is None else quantities
        if {"status", "horizon"} & set(names):
            raise BadParameter(f"quantities = {names!r}: the names status and horizon are reserved")
        function = measure
    else:
        assert chosen is not None
        names, function = (measure,), chosen
        known, provenance = {**describe(chosen), **known}, chosen.provenance
    with one_warning():
        return run_sweep(
            where, function, quantities=names, store=store, identity=known, executor=executor,
            workers=workers, part=part, progress=progress, provenance=provenance,
        )  # fmt: skip


def identity_of(
    measure: str,
    *,
    equations: System | None = None,
    start: Overlaps | Alignment | None = None,
    t_max: float | None = None,
    fraction: float = 0.5,
    reference: str = "start",
    overlap: float | None = None,
    **options: Any,
) -> dict[str, Any]:
    """What a store of `dmft.sweep` with these keywords agrees on."""
    how = {"fraction": fraction, "reference": reference, "overlap": overlap}
    return describe(EquationMeasure(measure, equations, start, t_max, how, options))


def describe(measure: EquationMeasure) -> dict[str, Any]:
    """What the results of a built-in measure depend on, besides the parameters of its points."""
    arrays = measure.start_arrays
    digest = hashlib.blake2b(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays.values()))
    start = {
        name: a.tolist() if a.size <= LISTED else hashlib.blake2b(a.tobytes()).hexdigest()
        for name, a in arrays.items()
    }
    options = {name: value for name, value in measure.options.items() if name != "progress"}
    origin = measure.followed_from if measure.name == "growth_rate" else None
    return {
        **({"followed_from": dict(origin)} if origin else {}),
        "measure": measure.name,
        "equations": measure.fingerprint,
        "declared": declared(measure.equations),
        "version": VERSION,
        "start": Digest.of(digest.hexdigest()[:24], start),
        "t_max": measure.t_max,
        "options": json.loads(json.dumps({**measure.how, **options}, default=str, sort_keys=True)),
    }
