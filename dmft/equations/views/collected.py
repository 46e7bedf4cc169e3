"""Closed right-hand sides as papers print them: collected in parameters, factored.

A side is a sum of products c(parameters) b_1 b_2 ..., whose factors b are powers of overlaps,
polynomials with their lowest term positive, roots and functions. Products with equal factors are
one, with the sum of their coefficients; what several have in common is put in front.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from itertools import chain, combinations
from typing import Any

import sympy as sp

from dmft.equations import symbols as x
from dmft.explanation.print_forms import MOST, MOST_TERMS, Part

# pi as a symbol, so that it is a factor as others are; pi less the angle of two fields.
PI = sp.Symbol(r"\pi", positive=True)
ANGLE, SUPPLEMENT = sp.Symbol(r"\theta", real=True), sp.Symbol(r"\pi - \theta", positive=True)
Factors = dict[sp.Expr, sp.Expr]
Key = tuple[tuple[sp.Expr, sp.Expr], ...]
# A coefficient in parameters and numbers, and what it multiplies.
Item = tuple[sp.Expr, Factors]
# Letters in the order in which monomials begin.
FIRST = "PQ"


def collected(expr: sp.Expr) -> sp.Expr:
    """The same, collected and factored; what is long stays as it is."""
    if sp.count_ops(expr) > MOST:
        return expr
    separated = map(_separated, _terms(expr))
    items: list[Item] = []
    for kernel, rational in summed((_key(factors), y) for y, factors in separated).items():
        above, below = sp.fraction(sp.cancel(sp.together(rational)))
        number, others = _factor_list(below)
        rest = _times(dict(kernel), {b: -e for b, e in others.items()})
        items += [(c / number, _times(f, rest)) for c, f in _polynomial_items(above)]
    items = [(c, {compact(b): e for b, e in f.items()}) for c, f in items]
    return _assembled(items)


def is_parameter(symbol: sp.Basic) -> bool:
    """Whether a symbol is a number of the model or of the algorithm, not an overlap."""
    plain = isinstance(symbol, sp.Symbol) and not hasattr(symbol, "entry")
    return plain and not isinstance(symbol, Part) and symbol not in (PI, ANGLE, SUPPLEMENT)


def with_angle(exprs: Sequence[sp.Expr]) -> tuple[list[sp.Expr], sp.Expr | None]:
    """Arcsines of one correlation by the angle of the two fields, where that is shorter."""
    cosines = {_normal(y.args[0]) for e in exprs for y in e.atoms(sp.asin)}
    if len(cosines) != 1:
        return list(exprs), None
    (cosine,) = cosines
    above, below = sp.fraction(sp.cancel(cosine**2))
    if not (above.is_Pow and all(f.is_Symbol or f == 1 for f in sp.Mul.make_args(below))):
        return list(exprs), None
    changed = [e.replace(sp.asin, lambda _: SUPPLEMENT - sp.pi / 2) for e in exprs]
    others = {y for e in changed for f in e.atoms(sp.Function) for y in f.args[1:]}
    same = {y: sp.cos(ANGLE) for y in others if _normal(y) == cosine}
    changed = [e.xreplace(same) for e in changed]
    before, after = (sum(sp.count_ops(sp.expand(e)) for e in y) for y in (exprs, changed))
    if after >= before:
        return list(exprs), None

    def is_root(expr: sp.Expr) -> bool:
        return bool(expr.is_Pow and expr.base.is_Add and expr.exp.is_Rational and expr.exp.q == 2)

    def by_sine(root: sp.Expr) -> sp.Expr:
        front = sp.factor(sp.cancel(root.base / (1 - cosine**2)))
        return root if front.is_Add or front.has(*above.free_symbols) else (
            front**root.exp * sp.sin(ANGLE) ** (2 * root.exp)
        )  # fmt: skip

    def by_cosine(term: sp.Expr) -> sp.Expr:  # M sqrt(P/Q) sin(theta) is P sin(theta) cos(theta)
        other = term * sp.cos(ANGLE) / cosine
        return term if other.has(*above.free_symbols) else other

    def with_sine(expr: sp.Expr) -> bool:
        own = expr.is_Mul and any(isinstance(y.as_base_exp()[0], sp.sin) for y in expr.args)
        return bool(own and expr.has(*above.free_symbols))

    changed = [e.replace(is_root, by_sine) for e in changed]
    return [e.replace(with_sine, by_cosine) for e in changed], cosine


def _terms(expr: sp.Expr) -> list[sp.Expr]:
    """Terms of a sum, its products with sums multiplied out."""
    if expr.is_Add:
        return [y for a in expr.args for y in _terms(a)]
    sums = [f for f in sp.Mul.make_args(expr) if f.is_Add]
    if expr.is_Mul and sums:
        rest = sp.Mul(*(f for f in expr.args if f is not sums[0]))
        return [y for a in sums[0].args for y in _terms(rest * a)]
    if expr.is_Pow and expr.base.is_Add and expr.exp.is_Integer and 0 < expr.exp < 5:
        expanded = sp.expand(expr)
        return [expanded] if expanded == expr else _terms(expanded)
    return [expr]


def _separated(term: sp.Expr) -> tuple[sp.Expr, Factors]:
    """The rational part of a product, and its roots and functions."""
    rational, kernel, exponent = sp.S.One, Factors(), sp.S.Zero
    for factor in sp.Mul.make_args(term):
        base, power = factor.as_base_exp()
        if isinstance(factor, sp.exp):
            exponent += factor.exp
        elif base == sp.pi and power.is_Integer:
            rational *= PI**power
        elif factor.is_number and not factor.is_Rational:
            kernel = _times(kernel, {factor: sp.S.One})
        elif power.is_Rational and power.q == 2 and base.has(sp.Function):
            for part in sp.Mul.make_args(collected(base)):  # a bracket, and what is in front
                one, own = part.as_base_exp()
                if part.is_Add or part.has(sp.Function) or not own.is_Integer:
                    kernel = _times(kernel, {one: own * power})
                else:
                    rational, kernel = _with_root(rational, kernel, part, power)
        elif power.is_Rational and power.q == 2:
            rational, kernel = _with_root(rational, kernel, base, power)
        elif isinstance(base, sp.Function):
            sign, function = _of_one_sign(base.func(*map(_normal, base.args))).as_coeff_Mul()
            rational *= sign**power
            kernel = _times(kernel, {function: power})
        elif power.is_negative and base.is_Add and all(map(is_parameter, base.free_symbols)):
            kernel = _times(kernel, {base: power})  # as 1 - beta, which other terms do without
        else:
            rational *= factor
    if exponent != 0:
        kernel = _times(kernel, {sp.exp(_normal(exponent)): sp.S.One})
    return rational, kernel


def _of_one_sign(function: sp.Expr) -> sp.Expr:
    """An error function of a sum, whose first term is positive."""
    if not isinstance(function, sp.erf):
        return function
    sums = [f for f in sp.Mul.make_args(function.args[0]) if f.is_Add]
    if len(sums) != 1 or not leading(sums[0]).could_extract_minus_sign():
        return function
    flipped = function.args[0].xreplace({sums[0]: sp.expand(-sums[0])})
    return -sp.erf(flipped, evaluate=False)


def _with_root(
    rational: sp.Expr, kernel: Factors, base: sp.Expr, power: sp.Expr
) -> tuple[sp.Expr, Factors]:
    """A product with one root more."""
    front, roots = _roots(base.xreplace({sp.pi: PI}), power)
    return rational * front, _times(kernel, roots)


def _roots(base: sp.Expr, power: sp.Expr) -> tuple[sp.Expr, Factors]:
    """A half-integer power of a rational function: whole powers, and roots of its factors."""
    above, below = map(_factor_list, sp.fraction(sp.cancel(sp.together(base))))
    number = above[0] / below[0]
    factors = _times(above[1], {b: -e for b, e in below[1].items()})
    if number < 0:  # of two negative parts
        odd = next(b for b, e in factors.items() if e % 2)
        factors = _times({b: e for b, e in factors.items() if b != odd}, {-odd: factors[odd]})
        number = -number
    front, roots = number**power, Factors()
    for one, count in factors.items():
        whole = int(count * power) if one.is_positive or count % 2 else 0
        front *= one**whole
        if count * power != whole:
            roots[one] = count * power - whole
    if not front.is_Rational and front.as_coeff_Mul()[0] != front:
        irrational = number**power
        if not irrational.is_Rational:
            front, roots = front / irrational, _times(roots, {irrational: sp.S.One})
    elif front.is_number and not front.is_Rational:
        front, roots = sp.S.One, _times(roots, {front: sp.S.One})
    return front, roots


def _normal(expr: sp.Expr) -> sp.Expr:
    """An argument as one fraction, its roots under one sign."""
    if expr.is_Add and expr.has(sp.Function):
        return expr
    rational, kernel = _separated(sp.together(expr))
    rational = sp.cancel(sp.together(rational.xreplace({PI: sp.pi})))
    above, below = sp.fraction(sp.together(rational))
    above, below = sp.expand(above), sp.expand(below)
    if leading(below).could_extract_minus_sign():
        above, below = sp.expand(-above), sp.expand(-below)
    roots = sp.Mul(*(compact(b) ** e for b, e in kernel.items()))
    number, below = (sp.S.One, below) if above.is_Add else below.primitive()
    # A number times a sum alone is multiplied out.
    return compact(above) * (roots / number / compact(below))


def compact(poly: sp.Expr) -> sp.Expr:
    """A polynomial in the shortest of some forms, as (1 + P)(1 + Q) - M^2."""
    if not poly.is_Add or not poly.is_polynomial() or len(poly.args) > MOST_TERMS:
        return poly
    found = [poly]
    for symbol in sorted(poly.free_symbols, key=str):
        found.append(_in_powers(poly, symbol))
        if symbol.is_positive:
            shifted = sp.expand(poly.xreplace({symbol: symbol - 1}))
            found.append(_in_powers(shifted, symbol).xreplace({symbol: 1 + symbol}))
    return min(found, key=lambda e: (sp.count_ops(e), len(sp.Add.make_args(e)), str(e)))


def _in_powers(poly: sp.Expr, symbol: sp.Symbol) -> sp.Expr:
    """A polynomial in powers of one symbol, their coefficients in factors."""
    terms = []
    for power, coefficient in sp.collect(poly, symbol, evaluate=False).items():
        number, factors = _factor_list(coefficient)
        terms.append(sp.Mul(number, power, *(b**e for b, e in factors.items())))
    return sp.Add(*terms)


def summed(pairs: Iterable[tuple[Any, sp.Expr]]) -> dict[Any, sp.Expr]:
    """Sums of the expressions that have the same key."""
    found: dict[Any, sp.Expr] = {}
    for key, value in pairs:
        found[key] = found.get(key, sp.S.Zero) + value
    return found


# Products -------------------------------------------------------------------------------------


def _key(factors: Mapping[sp.Expr, sp.Expr]) -> Key:
    """Factors in one order."""
    return tuple(sorted(factors.items(), key=lambda y: (sp.default_sort_key(y[0]), y[1])))


def _times(first: Mapping[sp.Expr, sp.Expr], second: Mapping[sp.Expr, sp.Expr]) -> Factors:
    found = summed(chain(first.items(), second.items()))
    return {b: e for b, e in found.items() if e != 0}


def _factor_list(poly: sp.Expr) -> tuple[sp.Expr, Factors]:
    """Number and factors of a polynomial, the first term of each factor positive."""
    if poly.is_number:
        return poly, {}
    if len(sp.Add.make_args(sp.expand(poly))) > MOST_TERMS:
        number, poly = sp.expand(poly).primitive()
        return number, {poly: sp.S.One}
    try:
        number, factors = sp.factor_list(poly)
    except sp.PolynomialError:  # an inverse of what is no polynomial: one factor
        return sp.S.One, {poly: sp.S.One}
    found: Factors = {}
    for base, power in factors:
        if base.is_Add and leading(base).could_extract_minus_sign():
            base, number = sp.expand(-base), number * (-1) ** power
        found = _times(found, {base: sp.Integer(power)})
    return sp.sympify(number, strict=True), _with_squares(found)


def _with_squares(factors: Factors) -> Factors:
    """(1 - M)(1 + M) as 1 - M^2."""
    for one, other in combinations((b for b in factors if b.is_Add), 2):
        if factors[one] == factors[other] and 2 in (len(one.args), len(other.args)):
            whole = sp.expand(one * other)
            if len(whole.args) == 2:
                rest = {b: e for b, e in factors.items() if b not in (one, other)}
                return _with_squares(_times(rest, {whole: factors[one]}))
    return factors


def leading(total: sp.Expr) -> sp.Expr:
    """The term of a sum that is printed first."""
    return min(sp.Add.make_args(total), key=rank)


def rank(term: sp.Expr) -> tuple[object, ...]:
    """Order of the terms of a sum: few parameters, then low degrees, those of teachers first."""
    powers = {b: e for b, e in term.as_powers_dict().items() if b.free_symbols and e.is_number}
    own = [abs(e) for b, e in powers.items() if is_parameter(b) and b not in (x.p, x.k)]
    degree = sum((e for b, e in powers.items() if not is_parameter(b)), sp.S.Zero)
    sums = sum(len(y.limits) for y in term.atoms(sp.Sum))
    letters = [
        -sum((e for b, e in powers.items() if str(b).startswith(y)), sp.S.Zero) for y in FIRST
    ]
    return (sum(own, sp.S.Zero), sums, degree, *letters, sp.default_sort_key(term))


def _polynomial_items(poly: sp.Expr) -> list[Item]:
    """A polynomial as a sum of products of its factors, those with equal factors together."""
    if poly == 0:
        return []
    whole_number, common = _factor_list(poly)
    mixed = {b: e for b, e in common.items() if any(map(is_parameter, b.free_symbols))}
    front = {b: e for b, e in common.items() if b not in mixed}
    rest = sp.expand(whole_number * sp.Mul(*(b**e for b, e in mixed.items())))
    # Polynomials in the overlaps, by monomials of the parameters.
    parts = summed(_by_parameters(y) for y in sp.Add.make_args(rest))
    factored = ((parameter, *_factor_list(part)) for parameter, part in parts.items())
    found = summed((_key(factors), parameter * number) for parameter, number, factors in factored)
    return [(c, _times(front, dict(key))) for key, c in found.items()]


def _by_parameters(term: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    """Parameters of a product, and its other factors."""
    own = [f for f in sp.Mul.make_args(term) if is_parameter(f.as_base_exp()[0])]
    return sp.Mul(*own), sp.Mul(*(f for f in sp.Mul.make_args(term) if f not in own))


# Sums -----------------------------------------------------------------------------------------


def _assembled(items: Sequence[Item]) -> sp.Expr:
    """The sum of products, with what they have in common in front."""
    merged = summed((_key(factors), c) for c, factors in items)
    items = [(c, dict(key)) for key, c in merged.items() if c != 0]
    # 1 - gamma is taken apart where other products have the coefficients 1 and gamma.
    alone = {_parameters(c) for c, _ in items if not c.is_Add}
    several = ((sp.Add.make_args(c), c, f) for c, f in items)
    split = ((y if {*map(_parameters, y)} <= alone else (c,), f) for y, c, f in several)
    items = _by_functions([(c, f) for every, f in split for c in every])
    if not items:
        return sp.S.Zero
    common = reduce(_shared, (f for _, f in items))
    if len({_parameters(c) for c, _ in items}) > 1:
        common.pop(PI, None)  # in front of brackets that are alike alone
    rest = [(c, _times(f, {b: -e for b, e in common.items()})) for c, f in items]
    clusters: dict[sp.Expr, list[Item]] = {}
    for coefficient, factors in rest:
        number, parameters = coefficient.as_independent(*coefficient.free_symbols, as_Add=False)
        clusters.setdefault(parameters, []).append((number, factors))
    if len(clusters) == 1:
        ((parameters, some),) = clusters.items()
        return _product(*_cluster(parameters, some, common))
    parts = [_cluster(parameters, some, {}) for parameters, some in clusters.items()]
    number = sp.S.One
    if common and all(n.is_Integer and not any(q.is_Add for q in y) for n, y, *_ in parts):
        number = reduce(sp.gcd, (n for n, *_ in parts))
    terms = [_opened(_product(n / number, own, f, sums)) for n, own, f, sums in parts]
    return _product(number, [], common, [_sum(terms)])


def _parameters(coefficient: sp.Expr) -> sp.Expr:
    """A coefficient without its number."""
    return coefficient.as_independent(*coefficient.free_symbols, as_Add=False)[1]


def _opened(term: sp.Expr) -> sp.Expr:
    """M (1 - M^2), a term of a sum, as M - M^3."""
    if len(term.free_symbols) != 1 or not term.is_polynomial():
        return term
    opened = sp.expand(term)
    ones = all(abs(y.as_coeff_Mul()[0]) == 1 for y in sp.Add.make_args(opened))
    return opened if ones and sp.count_ops(opened) < sp.count_ops(term) else term


def _by_functions(items: Sequence[Item]) -> list[Item]:
    """Products that differ by their functions alone, as one with the sum of these."""
    groups: dict[tuple[sp.Expr, Key], list[tuple[sp.Expr, sp.Expr]]] = {}
    for coefficient, factors in items:
        number, parameters = coefficient.as_independent(*coefficient.free_symbols, as_Add=False)
        inside = {b: e for b, e in factors.items() if _is_function(b)}
        rest = _key({b: e for b, e in factors.items() if b not in inside})
        function = sp.Mul(*(b**e for b, e in inside.items()))
        groups.setdefault((parameters, rest), []).append((number, function))
    found: list[Item] = []
    for (parameters, rest), parts in groups.items():
        factors = dict(rest)
        if len(parts) == 1:
            ((number, function),) = parts
            found.append((number * parameters, _times(factors, function.as_powers_dict())))
            continue
        front = _content([number for number, _ in parts])
        total = _sum([number / front * function for number, function in parts])
        found.append((front * parameters, _times(factors, {total: sp.S.One})))
    return found


def _is_function(base: sp.Expr) -> bool:
    return isinstance(base, sp.Function) and not isinstance(base, sp.exp)


def _sum(terms: Sequence[sp.Expr]) -> sp.Expr:
    """A sum whose terms are no sums themselves."""
    flat: list[sp.Expr] = []
    for term in terms:
        number, rest = term.as_coeff_Mul()
        one = rest.is_Add and number in (1, -1)
        flat += [number * y for y in rest.args] if one else [term]
    return sp.Add(*flat, evaluate=False)


def _cluster(
    parameters: sp.Expr, items: Sequence[Item], front: Factors
) -> tuple[sp.Expr, list[sp.Expr], Factors, list[sp.Expr]]:
    """Number, parameters, common factors and the sum of items with one coefficient."""
    if len(items) == 1:
        ((number, factors),) = items
        return number, [parameters], _times(front, factors), []
    common = reduce(_shared, (f for _, f in items))
    number = _content([c for c, _ in items])
    if len({f.get(PI, 0) for _, f in items}) > 1:  # no fractions of fractions
        number = sp.Integer(number.as_numer_denom()[0])
    rest = [(c / number, _times(f, {b: -e for b, e in common.items()})) for c, f in items]
    terms = [_product(c, [], f, []) for c, f in rest]
    return number, [parameters], _times(front, common), [_sum(terms)]


def _content(numbers: Sequence[sp.Expr]) -> sp.Expr:
    """The largest number that divides all, negative where all are."""
    found = reduce(sp.gcd, numbers) if all(c.is_Rational for c in numbers) else sp.S.One
    return -found if all(c.is_negative for c in numbers) else found


def _shared(first: Factors, second: Factors) -> Factors:
    """Factors that both have."""
    found: Factors = {}
    for base in first.keys() & second.keys():
        one, two = first[base], second[base]
        if (one > 0) == (two > 0) and (one - two).is_Integer:
            found[base] = min(one, two) if one > 0 else max(one, two)
    return dict(sorted(found.items(), key=lambda y: sp.default_sort_key(y[0])))


def _turned(number: sp.Expr, parts: list[sp.Expr]) -> tuple[sp.Expr, list[sp.Expr]]:
    """A negative multiple of a long sum, with the sign in the sum where that has fewer signs."""
    for place, total in enumerate(parts):
        long = total.is_Add and (len(total.args) > 2 or any(y.atoms(sp.Add) for y in total.args))
        if long and 2 * sum(y.could_extract_minus_sign() for y in total.args) >= len(total.args):
            turned = sp.Add(*(-y for y in total.args), evaluate=False)
            return -number, [*parts[:place], turned, *parts[place + 1 :]]
    return number, parts


def turned(expr: sp.Expr) -> sp.Expr:
    """A sum of factored terms, in each of which the long sum has the fewest signs."""
    parts = (term.as_coeff_Mul() for term in sp.Add.make_args(expr))
    return sp.Add(*(_product(n, (), {}, sp.Mul.make_args(rest)) for n, rest in parts))


def _product(
    number: sp.Expr, parameters: Sequence[sp.Expr], factors: Factors, sums: Sequence[sp.Expr]
) -> sp.Expr:
    """A product that keeps a number and a sum apart."""
    parts = [*parameters, *(b**e for b, e in factors.items()), *sums]
    parts = [y for y in parts if y != 1]
    if number.is_negative:
        number, parts = _turned(number, parts)
    if number == 1 and len(parts) == 1:
        return parts[0]
    if not any(y.is_Add for y in parts):
        return sp.Mul(number, *parts)
    return sp.Mul(*([number] if number != 1 else []), *parts, evaluate=False)
