"""`sweep` and `phase_diagram`: a measure at many points, or over a grid of two parameters.

A sweep runs on any engine, with a store that survives; a diagram has one compiled build for all
points.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from dmft.analysis.diagram import Coarse, Kept, named_diagram, read_axis
from dmft.analysis.phase_diagram import PhaseDiagram
from dmft.analysis.sweeps.run_sweep import run_sweep
from dmft.analysis.sweeps.sweep import Axes, Axis, Sweep, as_points, two_axes
from dmft.errors import BadParameter
from dmft.model import Alignment, Overlaps
from dmft.progress import ProgressOption
from dmft.validation import checked_or
from dmft.workflow.diagrams import measures


@checked_or(measure=measures.BUILT_IN)
def sweep(
    points: Mapping[str, ArrayLike] | Sequence[Mapping[str, Any] | Axis] | Axis,
    measure: str | Callable[..., Any],
    *,
    equations: measures.System | None = None,
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
        A built-in measure of `dmft.phase_diagram`, or a function that returns a number, a
        `Trajectory`, an `EscapeTime`, a `Censored`, a pair (number, status), or a mapping of
        `quantities` to numbers. With executors other than threads it is sent to other processes.
        An object with a method ``many(points)`` is called with chunks, as lists of two or more
        mappings; it returns an iterator over the results (an exception if a point fails).
    equations, start, t_max, fraction, reference, overlap, **options
        For the built-in measures, as in `dmft.phase_diagram`. For "growth_rate" Newton's method
        finds the fixed point from `start` separately at each point, so that a store can be reused
        for any points.
    quantities : sequence of str, optional
        Names of the numbers that the measure returns; one by default.
    store : path, optional
        Folder of results. Points that it contains are not computed again. Using the store of a
        different sweep raises an error.
    identity : mapping, optional
        Further data that must agree with the data in the store, for example the version of your
        data (see Notes).
    executor : "threads", "processes", an executor, or a function that makes one
        Any object with submit() and futures as in `concurrent.futures`, for example a
        `dask.distributed.Client` (extra ``dask``). Threads are efficient for measures that release
        the interpreter's lock, as all solvers of this library do.
    workers : int, optional
        Number of workers; one per core by default. Results do not depend on it.
    part : (i, n)
        Compute only every n-th point, starting from the i-th, so that n tasks of a cluster can
        share a store. The result contains only these points, as a list. An error is raised if the
        part is already being computed, or if n differs from the n of running tasks.
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

    Notes
    -----
    A store compares, for built-in measures, the equations with their declared numbers, the start,
    the tolerances and the version of the library. For a function it compares the name, a digest of
    the code, the bound arguments (also by `functools.partial`), and the plain data and functions of
    its module that it uses. List other dependencies, such as files, in `identity`.

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
    if quantities is not None and not callable(measure):
        raise BadParameter(f'the measure "{measure}" has one quantity: leave quantities= out')
    chosen = measures.chosen_measure(
        measure, where.at(0), False, equations=equations, start=start, t_max=t_max,
        fraction=fraction, reference=reference, overlap=overlap, **options,
    )  # fmt: skip
    own = ("value",) if callable(measure) else (chosen.name,)
    names = own if quantities is None else quantities
    if {"status", "horizon"} & set(names) and callable(measure):
        raise BadParameter(f"quantities = {names!r}: the names status and horizon are reserved")
    with measures.one_warning():
        return run_sweep(
            where, chosen.function, quantities=names, store=store, executor=executor,
            identity={**chosen.known, **(identity or {})}, workers=workers, part=part,
            progress=progress, provenance=chosen.provenance,
        )  # fmt: skip


@checked_or(measure=measures.BUILT_IN)
def phase_diagram(
    measure: str | Callable[..., Any],
    x: Axes,
    y: Axes | None = None,
    *,
    equations: measures.System | None = None,
    start: Overlaps | Alignment | None = None,
    t_max: float | None = None,
    fraction: float = 0.5,
    reference: str = "start",
    overlap: float | None = None,
    adaptive: bool = False,
    level: float = 0.0,
    coarse: Coarse = None,
    quantity: str | None = None,
    store: str | Path | None = None,
    identity: Mapping[str, Any] | None = None,
    threads: int | None = None,
    progress: ProgressOption = None,
    **options: Any,
) -> PhaseDiagram:
    r"""Evaluate a measure on a grid of two parameters, in parallel on the local cores.

    Parameters
    ----------
    measure : callable or str
        A callable takes the two parameters by name, ``measure(learning_rate=..., width=...)``, and
        returns a number, a name, a `Trajectory`, an `EscapeTime` or a `Censored`. It is called from
        several threads at once. The following built-in measures are computed from the run of
        `equations` from `start` to `t_max`:

        - "escape_time", as `dmft.escape_time`
        - "final_risk"
        - "converged": 1 if the run reached `t_max`, otherwise 0 (for example, if it diverged)
        - "status": index of the status in `dmft.Status`
        - "overlap": largest cosine |M_jr| / sqrt(Q_jj P_rr) of a student and a teacher direction
          at `t_max`; |m| for a sequence model
        - "learned_directions": number of teacher directions for which this cosine is at least
          `overlap` (0.1 by default) for some student unit
        - "fixed_point": index in ("uninformative", "unspecialised", "partly specialised",
          "specialised") of the fixed point that Newton's method finds from the end of the run
          (thresholds in `dmft.workflow.diagrams.end_states`); the status is not_converged if the
          run does not end near a fixed point
        - the name of a measure of a rule (`dmft.UpdateField`): its value at `t_max`

        The following built-in measures require no run:

        - "growth_rate": growth rate at a fixed point. Newton's method finds the fixed point from
          `start` at the first values of x and y. It is continued to all other points; the status is
          not_converged if the branch ends or meets another one
          (`dmft.workflow.diagrams.end_states`)
        - "minima": number of minima of `dmft.landscape` for a sequence model
        - for a `RandomNetwork`: "stability", "chaos", "variance", "divergence", "survival" and
          "output_mean"
    x, y : (name, values), (name, lowest, highest) or mapping of names to values
        Parameters of the equations ("learning_rate", "label_noise", a symbol's name). Two limits
        give 33 evenly spaced values; a mapping of two names defines both axes.
    equations, start, t_max
        For the built-in measures. The equations can belong to one-pass algorithms, rules of
        vectors, gradient flow, sequence models or gradient descent, and are compiled once for all
        points. A `RandomNetwork` is passed as it is. For "minima" `equations` is the sequence
        model.
    fraction, reference, overlap
        For "escape_time", as in `dmft.escape_time`; `overlap` also for "learned_directions".
    adaptive : bool
        Compute a coarse subgrid, and refine only blocks whose corners have different labels (see
        Notes). `PhaseDiagram.computed` is False for the other points.
    level : float
        Threshold for measures that return floats, as in `dmft.boundary`; only for adaptive
        diagrams.
    coarse : int or (int, int), optional
        Number of grid steps between points of the coarse grid, along x and y; only for adaptive
        diagrams. By default a power of two, at least 4, that gives 16 to 32 blocks per axis.
    quantity : str, optional
        Name of the values, for figures.
    store : path, optional
        Folder in which all evaluations are saved. After an interruption the same call computes only
        the missing points. Calls with other axes of the same measure reuse the folder.
    threads : int, optional
        Number of threads; one per core by default. Results do not depend on it.
    identity, progress
        As in `dmft.sweep`.
    **options
        Solver options and further parameters, as for `dmft.solve`.

    Returns
    -------
    PhaseDiagram
        Record with values (ny, nx) and status (ny, nx). Failed and censored points have a status
        and raise no exception. After Ctrl-C the finished points are returned.

    Notes
    -----
    Points of an adaptive diagram are compared by a label. It consists of the status, and of the
    value if the measure returns a bool, an int or a name. For a float it states whether the value
    is above `level`.
    Points that are not computed have the status of their block and values interpolated between its
    corners. Regions that are nowhere narrower than `coarse` grid steps are reproduced exactly;
    narrower ones may be missed, in whole or in part.

    Examples
    --------
    >>> import numpy as np, dmft
    >>> model = dmft.literature.phase_retrieval(1, label_noise=0.1)
    >>> eqs = dmft.derive(model, dmft.SGD(0.05, constraint="sphere"))
    >>> diagram = dmft.phase_diagram(
    ...     "escape_time", ("learning_rate", [0.05, 0.1]), ("label_noise", [0.0, 1.0]),
    ...     equations=eqs, start=dmft.Overlaps([[1.0]], [[0.1]], [[1.0]]), t_max=50.0)
    >>> diagram.values.shape, diagram.status.tolist()
    ((2, 2), [['ok', 'ok'], ['ok', 'ok']])

    The sign of the growth rate, for which a quarter of the grid points are computed:

    >>> dmft.phase_diagram(
    ...     "growth_rate", ("learning_rate", np.linspace(0.05, 0.2, 21)),
    ...     ("label_noise", np.linspace(0.0, 4.0, 21)), adaptive=True,
    ...     equations=eqs, start=dmft.Overlaps([[1.0]], [[0.0]])).count(computed=True)
    {'ok': 114}
    """
    axes = {name: read_axis(name, values) for name, values in two_axes(x, y).items()}
    first = {name: float(values[0]) for name, values in axes.items()}
    chosen = measures.chosen_measure(
        measure, first, True, equations=equations, start=start, t_max=t_max, fraction=fraction,
        reference=reference, overlap=overlap, **options,
    )  # fmt: skip
    with measures.one_warning():
        return named_diagram(
            chosen.function, axes, adaptive=adaptive, level=level, coarse=coarse,
            quantity=quantity or chosen.name, threads=threads, progress=progress,
            provenance=chosen.provenance, store=Kept(store, {**chosen.known, **(identity or {})}),
        )  # fmt: skip
