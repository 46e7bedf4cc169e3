"""`plot`: one verb for every record that has a picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dmft.display import descent_figures
from dmft.display.curves import is_ensemble, is_escape, plot_escape_times, plot_runs, plot_schedule
from dmft.display.diagram import plot_diagram
from dmft.display.fixed_points import CURVES, draw_references, plot_curve, plot_thresholds
from dmft.display.landscape import plot_landscape
from dmft.display.regimes import plot_batches, plot_regimes
from dmft.display.regions import plot_boundary, plot_regions
from dmft.display.style import WIDEST, WIDTHS, Canvas, make_room, pyplot, settle
from dmft.errors import BadParameter
from dmft.netcdf import checked_path, short
from dmft.record import summary_of
from dmft.validation import checked, shown

FORMATS = (".png", ".pdf", ".svg")
ALL_MAPS = frozenset({"cmap", "norm", "levels"})
# Records that fill a figure by themselves: their attributes, what draws them, and the options of
# colour maps that they take.
ALONE: tuple[tuple[tuple[str, ...], Callable[..., Any], frozenset[str]], ...] = (
    (("x_name", "y_name", "values", "status"), plot_diagram, ALL_MAPS),
    (("regions", "batch_power"), plot_regimes, frozenset()),
    (("steps", "samples", "optimal_batch", "regions"), plot_batches, frozenset()),
    (("codes", "labels", "names", "boundaries"), plot_regions, frozenset()),
    (("minima", "around", "disc"), plot_landscape, ALL_MAPS),
    (("curves", "triple_points", "labels"), plot_boundary, frozenset()),
    (("saved", "signals", "pairs"), descent_figures.plot_two_time, frozenset()),
    (("control", "hamiltonian"), plot_schedule, frozenset()),
    (("weak_recovery", "samples", "overlap"), plot_thresholds, frozenset()),
    *((names, plot_curve, frozenset()) for names in CURVES),
)


@checked
def plot(
    *records: Any,
    ax: Any = None,
    path: str | Path | None = None,
    title: str | None = None,
    dpi: int = 300,
    width: float | str | None = None,
    cmap: Any = None,
    norm: Any = None,
    levels: Any = None,
    lines: Any = None,
) -> Any:
    r"""Draw runs and simulations together, or a phase diagram, a boundary or another record.

    Legends are outside the axes. Fonts and line widths follow the settings of matplotlib;
    ``plt.style.use("dmft.paper")`` is a style for printed columns.

    Parameters
    ----------
    *records : Trajectory, Ensemble, DescentRun, TwoTimeRun, EscapeTime, PhaseDiagram, Sweep ...
        Records to draw (see Notes). Runs, simulations and their escape times share one figure.
        Other records have separate figures.
    ax : matplotlib axes, optional
        Axes to draw into, as many as Notes list. By default a new figure is created. A figure
        without a layout engine gets the constrained layout of matplotlib, so that no label is cut.
    path : str or Path, optional
        File to write, in PNG, PDF or SVG format.
    title : str, optional
    dpi : int
        Dots per inch of a PNG.
    width : float, "column" or "page", optional
        Width of a new figure in inches; 3.4 for "column", 7 for "page". If panels would be narrower
        than 2.9 inches, they are placed below each other.
    cmap : str or Colormap, optional
        Colours of a phase diagram, of a landscape or of the maps of a descent.
    norm : matplotlib.colors.Normalize, optional
        Normalisation of the colours, for the same records, for example ``LogNorm(1e-3, 1)``.
    levels : int or array_like, optional
        Contour levels of a landscape, or contour lines over a phase diagram.
    lines : Thresholds, SampleComplexity, Spectral, ERM, BayesOptimal, or several, optional
        Static limits drawn as reference lines: thresholds across an axis ``samples_per_dim``,
        overlaps and losses across figures of runs.

    Returns
    -------
    axes
        An array of the axes that Notes list, or the axes of a single panel; `axes[0].figure` is
        the figure.

    Raises
    ------
    MissingExtra
        If matplotlib is not installed: ``pip install "dmft[plot]"``.
    BadParameter
        For records that cannot be drawn together, options that do not apply, and file names with an
        unsupported suffix.

    Notes
    -----
    - Runs, two axes (overlaps, risk): trajectories are lines, ensembles are points with the
      standard error of the mean, and escape times are marked. Colours distinguish teacher units,
      and line styles distinguish runs, which are labelled by the parameters in which they differ.
      Before averaging, units with equal readouts are permuted to be closest to the theory (or to
      the first run).
    - Descents on repeated data, axes (2, 3): overlaps, training loss and risk with their errors,
      and maps of two times of C_l, R_l and Q.
    - Random networks, three axes: mean, variance and the correlation with the last time; a fourth
      shows the states of paths that were kept.
    - `EscapeTimes` of many runs: their distribution.
    - Phase diagrams and sweeps over two parameters: a heat map whose failed and censored cells are
      hatched and named.
    - A `Boundary`: curves, with grid points beneath them; only the curves in axes that already
      show something of the same plane.
    - A `Landscape`, three axes: contours with minima, flow, and the section along the border.
    - A `Stationary` state: its correlation against the lag. A `StateEvolution`: the overlap
      against the iteration. A `WeakRecovery`: the rate dm/dt against the overlap m.
    - Also the regions of `dmft.regimes` and `dmft.landscape_diagram`, and a `Schedule`.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> square = dmft.Committee(sp.Symbol("z", real=True)**2, width=1)
    >>> eqs = dmft.derive(dmft.Model(square, square), dmft.SGD(0.05, constraint="sphere"))
    >>> run = dmft.solve(eqs, dmft.Overlaps([[1.0]], [[0.1]]), t_max=3.0)
    >>> import os, tempfile
    >>> overlaps, risk = dmft.plot(run, path=os.path.join(tempfile.mkdtemp(), "run.png"))
    >>> risk.get_ylabel()
    'risk $\\mathcal{R}$'
    """
    pyplot()  # refuses with the name of the extra before anything else
    if path is not None and checked_path(path).suffix.lower() not in FORMATS:
        raise BadParameter(f"cannot write {path}: the name must end in {', '.join(FORMATS)}")
    axes = np.ravel(np.asarray(ax, dtype=object))
    drawn = axes.size and all(hasattr(each, "get_figure") for each in axes)
    if ax is not None and not drawn:
        raise BadParameter(f"ax = {shown(ax)}: axes of matplotlib, two of them for runs")
    if not records:
        raise BadParameter("plot needs at least one record: a trajectory, ensemble or diagram")
    records = tuple(_diagram_of(r) if is_sweep(r) else r for r in records)
    draw, what, takes = _who_draws(records)
    asked = {"cmap": cmap, "norm": norm, "levels": levels}
    maps = {name: value for name, value in asked.items() if value is not None}
    for name in sorted(set(maps) - takes):
        raise BadParameter(
            f"{name} = {shown(maps[name])}: a figure of {type(records[0]).__name__} takes "
            f"{', '.join(sorted(takes)) or 'no colour map'}; phase diagrams and landscapes take "
            "cmap, norm and levels"
        )
    if ax is not None:
        make_room(axes[0].figure)
    canvas = Canvas(path is None, _inches(width, ax), maps)
    axes = draw(what, ax, canvas=canvas, title=title)
    figure = np.ravel(axes)[0].figure
    if lines is not None:
        draw_references(
            lines if isinstance(lines, (list, tuple)) else [lines], list(np.ravel(axes))
        )
    settle(figure, own=ax is None)
    if path is not None:
        try:
            figure.savefig(path, dpi=dpi)
        except OSError as error:
            raise BadParameter(f"cannot write {short(Path(path))}: {error.strerror}") from error
    return axes


def _who_draws(records: tuple[Any, ...]) -> tuple[Callable[..., Any], Any, frozenset[str]]:
    """The function that draws records, what it is given, and the options of colours it takes."""
    for record in records:
        for names, draw, takes in ALONE:
            if all(hasattr(record, name) for name in names):
                if len(records) > 1:
                    raise BadParameter(
                        "a phase diagram cannot be combined with other records; pass it to "
                        "plot separately"
                    )
                return draw, record, takes
    if all(map(descent_figures.is_network, records)):
        return descent_figures.plot_network, records, frozenset()
    runs = [r for r in records if not is_escape(r)]
    descents = [descent_figures.is_descent(r) for r in runs]
    if any(descents) and not (all(descents) and len(runs) == len(records)):
        raise BadParameter("descents on repeated data cannot be drawn together with other records")
    for record in runs if not any(descents) else ():
        _check_run(record)
    if not runs:
        if all(hasattr(record, "quantile") for record in records):
            return plot_escape_times, records, frozenset()
        raise BadParameter("an escape time is drawn on its run; pass the run too")
    if any(descents):
        return descent_figures.plot_descent, records, frozenset({"cmap", "norm"})
    return plot_runs, records, frozenset()


def _inches(width: float | str | None, ax: Any) -> float | None:
    """The width of a new figure in inches."""
    if width is None:
        return None
    if ax is not None:
        raise BadParameter(
            f"width = {shown(width)} applies only to new figures: with ax, set the width of its "
            "figure"
        )
    inches = WIDTHS.get(width) if isinstance(width, str) else float(width)
    if inches is None or not 1.0 <= inches <= WIDEST:
        raise BadParameter(
            f"width = {shown(width)} must be a width in inches, 'column' ({WIDTHS['column']}) or "
            f"'page' ({WIDTHS['page']:g}); an inch is 72.27 points of LaTeX"
        )
    return inches


def is_sweep(record: Any) -> bool:
    """Whether a record is a sweep."""
    return all(hasattr(record, name) for name in ("points", "values", "status", "diagram"))


def _diagram_of(sweep: Any) -> Any:
    """A sweep over two parameters as a phase diagram."""
    if not sweep.points.is_grid or len(sweep.points.names) != 2:
        names = list(sweep.points.names)
        raise BadParameter(
            f"plot draws sweeps over all combinations of two parameters, this one has {names}: "
            "draw sweep.to_xarray() along one of them, or run the sweep at fixed values of the "
            "others"
        )
    return sweep.diagram()


def _check_run(record: Any) -> None:
    shown = record.mean if is_ensemble(record) else record
    lengths = hasattr(shown, "Q") or hasattr(shown, "Q_perp")
    overlaps = (lengths and hasattr(shown, "M")) or hasattr(shown, "m")
    overlaps = overlaps or hasattr(shown, "coupling")  # an infinitely wide student
    if not overlaps or not hasattr(record, "t"):
        raise BadParameter(
            f"plot draws trajectories, ensembles and phase diagrams, not {type(record).__name__}"
            + "; print shows its numbers: to plot it, compute it over a grid with dmft.sweep or "
            "a loop, or pass static limits as lines= of another figure"
            * (summary_of(record) is not None)
        )
