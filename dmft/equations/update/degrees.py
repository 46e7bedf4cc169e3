"""Total degrees of what a sample's program defines: which nodes its averages need."""

from __future__ import annotations

from collections.abc import Mapping

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import At
from dmft.equations.definitions import Definition
from dmft.gaussian.closed.switch import SWITCHES
from dmft.model import FIELD

# What turns within a distance of one of its argument.
TURNING = (sp.exp, sp.tanh, sp.log, sp.erf, sp.sin, sp.cos)


class Degrees:
    """Total degrees of expressions in the fields and the noise of one sample.

    Attributes
    ----------
    steep : int
        Largest degree above one, or 0, of what a function seen so far turns in within a distance
        of one: in the fields these are layers that are thinner the farther out they lie.
    """

    def __init__(self, table: Mapping[sp.Basic, Definition]) -> None:
        self.table = table
        self.steep = 0
        self.known: dict[sp.Basic, sp.Expr] = {}

    def of(self, e: sp.Expr) -> sp.Expr:
        """Degree, oo for smooth functions without one, -1 where there are kinks."""
        if isinstance(e, sp.Indexed | sp.Symbol):
            return self.of_symbol(getattr(e, "base", e))
        if isinstance(e, At):
            return self.composed(e.factor, (FIELD,), self.of(e.field))
        if isinstance(e, sp.Sum):
            return self.of(e.function)
        if e.is_Add or e.is_Mul:
            parts = [self.of(a) for a in e.args]
            if -1 in parts:
                return sp.Integer(-1)
            return sp.Max(*parts) if e.is_Add else sp.Add(*parts)
        if e.is_Pow and e.exp.is_Integer and e.exp > 0:
            inside = self.of(e.base)
            return inside if inside < 0 else inside * e.exp
        atoms = sorted(e.atoms(sp.Indexed, sp.Symbol), key=str)
        inside = [self.of(a) for a in atoms]
        if -1 in inside:
            return sp.Integer(-1)
        largest = max(inside, default=sp.S.Zero)
        return sp.S.Zero if largest == 0 else self.composed(e, tuple(atoms), largest)

    def of_symbol(self, base: sp.Basic) -> sp.Expr:
        """Degree of a field or of what the program defines; constants have 0."""
        if base in (x.h, x.h_star, x.lam, x.xi):
            return sp.S.One
        if base not in self.table:
            return sp.S.Zero
        if base not in self.known:
            self.known[base] = self.of(self.table[base].expr)
        return self.known[base]

    def composed(self, function: sp.Expr, fields: tuple[sp.Basic, ...], inside: sp.Expr) -> sp.Expr:
        """Degree of a function of variables of the degree `inside`."""
        if inside < 0 or function.has(*SWITCHES):
            return sp.Integer(-1)
        if function.is_polynomial(*fields):
            return inside * sp.Poly(function, *fields).total_degree()
        turning = (_turns(f.args[0], fields, inside) for f in function.atoms(*TURNING))
        self.steep = max(self.steep, *turning, 0)
        return sp.oo


def _turns(argument: sp.Expr, fields: tuple[sp.Basic, ...], inside: sp.Expr) -> int:
    """Degree of an argument in variables of the degree `inside`, 2 for oo; 0 for those of bells."""
    if argument.is_nonpositive or not argument.has_free(*fields):
        return 0
    if inside == sp.oo or not argument.is_polynomial(*fields):
        return 2 if inside > 1 else 0
    degree = int(inside * sp.Poly(argument, *fields).total_degree())
    return degree if degree > 1 else 0
