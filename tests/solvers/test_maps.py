"""Problems of kind "map": iterates, events at the first step that holds, endings, exact budgets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dmft.compiled import njit
from dmft.errors import BadParameter
from dmft.solvers.events import Event, LargestCosine
from dmft.solvers.problem import Block, Problem
from dmft.solvers.runge_kutta import group as march_module
from dmft.solvers.signatures import DOMAIN_SIGNATURE, RHS_SIGNATURE
from dmft.solvers.solve import solve_problem
from dmft.solvers.trajectory import Trajectory


@njit(RHS_SIGNATURE, nogil=True, cache=True)
def logistic(t, y, widths, par, out):
    out[0] = par[0] * y[0] * (1.0 - y[0]) - y[0]


@njit(RHS_SIGNATURE, nogil=True, cache=True)
def linear(t, y, widths, par, out):
    out[0] = (par[0] - 1.0) * y[0]
    out[1] = t  # y[1] after n steps: 0 + 1 + ... + (n - 1)


@njit(RHS_SIGNATURE, nogil=True, cache=True)
def height(t, y, widths, par, out):
    out[0] = y[0] + 1000.0 * t


@njit(RHS_SIGNATURE, nogil=True, cache=True)
def turns_infinite(t, y, widths, par, out):
    out[0] = 1.0
    out[1] = np.inf if t == 7.0 else 0.0


@njit(DOMAIN_SIGNATURE, nogil=True, cache=True)
def below_five(y, widths, par, shift):
    return 5.0 - y[0] + shift


LOGISTIC = Problem("map", logistic, (Block("y", ()),), (), ("r",), source="logistic")
LINEAR = Problem(
    "map", linear, (Block("y", ("n",)),), ("n",), ("a",), observe=height, observables=("height",)
)
COUNTER = Problem("map", turns_infinite, (Block("y", ("n",)),), ("n",), domain=below_five)


def chaos(t_max, **more):
    return solve_problem(LOGISTIC, {"y": 0.3}, t_max, widths={}, parameters={"r": 3.9}, **more)


def powers(a, t_max, **more):
    request = {"widths": {"n": 2}, "parameters": {"a": a}, **more}
    return solve_problem(LINEAR, {"y": [1.0, 0.0]}, t_max, **request)


def by_hand(r, y, steps):
    states = [y]
    for _ in range(steps):
        states.append(states[-1] + (r * states[-1] * (1.0 - states[-1]) - states[-1]))
    return np.array(states)


def test_a_chaotic_map_is_iterated_bit_for_bit(monkeypatch):
    run = chaos(500)
    assert (run.status, run.message) == ("ok", "reached t = 500")
    assert run.t.tolist() == list(range(501))
    assert np.array_equal(run.y, by_hand(3.9, 0.3, 500))
    monkeypatch.setattr(march_module, "LARGEST_CHUNK", 3)
    monkeypatch.setattr("dmft.solvers.runge_kutta.group.SAVE_ROWS", 64)
    assert np.array_equal(run.y, chaos(500).y)


def test_time_counts_steps_and_reaches_rhs_and_observables():
    run = powers(0.5, 20)
    np.testing.assert_allclose(run.y[:, 0], 0.5**run.t, rtol=1e-15)
    assert np.array_equal(run.y[:, 1], run.t * (run.t - 1) / 2)
    assert np.array_equal(run.height, run.y[:, 0] + 1000 * run.t)
    assert run.provenance["time_unit"] == "steps"
    assert np.array_equal(run.steps(dim=300), run.t)
    assert run.statistics["steps"] == run.statistics["evaluations"] == 20


def test_saved_steps_are_whole_and_kept_once(tmp_path):
    run = powers(0.9, 1000, save_at=np.geomspace(1, 1000, 30))
    assert np.array_equal(run.t, np.unique(np.rint(np.geomspace(1, 1000, 30))))
    np.testing.assert_allclose(run.y[:, 0], 0.9**run.t, rtol=1e-13)
    assert powers(0.9, 10, save_at=3).t.tolist() == [0.0, 5.0, 10.0]
    assert Trajectory.load(run.save(tmp_path / "map.nc")) == run


def test_an_event_is_the_first_step_at_which_it_holds():
    run = powers(0.5, 100, events=Event("y[0]", 0.1, -1))
    assert (run.status, run.t[-1], run.y[-1, 0]) == ("event", 4.0, 0.0625)
    exact = powers(0.5, 100, events=Event("y[0]", 0.125, -1))
    assert exact.t[-1] == 3.0  # reaching the threshold is enough
    assert powers(0.5, 8, events=Event("y[0]", 0.1, 1)).status == "ok"
    assert powers(0.5, 8, events=Event("y[0]", 1.0, -1)).status == "ok"  # starts on it


def test_a_map_that_stays_on_the_threshold_crosses_once():
    run = powers(0.0, 10, events=[Event("y[0]", 0.0, terminal=False)])
    assert [e.t for e in run.events] == [1.0]


def test_switches_are_noted_in_order_and_the_run_goes_on():
    events = [Event("height", 2.0, 0, False, "up"), Event("y[0]", 1e-3, -1, True, "end")]
    run = powers(-0.5, 100, events=events)
    assert [(e.name, e.t) for e in run.events] == [("up", 1.0), ("end", 1.0)]
    many = powers(-1.0, 1000, events=[Event("y[0]", 0.0, -1, False)])
    assert [e.t for e in many.events] == list(range(1, 1001, 2))
    assert many.events[3].state["y"].tolist() == [-1.0, 21.0]


def test_divergence_names_the_step():
    run = powers(10.0, 100)
    assert run.status == "diverged"
    assert run.t[-1] == 13.0
    assert run.message == "diverged: the largest entry is 1e+13 at t = 13"


def test_an_increment_that_is_not_finite():
    problem = Problem("map", turns_infinite, (Block("y", ("n",)),), ("n",))
    run = solve_problem(problem, {"y": [0.0, 0.0]}, 100, widths={"n": 2})
    assert (run.status, run.t[-1]) == ("nonfinite", 7.0)
    assert run.message == "the increment of y[1] after step t = 7 is not finite"
    assert np.all(np.isfinite(run.y))


def test_leaving_the_domain_keeps_the_last_state_inside():
    run = solve_problem(COUNTER, {"y": [0.5, 0.0]}, 100, widths={"n": 2})
    assert (run.status, run.t[-1], run.y[-1, 0]) == ("left_domain", 4.0, 4.5)
    assert "leave the domain (no vectors have them) with the step after t = 4" in run.message
    on_edge = solve_problem(COUNTER, {"y": [1.0 + 1e-9, 0.0]}, 4, widths={"n": 2})
    assert (on_edge.status, on_edge.statistics["band_steps"]) == ("ok", 1)


def test_overlaps_as_a_map(retrieval, leaver):
    """Cosine events and the eigenvalues of a covariance work on maps of overlaps as on flows."""
    system = retrieval(0.15, 0.0, 1e-2)
    problem = replace(system.problem, kind="map")
    run = solve_problem(
        problem, system.start, 500, **system.arguments(), events=Event(LargestCosine(), 0.5, 1)
    )
    reached = run.M[:, 0, 0] >= 0.5
    assert (run.status, int(np.argmax(reached))) == ("event", len(run) - 1)
    whole = solve_problem(problem, system.start, 500, **system.arguments())
    assert whole.M[-1, 0, 0] == pytest.approx(1.0, abs=1e-12)
    gone = solve_problem(
        replace(leaver.problem, kind="map"), leaver.start, 10, **leaver.arguments()
    )
    assert (gone.status, gone.t[-1], gone.M[-1, 0, 0]) == ("left_domain", 2.0, 1.0)
    assert "smallest eigenvalue of the covariance 0 there, -0.5 beyond" in gone.message


def test_budgets_are_exact():
    run = powers(1.0, 100, max_steps=50)
    assert (run.status, run.statistics["steps"], run.t[-1]) == ("max_steps", 50, 50.0)
    assert powers(1.0, 50, max_steps=50).status == "ok"
    slow = chaos(10**12, max_steps=10**12, timeout=0.2, save_at=2)
    assert slow.status == "timeout"


def test_interrupt_keeps_what_was_saved():
    def press(fraction, message):
        raise KeyboardInterrupt

    run = powers(0.5, 10**9, max_steps=10**9, progress=press)
    assert run.status == "interrupted"
    np.testing.assert_allclose(run.y[:50, 0], 0.5 ** run.t[:50], rtol=1e-14)


def test_thinning_is_said(monkeypatch):
    monkeypatch.setattr("dmft.solvers.run.SAVED_BYTES", 0)  # the floor: 1000 rows
    run = powers(1.0, 5000)
    assert 500 <= len(run) <= 1002
    assert run.message == "reached t = 5000; saved: each 8th step (choose others by save_at)"
    assert set(np.diff(run.t)) == {8.0}


def test_a_million_steps_of_a_cheap_map():
    run = chaos(10**6)
    assert run.status == "ok"
    assert run.t[-1] == 10**6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"t_max": 10.5}, "whole number of steps"),
        ({"t_start": 0.5}, "whole number of steps"),
        ({"first_step": 1.0}, "have length one"),
        ({"method": "rk5"}, "unknown method 'rk5' for a problem of kind 'map'; choose one of iter"),
    ],
)
def test_bad_requests_are_refused(change, message):
    request = {"t_max": 20, **change}
    with pytest.raises(BadParameter, match=message):
        powers(0.5, request.pop("t_max"), **request)


def test_unknown_kinds_are_refused():
    with pytest.raises(BadParameter, match="unknown kind of problem 'pde'"):
        solve_problem(Problem("pde", linear, (Block("y", ()),), ()), {"y": 1.0}, 1, widths={})
    with pytest.raises(BadParameter, match="solve_paths"):
        solve_problem(Problem("sde", linear, (Block("y", ()),), ()), {"y": 1.0}, 1, widths={})
