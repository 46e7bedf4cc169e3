"""Terms that a user adds to, drops from and replaces in the equations of sequence models."""

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.errors import BadParameter

A, B, FIELD = sp.symbols("a b B", real=True)
SUM = dmft.SequenceTarget((A + B) / sp.sqrt(2), [A, B])


def model(tied=True):
    return dmft.Model(dmft.SequenceNetwork(sp.Max(0, A), 2, tied), SUM)


def test_a_pull_along_the_target_is_its_exact_motion():
    """dw = B w* on the sphere moves m by B (1 - m^2): m = tanh(B t + atanh m_0)."""
    equations = dmft.derive(model(), dmft.GradientFlow())
    m = equations.symbols["m"]
    pulled = equations.with_term("m", "pull", FIELD * (1 - m**2))
    alone = pulled.without("learning", "sphere")
    run = dmft.solve(alone, dmft.Alignment(0.0, 0.1), 2.0, rtol=1e-10, atol=1e-12, B=0.7)
    np.testing.assert_allclose(run.m[-1], np.tanh(1.4 + np.arctanh(0.1)), atol=1e-9)
    assert run.provenance["dropped_terms"] == ["learning", "sphere"]
    assert "pull" in run.provenance["changed_terms"][-1]
    assert alone.fingerprint not in (equations.fingerprint, pulled.fingerprint)
    assert r"B \left(1 - m^{2}\right)" in pulled.latex()
    assert pulled.without("pull") == equations
    assert list(equations.diff(pulled).added["m"]) == ["pull"]
    assert r"\text{(added: pull)}" in equations.diff(pulled).latex()


def test_a_column_moves_the_alignments_of_untied_students():
    equations, start = dmft.derive(model(tied=False), dmft.SGD(0.5)), dmft.Alignment(0, [0.1, 0.2])
    m = equations.space.blocks["m"]
    pulled = equations.with_term("m", "pull", [FIELD * sp.cos(y) for y in m])
    before, after = equations.evaluate(start)["m"], pulled.evaluate(start, B=0.7)["m"]
    np.testing.assert_allclose(after - before, 0.7 * np.cos([0.1, 0.2]), rtol=1e-13)
    step = dmft.solve(pulled, start, 1e-6, B=0.7).m[-1] - np.array([0.1, 0.2])
    np.testing.assert_allclose(step / 1e-6, after, rtol=1e-5)
    half = equations.replace("m", "learning", equations.terms["m"]["learning"] / 2)
    change = before - half.evaluate(start)["m"]
    rest = equations.without("sphere", "sgd_noise", "label_noise").evaluate(start)["m"]
    np.testing.assert_allclose(change, rest / 2, rtol=1e-13)
    assert r"- 2 \partial" in equations.latex()  # in terms of the loss, while it is its gradient
    assert r"- 2 \partial" not in half.latex()
    with pytest.raises(BadParameter, match=r"has 2 components \(m1, m2\)"):
        equations.with_term("m", "pull", FIELD)


def test_parameters_are_replaced_and_terms_dropped_of_one_block():
    equations, start = dmft.derive(model(), dmft.SGD(0.5)), dmft.Alignment(0.0, 0.1)
    slower = equations.replace({"learning_rate": FIELD / 2})
    assert "learning_rate" not in slower.parameters
    expected = equations.evaluate(start, learning_rate=0.3)["m"]
    np.testing.assert_allclose(slower.evaluate(start, B=0.6)["m"], expected, rtol=1e-13)
    quiet = equations.without("sgd_noise", block="m").evaluate(start)["m"]
    flow = dmft.derive(model(), dmft.GradientFlow()).evaluate(start)["m"]
    np.testing.assert_allclose(quiet, flow, rtol=1e-13)


@pytest.mark.parametrize(
    ("block", "name", "expr", "words"),
    [
        ("Q", "pull", FIELD, "no block is called 'Q'; these equations have .'m'."),
        ("m", "learning", FIELD, "have a term 'learning' already"),
        ("m", "pull", sp.Symbol("e") * FIELD, "the symbol e is reserved"),
        ("m", "pull", sp.IndexedBase("M")[1], "is not available in the rate of m"),
        ("m", "pull", "B", "must be a SymPy expression"),
        ("m", "pull", sp.zeta(sp.Symbol("m", real=True)), "zeta"),
    ],
)
def test_what_no_term_of_alignments_can_be(block, name, expr, words):
    with pytest.raises(BadParameter, match=words):
        dmft.derive(model(), dmft.GradientFlow()).with_term(block, name, expr)
