"""Rates of the overlaps, whole or a named term, from one step of the algorithm on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import At, Expectation
from dmft.equations.definitions import Definition, base_name, used_bases
from dmft.equations.explained.ledger import (
    Account,
    Part,
    average_over_inputs,
    beside_a_block,
    bounded,
    closed_values,
    inner_product,
)
from dmft.equations.explained.notation import Increment, OnNodes
from dmft.equations.explained.scene import (
    Array,
    Place,
    Scene,
    check_blocks,
    claim_of,
    engine_errors,
    engine_values,
    scenes_of,
)
from dmft.equations.update.moments import Case
from dmft.equations.update.optimiser import own_motion, step_size
from dmft.equations.update.overlaps import Moments
from dmft.errors import BadParameter
from dmft.explanation.steps import Explanation
from dmft.model.algorithm import refuse
from dmft.names import BLOCK, KEPT

if TYPE_CHECKING:
    from dmft.equations.system import System

# Scalings whose rates are averages of one update field.
EXPLAINED = ("high-dimensional", "gradient-flow", "large batches")
# Step of the difference quotient that judges the rates of rows of constant length.
DIFFERENCE = 1e-5
PLACES = {
    "M": (x.j, x.r), "Q": (x.j, x.l), "readout": (x.j,),
    "block_M": (x.block, x.j, x.r), "block_Q": (x.block, x.j, x.l),
}  # fmt: skip


def explain_rate(equations: System, block: str, term: str | None = None) -> Explanation:
    """Update, local fields, Stein's identity, averages, sum; on the sphere the projection."""
    definition = _rate(equations, block)
    names = [name for name, _ in definition.terms]
    if term is not None and term not in names:
        raise BadParameter(f"{block} has no term {term!r}; its terms are {', '.join(names)}")
    return _Rate(equations, definition).explained(term)


def _rate(equations: System, block: str) -> Definition:
    """The rate of a block, of equations that are derived from one update field."""
    refuse(equations.algorithm, "explain")
    check_blocks(equations.model)
    rates = {d.name: d for d in equations.definitions if d.role == "rate"}
    kept = [name for name in rates if name.removeprefix(BLOCK) in KEPT]
    if kept:
        raise BadParameter(
            f"rates with additional rows of the optimiser ({', '.join(kept)}) are not "
            "explained: use a number instead of dmft.Momentum, or explain the population risk"
        )
    by_block = f"{BLOCK}{block}"  # of inputs with a spectrum
    block = by_block if by_block in rates else block
    if block not in rates:
        known = ", ".join(rates)
        raise BadParameter(f"of = {block!r}: a block of these equations is one of {known}")
    if block not in PLACES:
        raise BadParameter(
            f"of = {block!r}: rates are explained of {', '.join(PLACES)}; of a sequence model "
            "explain its population risk"
        )
    if equations.kind not in ("ode", "sde", "map") or equations.scaling not in EXPLAINED:
        raise BadParameter(
            f"rates are explained of one pass (scaling {', '.join(EXPLAINED)}); these are of the "
            f"kind {equations.kind!r}, {equations.scaling}, of {equations.algorithm}"
        )
    if equations.kind == "map" and equations.algorithm.on_sphere:
        raise BadParameter(
            "a step of a large batch on the sphere divides by lengths after it, which is no sum of "
            "averages: explain the map without the constraint"
        )
    if equations.derived:
        raise BadParameter(
            "terms of these equations were changed by hand: explain the equations as derived"
        )
    read = _read_by(rates[block], equations.definitions)
    if block.startswith(BLOCK):
        _check_block(equations, read)
    lines = {s for d in read for s in d.expr.free_symbols & set(x.LINES)}
    if lines:
        random = equations.model.draws_labels or equations.model.flips
        labels = "random labels" if random else "these labels"
        loss = equations.algorithm.loss
        raise BadParameter(
            f"a linear student with the loss {loss} of {labels} depends on one combination of "
            f"the fields, the {x.LINES[min(lines, key=str)]}: its rates are closed forms and "
            "tables of that one field, found by rules that record no steps. Explain a student "
            "that is not linear, or the squared loss; equations.evaluate_error returns the "
            "error of the rates"
        )
    return rates[block]


