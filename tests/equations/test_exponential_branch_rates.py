"""Risks and rates of students with exponential branches at small and large lengths.

The judge is `tests/gaussian/test_exponential_branches.py`'s: sums of the definition in extended
precision, which share nothing with the library.
"""

import importlib.util
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import mpmath
import numpy as np
import pytest
import sympy as sp
from mpmath.calculus.quadrature import GaussLegendre

import dmft

_path = Path(__file__).parents[1] / "gaussian" / "test_exponential_branches.py"
_spec = importlib.util.spec_from_file_location("branch_judge", _path)
assert _spec is not None
assert _spec.loader is not None
truth = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(truth)

z = sp.Symbol("z", real=True)
L = np.longdouble
ELU, LINE = truth.FUNCTIONS["ELU"][0](z), z
LINEAR = dmft.Committee(LINE, width=1)


def student(name):
    return dmft.Committee(truth.FUNCTIONS[name][0](z), width=1)


def overlaps(first, rho, second):
    cross = float(rho * np.sqrt(first) * np.sqrt(second))
    return {"Q": [[first]], "M": [[cross]], "P": [[second]]}


# Slopes of the students that learn, as functions for NumPy with their kinks.
SLOPES = {
    "ELU": (None, lambda t: np.where(t > 0, L(1), np.exp(np.minimum(t, 0))), (0.0,)),
    "SELU": (
        None,
        lambda t: (
            L(truth.LAMBDA) * np.where(t > 0, L(1), L(truth.ALPHA) * np.exp(np.minimum(t, 0)))
        ),
        (0.0,),
    ),
    "x exp(-x)": (
        None,
        lambda t: np.where(t > 0, (1 - t) * np.exp(-np.maximum(t, 0)), L(0)),
        (0.0,),
    ),
    "1 - exp(-x)": (None, lambda t: np.where(t > 0, np.exp(-np.maximum(t, 0)), L(0)), (0.0,)),
}


def compiled(equations, start):
    """Rates and risk of generated code."""
    problem = dmft.build(equations)
    values = equations.values(start, {})
    y = problem.pack({"Q": start.Q, "M": start.M})
    par = problem.pack_parameters({n: values.scalars[n] for n in problem.parameters}, values.arrays)
    out, risk, widths = np.empty_like(y), np.empty(1), np.array([start.p, start.k])
    problem.rhs(0.0, y, widths, par, out)
    problem.observe(0.0, y, widths, par, risk)
    return problem.unpack(out, values.widths), risk[0]


def times_field(f):
    """The function t f(t)."""
    _, F, kinks = truth.FUNCTIONS.get(f, f) if isinstance(f, str) else f
    return (None, lambda t: t * F(t), kinks)


def flow(f, g, first, cross, second):
    """Rates of a student f of a teacher g under gradient flow, and the sum of their |terms|."""
    slope = SLOPES[f]
    squared = (None, lambda t: slope[1](t) * t * truth.FUNCTIONS[f][1](t), (0.0,))
    self_length = truth.judge_one(squared, first)
    self_overlap = self_length * L(cross) / L(first)  # E[v | u] is linear in u
    learned_overlap = truth.judge(slope, times_field(g), first, cross, second)
    learned_length = truth.judge(times_field(slope), g, first, cross, second)
    rates = {"M": learned_overlap - self_overlap, "Q": 2 * (learned_length - self_length)}
    sizes = {
        "M": abs(learned_overlap) + abs(self_overlap),
        "Q": 2 * (abs(learned_length) + abs(self_length)),
    }
    return rates, sizes


@pytest.mark.cases(3)
@pytest.mark.parametrize(
    ("length", "value"),
    [(15.0, 4.42815), (20.0, 5.687), (25.0, 6.943), (60.0, None), (600.0, None), (1e6, None)],
)
def test_risk_of_elu_with_a_linear_teacher(length, value):
    risk = dmft.population_risk(dmft.Model(student("ELU"), LINEAR))
    found = risk(Q=[[length]], M=[[0.0]], P=[[1.0]])
    exact = (truth.size("ELU", length) ** 2 + 1) / 2
    assert found == pytest.approx(float(exact), rel=1e-13)
    if value is not None:
        assert found == pytest.approx(value, rel=1e-4)


