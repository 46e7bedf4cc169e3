"""The loss of the two-token attention and its tables, against sums over its definition."""

import numpy as np
import pytest
import sympy as sp

from dmft.errors import BadParameter
from dmft.literature import positional_semantic_risk
from dmft.literature.two_token_tables import circle, tables

# Trapezoidal sums of a smooth function of the plane times a Gaussian weight.
STEP = 0.05
NODES = STEP * np.arange(-180, 181)
WEIGHTS = STEP * np.exp(-(NODES**2) / 2) / np.sqrt(2 * np.pi)
H1, H2 = np.meshgrid(NODES, NODES, indexing="ij")


def attention(h1, h2):
    """First row of softmax(h h^T), its first entry."""
    return np.exp(h1 * h1) / (np.exp(h1 * h1) + np.exp(h1 * h2))


def mean(values):
    return WEIGHTS @ values @ WEIGHTS


def transition(m, shift):
    """Weights of a node of h* given to the nodes of h = m h* + sqrt(1 - m^2) eta + shift."""
    sigma = np.sqrt(1 - m * m)
    distance = (NODES[None, :] - m * NODES[:, None] - shift) / sigma
    return STEP * np.exp(-(distance**2) / 2) / (sigma * np.sqrt(2 * np.pi))


def mean_product(e, m):
    """E s(h) s(h*) by the conditional mean of s(h), a sum over four fields."""
    s = attention(H1, H2)
    return mean(s * (transition(m, e) @ s @ transition(m, -e).T))


@pytest.mark.parametrize("e", [0.0, 0.35, 1.0])
def test_moments_of_one_point(e):
    s = attention(H1 + e, H2 - e)
    assert tables().M(e**2) == pytest.approx(mean(s), abs=1e-14)
    assert tables().V(e**2) == pytest.approx(mean(s * s), abs=1e-14)


@pytest.mark.parametrize(
    ("e", "m"), [(0.0, 0.0), (0.3, 0.4), (0.6, 0.8), (0.05, 0.98), (0.8, -0.6), (1.0, 0.0)]
)
def test_products_of_two_points(e, m):
    assert tables().C(e**2, m**2) == pytest.approx(mean_product(e, m), abs=1e-13)


def test_the_series_ends_at_the_mean_square():
    # e = 0, m = 1, where it converges slowest: h = h*.
    assert tables().C(0.0, 1.0) == pytest.approx(mean(attention(H1, H2) ** 2), abs=1e-14)


@pytest.mark.slow
def test_derivatives_at_the_semantic_corner():
    # Averages of derivatives of s at h = h*: (theory/sequence D.6) D, K, and the second derivative
    # along the circle, which places the tricritical point.
    h1, h2 = sp.symbols("h1 h2")
    s = 1 / (1 + sp.exp(-h1 * (h1 - h2)))

    def along(f, times=1):
        return f if times == 0 else along(sp.diff(f, h1) - sp.diff(f, h2), times - 1)

    def average(f):
        with np.errstate(all="ignore"):
            values = sp.lambdify((h1, h2), f, cse=True)(H1, H2)
        return mean(np.where(np.isfinite(values), values, 0.0))

    slopes = [sp.diff(s, h) for h in (h1, h2)]
    bends = [sp.diff(f, h) for f in slopes for h in (h1, h2)]
    D, K = average(sum(f * f for f in slopes)), average(s * along(s, 2))
    corner = (np.float64(0.0), np.float64(1.0))
    assert 2 * tables().C(*corner, 0, 1) == pytest.approx(D, abs=1e-12)
    assert 2 * tables().C(*corner, 1, 0) == pytest.approx(K, abs=1e-12)
    assert circle().A(0.0, 1) == pytest.approx(average(along(s) ** 2) + D, abs=1e-11)
    second = average(along(s**2, 4)) / 12
    second -= average(s * along(s, 4)) / 6
    second += average(sum(f * along(f, 2) for f in slopes))
    second -= (average(sum(f * f for f in bends)) - D) / 2
    assert circle().A(0.0, 2) == pytest.approx(second, abs=5e-11)


