r"""Proofs of the entries of the table of signs and error functions, step by step.

Price's theorem: of a law whose covariances between fields are t C_ij,

    d/dtau E_tau[prod f_i(x_i)] = sum_{i<j} C_ij E_tau[f_i' f_j' prod_{k != i, j} f_k],

so that an average is its value for independent fields and an integral over t from 0 to 1. The
derivative of a sign is a Dirac factor, that of an error function a Gaussian factor; both are taken
out by the rules of the calculus itself (`Law.condition`, `Law.tilt`).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import combinations
from typing import Any

import sympy as sp

from dmft.explanation.average import SHARE, Average
from dmft.gaussian.closed.factor import Term
from dmft.gaussian.closed.pair import CorrelationAngle
from dmft.gaussian.closed.product import Erfs, Polynomials
from dmft.gaussian.law import Law
from dmft.model import FIELD

Factor = tuple[Hashable, sp.Expr, sp.Expr]
# Operations of a covariance that is put over one denominator.
MOST_CANCELLED = 60


def prove(recorder: Any, node: tuple[Law, Any, Erfs], before: sp.Expr, value: sp.Expr) -> None:
    """Note an entry of the table, and what proves it one level deeper."""
    law, _, erfs = node
    after = recorder.plain(value)
    if not erfs:
        return
    rule = "parity" if value == 0 else RULE.get(len(erfs), "parity")
    if rule == "arcsine" and any(law.m(x) != 0 or c != 0 for x, _, c in erfs):
        rule = "two_signs"
    recorder.note(rule, before, after)
    if rule == "parity":
        return
    recorder.ledger.depth += 1
    PROOFS[rule](recorder, law, erfs, before, after)
    recorder.ledger.depth -= 1


RULE = {1: "smoothing", 2: "arcsine", 4: "four_signs"}


# One field ------------------------------------------------------------------------------------


def one_field(recorder: Any, law: Law, erfs: Erfs, before: sp.Expr, after: sp.Expr) -> None:
    """An error function is the sign of its field with noise; the sum of both is Gaussian."""
    ((x, a, c),) = erfs
    if a is sp.oo:
        return
    noise, total = sp.Symbol("n", real=True), sp.Symbol("u", real=True)
    field, variance, mean = (
        recorder.symbol(x),
        recorder.plain(law.C(x, x)),
        recorder.plain(law.m(x)),
    )
    shift, own = recorder.plain(c / a), recorder.plain(1 / (2 * a**2))
    side = sp.sign(recorder.plain(a))
    cov = sp.diag(variance, own)
    joint = Average.of(sp.sign(field + noise + shift), [field, noise], cov, [mean, 0])
    alone = Average.of(sp.sign(total), [total], [[variance + own]], [mean + shift])
    recorder.ledger.add("noise", before, side * joint)
    recorder.ledger.add("combination", side * joint, side * alone)
    recorder.ledger.add("probability", side * alone, after)


# Two fields -----------------------------------------------------------------------------------


def slope(a: sp.Expr, c: sp.Expr) -> sp.Expr:
    """Derivative of erf(a z + c), or of sign(z + c) where a is infinite."""
    if a is sp.oo:
        return 2 * sp.DiracDelta(FIELD + c)
    return 2 * a / sp.sqrt(sp.pi) * sp.exp(-((a * FIELD + c) ** 2))


def error_factor(a: sp.Expr, c: sp.Expr) -> sp.Expr:
    """erf(a z + c), or sign(z + c)."""
    return sp.sign(FIELD + c) if a is sp.oo else sp.erf(a * FIELD + c)


def term_factor(
    term: Term, weight: bool = True, deltas: Sequence[sp.Expr] | None = None
) -> sp.Expr:
    """A parsed term as a function of z, without what was taken out."""
    parts = [sp.Add(*(c * FIELD**n for n, c in term.powers))]
    if weight and has_weight(term):
        parts.append(sp.exp(-term.curvature * FIELD**2 / 2 + term.slope * FIELD))
    parts += [error_factor(a, c) for a, c in term.erfs]
    parts += [sp.DiracDelta(FIELD - t) for t in (term.deltas if deltas is None else deltas)]
    return sp.Mul(*parts)


def state_factors(polynomials: Polynomials, erfs: Erfs) -> list[tuple[Any, sp.Expr]]:
    """Functions of single fields that a state is the average of."""
    powers = [(x, sp.Add(*(c * FIELD**n for n, c in p.items()))) for x, p in polynomials.items()]
    return powers + [(x, error_factor(a, c)) for x, a, c in erfs]


def has_weight(term: Term) -> bool:
    """Whether a term has a Gaussian factor."""
    return bool(term.curvature != 0 or term.slope != 0)


def over_one_denominator(expr: sp.Expr) -> sp.Expr:
    """A covariance that rules have made, as one fraction where it is a short rational function."""
    nested = any(e.is_Pow and e.exp.is_negative for e in expr.atoms(sp.Pow))
    if not nested or sp.count_ops(expr) > MOST_CANCELLED or not expr.is_rational_function():
        return expr
    return sp.cancel(expr)


def shared_law(law: Law, erfs: Erfs, share: sp.Expr) -> Law:
    """The law with a share of the covariances between the fields; one field twice counts as two."""

    def cov(i: Any, j: Any) -> sp.Expr:
        value = law.C(erfs[i][0], erfs[j][0])
        return value if i == j else share * value

    return Law(cov, lambda i: law.m(erfs[i][0]), list(range(len(erfs))))


class Copies:
    """A recorder's view of factors by their numbers: equal fields are told apart by a law."""

    def __init__(self, recorder: Any, law: Law, erfs: Erfs) -> None:
        self.recorder, self.erfs = recorder, erfs
        fields = [recorder.symbol(x) for x, *_ in erfs]
        twice = len(set(fields)) < len(fields)
        own = [sp.Symbol(f"u_{i + 1}", real=True) for i in range(len(fields))]
        self.fields = own if twice else fields
        self.law = law

    def average(self, law: Law, factors: dict[int, sp.Expr], name: str) -> sp.Expr:
        """E of functions of numbered factors under a law of numbers."""
        plain = self.recorder.plain
        kept = [i for i, f in factors.items() if f.has(FIELD)]
        integrand = sp.Mul(*(f.xreplace({FIELD: self.fields[i]}) for i, f in factors.items()))
        cov = [[plain(law.C(i, j)) for j in kept] for i in kept]
        mean = [plain(law.m(i)) for i in kept]
        if not kept:
            return plain(integrand)
        return Average.of(plain(integrand), [self.fields[i] for i in kept], cov, mean, name)

    def taken_out(self, law: Law, i: int) -> tuple[str, sp.Expr, Law]:
        """Rule, prefactor and law where the slope of a factor is taken out."""
        _, a, c = self.erfs[i]
        if a is sp.oo:
            density = 2 * law.density(i, -c) / law.deviation(i)
            return "condition", density, law.condition(i, -c)
        prefactor, tilted = law.tilt(i, 2 * a**2, -2 * a * c)
        return "tilt", 2 * a / sp.sqrt(sp.pi) * sp.exp(-(c**2)) * prefactor, tilted


