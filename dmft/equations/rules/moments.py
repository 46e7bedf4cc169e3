r"""Averages over one step of a rule: fields of its rows in its views, latents, masks, noise.

Given the latents, fields are Gaussian. With K = Omega_.U along rows that a view adds and K =
Omega_.U Omega_UU^-1 along rows that it replaces,

    E lambda^a = K c^a,    Cov(lambda^a_i, lambda^b_l) = scale_a scale_b cov_ab A_il,

A = Omega - K Omega_U. over the replaced rows. An average is taken apart in this order: sums and
factors of independent views; values of discrete latents; polynomials by Wick; products of functions
of single fields in closed form; the rest on nodes of the fields that are not polynomial, given which
the others are integrated in closed form.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import product
from typing import Any

import sympy as sp

from dmft.equations.averages.expectation import At, Expectation
from dmft.equations.averages.passes import CODED, closed_form
from dmft.equations.definitions import Definition, define
from dmft.equations.rules.nodes import StepNodes
from dmft.errors import BadParameter, NotClosed
from dmft.gaussian.closed.product import product_expectation
from dmft.laws import Discrete, Laplace, Normal, Uniform
from dmft.model import FIELD
from dmft.model.update import VectorRule
from dmft.rules import Field, Gram, Mean, Random, Row, View

Given = tuple[tuple[sp.Symbol, sp.Expr], ...]
# Values of indicators inside of a function that are tried one by one.
MOST_INDICATORS = 10
# Largest power of a sum that is multiplied out.
LARGEST_POWER = 12
ZERO, ONE = sp.S.Zero, sp.S.One
# Variance of a field given others at least, as a share of its variance: parallel fields.
SMALLEST_SHARE, SMALLEST = sp.Float(1e-18), sp.Float(1e-280)


def entry(block: str, *places: int) -> sp.Symbol:
    """Symbol of an entry of Q, M or P, counted from one."""
    return sp.Symbol("_".join([block, *(str(n + 1) for n in places)]), real=True)


class Moments:
    """Averages of one rule as expressions in its overlaps, scalars and parameters.

    Attributes
    ----------
    rule : VectorRule
    definitions : list of Definition
        Covariances that averages read, in order.
    """

    def __init__(self, rule: VectorRule) -> None:
        self.rule = rule
        self.rows: tuple[Row, ...] = (*rule.moving, *rule.fixed)
        self.definitions: list[Definition] = []
        self._defined: dict[sp.Expr, sp.Symbol] = {}
        self._memo: dict[tuple[sp.Expr, Given], sp.Expr] = {}
        self._keys: dict[tuple[sp.Symbol, frozenset[sp.Symbol]], frozenset[object]] = {}

    # Overlaps ------------------------------------------------------------------------------------

    @cached_property
    def places(self) -> dict[Row, int]:
        """Place of each row: moving rows, then fixed ones."""
        return {row: n for n, row in enumerate(self.rows)}

    def overlap(self, a: Row, b: Row) -> sp.Expr:
        """The overlap of two rows, in all blocks."""
        return sp.Add(*(self.in_block(a, b, e) for e in range(len(self.rule.fractions))))

    def in_block(self, a: Row, b: Row, block: int) -> sp.Symbol:
        """Symbol of the overlap of two rows in a block of coordinates."""
        count = len(self.rule.moving)
        own = (block,) if len(self.rule.fractions) > 1 else ()
        i, l = sorted((self.places[a], self.places[b]))
        if l < count:
            return entry("Q", *own, i, l)
        if i < count:
            return entry("M", *own, i, l - count)
        return entry("P", *own, i - count, l - count)

    def in_overlaps(self, expr: sp.Expr) -> sp.Expr:
        """An expression with the symbols of the overlaps, and with averages in it taken."""
        expr = expr.replace(lambda e: isinstance(e, Mean), lambda e: self(e.integrand))
        return expr.xreplace({g: self.overlap(*g.key) for g in expr.atoms(Gram)})

    def along(self, row: Row, view: View, block: int | None = None) -> dict[Row, sp.Expr]:
        """K: what the mean of a field holds of each latent coordinate of its view."""
        own = self.overlap if block is None else lambda a, b: self.in_block(a, b, block)
        found = {r: own(row, r) for r in view.adds}
        u = list(view.replaces)
        if u:
            inverse = self._inverse(u)
            own = sp.Matrix([[self.overlap(row, r) for r in u]]) * inverse
            found |= dict(zip(u, own, strict=True))
        return found

    def _inverse(self, rows: Sequence[Row]) -> sp.Matrix:
        return sp.Matrix([[self.overlap(a, b) for b in rows] for a in rows]).inv()

    def noise(self, a: View, b: View, block: int) -> sp.Expr:
        """scale_a scale_b cov_ab, the covariance of the noises of two views in a block."""
        a, b = origin(a), origin(b)
        if b not in a.group:
            return ZERO
        cov = a.covs[block][a.group.index(a), a.group.index(b)]
        return cov * a.scales[block] * b.scales[block]

    def across(self, i: Row, a: View, k: Row, b: View, block: int) -> sp.Expr:
        """Covariance of the Gaussian parts of two fields in a block."""
        noise = self.noise(a, b, block)
        if noise == 0:
            return ZERO
        found: sp.Expr = self.in_block(i, k, block)
        one, other = list(a.replaces), list(b.replaces)
        for u in (one, other):
            if u:
                left = sp.Matrix([[self.overlap(i, r) for r in u]]) * self._inverse(u)
                found -= (left * sp.Matrix([self.overlap(k, r) for r in u]))[0]
        if one and other:
            left = sp.Matrix([[self.overlap(i, r) for r in one]]) * self._inverse(one)
            middle = sp.Matrix([[self.overlap(r, s) for s in other] for r in one])
            right = self._inverse(other) * sp.Matrix([self.overlap(k, s) for s in other])
            found += (left * middle * right)[0]
        return sp.cancel(found) * noise if one or other else found * noise

    # Averages ------------------------------------------------------------------------------------

    def __call__(self, expr: sp.Expr) -> sp.Expr:
        """Average of an expression over one step."""
        return self._mean(hidden(plain(self.in_overlaps(expr))), ())

    def _mean(self, expr: sp.Expr, given: Given) -> sp.Expr:
        expr = expr.xreplace(dict(given))
        if not variables(expr):
            return expr
        if expr.is_Add:
            return sp.Add(*(self._mean(term, given) for term in expr.args))
        constant, rest = [], []
        for factor in sp.Mul.make_args(expr):
            (rest if variables(factor) else constant).append(factor)
        groups = self._independent(rest, given)
        if constant or len(groups) > 1:
            return sp.Mul(*constant, *(self._mean(sp.Mul(*g), given) for g in groups))
        reached = self._reached(rest, ())
        own = tuple(pair for pair in given if ("random", pair[0]) in reached)
        if (expr, own) not in self._memo:
            self._memo[expr, own] = self._of_one_group(expr, rest, given)
        return self._memo[expr, own]

    def _reached(self, factors: Iterable[sp.Expr], given: Given) -> set[object]:
        known = frozenset(r for r, _ in given)
        return {key for f in factors for v in variables(f) for key in self.keys(v, known)}

    def keys(self, variable: sp.Symbol, known: frozenset[sp.Symbol]) -> frozenset[object]:
        """What a variable depends on: groups of correlated views, and random numbers."""
        if (variable, known) not in self._keys:
            found: set[object] = set()
            held: list[sp.Expr] = []
            if isinstance(variable, Field):
                view = variable.view
                found.add(("noise", self._noise_groups[origin(view)]))
                held = [*view.latents.values(), *view.scales]
            elif isinstance(variable, Random) and variable not in known:
                found.add(("random", variable))
                held = [sp.sympify(p) for p in getattr(variable.law, "weights", ())]
            for c in held:
                for v in variables(c):
                    found |= self.keys(v, known)
            self._keys[variable, known] = frozenset(found)
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

    def _of_one_group(self, expr: sp.Expr, factors: Sequence[sp.Expr], given: Given) -> sp.Expr:
        """Average of a product whose factors depend on each other."""
        ones = {s: s.base if s.exp % 2 else ONE for s in expr.atoms(sp.Pow) if is_power_of_sign(s)}
        if ones:
            return self._mean(expr.xreplace(ones), given)
        spread = self._indicators(expr)
        if spread is not None:
            return self._mean(spread, given)
        # A sum over several independent groups is taken apart first: each part is simpler.
        for n, factor in enumerate(factors):
            terms = distributed(factor)
            if terms and len(self._independent(terms, given)) > 1:
                others = sp.Mul(*factors[:n], *factors[n + 1 :])
                return sp.Add(*(self._mean(t * others, given) for t in terms))
        r = self._next_discrete(expr, given)
        if r is not None:
            assert isinstance(r.law, Discrete)
            parts = []
            for value, weight in zip(r.law.values, r.law.weights, strict=True):
                weight = plain(self.in_overlaps(exact(weight)))
                parts.append(self._mean(weight * expr, (*given, (r, exact(value)))))
            return sp.Add(*parts)
        opened = self._opened(expr, given)
        if opened != expr:
            return self._mean(opened, given)
        if is_polynomial(expr):
            return self._polynomial(expr, given)
        for n, factor in enumerate(factors):
            terms = distributed(factor)
            if terms:
                others = sp.Mul(*factors[:n], *factors[n + 1 :])
                return sp.Add(*(self._mean(t * others, given) for t in terms))
        return self._product(factors, given)

    def _indicators(self, expr: sp.Expr) -> sp.Expr | None:
        """Functions of signs alone, such as a count of right answers, by values of the signs."""
        names: dict[sp.Expr, sp.Symbol] = {}
        outer: dict[sp.Expr, sp.Expr] = {}
        for f in expr.atoms(sp.Function):
            bare = f.func(*(_named_signs(a, names) for a in f.args))
            if bare != f and not variables(bare) and not isinstance(bare, sp.Dummy):
                outer[f] = bare
        if not outer:
            return None
        own = {d for bare in outer.values() for d in bare.free_symbols}
        signs = {s: d for s, d in names.items() if d in own}
        if len(signs) > MOST_INDICATORS:
            raise NotClosed(
                f"{next(iter(outer))} depends on {len(signs)} events; at most {MOST_INDICATORS} "
                "are enumerated"
            )
        total = ZERO
        for values in product((1, -1), repeat=len(signs)):
            here = dict(zip(signs.values(), map(sp.Integer, values), strict=True))
            weights = ((1 + v * s) / 2 for v, s in zip(values, signs, strict=True))
            at = {f: bare.xreplace(here) for f, bare in outer.items()}
            total += expr.xreplace(at) * sp.Mul(*weights)
        return total

    def _next_discrete(self, expr: sp.Expr, given: Given) -> Random | None:
        """The latest discrete random number that an average depends on and that has no value."""
        known = {r for r, _ in given}
        keys = self._reached([expr], given)
        found = [
            key[1] for key in keys
            if isinstance(key, tuple) and key[0] == "random" and isinstance(key[1].law, Discrete)
        ]  # fmt: skip
        return max((r for r in found if r not in known), key=lambda r: r.number, default=None)

    # Gaussian variables --------------------------------------------------------------------------

    def _opened(self, expr: sp.Expr, given: Given) -> sp.Expr:
        """An expression with fields whose latents are not Gaussian written as means and noise."""
        swap = {}
        for f in expr.atoms(Field):
            if not self._is_normal(f, given):
                view = f.view
                means = (k * self._latent(c, given) for c, k in self._pairs(f))
                bare = BareView.of(view)
                swap[f] = Field(f.row, bare, f.block) + sp.Add(*means)
        return expr.xreplace(swap)

    def _pairs(self, f: Field) -> list[tuple[sp.Expr, sp.Expr]]:
        along = self.along(f.row, f.view, f.block)
        return [(c, along[row]) for row, c in f.view.latents.items()]

    def _latent(self, c: sp.Expr, given: Given) -> sp.Expr:
        return plain(self.in_overlaps(c)).xreplace(dict(given))

    def _is_normal(self, f: Field, given: Given) -> bool:
        """Whether the latents of a field's view are jointly Gaussian with everything else."""
        return all(self._is_affine(self._latent(c, given), given) for c in f.view.latents.values())

    def _is_affine(self, expr: sp.Expr, given: Given) -> bool:
        for v in variables(expr):
            if isinstance(v, Random) and not isinstance(v.law, Normal):
                return False
            if isinstance(v, Field) and not self._is_normal(v, given):
                return False
            if variables(sp.diff(expr, v)):
                return False
        return True

    def _linear(self, expr: sp.Expr, given: Given) -> tuple[dict[object, sp.Expr], sp.Expr]:
        """Coefficients of independent noises (field or random number), and the mean."""
        whole, constant = dict[object, sp.Expr](), expr
        for v in sorted(variables(expr), key=str):
            c = sp.diff(expr, v)
            constant = constant.xreplace({v: ZERO})
            parts, middle = self._base(v, given)
            for key, y in parts.items():
                whole[key] = whole.get(key, ZERO) + c * y
            constant += c * middle
        return whole, constant

    def _base(self, v: sp.Symbol, given: Given) -> tuple[dict[object, sp.Expr], sp.Expr]:
        if isinstance(v, Random):
            assert isinstance(v.law, Normal)
            return {v: ONE}, exact(v.law.mean)
        assert isinstance(v, Field)
        blocks = range(len(v.view.fractions)) if v.block is None else (v.block,)
        whole: dict[object, sp.Expr] = {(v.row, v.view, e): ONE for e in blocks}
        middle = ZERO
        for c, k in self._pairs(v):
            parts, mean = self._linear(self._latent(c, given), given)
            middle += k * mean
            for key, y in parts.items():
                whole[key] = whole.get(key, ZERO) + k * y
        return whole, middle

    def _of_noises(self, a: object, b: object, given: Given) -> sp.Expr:
        if isinstance(a, tuple) and isinstance(b, tuple):
            (i, first, e), (k, second, other) = a, b
            if e != other:
                return ZERO
            return self._latent(self.across(i, first, k, second, e), given)
        if a == b and isinstance(a, Random):
            return self.in_overlaps(exact(a.law.variance))
        return ZERO

    def covariance(self, first: sp.Expr, second: sp.Expr, given: Given) -> sp.Expr:
        """Covariance of two affine expressions in fields and normal numbers, named."""
        (one, _), (other, _) = self._linear(first, given), self._linear(second, given)
        total = sp.Add(
            *(c * e * self._of_noises(a, b, given) for a, c in one.items() for b, e in other.items())
        )
        return self.named(total)

    def named(self, value: sp.Expr, stem: str = "C") -> sp.Expr:
        """A symbol that is defined as a value; numbers and symbols stand for themselves."""
        value = sp.expand(value) if len(value.args) < 40 else value
        if value.is_Atom:
            return value
        if value not in self._defined:
            symbol = sp.Symbol(f"{stem}_{len(self._defined) + 1}", real=True)
            self._defined[value] = symbol
            self.definitions.append(define(symbol, {"covariance": value}, "intermediate"))
        return self._defined[value]

    def mean_of(self, expr: sp.Expr, given: Given) -> sp.Expr:
        """Mean of an affine expression."""
        return self._linear(expr, given)[1]

    # Polynomials ---------------------------------------------------------------------------------

    def _polynomial(self, expr: sp.Expr, given: Given) -> sp.Expr:
        """Average of a polynomial in fields and random numbers."""
        every = sorted(variables(expr), key=str)
        gaussian = [v for v in every if isinstance(v, Field) or isinstance(v.law, Normal)]
        total = ZERO
        for powers, c in sp.Poly(expr, *every).terms():
            own = dict(zip(every, powers, strict=True))
            part = c
            for v in every:
                if v not in gaussian:
                    part *= moment(v, own[v])
            if part != 0:
                total += part * self._monomial([v for v in gaussian for _ in range(own[v])], given)
        return total

    def _monomial(self, fields: Sequence[sp.Symbol], given: Given) -> sp.Expr:
        """E of a product of Gaussian variables, by Wick with means."""
        if not fields:
            return ONE
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

    def _product(self, factors: Sequence[sp.Expr], given: Given) -> sp.Expr:
        """Average of a product of functions: in closed form, else on nodes."""
        parts = [self._of_single_field(f, given) for part in factors for f in repeated(part)]
        if all(part is not None for part in parts):
            known = [part for part in parts if part is not None]
            try:
                return self._closed(known, given)
            except NotClosed:
                pass
        return self._on_nodes(factors, given)

    def _of_single_field(
        self, factor: sp.Expr, given: Given
    ) -> tuple[sp.Expr, sp.Expr] | None:
        """A factor as (function of z, affine form); None where there is no such form."""
        found = single_form(factor)
        if found is None or not self._is_affine(found[1], given):
            return None
        return found

    def _closed(self, parts: Sequence[tuple[sp.Expr, sp.Expr]], given: Given) -> sp.Expr:
        forms = [form for _, form in parts]
        means = {form: self.mean_of(form, given) for form in forms}
        functions = [f for f, _ in parts]
        cov = {
            frozenset((a, b)): self.covariance(a, b, given) for a in forms for b in forms
        }
        if any(cov[frozenset((form,))] == 0 for form in forms):
            raise NotClosed("a field is a number")

        def pair(a: sp.Expr, b: sp.Expr) -> sp.Expr:
            return cov[frozenset((a, b))]

        if not any(means.values()):
            value = closed_form(Expectation(*(At(f, y) for f, y in parts)), pair)
        else:
            value = product_expectation(functions, forms, pair, lambda y: means[y], whole=True)
        missing = {type(f).__name__ for f in value.atoms(sp.Function)} - CODED - {"Abs"}
        if missing or value.has(sp.DiracDelta, sp.I):
            raise NotClosed(f"its closed form holds {sorted(missing)}")
        return value

    def _on_nodes(self, factors: Sequence[sp.Expr], given: Given) -> sp.Expr:
        """Average on nodes of what is not polynomial, given which the rest is polynomial."""
        build = StepBuilder(self, given)
        functions: list[tuple[sp.Expr, sp.Expr]] = []
        kinks: dict[sp.Expr, sp.Expr] = {}
        joint, powers, forms = [], [], list[sp.Expr]()
        for factor in factors:
            found = single_form(factor)
            if is_polynomial(factor):
                powers.append(factor)
                continue
            if found is not None and self._is_affine(found[1], given):
                functions.append(found)
                self._note_kinks(found, kinks)
                forms.append(found[1])
            else:
                joint.append(factor)
                forms += sorted(variables(factor), key=str)
        forms = list(dict.fromkeys(forms))
        forms.sort(key=lambda y: (y not in kinks, not isinstance(y, Random)))
        for form in forms:
            build.add(form, kinks.get(form))
        return build.average(functions, sp.Mul(*joint), sp.Mul(*powers))

    def _note_kinks(
        self, found: tuple[sp.Expr, sp.Expr], kinks: dict[sp.Expr, sp.Expr]
    ) -> None:
        function, form = found
        for s in function.atoms(sp.sign, sp.Abs):
            inside = s.args[0]
            slope = sp.diff(inside, FIELD)
            if slope.has(FIELD):
                raise NotClosed(f"{function} has kinks where {inside} = 0, which is not linear")
            kinks[form] = -inside.xreplace({FIELD: ZERO}) / slope


