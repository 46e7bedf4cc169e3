r"""What an update field does to the overlaps: named parts of its moments.

    b_ji = E[psi_j lambda_i],   S_jl = E[psi_j psi_l],   A_j = E[e sigma(h_j)],

of which maps, differential equations, wide limits and readouts are assemblies (one_pass.md A.0,
A.1, B.2). Where the error is linear in output and label, b has the parts "learning" (label) and
"interaction" (output), and S those of the sampled gradient and of the label's noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import Expectation, OneSample
from dmft.equations.definitions import Definition, define
from dmft.equations.update.law import Cluster, clusters_of, mean_definitions
from dmft.equations.update.moments import expectation, shared, stein
from dmft.equations.update.program import (
    INTERACTION,
    LEARNING,
    Program,
    is_linear,
    is_noisy,
    noiseless_label,
    program_of,
    students_at,
)
from dmft.errors import NotClosed
from dmft.model import SGD, GradientFlow, Model
from dmft.model.loss import LABEL, PREDICTION, loss_expr

UPDATE = "update"
# What rows of constant length take from the rates of Q and M: Phi is the rate of free rows.
ON_SPHERE = {
    x.Q: -x.Q[x.j, x.l] * (x.Phi[x.j, x.j] + x.Phi[x.l, x.l]) / 2,
    x.M: -x.M[x.j, x.r] * x.Phi[x.j, x.j] / 2,
}
# Where each part of b stands.
BASES = {LEARNING: x.learning, INTERACTION: x.interaction, UPDATE: x.b}


@dataclass(frozen=True)
class Case:
    """One law of the fields, and the update field of a sample that has it."""

    cluster: Cluster
    program: Program

    def inline(self, expr: sp.Expr, part: str | None = None) -> sp.Expr:
        """An expression in psi as one in centred fields."""
        return self.cluster.shifted(self.program.inline(expr, part))

    def named(self, expr: sp.Expr) -> sp.Expr:
        """An expression in what the program defines, as it is called in this cluster."""
        return self.cluster.shifted(expr, self.program.table)

    def definitions(self) -> list[Definition]:
        """What the program defines, as it is called in this cluster."""
        return [
            replace(
                d, target=self.named(d.target), terms=tuple((n, self.named(e)) for n, e in d.terms)
            )
            for d in self.program.definitions
        ]

    def drift(self, update: sp.Expr) -> sp.Expr:
        """E[update lambda_i]: along the mean, and along the covariances."""
        mean = self.cluster.mean_of(x.lam[x.i])
        along = mean * expectation(update) if mean != 0 else sp.S.Zero
        return along + self.cluster.root * stein(update)


@dataclass(frozen=True)
class Moments:
    """Moments of the update field of a model under an algorithm, by named part.

    Averages are over the law of the inputs: a sum over its clusters.

    Attributes
    ----------
    model : Model
    algorithm : SGD or GradientFlow
    """

    model: Model
    algorithm: SGD | GradientFlow

    @cached_property
    def noise_apart(self) -> bool:
        """Whether psi is linear in the label's noise, which is then averaged over by hand."""
        return is_linear(self.algorithm)

    @cached_property
    def cases(self) -> tuple[Case, ...]:
        """Laws of the fields with their update fields."""
        return tuple(Case(c, self._program(c)) for c in clusters_of(self.model))

    def _program(self, cluster: Cluster) -> Program:
        """The update field; without noise where noise would only cost a dimension of the nodes."""
        noisy = self.noise_apart or is_noisy(self.model)
        label, square = cluster.label, cluster.scale
        return program_of(self.model, self.algorithm, noisy, label=label, square=square)

    @property
    def program(self) -> Program:
        """The update field, of the first cluster where there are several."""
        return self.cases[0].program

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts of b."""
        return tuple(self.program.parts) if self.program.closes else ()

    @property
    def bases(self) -> dict[str, sp.IndexedBase]:
        """Where the parts of b stand."""
        return {name: BASES[name] for name in self.parts or (UPDATE,)}

    def over(self, value: Callable[[Case], sp.Expr], power: int = 0) -> sp.Expr:
        """Sum over the clusters of w_c s_c^power times a value."""
        laws = ((c.cluster.weight * c.cluster.scale**power, c) for c in self.cases)
        return sp.Add(*(weight * value(case) for weight, case in laws))

    def average(
        self,
        case: Case,
        expr: sp.Expr,
        close: Callable[[sp.Expr], sp.Expr],
        whole: sp.Expr | None = None,
    ) -> sp.Expr:
        """Closed average of an expression in psi, else one over a sample's fields (of `whole`)."""
        program = case.program
        if program.closes:
            try:
                return close(case.inline(expr))
            except NotClosed:
                pass
        whole = expr if whole is None else whole
        degree, noisy = program.degree(whole), sp.Integer(program.noisy)
        return Expectation(case.named(whole), OneSample(degree, noisy))

    @cached_property
    def drifts(self) -> dict[str, sp.Expr]:
        """Parts of E[psi_j lambda_i]."""
        psi = x.psi[x.j]
        if not self.parts:
            whole = psi * x.lam[x.i]
            return {UPDATE: self.over(lambda c: self.average(c, psi, c.drift, whole))}

        def part(name: str) -> sp.Expr:
            return self.over(lambda c: c.drift(c.inline(psi, name)))

        # The sum over other students reads better over l, which is free here.
        return {name: part(name).xreplace({x.u: x.l}) for name in self.parts}

    def drift_definitions(self) -> list[Definition]:
        """Blocks, random fields of a sample, and the parts of b."""
        entries = [
            define(self.bases[name][x.j, x.i], {name: e}, "intermediate")
            for name, e in self.drifts.items()
        ]
        return [*block_definitions(), *self.sample_definitions(), *entries]

    def sample_definitions(self) -> list[Definition]:
        """Random fields of a sample, and the means of the fields."""
        samples = [d for case in self.cases for d in case.definitions()]
        return [*mean_definitions(self.model), *samples]

    @cached_property
    def sampled(self) -> sp.Expr:
        """E[psi_j psi_l |x|^2/d], without the label's noise where that stands apart."""
        square = x.psi[x.j] * x.psi[x.l]
        if not self.parts:
            return self.over(lambda c: self.average(c, square, expectation), 1)

        def noiseless(c: Case) -> sp.Expr:
            whole = c.program.inline(square).xreplace({x.xi: sp.S.Zero})
            return expectation(c.cluster.shifted(shared(whole, self.model)))

        return self.over(noiseless, 1)

    @cached_property
    def label_noise(self) -> sp.Expr:
        """What the label's noise adds to `sampled`; zero where it is part of that."""
        if not (self.parts and self.program.noisy):
            return sp.S.Zero
        # The error holds the label times this number, 1 for the losses that have a name.
        share = self.program.parts[LEARNING].expand().coeff(x.label)

        def slopes(c: Case) -> sp.Expr:
            slope = c.inline(x.psi[x.j] / c.program.error)
            return expectation(slope * slope.xreplace({x.j: x.l}))

        return share**2 * x.Delta * self.over(slopes, 1)

    def quadratic(self, prefactor: sp.Expr) -> dict[str, sp.Expr]:
        """A prefactor times S, by named term."""
        return {
            "sgd_noise": prefactor * self.sampled,
            "label_noise": prefactor * self.label_noise,
        }

    def readout(self, prefactor: sp.Expr) -> dict[str, sp.Expr]:
        """A prefactor times the parts of E[e sigma(h_j)]."""
        if not self.parts:
            whole = self.over(lambda c: self.average(c, c.program.readout, expectation))
            return {UPDATE: prefactor * whole}

        def part(name: str) -> sp.Expr:
            return self.over(lambda c: expectation(c.inline(c.program.readout, name)))

        return {name: prefactor * part(name).xreplace({x.u: x.l}) for name in self.parts}

    def observables(self) -> list[Definition]:
        """The expected loss, where it is not the risk and a constant, and what a rule measures."""
        found = {}
        for name in self.program.measures:
            mean = self.over(lambda c: self.average(c, c.program.measures[name], expectation))  # noqa: B023
            of_neuron = mean.xreplace({x.j: x.u})
            found[sp.Symbol(name, real=True)] = sp.Sum(of_neuron, (x.u, 1, x.p)) / x.p
        given = getattr(self.algorithm, "loss", None)
        if given not in (None, "squared"):
            output = x.output_pass[0]
            if output not in self.program.table:
                output = students_at(x.h, self.model.student.activation)
            loss = loss_expr(given)
            value = loss.xreplace({PREDICTION: output, LABEL: x.label})
            found[x.loss] = self.over(lambda c: self.average(c, value, expectation))
        return [define(s, {s.name: value}, "observable") for s, value in found.items()]


