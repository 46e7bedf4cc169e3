"""Runs side by side in lanes have the bits that they have alone, whatever goes on beside them."""

from __future__ import annotations

import itertools
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from dmft.compiled import njit
from dmft.compiled.vectors import LANES, by_lane
from dmft.progress import EXPECTED
from dmft.solvers.events import Event
from dmft.solvers.problem import Block, Problem
from dmft.solvers.runge_kutta import batch
from dmft.solvers.runge_kutta.group import Group
from dmft.solvers.signatures import LANES_RHS_SIGNATURE, RHS_SIGNATURE
from dmft.solvers.solve import check_request, solve_problem


def motion(t, y, widths, par, out):
    """One entry that decays or blows up, one that comes to where its slope is NaN, a rotation."""
    y = by_lane(y)
    par = by_lane(par)
    out = by_lane(out)
    out[0] = par[0] * y[0] * y[0] - y[0]
    out[1] = 0.1 + math.sqrt(par[1] - y[1])
    out[2] = par[2] * y[3]
    out[3] = -par[2] * y[2]


@njit(RHS_SIGNATURE, cache=True)
def height(t, y, widths, par, out):
    out[0] = y[2]


ONE, SEVERAL = (
    njit(RHS_SIGNATURE, cache=True)(motion),
    njit(LANES_RHS_SIGNATURE, cache=True)(motion),
)
STATE = tuple(Block(name, ()) for name in "abcd")
PROBLEM = Problem(
    "ode", ONE, STATE, (), parameters=("growth", "edge", "omega"), observe=height,
    observables=("height",),
    lanes=SimpleNamespace(function=SEVERAL, is_kept=True, takes=lambda widths: True),
)  # fmt: skip
START = {"a": 1.0, "b": 0.0, "c": 0.0, "d": 1.0}
T_MAX = 4.0


def points(count):
    """Quiet runs, some that blow up and some that meet NaN, of very different lengths."""
    growths = itertools.cycle([0.5, 0.9, 1.5, 0.1, 0.3, 3.0, 0.7])
    edges = itertools.cycle([100.0, 50.0, 80.0, 0.5, 60.0])
    omegas = itertools.cycle([1.0, 30.0, 0.1, 4.0, 11.0, 2.0])
    rows = zip(growths, edges, omegas, strict=False)
    return [{"growth": g, "edge": e, "omega": w} for g, e, w in itertools.islice(rows, count)]


def requests(count, events=None, **options):
    """Requests for runs, and the runs one by one."""
    how = {"widths": {}, "save_at": 2, "progress": False, **options}
    asked = [check_request(PROBLEM, START, T_MAX, parameters=p, **how) for p in points(count)]
    events = events or (lambda n: ())
    alone = [
        solve_problem(PROBLEM, START, T_MAX, parameters=p, events=events(n), **how)
        for n, p in enumerate(points(count))
    ]
    return [
        given.with_event(e) if (e := events(n)) else given for n, given in enumerate(asked)
    ], alone


def assert_the_same(asked, alone):
    """Status, message, bits of times and states, events and statistics; returns the statuses."""
    together = [ended.trajectory() for ended in batch.solve_batch(asked)]
    for run, one in zip(together, alone, strict=True):
        assert (run.status, run.message) == (one.status, one.message)
        assert np.array_equal(run.t, one.t)
        for name, block in one.blocks.items():
            assert np.array_equal(run.blocks[name], block)
        assert [(e.name, e.t) for e in run.events] == [(e.name, e.t) for e in one.events]
        steps = ("steps", "rejected", "evaluations", "band_steps")
        assert [run.statistics[n] for n in steps] == [one.statistics[n] for n in steps]
    return [one.status for one in alone]


@pytest.fixture(autouse=True)
def counted(monkeypatch):
    """How many calls of batches went through lanes."""
    calls = []
    side_by_side = batch._side_by_side

    def watched(given):
        calls.append(len(given))
        return side_by_side(given)

    monkeypatch.setattr(batch, "_side_by_side", watched)
    monkeypatch.setattr(batch, "FEWEST", 1)
    return calls


@pytest.mark.cases(4)
@pytest.mark.parametrize("method", ["rk5", "rk8"])
@pytest.mark.parametrize("count", [1, 3, LANES, LANES + 1, 2 * LANES, 61])
def test_runs_have_the_same_bits_in_any_number_of_lanes(count, method, counted):
    statuses = assert_the_same(*requests(count, method=method))
    assert counted == [count]
    if count == 61:
        assert set(statuses) == {"ok", "diverged", "nonfinite"}


@pytest.mark.parametrize("save_at", [2, None])
def test_runs_end_at_events_of_their_own(counted, save_at):
    def event(n):
        return Event("height", 0.2 + 0.1 * (n % 9), direction=1)

    statuses = assert_the_same(*requests(40, event, save_at=save_at))
    assert counted == [40]
    assert {"event", "ok"} <= set(statuses)


def test_no_run_takes_more_steps_than_it_may(counted):
    statuses = assert_the_same(*requests(30, max_steps=70))
    assert counted == [30]
    assert {"ok", "max_steps"} <= set(statuses)


@pytest.mark.parametrize("save_at", [2, None])
def test_lanes_go_on_after_every_return_to_python(monkeypatch, save_at):
    asked, alone = requests(30, save_at=save_at)
    monkeypatch.setattr(batch, "next_budget", lambda budget, seconds: 13)
    assert_the_same(asked, alone)


def test_what_is_read_on_the_way_goes_one_by_one(counted):
    assert_the_same(*requests(20, save_at=5))
    assert_the_same(*requests(20, lambda n: Event("height", 0.5, terminal=False)))
    assert counted == []


def test_code_that_is_not_compiled_yet_waits_for_work_that_is_worth_it(monkeypatch, counted):
    monkeypatch.setattr(PROBLEM.lanes, "is_kept", False)
    asked, alone = requests(24)
    assert_the_same(asked, alone)
    assert counted == []
    # So many points in other batches of the same sweep make it worth it.
    outer = EXPECTED.set(10**9)
    try:
        assert_the_same(asked, alone)
    finally:
        EXPECTED.reset(outer)
    assert counted == [24 - batch.FIRST]


def test_blocks_of_lanes_run_in_threads():
    asked, alone = requests(60)
    gate = threading.Barrier(2)

    def part(first):
        gate.wait()
        return assert_the_same(asked[first : first + 30], alone[first : first + 30])

    with ThreadPoolExecutor(2) as pool:
        assert sum(map(len, pool.map(part, (0, 30)))) == 60


def test_an_advance_that_saves_no_row_yields_no_run():
    """Escape times save only the start: a diagram of them ended with an error of zip."""
    lanes, rows = SimpleNamespace(owner=np.zeros(4, dtype=np.int64)), np.zeros((3, 2), dtype=int)
    idle = SimpleNamespace(_lanes=lanes, batch=SimpleNamespace(rows=rows), work=None)
    assert list(Group.rows_by_run(idle)) == []
