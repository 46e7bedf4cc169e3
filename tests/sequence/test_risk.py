"""Population risk of sequence models: published losses, samples of the definition, refusals."""

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.errors import BadParameter, InvalidCovariance, ShapeMismatch
from dmft.model import token_fields

omega, alpha = sp.symbols("omega alpha", positive=True)
z = sp.Symbol("z", real=True)
TWO = dmft.Attention(2)
POSITIONAL = TWO.mixture(omega, [[alpha, 1 - alpha], [1 - alpha, alpha]])


def values(row):
    return {"omega": row["omega"], "alpha": 1 / (1 + np.exp(-2 * row["a"] ** 2))}


@pytest.fixture(scope="module")
def two_token_risk():
    return dmft.population_risk(dmft.Model(TWO, POSITIONAL, encoding=1))


def test_published_losses(two_token_risk, sequence_vectors):
    for row in sequence_vectors["losses"]:
        found = two_token_risk(e=row["e"], m=row["m"], **values(row))
        assert found == pytest.approx(row["R_fast"], abs=2e-14)
        assert found == pytest.approx(row["R_oracle"], abs=5e-10)
    assert two_token_risk.bound < 1e-11


def test_published_hessians(two_token_risk, sequence_vectors):
    for row in sequence_vectors["hessians"]:
        at = {"e": row["e"], "m": row["m"], **values(row)}
        gradient, hessian = two_token_risk.gradient_at(**at), two_token_risk.hessian_at(**at)
        assert gradient[1] == pytest.approx(row["R_e"], abs=1e-12)
        assert hessian[0, 0] == pytest.approx(row["R_mm"], abs=1e-14)
        assert hessian[0, 1] == pytest.approx(0, abs=1e-14)
        # The formula of the table and its brute force differ by 3e-10 here.
        assert hessian[1, 1] == pytest.approx(row["R_ee"], abs=5e-10)
        assert hessian[1, 1] == pytest.approx(row["oracle"]["R_ee"], abs=5e-10)


def sampled_risk(model, e_means, m, size=200_000):
    """Mean and standard error of 1/2 |g(h) - g*(h*)|^2 from tokens in R^d with d small."""
    rng = np.random.default_rng(7)
    length, d = model.length, 6
    w_star = np.zeros(d)
    w_star[0] = np.sqrt(d)
    w = np.zeros((length, d))
    m = np.broadcast_to(m, length)
    w[:, 0], w[:, 1] = np.sqrt(d) * m, np.sqrt(d) * np.sqrt(1 - m**2)
    x = rng.standard_normal((size, length, d))
    h = np.einsum("nld,ld->ln", x, w) / np.sqrt(d) + np.array(e_means, dtype=float)[:, None]
    star = np.einsum("nld,d->ln", x, w_star) / np.sqrt(d)
    fields = token_fields(length)
    total = np.zeros(size)
    for mine, theirs in zip(model.student.outputs, model.teacher.outputs, strict=True):
        one, other = (sp.lambdify(fields, y, ["scipy", "numpy"]) for y in (mine, theirs))
        total += (one(*h) - other(*star)) ** 2 / 2
    return total.mean(), total.std() / np.sqrt(size)


def case(name):
    y3 = token_fields(3)
    cubic = dmft.SequenceTarget(y3[0] * y3[1] + y3[2] ** 3 / 3, y3)
    square = dmft.SequenceNetwork(z**2 - 1, 3)
    return {
        "trace of three": (dmft.Attention(3, "trace"), cubic, [1, 0, -1], 0.4, 0.6),
        "attention of three": (
            dmft.Attention(3), dmft.Attention(3).mixture(0.3, np.eye(3).tolist()), None, 0.0, 0.7,
        ),
        "projection": (dmft.Attention(2, ([1, -1], [0.5, 2])), TWO_PRODUCT, 0.9, 0.5, 0.3),
        "square": (square, cubic, [1, 1, 0], 0.5, 0.4),
        "relu": (dmft.SequenceNetwork(sp.Max(0, z), 3), cubic, None, 0.0, 0.8),
        "relu, attention": (dmft.SequenceNetwork(sp.Max(0, z), 2), TRACE, None, 0.0, 0.8),
        "polynomials, free vectors": (
            dmft.SequenceTarget(y3[0] * y3[1] - y3[2], y3), cubic, np.eye(4), [0.1, 0.4, -0.3], 0.5,
        ),
    }[name]  # fmt: skip


