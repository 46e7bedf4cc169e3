"""`TwoTime.evaluate` against exact solutions, and signs in the symbols that change runs."""

import math
from functools import cache

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.errors import BadParameter

t, s, u = sp.symbols("t s u")
C, R, mu = sp.symbols("C R mu", cls=sp.Function)
RATE, HEAT = sp.symbols("rate heat", positive=True)
# dx/dt = -rate x + noise: R = e^{-rate (t - s)}, C = int_0^s heat R(t, u) R(s, u) du.
LEAKY = dmft.TwoTime(
    rates={
        C(t, s): -RATE * C(t, s) + sp.Integral(HEAT * R(s, u) * R(t, u), (u, 0, s)),
        R(t, s): -RATE * R(t, s),
    },
    values={C(t, t): sp.Integral(HEAT * R(t, u) ** 2, (u, 0, t)), R(t, t): 1,
            mu(t): sp.Integral(C(t, u) * R(t, u), (u, 0, t))},
    causal=[R],
)  # fmt: skip


def test_right_hand_sides_of_known_functions():
    a, heat = 0.7, 1.3

    def answer(t, s):
        return math.exp(-a * (t - s))

    def covariance(t, s):
        return heat / (2 * a) * (math.exp(-a * (t - s)) - math.exp(-a * (t + s)))

    known = {"R": answer, "C": covariance, "mu": lambda t: math.nan}
    found = LEAKY.evaluate(known, 2.0, 0.8, rate=a, heat=heat)
    pairs = heat * (math.exp(a * (0.8 - 2.0)) - math.exp(-a * 2.8)) / (2 * a)
    assert found["R"] == pytest.approx(-a * answer(2.0, 0.8), abs=1e-13)
    assert found["C"] == pytest.approx(-a * covariance(2.0, 0.8) + pairs, abs=1e-13)
    assert found["C_diagonal"] == pytest.approx(covariance(2.0, 2.0), abs=1e-13)
    # int_0^t C(t, u) R(t, u) du in closed form.
    e = math.exp(-2 * a * 2.0)
    wanted = heat / (2 * a) * ((1 - e) / (2 * a) - 2.0 * e)
    assert found["mu"] == pytest.approx(wanted, abs=1e-13)
    assert found["R_diagonal"] == 1.0
    with pytest.raises(BadParameter, match="no value for rate"):
        LEAKY.evaluate(known, 1.0, heat=heat)
    with pytest.raises(BadParameter, match="no value for mu"):
        LEAKY.evaluate({"R": answer, "C": covariance}, 1.0, rate=a, heat=heat)


def test_runs_follow_what_evaluate_gives():
    """Finite differences of a solved glass against its symbols, on the run's own rows."""
    glass = dmft.literature.spherical_p_spin(3)
    times = np.array([0.99, 1.0, 1.01])
    grid = np.unique(np.concatenate([np.linspace(0.02, 1.0, 50), times]))
    run = dmft.solve(glass, None, 1.01, save_at=grid, tol=1e-7, measure_error=False)

    def signal(name):
        return lambda t: float(np.interp(t, run.t, run.signals[name]))

    slope = {n: (run.at(n, 1.01, 0.5) - run.at(n, 0.99, 0.5)) / 0.02 for n in ("C", "R")}
    known = {"C": _on_rows(run, "C"), "R": _on_rows(run, "R"), "mu": signal("mu"), "E": signal("E")}
    found = glass.evaluate(known, 1.0, 0.5)
    for name in ("C", "R"):
        assert found[name] == pytest.approx(slope[name], abs=2e-4), name
    assert found["E"] == pytest.approx(signal("E")(1.0), abs=1e-5)


def _on_rows(run, name):
    """X(t, s) by interpolation between the saved rows, linear in t."""

    def value(t, s):
        upper = int(np.clip(np.searchsorted(run.saved, t), 1, run.saved.size - 1))
        low, high = run.saved[upper - 1], run.saved[upper]
        share = (t - low) / (high - low)
        # Below the diagonal of the lower row: along lines of constant s where both rows have it.
        ends = [run.at(name, x, min(s + x - t, x) if s > low else s) for x in (low, high)]
        return (1 - share) * ends[0] + share * ends[1]

    return value


def test_a_wrong_sign_changes_the_run():
    glass = dmft.literature.spherical_p_spin(3)
    right = dmft.solve(glass, None, 1.0, tol=1e-4, measure_error=False)
    for key, expr in glass.rates.items():
        terms = sp.Add.make_args(expr)
        wrong = dmft.TwoTime(
            rates={**glass.rates, key: expr - 2 * terms[-1]}, values=glass.values,
            start=glass.start, causal=glass.causal,
        )  # fmt: skip
        run = dmft.solve(wrong, None, 1.0, tol=1e-4, measure_error=False)
        assert run.status != "ok" or abs(run.E[-1] - right.E[-1]) > 1e-3


PROBLEMS = {
    "glass": dmft.literature.spherical_p_spin(3, sp.Rational(3, 10)),
    "network": dmft.literature.random_network(sp.erf(t), 2),
    "ridge": dmft.literature.ridge_flow(2, 0.1, (1, 0.2, 1), 0.3),
}
SIGNS = [
    (name, key, n)
    for name, problem in PROBLEMS.items()
    for key, expr in {**problem.rates, **problem.values}.items()
    for n in range(len(sp.Add.make_args(expr)))
]


def at_one_place(problem):
    """Right-hand sides for functions that are given."""
    known = {str(f): lambda t, s: 0.7 + 0.2 * t * s for f in problem.pairs}
    known |= {str(f): lambda t: 1.3 - 0.1 * t for f in problem.signals}
    return problem.evaluate(known, 0.9, 0.4, nodes=6)


@cache
def as_it_is(name):
    return at_one_place(PROBLEMS[name])


@pytest.mark.cases(12)
@pytest.mark.parametrize(("name", "key", "n"), SIGNS, ids=[f"{a}-{k}-{n}" for a, k, n in SIGNS])
def test_every_sign_of_every_equation_counts(name, key, n):
    problem = PROBLEMS[name]
    term = sp.Add.make_args({**problem.rates, **problem.values}[key])[n]
    rates, values = (
        {k: e - 2 * term if k == key else e for k, e in group.items()}
        for group in (problem.rates, problem.values)
    )
    wrong = dmft.TwoTime(rates, values, problem.start, problem.causal)
    right, other = as_it_is(name), at_one_place(wrong)
    assert max(abs(right[f] - other[f]) for f in right) > 1e-3
