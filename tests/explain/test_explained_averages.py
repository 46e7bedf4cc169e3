"""Explanations of averages: their steps, their judgement, and what they refuse."""

import re
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.errors import BadParameter, UnprovenStep
from dmft.explanation.average import Average, FieldHermite, reduced
from dmft.explanation.rules import RULES
from dmft.gaussian import LISTENER
from tests.explain.averages import FOUR, GENERAL, SHIFTED, UNIT, erf, m, q, rho, x, y

NAMED = {
    "erf, erf": (GENERAL, erf(x) * erf(y), {"arcsine", "price", "tilt", "integrate"}),
    "He3, He3": (UNIT, dmft.hermite(3, x) * dmft.hermite(3, y), {"hermite", "diagrams"}),
    "He4 on He2": (UNIT, dmft.hermite(4, x) * dmft.hermite(2, y), {"hermite", "diagrams"}),
    "He4 on He2, any variance": (
        GENERAL, dmft.hermite(4, x) * dmft.hermite(2, y), {"hermite", "diagrams", "collect"},
    ),
    "ReLU, ReLU": (GENERAL, sp.Max(0, x) * sp.Max(0, y), {"kinks", "stein", "arcsine"}),
    "sign, erf": (GENERAL, sp.sign(x) * erf(y), {"arcsine", "condition", "tilt"}),
    "Gaussian factor": (GENERAL, sp.exp(-(x**2) / 2) * y**2, {"tilt", "hermite"}),
    "step functions": (GENERAL, sp.Heaviside(x - 1) * sp.Heaviside(y), {"two_signs", "kinks"}),
    "two steps": (GENERAL, sp.sign(x - 1) * sp.sign(x - 2) * y, {"two_jumps", "stein"}),
    "means": (SHIFTED, erf(x) * erf(y), {"two_signs", "independent"}),
    "one field": (SHIFTED, erf(x), {"smoothing", "noise", "combination", "probability"}),
    "combination": (GENERAL, sp.Abs(x - y), {"kinks", "stein"}),
    "waves": (GENERAL, sp.cos(x) * y**2, {"waves"}),
    "branches": (GENERAL, sp.exp(-x) * sp.Heaviside(x) * y, {"branches"}),
    "Dirac": (GENERAL, sp.DiracDelta(x - 1) * y**2, {"condition"}),
}  # fmt: skip


def same(one, two):
    """Equal at numbers for all symbols."""
    numbers = {s: 0.6 + 0.1 * n for n, s in enumerate(sorted(one.free_symbols, key=str))}
    return abs(sp.N((one - two).subs(numbers | {y: 0.3, sp.Symbol("m", real=True): 0.3}))) < 1e-12


@pytest.mark.cases(6)
@pytest.mark.parametrize("name", NAMED)
def test_named_averages_are_explained_step_by_step(name):
    law, expr, rules = NAMED[name]
    proof = dmft.explain(law, of=expr)
    assert rules <= {step.rule for step in proof.steps}
    assert same(proof.after, law.expect(expr))
    for step in proof.steps:
        assert step.check.shape == (2, 2)
        np.testing.assert_allclose(step.check[:, 0], step.check[:, 1], rtol=1e-6, atol=1e-7)
    assert proof.steps[0].before == proof.before
    # Of a law with symbols the two covariances are two.
    assert proof.steps[0].check[0, 0] != proof.steps[0].check[1, 0] or proof.after == 0


@pytest.mark.slow
def test_four_signs_are_judged_in_four_dimensions():
    a, b, c, d = FOUR.fields
    proof = dmft.explain(FOUR, of=sp.sign(a) * sp.sign(b) * erf(c) * erf(d))
    assert [s.rule for s in proof.steps] == [
        "four_signs",
        "noise",
        "price",
        "condition",
        "integrate",
    ]


def test_surviving_diagrams_are_listed():
    proof = dmft.explain(GENERAL, of=x**3 * y**3)
    drawn = [d.line(str) for step in proof.steps for d in step.diagrams]
    assert "x≡≡y (weight 6)" in drawn
    silent = dmft.explain(UNIT, of=dmft.hermite(4, x) * dmft.hermite(2, y))
    assert silent.after == 0
    assert "No diagram survives" in silent.steps[-1].note


