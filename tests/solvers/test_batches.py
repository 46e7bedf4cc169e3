"""Runs that go through compiled code together are, bit for bit, those that go alone."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from dmft.progress import CANCELLED
from dmft.solvers.events import Event
from dmft.solvers.problem import Block, Problem
from dmft.solvers.runge_kutta.batch import Ended, solve_batch
from dmft.solvers.solve import check_request, solve_problem


def arguments(system, points, **options):
    common = {**system.arguments(), **options, "progress": False}
    return [{**common, "parameters": {**system.parameters, **point}} for point in points]


def ask(system, t_max, points, **options):
    """Requests of one system at points that change its parameters."""
    return [
        check_request(system.problem, system.start, t_max, **a)
        for a in arguments(system, points, **options)
    ]


def asked(system, t_max, points, **options):
    """Requests, and their runs one by one."""
    alone = [
        solve_problem(system.problem, system.start, t_max, **a)
        for a in arguments(system, points, **options)
    ]
    return ask(system, t_max, points, **options), alone


def assert_the_same(requests, alone):
    together = list(solve_batch(requests))
    assert len(together) == len(alone)
    for ended, one in zip(together, alone, strict=True):
        assert isinstance(ended, Ended)
        run = ended.trajectory()
        assert (run.status, run.message) == (one.status, one.message)
        assert np.array_equal(run.t, one.t)
        for name, block in one.blocks.items():
            assert np.array_equal(run.blocks[name], block)
        for name, values in one.observables.items():
            assert np.array_equal(run.observables[name], values, equal_nan=True)
        assert [(e.name, e.t) for e in run.events] == [(e.name, e.t) for e in one.events]
        assert all(
            np.array_equal(a.state[name], b.state[name])
            for a, b in zip(run.events, one.events, strict=True)
            for name in a.state
        )
        known = {name: one.statistics[name] for name in run.statistics}
        assert run.statistics == known
        assert run.parameters == one.parameters
        assert run.provenance == one.provenance
        assert ended.reached == (one.status == "ok")
        if ended.reached and one.observables:
            assert ended.observe("height") == one.observables["height"][-1]
    return [one.status for one in alone]


OMEGAS = [{"omega": w} for w in (2.0, 0.3, 7.0, 2.0)]


@pytest.mark.parametrize("method", [None, "rk8"])
@pytest.mark.parametrize("save_at", [None, 2, 17, [0.5, 3.0]])
def test_runs_are_those_of_one_by_one(oscillator, method, save_at):
    statuses = assert_the_same(*asked(oscillator, 20.0, OMEGAS, method=method, save_at=save_at))
    assert statuses == ["ok"] * 4


def test_events_have_thresholds_of_their_own(oscillator):
    requests = ask(oscillator, 20.0, OMEGAS)
    thresholds = (0.5, 1.5, 0.1, 3.0)
    watched = [
        given.with_event(Event("height", value, direction=-1))
        for given, value in zip(requests, thresholds, strict=True)
    ]
    alone = [
        solve_problem(
            oscillator.problem, oscillator.start, 20.0, widths={"n": 2}, parameters=point,
            events=Event("height", value, direction=-1), progress=False,
        )
        for point, value in zip(OMEGAS, thresholds, strict=True)
    ]  # fmt: skip
    assert assert_the_same(watched, alone) == ["event", "event", "event", "ok"]
    assert alone[0].t[-1] == pytest.approx(np.arccos(-0.5) / 2.0, abs=1e-6)


@pytest.mark.parametrize("save_at", [None, 2])
def test_failures_are_those_of_one_by_one(power, turns_nan, leaver, oscillator, save_at):
    found = assert_the_same(*asked(power(2.0, 1.0), 1.5, [{"m": 2.0}, {"m": 0.5}, {"m": 9.0}]))
    assert found == ["diverged", "ok", "diverged"]
    points = [{"when": 0.5}, {"when": 30.0}, {"when": -1.0}]
    found = assert_the_same(*asked(turns_nan, 20.0, points, save_at=save_at))
    assert found == ["nonfinite", "ok", "nonfinite"]
    points = [{"speed": 0.5}, {"speed": 0.05}, {"speed": 2.0}]
    found = assert_the_same(*asked(leaver, 10.0, points, save_at=save_at))
    assert found == ["left_domain", "ok", "left_domain"]
    found = assert_the_same(*asked(oscillator, 5.0, OMEGAS, max_steps=40, save_at=save_at))
    assert set(found) == {"ok", "max_steps"}
    run = asked(oscillator, 5.0, OMEGAS)[1][0]
    exact = run.statistics["steps"] + run.statistics["rejected"]
    for most in (exact - 1, exact, exact + 1):  # the last attempt allowed ends the run
        found = assert_the_same(*asked(oscillator, 5.0, OMEGAS[:2], max_steps=most))
        assert found[0] == ("max_steps" if most < exact else "ok")


def test_maps_too(oscillator, power):
    grows = Problem("map", power(2.0, 1.0).problem.rhs, (Block("y", ()),), (), ("m",))
    system = replace(power(2.0, 0.1), problem=grows)
    points = [{"m": 2.0}, {"m": -1.0}, {"m": 1.0}]
    assert assert_the_same(*asked(system, 100, points))[2] == "diverged"
    assert assert_the_same(*asked(system, 100, points, max_steps=20, save_at=2))[1] == "max_steps"
    turns = replace(oscillator, problem=replace(oscillator.problem, kind="map"))
    requests, alone = asked(
        turns, 30, OMEGAS, events=[Event("y[1]", -0.5, terminal=False), Event("energy", 1e3)]
    )
    assert "event" in assert_the_same(requests, alone)


def test_small_buffers_and_budgets_change_nothing(oscillator, turns_nan, monkeypatch):
    events = [Event("height", 0.5, terminal=False), Event("y[1]", 0.2, terminal=False)]
    alone = asked(oscillator, 300.0, OMEGAS, events=events)[1]
    monkeypatch.setattr("dmft.solvers.runge_kutta.group.SAVE_ROWS", 64)
    monkeypatch.setattr("dmft.solvers.runge_kutta.batch.LARGEST_CHUNK", 7)
    monkeypatch.setattr("dmft.solvers.runge_kutta.group.LARGEST_CHUNK", 7)
    requests = ask(oscillator, 300.0, OMEGAS, events=events)
    assert_the_same(requests, alone)
    assert len(alone[2].events) > 100
    assert_the_same(*asked(turns_nan, 20.0, [{"when": 0.5}, {"when": 30.0}]))


def test_what_is_no_request_passes_through(oscillator):
    requests = ask(oscillator, 1.0, OMEGAS[:2])
    error = ValueError("no run")
    found = list(solve_batch([error, requests[0], "text", requests[1]]))
    assert found[0] is error
    assert found[2] == "text"
    assert [type(x) for x in (found[1], found[3])] == [Ended, Ended]
    assert list(solve_batch([])) == []


def test_threads_change_nothing(oscillator):
    requests = ask(oscillator, 20.0, OMEGAS)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: [e.trajectory().y for e in solve_batch(requests)], "abcd"))
    assert all(np.array_equal(a, b) for runs in found for a, b in zip(runs, found[0], strict=True))


def test_a_cancelled_batch_hands_over_no_run_that_was_cut(oscillator):
    requests = ask(oscillator, 1e12, OMEGAS, max_steps=10**12, save_at=2)
    short = ask(oscillator, 1.0, OMEGAS[:1], save_at=2)
    flag = threading.Event()
    token = CANCELLED.set(flag)
    timer = threading.Timer(0.3, flag.set)
    try:
        timer.start()
        assert list(solve_batch(requests)) == []
        assert list(solve_batch(short)) == []
    finally:
        timer.join()
        CANCELLED.reset(token)
