"""Every closed form against balls that provably contain the truth, at 24 rational covariances.

Two judgements: the exact value at the rational covariance, evaluated to 30 digits, lies in the
ball; the value at the same covariance in floats is within 1e-14 of sqrt(E f^2 E g^2), or near
parallel fields within the effect of rounding the covariance.
"""

import math
from functools import cache

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.gaussian.closed.product import product_expectation
from dmft.model import FIELD
from dmft.special.orthant import four_signs, four_signs_moment

pytestmark = pytest.mark.certify
flint = pytest.importorskip("flint", reason="python-flint is not installed (extra certify)")

R = sp.Rational
X = x, y, w, v = sp.symbols("x y w v", real=True)
z = FIELD

FAMILIES = {
    "sign": sp.sign(z),
    "heaviside": sp.Heaviside(z),
    "abs": sp.Abs(z),
    "relu": sp.Max(0, z),
    "leaky": sp.Max(z / 10, z),
    "relu2": sp.Max(0, z) ** 2,
    "relu3": sp.Max(0, z) ** 3,
    "cdf": (1 + sp.erf(z / sp.sqrt(2))) / 2,
    "cdf_shifted": (1 + sp.erf((z + R(1, 2)) / sp.sqrt(2))) / 2,
    "erf": sp.erf(2 * z),
    "exp": sp.exp(z / 2),
    "cosh": sp.cosh(z / 3),
    "sin": sp.sin(z),
    "cos": sp.cos(z),
    "bump": sp.exp(-(z**2)),
    "he3": z**3 - 3 * z,
    "quartic": z**4 - z**2,
}
MIXED = [
    ("relu", "erf"), ("sign", "he3"), ("relu", "sign"), ("heaviside", "relu"), ("abs", "cos"),
    ("bump", "relu"), ("erf", "quartic"), ("relu2", "erf"), ("exp", "relu"), ("sin", "sign"),
    ("cdf_shifted", "relu"), ("cosh", "bump"), ("cdf", "heaviside"), ("leaky", "abs"),
    ("relu3", "he3"), ("sin", "exp"),
]  # fmt: skip
PAIRS = [(name, name) for name in FAMILIES] + MIXED
GAPS = [R(1, 2**10), R(1, 2**20), R(1, 2**30), R(1, 2**40)]


def covariances():
    """24 pairs in dyadic fractions, so that floats hold them exactly: plain, singular, parallel."""
    rng = np.random.default_rng(3)
    found = []
    for _ in range(12):
        q, r = (R(int(k), 16) for k in rng.integers(4, 48, 2))
        bound = math.isqrt(int(q * r * 256))
        found.append((q, R(int(rng.integers(-bound, bound + 1)), 16), r))
    found += [(R(1), R(2), R(4)), (R(1, 4), R(-1, 4), R(1, 4)), (R(2), R(1), R(1, 2))]
    found += [(R(1), side * (1 - gap), R(1)) for gap in GAPS for side in (1, -1)]
    return [*found, (R(1, 2**20), R(0), R(3, 2))]


COVARIANCES = covariances()


@cache
def size(name, variance):
    """sqrt(E f^2) from its own certificate."""
    law = dmft.Gaussian([x], [[variance]])
    return math.sqrt(float(dmft.certify(FAMILIES[name].xreplace({z: x}) ** 2, law)))


@pytest.mark.cases(16)
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_pairs(pair):
    first, second = (FAMILIES[name] for name in pair)
    expr = first.xreplace({z: x}) * second.xreplace({z: y})
    judged = 0
    for q, m, r in COVARIANCES:
        law = dmft.Gaussian([x, y], [[q, m], [m, r]])
        proof = dmft.certify(expr, law)
        scale = size(pair[0], q) * size(pair[1], r)
        assert proof.radius <= 1e-14 * scale
        exact = law.expect(expr)
        assert proof.contains(sp.N(exact, 30), slack=1e-25 * scale), (q, m, r)
        plain = dmft.Gaussian([x, y], [[float(q), float(m)], [float(m), float(r)]])
        gap = float(1 - m**2 / (q * r))
        rounding = 1e-14 + (2e-16 / math.sqrt(gap) if gap else 0.0)
        assert proof.contains(float(plain.expect(expr)), slack=rounding * scale), (q, m, r)
        judged += 1
    assert judged == 24


