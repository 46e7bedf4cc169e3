"""SymPy expressions to Numba source text, from a whitelist of nodes, and to cached functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import sympy as sp

from dmft.emit.cache import load_module
from dmft.errors import BadParameter

# Binding strength of the outermost operator of a text, weakest first.
CONDITIONAL, SUM, PRODUCT, POWER, ATOM = range(5)
Text = tuple[str, int]

FUNCTIONS: dict[type, str] = {
    sp.erf: "math.erf",
    sp.erfc: "math.erfc",
    sp.log: "math.log",
    sp.sin: "math.sin",
    sp.cos: "math.cos",
    sp.tan: "math.tan",
    sp.asin: "math.asin",
    sp.acos: "math.acos",
    sp.atan: "math.atan",
    sp.asinh: "math.asinh",
    sp.sinh: "math.sinh",
    sp.cosh: "math.cosh",
    sp.tanh: "math.tanh",
    sp.Abs: "abs",
    sp.sign: "np.sign",
}
RELATIONS: dict[type, str] = {
    sp.StrictLessThan: "<",
    sp.LessThan: "<=",
    sp.StrictGreaterThan: ">",
    sp.GreaterThan: ">=",
    sp.Equality: "==",
    sp.Unequality: "!=",
}
# Largest integer below which every integer is a float64.
EXACT_INTEGER = 2**53
# A symbol to at most this power is written as a product; Numba unrolls longer ones itself.
WRITTEN_OUT = 4
# Terms in a row: Python compiles a longer sum one level of recursion a term.
LONGEST_SUM = 400


def sum_text(parts: Sequence[str]) -> str:
    """Sum of texts that bind at least as strongly as a product, in groups where there are many."""
    if len(parts) > LONGEST_SUM:
        rows = [parts[n : n + LONGEST_SUM] for n in range(0, len(parts), LONGEST_SUM)]
        return sum_text([f"({sum_text(row)})" for row in rows])
    first, *rest = parts
    return first + "".join(f" - {t[1:]}" if t.startswith("-") else f" + {t}" for t in rest)


def emit_expression(
    expr: sp.Expr, names: Mapping[sp.Symbol, str], functions: Mapping[type, str] | None = None
) -> str:
    """Write a scalar expression as text that Numba compiles, with the modules ``math`` and ``np``.

    Symbols become the text in `names`: a variable, or an entry like ``par[0]``. `functions` extends
    or overrides `FUNCTIONS`. NaN goes through everything, Max and Min included. Raises
    `BadParameter` for a node outside the whitelist or a symbol without a name.
    """
    writer = _Writer(names, {**FUNCTIONS, **(functions or {})}, expr)
    return writer.text(sp.sympify(expr, strict=True))


def shared_lines(
    exprs: Sequence[sp.Expr],
    names: Mapping[Any, str],
    stem: str = "s",
    functions: Mapping[type, str] | None = None,
    **options: Any,
) -> tuple[list[str], list[str]]:
    """Lines that compute once what expressions share, and the texts of the expressions.

    Shared by hand: the compiler may not merge two calls of erf. Names begin with the stem; the
    options are those of `sympy.cse`.
    """
    shared, results = sp.cse(list(exprs), symbols=sp.numbered_symbols(f"_{stem}"), **options)
    known, lines = dict(names), []
    for n, (symbol, value) in enumerate(shared):
        lines.append(f"{stem}{n} = {emit_expression(value, known, functions)}")
        known[symbol] = f"{stem}{n}"
    return lines, [emit_expression(value, known, functions) for value in results]


class _Writer:
    """Recursive translation; each method returns text and how tightly it binds."""

    def __init__(
        self, names: Mapping[sp.Symbol, str], functions: Mapping[type, str], whole: sp.Expr
    ) -> None:
        self.names = names
        self.functions = functions
        self.whole = whole

    def text(self, expr: sp.Expr, least: int = CONDITIONAL) -> str:
        """Text of `expr`, in brackets if it binds less tightly than `least`."""
        text, strength = self.node(expr)
        return text if strength >= least else f"({text})"

    def node(self, expr: sp.Expr) -> Text:
        if expr.is_Symbol:
            return self.symbol(expr), ATOM
        if expr.is_Number or expr.is_NumberSymbol:
            return self.number(expr)
        if expr.is_Add:
            return self.add(expr)
        if expr.is_Mul:
            return self.multiply(expr)
        if isinstance(expr, sp.exp):
            name = self.functions.get(sp.exp, "math.exp")
            return f"{name}({self.text(expr.exp)})", ATOM
        if expr.is_Pow:
            return self.power(expr.base, expr.exp)
        return self.call(expr)

    def symbol(self, symbol: sp.Symbol) -> str:
        if symbol not in self.names:
            raise BadParameter(
                f"symbol {symbol} of {self.whole} has no value; known: "
                f"{', '.join(str(s) for s in self.names)}"
            )
        return self.names[symbol]

    def number(self, value: sp.Expr) -> Text:
        if value == sp.pi:
            return "math.pi", ATOM
        if value == sp.E:
            return "math.e", ATOM
        # Of rationals both are known: SymPy would deduce all facts of each number anew.
        if not (value.is_Rational or (value.is_real and value.is_finite)):
            raise self.refusal(value)
        if value.is_Rational and not _is_exact(value) and _is_small(value):
            return f"{float(value.p)!r}/{float(value.q)!r}", PRODUCT if value > 0 else SUM
        try:
            number = float(value)
        except OverflowError as error:
            raise self.refusal(value) from error
        if not math.isfinite(number):
            raise self.refusal(value)
        return repr(number), ATOM if number >= 0.0 else SUM

    def add(self, expr: sp.Expr) -> Text:
        parts: list[str] = []
        for term in expr.args:
            if _is_negative(term.as_coeff_Mul()[0]):
                parts.append("-" + self.text(-term, PRODUCT))
            else:
                parts.append(self.text(term, SUM + 1 if parts else SUM))
        return sum_text(parts), SUM

    def multiply(self, expr: sp.Expr) -> Text:
        coefficient, rest = expr.as_coeff_Mul()
        if _is_negative(coefficient):
            return "-" + self.text(-expr, PRODUCT), SUM
        above, below = [], []
        if coefficient.is_Rational and not _is_exact(coefficient) and _is_small(coefficient):
            above, below = [sp.Integer(coefficient.p)], [sp.Integer(coefficient.q)]
        elif coefficient != 1:
            above = [coefficient]
        for factor in sp.Mul.make_args(rest):
            base, exponent = factor.as_base_exp()
            if not isinstance(factor, sp.exp) and exponent.is_number and _is_negative(exponent):
                below.append(sp.Pow(base, -exponent))
            else:
                above.append(factor)
        above = [x for x in above if x != 1]
        top = "*".join(self.text(x, PRODUCT) for x in above) or "1.0"
        if not below:
            return top, PRODUCT
        bottom = "*".join(self.text(x, PRODUCT) for x in below)
        bottom = self.text(below[0], POWER) if len(below) == 1 else f"({bottom})"
        return f"{top}/{bottom}", PRODUCT

    def power(self, base: sp.Expr, exponent: sp.Expr) -> Text:
        if exponent.is_number and _is_negative(exponent):
            return f"1.0/{self.text(sp.Pow(base, -exponent), POWER)}", PRODUCT
        if exponent.is_Integer:
            n, text = int(exponent), self.text(base, ATOM)
            if base.is_Symbol and n <= WRITTEN_OUT:
                return "*".join([text] * n), PRODUCT
            return f"{text}**{n}", POWER
        if exponent.is_Rational and exponent.q == 2:
            root = f"math.sqrt({self.text(base)})"
            if exponent.p == 1:
                return root, ATOM
            return f"{self.text(base ** ((exponent.p - 1) // 2), PRODUCT)}*{root}", PRODUCT
        return f"math.pow({self.text(base)}, {self.text(exponent)})", ATOM

    def call(self, expr: sp.Expr) -> Text:
        if expr.func in self.functions:
            arguments = ", ".join(self.text(a) for a in expr.args)
            return f"{self.functions[expr.func]}({arguments})", ATOM
        if isinstance(expr, (sp.Max, sp.Min)):
            # np.maximum lets NaN through, where the built-in max may drop it.
            name = "np.maximum" if isinstance(expr, sp.Max) else "np.minimum"
            text = self.text(expr.args[0])
            for other in expr.args[1:]:
                text = f"{name}({text}, {self.text(other)})"
            return text, ATOM
        if isinstance(expr, sp.Heaviside):
            return self.heaviside(*expr.args), CONDITIONAL
        if isinstance(expr, sp.Piecewise):
            return self.piecewise(expr), CONDITIONAL
        raise self.refusal(expr)

    def heaviside(self, argument: sp.Expr, at_zero: sp.Expr) -> str:
        if at_zero == sp.Rational(1, 2):
            return f"0.5 + 0.5*np.sign({self.text(argument)})"
        text = self.text(argument, SUM)
        return (
            f"0.0 if {text} < 0.0 else 1.0 if {text} > 0.0 else "
            f"{self.text(at_zero, SUM)} if {text} == 0.0 else math.nan"
        )

    def piecewise(self, expr: sp.Piecewise) -> str:
        text = ""
        for value, condition in expr.args:
            if condition == sp.true:
                return text + self.text(value, SUM)
            text += f"{self.text(value, SUM)} if {self.condition(condition)} else "
        return text + "math.nan"

    def condition(self, condition: Any) -> str:
        if condition.func in RELATIONS:
            left, right = (self.text(x, SUM) for x in condition.args)
            return f"{left} {RELATIONS[condition.func]} {right}"
        if isinstance(condition, sp.Not):
            return f"not ({self.condition(condition.args[0])})"
        if isinstance(condition, (sp.And, sp.Or)):
            word = " and " if isinstance(condition, sp.And) else " or "
            return word.join(f"({self.condition(c)})" for c in condition.args)
        raise self.refusal(condition)

    def refusal(self, node: Any) -> BadParameter:
        allowed = ", ".join(sorted(f.__name__ for f in self.functions))
        return BadParameter(
            f"cannot write {node} (a {type(node).__name__}) of {self.whole} as code; allowed are "
            f"real numbers, symbols, sums, products, powers, exp, Heaviside, Max, Min, Piecewise, "
            f"{allowed}"
        )


def _is_exact(value: sp.Expr) -> bool:
    """Whether a rational is surely a float64 without rounding."""
    return bool(value.q & (value.q - 1) == 0 and _is_small(value))


def _is_negative(number: sp.Expr) -> bool:
    """Whether a number is below zero; of rationals without SymPy's deductions."""
    return bool(number.p < 0 if number.is_Rational else number.is_negative)


