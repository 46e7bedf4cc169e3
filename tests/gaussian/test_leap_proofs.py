"""Which exponents are proven, by what, and that wrong steps are not."""

from dataclasses import replace

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.gaussian.exponents.coefficients import Coefficients
from dmft.gaussian.exponents.leap_proofs import Symmetries, proven_steps
from dmft.gaussian.exponents.leaps import numerical_steps

z1, z2, z3 = FIELDS = sp.symbols("z1 z2 z3", real=True)
PARITY3 = sp.sign(z1 * z2 * z3)
Y = sp.Symbol("y", real=True)


def he(n, z):
    return dmft.hermite(n, z)


def fields_of(target):
    return sorted(target.free_symbols, key=str)


PROVEN = [
    sp.Max(0, z1), sp.Abs(z1), he(3, z1), he(4, z1), he(2, z1) + he(3, z1), z1 * z2,
    z1 + z1 * z2, sp.sign(z1 * z2), z1 + he(3, z2), he(3, z1) + he(3, z2), z1 * z2 * z3,
    he(3, z1) + z1 * z2 * z3, z1 + z1 * z2 + z1 * z2 * z3, sp.Max(z1, z2), sp.sign(z1) * z2**2,
    sp.exp(z1) * sp.sin(z2), sp.Max(0, z1) * sp.Max(0, z2), PARITY3,
    pytest.param(z1**2 + PARITY3, marks=pytest.mark.slow),
    pytest.param(he(4, z1) + PARITY3, marks=pytest.mark.slow),
    pytest.param(he(3, z1) + PARITY3, marks=pytest.mark.slow),
]  # fmt: skip
SAMPLES = 400_000


@pytest.mark.cases(6)
@pytest.mark.parametrize("target", PROVEN, ids=str)
def test_leaps_are_proven_and_their_witnesses_are_true(target):
    fields = fields_of(target)
    h = dict(zip(fields, np.random.default_rng(5).standard_normal((3, SAMPLES)), strict=False))
    y = numeric(target, h)
    for leap in (
        dmft.leap_exponent(target, fields), dmft.generative_exponent(target, fields, leap=True)
    ):  # fmt: skip
        assert leap.proof == "symbolic"
        assert leap.threshold is None
        for step in leap.steps:
            assert sum(step.index) == step.order
            slots = dict(zip(range(len(step.basis)), step.names(fields), strict=True))
            # E[T(y) phi(u) He_n(v)] by sampling, v of unit length.
            weight = numeric(step.transformation, {Y: y}) * 1.0
            if step.feature is not None:
                weight = weight * numeric(step.feature, h)
            elif step is not leap.steps[0]:
                continue  # exact engine of polynomials: a coefficient of a power of u
            for i, n in enumerate(step.index):
                v = numeric(slots[i], h) / np.linalg.norm(
                    [float(slots[i].coeff(x)) for x in fields]
                )
                weight = weight * np.polynomial.hermite_e.hermeval(v, [0] * n + [1])
            error = np.std(weight) / np.sqrt(SAMPLES)
            value = float(step.strength)
            assert abs(np.mean(weight) - value) < 6 * error + 1e-9
            assert abs(value) > 10 * error


def numeric(expr, values):
    symbols = list(values)
    found = sp.lambdify(symbols, expr, [{"Heaviside": lambda u, *_: (u > 0) * 1.0}, "numpy"])
    return np.broadcast_to(found(*values.values()), SAMPLES).astype(float)


def test_what_is_only_numerical_says_so():
    # No closed form of the value; a zero that no symmetry of the fields explains.
    assert dmft.leap_exponent(z1 * sp.tanh(z2), [z1, z2]).proof == "numerical"
    hard = dmft.generative_exponent(z1**2 * sp.exp(-(z1**2)), z1)
    assert (hard.proof, hard.threshold) == ("numerical", 1e-6)
    assert "zero means below 1e-06" in hard.explain()


@pytest.mark.parametrize(("order", "wrong"), [(2, 1), (2, 3), (2, 4)])
def test_wrong_orders_are_not_proven(order, wrong):
    target = sp.Abs(z1) * sp.sign(z2)
    steps = numerical_steps(Coefficients(target, (z1, z2)), every_transformation=True)
    assert [s.order for s in steps] == [1, order]
    assert proven_steps(target, (z1, z2), steps, every=True) is not None
    changed = [steps[0], replace(steps[1], order=wrong)]
    assert proven_steps(target, (z1, z2), changed, every=True) is None


def test_wrong_directions_are_not_proven():
    target = sp.sign(z1) * z2**2
    steps = numerical_steps(Coefficients(target, (z1, z2)), every_transformation=False)
    assert proven_steps(target, (z1, z2), steps, every=False) is not None
    for directions in ([[0.0, 1.0]], [[0.8, 0.6]], [[1.0, 0.0], [0.0, 1.0]]):
        first = replace(steps[0], directions=np.array(directions))
        assert proven_steps(target, (z1, z2), [first], every=False, complete=False) is None
    # Left over after the last step: not the whole story.
    assert proven_steps(target, (z1, z2), steps[:1], every=False) is None


@pytest.mark.parametrize(
    ("target", "every", "index", "learned", "wanted"),
    [
        (z1 * z2, True, (1, 0), 0, True),
        (z1 * z2, True, (1, 0), 1, False),  # phi(z1) sees z2
        (z1**3 * z2, False, (1, 0), 0, True),
        (sp.tanh(z1), False, (2, 0), 0, True),
        (sp.tanh(z1), True, (2, 0), 0, False),  # T(y) = y^2
        (sp.sign(z1) + z2, True, (2, 0), 0, True),  # sizes and signs are independent
        (sp.sign(z1) + z2, True, (3, 0), 0, False),
        (sp.sign(z1) + z2, True, (1, 0), 0, False),
        (sp.sign(z1 + 1) + z2, True, (2, 0), 0, False),
    ],
)
def test_symmetries_silence_what_they_may(target, every, index, learned, wanted):
    assert Symmetries.of(target, (z1, z2), every).silences(index, learned) is wanted
