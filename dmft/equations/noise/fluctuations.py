r"""Fluctuations of one-pass learning at large d: covariance of the increments and O(1/d) drift.

    d(Q, M) = F dt + sqrt(gamma/(p d n_b)) Sigma^(1/2) dB,    Sigma = Cov[(u, v)]

(theory/one_pass E.1; Ito), with the trained readouts behind M and w behind v. Sigma is a covariance
over nodes, positive semidefinite by construction: nodes that are exact for polynomial models,
Gauss-Hermite or Sobol nodes with their error else. F is the drift of the ordinary equations and
what one step of an algorithm in d dimensions adds to it at order 1/d (B.1, E.3), so that one step
has the mean F gamma/(p d) up to order d^-3. Where a sample moves the weights in several steps F is
the drift of the ordinary equations alone, and the mean of a step is off by order d^-2: less than
the fluctuations by a power of sqrt(d).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.equations import symbols as x
from dmft.equations.averages.moments import closed_moments
from dmft.equations.averages.nodes import MOST_EXACT, noise_rule
from dmft.equations.definitions import Definition, base_name, used_bases
from dmft.equations.noise.increments import Increments
from dmft.equations.noise.increments_at_nodes import IncrementsAtNodes
from dmft.equations.noise.record import (
    Fluctuations,
    check_dimension,
    covariance_on_nodes,
    declared_dimension,
)
from dmft.equations.parameter_values import Values, with_nodes
from dmft.equations.reference import evaluate
from dmft.equations.rounding.bounds import of_one_state
from dmft.equations.rounding.rules import UNIT
from dmft.equations.symbols import ONLY
from dmft.equations.update.law import by_target
from dmft.equations.update.optimiser import step_size
from dmft.equations.update.terms import Parities
from dmft.equations.views.closed import ClosedSystem, Entry
from dmft.equations.views.collected import collected
from dmft.equations.views.explicit import ExplicitEquations
from dmft.equations.views.latex import EquationPrinter, definition_latex
from dmft.errors import BadParameter
from dmft.gaussian.nodes.rules import NodeRule, exact_dimensions, exact_rule
from dmft.model import SGD, GradientFlow, Model, Overlaps, random_overlaps
from dmft.typeset.fragment import align


@dataclass(frozen=True)
class Noise(Fluctuations):
    """Fluctuations of overlaps."""

    model: Model

    @cached_property
    def increments(self) -> Increments:
        """What a step adds to the overlaps, in symbols."""
        return Increments(self.model, self.algorithm)

    @cached_property
    def nodes(self) -> IncrementsAtNodes:
        """The same at nodes."""
        return IncrementsAtNodes(self.increments)

    @cached_property
    def rates_at_nodes(self) -> tuple[Definition, ...]:
        """Rates at order 1/d, as sums over nodes."""
        return self.nodes.rates(self.terms)

    @property
    def known_terms(self) -> tuple[str, ...]:
        """Named terms of the drift at order 1/d that are derived."""
        return tuple(self.increments.terms)

    @cached_property
    def degree(self) -> sp.Expr:
        """Largest degree of an increment in the fields; oo if smooth, -1 where there are kinks."""
        found = [sp.S.Zero]
        for program in (case.program for case in self.increments.moments.cases):
            psi = program.degree(x.psi[x.j])
            push = program.degree(program.readout) if self.algorithm.trains_readout else sp.S.Zero
            if min(psi, push) < 0:
                return sp.Integer(-1)
            found += [psi + 1, 2 * psi, push]
        return sp.Max(*found)

    @property
    def noisy_nodes(self) -> bool:
        """Whether the label's noise is among the variables of the nodes."""
        return self.increments.program.noisy and not self.increments.noise_apart

    @property
    def polynomial(self) -> bool:
        """Whether all moments are polynomials in the overlaps."""
        return bool(0 <= self.degree < sp.oo)

    @property
    def written_out(self) -> bool:
        """Whether the covariance can be written as polynomials in the overlaps."""
        return self.polynomial and self.increments.noise_apart and not self.increments.in_clusters

    @property
    def closed(self) -> bool:
        """Whether the polynomials are short enough to be compiled: one student, one teacher."""
        widths = (self.model.student.width, self.model.teacher.width)
        return self.written_out and widths == (1, 1) and not self.algorithm.trains_readout

    @property
    def unread(self) -> set[str]:
        """Declared parameters that are no run-time values of the covariance."""
        return {"batch_size"} if self.algorithm.trains_readout else {"batch_size", "readout_rate"}

    @property
    def smooth(self) -> bool:
        """Whether the update has neither kinks nor jumps."""
        return bool(self.degree >= 0)

    @cached_property
    def even(self) -> bool:
        """Whether increments do not change with the sign of all fields of a sample."""
        programs = [case.program for case in self.increments.moments.cases]
        return not self.algorithm.trains_readout and all(
            Parities(by_target(program.definitions)).of(x.psi[x.j]) == -1 for program in programs
        )

    @property
    def approximation(self) -> str:
        """Description of how the covariance is computed."""
        if self.closed:
            return "covariance of the increments in closed form"
        if self.polynomial:
            widths = (self.model.student.width, self.model.teacher.width)
            if not all(width.is_Integer for width in widths):
                return "covariance of the increments on nodes, exact for it in few dimensions"
            if self.exact(int(sum(widths))):
                return "covariance of the increments on Gauss-Hermite nodes that are exact for it"
        return "covariance of the increments on nodes, its error estimated at given overlaps"

    def exact(self, size: int) -> bool:
        """Whether there are nodes that are exact for p + k = `size` fields."""
        if not self.polynomial:
            return False
        return size + self.noisy_nodes <= exact_dimensions(2 * int(self.degree), MOST_EXACT)

    def rule(self, size: int, options: Mapping[str, Any]) -> NodeRule:
        """Nodes for p + k = `size` fields; `options` may contain nodes, replicas, seed."""
        dimensions = size + self.noisy_nodes
        if self.exact(size):
            rule = exact_rule(dimensions, 2 * int(self.degree))
        else:
            rule = noise_rule(dimensions, self.smooth, options, self.even)
        return rule.with_noise(self.noisy_nodes)

    def random_start(self, dim: int, seed: int) -> Overlaps:
        """Overlaps of random rows, of length sqrt(d) where they keep it."""
        sphere = self.algorithm.on_sphere
        return random_overlaps(self.model, dim, seed, normalised=sphere)

    # In print --------------------------------------------------------------------------------

    def printed(self, known: Iterable[Definition] = ()) -> tuple[Definition, ...]:
        """Update, increments, and the rates at order 1/d with what they read.

        Fields of a sample that are `known` stand elsewhere already.
        """
        own, shown = self.increments, {d.name for d in known if d.role == "sample"}
        if own.in_clusters:
            cases = [own.of_case(case) for case in own.moments.cases]
            return tuple(
                d for parts in cases for part in parts for d in part if d.name not in shown
            )
        kept = (
            replace(d, terms=tuple((name, e) for name, e in d.terms if name in self.terms))
            for d in own.rates
        )
        rates = [d for d in kept if d.terms]
        read = {name for d in rates for name in used_bases(d.expr)}
        excess = [d for d in own.excess if d.name in read]
        sample = [d for d in own.sample if d.name not in shown]
        return (*sample, *own.free, *own.constrained, *excess, *rates)

    def process(self, printer: EquationPrinter, state: str = "") -> str:
        """Align line of the stochastic equation, of a `state` of single units or all overlaps."""
        batch = self.algorithm.batch_size
        known = {"Q": "step_u", "M": "step_v", "readout": "step_w"}
        names = [printer.letter(y) for y in known][: 2 + self.algorithm.trains_readout]
        steps = [rf"\delta {y}" for y in names]
        printer.letters |= dict(zip(known.values(), steps, strict=False))
        whole = ", ".join(names)
        rate, d = printer.doprint(step_size(self.algorithm)), printer.letter("dim")
        numbers = [] if batch == 1 else [str(batch)]
        numbers += [] if self.model.student.width == 1 else [printer.letter("p")]
        below = r"\,".join([*numbers, d])
        return (
            rf"d{state or f'({whole})'} &= F\,dt + \sqrt{{\frac{{{rate}}}{{{below}}}}}\;"
            r"\Sigma^{1/2}\,dB_t"
            + ("" if state else rf",\quad \Sigma = \mathrm{{Cov}}\bigl[({', '.join(steps)})\bigr]")
        )

    def latex(self, printer: EquationPrinter, known: Sequence[Definition]) -> list[str]:
        """Align lines of the update and the increments."""
        lines = [r"& \xi \sim \mathcal{N}(0, 1)"] if any(d.expr.has(x.xi) for d in known) else []
        lines = [y for d in known for y in definition_latex(d, printer)] + lines
        if any(d.expr.has(x.stretch) for d in known):
            lines.append(r"&\text{where a sample is displaced } s \text{ times as much}")
        return lines

    def opening(
        self, printer: EquationPrinter, known: Sequence[Definition]
    ) -> tuple[list[str], list[str]]:
        """The stochastic equation and the increments; align lines of what the drift reads."""
        p, d = printer.letter("p"), printer.letter("dim")
        below = d if self.model.student.width == 1 else f"({p} {d})"
        unit = f"{printer.doprint(step_size(self.algorithm))}/{below}"
        words = f"where the increments in one step, in units of ${unit}$, are"
        process, excess = self.process(printer), {d for d in known if d.name.startswith("excess")}
        steps = align(self.latex(printer, [d for d in known if d not in excess]))
        read = self.latex(printer, [d for d in known if d in excess])
        return [align([process]), words, steps, "and the drift is"], read

    def added_to(self, system: ClosedSystem) -> ClosedSystem:
        """Closed drift of one student and one teacher with its part of order 1/d, and Sigma."""
        moments = closed_moments(
            self.model, self.algorithm, {"p": 1, "k": 1}, _declared(self.model) | {"P": None}
        )
        j, r = ONLY
        places = {"Q": x.Q[j, j], "M": x.M[j, r], "P": x.P[r, r]}
        put = {moments.unrolled.state(name, (1, 1)): Entry(y) for name, y in places.items()}
        put |= {moments.unrolled.state("Q", (1, 1)): sp.S.One} if system.values else {}
        put |= {moments.unrolled.state("P", (1, 1)): sp.S.One} if "one P" in system.notes else {}
        put |= {x.Delta: sp.S.Zero} if "label_noise" in system.notes else {}

        def shown(expr: sp.Expr) -> sp.Expr:
            return collected(sp.expand(expr.xreplace(put)))

        rows = []
        for target, expr, role in system.rows:
            parts = moments.rates.get((base_name(target), (1, 1)), {}) if role == "rate" else {}
            small = sp.Add(*(parts[name] for name in self.terms if name in parts))
            if (extra := shown(small * x.d)) != 0:
                extra = sp.Mul(*sp.Mul.make_args(extra), 1 / x.d, evaluate=False)
                expr = sp.Add(*sp.Add.make_args(expr), extra, evaluate=False)
            rows.append((target, expr, role))
        entries = [e for e in moments.entries if moments.moves(e)]
        for number, one in enumerate(entries):
            for two in entries[: number + 1]:
                name = sp.Symbol(rf"\Sigma_{{{two[0]}{one[0]}}}")
                rows.append((name, shown(moments.covariance(one, two)), "intermediate"))
        return replace(system, rows=tuple(rows))

    def unrolled(
        self, explicit: ExplicitEquations, widths: Mapping[str, int], constants: Mapping[str, Any]
    ) -> ExplicitEquations:
        """Scalar equations with the drift at order 1/d and Sigma, for polynomials."""
        if not self.written_out:
            raise BadParameter(
                "explicit() writes the covariance of the increments out for polynomial "
                "activations, losses that are quadratic in f and y, single gradients and "
                "x ~ N(0, I_d) only; evaluate(...) computes it numerically"
            )
        moments = closed_moments(self.model, self.algorithm, widths, constants)
        known = {moments.unrolled.state(*entry): entry for entry in moments.entries}
        rates = {
            symbol: rate
            + sp.Add(*(moments.rates[known[symbol]].get(name, 0) for name in self.terms))
            for symbol, rate in explicit.rhs.items()
        }
        entries = [known[symbol] for symbol in rates]
        Sigma = sp.Matrix([[moments.covariance(u, v) for v in entries] for u in entries])
        return replace(explicit, rhs=rates, covariance=Sigma)

    def text(self) -> list[str]:
        """What a terminal shows below the equations."""
        lines = [f"Ito equation; {self.approximation}."]
        if not self.increments.terms:
            what = "inputs from clusters" if self.increments.in_clusters else "repeated steps"
            lines.append(f"F is that of d → ∞: the terms of {what} at order 1/d are left out.")
        return lines

    # Numbers ---------------------------------------------------------------------------------

    def add_to(
        self, rates: Mapping[str, Array], state: Mapping[str, Array], values: Values, rule: NodeRule
    ) -> dict[str, Array]:
        """Rates with their part of order 1/d, Sigma and the covariance, in plain NumPy."""
        here = with_nodes(values, rule)
        found = evaluate(self.nodes.arrays, state, here, "observable")
        size = rule.weight.size
        parts = [
            np.concatenate([found[name].reshape(-1, size) for name in names])
            for names in self.nodes.names
        ]
        Sigma = covariance_on_nodes(parts, rule.weight)
        added = evaluate(self.rates_at_nodes, state, here, "rate")
        whole = {name: rate + added[name] for name, rate in rates.items()}
        return {**whole, "Sigma": Sigma, "covariance": self.scale(values) * Sigma}

    def add_rounding(
        self, errors: Mapping[str, Array], state: Mapping[str, Array], values: Values
    ) -> dict[str, Array]:
        """Rounding of rates with that of their part of order 1/d, of Sigma and the covariance."""
        found = of_one_state(self.nodes.arrays, state, values, "observable")
        weight = values.arrays["weight"]
        total: Array = np.zeros(())
        for names in self.nodes.names:
            rows, bounds = (
                np.concatenate([found[name][n].reshape(-1, weight.size) for name in names])
                for n in (0, 1)
            )
            rows = np.abs(rows)
            one = ((bounds + UNIT * np.sqrt(weight.size) * rows) * weight) @ rows.T
            total = total + one + one.T
        added = of_one_state(self.rates_at_nodes, state, values, "rate")
        whole = {name: error + added[name].error for name, error in errors.items()}
        return {**whole, "Sigma": total, "covariance": self.scale(values) * total}

    def check(self, values: Values, start: Overlaps, given: Mapping[str, Any]) -> None:
        """Refuse a dimension that is no count, or too small for the overlaps of a start."""
        dim = check_dimension(values, given)
        fields = start.p + start.k
        if self.increments.displaced and not 1 - fields / dim - np.sqrt(2 / dim) > 0:
            raise BadParameter(
                f"dim = {dim:g} is too small for displaced samples at {fields} fields: their terms "
                "of order 1/d assume that |x|^2/d is near 1; dmft.simulate is exact at any dim"
            )
        rank = int(np.linalg.matrix_rank(start.Omega, hermitian=True))
        if dim < rank:
            raise BadParameter(
                f"dim = {dim:g} is too small for these weights: their overlaps have rank {rank}"
            )


def noise_of(model: Model, algorithm: SGD | GradientFlow, dim: int | sp.Expr | None) -> Noise:
    """Fluctuations of an algorithm, or a refusal."""
    dimension = declared_dimension(algorithm, dim)
    assert not algorithm.is_flow
    if algorithm.constraint not in (None, "sphere"):
        raise BadParameter(
            f"fluctuations under constraint={algorithm.constraint!r} are not derived; "
            'constraint="sphere" has the same covariance'
        )
    if not isinstance(algorithm.batch_size, int):
        raise BadParameter(
            f"fluctuations are derived for batches of order one, got {algorithm.batch_size}; "
            "derive(..., dim=...) gives the map of large batches"
        )
    if any(s.name == x.xi.name for s in model.parameters):
        raise BadParameter(
            f"the symbol {x.xi} is the label noise of one sample here; rename the model's symbol"
        )
    return Noise(model, algorithm, dimension)


def _declared(model: Model) -> dict[str, Sequence[sp.Expr]]:
    networks = {"readout": model.student, "teacher_readout": model.teacher}
    return {name: network.readout or (sp.Integer(1),) for name, network in networks.items()}
