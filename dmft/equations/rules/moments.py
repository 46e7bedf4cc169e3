r"""Averages over one step of a rule: fields of its rows in its views, latents, masks, noise.

Given the latents, fields are Gaussian (theory/update_rules 0, 3). With K = Omega_.U along rows
that a view adds and K = Omega_.U Omega_UU^-1 along rows that it replaces,

    E lambda^a = K c^a,    Cov(lambda^a_i, lambda^b_l) = scale_a scale_b cov_ab A_il,

A = Omega - K Omega_U. over the replaced rows. An average is taken apart in this order: sums and
factors of independent views; values of discrete latents; polynomials by Wick; products of functions
of single fields in closed form; the rest on nodes of the fields that are not polynomial, given
which the others are integrated in closed form.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

import sympy as sp

from dmft.equations.averages.expectation import At, Expectation
from dmft.equations.averages.passes import CODED, closed_form
from dmft.equations.definitions import Definition, define
from dmft.equations.rules import forms
from dmft.equations.rules.coordinates import Given, StepBuilder
from dmft.equations.rules.space import RowOverlaps
from dmft.errors import NotClosed
from dmft.gaussian.closed.pair import elementary
from dmft.gaussian.closed.product import product_expectation
from dmft.laws import Discrete, Normal
from dmft.model import FIELD
from dmft.model.update import VectorRule
from dmft.rules import Field, Gram, Mean, Random, View

# Coefficients of more operations, as for several replaced rows, are named.
LONG_SHARE = 8
# Functions in a closed form that is averaged over random scales.
AT_NODES = frozenset({"Abs", "asin", "atan", "erf", "exp", "sign"})


class Moments(RowOverlaps):
    """Averages of one `rule` as expressions in its overlaps, scalars and parameters.

    `definitions` are covariances that averages read, in order.
    """

    def __init__(self, rule: VectorRule) -> None:
        super().__init__(rule)
        self.definitions: list[Definition] = []
        self._defined: dict[sp.Expr, sp.Symbol] = {}
        self._memo: dict[tuple[sp.Expr, Given], sp.Expr] = {}
        self.scales: dict[sp.Symbol, sp.Expr] = {}  # values of random scales of views, as symbols
        self._keys: dict[tuple[sp.Symbol, frozenset[sp.Symbol]], frozenset[object]] = {}

    def in_overlaps(self, expr: sp.Expr) -> sp.Expr:
        """An expression in overlaps, with averages in it taken, and replaced fields put in."""
        expr = expr.replace(lambda e: isinstance(e, Mean), lambda e: self(e.args[0]))
        swap = {
            f: sp.Add(*(c * k for c, k in self._pairs(f)))
            for f in expr.atoms(Field)
            if f.row in f.view.replaces
        }
        expr = self.in_overlaps(expr.xreplace(swap)) if swap else expr
        return expr.xreplace({g: self.overlap(*g.key) for g in expr.atoms(Gram)})

    # Averages ------------------------------------------------------------------------------------

    def __call__(self, expr: sp.Expr) -> sp.Expr:
        """Average of an expression over one step."""
        return self._mean(forms.hidden(forms.plain(self.in_overlaps(expr))), ())

    def _mean(self, expr: sp.Expr, given: Given) -> sp.Expr:
        expr = expr.xreplace(dict(given))
        if not forms.variables(expr):
            return expr
        if expr.is_Add:
            return sp.Add(*(self._mean(term, given) for term in expr.args))
        constant, rest = list[sp.Expr](), list[sp.Expr]()
        for factor in sp.Mul.make_args(expr):
            (rest if forms.variables(factor) else constant).append(factor)
        groups = self._independent(rest, given)
        if len(groups) > 1:
            own = sp.Mul(*(Mean.of(sp.Mul(*g), given) for g in groups))
            self.note("independent", sp.Mul(*rest), given, own)
        if constant or len(groups) > 1:
            return sp.Mul(*constant, *(self._mean(sp.Mul(*g), given) for g in groups))
        reached = self._reached(rest, ())
        own = tuple((v, y) for v, y in given if isinstance(v, Field) or ("random", v) in reached)
        if (expr, own) not in self._memo:
            self._memo[expr, own] = self._of_one_group(expr, rest, given)
        return self._memo[expr, own]

    def _reached(self, factors: Iterable[sp.Expr], given: Given) -> set[object]:
        known = frozenset(r for r, _ in given)
        return {key for f in factors for v in forms.variables(f) for key in self.keys(v, known)}

    def keys(self, variable: sp.Symbol, known: frozenset[sp.Symbol]) -> frozenset[object]:
        """What a variable depends on: groups of correlated views, and random numbers."""
        if (variable, known) not in self._keys:
            found: set[object] = {("random", variable)}
            if isinstance(variable, Field):
                found = {("noise", self._noise_groups[forms.origin(variable.view)])}
            for c in forms.held(variable):
                for v in forms.variables(c):
                    found |= self.keys(v, known)
            self._keys[variable, known] = frozenset() if variable in known else frozenset(found)
        return self._keys[variable, known]

    @cached_property
    def _noise_groups(self) -> dict[View, int]:
        """Number of the group of views whose noises are correlated."""
        found: dict[View, int] = {}
        for view in self.rule.views:
            blocks = range(len(view.fractions))
            linked = [v for v in found if any(self.noise(v, view, e) != 0 for e in blocks)]
            number = min((found[v] for v in linked), default=len(found))
            joined = {found[v] for v in linked}
            found = {v: number if n in joined else n for v, n in found.items()}
            found[view] = number
        return found

    def _independent(self, factors: Sequence[sp.Expr], given: Given) -> list[list[sp.Expr]]:
        """Factors in groups that depend on nothing in common."""
        groups: list[tuple[set[object], list[sp.Expr]]] = []
        for factor in factors:
            keys, members = self._reached([factor], given), [factor]
            apart = []
            for other, own in groups:
                if other & keys:
                    keys, members = keys | other, own + members
                else:
                    apart.append((other, own))
            groups = [*apart, (keys, members)]
        return [members for _, members in groups]

    def note(self, rule: str, expr: sp.Expr, given: Given, after: sp.Expr) -> None:
        """Hear of a step: the average of an expression is `after` by a rule."""

    def _of_one_group(self, expr: sp.Expr, factors: Sequence[sp.Expr], given: Given) -> sp.Expr:
        """Average of a product whose factors depend on each other."""
        scales = self._scales(expr, given)
        if scales:
            expr = expr.xreplace({f: f.whole for f in expr.atoms(forms.Opaque)})
            value = self._over_scales(self._mean(expr, (*given, *scales)), given)
            self.note("latents", expr, given, value)
            return value
        found = self._parts(expr, factors, given)
        if found is not None:
            rule, parts = found
            self.note(rule, expr, given, sp.Add(*(Mean.of(e, own) for e, own in parts)))
            return sp.Add(*(self._mean(e, own) for e, own in parts))
        rule = "wick"
        if forms.is_polynomial(expr):
            value = self._polynomial(expr, given)
        else:
            rule, value = self._product(factors, given)
        self.note(rule, expr, given, value)
        return value

    def _scales(self, expr: sp.Expr, given: Given) -> Given:
        """What the noises of the views of an average are averaged given, and symbols of these.

        These are random numbers in scales, or, where a scale contains fields, all that is earlier.
        """
        views = {forms.origin(v.view) for v in forms.variables(expr) if isinstance(v, Field)}
        free, last = set[sp.Symbol](), -1.0
        for view in views:
            own = {v for c in view.scales for v in forms.variables(self._latent(c, given))}
            free |= {r for r in own if isinstance(r, Random) and not isinstance(r.law, Discrete)}
            if any(isinstance(v, Field) for v in own):
                last = max(last, min(v.number for v in view.group))
        ordered = sorted(self._earlier(expr, last, given) if last > 0 else free, key=str)
        self.scales |= {v: sp.Dummy(v.name, real=True) for v in ordered if v not in self.scales}
        return tuple((v, self.scales[v]) for v in ordered)

    def _earlier(self, expr: sp.Expr, number: float, given: Given) -> set[sp.Symbol]:
        """Fields and random numbers before a view that an average depends on."""
        found = set[sp.Symbol]()
        for v in forms.variables(expr):
            if getattr(v, "view", v).number < number:
                found.add(v)
                continue
            for c in forms.held(v):
                found |= self._earlier(self._latent(c, given), number, given)
        return found

    def _over_scales(self, value: sp.Expr, given: Given) -> sp.Expr:
        """Average, over what was given, of an average of noises."""
        back = {d: v for v, d in self.scales.items()}
        return self._mean(sp.expand_mul(value.xreplace(back), deep=False), given)

    def _parts(
        self, expr: sp.Expr, factors: Sequence[sp.Expr], given: Given
    ) -> tuple[str, list[tuple[sp.Expr, Given]]] | None:
        """Simpler averages that add up to this one, with the rule; None where there are none."""
        ones = {
            s: s.base if s.exp % 2 else forms.ONE
            for s in expr.atoms(sp.Pow)
            if forms.is_power_of_sign(s)
        }
        if ones:
            return "kinks", [(expr.xreplace(ones), given)]
        merged = forms.linear_in_parallel(expr)
        if merged != expr:
            return "kinks", [(merged, given)]
        spread = None if expr.has(Expectation) else forms.by_signs(expr)
        if spread is not None:
            return "kinks", [(spread, given)]
        # A sum over several independent groups is taken apart first: each part is simpler.
        sums = forms.sums(factors)
        for terms, others in sums:
            if len(self._independent(terms, given)) > 1:
                return "linearity", [(t * others, given) for t in terms]
        r = self._next_discrete(expr, given)
        if r is not None:
            assert isinstance(r.law, Discrete)
            parts = []
            for value, weight in zip(r.law.values, r.law.weights, strict=True):
                weight = forms.plain(self.in_overlaps(forms.exact(weight)))
                parts.append((weight * expr, (*given, (r, forms.exact(value)))))
            return "latents", parts
        opened = self._opened(expr, given)
        if opened != expr:
            return "latent_means", [(opened, given)]
        if not sums or forms.is_polynomial(expr):
            return None
        terms, others = sums[0]
        return "linearity", [(t * others, given) for t in terms]

    def _next_discrete(self, expr: sp.Expr, given: Given) -> Random | None:
        """The latest discrete random number that an average depends on and that has no value."""
        known = {r for r, _ in given}
        keys = self._reached([expr], given)
        found = [
            key[1]
            for key in keys
            if isinstance(key, tuple) and key[0] == "random" and isinstance(key[1].law, Discrete)
        ]
        return max((r for r in found if r not in known), key=lambda r: r.number, default=None)

    # Gaussian variables --------------------------------------------------------------------------

    def _opened(self, expr: sp.Expr, given: Given) -> sp.Expr:
        """An expression with fields whose latents are not Gaussian written as means and noise."""
        swap = {}
        for f in expr.atoms(Field):
            if not self._is_normal(f, given):
                view = f.view
                means = (k * self._latent(c, given) for c, k in self._pairs(f))
                bare = forms.BareView.of(view)
                swap[f] = Field(f.row, bare, f.block) + sp.Add(*means)
        return expr.xreplace(swap)

    def _pairs(self, f: Field) -> list[tuple[sp.Expr, sp.Expr]]:
        along = self.along(f.row, f.view, f.block)
        named = {r: self.named(k) if k.count_ops() > LONG_SHARE else k for r, k in along.items()}
        return [(c, named[row]) for row, c in f.view.latents.items()]

    def _latent(self, c: sp.Expr, given: Given) -> sp.Expr:
        return forms.plain(self.in_overlaps(c)).xreplace(dict(given))

    def _is_normal(self, f: Field, given: Given) -> bool:
        """Whether the latents of a field's view are jointly Gaussian with everything else."""
        return all(self._is_affine(self._latent(c, given), given) for c in f.view.latents.values())

    def _is_affine(self, expr: sp.Expr, given: Given) -> bool:
        for v in forms.variables(expr):
            if isinstance(v, Random) and not isinstance(v.law, Normal):
                return False
            if isinstance(v, Field) and not self._is_normal(v, given):
                return False
            if forms.variables(sp.diff(expr, v)):
                return False
        return True

    def linear(self, expr: sp.Expr, given: Given) -> tuple[dict[object, sp.Expr], sp.Expr]:
        """Coefficients of independent noises (field or random number), and the mean."""
        whole, constant = dict[object, sp.Expr](), expr
        for v in sorted(forms.variables(expr), key=str):
            c = sp.diff(expr, v)
            constant = constant.xreplace({v: forms.ZERO})
            parts, middle = self._base(v, given)
            for key, y in parts.items():
                whole[key] = whole.get(key, forms.ZERO) + c * y
            constant += c * middle
        return whole, constant

    def _base(self, v: sp.Symbol, given: Given) -> tuple[dict[object, sp.Expr], sp.Expr]:
        if isinstance(v, Random):
            assert isinstance(v.law, Normal)
            return {v: forms.ONE}, forms.exact(v.law.mean)
        assert isinstance(v, Field)
        blocks = range(len(v.view.fractions)) if v.block is None else (v.block,)
        whole: dict[object, sp.Expr] = {(v.row, v.view, e): forms.ONE for e in blocks}
        middle = forms.ZERO
        for c, k in self._pairs(v):
            parts, mean = self.linear(self._latent(c, given), given)
            middle += k * mean
            for key, y in parts.items():
                whole[key] = whole.get(key, forms.ZERO) + k * y
        return whole, middle

    def _of_noises(self, a: object, b: object, given: Given) -> sp.Expr:
        if isinstance(a, tuple) and isinstance(b, tuple):
            (i, first, e), (k, second, other) = a, b
            if e != other:
                return forms.ZERO
            return self._latent(self.across(i, first, k, second, e), given)
        if a == b and isinstance(a, Random):
            return self.in_overlaps(forms.exact(a.law.variance))
        return forms.ZERO

    def covariance(self, first: sp.Expr, second: sp.Expr, given: Given) -> sp.Expr:
        """Covariance of two affine expressions in fields and normal numbers, named."""
        (one, _), (other, _) = self.linear(first, given), self.linear(second, given)
        total = sp.Add(
            *(
                c * e * self._of_noises(a, b, given)
                for a, c in one.items()
                for b, e in other.items()
            )
        )
        return self.named(total)

    def named(self, value: sp.Expr, stem: str = "C") -> sp.Expr:
        """Symbol of an intermediate with this value; numbers and symbols are returned unchanged."""
        value = sp.expand(value) if len(value.args) < 40 else value
        if value.is_Atom or value.free_symbols & set(self.scales.values()):
            return value
        if value not in self._defined:
            symbol = sp.Symbol(f"{stem}_{len(self._defined) + 1}", real=True)
            self._defined[value] = symbol
            self.definitions.append(define(symbol, {"covariance": value}, "intermediate"))
        return self._defined[value]

    def mean_of(self, expr: sp.Expr, given: Given) -> sp.Expr:
        """Mean of an affine expression."""
        return self.linear(expr, given)[1]

    # Polynomials ---------------------------------------------------------------------------------

    def _polynomial(self, expr: sp.Expr, given: Given) -> sp.Expr:
        """Average of a polynomial in fields and random numbers."""
        every = sorted(forms.variables(expr), key=str)
        gaussian = [v for v in every if isinstance(v, Field) or isinstance(v.law, Normal)]
        total = forms.ZERO
        for powers, c in sp.Poly(expr, *every).terms():
            own = dict(zip(every, powers, strict=True))
            part = c
            for v in every:
                if v not in gaussian:
                    part *= forms.moment(v, own[v])
            if part != 0:
                total += part * self._monomial([v for v in gaussian for _ in range(own[v])], given)
        return total

    def _monomial(self, fields: Sequence[sp.Symbol], given: Given) -> sp.Expr:
        """E of a product of Gaussian variables, by Wick with means."""
        if not fields:
            return forms.ONE
        key = (sp.Mul(*fields), given)
        if key not in self._memo:
            first, *rest = fields
            total = self.mean_of(first, given) * self._monomial(rest, given)
            for n, other in enumerate(rest):
                pair = self.covariance(first, other, given)
                if pair != 0:
                    total += pair * self._monomial([*rest[:n], *rest[n + 1 :]], given)
            self._memo[key] = total
        return self._memo[key]

    # Products of functions -----------------------------------------------------------------------

    def _product(self, factors: Sequence[sp.Expr], given: Given) -> tuple[str, sp.Expr]:
        """Average of a product of functions: in closed form, else on nodes; with its rule."""
        parts = [self._of_single_field(f, given) for part in factors for f in forms.repeated(part)]
        known = [part for part in parts if part is not None]
        if len(known) == len(parts):
            try:
                return "closed", self._closed(known, given)
            except NotClosed:
                pass
        return "nodes", self._on_nodes(factors, given)

    def _of_single_field(self, factor: sp.Expr, given: Given) -> tuple[sp.Expr, sp.Expr] | None:
        """A factor as (function of z, affine form); None where there is no such form."""
        found = None if factor.has(Expectation) else forms.single_form(factor)
        if found is None or not self._is_affine(found[1], given):
            return None
        return found

    def _closed(self, parts: Sequence[tuple[sp.Expr, sp.Expr]], given: Given) -> sp.Expr:
        affine = [form for _, form in parts]
        means = {form: self.mean_of(form, given) for form in affine}
        functions = [f for f, _ in parts]
        cov = {frozenset((a, b)): self.covariance(a, b, given) for a in affine for b in affine}
        if any(cov[frozenset((form,))] == 0 for form in affine):
            raise NotClosed("a field is a number")

        def pair(a: sp.Expr, b: sp.Expr) -> sp.Expr:
            return cov[frozenset((a, b))]

        if any(means.values()):
            try:
                value = product_expectation(functions, affine, pair, lambda y: means[y], whole=True)
            except NotClosed:  # two kinks that are away from zero
                shifted = [At(f.xreplace({FIELD: FIELD + means[y]}), y) for f, y in parts]
                value = closed_form(Expectation(*shifted), pair)
        else:
            value = closed_form(Expectation(*(At(f, y) for f, y in parts)), pair)
        known = CODED | {"Abs"}
        if value.free_symbols & set(self.scales.values()):  # it is averaged on nodes
            value, known = elementary(value), AT_NODES
        missing = {type(f).__name__ for f in value.atoms(sp.Function)} - known
        if missing or value.has(sp.DiracDelta, sp.I):
            raise NotClosed(f"its closed form contains {sorted(missing)}")
        return value

    def _on_nodes(self, factors: Sequence[sp.Expr], given: Given) -> sp.Expr:
        """Average on nodes of what is not polynomial, given which the rest is polynomial."""
        build = StepBuilder(self, given)
        functions: list[tuple[sp.Expr, sp.Expr]] = []
        kinks: dict[sp.Expr, sp.Expr] = {}
        joint, powers, affine = [], [], list[sp.Expr]()
        for factor in factors:
            found = None if factor.has(Expectation) else forms.single_form(factor)
            if forms.is_polynomial(factor):
                powers.append(factor)
                continue
            if found is not None and forms.is_latent(found[1]):
                forms.note_kinks(found, kinks)
            found = None if found is None else self._without_latents(found, given)
            if found is not None:
                functions.append(found)
                forms.note_kinks(found, kinks)
                affine += [*sorted(forms.variables(found[0]), key=str), found[1]]
            else:
                joint.append(factor)
                affine += sorted(forms.variables(factor), key=str)
        affine = list(dict.fromkeys(affine))
        # Latents that are not normal come first: places of kinks may contain them.
        affine.sort(
            key=lambda y: (not forms.is_latent(y), y not in kinks, not isinstance(y, Random))
        )
        last = forms.joint_kinks(sp.Mul(*joint), kinks)
        affine, kinks = [*(y for y in affine if y not in last), *last], kinks | last
        for form in affine:
            build.add(form, kinks.get(form))
        return build.average(functions, sp.Mul(*joint), sp.Mul(*powers))

    def _without_latents(
        self, found: tuple[sp.Expr, sp.Expr], given: Given
    ) -> tuple[sp.Expr, sp.Expr] | None:
        """The function of the normal part of its form, which may contain other latents."""
        function, form = found
        latents = sorted(filter(forms.is_latent, forms.variables(form)), key=str)
        rest = form.xreplace(dict.fromkeys(forms.variables(form) - set(latents), forms.ZERO))
        normal = sp.expand(form - rest)
        if not self._is_affine(normal, given) or normal == 0:
            return None
        return function.xreplace({FIELD: FIELD + rest}), normal
