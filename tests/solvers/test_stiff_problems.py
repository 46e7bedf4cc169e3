"""Implicit methods where explicit ones are limited by stability; the compiled Jacobian is used."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.compiled import njit
from dmft.solvers.events import Event
from dmft.solvers.problem import Block, Problem
from dmft.solvers.runge_kutta.batch import solve_batch, varied
from dmft.solvers.signatures import RHS_SIGNATURE
from dmft.solvers.solve import check_request, solve_problem, solve_request


def solve(system, method, **change):
    problem = replace(system.problem, **change)
    return solve_problem(
        problem, system.start, 3.0, **system.arguments(), method=method, rtol=1e-7, atol=1e-9
    )


@pytest.mark.parametrize("method", ["Radau", "BDF", "LSODA"])
def test_few_steps_where_explicit_methods_need_thousands(stiff, method):
    run = solve(stiff, method)
    assert run.status == "ok"
    assert run.statistics["steps"] < 400 < 4000 < solve(stiff, "rk5").statistics["steps"]
    np.testing.assert_allclose(run.y, np.cos(run.t), atol=1e-6)


def test_compiled_jacobian_replaces_finite_differences(stiff):
    with_it, without = solve(stiff, "Radau"), solve(stiff, "Radau", jacobian=None)
    assert with_it.statistics["evaluations"] < without.statistics["evaluations"]
    np.testing.assert_allclose(with_it.y[-1], without.y[-1], atol=1e-7)


def long_run(stiff, **options):
    numbers = {"rtol": 1e-7, "atol": 1e-9, **stiff.arguments(), **options}
    return solve_problem(stiff.problem, stiff.start, 30.0, **numbers)


def test_backward_differentiation_takes_over_a_long_stiff_run(stiff):
    run, explicit = long_run(stiff), long_run(stiff, method="rk5")
    assert run.status == explicit.status == "ok"
    assert run.statistics["steps"] < 2000 < 50_000 < explicit.statistics["steps"]
    since = run.provenance["stiff_from"]
    assert 0.0 < since < 1.0
    assert f"stiff from t = {since:.6g} on: BDF took over" in run.message
    assert "stiff_from" not in explicit.provenance
    assert np.all(np.diff(run.t) > 0)
    np.testing.assert_allclose(run.y, np.cos(run.t), atol=1e-6)


def test_few_steps_left_are_not_worth_another_method(stiff):
    short = solve_problem(
        stiff.problem, stiff.start, 0.1, **stiff.arguments(), rtol=1e-7, atol=1e-9
    )
    assert "stiff_from" not in short.provenance


def test_saved_times_and_events_go_on_across_the_change(stiff):
    saved = np.linspace(0.0, 30.0, 301)
    event = Event("y", 0.5, terminal=False)
    run = long_run(stiff, save_at=saved, events=event)
    np.testing.assert_array_equal(run.t, saved)
    np.testing.assert_allclose(run.y, np.cos(saved), atol=1e-6)
    exact = [s * np.pi / 3 + 2 * np.pi * n for n in range(6) for s in (1, -1)]
    exact = sorted(t for t in exact if 0.0 < t < 30.0)
    np.testing.assert_allclose([e.t for e in run.events], exact, atol=2e-6)


def test_runs_of_a_batch_change_as_single_ones_do(stiff):
    numbers = {"rtol": 1e-7, "atol": 1e-9, **stiff.arguments()}
    given = check_request(stiff.problem, stiff.start, 30.0, **numbers)
    rates = (1e4, 2e3, 1e4)
    asked = [varied(given, {"rate": rate}, {}) for rate in rates]
    for run, one in zip(solve_batch(asked), asked, strict=True):
        alone = solve_request(one)
        batched = run.trajectory()
        np.testing.assert_array_equal(batched.y, alone.y)
        assert batched.provenance["stiff_from"] == alone.provenance["stiff_from"]


@njit(RHS_SIGNATURE, nogil=True, cache=True)
def without_jacobian(t, y, widths, par, out):
    """Stiff in its first entry, and not a number beside the plane on which the run stays."""
    out[0] = -1e4 * (y[0] - math.cos(t)) - math.sin(t)
    out[1] = 0.0 if y[1] == 1.0 else math.nan


def test_a_run_without_a_jacobian_goes_on_with_explicit_steps():
    problem = Problem("ode", without_jacobian, (Block("y", ("n",)),), ("n",), (), source="plane")
    run = solve_problem(problem, {"y": [1.0, 1.0]}, 5.0, widths={"n": 2}, rtol=1e-7, atol=1e-9)
    assert run.status == "ok"
    since = run.provenance["stiff_from"]
    assert f"stiff from t = {since:.6g} to {since:.6g}: BDF took over" in run.message
    assert run.statistics["steps"] > 10_000
    np.testing.assert_allclose(run.y[:, 0], np.cos(run.t), atol=1e-6)


@pytest.mark.parametrize("rtol", [1e-4, 1e-6, 1e-8, 1e-10])
def test_errors_of_backward_differentiation_follow_the_tolerance(stiff, rtol):
    run = long_run(stiff, method="BDF", rtol=rtol, atol=rtol / 100)
    assert run.status == "ok"
    assert np.max(np.abs(run.y - np.cos(run.t))) < 10 * rtol


def test_a_run_that_is_stiff_at_once_goes_on_by_backward_differences():
    """Its first step was in proportion to 1/y'' (order one errs by h^2 y''): less than t resolves.

    With the noise of z^7 the overlap decays at a rate of 2e12 until it is below the tolerance.
    """
    z = sp.Symbol("z", real=True)
    model = dmft.Model(dmft.Committee(z**7, 1), dmft.Committee(z**2, 1))
    equations = dmft.derive(model, dmft.SGD(0.01, constraint="sphere"))
    run = dmft.solve(equations, dmft.Overlaps([[1.0]], [[0.1]]), 1.0)
    assert run.status == "ok"
    assert "on: BDF took over" in run.message
    assert run.statistics["steps"] < 1000
    assert abs(run.M[-1, 0, 0]) < 1e-10
