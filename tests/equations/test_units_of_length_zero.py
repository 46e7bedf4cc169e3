"""A unit of length zero, of the student or of the teacher: the limit of short ones.

At variance 0+ a field is on either side of zero with probability 1/2, independent of the others:
the truth is a mean over its sides, and plain quadrature over what is left.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import sympy as sp
from scipy.special import erf, expit, ndtr

import dmft

z = sp.Symbol("z", real=True)
HALF = sp.Rational(1, 2)


def step(x):
    return np.where(x > 0, 1.0, 0.0)


def density(x):
    return np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)


# Activation; its value and slope in NumPy (None where it jumps and only teaches).
UNITS = {
    "erf": (sp.erf(z / sp.sqrt(2)), lambda x: erf(x / np.sqrt(2)), lambda x: 2 * density(x)),
    "sign": (sp.sign(z), np.sign, None),
    "step": (sp.Heaviside(z), step, None),
    "relu": (sp.Max(0, z), lambda x: np.maximum(x, 0), step),
    "abs": (sp.Abs(z), np.abs, np.sign),
    "leaky": (sp.Max(z / 10, z), lambda x: np.maximum(x / 10, x), lambda x: 0.1 + 0.9 * step(x)),
    "hard tanh": (sp.Max(-1, sp.Min(1, z)), lambda x: np.clip(x, -1, 1),
                  lambda x: step(1 - np.abs(x))),
    "He2": (z**2 - 1, lambda x: x**2 - 1, lambda x: 2 * x),
    "He3": (z**3 - 3 * z, lambda x: x**3 - 3 * x, lambda x: 3 * x**2 - 3),
    "linear": (z, lambda x: x, np.ones_like),
    "tanh": (sp.tanh(z), np.tanh, lambda x: 1 / np.cosh(x) ** 2),
    "sigmoid": (1 / (1 + sp.exp(-z)), expit, lambda x: expit(x) * expit(-x)),
    "softplus": (sp.log(1 + sp.exp(z)), lambda x: np.logaddexp(0, x), expit),
    "gelu": (z * (1 + sp.erf(z / sp.sqrt(2))) / 2, lambda x: x * ndtr(x),
             lambda x: ndtr(x) + x * density(x)),
    "sin": (sp.sin(z), np.sin, np.cos),
    "cos": (sp.cos(z), np.cos, lambda x: -np.sin(x)),
    "elu": (sp.Piecewise((sp.exp(z) - 1, z < 0), (z, True)),
            lambda x: np.where(x < 0, np.expm1(np.minimum(x, 0)), x),
            lambda x: np.exp(np.minimum(x, 0))),
    "bias": (sp.Max(0, z - HALF), lambda x: np.maximum(x - 0.5, 0), lambda x: step(x - 0.5)),
    "hat": (sp.Max(0, 1 - sp.Abs(z)), lambda x: np.maximum(1 - np.abs(x), 0),
            lambda x: -np.sign(x) * step(1 - np.abs(x))),
}  # fmt: skip
JUMPS = [name for name, unit in UNITS.items() if unit[2] is None]
TINY = 1e-300


def law(variance):
    """Points and weights of one field; its two sides at variance 0+."""
    if variance == 0:
        return np.array([TINY, -TINY]), np.array([0.5, 0.5])
    nodes, weights = np.polynomial.legendre.leggauss(30)
    edges = np.unique([*np.linspace(-12, 12, 49), *np.array([0.5, 1, -1]) / np.sqrt(variance)])
    half = np.diff(edges)[:, None] / 2
    x = ((edges[1:] + edges[:-1])[:, None] / 2 + half * nodes).ravel()
    return np.sqrt(variance) * x, (half * weights).ravel() * density(x)


def pair_truth(student, teacher, q, rho):
    """Risk, dM, dQ of gradient flow and E[slope^2 (target - output)^2], M = 0."""
    (_, f, slope), (_, g, _) = UNITS[student], UNITS[teacher]
    (h, u), (y, v) = law(q), law(rho)
    gap, both = g(y)[None, :] - f(h)[:, None], u[:, None] * v[None, :]
    risk = float(np.sum(both * gap**2) / 2)
    if slope is None:
        return risk, None, None, None
    pull = both * slope(h)[:, None] * gap
    far = np.abs(y) > TINY, np.abs(h) > TINY
    drift = float(np.sum(pull * np.where(far[0], y, 0.0)[None, :]))
    own = 2 * float(np.sum(pull * np.where(far[1], h, 0.0)[:, None]))
    return risk, drift, own, float(np.sum(both * (slope(h)[:, None] * gap) ** 2))


def model_of(student, teacher, width=1):
    return dmft.Model(
        dmft.Committee(UNITS[student][0], width), dmft.Committee(UNITS[teacher][0], 1)
    )


def close(found, truth, error=0.0):
    return abs(found - truth) <= 1e-10 * max(1.0, abs(truth)) + 3 * error


def check_pair(student, teacher, q, rho, noisy):
    """Risk and rates of the NumPy reference, without a warning."""
    model, start = model_of(student, teacher), dmft.Overlaps([[q]], [[0.0]], [[rho]])
    risk, drift, own, square = pair_truth(student, teacher, q, rho)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert close(dmft.population_risk(model)(start.Q, start.M, start.P), risk)
        if drift is None:
            return
        equations = dmft.derive(model, dmft.GradientFlow())
        rates = equations.evaluate(start)
        assert close(rates["M"][0, 0], drift)
        assert close(rates["Q"][0, 0], own)
        if noisy:
            equations = dmft.derive(model, dmft.SGD(learning_rate=0.5))
            rates, errors = equations.evaluate(start), equations.evaluate_error(start)
            assert close(rates["M"][0, 0], drift)
            assert close(rates["Q"][0, 0], own + 0.5 * square, errors["Q"][0, 0])


def test_a_short_hard_tanh_on_an_error_function():
    """The value of the issue."""
    risk = dmft.population_risk(model_of("hard tanh", "erf"))
    assert risk([[0.0]], [[0.0]], [[2.0]]) == pytest.approx(0.232279527, abs=1e-9)
    assert risk([[0.0]], [[0.0]], [[2.0]]) == pytest.approx(np.arcsin(2 / 3) / np.pi, abs=1e-13)


FAST = [("hard tanh", "erf"), ("step", "bias"), ("relu", "sign"), ("gelu", "hat"),
        ("abs", "tanh")]  # fmt: skip


@pytest.mark.cases(6)
@pytest.mark.parametrize(("student", "teacher"), FAST)
@pytest.mark.parametrize(("q", "rho"), [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0)])
def test_units_without_length_have_the_limit_of_short_ones(student, teacher, q, rho):
    check_pair(student, teacher, q, rho, noisy=False)


@pytest.mark.slow
def test_claims_of_units_without_length_are_numbers():
    """The square of a branch average rounded to less than zero: the claim was nan."""
    check_pair("erf", "elu", 0.0, 1.0, noisy=True)


@pytest.mark.slow
@pytest.mark.parametrize("student", UNITS)
def test_every_pair_has_its_limit(student):
    for teacher in UNITS:
        for q, rho in ((0.0, 1.0), (1.0, 0.0), (0.0, 0.0)):
            noisy = rho == 1.0 and (student, teacher) != ("erf", "sin")
            check_pair(student, teacher, q, rho, noisy)


def committee_truth(student, teacher, Q, m):
    """Risk and dM of a committee of units (long, 0+, ...), two-dimensional quadrature."""
    (_, f, slope), (_, g, _) = UNITS[student], UNITS[teacher]
    p = Q.shape[0]
    h, u = law(Q[0, 0])
    nodes, v = law(1.0)
    y = m / Q[0, 0] * h[:, None] + np.sqrt(1 - m**2 / Q[0, 0]) * nodes
    sides = np.stack(np.meshgrid(*[[TINY, -TINY]] * (p - 1), indexing="ij")).reshape(p - 1, -1)
    risk, drift = 0.0, np.zeros(p)
    for side in sides.T:
        output = (f(h) + np.sum(f(side))) / p
        gap = (u[:, None] * v / sides.shape[1]) * (g(y) - output[:, None])
        risk += np.sum(gap * (g(y) - output[:, None])) / 2
        drift[0] += np.sum(gap * y * slope(h)[:, None])
        for j, place in enumerate(side, start=1):
            drift[j] += np.sum(gap * y) * slope(np.array(place))
    return risk, drift


@pytest.mark.parametrize("p", [2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("student", "teacher"), [("relu", "erf"), ("hard tanh", "tanh")])
def test_committees_may_hold_short_units(student, teacher, p):
    Q, M = np.zeros((p, p)), np.zeros((p, 1))
    Q[0, 0], M[0, 0] = 0.9, 0.4
    risk, drift = committee_truth(student, teacher, Q, M[0, 0])
    model, start = model_of(student, teacher, p), dmft.Overlaps(Q, M, [[1.0]])
    assert dmft.population_risk(model)(Q, M, [[1.0]]) == pytest.approx(risk, abs=1e-10)
    rates = dmft.derive(model, dmft.GradientFlow()).evaluate(start)
    assert rates["M"][:, 0] == pytest.approx(drift, abs=1e-10)


@pytest.mark.usefixtures("generated_code")
@pytest.mark.parametrize(
    ("student", "teacher"),
    [("hard tanh", "erf"), ("relu", "sign"),
     *(pytest.param(*pair, marks=pytest.mark.slow) for pair in
       [("gelu", "step"), ("tanh", "abs"), ("bias", "hat"), ("hat", "relu"), ("abs", "bias"),
        ("He3", "leaky"), ("leaky", "tanh"), ("sin", "gelu"), ("cos", "softplus"),
        ("sigmoid", "elu"), ("softplus", "He2"), ("elu", "hard tanh"), ("erf", "He3")])],
)  # fmt: skip
def test_compiled_code_has_the_same_limit(student, teacher):
    risk, drift, own, _ = pair_truth(student, teacher, 0.0, 1.0)
    problem = dmft.build(dmft.derive(model_of(student, teacher), dmft.GradientFlow()))
    y = problem.pack({"Q": np.zeros((1, 1)), "M": np.zeros((1, 1))})
    ones = {"P": np.ones((1, 1)), "readout": np.ones(1), "teacher_readout": np.ones(1)}
    par, widths = problem.pack_parameters({}, ones), np.array([1, 1])
    out, found = np.empty_like(y), np.empty(1)
    problem.rhs(0.0, y, widths, par, out)
    problem.observe(0.0, y, widths, par, found)
    assert close(found[0], risk)
    assert close(problem.unpack(out, {"p": 1, "k": 1})["M"][0, 0], drift)
    assert close(problem.unpack(out, {"p": 1, "k": 1})["Q"][0, 0], own)


def test_a_run_starts_from_a_unit_of_length_zero():
    """Samples make a ReLU of length zero grow; it is at rest under gradient flow at no point."""
    model, start = model_of("relu", "erf"), dmft.Overlaps([[0.0]], [[0.0]], [[1.0]])
    run = dmft.solve(dmft.derive(model, dmft.SGD(learning_rate=0.5)), start, t_max=0.5)
    assert run.status == "ok"
    assert run.risk[0] == pytest.approx(1 / 6, abs=1e-12)
    assert np.all(np.isfinite(run.M))
    assert run.Q[-1, 0, 0] > 0
    assert run.M[-1, 0, 0] > 0


def test_what_is_not_finite_is_reported():
    """Tables reach standard deviations of 32: no bare warning of NumPy, and no silent nan."""
    risk = dmft.population_risk(model_of("He3", "He3"))
    with pytest.warns(dmft.AccuracyWarning, match="not finite"):
        risk([[1e200]], [[0.0]], [[1.0]])
