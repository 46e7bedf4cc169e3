"""Declarations: one canonical form, and refusals that name the value and the way out."""

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.errors import BadParameter, InvalidCovariance, ShapeMismatch
from dmft.model import FIELD

Z = sp.Symbol("z", real=True)
X, B, C = sp.Symbol("x"), sp.Symbol("b", positive=True), sp.Symbol("c", real=True)
ERF = sp.erf(Z / sp.sqrt(2))


# Networks -----------------------------------------------------------------------------------------


def test_name_and_assumptions_of_the_field_do_not_matter():
    forms = [sp.erf(s / sp.sqrt(2)) for s in (Z, X, sp.Symbol("z"), sp.Symbol("u", positive=True))]
    committees = {dmft.Committee(f, 2) for f in forms}
    assert len(committees) == 1
    assert committees.pop().activation.free_symbols == {FIELD}


def test_parameters_of_an_activation_stay_symbols():
    assert dmft.Committee(sp.erf(B * Z), 2).parameters == {B}
    assert dmft.Committee(sp.erf(B * X), 2, field=X).activation == sp.erf(B * FIELD)
    # The field may be called like anything, as long as it is named.
    assert dmft.Committee(sp.erf(B * X), 2, field=B).parameters == {X}


@pytest.mark.parametrize(
    ("activation", "field", "says"),
    [
        (sp.erf(B * X), None, "field="),
        (sp.erf(Z), X, "does not depend"),
        (sp.erf(B * Z), B, "may not be called z"),
        (sp.Integer(2), None, "symbol"),
        (sp.I * Z, None, "not a real function"),
        (sp.true, None, "SymPy expression"),
        ("erf(z)", None, "SymPy expression"),
        (lambda z: z, None, "SymPy expression"),
    ],
)
def test_refused_activations(activation, field, says):
    with pytest.raises(BadParameter, match=says):
        dmft.Committee(activation, 2, field=field)


@pytest.mark.parametrize("width", [0, -1, 2.5, sp.Rational(1, 2), "4", None, True])
def test_refused_widths(width):
    with pytest.raises(BadParameter, match="width"):
        dmft.Committee(ERF, width)


def test_readouts():
    assert dmft.Committee(ERF, 2).readout is None
    committee = dmft.Committee(ERF, 2, [1, C])
    assert committee.readout == (1, C)
    assert committee.parameters == {C}
    assert dmft.Committee(ERF, 2, np.array([1.5, -1.0])).readout == (1.5, -1.0)
    with pytest.raises(ShapeMismatch, match="3 entries, expected width = 2"):
        dmft.Committee(ERF, 2, [1, 2, 3])
    with pytest.raises(BadParameter, match="numeric width"):
        dmft.Committee(ERF, sp.Symbol("width"), [1, 2])
    for rows in ([[1], [2]], np.ones((2, 1))):  # of two outputs
        with pytest.raises(ShapeMismatch, match="1 entries, expected width = 2"):
            dmft.Committee(ERF, 2, rows)
    for bad in (2.0, "ab"):
        with pytest.raises(BadParameter, match="sequence of numbers"):
            dmft.Committee(ERF, 2, bad)
    for bad in (sp.oo, sp.nan, sp.I):
        with pytest.raises(BadParameter, match="not a finite real number"):
            dmft.Committee(ERF, 2, [1, bad])


def test_declarations_are_values():
    first = dmft.Model(dmft.Committee(ERF, 2), dmft.Committee(ERF, 1), 0.1)
    again = dmft.Model(dmft.Committee(sp.erf(X / sp.sqrt(2)), 2), dmft.Committee(ERF, 1), 0.1)
    assert first == again
    assert hash(first) == hash(again)
    assert first != dmft.Model(dmft.Committee(ERF, 2), dmft.Committee(ERF, 1), 0.2)
    with pytest.raises(AttributeError):
        first.label_noise = 3
    assert dmft.SGD(0.5) == dmft.SGD(learning_rate=sp.Float(0.5))
    assert dmft.GradientFlow() != dmft.GradientFlow(constraint="sphere")


