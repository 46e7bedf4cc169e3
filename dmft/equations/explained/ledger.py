"""Steps in neurons and averages: how they are printed, judged, and proven by the calculus."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.equations import symbols as x
from dmft.equations.averages.expectation import Expectation
from dmft.equations.averages.passes import lower
from dmft.equations.definitions import Definition
from dmft.equations.explained.notation import (
    SHORT,
    FromTable,
    OnNodes,
    SinglePrinter,
    StatementPrinter,
    notation_of,
    sample_latex,
)
from dmft.equations.explained.printed import Printed
from dmft.equations.explained.scene import INPUTS, NOISE, Place, Scene
from dmft.equations.symbols import ONLY
from dmft.equations.update.law import Cluster
from dmft.equations.views.printer import overlap_of
from dmft.equations.views.text import model_names
from dmft.errors import NotClosed
from dmft.explanation.average import Average
from dmft.explanation.both_sides import Value, number, without_extremes
from dmft.explanation.paragraphs import TOLERANCE, Judged
from dmft.explanation.steps import Explanation, Ledger, explanation
from dmft.gaussian.closed.pair import elementary
from dmft.gaussian.closed.product import product_expectation
from dmft.gaussian.recorder import Recorder, constant_out, listening
from dmft.gaussian.tables.tabled import TableAverage
from dmft.model import FIELD, Model

# This many inputs (a power of 2) in each of so many replicas.
SAMPLES, REPLICAS = 2**13, 12
# Standard errors that the samples may be off by.
DEVIATIONS = 7.0
PLAIN = Cluster()
# Closed forms of more operations are not printed: they are the sums of the parts above them.
LONGEST = 150
# Reach of samples of updates that are computed in several passes.
FAR = 2.0


@dataclass(frozen=True)
class Inputs:
    """Inputs x = mean + sqrt(s) z of one cluster in a few dimensions, and rows of weights.

    Samples are spread by `reach` in the span of the weights, and weighted in return: high powers of
    the fields live far out.
    """

    scene: Scene
    cluster: Cluster = PLAIN
    reach: float = 1.0

    def average(self, integrand: sp.Expr) -> tuple[float, float]:
        """Average of a function of the fields, and its standard error."""
        return of_replicas([np.mean(y) for _, y in self._replicas(integrand, REPLICAS)], 1.0)

    def directions(self, integrand: sp.Expr, first: int = 0) -> Array:
        """Averages of a function times the input, one row for each replica from `first` on."""
        found = self._replicas(integrand, REPLICAS, first)
        return np.array([values @ x / len(x) for x, values in found])

    def _replicas(
        self, integrand: sp.Expr, count: int, first: int = 0
    ) -> Iterator[tuple[Array, Array]]:
        """Inputs, and the function at them."""
        scene, root = self.scene, float(sp.sqrt(self.cluster.scale))
        frame, deviations, weights = scene.frame, scene.deviations, scene.rows
        mean = np.zeros(INPUTS)
        for row, share in zip(weights[scene.p :], self.cluster.mean, strict=False):
            mean += float(share) * row / math.sqrt(INPUTS)
        names = [*map(scene.field, range(scene.p + scene.k)), NOISE]
        f = sp.lambdify(names, without_extremes(integrand), modules=["scipy", "numpy"], cse=True)
        for seed in range(first, first + count):
            normal = _normal(seed)
            z, noise = normal[:, :-1], normal[:, -1]
            inside = z @ frame
            density = self.reach ** frame.shape[1] * np.exp(
                -(self.reach**2 - 1) * np.sum(inside**2, axis=1) / 2
            )
            x = mean + root * (z + (self.reach - 1) * inside @ frame.T)
            x = x * deviations
            yield x, density * f(*(weights @ x.T / math.sqrt(INPUTS)), noise)


@lru_cache(maxsize=2 * REPLICAS)
def _normal(seed: int) -> Array:
    """Normal numbers of a replica, INPUTS and one in each row: the same for all steps, 1 MB."""
    from scipy.special import ndtri
    from scipy.stats import qmc

    found: Array = ndtri(qmc.Sobol(INPUTS + 1, seed=seed).random(SAMPLES))
    found.flags.writeable = False
    return found


def of_replicas(found: Any, scale: float) -> tuple[float, float]:
    """Scaled mean of what independent replicas give, and its standard error."""
    error = float(np.std(found, ddof=1) / math.sqrt(REPLICAS))
    return scale * float(np.mean(found)), abs(scale) * error


def average_over_inputs(integrand: sp.Expr) -> Average:
    """E_x of what is printed; it is judged by samples."""
    nothing = sp.ImmutableDenseMatrix(0, 0, [])
    return Average(integrand, sp.Tuple(), nothing, sp.Tuple(), sp.Symbol("x"))


# Computes a side of a step where it is no expression in averages.
Side = Callable[[Scene], float | Value] | None


@dataclass(frozen=True)
class Part:
    """What is averaged over the inputs of one cluster: `raw` in the fields of its inputs.

    `average` is the same in centred fields; `definitions` are those of a sample, in the fields of
    its inputs.
    """

    weight: sp.Expr
    cluster: Cluster
    raw: sp.Expr
    average: Expectation
    definitions: Sequence[Definition] = ()

    def unrolled(self, scene: Scene, at: Place) -> sp.Expr:
        """`raw` in numbered fields."""
        kept = [d for d in scene.definitions if d.role != "sample"]
        own = replace(scene, definitions=(*self.definitions, *kept), known={})
        return own.unrolled(self.raw, at)

    def directions(self, scene: Scene, at: Place, first: int = 0) -> Array:
        """Its share of averages times the input, one row for each replica from `first` on."""
        inputs = Inputs(scene, self.cluster)
        share = scene.value(self.weight, at).value
        return share * inputs.directions(self.unrolled(scene, at), first)


@dataclass
class Account:
    """A ledger of steps in neurons, with the scenes at which they are judged."""

    model: Model
    scenes: tuple[Scene, Scene]
    laws: list[sp.ImmutableDenseMatrix] = field(default_factory=list)
    printed: Printed | None = None
    seen: set[Average] = field(default_factory=set)
    known: dict[Any, list[tuple[float, float]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Open the ledger in the notation of the equations."""
        names = model_names(self.model)
        printer = StatementPrinter(names)
        if self.printed is not None and self.printed.closed is not None:
            printer = SinglePrinter(names, self.printed.closed)
        self.ledger = Ledger(lru_cache(printer.doprint), folds=True)

    def add(
        self,
        rule: str,
        before: sp.Expr,
        after: sp.Expr,
        at: Place | None = None,
        *,
        sides: tuple[Side, Side] = (None, None),
        claim: float = 0.0,
        errors: Callable[[Scene], float] | None = None,
        **others: Any,
    ) -> None:
        """Note a step; `sides` compute one where it is no expression in averages.

        What is computed may be off by `claim`, relative, and by no more than its `errors`.
        """
        place = at or {}

        def judge(row: int) -> Judged:
            scene, numbers, sizes = self.scenes[row], [], [1e-12]
            for expr, own in zip((before, after), sides, strict=True):
                found = scene.value(expr, place) if own is None else own(scene)
                if isinstance(found, Value):
                    sizes.append(found.size)
                    found = found.value
                numbers.append(found)
            size = max(*sizes, *map(abs, numbers))
            allowed = claim * size if errors is None else min(claim * size, errors(scene))
            return numbers[0], numbers[1], TOLERANCE * size + allowed

        self.ledger.add(rule, before, after, judge=judge, **others)

    def from_inputs(
        self,
        before: sp.Expr,
        front: sp.Expr,
        parts: Sequence[Part],
        at: Place | None = None,
        rule: str = "local_fields",
        of: str = "",
    ) -> sp.Expr:
        """The first line, judged by samples; returns its right-hand side.

        `before` is what is printed, `front` what multiplies the average over inputs.
        """
        whole = front * sp.Add(*(part.weight * part.average for part in parts))
        place = bounded(whole, at or {})
        found = self.sampled(front, parts, place)
        self.by_samples(rule, before, whole, place, found, of)
        return whole

    def sampled(
        self, front: sp.Expr, parts: Sequence[Part], place: Place
    ) -> list[tuple[float, float]]:
        """An average over inputs and its standard error in each scene."""
        key = (front, *((part.weight, part.raw) for part in parts), *place.items())
        if key not in self.known:
            self.known[key] = [self._sampled(s, front, parts, place) for s in self.scenes]
        return self.known[key]

    @staticmethod
    def _sampled(
        scene: Scene, front: sp.Expr, parts: Sequence[Part], place: Place
    ) -> tuple[float, float]:
        value = variance = 0.0
        for part in parts:
            reach = FAR if part.average.law.of_sample else 1.0
            inputs = Inputs(scene, part.cluster, reach)
            mean, error = inputs.average(part.unrolled(scene, place))
            share = scene.value(part.weight, place).value
            value, variance = value + share * mean, variance + (share * error) ** 2
        scale = scene.value(front, place).value
        return scale * value, abs(scale) * math.sqrt(variance)

    def sum_over_inputs(
        self,
        head: sp.Expr,
        after: sp.Expr,
        whole: sp.Expr,
        lines: Sequence[tuple[sp.Expr, sp.Expr, Sequence[Part]]],
        rest: sp.Expr,
        at: Place,
    ) -> None:
        """What a rate is in averages over inputs: `whole` against these and the `rest`."""
        place = bounded(whole, at)
        found = [self.sampled(front, parts, place) for _, front, parts in lines]

        def judge(row: int) -> Judged:
            scene = self.scenes[row]
            one, two = scene.value(whole, place), scene.value(rest, place).value
            two += sum(values[row][0] for values in found)
            error = math.sqrt(sum(values[row][1] ** 2 for values in found))
            return one.value, two, DEVIATIONS * error + TOLERANCE * one.size

        self.ledger.add("drift", head, after, judge=judge)

    def by_samples(
        self,
        rule: str,
        before: sp.Expr,
        after: sp.Expr,
        place: Place,
        found: Sequence[tuple[float, float]],
        of: str = "",
    ) -> None:
        """Note a step whose left-hand side is a number with a standard error, in each scene."""

        def judge(row: int) -> Judged:
            value, error = found[row]
            truth = self.scenes[row].value(after, place)
            return value, truth.value, DEVIATIONS * error + TOLERANCE * truth.size

        note = f"This is the term '{of.replace('_', ' ').replace('sgd', 'SGD')}'. " if of else ""
        note += (
            f"Checked with {REPLICAS * SAMPLES} inputs in {INPUTS} dimensions and networks of "
            f"{self.scenes[0].p} and {self.scenes[0].k} units."
        )
        self.ledger.add(rule, before, after, note=note, judge=judge)

    def averages(self, expr: sp.Expr, at: Place) -> None:
        """Prove the averages of an expression, one of each kind, one level deeper."""
        self.ledger.depth += 1
        for q in sorted(expr.atoms(Expectation), key=sp.default_sort_key):
            # Others are on nodes: the line that all values are put into says what they claim.
            if q.is_product:
                self.average(q, at)
        self.ledger.depth -= 1

    def average(self, q: Expectation, at: Place) -> None:
        """The law of its fields, and the steps of the calculus, of a kind not seen before."""
        fields = list(dict.fromkeys(q.fields))
        names, cov = self._law(fields)
        integrand = sp.Mul(
            *(
                f.xreplace({FIELD: names[fields.index(y)]})
                for f, y in zip(q.factors, q.fields, strict=True)
            )
        )
        means = sorted(integrand.atoms(sp.Indexed), key=str)
        shifts = [sp.Symbol(f"mu_{n}", real=True) for n in range(1, len(means) + 1)]
        plain = dict(zip(means, shifts, strict=True))
        local = Average.of(integrand.xreplace(plain), names, cov)
        if local in self.seen:
            return
        self.seen.add(local)
        entries: dict[sp.Expr, sp.Expr] = {y: e for e, y in plain.items()}
        entries |= {
            cov[i, j]: x.covariance(fields[i], fields[j])
            for i in range(len(names))
            for j in range(i + 1)
            if cov[i, j].is_Symbol
        }
        where = (*zip(names, fields, strict=True), *zip(shifts, means, strict=True))
        self.add(
            "pair", q, constant_out(local), bounded(q, at),
            sides=(None, lambda scene: pair_value(scene, local, entries, bounded(q, at))),
            where=() if self.printed is not None and self.printed.closed is not None else where,
        )  # fmt: skip
        self.laws.append(cov)
        begin, depth = len(self.ledger.steps), self.ledger.depth
        try:
            with listening(Recorder(self.ledger)):
                value = product_expectation(
                    [f.xreplace(plain) for f in q.factors],
                    [names[fields.index(y)] for y in q.fields],
                    lambda a, b: cov[names.index(a), names.index(b)],
                )
        except NotClosed as refusal:
            del self.ledger.steps[begin:]
            self.ledger.depth = depth
            self._tabled(q, refusal, bounded(q, at))
            return
        value = elementary(value)
        if sp.count_ops(value) <= SHORT:
            self.ledger.fold(begin, constant_out(local), value, bare=False)
        end = self.ledger.steps[-1]
        if (end.after, end.depth) != (value, depth) and sp.count_ops(value) <= LONGEST:
            self.ledger.add("closed", constant_out(local), value)

    def _law(self, fields: Sequence[sp.Expr]) -> tuple[list[sp.Symbol], sp.ImmutableDenseMatrix]:
        """Names of the fields of an average, and their covariance."""
        if self.printed is None or self.printed.closed is None:
            names = [sp.Symbol(f"x_{n + 1}", real=True) for n in range(len(fields))]
            return names, sp.ImmutableDenseMatrix(len(names), len(names), covariance_symbol)
        known, kinds = self.printed.law(), [y.base == x.h_star for y in fields]
        names = [x.teacher_field if k else x.student_field for k in kinds]
        entries = [[known["QMP"[int(a) + int(b)]] for b in kinds] for a in kinds]
        return names, sp.ImmutableDenseMatrix(entries)

    def _tabled(self, q: Expectation, refusal: NotClosed, at: Place) -> None:
        """What stands for an average without closed form, and what it claims."""
        lowered = lower(q)
        value = lowered.value
        claim = lowered.error if value is not None and value.has(TableAverage) else 0.0
        if value is None:
            return
        text = f"{refusal.because} Relative error of the tables at most {claim:.0e}.".strip()
        self.add(
            "table", q, FromTable(q), at, claim=10 * claim, note=text, bound=sp.Float(claim, 2),
            sides=(None, lambda scene: scene.value(value, at)),
        )  # fmt: skip

    def finish(
        self,
        title: str,
        sides: tuple[sp.Expr, sp.Expr],
        claim: str = "exact",
        of_a_sample: Sequence[Definition] = (),
    ) -> Explanation:
        """Judge all steps; what only a sample defines is told at the end."""
        notation = notation_of(self.model, self.ledger.steps, of_a_sample, self.printed)
        appendix = [sample_latex(of_a_sample, self.model)] if of_a_sample else []
        return explanation(
            title, self.ledger, sides, self.laws, claim=claim, whole=False, notation=notation,
            appendix=tuple(appendix),
        )  # fmt: skip


