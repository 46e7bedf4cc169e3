"""Random variables of one sample as sums of products of functions of single Gaussian fields.

A field is h_j, lambda_m, the label's noise xi, or a linear combination of teacher fields; what is
no function of one of these, such as tanh(z1 + z2^3), stays whole and is called joint. Total degrees
in all fields say which nodes the averages of a sample's program need.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import At
from dmft.equations.definitions import Definition
from dmft.errors import NotClosed
from dmft.gaussian.closed.switch import SWITCHES, to_signs
from dmft.gaussian.closed.wick import power_in_hermite
from dmft.model import FIELD
from dmft.model.network import teacher_field

Factors = tuple[tuple[sp.Expr, sp.Expr], ...]
# Symbols that sums over neurons run over, in the order in which products take them.
SUM_INDICES = {x.p: (x.u, x.v), x.k: (x.r, x.s), x.p + x.k: (x.m, x.n)}


@dataclass(frozen=True)
class Term:
    """Sum over `limits` (index, 1, width) of coefficient * prod factor(field) * joint.

    The coefficient is free of the fields; `factors` are (field, factor in `FIELD`), each field once
    and sorted; `joint` is in h_star, 1 where everything is in the factors.
    """

    coefficient: sp.Expr
    factors: Factors = ()
    joint: sp.Expr = sp.S.One
    limits: tuple[sp.Tuple, ...] = ()

    @property
    def expr(self) -> sp.Expr:
        """The term as an expression in the fields."""
        parts = (factor.xreplace({FIELD: field}) for field, factor in self.factors)
        return self.over(sp.Mul(*parts, self.joint))

    def over(self, value: sp.Expr) -> sp.Expr:
        """The coefficient times a value, summed; what no sum runs over stands before them."""
        if not self.limits:
            return self.coefficient * value
        running = {limit[0] for limit in self.limits}
        inside: list[sp.Expr] = []
        before: list[sp.Expr] = []
        for factor in sp.Mul.make_args(self.coefficient):
            (inside if factor.free_symbols & running else before).append(factor)
        return sp.Mul(*before) * sp.Sum(sp.Mul(*inside) * value, *self.limits)

    def __mul__(self, other: Term) -> Term:
        """Product, equal fields merged; sums of the second run over symbols of their own."""
        other = other.apart({limit[0] for limit in self.limits})
        merged = dict(self.factors)
        for field, factor in other.factors:
            merged[field] = merged.get(field, sp.S.One) * factor
        coefficient, joint = self.coefficient * other.coefficient, self.joint * other.joint
        return _term(coefficient, merged, joint, (*self.limits, *other.limits))

    def apart(self, taken: set[sp.Symbol]) -> Term:
        """The same term with other symbols for the sums whose symbols are taken."""
        taken, swap = set(taken), {}
        for index, _, width in self.limits:
            free = [s for s in SUM_INDICES[width] if s not in taken]
            if not free:
                raise NotClosed(f"a product of more than two sums over the neurons 1..{width}")
            swap[index] = index if index in free else free[0]
            taken.add(swap[index])
        if all(old == new for old, new in swap.items()):
            return self
        factors = {field.xreplace(swap): factor.xreplace(swap) for field, factor in self.factors}
        limits = tuple(sp.Tuple(swap[index], *rest) for index, *rest in self.limits)
        return _term(self.coefficient.xreplace(swap), factors, self.joint, limits)


def terms_of(expr: sp.Expr) -> tuple[Term, ...]:
    """Terms of a random variable: activations at fields, sums over neurons, targets, noise."""
    if not is_random(expr):
        return (Term(expr),)
    if isinstance(expr, At):
        return (_term(sp.S.One, {expr.field: expr.factor}, sp.S.One),)
    if (
        expr == x.xi
        or expr in x.LINES
        or (isinstance(expr, sp.Indexed) and expr.indices[0].free_symbols)
    ):
        return (_term(sp.S.One, {expr: FIELD}, sp.S.One),)
    opens = expr.is_Pow and expr.base.is_Add and expr.exp.is_Integer and expr.exp > 0
    if is_of_target(expr) and not opens:
        return target_terms(expr)
    if isinstance(expr, sp.Sum):
        return collected(
            replace(t, limits=(*t.limits, *expr.limits)) for t in terms_of(expr.function)
        )
    if expr.is_Add:
        g = sp.Add(*(e for e in expr.args if is_of_target(e)))
        rest = [t for e in expr.args if not is_of_target(e) for t in terms_of(e)]
        return collected([*rest, *(terms_of(g) if g != 0 else ())])
    factors = [(e, sp.S.One) for e in expr.args] if expr.is_Mul else [expr.as_base_exp()]
    result: tuple[Term, ...] = (Term(sp.S.One),)
    for base, power in factors:
        if base == expr or not (power.is_Integer and power > 0):
            raise NotClosed(f"{expr} is not a polynomial in sums over neurons")
        for _ in range(int(power)):
            result = multiplied(result, terms_of(base))
    return result


def is_random(expr: sp.Expr) -> bool:
    """Whether an expression holds fields or the noise of the label."""
    fields = (x.h, x.h_star, x.lam)
    if expr.has(x.xi, *x.LINES):
        return True
    return any(e.base in fields for e in expr.atoms(sp.Indexed))


def is_of_target(expr: sp.Expr) -> bool:
    """Whether an expression is a function of numbered teacher fields and nothing else random."""
    if not is_random(expr) or expr.has(x.xi, At, *x.LINES):
        return False
    found = [e for e in expr.atoms(sp.Indexed) if e.base in (x.h, x.h_star, x.lam)]
    return all(e.base == x.h_star and not e.indices[0].free_symbols for e in found)


def target_terms(expr: sp.Expr) -> tuple[Term, ...]:
    """Terms of a function of the fields h_star[1], ..., h_star[k]."""
    found = sorted(
        (e for e in expr.atoms(sp.Indexed) if e.base == x.h_star), key=lambda e: int(e.indices[0])
    )
    plain = {e: teacher_field(int(e.indices[0])) for e in found}
    stars = {z: e for e, z in plain.items()}
    terms = [
        _term(
            t.coefficient,
            {field.xreplace(stars): f for field, f in t.factors},
            t.joint.xreplace(stars),
        )
        for t in _split(expr.xreplace(plain), tuple(stars))
    ]
    return in_hermite_basis(collected(terms))


def in_products(
    expr: sp.Expr, fields: Mapping[sp.Symbol, sp.Expr], others: Mapping[sp.Symbol, sp.Expr]
) -> sp.Expr:
    """A rule as a sum of products: functions at fields, powers of other random variables."""
    total = []
    for term in _split(expr, (*fields, *others)):
        if term.joint != 1:
            raise NotClosed(f"{term.joint} is not a product of functions of single fields")
        parts = [term.coefficient]
        for field, factor in term.factors:
            if field in others and factor.is_polynomial(FIELD):
                parts.append(factor.xreplace({FIELD: others[field]}))
            elif field.free_symbols & set(others):
                raise NotClosed(f"{factor} of {field} is not a polynomial")
            else:
                parts.append(At(factor, field.xreplace(dict(fields))))
        total.append(sp.Mul(*parts))
    return sp.Add(*total)


def in_hermite_basis(terms: tuple[Term, ...]) -> tuple[Term, ...]:
    """Products of Hermite polynomials in place of products of powers, where they are fewer.

    Averages of powers cancel at small overlaps where the target is He_a(z1) He_b(z2), expanded.
    """
    powers = [
        t for t in terms if t.joint == 1 and all(f.is_polynomial(FIELD) for _, f in t.factors)
    ]
    fields = list(dict.fromkeys(field for t in powers for field, _ in t.factors))
    if len(powers) < 2 or len(fields) < 2:
        return terms
    from dmft.gaussian.closed.wick import hermite

    place = {field: sp.Dummy() for field in fields}
    total: dict[tuple[int, ...], sp.Expr] = {}
    for t in powers:
        parts = [t.coefficient, *(f.xreplace({FIELD: place[y]}) for y, f in t.factors)]
        for degrees, value in sp.Poly(sp.Mul(*parts), *place.values()).terms():
            for one in product(*(power_in_hermite(n, 0, 1) for n in degrees)):
                key = tuple(r for r, *_ in one)
                ways = math.prod(ways for *_, ways in one)
                total[key] = total.get(key, sp.S.Zero) + value * ways
    found = [
        _term(c, {y: hermite(n, FIELD) for y, n in zip(fields, key, strict=True)}, sp.S.One)
        for key, value in total.items()
        if (c := sp.expand(value)) != 0
    ]
    fewer = collected(found)
    return (*fewer, *(t for t in terms if t not in powers)) if len(fewer) < len(powers) else terms


def multiplied(first: Sequence[Term], second: Sequence[Term]) -> tuple[Term, ...]:
    """Terms of the product of two sums."""
    return collected(a * b for a, b in product(first, second))


def collected(terms: Iterable[Term]) -> tuple[Term, ...]:
    """Add what differs by its coefficient only; functions of one field become one factor."""
    alone: dict[sp.Expr, sp.Expr] = {}
    rest: dict[tuple[Factors, sp.Expr, tuple[sp.Tuple, ...]], sp.Expr] = {}
    for t in terms:
        if (
            len(t.factors) == 1
            and t.joint == 1
            and not t.limits
            and not t.coefficient.has(sp.Indexed)
        ):
            (field, factor), *_ = t.factors
            alone[field] = alone.get(field, sp.S.Zero) + t.coefficient * factor
        else:
            key = (t.factors, t.joint, tuple(sorted(t.limits, key=_by_axis)))
            rest[key] = rest.get(key, sp.S.Zero) + t.coefficient
    single = [_term(sp.S.One, {field: sp.expand(f)}, sp.S.One) for field, f in alone.items()]
    many = [Term(c, *key) for key, c in rest.items()]
    return tuple(t for t in [*single, *many] if t.coefficient != 0)


def _by_axis(limit: sp.Tuple) -> tuple[int, str]:
    """Students first, then teachers."""
    return (list(SUM_INDICES).index(limit[2]), limit[0].name)


def _term(
    coefficient: sp.Expr,
    factors: dict[sp.Expr, sp.Expr],
    joint: sp.Expr,
    limits: tuple[sp.Tuple, ...] = (),
) -> Term:
    """Sort the fields; constants among the factors go to the coefficient."""
    kept = {}
    for field, factor in factors.items():
        tidy = _tidy(factor)
        if tidy.has_free(FIELD):
            number, kept[field] = tidy.as_coeff_Mul()
            coefficient *= number
        else:
            coefficient *= tidy
    ordered = sorted(kept.items(), key=lambda pair: sp.default_sort_key(pair[0]))
    return Term(coefficient, tuple(ordered), joint, limits)


def _tidy(factor: sp.Expr) -> sp.Expr:
    """Expanded polynomials; squares of signs and steps are one and steps almost everywhere."""

    def even_sign(e: sp.Expr) -> bool:
        return bool(e.is_Pow and isinstance(e.base, sp.sign) and e.exp.is_even)

    def power_of_step(e: sp.Expr) -> bool:
        return bool(e.is_Pow and isinstance(e.base, sp.Heaviside) and e.exp.is_positive)

    factor = factor.replace(even_sign, lambda _: sp.S.One)
    factor = factor.replace(power_of_step, lambda e: e.base)
    return sp.expand(factor) if factor.is_polynomial(FIELD) else factor


def _split(expr: sp.Expr, fields: Sequence[sp.Symbol]) -> list[Term]:
    """Terms with fields in the symbols of the target."""
    present = [z for z in fields if expr.has_free(z)]
    if not present:
        return [Term(expr)]
    if len(present) == 1:
        return [_term(sp.S.One, {present[0]: expr.xreplace({present[0]: FIELD})}, sp.S.One)]
    if expr.is_Add:
        return [t for a in expr.args for t in _split(a, fields)]
    if expr.is_Mul:
        return _multiplied([_split(a, fields) for a in expr.args])
    from dmft.gaussian.closed.factor import along_one  # an ode of committees has none

    along = along_one(expr, present)
    if along is not None and along[1].free_symbols == set(present):
        return [_term(sp.S.One, {along[1]: along[0]}, sp.S.One)]
    opened = _opened(expr, present)
    if opened != expr:
        return _split(opened, fields)
    if expr.is_Pow and expr.exp.is_Integer and expr.exp > 0:
        return _multiplied([_split(expr.base, fields)] * int(expr.exp))
    return [Term(sp.S.One, (), expr)]


def _multiplied(sums: Sequence[Sequence[Term]]) -> list[Term]:
    """Expand a product of sums of terms."""
    result = [Term(sp.S.One)]
    for terms in sums:
        result = [a * b for a in result for b in terms]
    return result


def _opened(expr: sp.Expr, present: Sequence[sp.Symbol]) -> sp.Expr:
    """Products inside signs and sums inside exponentials come out."""
    if isinstance(expr, sp.exp):
        parts = sp.Add.make_args(sp.expand(expr.exp))
        apart: dict[frozenset[sp.Symbol], sp.Expr] = {}
        for part in parts:
            key = frozenset(part.free_symbols & set(present))
            apart[key] = apart.get(key, sp.S.Zero) + part
        if len(apart) == 1:
            return expr
        return sp.Mul(*(sp.exp(p) for p in apart.values()), evaluate=False)
    if isinstance(expr, SWITCHES):
        factored = expr.replace(sp.sign, lambda u: sp.sign(sp.factor(u)))
        opened = to_signs(factored, list(present))
        return expr if opened == expr else opened
    return expr


# What turns within a distance of one of its argument.
TURNING = (sp.exp, sp.tanh, sp.log, sp.erf, sp.sin, sp.cos)


class Degrees:
    """Total degrees of expressions in the fields and the noise of one sample.

    `steep` is the largest degree above one, or 0, of what a function seen so far turns in within a
    distance of one: in the fields these are layers that are thinner the farther out they lie.
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
            degree = sp.Integer(sp.Poly(function, *fields).total_degree())
            return inside * degree if degree else degree  # oo times zero is no number
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


