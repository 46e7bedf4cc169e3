r"""Moments of an update field: expand, rewrite, and collect the factors into products.

An average E[w_1(h_j) w_2(h_l) F] of functions of single fields and a polynomial F in sums over
neurons is expanded into averages of products, of which the calculus has closed forms. Three
rewrites make them few and cheap:

* Stein: E[G lambda_i] = sum_y Cov(lambda_i, y) E[dG/dy] over the fields y that G depends on,
* shared activations: g - f of two committees with one activation is one sum over all fields,
* parity: what changes its sign with the fields has the mean zero.

What stays open is one average of the open summands, or of the whole integrand where open products
stand under double sums: a sum over neurons, squared at the nodes, is cheaper than its square.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import (
    ROUNDED,
    STEEP,
    At,
    Expectation,
    OneSample,
    product_average,
)
from dmft.equations.averages.passes import is_open
from dmft.equations.definitions import Definition
from dmft.equations.update.law import Cluster
from dmft.equations.update.program import Program, students_at, teachers_at
from dmft.equations.update.terms import Parities, Term, is_of_target, is_random, parity, terms_of
from dmft.errors import NotClosed
from dmft.gaussian.closed.pair import CovarianceGiven
from dmft.gaussian.closed.switch import may_hold_branches
from dmft.gaussian.derivative import derivative
from dmft.model import FIELD, Model

# Factors beside the terms: (function of z, field).
Weights = tuple[tuple[sp.Expr, sp.Expr], ...]


@dataclass(frozen=True)
class Case:
    """One law of the fields, and the update field of a sample that has it."""

    cluster: Cluster
    program: Program

    def inline(self, expr: sp.Expr, part: str | None = None) -> sp.Expr:
        """An expression in psi as one in centred fields."""
        return self.cluster.shifted(self.program.inline(expr, part))

    def named(self, expr: sp.Expr) -> sp.Expr:
        """An expression in what the program defines, as it is called in this cluster."""
        return self.cluster.shifted(expr, self.program.table)

    def definitions(self) -> list[Definition]:
        """What the program defines, as it is called in this cluster."""
        return self.cluster.named(self.program.definitions)

    def law_of(self, expr: sp.Expr) -> OneSample:
        """Law of the fields of a sample that an expression is averaged over on nodes."""
        program = self.program
        degrees, halves = program.degrees(), sp.S.Zero
        degree = degrees.of(expr)
        alone = sp.Integer(program.students)
        if degree < 0 and program.label.has(sp.sign):
            from dmft.equations.update.linear_students import jumps_at_first_teacher

            smooth = program.degree(expr, of_label=False) >= 0
            if smooth and jumps_at_first_teacher(self.cluster, program.label):
                degree, halves, alone = sp.oo, sp.S.One, sp.S.Zero
            halves = sp.Max(halves, alone)
        noisy = program.noisy or expr.has(x.xi)
        thin = ROUNDED if program.rounded else degrees.steep
        even = self.cluster.is_centred and Parities(program.table).of(expr) == 1
        if self.is_solved(expr):
            degree = sp.oo if program.degree(program.label) >= 0 else degree
            return OneSample(degree, *map(sp.Integer, (0, 0, 0, 1, STEEP, int(even), 0, 1)))
        rest = (sp.S.One, sp.Integer(thin), sp.Integer(even)) if thin or even else ()
        return OneSample(degree, sp.Integer(noisy), halves, alone, *rest)

    def is_solved(self, expr: sp.Expr) -> bool:
        """Whether psi alone, or times a field, has a sign that is averaged over the last field."""
        last = self.program.definitions[-1]
        if self.cluster.number or self.program.noisy or not last.expr.has(sp.sign):
            return False
        from dmft.equations.averages.conditioned import jump_of

        psi = last.target
        rest = sp.Mul(*(f for f in sp.Mul.make_args(expr) if f != psi))
        whole = expr == psi * rest and rest in (1, x.lam[x.i])
        return whole and jump_of(self.program.definitions) is not None

    def whole(self, expr: sp.Expr) -> sp.Expr:
        """Average of an expression in what the program defines, over a sample's fields."""
        return Expectation(self.named(expr), self.law_of(expr))

    def whole_drift(self, update: sp.Expr) -> sp.Expr:
        """E[update lambda_i] over a sample's fields."""
        lam = x.lam[x.i]
        mean = self.cluster.mean_of(lam)
        along = mean * self.whole(update) if mean != 0 else sp.S.Zero
        across = Expectation(self.named(update) * lam, self.law_of(update * lam))
        return along + self.cluster.root * across

    def drift(self, update: sp.Expr) -> sp.Expr:
        """E[update lambda_i]: along the mean, and along the covariances."""
        mean = self.cluster.mean_of(x.lam[x.i])
        along = mean * expectation(update) if mean != 0 else sp.S.Zero
        return along + self.cluster.root * stein(update)


