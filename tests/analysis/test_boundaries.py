"""Boundary curves against known ones: accuracy, cost, turns, triple points, refusals."""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.analysis.boundary_trace import trace_boundary
from dmft.errors import BadParameter

BOX = (("u", -2.0, 2.0), ("v", -2.0, 2.0))


def gap_of_circle(curve):
    return np.abs(np.hypot(curve.x, curve.y) - 1).max()


@pytest.mark.parametrize(
    ("measure", "tolerance", "per_point"),
    [(lambda u, v: u**2 + v**2 - 1, 4e-6, 6), (lambda u, v: bool(u**2 + v**2 > 1), 4e-6, 10)],
    ids=["signed", "labels"],
)
def test_a_circle_is_followed_round(measure, tolerance, per_point):
    found = trace_boundary(measure, *BOX)
    (curve,) = found.curves
    assert curve.closed
    assert curve.ends == ("closed", "closed")
    # One millionth of a range of 4.
    assert gap_of_circle(curve) < tolerance
    assert curve.error.max() <= 1e-6
    assert found.solves["grid"] == 81
    assert found.solves["curves"] <= per_point * curve.x.size
    assert sum(found.solves.values()) <= 500
    angles = np.sort(np.arctan2(curve.y, curve.x))
    assert np.diff(angles).max() < 0.25


def test_errors_cover_the_distance_to_the_curve():
    found = trace_boundary(lambda u, v: bool(u**2 + v**2 > 1), *BOX, tol=1e-4)
    (curve,) = found.curves
    assert np.all(np.abs(np.hypot(curve.x, curve.y) - 1) <= 4 * curve.error * (1 + 1e-9))


@pytest.mark.parametrize(("labels", "per_point"), [(False, 6), (True, 11)])
def test_a_fold_is_passed(labels, per_point):
    """v^3 - v = u has three branches that are one curve."""

    def measure(u, v):
        value = v**3 - v - u
        return value > 0 if labels else np.tanh(3 * value)

    found = trace_boundary(measure, ("u", -1, 1), ("v", -1.5, 1.5))
    (curve,) = found.curves
    assert curve.ends == ("edge", "edge")
    slope = np.hypot(3 * curve.y**2 - 1, 1)
    assert np.max(np.abs(curve.y**3 - curve.y - curve.x) / slope) < 3e-6
    assert curve.at(0.0).size == 3
    assert found.solves["curves"] <= per_point * curve.x.size


def test_all_branches_and_an_isolated_failure():
    def measure(u, v):
        if u < -1.5:
            return float("nan")
        return ((u + 0.5) ** 2 + v**2 - 0.5) * ((u - 1.2) ** 2 + v**2 - 0.2)

    found = trace_boundary(measure, *BOX, grid=(13, 13))
    signs = [c for c in found.curves if set(c.labels) == {"+", "-"}]
    assert sorted(c.closed for c in signs) == [True, True]
    (failed,) = [c for c in found.curves if "failed" in c.labels]
    np.testing.assert_allclose(failed.x, -1.5, atol=1e-5)


def test_three_labels_meet():
    def measure(u, v):
        return "low" if v < 0.3 + 0.1 * u else "left" if u < 0.4 + 0.2 * v**2 else "right"

    found = trace_boundary(measure, ("u", 0, 1), ("v", 0, 1))
    pairs = {frozenset(c.labels) for c in found.curves}
    assert pairs == {frozenset(p) for p in (("low", "left"), ("low", "right"), ("left", "right"))}
    v = 0.34
    for _ in range(30):
        v = 0.3 + 0.1 * (0.4 + 0.2 * v**2)
    np.testing.assert_allclose(found.triple_points, [[0.4 + 0.2 * v**2, v]], atol=3e-6)


def test_logarithmic_axes():
    found = trace_boundary(
        lambda u, v: u * v - 1, ("u", 0.01, 100), ("v", 0.01, 100), log=("u", "v")
    )
    (curve,) = found.curves
    np.testing.assert_allclose(curve.x * curve.y, 1, rtol=2e-5)
    with pytest.raises(BadParameter, match="logarithmic"):
        trace_boundary(lambda u, v: u - v, ("u", 0.0, 1), ("v", 0.01, 1), log=("u",))


