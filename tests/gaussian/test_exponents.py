"""Exponents: the table of the theory, and further targets judged by Monte Carlo."""

import numpy as np
import pytest
import sympy as sp
from scipy.special import erf as scipy_erf

import dmft
from dmft.errors import BadParameter
from dmft.gaussian.exponents.coefficients import Coefficients
from dmft.gaussian.exponents.leaps import canonical, numerical_steps, polynomial_steps

z1, z2, z3, z4 = sp.symbols("z1 z2 z3 z4", real=True)


def he(n, z):
    return dmft.hermite(n, z)


E1, E2, E3 = np.eye(3)
PARITY3 = sp.sign(z1 * z2 * z3)
ANY = None  # one direction within the span of the fields, not further known

# theory/batch_reuse D.4: target, information, [(order, new directions) of each step of the leap],
# generative, the same of the generative leap. Directions: unit vectors that span the step.
TABLE = [
    (z1, 1, [(1, "1")], 1, [(1, "1")]),
    (sp.Max(0, z1), 1, [(1, "1")], 1, [(1, "1")]),
    (sp.tanh(he(3, z1)), 1, [(1, "1")], 1, [(1, "1")]),
    (he(2, z1), 2, [(2, "1")], 2, [(2, "1")]),
    (sp.Abs(z1), 2, [(2, "1")], 2, [(2, "1")]),
    (he(3, z1), 3, [(3, "1")], 1, [(1, "1")]),
    (he(4, z1), 4, [(4, "1")], 2, [(2, "1")]),
    (he(2, z1) + he(3, z1), 2, [(2, "1")], 1, [(1, "1")]),
    (z1**2 * sp.exp(-(z1**2)), 4, [(4, "1")], 4, [(4, "1")]),
    (z1 + z1 * z2, 1, [(1, "1"), (1, "2")], 1, [(1, "12")]),
    (z1 * z2, 2, [(2, "12")], 2, [(2, "12")]),
    (sp.sign(z1 * z2), 2, [(2, "12")], 2, [(2, "12")]),
    (z1 + he(3, z2), 1, [(1, "1"), (3, "2")], 1, [(1, "12")]),
    (z1 + z1 * he(3, z2), 1, [(1, "1"), (3, "2")], 1, [(1, "12")]),
    (sp.tanh(z1 + he(3, z2)), 1, [(1, ANY), (1, ANY)], 1, [(1, "12")]),
    (sp.tanh(z1) + sp.tanh(z2), 1, [(1, "+"), (2, "-")], 1, [(1, "+"), (2, "-")]),
    (he(3, z1) + he(3, z2), 3, [(3, "12")], 1, [(1, "+"), (2, "-")]),
    (z1 * z2 * z3, 3, [(3, "123")], 2, [(2, "123")]),
    (PARITY3, 3, [(3, "123")], 3, [(3, "123")]),
    (z1**2 + PARITY3, 2, [(2, "1"), (2, "23")], 2, [(2, "1"), (2, "23")]),
    (he(4, z1) + PARITY3, 3, [(3, "123")], 2, [(2, "1"), (2, "23")]),
    (he(3, z1) + PARITY3, 3, [(3, "123")], 1, [(1, "1"), (2, "23")]),
    (he(3, z1) + z1 * z2 * z3, 3, [(3, "123")], 1, [(1, "1"), (2, "23")]),
    (z1 + z1 * z2 + z1 * z2 * z3, 1, [(1, "1"), (1, "2"), (1, "3")], 1, [(1, "123")]),
]
IDS = [str(row[0]) for row in TABLE]
SPANS = {
    "1": [E1], "2": [E2], "3": [E3], "12": [E1, E2], "23": [E2, E3], "123": [E1, E2, E3],
    "+": [(E1 + E2) / np.sqrt(2)], "-": [(E1 - E2) / np.sqrt(2)],
}  # fmt: skip


def fields_of(target):
    return sorted(target.free_symbols, key=str)


def assert_steps(result, expected):
    assert [step.order for step in result.steps] == [order for order, _ in expected]
    assert int(result) == max(order for order, _ in expected)
    learned = np.concatenate(result.directions)
    np.testing.assert_allclose(learned @ learned.T, np.eye(len(learned)), atol=1e-6)
    for step, (_, name) in zip(result.steps, expected, strict=True):
        if name is ANY:
            assert len(step.directions) == 1
            continue
        span = np.array(SPANS[name])[:, : step.directions.shape[1]]
        projector = step.directions.T @ step.directions
        np.testing.assert_allclose(projector, span.T @ span, atol=1e-6)


