"""Measured orders: strong against exact paths; weak without any statistical error, on trees.

With three-point increments the expectation after N steps is a finite sum over all outcomes, which
the trees below add up by calling the compiled steps themselves. The last tests draw paths instead.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from numba import njit, types

from dmft.solvers.path_layout import PLAN_TYPE, SCRATCH_TYPE, WALK_TYPE, Plan
from dmft.solvers.path_march import PathSetup, _allocate
from dmft.solvers.signatures import JACOBIAN_SIGNATURE, MATRIX, RHS
from dmft.solvers.stochastic_euler import euler_step
from dmft.solvers.stochastic_weak import weak_step

# So short that the next power of the step does not show in the slopes.
T_END = 0.05


def make_tree(scheme):
    """States after N steps for each outcome of the increments (base 3) and areas (base 2).

    `plan.trace`, of no use here, multiplies the areas.
    """

    @njit(
        types.void(
            RHS, types.FunctionType(JACOBIAN_SIGNATURE), PLAN_TYPE, WALK_TYPE, SCRATCH_TYPE,
            types.float64[::1], MATRIX,
        ),
        nogil=True,
    )  # fmt: skip
    def tree(drift, diffusion, plan, walk, scratch, weight, states):
        n = states.shape[1]
        y = walk.y[0]
        for outcome in range(weight.size):
            rest = outcome
            y[:] = walk.trial[0]
            weight[outcome] = 1.0
            for step in range(plan.steps):
                for j in range(n):
                    digit = rest % 3
                    rest //= 3
                    scratch.increments[j] = (digit - 1) * math.sqrt(3.0 * plan.h)
                    weight[outcome] *= 2.0 / 3.0 if digit == 1 else 1.0 / 6.0
                    scratch.areas[j, j] = -plan.h
                    for i in range(j):
                        scratch.areas[i, j] = plan.trace * plan.h * (2 * (rest % 2) - 1)
                        scratch.areas[j, i] = -scratch.areas[i, j]
                        rest //= 2
                        weight[outcome] *= 0.5
                t = plan.t_start + step * plan.h
                scheme(drift, diffusion, plan, walk, scratch, 0, step, t, y)
                y[:] = scratch.new
            states[outcome] = y

    return tree


TREES = {"euler": make_tree(euler_step), "weak2": make_tree(weak_step)}


def weak_error(system, method, steps, areas=1.0, t_end=T_END):
    problem = system.problem
    start = problem.pack(system.start)
    n, h = start.size, t_end / steps
    plan = Plan(
        widths=np.array(list(system.widths.values()), dtype=np.int64),
        par=problem.pack_parameters(system.parameters, {}), save=np.empty(0, dtype=np.int64),
        key=np.zeros(2, dtype=np.uint64), h=h, t_start=0.0, steps=steps, noise_scale=1.0,
        variance=1.0, bound=1e12, trace=areas, has_domain=0, normal=0, substeps=1, bridge=0,
    )  # fmt: skip
    setup = PathSetup(
        problem, method, 1, start[None], plan, (), None, False, 1, math.inf, False
    )  # fmt: skip
    walk, scratch = _allocate(setup, 0, 1)
    outcomes = (3**n * 2 ** (n * (n - 1) // 2)) ** steps
    weight, states = np.empty(outcomes), np.empty((outcomes, n))
    TREES[method](problem.rhs, problem.diffusion, plan, walk, scratch, weight, states)
    assert weight.sum() == pytest.approx(1.0, rel=1e-10)
    return float(weight @ system.measure(states)) - system.exact(t_end)


def slope(errors, steps):
    return -np.polyfit(np.log(steps), np.log(np.abs(errors)), 1)[0]


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("ornstein_uhlenbeck", (4, 6, 8, 10)),
        ("sinh", (4, 6, 8, 10)),
        ("clocked", (4, 6, 8, 10)),
        ("plane", (2, 3, 4)),
    ],
)
@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("weak2", 2)])
def test_weak_order_without_statistical_error(request, name, steps, method, order):
    system = request.getfixturevalue(name)
    errors = [weak_error(system, method, n) for n in steps]
    assert slope(errors, steps) == pytest.approx(order, abs=0.06)


@pytest.mark.parametrize("name", ["twins", "geometric"])
@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("weak2", 2)])
def test_lost_rank_keeps_the_order(request, name, method, order):
    """Equal entries, or noise that another entry shares: the error of one step is h^(order + 1)."""
    system, lengths = request.getfixturevalue(name), (0.04, 0.02, 0.01)
    errors = [weak_error(system, method, 1, t_end=h) for h in lengths]
    assert -slope(errors, lengths) == pytest.approx(order + 1, abs=0.1)


def test_the_plane_does_not_commute(plane):
    """Without the variables that stand for areas, order 2 is lost: the problem can tell."""
    errors = [weak_error(plane, "weak2", n, areas=0.0) for n in (2, 3, 4)]
    assert slope(errors, (2, 3, 4)) == pytest.approx(1, abs=0.1)


def test_strong_order_of_euler(geometric):
    """Path by path against exp((mu - sigma^2/2) t + sigma B), B being part of the state."""
    mu, sigma, steps = 0.5, 0.8, (16, 32, 64, 128, 256)
    errors = []
    for n in steps:
        run = geometric.solve(1.0, paths=4000, dt=1 / n, save_at=[1.0], keep_paths=True)
        B, y = run.paths.B[:, 0], run.paths.y[:, 0]
        assert abs(B.std() - 1.0) < 0.05
        errors.append(float(np.mean(np.abs(y - np.exp(mu - sigma**2 / 2 + sigma * B)))))
    assert slope(errors, steps) == pytest.approx(0.5, abs=0.05)


def test_substeps_follow_the_same_brownian_paths(geometric):
    coarse = geometric.solve(1.0, paths=50, dt=1 / 8, substeps=4, keep_paths=True, save_at=2)
    fine = geometric.solve(1.0, paths=50, dt=1 / 32, keep_paths=True, save_at=2)
    np.testing.assert_allclose(coarse.paths.B, fine.paths.B, rtol=0, atol=1e-14)
    assert np.abs(coarse.paths.y - fine.paths.y).max() > 1e-3


@pytest.mark.parametrize("name", ["sinh", "plane"])
@pytest.mark.parametrize("method", ["euler", "weak2"])
def test_drawn_paths_have_the_expectation_of_the_tree(request, name, method):
    system = request.getfixturevalue(name)
    run = system.solve(
        T_END, paths=100_000, dt=T_END / 3, method=method, increments="three_point", save_at=2,
        keep_paths=True,
    )  # fmt: skip
    state = np.concatenate([b.reshape(100_000, 2, -1) for b in run.paths.values()], axis=2)[:, 1]
    drawn = system.measure(state)
    expected = system.exact(T_END) + weak_error(system, method, 3)
    assert abs(drawn.mean() - expected) < 3.5 * drawn.std() / math.sqrt(drawn.size)
