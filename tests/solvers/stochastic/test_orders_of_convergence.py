"""Measured orders: strong against exact paths, weak without any statistical error.

With three-point increments the state after a few steps takes finitely many values. Paths that are
drawn in the ordinary way visit all of them; each is then weighted by its exact probability, known
from what its path drew, so that the expectation of the scheme is a finite sum.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from dmft.solvers.stochastic.loop import path_key

# So short that the next power of the step does not show in the slopes.
T_END = 0.05
each_scheme = pytest.mark.parametrize(("method", "order"), [("euler", 1), ("weak2", 2)])


@pytest.fixture(scope="session")
def outcomes_of(noise_of_a_path):
    """Return a function of (entries, steps, paths): outcome of each path, its probability."""
    known = {}

    def outcomes(n, steps, paths):
        key, digits, probability = path_key(0), [], np.ones(paths)
        increments, areas = np.empty((steps, n)), np.empty((steps, n, n))
        below = np.tril_indices(n, -1)
        for path in range(paths):
            noise_of_a_path.increments(key, path, steps, 0, increments)
            noise_of_a_path.areas(key, path, steps, areas)
            digits.append(np.concatenate([np.sign(increments), np.sign(areas[:, *below])], axis=1))
            probability[path] = np.prod(np.where(increments == 0.0, 2 / 3, 1 / 6))
        table = np.array(digits).reshape(paths, -1).round().astype(int)
        _, first = np.unique(table, axis=0, return_index=True)
        pairs = n * (n - 1) // 2
        assert first.size == (3**n * 2**pairs) ** steps, "more paths must be drawn"
        return first, probability[first] / 2 ** (pairs * steps)

    def remembered(n, steps, paths):
        if (n, steps, paths) not in known:
            known[n, steps, paths] = outcomes(n, steps, paths)
        return known[n, steps, paths]

    return remembered


def final_values(system, method, steps, t_end, paths):
    """Measured function of the state at the end of every path."""
    run = system.solve(
        t_end, paths=paths, dt=t_end / steps, method=method, increments="three_point", save_at=2,
        keep_paths=True,
    )  # fmt: skip
    state = [values.reshape(paths, 2, -1)[:, 1] for values in run.paths.values()]
    return system.measure(np.concatenate(state, axis=1))


def weak_error(outcomes_of, system, method, steps, t_end=T_END, paths=15_000):
    n = system.problem.pack(system.start).size
    first, probability = outcomes_of(n, steps, paths)
    assert probability.sum() == pytest.approx(1.0, rel=1e-12)
    values = final_values(system, method, steps, t_end, paths)
    return float(probability @ values[first]) - system.exact(t_end)


def slope(errors, steps):
    return -np.polyfit(np.log(steps), np.log(np.abs(errors)), 1)[0]


@pytest.mark.cases("euler-1-sinh")
@pytest.mark.parametrize("name", ["ornstein_uhlenbeck", "sinh", "clocked"])
@each_scheme
def test_weak_order(outcomes_of, request, name, method, order):
    system, steps = request.getfixturevalue(name), (2, 3, 4)
    errors = [weak_error(outcomes_of, system, method, n) for n in steps]
    assert slope(errors, steps) == pytest.approx(order, abs=0.08)


@pytest.mark.cases("weak2-2-plane", "euler-1-twins")
@pytest.mark.parametrize("name", ["plane", "twins", "geometric"])
@each_scheme
def test_order_of_one_step_in_several_dimensions(outcomes_of, request, name, method, order):
    """Noise that does not commute, equal entries, a shared source: error h^(order + 1)."""
    system, lengths = request.getfixturevalue(name), (0.04, 0.02, 0.01)
    errors = [weak_error(outcomes_of, system, method, 1, h) for h in lengths]
    assert -slope(errors, lengths) == pytest.approx(order + 1, abs=0.1)


@pytest.mark.slow
@each_scheme
def test_weak_order_of_noise_that_does_not_commute(outcomes_of, plane, method, order):
    steps = (1, 2)
    errors = [weak_error(outcomes_of, plane, method, n, 0.02, 100_000) for n in steps]
    assert slope(errors, steps) == pytest.approx(order, abs=0.08)


def test_the_plane_does_not_commute(plane):
    """(b_1 . grad) b_2 differs from (b_2 . grad) b_1 for the columns of the Cholesky root."""

    def root(y):
        sigma = np.empty((2, 2))
        plane.problem.diffusion(0.0, y, np.array([2]), np.empty(0), sigma)
        return np.linalg.cholesky(sigma)

    y, h = np.asarray(plane.start["y"]), 1e-6
    b = root(y)
    along = [(root(y + h * b[:, j]) - root(y - h * b[:, j])) / (2 * h) for j in range(2)]
    assert np.abs(along[0][:, 1] - along[1][:, 0]).max() > 0.05


@pytest.mark.parametrize("method", ["euler", "weak2"])
def test_outcomes_are_drawn_as_often_as_they_are_probable(outcomes_of, plane, method):
    first, probability = outcomes_of(2, 1, 20_000)
    drawn = final_values(plane, method, 1, T_END, 20_000)
    expected = float(probability @ drawn[first])
    assert abs(drawn.mean() - expected) < 3.5 * drawn.std() / math.sqrt(drawn.size)


def test_strong_order_of_euler(geometric):
    """Path by path against exp((mu - sigma^2/2) t + sigma B), B being part of the state."""
    mu, sigma, steps = 0.5, 0.8, (16, 32, 64, 128, 256)
    errors = []
    for n in steps:
        run = geometric.solve(1.0, paths=2000, dt=1 / n, save_at=[1.0], keep_paths=True)
        B, y = run.paths.B[:, 0], run.paths.y[:, 0]
        assert abs(B.std() - 1.0) < 0.06
        errors.append(float(np.mean(np.abs(y - np.exp(mu - sigma**2 / 2 + sigma * B)))))
    assert slope(errors, steps) == pytest.approx(0.5, abs=0.06)


def test_substeps_follow_the_same_brownian_paths(geometric):
    coarse = geometric.solve(1.0, paths=50, dt=1 / 8, substeps=4, keep_paths=True, save_at=2)
    fine = geometric.solve(1.0, paths=50, dt=1 / 32, keep_paths=True, save_at=2)
    np.testing.assert_allclose(coarse.paths.B, fine.paths.B, rtol=0, atol=1e-14)
    assert np.abs(coarse.paths.y - fine.paths.y).max() > 1e-3
