r"""Closed forms of averages in the shape that papers print them: exact rewrites, for print alone.

Roots of conditional variances become roots of determinants, 1/(sqrt(a) sqrt(b - c^2/a)) is
1/sqrt(a b - c^2); arcsines of correlations become angles where that is shorter; what is long under
a root or in an arcsine gets a name. Valid where covariances are positive definite.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, reduce

import sympy as sp

# Polynomials of more operations than this get a name, under roots and in arcsines.
NAMED = 9
# Expressions of more operations are printed as they are.
MOST = 900
# Terms of a polynomial that is printed in factors.
MOST_TERMS = 30
# Repeated parts that get a name: at most so many, each of at least so many operations.
MOST_NAMES, SHORTEST = 4, 4
# Letters of polynomials with names, and of arguments of functions; the first that is free.
LETTERS = {True: ("D", "G", r"\Lambda"), False: ("s", "r", r"\eta")}


class Part(sp.Symbol):
    """A name for a part of an expression; it is no parameter."""


class OneMore(sp.Symbol):
    """A positive symbol that stands for 1 + C_ii, and is printed so."""

    variance: sp.Symbol

    def __new__(cls, variance: sp.Symbol) -> OneMore:
        """Name it by the variance."""
        found: OneMore = super().__new__(cls, f"1+{variance.name}", positive=True)
        found.variance = variance
        return found


@dataclass
class Polynomials:
    """Names of polynomials of covariances; equal ones share a name in a document."""

    found: dict[sp.Expr, sp.Symbol] = field(default_factory=dict)
    angles: dict[sp.Symbol, sp.Expr] = field(default_factory=dict)
    fresh: list[tuple[sp.Symbol, sp.Expr]] = field(default_factory=list)

    def name(self, poly: sp.Expr, wish: int | None = None) -> sp.Symbol:
        """Name of a polynomial, with the number that was wished for where that is free."""
        if poly in self.found:
            return self.found[poly]
        taken = {s.name for s in self.found.values()}
        numbers = ([wish] if wish is not None else []) + list(range(5, 5 + len(taken) + 1))
        label = next(n for n in numbers if rf"\Lambda_{{{n}}}" not in taken)
        symbol = sp.Symbol(rf"\Lambda_{{{label}}}", positive=True)
        self.found[poly] = symbol
        self.fresh.append((symbol, poly))
        return symbol

    def angle(self, first: str, second: str, cosine: sp.Expr) -> sp.Symbol:
        """Angle between two fields."""
        symbol = sp.Symbol(rf"\theta_{{{first}{second}}}", positive=True)
        if symbol not in self.angles:
            self.angles[symbol] = sp.acos(cosine)
            self.fresh.append((symbol, sp.acos(cosine)))
        return symbol

    def take(self) -> list[tuple[sp.Symbol, sp.Expr]]:
        """Definitions since the last call."""
        found, self.fresh = self.fresh, []
        return found


def written(expr: sp.Expr) -> sp.Expr:
    """Put 1 + C_ii back for its symbol."""
    return expr.xreplace({s: 1 + s.variance for s in expr.atoms(OneMore)})


def for_print(expr: sp.Expr, names: Polynomials) -> sp.Expr:
    """A closed form in covariances C_{11}, C_{12} ... as papers print it."""
    if expr.is_polynomial():
        return _with_content(expr)
    if sp.count_ops(expr) > MOST:
        return expr
    return _named(_angles(rewritten(expr), names), names)


def _with_content(poly: sp.Expr) -> sp.Expr:
    """A polynomial of many terms with the number that divides all of them in front."""
    terms = [sp.factor_terms(y).as_coeff_Mul() for y in sp.Add.make_args(poly)]
    number = reduce(sp.gcd, (n for n, _ in terms))
    if len(terms) < 4 or abs(number) == 1:
        return poly
    return sp.Mul(number, sp.Add(*(n / number * y for n, y in terms)), evaluate=False)


def rewritten(expr: sp.Expr) -> sp.Expr:
    """The same, without angles and names."""
    if sp.count_ops(expr) > MOST:
        return expr
    shifted = _shifted(expr)
    found = _unshifted(_rewritten(shifted))
    if shifted != expr and expr.has(sp.exp):  # the others, too, where that is shorter
        other = _unshifted(_rewritten(_shifted(expr, every=True)))
        found = min(found, other, key=sp.count_ops)
    return found


def _unshifted(expr: sp.Expr) -> sp.Expr:
    """(1 + C) - 1 is C, and (1 + C) (1 + D) - (1 + C) is (1 + C) D, where that is shorter."""
    expr = expr.xreplace({s - 1: s.variance for s in expr.atoms(OneMore)})
    sums = (y for y in expr.atoms(sp.Add) if y.atoms(OneMore) and y.is_polynomial())

    def length(poly: sp.Expr) -> tuple[int, int]:
        return sp.count_ops(poly), len(poly.atoms(OneMore))

    return expr.xreplace({y: min(_half_shifted(y), key=length) for y in sums})


def _half_shifted(poly: sp.Expr) -> Iterator[sp.Expr]:
    """A polynomial as it is, and with 1 + C as a sum for one of the variances."""
    yield poly
    for one in sorted(poly.atoms(OneMore), key=str):
        yield sp.expand(poly.xreplace({one: one.variance + 1}))


def _shifted(expr: sp.Expr, every: bool = False) -> sp.Expr:
    """1 + C_ii as one symbol, wherever the expression has it, or for every variance."""
    if every:
        return expr.xreplace({s: OneMore(s) - 1 for s in expr.free_symbols if s.is_positive})
    variances = {
        s: OneMore(s)
        for add in expr.atoms(sp.Add)
        if 1 in add.args
        for s in add.args
        if s.is_Symbol and s.is_positive
    }
    return expr.xreplace({s: one - 1 for s, one in variances.items()}) if variances else expr


@lru_cache(maxsize=2048)
def _rewritten(expr: sp.Expr) -> sp.Expr:
    """Roots together, from the inside out; closed forms of one system share most of their parts."""
    if not expr.args:
        return expr
    args = [_rewritten(a) for a in expr.args]
    if expr.is_Mul:
        return _product(_exponentials(args))
    if expr.is_Pow and args[1].is_Rational and args[1].q == 2:
        return _product([expr.func(*args)])
    if expr.is_Add:
        return _sum(args)
    return expr.func(*args)


def _exponentials(factors: list[sp.Expr]) -> list[sp.Expr]:
    """Factors with one exponential in place of several."""
    powers = [f.exp for f in factors if isinstance(f, sp.exp)]
    if len(powers) < 2:
        return factors
    whole = sp.exp(_sum([a for y in powers for a in sp.Add.make_args(y)]))
    return [f for f in factors if not isinstance(f, sp.exp)] + [whole]


def _sum(args: list[sp.Expr]) -> sp.Expr:
    """A sum over one denominator, where it is a rational function of polynomials."""
    total = sp.Add(*args)
    rational = total.is_rational_function(*total.free_symbols)
    if not rational or total.is_polynomial() or not total.free_symbols:
        return sp.expand(total) if total.is_polynomial() and total.atoms(OneMore) else total
    above, below = sp.fraction(sp.cancel(sp.together(total)))
    return sp.expand(above) / _factored(below)


def _product(factors: list[sp.Expr]) -> sp.Expr:
    """A product whose square roots stand under one root above and one below."""
    outside, inside = sp.S.One, sp.S.One
    others = []
    positive: set[sp.Expr] = set()
    for factor in (y for f in factors for y in sp.Mul.make_args(f)):
        base, power = factor.as_base_exp()
        half = power.is_Rational and power.q == 2
        if not half or base.is_number:
            others.append(factor)
            continue
        whole = int(power) if power > 0 else -int(-power)
        outside *= base**whole
        inside *= base ** int(2 * (power - whole))
        positive |= set(sp.Mul.make_args(sp.numer(sp.together(base)))) | {base}
        positive |= set(sp.Mul.make_args(sp.denom(sp.together(base))))
    rational = [f for f in others if f.is_rational_function(*f.free_symbols) and f.free_symbols]
    others = [f for f in others if f not in rational]
    if inside == 1:
        return sp.Mul(*others, *rational)
    known = [sp.expand(y.as_base_exp()[0]) for y in positive]
    above, below = (sp.factor_list(y) for y in sp.fraction(sp.cancel(sp.together(inside))))
    free, inside = _squares(above, below, known)
    outside *= free
    ratio = _whole(sp.Mul(outside, *rational))
    return sp.Mul(*others, ratio, inside)


def _squares(above: tuple, below: tuple, known: list[sp.Expr]) -> tuple[sp.Expr, sp.Expr]:  # type: ignore[type-arg]
    """What comes out of a root, and the roots of what is left above and below."""
    outside, roots = sp.S.One, sp.S.One
    if above[0] < 0 and all(b.is_positive or e % 2 == 0 for b, e in above[1]):  # of a sum below
        above, below = (-above[0], above[1]), (-below[0], below[1])
    for (number, factors), sign in ((above, 1), (below, -1)):
        rest = sp.S.One
        for base, power in factors:
            if base.is_positive or any(sp.expand(base - y) == 0 for y in known):
                outside *= base ** (sign * (power // 2))
                power %= 2
            rest *= base**power
        if number < 0:
            number, rest = -number, sp.expand(-rest)
        outside *= sp.sqrt(number) ** sign
        if rest != 1:
            roots *= sp.Pow(rest, sp.Rational(sign, 2), evaluate=True)
    return outside, roots


def _whole(expr: sp.Expr) -> sp.Expr:
    """A rational function as one fraction with factors below."""
    if not expr.free_symbols or expr.is_polynomial():
        return expr
    if not expr.is_rational_function(*expr.free_symbols):
        return expr
    above, below = sp.fraction(sp.cancel(sp.together(expr)))
    return _factored(above) / _factored(below)


def _factored(expr: sp.Expr) -> sp.Expr:
    """A polynomial in factors, if it has few terms.

    SymPy draws points at random for those of many variables, and for some points does not return.
    """
    return expr if len(sp.Add.make_args(expr)) > MOST_TERMS else sp.factor(expr)


# Angles and names -----------------------------------------------------------------------------


def _angles(expr: sp.Expr, names: Polynomials) -> sp.Expr:
    """Arcsines of correlations by angles, where that is shorter."""
    found = {y: _correlation(y.args[0]) for y in expr.atoms(sp.asin)}
    found = {y: pair for y, pair in found.items() if pair}
    if not found or len(expr.atoms(sp.asin)) > 1 or not expr.is_Add:
        return expr
    trial = Polynomials(dict(names.found), dict(names.angles), list(names.fresh))
    angles = {
        y: sp.pi / 2 - trial.angle(*pair, y.args[0])
        for y, pair in found.items()
        if pair is not None
    }
    rest = sp.expand(expr.xreplace(angles))
    shorter = _by_angle(rest)
    if sp.count_ops(shorter) >= sp.count_ops(expr):
        return expr
    names.angles, names.fresh = trial.angles, trial.fresh
    return shorter


def _by_angle(expr: sp.Expr) -> sp.Expr:
    """1/(2 pi) [rest + C (pi - theta)] from its expanded form."""
    angle = next(s for s in expr.free_symbols if s.name.startswith(r"\theta"))
    factor = sp.Rational(1, 2) / sp.pi
    inside = sp.expand(expr / factor)
    slope = inside.coeff(angle)
    rest = sp.expand(inside - slope * angle + slope * sp.pi)
    return factor * (rest - slope * (sp.pi - angle))


def _correlation(cosine: sp.Expr) -> tuple[str, str] | None:
    """Numbers of the fields of which this is the correlation C_12/sqrt(C_11 C_22)."""
    symbols = [s for s in cosine.free_symbols if s.name.startswith("C_{")]
    square = sp.cancel(cosine**2)
    above, below = sp.fraction(square)
    cross = [s for s in symbols if above == s**2]
    if len(cross) != 1:
        return None
    first, second = cross[0].name[3:-1][:1], cross[0].name[3:-1][1:2]
    want = {f"C_{{{first}{first}}}", f"C_{{{second}{second}}}"}
    if {s.name for s in below.free_symbols} != want or below.is_Pow:
        return None
    return first, second


def _named(expr: sp.Expr, names: Polynomials) -> sp.Expr:
    """Names for long polynomials under roots, in arcsines and in denominators."""
    arcs = sorted(expr.atoms(sp.asin), key=sp.default_sort_key)
    first: dict[sp.Expr, int | None] = {}
    polys: list[tuple[sp.Expr, int | None]] = []
    if len(arcs) == 1:  # Saad and Solla's numbers
        outer = expr.xreplace({arcs[0]: sp.Dummy()})
        polys += [(y, 4) for y in _long(outer, 2)]
        above = sp.numer(sp.together(arcs[0].args[0]))
        inner = [y for y in _long(arcs[0].args[0], NAMED) if y not in sp.Mul.make_args(above)]
        tops = [y for y in sp.Mul.make_args(above) if y.is_Add and sp.count_ops(y) > NAMED]
        if tops or inner:
            polys += [(y, 0) for y in tops]
            polys += [(y, n) for n, y in enumerate(inner, 1)]
        else:
            polys = []
    else:
        polys += [(y, None) for y in _long(expr, NAMED)]
    for poly, wish in polys:
        first.setdefault(poly, wish)
    known: dict[sp.Expr, sp.Symbol] = {}
    for poly, wish in sorted(first.items(), key=lambda y: (sp.count_ops(y[0]), str(y[0]))):
        known[poly] = names.name(_by_known(poly, known), wish)
    return expr.xreplace(known)


def _long(expr: sp.Expr, most: int) -> list[sp.Expr]:
    """Polynomials under roots and below fractions, those of many operations."""
    found: dict[sp.Expr, None] = {}
    for power in sorted(expr.atoms(sp.Pow), key=sp.default_sort_key):
        if power.exp.is_Integer and power.exp > 0:
            continue
        for base in sp.Mul.make_args(power.base):
            if base.is_Add and base.is_polynomial() and sp.count_ops(base) > most:
                found.setdefault(base)
    for arc in expr.atoms(sp.asin):
        for base in sp.Mul.make_args(sp.numer(sp.together(arc.args[0]))):
            if base.is_Add and base.is_polynomial() and sp.count_ops(base) > most:
                found.setdefault(base)
    return list(found)


def _by_known(poly: sp.Expr, known: dict[sp.Expr, sp.Symbol]) -> sp.Expr:
    """A polynomial in terms of a shorter one that has a name already: L_1 = L_4 C_33 - ..."""
    best = poly
    for shorter, symbol in known.items():
        gens = sorted(poly.free_symbols | shorter.free_symbols, key=_variances_first)
        try:
            (quotient,), rest = sp.reduced(poly, [shorter], *gens, order="grlex")
        except sp.PolynomialError:
            continue
        changed = sp.expand(quotient) * symbol + rest
        if sp.count_ops(changed) < sp.count_ops(best) and quotient != 0:
            best = changed
    return best


def _variances_first(symbol: sp.Symbol) -> tuple[bool, str]:
    return (not symbol.is_positive, symbol.name)


# Repeated parts of closed systems -------------------------------------------------------------


def named_parts(
    exprs: Sequence[sp.Expr], taken: str
) -> tuple[list[sp.Expr], dict[sp.Symbol, sp.Expr]]:
    """Expressions with names for what they repeat, where that is shorter, and what these are.

    Named are polynomials that are under a root or below a fraction, and arguments of functions;
    letters in the text `taken` are not used.
    """
    exprs, parts = list(exprs), dict[sp.Symbol, sp.Expr]()
    while len(parts) < MOST_NAMES:
        count = Counter(y for e in (*exprs, *parts.values()) for y in _parts(e))
        gains = {y: (n - 1) * (sp.count_ops(y) - 1) - 2 for y, n in count.items()}
        best = max(gains, key=lambda y: (gains[y], str(y)), default=sp.S.Zero)
        if gains.get(best, 0) <= 0:
            break
        one = Part(f"part {len(parts)}", positive=True)
        exprs = [replaced(e, best, one) for e in exprs]
        parts = {s: replaced(e, best, one) for s, e in parts.items()} | {one: best}
    everything = (y for e in (*exprs, *parts.values()) for y in sp.preorder_traversal(e))
    order = list(dict.fromkeys(y for y in everything if y in parts))
    text = re.sub(r"\\operatorname\{\w+\}|\\[a-zA-Z]+", "", taken)
    names: dict[sp.Symbol, sp.Symbol] = {}
    for is_sum, letters in LETTERS.items():
        some = [y for y in order if parts[y].is_Add == is_sum]
        letter = next(y for y in letters if y not in text)
        marks = [f"_{{{n + 1}}}" if len(some) > 1 else "" for n in range(len(some))]
        names |= {y: Part(letter + m, positive=True) for y, m in zip(some, marks, strict=True)}
    for old, new in names.items():
        exprs = [replaced(e, old, new) for e in exprs]
        parts = {s: replaced(e, old, new) for s, e in parts.items()}
    return exprs, {names[y]: parts[y] for y in order}


def _parts(expr: sp.Expr) -> Iterator[sp.Expr]:
    """Parts of an expression that may get a name, each as often as it occurs."""
    below = {y.base for y in expr.atoms(sp.Pow) if not (y.exp.is_Integer and y.exp > 0)}
    for node in sp.preorder_traversal(expr):
        if node in below and node.is_Add and node.is_polynomial():
            yield from [node] if sp.count_ops(node) >= SHORTEST else []
        elif isinstance(node, sp.Function) and not isinstance(node, sp.exp):
            inside = (_without_number(y)[1] for y in node.args)
            yield from (y for y in inside if y.is_Mul and sp.count_ops(y) >= SHORTEST)


def _without_number(expr: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    found: tuple[sp.Expr, sp.Expr] = expr.as_independent(*expr.free_symbols, as_Add=False)
    return found


def replaced(expr: sp.Expr, part: sp.Expr, name: sp.Symbol) -> sp.Expr:
    """An expression with a name for a part; nothing else of it is evaluated anew."""
    if expr == part:
        return name
    number, rest = _without_number(expr) if expr.is_Mul else (sp.S.One, expr)
    if rest == part:
        return number * name
    args = [replaced(y, part, name) for y in expr.args]
    if all(new is old for new, old in zip(args, expr.args, strict=True)):
        return expr
    known = {"evaluate": False} if isinstance(expr, sp.Add | sp.Mul) else {}
    return expr.func(*args, **known)
