"""Integrands as sums of products of functions of one (derived) Gaussian field each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import sympy as sp
from sympy.core.relational import Relational

from dmft.errors import BadParameter, NotClosed
from dmft.gaussian.certified.balls import exact_fraction
from dmft.gaussian.certified.signed import RationalLaw

# Functions of one linear combination of fields: that combination becomes a field.
LINEAR = (
    sp.Abs, sp.sign, sp.Heaviside, sp.erf, sp.erfc, sp.sin, sp.cos, sp.sinh, sp.cosh, sp.tanh,
    sp.atan,
)  # fmt: skip


class NotSeparable(NotClosed):
    """An integrand is not a sum of products of functions of one field."""


@dataclass(frozen=True)
class Product:
    """coefficient * exp(joint) * prod functions[x](x)."""

    coefficient: sp.Expr
    functions: dict[sp.Symbol, sp.Expr]
    joint: sp.Expr = sp.S.Zero


@dataclass
class Fields:
    """Fields and their rational law; linear combinations are added as further fields."""

    symbols: list[sp.Symbol]
    law: RationalLaw
    _known: dict[sp.Expr, sp.Symbol] = field(default_factory=dict)

    def present(self, expr: sp.Expr) -> list[sp.Symbol]:
        """Fields that an expression holds."""
        free = expr.free_symbols
        return [x for x in self.symbols if x in free]

    def derived(self, form: sp.Expr) -> sp.Symbol:
        """Field that is this linear combination (without its offset)."""
        if form not in self._known:
            weights = []
            for x in self.symbols:
                slope = sp.expand(form).coeff(x, 1) if form.has_free(x) else sp.S.Zero
                value = exact_fraction(slope)
                if value is None:
                    raise NotSeparable(f"{form} has the coefficient {slope}, which is not rational")
                weights.append(value)
            self.law = self.law.joined(weights, Fraction(0))
            self._known[form] = sp.Dummy("w", real=True)
            self.symbols.append(self._known[form])
        return self._known[form]

    def sub_law(self, chosen: Sequence[sp.Symbol]) -> RationalLaw:
        """Law of some of the fields."""
        index = [self.symbols.index(x) for x in chosen]
        return RationalLaw(
            tuple(self.law.mean[i] for i in index),
            tuple(tuple(self.law.cov[i][j] for j in index) for i in index),
        )


def products(expr: sp.Expr, fields: Fields) -> list[Product]:
    """Split an integrand; what depends on one field alone stays in one piece."""
    atoms: dict[sp.Expr, sp.Dummy] = {}
    joints: dict[sp.Dummy, sp.Expr] = {}

    def freeze(e: sp.Expr) -> sp.Expr:
        present = fields.present(e)
        if not present:
            return e
        if len(present) == 1:
            return atoms.setdefault(e, sp.Dummy())
        if e.is_Add or e.is_Mul or (e.is_Pow and e.exp.is_Integer and e.exp > 0):
            return e.func(*[freeze(a) for a in e.args])
        if isinstance(e, sp.exp):
            key = sp.Dummy()
            joints[key] = sp.expand(e.exp)
            return key
        return freeze(_of_one_field(e, fields))

    flat = sp.expand(freeze(expr))
    owner = {dummy: (fields.present(e)[0], e) for e, dummy in atoms.items()}
    result = []
    for summand in sp.Add.make_args(flat):
        coefficient, joint = sp.S.One, sp.S.Zero
        functions: dict[sp.Symbol, sp.Expr] = {}
        for factor in sp.Mul.make_args(summand):
            base, power = factor.as_base_exp()
            if base in owner:
                x, value = owner[base]
                functions[x] = functions.get(x, sp.S.One) * value**power
            elif base in joints:
                joint += power * joints[base]
            else:
                coefficient *= factor
        result.append(Product(coefficient, functions, joint))
    return result


def _of_one_field(e: sp.Expr, fields: Fields) -> sp.Expr:
    """A function of several fields with a linear combination of them as one derived field."""
    if isinstance(e, sp.Max | sp.Min):
        side = 1 if isinstance(e, sp.Max) else -1
        if len(e.args) == 2:
            first, rest = e.args
            return (first + rest + side * sp.Abs(first - rest)) / 2
        return sp.Add(
            *[
                f * sp.Mul(*[sp.Heaviside(side * (f - g)) for g in e.args if g is not f])
                for f in e.args
            ]
        )
    if isinstance(e, sp.Piecewise):
        return _indicated(e)
    if (isinstance(e, LINEAR) and len(e.args) == 1) or isinstance(e, sp.Heaviside):
        argument = sp.expand(e.args[0])
        present = fields.present(argument)
        if argument.is_polynomial(*present) and sp.Poly(argument, *present).total_degree() == 1:
            offset = argument.as_independent(*present, as_Add=True)[0]
            return e.func(fields.derived(argument - offset) + offset)
    raise NotSeparable(f"{e} is not a function of a linear combination of the fields")


def _indicated(e: sp.Piecewise) -> sp.Expr:
    """Piecewise as a sum of its values times indicators (equal off the boundaries)."""
    total, left = sp.S.Zero, sp.S.One
    for value, condition in e.args:
        if condition == sp.true:
            return total + left * value
        if not isinstance(condition, Relational) or isinstance(condition, sp.Eq | sp.Ne):
            raise NotSeparable(f"the condition {condition} is not an inequality")
        here = sp.Heaviside(condition.gts - condition.lts)
        total, left = total + left * here * value, left * (1 - here)
    raise BadParameter(f"the pieces of {e} do not cover the line")