def _is_small(value: sp.Expr) -> bool:
    """Whether numerator and denominator of a rational are both exact as float64."""
    return bool(max(abs(value.p), value.q) < EXACT_INTEGER)


MODULE = '''"""Written by dmft.emit.expression."""

import math

import numpy as np

from dmft.compiled import njit


@njit("{signature}", cache=True, nogil=True, error_model="numpy")
def evaluate({arguments}):
    # {legend}
    {body}
'''


def scalar_function(
    expr: sp.Expr, variable: sp.Symbol, parameters: Iterable[sp.Symbol] = ()
) -> Callable[..., float]:
    """Compile one expression to a Numba function ``float64(x, par)``, `par` a contiguous vector."""
    module: Any = load_module(emit_scalar_function(expr, variable, parameters), "scalar")
    function: Callable[..., float] = module.evaluate
    return function


def emit_scalar_function(
    expr: sp.Expr, variable: sp.Symbol, parameters: Iterable[sp.Symbol] = ()
) -> str:
    """Text of the module behind `scalar_function`."""
    names = {variable: "x"} | {s: f"par[{n}]" for n, s in enumerate(parameters)}
    lines, (result,) = shared_lines([sp.sympify(expr, strict=True)], names)
    arguments = {"x": "float64", "par": "float64[::1]"}
    return _module("float64", arguments, names, [*lines, f"return {result}"])


