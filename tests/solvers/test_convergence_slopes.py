"""Measured convergence of solution and dense output at fixed steps, against exact solutions."""

from __future__ import annotations

import numpy as np
import pytest

from dmft.solvers.solve import METHODS, solve_problem

T_END = 4.0
# Four halvings each, from the start of the asymptotic range to well above rounding.
STEPS = {"rk5": [64, 128, 256, 512, 1024], "rk8": [8, 16, 32, 64, 128]}


def error_at_fixed_step(system, method, t_end, steps, save_at):
    h = t_end / steps
    run = solve_problem(
        system.problem, system.start, t_end, **system.arguments(), method=method,
        rtol=0.5, atol=1e30, first_step=h, max_step=h, save_at=save_at,
    )  # fmt: skip
    assert run.statistics["steps"] == steps
    exact = np.array([system.exact(t) for t in run.t])
    return float(np.max(np.linalg.norm(run.y - exact, axis=1)))


def slope_of(system, method, t_end, save_at):
    errors = [error_at_fixed_step(system, method, t_end, n, save_at) for n in STEPS[method]]
    assert errors[-1] > 1e-14, "rounding, not truncation, is measured"
    return -np.polyfit(np.log(STEPS[method]), np.log(errors), 1)[0]


@pytest.mark.parametrize("method", ["rk5", "rk8"])
def test_slope_of_the_solution(oscillator, method):
    slope = slope_of(oscillator, method, 10.0, [10.0])
    assert slope == pytest.approx(int(method[2:]), abs=0.15)


@pytest.mark.parametrize("method", ["rk5", "rk8"])
def test_slope_of_the_dense_output(oscillator, forced, method):
    # points that never coincide with the steps: errors of the interpolant, one order locally
    # above its degree
    system, t_end = (forced, 4.0) if method == "rk5" else (oscillator, 10.0)
    between = np.linspace(0.01, t_end - 0.01, 977)
    slope = slope_of(system, method, t_end, between)
    assert slope == pytest.approx(int(method[2:]), abs=0.15)


@pytest.mark.cases(2)
@pytest.mark.parametrize("method", METHODS)
def test_error_follows_the_tolerance(forced, method):
    errors = []
    for rtol in (1e-4, 1e-7, 1e-10):
        run = solve_problem(
            forced.problem, forced.start, T_END, **forced.arguments(), method=method,
            rtol=rtol, atol=rtol / 10, save_at=50,
        )  # fmt: skip
        assert run.status == "ok"
        errors.append(np.max(np.abs(run.y - np.array([forced.exact(t) for t in run.t]))))
        assert errors[-1] < 300 * rtol
    assert errors[0] > errors[1] > errors[2]