class StepBuilder:
    """Normal coordinates, in order, of the fields that an average on nodes is over."""

    def __init__(self, moments: Moments, given: Given) -> None:
        self.moments, self.given = moments, given
        self.forms: list[sp.Expr] = []  # affine forms of the Gaussian variables
        self.rows: list[list[sp.Expr]] = []  # their rows of the Cholesky factor
        self.normals: list[sp.Symbol] = []  # their coordinates
        self.values: dict[sp.Expr, sp.Expr] = {}  # random numbers that are not normal
        self.coordinates: list[tuple[sp.Symbol, sp.Expr | None]] = []

    def add(self, form: sp.Expr, kink: sp.Expr | None) -> None:
        """Append a form; random numbers that are not normal have a coordinate of their own."""
        m = self.moments
        z = sp.Symbol(f"n_{len(self.coordinates) + 1}", real=True)
        if isinstance(form, Random) and not isinstance(form.law, Normal):
            self.coordinates.append((z, ZERO if isinstance(form.law, Laplace) else kink))
            self.values[form] = quantile_of_normal(form, z)
            return
        if self.is_known(form):
            return
        row = self.row_of(form)
        variance = m.covariance(form, form, self.given)
        own = variance - sp.Add(*(a**2 for a in row))
        least = SMALLEST_SHARE * variance + SMALLEST
        row.append(m.named(sp.sqrt(sp.Max(own, least)), "L"))
        place = None
        if kink is not None:
            before = sp.Add(*(a * n for a, n in zip(row, self.normals, strict=False)))
            place = (kink - m.mean_of(form, self.given) - before) / row[-1]
        self.forms.append(form)
        self.rows.append(row)
        self.normals.append(z)
        self.coordinates.append((z, place))

    def row_of(self, form: sp.Expr) -> list[sp.Expr]:
        """Coefficients of the coordinates in an affine form, without what is beyond them."""
        m = self.moments
        if form in self.forms:
            own = self.rows[self.forms.index(form)]
            return [*own, *[ZERO] * (len(self.forms) - len(own))]
        row: list[sp.Expr] = []
        for other, own in zip(self.forms, self.rows, strict=True):
            value = m.covariance(other, form, self.given)
            rest = value - sp.Add(*(a * b for a, b in zip(own, row, strict=False)))
            row.append(m.named(rest / own[-1], "L"))
        return row

    def is_known(self, form: sp.Expr) -> bool:
        """Whether a form is a combination of those before it."""
        vectors = [self.moments._linear(y, self.given)[0] for y in (*self.forms, form)]
        keys = list(dict.fromkeys(k for one in vectors for k in one))
        matrix = sp.Matrix([[one.get(k, ZERO) for k in keys] for one in vectors])
        return bool(matrix.rank() == len(self.forms))

    def value_of(self, form: sp.Expr) -> sp.Expr:
        """Mean of a form given the coordinates."""
        row = self.row_of(form)
        mean = self.moments.mean_of(form, self.given)
        return mean + sp.Add(*(a * n for a, n in zip(row, self.normals, strict=True)))

    def average(
        self,
        functions: Sequence[tuple[sp.Expr, sp.Expr]],
        joint: sp.Expr,
        powers: sp.Expr,
    ) -> sp.Expr:
        """The average of functions of single forms, of a joint one, and of a polynomial."""
        whole = [f.xreplace({FIELD: self.value_of(form)}) for f, form in functions]
        known = {
            v: self.values[v] if v in self.values else self.value_of(v) for v in variables(joint)
        }
        joint = joint.xreplace({f: f.whole for f in joint.atoms(Opaque)})
        whole.append(joint.xreplace(known))
        rests: dict[sp.Symbol, sp.Symbol] = {}
        swap = dict(self.values)
        for v in sorted(variables(powers), key=str):
            if v in swap or (isinstance(v, Random) and not isinstance(v.law, Normal)):
                continue
            swap[v] = self.value_of(v)
            if not self.is_known(v):
                rests[v] = sp.Dummy(f"rest_{v}", real=True)
                swap[v] += rests[v]
        free = [v for v in variables(powers) if v not in swap]
        inner = self._without(powers.xreplace(swap), [*rests.values(), *free], rests)
        return over_nodes(sp.Mul(*whole, inner), self.coordinates)

    def _without(
        self, expr: sp.Expr, inner: Sequence[sp.Symbol], rests: Mapping[sp.Symbol, sp.Symbol]
    ) -> sp.Expr:
        """A polynomial averaged over what is beyond the coordinates."""
        if not inner:
            return expr
        back = {rest: v for v, rest in rests.items()}
        total = ZERO
        for powers, c in sp.Poly(expr, *inner).terms():
            part, normal = c, list[sp.Symbol]()
            for v, n in zip(inner, powers, strict=True):
                if v in back:
                    normal += [back[v]] * n
                else:
                    part *= moment(v, n)
            total += part * self._wick(normal)
        return total

    def _wick(self, fields: Sequence[sp.Symbol]) -> sp.Expr:
        if not fields:
            return ONE
        first, *rest = fields
        total = ZERO
        for n, other in enumerate(rest):
            total += self._residual(first, other) * self._wick([*rest[:n], *rest[n + 1 :]])
        return total

    def _residual(self, a: sp.Symbol, b: sp.Symbol) -> sp.Expr:
        whole = self.moments.covariance(a, b, self.given)
        pairs = zip(self.row_of(a), self.row_of(b), strict=True)
        return self.moments.named(whole - sp.Add(*(x * y for x, y in pairs)))


