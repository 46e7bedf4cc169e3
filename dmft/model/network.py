"""Declarations of two-layer networks, and of targets that are any function of a few directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sympy as sp

from dmft.errors import BadParameter, ShapeMismatch
from dmft.record import Brief, Shown
from dmft.validation import checked_or

# Outputs of one network: equations have a name for each.
MOST_OUTPUTS = 16
# Activations are stored in this symbol, so that equal functions are equal expressions.
FIELD = sp.Symbol("z", real=True)


def as_width(width: int | sp.Expr) -> sp.Expr:
    """Return a width as a SymPy integer or symbol, or raise `BadParameter`."""
    try:
        value = sp.sympify(width, strict=True)
    except sp.SympifyError:
        value = sp.nan
    if value.is_Integer and value < 1:
        raise BadParameter(f"width must be at least 1, got {width!r}")
    if value.is_Integer or value.is_Symbol:
        return value
    raise BadParameter(f"width must be a positive integer or a symbol, got {width!r}")


@checked_or(
    activation='it is a function of one symbol, for example sympy.erf(sympy.Symbol("z", real=True))'
)
@dataclass(frozen=True)
class Committee(Shown):
    r"""Two-layer network f = (1/width) sum_j a_j sigma(h_j) with local fields h = W x / sqrt(d).

    Parameters
    ----------
    activation : sympy.Expr
        Activation sigma, an expression in one symbol. If it contains further symbols (parameters),
        pass the symbol of the local field as `field` or name it ``z``.
    width : int or sympy.Symbol
        Number of hidden units: p for a student, k for a teacher.
    readout : sequence, optional
        Readouts a_j of shape (width,), numbers or symbols; ones by default. For several outputs
        (such as classes for ``loss="cross-entropy"``) the shape is (outputs, width).
    field : sympy.Symbol, optional
        Symbol of `activation` that denotes the local field.

    Raises
    ------
    BadParameter, ShapeMismatch

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.Symbol("z", real=True)
    >>> dmft.Committee(sp.erf(z / sp.sqrt(2)), width=4).width
    4
    """

    activation: sp.Expr
    width: sp.Expr
    readout: tuple[Any, ...] | None = None

    def __init__(
        self,
        activation: sp.Expr,
        width: int | sp.Expr,
        readout: Sequence[float | sp.Expr] | Sequence[Sequence[float | sp.Expr]] | None = None,
        *,
        field: sp.Symbol | None = None,
    ) -> None:
        object.__setattr__(self, "activation", _canonical_activation(activation, field))
        object.__setattr__(self, "width", as_width(width))
        object.__setattr__(self, "readout", _canonical_readout(readout, self.width))

    def __str__(self) -> str:
        """The output in the fields z_1, ..., z_p of the units."""
        from dmft.typeset.plain import plain_text

        if self.outputs > 1:
            return self._in_full()
        one = self.width == 1
        unit = sp.latex(self.activation.xreplace({FIELD: sp.Symbol("z" if one else "z_j")}))
        unit = rf"\left[{unit}\right]" if self.activation.is_Add and not one else unit
        values = "" if self.readout is None else f", a = ({', '.join(map(sp.latex, self.readout))})"
        letter = "" if not values else "a " if one else "a_j "
        width = sp.latex(self.width)
        total = "" if one else rf"\frac{{1}}{{{width}}} \sum_{{j=1}}^{{{width}}} "
        return plain_text(f"${total}{letter}{unit}{values}$")

    @property
    def outputs(self) -> int:
        """Number of outputs."""
        several = self.readout is not None and isinstance(self.readout[0], tuple)
        return len(self.readout) if several else 1  # type: ignore[arg-type]

    @property
    def rows(self) -> tuple[tuple[sp.Expr, ...], ...]:
        """Readouts of each output; requires a numeric width."""
        if self.outputs > 1:
            return self.readout or ()
        return (self.readout or (sp.S.One,) * int(self.width),)

    def outputs_at(self, fields: Sequence[sp.Expr]) -> tuple[sp.Expr, ...]:
        """Outputs at given local fields, one for each unit; requires a numeric width."""
        units = [self.activation.xreplace({FIELD: h}) for h in fields]
        return tuple(
            sp.Add(*(a * u for a, u in zip(row, units, strict=True))) / len(units)
            for row in self.rows
        )

    @property
    def functions(self) -> tuple[tuple[sp.Expr, tuple[sp.Symbol, ...]], ...]:
        """Functions that define the network, each with its fields."""
        return ((self.activation, (FIELD,)),)

    @property
    def parameters(self) -> set[sp.Symbol]:
        """Free symbols other than the field: activation parameters and symbolic readouts."""
        symbols: set[sp.Symbol] = self.activation.free_symbols - {FIELD}
        for row in (self.readout or ()) if self.outputs > 1 else (self.readout or (),):
            for a in row:
                symbols |= a.free_symbols
        return symbols


def _canonical_activation(activation: sp.Expr, field: sp.Symbol | None) -> sp.Expr:
    if not isinstance(activation, sp.Expr):
        raise BadParameter(
            f"activation must be a SymPy expression in one symbol, got {activation!r}; "
            'for example sympy.erf(sympy.Symbol("z", real=True))'
        )
    symbols = sorted(activation.free_symbols, key=str)
    if field is None:
        named = [s for s in symbols if s.name == FIELD.name]
        if len(symbols) == 1:
            field = symbols[0]
        elif len(named) == 1:
            field = named[0]
        else:
            raise BadParameter(
                f"activation {activation} contains the symbols {symbols}; declare the local field "
                "with field=..., or call it z"
            )
    elif field not in symbols:
        raise BadParameter(f"activation {activation} does not depend on its field {field}")
    clash = [s for s in symbols if s != field and s.name == FIELD.name]
    if clash:
        raise BadParameter(f"parameter {clash[0]} of activation {activation} may not be called z")
    if activation.has(sp.I, sp.oo, -sp.oo, sp.zoo, sp.nan):
        raise BadParameter(f"activation {activation} is not a real function")
    activation = activation.xreplace({field: FIELD})
    if activation.has(sp.Integral, sp.Derivative, sp.Sum):
        activation = activation.doit()
    # Factored and expanded polynomials are one function and share their generated code.
    return sp.expand(activation) if activation.is_polynomial(FIELD) else activation


def _canonical_readout(readout: Any, width: sp.Expr) -> tuple[Any, ...] | None:
    if readout is None:
        return None
    try:
        rows = list(readout)
    except TypeError:
        return _canonical_row(readout, width)  # refused in words
    if rows and all(hasattr(row, "__len__") for row in rows):
        if not 2 <= len(rows) <= MOST_OUTPUTS:
            raise ShapeMismatch(
                f"readout has {len(rows)} rows, one for each output: their number must be 2 to "
                f"{MOST_OUTPUTS}; for one output pass the row itself"
            )
        return tuple(_canonical_row(row, width) for row in rows)
    return _canonical_row(rows, width)


def _canonical_row(readout: Any, width: sp.Expr) -> tuple[sp.Expr, ...]:
    try:
        values = tuple(sp.sympify(a, strict=True) for a in list(readout))
    except (TypeError, sp.SympifyError) as error:
        raise BadParameter(
            f"readout must be a sequence of numbers or symbols, got {readout!r}"
        ) from error
    if not width.is_Integer:
        raise BadParameter("a readout requires a numeric width; leave it out for a symbolic one")
    if len(values) != int(width):
        raise ShapeMismatch(f"readout has {len(values)} entries, expected width = {width}")
    for a in values:
        if a.is_number and not (a.is_real and a.is_finite):
            raise BadParameter(f"readout {a} is not a finite real number")
    return values


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