def test_the_number_of_threads_changes_nothing():
    one, four = (trace_boundary(lambda u, v: u**2 + v**2 - 1, *BOX, threads=n) for n in (1, 4))
    np.testing.assert_array_equal(one.curves[0].x, four.curves[0].x)


@pytest.mark.slow
def test_a_level_of_the_growth_of_the_uninformative_point():
    """theory/one_pass F.1: growth 4 - 2 gamma (12 + Delta) on the sphere.

    Where it vanishes: test_signs_without_zeros.py.
    """
    square = dmft.Committee(sp.Symbol("z", real=True) ** 2, 1)
    equations = dmft.derive(dmft.Model(square, square), dmft.SGD(0.1, constraint="sphere"))
    axes = ("learning_rate", 0.05, 0.2), ("label_noise", 0.0, 4.0)
    start = dmft.Overlaps([[1.0]], [[0.0]])
    how = {"grid": (3, 3), "step": 0.25, "equations": equations, "start": start}
    level = dmft.boundary("growth_rate", *axes, level=1.0, **how)
    np.testing.assert_allclose(4 - 2 * level.curves[0].x * (12 + level.curves[0].y), 1, atol=1e-4)
    with pytest.raises(BadParameter, match="unknown parameter 'width'"):
        dmft.boundary("growth_rate", axes[0], ("width", 1, 2), equations=equations, start=start)


def test_results_against_a_level():
    from dmft.workflow.diagrams.boundary import relative

    late = dmft.Censored(8.0, 0.1, "start", dmft.Status.OK, "")
    assert relative(dmft.EscapeTime(3.0, 0.1, "start"), 2.0) == 1.0
    assert relative(late, 5.0) == 3.0  # not before the horizon: above the level
    assert np.isnan(relative(late, 9.0))  # nobody knows
    assert relative("ok", 1.0) == "ok"
    assert relative(np.int64(4), 1.0) == 4
    assert np.isnan(relative((1.0, "diverged"), 0.0))
    assert np.isnan(relative(np.inf, 0.0))


def test_labels_of_runs():
    """Whether a run reaches t_max: free squared unit, unstable from gamma = 1/6 on."""
    square = dmft.Committee(sp.Symbol("z", real=True) ** 2, 1)
    equations = dmft.derive(dmft.Model(square, square), dmft.SGD(0.1))
    found = dmft.boundary(
        "status", ("learning_rate", 0.1, 0.5), ("label_noise", 0.0, 1.0), grid=(3, 3), tol=2e-4,
        equations=equations, start=dmft.Overlaps([[1.0]], [[0.9]]), t_max=30.0,
    )  # fmt: skip
    assert {label for c in found.curves for label in c.labels} == {"ok", "diverged"}


def test_records_figures_and_refusals(tmp_path):
    found = trace_boundary(lambda u, v: "in" if u**2 + v**2 < 1 else "out", *BOX, tol=1e-4)
    again = dmft.load(found.save(tmp_path / "boundary.nc"))
    np.testing.assert_array_equal(again.curves[0].x, found.curves[0].x)
    assert again.curves[0].labels == found.curves[0].labels
    assert again.labels.tolist() == found.labels.tolist()
    assert found.to_xarray()["u"].size == found.curves[0].x.size
    axes = dmft.plot(found, path=tmp_path / "boundary.png")
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), found.curves[0].x)
    with pytest.raises(BadParameter, match="lowest < highest"):
        trace_boundary(lambda u, v: u, ("u", 1, 0), ("v", 0, 1))
    with pytest.raises(BadParameter, match="signed number or a label"):
        trace_boundary(lambda u, v: [u], ("u", 0, 1), ("v", 0, 1))
    with pytest.raises(BadParameter, match="tol"):
        trace_boundary(lambda u, v: u, ("u", 0, 1), ("v", 0, 1), tol=0.0)
    assert trace_boundary(lambda u, v: u + 1, ("u", 0, 1), ("v", 0, 1)).curves == ()


def test_failures_of_arithmetic_are_a_label_and_are_told():
    def measure(u, v):
        return v / u if u > 0 else v / 0

    found = trace_boundary(measure, ("u", -1, 1), ("v", -1.0, 2.0), tol=1e-4)
    assert {frozenset(c.labels) for c in found.curves} >= {frozenset("+-")}
    assert "ZeroDivisionError" in found.message
    with pytest.raises(KeyError) as caught:
        trace_boundary(lambda u, v: {}[u], ("u", -1, 1), ("v", -1, 1))
    assert "at the point" in caught.value.__notes__[0]