def over_nodes(
    integrand: sp.Expr, coordinates: Sequence[tuple[sp.Symbol, sp.Expr | None]]
) -> sp.Expr:
    """The average over nodes, with factors that do not vary in front."""
    names = [z for z, _ in coordinates]
    constant, rest = [], []
    for factor in sp.Mul.make_args(integrand):
        (rest if factor.has(*names) else constant).append(factor)
    places = sp.Tuple(*(sp.nan if kink is None else kink for _, kink in coordinates))
    return sp.Mul(*constant) * Expectation(sp.Mul(*rest), StepNodes(sp.Tuple(*names), places))


# Expressions -------------------------------------------------------------------------------------


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


def exact(value: object) -> sp.Expr:
    """A number of a law; whole numbers and halves exactly."""
    found = sp.sympify(value)
    if found.is_Float and float(found * 4).is_integer():
        return sp.Rational(int(float(found * 4)), 4)
    return found


class BareView(View):
    """A view without its latents: the Gaussian part of its fields."""

    def __init__(self, view: View) -> None:
        self.__dict__.update(view.__dict__)
        self.origin = view
        self.number = view.number + 0.5  # type: ignore[assignment]

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
    if not expr.has(sp.Heaviside, sp.sign, sp.Abs, sp.Max, sp.Min, sp.Piecewise):
        return expr
    if expr.has(sp.Piecewise):
        raise BadParameter(f"{expr}: write steps with Heaviside, sign, Abs or Max, not Piecewise")
    args = [plain(a) for a in expr.args]
    if isinstance(expr, sp.Heaviside):
        return (1 + sign_of(args[0])) / 2
    if isinstance(expr, sp.sign):
        return sign_of(args[0])
    if isinstance(expr, sp.Abs):
        return args[0] * sign_of(args[0])
    if isinstance(expr, sp.Max | sp.Min):
        total, way = args[0], 1 if isinstance(expr, sp.Max) else -1
        for other in args[1:]:
            total = (total + other + way * (total - other) * sign_of(total - other)) / 2
        return total
    return expr.func(*args) if args else expr


