"""Steps in neurons and averages: how they are printed, judged, and proven by the calculus."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import Expectation
from dmft.equations.averages.passes import lower
from dmft.equations.explained.inputs import (
    DEVIATIONS,
    INPUTS,
    REPLICAS,
    SAMPLES,
    over_inputs,
)
from dmft.equations.explained.scene import Place, Scene
from dmft.equations.views.latex import EquationPrinter
from dmft.equations.views.text import TextPrinter, model_names
from dmft.errors import NotClosed
from dmft.explanation.average import Average
from dmft.explanation.steps import TOLERANCE, Explanation, Judged, Ledger, explanation
from dmft.gaussian.closed.pair import elementary
from dmft.gaussian.closed.product import product_expectation
from dmft.gaussian.explained.recorder import Recorder, listening
from dmft.gaussian.tables.tabled import TableAverage
from dmft.model import FIELD, Model

# Computes a side of a step where it is no expression in averages.
Side = Callable[[Scene], float] | None


@dataclass
class Account:
    """A ledger of steps in neurons, with the scenes at which they are judged."""

    model: Model
    scenes: tuple[Scene, Scene]
    laws: list[sp.ImmutableDenseMatrix] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Open the ledger in the notation of the equations."""
        show = EquationPrinter(model_names(self.model, r"\sigma", r"\sigma_*")).doprint
        self.ledger = Ledger(show, TextPrinter(model_names(self.model)).doprint)

    def add(
        self,
        rule: str,
        before: sp.Expr,
        after: sp.Expr,
        at: Place | None = None,
        *,
        sides: tuple[Callable[[Scene], float] | None, Callable[[Scene], float] | None] = (
            None,
            None,
        ),
        claim: float = 0.0,
        **others: Any,
    ) -> None:
        """Note a step; `sides` compute one where it is no expression in averages."""
        place = at or {}

        def judge(row: int) -> Judged:
            scene, numbers, sizes = self.scenes[row], [], [1e-12]
            for expr, own in zip((before, after), sides, strict=True):
                if own is not None:
                    numbers.append(own(scene))
                    continue
                found = scene.value(expr, place)
                numbers.append(found.value)
                sizes.append(found.size)
            size = max(*sizes, *map(abs, numbers))
            return numbers[0], numbers[1], (TOLERANCE + claim) * size

        self.ledger.add(rule, before, after, judge=judge, **others)

    def from_inputs(
        self,
        before: sp.Expr,
        whole: sp.Expr,
        at: Place | None = None,
        rule: str = "local_fields",
    ) -> None:
        """The first line: an average over inputs is one over local fields, judged by samples."""
        place = at or {}
        (average,) = whole.atoms(Expectation)
        (front,) = (whole / average,)
        found = [
            over_inputs(scene, scene.unrolled(average.integrand, bounded(average, place)))
            for scene in self.scenes
        ]

        def judge(row: int) -> Judged:
            scene, (value, error) = self.scenes[row], found[row]
            scale = scene.value(front, place).value
            truth = scene.value(average, bounded(average, place))
            limit = DEVIATIONS * error + TOLERANCE * truth.size
            return scale * value, scale * truth.value, abs(scale) * limit

        note = (
            f"Judged with {REPLICAS * SAMPLES} inputs in {INPUTS} dimensions and networks of "
            f"{self.scenes[0].p} and {self.scenes[0].k} units."
        )
        self.ledger.add(rule, before, whole, note=note, judge=judge)

    def averages(self, expr: sp.Expr, at: Place) -> None:
        """Prove the averages of an expression, one of each kind, one level deeper."""
        seen: set[Any] = set()
        self.ledger.depth += 1
        for q in sorted(expr.atoms(Expectation), key=sp.default_sort_key):
            kind = (q.factors, tuple(q.fields.index(y) for y in q.fields)) if q.is_product else q
            if kind not in seen:
                seen.add(kind)
                self.average(q, at)
        self.ledger.depth -= 1

    def average(self, q: Expectation, at: Place) -> None:
        """The law of its fields, and the steps of the calculus."""
        if not q.is_product:
            return  # on nodes: the line that all values are put into says what they claim
        fields = list(dict.fromkeys(q.fields))
        names = [sp.Symbol(f"x_{n + 1}", real=True) for n in range(len(fields))]
        cov = sp.ImmutableDenseMatrix(len(names), len(names), covariance_symbol)
        integrand = sp.Mul(
            *(
                f.xreplace({FIELD: names[fields.index(y)]})
                for f, y in zip(q.factors, q.fields, strict=True)
            )
        )
        local = Average.of(integrand, names, cov)
        entries = {
            cov[i, j]: x.covariance(fields[i], fields[j])
            for i in range(len(names))
            for j in range(i + 1)
        }
        self.add(
            "pair", q, local, bounded(q, at),
            sides=(None, lambda scene: pair_value(scene, local, entries, bounded(q, at))),
            where=tuple(zip(names, fields, strict=True)),
        )  # fmt: skip
        self.laws.append(cov)
        begin, depth = len(self.ledger.steps), self.ledger.depth
        try:
            with listening(Recorder(self.ledger)):
                product_expectation(
                    q.factors,
                    [names[fields.index(y)] for y in q.fields],
                    lambda a, b: cov[names.index(a), names.index(b)],
                )
        except NotClosed as refusal:
            del self.ledger.steps[begin:]
            self.ledger.depth = depth
            self._tabled(q, refusal, bounded(q, at))

    def _tabled(self, q: Expectation, refusal: NotClosed, at: Place) -> None:
        """What stands for an average without closed form, and what it claims."""
        lowered = lower(q)
        value = lowered.value
        claim = lowered.error if value is not None and value.has(TableAverage) else 0.0
        reason = f"There is no closed form: {refusal.reason}." if refusal.reason else ""
        if value is None:
            return
        text = f"{reason} Relative error of the tables at most {claim:.0e}.".strip()
        self.add("table", q, value, at, claim=10 * claim, note=text, bound=sp.Float(claim, 2))

    def finish(
        self, title: str, sides: tuple[sp.Expr, sp.Expr], claim: str = "exact"
    ) -> Explanation:
        """Judge all steps."""
        return explanation(title, self.ledger, sides, self.laws, claim=claim, whole=False)


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
    from dmft.explanation.values import number

    numbers = {s: scene.value(e, at).value for s, e in entries.items()}
    return number(local, numbers).value


def closed_values(expr: sp.Expr) -> sp.Expr:
    """An expression with its averages in closed form, where they have one."""
    found = {q: lower(q).value for q in expr.atoms(Expectation)}
    return expr.xreplace({q: elementary(v) for q, v in found.items() if v is not None})