def measured_in(folder):
    """A circle as labels, one file line an evaluation."""

    def measure(u, v):
        with (folder / "calls").open("a") as file:
            file.write(f"{u} {v}\n")
        return "in" if u**2 + v**2 < 1 else "failed" if u < -1.9 else "out"

    return measure


def test_a_store_of_a_boundary(tmp_path):
    def calls():
        return (tmp_path / "calls").read_text().splitlines()

    measure = measured_in(tmp_path)
    how = {"tol": 1e-4, "step": 0.1, "grid": (5, 5), "store": tmp_path / "s"}
    found = dmft.boundary(measure, *BOX, **how)
    assert len(calls()) == len(set(calls())) == sum(found.solves.values())
    again = dmft.boundary(measure, *BOX, **how)
    assert (again.solves, again.stored) == ({"grid": 0, "curves": 0}, sum(found.solves.values()))
    for one, other in zip(found.curves, again.curves, strict=True):
        np.testing.assert_array_equal(one.x, other.x)
        assert one.labels == other.labels
    inner = next(c for c in found.curves if set(c.labels) == {"in", "out"})
    assert gap_of_circle(inner) < 4e-4
    finer = dmft.boundary(measure, *BOX, **how | {"tol": 1e-5})
    assert finer.solves["grid"] == 0
    assert finer.stored > 25
    with pytest.raises(BadParameter, match="another sweep"):
        dmft.boundary(measure, *BOX, **how, identity={"data": 2})
    with pytest.raises(BadParameter, match="contains a boundary, but this call has a sweep"):
        dmft.sweep({"u": [0.0], "v": [0.0]}, measure, store=how["store"])


@pytest.mark.cases(2)
@pytest.mark.parametrize("after", [40, 100, 200])
def test_ctrl_c_keeps_what_is_found(tmp_path, ctrl_c, after):
    whole = trace_boundary(lambda u, v: u**2 + v**2 - 1, *BOX)
    count = itertools.count()

    def measure(u, v):
        if next(count) == after:
            ctrl_c()
            time.sleep(0.1)
        return u**2 + v**2 - 1

    found = trace_boundary(measure, *BOX, store=tmp_path / "s", threads=2)
    assert found.status == "interrupted"
    assert "interrupted" in found.message
    assert sum(found.solves.values()) <= after + 2
    for curve in found.curves:
        assert gap_of_circle(curve) < 4e-6
        assert "interrupted" in curve.ends
    rest = trace_boundary(measure, *BOX, store=tmp_path / "s")
    assert rest.status == "ok"
    assert rest.stored >= after - 2
    assert rest.stored + sum(rest.solves.values()) == sum(whole.solves.values())
    np.testing.assert_array_equal(rest.curves[0].x, whole.curves[0].x)


def test_an_interrupted_solve_is_no_point(ctrl_c):
    """Ctrl-C during a solve: the run ends early with a status, which must not become a label."""
    square = dmft.Committee(sp.Symbol("z", real=True) ** 2, 1)
    equations = dmft.derive(dmft.Model(square, square), dmft.SGD(0.1, constraint="sphere"))
    start = dmft.Overlaps([[1.0]], [[0.1]])
    started = threading.Event()

    def slow(learning_rate, label_noise):
        started.set()
        rates = {"learning_rate": learning_rate, "label_noise": label_noise}
        run = dmft.solve(equations, start, 1e12, method="rk5", max_steps=10**12, **rates)
        return str(run.status)

    def stop():
        started.wait()
        time.sleep(0.3)
        ctrl_c()

    stopper = threading.Thread(target=stop)
    stopper.start()
    axes = ("learning_rate", 0.05, 0.2), ("label_noise", 0.0, 4.0)
    found = dmft.boundary(slow, *axes, grid=(2, 2))
    stopper.join()
    assert found.status == "interrupted"
    assert set(found.labels.ravel()) == {"interrupted"}
    assert found.curves == ()