def test_the_table_has_all_its_targets():
    assert len({row[0] for row in TABLE}) == 24


@pytest.mark.cases(9)
@pytest.mark.parametrize(("target", "info", "leap", "gen", "gen_leap"), TABLE, ids=IDS)
def test_information_and_leap_exponents_of_the_table(target, info, leap, gen, gen_leap):
    assert dmft.information_exponent(target, fields_of(target)) == info
    assert_steps(dmft.leap_exponent(target, fields_of(target)), leap)


# The costly rows; derivations/exponents.py computes them in the fast suite too.
SLOW = [row[0] for row in TABLE if row[0].has(PARITY3)] + [he(3, z1) + z1 * z2 * z3]
COSTLY = [
    pytest.param(*row, id=name, marks=[pytest.mark.slow] if row[0] in SLOW else [])
    for row, name in zip(TABLE, IDS, strict=True)
]


@pytest.mark.cases(10)
@pytest.mark.parametrize(("target", "info", "leap", "gen", "gen_leap"), COSTLY)
def test_generative_exponents_of_the_table(target, info, leap, gen, gen_leap):
    assert dmft.generative_exponent(target, fields_of(target)) == gen
    result = dmft.generative_exponent(target, fields_of(target), leap=True)
    assert_steps(result, gen_leap)


# Ten more targets. Their exponents are claimed here and judged below by Monte Carlo, which shares
# no code with the library: binned means of He_n, with chi-squared statistics.
SHIFTED_ABS = sp.Abs(z1) - sp.sqrt(2 / sp.pi) / 2 * (z1**2 - 1)
FURTHER = [
    (sp.cos(2 * z1), 2, [(2, "1")], [(2, "1")]),
    (SHIFTED_ABS, 4, [(4, "1")], [(2, "1")]),
    (sp.Heaviside(z1**2 - 1), 2, [(2, "1")], [(2, "1")]),
    (sp.sin(z1) * sp.exp(-(z1**2) / 2) - z1 / 10, 1, [(1, "1")], [(1, "1")]),
    (sp.Max(0, z1) * sp.Max(0, z2), 1, [(1, "+"), (2, "-")], [(1, "+"), (2, "-")]),
    (sp.Max(z1, z2), 1, [(1, "+"), (2, "-")], [(1, "+"), (2, "-")]),
    (z1 * sp.tanh(z2), 2, [(2, "12")], [(2, "12")]),
    (z1**2 - z2**2, 2, [(2, "12")], [(2, "12")]),
    (sp.sign(z1) * z2**2, 1, [(1, "1"), (2, "2")], [(1, "1"), (2, "2")]),
    (sp.exp(z1) * sp.sin(z2), 1, [(1, "2"), (1, "1")], [(1, "12")]),
    (he(3, z1) * z2, 4, [(4, "12")], [(2, "12")]),
    # Steep and discontinuous, with an outer kink that no axis shows.
    (sp.tanh(20 * he(3, z1)), 1, [(1, "1")], [(1, "1")]),
    (sp.Max(0, z1, z2), 1, [(1, "+"), (2, "-")], [(1, "+"), (2, "-")]),
]
SAMPLES = 100_000
BINS = 12
# Standardised chi-squared: five sigma is chance in this many looks, the weakest signal is far off.
SILENT, CLEAR = 6.0, 40.0


def numpy_function(target, fields):
    modules = [{"erf": scipy_erf, "Heaviside": lambda u, *_: (u > 0) * 1.0}, "numpy"]
    return sp.lambdify(fields, target, modules=modules)


def bins_of(values):
    edges = np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1])
    return np.searchsorted(np.unique(edges), values)


def chi_squared(integrand, labels):
    """Standardised chi-squared of the hypothesis that every bin has mean zero."""
    count = np.bincount(labels)
    total = np.bincount(labels, integrand)
    squares = np.bincount(labels, integrand**2)
    used = count > 500
    statistic = total[used] ** 2 / squares[used]
    return float((statistic.sum() - used.sum()) / np.sqrt(2 * used.sum()))


