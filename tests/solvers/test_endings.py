"""Runs that go wrong end with the right status, time and message, whatever the method."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from dmft.errors import BadParameter, InvalidCovariance, ShapeMismatch
from dmft.solvers.runge_kutta import group as march_module
from dmft.solvers.runge_kutta.group import Group
from dmft.solvers.solve import METHODS, solve_problem

# Seconds in which what takes hours is ended: other work may share the cores.
PROMPT = 30.0
each_method = pytest.mark.parametrize("method", METHODS)


def solve(system, t_max, **more):
    return solve_problem(system.problem, system.start, t_max, **system.arguments(), **more)


@pytest.mark.cases(7)
@each_method
@pytest.mark.parametrize(("m", "start"), [(2.0, 1.0), (3.0, 1.0), (2.0, 1e-3), (10.0, 1.0)])
def test_blow_up_in_finite_time(power, method, m, start):
    pole = start ** (1 - m) / (m - 1)
    run = solve(power(m, start), 10 * pole, method=method, max_steps=20_000)
    assert run.status == "diverged"
    assert run.t[-1] == pytest.approx(pole, rel=1e-5)
    assert "diverged: the largest entry is" in run.message
    assert float(run.message.rsplit("=", 1)[1]) == pytest.approx(pole, rel=1e-5)


@each_method
def test_right_hand_side_that_turns_nan(turns_nan, method):
    run = solve(turns_nan, 20.0, method=method)
    assert run.status == "nonfinite"
    assert run.t[-1] == pytest.approx(0.5, abs=1e-9)
    assert "dy[1]/dt is not finite just after t = 0.5" in run.message
    assert np.all(np.isfinite(run.y))
    np.testing.assert_allclose(run.y[-1], turns_nan.exact(run.t[-1]), atol=1e-5)


@each_method
def test_nan_at_the_start(turns_nan, method):
    run = solve_problem(
        turns_nan.problem, turns_nan.start, 1.0, widths={"n": 2}, parameters={"when": -1.0},
        method=method,
    )  # fmt: skip
    assert (run.status, run.t.tolist()) == ("nonfinite", [0.0])


@each_method
def test_leaving_the_positive_cone(leaver, method):
    run = solve(leaver, 10.0, method=method)
    assert run.status == "left_domain"
    # the band is 30 (atol + 2 rtol) = 6e-7 deep, so the exit is seen at t = 2 (1 + 6e-7)
    assert run.t[-1] == pytest.approx(2.0, abs=3e-6)
    assert run.t[-1] > 2.0
    assert "leave the domain" in run.message
    assert "smallest eigenvalue" in run.message
    assert run.statistics["rejected"] > 20


@each_method
@pytest.mark.parametrize("rtol", [1e-4, 1e-6, 1e-8, 1e-10])
def test_perfect_recovery_is_singular_and_ok(retrieval, method, rtol):
    system = retrieval(0.1, 0.0, 1e-2)
    run = solve(system, 100.0, method=method, rtol=rtol, atol=rtol / 100)
    assert run.status == "ok"
    assert run.risk[-1] == pytest.approx(0.0, abs=10 * rtol)


def test_dips_below_zero_are_counted(retrieval):
    system = retrieval(0.1, 0.0, 1e-2)
    run = solve_problem(
        system.problem, {"Q": [[1.0]], "M": [[1.0 + 3e-9]]}, 1.0, **system.arguments()
    )
    assert run.status == "ok"
    assert run.statistics["band_steps"] > 0


@each_method
def test_budget(oscillator, method):
    run = solve(oscillator, 1e6, method=method, max_steps=50)
    assert run.status == "max_steps"
    assert run.statistics["steps"] + run.statistics["rejected"] <= 51
    assert len(run) > 10
    assert run.t[-1] < 1e3


@each_method
def test_timeout(oscillator, method):
    began = time.monotonic()
    run = solve(oscillator, 1e12, method=method, timeout=0.05, max_steps=10**12)
    assert run.status == "timeout"
    assert time.monotonic() - began < PROMPT
    assert run.t[-1] > 0.0


@each_method
def test_short_runs_have_timeouts_too(oscillator, method):
    """The clock is looked at before the first step."""
    run = solve(oscillator, 10.0, method=method, timeout=1e-9)
    assert run.status == "timeout"
    assert run.t.tolist() == [0.0]


def test_calls_of_the_loop_fit_into_what_is_left_of_a_timeout(oscillator, monkeypatch):
    """The first took 0.05 s whatever was left."""
    budgets, whole = [], []
    advance = Group.advance

    def watched(group, budget):
        whole.append(group.first_budget())
        budgets.append(budget)
        return advance(group, budget)

    monkeypatch.setattr(Group, "advance", watched)
    run = solve(oscillator, 1e12, method="rk5", timeout=1e-3, max_steps=10**12, save_at=2)
    assert run.status == "timeout"
    assert budgets[0] < 0.02 * whole[0]


@each_method
def test_interrupt_keeps_what_was_saved(oscillator, method):
    calls = []

    def press(fraction, message):
        calls.append(fraction)
        if len(calls) == 3:
            raise KeyboardInterrupt

    run = solve(oscillator, 1e9, method=method, progress=press, max_steps=10**9)
    assert run.status == "interrupted"
    assert "results up to this time are kept" in run.message
    assert len(run) > 1
    assert np.all(np.diff(run.t) > 0)
    np.testing.assert_allclose(run.y[-1], oscillator.exact(run.t[-1]), atol=1e-2)


@pytest.mark.parametrize("method", ["rk5", "LSODA"])
def test_control_c_reaches_the_compiled_loop(oscillator, method, ctrl_c):
    timer = threading.Timer(0.2, ctrl_c)
    timer.start()
    began = time.monotonic()
    run = solve(oscillator, 1e12, method=method, max_steps=10**12, save_at=[1.0, 1e12])
    timer.join()
    assert run.status == "interrupted"
    assert time.monotonic() - began < PROMPT
    assert run.t[0] == 1.0
    assert run.t.size == 2


def test_result_does_not_depend_on_the_chunks(oscillator, monkeypatch):
    one = solve(oscillator, 50.0)
    monkeypatch.setattr(march_module, "LARGEST_CHUNK", 1)
    monkeypatch.setattr("dmft.solvers.runge_kutta.group.SAVE_ROWS", 64)
    two = solve(oscillator, 50.0)
    assert np.array_equal(one.t, two.t)
    assert np.array_equal(one.y, two.y)


def test_result_does_not_depend_on_threads(oscillator):
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda _: solve(oscillator, 50.0, save_at=100), range(16)))
    assert all(np.array_equal(runs[0].y, run.y) for run in runs)


def test_memory_of_saved_steps_is_bounded(oscillator, monkeypatch):
    full = solve(oscillator, 2000.0)
    monkeypatch.setattr("dmft.solvers.run.SAVED_BYTES", 0)  # the floor: 1000 rows
    thin = solve(oscillator, 2000.0)
    assert len(full) > 1500
    assert 500 <= len(thin) <= 1002
    assert (thin.t[0], thin.t[-1]) == (0.0, 2000.0)
    assert set(thin.t) <= set(full.t)
    monkeypatch.setattr("dmft.solvers.runge_kutta.group.SAVE_ROWS", 64)
    assert np.array_equal(solve(oscillator, 2000.0).t, thin.t)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "euler"}, "choose one of rk5, rk8, BDF, Radau, LSODA"),
        ({"rtol": 0.0}, "rtol"),
        ({"atol": 0.0}, "atol"),
        ({"t_max": -1.0}, "t_max"),
        ({"t_max": float("nan")}, "t_max"),
        ({"max_steps": 0}, "max_steps"),
        ({"timeout": -1.0}, "timeout"),
        ({"save_at": 1}, "at least 2"),
        ({"save_at": [0.0, 3.0, 2.0]}, "increasing"),
        ({"save_at": [0.0, 30.0]}, "outside"),
        ({"parameters": {}}, r"missing \['omega'\]"),
        ({"parameters": {"omega": 1.0, "gamma": 1.0}}, r"unknown \['gamma'\]"),
        ({"parameters": {"omega": float("inf")}}, "not a finite number"),
        ({"state": {"y": [1.0, float("nan")]}}, "not finite"),
        ({"state": {}}, "missing"),
        ({"state": {"y": [1.0, 0.0], "z": 1.0}}, "unknown"),
    ],
)
def test_bad_requests_are_refused_before_the_first_step(oscillator, change, message):
    request = {"state": oscillator.start, "t_max": 10.0, **oscillator.arguments(), **change}
    with pytest.raises(BadParameter, match=message):
        solve_problem(oscillator.problem, request.pop("state"), request.pop("t_max"), **request)


def test_wrong_shape_and_indefinite_start_are_refused(oscillator, leaver):
    with pytest.raises(ShapeMismatch, match=r"y has shape \(3,\), expected \(2,\)"):
        solve_problem(oscillator.problem, {"y": [1, 2, 3]}, 1.0, **oscillator.arguments())
    with pytest.raises(InvalidCovariance, match=r"smallest eigenvalue -0\.5"):
        solve_problem(leaver.problem, {"Q": [[1.0]], "M": [[1.5]]}, 1.0, **leaver.arguments())
