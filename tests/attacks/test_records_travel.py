"""Equality and repr of every public record survive pickling."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.analysis.escape import EscapeTime
from dmft.record import is_same

z, x, y = (sp.Symbol(name, real=True) for name in "zxy")
SQUARE = dmft.Committee(z**2, width=1)
LINEAR = dmft.Committee(z, width=1)
MODEL = dmft.Model(SQUARE, SQUARE, 0.1)
SGD, FREE = dmft.SGD(0.05, constraint="sphere"), dmft.SGD(0.05)
START = dmft.Overlaps([[1.0]], [[0.1]], [[1.0]])
STILL = dmft.Overlaps([[1.0]], [[0.0]], [[1.0]])
NEAR = dmft.Overlaps([[1.0]], [[0.9]], [[1.0]])
DESCENT = dmft.GradientDescent(0.1, 2.0)
TOKENS = dmft.SequenceNetwork(z**2 / 2, length=2)
SEQUENCE = dmft.SequenceModel(TOKENS, TOKENS, encoding=1)
PAIR = dmft.GaussianMixture([[1.0], [-1.0]], [1, -1])


def flow():
    return dmft.derive(MODEL, SGD)


def noisy():
    """Of a linear unit, which compiles in half of the time."""
    return dmft.derive(dmft.Model(LINEAR, LINEAR, 0.1), FREE, dim=100, fluctuations=True)


def fixed(equations=None, start=STILL):
    return dmft.fixed_points(equations or flow(), start)[0]


DECLARED = {
    "Alignment": lambda: dmft.Alignment(0.1, 0.2),
    "Attention": lambda: dmft.Attention(2),
    "Committee": lambda: dmft.Committee(sp.Max(0, z), 2, [1.0, 2.0]),
    "Event": lambda: dmft.Event("risk", 0.1),
    "FirstPassage": lambda: dmft.FirstPassage("risk", 0.1),
    "Gaussian": lambda: dmft.Gaussian([x, y], [[1, 0.5], [0.5, 1]]),
    "GaussianMixture": lambda: PAIR,
    "GradientDescent": lambda: DESCENT,
    "GradientFlow": dmft.GradientFlow,
    "Lookahead": lambda: dmft.Lookahead(0.1),
    "MixtureModel": lambda: dmft.MixtureModel(SQUARE, PAIR),
    "Model": lambda: MODEL,
    "MultiIndex": lambda: dmft.MultiIndex(x * y, (x, y)),
    "Overlaps": lambda: START,
    "Repeat": lambda: dmft.Repeat(2),
    "SGD": lambda: SGD,
    "Scaling": dmft.Scaling,
    "SequenceModel": lambda: SEQUENCE,
    "SequenceNetwork": lambda: TOKENS,
    "SequenceTarget": lambda: dmft.SequenceTarget(x * y, (x, y)),
    "SharpnessAware": lambda: dmft.SharpnessAware(0.1),
    "Stage": lambda: dmft.Stage(flow()),
    "Status": lambda: dmft.Status.OK,
}
DERIVED = {
    "BatchExponents": lambda: dmft.batch_exponents(3),
    "Equations": flow,
    "EquationsWithNoise": noisy,
    "EquationsOfSequences": lambda: dmft.derive(SEQUENCE, dmft.SGD(0.1)),
    "EquationsOfDescent": lambda: dmft.derive(dmft.Model(LINEAR, LINEAR), DESCENT),
    "EscapeFormula": lambda: dmft.escape_formula(MODEL, SGD),
    "Exponent": lambda: dmft.information_exponent(z**3 - 3 * z, z),
    "Exponent of leaps": lambda: dmft.leap_exponent(x * y + x, (x, y)),
    "HermiteSeries": lambda: dmft.hermite_expansion(sp.tanh(z), z, 3),
    "Learnability": lambda: dmft.learnability(z**2, z),
    "Problem": lambda: dmft.build(dmft.derive(dmft.Model(LINEAR, LINEAR), FREE)),
    "Quadrature": lambda: dmft.Quadrature(1.0, 0.1),
    "Regimes": lambda: dmft.regimes(MODEL, SGD),
    "Risk": lambda: dmft.population_risk(MODEL),
    "ShortTimes": lambda: dmft.short_times(dmft.derive(dmft.Model(LINEAR, LINEAR), DESCENT)),
    "WeakRecovery": lambda: dmft.weak_recovery(MODEL, SGD, order=2),
}
COMPUTED = {
    "Boundary": lambda: dmft.boundary(lambda x, y: x - y, ("x", -2, 2), ("y", -2, 2), step=0.2),
    "Censored": lambda: dmft.escape_time(flow(), START, 0.1),
    "DescentEnsemble": lambda: dmft.simulate(dmft.Model(LINEAR, LINEAR), DESCENT, 10, 2, 2, START),
    "DescentRun": lambda: dmft.solve(
        dmft.derive(dmft.Model(LINEAR, LINEAR), DESCENT), START, 2, samples=2**8, scrambles=2
    ),
    "Ensemble": lambda: dmft.simulate(MODEL, SGD, 50, 1.0, 3, START, "overlaps", save_at=3),
    "EscapeTime": lambda: dmft.escape_time(flow(), START, 10.0),
    "EscapeTimes": lambda: dmft.escape_time(noisy(), START, 1.0, paths=4, dt=0.1),
    "FixedPoint": fixed,
    "FixedPointBranch": lambda: dmft.fixed_point_branch(
        flow(), fixed(), "learning_rate", (0.05, 0.06), step=0.2
    ),
    "Landscape": lambda: dmft.landscape(SEQUENCE, points=64),
    "LearnedDirections": lambda: dmft.learned_directions(dmft.Model(LINEAR, LINEAR), DESCENT, 1),
    "LinearNoise": lambda: dmft.linear_noise(
        noisy(), fixed(dmft.derive(dmft.Model(LINEAR, LINEAR, 0.1), FREE), NEAR)
    ),
    "PathEnsemble": lambda: dmft.solve(noisy(), START, 0.5, dt=0.1, paths=4, seed=1),
    "PhaseDiagram": lambda: dmft.phase_diagram(
        lambda x, y: x / y, ("x", [0.0, 1.0]), ("y", [0.0, 1.0])
    ),
    "Phases": lambda: dmft.phases(dmft.solve(flow(), START, 20.0), reference="start"),
    "Stability": lambda: dmft.stability(flow(), fixed()),
    "Sweep": lambda: dmft.sweep({"a": [0.0, 1.0]}, lambda a: 1.0 / a),
    "Trajectory": lambda: dmft.solve(flow(), START, 2.0, save_at=3),
}


@pytest.mark.parametrize("name", [*DECLARED, *DERIVED, *COMPUTED])
def test_records_travel(name):
    record = {**DECLARED, **DERIVED, **COMPUTED}[name]()
    again = pickle.loads(pickle.dumps(record))
    assert again == record
    assert repr(again) == repr(record)


def test_certificates_travel():
    pytest.importorskip("flint")
    found = dmft.certify(MODEL, digits=8, Q=[[1]], M=[[0.1]], P=[[1]])
    again = pickle.loads(pickle.dumps(found))
    assert (again, repr(again)) == (found, repr(found))
    assert again.contains(sp.Float(found.mid, 20), slack=1e-9)


def test_nan_is_equal_to_nan_and_to_nothing_else():
    first, second = (EscapeTime(float("nan"), 0.1, "start") for _ in range(2))
    assert first == second
    assert first != EscapeTime(1.0, 0.1, "start")
    arrays = [np.array([1.0, np.nan]), np.array([1.0, np.nan]), np.array([1.0, 2.0])]
    assert is_same({"a": [arrays[0]]}, {"a": [arrays[1]]})
    assert not is_same({"a": [arrays[0]]}, {"a": [arrays[2]]})
    assert not is_same(arrays[0], arrays[0][:1])
    assert not is_same(arrays[2], [1.0, 2.0])
