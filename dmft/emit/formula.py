"""Whitelist parser: text of files, events and schedules to SymPy, without ever evaluating it.

Python's own `ast` reads the text; each node is then rebuilt from a short list of names, numbers,
operators and functions. Everything else is refused with the column at which it stands. Bounds on
length, depth, degree and size of numbers are checked before SymPy sees a node, so that no text
can keep the machine busy.
"""

from __future__ import annotations

import ast
import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NoReturn

import sympy as sp
from sympy.polys.orthopolys import hermite_prob_poly

from dmft.emit.formula_text import (
    check_characters,
    describe,
    printable,
    python_tree,
    refuse,
    shorten,
)
from dmft.errors import ExpressionRefused

# Nested brackets and chains of operators; two Python frames a level.
MAX_DEPTH = 60
# Degree of the expanded polynomial, and number of its terms: moments of degree 2n cost n!.
MAX_DEGREE = 32
MAX_TERMS = 1000
# A power is at most this; a polynomial activation of higher degree overflows float64 moments.
MAX_EXPONENT = 32
# He(n, z) up to this order is exact in float64 coefficients.
MAX_HERMITE_ORDER = 16
# Degree in pieces that may not be real, as log(z): SymPy splits these into real and imaginary parts
# when it is asked for a sign, and expands the powers of the sums.
MAX_COMPLEX_DEGREE = 4
# float64 holds 15 digits; numbers beyond that range are slips or attacks.
MAX_MAGNITUDE = 1e15
MAX_LITERAL_LENGTH = 24
# Bits of all exact rational numbers of an expression together.
MAX_BITS = 1024

_NUMBER = re.compile(r"(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,31}")
_CONSTANTS: dict[str, tuple[sp.Expr, float]] = {"pi": (sp.pi, math.pi), "E": (sp.E, math.e)}


def _sign(x: float) -> float:
    return math.copysign(1.0, x) if x else 0.0


# name -> (SymPy, the same on floats: constant sub-expressions are checked before SymPy runs)
_FUNCTIONS: dict[str, tuple[Callable[[sp.Expr], sp.Expr], Callable[[float], float]]] = {
    "erf": (sp.erf, math.erf),
    "erfc": (lambda x: 1 - sp.erf(x), math.erfc),
    "exp": (sp.exp, math.exp),
    "sqrt": (sp.sqrt, math.sqrt),
    "tanh": (sp.tanh, math.tanh),
    "sin": (sp.sin, math.sin),
    "cos": (sp.cos, math.cos),
    "sinh": (sp.sinh, math.sinh),
    "cosh": (sp.cosh, math.cosh),
    "log": (sp.log, math.log),
    "sign": (sp.sign, _sign),
    "Abs": (sp.Abs, abs),
    "relu": (lambda x: sp.Max(0, x), lambda x: max(0.0, x)),
    "Heaviside": (sp.Heaviside, lambda x: 0.5 + 0.5 * _sign(x)),
}
_HERMITE = ("He", "hermite")

FUNCTION_NAMES = (*_FUNCTIONS, *_HERMITE)
RESERVED_NAMES = frozenset({*FUNCTION_NAMES, *_CONSTANTS, "I", "z"})


# What others call the same, in lower case.
CALLED_HERE = {
    "step": "Heaviside(...)", "theta": "Heaviside(...)", "sgn": "sign(...)", "fabs": "Abs(...)",
    "max": "relu(x - y) + y, the larger of x and y", "hardtanh": "relu(z + 1) - relu(z - 1) - 1",
    "maximum": "relu(x - y) + y, the larger of x and y", "ln": "log(...)", "arctanh": "log(...)",
    "sigmoid": "1/2 + tanh(z/2)/2", "softplus": "log(1 + exp(z))",
    "gelu": "z*(1 + erf(z/sqrt(2)))/2", "silu": "z*(1 + tanh(z/2))/2", "power": "**", "pow": "**",
}  # fmt: skip
# Entries of arrays that a message lists.
LISTED = 6


def _listed(names: list[str]) -> str:
    return ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")


def parse_expression(text: str, symbols: Mapping[str, sp.Symbol]) -> sp.Expr:
    """Read a formula such as ``erf(z/sqrt(2))`` in these symbols, or refuse it with its column.

    It may have numbers, + - * / ** and brackets, pi, E, the functions `FUNCTION_NAMES` and the
    names of `symbols`, such as ``"M[0,1]"``. Decimal numbers become exact fractions; He(n, x) =
    hermite(n, x) is the probabilists' polynomial. `ExpressionRefused` names the piece and what is
    allowed.
    """
    check_characters(text)
    tree = python_tree(text)
    node = _Reader(text, symbols).visit(tree, 0)
    is_real = not node.mixed or node.expr.is_extended_real is not False
    if not is_real or node.expr.has(sp.I):
        refuse(text, 0, "the expression is not real")
    return node.expr


