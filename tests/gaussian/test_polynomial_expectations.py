"""Polynomials in several fields: against SymPy's own algebra, their canonical form, their time."""

import time
from itertools import combinations
from math import factorial

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import dmft
from dmft.gaussian.closed.law import REMEMBERED, Memory
from dmft.gaussian.closed.wick import diagrams, monomial_sum, power_in_hermite

X = sp.symbols("x1:7", real=True)
a, b, q, m = sp.symbols("a b q m")


def correlated(n):
    """Unit variances, symbolic correlations."""
    cov = sp.eye(n).as_mutable()
    for i, j in combinations(range(n), 2):
        cov[i, j] = cov[j, i] = sp.Symbol(f"r{i + 1}{j + 1}", real=True)
    return dmft.Gaussian(X[:n], cov)


def by_generating_function(polynomial, fields, cov, mean):
    """E p(x) = p(d/dt) exp(m t + t C t / 2) at t = 0, with SymPy's derivatives alone."""
    t = sp.symbols(f"t:{len(fields)}")
    form = sp.Matrix(t).T * cov * sp.Matrix(t)
    generator = sp.exp(sum(x * y for x, y in zip(mean, t, strict=True)) + form[0] / 2)
    total = sp.S.Zero
    for powers, c in sp.Poly(polynomial, *fields).terms():
        value = generator
        for variable, n in zip(t, powers, strict=True):
            value = sp.diff(value, variable, n)
        total += c * value.subs(dict.fromkeys(t, 0))
    return sp.expand(total)


LAWS = [
    (sp.Matrix([[q, m], [m, 1]]), (0, 0)),
    (sp.Matrix([[sp.Rational(2, 3), m], [m, q]]), (a, sp.Rational(1, 2))),
    (sp.Matrix([[a + b, a * m], [a * m, b**2]]), (0, sp.sqrt(q))),
    (sp.Matrix([[q, q], [q, q]]), (b, b)),
    (sp.Matrix([[sp.sqrt(2), 0], [0, 0]]), (1, a)),
]
x, y = X[:2]
POLYNOMIALS = [
    x**3 * y**2 - 2 * x * y,
    (a * x + b * y + 1) ** 3,
    dmft.hermite(3, x) * dmft.hermite(3, y),
    (a + b) * x**2 * y**2 + sp.sqrt(a) * x * y + sp.Rational(1, 3),
    sp.sqrt(2) * x * (sp.sqrt(2) * x + y) ** 2,
    ((x + y) ** 2 + 1) ** 2 - (x - y) ** 4,
]


@pytest.mark.cases(6)
@pytest.mark.parametrize("law", range(len(LAWS)))
@pytest.mark.parametrize("polynomial", POLYNOMIALS)
def test_polynomials_equal_derivatives_of_the_generating_function(law, polynomial):
    cov, mean = LAWS[law]
    wanted = by_generating_function(polynomial, (x, y), cov, mean)
    value = dmft.Gaussian((x, y), cov, mean).expect(polynomial)
    assert sp.expand(value - wanted) == 0


def test_coefficients_are_kept_whole():
    law = dmft.Gaussian((x, y), [[q, m], [m, 1]])
    value = law.expect((a + b) * x**2 * y**2)
    assert value == (a + b) * (q + 2 * m**2)
    assert law.expect(a * x**2 - a * x**2 + a * y - b * x) == 0
    assert law.expect(sp.tanh(a) * x * y) == m * sp.tanh(a)


@pytest.mark.parametrize("degrees", [(2, 2, 2), (4, 4, 2), (3, 3, 3, 3), (4, 3, 2, 1)])
def test_the_sum_is_the_one_that_sympy_builds(degrees):
    # Equal objects, sub-expressions in the same order: what is compared and printed later.
    n = len(degrees)
    value = correlated(n).expect(
        sp.Mul(*[dmft.hermite(k, f) for k, f in zip(degrees, X, strict=False)])
    )
    products = [sp.Mul(*term.args) for term in sp.Add.make_args(value)]
    rebuilt = sp.Add(*products[::-1])
    assert value == rebuilt
    assert value.args == rebuilt.args
    assert value == sp.expand(value)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.tuples(*[st.integers(0, 3)] * 4), st.fractions(max_denominator=7), max_size=12
    )
)
def test_sums_of_symbols_are_canonical(monomials):
    generators = [a, sp.IndexedBase("Omega")[1, 2], sp.Integer(3), a]
    value = monomial_sum(generators, monomials)
    terms = [
        sp.Rational(c.numerator, c.denominator)
        * sp.Mul(*[g**n for g, n in zip(generators, key, strict=True)])
        for key, c in monomials.items()
    ]
    plain = sp.Add(*terms)
    assert value == plain
    assert value.args == plain.args