def expectation(expr: sp.Expr) -> sp.Expr:
    """E[expr]: a constant in front, the closed averages, and one average of what stays open."""
    front, weights, rest = factored(expr)
    named = [At(f, y) for f, y in weights]
    closed, still_open = [], []
    for term in without_noise(terms_of(rest)):
        value = average(term, weights)
        if value is not None:
            closed.append(value)
        elif len(term.limits) > 1 and not rest.has(x.xi):
            return front * Expectation(sp.Mul(*named, rest))
        else:
            still_open.append(term)
    if not still_open:
        return front * sp.Add(*closed)
    return front * sp.Add(*closed, *open_averages(still_open, named))


def open_averages(terms: Sequence[Term], weights: Sequence[sp.Expr]) -> list[sp.Expr]:
    """Averages of open terms: one for all that differ in their functions of the target alone."""
    groups: dict[tuple[sp.Expr, ...], tuple[Term, list[sp.Expr]]] = {}
    for term in terms:
        number, coefficient = term.coefficient.as_coeff_Mul()
        own = tuple((y, f) for y, f in term.factors if not is_of_target(y))
        rest = tuple((y, f) for y, f in term.factors if is_of_target(y))
        outer = Term(coefficient, own, limits=term.limits)
        group = groups.setdefault((outer.expr,), (outer, []))
        group[1].append(Term(number, rest, term.joint).expr)
    result = []
    for outer, inside in groups.values():
        students = (At(f, y) for y, f in outer.factors)
        result.append(outer.over(Expectation(sp.Mul(*weights, *students, sp.Add(*inside)))))
    return result


def factored(expr: sp.Expr) -> tuple[sp.Expr, Weights, sp.Expr]:
    """Split a product into a constant, functions of single fields h_j, h_l, and the rest."""
    front, weights, rest = [], [], []
    for factor in sp.Mul.make_args(expr):
        if not is_random(factor):
            front.append(factor)
        elif isinstance(factor, At):
            weights.append((factor.factor, factor.field))
        else:
            rest.append(factor)
    weights.sort(key=lambda pair: sp.default_sort_key(pair[1]))
    return sp.Mul(*front), tuple(weights), sp.Mul(*rest)


def stein(expr: sp.Expr) -> sp.Expr:
    """E[expr lambda_i] for all fields i, by Stein's identity where its averages are closed.

    No derivative of a kink has to be averaged in what stays open.
    """
    front, weights, rest = factored(expr)
    total, still_open = [], []
    along: dict[sp.Expr, sp.Expr] = {}
    for term in without_noise(terms_of(rest)):
        parts = along_fields(term, weights)
        if parts is None:
            still_open.append(term.expr)
        elif term.limits:
            total.append(term.over(sp.Add(*(cov * e for cov, e in parts))))
        else:
            for cov, e in parts:
                along[cov] = along.get(cov, sp.S.Zero) + term.coefficient * e
    total += [cov * e for cov, e in along.items()]
    if still_open:
        named = [At(f, y) for f, y in weights]
        total.append(Expectation(sp.Mul(*named, x.lam[x.i], sp.Add(*still_open))))
    return front * sp.Add(*total)


