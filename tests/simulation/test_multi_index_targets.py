"""Simulations with a multi-index target: the label is g, the risk its quadrature."""

import warnings

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.errors import BadParameter
from dmft.simulation.risk_measures import quadrature_risk, rule_of
from dmft.simulation.simulate import declare_experiment

Z = sp.Symbol("z", real=True)
Z1, Z2, Z3 = FIELDS = sp.symbols("z1 z2 z3", real=True)
C = sp.Symbol("c", real=True)
ERF, RELU, HE3 = sp.erf(Z / sp.sqrt(2)), sp.Max(0, Z), Z**3 - 3 * Z
TARGETS = {
    "polynomial": Z1**2 - 1 + Z1 * Z2,
    "parity": Z1 * Z2 * Z3,
    "joint": sp.tanh(Z1 + C * (Z2**3 - 3 * Z2)),
    "sign": sp.sign(Z1 * Z2 * Z3),
}
# What the lattice leaves of a jump; the rest is rounding of Gauss and trapezoidal rules.
TOLERANCE = {"sign": 5e-3, "joint": 1e-6}


def start_with(p, k, seed=1):
    A = np.random.default_rng(seed).normal(size=(p + k, p + k + 4)) / np.sqrt(p + k + 4)
    Omega = A @ A.T
    return dmft.Overlaps(Omega[:p, :p], Omega[:p, p:], Omega[p:, p:], np.linspace(0.7, 1.2, p))


def fields_of(target):
    return [z for z in FIELDS if TARGETS[target].has(z)]


def experiment_of(student, target, start):
    g = TARGETS[target]
    model = dmft.Model(dmft.Committee(student, 2), dmft.MultiIndex(g, fields_of(target)), 0.1)
    values = {"c": 0.4} if g.has(C) else {}
    return declare_experiment(model, dmft.SGD(0.5), 100, start, values)


@pytest.mark.cases(4)
@pytest.mark.parametrize("target", list(TARGETS))
@pytest.mark.parametrize("student", [ERF, RELU, HE3])
def test_risk_is_the_mean_square_residual(student, target):
    fields = fields_of(target)
    start = start_with(2, len(fields))
    experiment = experiment_of(student, target, start)
    rule = rule_of(experiment, start.P)
    risk = quadrature_risk(experiment, start.Q, start.M, start.P, rule)
    finer = rule_of(experiment, start.P, 0.5)
    claimed = abs(quadrature_risk(experiment, start.Q, start.M, start.P, finer) - risk)
    assert claimed <= TOLERANCE.get(target, 1e-12) * (1 + risk)
    # Residual of draws of the fields.
    rng = np.random.default_rng(0)
    points = np.linalg.cholesky(start.Omega) @ rng.standard_normal((2 + len(fields), 150_000))
    g = sp.lambdify(fields, TARGETS[target].subs(C, 0.4), ["numpy", "scipy"])(*points[2:])
    f = start.readout @ sp.lambdify([Z], student, ["numpy", "scipy"])(points[:2]) / 2
    squares = (g - f) ** 2 / 2
    error = squares.std() / np.sqrt(squares.size)
    assert abs(squares.mean() - risk) < 4 * error + 2 * claimed


def test_singular_teachers_and_students_in_their_span():
    """h = h*_1 = h*_2: E(z^2 - z)^2 / 2 = (3 + 1) / 2."""
    one = np.ones((2, 2))
    start = dmft.Overlaps(one[:1, :1], one[:1], one)
    model = dmft.Model(dmft.Committee(Z, 1), dmft.MultiIndex(Z1 * Z2, FIELDS[:2]))
    experiment = declare_experiment(model, dmft.SGD(0.5), 100, start, {})
    rule = rule_of(experiment, start.P)
    risk = quadrature_risk(experiment, start.Q, start.M, start.P, rule)
    assert risk == pytest.approx(2.0, rel=1e-12)


@pytest.mark.cases(1)
@pytest.mark.parametrize("method", ["weights", "overlaps"])
def test_a_sum_of_single_functions_is_the_committee(method):
    g = (ERF.subs(Z, Z1) + ERF.subs(Z, Z2)) / 2
    student = dmft.Committee(ERF, 2)
    start = start_with(2, 2)
    runs = [
        dmft.simulate(
            dmft.Model(student, teacher, 0.1), dmft.SGD(0.5), 50, 1.0, 3, start, method, save_at=5
        )
        for teacher in (dmft.MultiIndex(g, FIELDS[:2]), dmft.Committee(ERF, 2))
    ]
    for name in ("Q", "M", "risk"):
        np.testing.assert_allclose(runs[0].runs[name], runs[1].runs[name], rtol=1e-9, atol=1e-11)


def test_parameters_take_values_and_the_error_of_the_risk_is_said():
    g = dmft.MultiIndex(sp.sign(Z1 + C * Z2), FIELDS[:2])
    model = dmft.Model(dmft.Committee(ERF, 2), g)
    with pytest.raises(BadParameter, match="symbol c"):
        dmft.simulate(model, dmft.SGD(0.5), 50, 0.5, 2)
    with pytest.warns(UserWarning, match="quadrature of the risk"):
        runs = dmft.simulate(model, dmft.SGD(0.5), 50, 0.5, 2, save_at=3, c=0.5)
    assert 0 < runs.provenance["risk_quadrature_error"] < 1e-2
    assert runs.provenance["teacher"] == str(g.expr)


def test_first_passage_watches_the_risk():
    g = dmft.MultiIndex(Z1 + Z1 * Z2, FIELDS[:2])
    model = dmft.Model(dmft.Committee(Z, 1), g)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runs = dmft.simulate(
            model, dmft.SGD(0.2), 100, 3.0, 4, method="overlaps", save_at=3,
            first_passage=dmft.FirstPassage("risk", 0.9, relative=True),
        )  # fmt: skip
    assert np.all(np.isfinite(runs.first_passage.times))
