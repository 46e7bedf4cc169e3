"""The sequence information exponent against the table of the theory and against samples."""

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.errors import BadParameter
from dmft.gaussian.exponents.sequence import largest_gain
from dmft.model import token_fields

SIE = dmft.sequence_information_exponent
z = sp.Symbol("z", real=True)
# The table was made by Gauss-Hermite quadrature, whose errors at L = 3 are of this size (our grid
# agrees with the trace formula to 1e-12, see test_averages).
TABLE_ERROR = {2: 2e-6, 3: 5e-6}
RANDOM = np.random.default_rng(1).standard_normal((2, 3)).tolist()


def target_of(name, length):
    y = token_fields(length)
    he = [[dmft.hermite(n, x) for x in y] for n in range(5)]
    if name == "attention_trace":
        return dmft.Attention(length, "trace")
    functions = {
        "inversesqrtsum": sum(y) / sp.sqrt(length),
        "z1": y[0],
        "2difference": y[0] - y[1],
        "2product": y[0] * y[1],
        "inversesqrtH2sum": sum(he[2]) / sp.sqrt(2 * length),
        "2squaredifference": (y[0] ** 2 - y[1] ** 2) / sp.sqrt(2),
        "basic_staircase": y[0] + y[0] * y[1],
        "complete_staircase": y[0] + sum(y[0] * x for x in y[1:]),
        "H3sum": sum(he[3]) / sp.sqrt(length),
        "H4sum": sum(he[4]) / sp.sqrt(length),
        "z1^3 z2": he[3][0] * y[1],
        "3product": sp.prod(y[:3]),
    }
    if name == "complete_staircase" and length == 3:
        functions[name] += sp.prod(y)
    return dmft.SequenceTarget(functions[name], y)


def student_of(name, length):
    uniform = [1 / sp.sqrt(length)] * length
    left, right = (side[:length] for side in RANDOM)
    return {
        "tied tanh": dmft.SequenceNetwork(sp.tanh(z), length),
        "tied square": dmft.SequenceNetwork(z**2 - 1, length),
        "tied e^u (all c_k!=0)": dmft.SequenceNetwork(sp.exp(z / 2), length),
        "trace": dmft.Attention(length, "trace"),
        "projection(random a)": dmft.Attention(length, (left, right)),
        "projection(uniform)": dmft.Attention(length, (uniform, uniform)),
        "projection(left random,right uniform)": dmft.Attention(length, (left, uniform)),
    }[name]


@pytest.mark.cases(1)
@pytest.mark.parametrize("part", range(3))
def test_the_table_of_the_theory(sequence_vectors, part):
    rows = sequence_vectors["sie_table"]
    assert len(rows) == 176
    for row in rows[part::3]:
        length = row["L"]
        pattern = {2: [0.6, -0.6], 3: [0.6, -0.6, 0.3]}[length] if row["pe"] else None
        found = SIE(target_of(row["teacher"], length), student_of(row["student"], length), pattern)
        assert found == (sp.oo if row["SIE"] is None else row["SIE"]), row
        assert found.teacher_exponent == row["teacher_IE"], row
        if "random" not in row["student"]:  # the vectors of the table are not published
            ours = [float(d) for d in found.overlaps][1:]  # D_0 moves with a constant in sigma
            np.testing.assert_allclose(
                ours, row["D"][1 : len(ours) + 1], atol=TABLE_ERROR[length], err_msg=str(row)
            )


def test_a_negative_even_order_is_never_learned():
    y = token_fields(2)
    product = SIE(dmft.SequenceTarget(y[0] * y[1], y), dmft.Attention(2, "trace"))
    assert (int(product), product.sign, product.learned) == (2, -1, False)
    assert float(product.witness.value) == pytest.approx(-0.150313194209, abs=1e-6)
    assert "never learned" in product.explain()
    squares = SIE(target_of("inversesqrtH2sum", 2), dmft.Attention(2, "trace"))
    assert squares.learned
    assert "d log d" in squares.explain()
    np.testing.assert_allclose(squares.tensor[0], np.eye(2), atol=1e-15)


def test_polynomials_and_networks_are_exact_at_any_length():
    y = token_fields(12)
    found = SIE(
        dmft.SequenceTarget(sum(x**3 - 3 * x for x in y), y),
        dmft.SequenceNetwork(sp.Max(0, z) + z**3, 12),
    )
    assert found == 3
    assert found.proof == "symbolic"
    # D_3 = c_3/3! E[g He_3(sum z / sqrt(L))] with c_3 = 6: 12 * 6 / 12^(3/2).
    assert sp.simplify(found.witness.value - 72 / sp.Integer(12) ** sp.Rational(3, 2)) == 0
    assert "d^2" in found.explain()
    assert SIE(found_target(y), dmft.SequenceNetwork(z, 12)) == sp.oo


def found_target(y):
    return dmft.SequenceTarget(y[0] - y[1], y)