def test_risk_of_elu_with_an_elu_teacher_at_600():
    risk = dmft.population_risk(dmft.Model(student("ELU"), student("ELU")))
    found = risk(Q=[[600.0]], M=[[0.0]], P=[[1.0]])
    assert found == pytest.approx(149.07, rel=1e-4)
    pair = truth.judge("ELU", "ELU", 600.0, 0.0, 1.0)
    exact = (truth.size("ELU", 600.0) ** 2 + truth.size("ELU", 1.0) ** 2) / 2 - pair
    assert found == pytest.approx(float(exact), rel=1e-13)


def test_rate_of_elu_at_length_100(generated_code):
    equations = dmft.derive(dmft.Model(student("ELU"), LINEAR), dmft.GradientFlow())
    assert equations.approximation == "exact"
    start = dmft.Overlaps([[100.0]], [[0.0]], [[1.0]])
    assert equations.evaluate(start)["M"][0, 0] == pytest.approx(0.5395, rel=1e-4)
    rates, risk = compiled(equations, start)
    exact, sizes = flow("ELU", "z", 100.0, 0.0, 1.0)
    assert risk == pytest.approx(float((truth.size("ELU", 100.0) ** 2 + 1) / 2), rel=1e-13)
    for block in ("Q", "M"):
        assert abs(rates[block][0, 0] - exact[block]) <= 1e-13 * sizes[block]


def test_a_run_from_length_60_starts_at_its_risk():
    equations = dmft.derive(dmft.Model(student("ELU"), LINEAR), dmft.GradientFlow())
    run = dmft.solve(equations, dmft.Overlaps([[60.0]], [[0.0]], [[1.0]]), t_max=10.0)
    assert str(run.status) == "ok"
    exact = (truth.size("ELU", 60.0) ** 2 + 1) / 2
    assert run.risk[0] == pytest.approx(float(exact), rel=1e-12)
    assert run.risk[-1] < 0.1


def zero_by_parity(f, g, state, size):
    """Whether what the judge finds of a rate is its own rounding, of sums of |F| |G|."""
    squares = [(SLOPES[f], state["Q"]), (times_field(g), state["P"])]
    whole = [
        truth.judge_one((None, lambda t, F=F: F(t) ** 2, kinks), variance[0][0])
        for (_, F, kinks), variance in squares
    ]
    return size <= 1e-17 * np.sqrt(whole[0] * whole[1])


def deviations(f, g, variances, correlations):
    """Worst deviations of compiled rates over the sum of their |terms| and of risks."""
    model = dmft.Model(student(f), student(g))
    equations = dmft.derive(model, dmft.GradientFlow())
    risk = dmft.population_risk(model)
    rate, whole = 0.0, 0.0
    for first in variances:
        for rho in correlations:
            for second in {first, 1.0}:
                state = overlaps(first, rho, second)
                cross = state["M"][0][0]
                rates, code = compiled(equations, dmft.Overlaps(**state))
                exact, sizes = flow(f, g, first, cross, second)
                for block in ("Q", "M"):
                    if rates[block][0, 0] == 0.0 and zero_by_parity(f, g, state, sizes[block]):
                        continue
                    error = abs(rates[block][0, 0] - exact[block]) / sizes[block]
                    rate = max(rate, float(error))
                squares = truth.size(f, first) ** 2 + truth.size(g, second) ** 2
                value = squares / 2 - truth.judge(f, g, first, cross, second)
                for found in (code, risk(**state)):
                    whole = max(whole, float(abs(found - value) / squares))
    print(f"{f} on {g}: rates {rate:.1e}, risks {whole:.1e}")
    return rate, whole


@pytest.mark.cases(1)
@pytest.mark.parametrize(("f", "g"), [("ELU", "ELU"), ("1 - exp(-x)", "erf")])
def test_rates_and_risks_at_a_few_lengths(f, g):
    rate, whole = deviations(f, g, (1e-8, 1e6), (0.5,))
    assert rate <= 1e-10
    assert whole <= 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("g", ["ELU", "x exp(-x)", "step exp(-x)", "erf", "ReLU", "z^2 - 1"])
