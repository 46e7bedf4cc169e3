"""Rates of the overlaps, whole or a named term, from one step of the algorithm on."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.equations import symbols as x
from dmft.equations.averages.expectation import Expectation
from dmft.equations.definitions import Definition
from dmft.equations.explained.ledger import (
    REPLICAS,
    Account,
    Part,
    average_over_inputs,
    bounded,
    closed_values,
    of_replicas,
)
from dmft.equations.explained.notation import Increment, OnNodes
from dmft.equations.explained.printed import (
    PLACES,
    Printed,
    as_printed,
    in_powers,
    rate_of,
)
from dmft.equations.explained.scene import (
    INPUTS,
    Place,
    Scene,
    claim_of,
    engine_errors,
    engine_values,
    scenes_of,
)
from dmft.equations.rules.explained import explain_rule
from dmft.equations.update.moments import Case
from dmft.equations.update.optimiser import own_motion, step_size
from dmft.equations.update.overlaps import Moments
from dmft.equations.views.networks import placed, put_in
from dmft.errors import BadParameter
from dmft.explanation.steps import Explanation
from dmft.names import BLOCK

if TYPE_CHECKING:
    from dmft.equations.system import System

# Step of the difference quotient that judges the rates of rows of constant length.
DIFFERENCE = 1e-5
# What a closed form that is printed may differ from the engine by.
CLOSED_ERROR = 1e-9


def explain_rate(equations: System, block: str, term: str | None = None) -> Explanation:
    """Update, local fields, Stein's identity, averages, sum; on the sphere the projection."""
    if equations.family == "rule":
        return explain_rule(equations, block, term)
    definition = rate_of(equations, block)
    names = [name for name, _ in definition.terms]
    if term is not None and term not in names:
        raise BadParameter(f"{block} has no term {term!r}; its terms are {', '.join(names)}")
    rate = _Rate(equations, definition, as_printed(equations, definition))
    if term is not None and term not in dict(rate.definition.terms):  # zero at declared values
        rate = _Rate(equations, definition, Printed.as_derived(equations, definition))
    return rate.explained(term)


