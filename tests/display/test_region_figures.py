"""Figures of regions: each in its own colour whatever else occurs, curves in their places."""

import numpy as np
import pytest

import dmft
from dmft.analysis.landscape import landscape
from dmft.display.regions import GROUNDS
from dmft.errors import BadParameter
from dmft.literature import (
    positional_semantic_boundaries,
    positional_semantic_diagram,
    positional_semantic_risk,
)

matplotlib = pytest.importorskip("matplotlib")


def colour_at(axes, a, omega):
    """Colour of the cell that holds (a, omega), from the drawn mesh itself."""
    mesh = axes.collections[0]
    corners = mesh.get_coordinates()
    column = np.searchsorted(corners[0, :, 0], a) - 1
    row = np.searchsorted(corners[:, 0, 1], omega) - 1
    values = np.asarray(mesh.get_array()).reshape(corners.shape[0] - 1, -1)
    return matplotlib.colors.to_hex(mesh.to_rgba(values[row, column])).upper()


def test_regions_have_fixed_colours(tmp_path):
    # Neither code 0 nor code 7 occurs in the second window: scaling to the data would shift all.
    windows = [((0.7, 1.0), (0.4, 1.0)), ((0.9, 1.0), (0.65, 0.72))]
    for low_high_a, low_high_omega in windows:
        diagram = positional_semantic_diagram(
            np.linspace(*low_high_a, 30), np.linspace(*low_high_omega, 30)
        )
        axes = dmft.plot(diagram)
        assert colour_at(axes, 0.98, 0.69) == GROUNDS["semantic over positional, positional start"]
        assert axes.get_xlim() == pytest.approx(low_high_a)
        assert axes.get_ylim() == pytest.approx(low_high_omega)
    full = positional_semantic_diagram(np.linspace(0.7, 1, 30), np.linspace(0.4, 1, 30))
    axes = dmft.plot(full, path=tmp_path / "regions.png", title="title")
    assert (tmp_path / "regions.png").stat().st_size > 10000
    assert axes.get_title() == "title"
    for a, omega, name in (
        (0.72, 0.5, "semantic"),
        (0.75, 0.96, "semantic, positional start"),
        (0.95, 0.62, "semantic over positional"),
        (0.95, 0.8, "positional over semantic"),
        (0.95, 0.95, "positional"),
        (0.7475, 0.997, "mixed"),
    ):
        assert colour_at(axes, a, omega) == GROUNDS[name]
    legend = {text.get_text() for text in axes.get_legend().get_texts()}
    assert set(full.names) <= legend
    assert all(name in GROUNDS for name in full.names)
    assert len(set(GROUNDS.values())) == len(GROUNDS)


def test_curves_lie_where_they_are(tmp_path):
    diagram = positional_semantic_diagram(np.linspace(0.7, 1, 20), np.linspace(0.4, 1, 20))
    axes = dmft.plot(diagram)
    lines = {line.get_label(): line for line in axes.lines}
    expected = positional_semantic_boundaries(0.9)
    for words, value in (
        ("global minimum changes", expected.equal),
        ("semantic stable below", expected.semantic),
        ("positional stable above", expected.positional),
        ("starts along $e$ above", expected.direction),
    ):
        a, omega = lines[words].get_data()
        assert np.interp(0.9, a, omega) == pytest.approx(float(value), abs=1e-5)
    a, omega = lines["mixed appears"].get_data()
    assert 0.742 < a[np.isfinite(omega)].min() < 0.744
    with pytest.raises(BadParameter, match="pass it to plot separately"):
        dmft.plot(diagram, diagram)


def test_landscapes_show_their_minima(tmp_path):
    found = landscape(positional_semantic_risk(0.755, 0.975))
    contours, flow, section = dmft.plot(found, path=tmp_path / "landscape.png")
    assert (tmp_path / "landscape.png").stat().st_size > 20000
    marks = {
        line.get_label(): line.get_xydata()[0].tolist()
        for line in contours.lines
        if "minimum" in line.get_label()
    }
    mixed = found.minima[1]
    assert marks == {
        "semantic minimum (global)": [0.0, 1.0],
        "mixed minimum": [mixed.e, mixed.m],
    }
    # Along the circle the curve passes through the marks.
    curve, *points = section.lines
    for point in points:
        ((x, y),) = point.get_xydata()
        assert np.interp(x, *curve.get_data()) == pytest.approx(y, abs=1e-8)
    assert flow.get_xlabel() == "positional alignment $e$"
    # Streamlines follow minus the gradient, less what leaves the disc.
    paths = np.concatenate([p.vertices for p in flow.collections[0].get_paths()])
    assert np.all(np.hypot(*paths.T) <= 1.02)
    with pytest.raises(BadParameter, match="three axes"):
        dmft.plot(found, ax=contours)


def test_flow_of_a_known_risk(tmp_path):
    # R = -m on an ellipse without symmetry in m: the flow goes to the top of the whole disc.
    found = landscape(lambda e, m: -m + 0 * e, gram=[[1.0, 0.3], [0.3, 2.25]])
    contours, flow, section = dmft.plot(found)
    segments = [p.vertices for p in flow.collections[0].get_paths()]
    rises = [s[-1, 1] - s[0, 1] for s in segments if len(s) > 1]
    assert min(rises) > -1e-9
    assert section.get_xlim() == (0.0, 2.0)
    ((e, m),) = contours.lines[-1].get_xydata()
    assert (e, m) == pytest.approx((0.3, 1.0), abs=1e-9)
