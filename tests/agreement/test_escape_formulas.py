"""Escape formulas of the library against compiled equations with events, and against theory."""

import math

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.equations.escape.laws import q_star
from dmft.literature import phase_retrieval

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


def formula_of(width, gamma, noise, constraint="sphere", length=1):
    model = phase_retrieval(width, label_noise=noise)
    return dmft.escape_formula(model, dmft.SGD(gamma, constraint=constraint), length=length)


def spherical_time(gamma, noise, u0, T):
    """theory/one_pass F.1, typed: a witness of what the library derives."""
    A, rate = 4 - 24 * gamma, 4 - 2 * gamma * (12 + noise)
    u1, limit = T + (1 - T) * u0, rate / A
    return math.log(u1 / u0 * (limit - u0) / (limit - u1)) / (2 * rate)


def spherical_passage(retrieval, gamma, noise, u0, T):
    falls = dmft.Event("risk", 2 * (1 - T) * (1 - u0), direction=-1)
    start = dmft.Overlaps([[1.0]], [[math.sqrt(u0)]])
    return first_passage(
        retrieval(1, "sphere"), start, falls, learning_rate=gamma, label_noise=noise
    )


@pytest.mark.cases(1)
@pytest.mark.parametrize("number", range(4))
def test_spherical_vectors(retrieval, dynamics_vectors, number):
    v = dynamics_vectors["exit"]["spherical_p1"][number]
    found = spherical_passage(retrieval, v["gamma"], v["Delta"], v["u0"], v["T"])
    assert found == pytest.approx(v["t_exit"], abs=1e-9)
    assert found == pytest.approx(v["t_exit_ode"], abs=1e-9)


@pytest.mark.cases(2)
@pytest.mark.parametrize("gamma", [0.005, 0.08, 0.15])
@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize(("u0", "T"), [(1e-9, 0.01), (1e-3, 0.5), (0.04, 0.02)])
def test_spherical_formula(retrieval, gamma, noise, u0, T):
    derived = formula_of(1, gamma, noise).time(1 / u0, T)
    assert derived == pytest.approx(spherical_time(gamma, noise, u0, T), abs=1e-12)
    assert spherical_passage(retrieval, gamma, noise, u0, T) == pytest.approx(derived, abs=1e-8)


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


def free_formula(v):
    """The library's, from the lengths of the vectors."""
    gamma = v["p"] * v["gamma_over_p"]
    return formula_of(v["p"], gamma, v["Delta"], constraint=None, length=v["q0"])


def free_time(v, u0, u1):
    """theory/one_pass F.3, typed: leading logarithm with the transient of the lengths."""
    p, g = v["p"], v["gamma_over_p"]
    kappa, s0 = (p + 4) / (p + 2), (1 + 2 / p) * v["q0"]
    root = math.sqrt((1 + 2 * g) ** 2 - 4 * g * kappa * (1 + g * (3 + v["Delta"])))
    low, high = ((1 + 2 * g + sign * root) / (2 * g * kappa) for sign in (-1, 1))
    transient = math.log((high - low) * s0 / (low * (high - s0))) / (g * kappa * high)
    return (math.log(u1 / u0) + transient) / (4 * (3 - low))


@pytest.mark.cases(1)
@FREE
def test_free_vectors(retrieval, dynamics_vectors, number):
    """Leading logarithm: the vectors' own accuracy against the full flow is a few 1e-4."""
    v = dynamics_vectors["exit"]["free"][number]
    derived = free_formula(v).time(1 / v["u0"], u=v["u1"])
    assert derived == pytest.approx(v["t_exit"], abs=1e-10)
    found = free_passage(retrieval(v["p"]), v, v["u0"], v["u1"])
    assert found == pytest.approx(v["t_exit"], rel=7e-4)


@pytest.mark.cases(1)
@FREE
def test_free_formula_is_exact_for_vanishing_overlaps(retrieval, dynamics_vectors, number):
    """Start so low that the length settles before, and stop where u is still negligible."""
    v = dynamics_vectors["exit"]["free"][number]
    derived = free_formula(v).time(1e60, u=1e-12)
    assert derived == pytest.approx(free_time(v, 1e-60, 1e-12), abs=1e-11)
    found = free_passage(retrieval(v["p"]), v, 1e-60, 1e-12, atol=1e-40)
    assert found == pytest.approx(derived, abs=1e-8)


@pytest.mark.cases(2)
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


@pytest.mark.cases(2)
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


# Where the formulas hold, and where they do not ---------------------------------------------------


# Runs of hundreds of overlaps, or more than a thousand, to eleven digits.
LONG = [pytest.param(width, marks=pytest.mark.slow) for width in (16, 32)]


def equations_of(width, rate, noise, constraint):
    model = phase_retrieval(width, label_noise=noise)
    return dmft.derive(model, dmft.SGD(width * rate, constraint=constraint))


def typical(width, dim):
    return dmft.Overlaps(np.eye(width), np.full((width, 1), dim**-0.5))


