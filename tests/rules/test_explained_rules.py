"""Explanations of rules: their steps, each checked on samples of the inputs."""

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft import laws
from dmft.equations.rules.moments import Moments
from dmft.errors import BadParameter, UnprovenStep
from dmft.literature import rules as lit
from dmft.rules import Rows, View, fixed, mean


def coefficients():
    w, x = Rows("w"), View("x")
    h = w @ x
    measures = {"m": h**2 * mean(sp.erf(h / sp.sqrt(2)) ** 2)}
    return dmft.UpdateField({w: -mean(sp.Abs(h)) * w}, learning_rate=0.5, measures=measures)


def blocks():
    w, B, x = Rows("w"), fixed("B"), View("x", scale=[0.5, 2], fractions=[0.3, 0.7])
    step = (sp.erf((B @ x) / sp.sqrt(2)) - sp.erf((w @ x) / sp.sqrt(2))) * x
    return dmft.UpdateField({w: step}, learning_rate=0.6, constraint="sphere")


def ranks():
    w, B, x, y = Rows("w"), fixed("B"), View("x"), View("y")
    t = sp.sign(B @ x - B @ y)
    return dmft.UpdateField({w: t / (1 + sp.exp(t * (w @ x - w @ y))) * (x - y)}, learning_rate=0.7)


def scales():
    w, B, x = Rows("w"), fixed("B"), View("x")
    y = View("y", scale=sp.exp((w @ x) / 3))
    return dmft.UpdateField({w: (sp.sign(B @ y) - sp.tanh(w @ y)) * y}, learning_rate=0.3)


RULES = {
    "episodes": (lambda: lit.reinforcement_perceptron(2, 1, sp.Symbol("penalty")), "M",
                 {"one_step", "independent", "kinks", "linearity", "closed", "values"}),
    "clusters": (lambda: lit.vector_quantisation(1.0), "Q",
                 {"latents", "kinks", "closed", "wick"}),
    "sphere": (lambda: lit.independent_component(laws.Laplace(0.5**0.5)), "M",
               {"latent_means", "wick", "sphere"}),
    "generated": (lambda: lit.contrastive_divergence(1.1), "b", {"latents", "nodes"}),
    "masks": (lambda: lit.dropout(), "Q_1_2", {"latents", "closed"}),
    "blocks": (lambda: lit.curriculum(1.0, 0.5), "M", {"latents", "closed"}),
    "measure": (lambda: lit.perceptron_rule(), "error", {"closed"}),
    "averages": (coefficients, "m", {"wick", "closed"}),
    "blocks on a sphere": (blocks, "M", {"closed", "sphere"}),
    "four coordinates": (ranks, "M", {"nodes"}),
    "fields in scales": (scales, "Q", {"latents"}),
}  # fmt: skip


@pytest.mark.cases(2)
@pytest.mark.parametrize("name", RULES)
def test_steps_are_checked(name):
    """Both columns agree within the errors of the samples; what is expected is among the rules."""
    make, block, rules = RULES[name]
    proof = dmft.explain(dmft.derive(make()), of=block)
    assert rules <= {step.rule for step in proof.steps}
    for step in proof.steps:
        assert np.isfinite(step.check).all()
        np.testing.assert_allclose(*step.check.T, atol=0.3, rtol=0.1)
    assert "One step of a rule" in str(proof)
    text = proof.latex()
    assert text.count(r"\begin{align*}") == text.count(r"\end{align*}") > 2
    assert proof.to_depth(0).steps[0].rule == "one_step"


def test_the_result_is_the_rate():
    """The last right-hand side is what the equations hold; a term is explained alone."""
    eqs = dmft.derive(lit.principal_components([2.0], "oja", 0.5))
    start = dmft.Overlaps([[1.3]], [[0.4]])
    noise = eqs.explain("Q", "sgd_noise")
    assert noise.steps[0].rule == "one_step"
    names = {str(d.target): d for d in eqs.definitions}
    M, H = 0.4, 1.3 + 2.0 * 0.4**2
    after = eqs.explain("M").after
    values = {s: names[str(s)].expr if str(s) in names else None for s in after.free_symbols}
    put_in = after.xreplace({s: y for s, y in values.items() if str(s).startswith("C_")})
    at = {"Q_1_1": 1.3, "M_1_1": 0.4, "P_1_1": 1.0}
    found = float(put_in.xreplace({s: sp.Float(at[str(s)]) for s in put_in.free_symbols}))
    assert found == pytest.approx(3.0 * M - H * M, rel=1e-12)
    assert found == pytest.approx(eqs.evaluate(start)["M"][0, 0], rel=1e-12)


def test_a_wrong_covariance_is_found(monkeypatch):
    eqs = dmft.derive(lit.principal_components([2.0], "oja", 0.5))
    right = Moments._of_noises
    monkeypatch.setattr(Moments, "_of_noises", lambda *a: sp.Rational(11, 10) * right(*a))
    with pytest.raises(UnprovenStep, match="One step of a rule"):
        eqs.explain("M")


def test_refusals_of_explanations():
    eqs = dmft.derive(lit.perceptron_rule())
    with pytest.raises(BadParameter, match="no 'risk'; available: Q_1_1, M_1_1, error"):
        eqs.explain("risk")
    with pytest.raises(BadParameter, match="no term 'label_noise'"):
        eqs.explain("Q", "label_noise")
    with pytest.raises(BadParameter, match="as_derived"):
        eqs.without("learning").explain("M")
    below = dmft.derive(lit.dropout())
    with pytest.raises(BadParameter, match="above the diagonal"):
        below.explain("Q_2_1")
