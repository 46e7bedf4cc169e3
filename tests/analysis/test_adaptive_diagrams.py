"""Adaptive diagrams: what they compute is right, and wide regions are right everywhere."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dmft
from dmft.analysis.diagram import coarse_steps, named_diagram
from dmft.analysis.phase_diagram import PhaseDiagram
from dmft.errors import BadParameter
from dmft.literature import positional_semantic_regions

adaptive_diagram = partial(named_diagram, adaptive=True)


def grid_of(shape):
    return {"x": np.arange(shape[1], dtype=float), "y": np.arange(shape[0], dtype=float)}


def of_table(table, **options):
    """Adaptive diagram of a table of numbers, asked for by row and column."""
    return adaptive_diagram(
        lambda x, y: table[int(y), int(x)].item(), grid_of(table.shape), threads=1, **options
    )


def wide_part(region, steps):
    """Union of the squares of steps by steps cells inside a region."""
    height, width = steps[1] + 1, steps[0] + 1
    wide = np.zeros_like(region)
    if region.shape[0] >= height and region.shape[1] >= width:
        squares = np.lib.stride_tricks.sliding_window_view(region, (height, width))
        for i, j in np.argwhere(squares.all(axis=(2, 3))):
            wide[i : i + height, j : j + width] = True
    return wide


sizes = st.integers(1, 60)
steps = st.integers(1, 17)


@st.composite
def smooth_tables(draw):
    """Levels of a sum of few waves on a grid of any lengths."""
    rows, columns, seed = draw(sizes), draw(sizes), draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    i, j = np.mgrid[:rows, :columns]
    waves = rng.normal(size=(4, 3)) / np.array([draw(st.floats(3.0, 30.0))] * 2 + [0.3])
    height = sum(np.sin(a * i + b * j + c) for a, b, c in waves)
    return height, np.round(height * draw(st.floats(0.2, 1.0))).astype(int)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(smooth_tables(), steps, steps)
def test_computed_points_are_right_and_wide_regions_are_right_everywhere(tables, across, up):
    height, labels = tables
    found = of_table(labels, coarse=(across, up))
    assert found.complete
    np.testing.assert_array_equal(found.values[found.computed], labels[found.computed])
    for label in np.unique(labels):
        assert np.all(found.values[wide_part(labels == label, (across, up))] == label)
    # Where two neighbours differ both were computed: borders lie between computed points.
    for axis in (0, 1):
        differ = np.diff(found.values, axis=axis) != 0
        near, far = (np.moveaxis(found.computed, axis, 0)[s] for s in (slice(-1), slice(1, None)))
        assert np.all(np.moveaxis(differ, axis, 0) <= near & far)
    signs = of_table(height, coarse=(across, up), level=0.3)
    np.testing.assert_array_equal(signs.values[signs.computed], height[signs.computed])
    above = height > 0.3
    for label in (True, False):
        assert np.all((signs.values > 0.3)[wide_part(above == label, (across, up))] == label)


@pytest.mark.cases("200-2100")
@pytest.mark.parametrize(("size", "most"), [(200, 2100), (1001, 9000)])
def test_a_disc_is_found_at_the_cost_of_its_border(size, most):
    line = np.linspace(-2.0, 2.0, size)
    found = adaptive_diagram(lambda x, y: x**2 + y**2 < 1, {"x": line, "y": line})
    np.testing.assert_array_equal(found.values, line**2 + line[:, None] ** 2 < 1)
    assert found.computed.sum() <= most


def test_the_regions_of_two_token_attention():
    a, omega = np.linspace(0.01, 3.0, 200), np.linspace(0.0, 1.0, 200)
    codes = positional_semantic_regions(a, omega)
    found = of_table(codes)
    np.testing.assert_array_equal(found.values, codes)
    assert 10 * found.computed.sum() < codes.size


def test_failures_are_labels_and_keep_their_horizon():
    def measure(x, y):
        if x + y > 60:
            raise ZeroDivisionError("pole")
        return 1.0 + x if y > 20 else np.nan

    axes = {"x": np.arange(50.0), "y": np.arange(40.0)}
    full, found = (
        dmft.phase_diagram(measure, axes),
        dmft.phase_diagram(measure, axes, adaptive=True),
    )
    np.testing.assert_array_equal(found.status, full.status)
    np.testing.assert_allclose(found.values, full.values, rtol=1e-14)
    assert found.computed.sum() < 0.6 * full.values.size
    assert "pole" in found.messages[39, 49]
    assert not found.computed[0, 1]
    assert (0, 1) not in found.messages


def test_ints_are_labels_only_where_all_results_are():
    table = np.add.outer(np.zeros(33), np.arange(33.0))
    assert of_table(table.astype(int)).computed.all()
    assert of_table(table, level=-1.0).computed.sum() == 81
    mixed = adaptive_diagram(
        lambda x, y: 3 if x == y else float(x), grid_of((33, 33)), level=-1.0, threads=1
    )
    assert mixed.computed.sum() == 81


def test_failures_leave_ints_their_meaning():
    def measure(x, y):
        return (np.nan, "diverged") if x > 50 else (2 if y > 20 else 1, "ok")

    axes = grid_of((41, 65))
    found, full = (dmft.phase_diagram(measure, axes, adaptive=a) for a in (True, False))
    np.testing.assert_array_equal(found.values, full.values)
    np.testing.assert_array_equal(found.status, full.status)
    assert 3 * found.computed.sum() < full.values.size


def test_a_measure_of_many_points_is_asked_for_them_together():
    class Disc:
        calls = 0

        def __call__(self, x, y):
            return bool(x**2 + y**2 < 500)

        def many(self, points):
            self.calls += len(points)
            return (self(**p) for p in points)

    disc, axes = Disc(), grid_of((41, 65))
    found = dmft.phase_diagram(disc, *axes.items(), adaptive=True, threads=1)
    np.testing.assert_array_equal(found.values, axes["x"] ** 2 + axes["y"][:, None] ** 2 < 500)
    # But for the first chunks, whose size finds out how long a point takes.
    assert disc.calls > 0.5 * found.computed.sum()


def test_the_number_of_threads_changes_nothing():
    axes = {"x": np.linspace(-2, 2, 57), "y": np.linspace(-1, 2, 43)}
    one, four = (adaptive_diagram(lambda x, y: x * y - 1, axes, threads=n) for n in (1, 4))
    assert one == four


def test_an_interrupt_keeps_what_is_certain():
    def press(fraction, message):
        if fraction > 0.4:
            raise KeyboardInterrupt

    line = np.linspace(-2, 2, 101)
    found = adaptive_diagram(
        lambda x, y: x**2 + y**2 < 1, {"x": line, "y": line}, coarse=8, progress=press
    )
    full = line**2 + line[:, None] ** 2 < 1
    assert not found.complete
    known = found.status == "ok"
    assert known.sum() > found.computed.sum() > 13**2
    np.testing.assert_array_equal(found.values[known], full[known])
    assert np.all(np.isnan(found.values[~known]))
    assert set(found.status[~known]) == {"interrupted"}


def test_files_and_data_sets_tell_what_was_computed(tmp_path):
    line = np.linspace(-2, 2, 41)
    found = adaptive_diagram(lambda x, y: x * y - 1, {"x": line, "y": line})
    assert f"{found.computed.sum()} of 1681 computed" in repr(found)
    assert found.count() == {"ok": 1681}
    assert found.count(computed=True) == {"ok": int(found.computed.sum())}
    assert PhaseDiagram.load(found.save(tmp_path / "d.nc")) == found
    np.testing.assert_array_equal(found.to_xarray()["computed"], found.computed)
    full = dmft.phase_diagram(lambda x, y: x * y - 1, {"x": line, "y": line})
    assert full.computed.all()
    assert full != found


@pytest.mark.parametrize("coarse", [0, -2, 1.5, True, (4,), (4, 0), "8"])
def test_bad_coarse_grids_are_refused(coarse):
    with pytest.raises(BadParameter, match="coarse = "):
        adaptive_diagram(lambda x, y: x, grid_of((3, 3)), coarse=coarse)


def test_refinement_without_adaptive_is_refused():
    for option in ({"level": 1.0}, {"coarse": 4}):
        with pytest.raises(BadParameter, match="adaptive=True"):
            dmft.phase_diagram(lambda x, y: x, ("x", [1.0]), ("y", [1.0]), **option)


def test_default_coarse_grids():
    assert coarse_steps(None, (200, 1001)) == (8, 32)
    assert coarse_steps(None, (3, 1)) == (4, 4)
