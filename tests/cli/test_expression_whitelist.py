"""The whitelist parser: what it reads, what it refuses and where, and that nothing gets through."""

import math
import time

import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from dmft.emit.formula import FUNCTION_NAMES, check_name, parse_expression
from dmft.errors import ExpressionRefused

Z = sp.Symbol("z", real=True)
S = sp.Symbol("s", real=True)
SYMBOLS = {"z": Z, "s": S}
# Generous: a refusal takes microseconds, the slowest allowed text some tens of milliseconds.
SECONDS = 2.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("erf(z/sqrt(2))", sp.erf(Z / sp.sqrt(2))),
        ("  z**3 - 3*z ", Z**3 - 3 * Z),
        ("He(3, z)", Z**3 - 3 * Z),
        ("hermite(2, 2*z)", 4 * Z**2 - 1),
        ("He(0, z)", sp.Integer(1)),
        ("erfc(z)", 1 - sp.erf(Z)),
        ("0.5*z + 1e-3", Z / 2 + sp.Rational(1, 1000)),
        ("-z**2", -(Z**2)),
        ("z**-2", Z**-2),
        ("(z**2 + s)**(1/2)", sp.sqrt(Z**2 + S)),
        ("2*pi*E*s", 2 * sp.pi * sp.E * S),
        ("Abs(z) + sign(z) + relu(z)", sp.Abs(Z) + sp.sign(Z) + sp.Max(0, Z)),
        ("z*Heaviside(z) + sinh(z)*cosh(z)", Z * sp.Heaviside(Z) + sp.sinh(Z) * sp.cosh(Z)),
        ("Heaviside(0) + Heaviside(2 - 3)", sp.Rational(1, 2)),
        (
            "tanh(sin(z)*cos(z)) + exp(-z**2/2)",
            sp.tanh(sp.sin(Z) * sp.cos(Z)) + sp.exp(-(Z**2) / 2),
        ),
        ("log(1 + z**2)", sp.log(1 + Z**2)),
    ],
)
def test_reads_formulas(text, expected):
    assert sp.simplify(parse_expression(text, SYMBOLS) - expected) == 0


def test_hermite_is_orthogonal_under_the_gaussian():
    # Independent of any table: E[He_2 He_4] = 0 and E[He_4^2] = 4!, by the moments of N(0, 1).
    def mean(expr):
        return sum(c * sp.factorial2(n - 1) for (n,), c in sp.Poly(expr, Z).terms() if n % 2 == 0)

    two, four = parse_expression("He(2, z)", SYMBOLS), parse_expression("He(4, z)", SYMBOLS)
    assert mean(sp.expand(two * four)) == 0
    assert mean(sp.expand(four**2)) == math.factorial(4)


REFUSALS = [
    ("foo(z)", 1, "unknown function 'foo'"),
    ("z + efr(z)", 5, "did you mean 'erf'"),
    ("1 + q", 5, "unknown name 'q'"),
    ("z.__class__", 2, "attribute"),
    ("z.diff(z)", 2, "attribute"),
    ("(z).real", 4, "attribute"),
    ("z[0]", 2, "subscript"),
    ("().__class__.__bases__[0]", 23, "subscript"),
    ("__import__('os').system('true')", 17, "attribute"),
    ("__import__('os')", 1, "unknown function"),
    ("eval('1')", 1, "unknown function"),
    ("getattr(z, 'x')", 1, "unknown function"),
    ("erf.__call__(z)", 4, "attribute"),
    ("(lambda: z)()", 2, "lambda"),
    ("[z for z in z]", 1, "comprehension"),
    ("{z: 1}", 1, "dictionary"),
    ("(z, 1)", 1, "tuple"),
    ("'z'", 1, "not a number"),
    ("b'z'", 1, "not a number"),
    ("f'{z}'", 1, "string"),
    ("z if z else 1", 1, "if / else"),
    ("z < 1", 1, "comparison"),
    ("z and 1", 1, "and / or"),
    ("(y := z)", 2, "assignment"),
    ("z = 1", 3, "not a formula"),
    ("z; z", 2, "not a formula"),
    ("z # comment", 3, "not allowed"),
    ("z +", 4, "not a formula"),
    ("erf(z", 4, "never closed"),
    ("z ^ 2", 3, "write **"),
    ("z @ z", 3, "only the operators"),
    ("z // 2", 3, "only the operators"),
    ("~z", 1, "unary"),
    ("not z", 1, "unary"),
    ("z**2**3", 4, "power tower"),
    ("2**(3**4)", 5, "power tower"),
    ("z**s", 4, "exponent must be a number"),
    ("z**(1+1)", 5, "exponent must be a number"),
    ("z**33", 4, "at most 32"),
    ("9**99999999", 4, "at most 32"),
    ("((z**8)**8)**8", 2, "degree 64"),
    ("(z + s + 1)**32*(1 + z)**9", 1, "degree 41"),
    ("(z + s + pi + 1)**20", 1, "terms"),
    ("9" * 40, 1, "longer than 24"),
    ("1e99", 1, "out of range"),
    ("1e-999999999", 1, "out of range"),
    ("9**32", 1, "beyond"),
    ("0.123456789012345**32", 1, "digits"),
    ("exp(99)", 1, "beyond"),
    ("exp(exp(exp(9)))", 5, "infinite"),
    ("0x1F*z", 1, "plain decimal"),
    ("1_000", 1, "plain decimal"),
    ("1j*z", 1, "not a number"),
    ("True", 1, "not a number"),
    ("None", 1, "not a number"),
    ("...", 1, "not a number"),
    ("z/0", 3, "division by zero"),
    ("1/(z - z)", 4, "division by zero"),
    ("0**-1", 1, "infinite"),
    ("sqrt(-1)", 1, "not real"),
    ("(-8)**(1/3)", 1, "not real"),
    ("log(0)", 1, "infinite"),
    ("1 + relu(erfc(1e5))", 5, "undecidable"),
    ("erf", 1, "is a function"),
    ("erf()", 1, "one argument"),
    ("erf(z, z)", 1, "one argument"),
    ("erf(*z)", 1, "plain arguments"),
    ("erf(x=z)", 1, "plain arguments"),
    ("He(2)", 1, "an order and an argument"),
    ("He(z, 2)", 4, "whole number"),
    ("He(True, z)", 4, "whole number"),
    ("He(17, z)", 4, "at most 16"),
    ("He(16, z**3)", 1, "degree 48"),
    ("\u0435rf(z)", 1, "CYRILLIC SMALL LETTER IE"),
    ("z\u00b2", 2, "SUPERSCRIPT TWO"),
    ("\uff5a", 1, "FULLWIDTH"),
    ("z\n+ 1", 2, "U+000A"),
    ("z\x00", 2, "U+0000"),
    ("I*z", 1, "unknown name 'I'"),
    ("-" * 100 + "z", 62, "nested deeper"),
    ("z" + "+z" * 100, 1, "nested deeper"),
]


