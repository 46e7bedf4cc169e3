"""The norm |f - y| as a loss, not squared: rates, runs and the direction in which they begin."""

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.equations.averages.expectation import Expectation
from dmft.equations.sequence.alignments import (
    Tokens,
    free_fields,
    joint_rule,
    star_fields,
    value_at,
)
from dmft.errors import BadParameter
from dmft.model import token_fields

omega, alpha, rate = sp.symbols("omega alpha gamma", positive=True)
TWO = dmft.Attention(2)
MODEL = dmft.Model(TWO, TWO.mixture(omega, [[alpha, 1 - alpha], [1 - alpha, alpha]]), encoding=1)
AT_ONE = 1 / (1 + np.exp(-2.0))  # alpha at a = 1


def attention(h):
    """Softmax of the products of fields (..., L), by rows."""
    scores = np.exp(h[..., :, None] * h[..., None, :])
    return scores / scores.sum(axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def equations():
    return dmft.derive(MODEL, dmft.SGD(rate, loss="frobenius"))


def test_rates_are_those_of_the_raw_update(equations):
    e, m, gamma, keep = 0.4, 0.5, 0.7, 0.5
    rng = np.random.default_rng(2)
    size = 100_000
    # Projections of the tokens on w* and p, and on w = m w* + e p + rest.
    a, b, c = rng.standard_normal((3, size, 2))
    p = np.array([1.0, -1.0])
    h = m * a + e * (b + p) + np.sqrt(1 - e**2 - m**2) * c

    T = attention(h)
    fixed = np.array([[AT_ONE, 1 - AT_ONE], [1 - AT_ONE, AT_ONE]])
    D = T - (1 - keep) * attention(a) - keep * fixed
    U = D / np.linalg.norm(D, axis=(1, 2), keepdims=True)
    S = T * (U - (U * T).sum(axis=2, keepdims=True))  # through the softmax, theory/sequence A.5
    pull = np.einsum("nkj,nj->nk", S, h) + np.einsum("nik,ni->nk", S, h)
    noise = gamma / 2 * (pull**2).sum(axis=1)
    radial = (pull * h).sum(axis=1)
    wanted = {
        "m": -(pull * a).sum(axis=1) + m * (radial - noise),
        "e": -(pull * (b + p)).sum(axis=1) + e * (radial - noise),
    }
    at = {"omega": keep, "alpha": AT_ONE, "gamma": gamma, "nodes": 16384}
    found = equations.evaluate(dmft.Alignment(e, m), **at)
    claimed = equations.evaluate_error(dmft.Alignment(e, m), **at)
    for name, sample in wanted.items():
        error = sample.std() / np.sqrt(size)
        assert claimed[name] < 2e-3
        assert abs(found[name] - sample.mean()) < 4 * error + claimed[name]


@pytest.mark.slow
def test_runs_follow_the_chain_and_tell_their_error(equations):
    at = {"omega": 0.5, "alpha": AT_ONE}
    start = dmft.Alignment(0.4, 0.5)
    run = dmft.solve(equations, start, 4, save_at=6, gamma=0.2, **at)
    algorithm = dmft.SGD(0.2, loss="frobenius")
    chain = dmft.simulate(
        MODEL, algorithm, dim=4_000, t_max=4, seeds=8, start=start, method="overlaps",
        save_at=6, **at,
    )  # fmt: skip
    assert run.quadrature_error.max() < 5e-3
    for name in ("e", "m"):
        gap = np.abs(run[name] - getattr(chain.mean, name))
        allowed = 4 * getattr(chain.stderr, name) + run.error[name]
        assert np.all(gap <= allowed + 1e-12)
    # E |f - y| at the start, by Gauss and Hermite in the projections on w* and the rest of w.
    x, w = np.polynomial.hermite_e.hermegauss(20)
    a, c = (np.stack(y, axis=-1) for y in np.split(np.array(np.meshgrid(x, x, x, x)), 2))
    weight = np.prod(np.array(np.meshgrid(w, w, w, w)), axis=0) / (2 * np.pi) ** 2
    h = 0.5 * a + np.sqrt(0.75) * c + 0.4 * np.array([1.0, -1.0])
    fixed = np.array([[AT_ONE, 1 - AT_ONE], [1 - AT_ONE, AT_ONE]])
    gap = attention(h) - 0.5 * attention(a) - 0.5 * fixed
    risk = np.sum(weight * np.linalg.norm(gap, axis=(-2, -1)))
    assert run.risk[0] == pytest.approx(risk, abs=5e-4)


def test_the_first_direction_changes_where_the_theory_says(equations):
    # theory/sequence D.8: positional above omega = .6278 at a = 1.
    growth = {}
    for weight in (0.5, 0.75):
        at = {"omega": weight, "alpha": AT_ONE, "gamma": 1e-9, "nodes": 32768}
        rates = equations.evaluate(dmft.Alignment(0.1, 0.1), **at)
        growth[weight] = float(rates["e"] - rates["m"])
    assert growth[0.5] < 0 < growth[0.75]


def test_joint_averages_are_those_of_their_law():
    (h,), (star,), (free,) = (f(1) for f in (token_fields, star_fields, free_fields))
    e, m = sp.symbols("e m", real=True)
    rule, law = joint_rule(1), Tokens(sp.Tuple(e), m)
    values = {e: 0.3, m: 0.6}
    for integrand, exact in (
        (h * star, 0.6), (h**2, 1 + 0.3**2), (h * free, 0.8), (star * free, 0.0),
    ):  # fmt: skip
        value = value_at(Expectation(integrand, law), values, rule.arrays)
        assert value == pytest.approx(exact, abs=1e-3)
    assert Expectation(h * omega, law).free_symbols == {e, m, omega}


@pytest.mark.parametrize("name", ["eta1", "z_star1"])
def test_no_name_of_a_parameter_is_taken_for_a_field(equations, name):
    weight = sp.Symbol(name, real=True)
    model = dmft.Model(TWO, TWO.mixture(weight, [[0.9, 0.1], [0.1, 0.9]]), encoding=1)
    found = dmft.derive(model, dmft.SGD(0.7, loss="frobenius"))
    start = dmft.Alignment(0.3, 0.4)
    rates = found.evaluate(start, **{name: 0.5})
    wanted = equations.evaluate(start, omega=0.5, alpha=0.9, gamma=0.7)
    for block in ("e", "m"):
        np.testing.assert_allclose(rates[block], wanted[block], atol=1e-13)


def test_printing_and_refusals(equations):
    text = equations.latex()
    assert r"\partial_{m} \mathcal{L}" in text
    assert r"\eta_{1}" in text
    z = sp.Symbol("z", real=True)
    relu = dmft.SequenceNetwork(sp.Max(0, z), 2, tied=False)
    target = dmft.SequenceNetwork(z, 2)
    norm = dmft.SGD(0.1, loss="frobenius")
    oblique = dmft.model.Encoding([1, -1], [[1, 0.3], [0.3, 1]])
    for model, words in (
        (dmft.Model(relu, target), "tied"),
        (dmft.Model(TWO, TWO, encoding=oblique), "orthogonal"),
        (dmft.Model(TWO, TWO, 0.1), "label noise"),
    ):
        with pytest.raises(BadParameter, match=words):
            dmft.derive(model, norm)
    y = token_fields(2)
    half = dmft.Model(dmft.SequenceTarget(sp.log(y[0]) + y[1], y), dmft.SequenceTarget(sum(y), y))
    start = dmft.Alignment(m=0.3)
    for use in (
        lambda: dmft.derive(half, norm).evaluate(start),
        lambda: dmft.solve(dmft.derive(half, norm), start, 1.0),
    ):
        with pytest.raises(BadParameter, match="for all real fields"):
            use()
    for name in ("across", "slope_e", "t"):
        target = TWO.mixture(sp.Symbol(name, real=True), np.eye(2).tolist())
        with pytest.raises(BadParameter, match=f"{name} is reserved"):
            dmft.derive(dmft.Model(TWO, target, encoding=1), norm)
    with pytest.raises(BadParameter, match="squared"):
        dmft.maximal_learning_rate(dmft.Model(TWO, TWO), norm)
