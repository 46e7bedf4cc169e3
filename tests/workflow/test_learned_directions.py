"""Directions that two steps find: table of theory B.2 and D.4, the sweep, finite dimension."""

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.errors import BadParameter

z, a, b, c = sp.symbols("z a b c", real=True)
RELU, ERF = sp.Max(z, 0), sp.erf(z / sp.sqrt(2))
DESCENT = dmft.GradientDescent(0.3, samples_per_dim=3)


def he3(x):
    return x**3 - 3 * x


TWO_STEPS = dmft.Model(dmft.Committee(ERF, 1), dmft.MultiIndex(a + he3(b), [a, b]))


def he4(x):
    return x**4 - 6 * x**2 + 3


def found(target, fields, activation=RELU, descent=DESCENT, **options):
    model = dmft.Model(dmft.Committee(activation, 1), dmft.MultiIndex(target, list(fields)))
    return dmft.learned_directions(model, descent, **options)


# theory/batch_reuse B.2 (i): never, and (ii): in one or two steps.
NEVER = {
    "He2": (a**2 - 1, [a]), "He4": (he4(a), [a]), "abs": (sp.Abs(a), [a]),
    "z1z2": (a * b, [a, b]), "z1z2z3": (a * b * c, [a, b, c]),
    "parity": (sp.sign(a * b * c), [a, b, c]), "x2 exp": (a**2 * sp.exp(-(a**2)), [a]),
}  # fmt: skip
LEARNED = {
    "linear": (a, [a], [1]), "He3": (he3(a), [a], [2]), "He2+He3": (a**2 - 1 + he3(a), [a], [2]),
    "z1+z1z2": (a + a * b, [a, b], [1, 2]), "z1+He3(z2)": (a + he3(b), [a, b], [1, 2]),
    "z1+z1He3(z2)": (a + a * he3(b), [a, b], [1, 2]),
    "tanh+tanh": (sp.tanh(a) + sp.tanh(b), [a, b], [1, None]),
    "He3+He3": (he3(a) + he3(b), [a, b], [2, None]),
    "z1+He2(z2)": (a + b**2, [a, b], [1, None]),
    "He3+parity": (he3(a) + a * b * c, [a, b, c], [2, None, None]),
}  # fmt: skip


@pytest.mark.cases(4)
@pytest.mark.parametrize("name", list(NEVER))
@pytest.mark.parametrize("activation", [RELU, ERF], ids=["relu", "erf"])
def test_what_no_number_of_steps_learns(name, activation):
    target, fields = NEVER[name]
    result = found(target, fields, activation)
    assert all(r.never and r.step is None for r in result.table)
    assert result.proof == "symbolic"
    assert result.learned.shape == (0, len(fields))
    assert sum(len(r.directions) for r in result.table) == len(fields)


SLOW = ("He3+He3", "z1+z1He3(z2)", "He3+parity")


@pytest.mark.cases("He3")
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in LEARNED]
)
def test_what_two_steps_learn(name):
    target, fields, steps = LEARNED[name]
    result = found(target, fields, rtol=1e-4)
    assert [r.step for r in result.table] == steps
    assert all(r.never for r in result.table if r.step is None)
    for row in result.table:
        if row.step is not None:
            assert np.linalg.norm(row.overlap) > 20 * np.linalg.norm(row.error)


@pytest.fixture(scope="module")
def two_steps():
    """z1 in the first step, z2 in the second, where the same samples come again."""
    return dmft.learned_directions(TWO_STEPS, DESCENT, rtol=1e-4)


@pytest.mark.slow
def test_overlaps_are_those_of_the_sweep(two_steps):
    run = dmft.solve(
        dmft.derive(TWO_STEPS, DESCENT), dmft.Overlaps([[1.0]], [[0.0, 0.0]]), 2, samples=2**14
    )
    first, second = two_steps.table
    error = run.error.M
    assert abs(first.overlap[0, 0] - run.M[1, 0, 0]) < 5 * error[1, 0, 0] + 1e-9
    assert abs(second.overlap[0, 0] - run.M[2, 0, 1]) < 5 * error[2, 0, 1]
    assert (first.proof, second.proof) == ("symbolic", "numerical")
    assert "E[y^3 (z2)] = 324" in two_steps.explain()


def test_overlaps_are_those_of_finite_dimension(two_steps):
    """One pass leaves z2 at zero, the same samples twice find it."""
    model, start = TWO_STEPS, dmft.Overlaps([[1.0]], [[0.0, 0.0]])
    for batch in (None, "fresh"):
        descent = dmft.GradientDescent(0.3, samples_per_dim=3, batch=batch)
        fresh = batch and dmft.learned_directions(model, descent, rtol=1e-4)
        second = (fresh or two_steps).table[1]
        truth = dmft.simulate(model, descent, 300, 2, 60, start)
        gap = abs(second.overlap[0, 0] - truth.mean["M"][2, 0, 1])
        assert gap < 4 * truth.stderr["M"][2, 0, 1] + 2 / 300
        if batch is None:
            assert abs(second.overlap[0, 0]) > 8 * truth.stderr["M"][2, 0, 1]


def test_symmetries_of_students():
    """An even student never breaks its own symmetry; tanh1 - tanh2 differs by an exchange."""
    even = found(he3(a), [a], z**2)
    assert even.table[0].never
    assert "even" in even.explain()
    odd = found(he3(a) - he3(b), [a, b], ERF, rtol=1e-5)
    assert [r.when for r in odd.table] == ["step 2", "never"]
    assert str(odd.table[0].names[0]) == "z1 - z2"


def test_committee_teachers_and_one_step():
    erf = dmft.Committee(ERF, 2)
    result = dmft.learned_directions(dmft.Model(dmft.Committee(ERF, 1), erf), DESCENT, steps=1)
    assert [r.when for r in result.table] == ["step 1", "never"]
    later = found(he3(a), [a], steps=1)
    assert later.table[0].when == "not yet"


def test_words_and_latex(two_steps):
    result = two_steps
    assert str(result).splitlines()[2].startswith("  z_1        step 1")
    text = result.latex()
    assert text.count("&") == 2
    assert r"\lVert M^2 v \rVert" in text
    assert result._repr_latex_() == text


def test_refusals():
    model = dmft.Model(dmft.Committee(ERF, 1), dmft.MultiIndex(a, [a]))
    with pytest.raises(BadParameter, match=r"use dmft\.solve for more"):
        dmft.learned_directions(model, DESCENT, steps=5)
    with pytest.raises(BadParameter, match="learnability"):
        dmft.learned_directions(model, dmft.SGD(0.1))
    q = sp.Symbol("q")
    wide = dmft.Model(dmft.Committee(ERF, 1), dmft.Committee(ERF, q))
    with pytest.raises(BadParameter, match="known width"):
        dmft.learned_directions(wide, DESCENT)


@pytest.mark.slow  # two integrals with label-dependent losses: 8 s of CPU
def test_errors_of_integrals_do_not_turn_a_direction():
    """E[g^0 z2] = 0, as the label sign(z1) sign(1 + z2) is independent of z2."""
    z, z1, z2 = sp.symbols("z z1 z2", real=True)
    student = dmft.Committee(sp.Max(0, z), 2, readout=[1, -1])
    model = dmft.Model(student, dmft.MultiIndex(sp.sign(z1 + z1 * z2), [z1, z2]))
    descent = dmft.GradientDescent(0.3, 3, loss="logistic")
    found = dmft.learned_directions(model, descent, steps=1)
    assert [row.directions.tolist() for row in found.table] == [[[1.0, 0.0]], [[0.0, 1.0]]]
