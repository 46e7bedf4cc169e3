"""Averages over token fields against samples, quadrature of the definition and other formulas."""

import pickle
from math import factorial

import numpy as np
import pytest
import sympy as sp
from scipy import stats

import dmft
from dmft.equations.sequence.risk import number
from dmft.errors import BadParameter, NotClosed
from dmft.gaussian.exponents.coefficients import polynomial_coefficients
from dmft.gaussian.tables.token_grid import RULES, grid_functions, token_grid
from dmft.gaussian.tables.token_orders import trace_coefficients
from dmft.gaussian.tables.tokens import TokenAverage, TokenLaw
from dmft.model import FIELD, as_encoding, token_fields

E, M = sp.Symbol("e", real=True), sp.Symbol("m", real=True)
ONE = sp.S.One


def sampled(f, g, means, m, size=100_000, seed=0):
    """Mean and standard error of F(h*) G(h) from the definition of the fields."""
    rng = np.random.default_rng(seed)
    length = len(means)
    star = rng.standard_normal((length, size))
    h = m * star + np.sqrt(1 - np.square(m)) * rng.standard_normal((length, size))
    h = h + np.array(means)[:, None]
    z = token_fields(length)
    calls = [sp.lambdify(z, y, ["scipy", "numpy"]) for y in (f, g)]
    values = calls[0](*star) * calls[1](*h)
    return values.mean(), values.std() / np.sqrt(size)


CASES = [
    # F and G of the token fields, pattern of the means, e, m
    (lambda z: z[0] ** 2 * z[1], lambda z: z[0] * z[1] + z[1] ** 3, [1, -1], 0.4, 0.6),
    (lambda z: z[0] * z[1], lambda z: sp.tanh(z[0] - z[1] * z[0]), [1, -1], 0.3, 0.7),
    (lambda z: sp.sin(z[0] * z[2]), lambda z: sp.tanh(z[0] * z[1] - z[2]), [1, 0, -2], 0.2, 0.8),
    (lambda z: sp.cos(z[0] + z[3]), lambda z: 1 / (1 + z[0] ** 2 + z[3] ** 2), [0] * 4, 0.3, 0.5),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=["polynomials", "mixed", "three", "four"])
def test_averages_are_those_of_samples(case):
    of_star, of_h, pattern, e, m = case
    z = token_fields(len(pattern))
    law = TokenLaw(len(pattern), as_encoding(pattern, len(pattern)))
    value = law.expect([(ONE, of_star(z), of_h(z))])
    found = number(value, {E: e, M: m})
    mean, error = sampled(of_star(z), of_h(z), [c * e for c in pattern], m)
    assert abs(found - mean) < 4.5 * error


@pytest.mark.cases(4)
@pytest.mark.parametrize("activation", [sp.erf(FIELD), sp.Max(0, FIELD), sp.tanh(FIELD), FIELD**3])
@pytest.mark.parametrize("pattern", [[1, -1, 0], [1, 0.5, 0.25]])
def test_networks_of_the_mean_field(activation, pattern):
    z = token_fields(3)
    law = TokenLaw(3, as_encoding(pattern, 3))
    target = z[0] * z[1] + z[2] ** 2 * z[0]
    value = law.expect([(ONE, target, activation)])
    found = number(value, {E: 0.5, M: 0.6})
    student = activation.xreplace({FIELD: sum(z) / sp.sqrt(3)})
    mean, error = sampled(target, student, [0.5 * float(c) for c in pattern], 0.6)
    assert abs(found - mean) < 4.5 * error


def test_a_smooth_network_is_also_a_function_of_its_tokens():
    # Two routes: one field with a general target, and the grid in the token fields.
    z = token_fields(2)
    law = TokenLaw(2, as_encoding([1, 0.5], 2))
    target = sp.tanh(z[0] * z[1])
    one = law.expect([(ONE, target, sp.tanh(FIELD))])
    other = law.expect([(ONE, target, sp.tanh(sum(z) / sp.sqrt(2)))])
    at = {E: 0.3, M: 0.7}
    assert one.value(at) == pytest.approx(other.value(at), abs=1e-10)


def test_untied_networks_have_a_direction_of_weights():
    z = token_fields(2)
    law = TokenLaw(2, as_encoding(None, 2), tied=False)
    target = z[0] ** 2 * z[1]
    value = law.expect([(ONE, target, sp.Max(0, FIELD))])
    m = np.array([0.9, 0.3])
    found = float(value.subs(dict(zip(law.semantic, m, strict=True))))
    student = sp.Max(0, sum(z) / sp.sqrt(2))
    mean, error = sampled(target, student, [0, 0], m[:, None])
    assert abs(found - mean) < 4.5 * error
    with pytest.raises(NotClosed, match="finite sums"):
        law.expect([(ONE, sp.tanh(z[0]), sp.Max(0, FIELD))])


def test_derivatives_of_averages_are_those_of_their_values():
    s = dmft.Attention(2).matrix[0, 0]
    node = TokenAverage.of([(s, s)], (1, -1), 1, E, M)
    at, step = {E: 0.4, M: 0.5}, 1e-5
    for symbol in (E, M):
        up, down = ({**at, symbol: at[symbol] + k * step} for k in (1, -1))
        for function in (node, node.diff(E), node.diff(M)):
            slope = (function.value(up) - function.value(down)) / (2 * step)
            assert function.diff(symbol).value(at) == pytest.approx(slope, abs=1e-8)
    mirrored = number(node.subs(E, -E).diff(E), at)
    assert mirrored == pytest.approx(-node.diff(E).value({**at, E: -0.4}))
    assert pickle.loads(pickle.dumps(node)) == node
    assert sp.expand(2 * (node + 1)) == 2 * node + 2