def two_fields(recorder: Any, law: Law, erfs: Erfs, before: sp.Expr, after: sp.Expr) -> None:
    """Price's theorem, both slopes taken out, and the integral."""
    view = Copies(recorder, law, erfs)
    plain, add = recorder.plain, recorder.note
    cross = plain(law.C(erfs[0][0], erfs[1][0]))
    whole = {i: error_factor(a, c) for i, (_, a, c) in enumerate(erfs)}
    slopes = {i: slope(a, c) for i, (_, a, c) in enumerate(erfs)}
    apart, partly = shared_law(law, erfs, sp.S.Zero), shared_law(law, erfs, SHARE)
    start = view.average(apart, whole, "0")
    inside = view.average(partly, slopes, "tau")
    add("price", before, start + sp.Integral(cross * inside, (SHARE, 0, 1)))
    add("independent", start, sp.Mul(*(one_value(recorder, apart, i, erfs[i]) for i in whole)))
    front, here, line = sp.S.One, partly, inside
    for i in (0, 1):
        rule, prefactor, here = view.taken_out(here, i)
        front *= plain(prefactor)
        rest = front * view.average(here, {1: slopes[1]}, "tau_1") if i == 0 else front
        add(rule, line, rest)
        line = rest
    begin = sp.Mul(*(one_value(recorder, apart, i, erfs[i]) for i in whole))
    add("integrate", begin + sp.Integral(cross * front, (SHARE, 0, 1)), after)