@pytest.mark.parametrize("f", list(SLOPES))
def test_rates_and_risks_at_all_lengths(f, g):
    variances = (1e-8, 1e-4, 0.1, 2.0, 60.0, 1e4, 1e6)
    rate, whole = deviations(f, g, variances, (0.0, 0.5, -0.5, 1 - 1e-12, -1 + 1e-12))
    assert rate <= 1e-10
    assert whole <= 1e-12


def test_quadratic_terms_of_sgd_stay_finite_at_large_lengths():
    # Averages of four fields go to nodes, where exponentials of branches that do not hold overflow.
    model = dmft.Model(student("ELU"), LINEAR)
    equations = dmft.derive(model, dmft.SGD(learning_rate=0.1))
    start = dmft.Overlaps([[1e4]], [[0.0]], [[1.0]])
    rates = equations.evaluate(start, nodes=1024)
    # E[elu'(h)^2 (h* - elu(h))^2] is half of it times h^2 and 1, but for terms without h.
    flow_rates = dmft.derive(model, dmft.GradientFlow()).evaluate(start)
    assert rates["M"][0, 0] == pytest.approx(flow_rates["M"][0, 0], rel=1e-12)
    quadratic = rates["Q"][0, 0] - flow_rates["Q"][0, 0]
    assert quadratic == pytest.approx(0.1 * 0.5 * (1e4 + 1), rel=0.02)


# Students and teachers p(x) exp(-x) on x > 0 by their polynomials, lowest power first.
DECAYING = {
    "step exp(-x)": (sp.Heaviside(z) * sp.exp(-z), (1,)),
    "x exp(-x)": (sp.Max(0, z) * sp.exp(-z), (0, 1)),
    "x^2 exp(-x)": (sp.Heaviside(z) * z**2 * sp.exp(-z), (0, 0, 1)),
}


def tails(mean, variance, count):
    """E[v^n exp(-v) 1(v > 0)] of v ~ N(mean, variance), n < count, in the digits of mpmath."""
    s = mpmath.sqrt(variance)
    moved = mean - variance
    start = mpmath.exp(variance / 2 - mean) * mpmath.erfc(-moved / (s * mpmath.sqrt(2))) / 2
    found = [start, moved * start + s * mpmath.npdf(mean / s)]
    for n in range(1, count - 1):
        found.append(moved * found[n] + n * variance * found[n - 1])
    return found


@lru_cache(maxsize=1)
def rule():
    """Gauss nodes on (-1, 1), 48 of them, in 50 digits."""
    with mpmath.workdps(50):
        return GaussLegendre(mpmath.mp).calc_nodes(5, mpmath.mp.prec)


def integral(function, ends):
    parts = [((a + b) / 2, (b - a) / 2) for a, b in pairwise(ends)]
    return sum(h * w * function(m + h * x) for m, h in parts for x, w in rule())


def weighted(f, g, C):
    """E[u F(u) G(v)] and E[v F(u) G(v)] by the definition; F and G as in `DECAYING`."""
    (uu, uv), (_, vv) = C
    left = vv - uv**2 / uu

    def inside(u):
        moments = tails(uv * u / uu, left, len(g) + 1)
        value, tilted = (mpmath.fsum(c * moments[n + k] for n, c in enumerate(g)) for k in (0, 1))
        start = mpmath.polyval(f[::-1], u) * mpmath.exp(-u - u**2 / (2 * uu))
        return mpmath.matrix([u * value, tilted]) * start / mpmath.sqrt(2 * mpmath.pi * uu)

    layer = min(mpmath.sqrt(left), mpmath.mpf(1))  # of v within u, where they are nearly parallel
    return integral(inside, sorted({mpmath.mpf(0), *(layer * 4**n for n in range(7)), 8, 40, 160}))


