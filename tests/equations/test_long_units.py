"""Rates of erf units far longer than the teacher against Saad and Solla's forms in 60 digits."""

from __future__ import annotations

import mpmath as mp
import numpy as np
import pytest

import dmft

RATE, NOISE = 5.0, 0.3


def third(C):
    """E[erf'(x) y erf(z)] of erf(x / sqrt 2), their I3, for the covariance of x, y, z."""
    top = C[1][2] * (1 + C[0][0]) - C[0][1] * C[0][2]
    bottom = (1 + C[0][0]) * mp.sqrt((1 + C[0][0]) * (1 + C[2][2]) - C[0][2] ** 2)
    return 2 / mp.pi * top / bottom


def fourth(C):
    """E[erf'(x) erf'(y) erf(u) erf(v)], their I4."""
    kept = mp.matrix([[1 + C[0][0], C[0][1]], [C[0][1], 1 + C[1][1]]])

    def left(a, b):
        v, w = (mp.matrix([C[0][i], C[1][i]]) for i in (a, b))
        return C[a][b] - (v.T * kept**-1 * w)[0]

    angle = left(2, 3) / mp.sqrt((1 + left(2, 2)) * (1 + left(3, 3)))
    return 4 / mp.pi**2 / mp.sqrt(mp.det(kept)) * mp.asin(angle)


def published_rates(length, overlap):
    """dQ/dt and dM/dt of one unit, to the working precision."""
    C = [[mp.mpf(length) ** 2, mp.mpf(overlap)], [mp.mpf(overlap), mp.mpf(1)]]

    def of(function, *fields):
        return function([[C[i][j] for j in fields] for i in fields])

    student, teacher = 0, 1
    dM = of(third, student, teacher, teacher) - of(third, student, teacher, student)
    dQ = 2 * (of(third, student, student, teacher) - of(third, student, student, student))
    square = sum(sign * of(fourth, 0, 0, a, b) for a, b, sign in ((0, 0, 1), (0, 1, -2), (1, 1, 1)))
    own = 2 / mp.pi / mp.sqrt(1 + 2 * C[0][0])
    return dQ + RATE * (square + mp.mpf(NOISE) * own), dM


@pytest.mark.cases(2)
@pytest.mark.parametrize("length", [1.0, 10.0, 1e2, 1e3, 1e4])
def test_rounding_grows_with_the_variance_only(length):
    """Not with its square, as in differences of conditional covariances."""
    equations = dmft.derive(dmft.literature.saad_solla(1), dmft.SGD(RATE))
    overlap = length - 0.5 if length > 1 else 0.5
    start = dmft.Overlaps([[length**2]], [[overlap]])
    problem, out = dmft.build(equations), np.empty(2)
    parameters = {"learning_rate": RATE, "label_noise": NOISE}
    one = np.ones(1)
    par = problem.pack_parameters(
        parameters, {"P": np.eye(1), "readout": one, "teacher_readout": one}
    )
    problem.rhs(0.0, np.array([length**2, overlap]), np.array([1, 1]), par, out)
    reference = equations.evaluate(start, **parameters)
    with mp.workdps(60):
        exact = [float(rate) for rate in published_rates(length, overlap)]
    allowed = 30 * np.finfo(float).eps * (1 + length**2)
    np.testing.assert_allclose(out, exact, rtol=allowed)
    np.testing.assert_allclose([reference["Q"].item(), reference["M"].item()], exact, rtol=allowed)
