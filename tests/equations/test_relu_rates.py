"""ReLU students: risk, gradient flow and refusals, against the theory's vectors and simulation."""

import json
from pathlib import Path

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.equations.averages.passes import on_nodes
from dmft.model import FIELD as z

VECTORS = json.loads((Path(__file__).parents[1] / "reference" / "relu_dynamics.json").read_text())
SPELLINGS = {
    "Max": sp.Max(0, z),
    "Heaviside": z * sp.Heaviside(z),
    "Piecewise": sp.Piecewise((0, z < 0), (z, True)),
    "Abs": (z + sp.Abs(z)) / 2,
}


def model_of(vector, activation):
    student = dmft.Committee(activation, len(vector["a"]), vector["a"])
    teacher = dmft.Committee(activation, len(vector["astar"]), vector["astar"])
    return dmft.Model(student, teacher, vector["Delta"])


@pytest.mark.cases(2)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_gradient_flow_and_risk_equal_the_vectors(spelling, solve):
    v = VECTORS["free"]
    model = model_of(v, SPELLINGS[spelling])
    start = dmft.Overlaps(v["Q"], v["M"], v["P"])
    equations = dmft.derive(model, dmft.GradientFlow())
    rates = equations.evaluate(start)
    B = np.array(v["B"])
    np.testing.assert_allclose(rates["M"], v["Bs"], rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(rates["Q"], B + B.T, rtol=1e-12, atol=1e-13)
    risk = dmft.population_risk(model)(Q=v["Q"], M=v["M"], P=v["P"])
    assert risk == pytest.approx(v["risk"], rel=1e-12)
    run = solve(equations, start, 1e-4, rtol=1e-12, atol=1e-14)
    slope = (run.M[-1] - run.M[0]) / 1e-4
    np.testing.assert_allclose(slope, v["Bs"], rtol=1e-3, atol=1e-4)


def test_sgd_rates_equal_the_vectors():
    v = VECTORS["free"]
    equations = dmft.derive(model_of(v, sp.Max(0, z)), dmft.SGD(v["gamma"], batch_size=v["nb"]))
    start = dmft.Overlaps(v["Q"], v["M"], v["P"])
    rates = equations.evaluate(start)
    np.testing.assert_allclose(rates["M"], v["dM"], rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(rates["Q"], v["dQ"], rtol=1e-13, atol=1e-14)
    run = dmft.solve(equations, start, 1e-6, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose((run.Q[-1] - run.Q[0]) / 1e-6, v["dQ"], atol=1e-6)


def test_sgd_rates_on_the_sphere_equal_the_vectors():
    v = VECTORS["sphere"]
    algorithm = dmft.SGD(v["gamma"], constraint="sphere")
    equations = dmft.derive(model_of(v, sp.Max(0, z)), algorithm)
    rates = equations.evaluate(dmft.Overlaps(v["Q"], v["M"], v["P"]))
    np.testing.assert_allclose(rates["M"], v["dM"], rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(rates["Q"], v["dQ"], rtol=1e-13, atol=1e-14)


def test_compiled_sgd_at_degenerate_overlaps_equals_the_reference(solve):
    leaky = dmft.Committee(sp.Max(z / 10, z), 3)
    equations = dmft.derive(dmft.Model(leaky, dmft.Committee(sp.Max(z / 10, z), 2)), dmft.SGD(0.7))
    w = np.array([[0.6, -0.3], [-1.2, 0.6], [0.6, -0.3]])  # equal and antiparallel rows
    start = dmft.Overlaps(w @ w.T, w @ np.eye(2), np.eye(2))
    rates = equations.evaluate(start)
    run = solve(equations, start, 1e-7, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose((run.Q[-1] - run.Q[0]) / 1e-7, rates["Q"], rtol=1e-4, atol=1e-5)
    fields = np.random.default_rng(1).standard_normal((2, 100_000))
    h = w @ fields

    def act(u):
        return np.maximum(u / 10, u)

    residual = act(fields).mean(axis=0) - act(h).mean(axis=0)
    psi = np.where(h > 0, 1.0, 0.1) * residual
    drift = psi @ h.T / h.shape[1]
    noise = 0.7 / 3 * psi @ psi.T / h.shape[1]
    np.testing.assert_allclose(rates["Q"], drift + drift.T + noise, atol=0.02)


@pytest.mark.parametrize("slope", [0, sp.Rational(1, 10)])
def test_compiled_flow_equals_the_reference_also_at_degenerate_overlaps(slope, solve):
    relu = dmft.Committee(sp.Max(slope * z, z), 3)
    model = dmft.Model(relu, dmft.Committee(sp.Max(slope * z, z), 2))
    equations = dmft.derive(model, dmft.GradientFlow())
    w = np.array([[0.6, -0.3], [-1.2, 0.6], [0.1, 0.7]])  # two antiparallel rows, rank two
    start = dmft.Overlaps(w @ w.T, w @ np.eye(2), np.eye(2))
    rates = equations.evaluate(start)
    run = solve(equations, start, 1e-6, rtol=1e-12, atol=1e-14)
    assert run.status == "ok"
    for name in ("M", "Q"):
        moved = (getattr(run, name)[-1] - getattr(start, name)) / 1e-6
        np.testing.assert_allclose(moved, rates[name], rtol=1e-4, atol=1e-5)


def test_compiled_flow_learns_and_never_raises_the_risk():
    relu = dmft.Committee(sp.Max(0, z), 2)
    equations = dmft.derive(dmft.Model(relu, relu), dmft.GradientFlow())
    start = dmft.Overlaps([[1.0, 0.1], [0.1, 0.8]], [[0.2, 0.0], [0.0, 0.3]], np.eye(2))
    run = dmft.solve(equations, start, 200.0, save_at=np.linspace(0.0, 200.0, 101))
    assert run.status == "ok"
    assert np.all(np.diff(run.risk) <= 1e-10)  # the tolerance of the solver
    assert run.risk[-1] < 1e-6 * run.risk[0]


def test_relu_flow_is_the_gradient_of_its_risk():
    relu = dmft.Committee(sp.Max(0, z), 1)
    model = dmft.Model(relu, relu)
    v = VECTORS["free"]
    q, m, rho = v["Q"][0][0], v["M"][0][0], v["P"][0][0]
    risk = dmft.population_risk(model)
    step = 1e-5

    def at(q, m):
        return risk(Q=[[q]], M=[[m]], P=[[rho]])

    by_m = (at(q, m + step) - at(q, m - step)) / (2 * step)
    by_q = (at(q + step, m) - at(q - step, m)) / (2 * step)
    rates = dmft.derive(model, dmft.GradientFlow()).evaluate(dmft.Overlaps([[q]], [[m]], [[rho]]))
    assert rates["M"][0, 0] == pytest.approx(-(by_m * rho + 2 * by_q * m), rel=1e-8)
    assert rates["Q"][0, 0] == pytest.approx(-2 * (by_m * m + 2 * by_q * q), rel=1e-8)


def test_quadratic_terms_without_closed_form_become_averages():
    student = dmft.Committee(sp.Max(0, z), 2)
    equations = dmft.derive(dmft.Model(student, dmft.Committee(z**2, 2)), dmft.SGD(0.5))
    assert equations.open_kernels == ()
    shifted = dmft.Committee(sp.Max(0, z - 1), 2)
    equations = dmft.derive(dmft.Model(shifted, shifted), dmft.SGD(0.5))
    assert equations.open_kernels == ()
    assert on_nodes(equations.terms["Q"]["sgd_noise"])


def test_relu_against_erf_and_polynomial_teachers_is_closed():
    student = dmft.Committee(sp.Max(0, z), 2)
    for teacher in (sp.erf(z / sp.sqrt(2)), z**2, sp.sign(z), sp.Abs(z)):
        model = dmft.Model(student, dmft.Committee(teacher, 2))
        assert dmft.derive(model, dmft.GradientFlow()).open_kernels == ()
    erf_student = dmft.Committee(sp.erf(z / sp.sqrt(2)), 2)
    for teacher in (sp.Max(0, z), sp.sign(z)):
        model = dmft.Model(erf_student, dmft.Committee(teacher, 2))
        assert dmft.derive(model, dmft.SGD(0.3)).open_kernels == ()


def test_printed_closed_forms_are_elementary():
    relu = dmft.Committee(sp.Max(0, z), 1)
    equations = dmft.derive(dmft.Model(relu, relu), dmft.GradientFlow())
    text = equations.latex()
    assert "operatorname{Correlation" not in text
    assert r"\theta &= \arccos" in text
    assert r"\theta_{12} = \arccos" in equations.latex(form="structured")
    assert not equations.explicit().risk.has(sp.Function("CorrelationAngle"))
    assert "Correlation" not in str(equations.explicit().risk)