TRACE = dmft.Attention(2, "trace")
TWO_PRODUCT = dmft.SequenceTarget(sp.prod(token_fields(2)), token_fields(2))


@pytest.mark.cases(2)
@pytest.mark.parametrize(
    "name",
    [
        "trace of three",
        "attention of three",
        "projection",
        "square",
        "relu",
        "relu, attention",
        "polynomials, free vectors",
    ],
)
def test_risk_is_the_mean_loss_of_tokens(name):
    student, teacher, encoding, e, m = case(name)
    model = dmft.Model(student, teacher, encoding=encoding)
    risk = dmft.population_risk(model)
    pattern = np.array(model.encoding.pattern.tolist(), dtype=float).reshape(model.length, -1)
    means = pattern @ np.atleast_1d(e) if model.encoding.rank else np.zeros(model.length)
    mean, error = sampled_risk(model, means, m)
    assert abs(risk(e=e, m=m) - mean) < 4.5 * error


def test_untied_risk_is_the_mean_loss_of_tokens():
    y = token_fields(2)
    model = dmft.Model(
        dmft.SequenceNetwork(z**2 - z, 2, tied=False), dmft.SequenceTarget(y[0] + y[0] * y[1], y)
    )
    risk = dmft.population_risk(model)
    m = np.array([0.8, -0.4])
    mean, error = sampled_risk(model, [0, 0], m)
    assert abs(risk(m=m) - mean) < 4.5 * error
    with pytest.raises(ShapeMismatch, match=r"expected \(2,\)"):
        risk(m=0.3)


def test_polynomials_are_closed_forms_in_e_and_m():
    y = token_fields(2)
    model = dmft.Model(
        dmft.SequenceTarget(y[0] * y[1], y), dmft.SequenceTarget(y[0] * y[1], y), encoding=2
    )
    risk = dmft.population_risk(model)
    e, m = sp.symbols("e m", real=True)
    # h_1 h_2 = (x_1 + e)(x_2 - e): its square has the mean (1 + e^2)^2, its product with h*_1 h*_2
    # the mean m^2.
    exact = sp.Rational(1, 2) + (1 + e**2) ** 2 / 2 - m**2
    assert sp.expand(risk.expr - exact) == 0
    assert risk.series == {2: 1}
    assert risk.bound == 0
    assert sp.expand(risk.gradient[m] + 2 * m) == 0
    assert "=" in risk.latex()


def test_orders_of_a_table(two_token_risk, sequence_vectors):
    known = sequence_vectors["constants_L2"]
    for e, name in ((0, "C2_0"), (1, "C2_1")):
        found = two_token_risk.order(2, e=e, omega=0.25, alpha=0.9)
        assert found == pytest.approx(4 * 0.75 * known[name], abs=1e-13)
    with pytest.raises(BadParameter, match="order"):
        _ = two_token_risk.series
    text = two_token_risk.latex()
    assert r"\mathbb{E}" in text
    assert "independent between tokens" in text


def test_refusals(two_token_risk):
    with pytest.raises(InvalidCovariance, match=r"e\^2/r\^2 \+ m\^2 = 1.45"):
        two_token_risk(e=0.8, m=0.9, omega=0.5, alpha=0.8)
    with pytest.raises(BadParameter, match="omega"):
        two_token_risk(e=0.1, m=0.1, alpha=0.8)
    with pytest.raises(BadParameter, match="unknown"):
        two_token_risk(e=0.1, m=0.1, omega=0.5, alpha=0.8, beta=1)
    five = dmft.Model(dmft.Attention(5, "trace"), dmft.Attention(5, "trace"))
    with pytest.raises(BadParameter, match="up to 4 tokens"):
        dmft.population_risk(five)(m=0.1)