def test_fields_have_their_names_and_sums_of_them_others():
    plain = dmft.explain(SHIFTED, of=x * y * sp.sign(x))
    assert "E[x y sign(x)]" in str(plain)
    assert "u_1" not in str(plain)
    for total in (x + y, y - x):
        summed = str(dmft.explain(GENERAL, of=y * sp.sign(total)))
        assert "E[y sign(u_1)]" in summed
        assert "E[y*sign(x)]" not in summed


def pairings(legs):
    """All ways to link legs of different fields, as counts of linked pairs of fields."""
    if not legs:
        yield Counter()
        return
    first, *rest = legs
    for n, other in enumerate(rest):
        if other != first:
            for found in pairings(rest[:n] + rest[n + 1 :]):
                yield found + Counter([(first, other)])


def test_diagrams_are_all_ways_to_link_the_legs():
    """Against every pairing, one by one; their sum is what the step says."""
    names = [sp.Rational(n, 11) for n in (2, 3, -1, 4, 1, 2)]
    entries = iter(names)
    cov = sp.eye(4)
    for i, j in combinations(range(4), 2):
        cov[i, j] = cov[j, i] = next(entries)
    law = dmft.Gaussian(FOUR.fields, cov)
    a, b, c, d = law.fields
    expr = dmft.hermite(2, a) * dmft.hermite(2, b) * c * dmft.hermite(3, d)
    (step,) = [s for s in dmft.explain(law, of=expr).steps if len(s.diagrams) > 1]
    degrees = {0: 2, 1: 2, 2: 1, 3: 3}
    legs = [i for i, n in degrees.items() for _ in range(n)]
    want = Counter(frozenset(found.items()) for found in pairings(legs))
    found = {
        frozenset(((i, j), n) for i, j, n in diagram.edges()): diagram.weight
        for diagram in step.diagrams
    }
    assert found == want
    assert {diagram.degrees for diagram in step.diagrams} == {(2, 2, 1, 3)}
    total = sum(
        diagram.weight * sp.Mul(*(cov[i, j] ** n for i, j, n in diagram.edges()))
        for diagram in step.diagrams
    )
    assert sp.expand(total - step.after) == 0
    for diagram in step.diagrams:
        assert diagram.fields == tuple(law.fields)
        links = sum(n for *_, n in diagram.edges())
        assert diagram.picture(sp.latex).count(r"\qbezier") == links == 4
        assert diagram.svg(str).count("<path") == links


def test_what_is_not_closed_says_what_it_claims():
    series = dmft.explain(UNIT, of=sp.tanh(x) * sp.tanh(y))
    assert series.steps[0].rule == "series"
    assert series.steps[0].bound != 0
    assert "series" in series.claim
    number = dmft.explain(GENERAL, of=sp.tanh(x) * y**2)
    assert number.steps[0].rule == "nodes"
    assert "error" in number.claim
    assert np.ptp(number.steps[0].check, axis=1).max() < 1e-7


def test_depth_chooses_detail():
    whole = dmft.explain(GENERAL, of=erf(x) * erf(y))
    short = dmft.explain(GENERAL, 0, of=erf(x) * erf(y))
    assert [s.rule for s in short.steps] == ["arcsine"]
    assert whole.to_depth(0).steps == short.steps == GENERAL.explain(erf(x) * erf(y), 0).steps
    with pytest.raises(BadParameter, match="depth"):
        dmft.explain(GENERAL, -1, of=x)


def test_renderings_hold_every_step():
    proof = dmft.explain(GENERAL, of=sp.Max(0, x) * sp.Max(0, y))
    text, latex, page = str(proof), proof.latex(), proof._repr_html_()
    for step in proof.steps:
        assert step.title in text
        assert step.latex
    # What is printed alike on both sides has no row.
    assert latex.count(r"\begin{align*}") == latex.count(r"\end{align*}") == 10
    assert text.count("checked: ") == page.count("checked: ") == len(proof.steps)
    assert page.count("<details") == page.count("</details>") <= len(proof.steps)
    # What a rule says is said once.
    assert all(text.count(RULES[rule].text[:60]) == 1 for rule in {s.rule for s in proof.steps})
    assert latex.count("$") % 2 == 0
    assert "Saad" in latex
    assert proof.citations == ("saad_solla_1995",)
    assert len(repr(proof)) < 120


