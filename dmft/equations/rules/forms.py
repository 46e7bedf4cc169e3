"""Expressions in fields and random numbers: signs of products, single forms, moments of laws."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Sequence
from itertools import combinations, product
from typing import Any

import sympy as sp

from dmft.errors import BadParameter, NotClosed
from dmft.gaussian.closed.factor import along_one
from dmft.gaussian.closed.switch import SWITCHES, to_signs
from dmft.laws import Laplace, Normal, Uniform
from dmft.model import FIELD
from dmft.rules import Field, Random, Row, View

ZERO, ONE = sp.S.Zero, sp.S.One
# Largest power of a sum that is multiplied out.
LARGEST_POWER = 12
# Largest number below one of which the inverse of tanh is taken.
BELOW_ONE = 1 - sp.Float(1e-15, 17)
# Signs inside of a function whose values are tried one by one.
MOST_INDICATORS, MOST_MIXED = 10, 3


class Opaque(sp.Symbol):
    """A long function of several fields, which only nodes open."""

    whole: sp.Expr

    def __new__(cls, whole: sp.Expr) -> Any:
        """A symbol for a function."""
        made = sp.Symbol.__xnew__(cls, "function", real=True)
        made.whole = whole
        return made

    def _hashable_content(self) -> tuple[Any, ...]:
        return (*super()._hashable_content(), self.whole)


# Operations of a function that stays closed until nodes are put in.
LONG = 60


def hidden(expr: sp.Expr) -> sp.Expr:
    """An expression with long functions of several fields as symbols."""
    if not expr.args or isinstance(expr, Opaque):
        return expr
    if isinstance(expr, sp.Function) and expr.count_ops() > LONG and not expr.atoms(Random):
        return Opaque(expr)
    return expr.func(*map(hidden, expr.args))


def is_polynomial(expr: sp.Expr) -> bool:
    """Whether an expression is a polynomial in its fields and random numbers."""
    return not expr.atoms(Opaque) and bool(expr.is_polynomial(*variables(expr)))


def variables(expr: sp.Expr) -> set[sp.Symbol]:
    """Fields and random numbers in an expression."""
    found: set[sp.Symbol] = expr.atoms(Field, Random)
    for function in expr.atoms(Opaque):
        found |= function.whole.atoms(Field, Random)
    return found


def held(variable: sp.Symbol) -> list[sp.Expr]:
    """What the law of a variable contains: latents and scales of its view, weights."""
    if isinstance(variable, Field):
        return [*variable.view.latents.values(), *variable.view.scales]
    return [sp.sympify(p, strict=True) for p in getattr(variable.law, "weights", ())]


def exact(value: object) -> sp.Expr:
    """A number of a law; whole numbers and halves exactly."""
    found = sp.sympify(value, strict=True)
    if found.is_Float and float(found * 4).is_integer():
        return sp.Rational(int(float(found * 4)), 4)
    return found


class BareView(View):
    """A view without its latents: the Gaussian part of its fields."""

    def __init__(self, view: View) -> None:
        self.__dict__.update(view.__dict__)
        self.origin = view
        self.number = view.number + 0.5

    @classmethod
    def of(cls, view: View) -> BareView:
        """The one of a view, which SymPy's cache keeps."""
        found: BareView = view.__dict__.setdefault("bare", cls(view))
        return found

    @property
    def latents(self) -> dict[Row, sp.Expr]:
        """None."""
        return {}


def origin(view: View) -> View:
    """The view as it was declared."""
    return view.origin if isinstance(view, BareView) else view


def plain(expr: sp.Expr) -> sp.Expr:
    """An expression with steps, moduli and extremes as signs of single factors."""
    if not expr.has(*SWITCHES):
        return expr
    if expr.has(sp.Piecewise):
        raise BadParameter(f"{expr}: write steps with Heaviside, sign, Abs or Max, not Piecewise")
    fields = variables(expr) | expr.atoms(Opaque)
    # Of a difference and its negative one has the sign, so that exclusive events cancel.
    return to_signs(expr, sorted(fields, key=str)).replace(
        sp.sign, lambda u: -sp.sign(-u) if u.could_extract_minus_sign() else sp.sign(u)
    )