@pytest.mark.parametrize("name", [n for n in FAMILIES if n not in ("sin", "cos")])
def test_nonzero_means(name):
    expr = FAMILIES[name].xreplace({z: x}) * sp.Max(0, y)
    for i, (q, m, r) in enumerate(COVARIANCES):
        if i % 3 == 0:
            mean = [R(1, 4), R(-1, 2)] if i % 2 else [0, 1]
            law = dmft.Gaussian([x, y], [[q, m], [m, r]], mean)
            assert dmft.certify(expr, law).contains(sp.N(law.expect(expr), 18), slack=1e-14)


def matrices():
    """24 covariances of four fields with dyadic entries: ranks 2 to 4, and nearly parallel."""
    rng = np.random.default_rng(5)
    found = []
    for rank in (4, 4, 4, 3, 3, 2):
        for _ in range(3):
            A = sp.Matrix(4, rank, lambda *_: R(int(rng.integers(-6, 7)), 4))
            while min((A * A.T)[i, i] for i in range(4)) == 0:
                A = sp.Matrix(4, rank, lambda *_: R(int(rng.integers(-6, 7)), 4))
            found.append(A * A.T)
    for gap in (R(1, 2**10), R(1, 2**20)):
        B = sp.Matrix([[2, 2, 0, 1], [2, 2 + gap, 0, 1], [0, 0, 1, R(1, 2)], [1, 1, R(1, 2), 1]])
        found += [B, B[[0, 2, 1, 3], [0, 2, 1, 3]], B[[2, 3, 0, 1], [2, 3, 0, 1]]]
    return found


MATRICES = matrices()
UPPER = [(i, j) for i in range(4) for j in range(i, 4)]


def entries(C):
    return [float(C[i, j]) for i, j in UPPER]


def test_four_signs():
    for C in MATRICES:
        proof = dmft.certify(sp.sign(x) * sp.sign(y) * sp.sign(w) * sp.sign(v), dmft.Gaussian(X, C))
        assert proof.contains(four_signs(*entries(C)), slack=1e-12), C


def test_four_signs_moment():
    """The core of the quadratic term of ReLU networks."""
    for C in MATRICES:
        proof = dmft.certify(sp.sign(x) * sp.sign(y) * sp.Abs(w) * sp.Abs(v), dmft.Gaussian(X, C))
        size = math.sqrt(float(C[2, 2] * C[3, 3]))
        assert proof.contains(four_signs_moment(*entries(C)), slack=1e-11 * size), C


FOUR_ERF = {
    "four erf": [sp.erf(z / sp.sqrt(2))] * 4,
    "two erf and two signs": [sp.erf(z / sp.sqrt(2))] * 2 + [sp.sign(z)] * 2,
    "quadratic term": [sp.exp(-(z**2) / 2)] * 2 + [sp.erf(z / sp.sqrt(2))] * 2,
    "cubic teacher": [sp.exp(-(z**2) / 2)] * 2 + [z**3 - 3 * z, sp.erf(z / sp.sqrt(2))],
    "relu with polynomials": [sp.Max(0, z), sp.Max(0, z), z**2, z],
    "three relu": [sp.Max(0, z), sp.Max(0, z), sp.Max(0, z)],
}  # fmt: skip


@pytest.mark.cases("three relu", "cubic teacher")
@pytest.mark.parametrize("name", FOUR_ERF)
def test_three_and_four_fields(name):
    factors = FOUR_ERF[name]
    fields = X[: len(factors)]
    expr = sp.Mul(*[f.xreplace({z: s}) for f, s in zip(factors, fields, strict=True)])
    for C in MATRICES:
        law = dmft.Gaussian(X, C)
        value = product_expectation(factors, range(len(factors)), lambda i, j, C=C: C[i, j])
        proof = dmft.certify(expr, law)
        assert proof.contains(sp.N(value, 18), slack=1e-15 * max(1, abs(proof.mid))), C


def test_the_judge_condemns():
    """A sign flipped in a closed form, or a digit, is outside the ball."""
    law = dmft.Gaussian([x, y], [[R(9, 8), R(1, 2)], [R(1, 2), 2]])
    for f in ("relu", "erf", "relu2", "cdf"):
        expr = FAMILIES[f].xreplace({z: x}) * FAMILIES[f].xreplace({z: y})
        proof, exact = dmft.certify(expr, law), sp.N(law.expect(expr), 30)
        assert proof.contains(exact)
        assert not proof.contains(-exact)
        assert not proof.contains(exact * (1 + R(1, 10**14)))
