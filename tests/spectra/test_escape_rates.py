"""Escape from the uninformed state with a spectrum: theory/structured_inputs (13)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sympy as sp
from scipy.optimize import brentq

import dmft
from dmft.workflow.diagrams.end_states import followed_point

z = sp.Symbol("z", real=True)
SQUARE = dmft.Committee(z**2, 1)
C, PHI, RHO = np.array([3.0, 1.0, 0.2]), np.array([0.2, 0.3, 0.5]), np.array([0.1, 0.5, 0.9])
P, CLOSED = float(C @ RHO), 4.0 * float(C**2 @ RHO)


def column(values: Any) -> np.ndarray:
    return np.asarray(values, dtype=float)[:, None, None]


LAW = dmft.Spectrum(C, PHI, teacher=column(RHO))
MODEL = dmft.Model(SQUARE, SQUARE, inputs=LAW)


def plateau(m: Any = (0.0, 0.0, 0.0)) -> dmft.Overlaps:
    """An uninformed state of gradient flow: any profile with Q = P/3."""
    q = PHI * np.array([1.0, 2.0, 0.5])
    return dmft.Overlaps(column(q * P / 3 / (C @ q)), column(m), column(RHO))


def test_the_closed_rate_is_that_of_the_derived_jacobian_and_of_a_run() -> None:
    assert float(dmft.escape_rate(MODEL)) == pytest.approx(CLOSED, rel=1e-12)
    equations = dmft.derive(MODEL, dmft.GradientFlow())
    modes = dmft.stability(equations, plateau())
    assert modes.growth_rate == pytest.approx(CLOSED, rel=1e-12)
    profile = modes.M[0, :, 0, 0].real
    assert np.allclose(profile / profile[0], C * RHO / (C * RHO)[0], rtol=1e-9)
    run = dmft.solve(equations, plateau(1e-5 * RHO), 1.2, save_at=[0.7, 1.2], atol=1e-14)
    grown = np.log(run.M[1, 0, 0] / run.M[0, 0, 0]) / 0.5
    assert grown == pytest.approx(CLOSED, rel=1e-3)


@pytest.mark.slow
def test_noise_of_the_steps_and_momentum() -> None:
    """The secular equation at the uninformed state of SGD; velocities in the limit of no noise."""
    gamma, noise = 0.05, float(C @ PHI)
    start = dmft.Overlaps(column(PHI * P / 3), column(np.zeros(3)), column(RHO))
    equations = dmft.derive(MODEL, dmft.SGD(gamma))
    point, *_ = dmft.fixed_points(equations, start)
    assert str(point.status) == "ok"
    q = point.overlaps.Q[:, 0, 0]
    assert np.allclose(q / PHI, q[0] / PHI[0], rtol=1e-9)
    Q = float(C @ q)
    plain = dmft.derive(dmft.Model(SQUARE, SQUARE), dmft.SGD(gamma * noise))
    alone, *_ = dmft.fixed_points(plain, dmft.Overlaps([[P / 3]], [[0.0]], [[P]]))
    assert pytest.approx(alone.overlaps.Q[0, 0], rel=1e-9) == Q
    D = 2.0 * (P - 3.0 * Q)
    rate = brentq(lambda x: 4.0 * np.sum(C**2 * RHO / (x - C * D)) - 1.0, 1e-6, CLOSED)
    assert dmft.stability(equations, point).growth_rate == pytest.approx(rate, rel=1e-8)
    kappa = 2.0
    ball = dmft.derive(MODEL, dmft.SGD(1e-12, momentum=dmft.Momentum(kappa)))
    slowed = (np.sqrt(kappa**2 + 4.0 * kappa * CLOSED) - kappa) / 2.0
    assert dmft.stability(ball, plateau()).growth_rate == pytest.approx(slowed, rel=1e-6)


def test_where_there_is_no_rate() -> None:
    third = dmft.Committee(z**3 - 3 * z, 1)
    one = dmft.Spectrum([2.0, 0.5], [0.3, 0.7], teacher=column([0.25, 1.0]))  # P = 1
    cases = [
        (dmft.Model(dmft.Committee(z, 1), dmft.Committee(z, 1)), "exponent is one"),
        (dmft.Model(third, third, inputs=one), "above two"),
        (dmft.Model(SQUARE, SQUARE, inputs=dmft.Spectrum([2.0], [1.0])), "no teacher"),
        (dmft.Model(dmft.Committee(z**2, 2), SQUARE), "one unit"),
    ]
    for model, words in cases:
        with pytest.raises(ValueError, match=words):
            dmft.escape_rate(model)


def test_a_followed_point_ends_where_newton_finds_none():
    """The unlearned state of two blocks, followed to a learning rate at which there is none."""
    two = dmft.Spectrum([2.0, 0.5], [0.3, 0.7], teacher=[[[0.5]], [[0.25]]])
    equations = dmft.derive(dmft.Model(SQUARE, SQUARE, inputs=two), dmft.SGD(0.02))
    start = dmft.Overlaps([[[0.1]], [[0.2]]], [[[0.0]], [[0.0]]], two.teacher)
    found = followed_point(equations, start, {"learning_rate": 0.01}, {"learning_rate": 0.2})
    assert "the uninformative fixed point followed from" in found.message
    last = float(found.message.split("near learning_rate = ")[1])

    def exists(rate):
        points = dmft.fixed_points(equations, start, learning_rate=rate)
        return any(p.status == "ok" and p.overlaps.Q.min() > 0 for p in points)

    assert exists(0.99 * last)
    assert not exists(1.01 * last)