class _Rate:
    """One rate and what it is written with."""

    def __init__(self, equations: System, derived: Definition, printed: Printed) -> None:
        self.equations, self.derived, self.printed = equations, derived, printed
        self.definition = definition = printed.definition
        self.block = definition.name
        model, algorithm = equations.model, equations.algorithm
        self.moments = Moments(model, algorithm)
        self.algorithm = algorithm
        scalars = dict(equations.declared) | {"label_noise": model.label_noise}
        if not algorithm.is_flow:
            scalars["learning_rate"] = algorithm.learning_rate
        definitions = equations.definitions
        unit_teachers = printed.unit_teachers
        scenes = scenes_of(model, scalars, definitions, algorithm.on_sphere, unit_teachers)
        if printed.subject is not None and model.label_noise == 0:
            scenes = scenes[0].without("label_noise"), scenes[1].without("label_noise")
        self.account = Account(model, scenes, printed=printed)
        p, k = scenes[0].p, scenes[0].k
        numbers = {x.j: 1, x.l: min(2, p), x.r: k, x.block: len(scenes[0].variances)}
        self.at: Place = {s: numbers[s] for s in PLACES[self.block]}
        self.table = printed.table

    @property
    def by_block(self) -> bool:
        """Whether the overlaps are those of one block of the inputs."""
        return self.block.startswith(BLOCK)

    def rule_of(self, name: str) -> str:
        """Rule of the first line of a term."""
        rule = "square" if name in SQUARES else "drift"
        return f"block_{rule}" if self.by_block else rule

    @property
    def step(self) -> sp.Expr:
        """What an overlap moves by in a step, in the unit of the equations."""
        if self.equations.kind != "map":
            return sp.S.One
        assert not self.algorithm.is_flow
        return step_size(self.algorithm) / (x.p * x.d)

    @property
    def target(self) -> sp.Expr:
        """What is explained."""
        if self.equations.kind == "map":
            return Increment(self.definition.target)
        return sp.Derivative(self.definition.target, sp.Symbol("t"))

    def explained(self, term: str | None) -> Explanation:
        """All steps."""
        terms = dict(self.definition.terms)
        named = {term: terms[term]} if term is not None else terms
        expr = sp.Add(*named.values())
        if "sphere" in named:
            self._sphere(named["sphere"], expr)
        for row in self._rows(term):
            if self.printed.subject is not None and term is None:
                self._line(row)
            for names, whole in row.lines(self.printed.subject is not None):
                self._drift(row, names, whole)
        inlined = self.inline(expr)
        if self.printed.subject is None:
            self.account.add("names", expr, inlined, self.at)
        self.account.averages(inlined, self.at)
        value, claim = self._values(inlined, term)
        title = f"Rate of {self.block}" + ("" if term is None else f", the term {term}")
        return self.account.finish(title, (self.target, value), claim, self._of_a_sample())

    def _values(self, inlined: sp.Expr, term: str | None) -> tuple[sp.Expr, str]:
        """The rate without averages that have a short closed form, and what it claims."""
        printed, closed = self.printed, self.printed.closed
        error, claim = claim_of([replace(self.definition, terms=(("all", inlined),))])
        value = closed_values(inlined, printed.unit_teachers)

        def engine(scene: Scene) -> float:
            return self._entry(engine_values(self._kept(term), scene, "rate"))

        def errors(scene: Scene) -> float:
            return self._entry(engine_errors(self._kept(term), scene, "rate"))

        before = inlined
        if printed.subject is not None and term is None:
            before = self.target
        if closed is not None and term is None:
            value = closed[self.block]
        self.account.add(
            "values", before, value, self.at, claim=10 * error,
            sides=(
                lambda scene: scene.value(inlined, self.at),
                lambda scene: self._closed_or_engine(scene, value, engine(scene)),
            ),
            errors=errors if value.has(OnNodes) else None,
        )  # fmt: skip
        return value, claim

    def _closed_or_engine(self, scene: Scene, value: sp.Expr, engine: float) -> float:
        """The number of the engine; none where the closed form that is printed has another."""
        if self.printed.closed is None or value.has(Expectation):
            return engine
        own = scene.value(value, self.at)
        agree = abs(own.value - engine) <= CLOSED_ERROR * max(own.size, 1.0)
        return engine if agree else float("nan")

    def inline(self, expr: sp.Expr) -> sp.Expr:
        """An expression with the intermediate definitions put in, fields called by their names."""
        return placed(put_in(expr, self.table))

    # Definitions ----------------------------------------------------------------------------

    def parts(self, expr: sp.Expr, part: str | None = None, power: int = 0) -> list[Part]:
        """The average of an expression in psi over the inputs of each cluster."""
        found = []
        for case in self.moments.cases:
            program, cluster = case.program, case.cluster
            weight = cluster.weight * cluster.scale**power
            if self.moments.parts:
                raw = self.printed(self.in_fields(case, expr, part))
                found.append(Part(weight, cluster, raw, Expectation(cluster.shifted(raw))))
                continue
            average = Expectation(case.named(expr), case.law_of(expr))
            found.append(Part(weight, cluster, expr, average, program.definitions))
        return found

    @staticmethod
    def in_fields(case: Case, expr: sp.Expr, part: str | None) -> sp.Expr:
        """An expression in psi in the fields of the inputs; sums over teachers run over s."""
        kept = {e: sp.Dummy() for e in expr.atoms(sp.Indexed) if e.base == x.h_star}
        inlined = case.program.inline(expr.xreplace(kept), part)
        return inlined.xreplace({x.r: x.s}).xreplace({d: e for e, d in kept.items()})

    def _of_a_sample(self) -> list[Definition]:
        """What the statements call by a name and only a sample defines."""
        if self.moments.parts:
            return []
        return [d for case in self.moments.cases for d in case.definitions()]

    def _rows(self, term: str | None) -> Iterator[Row]:
        """Rates of free rows that are explained, with their terms as the equations name them."""
        skipped = {"sphere", "free", *own_motion(self.algorithm)}
        terms = dict(self.definition.terms)
        free = self.table.get("Phi") if self.algorithm.on_sphere else None
        if free is not None and self.block == "Q":
            terms = dict(free.terms)
        wanted = terms if term in (None, "free", "sphere") else {term: terms[term]}
        head = self.target if free is None or self.block == "M" else free.target
        yield Row(head, self.block, (x.j, x.l), wanted, skipped)
        if free is not None and self.block == "M" and term is None and self.printed.subject:
            own = self.definition.target.indices[0]
            put = dict.fromkeys(free.target.indices, own)
            terms = {name: e.xreplace(put) for name, e in free.terms}
            yield Row(free.target.xreplace(put), "Q", (x.j, x.j), terms, skipped)

    def _line(self, row: Row) -> None:
        """What a rate is in averages over inputs."""
        if "sphere" in row.terms:
            return  # The first step says it.
        lines = [y for names, _ in row.lines(True) for y in self._definition_of(row, names)]
        rest = sp.Add(*(e for name, e in row.terms.items() if name in row.skipped))
        after = sp.Add(rest, *(before for before, *_ in lines))
        whole = sp.Add(*row.terms.values())
        self.account.sum_over_inputs(row.head, after, whole, lines, rest, self.at)

    def _drift(self, row: Row, names: tuple[str, ...], whole: sp.Expr) -> None:
        """Named terms: an average over inputs, over local fields, and by Stein's identity."""
        inlined = self.inline(whole)
        name = names[0]
        if name == GRADIENT:
            self._gradient(inlined)
            return
        if self.by_block and name not in SQUARES:
            self._block_drift(name, inlined)
            return
        told = name if len(names) == 1 else ""
        lines = self._definition_of(row, names)
        found = [
            self.account.from_inputs(before, front, parts, self.at, self.rule_of(name), told)
            for before, front, parts in lines
        ]
        total = before = sp.Add(*found)
        rule = "linearity" if name in SQUARES or not self.moments.parts else "stein_fields"
        if self.printed.subject is not None:
            rule = "linearity"
            if len(lines) > 1:  # called by their averages over inputs
                before = sp.Add(*(over for over, *_ in lines))
        sides = (lambda scene: scene.value(total, self.at), None)
        self.account.add(rule, before, inlined, self.at, sides=sides)
        self.account.averages(inlined, self.at)

    def _definition_of(
        self, row: Row, names: tuple[str, ...]
    ) -> list[tuple[sp.Expr, sp.Expr, list[Part]]]:
        """What terms are: averages over inputs, what multiplies them, and what is averaged."""
        one, two = row.students
        psi_j, psi_l, step = x.psi[one], x.psi[two], self.step
        if names[0] in SQUARES:
            assert not self.algorithm.is_flow
            batch = x.n_b if self.equations.kind == "map" else self.algorithm.batch_size
            front = step * step_size(self.algorithm) / (x.p * batch)
            front *= x.noise_factor[x.block] if self.by_block else 1
            name = names[0] if len(names) == 1 else None
            return [self._over(psi_j * psi_l, front, self._squares(psi_j * psi_l, name))]
        part = names[0] if len(names) == 1 and names[0] in self.moments.parts else None
        if row.block == "readout":
            error = sp.Symbol("e") * sp.Function("sigma")(x.h[x.j])
            parts = self.parts(self.moments.program.readout, part)
            return [self._over(error, x.rho_a * step, parts)]
        products = [psi_j * x.h_star[x.r]]
        if row.block != "M":
            products = [psi_j * x.h[two], psi_l * x.h[one]]
        if len(set(map(self.printed, products))) < len(products):
            products, step = products[:1], 2 * step
        return [self._over(y, step, self.parts(y, part)) for y in products]

    def _over(
        self, product: sp.Expr, front: sp.Expr, parts: list[Part]
    ) -> tuple[sp.Expr, sp.Expr, list[Part]]:
        """An average over inputs with what multiplies it."""
        product, front = self.printed(product), self.printed(front)
        return front * average_over_inputs(product), front, parts

    def _block_drift(self, name: str, inlined: sp.Expr) -> None:
        """A term of a block: updates beside the parts of fields that come from its inputs."""
        part = name if name in self.moments.parts else None
        if self.block == "block_M":
            beside = [(x.psi[x.j], x.block_h_star[x.block, x.r], x.p + x.r)]
        else:
            beside = [
                (x.psi[one], x.block_h[x.block, other], other)
                for one, other in ((x.j, x.l), (x.l, x.j))
            ]
        place = bounded(inlined, self.at)

        def sampled(scene: Scene) -> tuple[float, float]:
            scale, e, found = scene.value(self.step, place).value, place[x.block] - 1, []
            for psi, _, field in beside:
                own = scene.of_block(scene.rows[scene.place(field, place) - 1], e)
                rows = sum(q.directions(scene, place) for q in self.parts(psi, part))
                found.append(of_replicas(rows @ (own / math.sqrt(INPUTS)), scale))
            return sum(value for value, _ in found), sum(error for _, error in found)

        before = sp.Add(*(self.step * average_over_inputs(psi * h) for psi, h, _ in beside))
        found = list(map(sampled, self.account.scenes))
        self.account.by_samples(self.rule_of(name), before, inlined, place, found, name)

    def _squares(self, square: sp.Expr, name: str | None) -> list[Part]:
        """Products of updates, with or without the label's noise; whole without a name."""
        found = self.parts(square, power=1)
        drawn = [self._of_labels(square, case) for case in self.moments.cases]
        if not self.moments.noise_apart or (name is None and not any(drawn)):
            return found
        result = []
        for part, variance in zip(found, drawn, strict=True):
            quiet = part.raw.xreplace({x.xi: sp.S.Zero})
            noisy = in_powers(part.raw - quiet, x.xi) + variance
            raw = {None: quiet + noisy, "label_noise": noisy}.get(name, quiet)
            result.append(replace(part, raw=raw, average=Expectation(part.cluster.shifted(raw))))
        return result

    def _of_labels(self, square: sp.Expr, case: Case) -> sp.Expr:
        """What the variance of labels that are drawn adds to a product of updates."""
        if not (self.moments.model.draws_labels and self.moments.parts):
            return sp.S.Zero
        slopes = square * self.moments.share_of_label**2 / case.program.error**2
        variance = 1 - sp.expand_mul(case.program.label**2)
        return self.printed(self.in_fields(case, slopes * variance, None))

    def _gradient(self, inlined: sp.Expr) -> None:
        """Two samples of a batch: the inner product of the mean updates."""
        psi_j, psi_l, inputs = x.psi[x.j], x.psi[x.l], sp.Symbol("x")
        front = self.step**2 * (1 - 1 / x.n_b)
        before = front * average_over_inputs(psi_j * inputs) * average_over_inputs(psi_l * inputs)
        place = bounded(inlined, self.at)

        def sampled(scene: Scene) -> tuple[float, float]:
            # Over inputs of their own, so that nothing is biased.
            rows = [
                sum(q.directions(scene, place, first) for q in self.parts(psi))
                for psi, first in ((psi_j, 0), (psi_l, REPLICAS))
            ]
            return of_replicas(np.einsum("nd,nd->n", *rows), scene.value(front, place).value)

        found = list(map(sampled, self.account.scenes))
        self.account.by_samples("mean_gradient", before, inlined, place, found, GRADIENT)

    # The sphere -----------------------------------------------------------------------------

    def _sphere(self, term: sp.Expr, expr: sp.Expr) -> None:
        """Rows of constant length: the rate of normalised rows, as a difference quotient."""
        free, after = expr - term, expr
        if self.printed.subject is not None and self.block == "M":
            row = next(self._rows(None))
            lines = [y for names, _ in row.lines(True) for y in self._definition_of(row, names)]
            after = term + sp.Add(*(before for before, *_ in lines))

        rows = (x.j,) if self.block == "M" else (x.j, x.l)

        def quotient(scene: Scene) -> float:
            def normalised(t: float) -> float:
                here = scene.value(sp.Indexed(self.block, *self.definition.target.indices), self.at)
                moved = here.value + t * scene.value(free, self.at).value
                for s in rows:
                    growth = scene.value(x.Phi[s, s], self.at).value
                    moved /= (1 + t * growth) ** 0.5
                return float(moved)

            fastest = max(abs(scene.value(x.Phi[s, s], self.at).value) for s in rows)
            step = DIFFERENCE / max(1.0, fastest)
            return (normalised(step) - normalised(-step)) / (2 * step)

        self.account.add(
            "sphere", self.target, after, self.at, claim=1e-8,
            sides=(quotient, lambda scene: scene.value(expr, self.at)),
        )  # fmt: skip

    def _entry(self, blocks: Mapping[str, Array]) -> float:
        where = tuple(self.at[s] - 1 for s in PLACES[self.block])
        return float(blocks[self.block][where])

    def _kept(self, term: str | None) -> Sequence[Definition]:
        """The equations, of this rate the term alone."""
        definitions = self.equations.definitions
        if term is not None:
            kept = self.derived
            for name, _ in self.derived.terms:
                kept = kept if name == term else kept.without(name)
            definitions = tuple(kept if d is self.derived else d for d in definitions)
        return definitions


SQUARES = ("sgd_noise", "label_noise")
GRADIENT = "population_gradient"


@dataclass(frozen=True)
class Row:
    """A rate of free rows, of `block`, as a sum of named terms; `skipped` ones are not derived."""

    head: sp.Expr
    block: str
    students: tuple[sp.Symbol, sp.Symbol]
    terms: Mapping[str, sp.Expr]
    skipped: Container[str]

    def lines(self, together: bool) -> Iterator[tuple[tuple[str, ...], sp.Expr]]:
        """Terms that are derived, those of one average over inputs `together`."""
        kept = [name for name in self.terms if name not in self.skipped]
        groups: list[tuple[str, ...]] = [(name,) for name in kept]
        if together:
            squares = tuple(name for name in kept if name in SQUARES)
            drift = tuple(name for name in kept if name not in SQUARES)
            groups = [names for names in (drift, squares) if names]
        for names in groups:
            yield names, sp.Add(*(self.terms[name] for name in names))