def test_known_digits():
    # theory/sequence D.3, to the digits given by other code.
    zero, one = np.float64(0.0), np.float64(1.0)
    t = tables()
    assert t.V(zero) == pytest.approx(0.45506734287877726, abs=1e-15)
    assert t.V(one) == pytest.approx(0.6635099039137797, abs=3e-15)
    assert 2 * t.V(one, 1) == pytest.approx(0.32539958750700193, abs=3e-13)
    assert 2 * t.V(zero, 1) == pytest.approx(0.5237369218434704, abs=3e-13)
    assert t.coefficient(2, zero) == pytest.approx(0.027562792222644208, abs=1e-15)
    assert t.coefficient(2, one) == pytest.approx(0.001489283824826583, abs=1e-15)
    assert 2 * t.C(zero, one, 0, 1) == pytest.approx(0.10105083761760356, abs=1e-13)
    assert 2 * t.C(zero, one, 1, 0) == pytest.approx(0.09969433685636706, abs=1e-12)
    k = circle()
    for y, a, c, slope in (
        (0.2, 0.5050353829042414, 0.4590830456844188, 0.036630942888343565),
        (0.4, 0.5504786748190164, 0.46855183904794134, 0.0559048387456605),
        (0.6, 0.5917992479374482, 0.4807762170505596, 0.06505582457063856),
    ):
        assert t.V(y) == pytest.approx(a, abs=3e-15)
        assert k.C(y) == pytest.approx(c, abs=3e-15)
        assert k.C(y, 1) == pytest.approx(slope, abs=1e-12)


@pytest.mark.parametrize(
    ("e", "m", "omega", "a"),
    [(0.0, 0.0, 0.5, 1.0), (0.3, 0.4, 0.7, 0.8), (0.5, -0.5, 0.9, 0.2), (1.0, 0.0, 0.2, 1.3)],
)
def test_risk_is_the_mean_square_of_the_definition(e, m, omega, a):
    # Both rows of both matrices, target included.
    alpha = np.exp(a * a) / (np.exp(a * a) + np.exp(-a * a))
    expected = 0.0
    for own in (attention(H1, H2), attention(H2, H1)):
        shifted = transition(m, e) @ own @ transition(m, -e).T
        squares = transition(m, e) @ (own * own) @ transition(m, -e).T
        wanted = (1 - omega) * own + omega * alpha
        # Two entries of each row, half of the square of the norm.
        expected += mean(squares - 2 * wanted * shifted + wanted**2)
    assert positional_semantic_risk(a, omega)(e, m) == pytest.approx(expected, abs=1e-12)


def test_derivatives_of_the_risk():
    risk = positional_semantic_risk(0.85, 0.6)
    e, m, step = 0.4, 0.5, 1e-3
    along = [(step, 0.0), (0.0, step)]
    gradient = [
        (8 * (risk(e + a, m + b) - risk(e - a, m - b))
         - risk(e + 2 * a, m + 2 * b) + risk(e - 2 * a, m - 2 * b)) / (12 * step)
        for a, b in along
    ]  # fmt: skip
    np.testing.assert_allclose(risk.gradient(e, m), gradient, atol=1e-11)
    hessian = [
        (risk.gradient(e + a, m + b) - risk.gradient(e - a, m - b)) / (2 * step) for a, b in along
    ]
    np.testing.assert_allclose(risk.hessian(e, m), hessian, atol=2e-7)
    # At the origin the first derivatives vanish and the second are those of the theory.
    known = positional_semantic_risk(1.0, 0.6)
    np.testing.assert_allclose(known.gradient(0.0, 0.0), 0.0, atol=1e-16)
    np.testing.assert_allclose(
        known.hessian(0.0, 0.0), np.diag([-0.06559268528645623, -0.08820093511246146]), atol=1e-12
    )
    np.testing.assert_allclose(
        known.hessian(1.0, 0.0), np.diag([0.02855687439789992, -0.004765708239445066]), atol=1e-10
    )


def test_refusals():
    risk = positional_semantic_risk(1.0, 0.5)
    with pytest.raises(BadParameter, match=r"e\^2 \+ m\^2 <= 1"):
        risk([0.1, 0.9], [0.1, 0.5])
    with pytest.raises(BadParameter, match="not possible"):
        risk.gradient(np.nan, 0.0)
    for omega in (-0.1, 1.1, np.nan):
        with pytest.raises(BadParameter, match=r"omega.*\[0, 1\]"):
            positional_semantic_risk(1.0, omega)
    for a in (np.nan, np.inf):
        with pytest.raises(BadParameter, match="finite"):
            positional_semantic_risk(a, 0.5)