def sign_of(expr: sp.Expr) -> sp.Expr:
    """Sign of a product as a product of signs."""
    factors = sp.Mul.make_args(sp.factor_terms(expr))
    found = []
    for factor in factors:
        base, power = factor.as_base_exp()
        if power.is_Integer and power % 2 == 0:
            continue
        found.append(sp.sign(base if power.is_Integer else factor))
    return sp.Mul(*found)


def _named_signs(expr: sp.Expr, names: dict[sp.Expr, sp.Symbol]) -> sp.Expr:
    """An expression with products of signs as symbols."""
    signs = [f for f in sp.Mul.make_args(expr) if isinstance(f, sp.sign) and variables(f)]
    if signs:
        whole = sp.Mul(*signs)
        names.setdefault(whole, sp.Dummy("sign", real=True))
        return _named_signs(expr / whole, names) * names[whole]
    if not expr.args or not variables(expr):
        return expr
    return expr.func(*(_named_signs(a, names) for a in expr.args))


def is_power_of_sign(expr: sp.Expr) -> bool:
    """Whether it is a power of a sign, which is one or the sign almost everywhere."""
    return isinstance(expr.base, sp.sign) and bool(expr.exp.is_Integer and expr.exp > 1)


def distributed(factor: sp.Expr) -> list[sp.Expr]:
    """Terms of a factor that is a sum, or a power of one; none of others."""
    if factor.is_Add:
        return list(factor.args)
    base, power = factor.as_base_exp()
    if base.is_Add and power.is_Integer and 1 < power <= LARGEST_POWER:
        return list(sp.Add.make_args(sp.expand(factor)))
    return []


