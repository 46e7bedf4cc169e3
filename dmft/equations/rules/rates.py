r"""Rates of a rule and their fluctuations at large d.

Terms of the rates: drift, rows that pull, squares of the steps, constraints. What one step adds to
the overlaps and scalars fluctuates:

    dy = F dt + sqrt(g/(d n_b)) Sigma^(1/2) dB,    Sigma = Cov[v]

v is what one sample adds to the overlaps and scalars in units of g/d, with the psi and Phi of the
sample and not their means (theory/update_rules (6)). F is that of d -> infinity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import sympy as sp
from scipy.special import ndtri

from dmft.equations import symbols as x
from dmft.equations.averages.nodes import noise_rule
from dmft.equations.definitions import Definition, define
from dmft.equations.noise.record import WrittenNoise, check_dimension, declared_dimension
from dmft.equations.parameter_values import NODE_OPTIONS, Values
from dmft.equations.rules import forms
from dmft.equations.rules.forms import BareView, exact, plain, quantile_of_normal
from dmft.equations.rules.moments import Moments
from dmft.equations.rules.nodes import exact_product
from dmft.equations.rules.space import RowOverlaps, RuleSpace, entry
from dmft.equations.views.printer import EquationPrinter
from dmft.errors import BadParameter
from dmft.gaussian.nodes.rules import NodeRule
from dmft.laws import Discrete, Normal
from dmft.model.update import VectorRule
from dmft.rules import Field, Gram, Mean, Random, Row, View

if TYPE_CHECKING:
    from dmft.model import Model

Terms = dict[str, sp.Expr]
# Two rows and a block.
Place = tuple[Row, Row, int]


class Rates:
    """Terms of the rates of a rule, by the symbols of its state."""

    def __init__(self, rule: VectorRule, moments: Any = None) -> None:
        """Average by `moments`, by default exactly."""
        self.rule, self.moments = rule, moments or Moments(rule)
        self.growths: list[Definition] = []
        _check_names(rule)

    @property
    def all_terms(self) -> dict[sp.Symbol, Terms]:
        """Terms of Q, M and the scalars, in the order of the state."""
        m, moving, fixed = self.moments, self.rule.moving, self.rule.fixed
        blocks, free = range(len(self.rule.fractions)), self.every_free
        if self.rule.on_sphere or self.rule.orthonormal:
            free = self._constrained(free)
        found: dict[sp.Symbol, Terms] = {}
        for e in blocks:
            own = (e,) if len(blocks) > 1 else ()
            for a in moving:
                for b in moving:
                    pair = (a, b) if (a, b, e) in free else (b, a)
                    found[entry("Q", *own, m.places[a], m.places[b])] = free[*pair, e]
        for e in blocks:
            for a in moving:
                for b in fixed:
                    found[m.in_block(a, b, e)] = free[a, b, e]
        for symbol, rate in self.rule.rates:
            found[symbol] = {"rate": m(rate)}
        return found

    @property
    def every_free(self) -> dict[Place, Terms]:
        """Rates of all overlaps without constraint, one for each pair of rows."""
        moving, blocks = self.rule.moving, range(len(self.rule.fractions))
        pairs = [(a, b) for n, a in enumerate(moving) for b in (*moving[n:], *self.rule.fixed)]
        return {(a, b, e): self.free(a, b, e) for e in blocks for a, b in pairs}

    def free(self, a: Row, b: Row, block: int) -> Terms:
        """Rate of an overlap in a block without constraint."""
        both = b in self.rule.moving
        learning = self.drift(a, b, block) + (self.drift(b, a, block) if both else 0)
        rows = self.pull(a, b, block) + (self.pull(b, a, block) if both else 0)
        noise = self.noise(a, b, block) if both else sp.S.Zero
        return {"learning": learning, "rows": rows, "sgd_noise": noise}

    def _step(self, row: Row) -> dict[View | Row, sp.Expr]:
        return dict(self.rule.steps)[row].terms  # type: ignore[return-value]

    def drift(self, a: Row, b: Row, block: int) -> sp.Expr:
        """Sum over views of the averages of psi times the field of b."""
        own = block if len(self.rule.fractions) > 1 else None
        parts = ((v, c) for v, c in self._step(a).items() if isinstance(v, View))
        return sp.Add(*(self.moments(c * Field(b, v, own)) for v, c in parts))

    def pull(self, a: Row, b: Row, block: int) -> sp.Expr:
        """Sum over rows of the averages of Phi times their overlap with b."""
        m = self.moments
        parts = ((r, c) for r, c in self._step(a).items() if isinstance(r, Row))
        return sp.Add(*(m(c) * m.in_block(r, b, block) for r, c in parts))

    def noise(self, a: Row, b: Row, block: int) -> sp.Expr:
        """What squares of the steps add."""
        m, total = self.moments, sp.S.Zero
        for v, c in self._step(a).items():
            for u, e in self._step(b).items():
                if not (isinstance(v, View) and isinstance(u, View)) or u not in v.group:
                    continue
                cov = v.covs[block][v.group.index(v), v.group.index(u)]
                if cov != 0:
                    total += cov * m(v.scales[block] * u.scales[block] * c * e)
        return x.gamma / self.rule.batch_size * self.rule.fractions[block] * total

    def _constrained(self, free: dict[Place, Terms]) -> dict[Place, Terms]:
        """Rates of rows that are renormalised, or orthonormalised, after each step."""
        m, moving = self.moments, self.rule.moving
        blocks = range(len(self.rule.fractions))
        own: dict[tuple[Row, Row], sp.Symbol] = {}
        for n, a in enumerate(moving):
            for b in moving[n:] if self.rule.orthonormal else (a,):
                i, k = m.places[a], m.places[b]
                symbol = sp.Symbol(f"growth_{i + 1}_{k + 1}", real=True)
                own[a, b] = own[b, a] = symbol
                terms = {
                    name: sp.Add(*(free[a, b, e][name] for e in blocks)) for name in free[a, b, 0]
                }
                self.growths.append(define(symbol, terms, "intermediate"))

        def growth(a: Row, b: Row) -> sp.Expr:
            return own[a, b]

        found: dict[Place, Terms] = {}
        for (a, b, e), terms in free.items():
            if a is b and len(blocks) == 1:
                found[a, b, e] = {"sphere": sp.S.Zero}
                continue
            both = m.put_right(a, b, e, growth)
            both += m.put_right(b, a, e, growth) if b in moving else 0
            free_rate = {"free": own[a, b]} if (a, b) in own and len(blocks) == 1 else dict(terms)
            found[a, b, e] = {**free_rate, "sphere": both}
        return found


class OpenMoments(Moments):
    """Averages that are left as they are."""

    def __call__(self, expr: sp.Expr) -> sp.Expr:
        """The average of an expression in fields."""
        inside = forms.hidden(forms.plain(self.in_overlaps(expr)))
        return Mean.of(inside.xreplace({f: f.whole for f in inside.atoms(forms.Opaque)}))


def _check_names(rule: VectorRule) -> None:
    """Refuse scalars and parameters that have a name of the equations."""
    from dmft.equations.parameter_values import declared_parameters

    declared_parameters(cast("Model", rule), rule)
    names = {s.name for s in (*rule.learned, *rule.parameters)}
    for name in names:
        stem, _, number = name.partition("_")
        if stem in ("Q", "M", "P", "C", "L", "growth", "n", "s", "cut") and number[:1].isdigit():
            raise BadParameter(f"the symbol {name} is used by the equations; rename it")


# Variances below this are those of parallel rows.
LEAST = sp.Float(1e-24)
# Nodes that are exact are taken up to so many.
MOST_NODES = 4096


class _OneSample(RowOverlaps):
    """Values of one sample where `Moments` are averages."""

    def __init__(self, of: RuleNoise) -> None:
        super().__init__(of.model)
        self.of = of

    def __call__(self, expr: sp.Expr) -> sp.Expr:
        return self.of.put_in(expr, self.of.sample)


@dataclass(frozen=True)
class RuleNoise(WrittenNoise):
    """Fluctuations of the overlaps and scalars of a rule."""

    model: VectorRule  # type: ignore[assignment]

    known_terms = ()
    unread = {"batch_size", "readout_rate"}  # noqa: RUF012

    @cached_property
    def overlaps(self) -> RowOverlaps:
        """Symbols of the overlaps."""
        return RowOverlaps(self.model)

    @cached_property
    def alignments(self) -> tuple[sp.Symbol, ...]:
        """Entries of Q and M and the scalars, in the order of the packed state."""
        blocks = RuleSpace(cast(Any, self.model), self.model).blocks
        return tuple(s for symbols in blocks.values() for s in symbols)

    @property
    def before_nodes(self) -> int:
        """Count of the entries of P, which come before the nodes."""
        return len(self.model.fractions) * len(self.model.fixed) ** 2

    @cached_property
    def normals(self) -> tuple[sp.Symbol, ...]:
        """Independent normal variables: rows in views, by block; then random numbers."""
        fields = len(self.overlaps.rows) * len(self.model.views) * len(self.model.fractions)
        return sp.symbols(f"n_0:{fields + len(self.model.randoms)}", real=True)

    def rule(self, size: int, options: Mapping[str, Any]) -> NodeRule:
        """Nodes of the increments; `options` may contain nodes, replicas, seed."""
        if self._exact is None or any(options.get(name) is not None for name in NODE_OPTIONS):
            return noise_rule(len(self.normals), False, options)
        return self._exact

    @property
    def approximation(self) -> str:  # type: ignore[override]
        """Description of how the covariance is computed."""
        if self._exact is None:
            return WrittenNoise.approximation
        return "covariance of the increments on nodes that are exact for it"

    @cached_property
    def _exact(self) -> NodeRule | None:
        """Few nodes that are exact: of polynomials, and of random numbers with known weights."""
        count = len(self.normals) - len(self.model.randoms)
        drawn = dict(zip(self.normals[count:], self.model.randoms, strict=True))
        known = {n: r.law for n, r in drawn.items() if isinstance(r.law, Discrete)}
        free = set(self.normals) - set(known)
        if not all(sp.sympify(w, strict=True).is_number for y in known.values() for w in y.weights):
            return None
        measures = [self.put_in(y, self.sample) for _, y in self.model.measures]
        averaged = [*self.at_nodes[0], *measures]  # the averages of measures have the same nodes
        values = [
            y.replace(
                lambda e: isinstance(e, sp.sign) and not e.free_symbols & free, lambda _: sp.Dummy()
            )
            for y in averaged
        ]
        degree = max((_degree(y, free) for y in values), default=0)
        used = {s for y in averaged for s in y.free_symbols}
        axes: list[tuple[np.ndarray, np.ndarray] | None] = []
        for n in self.normals:
            if n not in used:
                axes.append((np.zeros(1), np.ones(1)))
            elif n in known:
                weights = np.array([float(w) for w in known[n].weights])
                axes.append((ndtri(np.cumsum(weights) - weights / 2), weights))
            else:
                axes.append(None)
        if degree == sp.oo:
            return None
        sizes = [degree + 1 if a is None else a[0].size for a in axes]
        return exact_product(axes, 2 * int(degree)) if np.prod(sizes) <= MOST_NODES else None

    # One sample -------------------------------------------------------------------------------

    @cached_property
    def sample(self) -> dict[sp.Symbol, sp.Expr]:
        """Fields and random numbers in the normal variables."""
        return self.sample_given({})

    def sample_given(self, given: Mapping[sp.Symbol, sp.Expr]) -> dict[sp.Symbol, sp.Expr]:
        """The same at values of random numbers, also for fields without their latents."""
        known: dict[sp.Symbol, sp.Expr] = {}
        rows, views = self.overlaps.rows, self.model.views
        shape = (len(self.model.fractions), len(views), len(rows))
        count = int(np.prod(shape))
        n = np.array(self.normals[:count], dtype=object).reshape(shape)
        order: list[View | Random] = [*views, *self.model.randoms]
        for item in sorted(order, key=lambda y: y.number):
            if isinstance(item, Random):
                own = self.normals[count + self.model.randoms.index(item)]
                known[item] = given[item] if item in given else self._random(item, own, known)
                continue
            for i, row in enumerate(rows):
                parts = [self._field(item, i, e, n[e], known) for e in range(shape[0])]
                for kind, own in (
                    (item, [a + b for a, b in parts]),
                    (BareView.of(item), [b for _, b in parts]),
                ):
                    known |= {Field(row, kind, e): y for e, y in enumerate(own)}
                    known[Field(row, kind)] = sp.Add(*own)
        return known

    def put_in(self, expr: sp.Expr, known: Mapping[sp.Symbol, sp.Expr]) -> sp.Expr:
        """An expression of the declaration in the normal variables and the overlaps."""
        grams = {g: self.overlaps.overlap(*g.key) for g in expr.atoms(Gram)}
        return plain(expr.xreplace(grams)).xreplace(dict(known))

    def _field(
        self, view: View, i: int, e: int, n: Any, known: Mapping[sp.Symbol, sp.Expr]
    ) -> tuple[sp.Expr, sp.Expr]:
        """Latents times overlaps, and noise that is correlated with that of other views."""
        root, rows = _cholesky(view.covs[e]), self._rows_across(view, e)
        place = view.group.index(view)
        noise = sp.Add(*(
            root[place, b] * rows[i, c] * n[self.model.views.index(other), c]
            for b, other in enumerate(view.group) if other in self.model.views
            for c in range(i + 1)
        ))  # fmt: skip
        own = e if len(self.model.fractions) > 1 else None
        along = self.overlaps.along(self.overlaps.rows[i], view, own)
        latent = sp.Add(*(self.put_in(c, known) * along[r] for r, c in view.latents.items()))
        return latent, self.put_in(view.scales[e], known) * noise

    def _rows_across(self, view: View, e: int) -> sp.Matrix:
        """Cholesky factor of the overlaps of all rows, without what a view replaces."""
        overlaps = self.overlaps
        rows, u = overlaps.rows, list(view.replaces)
        A = sp.Matrix(len(rows), len(rows), lambda i, k: overlaps.in_block(rows[i], rows[k], e))
        if u:
            K = sp.Matrix([[overlaps.along(row, view)[r] for r in u] for row in rows])
            A -= K * sp.Matrix([[overlaps.overlap(r, row) for row in rows] for r in u])
        return _cholesky(A)

    def _random(self, r: Random, normal: sp.Symbol, known: Mapping[sp.Symbol, sp.Expr]) -> sp.Expr:
        """A random number as a function of a normal one."""
        if isinstance(r.law, Normal):
            return exact(r.law.mean) + sp.sqrt(exact(r.law.variance)) * normal
        if not isinstance(r.law, Discrete):
            return quantile_of_normal(r, normal)
        u, total = (1 + sp.erf(normal / sp.sqrt(2))) / 2, sp.S.Zero
        values = [exact(y) for y in r.law.values]
        found = values[0]
        for weight, low, high in zip(r.law.weights, values, values[1:], strict=False):
            total += self.put_in(exact(weight), known)
            found += (high - low) * (1 + sp.sign(u - total)) / 2
        return found

    # What it adds -----------------------------------------------------------------------------

    @cached_property
    def at_nodes(self) -> tuple[tuple[sp.Expr, ...], tuple[sp.Expr, ...]]:
        """Increments of the state; nothing at the next order.

        They are the rates of the rule with the values of a sample in place of averages.
        """
        rates = Rates(self.model, _OneSample(self))
        whole = {s: sp.Add(*terms.values()) for s, terms in rates.all_terms.items()}
        growths = {d.target: d.expr for d in rates.growths}
        found = [whole[s].xreplace(growths) for s in self.alignments]
        if self.model.orthonormal and len(self.model.fractions) == 1:  # Q = 1 stays
            found[: len(self.model.moving) ** 2] = [sp.S.Zero] * len(self.model.moving) ** 2
        return tuple(found), ()

    # As of other fluctuations -----------------------------------------------------------------

    def scale(self, values: Values) -> float:
        """Covariance per unit time over Sigma, g/(d n_b)."""
        return float(
            values.scalars["learning_rate"] / (values.scalars["dim"] * self.algorithm.batch_size)
        )

    def check(self, values: Values, start: Any, given: Mapping[str, Any]) -> None:
        """Refuse a dimension that is no count, or too small for the rows."""
        dim, rows = check_dimension(values, given), len(self.overlaps.rows)
        if dim < rows:
            raise BadParameter(f"dim = {dim:g} is too small for {rows} rows")

    def random_start(self, dim: int, seed: int) -> Any:
        """Rules have no random start."""
        raise BadParameter("paths of a rule need start=: overlaps of its rows")

    def latex(self, printer: EquationPrinter, known: Sequence[Definition]) -> list[str]:
        """Align lines: the stochastic equation and what a sample adds."""
        batch = "" if self.algorithm.batch_size == 1 else r"\, n_b"
        return [
            rf"dy &= F\,dt + \sqrt{{\frac{{\gamma}}{{d{batch}}}}}\;\Sigma^{{1/2}}\,dB_t,"
            r"\quad \Sigma = \mathrm{Cov}[v]",
            r"v_{ji} &= \sum_a \psi_{ja} \lambda^a_i + (\Phi G)_{ji} + [j \leftrightarrow i] + "
            r"\gamma \sum_{ab} C_{ab} \psi_{ja} \psi_{ib}",
        ]

    def text(self) -> list[str]:
        """What a terminal shows below the equations."""
        return [
            f"Ito equation; {self.approximation}.",
            "v is what a sample adds to the overlaps and scalars, in units of γ/d.",
            "F is that of d → ∞: its terms at order 1/d are left out.",
        ]


def _cholesky(matrix: Any) -> sp.Matrix:
    """Lower factor of a symbolic matrix; dependent rows keep a tiny variance."""
    size = matrix.rows
    found = sp.zeros(size, size)
    for i in range(size):
        for j in range(i + 1):
            rest = matrix[i, j] - sp.Add(*(found[i, c] * found[j, c] for c in range(j)))
            if i != j:
                found[i, j] = sp.S.Zero if rest == 0 else rest / found[j, j]
            elif rest.is_number:
                found[i, i] = sp.sqrt(rest) if rest > LEAST else sp.sqrt(LEAST)
            else:
                found[i, i] = sp.sqrt(sp.Max(rest, LEAST))
    return found


def _degree(expr: sp.Expr, free: Set[sp.Symbol]) -> Any:
    """Bound of the total degree in these variables; infinite where it is no polynomial."""
    if not expr.free_symbols & free:
        return 0
    if isinstance(expr, sp.Add | sp.Mul):
        return (max if expr.is_Add else sum)([_degree(y, free) for y in expr.args])
    if isinstance(expr, sp.Pow) and expr.exp.is_Integer and expr.exp > 0:
        return int(expr.exp) * _degree(expr.base, free)
    return 1 if expr.is_Symbol else sp.oo


def rule_noise(rule: VectorRule, dim: Any) -> RuleNoise:
    """Fluctuations of a rule, or a refusal."""
    if any(y.has(Mean) for y in rule.expressions):
        raise BadParameter("fluctuations of rules with averages as coefficients are not derived")
    return RuleNoise(rule, rule, declared_dimension(rule, dim))