@pytest.mark.parametrize(("text", "column", "reason"), REFUSALS, ids=[r[0][:30] for r in REFUSALS])
def test_refuses_with_the_column(text, column, reason):
    start = time.thread_time()
    with pytest.raises(ExpressionRefused) as caught:
        parse_expression(text, SYMBOLS)
    assert time.thread_time() - start < SECONDS
    message = str(caught.value)
    assert reason in message
    assert message.startswith(f"column {column}: ")
    shown, caret = message.splitlines()[-2:]
    assert caret.strip() == "^"
    # The caret stands under the refused character (or one past the end of the text).
    under = shown[caret.index("^") :][:1]
    assert under in (text[column - 1 : column], "?")


@pytest.mark.parametrize("text", ["", "   ", "z" * 501, "(" * 499 + "z"])
def test_refuses_empty_and_overlong_text(text):
    with pytest.raises(ExpressionRefused):
        parse_expression(text, SYMBOLS)


def test_refuses_what_is_not_text():
    with pytest.raises(ExpressionRefused, match="text in quotes"):
        parse_expression(3, SYMBOLS)


@pytest.mark.parametrize(
    "name", ["z", "erf", "pi", "I", "__class__", "a b", "", "x" * 40, "\u03b3"]
)
def test_parameter_names_that_mislead_are_refused(name):
    with pytest.raises(ExpressionRefused):
        check_name(name)


TOKENS = st.sampled_from(
    ["z", "s", "q", "pi", "E", "1", "0", "2.5", "1e9", "1e-9", "7", "(", ")", "(", ")", "+", "-"]
    + ["*", "/", "**", ",", ".", "[", "]", "lambda", "if", "'", " ", "__class__", "^", "=", ":"]
    + [f"{name}(" for name in FUNCTION_NAMES]
)


def _only_refusals_and_soon(text):
    start = time.thread_time()
    try:
        result = parse_expression(text, SYMBOLS)
    except ExpressionRefused:
        pass
    else:
        assert result.free_symbols <= {Z, S}
        assert isinstance(result, sp.Expr)
        allowed = (sp.Add, sp.Mul, sp.Pow, sp.Number, sp.NumberSymbol, sp.Symbol, sp.Function)
        assert all(isinstance(part, (*allowed, sp.Max)) for part in sp.preorder_traversal(result))
    assert time.thread_time() - start < SECONDS, text


@settings(max_examples=300, deadline=None)
@given(st.lists(TOKENS, max_size=60).map("".join))
def test_token_soup_is_read_or_refused(text):
    _only_refusals_and_soon(text)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(text):
    _only_refusals_and_soon(text)


def _formulas():
    """Well-formed formulas, so that the fuzz reaches SymPy and not only the tokeniser."""
    leaves = st.sampled_from(["z", "s", "pi", "E", "2", "0", "0.3", "1e5", "123456789"])
    unary = st.sampled_from([*(f for f in FUNCTION_NAMES if f not in ("He", "hermite")), "-"])

    def grow(inner):
        binary = st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda t: f"({''.join(t)})")
        powers = st.tuples(inner, st.sampled_from(["2", "3", "(1/2)", "-1", "8", "(-2/3)"]))
        calls = st.tuples(unary, inner).map(lambda t: f"{t[0]}({t[1]})")
        hermite = st.tuples(st.integers(0, 6), inner).map(lambda t: f"He({t[0]},{t[1]})")
        return binary | calls | hermite | powers.map(lambda t: f"({t[0]})**{t[1]}")

    return st.recursive(leaves, grow, max_leaves=25)


@settings(max_examples=300, deadline=None)
@given(_formulas())
def test_well_formed_formulas_are_read_or_refused_in_bounded_time(text):
    _only_refusals_and_soon(text)