def repeated(factor: sp.Expr) -> list[sp.Expr]:
    """A power of a function as a product, so that each is one of the closed table."""
    base, power = factor.as_base_exp()
    if power.is_Integer and 1 < power <= 4 and isinstance(base, sp.Function):
        return [base] * int(power)
    return [factor]


def single_form(factor: sp.Expr) -> tuple[sp.Expr, sp.Expr] | None:
    """A factor as (function of z, affine form of fields that z stands for)."""
    own = sorted(variables(factor), key=str)
    if factor.atoms(Opaque):
        return None
    if len(own) == 1:
        return factor.xreplace({own[0]: FIELD}), own[0]
    sums = [a for a in factor.atoms(sp.Add) if variables(a)]
    widest = max(sums, key=lambda a: len(variables(a)), default=None)
    if widest is None or variables(widest) != set(own):
        return None
    slopes = [sp.diff(widest, v) for v in own]
    if any(variables(s) for s in slopes):
        return None
    form = sp.Add(*(v * sp.cancel(s / slopes[0]) for v, s in zip(own, slopes, strict=True)))
    swapped = factor.xreplace({own[0]: FIELD - (form - own[0])})
    swapped = swapped.replace(lambda e: e.is_Add, sp.expand)
    return None if variables(swapped) else (swapped, form)


