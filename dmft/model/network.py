"""Declarations of two-layer networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sympy as sp

from dmft.errors import BadParameter, ShapeMismatch
from dmft.record import Shown
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
