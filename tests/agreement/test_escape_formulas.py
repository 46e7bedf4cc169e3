"""Escape times of phase retrieval: compiled equations with events, against one_pass.md F.1, F.3."""

import math

import numpy as np
import pytest
import sympy as sp

import dmft

Z = sp.Symbol("z", real=True)
TIGHT = {"rtol": 1e-11, "atol": 1e-14}


@pytest.fixture(scope="module")
def retrieval():
    """Return a factory of equations; the learning rate and the noise come at run time."""

    def make(width, constraint=None):
        model = dmft.Model(dmft.Committee(Z**2, width), dmft.Committee(Z**2, 1))
        return dmft.derive(model, dmft.SGD(1.0, constraint=constraint))

    return make


def first_passage(equations, start, event, t_max=60.0, **options):
    run = dmft.solve(equations, start, t_max, events=[event], **{**TIGHT, **options})
    assert run.status == "event", run.message
    return run.t[-1]


def spherical_time(gamma, noise, u0, T):
    """One_pass.md F.1."""
    A, rate = 4 - 24 * gamma, 4 - 2 * gamma * (12 + noise)
    u1, limit = T + (1 - T) * u0, rate / A
    return math.log(u1 / u0 * (limit - u0) / (limit - u1)) / (2 * rate)


def spherical_passage(retrieval, gamma, noise, u0, T):
    falls = dmft.Event("risk", 2 * (1 - T) * (1 - u0), direction=-1)
    start = dmft.Overlaps([[1.0]], [[math.sqrt(u0)]])
    return first_passage(
        retrieval(1, "sphere"), start, falls, learning_rate=gamma, label_noise=noise
    )


@pytest.mark.parametrize("number", range(4))
def test_spherical_vectors(retrieval, dynamics_vectors, number):
    v = dynamics_vectors["exit"]["spherical_p1"][number]
    found = spherical_passage(retrieval, v["gamma"], v["Delta"], v["u0"], v["T"])
    assert found == pytest.approx(v["t_exit"], abs=1e-9)
    assert found == pytest.approx(v["t_exit_ode"], abs=1e-9)


@pytest.mark.parametrize("gamma", [0.005, 0.08, 0.15])
@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize(("u0", "T"), [(1e-9, 0.01), (1e-3, 0.5), (0.04, 0.02)])
def test_spherical_formula(retrieval, gamma, noise, u0, T):
    found = spherical_passage(retrieval, gamma, noise, u0, T)
    assert found == pytest.approx(spherical_time(gamma, noise, u0, T), abs=1e-8)


def test_spherical_escape_ends_at_the_largest_rate(retrieval):
    noise = 0.7
    for factor, grows in ((0.99, True), (1.01, False)):
        run = dmft.solve(
            retrieval(1, "sphere"), dmft.Overlaps([[1.0]], [[1e-3]]), 5.0,
            learning_rate=factor * 2 / (12 + noise), label_noise=noise,
        )  # fmt: skip
        assert (run.M[-1, 0, 0] > 1e-3) == grows


def test_no_passage_is_no_event(retrieval):
    """Above u_inf the threshold is never met: the run reaches its horizon."""
    gamma, noise = 0.1, 1.0
    settled = (4 - 2 * gamma * (12 + noise)) / (4 - 24 * gamma)
    never = dmft.Event("risk", 2 * (1 - settled) - 1e-3, direction=-1)
    run = dmft.solve(
        retrieval(1, "sphere"), dmft.Overlaps([[1.0]], [[0.1]]), 60.0,
        events=[never], learning_rate=gamma, label_noise=noise, **TIGHT,
    )  # fmt: skip
    assert run.status == "ok"
    assert run.M[-1, 0, 0] ** 2 == pytest.approx(settled, abs=1e-9)


# Free weights -------------------------------------------------------------------------------------

FREE = pytest.mark.parametrize("number", range(4))


def free_passage(equations, v, u0, u1, **options):
    """Passage of u = mean of M_j^2 through u1, all M_j equal, from Q = q0 I."""
    p = v["p"]
    start = dmft.Overlaps(v["q0"] * np.eye(p), np.full((p, 1), math.sqrt(u0)))
    rises = dmft.Event("M[0, 0]", math.sqrt(u1), direction=1)
    numbers = {"learning_rate": p * v["gamma_over_p"], "label_noise": v["Delta"]}
    return first_passage(equations, start, rises, **numbers, **options)