def vector_function(
    exprs: Sequence[sp.Expr], variables: Sequence[sp.Symbol], parameters: Iterable[sp.Symbol] = ()
) -> Callable[..., None]:
    """Compile expressions to a Numba function ``void(x, par, out)``, of contiguous vectors.

    There is one expression for each entry of `out`; what they share is computed once.
    """
    module: Any = load_module(emit_vector_function(exprs, variables, parameters), "vector")
    function: Callable[..., None] = module.evaluate
    return function


def emit_vector_function(
    exprs: Sequence[sp.Expr], variables: Sequence[sp.Symbol], parameters: Iterable[sp.Symbol] = ()
) -> str:
    """Text of the module behind `vector_function`."""
    names = {s: f"x[{n}]" for n, s in enumerate(variables)}
    names |= {s: f"par[{n}]" for n, s in enumerate(parameters)}
    lines, results = shared_lines([sp.sympify(e, strict=True) for e in exprs], names)
    lines += [f"out[{n}] = {text}" for n, text in enumerate(results)]
    return _module("void", dict.fromkeys(("x", "par", "out"), "float64[::1]"), names, lines)


def _module(
    result: str, arguments: dict[str, str], names: dict[sp.Symbol, str], lines: Sequence[str]
) -> str:
    """Text of a module; a symbol's name may hold line breaks."""
    return MODULE.format(
        signature=f"{result}({', '.join(arguments.values())})",
        arguments=", ".join(arguments),
        legend=" ".join(", ".join(f"{text} = {s}" for s, text in names.items()).split()),
        body="\n    ".join(lines),
    )
