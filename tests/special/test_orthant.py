"""Averages of four signs: one-dimensional integrals, exact planar cases, coinciding fields."""

from itertools import product

import mpmath
import numpy as np
import pytest
import sympy as sp

from dmft.gaussian import Gaussian
from dmft.gaussian.orthant import FourSigns
from dmft.special.orthant import (
    four_signs,
    four_signs_moment,
    four_signs_of,
    pair_of_signs_moment,
)

UPPER = np.triu_indices(4)
C = np.array(
    [[0.9, 0.3, 0.25, -0.1], [0.3, 1.2, -0.4, 0.35], [0.25, -0.4, 0.7, 0.2], [-0.1, 0.35, 0.2, 1]]
)


def pair_arguments(C):
    """Arguments of E[x y sign(u) sign(v)] with u, v, x, y = fields 0, 1, 2, 3."""
    return C[0, 0], C[1, 1], C[0, 1], C[2, 0], C[2, 1], C[3, 0], C[3, 1], C[2, 3]


@pytest.mark.parametrize("gap", [0.5, 0.1, 1e-2, 1e-3, 1e-5, 1e-7, 1e-9])
def test_equicorrelated_fields_are_a_one_dimensional_integral(gap):
    # x_i = sqrt(rho) z + sqrt(1 - rho) e_i: P_4 = E[Phi(b z)^4], b^2 = rho / (1 - rho).
    rho = 1.0 - gap
    with mpmath.workdps(30):
        b = mpmath.sqrt(mpmath.mpf(rho) / (1 - mpmath.mpf(rho)))
        edges = sorted({-12, -4, -1, 0, 1, 4, 12, *(s * k / b for s in (-1, 1) for k in (1, 4, 9))})
        quadruple = mpmath.quad(lambda z: mpmath.npdf(z) * (2 * mpmath.ncdf(b * z) - 1) ** 4, edges)
    value = four_signs_of(np.full((4, 4), rho) + gap * np.eye(4))
    assert value == pytest.approx(float(quadruple), abs=1e-12 if gap > 1e-4 else 1e-9)


def test_compiled_value_equals_mpmath_for_random_covariances():
    generator = np.random.default_rng(11)
    for scale in (1e-3, 1.0, 1e3):
        A = generator.standard_normal((4, 4)) * scale
        cov = A @ A.T
        exact = float(FourSigns(*map(sp.Float, cov[UPPER])).evalf(15))
        assert four_signs(*cov[UPPER]) == pytest.approx(exact, abs=1e-12)


def test_planar_fields_are_a_mean_over_the_circle():
    # Fields n_i . g with g in the plane: the sign product is constant on sectors.
    angles = np.array([0.3, 1.1, 2.0, 2.9])
    normals = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    edges = np.sort(np.concatenate([angles + np.pi / 2, angles - np.pi / 2]) % (2 * np.pi))
    widths = np.diff(np.append(edges, edges[0] + 2 * np.pi))
    middle = edges + widths / 2
    rays = np.stack([np.cos(middle), np.sin(middle)])
    signs = np.prod(np.sign(normals @ rays), axis=0)
    truth = float(signs @ widths) / (2 * np.pi)
    assert four_signs_of(normals @ normals.T) == pytest.approx(truth, abs=1e-8)

    # E[|x3||x4| s1 s2]: E r^2 = 2 times the mean of the bilinear form over the circle.
    def primitive(t):
        a, b = angles[2], angles[3]
        return 0.5 * (t * np.cos(a - b) + 0.5 * np.sin(2 * t - a - b))

    parts = primitive(edges + widths) - primitive(edges)
    truth = 2 * float(signs @ parts) / (2 * np.pi)
    cov = normals @ normals.T
    assert four_signs_moment(*cov[UPPER]) == pytest.approx(truth, abs=1e-7)


@pytest.mark.parametrize("labels", list(product(range(3), repeat=4)))
def test_coinciding_fields_reduce_to_fewer(labels):
    cov = C[np.ix_(labels, labels)]
    a, b, u, v = (sp.Symbol(f"x{n}", real=True) for n in labels)
    law = Gaussian(sp.symbols("x0:3", real=True), C[:3, :3])
    expected = float(law.expect(sp.sign(a) * sp.sign(b) * sp.Abs(u) * sp.Abs(v)))
    assert four_signs_moment(*cov[UPPER]) == pytest.approx(expected, abs=1e-14)
    expected = float(law.expect(sp.sign(a) * sp.sign(b) * u * v))
    assert pair_of_signs_moment(*pair_arguments(cov)) == pytest.approx(expected, abs=1e-14)
    # Rounding of the scaled covariances tilts parallel fields by the root of an ulp.
    turned = np.diag([1.0, -2.0, 3.0, -0.5])
    scaled = turned @ cov @ turned
    factor = -1.0 * 3.0 * 0.5
    moment = four_signs_moment(*cov[UPPER])
    assert four_signs_moment(*scaled[UPPER]) == pytest.approx(factor * moment, abs=1e-7)


def test_four_distinct_fields_against_samples():
    half = np.random.default_rng(3).standard_normal((4, 1_000_000))
    x = np.linalg.cholesky(C) @ half
    for value, sample in (
        (four_signs_of(C), np.sign(x[0] * x[1] * x[2] * x[3])),
        (four_signs_moment(*C[UPPER]), np.sign(x[0] * x[1]) * np.abs(x[2] * x[3])),
        (pair_of_signs_moment(*pair_arguments(C)), np.sign(x[0] * x[1]) * x[2] * x[3]),
    ):
        assert abs(value - sample.mean()) < 5 * sample.std() / 1000


def test_nearly_coinciding_fields_stay_accurate():
    for gap in (1e-6, 1e-9, 1e-12, 1e-15):
        A = np.linalg.cholesky(C)
        A[1] = A[0] + gap * A[1]
        A[3] = -A[2] + gap * A[3]
        exact = C[np.ix_([0, 0, 2, 2], [0, 0, 2, 2])] * np.outer([1, 1, 1, -1], [1, 1, 1, -1])
        value = four_signs_moment(*(A @ A.T)[UPPER])
        # The functions move linearly (times a logarithm) in the distance of the fields.
        assert value == pytest.approx(four_signs_moment(*exact[UPPER]), abs=10 * gap + 1e-7)
