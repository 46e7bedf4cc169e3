"""Errors that tables of token averages state, against quadrature of one field."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.errors import BadParameter

a, b, c = sp.symbols("a b c", real=True)


def average(f, mean=0.0):
    """E f(z + mean), by a fine sum."""
    step = 1e-4
    z = step * np.arange(-100_000, 100_001)
    weights = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi) * step
    return float(weights @ f(z + mean))


def test_averages_that_vanish_are_no_reason_to_refuse():
    """E tanh(h*_1 + h*_2) h*_3 (tanh(h_1) h_2 + h_3) is zero by symmetry: its table is noise."""
    student = dmft.SequenceTarget(sp.tanh(a) * b + c, [a, b, c])
    target = dmft.SequenceTarget(sp.tanh(a + b) * c, [a, b, c])
    risk = dmft.population_risk(dmft.Model(student, target, encoding=[1, 0, -1]))
    e = 0.4
    own = average(lambda z: np.tanh(z) ** 2, e) + 1 + e**2
    other = average(lambda z: np.tanh(np.sqrt(2) * z) ** 2)
    value = risk(e=e, m=0.5)
    assert abs(value - (own + other) / 2) <= risk.bound < 1e-7


def peaked(width):
    """Model of a target with a ridge along a = b."""
    f = 1 / (width**2 + (a - b) ** 2)
    return dmft.Model(dmft.SequenceTarget(a * b, [a, b]), dmft.SequenceTarget(f, [a, b]))


@pytest.mark.parametrize("width", [0.5, 0.3, 0.2])
def test_steep_functions_of_differences(width):
    """Nodes that move together do not see their own distance: the axes are shifted apart."""
    risk = dmft.population_risk(peaked(width))
    square = average(lambda z: 1 / (width**2 + 2 * z**2) ** 2)
    # E z1 z2 f is minus a half of E (u^2 - 1) f, u the difference over sqrt(2).
    cross = -average(lambda z: (z**2 - 1) / (width**2 + 2 * z**2)) / 2
    for m in (0.0, 0.7):
        exact = 0.5 + square / 2 - m**2 * cross
        assert abs(risk(m=m) - exact) <= 1.1 * risk.bound + 1e-12 * square


def test_functions_steeper_than_the_nodes_are_refused():
    with pytest.raises(BadParameter, match="varies too fast"):
        dmft.population_risk(peaked(0.05))(m=0.4)


@pytest.mark.parametrize("f", [sp.exp(a * b), sp.exp(a**2 / 2), 1 / (a - sp.Rational(1, 10))])
def test_what_is_not_square_integrable_is_refused(f):
    """Sums over nodes have a value for it, which says nothing."""
    model = dmft.Model(dmft.SequenceTarget(a * b, [a, b]), dmft.SequenceTarget(f, [a, b]))
    with pytest.raises(BadParameter, match="varies too fast"):
        dmft.population_risk(model)(m=0.4)