def test_matched_models():
    erf, square = dmft.Committee(ERF, 2), dmft.Committee(Z**2, 1)
    assert dmft.Model(erf, dmft.Committee(ERF, 3)).matched
    assert not dmft.Model(erf, square).matched
    with pytest.raises(BadParameter, match="teacher must be"):
        dmft.Model(erf, Z**2)


# Algorithms and noise -----------------------------------------------------------------------------


@pytest.mark.parametrize("value", [-1.0, sp.nan, sp.oo, sp.I, "0.5", None])
def test_refused_label_noise(value):
    erf = dmft.Committee(ERF, 2)
    with pytest.raises(BadParameter, match="label_noise"):
        dmft.Model(erf, erf, value)


@pytest.mark.parametrize("value", [0, 0.0, -0.1, float("nan"), float("inf"), "fast", True])
def test_refused_learning_rates(value):
    with pytest.raises(BadParameter, match="learning_rate"):
        dmft.SGD(value)


def test_refused_algorithms():
    for assumption in ("negative", "imaginary"):
        with pytest.raises(BadParameter, match="learning_rate must be"):
            dmft.SGD(sp.Symbol("e", **{assumption: True}))
    assert dmft.SGD(0.1, batch_size=np.int64(3)).batch_size == 3
    for size in (0, -3, 1.5, True):
        with pytest.raises(BadParameter, match="batch_size"):
            dmft.SGD(0.1, batch_size=size)
    for make in (lambda c: dmft.SGD(0.1, constraint=c), lambda c: dmft.GradientFlow(constraint=c)):
        with pytest.raises(BadParameter, match="constraint"):
            make("ball")
    assert dmft.SGD(sp.Symbol("eta") / 2).learning_rate == sp.Symbol("eta") / 2


# Starts -------------------------------------------------------------------------------------------


def test_overlaps_of_weights_are_accepted_and_copied():
    weights = np.random.default_rng(0).standard_normal((3, 2))  # rank 2: singular
    omega = weights @ weights.T
    Q = omega[:2, :2].copy()
    start = dmft.Overlaps(Q, omega[:2, 2:], omega[2:, 2:])
    Q[0, 0] = 99
    np.testing.assert_allclose(start.Omega, omega)
    assert (start.p, start.k) == (2, 1)
    np.testing.assert_array_equal(dmft.Overlaps(np.eye(2), np.zeros((2, 3))).P, np.eye(3))


@pytest.mark.parametrize(
    ("Q", "M", "P", "error", "says"),
    [
        ([[1, 0.5], [0.4, 1]], [[0], [0]], None, InvalidCovariance, r"Q\[0,1\] = 0.5"),
        ([[1, 2], [2, 1]], [[0], [0]], None, InvalidCovariance, "smallest eigenvalue -1"),
        ([[1]], [[2]], None, InvalidCovariance, "Omega"),
        ([[1]], [[0]], [[-1]], InvalidCovariance, "P"),
        ([[np.nan]], [[0]], None, InvalidCovariance, "not finite"),
        ([[1]], [[0, 0]], [[1]], ShapeMismatch, r"P has shape \(1, 1\), expected \(2, 2\)"),
        ([[1]], [0], None, ShapeMismatch, "M has shape"),
        ([[1, 0]], [[0]], None, ShapeMismatch, "square"),
        ([["a"]], [[0]], None, ShapeMismatch, "not an array of numbers"),
        ([[1j]], [[0]], None, ShapeMismatch, "complex"),
        (1.0, [[0]], None, ShapeMismatch, "square"),
    ],
)
def test_refused_overlaps(Q, M, P, error, says):
    with pytest.raises(error, match=says):
        dmft.Overlaps(Q, M, P)


def test_readout_of_a_start():
    assert dmft.Overlaps([[1]], [[0]], readout=[2]).readout.tolist() == [2.0]
    with pytest.raises(ShapeMismatch, match="readout"):
        dmft.Overlaps([[1]], [[0]], readout=[2, 3])