def drift_term(f, g, C):
    """E[lambda_i F(u) G(v)] as a function of the covariances of lambda_i with u and v; v may be u.

    By the regression of lambda_i on u and v: the integrals do not know i.
    """
    (uu, uv), (_, vv) = C
    if uu == uv == vv:

        def inside(u):
            value = mpmath.polyval(f[::-1], u) * mpmath.polyval(g[::-1], u)
            return u * value * mpmath.exp(-2 * u - u**2 / (2 * uu))

        whole = integral(inside, [mpmath.mpf(n) for n in (0, 1, 8, 40, 160)])
        return lambda with_i: with_i[0] / uu * whole / mpmath.sqrt(2 * mpmath.pi * uu)
    found, C = weighted(f, g, C), mpmath.matrix(C)
    return lambda with_i: mpmath.fdot(mpmath.lu_solve(C, mpmath.matrix(with_i)), found)


def slope_of(g):
    """Polynomial of the derivative of p(x) exp(-x)."""
    return [(n + 1) * b - a for n, (a, b) in enumerate(zip(g, (*g[1:], 0), strict=True))]


def rates_in_40_digits(p, r, Omega):
    """Rates of two students of one teacher, polynomials p and r, and the sums of their |terms|."""
    F = slope_of(p)

    fields = [(2, r, 1), (0, p, -mpmath.mpf(1) / 2), (1, p, -mpmath.mpf(1) / 2)]

    def terms(j):
        """Terms of the drift of unit j along lambda_i, by i."""
        drifts = []
        for v, g, _ in fields:
            C = [[Omega[j][j], Omega[j][v]], [Omega[v][j], Omega[v][v]]]
            drifts.append(drift_term(F, g, C))
        for i in (0, 1, 2):
            yield [
                weight * drift([Omega[i][j], Omega[i][v]])
                for drift, (v, _, weight) in zip(drifts, fields, strict=True)
            ]

    with mpmath.workdps(40):
        Omega = [[mpmath.mpf(a) for a in row] for row in Omega]
        b = {(j, i): found for j in (0, 1) for i, found in enumerate(terms(j))}
        M = [[b[j, 2]] for j in (0, 1)]
        Q = [[b[j, k] + b[k, j] for k in (0, 1)] for j in (0, 1)]
        return [
            (block, (j, k), mpmath.fsum(parts), mpmath.fsum(map(abs, parts)))
            for block, rows in (("M", M), ("Q", Q))
            for j, row in enumerate(rows)
            for k, parts in enumerate(row)
        ]


SLOW = pytest.mark.slow


@pytest.mark.slow
@pytest.mark.parametrize(
    ("f", "g"),
    [
        ("x exp(-x)", "step exp(-x)"),
        pytest.param("x^2 exp(-x)", "x exp(-x)", marks=SLOW),
        pytest.param("x^2 exp(-x)", "step exp(-x)", marks=SLOW),
    ],
)
@pytest.mark.parametrize(
    "cosine",
    [1 - 1e-12, *(pytest.param(c, marks=SLOW) for c in (0.5, 0.0, -1 + 1e-12))],
)
def test_rates_of_functions_that_live_near_zero_in_40_digits(f, g, cosine, generated_code):
    # Stein's terms are larger than those of the definition by the variance, and cancel.
    (student_f, p), (teacher_f, r) = DECAYING[f], DECAYING[g]
    model = dmft.Model(dmft.Committee(student_f, width=2), dmft.Committee(teacher_f, width=1))
    equations = dmft.derive(model, dmft.GradientFlow())
    q = 1e6
    # One of the students is nearly parallel to the teacher.
    beside = 0.2 * cosine + 0.1 * np.sqrt((1 - cosine) * (1 + cosine))
    Q, M = [[q, beside * q], [beside * q, q]], [[cosine * q], [0.2 * q]]
    start = dmft.Overlaps(Q, M, [[q]])
    found, _ = compiled(equations, start)
    plain, claim = equations.evaluate(start), equations.evaluate_error(start)
    Omega = [[*Q[0], *M[0]], [*Q[1], *M[1]], [M[0][0], M[1][0], q]]
    for block, place, exact, size in rates_in_40_digits(p, r, Omega):
        for rates in (found, plain):
            error = abs(rates[block][place] - exact)
            assert error <= 1e-12 * size
            assert error <= claim[block][place]