def test_trace_of_many_tokens(sequence_vectors):
    for row in sequence_vectors["trace_T11_any_L"]:
        if row["L"] > 32:
            continue
        found = SIE(target_of("inversesqrtH2sum", row["L"]), dmft.Attention(row["L"], "trace"))
        assert found == 2
        # Four tokens and fewer go by sums over nodes.
        tolerance = 1e-8 if row["L"] <= 4 else 1e-12
        assert float(found.witness.value) == pytest.approx(row["D2"], abs=tolerance)


@pytest.mark.parametrize(
    ("name", "value", "gain"),
    [
        ("z1", 1, 1.0), ("2difference", 1, np.sqrt(2)), ("2product", 2, 0.5),
        ("inversesqrtH2sum", 2, 0.5), ("H3sum", 3, np.sqrt(0.5)),
    ],
)  # fmt: skip
def test_untied_networks_see_what_any_direction_sees(name, value, gain):
    """The largest <C*_k, u^k> / k! of unit u, by hand, and E[He_k(z) e^(z/2)] = 2^-k e^(1/8)."""
    network = dmft.SequenceNetwork(sp.exp(z / 2), 2, tied=False)
    found = SIE(target_of(name, 2), network)
    assert (found, found.sign) == (value, 1)
    assert float(found.witness.value) == pytest.approx(gain * np.exp(1 / 8) / 2**value, rel=1e-7)


def test_untied_gain_of_a_negative_target_is_none():
    y = token_fields(2)
    negative = dmft.SequenceTarget(-(y[0] ** 2) - y[1] ** 2, y)
    found = SIE(negative, dmft.SequenceNetwork(z**2, 2, tied=False))
    assert (found, found.sign, found.learned) == (2, -1, False)


def test_largest_gain_of_a_symmetric_tensor():
    rng = np.random.default_rng(5)
    u = rng.standard_normal(3)
    u /= np.linalg.norm(u)
    cube = 2.5 * np.einsum("i,j,k->ijk", u, u, u)
    assert largest_gain(cube) == pytest.approx(2.5)
    matrix = np.diag([-1.0, 0.25, -3.0])
    assert largest_gain(matrix) == pytest.approx(0.25)


def test_refusals():
    y = token_fields(6)
    w = sp.Symbol("w", positive=True)
    target = dmft.SequenceTarget(y[0] * y[1], y)
    with pytest.raises(BadParameter, match="beyond L = 4 only its trace"):
        SIE(target, dmft.Attention(6, ([1] * 6, [1] + [0] * 5)))
    with pytest.raises(BadParameter, match="give numbers"):
        SIE(dmft.SequenceTarget(w * y[0], y[:2]), dmft.Attention(2, "trace"))


@pytest.mark.parametrize("slope", [3, 100, 1000])
def test_steep_activations_at_a_mean(slope):
    """D_1 of z1 for tanh(slope u): E tanh'(slope (z + mean)) / sqrt(2), by a fine sum."""
    x, y, z = sp.symbols("x y z", real=True)
    student = dmft.SequenceNetwork(sp.tanh(slope * z), 2)
    target = dmft.SequenceTarget(x * y + x, [x, y])
    found = dmft.sequence_information_exponent(target, student, encoding=[1, 1])
    step = 1e-5
    u = step * np.arange(-1_000_000, 1_000_001)
    density = np.exp(-((u - np.sqrt(2)) ** 2) / 2) / np.sqrt(2 * np.pi)
    exact = slope * step * float(density @ (1 - np.tanh(slope * u) ** 2)) / np.sqrt(2)
    assert int(found) == 1
    assert float(found.overlaps[1]) == pytest.approx(exact, rel=1e-11)


def test_waves_shorter_than_the_panels():
    """All coefficients of cos(100 u) are below exp(-4900)."""
    x, y, z = sp.symbols("x y z", real=True)
    student = dmft.SequenceNetwork(sp.cos(100 * z), 2)
    target = dmft.SequenceTarget(x * y, [x, y])
    assert dmft.sequence_information_exponent(target, student, [1, 1]) == sp.oo


def test_all_orders_of_a_polynomial_are_looked_at():
    """The only one of this target is eight, beyond the orders where functions have no last one."""
    z = sp.symbols("z1:5", real=True)
    target = dmft.SequenceTarget(sp.Mul(*[y**2 - 1 for y in z]), z)
    assert dmft.sequence_information_exponent(target, dmft.Attention(4, "trace")) == 8


def test_orders_that_are_not_known_are_not_called_infinite():
    """The trace over five tokens is known to order two, the target has order four alone."""
    z = sp.symbols("z1:6", real=True)
    target = dmft.SequenceTarget(sp.expand(dmft.hermite(4, z[0])), z)
    with pytest.raises(BadParameter, match="no order up to 2 decides"):
        dmft.sequence_information_exponent(target, dmft.Attention(5, "trace"))
    odd = dmft.SequenceTarget(z[0], z)
    assert dmft.sequence_information_exponent(odd, dmft.Attention(5, "trace")) == sp.oo
