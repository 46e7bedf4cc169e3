"""The recorder: turns what the rules of the calculus announce into steps of an explanation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations
from itertools import product as cartesian
from typing import Any

import sympy as sp

from dmft.explanation.average import Average, FieldHermite
from dmft.explanation.diagrams import Diagram
from dmft.explanation.paragraphs import Step
from dmft.explanation.steps import Ledger
from dmft.gaussian import LISTENER
from dmft.gaussian.closed.factor import Term
from dmft.gaussian.closed.guard_digits import unguarded
from dmft.gaussian.closed.pair import elementary
from dmft.gaussian.closed.product import Erfs, Polynomials, Successor, state_key
from dmft.gaussian.law import Law
from dmft.gaussian.proofs import (
    has_weight,
    over_one_denominator,
    prove,
    state_factors,
    term_factor,
)
from dmft.model import FIELD


def hermite_product(
    fields: Sequence[sp.Expr], cov: Any, mean: Sequence[sp.Expr], degrees: Sequence[int]
) -> sp.Expr:
    """Product of one Hermite polynomial of each field, each in its own variance."""
    return sp.Mul(
        *(
            FieldHermite.of(n, x - mean[i], cov[i, i])
            for i, (x, n) in enumerate(zip(fields, degrees, strict=True))
        )
    )


def links_product(cov: Any, links: Sequence[int]) -> sp.Expr:
    """Product of the covariances of the links of a diagram."""
    size = cov.shape[0]
    pairs = combinations(range(size), 2)
    return sp.Mul(*(cov[i, j] ** k for (i, j), k in zip(pairs, links, strict=True)))


def drawn(fields: Sequence[sp.Expr], links: Sequence[tuple[Any, int]]) -> tuple[Diagram, ...]:
    """The diagrams that survive, to be drawn."""
    return tuple(
        Diagram(tuple(fields), tuple(map(int, exponents)), sp.sympify(weight, strict=True))
        for exponents, weight in links
    )


def in_words(degrees: Sequence[int], links: Sequence[tuple[Any, int]]) -> str:
    """Why no diagram survives, where none does."""
    if links:
        return ""
    return "No diagram survives where " + (
        "the number of legs is odd."
        if sum(degrees) % 2
        else "one field has more legs than the others together."
    )


Node = tuple[Law, Polynomials, Erfs]
Linked = tuple[tuple[int, ...], sp.Expr, Any]


class Recorder:
    """Hears the rules of one expectation after the other and notes their steps.

    `symbol` names the fields by their labels.
    """

    def __init__(self, ledger: Ledger, symbol: Callable[[Any], sp.Expr] = lambda x: x) -> None:
        self.ledger = ledger
        self.symbol = symbol
        self.back: Mapping[sp.Basic, sp.Basic] = {}
        self.muted = 0
        # Laws by identity: the recorder keeps them alive, so that identities stay theirs.
        self.named: dict[int, tuple[Law, str]] = {}
        self.entries: dict[tuple[int, Any, Any], sp.Expr] = {}
        # Open states, each with its successors, whether its proof stands one level deeper, and the
        # number of steps before it.
        self.open: list[tuple[Node, Sequence[Successor], bool, int]] = []
        # Number of steps before each term of the product at hand, and the term.
        self.begins: list[tuple[int, sp.Expr]] = []
        self.products: list[tuple[sp.Expr, bool, bool]] = []
        self.pending: list[Linked] = []
        # Weights and jumps of the product at hand: (term, field, weight is left, jumps left).
        self.rest: list[list[Any]] = []
        self.law: Law | None = None

    # Words of steps -------------------------------------------------------------------------

    def plain(self, expr: sp.Expr) -> sp.Expr:
        """An expression in the user's symbols and in elementary functions."""
        plain = elementary(expr).replace(
            lambda e: hasattr(e, "written_out") and not isinstance(e, FieldHermite),
            lambda e: e.written_out(),
        )
        return unguarded(plain.xreplace(self.back))

    def name(self, law: Law) -> str:
        """Name of a law, the same for equal laws; that of the expectation itself has none."""
        if id(law) not in self.named:
            labels, known = list(dict.fromkeys(law._fields)), self.ledger.laws
            pairs = ((y, z) for n, y in enumerate(labels) for z in labels[n:])
            content = [*map(self.symbol, labels), *(self.mean(law, y) for y in labels)]
            content += [self.cov(law, *pair) for pair in pairs]
            self.named[id(law)] = (law, known.setdefault(tuple(content), f"T_{len(known) + 1}"))
        return self.named[id(law)][1]

    def cov(self, law: Law, x: Any, y: Any) -> sp.Expr:
        """Covariance under a law."""
        key = (id(law), x, y)
        if key not in self.entries:
            self.entries[key] = over_one_denominator(self.plain(law.C(x, y)))
        return self.entries[key]

    def mean(self, law: Law, x: Any) -> sp.Expr:
        """Mean under a law."""
        return over_one_denominator(self.plain(law.m(x)))

    def average(self, law: Law, factors: Sequence[tuple[Any, sp.Expr]]) -> sp.Expr:
        """E_law of a product of functions (expressions in z) of fields."""
        labels = list(dict.fromkeys(x for x, _ in factors))
        fields = [self.symbol(x) for x in labels]
        integrand = sp.Mul(*(f.xreplace({FIELD: self.symbol(x)}) for x, f in factors))
        integrand = self.plain(integrand)
        if integrand.is_number:
            return integrand
        name = self.name(law)  # keeps the law alive
        cov = [[self.cov(law, x, y) for y in labels] for x in labels]
        mean = [self.mean(law, x) for x in labels]
        return Average.of(integrand, fields, cov, mean, name)

    def of_state(self, node: Node) -> sp.Expr:
        """A state as an average."""
        return self.average(node[0], state_factors(*node[1:]))

    def note(self, rule: str, before: sp.Expr, after: sp.Expr, **others: Any) -> None:
        """Note a step, constant factors in front of averages."""
        self.ledger.add(rule, constant_out(before), constant_out(after), **others)

    # Polynomials ----------------------------------------------------------------------------

    def polynomial(
        self, expr: sp.Expr, fields: Sequence[sp.Symbol], cov: Any, mean: Sequence[sp.Expr]
    ) -> None:
        """A polynomial in the fields of a law is averaged."""
        self._fields = (tuple(fields), cov, tuple(mean))
        self._whole = Average.of(self.plain(expr), fields, cov, mean)
        self._groups: list[tuple[sp.Expr, list[Linked]]] = []
        self.pending = []

    def linked(self, degrees: tuple[int, ...], front: sp.Expr, links: Any) -> None:
        """One Hermite polynomial of each field, its coefficient, and its diagrams."""
        if not self.muted:
            self.pending.append((degrees, front, links))

    def linked_all(self, coefficient: sp.Expr) -> None:
        """All of one coefficient."""
        self._groups.append((coefficient, self.pending))
        self.pending = []

    def averaged(self, value: sp.Expr) -> None:
        """The average of the polynomial."""
        rows = [(d, c * front, k) for c, group in self._groups for d, front, k in group]
        self.diagrams(self._whole, *self._fields, rows, value)

    def diagrams(
        self,
        whole: sp.Expr,
        fields: Sequence[sp.Expr],
        cov: Any,
        mean: Sequence[sp.Expr],
        rows: Sequence[Linked],
        value: sp.Expr,
        name: str = "",
    ) -> None:
        """Hermite polynomials of each field in its own variance, then their diagrams."""
        if self.muted:
            return
        parts: dict[tuple[int, ...], sp.Expr] = {}
        links: dict[tuple[int, ...], Any] = {}
        for degrees, front, found in rows:
            parts[degrees] = parts.get(degrees, sp.S.Zero) + self.plain(front)
            links[degrees] = found
        averages = {
            d: Average.of(hermite_product(fields, cov, mean, d), fields, cov, mean, name)
            if any(d)
            else sp.S.One
            for d, c in parts.items()
            if c != 0
        }
        expanded = sp.Add(*(_weighted(parts[d], e) for d, e in averages.items()))
        self.note("hermite", whole, expanded)
        values = []
        for d, e in averages.items():
            linked = sp.Add(*(w * links_product(cov, k) for k, w in links[d]))
            values.append(parts[d] * linked)
            if any(d):
                words, own = in_words(d, links[d]), drawn(fields, links[d])
                self.note("diagrams", e, linked, note=words, diagrams=own)
        self.collect(values, self.plain(value))

    def collect(self, parts: Sequence[sp.Expr], value: sp.Expr) -> None:
        """The sum of what was found."""
        before = sp.Add(*parts)
        if len(parts) > 1 or before != value:
            self.note("collect", before, value)

    # Sums of products -----------------------------------------------------------------------

    def split(
        self,
        law: Any,
        forms: tuple[sp.Expr, sp.Expr],
        splits: Sequence[tuple[sp.Expr, list[sp.Expr], list[Any]]],
        functions: tuple[Callable[..., sp.Expr], Callable[..., sp.Expr]],
        back: Mapping[sp.Basic, sp.Basic],
    ) -> None:
        """An integrand is a sum of products of functions of single fields."""
        self.back = back
        before, signed = (
            Average.of(self.plain(e), law.fields, self.plain(law.cov), law.mean) for e in forms
        )
        self.note("kinks", before, signed)
        labels = [x for *_, own in splits for x in own]
        self._law = Law(functions[0], functions[1], labels)
        self.named[id(self._law)] = (self._law, "")
        products = [
            _weighted(
                self.plain(c), self.average(self._law, list(zip(labels, factors, strict=True)))
            )
            for c, factors, labels in splits
        ]
        self._products = products
        self.note("linearity", signed, sp.Add(*products))
        self.ledger.depth += len(products) > 1
        self.muted += 1  # until branches are summed

    def summed(self, branches: sp.Expr, rest: Sequence[int]) -> None:
        """Products with exponential branches have a form of their own."""
        self.muted -= 1
        taken = [e for n, e in enumerate(self._products) if n not in rest]
        if taken:
            self.note("branches", sp.Add(*taken), self.plain(branches))

    def joined(self, parts: Sequence[sp.Expr], value: sp.Expr) -> None:
        """All summands have been averaged."""
        self.ledger.depth -= len(self._products) > 1
        self.collect([self.plain(p) for p in parts], self.plain(value))

    def tidied(self, before: sp.Expr, after: sp.Expr) -> None:
        """A value is put over one denominator."""
        self.collect([self.plain(before)], self.plain(after))

    # Products -------------------------------------------------------------------------------

    def parsed(
        self,
        law: Law,
        factors: Sequence[sp.Expr],
        labels: Sequence[Any],
        parsed: Sequence[Sequence[Term]],
    ) -> None:
        """A product of functions of single fields is a sum of products of parsed terms."""
        whole = [] if self.muted else list(zip(labels, factors, strict=True))
        waves = any(t.slope.has(sp.I) for terms in parsed for t in terms)
        if waves or self.muted:
            # A law with a complex mean has no samples: one step from end to end.
            before = sp.S.Zero if self.muted else self._base(law, whole)
            self.muted += 1
            self.products.append((before, True, False))
            return
        before = self._base(law, whole)
        self.begins = []
        every = list(cartesian(*parsed))
        after = sp.Add(
            *(
                self.average(law, [(x, term_factor(t)) for t, x in zip(terms, labels, strict=True)])
                for terms in every
            )
        )
        self.note("linearity", before, after)
        many = len(every) > 1
        self.ledger.depth += many
        self.products.append((before, False, many))

    def _base(self, law: Law, whole: Sequence[tuple[Any, sp.Expr]]) -> sp.Expr:
        self.named[id(law)] = (law, "")
        return self.average(law, whole)

    def added(self, parts: Sequence[sp.Expr]) -> None:
        """Values of the terms of a product."""
        before, waves, many = self.products[-1]
        self.ledger.depth -= many
        self.products[-1] = (
            before if waves else sp.Add(*(self.plain(p) for p in parts)),
            waves,
            many,
        )
        if not waves and len(self.begins) == len(parts) > 1:
            later: list[Step] = []
            for (begin, term), value in reversed([*zip(self.begins, parts, strict=True)]):
                self.ledger.fold(begin, term, self.plain(value))
                own = self.ledger.steps[begin:]
                stated = {(s.before, s.after) for s in own}
                later = own + [s for s in later if (s.before, s.after) not in stated]
                del self.ledger.steps[begin:]
            self.ledger.steps += later

    def finished(self, value: sp.Expr) -> None:
        """The average of a product."""
        before, waves, many = self.products.pop()
        self.muted -= waves
        if self.muted:
            return
        if waves:
            self.note("waves", before, self.plain(value))
        elif many:
            self.note("collect", before, self.plain(value))

    def product(self, law: Law, terms: Sequence[Term], labels: Sequence[Any]) -> None:
        """A product of parsed terms."""
        self.rest = [[t, x, True, list(t.deltas)] for t, x in zip(terms, labels, strict=True)]
        self.law = law
        if self.ledger.folds and not self.muted:
            self.begins.append((len(self.ledger.steps), constant_out(self._remaining())))

    def tilted(self, x: Any, prefactor: sp.Expr, law: Law) -> None:
        """The Gaussian factor of a field is taken out."""
        if self.muted:
            return
        before = self._remaining()
        entry = next(r for r in self.rest if r[1] == x and r[2] and has_weight(r[0]))
        entry[2], self.law = False, law
        self.note("tilt", before, self.plain(prefactor) * self._remaining())

    def conditioned(self, x: Any, position: sp.Expr, density: sp.Expr, law: Law) -> None:
        """A Dirac factor is taken out."""
        if self.muted:
            return
        before = self._remaining()
        entry = next(r for r in self.rest if r[1] == x and position in r[3])
        entry[3].remove(position)
        self.law = law
        self.note("condition", before, self.plain(density) * self._remaining())

    def _remaining(self) -> sp.Expr:
        assert self.law is not None
        factors = [(x, term_factor(t, weight, deltas)) for t, x, weight, deltas in self.rest]
        return self.average(self.law, factors)

    # States ---------------------------------------------------------------------------------

    def opened(self, law: Law, polynomials: Polynomials, erfs: Erfs) -> None:
        """A rule is looked for."""
        self.open.append(((law, polynomials, erfs), (), False, len(self.ledger.steps)))
        self.pending = []

    def stepped(self, rule: str, successors: Sequence[Successor]) -> None:
        """A rule was found."""
        node, *_, begin = self.open[-1]
        many = sum(s is not None for _, s in successors) > 1
        self.open[-1] = (node, successors, many, begin)
        if self.muted:
            return
        before = self.of_state(node)
        if rule == "diagrams":
            self._wick(node, before, successors[0][0][0])
        elif rule == "table":
            prove(self, node, before, successors[0][0][0])
        else:
            after = [
                self.plain(sp.Mul(*parts)) * (sp.S.One if s is None else self.of_state(s))
                for parts, s in successors
            ]
            self.note(rule, before, sp.Add(*after))
        self.ledger.depth += many

    def _wick(self, node: Node, before: sp.Expr, value: sp.Expr) -> None:
        law, polynomials, _ = node
        labels = list(polynomials)
        fields = [self.symbol(x) for x in labels]
        cov = sp.Matrix([[self.plain(law.C(x, y)) for y in labels] for x in labels])
        mean = [self.plain(law.m(x)) for x in labels]
        rows, self.pending = self.pending, []
        self.diagrams(before, fields, cov, mean, rows, value, self.name(law))

    def closed(self, value: sp.Expr) -> None:
        """A state has its value."""
        node, successors, many, begin = self.open.pop()
        if self.muted:
            return
        self.ledger.depth -= many
        if many:
            parts = [
                sp.Mul(*p) if s is None else sp.Mul(*p) * s[0].known[state_key(*s[1:])]
                for p, s in successors
            ]
            self.collect([self.plain(p) for p in parts], self.plain(value))
        if self.ledger.folds:
            self.ledger.fold(begin, constant_out(self.of_state(node)), self.plain(value))


@contextmanager
def listening(recorder: Recorder) -> Iterator[Recorder]:
    """Let a recorder hear the rules in this context."""
    token = LISTENER.set(recorder)
    try:
        yield recorder
    finally:
        LISTENER.reset(token)


def _weighted(coefficient: sp.Expr, average: sp.Expr) -> sp.Expr:
    """A product whose number stays in front of a sum."""
    if 1 in (coefficient, average):
        return coefficient * average
    return sp.Mul(coefficient, average, evaluate=False)


def constant_out(expr: sp.Expr) -> sp.Expr:
    """Constant factors of integrands stand in front of the average."""

    def moved(e: Average) -> sp.Expr:
        front: list[sp.Expr] = []
        rest: list[sp.Expr] = []
        for f in sp.Mul.make_args(e.integrand):
            (rest if f.has(*e.fields) else front).append(f)
        inside = Average.of(sp.Mul(*rest), e.fields, e.cov, e.mean, e.law)
        return sp.Mul(*front) * inside

    return expr.xreplace({e: moved(e) for e in expr.atoms(Average)})