def test_a_curve_of_one_point_is_drawn():
    found = trace_boundary(lambda u, v: u**2 + v**2 - 1, *BOX, tol=1e-4)
    (curve,) = found.curves
    point = replace(curve, x=curve.x[:1], y=curve.y[:1], error=curve.error[:1], closed=False)
    axes = dmft.plot(replace(found, curves=(point,)))
    assert axes.lines[0].get_marker() == "."


def shifted(shift, u, v):
    return u - v - shift


def test_a_store_knows_a_function_with_arguments_again(tmp_path):
    """By name and arguments: an address in memory would change from run to run."""
    axes, how = (("u", 0.0, 1.0), ("v", 0.0, 1.0)), {"grid": (3, 3), "store": tmp_path / "s"}
    dmft.boundary(partial(shifted, 0.1), *axes, **how)
    assert dmft.boundary(partial(shifted, 0.1), *axes, **how).solves["grid"] == 0
    manifest = (tmp_path / "s" / "manifest.json").read_text()
    assert "0x" not in manifest
    with pytest.raises(BadParameter, match="another sweep"):
        dmft.boundary(partial(shifted, 0.2), *axes, **how)


UNIT = (("u", 0.0, 1.0), ("v", 0.0, 1.0))


def length(curves):
    return sum(np.hypot(np.diff(c.x), np.diff(c.y)).sum() for c in curves)


@pytest.mark.cases(4)
@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("width", [0.004, 0.006, 0.01, 0.03])
def test_both_borders_of_a_lane_narrower_than_a_step(labels, width):
    """Lanes through points of the grid, straight and around."""
    for measure, long in (
        (lambda u, v: width / 2 - abs(u - 0.501), 2.0),
        (lambda u, v: width / 2 - abs(np.hypot(u - 0.5, v - 0.5) - 0.25), np.pi),
    ):
        asked = (lambda u, v, f=measure: bool(f(u, v) > 0)) if labels else measure
        found = trace_boundary(asked, *UNIT)
        assert len(found.curves) == 2
        assert length(found.curves) == pytest.approx(long, rel=5e-3)
        for curve in found.curves:
            gaps = [abs(measure(u, v)) for u, v in zip(curve.x, curve.y, strict=True)]
            assert max(gaps) < 2e-6


@pytest.mark.parametrize("distance", [0.0, 1e-9, 1e-4, 5e-3])
def test_a_curve_beside_the_edge_of_the_plane(distance):
    for found in (
        trace_boundary(lambda u, v: u - distance, *UNIT),
        trace_boundary(lambda u, v: bool(v > 1 - distance), *UNIT),
        trace_boundary(lambda u, v: u - distance * (1 + np.sin(20 * v)), *UNIT),
    ):
        if distance == 0.0 and not found.curves:  # nothing lies above the upper edge
            continue
        (curve,) = found.curves
        assert curve.ends == ("edge", "edge")
        assert length([curve]) == pytest.approx(1.0, abs=2e-2)


@pytest.mark.parametrize("radius", [0.49, 0.4999, 0.5, 0.5005, 0.52])
def test_a_circle_that_touches_the_edges(radius):
    found = trace_boundary(lambda u, v: (u - 0.5) ** 2 + (v - 0.5) ** 2 - radius**2, *UNIT)
    outside = 4 * np.arccos(min(0.5 / radius, 1.0)) * 2 * radius
    assert length(found.curves) == pytest.approx(2 * np.pi * radius - outside, abs=5e-3)
    assert found.status == "ok"


def test_curves_that_cross_end_there():
    for at in ((0.5, 0.5), (0.53, 0.47)):
        found = trace_boundary(lambda u, v, at=at: (u - at[0]) * (v - at[1]), *UNIT)
        assert found.status == "ok"
        assert [set(c.ends) for c in found.curves] == [{"edge", "crossing"}] * 4
        assert length(found.curves) == pytest.approx(2.0, abs=2e-3)


def test_three_labels_meet_at_a_point_of_the_grid():
    found = trace_boundary(lambda u, v: "low" if v < 0.5 else "left" if u < 0.5 else "right", *UNIT)
    assert found.status == "ok"
    np.testing.assert_allclose(found.triple_points, [[0.5, 0.5]], atol=2e-6)
    assert [set(c.ends) for c in found.curves] == [{"edge", "triple point"}] * 3