def test_series_of_attention_end_within_their_bound(sequence_vectors):
    # At m = 1, e = 0 the fields coincide: C(0, 1) = E s^2.
    s = dmft.Attention(2).matrix[0, 0]
    node = TokenAverage.of([(s, s)], (1, -1), 1, E, M)
    exact = sequence_vectors["constants_L2"]["V0"]
    gap = abs(node.value({E: 0, M: 1}) - exact)
    assert gap <= node.table.bound + node.table.error + 1e-14
    assert node.table.bound < 1e-12


def test_hermite_coefficients_of_attention(sequence_vectors):
    grid = token_grid(2)
    (values,) = grid_functions((dmft.Attention(2).matrix[0, 0],), 2)(grid, [0.0, 0.0])
    table = grid.coefficients(values, 6)
    for key, value in sequence_vectors["hermite_coeffs_s_e0"].items():
        n = tuple(int(x) for x in key.split(","))
        found = table[n] * np.sqrt(factorial(n[0]) * factorial(n[1]))
        assert found == pytest.approx(value, abs=1e-14)


def test_constants_of_the_two_token_model(sequence_vectors):
    known = sequence_vectors["constants_L2"]
    s = dmft.Attention(2).matrix[0, 0]
    V, mean, C = (
        TokenAverage.of([pair], (1, -1), 1, E, M) for pair in ((ONE, s**2), (ONE, s), (s, s))
    )

    def value(node, e, m=0):
        return node.value({E: e, M: m})

    assert value(V, 0) == pytest.approx(known["V0"], abs=1e-14)
    assert value(V, 1) == pytest.approx(known["V1"], abs=1e-14)
    assert value(V.diff(E), 1) == pytest.approx(known["V1p"], abs=1e-12)
    assert value(V.diff(E, 2), 0) == pytest.approx(known["V0pp"], abs=1e-11)
    assert value(mean, 0) == pytest.approx(known["M0"], abs=1e-14)
    assert value(mean, 1) == pytest.approx(known["M1"], abs=1e-14)
    assert value(mean.diff(E), 1) == pytest.approx(known["M1p"], abs=1e-12)
    assert value(mean.diff(E, 2), 0) == pytest.approx(known["M0pp"], abs=1e-11)
    assert value(C.diff(M, 2), 0) / 2 == pytest.approx(known["C2_0"], abs=1e-14)
    assert value(C.diff(M, 2), 1) / 2 == pytest.approx(known["C2_1"], abs=1e-14)
    assert value(C.diff(M), 0, 1) == pytest.approx(known["Dgrad"], abs=1e-9)
    assert value(C.diff(E, 2), 0, 1) == pytest.approx(known["Cee"], abs=1e-9)


def test_trace_of_attention_at_any_length(sequence_vectors):
    names = ("mean", "c2_self", "c2_other", "c11")
    for row in sequence_vectors["trace_T11_any_L"]:
        found = trace_coefficients(row["L"])
        for name, value in zip(names, found, strict=False):
            assert value == pytest.approx(row[name], abs=2e-13), (row["L"], name)


@pytest.mark.parametrize(("length", "tolerance"), [(3, 1e-12), (4, 1e-8)])
def test_grids_of_three_and_four_tokens_against_the_trace_formula(length, tolerance):
    grid = token_grid(length)
    (values,) = grid_functions((dmft.Attention(length).matrix[0, 0],), length)(grid, [0.0] * length)
    table = grid.coefficients(values, 2)

    def at(*powers):
        return table[tuple(powers) + (0,) * (length - len(powers))]

    root = np.sqrt(2)
    found = [at(0), root * at(2), root * at(0, 2), at(1, 1), at(0, 1, 1)]
    np.testing.assert_allclose(found, trace_coefficients(length), atol=tolerance)


def test_coefficients_of_polynomials_are_their_hermite_coefficients():
    x, y = sp.symbols("x y", real=True)
    f = 3 * x**3 * y + x * y**2 - 2
    known = dmft.hermite_expansion(f, [x, y], 4)
    found = polynomial_coefficients(f, (x, y))
    assert all(found.get(n, 0) == known[n] for n in known.by_index)


def test_refusals():
    z = token_fields(5)
    with pytest.raises(BadParameter, match=f"up to {max(RULES)} tokens, here L = 5"):
        TokenLaw(5, as_encoding(None, 5)).expect([(ONE, z[0], sp.tanh(z[0] * z[4]))])
    a = sp.Symbol("a", positive=True)
    law = TokenLaw(2, as_encoding(1, 2))
    with pytest.raises(BadParameter, match="inside a function"):
        law.expect([(ONE, sp.tanh(a * z[0]), z[1])]).value({E: 0, M: 0})
    with pytest.raises(BadParameter, match="kinks"):
        law.expect([(ONE, z[0], sp.Abs(z[0] * z[1]))]).value({E: 0, M: 0})
    with pytest.raises(BadParameter, match="along one direction"):
        TokenLaw(2, as_encoding(np.eye(3), 2)).expect([(ONE, z[0], sp.tanh(z[0] * z[1]))])


def test_one_dimensional_kinks_are_split():
    # E|z + 0.3| by its closed form.
    from dmft.gaussian.tables.token_grid import field_coefficients

    a = 0.3
    exact = 2 * stats.norm.pdf(a) + a * (2 * stats.norm.cdf(a) - 1)
    assert field_coefficients(sp.Abs(FIELD), a, 0)[0] == pytest.approx(exact, abs=1e-14)