def polynomial(n, z):
    return np.polynomial.hermite_e.hermeval(z, [0] * n + [1])


def loudest(y, h, learned, order, every):
    """Largest statistic over the multi-indices of this order on what is not learned."""
    width = len(h)
    rest = np.linalg.svd(np.atleast_2d(learned))[2][len(learned) :] if learned else np.eye(width)
    labels = np.zeros(len(y), dtype=int)
    for u in learned:
        labels = labels * BINS + bins_of(u @ h)
    weight = y - y.mean()
    if every:
        labels, weight = labels * BINS + bins_of(y), 1.0
    v = rest @ h
    worst = -np.inf
    for first in range(order + 1):
        if len(v) == 1 and first < order:
            continue
        he_n = polynomial(first, v[0]) * (polynomial(order - first, v[1]) if len(v) > 1 else 1)
        worst = max(worst, chi_squared(weight * he_n, labels))
    return worst


@pytest.mark.cases(3)
@pytest.mark.parametrize(
    ("target", "info", "leap", "gen_leap"), FURTHER, ids=[str(row[0]) for row in FURTHER]
)
def test_further_targets_agree_with_monte_carlo(target, info, leap, gen_leap):
    fields = fields_of(target)
    assert dmft.information_exponent(target, fields) == info
    plain = dmft.leap_exponent(target, fields)
    generative = dmft.generative_exponent(target, fields, leap=True)
    assert_steps(plain, leap)
    assert_steps(generative, gen_leap)
    assert dmft.generative_exponent(target, fields) == gen_leap[0][0]

    h = np.random.default_rng(7).standard_normal((len(fields), SAMPLES))
    y = np.broadcast_to(numpy_function(target, fields)(*h), SAMPLES).astype(float)
    for steps, every in ((leap, False), (gen_leap, True)):
        learned = []
        for order, name in steps:
            for lower in range(1, order):
                assert loudest(y, h, learned, lower, every) < SILENT, (every, lower)
            assert loudest(y, h, learned, order, every) > CLEAR, (every, order)
            learned += [u[: len(fields)] for u in SPANS[name]]


# Links of each kind that the posterior moments E[He_k(z) | y] are asked of, with label noise.
NOISY = [
    (he(3, z1), 0.5, [(1, "1")]),
    (he(4, z1), 1.0, [(2, "1")]),
    (sp.Heaviside(z1**2 - 1), 0.3, [(2, "1")]),
    (sp.tanh(2 * he(3, z1)), 0.2, [(1, "1")]),
    (he(3, z1) + he(3, z2), 0.5, [(1, "+"), (2, "-")]),
    (z1 * sp.tanh(z2), 0.1, [(2, "12")]),
    (sp.sign(z1) * z2**2, 0.2, [(1, "1"), (2, "2")]),
]


@pytest.mark.cases(3)
@pytest.mark.parametrize(("target", "noise", "steps"), NOISY, ids=[str(r[0]) for r in NOISY])
def test_generative_exponents_with_label_noise(target, noise, steps):
    fields = fields_of(target)
    result = dmft.generative_exponent(target, fields, leap=True, label_noise=noise)
    assert_steps(result, steps)
    first = dmft.generative_exponent(target, fields, label_noise=noise)
    assert first == steps[0][0]
    rng = np.random.default_rng(11)
    h = rng.standard_normal((len(fields), SAMPLES))
    y = numpy_function(target, fields)(*h) + np.sqrt(noise) * rng.standard_normal(SAMPLES)
    learned = []
    for order, name in steps:
        for lower in range(1, order):
            assert loudest(y, h, learned, lower, every=True) < SILENT
        assert loudest(y, h, learned, order, every=True) > CLEAR
        learned += [u[: len(fields)] for u in SPANS[name]]
    # The witness is the coefficient of the noisy label.
    transform = sp.lambdify(sp.Symbol("y", real=True), first.witness.transformation, "numpy")
    product = transform(y) * np.prod(
        [polynomial(n, x) for n, x in zip(first.witness.index, h, strict=True)], axis=0
    )
    unit = 1.0 if first.proof == "symbolic" else np.sqrt(float(sp.factorial(int(first))))
    error = product.std() / np.sqrt(SAMPLES)
    assert abs(product.mean() / unit - float(first.witness.value)) < 6 * error + 2e-4


