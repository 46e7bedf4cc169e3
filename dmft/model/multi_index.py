"""Declarations of multi-index targets: any function of a few teacher directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sympy as sp

from dmft.errors import BadParameter
from dmft.record import Brief
from dmft.validation import checked_or

FORBIDDEN = (sp.I, sp.oo, -sp.oo, sp.zoo, sp.nan)


def teacher_field(number: int) -> sp.Symbol:
    """Canonical symbol of teacher field `number`, counted from 1."""
    return sp.Symbol(f"z{number}", real=True)


def teacher_fields(count: int) -> tuple[sp.Symbol, ...]:
    """Canonical symbols z1, ..., zk of the first `count` teacher fields."""
    return tuple(teacher_field(r) for r in range(1, count + 1))


@checked_or(fields='for example sympy.symbols("z1 z2", real=True)')
@dataclass(frozen=True)
class MultiIndex(Brief):
    r"""Target y = g(h*_1, ..., h*_k), with teacher fields h* = W* x / sqrt(d).

    Parameters
    ----------
    expr : sympy.Expr
        Function g, an expression in the symbols of `fields`. Further symbols are parameters whose
        values are set at run time. Polynomials are stored expanded, in the symbols z1, ..., zk.
    fields : sympy.Symbol or sequence of sympy.Symbol
        The k fields in the order of the teacher's rows. The function need not depend on all of
        them.

    Raises
    ------
    BadParameter
        For a string, repeated fields, a constant, or a function that is not real.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> x, y = sp.symbols("x y", real=True)
    >>> target = dmft.MultiIndex(x + x * y, [x, y])
    >>> target.expr, target.width
    (z1*z2 + z1, 2)
    >>> dmft.information_exponent(target.expr, target.fields)
    1
    """

    expr: sp.Expr
    width: sp.Integer

    def __init__(self, expr: sp.Expr, fields: sp.Symbol | Sequence[sp.Symbol]) -> None:
        given = distinct_fields(fields)
        object.__setattr__(self, "expr", canonical_target(expr, given))
        object.__setattr__(self, "width", sp.Integer(len(given)))

    @property
    def fields(self) -> tuple[sp.Symbol, ...]:
        """Symbols z1, ..., zk of the stored expression."""
        return teacher_fields(int(self.width))

    @property
    def functions(self) -> tuple[tuple[sp.Expr, tuple[sp.Symbol, ...]], ...]:
        """Function g and its fields."""
        return ((self.expr, self.fields),)

    def outputs_at(self, fields: Sequence[sp.Expr]) -> tuple[sp.Expr]:
        """The output at other teacher fields, as a tuple of length one."""
        return (self.expr.xreplace(dict(zip(self.fields, fields, strict=True))),)

    @property
    def activation(self) -> None:
        """None: g is not a sum over units of functions of one field."""
        return None

    @property
    def readout(self) -> None:
        """None: the fields of g have no readouts."""
        return None

    @property
    def parameters(self) -> set[sp.Symbol]:
        """Free symbols other than the fields."""
        symbols: set[sp.Symbol] = self.expr.free_symbols - set(self.fields)
        return symbols

    def __str__(self) -> str:
        return f"g({', '.join(map(str, self.fields))}) = {self.expr}"

    def _repr_latex_(self) -> str:
        inside = ", ".join(sp.latex(z) for z in self.fields)
        return rf"$\displaystyle g({inside}) = {sp.latex(self.expr)}$"


def distinct_fields(fields: sp.Symbol | Sequence[sp.Symbol]) -> tuple[sp.Symbol, ...]:
    """Fields as a tuple of distinct symbols."""
    try:
        given = (fields,) if isinstance(fields, sp.Symbol) else tuple(fields)
    except TypeError:
        given = ()
    if not given or not all(isinstance(z, sp.Symbol) for z in given):
        raise BadParameter(
            f"fields must be a SymPy symbol or a list of them, got {fields!r}; for example "
            'sympy.symbols("z1 z2", real=True)'
        )
    if len(set(given)) < len(given) or len({z.name for z in given}) < len(given):
        raise BadParameter(f"fields {list(given)} must be distinct")
    return given


def canonical_target(
    expr: sp.Expr, given: tuple[sp.Symbol, ...], *, constant: bool = False
) -> sp.Expr:
    """Target in the symbols z1, ..., zk, checked; polynomials expanded."""
    if not isinstance(expr, sp.Expr):
        raise BadParameter(f"expr must be a SymPy expression in {list(given)}, got {expr!r}")
    if not (constant or expr.free_symbols & set(given)):
        raise BadParameter(
            f"target {expr} depends on none of its fields {list(given)}; symbols with the same "
            "name but different assumptions are different symbols"
        )
    fields = teacher_fields(len(given))
    names = {z.name for z in (*given, *fields)}
    for symbol in sorted(expr.free_symbols - set(given), key=str):
        if symbol.name in names:
            raise BadParameter(
                f"parameter {symbol} of target {expr} has the name of a field; rename it"
            )
    expr = expr.xreplace(dict(zip(given, fields, strict=True)))
    if expr.has(*FORBIDDEN) or expr.is_real is False:
        raise BadParameter(f"target {expr} is not a real function of its fields")
    return sp.expand(expr) if expr.is_polynomial(*fields) else expr