def along_fields(term: Term, weights: Weights) -> list[tuple[sp.Expr, sp.Expr]] | None:
    r"""Covariances of lambda_i and what they multiply in E[weights * term * lambda_i].

    Equation    E[lambda_i F(u) G(v)] = C_iu E[F' G] + C_iv E[F G'], or
                C_iu / C_uu E[u F G] + Cov(lambda_i, v | u) E[F G'] where F or G decays
    Shapes      pairs that are multiplied and summed; None where an average is open
    Valid for   the second form: two fields; by the first, terms of E[u F G] that are larger than
                it by C_uu cancel where F and G live near zero only
    """
    lam = x.lam[x.i]
    factors = [*weights, *((f, y) for y, f in term.factors)]
    if term.joint == 1 and len(factors) == 2 and any(_decays(f) for f, _ in factors):
        (f, u), (g, v) = factors
        one, variance, two = x.covariance(lam, u), x.covariance(u, u), x.covariance(u, v)
        rest = CovarianceGiven(x.covariance(lam, v), one, variance, two)
        own, other = [(FIELD * f, u), (g, v)], [(f, u), (derivative(g), v)]
        return [(one / variance, average_of(own)), (rest, average_of(other))]
    parts = slopes(term, weights)
    return None if parts is None else [(x.covariance(lam, y), e) for y, e in parts]


def _decays(factor: sp.Expr) -> bool:
    """Whether a function with exponential branches vanishes at both infinities."""
    if not may_hold_branches(factor):
        return False
    from dmft.gaussian.branch_factors import decays

    return decays(factor)


def slopes_by_field(expr: sp.Expr) -> tuple[dict[sp.Expr, sp.Expr], list[sp.Expr]]:
    """E[d expr/dy] by field y, and the summands of the last factor where one of these is open.

    A field that a sum runs over has the entry of its index, summed over the other sums.
    """
    front, weights, rest = factored(expr)
    along: dict[sp.Expr, sp.Expr] = {}
    still_open = []
    for term in without_noise(terms_of(rest)):
        parts = slopes(term, weights)
        if parts is None:
            parts = slopes_on_nodes(term, weights)
        if parts is None:
            still_open.append(term.expr)
            continue
        for y, e in parts:
            others = tuple(limit for limit in term.limits if not y.has(limit[0]))
            value = front * replace(term, limits=others).over(e)
            along[y] = along.get(y, sp.S.Zero) + value
    return along, still_open


def slopes(term: Term, weights: Weights) -> list[tuple[sp.Expr, sp.Expr]] | None:
    """E[d(weights * term)/dy] by field y, without the term's coefficient and sums.

    None where one of them is open. Weights with a Dirac delta have no value at a node: they stay
    products, whose refusal says why.
    """
    if term.joint != 1:
        return None
    jumps = any(f.has(sp.DiracDelta) for f, _ in weights)
    factors = [*weights, *((f, y) for y, f in term.factors)]
    result = []
    for n, (factor, field) in enumerate(factors):
        changed = [*factors[:n], (derivative(factor), field), *factors[n + 1 :]]
        value = average_of(changed)
        if not jumps and any(is_open(q) for q in value.atoms(Expectation)):
            return None
        if value != 0:
            result.append((field, value))
    return result


def slopes_on_nodes(term: Term, weights: Weights) -> list[tuple[sp.Expr, sp.Expr]] | None:
    """`slopes` of functions that hold the means of their fields, as averages on nodes, else None.

    Raises `NotClosed` where a slope lives on a kink, which nodes never meet.
    """
    factors = [*weights, *((f, y) for y, f in term.factors)]
    if term.joint != 1 or not any(f.has(sp.Indexed) for f, _ in factors):
        return None
    result = []
    for n, (factor, field) in enumerate(factors):
        changed = [*factors[:n], (derivative(factor), field), *factors[n + 1 :]]
        if changed[n][0].has(sp.DiracDelta, sp.Derivative, sp.Subs):
            raise NotClosed(
                f"the Gram matrix of the population gradients needs the slope of {factor} on its "
                "kink, over inputs from clusters; use an activation without kinks, or simulate"
            )
        result.append((field, Expectation(sp.Mul(*(At(f, y) for f, y in changed)))))
    return result


