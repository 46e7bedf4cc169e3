"""Stages that switch at an event: one trajectory, the right problem and parameters in each."""

from __future__ import annotations

import numpy as np
import pytest

from dmft.compiled import njit
from dmft.errors import BadParameter
from dmft.solvers.events import Event
from dmft.solvers.problem import Block, Problem
from dmft.solvers.signatures import RHS_SIGNATURE
from dmft.solvers.stages import Stage, solve_stages
from dmft.solvers.trajectory import Trajectory


@njit(RHS_SIGNATURE, nogil=True, cache=True)
def growth(t, y, widths, par, out):
    out[0] = par[0] * y[0]


@njit(RHS_SIGNATURE, nogil=True, cache=True)
def fading(t, y, widths, par, out):
    """A rate that is halved with every step since par[1]."""
    out[0] = par[0] * 0.5 ** (t - par[1]) * y[0]


FLOW = Problem("ode", growth, (Block("y", ()),), (), ("rate",), observe=growth, observables=("v",))
MAP = Problem("map", growth, (Block("y", ()),), (), ("rate",))
FADING = Problem("map", fading, (Block("y", ()),), (), ("rate", "since"))


def test_a_flow_that_grows_to_two_and_then_decays():
    stages = [
        Stage(FLOW, {"rate": 1.0}, Event("y", 2.0, 1, name="top")),
        Stage(FLOW, {"rate": -2.0}),
    ]
    run = solve_stages(stages, {"y": 1.0}, 2.0, widths={}, save_at=201, rtol=1e-11)
    switch = np.log(2.0)
    exact = np.where(run.t <= switch, np.exp(run.t), 2.0 * np.exp(-2.0 * (run.t - switch)))
    np.testing.assert_allclose(run.y, exact, rtol=1e-9)
    assert np.all(np.diff(run.t) > 0)
    assert run.t.size == 202  # and the switch
    assert [(e.name, round(e.t, 9)) for e in run.events] == [("top", round(switch, 9))]
    assert run.v[-1] == pytest.approx(-2.0 * run.y[-1])
    assert (run.status, run.problem) == ("ok", None)
    assert run.message.startswith("reached t = 2; stages switched at t = 0.69314718")
    assert [s["parameters"] for s in run.provenance["stages"]] == [{"rate": 1.0}, {"rate": -2.0}]


def test_a_rate_that_fades_from_the_switch_on(tmp_path):
    stages = [
        Stage(MAP, {"rate": 1.0}, Event("y", 5.0, 1)),
        Stage(FADING, lambda t, state: {"rate": 0.1 * float(state["y"]), "since": t}),
    ]
    run = solve_stages(stages, {"y": 1.0}, 5, widths={})
    expected = [1.0, 2.0, 4.0, 8.0, 8.0 * 1.8, 8.0 * 1.8 * 1.4]
    np.testing.assert_allclose(run.y, expected, rtol=1e-14)
    assert run.t.tolist() == [0, 1, 2, 3, 4, 5]
    assert run.provenance["stages"][1]["parameters"] == {"rate": 0.8, "since": 3.0}
    assert run.statistics["steps"] == 5
    assert Trajectory.load(run.save(tmp_path / "run.nc")) == run


def test_a_switch_on_the_last_step_and_one_that_never_comes():
    stages = [Stage(MAP, {"rate": 1.0}, Event("y", 8.0, 1)), Stage(MAP, {"rate": 0.0})]
    run = solve_stages(stages, {"y": 1.0}, 3, widths={})
    assert run.y.tolist() == [1.0, 2.0, 4.0, 8.0]
    short = solve_stages(stages, {"y": 1.0}, 2, widths={})
    assert (short.status, len(short.provenance["stages"])) == ("ok", 1)


def test_other_terminal_events_and_failures_end_the_protocol():
    stages = [Stage(MAP, {"rate": 1.0}, Event("y", 5.0, 1)), Stage(MAP, {"rate": 0.0})]
    stopped = solve_stages(stages, {"y": 1.0}, 9, widths={}, events=Event("y", 3.0, 1, name="stop"))
    assert (stopped.status, stopped.t[-1], stopped.events[-1].name) == ("event", 2.0, "stop")
    burst = solve_stages(stages, {"y": 1.0}, 9, widths={}, norm_bound=3.0)
    assert (burst.status, burst.t[-1]) == ("diverged", 2.0)


def test_stages_that_do_not_fit_are_refused():
    with pytest.raises(BadParameter, match="stage 1 differs from stage 0 in its kind"):
        solve_stages(
            [Stage(MAP, {"rate": 1.0}, Event("y", 2.0)), Stage(FLOW, {"rate": 1.0})],
            {"y": 1.0}, 3, widths={},
        )  # fmt: skip
    with pytest.raises(BadParameter, match="stage 0 has no until="):
        solve_stages([Stage(MAP, {"rate": 1.0})] * 2, {"y": 1.0}, 3, widths={})
    with pytest.raises(BadParameter, match="at least one stage"):
        solve_stages([], {"y": 1.0}, 3, widths={})
