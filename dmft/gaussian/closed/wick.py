"""Hermite polynomials, and products of polynomials by the Wick formula, in dictionaries.

Integers are kept while the coefficients are integers; SymPy objects are made once, at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cmp_to_key, lru_cache
from itertools import product as cartesian
from math import comb, factorial, prod
from typing import Any

import sympy as sp
from sympy.functions.special.polynomials import hermite_prob

from dmft.errors import BadParameter
from dmft.gaussian import LISTENER
from dmft.validation import checked, shown

Index = tuple[int, ...]
Powers = Sequence[tuple[int, sp.Expr]]
Monomials = dict[Index, Any]
Moments = dict[tuple[int, int], Any]
Coefficients = tuple[tuple[int, sp.Expr], ...]
Number = int | Fraction
# Sums of more diagrams than this are loops in compiled code: their text takes long to compile.
# Where there are polynomials of high degree there are many such sums, and shorter ones are, too.
FEW, FEW_OF_HIGH, HIGH = 80, 8, 5


def times(*parts: sp.Expr) -> sp.Expr:
    """Product that never distributes a number over a sum (code generation hoists by structure)."""
    product = sp.Mul(*[p for p in parts if not p.is_Add])
    sums = [p for p in parts if p.is_Add]
    if not sums:
        return product
    if len(sums) == 1 and product.is_Number and product not in (sp.S.One, sp.S.Zero):
        return sp.Mul(product, sums[0], evaluate=False)
    return sp.Mul(product, *sums)


def wick_expression(
    polynomials: Sequence[Powers],
    means: Sequence[sp.Expr],
    variances: Sequence[sp.Expr],
    covariances: Sequence[sp.Expr],
) -> sp.Expr:
    """E[prod_i p_i(x_i)] by linked diagrams; `covariances` holds C_ij, i < j, in row order.

    Equation
        E prod_i p_i = sum_k prod_{i<j} C_ij^{k_ij} / k_ij!  prod_i E[p_i^{(r_i)}(x_i)],
        r_i = sum_j k_ij, over all nonnegative integer k_ij.
    Valid for
        Any law. The moments E[p^{(r)}] are factorised in the variance where the mean is a number:
        those of He_n are n!/r! (q - 1)^{(n-r)/2} / ((n-r)/2)! 2^{(r-n)/2} and vanish exactly at
        q = 1 for r < n, so that powers of small covariances are factors and not differences.
    Source
        theory/one_pass A.4; derivations/erf_integrals.py
    """
    tables = [
        _derivative_moments(p, m, v) for p, m, v in zip(polynomials, means, variances, strict=True)
    ]
    groups: dict[tuple[sp.Expr, ...], Monomials] = {}
    heard = LISTENER.get()
    # A Hermite polynomial of unit variance has one entry: only its own degree is linked.
    for degrees in cartesian(*tables):
        links = diagrams(degrees)
        chosen = [tables[i][r] for i, r in enumerate(degrees)]
        if heard is not None:
            heard.linked(degrees, _coefficient(chosen, means, variances), links)
        if not links:
            continue
        monomials = groups.setdefault(tuple(y for y, _ in chosen if y != 1), {})
        moments = list(_outer([moments for _, moments in chosen]))
        for k, weight in links:
            for mean_powers, variance_powers, value in moments:
                key = (*mean_powers, *variance_powers, *k)
                monomials[key] = monomials.get(key, 0) + weight * value
    generators = (*means, *variances, *covariances)
    return sp.Add(*(times(*y, monomial_sum(generators, group)) for y, group in groups.items()))


def _coefficient(
    chosen: Sequence[tuple[sp.Expr, Moments]],
    means: Sequence[sp.Expr],
    variances: Sequence[sp.Expr],
) -> sp.Expr:
    """Product of the coefficients of one Hermite polynomial of each field."""
    return sp.Mul(
        *(
            front * sp.Add(*(_number(y) * m**a * v**b for (a, b), y in moments.items()))
            for (front, moments), m, v in zip(chosen, means, variances, strict=True)
        )
    )


def _derivative_moments(
    powers: Powers, mean: sp.Expr, variance: sp.Expr
) -> dict[int, tuple[sp.Expr, Moments]]:
    """For each r, E[p^(r)(x)] / r! as a product: a polynomial in the variance, and monomials.

    Monomials are {(power of the mean, power of the variance): value}.
    """
    tables: dict[int, Moments] = {}
    numbers = rational(mean), rational(variance)
    for n, coefficient in powers:
        number = rational(coefficient)
        for r, key, ways in power_in_hermite(n, *numbers):
            table = tables.setdefault(r, {})
            table[key] = table.get(key, 0) + ways * (coefficient if number is None else number)
    cleaned = {r: {k: v for k, v in table.items() if v != 0} for r, table in tables.items()}
    return {r: _factorised(table, variance) for r, table in sorted(cleaned.items()) if table}


def _factorised(table: Moments, variance: sp.Expr) -> tuple[sp.Expr, Moments]:
    """Move the polynomial in the variance, less its leading power and content, to the front."""
    if len(table) == 1 or any(mean for mean, _ in table):
        return sp.S.One, table
    lowest, top = min(n for _, n in table), max(n for _, n in table)
    leading = table[0, top]
    ratios = {n - lowest: _number(value) / _number(leading) for (_, n), value in table.items()}
    value: Any = 1
    if all(y.is_Rational for y in ratios.values()):
        content, parts = _rational_factors(tuple(sorted(ratios.items())))
        value = leading * rational(content)
    else:
        parts = _without_root_at_one({n - lowest: _number(y) for (_, n), y in table.items()})
    factors = (sp.Add(*(c * variance**n for n, c in one)) ** power for one, power in parts)
    return sp.Mul(*factors), {(0, lowest): value}


@lru_cache(maxsize=1024)
def _rational_factors(
    coefficients: tuple[tuple[int, sp.Expr], ...],
) -> tuple[sp.Expr, tuple[tuple[Coefficients, int], ...]]:
    """Content and irreducible factors of a polynomial with rational coefficients."""
    content, factors = sp.Poly(dict(coefficients), sp.Dummy(), domain=sp.QQ).factor_list()
    parts = (((tuple((n, c) for (n,), c in y.terms())), power) for y, power in factors)
    return content, tuple(parts)


def _without_root_at_one(coefficients: dict[int, sp.Expr]) -> tuple[tuple[Coefficients, int], ...]:
    """Factors (v - 1)^power and the rest of a polynomial with any coefficients, by Horner."""
    top, power = max(coefficients), 0
    values = [coefficients.get(n, sp.S.Zero) for n in range(top, -1, -1)]
    while True:
        running = [values[0]]
        for value in values[1:]:
            running.append(sp.expand(running[-1] + value))
        if not running[-1].is_zero:
            break
        values, power = running[:-1], power + 1
    size = len(values) - 1
    rest = tuple((size - n, value) for n, value in enumerate(values) if value != 0)
    root: Coefficients = ((1, sp.S.One), (0, sp.S.NegativeOne))
    return ((root, power), (rest, 1)) if power else ((rest, 1),)


@lru_cache(maxsize=1024)
def power_in_hermite(
    n: int, mean: Number | None, variance: Number | None
) -> tuple[tuple[int, tuple[int, int], Number], ...]:
    """x^n in Hermite polynomials of the law of x, as (r, (powers of mean and variance), weight).

    A mean or variance that is given as a number is multiplied into the weight.
    """
    terms: dict[tuple[int, tuple[int, int]], Number] = {}
    for r in range(n + 1):
        s = n - r
        for pairs in range(s // 2 + 1):
            # The number of ways to contract pairs of the s fields left among themselves.
            ways: Number = factorial(2 * pairs) // (2**pairs * factorial(pairs))
            ways *= comb(n, r) * comb(s, 2 * pairs)
            key = [s - 2 * pairs, pairs]
            for place, number in enumerate((mean, variance)):
                if number is not None:
                    ways *= number ** key[place]
                    key[place] = 0
            where = (r, (key[0], key[1]))
            terms[where] = terms.get(where, 0) + ways
    return tuple((r, key, ways) for (r, key), ways in terms.items() if ways)


def rational(value: sp.Expr) -> Number | None:
    """A rational number as an int or a fraction, for fast arithmetic; None for anything else."""
    if not value.is_Rational:
        return None
    return int(value) if value.is_Integer else Fraction(int(value.p), int(value.q))


@lru_cache(maxsize=4096)
def diagrams(degrees: Index) -> tuple[tuple[Index, int], ...]:
    """Terms of E[prod_i He_{n_i}(x_i)], as (exponents of C_ij for i < j in row order, weight).

    Equation    sum_k prod_i n_i! prod_{i<j} C_ij^{k_ij} / k_ij!, all k with row sums n_i; of
                fields of any variance C_ii, with He_n of the scaled field times C_ii^{n/2}
    Source      theory/one_pass A.4
    """
    if sum(degrees) % 2:
        return ()
    size = len(degrees)
    left = list(degrees)
    links = [0] * (size * (size - 1) // 2)
    factorials = prod(factorial(n) for n in degrees)
    found: list[tuple[Index, int]] = []

    def extend(i: int, j: int, position: int) -> None:
        if i >= size - 1:
            if not any(left):
                weight = factorials
                for k in links:
                    weight //= factorial(k)
                found.append((tuple(links), weight))
            return
        # The last link of a row takes what is left of it; earlier ones leave what others can take.
        room = sum(left[j + 1 :])
        for k in range(max(0, left[i] - room), min(left[i], left[j]) + 1):
            links[position] = k
            left[i], left[j] = left[i] - k, left[j] - k
            extend(*((i, j + 1) if j + 1 < size else (i + 1, i + 2)), position + 1)
            left[i], left[j] = left[i] + k, left[j] + k
        links[position] = 0

    extend(0, 1, 0)
    return tuple(found)


def diagram_table(polynomials: Sequence[Powers]) -> list[float] | None:
    """Numbers that `dmft.special.tables` reads, of polynomials in centred fields.

    None where a coefficient is no rational number, or where there are few diagrams, whose sum is
    then written out.
    """
    v = sp.Symbol("v")
    if not all(c.is_Rational for powers in polynomials for _, c in powers):
        return None
    tables = [_derivative_moments(p, sp.S.Zero, v) for p in polynomials]
    found = [(links, w) for degrees in cartesian(*tables) for links, w in diagrams(degrees)]
    top = max(n for powers in polynomials for n, _ in powers)
    if len(found) <= (FEW if top < HIGH else FEW_OF_HIGH):
        return None
    numbers: list[Any] = [len(polynomials), top, len(found)]
    for table in tables:
        for r in range(top + 1):
            front, moments = table.get(r, (sp.S.Zero, {}))
            whole = sp.expand(front * sp.Add(*(_number(y) * v**b for (_, b), y in moments.items())))
            # Those of Hermite polynomials are powers of v - 1, without differences there.
            about = [(s, sp.Poly(whole.xreplace({v: v + s}), v)) for s in (0, 1)]
            centre, poly = min(about, key=lambda one: len(one[1].terms()))
            numbers += [centre, *(poly.coeff_monomial(v**n) for n in range(top + 1))]
    for links, weight in found:
        numbers += [weight, *links]
    return [float(y) for y in numbers]


def _outer(moments: Sequence[Moments]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], Any]]:
    """Product of the one-field moments: exponents of means, of variances, and the value."""
    if not moments:
        yield (), (), 1
        return
    for (mean, variance), value in moments[0].items():
        for means, variances, rest in _outer(moments[1:]):
            yield (mean, *means), (variance, *variances), value * rest


def monomial_sum(generators: Sequence[sp.Expr], monomials: Monomials) -> sp.Expr:
    """Sum of value * prod_i generators_i^key_i over {key: value}, as SymPy itself would write it.

    Thousands of products of symbols are put together in canonical order without SymPy's search
    for what could be simplified; anything else than symbols goes the ordinary way.
    """
    atoms = list(dict.fromkeys(g for g in generators if isinstance(g, (sp.Symbol, sp.Indexed))))
    plain = len(atoms) > 0 and all(g in atoms or g.is_Rational for g in generators)
    if not (plain and all(isinstance(v, (int, Fraction)) for v in monomials.values())):
        terms = []
        for key, value in monomials.items():
            parts = [sp.Pow(g, n) for g, n in zip(generators, key, strict=True) if n]
            terms.append(times(_number(value), *parts))
        return sp.Add(*terms)
    return _sum_of_symbols(atoms, _merged(generators, atoms, monomials))


def _merged(
    generators: Sequence[sp.Expr], atoms: Sequence[sp.Expr], monomials: Monomials
) -> Monomials:
    """Exponents of the distinct symbols, rational generators multiplied into the value."""
    places = [atoms.index(g) if g in atoms else None for g in generators]
    numbers = [None if g in atoms else rational(g) for g in generators]
    result: Monomials = {}
    for key, value in monomials.items():
        merged = [0] * len(atoms)
        for n, place, number in zip(key, places, numbers, strict=True):
            if not n:
                continue
            if place is None:
                assert number is not None
                value = value * number**n
            else:
                merged[place] += n
        if value:
            where = tuple(merged)
            result[where] = result.get(where, 0) + value
    return {key: value for key, value in result.items() if value}


def _sum_of_symbols(atoms: Sequence[sp.Expr], monomials: Monomials) -> sp.Expr:
    """Sum of products of powers of distinct symbols, by ranks in SymPy's own order."""
    used = {(i, n) for key in monomials for i, n in enumerate(key) if n}
    powers = {pair: sp.Pow(atoms[pair[0]], pair[1]) for pair in used}
    order = sorted(used, key=lambda pair: cmp_to_key(sp.Basic.compare)(powers[pair]))
    rank = {pair: r for r, pair in enumerate(order)}
    ranked = [powers[pair] for pair in order]
    numbers = {v: _number(v) for v in set(monomials.values())}
    terms: list[tuple[tuple[Any, ...], sp.Expr]] = []
    for key, value in monomials.items():
        ranks = sorted([rank[i, n] for i, n in enumerate(key) if n])
        number = numbers[value]
        parts = [ranked[r] for r in ranks]
        if value != 1 or not parts:
            parts.insert(0, number)
        product = parts[0] if len(parts) == 1 else sp.Mul._from_args(parts, is_commutative=True)
        # Add sorts its terms: it compares many fewer when they come nearly sorted.
        terms.append(((len(parts), value if value != 1 else 0, ranks), product))
    terms.sort(key=lambda term: term[0])
    return sp.Add(*[term for _, term in terms])


def _number(value: Any) -> sp.Expr:
    """SymPy number of an int or a fraction; an expression as it is."""
    if isinstance(value, Fraction):
        return sp.Rational(value.numerator, value.denominator)
    return sp.sympify(value, strict=True)


# Beyond, the coefficients have thousands of digits, and the polynomial takes seconds.
LARGEST_DEGREE = 1000


@checked
def hermite(n: int, x: sp.Expr) -> sp.Expr:
    """Return the probabilists' Hermite polynomial He_n(x), expanded.

    Parameters
    ----------
    n : int
        Degree, n >= 0.
    x : sympy.Expr

    Returns
    -------
    sympy.Expr
        Polynomial with leading coefficient 1.

    Examples
    --------
    >>> import sympy as sp
    >>> hermite(3, sp.Symbol("z"))
    z**3 - 3*z
    """
    order = sp.sympify(n, strict=True)
    if not (order.is_Integer and 0 <= order <= LARGEST_DEGREE):
        raise BadParameter(
            f"the degree n = {shown(n)} of a Hermite polynomial is an integer from 0 to "
            f"{LARGEST_DEGREE}"
        )
    return sp.expand(hermite_prob(order, sp.sympify(x, strict=True)))