def check_name(name: str) -> None:
    """Refuse a parameter name that is no identifier, or that means something else already."""
    if not _IDENTIFIER.fullmatch(name):
        raise ExpressionRefused(
            f"parameter name {printable(name)!r} must be ASCII letters, digits and _ (at most 32)"
        )
    if name in RESERVED_NAMES:
        raise ExpressionRefused(f"parameter name {name!r} is already in use")


@dataclass(frozen=True)
class _Node:
    """An expression with its value when constant, and bounds on its expanded size."""

    expr: sp.Expr
    value: float | None
    degree: float = 0.0
    terms: int = 1
    bits: int = 0
    # Degree in pieces that may not be real; 0: real where all symbols are.
    mixed: float = 0.0


class _Reader:
    """Rebuilds the whitelisted nodes; every other node is refused where it stands."""

    def __init__(self, text: str, symbols: Mapping[str, sp.Symbol]) -> None:
        self.text = text
        self.symbols = symbols

    def refuse(self, node: ast.AST, reason: str) -> NoReturn:
        refuse(self.text, getattr(node, "col_offset", 0), reason)

    def refuse_after(self, node: ast.expr, reason: str) -> NoReturn:
        """Refuse what follows this piece: an operator, an attribute."""
        end = node.end_col_offset or 0
        rest = self.text[end:]
        refuse(self.text, end + len(rest) - len(rest.lstrip(" )")), reason)

    def visit(self, node: ast.expr, depth: int) -> _Node:
        if depth > MAX_DEPTH:
            self.refuse(node, f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(node, ast.BinOp):
            result = self._binary(node, depth + 1)
        elif isinstance(node, ast.UnaryOp):
            result = self._unary(node, depth + 1)
        elif isinstance(node, ast.Call):
            result = self._call(node, depth + 1)
        elif isinstance(node, ast.Name):
            result = self._name(node)
        elif isinstance(node, ast.Constant):
            result = self._number(node)
        elif isinstance(node, ast.Subscript) and self._has_entries(node.value):
            result = self._entry(node)
        elif isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and self._arrays:
            self.refuse(node, f"unknown array {node.value.id!r}{self._hint(node.value.id)}")
        elif isinstance(node, (ast.Attribute, ast.Subscript)):
            self.refuse_after(node.value, describe(node))
        else:
            self.refuse(node, describe(node))
        return self._bounded(node, result)

    def _bounded(self, node: ast.expr, result: _Node) -> _Node:
        if result.expr.has(sp.nan, sp.zoo, sp.oo, -sp.oo):
            self.refuse(node, "this piece is infinite or undefined")
        if result.value is not None and not abs(result.value) <= MAX_MAGNITUDE:
            self.refuse(node, f"a number beyond {MAX_MAGNITUDE:.0e}")
        return result

    def _check_size(
        self, node: ast.expr, degree: float, terms: int, bits: int, mixed: float = 0.0
    ) -> None:
        """Refuse before SymPy builds the piece."""
        if mixed > MAX_COMPLEX_DEGREE:
            self.refuse(
                node,
                f"degree {mixed:g} in parts that may not be real (log or root of a possibly "
                f"negative argument), at most {MAX_COMPLEX_DEGREE}: use Abs(...) inside them",
            )
        if degree > MAX_DEGREE:
            self.refuse(node, f"degree {degree:g} is above {MAX_DEGREE}")
        if terms > MAX_TERMS:
            self.refuse(node, f"expands to more than {MAX_TERMS} terms")
        if bits > MAX_BITS:
            self.refuse(node, "its numbers have too many digits")

    def _number(self, node: ast.Constant) -> _Node:
        literal = self.text[node.col_offset : node.end_col_offset]
        if isinstance(node.value, bool) or not isinstance(node.value, (int, float)):
            self.refuse(node, f"{shorten(literal)} is not a number")
        if not _NUMBER.fullmatch(literal):
            self.refuse(node, f"write {shorten(literal)} as a plain decimal number")
        if len(literal) > MAX_LITERAL_LENGTH:
            self.refuse(node, f"number longer than {MAX_LITERAL_LENGTH} characters")
        value = float(literal)
        exponent = abs(int(re.split("[eE]", literal)[1])) if "e" in literal.lower() else 0
        if abs(value) > MAX_MAGNITUDE or exponent > 40:
            self.refuse(node, f"number {literal} is out of range (at most {MAX_MAGNITUDE:.0e})")
        exact = sp.Rational(literal)
        bits = int(exact.p).bit_length() + int(exact.q).bit_length()
        return _Node(exact, value, bits=bits)

    def _name(self, node: ast.Name) -> _Node:
        name = node.id
        if name in self.symbols:
            return _Node(self.symbols[name], None, degree=1.0)
        if name in _CONSTANTS:
            return _Node(*_CONSTANTS[name])
        if name in FUNCTION_NAMES:
            self.refuse(node, f"{name} is a function: write {name}(...)")
        if self._has_entries(node):
            self.refuse(node, f"{name} is an array: name an entry, as {self._entries_of(name)[0]}")
        self.refuse(node, f"unknown name {name!r}{self._hint(name)}")

    @property
    def _arrays(self) -> bool:
        return any("[" in known for known in self.symbols)

    def _entries_of(self, name: str) -> list[str]:
        return [known for known in self.symbols if known.startswith(f"{name}[")]

    def _has_entries(self, node: ast.expr) -> bool:
        return isinstance(node, ast.Name) and bool(self._entries_of(node.id))

    def _entry(self, node: ast.Subscript) -> _Node:
        """An entry of an array, where the symbols hold it by its name, as ``M[0,1]``."""
        assert isinstance(node.value, ast.Name)
        places = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        numbers = [ast.unparse(place) for place in places]
        name = f"{node.value.id}[{','.join(numbers)}]"
        if name not in self.symbols:
            entries = self._entries_of(node.value.id)
            self.refuse(node, f"there is no {shorten(name)}; entries are {_listed(entries)}")
        return _Node(self.symbols[name], None, degree=1.0)

    def _hint(self, name: str) -> str:
        entries = [known for known in self.symbols if "[" in known]
        known = [*(n for n in self.symbols if n not in entries), *_CONSTANTS, *FUNCTION_NAMES]
        known += [_listed(entries)] if entries else []
        alike = {other.lower(): other for other in known}
        close = difflib.get_close_matches(name.lower(), alike, n=1)
        meant = repr(alike[close[0]]) if close else CALLED_HERE.get(name.lower())
        # Overlaps in eigenspaces are entries of block_M and block_Q.
        blocks = [one for one in entries if one.startswith(f"block_{name}[")]
        meant = repr(blocks[0]) if blocks else meant
        start = f"; did you mean {meant}?" if meant else ""
        return f"{start} (known: {', '.join(known)})"

    def _unary(self, node: ast.UnaryOp, depth: int) -> _Node:
        inner = self.visit(node.operand, depth)
        if isinstance(node.op, ast.UAdd):
            return inner
        if not isinstance(node.op, ast.USub):
            self.refuse(node, "only unary + and - are allowed")
        value = None if inner.value is None else -inner.value
        return replace(inner, expr=-inner.expr, value=value)

    def _binary(self, node: ast.BinOp, depth: int) -> _Node:
        if isinstance(node.op, ast.Pow):
            return self._power(node, depth)
        if isinstance(node.op, ast.BitXor):
            self.refuse_after(node.left, "^ is not a power here: write **")
        if not isinstance(node.op, (ast.Add, ast.Sub, ast.Mult, ast.Div)):
            self.refuse_after(node.left, "only the operators + - * / ** are allowed")
        left, right = self.visit(node.left, depth), self.visit(node.right, depth)
        both = left.value is not None and right.value is not None
        a, b = left.value or 0.0, right.value or 0.0
        bits = left.bits + right.bits
        if isinstance(node.op, (ast.Add, ast.Sub)):
            degree, terms = max(left.degree, right.degree), left.terms + right.terms
            mixed = max(left.mixed, right.mixed)
            self._check_size(node, degree, terms, bits, mixed)
            add = isinstance(node.op, ast.Add)
            expr = left.expr + right.expr if add else left.expr - right.expr
            value = a + b if add else a - b
            return _Node(expr, value if both else None, degree, terms, bits, mixed)
        mixed = left.mixed + right.mixed
        degree, terms = left.degree + right.degree, left.terms * right.terms
        self._check_size(node, degree, terms, bits, mixed)
        if isinstance(node.op, ast.Mult):
            product = a * b if both else None
            return _Node(left.expr * right.expr, product, degree, terms, bits, mixed)
        if right.expr == 0 or right.value == 0:
            self.refuse(node.right, "division by zero")
        quotient = a / b if both else None
        return _Node(left.expr / right.expr, quotient, degree, terms, bits, mixed)

    def _power(self, node: ast.BinOp, depth: int) -> _Node:
        base, exponent = self.visit(node.left, depth), self._exponent(node.right)
        n = abs(float(exponent))
        whole = math.ceil(n)
        terms = math.comb(base.terms + whole - 1, whole) if base.terms > 1 else 1
        bits = (base.bits + 1) * max(whole, int(exponent.q)) if base.bits else 0
        mixed = self._mixed_root(base, exponent)
        self._check_size(node, base.degree * n, terms, bits, mixed)
        value = base.value
        if value is not None:
            try:
                raised = value ** float(exponent)
            except (OverflowError, ZeroDivisionError):
                self.refuse(node, "this power is infinite")
            if isinstance(raised, complex):
                self.refuse(node, "a fractional power of a negative number is not real")
            value = raised
            if not abs(value) <= MAX_MAGNITUDE:
                self.refuse(node, f"a number beyond {MAX_MAGNITUDE:.0e}")
        return _Node(base.expr**exponent, value, base.degree * n, terms, bits, mixed)

    def _mixed_root(self, base: _Node, exponent: sp.Rational) -> float:
        """Degree of a power in pieces that may not be real."""
        if base.mixed or exponent.q == 1:
            return base.mixed * math.ceil(abs(float(exponent)))
        return 0.0 if base.value is not None or base.expr.is_nonnegative else 1.0

    def _exponent(self, node: ast.expr) -> sp.Rational:
        """Number, -number or number/number: an exponent is never computed from other things."""
        for part in ast.walk(node):
            if isinstance(part, ast.BinOp) and isinstance(part.op, ast.Pow):
                self.refuse(part, "a power tower")
        parts = [node.left, node.right] if isinstance(node, ast.BinOp) else [node]
        plain = all(isinstance(_unsigned(p), ast.Constant) for p in parts)
        if not plain or (isinstance(node, ast.BinOp) and not isinstance(node.op, ast.Div)):
            self.refuse(node, "an exponent must be a number or a fraction of numbers")
        exponent = self.visit(node, MAX_DEPTH - 4).expr
        if abs(exponent) > MAX_EXPONENT or exponent.q > MAX_EXPONENT:
            self.refuse(node, f"an exponent is at most {MAX_EXPONENT}, got {exponent}")
        return exponent

    def _call(self, node: ast.Call, depth: int) -> _Node:
        if not isinstance(node.func, ast.Name):
            # Names the attribute or subscript that hides the function, when there is one.
            self.visit(node.func, depth)
            self.refuse(node.func, "only a named function can be called")
        name = node.func.id
        if name not in FUNCTION_NAMES:
            self.refuse(node.func, f"unknown function {name!r}{self._hint(name)}")
        if node.keywords or any(isinstance(a, ast.Starred) for a in node.args):
            self.refuse(node, f"{name} takes plain arguments only")
        if name in _HERMITE:
            return self._hermite(node, name, depth)
        if len(node.args) != 1:
            self.refuse(node, f"{name} takes one argument, got {len(node.args)}")
        inner = self.visit(node.args[0], depth)
        symbolic, numeric = _FUNCTIONS[name]
        value = inner.value
        if value is not None:
            try:
                value = numeric(value)
            except (OverflowError, ValueError):
                self.refuse(node, f"{name}({value:g}) is infinite or not real")
            if not abs(value) <= MAX_MAGNITUDE:
                self.refuse(node, f"{name} of this number is beyond {MAX_MAGNITUDE:.0e}")
        try:
            expr = symbolic(inner.expr)
        except (ValueError, TypeError, ArithmeticError) as error:
            # A comparison of constants that SymPy cannot decide, as in relu(z - z + erfc(1e5)).
            self.refuse(node, f"{name} of this piece is undecidable: {error}")
        degree, mixed = min(inner.degree, 1.0), inner.mixed
        if name in ("log", "sqrt") and value is None and not inner.expr.is_nonnegative:
            mixed = max(mixed, 1.0)
        return _Node(expr, value, degree, 2 if name == "erfc" else 1, inner.bits, mixed)

    def _hermite(self, node: ast.Call, name: str, depth: int) -> _Node:
        if len(node.args) != 2:
            self.refuse(node, f"{name} takes an order and an argument: {name}(2, z)")
        order = node.args[0]
        if not isinstance(order, ast.Constant) or type(order.value) is not int:
            self.refuse(order, f"the order of {name} must be a whole number")
        n = int(order.value)
        if n > MAX_HERMITE_ORDER:
            self.refuse(order, f"the order of {name} is at most {MAX_HERMITE_ORDER}")
        inner = self.visit(node.args[1], depth)
        spread = math.comb(inner.terms + n - 1, n) if inner.terms > 1 else 1
        terms = (n // 2 + 1) * spread
        # The largest coefficient of He_16 needs 21 bits.
        bits = n * (inner.bits + 2)
        mixed = n * inner.mixed
        self._check_size(node, n * inner.degree, terms, bits, mixed)
        u = sp.Dummy("u", real=True)
        polynomial = hermite_prob_poly(n, u)
        value = None if inner.value is None else float(polynomial.subs(u, inner.value))
        expr = polynomial.xreplace({u: inner.expr})
        return _Node(expr, value, n * inner.degree, terms, bits, mixed)


def _unsigned(node: ast.expr) -> ast.expr:
    while isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        node = node.operand
    return node
