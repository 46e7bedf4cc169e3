"""Figures of phase diagrams: every cell is coloured by its value or hatched by its status."""

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from dmft.analysis.phase_diagram import PhaseDiagram
from dmft.display import plot
from dmft.display.diagram import CELLS, cell_edges, is_geometric
from dmft.errors import BadParameter
from dmft.names import Status


def diagram(values, status=None, quantity="escape time", x=None, y=None):
    values = np.array(values, dtype=float)
    ny, nx = values.shape
    if status is None:
        status = np.where(np.isfinite(values), "ok", "not_converged")
    return PhaseDiagram(
        "learning_rate",
        "label_noise",
        quantity,
        np.linspace(0.1, 0.4, nx) if x is None else np.asarray(x, dtype=float),
        np.linspace(0.0, 1.0, ny) if y is None else np.asarray(y, dtype=float),
        values,
        np.array(status, dtype="<U20"),
        np.where(np.isfinite(values), np.nan, 50.0),
    )


def coloured(axes):
    """Cells with a value, from the heat map: row -> column -> value."""
    meshes = [c for c in axes.collections if type(c).__name__ == "QuadMesh"]
    return np.ma.filled(meshes[0].get_array().astype(float), np.nan) if meshes else None


def hatched(axes):
    """Number of cells of each hatch."""
    polygons = [c for c in axes.collections if c.get_hatch()]
    return {c.get_hatch(): len(c.get_paths()) for c in polygons}


def legend_words(axes):
    return [t.get_text() for legend in axes.figure.legends for t in legend.get_texts()]


def test_values_and_statuses_cover_every_cell(tmp_path):
    values = [[1.0, 2.0, np.nan], [3.0, np.nan, np.nan]]
    status = [["ok", "ok", "diverged"], ["event", "not_converged", "not_converged"]]
    axes = plot(diagram(values, status), path=tmp_path / "d.png")
    np.testing.assert_array_equal(coloured(axes), values)
    assert hatched(axes) == {CELLS["diverged"][0]: 1, CELLS["not_converged"][0]: 2}
    assert legend_words(axes) == ["not reached until t = 50", "diverged"]
    assert axes.get_xlabel() == r"learning rate $\gamma$"
    assert axes.get_ylabel() == r"label noise $\Delta$"
    bar = axes.figure.axes[1]
    assert bar.get_ylabel() == "escape time"
    assert (tmp_path / "d.png").stat().st_size > 1000


def test_a_diagram_without_any_value_is_drawn_too(tmp_path):
    axes = plot(diagram(np.full((2, 2), np.nan)), path=tmp_path / "d.pdf")
    assert coloured(axes) is None
    assert hatched(axes) == {CELLS["not_converged"][0]: 4}
    assert len(axes.figure.axes) == 1


def test_a_diagram_of_statuses_colours_the_status_and_has_no_bar(tmp_path):
    status = [["ok", "ok"], ["diverged", "left_domain"]]
    shown = diagram(np.ones((2, 2)), status, quantity="status")
    axes = plot(shown, path=tmp_path / "d.png", title="where it learns")
    assert len(axes.figure.axes) == 1
    assert legend_words(axes) == ["diverged", "left the domain", "ok"]
    assert axes.get_title() == "where it learns"


def test_every_status_has_its_own_look():
    assert set(CELLS) == {str(s) for s in Status}
    assert len({look[:2] for look in CELLS.values()}) == len(Status)
    unfinished = [s for s in Status if s not in (Status.OK, Status.EVENT)]
    assert len({CELLS[s][0] for s in unfinished}) == len(unfinished)


def test_axes_and_colours_are_logarithmic_where_the_grid_and_the_values_are(tmp_path):
    shown = diagram([[1.0, 10.0, 1e3]], x=[0.01, 0.1, 1.0], y=[0.5])
    axes = plot(shown, path=tmp_path / "d.png")
    assert axes.get_xscale() == "log"
    assert axes.get_yscale() == "linear"
    assert type(axes.collections[0].norm).__name__ == "LogNorm"
    np.testing.assert_allclose(axes.get_xlim(), (0.01 / 10**0.5, 10**0.5))


def test_cell_edges_enclose_the_grid():
    for values in ([3.0], [1.0, 2.0], [0.0, 1.0, 5.0], [1e-3, 1e-1, 10.0], [2.0, 1.0, 0.0]):
        grid = np.array(values)
        edges = cell_edges(grid)
        assert edges.size == grid.size + 1
        low, high = np.minimum(edges[1:], edges[:-1]), np.maximum(edges[1:], edges[:-1])
        assert np.all((low < grid) & (grid < high))
    assert is_geometric(np.geomspace(1, 9, 7))
    assert not is_geometric(np.linspace(1, 9, 7))
    assert not is_geometric(np.array([0.0, 1.0, 10.0]))


def test_a_diagram_is_drawn_alone():
    with pytest.raises(BadParameter, match="alone"):
        plot(diagram([[1.0]]), diagram([[1.0]]))
