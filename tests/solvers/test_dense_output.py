"""Values between steps are as accurate as the steps: saved values, event times, their cost.

Issue 13, item 5: at rtol = 1e-8 values at `save_at` were off by 5e-7, the end of the run by 8e-11.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from dmft.compiled import njit
from dmft.solvers.events import Event
from dmft.solvers.problem import Block, Problem
from dmft.solvers.signatures import RHS_SIGNATURE
from dmft.solvers.solve import solve_problem

TOLERANCES = (1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10)


@njit(RHS_SIGNATURE, nogil=True, cache=True)
def logistic_rhs(t, y, widths, par, out):
    out[0] = par[0] * y[0] * (1.0 - y[0])


@njit(RHS_SIGNATURE, nogil=True, cache=True)
def relaxing_rhs(t, y, widths, par, out):
    """A fast decay holds the steps at the border of stability."""
    out[0] = -par[0] * (y[0] - math.cos(t)) - math.sin(t)
    out[1] = -y[1]


@pytest.fixture(scope="module")
def systems(oscillator, forced, retrieval, power):
    """Name -> system with an exact state, end of its run."""
    logistic = replace(
        oscillator,
        problem=Problem("ode", logistic_rhs, (Block("y", ()),), (), ("r",), source="logistic"),
        start={"y": 1e-3}, exact=lambda t: np.array([1 / (1 + 999 * np.exp(-3 * t))]),
        widths={}, parameters={"r": 3.0},
    )  # fmt: skip
    relaxing = replace(
        oscillator,
        problem=Problem(
            "ode", relaxing_rhs, (Block("y", ("n",)),), ("n",), ("r",), source="relaxing"
        ),
        start={"y": [1.0, 1.0]}, exact=lambda t: np.array([np.cos(t), np.exp(-t)]),
        widths={"n": 2}, parameters={"r": 50.0},
    )  # fmt: skip
    return {
        "oscillator": (oscillator, 10.0),
        "forced": (forced, 4.0),
        "retrieval": (retrieval(0.05, 0.3, 1e-3), 20.0),
        "power": (power(2.0, 1.0), 0.95),
        "logistic": (logistic, 8.0),
        "relaxing": (relaxing, 5.0),
    }


def solve(system, t_max, method, rtol, **more):
    return solve_problem(
        system.problem, system.start, t_max, **system.arguments(), method=method, rtol=rtol,
        atol=rtol / 100, progress=False, **more,
    )  # fmt: skip


def deviation(system, run, rtol):
    """Largest deviation from the exact state in units of rtol |y| + atol."""
    exact = np.array([np.ravel(system.exact(t)) for t in run.t])
    blocks = [run.blocks[block.name].reshape(run.t.size, -1) for block in system.problem.state]
    scale = rtol * np.abs(exact).max(axis=1, keepdims=True) + rtol / 100
    return float(np.max(np.abs(np.concatenate(blocks, axis=1) - exact) / scale))


@pytest.mark.parametrize("method", ["rk5", "rk8"])
def test_saved_values_are_within_ten_tolerances(systems, method):
    """Before: up to 17 for order 5, 89 for order 8; measured now: 3.6 and 2.8 at most."""
    table = {
        name: [
            deviation(system, solve(system, end, method, rtol, save_at=401), rtol)
            for rtol in TOLERANCES
        ]
        for name, (system, end) in systems.items()
    }
    for name, row in table.items():
        print(f"{method} {name:10s}", " ".join(f"{value:6.2f}" for value in row))
    assert max(map(max, table.values())) < 5.0


@pytest.mark.parametrize(("method", "room"), [("Radau", 1.0), ("BDF", 2.0), ("LSODA", 1.0)])
def test_saved_values_of_implicit_methods_are_as_good_as_their_steps(systems, method, room):
    """Backward differentiation damps at its steps what it errs between them (1.5 tolerances)."""
    for name in ("retrieval", "logistic", "relaxing"):
        system, end = systems[name]
        between = deviation(system, solve(system, end, method, 1e-7, save_at=401), 1e-7)
        at_steps = deviation(system, solve(system, end, method, 1e-7), 1e-7)
        assert between < max(room, 1.1 * at_steps)


def test_runs_of_backward_differentiation_end_within_ten_tolerances(systems):
    for rtol in (1e-5, 1e-7, 1e-9, 1e-10):
        for name in ("retrieval", "logistic", "relaxing"):
            system, end = systems[name]
            found = deviation(system, solve(system, end, "BDF", rtol, save_at=401), rtol)
            assert found < 10.0, (name, rtol)


@pytest.mark.parametrize("method", ["rk5", "rk8"])
def test_events_lie_where_the_exact_state_has_them(systems, method):
    """In units of the tolerance over the speed at which the threshold is crossed."""
    for rtol in (1e-5, 1e-8, 1e-10):
        for name, quantity, level in (
            ("retrieval", "M[0, 0]", 0.8), ("logistic", "y", 0.999), ("power", "y", 5.0),
        ):  # fmt: skip
            system, end = systems[name]
            entry = -1 if name == "retrieval" else 0
            run = solve(system, end, method, rtol, events=Event(quantity, level))
            assert run.status == "event"
            missed = abs(float(np.ravel(system.exact(run.t[-1]))[entry]) - level)
            assert missed < 5 * (rtol * level + rtol / 100), (name, rtol)


@pytest.mark.parametrize("method", ["rk5", "rk8"])
def test_few_saved_values_cost_little(systems, method):
    """Only steps in which something is read are controlled by their interpolant."""
    for system, end in (systems["oscillator"], systems["retrieval"]):
        bare = solve(system, 20 * end, method, 1e-8, save_at=[20 * end])
        few = solve(system, 20 * end, method, 1e-8, save_at=5)
        watched = solve(system, 20 * end, method, 1e-8, events=Event(
            f"{system.problem.state[0].name}[0{', 0' if system.problem.widths[0] == 'p' else ''}]",
            5.0,
        ))  # fmt: skip
        assert few.statistics["evaluations"] < 1.04 * bare.statistics["evaluations"]
        # An event that does not happen asks for no step that is not taken anyway.
        assert watched.statistics["steps"] == bare.statistics["steps"]
        np.testing.assert_array_equal(watched.last_state[system.problem.state[0].name],
                                      bare.last_state[system.problem.state[0].name])  # fmt: skip


@pytest.mark.parametrize("method", ["rk5", "rk8"])
def test_a_slope_that_is_not_finite_beside_a_saved_value_is_told(turns_nan, method):
    run = solve(turns_nan, 1.0, method, 1e-8, save_at=40)
    assert run.status == "nonfinite"
    assert run.t[-1] == pytest.approx(0.5, abs=1e-9)
    assert deviation(turns_nan, run, 1e-8) < 5.0
