"""The witness's risk against vectors and against formulas written out here."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.model import SGD, Committee, Model
from dmft.simulation.risk import choose_rule, find_kinks
from dmft.simulation.risk_measures import quadrature_risk
from dmft.simulation.simulate import declare_experiment

REFERENCE = json.loads((Path(__file__).parents[1] / "reference" / "simulation.json").read_text())
z = sp.Symbol("z", real=True)
ERF = sp.erf(z / sp.sqrt(2))
RELU = sp.Max(0, z)
ACTIVATIONS = {"erf": ERF, "square": z**2, "he2": z**2 - 1, "he3": z**3 - 3 * z, "relu": RELU}


def risk(student, teacher, Q, M, P, a=None, a_star=None, refinement=1.0):
    Q, M, P = (np.array(x, dtype=float) for x in (Q, M, P))
    model = Model(Committee(student, len(Q), a), Committee(teacher, len(P), a_star))
    experiment = declare_experiment(model, SGD(1.0), 10, None, {})
    rule = choose_rule(experiment.student, experiment.teacher, refinement)
    return quadrature_risk(experiment, Q, M, P, rule)


@pytest.mark.parametrize("case", REFERENCE["population_risk"], ids=lambda c: c["act"])
def test_risk_equals_vectors(case):
    act = ACTIVATIONS[case["act"]]
    value = risk(act, act, case["Q"], case["M"], case["P"], case["a"], case["astar"])
    assert value == pytest.approx(case["risk"], abs=1e-13)


@pytest.mark.cases(3)
@pytest.mark.parametrize("q", [0.0, 1.0, 10.0, 1e4])
@pytest.mark.parametrize("rho", [-0.4, 0.9999, 1.0])
def test_erf_risk_is_the_arcsine_law_at_any_variance(q, rho):
    def mean(c11, c12, c22):
        return 2 / math.pi * math.asin(c12 / math.sqrt((1 + c11) * (1 + c22)))

    cross = rho * math.sqrt(2.0 * q)
    truth = 0.5 * (mean(q, q, q) - 2 * mean(q, cross, 2.0) + mean(2.0, 2.0, 2.0))
    assert risk(ERF, ERF, [[q]], [[cross]], [[2.0]]) == pytest.approx(truth, abs=1e-13)


@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.9, 0.999, 1.0])
def test_kinks_and_jumps_are_split(rho):
    relu = (math.sqrt(1 - rho**2) + rho * (math.pi - math.acos(rho))) / (2 * math.pi)
    assert risk(RELU, RELU, [[1.0]], [[rho]], [[1.0]]) == pytest.approx(0.5 - relu, abs=1e-12)
    jump = 2 / math.pi * math.asin(rho / math.sqrt(2))
    truth = 0.5 * (1.0 + 1.0 / 3.0 - 2.0 * jump)
    value = risk(ERF, sp.sign(z), [[1.0]], [[rho]], [[1.0]])
    assert value == pytest.approx(truth, abs=1e-10)


def test_mixed_activations_against_nested_means():
    # E[erf(u) He3(v)] by Stein: (c12)^3 E[erf'''(u)], unit variances.
    rho = 0.6
    third = -math.sqrt(2 / math.pi) * 2.0**-1.5
    truth = 0.5 * (2 / math.pi * math.asin(0.5) - 2 * rho**3 * third + 6.0)
    assert risk(ERF, z**3 - 3 * z, [[1.0]], [[rho]], [[1.0]]) == pytest.approx(truth, abs=1e-12)


def test_kinks_of_shifted_arguments_are_found():
    model = Model(
        Committee(sp.Abs(2 * z - 1) + sp.Piecewise((z, z < 3), (3, True)), 1), Committee(ERF, 1)
    )
    experiment = declare_experiment(model, SGD(1.0), 10, None, {})
    assert find_kinks(experiment.student).tolist() == [0.5, 3.0]
    assert find_kinks(experiment.teacher).size == 0


def test_refinement_shows_a_missed_kink():
    act = sp.Abs(z**2 - 1)
    coarse, fine = (risk(act, act, [[1.0]], [[0.3]], [[1.0]], refinement=r) for r in (1.0, 0.5))
    assert abs(coarse - fine) > 1e-6


@pytest.mark.parametrize("cosines", [(0.5, 0.3, -0.6), (0.5, 0.3, -0.6, 0.2, 0.1)])
@pytest.mark.filterwarnings("ignore:the quadrature of the risk")
def test_kinked_targets_of_many_fields(cosines):
    """|h*_1| + ... + |h*_k| and a ReLU unit: E |u| max(0, v) is known."""
    m, k = np.array(cosines), len(cosines)
    fields = sp.symbols(f"s1:{k + 1}", real=True)
    target = dmft.MultiIndex(sp.Add(*map(sp.Abs, fields)), fields)
    model = dmft.Model(dmft.Committee(sp.Max(sp.Symbol("z", real=True), 0), 1), target)
    start = dmft.Overlaps([[1.0]], [m])
    runs = dmft.simulate(model, dmft.SGD(1e-6), 50, 1e-6, 1, start, save_at=2)
    square = k + k * (k - 1) * 2 / np.pi
    cross = np.sum(np.sqrt(1 - m * m) + m * np.arcsin(m)) / np.pi
    assert runs.mean.risk[0] == pytest.approx((square - 2 * cross + 0.5) / 2, rel=1e-4)
