"""Averages of four signs: one-dimensional integrals, exact planar cases, coinciding fields."""

from itertools import product

import mpmath
import numpy as np
import pytest
import sympy as sp

from dmft.gaussian.closed.orthant import FourSigns, FourSignsMoment
from dmft.gaussian.expectation import Gaussian
from dmft.special import orthant
from dmft.special.orthant import (
    four_signs,
    four_signs_moment,
    four_signs_of,
    four_signs_table,
    pair_of_signs_moment,
)

UPPER = np.triu_indices(4)
C = np.array(
    [[0.9, 0.3, 0.25, -0.1], [0.3, 1.2, -0.4, 0.35], [0.25, -0.4, 0.7, 0.2], [-0.1, 0.35, 0.2, 1]]
)


def pair_arguments(C):
    """Arguments of E[x y sign(u) sign(v)] with u, v, x, y = fields 0, 1, 2, 3."""
    return C[0, 0], C[1, 1], C[0, 1], C[2, 0], C[2, 1], C[3, 0], C[3, 1], C[2, 3]


@pytest.mark.cases(3)
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
    assert four_signs_of(normals @ normals.T) == pytest.approx(truth, abs=1e-14)

    # E[|x3||x4| s1 s2]: E r^2 = 2 times the mean of the bilinear form over the circle.
    def primitive(t):
        a, b = angles[2], angles[3]
        return 0.5 * (t * np.cos(a - b) + 0.5 * np.sin(2 * t - a - b))

    parts = primitive(edges + widths) - primitive(edges)
    truth = 2 * float(signs @ parts) / (2 * np.pi)
    cov = normals @ normals.T
    assert four_signs_moment(*cov[UPPER]) == pytest.approx(truth, abs=1e-14)


@pytest.mark.cases(27)
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
    half = np.random.default_rng(3).standard_normal((4, 100_000))
    x = np.linalg.cholesky(C) @ half
    for value, sample in (
        (four_signs_of(C), np.sign(x[0] * x[1] * x[2] * x[3])),
        (four_signs_moment(*C[UPPER]), np.sign(x[0] * x[1]) * np.abs(x[2] * x[3])),
        (pair_of_signs_moment(*pair_arguments(C)), np.sign(x[0] * x[1]) * x[2] * x[3]),
    ):
        assert abs(value - sample.mean()) < 5 * sample.std() / np.sqrt(sample.size)


def test_nearly_coinciding_fields_stay_accurate():
    for gap in (1e-6, 1e-9, 1e-12, 1e-15):
        A = np.linalg.cholesky(C)
        A[1] = A[0] + gap * A[1]
        A[3] = -A[2] + gap * A[3]
        exact = C[np.ix_([0, 0, 2, 2], [0, 0, 2, 2])] * np.outer([1, 1, 1, -1], [1, 1, 1, -1])
        value = four_signs_moment(*(A @ A.T)[UPPER])
        # The functions move linearly (times a logarithm) in the distance of the fields.
        assert value == pytest.approx(four_signs_moment(*exact[UPPER]), abs=10 * gap + 1e-7)


KINDS = {
    "generic": lambda g, h: g.standard_normal((4, 4)),
    "two parallel": lambda g, h: _moved(g.standard_normal((4, 4)), [(1, 0)], h),
    "parallel pairs": lambda g, h: _moved(g.standard_normal((4, 4)), [(1, 0), (3, 2)], h),
    "all parallel": lambda g, h: 1.0 + h * g.standard_normal((4, 4)),
    "coplanar three": lambda g, h: _moved(g.standard_normal((4, 4)), [(2, 0, 1)], h),
    "coplanar four": lambda g, h: (
        g.standard_normal((4, 2)) @ g.standard_normal((2, 4)) + h * g.standard_normal((4, 4))
    ),
}


def _moved(A, rows, h):
    """Rows replaced by the sum of others and `h` times themselves."""
    for row, *others in rows:
        A[row] = h * A[row] + A[others].sum(axis=0)
    return A


def exact_moment(A):
    """E[|x3| |x4| sign(x1) sign(x2)] by Stein and Plackett at 40 digits, from the factor."""
    with mpmath.workdps(40):
        M = mpmath.matrix(A.tolist())
        entries = [sp.Float((M * M.T)[int(i), int(j)], 40) for i, j in zip(*UPPER, strict=True)]
        return float(FourSignsMoment(*entries).formula().evalf(15))


@pytest.mark.cases(1)
@pytest.mark.parametrize("h", [3e-2, pytest.param(1e-5, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_moment_of_nearly_degenerate_fields_is_as_exact_as_its_data(kind, h):
    generator = np.random.default_rng(7)
    A = KINDS[kind](generator, h)
    cov = A @ A.T
    scale = np.sqrt(cov[2, 2] * cov[3, 3])
    # Rounding the covariance turns nearly parallel fields by 1e-16 / h; coplanar ones are regular.
    noise = 1e-14 + (3e-16 / h if "parallel" in kind else 0.0)
    assert four_signs_moment(*cov[UPPER]) == pytest.approx(exact_moment(A), abs=noise * scale)


def test_gauss_rules_agree_with_the_rule_for_the_edge():
    generator = np.random.default_rng(2)
    used = set()
    for n in range(3000):
        h = 10.0 ** generator.uniform(-3, 0.5)
        A = list(KINDS.values())[n % 6](generator, h)
        cov, work = A @ A.T, np.empty((4, 4, 4))
        R, G, P = work[:3]
        assert orthant._correlations(cov, R, G) == -1
        field = orthant._most_singular_three(R, G)
        fields, parts = orthant._factor(R, G, field, P)
        value = orthant._four(R, G, P, fields, parts)
        a, b, c, f = fields
        lines = tuple(
            (R[f, x], G[f, x], start, -parts[0] * P[y, z])
            for (x, y, z), start in zip(((a, b, c), (b, a, c), (c, a, b)), parts[2:], strict=True)
        )
        v = parts[0] / parts[1]
        edge = orthant._to_edge(v, np.sqrt(parts[1]), lines) * 4 / np.pi**2
        assert value == pytest.approx(edge, abs=3e-14)
        two = min(orthant._given(R, G, f, *x) for x in ((a, b), (a, c), (b, c)))
        used.add(orthant._rule(v, max(two, v))[1])
    assert used == {0, *orthant.SIZES}


@pytest.mark.parametrize("students", [1, 2, 4])
def test_tables_hold_the_averages_of_all_quadruples(students):
    rows = np.random.default_rng(4).standard_normal((6, 6))
    rows[3], rows[5] = -2.0 * rows[0], rows[1] + rows[2]  # antiparallel and coplanar fields
    cov = rows @ rows.T
    signs, moments = np.full((2, students, students, 6, 6), np.nan)
    four_signs_table(cov, students, 0, signs)
    four_signs_table(cov, students, 1, moments)
    for labels in product(range(students), range(students), range(6), range(6)):
        part = cov[np.ix_(labels, labels)]
        # Both name coinciding fields apart, and may differ by the rounding that makes them.
        assert signs[labels] == pytest.approx(four_signs_of(part), abs=1e-14)
        assert moments[labels] == pytest.approx(four_signs_moment(*part[UPPER]), abs=1e-13)