def one_value(recorder: Any, law: Law, i: int, entry: Factor) -> sp.Expr:
    """E[erf(a x + c)] of a field alone, E[sign(x + c)] where a is infinite."""
    _, a, c = entry
    m, v = law.m(i), law.C(i, i)
    if a is sp.oo:
        return recorder.plain(sp.erf((m + c) / sp.sqrt(2 * v)))
    return recorder.plain(sp.erf((a * m + c) / sp.sqrt(1 + 2 * a**2 * v)))


# Four fields ----------------------------------------------------------------------------------


def four_fields(recorder: Any, law: Law, erfs: Erfs, before: sp.Expr, after: sp.Expr) -> None:
    """Error functions as signs with noise, Price's theorem, the law given two zeros."""
    side, widened = sp.S.One, []
    for x, a, _ in erfs:
        side *= 1 if a is sp.oo else sp.sign(a)
        widened.append(law.C(x, x) + (0 if a is sp.oo else 1 / (2 * a**2)))
    view = Copies(recorder, law, erfs)
    if any(a is not sp.oo for _, a, _ in erfs):
        view.fields = [sp.Symbol(f"u_{i + 1}", real=True) for i in range(4)]

    def cov(share: sp.Expr) -> Law:
        def entry(i: Any, j: Any) -> sp.Expr:
            return widened[i] if i == j else share * law.C(erfs[i][0], erfs[j][0])

        return Law(entry, None, list(range(4)))

    signs = {i: sp.sign(FIELD) for i in range(4)}
    whole = recorder.plain(side) * view.average(cov(sp.S.One), signs, "")
    recorder.note("noise", before, whole)
    partly = cov(SHARE)
    lines, values = [], []
    for i, j in combinations(range(4), 2):
        k, n = (m for m in range(4) if m not in (i, j))
        jumps = {i: 2 * sp.DiracDelta(FIELD), j: 2 * sp.DiracDelta(FIELD)}
        inside = view.average(partly, {**jumps, k: sp.sign(FIELD), n: sp.sign(FIELD)}, "tau")
        link = recorder.plain(side * law.C(erfs[i][0], erfs[j][0]))
        lines.append(sp.Integral(link * inside, (SHARE, 0, 1)))
        given = partly.condition(i, sp.S.Zero)
        density = 4 * partly.density(i, 0) / partly.deviation(i)
        density *= given.density(j, 0) / given.deviation(j)
        both = given.condition(j, sp.S.Zero)
        angle = 2 / sp.pi * CorrelationAngle(both.C(k, k), both.C(n, n), both.C(k, n))
        values.append(sp.Integral(link * recorder.plain(density * angle), (SHARE, 0, 1)))
    recorder.note("price", whole, sp.Add(*lines))
    recorder.note("condition", sp.Add(*lines), sp.Add(*values))
    recorder.note("integrate", sp.Add(*values), after)


PROOFS = {
    "smoothing": one_field,
    "arcsine": two_fields,
    "two_signs": two_fields,
    "four_signs": four_fields,
}