def by_values(
    signs: Sequence[sp.Expr], value: Callable[[dict[sp.Expr, sp.Expr]], sp.Expr]
) -> sp.Expr:
    """A function of signs, from its value at each of their values."""
    total = ZERO
    for values in product((ONE, -ONE), repeat=len(signs)):
        weights = ((1 + v * s) / 2 for v, s in zip(values, signs, strict=True))
        total += value(dict(zip(signs, values, strict=True))) * sp.Mul(*weights)
    return total


def linear_in_parallel(expr: sp.Expr) -> sp.Expr:
    """A product with signs of parallel forms as a sum with one of them.

    Of a > b, sign(a) sign(b) = 1 + sign(b) - sign(a).
    """
    signs = [f for f in sp.Mul.make_args(expr) if isinstance(f, sp.sign)]
    pairs = ((a, b) for a, b in combinations(signs, 2) if variables(a) == variables(b))
    for a, b in pairs:
        for way in (1, -1):
            gap = sp.expand(a.args[0] - way * b.args[0])
            if gap.is_number and gap != 0:
                size = 1 if gap > 0 else -1
                return way * expr / (a * b) * (1 + size * (way * b - a))
    return expr


def by_signs(expr: sp.Expr) -> sp.Expr | None:
    """Functions of signs, such as a count of right answers, by values of the signs.

    Those of fields too are left where they contain more than `MOST_MIXED` signs.
    """
    names: dict[sp.Expr, sp.Symbol] = {}
    found: dict[sp.Expr, sp.Expr] = {}
    for f in expr.atoms(sp.Function, sp.Pow):
        bare = f.func(*(named_signs(a, names) for a in f.args))
        if bare != f and not isinstance(bare, sp.Dummy) and not bare.is_polynomial(*names.values()):
            found[f] = bare
    outer = {f: bare for f, bare in found.items() if not variables(bare)}
    mixed = {d for bare in found.values() for d in bare.free_symbols & set(names.values())}
    if len(mixed) <= MOST_MIXED:
        outer = found
    if not outer:
        return None
    own = {d for bare in outer.values() for d in bare.free_symbols}
    signs = {s: d for s, d in names.items() if d in own}
    if len(signs) > MOST_INDICATORS:
        raise NotClosed(
            f"{next(iter(outer))} depends on {len(signs)} events; at most {MOST_INDICATORS} "
            "are enumerated"
        )
    back = {d: s for s, d in signs.items()}

    def at(values: dict[sp.Expr, sp.Expr]) -> sp.Expr:
        here = {d: values[s] for d, s in back.items()}
        return expr.xreplace({f: bare.xreplace(here) for f, bare in outer.items()})

    return by_values(list(signs), at)


def named_signs(expr: sp.Expr, names: dict[sp.Expr, sp.Symbol]) -> sp.Expr:
    """An expression with products of signs as symbols."""
    signs = [f for f in sp.Mul.make_args(expr) if isinstance(f, sp.sign) and variables(f)]
    if signs:
        whole = sp.Mul(*signs)
        names.setdefault(whole, sp.Dummy("sign", real=True))
        return named_signs(expr / whole, names) * names[whole]
    if not expr.args or not variables(expr):
        return expr
    return expr.func(*(named_signs(a, names) for a in expr.args))


def is_power_of_sign(expr: sp.Expr) -> bool:
    """Whether it is a power of a sign, which is one or the sign almost everywhere."""
    return isinstance(expr.base, sp.sign) and bool(expr.exp.is_Integer and expr.exp > 1)


def distributed(factor: sp.Expr) -> list[sp.Expr]:
    """Terms of a factor that is a sum, or a power of one; none of others."""
    if factor.is_Add:
        return list(factor.args)
    base, power = factor.as_base_exp()
    if base.is_Add and power.is_Integer and 1 < power <= LARGEST_POWER:
        # The terms themselves stay as they are: products over views would have very many.
        names = {term: sp.Dummy() for term in base.args}
        back = {name: term for term, name in names.items()}
        whole = sp.expand(sp.Add(*names.values()) ** power)
        return [term.xreplace(back) for term in sp.Add.make_args(whole)]
    return []


def sums(factors: Sequence[sp.Expr]) -> list[tuple[list[sp.Expr], sp.Expr]]:
    """Terms of each factor that is a sum, and the product of the other factors."""
    found = ((distributed(f), n) for n, f in enumerate(factors))
    return [(terms, sp.Mul(*factors[:n], *factors[n + 1 :])) for terms, n in found if terms]