def covariance_symbol(i: int, j: int) -> sp.Symbol:
    """C_ij of the fields x_i and x_j."""
    low, high = sorted((int(i), int(j)))
    name = f"C_{low + 1}{high + 1}"
    return sp.Symbol(name, positive=True) if low == high else sp.Symbol(name, real=True)


def bounded(expr: sp.Expr, at: Place) -> dict[sp.Symbol, int]:
    """Values for all indices: those given, the first neurons for those that sums run over."""
    found = dict(at)
    taken: dict[sp.Expr, int] = {}
    for symbol in sorted(expr.free_symbols & set(x.AXES), key=str):
        if symbol in found:
            continue
        axis = x.AXES[symbol]
        found[symbol] = 1 + taken.get(axis, 0) if axis == x.p + x.k else 1
        taken[axis] = taken.get(axis, 0) + 1
    return found


def pair_value(scene: Scene, local: Average, entries: dict[sp.Expr, sp.Expr], at: Place) -> float:
    """An average over its own fields alone."""
    numbers = {s: scene.value(e, at).value for s, e in entries.items()}
    return number(local, numbers).value


def closed_values(expr: sp.Expr, unit_teachers: bool = False) -> sp.Expr:
    """An expression with its averages in closed form, those without one by their names.

    Covariances of single units are overlaps, and P = 1 for `unit_teachers`.
    """

    def shown(q: Expectation) -> sp.Expr:
        value = lower(q).value
        if value is None:
            return OnNodes(q)
        if value.has(TableAverage):
            return FromTable(q)
        value = elementary(value)
        return value if sp.count_ops(value) <= LONGEST else q

    value = expr.xreplace({q: shown(q) for q in expr.atoms(Expectation)})
    single = (e for e in value.atoms(sp.Indexed) if e.base == x.Omega and e.has(*ONLY))
    overlaps = {e: overlap_of(e) for e in single}
    if unit_teachers:
        overlaps |= {e: sp.S.One for e, y in overlaps.items() if y.base == x.P}
    return value.xreplace(overlaps)
