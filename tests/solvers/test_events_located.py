"""Events: located on the dense output, doubles inside one step, direction, data-only encoding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dmft.compiled import njit
from dmft.errors import BadParameter
from dmft.solvers.events import Event, LargestCosine
from dmft.solvers.signatures import RHS_SIGNATURE
from dmft.solvers.solve import METHODS, solve_problem


@njit(RHS_SIGNATURE, nogil=True, cache=True)
def clock_observe(t, y, widths, par, out):
    out[0] = t


def solve(system, t_max, events, **more):
    arguments = {"rtol": 1e-11, "atol": 1e-12, **more}
    return solve_problem(
        system.problem, system.start, t_max, **system.arguments(), events=events, **arguments
    )


@pytest.mark.parametrize("method", METHODS)
def test_all_zeros_of_a_cosine(oscillator, method):
    run = solve(oscillator, 10.0, [Event("y[0]", 0.0, terminal=False)], method=method)
    expected = np.arange(np.pi / 4, 10.0, np.pi / 2)
    assert run.status == "ok"
    np.testing.assert_allclose([e.t for e in run.events], expected, atol=1e-8)
    assert all(abs(e.state["y"][0]) < 1e-8 for e in run.events)


@pytest.mark.parametrize("method", METHODS)
def test_terminal_event_on_an_observable(oscillator, method):
    # height = 1 + cos(2t) rises to 1.5 first at 2t = 2 pi - pi/3
    event = Event("height", 1.5, direction=1)
    run = solve(oscillator, 100.0, [event], method=method, save_at=5)
    assert run.status == "event"
    assert run.t[-1] == pytest.approx(5 * np.pi / 6, abs=1e-8)
    assert run.height[-1] == pytest.approx(1.5, abs=1e-8)
    assert run.message.startswith("height rises to 1.5 at t = 2.617993")
    assert run.t.tolist()[:-1] == [0.0]


@pytest.mark.parametrize("method", METHODS)
def test_escape_time_of_phase_retrieval(retrieval, method):
    system = retrieval(0.05, 0.3, 1e-3)
    fraction, risk0 = 0.5, 2 * (1 - 1e-6)
    run = solve(system, 100.0, [Event("risk", (1 - fraction) * risk0, -1)], method=method)
    a, b = system.parameters["A"], system.parameters["B"]
    u0, limit = 1e-6, (a - b) / a
    u1 = fraction + (1 - fraction) * u0
    formula = np.log(u1 / u0 * (limit - u0) / (limit - u1)) / (2 * (a - b))
    assert run.t[-1] == pytest.approx(formula, rel=1e-8)


def test_largest_cosine_reaches_its_threshold(retrieval):
    system = retrieval(0.05, 0.0, -1e-3)
    run = solve(system, 100.0, [Event(LargestCosine(), 0.5, 1)])
    assert abs(run.M[-1, 0, 0]) == pytest.approx(0.5, abs=1e-9)


@pytest.mark.parametrize("method", ["rk5", "rk8"])
@pytest.mark.parametrize("c", [0.02, 1.07, 1.95])
@pytest.mark.parametrize("depth", [1e-2, 1e-4, 1e-8])
def test_two_crossings_inside_one_step(parabola, method, c, depth):
    # scan points are 0.25 apart, the crossings up to 1000 times closer
    run = solve_problem(
        parabola.problem, {"y": c * c}, 2.0, widths={}, parameters={"c": c}, method=method,
        rtol=0.5, atol=1e30, first_step=2.0, events=[Event("y", depth, terminal=False)],
    )  # fmt: skip
    assert run.statistics["steps"] == 1
    expected = [c - np.sqrt(depth), c + np.sqrt(depth)]
    expected = [t for t in expected if 0 < t < 2]
    np.testing.assert_allclose([e.t for e in run.events], expected, rtol=1e-9)


@pytest.mark.parametrize("method", ["rk5", "rk8"])
def test_crossings_where_both_ends_of_a_step_have_another_sign(parabola, method):
    # y = (t - c)^2 - 1.1 from 0.5 back to 0.5
    c = np.sqrt(1.6)
    run = solve_problem(
        parabola.problem, {"y": 0.5}, 2 * c, widths={}, parameters={"c": c}, method=method,
        rtol=0.5, atol=1e30, first_step=2 * c, events=[Event("y", -1.0, terminal=False)],
    )  # fmt: skip
    assert run.statistics["steps"] == 1
    expected = [c - np.sqrt(0.1), c + np.sqrt(0.1)]
    np.testing.assert_allclose([e.t for e in run.events], expected, rtol=1e-9)


@pytest.mark.parametrize("method", ["rk5", "rk8"])
def test_an_observable_that_is_the_time(parabola, method):
    problem = replace(parabola.problem, observe=clock_observe, observables=("clock",))
    run = solve(replace(parabola, problem=problem), 2.0, [Event("clock", 1.3)], method=method)
    assert run.t[-1] == pytest.approx(1.3, abs=1e-12)


@pytest.mark.parametrize("method", ["Radau", "BDF", "LSODA"])
def test_two_close_crossings_with_implicit_methods(parabola, method):
    run = solve_problem(
        parabola.problem, parabola.start, 2.0, **parabola.arguments(), method=method,
        events=[Event("y", 1e-6, terminal=False)],
    )  # fmt: skip
    np.testing.assert_allclose([e.t for e in run.events], [1.069, 1.071], atol=1e-4)


def test_direction_and_order_of_events(oscillator):
    events = [
        Event("y[0]", 0.0, direction=-1, terminal=False, name="down"),
        Event("y[1]", 0.0, direction=1, terminal=False, name="up"),
        Event("y[0]", 0.0, direction=1, terminal=True, name="end"),
    ]
    run = solve(oscillator, 100.0, events)
    assert [e.name for e in run.events] == ["down", "up", "end"]
    np.testing.assert_allclose(
        [e.t for e in run.events], np.array([1, 2, 3]) * np.pi / 4, atol=1e-9
    )


@pytest.mark.parametrize("method", ["rk8", "BDF"])
def test_a_start_on_the_threshold_is_no_crossing(oscillator, method):
    run = solve(oscillator, 3.0, [Event("y[1]", 0.0)], method=method)
    assert run.t[-1] == pytest.approx(np.pi / 2, abs=1e-8)


def test_many_events_outgrow_no_buffer(oscillator):
    run = solve(oscillator, 1000.0, [Event("y[0]", 0.0, terminal=False)], rtol=1e-9)
    assert len(run.events) == int((1000.0 - np.pi / 4) / (np.pi / 2)) + 1


@pytest.mark.parametrize("quantity", ["risk", "y[2]", "y[0, 0]", "y", "y[-1]", "__class__"])
def test_unknown_quantities_are_refused(oscillator, quantity):
    with pytest.raises(BadParameter, match="event on"):
        solve(oscillator, 1.0, [Event(quantity, 0.5)])


def test_bad_events_are_refused():
    with pytest.raises(BadParameter, match="finite"):
        Event("risk", float("nan"))
    with pytest.raises(BadParameter, match="direction"):
        Event("risk", 1.0, direction=2)