def _check_block(equations: System, read: Sequence[Definition]) -> None:
    """Refuse rates by block whose averages are no sums of products."""
    if any(d.name.startswith("pull") for d in read):
        raise BadParameter(
            f"rates by block are explained where the update is a sum of products, which that of "
            f"{equations.algorithm} is not: explain the population risk, the squared loss, or the "
            "rates of the same model without inputs="
        )


def _read_by(rate: Definition, definitions: Iterable[Definition]) -> list[Definition]:
    """A rate and the definitions that it is computed from."""
    kept, needed = [rate], used_bases(rate.expr)
    for d in reversed(tuple(definitions)):
        if d.role != "rate" and d.name in needed:
            kept.append(d)
            needed |= used_bases(d.expr)
    return kept


class _Rate:
    """One rate and what it is written with."""

    def __init__(self, equations: System, definition: Definition) -> None:
        self.equations, self.definition = equations, definition
        self.block = definition.name
        model, algorithm = equations.model, equations.algorithm
        self.moments = Moments(model, algorithm)
        self.algorithm = algorithm
        scalars = dict(equations.declared) | {"label_noise": model.label_noise}
        if not algorithm.is_flow:
            scalars["learning_rate"] = algorithm.learning_rate
        scenes = scenes_of(model, scalars, equations.definitions, algorithm.on_sphere)
        self.account = Account(model, scenes)
        p, k = scenes[0].p, scenes[0].k
        numbers = {x.j: 1, x.l: min(2, p), x.r: k, x.block: len(scenes[0].variances)}
        self.at: Place = {s: numbers[s] for s in PLACES[self.block]}
        self.table = {
            base_name(d.target): d for d in equations.definitions if d.role == "intermediate"
        }

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
        free = self._free_names(term)
        for name, whole in free.items():
            self._drift(name, whole)
        inlined = self.inline(expr)
        self.account.add("names", expr, inlined, self.at)
        self.account.averages(inlined, bounded(inlined, self.at))
        value = closed_values(inlined)
        error, claim = claim_of([replace(self.definition, terms=(("all", inlined),))])
        self.account.add(
            "values", inlined, value, self.at, claim=10 * error,
            sides=(None, lambda scene: self._engine(scene, term)),
            errors=(lambda scene: self._errors(scene, term)) if value.has(OnNodes) else None,
        )  # fmt: skip
        title = f"Rate of {self.block}" + ("" if term is None else f", the term {term}")
        return self.account.finish(title, (self.target, value), claim, self._of_a_sample())

    def inline(self, expr: sp.Expr) -> sp.Expr:
        """An expression with the intermediate definitions put in, fields called by their names."""
        found = _put_in(expr, self.table)
        fields = {e: _own_name(e) for e in found.atoms(sp.Indexed) if e.base == x.lam}
        return found.xreplace({e: own for e, own in fields.items() if own is not None})

    # Definitions ----------------------------------------------------------------------------

    def parts(self, expr: sp.Expr, part: str | None = None, power: int = 0) -> list[Part]:
        """The average of an expression in psi over the inputs of each cluster."""
        found = []
        for case in self.moments.cases:
            program, cluster = case.program, case.cluster
            weight = cluster.weight * cluster.scale**power
            if self.moments.parts:
                raw = self.in_fields(case, expr, part)
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

    def _free_names(self, term: str | None) -> dict[str, sp.Expr]:
        """Terms of the rate of free rows that are explained, as the equations name them."""
        if self.algorithm.on_sphere:
            free = self.table.get("Phi")
            terms = dict(self.definition.terms)
            if self.block == "Q" and free is not None:
                terms = dict(free.terms)
        else:
            terms = dict(self.definition.terms)
        wanted = terms if term in (None, "free", "sphere") else {term: terms[term]}
        skipped = {"sphere", "free", *own_motion(self.algorithm)}
        return {name: e for name, e in wanted.items() if name not in skipped}

    def _drift(self, name: str, whole: sp.Expr) -> None:
        """One named term: an average over inputs, over local fields, and by Stein's identity."""
        inlined = self.inline(whole)
        if name == GRADIENT:
            self._gradient(inlined)
            return
        if self.by_block and name not in SQUARES:
            self._block_drift(name, inlined)
            return
        found = [
            self.account.from_inputs(before, front, parts, self.at, self.rule_of(name), name)
            for before, front, parts in self._definition_of(name)
        ]
        rule = "linearity" if name in SQUARES or not self.moments.parts else "stein_fields"
        self.account.add(rule, sp.Add(*found), inlined, self.at)

    def _definition_of(self, name: str) -> list[tuple[sp.Expr, sp.Expr, list[Part]]]:
        """What a term is: averages over inputs, what multiplies them, and what is averaged."""
        psi_j, psi_l = (x.psi[s] for s in (x.j, x.l))
        over, step = average_over_inputs, self.step
        if name in SQUARES:
            assert not self.algorithm.is_flow
            batch = x.n_b if self.equations.kind == "map" else self.algorithm.batch_size
            front = step * step_size(self.algorithm) / (x.p * batch)
            front *= x.noise_factor[x.block] if self.by_block else 1
            return [(front * over(psi_j * psi_l), front, self._squares(psi_j * psi_l, name))]
        part = name if name in self.moments.parts else None
        if self.block == "readout":
            error = sp.Symbol("e") * sp.Function("sigma")(x.h[x.j])
            parts = self.parts(self.moments.program.readout, part)
            return [(x.rho_a * step * over(error), x.rho_a * step, parts)]
        if self.block == "M":
            products = [psi_j * x.h_star[x.r]]
        else:
            products = [psi_j * x.h[x.l], psi_l * x.h[x.j]]
        return [(step * over(y), step, self.parts(y, part)) for y in products]

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
            scale, e = scene.value(self.step, place).value, place[x.block] - 1
            values, errors = [], []
            for psi, _, field in beside:
                parts = [
                    (scene.value(q.weight, place).value, q.cluster, q.unrolled(scene, place))
                    for q in self.parts(psi, part)
                ]
                value, error = beside_a_block(scene, parts, scene.place(field, place) - 1, e)
                values.append(scale * value)
                errors.append(abs(scale) * error)
            return sum(values), sum(errors)

        before = sp.Add(*(self.step * average_over_inputs(psi * h) for psi, h, _ in beside))
        rule = self.rule_of(name)
        self.account.by_samples(rule, before, inlined, place, sampled, name)

    def _squares(self, square: sp.Expr, name: str) -> list[Part]:
        """Products of updates, with or without the label's noise."""
        found = self.parts(square, power=1)
        if not self.moments.noise_apart:
            return found
        result = []
        for part in found:
            quiet = part.raw.xreplace({x.xi: sp.S.Zero})
            raw = quiet if name != "label_noise" else _in_powers(part.raw - quiet, x.xi)
            result.append(replace(part, raw=raw, average=Expectation(part.cluster.shifted(raw))))
        return result

    def _gradient(self, inlined: sp.Expr) -> None:
        """Two samples of a batch: the inner product of the mean updates."""
        psi_j, psi_l, inputs = x.psi[x.j], x.psi[x.l], sp.Symbol("x")
        front = self.step**2 * (1 - 1 / x.n_b)
        before = front * average_over_inputs(psi_j * inputs) * average_over_inputs(psi_l * inputs)
        place = bounded(inlined, self.at)

        def sampled(scene: Scene) -> tuple[float, float]:
            one, two = (
                [
                    (scene.value(q.weight, place).value, q.cluster, q.unrolled(scene, place))
                    for q in self.parts(psi)
                ]
                for psi in (psi_j, psi_l)
            )
            value, error = inner_product(scene, one, two)
            scale = scene.value(front, place).value
            return scale * value, abs(scale) * error

        self.account.by_samples("mean_gradient", before, inlined, place, sampled, GRADIENT)

    # The sphere -----------------------------------------------------------------------------

    def _sphere(self, term: sp.Expr, expr: sp.Expr) -> None:
        """Rows of constant length: the rate of normalised rows, as a difference quotient."""
        free = expr - term

        def quotient(scene: Scene) -> float:
            def normalised(t: float) -> float:
                here = scene.value(sp.Indexed(self.block, *self.definition.target.indices), self.at)
                moved = here.value + t * scene.value(free, self.at).value
                indices = (x.j,) if self.block == "M" else (x.j, x.l)
                for s in indices:
                    growth = scene.value(x.Phi[s, s], self.at).value
                    moved /= (1 + t * growth) ** 0.5
                return float(moved)

            return (normalised(DIFFERENCE) - normalised(-DIFFERENCE)) / (2 * DIFFERENCE)

        self.account.add("sphere", self.target, expr, self.at, sides=(quotient, None), claim=1e-8)

    def _engine(self, scene: Scene, term: str | None) -> float:
        """The number that the engine computes."""
        return self._entry(engine_values(self._kept(term), scene, "rate"))

    def _errors(self, scene: Scene, term: str | None) -> float:
        """What its nodes claim to be off by."""
        return self._entry(engine_errors(self._kept(term), scene, "rate"))

    def _entry(self, blocks: Mapping[str, Array]) -> float:
        where = tuple(self.at[s] - 1 for s in PLACES[self.block])
        return float(blocks[self.block][where])

    def _kept(self, term: str | None) -> Sequence[Definition]:
        """The equations, of this rate the term alone."""
        definitions = self.equations.definitions
        if term is not None:
            kept = self.definition
            for name, _ in self.definition.terms:
                kept = kept if name == term else kept.without(name)
            definitions = tuple(kept if d is self.definition else d for d in definitions)
        return definitions