@lru_cache(maxsize=256)
def parity(factor: sp.Expr) -> int:
    """1 for an even function of z, -1 for an odd one, 0 for neither."""
    return _mirrored(factor, (FIELD,))


def _mirrored(expr: sp.Expr, odd: Iterable[sp.Expr]) -> int:
    """Parity of an expression where these change their sign."""
    mirrored = expr.xreplace({a: -a for a in odd})
    for sign in (1, -1):
        if sp.expand(mirrored - sign * expr) == 0:
            return sign
    return 0


class Parities:
    """How expressions in the fields and the noise of one sample change with the sign of all."""

    def __init__(self, table: Mapping[sp.Basic, Definition]) -> None:
        self.table = table
        self.known: dict[sp.Basic, int] = {x.xi: -1, x.coordinate: -1}
        self.known |= dict.fromkeys(x.LINES, 0)

    def of(self, e: sp.Expr) -> int:
        """1 for even expressions, -1 for odd ones, 0 where it is not known."""
        if isinstance(e, sp.Indexed | sp.Symbol):
            return self.of_symbol(getattr(e, "base", e))
        if isinstance(e, At):
            inside = self.of(e.field)
            return parity(e.factor) if inside == -1 else inside
        if isinstance(e, sp.Sum):
            return self.of(e.function)
        if e.is_Add:
            parts = {self.of(a) for a in e.args}
            return parts.pop() if len(parts) == 1 else 0
        if e.is_Mul:
            return math.prod(self.of(a) for a in e.args)
        if e.is_Pow and e.exp.is_Integer:
            sign = self.of(e.base)
            return sign if e.exp.is_odd else sign**2
        atoms = sorted(e.atoms(sp.Indexed, sp.Symbol), key=str)
        signs = {a: self.of(a) for a in atoms}
        if 0 in signs.values():
            return 0
        return _mirrored(e, [a for a, sign in signs.items() if sign == -1])

    def of_symbol(self, base: sp.Basic) -> int:
        """Parity of a field or of what the program defines; constants are even."""
        if base not in self.known and x.is_field(base):
            self.known[base] = 0 if x.cluster_of(base)[1] else -1  # that of a cluster has a mean
        elif base not in self.known:
            self.known[base] = self.of(self.table[base].expr) if base in self.table else 1
        return self.known[base]