def test_label_noise_is_a_variance():
    for wrong in (-1, sp.Symbol("Delta"), np.inf, sp.I):
        with pytest.raises(BadParameter, match="variance"):
            dmft.generative_exponent(z1, z1, label_noise=wrong)
    noisy = dmft.generative_exponent(he(4, z1), z1, label_noise=0.1)
    assert noisy.witness.value == 192  # E[(g + noise)^2 He_2] sees no noise
    cubic = dmft.generative_exponent(he(3, z1) + he(2, z1) ** 2, z1, label_noise=sp.Rational(1, 2))
    assert cubic.proof == "symbolic"


def test_the_judge_can_tell_right_from_wrong():
    h = np.random.default_rng(7).standard_normal((1, SAMPLES))
    cubic = h[0] ** 3 - 3 * h[0]
    assert loudest(cubic, h, [], 1, every=False) < SILENT
    assert loudest(cubic, h, [], 1, every=True) > CLEAR


def test_exact_and_numerical_steps_agree_on_polynomials():
    targets = [row[0] for row in TABLE[:17] if row[0].is_polynomial()]
    assert len(targets) > 8
    for target in targets:
        fields = tuple(fields_of(target))
        exact = polynomial_steps(target, fields)
        numerical = numerical_steps(Coefficients(target, fields), every_transformation=False)
        assert [s.order for s in exact] == [s.order for s in numerical]
        for one, two in zip(exact, numerical, strict=True):
            np.testing.assert_allclose(
                one.directions.T @ one.directions, two.directions.T @ two.directions, atol=1e-7
            )


def test_exponents_do_not_depend_on_the_basis():
    # A rational rotation of the fields turns the directions and leaves the orders.
    c, s = sp.Rational(3, 5), sp.Rational(4, 5)
    turned = {z1: c * z1 + s * z2, z2: -s * z1 + c * z2}
    target = (z1 + he(3, z2)).subs(turned, simultaneous=True)
    leap = dmft.leap_exponent(target, [z1, z2])
    assert [step.order for step in leap.steps] == [1, 3]
    np.testing.assert_allclose(np.abs(leap.directions[0] @ [0.6, 0.8]), 1)
    parity = sp.sign((z1 * z2).subs(turned, simultaneous=True))
    assert dmft.generative_exponent(parity, [z1, z2]) == 2
    assert dmft.information_exponent(parity, [z1, z2]) == 2


@pytest.mark.slow
def test_kinks_in_general_position_are_followed():
    # The parity of three rotated fields: its kinks meet on lines that no axis shows.
    u = sp.Matrix([[2, -1, 2], [2, 2, -1], [-1, 2, 2]]) / 3 * sp.Matrix([z1, z2, z3])
    result = dmft.generative_exponent(sp.sign(u[0] * u[1] * u[2]), [z1, z2, z3], leap=True)
    assert result == 3
    assert [len(d) for d in result.directions] == [3]
    assert result.steps[0].largest_zero < 1e-9


def test_leaps_of_one_field_are_its_exponents():
    # The general engine must say the same as the shortcut by Hermite coefficients and moments.
    for target, info, _, gen, _ in TABLE[:9]:
        coefficients = Coefficients(target, (z1,))
        for every, order in ((False, info), (True, gen)):
            steps = numerical_steps(coefficients, every_transformation=every)
            assert [(s.order, abs(s.directions.item())) for s in steps] == [(order, 1.0)]
    leap = dmft.leap_exponent(he(3, z2), [z1, z2])
    assert leap.proof == "symbolic"
    np.testing.assert_array_equal(leap.directions, [[[0.0, 1.0]]])


def test_many_fields_are_exact_for_polynomials():
    z = sp.symbols("z1:9", real=True)
    staircase = sum(sp.Mul(*z[:n]) for n in range(1, 9))
    leap = dmft.leap_exponent(staircase, z)
    assert leap == 1
    assert len(leap.steps) == 8
    assert leap.proof == "symbolic"
    parity = dmft.information_exponent(sp.Mul(*z), z)
    assert parity == 8
    assert parity.witness.index == (1,) * 8