def free_time(v, u0, u1):
    """One_pass.md F.3: leading logarithm with the transient of the lengths."""
    p, g = v["p"], v["gamma_over_p"]
    kappa, s0 = (p + 4) / (p + 2), (1 + 2 / p) * v["q0"]
    root = math.sqrt((1 + 2 * g) ** 2 - 4 * g * kappa * (1 + g * (3 + v["Delta"])))
    low, high = ((1 + 2 * g + sign * root) / (2 * g * kappa) for sign in (-1, 1))
    transient = math.log((high - low) * s0 / (low * (high - s0))) / (g * kappa * high)
    return (math.log(u1 / u0) + transient) / (4 * (3 - low))


@FREE
def test_free_vectors(retrieval, dynamics_vectors, number):
    """Leading logarithm: the vectors' own accuracy against the full flow is a few 1e-4."""
    v = dynamics_vectors["exit"]["free"][number]
    assert free_time(v, v["u0"], v["u1"]) == pytest.approx(v["t_exit"], abs=1e-10)
    found = free_passage(retrieval(v["p"]), v, v["u0"], v["u1"])
    assert found == pytest.approx(v["t_exit"], rel=7e-4)


@FREE
def test_free_formula_is_exact_for_vanishing_overlaps(retrieval, dynamics_vectors, number):
    """Start so low that the length settles before, and stop where u is still negligible."""
    v = dynamics_vectors["exit"]["free"][number]
    found = free_passage(retrieval(v["p"]), v, 1e-60, 1e-12, atol=1e-40)
    assert found == pytest.approx(free_time(v, 1e-60, 1e-12), abs=1e-8)


@FREE
def test_free_plateau(retrieval, dynamics_vectors, number):
    v = dynamics_vectors["exit"]["free"][number]
    p, g = v["p"], v["gamma_over_p"]
    numbers = {"learning_rate": p * g, "label_noise": v["Delta"]}
    still = dmft.Overlaps(v["q0"] * np.eye(p), np.zeros((p, 1)))
    run = dmft.solve(retrieval(p), still, 40.0, save_at=2, **numbers, **TIGHT)
    np.testing.assert_allclose(run.Q[-1], v["q_star"] * np.eye(p), atol=1e-9)
    assert (1 + 2 / p) * v["q_star"] == pytest.approx(v["s_star"], rel=1e-13)
    plateau = dmft.Overlaps(v["q_star"] * np.eye(p), np.full((p, 1), 1e-9))
    rates = retrieval(p).evaluate(plateau, **numbers)
    np.testing.assert_allclose(rates["M"] / 1e-9, v["rate_M"], rtol=1e-12)


@FREE
def test_largest_free_rate_from_short_lengths(retrieval, dynamics_vectors, number):
    v = dynamics_vectors["exit"]["free"][number]
    p = v["p"]
    short = dmft.Overlaps(0.3 * np.eye(p), np.zeros((p, 1)))
    for factor, status in ((0.99, "ok"), (1.01, "diverged")):
        gamma = p * factor * v["gamma_over_p_max"]
        run = dmft.solve(
            retrieval(p), short, 1e3, save_at=2, learning_rate=gamma, label_noise=v["Delta"]
        )
        assert run.status == status, run.message


@pytest.mark.parametrize("noise", [0.0, 0.5, 8.0])
def test_largest_free_rate_from_unit_length(retrieval, noise):
    """At p = 1 a unit length is above the unstable root already from 2/(12 + Delta) on."""
    one = dmft.Overlaps([[1.0]], [[1e-30]])
    for factor, escapes in ((0.99, True), (1.01, False)):
        run = dmft.solve(
            retrieval(1), one, 200.0, events=[dmft.Event("M[0, 0]", 1e-29)], atol=1e-40,
            learning_rate=factor * 2 / (12 + noise), label_noise=noise,
        )  # fmt: skip
        assert (run.status == "event") == escapes, run.message