def residual(model: Model, label: sp.Expr | None = None) -> sp.Expr:
    """G - f without noise, activations kept by name; of a cluster its label in place of G."""
    g = noiseless_label(model) if label is None else label
    return g - students_at(x.h, model.student.activation)


def risk_expression(model: Model) -> sp.Expr:
    """Population risk E(g - f)^2 / 2, without the noise floor."""
    return sp.Add(*(c.weight * _risk_in(model, c) for c in clusters_of(model)))


def _risk_in(model: Model, cluster: Cluster) -> sp.Expr:
    """The risk in one cluster."""
    square = shared(residual(model, cluster.label) ** 2, model)
    return expectation(cluster.shifted(square)) / 2


def block_definitions() -> list[Definition]:
    """Omega and the residual coefficients c over all fields, by blocks."""
    return [
        define(x.Omega[x.j, x.l], {"students": x.Q[x.j, x.l]}, "block"),
        define(x.Omega[x.j, x.p + x.r], {"overlap": x.M[x.j, x.r]}, "block"),
        define(x.Omega[x.p + x.r, x.j], {"overlap": x.M[x.j, x.r]}, "block"),
        define(x.Omega[x.p + x.r, x.p + x.s], {"teachers": x.P[x.r, x.s]}, "block"),
        *coefficient_definitions(),
    ]


def coefficient_definitions() -> list[Definition]:
    """The residual coefficients c over all fields."""
    return [
        define(x.c[x.j], {"student": -x.a[x.j] / x.p}, "block"),
        define(x.c[x.p + x.r], {"teacher": x.a_star[x.r] / x.k}, "block"),
    ]