def repeated(factor: sp.Expr) -> list[sp.Expr]:
    """A power of a function as a product, so that each is one of the closed table."""
    base, power = factor.as_base_exp()
    if power.is_Integer and 1 < power <= 4 and isinstance(base, sp.Function):
        return [base] * int(power)
    return [factor]


def single_form(factor: sp.Expr) -> tuple[sp.Expr, sp.Expr] | None:
    """A factor as a function of z, with the affine form of the fields that replaces z."""
    own = sorted(variables(factor), key=str)
    if factor.atoms(Opaque) or not own:
        return None
    if len(own) == 1:
        return factor.xreplace({own[0]: FIELD}), own[0]
    return along_one(factor, own)


def note_kinks(found: tuple[sp.Expr, sp.Expr], kinks: dict[sp.Expr, sp.Expr]) -> None:
    """Note where the function of a form has a kink."""
    function, form = found
    for s in function.atoms(sp.sign, sp.Abs):
        inside = s.args[0]
        slope = sp.diff(inside, FIELD)
        if slope.has(FIELD):
            raise NotClosed(f"{function} has kinks where {inside} = 0, which is not linear")
        kinks[form] = -inside.xreplace({FIELD: ZERO}) / slope


def joint_kinks(factor: sp.Expr, known: Container[sp.Expr]) -> dict[sp.Expr, sp.Expr]:
    """Fields, none of them known, and where along them signs of several fields jump.

    The place along the last one contains the fields before it: the sign is of a sum of the field,
    or of its tanh, and a function of the others. Its inverse is singular at ends, which are places
    of another field.
    """
    for inside in sorted((s.args[0] for s in factor.atoms(sp.sign)), key=str):
        for v in sorted(variables(inside), key=str):
            for g in (v, sp.tanh(v)):
                outer = inside.xreplace({g: FIELD})
                slope = sp.diff(outer, FIELD)
                if v in known or is_latent(v) or outer.has(v) or slope == 0 or not slope.is_number:
                    continue
                place = -outer.xreplace({FIELD: ZERO}) / slope
                if g is v:
                    return {v: place}
                if place.is_number and abs(place) >= 1:
                    continue
                ends = sp.sign(place - 1) * sp.sign(place + 1)
                place = sp.Max(-BELOW_ONE, sp.Min(BELOW_ONE, place))
                return {**joint_kinks(ends, known), v: sp.log((1 + place) / (1 - place)) / 2}
    return {}


def is_latent(v: sp.Expr) -> bool:
    """Whether a random number is not normal."""
    return isinstance(v, Random) and not isinstance(v.law, Normal)


def moment(r: sp.Symbol, n: int) -> sp.Expr:
    """Moment of a random number that is not normal."""
    law = r.law
    if n == 0:
        return ONE
    if isinstance(law, Laplace):
        return ZERO if n % 2 else math.factorial(n) * exact(law.scale) ** n
    if isinstance(law, Uniform):
        low, high = exact(law.low), exact(law.high)
        return sp.cancel((high ** (n + 1) - low ** (n + 1)) / ((n + 1) * (high - low)))
    raise BadParameter(
        f"moments of {law!r} are not known; use Normal, Uniform, Laplace or Discrete"
    )


def quantile_of_normal(r: Random, z: sp.Symbol) -> sp.Expr:
    """A random number as a function of a standard normal one."""
    law = r.law
    if isinstance(law, Uniform):
        half = (1 + sp.erf(z / sp.sqrt(2))) / 2
        return exact(law.low) + (exact(law.high) - exact(law.low)) * half
    if isinstance(law, Laplace):
        return -exact(law.scale) * sp.sign(z) * sp.log(sp.erfc(sp.Abs(z) / sp.sqrt(2)))
    raise BadParameter(f"{law!r} has no nodes; use Normal, Uniform, Laplace or Discrete")


def place_of_uniform(r: Random, value: sp.Expr | None) -> sp.Expr | None:
    """The standard normal number at which a uniform one has a value; None if it is not known."""
    law = r.law
    if value is None or not value.is_number or not isinstance(law, Uniform):
        return None
    share = (value - exact(law.low)) / (exact(law.high) - exact(law.low))
    return (sp.sqrt(2) * sp.erfinv(2 * share - 1)).evalf(17) if 0 < share < 1 else None