def average(term: Term, weights: Weights) -> sp.Expr | None:
    """E[weights * term]; None where it is open.

    Distributions stay products, whose refusal says why: a Dirac delta has no value at a node.
    """
    if term.joint != 1:
        return None
    value = average_of([*weights, *((f, y) for y, f in term.factors)])
    if not value.has(sp.DiracDelta) and any(is_open(q) for q in value.atoms(Expectation)):
        return None
    return sp.S.Zero if value == 0 else term.over(value)


def average_of(factors: Sequence[tuple[sp.Expr, sp.Expr]]) -> sp.Expr:
    """E[prod factor(field)]; zero where flipping all fields flips the product."""
    if math.prod(parity(f) for f, _ in factors) == -1:
        return sp.S.Zero
    return product_average([f for f, _ in factors], [y for _, y in factors])


def without_noise(terms: Sequence[Term]) -> list[Term]:
    """Terms averaged over the label's noise, a standard normal independent of all fields."""
    result = []
    for term in terms:
        noise = dict(term.factors).get(x.xi, sp.S.One)
        others = tuple((y, f) for y, f in term.factors if y != x.xi)
        weight = normal_moment(noise) * term.coefficient
        if weight != 0:
            result.append(replace(term, coefficient=weight, factors=others))
    return result


def normal_moment(polynomial: sp.Expr) -> sp.Expr:
    """E[p(xi)] of a polynomial in the canonical symbol under the standard normal law."""
    if not polynomial.has_free(FIELD):
        return polynomial
    terms = sp.Poly(polynomial, FIELD).terms()
    return sp.Add(*(c * sp.factorial2(n - 1) for (n,), c in terms if n % 2 == 0))


def shared(expr: sp.Expr, model: Model) -> sp.Expr:
    """Write g - f as one sum over all fields where both networks share the activation."""
    if not model.matched:
        return expr
    sigma = model.student.activation
    whole, known = shared_sum(sigma), set((teachers_at(sigma) - students_at(x.h, sigma)).args)

    def merged(e: sp.Expr) -> sp.Expr:
        rest = [a for a in e.args if a not in known]
        return sp.Add(whole, *rest) if known <= set(e.args) else e

    return expr.replace(lambda e: e.is_Add, merged)


def shared_sum(activation: sp.Expr) -> sp.Expr:
    """G - f of two committees with one activation."""
    return sp.Sum(x.c[x.m] * At(activation, x.lam[x.m]), (x.m, 1, x.p + x.k))


def of_committees(student: sp.Expr, teacher: sp.Expr) -> sp.Expr:
    """G - f of two committees; one sum over all fields where they share the activation."""
    if student == teacher:
        return shared_sum(student)
    return teachers_at(teacher) - students_at(x.h, student)


def together(values: Iterable[tuple[sp.Expr, sp.Expr]]) -> sp.Expr:
    """Sum of weights times values, the weights of equal terms added."""
    found: dict[sp.Expr, sp.Expr] = {}
    for weight, value in values:
        for term in _summands(value):
            number, rest = term.as_coeff_Mul()
            found[rest] = found.get(rest, sp.S.Zero) + weight * number
    return sp.Add(*(sp.expand(weight) * rest for rest, weight in found.items()))


def _summands(value: sp.Expr) -> list[sp.Expr]:
    """Terms of a sum, products with sums multiplied out; averages with one sign in front."""
    opened = sp.expand_mul(value, deep=False)
    if opened.is_Add:
        return [term for part in opened.args for term in _summands(part)]
    return [opened.xreplace({q: _positive(q) for q in opened.atoms(Expectation) if q.is_product})]


def _positive(average: Expectation) -> sp.Expr:
    """E[-F G] as -E[F G]."""
    front, parts = sp.S.One, []
    for at in average.parts:
        negative = at.factor.is_Add and at.factor.could_extract_minus_sign()
        front = -front if negative else front
        parts.append(At(-at.factor, at.field) if negative else at)
    return front * Expectation(*parts, average.law)
