"""Figures of phase diagrams: every cell is coloured by its value or hatched by its status."""

import numpy as np
import pytest

pytest.importorskip("matplotlib")

import dmft
from dmft.analysis.phase_diagram import PhaseDiagram
from dmft.display.diagram import CELLS, cell_edges, is_geometric, rectangles
from dmft.display.plots import plot
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


def hatched(axes, shown):
    """Number of cells of each hatch: those whose middles lie in its polygons."""
    x, y = np.meshgrid(shown.x, shown.y)
    middles = np.stack([x.ravel(), y.ravel()], axis=1)
    found = {}
    for polygons in (c for c in axes.collections if c.get_hatch()):
        inside = [path.contains_points(middles) for path in polygons.get_paths()]
        assert np.sum(inside, axis=0).max() == 1  # no cell twice
        found[polygons.get_hatch()] = int(np.any(inside, axis=0).sum())
    return found


def legend_words(axes):
    legend = axes.get_legend()
    return [t.get_text() for t in legend.get_texts()] if legend else []


def test_values_and_statuses_cover_every_cell(tmp_path):
    values = [[1.0, 2.0, np.nan], [3.0, np.nan, np.nan]]
    status = [["ok", "ok", "diverged"], ["event", "not_converged", "not_converged"]]
    shown = diagram(values, status)
    axes = plot(shown, path=tmp_path / "d.png")
    np.testing.assert_array_equal(coloured(axes), values)
    assert hatched(axes, shown) == {CELLS["diverged"][0]: 1, CELLS["not_converged"][0]: 2}
    assert legend_words(axes) == ["not reached until t = 50", "diverged"]
    assert axes.get_xlabel() == r"learning rate $\gamma$"
    assert axes.get_ylabel() == r"label noise $\Delta$"
    bar = axes.figure.axes[1]
    assert bar.get_ylabel() == "escape time"
    assert (tmp_path / "d.png").stat().st_size > 1000


def test_a_diagram_without_any_value_is_drawn_too(tmp_path):
    shown = diagram(np.full((2, 2), np.nan))
    axes = plot(shown)
    assert coloured(axes) is None
    assert hatched(axes, shown) == {CELLS["not_converged"][0]: 4}
    assert len(axes.figure.axes) == 1


def test_a_diagram_of_statuses_colours_the_status_and_has_no_bar(tmp_path):
    status = [["ok", "ok"], ["diverged", "left_domain"]]
    shown = diagram(np.ones((2, 2)), status, quantity="status")
    axes = plot(shown, title="where it learns")
    assert len(axes.figure.axes) == 1
    assert legend_words(axes) == ["diverged", "left the domain", "ok"]
    assert axes.get_title() == "where it learns"


def covered(axes, shown):
    """Number of cells that are coloured or hatched."""
    values = coloured(axes)
    return np.isfinite(values).sum() + sum(hatched(axes, shown).values())


def test_no_cell_of_an_adaptive_diagram_is_blank(tmp_path):
    def measure(x, y):
        if x * y > 200:
            return np.nan, "diverged"
        return (x + y, "ok") if x > 10 else (np.nan, "not_converged")

    axes = {"x": np.arange(1.0, 41.0), "y": np.arange(1.0, 34.0)}
    whole = dmft.phase_diagram(measure, axes, adaptive=True)

    def press(fraction, message):
        if fraction > 0.4:
            raise KeyboardInterrupt

    part = dmft.phase_diagram(measure, axes, adaptive=True, coarse=8, threads=1, progress=press)
    assert set(np.unique(part.status)) == {"diverged", "interrupted", "not_converged", "ok"}
    for shown in (whole, part):
        drawn = plot(shown)
        np.testing.assert_array_equal(coloured(drawn), shown.values)
        assert covered(drawn, shown) == shown.values.size
        counts = hatched(drawn, shown)
        for status, number in shown.count().items():
            assert status == "ok" or counts[CELLS[status][0]] == number
    assert not any(ground.upper() == "#FFFFFF" for _, ground, _ in CELLS.values())


def test_sweeps_of_two_parameters_are_diagrams(tmp_path):
    points = {"learning_rate": [0.1, 0.2, 0.3], "label_noise": [0.0, 1.0]}
    swept = dmft.sweep(points, lambda learning_rate, label_noise: learning_rate / label_noise)
    axes = plot(swept)
    shown = swept.diagram()
    assert hatched(axes, shown) == {CELLS["nonfinite"][0]: 3}
    assert covered(axes, shown) == 6
    line = dmft.sweep({"a": [1.0, 2.0]}, lambda a: a)
    with pytest.raises(BadParameter, match=r"two parameters, this one has \['a'\]"):
        plot(line, path=tmp_path / "s.png")


def test_failed_points_of_a_boundary_are_crosses(tmp_path):
    def measure(x, y):
        return np.nan if x + y > 1.5 else x - 0.4

    found = dmft.boundary(measure, ("x", 0.0, 1.0), ("y", 0.0, 1.0), grid=(7, 6), step=0.2)
    axes = plot(found)
    failed = sum(label == "failed" for label in found.labels.ravel())
    assert failed > 0
    points = {c.get_label(): len(c.get_offsets()) for c in axes.collections}
    assert points["failed"] == failed
    assert sum(points.values()) == found.labels.size
    assert legend_words(axes)[:4] == ["positive", "negative", "failed", "zero"]