def moment(r: sp.Symbol, n: int) -> sp.Expr:
    """Moment of a random number that is not normal.

    Raises
    ------
    BadParameter
        For a law whose moments are not known.
    """
    law = r.law
    if n == 0:
        return ONE
    if isinstance(law, Laplace):
        return ZERO if n % 2 else math.factorial(n) * exact(law.scale) ** n
    if isinstance(law, Uniform):
        low, high = exact(law.low), exact(law.high)
        return sp.cancel((high ** (n + 1) - low ** (n + 1)) / ((n + 1) * (high - low)))
    raise BadParameter(f"moments of {law!r} are not known; take Normal, Uniform, Laplace or Discrete")


def quantile_of_normal(r: Random, z: sp.Symbol) -> sp.Expr:
    """A random number as a function of a standard normal one."""
    law = r.law
    if isinstance(law, Uniform):
        half = (1 + sp.erf(z / sp.sqrt(2))) / 2
        return exact(law.low) + (exact(law.high) - exact(law.low)) * half
    if isinstance(law, Laplace):
        return -exact(law.scale) * sp.sign(z) * sp.log(sp.erfc(sp.Abs(z) / sp.sqrt(2)))
    raise BadParameter(f"{law!r} has no nodes; take Normal, Uniform, Laplace or Discrete")
