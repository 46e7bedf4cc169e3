"""`product_expectation`: shape of the closed forms, parsing, refusals, and derivation time."""

import time

import numpy as np
import pytest
import sympy as sp

from dmft.errors import NotClosed, ShapeMismatch
from dmft.gaussian.closed.factor import parse_factor
from dmft.gaussian.closed.product import product_expectation
from dmft.gaussian.closed.wick import hermite
from dmft.model import FIELD as z

SIGMA = sp.erf(z / sp.sqrt(2))
SLOPE = sp.diff(SIGMA, z)
HALF = sp.Rational(1, 2)
OMEGA = sp.IndexedBase("Omega")


def cov(x, y):
    return OMEGA[min(x, y), max(x, y)]


def test_tilted_form_is_built_from_rank_one_downdates():
    """Code generation hoists C(x, y) - C(q, x) C(q, y)/(1 + C(q, q)) by its structure."""
    value = product_expectation([SLOPE, SLOPE, SIGMA, SIGMA], [0, 1, 2, 3], cov)

    def downdate(C, q):
        def T(x, y):
            return C(x, y) - C(q, x) * C(q, y) / (1 + C(q, q))

        return T

    T = downdate(cov, 0)
    U = downdate(T, 1)
    angle = sp.asin(U(2, 3) * (1 + U(2, 2)) ** -HALF * (1 + U(3, 3)) ** -HALF, evaluate=False)
    assert value == 4 / sp.pi**2 * (1 + cov(0, 0)) ** -HALF * (1 + T(1, 1)) ** -HALF * angle
    assert not value.has(sp.Abs, sp.Piecewise)


def test_labels_may_be_symbols_and_expressions_of_no_assumption():
    i, j, m = sp.symbols("i j m")
    h, t = sp.symbols("h t", cls=sp.Function)
    labels = [h(i), h(j), t(m)]
    Q = sp.Function("Q")
    value = product_expectation([SLOPE, z, SIGMA], labels, lambda x, y: Q(*sorted((x, y), key=str)))
    assert value.has(Q(h(i), h(j)))
    assert not value.has(sp.Abs)


def test_polynomials_are_flat_sums_of_merged_monomials():
    """Where each moment is a monomial in its variance; those of Hermite polynomials are powers."""
    value = product_expectation([z**2, z**2, z, z], [0, 1, 2, 3], cov)
    assert value.is_Add
    for term in value.args:
        number, rest = term.as_coeff_Mul()
        assert number.is_Rational
        assert all(base.is_Indexed for base in (p.as_base_exp()[0] for p in sp.Mul.make_args(rest)))
    assert sp.expand(value) == value
    single = product_expectation([hermite(4, z), hermite(2, z)], [0, 1], cov)
    C, q = cov(0, 1), cov(0, 0) - 1
    assert single == 12 * C**2 * q + 3 * q**2 * (cov(1, 1) - 1)
    c, a = sp.symbols("c a")
    merged = product_expectation([z**2, a * z**2], [0, 1], lambda x, y: c)
    assert merged == 3 * a * c**2


def test_repeated_labels_are_one_field():
    for factors, power in (([z, z**3], z**4), ([SIGMA, z * SIGMA, z], z**2 * SIGMA**2)):
        value = product_expectation(factors, [0] * len(factors), cov)
        assert sp.simplify(value - product_expectation([power], [0], cov)) == 0


def test_erf_family_with_any_slope_and_offset():
    a, b, c = sp.symbols("a b c", positive=True)
    v = cov(0, 0)
    value = product_expectation([sp.erf(a * z), sp.erf(b * z)], [0, 1], cov)
    assert value.args[-1].args[0] == (
        2 * a * b * cov(0, 1) / sp.sqrt(1 + 2 * a**2 * v) / sp.sqrt(1 + 2 * b**2 * cov(1, 1))
    )
    shifted = product_expectation([sp.erf(a * z + c)], [0], cov)
    assert shifted == sp.erf(c / sp.sqrt(1 + 2 * a**2 * v))
    assert product_expectation([sp.exp(a * z)], [0], cov) == sp.exp(a**2 * v / 2)


def test_parsing_merges_equal_parts_and_names_what_it_refuses():
    y = sp.Symbol("y")
    terms = parse_factor(sp.expand((z + y) * sp.erf(z)) + z**2 - 1)
    assert {t.powers for t in terms} == {((0, y), (1, 1)), ((0, -1), (2, 1))}
    assert [t.is_polynomial for t in sorted(terms, key=lambda t: len(t.erfs))] == [True, False]
    assert parse_factor(sp.erf(z) - sp.erf(z)) == ()
    with pytest.raises(
        NotClosed, match=r"expectation of tan\(z\).*closed families.*Ways out.*quad.*series"
    ):
        parse_factor(z**2 + sp.tan(z))


def test_factors_and_fields_must_pair():
    with pytest.raises(ShapeMismatch, match="2 factors but 1 fields"):
        product_expectation([z, z], [0], cov)


def test_three_error_functions_with_an_offset_are_refused():
    shifted = sp.erf(z + 1)
    with pytest.raises(NotClosed, match="product of 3 error functions"):
        product_expectation([shifted] * 3, [0, 1, 2], cov)


@pytest.mark.parametrize(("order", "seconds"), [(3, 0.1), (4, 1.0)])
def test_I4_of_hermite_polynomials_is_derived_in_time(order, seconds):
    """The limits are ten times what this thread takes; cold caches."""
    f = hermite(order, z)
    factors = [sp.diff(f, z), sp.diff(f, z), f, f]
    sp.core.cache.clear_cache()
    parse_factor.cache_clear()
    start = time.thread_time()
    value = product_expectation(factors, [0, 1, 2, 3], cov)
    assert time.thread_time() - start < seconds
    assert len(value.args) == {3: 19, 4: 41}[order]
    assert len(sp.expand(value).args) == {3: 86, 4: 425}[order]


@pytest.mark.parametrize("whole", [False, True])
def test_averages_of_polynomials_times_waves_match_quadrature(whole):
    """Four fields in a plane against Gauss-Hermite quadrature; expanded, this took minutes."""
    factors = [sp.diff(z * sp.sin(z), z)] * 2 + [z * sp.sin(z)] * 2
    value = product_expectation(factors, [0, 1, 2, 3], cov, whole=whole)
    assert not value.has(sp.I)
    root = np.array([[0.9, 0.1], [0.4, -0.7], [-0.3, 0.8], [0.5, 0.6]])
    numbers = {cov(i, j): sp.Float(root[i] @ root[j]) for i in range(4) for j in range(i, 4)}
    x, w = np.polynomial.hermite_e.hermegauss(50)
    fields = np.tensordot(root, np.meshgrid(x, x), axes=1)
    functions = [sp.lambdify(z, f)(y) for f, y in zip(factors, fields, strict=True)]
    truth = w @ np.prod(functions, axis=0) @ w / (2 * np.pi)
    assert float(value.xreplace(numbers)) == pytest.approx(truth, rel=1e-12)


def test_closed_forms_too_long_for_code_are_refused():
    wave = z**2 * sp.sin(z)
    with pytest.raises(NotClosed, match="too long for code"):
        product_expectation([sp.diff(wave, z)] * 2 + [wave] * 2, [0, 1, 2, 3], cov, whole=True)
