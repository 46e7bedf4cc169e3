"""Implicit methods where explicit ones are limited by stability; the compiled Jacobian is used."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dmft.solvers.solve import solve_problem


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


@pytest.mark.parametrize("method", ["Radau", "BDF"])
def test_compiled_jacobian_replaces_finite_differences(stiff, method):
    with_it, without = solve(stiff, method), solve(stiff, method, jacobian=None)
    assert with_it.statistics["evaluations"] < without.statistics["evaluations"]
    np.testing.assert_allclose(with_it.y[-1], without.y[-1], atol=1e-7)