def test_labels_have_names_instead_of_a_bar(tmp_path):
    shown = diagram([[0.0, 3.0], [3.0, np.nan]], quantity="fixed_point")
    axes = plot(shown)
    np.testing.assert_array_equal(coloured(axes), shown.values)
    assert legend_words(axes) == ["uninformative", "specialised", "not stationary"]
    # Low risk is dark, as in diagrams of the risk.
    high, low = (sum(h.get_facecolor()[:3]) for h in axes.get_legend().legend_handles[:2])
    assert low < high
    assert len(axes.figure.axes) == 1
    mine = dmft.phase_diagram(
        lambda x, y: "late" if x > 1 else "early", {"x": [0.0, 1.0, 2.0], "y": [0.0]}
    )
    assert legend_words(plot(mine)) == ["early", "late"]
    counts = plot(diagram([[1.0, 2.0]], quantity="minima", y=[0.5]))
    assert legend_words(counts) == ["minima: 1", "minima: 2"]
    colours = [h.get_facecolor() for h in counts.get_legend().legend_handles]
    mesh = counts.collections[0]
    for number, colour in zip((1.0, 2.0), colours, strict=True):
        np.testing.assert_allclose(mesh.cmap(mesh.norm(number)), colour)


def test_any_cells_are_covered_once_by_rectangles():
    rng = np.random.default_rng(3)
    for density in (0.0, 0.1, 0.5, 0.9, 1.0):
        cells = rng.random((17, 23)) < density
        count = np.zeros(cells.shape, dtype=int)
        for top, bottom, left, right in rectangles(cells):
            count[top:bottom, left:right] += 1
        np.testing.assert_array_equal(count, cells)
    assert rectangles(np.ones((50, 60), dtype=bool)).tolist() == [[0, 50, 0, 60]]


def test_every_status_has_its_own_look():
    assert set(CELLS) == {str(s) for s in Status}
    assert len({look[:2] for look in CELLS.values()}) == len(Status)
    unfinished = [s for s in Status if s not in (Status.OK, Status.EVENT)]
    assert len({CELLS[s][0] for s in unfinished}) == len(unfinished)


def test_axes_and_colours_are_logarithmic_where_the_grid_and_the_values_are(tmp_path):
    shown = diagram([[1.0, 10.0, 1e3]], x=[0.01, 0.1, 1.0], y=[0.5])
    axes = plot(shown)
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
    with pytest.raises(BadParameter, match="pass it to plot separately"):
        plot(diagram([[1.0]]), diagram([[1.0]]))


def test_a_number_of_a_failed_run_is_not_drawn_as_a_value():
    shown = diagram([[1.0, 2.0], [3.0, 7.0]], [["ok", "diverged"], ["ok", "tolerance_not_met"]])
    axes = plot(shown)
    np.testing.assert_array_equal(coloured(axes), [[1.0, np.nan], [3.0, np.nan]])
    assert sum(hatched(axes, shown).values()) == 2


@pytest.mark.parametrize("name", ["status", "converged", "minima", "fixed_point"])
def test_a_function_with_the_name_of_a_measure_is_drawn_as_its_numbers(name):
    made = dmft.phase_diagram(
        lambda x, y: x + 0.5 * y, {"x": [0.0, 1.0, 7.0], "y": [1.0, 2.0]}, quantity=name
    )
    axes = plot(made)
    assert len(axes.figure.axes) == 2  # with a colour bar
    (mesh,) = [c for c in axes.collections if c.get_array() is not None]
    np.testing.assert_array_equal(np.ravel(mesh.get_array()), made.values.ravel())


def test_axes_in_any_order_are_drawn_in_order():
    """Cells lie between their neighbours: of unsorted values some would cover the others."""
    x, y = [0.0, 1.0, 0.5, 0.25], [0.2, 0.0, 0.1]
    made = dmft.phase_diagram(made_by, {"x": x, "y": y})
    axes = plot(made)
    same = plot(dmft.phase_diagram(made_by, {"x": sorted(x), "y": sorted(y)}))
    assert axes.get_xlim() == same.get_xlim()
    assert axes.get_ylim() == same.get_ylim()
    (one,), (other,) = (
        [c for c in a.collections if c.get_array() is not None] for a in (axes, same)
    )
    np.testing.assert_array_equal(one.get_array(), other.get_array())
    falling = plot(dmft.phase_diagram(made_by, {"x": sorted(x)[::-1], "y": y}))
    assert falling.get_xlim()[0] > falling.get_xlim()[1]


def made_by(x, y):
    return x + y if x < 1 else np.nan


def test_many_labels_of_a_boundary_have_a_colour_each():
    found = dmft.boundary(
        lambda u, v: int(8 * u), ("u", 0, 0.999), ("v", 0, 1), grid=(9, 2), tol=1e-4
    )
    axes = plot(found)
    colours = [tuple(points.get_facecolor()[0]) for points in axes.collections]
    assert len(colours) == len(set(colours)) == 8
    assert legend_words(axes)[:8] == [str(n) for n in range(8)]


def test_risks_below_the_tolerance_have_one_colour():
    """Where everything is learned, solvers leave 1e-11 to 1e-14 of noise."""
    values = np.array([[1e-14, 1e-11, 1e-12], [1e-3, 1e-2, 1e-1]])
    diagram = PhaseDiagram(
        "learning_rate", "label_noise", "final_risk", np.arange(1.0, 4.0), np.arange(2.0), values,
        np.full((2, 3), "ok"), np.full((2, 3), np.nan),
    )  # fmt: skip
    mesh = plot(diagram).collections[0]
    colours = mesh.cmap(mesh.norm(values))
    assert np.all(colours[0] == colours[0, 0])
    assert len(np.unique(colours[1], axis=0)) == 3
    assert mesh.norm.vmin == pytest.approx(1e-10)
    # Low risk is dark.
    assert np.all(np.diff(colours[1, :, :3].sum(axis=1)) > 0)