@pytest.mark.parametrize("labels", [False, True])
def test_corners_are_passed(labels):
    def measure(u, v):
        value = max(abs(u - 0.52), abs(v - 0.47)) - 0.3
        return value > 0 if labels else value

    found = trace_boundary(measure, *UNIT)
    (curve,) = found.curves
    assert curve.closed
    assert found.status == "ok"
    assert length([curve]) == pytest.approx(2.4, abs=2e-3)
    assert found.solves["curves"] <= 10 * curve.x.size
    # Corners are cut from at most four of the smallest steps before them to as many after.
    smallest = 3e-5
    for u in (0.22, 0.82):
        for v in (0.17, 0.77):
            off = np.stack([curve.x - u, curve.y - v])
            along = [np.abs(off[i])[np.abs(off[1 - i]) < 3e-6].min() for i in (0, 1)]
            assert max(along) < 4 * smallest


def test_measures_that_vanish_in_whole_regions():
    """The sign of max(0, f) changes where f does, not where a point of the grid holds a zero."""
    for measure in (lambda f: max(0.0, f), lambda f: f if abs(f) > 0.01 else 0.0):
        found = trace_boundary(lambda u, v, m=measure: m(v - 0.3 - 0.4 * u**2), *UNIT)
        (curve,) = found.curves
        edge = 0.01 if measure(0.005) == 0.0 else 0.0
        np.testing.assert_allclose(curve.y, 0.3 + edge + 0.4 * curve.x**2, atol=3e-6)
        assert curve.ends == ("edge", "edge")


def test_a_curve_at_one_x():
    circle = trace_boundary(lambda u, v: u**2 + v**2 - 1, *BOX).curves[0]
    for x in (0.3, float(circle.x[5]), float(circle.x[0])):
        np.testing.assert_allclose(
            np.sort(circle.at(x)), [-((1 - x**2) ** 0.5), (1 - x**2) ** 0.5], atol=2e-2
        )
    assert circle.at(1.5).size == 0
    upright = trace_boundary(lambda u, v: u - 0.5, *UNIT).curves[0]
    assert upright.at(float(upright.x[3])).size >= 1


def test_progress_of_a_long_curve():
    told = []
    trace_boundary(lambda u, v: u - v**2, *UNIT, progress=lambda part, text: told.append(text))
    assert len(told) > 150
    assert told[-1].endswith("solves")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"x": ("v", 0.0, 1.0)}, "both axes are 'v'"),
        ({"log": ("w",)}, "'w' is neither of the axes"),
        ({"log": "rate"}, "'rate' is neither of the axes"),
        ({"grid": 9}, r"grid = 9 must be two integers"),
        ({"grid": (9.0, 9.0)}, "two integers"),
        ({"tol": 1e-18}, "below the resolution of doubles on the axis 'u'"),
        ({"x": ("u", 1e6, 1e6 + 1), "tol": 1e-12}, "below the resolution of doubles"),
        ({"tol": "1e-6"}, "tol = '1e-6'"),
        ({"x": ("u", [0.0, 1.0])}, "an axis is"),
    ],
)
def test_axes_and_options_that_are_refused(change, reason):
    how = {"x": UNIT[0], "y": UNIT[1], **change}
    x, y = how.pop("x"), how.pop("y")
    with pytest.raises(BadParameter, match=reason):
        trace_boundary(lambda u, v: u - v, x, y, **how)


@pytest.mark.parametrize("labels", [int, str])
def test_labels_that_no_point_of_the_grid_has(labels):
    """Between 0 and 2 lies 1: both its borders are curves."""

    def measure(u, v):
        return labels(int(v > 0.31 + 0.4 * u**2) + int(v > 0.36 + 0.4 * u**2))

    found = trace_boundary(measure, *UNIT, grid=(2, 2))
    assert len(np.unique(found.labels.ravel().astype(str))) == 2
    assert {frozenset(map(int, c.labels)) for c in found.curves} == {
        frozenset((0, 1)), frozenset((1, 2)),
    }  # fmt: skip
    for curve in found.curves:
        height = 0.31 if "0" in map(str, curve.labels) else 0.36
        np.testing.assert_allclose(curve.y, height + 0.4 * curve.x**2, atol=2e-6)
        assert curve.ends == ("edge", "edge")
    assert found.solves["curves"] <= 11 * sum(c.x.size for c in found.curves)
