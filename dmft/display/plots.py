"""`plot`: one verb for every record that has a picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dmft.checks import checked, shown
from dmft.display.batches import is_batches, plot_batches
from dmft.display.boundary import is_boundary, plot_boundary
from dmft.display.curves import is_ensemble, is_escape, plot_runs
from dmft.display.descent import is_descent, plot_descent
from dmft.display.diagram import is_diagram, plot_diagram
from dmft.display.landscape import is_landscape, plot_landscape
from dmft.display.regimes import is_regimes, plot_regimes
from dmft.display.regions import is_regions, plot_regions
from dmft.display.style import pyplot
from dmft.display.two_time import is_two_time, plot_two_time
from dmft.errors import BadParameter
from dmft.netcdf import checked_path, short

FORMATS = (".png", ".pdf", ".svg")
# Records that fill a figure by themselves: how they are told, who draws them.
ALONE: tuple[tuple[Callable[[Any], bool], Callable[..., Any]], ...] = (
    (is_diagram, plot_diagram),
    (is_regimes, plot_regimes),
    (is_batches, plot_batches),
    (is_regions, plot_regions),
    (is_landscape, plot_landscape),
    (is_boundary, plot_boundary),
    (is_two_time, plot_two_time),
)


@checked
def plot(
    *records: Any,
    ax: Any = None,
    path: str | Path | None = None,
    title: str | None = None,
    dpi: int = 150,
) -> Any:
    r"""Draw trajectories and simulations together, or a phase diagram, or a plane of regimes.

    Parameters
    ----------
    *records : Trajectory, Ensemble, DescentRun, TwoTimeRun, EscapeTime, PhaseDiagram, Sweep ...
        Trajectories are drawn as lines and ensembles as points with error bars (the standard
        error of the mean), overlaps in one panel and risk in the other; escape times of these runs
        are marked. Descents on repeated data take six panels: overlaps, training loss and risk
        with their errors, and maps of two times of C_l, R_l and Q.
        A phase diagram (or a sweep over two parameters) stands alone: a heat map whose failed and
        censored cells are hatched and named; so do a `Boundary`, the regions of `dmft.regimes` and
        `dmft.landscape_diagram`, and a `Landscape`: contours with its minima, flow, section along
        the border.
    ax : matplotlib axes, optional
        Two axes (overlaps, risk) for runs, (2, 3) for descents, three for a landscape, one for a
        diagram; a new figure by default.
    path : str or Path, optional
        Where to write the figure: PNG, PDF or SVG.
    title : str, optional
    dpi : int
        Dots per inch of a PNG.

    Returns
    -------
    axes
        The two axes of runs as an array, or the axes of a diagram; `axes[0].figure` is the figure.

    Raises
    ------
    MissingExtra
        Without matplotlib: ``pip install "dmft[plot]"``.
    BadParameter

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
    if ax is not None and not all(hasattr(each, "get_figure") for each in axes):
        raise BadParameter(f"ax = {shown(ax)}: axes of matplotlib, two of them for runs")
    if not records:
        raise BadParameter("plot needs at least one record: a trajectory, ensemble or diagram")
    records = tuple(_diagram_of(r) if is_sweep(r) else r for r in records)
    diagrams = [r for r in records if any(drawn_alone(r) for drawn_alone, _ in ALONE)]
    if diagrams:
        if len(records) > 1:
            raise BadParameter("a phase diagram is drawn alone; pass it to plot by itself")
        draw = next(draw for drawn_alone, draw in ALONE if drawn_alone(diagrams[0]))
        axes = draw(diagrams[0], ax, shown=path is None, title=title)
        figure = np.ravel(axes)[0].figure
    else:
        runs = [r for r in records if not is_escape(r)]
        descents = [is_descent(r) for r in records]
        if any(descents) and not all(descents):
            raise BadParameter("descents on repeated data are drawn together, not beside others")
        for record in runs if not any(descents) else ():
            _check_run(record)
        if not runs:
            raise BadParameter("an escape time is drawn on its run; pass the run too")
        draw_runs = plot_descent if any(descents) else plot_runs
        axes = draw_runs(records, ax, shown=path is None, title=title)
        figure = np.ravel(axes)[0].figure
    if path is not None:
        try:
            figure.savefig(path, dpi=dpi)
        except OSError as error:
            raise BadParameter(f"cannot write {short(Path(path))}: {error.strerror}") from error
    return axes


def is_sweep(record: Any) -> bool:
    """Whether a record is a sweep."""
    return all(hasattr(record, name) for name in ("points", "values", "status", "diagram"))


def _diagram_of(sweep: Any) -> Any:
    """A sweep over two parameters as a phase diagram."""
    if not sweep.points.is_grid or len(sweep.points.names) != 2:
        names = list(sweep.points.names)
        raise BadParameter(
            f"plot draws sweeps over all combinations of two parameters, this one has {names}: "
            "draw sweep.to_xarray() along one, or run it at fixed values of the others"
        )
    return sweep.diagram()


def _check_run(record: Any) -> None:
    shown = record.mean if is_ensemble(record) else record
    lengths = hasattr(shown, "Q") or hasattr(shown, "Q_perp")
    overlaps = (lengths and hasattr(shown, "M")) or hasattr(shown, "m")
    overlaps = overlaps or hasattr(shown, "coupling")  # an infinitely wide student
    if not (overlaps and hasattr(shown, "risk")):
        raise BadParameter(
            f"plot draws trajectories, ensembles and phase diagrams, not {type(record).__name__}"
        )
