"""Rates of the overlaps, whole or a named term, from one step of the algorithm on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import Expectation
from dmft.equations.definitions import Definition, base_name
from dmft.equations.explained.engine import claim_of, engine_values
from dmft.equations.explained.inputs import average_over_inputs
from dmft.equations.explained.ledger import Account, bounded, closed_values
from dmft.equations.explained.scene import Place, Scene, scenes_of
from dmft.equations.update.optimiser import own_motion, step_size
from dmft.equations.update.overlaps import Moments
from dmft.errors import BadParameter
from dmft.explanation.steps import Explanation
from dmft.model import SGD

if TYPE_CHECKING:
    from dmft.equations.equations import Equations

# Scalings whose rates are averages of one update field.
EXPLAINED = ("high-dimensional", "gradient-flow")
# Step of the difference quotient that judges the rates of rows of constant length.
DIFFERENCE = 1e-5
PLACES = {"M": (x.j, x.r), "Q": (x.j, x.l), "readout": (x.j,)}


def explain_rate(equations: Equations, block: str, term: str | None = None) -> Explanation:
    """Update, local fields, Stein's identity, averages, sum; on the sphere the projection.

    Raises
    ------
    BadParameter, UnprovenStep
    """
    definition = _rate(equations, block)
    names = [name for name, _ in definition.terms]
    if term is not None and term not in names:
        raise BadParameter(f"{block} has no term {term!r}; its terms are {', '.join(names)}")
    return _Rate(equations, definition).explained(term)


def _rate(equations: Equations, block: str) -> Definition:
    """The rate of a block, of equations that are derived from one update field."""
    rates = {d.name: d for d in equations.definitions if d.role == "rate"}
    if block not in rates or block not in PLACES:
        raise BadParameter(
            f"of = {block!r}: a block of these equations is one of {', '.join(rates)}"
        )
    repeated = getattr(equations.algorithm, "repeat", None) is not None
    if equations.kind not in ("ode", "sde") or equations.scaling not in EXPLAINED or repeated:
        raise BadParameter(
            f"rates are explained of the ode of one pass (scaling {' or '.join(EXPLAINED)}, no "
            f"repeat); these are of the kind {equations.kind!r}, {equations.scaling}, of "
            f"{equations.algorithm}"
        )
    if equations.derived:
        raise BadParameter(
            "terms of these equations were changed by hand: explain the equations as derived"
        )
    if any(q.law.of_sample for d in equations.definitions for q in d.expr.atoms(Expectation)):
        raise BadParameter(
            f"the update field of {equations.algorithm} is no sum of products: its averages are "
            "taken over the fields of a sample on nodes, which no step proves"
        )
    return rates[block]


class _Rate:
    """One rate and what it is written with."""

    def __init__(self, equations: Equations, definition: Definition) -> None:
        self.equations, self.definition = equations, definition
        self.block = definition.name
        model, algorithm = equations.model, equations.algorithm
        self.moments = Moments(model, algorithm)
        self.algorithm = algorithm
        scalars = dict(equations.declared) | {"label_noise": model.label_noise}
        if isinstance(algorithm, SGD):
            scalars["learning_rate"] = algorithm.learning_rate
        scenes = scenes_of(model, scalars, equations.definitions, algorithm.on_sphere)
        self.account = Account(model, scenes)
        p, k = scenes[0].p, scenes[0].k
        numbers = {x.j: 1, x.l: min(2, p), x.r: k}
        self.at: Place = {s: numbers[s] for s in PLACES[self.block]}
        self.table = {
            base_name(d.target): d for d in equations.definitions if d.role == "intermediate"
        }

    def explained(self, term: str | None) -> Explanation:
        """All steps."""
        target = sp.Derivative(self.definition.target, sp.Symbol("t"))
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
        )  # fmt: skip
        title = f"Rate of {self.block}" + ("" if term is None else f", the term {term}")
        return self.account.finish(title, (target, value), claim)

    def inline(self, expr: sp.Expr) -> sp.Expr:
        """An expression with the intermediate definitions put in."""
        return _put_in(expr, self.table)

    # Definitions ----------------------------------------------------------------------------

    def psi(self, index: sp.Symbol, part: str | None = None) -> sp.Expr:
        """The update field of a neuron in local fields; sums over teachers run over s."""
        inlined = self.moments.program.inline(x.psi[x.j], part)
        return inlined.xreplace({x.r: x.s}).xreplace({x.j: index})

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
        for before, after in self._definition_of(name):
            self.account.from_inputs(before, after, self.at, rule=rule_of(name))
        total = sp.Add(*(after for _, after in self._definition_of(name)))
        self.account.add("stein_fields" if name not in SQUARES else "linearity", total,
                         self.inline(whole), self.at)  # fmt: skip

    def _definition_of(self, name: str) -> list[tuple[sp.Expr, sp.Expr]]:
        """What a term is: averages over inputs, and the same over local fields."""
        psi_j, psi_l = (sp.IndexedBase("psi")[s] for s in (x.j, x.l))
        if name in SQUARES:
            assert isinstance(self.algorithm, SGD)
            step = step_size(self.algorithm) / (x.p * self.algorithm.batch_size)
            square = self.psi(x.j) * self.psi(x.l)
            quiet = square.xreplace({x.xi: sp.S.Zero})
            if not self.moments.noise_apart:
                quiet = square
            if name == "label_noise":
                quiet = square - quiet
            return [(step * average_over_inputs(psi_j * psi_l), step * Expectation(quiet))]
        part = name if name in self.moments.parts else None
        if self.block == "readout":
            program = self.moments.program
            inside = program.inline(program.readout, part)
            error = sp.Symbol("e") * sp.Function("sigma")(x.h[x.j])
            return [(x.rho_a * average_over_inputs(error), x.rho_a * Expectation(inside))]
        if self.block == "M":
            star = x.h_star[x.r]
            return [(average_over_inputs(psi_j * star), Expectation(self.psi(x.j, part) * star))]
        h_j, h_l = x.h[x.j], x.h[x.l]
        return [
            (average_over_inputs(psi_j * h_l), Expectation(self.psi(x.j, part) * h_l)),
            (average_over_inputs(psi_l * h_j), Expectation(self.psi(x.l, part) * h_j)),
        ]

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

        rate = sp.Derivative(self.definition.target, sp.Symbol("t"))
        self.account.add("sphere", rate, expr, self.at, sides=(quotient, None), claim=1e-8)

    def _engine(self, scene: Scene, term: str | None) -> float:
        """The number that the engine computes."""
        definitions = self.equations.definitions
        if term is not None:
            kept = self.definition
            for name, _ in self.definition.terms:
                kept = kept if name == term else kept.without(name)
            definitions = tuple(kept if d is self.definition else d for d in definitions)
        found = engine_values(definitions, scene, "rate")[self.block]
        where = tuple(self.at[s] - 1 for s in PLACES[self.block])
        return float(found[where])


def inlined_rate(equations: Equations, block: str) -> sp.Expr:
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


SQUARES = ("sgd_noise", "label_noise")


def rule_of(name: str) -> str:
    """Rule of the first line of a term."""
    return "square" if name in SQUARES else "drift"