def test_diagrams_count_all_pairings():
    """At perfect correlation, sum of weights = E[prod He] of one field; also the total 6!!..."""
    for degrees in ((3, 3), (2, 2, 2), (1, 2, 3), (4, 3, 2, 1), (1,) * 6, (2, 1)):
        z = sp.Symbol("z")
        integrand = sp.expand(sp.Mul(*[dmft.hermite(n, z) for n in degrees]))
        moments = {0: 1} | {n: sp.factorial2(n - 1) for n in range(2, 20, 2)}
        wanted = sum(c * moments.get(n, 0) for (n,), c in sp.Poly(integrand, z).terms())
        assert sum(weight for _, weight in diagrams(degrees)) == wanted
        for links, _ in diagrams(degrees):
            rows = [0] * len(degrees)
            for k, (i, j) in zip(links, combinations(range(len(degrees)), 2), strict=True):
                rows[i], rows[j] = rows[i] + k, rows[j] + k
            assert tuple(rows) == degrees


def test_powers_in_hermite_polynomials():
    z = sp.Symbol("z")
    for n in range(7):
        # He_r of variance v: v^(r/2) He_r(z / sqrt v).
        v, shift = sp.Rational(3, 2), sp.Rational(-1, 3)
        total = sum(
            w * v ** sp.Rational(r, 2) * dmft.hermite(r, (z - shift) / sp.sqrt(v))
            for r, _, w in power_in_hermite(n, shift, v)
        )
        assert sp.expand(total - z**n) == 0


SPEED = [(4, 3, 0.05), (6, 4, 1.0)]


@pytest.mark.cases(2)
@pytest.mark.parametrize(("fields", "order", "seconds"), SPEED)
@pytest.mark.parametrize("expanded", [False, True])
def test_hermite_products_at_symbolic_correlations_are_fast(fields, order, seconds, expanded):
    """Must-show numbers of the issue, cold, of this thread; ten times what is measured."""
    integrand = sp.Mul(*[dmft.hermite(order, field) for field in X[:fields]])
    if expanded:
        integrand = sp.expand(integrand)
    law, best = correlated(fields), np.inf
    for _ in range(3):
        REMEMBERED.clear()
        diagrams.cache_clear()
        power_in_hermite.cache_clear()
        sp.core.cache.clear_cache()
        start = time.thread_time()
        value = law.expect(integrand)
        best = min(best, time.thread_time() - start)
        if best < seconds:
            break
    assert best < seconds
    assert len(value.args) == {4: 10, 6: 3355}[fields]
    # At perfect correlation: E[He^n], from the moments of one field.
    at_one = value.xreplace(dict.fromkeys(value.free_symbols, sp.S.One))
    power = sp.Poly(dmft.hermite(order, x) ** fields, x)
    assert at_one == sum(c * sp.factorial2(n - 1) for (n,), c in power.terms() if n % 2 == 0)
    assert law.expect(integrand) is value  # remembered


def test_renamed_fields_are_remembered_and_names_do_not_matter():
    REMEMBERED.clear()
    u, v = sp.symbols("v u", real=True)  # the other order of names
    f = sp.erf(x) * x * y**2
    first = dmft.Gaussian((x, y), [[q, m], [m, 1]]).expect(f)
    again = dmft.Gaussian((u, v), [[q, m], [m, 1]]).expect(f.subs({x: u, y: v}, simultaneous=True))
    assert again is first
    other = dmft.Gaussian((x, y), [[q, m], [m, 2]]).expect(f)
    assert other != first


def test_memory_tells_precisions_apart_and_forgets_the_oldest():
    memory, low, high = Memory(2), sp.Float("0.5", 15), sp.Float("0.5", 40)
    bits = [memory.recall(f, lambda f=f: sp.Integer(f._prec)) for f in (low, high)]
    assert bits == [low._prec, high._prec]
    for n in range(3):
        memory.recall(n, lambda n=n: sp.Integer(n))
    assert memory.recall(0, lambda: sp.Integer(7)) == 7
    assert memory.recall(2, lambda: sp.Integer(7)) == 2


def test_weights_stay_exact_integers():
    n = 12
    value = correlated(2).expect(dmft.hermite(n, x) * dmft.hermite(n, y))
    assert value == factorial(n) * sp.Symbol("r12", real=True) ** n