def inlined_rate(equations: System, block: str) -> sp.Expr:
    """The rate of a block in averages of functions of local fields."""
    table = {base_name(d.target): d for d in equations.definitions if d.role == "intermediate"}
    return _put_in(_rate(equations, block).expr, table)


def _put_in(expr: sp.Expr, table: Mapping[str, Definition]) -> sp.Expr:
    """An expression with definitions put in."""

    def put_in(e: sp.Expr) -> sp.Expr:
        if isinstance(e, sp.Indexed) and base_name(e) in table:
            d = table[base_name(e)]
            own = dict(zip(d.target.indices, e.indices, strict=True))
            body = _apart(d.expr, set().union(*(i.free_symbols for i in e.indices)))
            return put_in(body.xreplace({s: v for s, v in own.items() if s != v}))
        if not e.args or isinstance(e, sp.Indexed | Expectation):
            return e
        if isinstance(e, sp.Sum):
            return sp.Sum(put_in(e.function), *e.limits)
        return e.func(*(put_in(a) for a in e.args))

    return put_in(expr)


def _apart(expr: sp.Expr, taken: set[sp.Basic]) -> sp.Expr:
    """An expression whose sums run over other symbols than those that are put into it."""
    bound = {limit[0] for total in expr.atoms(sp.Sum) for limit in total.limits}
    spare = [s for s in (x.u, x.v, x.s) if s not in expr.free_symbols | bound | taken]
    swap: dict[sp.Basic, sp.Symbol] = {}
    for s in sorted(bound & taken, key=str):
        swap[s] = next(y for y in spare if x.AXES[y] == x.AXES[s] and y not in swap.values())
    return expr.xreplace(swap)


def _in_powers(expr: sp.Expr, symbol: sp.Symbol) -> sp.Expr:
    """A polynomial in a symbol by its powers, sums kept whole."""
    kept = {e: sp.Dummy() for e in expr.atoms(sp.Sum, At)}
    plain = sp.expand(expr.xreplace(kept))
    terms = sp.collect(plain, symbol, evaluate=False)
    back = {d: e for e, d in kept.items()}
    return sp.Add(*(power * sp.factor(c).xreplace(back) for power, c in terms.items()))


def _own_name(field: sp.Indexed) -> sp.Expr | None:
    """h_l of lambda_l, h*_r of lambda_{p+r}; None of a field that runs over all."""
    (index,) = field.indices
    if x.AXES.get(index) == x.p:
        return x.h[index]
    return x.h_star[index - x.p] if x.AXES.get(index - x.p) == x.k else None


SQUARES = ("sgd_noise", "label_noise")
GRADIENT = "population_gradient"
