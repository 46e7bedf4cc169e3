"""Twelve results that a theorist knows, explained from the definition, every step judged."""

import dataclasses

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.equations.explained import engine, inputs
from dmft.errors import BadParameter, UnprovenStep

z = sp.Symbol("z", real=True)
D = sp.Symbol("Delta", nonnegative=True)
p = sp.Symbol("p", integer=True, positive=True)
erf, relu = sp.erf(z / sp.sqrt(2)), sp.Max(0, z)
He = dmft.hermite


def committees(student, teacher, widths=(1, 1), **options):
    one, two = (dmft.Committee(f, w) for f, w in zip((student, teacher), widths, strict=True))
    return dmft.Model(one, two, **options)


def risk(*args, **options):
    return lambda: dmft.explain(dmft.population_risk(committees(*args, **options)))


def rate(model, algorithm, *of):
    return lambda: dmft.explain(dmft.derive(model, algorithm), of=of)


SQUARES = committees(z**2, z**2, (2, 1), label_noise=D)
NOISY = committees(erf, erf, (2, 1), label_noise=D)
TOKENS = sp.symbols("a b", real=True)
RESULTS = {
    "erf/erf": (risk(erf, erf), {"local_fields", "linearity", "pair", "arcsine", "insert"}),
    "He3/He3": (risk(He(3, z), He(3, z), (p, 1)), {"hermite", "diagrams", "values"}),
    "He4 on He2": (risk(He(4, z), He(2, z)), {"hermite", "diagrams", "values"}),
    "ReLU/ReLU": (risk(relu, relu, (2, 1)), {"stein", "arcsine", "condition"}),
    "sign/erf": (risk(erf, sp.sign(z), (2, 1)), {"arcsine", "tilt", "condition"}),
    "square on the sphere, dM/dt": (
        rate(SQUARES, dmft.SGD(0.3, constraint="sphere"), "M"),
        {"sphere", "drift", "stein_fields", "diagrams"},
    ),
    "I4 term": (rate(NOISY, dmft.SGD(0.3), "Q", "sgd_noise"), {"square", "tilt", "arcsine"}),
    "correlation loss": (
        rate(committees(He(3, z), He(3, z)), dmft.SGD(0.3, loss="correlation"), "Q"),
        {"drift", "square", "diagrams"},
    ),
    "phase retrieval, escape": (
        lambda: dmft.explain(dmft.escape_formula(
            dmft.literature.phase_retrieval(p, label_noise=D),
            dmft.SGD(sp.Symbol("gamma", positive=True), constraint="sphere"))),
        {"uninformative", "growth", "passage"},
    ),
    "information exponent": (
        lambda: dmft.explain(dmft.information_exponent(z**3 - 3 * z, z)), {"mehler", "diagrams"},
    ),
    "sequence loss": (
        lambda: dmft.explain(dmft.population_risk(dmft.Model(
            dmft.SequenceNetwork(z**2 - 1, 2),
            dmft.SequenceTarget(TOKENS[0] * TOKENS[1], list(TOKENS))))),
        {"token_fields", "moments", "diagrams"},
    ),
    "first step of GD": (
        lambda: dmft.explain(dmft.derive(committees(erf, erf), dmft.GradientDescent(0.3, 3))),
        {"first_step", "stein_fields", "tilt"},
    ),
}  # fmt: skip
# Lines that are judged by samples of the definition.
SAMPLED = {"local_fields", "drift", "square", "token_fields", "first_step"}


@pytest.mark.parametrize("name", RESULTS)
def test_named_results(name):
    explain, rules = RESULTS[name]
    proof = explain()
    found = {step.rule for step in proof.steps}
    assert rules <= found
    for step in proof.steps:
        assert step.check.shape == (2, 2)
        assert np.all(np.isfinite(step.check))
        if step.rule in SAMPLED:  # judged at the standard error of the samples
            continue
        size = max(1.0, np.abs(step.check).max())
        np.testing.assert_allclose(step.check[:, 0], step.check[:, 1], atol=2e-5 * size)
    for text in (str(proof), proof.latex(), proof._repr_html_()):
        assert len(text) > 300
    assert proof.latex().count(r"\begin{align*}") == len(proof.steps) + 1


def test_there_are_twelve():
    assert len(RESULTS) == 12


def test_tables_and_nodes_say_what_they_claim():
    tabled = risk(sp.tanh(z), sp.tanh(z))()
    assert "tables" in tabled.claim
    assert "table" in {step.rule for step in tabled.steps}


@pytest.mark.parametrize("role", ["observable", "rate"])
def test_a_wrong_number_of_the_engine_is_caught(role, monkeypatch):
    """What the engine computes is the last line: nine tenths of it do not pass."""
    from dmft.equations.explained import rates
    from dmft.equations.explained import risk as risks

    true = engine.engine_values

    def mutant(*args):
        return {name: 0.9 * value for name, value in true(*args).items()}

    monkeypatch.setattr(rates, "engine_values", mutant)
    monkeypatch.setattr(risks, "engine_values", mutant)
    explain = risk(erf, erf) if role == "observable" else rate(NOISY, dmft.SGD(0.3), "M")
    with pytest.raises(UnprovenStep) as caught:
        explain()
    assert caught.value.rule == "values"


def test_wrong_terms_of_equations_are_caught():
    """A rate that is not what one step of the algorithm does."""
    eqs = dmft.derive(NOISY, dmft.SGD(0.3))
    wrong = tuple(
        dataclasses.replace(d, terms=tuple((n, e * (1 + (n == "learning"))) for n, e in d.terms))
        for d in eqs.definitions
    )
    mutant = dataclasses.replace(eqs, definitions=wrong)
    with pytest.raises(UnprovenStep) as caught:
        dmft.explain(mutant, of="M")
    assert caught.value.rule == "stein_fields"


def test_refusals_say_what_to_do():
    twins = dmft.GaussianMixture([[1.0], [-1.0]], labels=[1, -1])
    clustered = dmft.Model(dmft.Committee(z, 1), twins)
    with pytest.raises(BadParameter, match="Gaussian law"):
        dmft.explain(dmft.population_risk(clustered))
    eqs = dmft.derive(NOISY, dmft.SGD(0.3))
    with pytest.raises(BadParameter, match="one of M, Q"):
        dmft.explain(eqs, of="Omega")
    with pytest.raises(BadParameter, match="its terms are learning"):
        dmft.explain(eqs, of=("M", "sgd_noise"))
    with pytest.raises(BadParameter, match="no repeat"):
        dmft.explain(dmft.derive(NOISY, dmft.SGD(0.3, repeat=dmft.Repeat(2))), of="M")
    with pytest.raises(BadParameter, match="information exponents"):
        dmft.explain(dmft.generative_exponent(z**3 - 3 * z, z))
    with pytest.raises(BadParameter, match="two tokens"):
        dmft.explain(dmft.population_risk(dmft.Model(dmft.Attention(3), dmft.Attention(3))))


def test_samples_of_the_definition_are_drawn_apart_from_the_engine():
    """The first line compares with inputs and weights, not with local fields again."""
    proof = risk(erf, erf)()
    first = proof.steps[0]
    gaps = np.abs(first.check[:, 0] - first.check[:, 1])
    assert np.all(gaps > 0)
    assert str(inputs.REPLICAS * inputs.SAMPLES) in first.note


def test_citations_are_entries_of_the_bibliography():
    from dmft.display.bibliography import ENTRIES
    from dmft.explanation.rules import RULES
    from dmft.explanation.text import KEY

    found = {key for rule in RULES.values() for key in KEY.findall(rule.source)}
    assert found
    assert found <= set(ENTRIES)
