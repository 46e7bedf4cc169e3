"""Terms of two-time problems that are dropped, replaced and added, against plain trapezoids."""

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.equations.two_time.problem import TAKEN_BY_SOLVE
from dmft.errors import BadParameter
from dmft.workflow.solving.two_time import OPTIONS

GLASS = dmft.literature.spherical_p_spin(3, sp.Rational(1, 5))
C, R, mu, E = (GLASS.symbols[name] for name in ("C", "R", "mu", "E"))
t, s, u = (GLASS.indices[name] for name in "tsu")
rate, kappa = sp.symbols("rate kappa")


def trapezoids(steps, **weight):
    """E(1), C(1, 1/2) and R(1, 1/2) of the 3-spin glass with weights of its terms."""
    w = {"noise": 1, "memory": 1, "answer": 1, "leak": 0, "pull": 0, "wind": 0} | weight
    h = 1.0 / steps
    c, r = np.zeros((2, steps + 1, steps + 1))
    c[0, 0] = r[0, 0] = 1.0

    def over(y):  # from the first to the last point
        return h * (y.sum() - 0.5 * (y[0] + y[-1]))

    def rates(i):
        a, b = c[i, : i + 1], r[i, : i + 1]
        m = 0.2 + 4.5 * over(a**2 * b) + w["pull"] * over(a)
        full = np.tril(c[: i + 1, : i + 1])
        full = full + full.T - np.diag(np.diag(full))
        f, g = np.zeros((2, i + 1))
        for j in range(i + 1):
            f[j] = -m * a[j] + w["noise"] * 1.5 * over(a[: j + 1] ** 2 * r[j, : j + 1])
            f[j] += w["memory"] * 3.0 * over(a * b * full[:, j]) - w["leak"] * a[j]
            f[j] += w["wind"] * np.sin(i * h) * a[j]
            late = over(a[j:] * b[j:] * r[j : i + 1, j])
            g[j] = -m * b[j] + w["answer"] * 3.0 * late
        return f, g

    for i in range(steps):
        first = rates(i)
        row = [x[i, : i + 1].copy() for x in (c, r)]
        new = [x + h * f for x, f in zip(row, first, strict=True)]
        for _ in range(3):
            c[i + 1, : i + 1], r[i + 1, : i + 1] = new
            c[i + 1, i + 1] = r[i + 1, i + 1] = 1.0
            second = rates(i + 1)
            new = [x + 0.5 * h * (f + g[:-1]) for x, f, g in zip(row, first, second, strict=True)]
        c[i + 1, : i + 1], r[i + 1, : i + 1] = new
    energy = -over(1.5 * c[steps] ** 2 * r[steps])
    return np.array([energy, c[steps, steps // 2], r[steps, steps // 2]])


def plain(**weight):
    """The same, extrapolated to vanishing steps."""
    coarse, fine = (trapezoids(n, **weight) for n in (16, 32))
    return fine + (fine - coarse) / 3.0


CASES = {
    "as it is": (GLASS, {}, {}),
    "dropped": (GLASS.without("noise"), {}, {"noise": 0}),
    "dropped from one": (GLASS.without("memory", block="C"), {}, {"memory": 0}),
    "replaced": (GLASS.replace("R", "memory", GLASS.terms["R"]["memory"] / 2), {}, {"answer": 0.5}),
    "added": (GLASS.with_term("C", "leak", -rate * C(t, s)), {"rate": 0.4}, {"leak": 0.4}),
    "added memory": (
        GLASS.with_term("mu", "pull", kappa * sp.Integral(C(t, u), (u, 0, t))),
        {"kappa": 0.7}, {"pull": 0.7},
    ),
    "added in time": (
        GLASS.with_term("C", "wind", kappa * sp.sin(t) * C(t, s)), {"kappa": 0.7}, {"wind": 0.7}
    ),
    "a wrong sign": (GLASS.replace("C", "noise", -GLASS.terms["C"]["noise"]), {}, {"noise": -1}),
}  # fmt: skip


@pytest.mark.cases(2)
@pytest.mark.parametrize("name", list(CASES))
def test_changed_terms_run_as_plain_trapezoids_say(name):
    problem, values, weight = CASES[name]
    run = dmft.solve(problem, None, 1.0, tol=1e-6, measure_error=False, **values)
    assert run.status == "ok"
    found = np.array([run.E[-1], run.at("C", 1.0, 0.5), run.at("R", 1.0, 0.5)])
    # The extrapolated trapezoids are off by 3e-6 to 2e-5; a change moves what it acts on by > 1e-2.
    np.testing.assert_allclose(found, plain(**weight), atol=5e-5)
    assert name == "as it is" or np.abs(found - plain()).max() > 1e-2
    assert bool(run.provenance["changed_terms"]) == (name != "as it is")


def test_terms_are_listed_compared_and_shown():
    assert list(GLASS.terms) == ["C", "R", "C_diagonal", "R_diagonal", "mu", "E"]
    assert list(GLASS.terms["C"]) == ["sphere", "noise", "memory"]
    assert GLASS.indices.of("C") == (t, s)
    assert GLASS.indices.of("C_diagonal") == (t,)
    leaking = GLASS.with_term("C", "leak", -rate * C(t, s))
    assert leaking.parameters == (rate,)
    assert r"- rate C\left(t,s\right) && \text{(leak)}" in leaking.latex()
    assert leaking.changes.added == {"C": {"leak": -rate * C(t, s)}}
    assert r"\text{(added: leak)}" in leaking.changes.latex()
    assert leaking.without("leak").fingerprint == GLASS.fingerprint != leaking.fingerprint
    assert not leaking.without("leak").is_changed
    assert not GLASS.diff(GLASS)
    assert leaking.without("noise").dropped == ("noise",)
    halved = leaking.replace({"rate": rate**2 / 2})
    assert halved.terms["C"]["leak"] == -(rate**2) * C(t, s) / 2
    assert halved.as_derived is GLASS
    assert halved.diff(leaking).changed.keys() == {"C"}
    known = {"C": lambda t, s: 0.9, "R": lambda t, s: 0.8, "mu": lambda t: 1.1, "E": lambda t: 0.0}
    gap = [p.evaluate(known, 1.0, 0.4, **v)["C"] for p, v in ((leaking, {"rate": 2}), (GLASS, {}))]
    assert gap[0] - gap[1] == pytest.approx(-1.8, abs=1e-13)


def test_expressions_without_names_are_one_term():
    x = sp.Function("x")
    decay = dmft.TwoTime(rates={x(t): -rate * x(t)}, start={x(0): 1})
    assert decay.terms == {"x": {"rate": -rate * x(t)}}
    # Functions and times are known by their names.
    real = sp.Function("x", real=True)(sp.Symbol("t", positive=True))
    driven = decay.with_term("x", "drive", sp.Symbol("strength") * real)
    run = dmft.solve(driven, None, 1.0, rate=1.0, strength=0.25, tol=1e-7)
    assert run.x[-1] == pytest.approx(np.exp(-0.75), abs=1e-5)
    # All of its terms dropped, a function stays where it is.
    still = dmft.solve(decay.without("rate"), None, 1.0)
    assert still.x[-1] == 1.0
    assert dmft.TwoTime(rates={x(t): {"a": x(t), "b": 1}}, start={x(0): 1}).rates == {
        x(t): x(t) + 1
    }


D = sp.Function("D")
WRONG = {
    "block": (("Q", "leak", 1), "no block is called 'Q'; these equations have"),
    "taken": (("C", "noise", 1), "have a term 'noise' already"),
    "word": (("C", "two words", 1), "must be one word"),
    "text": (("C", "leak", "C(t, s)"), "SymPy expression"),
    "infinite": (("C", "leak", float("inf")), "finite number"),
    "function": (("C", "leak", D(t, s)), r"D\(t, s\) in a term of C has no equation; .* C\(t, s\)"),
    "times of a function": (("C", "leak", C(t)), "has no equation"),
    "time": (("mu", "leak", C(t, s)), "the time s is free in"),
    "not causal": (("C", "leak", sp.Integral(C(t, u), (u, t, 2 * t))), "not causal"),
    "name of a function": (("C", "leak", sp.Symbol("E") * C(t, s)), "both a parameter and a func"),
    "name of an option": (("C", "leak", sp.Symbol("tol") * C(t, s)), "argument of dmft.solve"),
}


@pytest.mark.parametrize("name", list(WRONG))
def test_terms_that_cannot_be_added_say_why(name):
    arguments, message = WRONG[name]
    with pytest.raises(BadParameter, match=message):
        GLASS.with_term(*arguments)


def test_other_refusals():
    with pytest.raises(BadParameter, match="no term is called 'wind'"):
        GLASS.without("wind")
    with pytest.raises(BadParameter, match="no term of C is called 'energy'"):
        GLASS.without("energy", block="C")
    with pytest.raises(BadParameter, match="has no term 'leak'"):
        GLASS.replace("C", "leak", 1)
    with pytest.raises(BadParameter, match="'T' is not a parameter"):
        GLASS.replace({"T": 1})
    with pytest.raises(BadParameter, match="same family"):
        GLASS.diff(C)
    with pytest.raises(BadParameter, match="two words"):
        dmft.TwoTime(rates={E(t): {"two words": 1}}, start={E(0): 0})
    own = sp.Function("C_diagonal")
    with pytest.raises(BadParameter, match="not an identifier or is used twice"):
        dmft.TwoTime({C(t, s): 0, own(t): 0}, {C(t, t): 1}, {own(0): 0})
    assert {*OPTIONS} <= TAKEN_BY_SOLVE
