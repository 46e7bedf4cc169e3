"""A sign that changes without a zero is no border: jumps, poles, branches that end.

Issue 13, item 6: `boundary("growth_rate")` from a start off the fixed point drew two curves, off by
1e-3 with claimed errors of 1e-7, because Newton's method changed its fixed point.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.analysis.boundary_trace import trace_boundary
from dmft.workflow.diagrams.end_states import followed_point

UNIT = (("u", 0.0, 1.0), ("v", 0.0, 1.0))
AXES = (("learning_rate", 0.05, 0.2), ("label_noise", 0.0, 4.0))


@pytest.fixture(scope="module")
def sphere():
    """A squared unit on the sphere: M = 0 is stationary, unstable until gamma = 2/(12 + noise)."""
    square = dmft.Committee(sp.Symbol("z", real=True) ** 2, 1)
    return dmft.derive(dmft.Model(square, square), dmft.SGD(0.05, constraint="sphere"))


@pytest.mark.parametrize(
    ("measure", "kind", "place"),
    [
        (lambda u, v: 1.0 / (u - 0.37), "pole", 0.37),
        (lambda u, v: math.tan(4 * u), "pole", math.pi / 8),
        (lambda u, v: 1.0 if u > 0.37 else -1.0, "jump", 0.37),
        (lambda u, v: u - 0.2 if u > 0.37 else u - 0.6, "jump", 0.37),
        (lambda u, v: np.sign(u - 0.375), "jump", 0.375),  # 0.0 at a point of the grid
    ],
)
def test_poles_and_jumps_are_told_from_zeros(measure, kind, place, tmp_path):
    found = trace_boundary(measure, *UNIT)
    for curve in found.curves:  # none, but the zero of tan at the left edge
        assert max(abs(measure(u, v)) for u, v in zip(curve.x, curve.y, strict=True)) < 1e-5
    assert found.status == "tolerance_not_met"
    assert {jump.kind for jump in found.jumps} == {kind}
    np.testing.assert_allclose([jump.x for jump in found.jumps], place, atol=2e-6)
    assert all(jump.before * jump.behind < 0 for jump in found.jumps)
    assert f"the sign changes by a {kind}" in found.message
    again = dmft.load(found.save(tmp_path / "boundary.nc"))
    assert again.jumps == found.jumps


def test_zeros_and_poles_of_a_tangent():
    found = trace_boundary(lambda u, v: math.tan(6 * u + 0.5 + v), *UNIT)
    long = [curve for curve in found.curves if curve.x.size > 1]
    assert long
    for curve in long:
        phase = (6 * curve.x + 0.5 + curve.y) / math.pi
        assert np.abs(phase - np.round(phase)).max() < 1e-5
    for jump in found.jumps:
        phase = (6 * jump.x + 0.5 + jump.y) / math.pi - 0.5
        assert abs(phase - round(phase)) < 1e-5
        assert jump.kind == "pole"


def test_a_border_that_turns_into_a_jump_ends_there():
    found = trace_boundary(lambda u, v: (u - 0.41) * (1 if v < 0.53 else 1e5) + 0.0, *UNIT)
    assert found.status == "ok"  # steeper, but a zero
    assert len(found.curves) == 1

    def measure(u, v):
        return u - 0.41 if v < 0.53 else math.copysign(0.3, u - 0.41)

    found = trace_boundary(measure, *UNIT)
    (curve,) = found.curves
    assert set(curve.ends) == {"edge", "jump"}
    assert curve.y.max() == pytest.approx(0.53, abs=1e-3)
    assert curve.y.max() < 0.53
    assert {round(jump.x, 4) for jump in found.jumps} == {0.41}


@pytest.mark.parametrize(
    "measure",
    [
        lambda u, v: math.tanh(1e7 * (u - 0.37)),
        lambda u, v: float(np.cbrt(u - 0.37)),
        lambda u, v: (u - 0.37) ** 3,
        lambda u, v: math.copysign(abs(u - 0.37) ** 0.3, u - 0.37),
        lambda u, v: (u - 0.37) + 1e-12 * math.sin(1e9 * u),  # noise
    ],
    ids=["steep", "cube root", "flat", "root", "noise"],
)
def test_zeros_of_any_shape_are_borders(measure):
    found = trace_boundary(measure, *UNIT)
    (curve,) = found.curves
    assert (found.status, found.jumps) == ("ok", ())
    np.testing.assert_allclose(curve.x, 0.37, atol=2e-6)


def test_a_root_that_disappears_in_a_fold():
    """The lowest root of x^3 - x = s: beyond s = 2/sqrt(27) only the one above 1 is left."""

    def measure(u, v):
        roots = np.roots([1.0, 0.0, -1.0, 0.8 * u - 0.8])
        return float(min(roots.real[np.abs(roots.imag) < 1e-9])) + 0.1 * v

    found = trace_boundary(measure, *UNIT)
    assert found.curves == ()
    assert found.status == "tolerance_not_met"
    assert {jump.kind for jump in found.jumps} == {"jump"}
    np.testing.assert_allclose([j.x for j in found.jumps], 1 - 2 / math.sqrt(27) / 0.8, atol=3e-6)


@pytest.mark.cases("0.0")
@pytest.mark.parametrize("start", [0.0, 0.1, 0.3])
def test_growth_of_one_fixed_point_whatever_the_start(sphere, start):
    found = dmft.boundary(
        "growth_rate", *AXES, grid=(3, 3), step=0.25, equations=sphere,
        start=dmft.Overlaps([[1.0]], [[start]]),
    )  # fmt: skip
    (curve,) = found.curves
    assert (found.status, found.jumps) == ("ok", ())
    assert np.abs(curve.x - 2 / (12 + curve.y)).max() < 1e-6


def test_a_diagram_of_growth_rates_is_that_of_one_fixed_point(sphere):
    rates, noise = np.linspace(0.05, 0.2, 4), np.linspace(0.0, 4.0, 3)
    how = {"equations": sphere, "start": dmft.Overlaps([[1.0]], [[0.1]])}
    axes = ("learning_rate", rates), ("label_noise", noise)
    diagram = dmft.phase_diagram("growth_rate", *axes, **how)
    expected = 4 - 2 * rates[None, :] * (12 + noise[:, None])
    np.testing.assert_allclose(diagram.values, expected, atol=1e-9)
    # From the teacher: M^2 = 1 - b/a, until it comes to 0 (without noise it stays 1).
    how["start"] = dmft.Overlaps([[1.0]], [[0.99]])
    diagram = dmft.phase_diagram("growth_rate", *axes, **how)
    a, b = 4 - 24 * rates[None, :], 2 * rates[None, :] * noise[:, None]
    exists = (1 - b / a > 0) & (1 - b / a <= 1)
    assert np.array_equal(diagram.status == "ok", exists)
    np.testing.assert_allclose(diagram.values[exists], (-2 * (a - b))[exists], atol=1e-9)
    assert "the specialised fixed point followed from" in next(iter(diagram.messages.values()))


def test_the_branch_that_ends_is_named_and_not_exchanged():
    """Free squared unit: the uninformative length folds back at gamma = 0.18018981."""
    square = dmft.Committee(sp.Symbol("z", real=True) ** 2, 1)
    equations = dmft.derive(dmft.Model(square, square), dmft.SGD(0.1))
    start, begin = dmft.Overlaps([[0.3]], [[0.0]]), {"learning_rate": 0.0}
    for rate, status in ((0.18018, "ok"), (0.1802, "not_converged"), (1.0, "not_converged")):
        point = followed_point(equations, start, begin, {"learning_rate": rate})
        assert point.status == status, rate
    assert "the uninformative fixed point followed from learning_rate = 0" in point.message
    assert "near learning_rate = 0.1802" in point.message
