"""The unsquared Frobenius loss of the two-token attention, against sums of other kinds."""

import functools

import numpy as np
import pytest
from scipy.special import ndtri
from scipy.stats import qmc

from dmft.analysis.landscape import landscape
from dmft.literature import positional_semantic_boundaries, positional_semantic_risk
from dmft.literature import two_token_unsquared as unsquared
from dmft.literature.two_token_unsquared import _independent


def fields(power=18, seed=0):
    """Quasi-random Gaussian z and h* in the plane."""
    uniform = qmc.Sobol(4, seed=seed).random(2**power)
    normal = ndtri(np.clip(uniform, 1e-12, 1 - 1e-12))
    return normal[:, :2], normal[:, 2:]


def distance(h, h_star, a, omega):
    """Norm of the difference of the two attention matrices, by softmax over four entries."""

    def softmax(x, y):
        scores = np.stack([x[:, 0] * y[:, 0], x[:, 0] * y[:, 1]], axis=-1)
        scores = np.stack([scores, np.stack([x[:, 1] * y[:, 0], x[:, 1] * y[:, 1]], -1)], axis=1)
        powers = np.exp(scores - scores.max(axis=2, keepdims=True))
        return powers / powers.sum(axis=2, keepdims=True)

    fixed = np.exp(a**2 * np.array([[1, -1], [-1, 1]]))
    fixed /= fixed.sum(axis=1, keepdims=True)
    error = softmax(h, h) - (1 - omega) * softmax(h_star, h_star) - omega * fixed
    return np.sqrt((error**2).sum(axis=(1, 2)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("e", "m", "a", "omega"), [(0.3, 0.5, 1.0, 0.6), (0.0, 1.0, 0.9, 0.8), (0.8, -0.6, 0.8, 0.3)]
)
def test_values(e, m, a, omega):
    z, h_star = fields()
    h = m * h_star + np.sqrt(1 - m * m) * z + e * np.array([1, -1])
    expected = distance(h, h_star, a, omega).mean()
    risk = positional_semantic_risk(a, omega, loss="frobenius")
    assert risk(e, m) == pytest.approx(expected, abs=1e-4)
    np.testing.assert_allclose(risk([e, -e], [m, -m]), risk(e, m), atol=1e-4)


@pytest.mark.slow
def test_extreme_targets(monkeypatch):
    monkeypatch.setattr(unsquared, "STEP", 0.25)  # sums to 1e-3 will do
    curves = positional_semantic_boundaries([0.0, 0.1, 20.0, -20.0], loss="frobenius")
    assert np.isinf(curves.semantic[:2]).all()
    assert np.isinf(curves.equal[:2]).all()
    # alpha = 1 - exp(-2 a^2) has no more to change beyond a = 5.
    assert 0.43 < curves.semantic[2] < 0.45
    for name in ("semantic", "positional", "equal", "direction"):
        values = getattr(curves, name)
        assert values[2] == values[3] < 0.6


@functools.cache
def boundaries(a):
    return positional_semantic_boundaries(a, loss="frobenius")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("a", "direction", "positional", "semantic", "equal"),
    [
        pytest.param(0.76, 0.9171, np.inf, 0.9708, 0.9725, marks=pytest.mark.slow),
        (0.9, 0.7144, 0.6628, 0.8555, 0.8068),
    ],
)
def test_boundaries_are_those_of_the_text(a, direction, positional, semantic, equal):
    # theory/sequence D.8 gives these to three or four digits.
    curves = boundaries(a)
    np.testing.assert_allclose(curves.direction, direction, atol=2e-4)
    np.testing.assert_allclose(curves.positional, positional, atol=2e-4)
    np.testing.assert_allclose(curves.semantic, semantic, atol=2e-4)
    np.testing.assert_allclose(curves.equal, equal, atol=6e-4)


@pytest.mark.slow
def test_boundaries_against_sums_at_random_points():
    # The scores of the Gaussian law on quasi-random points, at the boundary found, decide.
    a = 0.9
    curves = boundaries(a)
    z, h_star = fields(19)
    v = z[:, 0] - z[:, 1]
    second_m = ((z * h_star).sum(1)) ** 2 - (z**2).sum(1) - (h_star**2).sum(1) + 2
    slopes, gaps = [], []
    shift = np.array([1, -1])
    for name, score, e in (
        ("direction", v**2 - 2 - second_m, 0.0),
        ("positional", second_m - v, 1.0),
    ):
        omega = float(getattr(curves, name))
        for w, kept in ((omega, gaps), (omega + 0.05, slopes)):
            kept.append((distance(z + e * shift, h_star, a, w) * score).mean())
    # The sums are at 1e-4, the slopes in omega about one half.
    for gap, later in zip(gaps, slopes, strict=True):
        assert abs(gap) * 0.05 / abs(later - gap) < 1e-3
    omega = float(curves.equal)
    corner = distance(h_star, h_star, a, omega).mean()
    assert distance(z + shift, h_star, a, omega).mean() == pytest.approx(corner, abs=1e-4)


@pytest.mark.slow
def test_the_semantic_corner_bends_as_the_integral_says():
    # Second differences of R along the circle at quasi-random points. Their zero in omega moves in
    # proportion to the angle (cones where both matrices agree), so that two angles tell its limit;
    # the next order and the points leave 1e-3.
    a = 1.0
    z, h_star = fields(17)
    boundary = float(positional_semantic_boundaries(a, loss="frobenius").semantic)
    weights = boundary + np.array([-0.03, 0.03])
    zeros = []
    for angle in (0.24, 0.12):
        bends = []
        for omega in weights:
            images = [
                np.cos(angle) * h_star + sign * np.sin(angle) * (turn * z + np.array([1, -1]))
                for sign in (1, -1)
                for turn in (1, -1)
            ]
            moved = np.mean([distance(h, h_star, a, omega) for h in images])
            bends.append(moved - distance(h_star, h_star, a, omega).mean())
        zeros.append(weights[0] + np.ptp(weights) * bends[0] / (bends[0] - bends[1]))
    assert 2 * zeros[1] - zeros[0] == pytest.approx(boundary, abs=1e-3)


@pytest.mark.slow
def test_the_landscape_of_noisy_sums_is_that_of_the_boundaries():
    # a = 1: direction 0.6278 and equality 0.7255 lie on both sides of 0.7.
    found = landscape(positional_semantic_risk(1.0, 0.7, loss="frobenius"), points=64)
    assert (found.name, found.code) == ("semantic over positional, positional start", 6)
    means = _independent(0.0, 0.7, 1 / (1 + np.exp(-2)), 0.125)
    np.testing.assert_allclose(found.rates, -np.sqrt(2) * np.array([means[3], means[1]]), rtol=0.06)