def deviations(width, rate, noise, constraint, dims):
    """Of the formula from the equations, at u = 1e-3 and at T = 0.01, in each dimension."""
    formula = formula_of(width, width * rate, noise, constraint)
    equations = equations_of(width, rate, noise, constraint)
    reference = "start" if constraint else "plateau"
    found = []
    for dim in dims:
        start = typical(width, dim)
        by_u = first_passage(equations, start, dmft.Event("M[0, 0]", 1e-3**0.5, 1), atol=1e-15)
        by_risk = dmft.escape_time(equations, start, 60.0, fraction=0.01, reference=reference)
        expected = formula.time(dim, u=1e-3), formula.time(dim, 0.01, reference=reference)
        found.append([expected[0] / by_u - 1, expected[1] / by_risk.value - 1])
    return np.abs(found)


@pytest.mark.cases(1)
@pytest.mark.parametrize("noise", [0.0, 1.0])
@pytest.mark.parametrize("width", [2, 8, *LONG])
def test_leading_logarithm_on_the_sphere_is_within_one_per_cent(width, noise):
    for rate in (1 / (12 + noise), 0.02):
        gaps = deviations(width, rate, noise, "sphere", (1e6, 1e8, 1e10))
        assert gaps.max() < 0.01
        assert np.all(np.diff(gaps, axis=0) < 0)


@pytest.mark.cases(1)
@pytest.mark.parametrize("noise", [0.0, 1.0])
@pytest.mark.parametrize("width", [1, 2, 8, *LONG])
def test_leading_logarithm_of_free_lengths_is_within_one_per_cent(width, noise):
    """By u at once; by the risk once the plateau is at rest before it is left."""
    for rate in (1 / (12 + noise), 0.02):
        gaps = deviations(width, rate, noise, None, (1e6, 1e9, 1e11))
        assert gaps[:, 0].max() < 0.002
        assert gaps[0, 1] < (0.01 if width <= 2 else 0.03)
        assert gaps[1:, 1].max() < 0.01


@pytest.mark.slow
def test_deviations_of_free_lengths_shrink_with_the_dimension():
    """By the risk the plateau is read off the run: its own fall until then is of order 1/log d."""
    for width in (1, 2, 8, 32):
        for noise in (0.0, 1.0):
            gaps = deviations(width, 1 / (12 + noise), noise, None, (1e8, 1e12, 1e16))
            assert np.all(np.diff(gaps[:, 1]) < 0), (width, noise, gaps)
            assert gaps[-1].max() < 0.01


@pytest.mark.cases(1)
@pytest.mark.parametrize("width", [8, 32])
def test_plateau_of_wide_free_students_is_found(width):
    """A relaxation of a few per cent, down (p = 8) or up under label noise (p = 32)."""
    noise = 1.0 if width == 32 else 0.0
    rate = 1 / (12 + noise)
    formula = formula_of(width, width * rate, noise, None)
    length = float(dict(formula.law.where)[q_star].subs(formula._values({})))
    settled = dmft.population_risk(phase_retrieval(width))(
        Q=length * np.eye(width), M=np.zeros((width, 1)), P=[[1.0]]
    )
    found = dmft.escape_time(
        equations_of(width, rate, noise, None), typical(width, 1e10), 60.0, fraction=0.01,
        reference="plateau",
    )  # fmt: skip
    assert found.reference_value == pytest.approx(settled, rel=3e-4)
    assert found.reference_time > 0.5


def test_wide_students_collapse_at_the_rate_of_the_fastest_weak_recovery():
    """They leave the start fastest there, and learn nothing in the end; `.validity` says so."""
    width, dim = 8, 2000
    formula = formula_of(width, 0.5, 0.0)
    fastest, limit = float(formula.optimal_learning_rate()), float(formula.perfect_limit)
    assert fastest == pytest.approx(width * 8 / 19)  # 1/B_p, B_8 = 19/8
    assert limit == pytest.approx(width / 6)
    runs = {
        rate: dmft.solve(
            equations_of(width, rate / width, 0.0, "sphere"), typical(width, dim), 10.0
        ).risk
        for rate in (fastest, limit / 2)
    }
    fall = runs[fastest] / runs[fastest][0]
    assert 0.9 < fall.min() < 1
    assert fall[-1] == pytest.approx(1.78, abs=0.01)
    assert runs[limit / 2][-1] < 1e-3 * runs[limit / 2][0]
    text = formula.validity
    for value in (fastest, limit, limit / 2):
        assert f"{value:.6g}" in text
    assert "nothing is learned in the end" in text


@pytest.mark.filterwarnings("error")
def test_the_optimal_rate_of_a_third_hermite_is_said_to_be_unreliable():
    unit = dmft.Committee(dmft.hermite(3, Z) / sp.sqrt(6), 1)
    sgd = dmft.SGD(sp.Symbol("gamma", positive=True), constraint="sphere")
    formula = dmft.escape_formula(dmft.Model(unit, unit), sgd)
    optimal = float(formula.optimal_learning_rate(1000))
    with pytest.warns(dmft.AccuracyWarning, match="noise of the samples determines"):
        formula.time(1000, overlap=0.5, learning_rate=optimal)
    assert formula.time(1000, overlap=0.5, learning_rate=optimal / 3) > 0
    assert "times are heavy tailed" in formula.validity