def test_numbers_are_explained_too():
    law = dmft.Gaussian([x, y], [[1.0, 0.3], [0.3, 1.0]])
    proof = dmft.explain(law, of=sp.Max(0, x) * sp.Max(0, y))
    assert abs(proof.steps[0].check - float(proof.after)).max() < 1e-9
    singular = dmft.Gaussian([x, y], [[1, 1], [1, 1]])
    assert dmft.explain(singular, of=sp.sign(x) * erf(y)).after == sp.Rational(1, 2)


def test_nobody_listens_afterwards():
    dmft.explain(GENERAL, of=x**2)
    assert LISTENER.get() is None
    with pytest.raises(BadParameter):
        dmft.explain(GENERAL, of=sp.Symbol("x"))
    assert LISTENER.get() is None


def test_refusals():
    for wrong in (3, "x", None, dmft.Gaussian):
        with pytest.raises(BadParameter, match="has no explanation"):
            dmft.explain(wrong)
    with pytest.raises(BadParameter):
        dmft.explain(GENERAL)
    with pytest.raises(BadParameter):
        dmft.explain(GENERAL, of="x")


def test_what_is_explained_as_a_whole_has_no_parts():
    line = dmft.Committee(sp.Symbol("z", real=True), 1)
    model = dmft.Model(line, line)
    descent = dmft.derive(model, dmft.GradientDescent(0.5, 2))
    for whole in (descent, dmft.population_risk(model)):
        with pytest.raises(BadParameter, match=r"'M': .* as a whole; leave of out"):
            dmft.explain(whole, of="M")


def test_a_false_step_raises(monkeypatch):
    monkeypatch.setattr("dmft.gaussian.closed.product.error_function_product", lambda *_: sp.pi / 7)
    with pytest.raises(UnprovenStep, match="Arcsine law") as caught:
        dmft.explain(GENERAL, of=erf(x) * erf(y))
    assert caught.value.rule == "arcsine"


def test_steps_end_in_one_root_and_in_real_numbers():
    """Closed forms with one root, of which no fraction is below another; equal rows are folded."""
    tilted = dmft.explain(GENERAL, of=sp.exp(-(x**2) / 2) * sp.exp(-(y**2) / 2) * x * y)
    twice = dmft.explain(UNIT, of=erf(x) * erf(y) * x * y)
    for proof in (tilted, twice):
        text = proof.latex()
        assert r"\sqrt{- \frac" not in text
        assert not any(reduced(e).has(sp.I) for one in proof.steps for e in (one.before, one.after))
        numbers = [int(n) for n in re.findall(r"paragraph\{(\d+)\. ", text)]
        assert numbers == list(range(1, len(numbers) + 1))
    rows = re.findall(r"& (.*?) = (.*?)(?: \\\\)?\n", tilted.latex())
    assert not [one for one, two in rows if one.strip() == two.strip()]
    short = dmft.explain(GENERAL, of=sp.exp(-(x**2) / 2) * y**2)
    assert short.latex().rstrip().endswith(r"\end{align*}")
    assert r"\mathbb{E}\left[y^{2} e^{- \frac{x^{2}}{2}}\right] &= \frac{- m^{2}" in short.latex()


def test_printed_sides_of_steps_are_their_values():
    """LaTeX of a step is that of an expression with the same number, to 30 digits."""
    at = {q: sp.Rational(3, 7), rho: sp.Rational(5, 4), m: sp.Rational(1, 3)}
    count = 0
    cubic = (x**3 - 3 * x) * erf(y)
    cases = ((GENERAL, erf(x) * erf(y)), (UNIT, erf(x) * erf(y) * x * y), (GENERAL, cubic))
    for law, of in cases:
        for step in dmft.explain(law, of=of).steps:
            for side in (step.before, step.after):
                if side.has(Average, sp.Integral, FieldHermite) or not side.free_symbols <= set(at):
                    continue
                gap = (reduced(side) - side).xreplace(at)
                assert abs(sp.N(gap, 30)) < 1e-25
                count += 1
    assert count > 8
