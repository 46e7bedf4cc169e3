"""Steps from one step of a rule to the rate of an overlap, checked on samples of the fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.equations.array_functions import FUNCTIONS
from dmft.equations.averages.expectation import Expectation
from dmft.equations.rules.coordinates import Given
from dmft.equations.rules.forms import Opaque
from dmft.equations.rules.latex import row_names
from dmft.equations.rules.moments import Moments
from dmft.equations.rules.nodes import rule_of, value_at
from dmft.equations.rules.rates import OpenMoments, Rates, RuleNoise
from dmft.equations.symbols import gamma
from dmft.equations.views.printer import EquationPrinter
from dmft.errors import BadParameter
from dmft.explanation.paragraphs import Judged, Meaning
from dmft.explanation.steps import CASES, Explanation, Ledger, explanation
from dmft.gaussian.closed.pair import elementary
from dmft.gaussian.nodes.grid import array_function
from dmft.model.update import TIME, VectorRule
from dmft.rules import Mean

if TYPE_CHECKING:
    from dmft.equations.system import System

# Samples of a step, and standard errors that they may be off.
SAMPLES, DEVIATIONS = 2**16, 7.0
# Relative error of closed forms.
CLOSED = 1e-9
NOTATION = (
    Meaning(
        (),
        r"$\lambda^x_w = w \cdot x/\sqrt{d}$ is the field of a row and a view, "
        r"$G_{ab} = a \cdot b/d$ the overlap of two rows; averages are over one step, given the "
        "values of random numbers where these are stated",
    ),
)


def explain_rule(equations: System, block: str = "M", term: str | None = None) -> Explanation:
    """One step, independent views, latents, Gaussian moments; constraints last.

    `block` is "Q" or "M" (the first entry), an entry ("M_1_2"), a scalar or a measure; `term` is
    "learning", "rows" or "sgd_noise" of an overlap.
    """
    if equations.is_changed:
        raise BadParameter("terms were changed: explain equations.as_derived")
    rule = cast(VectorRule, equations.model)
    found = _Steps(equations, rule, _target(equations, block))
    return found.explained(term)


def _target(equations: System, block: str) -> str:
    """Name of the number that is explained."""
    known = [d.name for d in equations.definitions if d.role in ("rate", "observable")]
    chosen = next(
        (n for n in known if n == block or (n.rpartition("_")[0] and n.startswith(f"{block}_"))),
        None,
    )
    if chosen is None:
        raise BadParameter(f"these equations have no {block!r}; available: {', '.join(known)}")
    return chosen


class _Recorded(Moments):
    """Averages that note their steps, each one level below the average that it belongs to."""

    def __init__(self, rule: VectorRule, ledger: Ledger, judge: Any) -> None:
        super().__init__(rule)
        self.ledger, self.judge = ledger, judge

    def note(self, rule: str, expr: sp.Expr, given: Given, after: sp.Expr) -> None:
        """Add a step, with the covariances that it names; none given, or beyond, random scales."""
        if expr.has(Expectation) or any(value in self.scales.values() for _, value in given):
            return
        before, after = Mean.of(expr, given), elementary(after)
        named = {d.target: d.expr for d in self.definitions}
        where = tuple((s, named[s]) for s in sorted(after.free_symbols & set(named), key=str))
        self.ledger.add(
            rule, before, after, judge=self.judge(before, after), where=where,
            deeper=int(rule == "independent"),
        )  # fmt: skip

    def _of_one_group(self, *given: Any) -> sp.Expr:
        self.ledger.depth += 1
        try:
            return super()._of_one_group(*given)
        finally:
            self.ledger.depth -= 1


class _Steps:
    """What is noted for one number of the equations."""

    def __init__(self, equations: System, rule: VectorRule, target: str) -> None:
        self.equations, self.rule, self.target = equations, rule, target
        names = row_names(rule)
        printer = EquationPrinter({})
        self.ledger = Ledger(lambda e: str(printer.doprint(e.xreplace(names))))
        self.moments = _Recorded(rule, self.ledger, self.judge)
        self.scenes = [Samples(equations, rule, seed) for seed in CASES]

    def explained(self, term: str | None) -> Explanation:
        """All steps."""
        whole, terms = self._in_averages(), {}
        if term is not None and term not in whole:
            raise BadParameter(f"{self.target} has no term {term!r}; available: {', '.join(whole)}")
        terms = {n: e for n, e in whole.items() if term in (None, n)}
        before, first = sp.Symbol(self.target, real=True), sp.Add(*terms.values())
        is_rate = self.target not in dict(self.rule.measures)
        head = sp.Derivative(before, sp.Symbol("t")) if is_rate else before
        swap = {m: self._closed(m) for m in sorted(first.atoms(Mean), key=str)}
        steps, self.ledger.steps = self.ledger.steps, []
        after = elementary(first.xreplace(swap))
        bound = self.rule.on_sphere or self.rule.orthonormal
        note = "Without the constraint." if bound and is_rate else ""
        self.ledger.add("one_step", head, first, note=note, judge=self.judge(after, first))
        self.ledger.steps += steps
        self.ledger.add("values", first, after, judge=self.judge(first, after))
        if bound and term is None and self.target[:2] in ("Q_", "M_"):
            whole_rate = dict(self.equations.rate_terms[self.target])
            after = sp.Add(*whole_rate.values())
            self.ledger.add("sphere", head, after, judge=self._of_constrained_rows)
        how = any(s.rule == "nodes" for s in self.ledger.steps)
        return explanation(
            f"{'rate of ' if is_rate else ''}{self.target}", self.ledger, (head, after), [],
            claim="averages on nodes" if how else "exact", cases=[{}, {}], whole=False,
            notation=NOTATION,
        )  # fmt: skip

    def _in_averages(self) -> dict[str, sp.Expr]:
        """Terms of the rate, without constraint, in averages over one step."""
        rates = Rates(self.rule, OpenMoments(self.rule))
        for name, expr in (*self.rule.measures, *((s.name, y) for s, y in self.rule.rates)):
            if name == self.target:
                return {"rate": rates.moments(expr)}
        for place, terms in rates.every_free.items():
            if str(rates.moments.in_block(*place)) == self.target:
                return {name: value for name, value in terms.items() if value != 0}
        raise BadParameter(f"{self.target} is explained as the entry above the diagonal")

    def _closed(self, average: Mean) -> sp.Expr:
        return self.moments(average.args[0])

    def judge(self, before: sp.Expr, after: sp.Expr) -> Any:
        """Both sides on the same samples."""

        def judged(case: int) -> Judged:
            scene = self.scenes[case]
            scene.define(self.moments)
            (one, first), (two, second) = scene.number(before), scene.number(after)
            return one, two, DEVIATIONS * (first + second) + CLOSED * max(1.0, abs(one))

        return judged

    def _of_constrained_rows(self, case: int) -> Judged:
        """The rate of the engine, and a small step of all overlaps with the rows put right."""
        # Its averages have names of their own, which samples of the other steps do not know.
        scene, h = Samples(self.equations, self.rule, CASES[case]), 1e-5
        moments, p = self.moments, len(self.rule.moving)
        rates = Rates(self.rule)
        free = {k: sp.Add(*terms.values()) for k, terms in rates.every_free.items()}
        scene.define(rates.moments)
        ends = []
        for way in (h, -h):
            G = scene.gram.copy()
            for (a, b, e), value in free.items():
                i, j = moments.places[a], moments.places[b]
                G[e, i, j] = G[e, j, i] = G[e, i, j] + way * scene.number(value)[0]
            Q = G.sum(axis=0)[:p, :p]
            L = np.eye(len(scene.gram[0]))
            put_right = (
                np.linalg.cholesky(Q) if self.rule.orthonormal else np.diag(np.sqrt(np.diag(Q)))
            )
            L[:p, :p] = np.linalg.inv(put_right)
            ends.append(L @ G @ L.T)
        place = next(k for k in free if str(moments.in_block(*k)) == self.target)
        i, j, e = moments.places[place[0]], moments.places[place[1]], place[2]
        found = (ends[0] - ends[1])[e, i, j] / (2 * h)
        rate, error = scene.rates[self.target]
        return found, rate, 1e-6 * max(1.0, abs(rate)) + 10 * error


class Samples:
    """Samples of the fields and random numbers of a step at random overlaps."""

    def __init__(self, equations: System, rule: VectorRule, seed: int) -> None:
        self.equations, self.rule = equations, rule
        self.rng = np.random.default_rng(seed)
        space = cast(Any, equations.space)
        self.start = space.random_start(self.rng)
        given = {
            name: float(self.rng.uniform(0.2, 0.8))
            for name, value in equations.parameters.items()
            if value.free_symbols
        }
        values = equations.values(self.start, given)  # type: ignore[attr-defined]
        entries = space.entries(self.start)
        self.names: dict[str, float] = {n: float(v) for n, v in entries.items()}
        self.names |= {n: float(v) for n, v in values.scalars.items()}
        self.names[gamma.name], self.names[TIME.name] = self.names.get("learning_rate", 0.0), 0.0
        self.given, self.rates = given, dict[str, tuple[float, float]]()
        L = len(rule.moving) + len(rule.fixed)
        self.gram: Array = np.asarray(self.start.Omega).reshape(-1, L, L)
        both = [
            f(self.start, **given)
            for f in (equations.evaluate, equations.evaluate_error)  # type: ignore[attr-defined]
        ]
        for block, symbols in space.blocks.items():
            pairs = zip(*(np.ravel(y[block.removeprefix(space.prefix)]) for y in both), strict=True)
            self.rates |= {
                str(s): (float(y), float(e)) for s, (y, e) in zip(symbols, pairs, strict=True)
            }
        self.known: dict[Any, tuple[float, float]] = {}
        self.noise = RuleNoise(rule, rule, sp.S.One)
        normals = self.noise.normals
        drawn = np.random.default_rng(CASES).standard_normal((len(normals), SAMPLES))
        self.normals = dict(zip(normals, drawn, strict=True))
        self.drawn: dict[Given, tuple[dict[sp.Symbol, sp.Expr], dict[sp.Symbol, Any]]] = {}

    def define(self, moments: Moments) -> None:
        """Numbers of the covariances that averages have named since."""
        for d in moments.definitions:
            if d.name not in self.names:
                self.names[d.name] = self._value(d.expr)[0]

    def number(self, expr: sp.Expr) -> tuple[float, float]:
        """An expression in averages over one step, and its standard error."""
        if isinstance(expr, Mean):
            return self.mean(expr)
        if not expr.has(Mean):
            return self._value(expr)
        parts = [self.number(y) for y in expr.args]
        values, errors = np.array(parts).T
        if isinstance(expr, sp.Add):
            return float(values.sum()), float(errors.sum())
        assert isinstance(expr, sp.Mul)
        others = [np.prod(np.delete(values, n)) for n in range(len(values))]
        return float(values.prod()), float(np.abs(others) @ errors)

    def _value(self, expr: sp.Expr) -> tuple[float, float]:
        """An expression in averages on nodes, and what their errors make of it."""
        found: dict[sp.Expr, tuple[float, float]] = {}
        for average in expr.atoms(Expectation):
            at = {s: self.names[s.name] for s in average.free_symbols if s.name in self.names}
            rule = rule_of([average], {})
            here, *groups = (
                np.array(value_at(average, at, y.arrays)) for y in (rule, *rule.groups)
            )
            found[average] = float(here), float(rule.error(here, groups))
        at = {y: v for y, (v, _) in found.items()}
        value = self._at_numbers(expr, at)
        moved = [self._at_numbers(expr, at | {y: v + e}) for y, (v, e) in found.items()]
        return value, sum(abs(end - value) for end in moved)

    def _at_numbers(self, expr: sp.Expr, averages: Mapping[sp.Expr, float]) -> float:
        """An expression at numbers for its averages on nodes."""
        expr = elementary(expr.xreplace({y: sp.Float(v, 17) for y, v in averages.items()}))
        symbols = sorted(expr.free_symbols, key=str)
        return float(
            array_function(symbols, expr, FUNCTIONS)(*(self.names[s.name] for s in symbols))
        )

    def mean(self, average: Mean) -> tuple[float, float]:
        """An average and its standard error."""
        if average not in self.known:
            expr = average.args[0].xreplace({f: f.whole for f in average.atoms(Opaque)})
            given, within = tuple((r, y) for r, y in average.args[1]), expr.atoms(Mean)
            ends = [
                expr.xreplace({m: sp.Float(sum(self.mean(m)[:most]), 17) for m in within})
                for most in ((1, 2) if within else (1,))
            ]
            values = [np.broadcast_to(self._at_samples(y, given), (SAMPLES,)) for y in ends]
            error = values[0].std() / np.sqrt(SAMPLES) + abs(values[-1].mean() - values[0].mean())
            self.known[average] = float(values[0].mean()), float(error)
        return self.known[average]

    def _at_samples(self, expr: sp.Expr, given: Given) -> Any:
        """An expression in fields and random numbers, and so on, at the samples."""
        if given not in self.drawn:
            self.drawn[given] = self.noise.sample_given(dict(given)), dict(self.normals)
        inside, found = self.drawn[given]
        symbols = sorted(expr.free_symbols, key=str)
        for s in symbols:
            if s not in found:
                known = s in inside
                found[s] = self._at_samples(inside[s], given) if known else self.names[s.name]
        return array_function(symbols, expr, FUNCTIONS)(*(found[s] for s in symbols))