def test_results_are_integers_that_explain_themselves():
    result = dmft.information_exponent(he(3, z1), z1)
    assert int(result) == 3
    assert result == 3 == sp.Integer(result)
    assert hash(result) == hash(3)
    assert list(range(result)) == [0, 1, 2]
    assert result > dmft.information_exponent(z1, z1) >= 1
    assert repr(result) == "3"
    assert result.proof == "symbolic"
    assert result.witness.value == 6
    assert "d^2" in result.explain()
    assert r"\mathrm{He}_{3}" in result._repr_latex_()
    leap = dmft.leap_exponent(z2 + he(3, z1) * z2, [z1, z2, z3])
    assert "order 1 finds z2" in leap.explain()
    assert "order 3 finds z1" in leap.explain()
    assert leap.witness.learned == 1
    assert leap.directions[1].shape == (1, 3)


def test_constants_have_no_exponent():
    for f in (dmft.information_exponent, dmft.leap_exponent, dmft.generative_exponent):
        for constant in (sp.Integer(3), sp.sin(z1) ** 2 + sp.cos(z1) ** 2):
            result = f(constant, [z1])
            assert result == sp.oo
            assert result.witness is None
            assert "constant" in result.explain()
    with pytest.raises(OverflowError, match="constant"):
        int(dmft.information_exponent(sp.Integer(3), z1))


def test_generative_witness_is_a_true_coefficient():
    for target in (he(4, z1), sp.tanh(he(3, z1)), z1**2 * sp.exp(-(z1**2))):
        witness = dmft.generative_exponent(target, z1).witness
        h = np.random.default_rng(3).standard_normal(100_000)
        y = numpy_function(target, [z1])(h)
        transform = sp.lambdify(sp.Symbol("y", real=True), witness.transformation, "numpy")
        products = transform(y) * polynomial(witness.index[0], h)
        # Numerical witnesses are those of unit-size functions.
        size = 1.0 if witness.error == 0 else np.sqrt(float(sp.factorial(witness.index[0])))
        error = products.std() / np.sqrt(h.size)
        assert abs(products.mean() / size - float(witness.value)) < 5 * error + 2e-4


def test_coefficients_that_cancel_in_rounding_count_as_zero():
    rounded = 0.1 * z1**3 - 0.3 * z1
    result = dmft.information_exponent(rounded, z1)
    assert result == 3
    assert result.proof == "numerical"
    assert dmft.information_exponent(0.1 * z1**3 - 0.3001 * z1, z1) == 1
    assert dmft.leap_exponent(rounded, z1) == 3


def test_directions_are_named_by_coordinates_where_they_can():
    turned = np.linalg.qr(np.random.default_rng(0).standard_normal((2, 2)))[0] @ np.eye(3)[1:]
    np.testing.assert_allclose(canonical(turned), np.eye(3)[1:], atol=1e-12)


@pytest.mark.parametrize(
    ("target", "fields", "match"),
    [
        (z1 * z2, z1, "not among the fields"),
        (sp.exp(z1**2) * z1, z1, "not integrable"),
        ("z1", z1, "= 'z1' must be a SymPy expression"),
        (z1, "z1", "symbol"),
        (sp.I * z1, z1, "real function"),
        (sp.tanh(sum(sp.symbols("a:5", real=True))), sp.symbols("a:5", real=True), "1 to 4 fields"),
    ],
)
def test_refusals(target, fields, match):
    for f in (dmft.information_exponent, dmft.leap_exponent, dmft.generative_exponent):
        with pytest.raises(BadParameter, match=match):
            f(target, fields)


def test_poles_have_no_coefficients_but_a_posterior():
    # 1/z is not integrable; functions of it are, and see the sign of z.
    with pytest.raises(BadParameter, match="pole"):
        dmft.information_exponent(1 / z1, z1)
    assert dmft.generative_exponent(1 / z1, z1) == 1
    assert dmft.information_exponent(1 / sp.sqrt(sp.Abs(z1)), z1) == 2


def test_what_is_too_large_or_too_rough_is_refused_and_errors_are_shown(monkeypatch):
    monkeypatch.setattr("dmft.gaussian.nodes.grid.MAX_NODES", 400_000)
    z = [z1, z2, z3, z4]
    turned = sp.Matrix([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]])
    parity = sp.sign(sp.Mul(*(turned * sp.Matrix(z))))
    with pytest.raises(BadParameter, match="nodes"):
        dmft.generative_exponent(parity, z)
    text = dmft.leap_exponent(sp.sign(z1 * z2 - 1), [z1, z2]).explain()
    assert "±" in text
