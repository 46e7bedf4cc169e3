"""Kinks inside kinks, and several steps of one field, against panels that end at the kinks."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp

import dmft

x, y, z = sp.symbols("x y z", real=True)
KINKS = np.array([-14.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 14.0])
T, W = np.polynomial.legendre.leggauss(60)


def line():
    half = np.diff(KINKS) / 2
    points = ((KINKS[1:] + KINKS[:-1]) / 2)[:, None] + half[:, None] * T
    return points.ravel(), (half[:, None] * W).ravel()


def clip(t):
    return sp.Min(1, sp.Max(-1, t))


def stairs(t):
    return sp.Piecewise(*[(k * t, t < k) for k in range(-3, 3)], (t, True))


FACTORS = {
    "hard tanh": clip,
    "hat": lambda t: sp.Max(0, 1 - sp.Abs(t)),
    "folded": lambda t: sp.Abs(sp.Abs(sp.Abs(t) - 1) - 2),
    "stairs": stairs,
    "squared stairs": lambda t: stairs(t) ** 2,
    "three steps": lambda t: sp.sign(t**3 - t),
    "window": lambda t: sp.Piecewise((1, sp.Abs(t) < 1), (0, True)),
    "square": lambda t: t**2,
}
PAIRS = [("hard tanh", "hard tanh"), ("hat", "square"), ("folded", "hat"), ("stairs", "stairs"),
         ("squared stairs", "square"), ("three steps", "window"),
         ("window", "hard tanh")]  # fmt: skip


@pytest.mark.cases(3)
@pytest.mark.parametrize("names", PAIRS)
@pytest.mark.parametrize("mean", [(0.0, 0.0), (0.25, -0.5)])
def test_pairs_against_split_panels(names, mean):
    f, g = (FACTORS[name] for name in names)
    rho, wide = 0.6, 1.5
    law = dmft.Gaussian([x, y], [[1.0, rho], [rho, wide]], mean)
    points, weights = line()
    first, second = (sp.lambdify(x, h(x), "numpy")(points) for h in (f, g))
    u, v, gap = points[:, None] - mean[0], points[None] - mean[1], wide - rho**2
    action = (wide * u**2 - 2 * rho * u * v + v**2) / (2 * gap)
    density = np.exp(-action) / (2 * np.pi * np.sqrt(gap))
    exact = (weights * first) @ density @ (weights * second)
    size = np.sqrt(
        (weights * first**2) @ density @ weights * ((weights @ density) @ (weights * second**2))
    )
    assert abs(float(law.expect(f(x) * g(y))) - exact) < 1e-12 * size


def test_largest_of_three_fields():
    """E max of three independent normal numbers is 3 / (2 sqrt(pi))."""
    law = dmft.Gaussian([x, y, z], np.eye(3))
    assert float(law.expect(sp.Max(x, y, z))) == pytest.approx(1.5 / np.sqrt(np.pi), rel=1e-14)


def test_hard_tanh_committee_against_samples():
    """Activations of nested kinks had no derivative, and no model."""
    t = sp.Symbol("t", real=True)
    model = dmft.Model(dmft.Committee(clip(t), 2), dmft.Committee(clip(t), 1))
    Q, M = np.array([[1.0, 0.3], [0.3, 1.2]]), np.array([[0.4], [0.2]])
    C = np.block([[Q, M], [M.T, np.eye(1)]])
    sample = np.random.default_rng(0).standard_normal((100_000, 3)) @ np.linalg.cholesky(C).T
    s = np.clip(sample, -1, 1)
    gap = s[:, 2] - (s[:, 0] + s[:, 1]) / 2
    pull = (np.abs(sample[:, 0]) < 1) * gap
    found = dmft.derive(model, dmft.GradientFlow()).evaluate(dmft.Overlaps(Q, M))
    risk = dmft.population_risk(model)(Q=Q, M=M)
    for value, terms in ((risk, gap**2 / 2), (found["M"][0, 0], pull * sample[:, 2]),
                         (found["Q"][0, 0], 2 * pull * sample[:, 0])):  # fmt: skip
        assert abs(value - terms.mean()) < 4.5 * terms.std() / np.sqrt(terms.size)


SAME = [[1, 1], [1, 1]]
FIXED = [[0, 0], [0, 1]]


@pytest.mark.parametrize(
    ("cov", "mean", "expr", "exact"),
    [
        (SAME, (0, 0), sp.sign(x - y) ** 2, 0),
        (SAME, (0, 0), sp.Piecewise((1, x >= y), (0, True)), 1),
        (SAME, (0, 0), sp.Piecewise((1, x > y), (y**2 + 1, True)), 2),
        (SAME, (0, 0), sp.Piecewise((3, sp.Eq(x, y)), (0, True)), 3),
        (FIXED, (2, 0), sp.Piecewise((y**2, x >= 2), (5, True)), 1),
        (FIXED, (2, 0), sp.Piecewise((y**2, x > 2), (5, True)), 5),
        (FIXED, (0, 0), sp.sign(x) ** 2 + sp.Heaviside(x), sp.Rational(1, 2)),
    ],
)
def test_switches_that_do_not_vary_take_their_value(cov, mean, expr, exact):
    """Where a switching function has no variance, its zero set has weight."""
    assert dmft.Gaussian([x, y], cov, mean).expect(expr) == exact
