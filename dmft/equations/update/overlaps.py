r"""What an update field does to the overlaps: named parts of its moments.

    b_ji = E[psi_j lambda_i],   S_jl = E[psi_j psi_l],   A_j = E[e sigma(h_j)],

of which maps, differential equations, wide limits and readouts are assemblies (theory/one_pass A.0,
A.1, B.2). Where the error is linear in output and label, b has the parts "learning" (label) and
"interaction" (output), and S those of the sampled gradient and of the label's noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import Expectation
from dmft.equations.averages.passes import lower
from dmft.equations.definitions import Definition, define
from dmft.equations.update.law import Cluster, clusters_of, laws_of, mean_definitions
from dmft.equations.update.moments import Case, expectation, shared, together
from dmft.equations.update.optimiser import block_definitions
from dmft.equations.update.program import (
    INTERACTION,
    LEARNING,
    Program,
    is_linear,
    is_noisy,
    noiseless_label,
    over_labels,
    over_noise,
    program_of,
    students_at,
)
from dmft.errors import NotClosed
from dmft.model import SGD, GradientFlow, Model
from dmft.model.loss import LABEL, PREDICTION, loss_expr

if TYPE_CHECKING:
    from dmft.equations.update.linear_students import Line

UPDATE = "update"
# What rows of constant length take from the rates of Q and M: Phi is the rate of free rows.
ON_SPHERE = {
    x.Q: -x.Q[x.j, x.l] * (x.Phi[x.j, x.j] + x.Phi[x.l, x.l]) / 2,
    x.M: -x.M[x.j, x.r] * x.Phi[x.j, x.j] / 2,
}
# Where each part of b stands.
BASES = {LEARNING: x.learning, INTERACTION: x.interaction, UPDATE: x.b}


@dataclass(frozen=True)
class Moments:
    """Moments of the update field of a model under an algorithm, by named part.

    Averages are over the law of the inputs: a sum over its clusters. With `averaged`, psi may be
    its mean over the label's noise, as moments allow.
    """

    model: Model
    algorithm: SGD | GradientFlow
    averaged: bool = True

    @cached_property
    def noise_apart(self) -> bool:
        """Whether psi is linear in the label's noise, which is then averaged over by hand."""
        return is_linear(self.algorithm)

    @cached_property
    def cases(self) -> tuple[Case, ...]:
        """Laws of the fields with their update fields."""
        return tuple(Case(c, self._program(c)) for c in laws_of(self.model))

    def _program(self, cluster: Cluster) -> Program:
        """The update field; without noise where noise would only cost a dimension of the nodes."""
        noisy = self.noise_apart or is_noisy(self.model)
        label, square = cluster.label, cluster.square
        return program_of(self.model, self.algorithm, noisy, label, square, cluster, self.averaged)

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

    @property
    def powers(self) -> tuple[sp.Expr, sp.Expr]:
        """Powers of the variance of inputs that drift and noise have beside their averages.

        Signs of the inputs are x_i over their deviation in the drift, and of square one.
        """
        signs = getattr(self.algorithm, "scale", None) == "sign"
        return (-sp.S.Half, sp.S.Zero) if signs else (sp.S.Zero, sp.S.One)

    def over(self, value: Callable[[Case], sp.Expr], power: sp.Expr = sp.S.Zero) -> sp.Expr:
        """Sum over the clusters of w_c times a value, and the variance of inputs to a power."""
        laws = [(c.cluster.weight * c.cluster.variance**power, c) for c in self.cases]
        values = [(weight, c.cluster.own(value(c))) for weight, c in laws]
        if self.model.flips:
            return together(values)
        return sp.Add(*(weight * value for weight, value in values))

    def average(
        self,
        case: Case,
        expr: sp.Expr,
        close: Callable[[sp.Expr], sp.Expr],
        whole: Callable[[sp.Expr], sp.Expr] | None = None,
    ) -> sp.Expr:
        """Closed average of an expression in psi, else one over a sample's fields (`whole`)."""
        if case.program.closes:
            try:
                return _closed(close(case.inline(expr)))
            except NotClosed:
                pass
        return (case.whole if whole is None else whole)(expr)

    @cached_property
    def drifts(self) -> dict[str, sp.Expr]:
        """Parts of E[psi_j lambda_i]."""
        psi = x.psi[x.j]
        if not self.parts:
            if all(c.program.shortened for c in self.cases):
                return {UPDATE: self.over(_shortened_drift)}
            if self.program.batch:
                return {UPDATE: self.of_batch[1]}
            whole = self.over(
                lambda c: self.average(c, psi, c.drift, c.whole_drift), self.powers[0]
            )
            return {UPDATE: whole}

        def part(name: str) -> sp.Expr:
            return self.over(lambda c: c.drift(c.inline(psi, name)))

        # The sum over other students reads better over l, which is free here.
        return {name: part(name).xreplace({x.u: x.l}) for name in self.parts}

    @cached_property
    def of_batch(self) -> tuple[list[Definition], sp.Expr, sp.Expr]:
        """What moments of signs of a batch need, their b and their S."""
        from dmft.equations.update.adaptive_signs import moments_of_batch

        return moments_of_batch(self.model, self.algorithm, self.cases, self.program.batch)

    def drift_definitions(self) -> list[Definition]:
        """Blocks, random fields of a sample, and the parts of b."""
        entries = [
            define(self.bases[name][x.j, x.i], {name: e}, "intermediate")
            for name, e in self.drifts.items()
        ]
        needed = self.of_batch[0] if self.program.batch else []
        return [*block_definitions(), *self.sample_definitions(), *needed, *entries]

    def sample_definitions(self) -> list[Definition]:
        """Random fields of a sample, and the means of the fields."""
        samples = [d for case in self.cases for d in case.definitions()]
        return [*mean_definitions(self.model), *self.line_definitions(), *samples]

    def line_definitions(self) -> list[Definition]:
        """Variances and covariances of what losses see of linear students."""
        found = {c.program.line.symbol: c.program.line for c in self.cases if c.program.line}
        if self.error_rate is not None:
            found[x.output] = self.error_rate[0]
        result = [d for line in found.values() for d in line.definitions()]
        for c in self.cases if x.output in found else ():
            if not c.cluster.is_centred:
                result.append(found[x.output].mean_in(c.cluster))
        first = self.program.shortened
        return [*result, *(first.definitions if first else ())]

    @cached_property
    def sampled(self) -> sp.Expr:
        """E[psi_j psi_l |x|^2/d], without the label's noise where that stands apart."""
        square = x.psi[x.j] * x.psi[x.l]
        if self.program.batch:
            return self.of_batch[2]
        if self.program.second is not None or not self.parts:
            return self.over(lambda c: self._square(c, square), self.powers[1])

        def noiseless(c: Case) -> sp.Expr:
            whole = c.program.inline(square).xreplace({x.xi: sp.S.Zero})
            return expectation(c.cluster.shifted(shared(whole, self.model)))

        return self.over(noiseless, self.powers[1])

    def _square(self, case: Case, square: sp.Expr) -> sp.Expr:
        """E[psi_j psi_l] in one cluster."""
        program = case.program
        if program.shortened is not None:
            front = program.shortened.front
            return front * front.xreplace({x.j: x.l}) * program.shortened.square
        if program.line is not None:
            second = program.second or square
            return self.average(case, square, expectation, lambda _: case.whole(second))
        return self.average(case, program.second or square, expectation)

    @cached_property
    def label_noise(self) -> sp.Expr:
        """What the label's noise adds to `sampled`; zero where it is part of that.

        Labels that are drawn have the variance 1 - E[y | x]^2.
        """
        if not (self.parts and self.program.noisy):
            return sp.S.Zero

        def slopes(c: Case) -> sp.Expr:
            slope = c.inline(x.psi[x.j] / c.program.error)
            return expectation(slope * slope.xreplace({x.j: x.l}))

        total = x.Delta * self.over(slopes, self.powers[1])
        if self.model.draws_labels:

            def drawn(c: Case) -> sp.Expr:
                slope = c.inline(x.psi[x.j] / c.program.error)
                variance = c.cluster.shifted(1 - sp.expand_mul(c.program.label**2))
                return expectation(slope * slope.xreplace({x.j: x.l}) * variance)

            total += self.over(drawn, self.powers[1])
        return self.share_of_label**2 * total

    @property
    def share_of_label(self) -> sp.Expr:
        """What multiplies the label in the error: 1 for the losses that have a name."""
        return self.program.parts[LEARNING].expand().coeff(x.label)

    def quadratic(self, prefactor: sp.Expr) -> dict[str, sp.Expr]:
        """A prefactor times S, by named term."""
        return {"sgd_noise": prefactor * self.sampled, "label_noise": prefactor * self.label_noise}

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
        given = self.algorithm.loss
        if self.model.outputs > 1:
            from dmft.equations.update.outputs import loss_value

            def cost(c: Case) -> sp.Expr:
                value = loss_value(self.model, self.algorithm, c.cluster)
                return Expectation(c.named(value), c.law_of(value))

            return [define(x.loss, {"loss": self.over(cost)}, "observable")]
        # A flow has no samples, whose labels would be random.
        random = (self.model.flips or self.model.draws_labels) and not self.algorithm.is_flow
        if given not in (None, "squared") or (given == "squared" and random):
            output = x.output_pass[0]
            if output not in self.program.table:
                output = students_at(x.h, self.model.student.activation)
            loss = loss_expr(given)
            value = self._over_label(loss).xreplace({PREDICTION: output, LABEL: x.label})
            found[x.loss] = self.over(lambda c: self.average(c, value, _of_line(c, loss)))
        if self.error_rate is not None:
            found[x.error_rate] = self.error_rate[1]
        return [define(s, {s.name: value}, "observable") for s, value in found.items()]

    def _over_label(self, loss: sp.Expr) -> sp.Expr:
        """A loss as a function of the label that the program defines."""
        if self.model.draws_labels:
            return over_labels(loss, LABEL)
        if self.program.noisy or not is_noisy(self.model):
            return loss
        found = over_noise(loss)
        return loss.xreplace({LABEL: LABEL + sp.sqrt(x.Delta) * x.xi}) if found is None else found

    @cached_property
    def error_rate(self) -> tuple[Line, sp.Expr] | None:
        """The output of a linear student and how often its sign is wrong; None on nodes."""
        if not has_signs(self.model):
            return None
        found = closed_error_rate(self.model)
        try:
            return found and (found[0], _closed(found[1]))
        except NotClosed:  # it is computed on nodes after a run
            return None


def closed_error_rate(model: Model) -> tuple[Line, sp.Expr] | None:
    """The output f of a linear student and P(y f < 0) = E[1 - y sign f]/2, y = +-1 before flips.

    None for other students and labels: see `dmft.equations.risk`.
    """
    from dmft.equations.update.linear_students import line_of, writes_signs  # few models have signs

    if not writes_signs(model):
        return None
    total, line = sp.S.Zero, None
    for c in clusters_of(model):
        line = None if c.shape else line_of(model, sign_in(model, c), False, False)
        if line is None:
            return None
        agree = line.form(LABEL * sp.sign(PREDICTION))
        assert agree is not None
        total += c.weight * expectation(c.shifted(sp.expand((1 - agree) / 2)))
    assert line is not None
    return line, total


def sign_in(model: Model, cluster: Cluster) -> sp.Expr:
    """The label in a cluster, as a sign."""
    from dmft.equations.update.linear_students import label_of

    if cluster.label is not None:
        return cluster.label
    own = label_of(model)
    return noiseless_label(model) if own is None else own


def _shortened_drift(case: Case) -> sp.Expr:
    """E[psi_j lambda_i] of shortened gradients of a normal residual."""
    shortened, line = case.program.shortened, case.program.line
    assert shortened is not None
    assert line is not None
    return shortened.front * shortened.gain * x.line_covariance(line.symbol, x.i)


# Functions whose values may be signs.
STEPS = (sp.sign, sp.Heaviside, sp.Piecewise)


def has_signs(model: Model) -> bool:
    """Whether labels may all be signs: a look that loads nothing."""
    functions = [f for f, _ in model.teacher.functions]
    if model.outputs > 1:
        return False
    if model.draws_labels:
        return True
    if model.label_clusters is not None:
        return any(y.is_number or y.has(*STEPS) for y in functions)
    return any(f.has(*STEPS) for f in functions)


def _closed(value: sp.Expr) -> sp.Expr:
    """A value whose averages of what a loss sees are not on nodes: these have the fields."""
    for q in value.atoms(Expectation):
        how = lower(q).how
        if how == "open" or (how != "value" and q.has(*x.LINES)):
            raise NotClosed(lower(q).refusal or f"{q} needs nodes")
    return value


def _of_line(case: Case, loss: sp.Expr) -> Callable[[sp.Expr], sp.Expr]:
    """Average of a function of output and label, by what a linear student shows of them."""
    if case.program.line is None:
        return expectation
    return lambda _: expectation(case.cluster.shifted(case.program.seen(loss)))


@dataclass(frozen=True)
class Factors:
    """Factors of drift and noise of an optimiser, and the `moments` of the psi that they multiply.

    `drift` is alpha at neuron j, `noise` gamma/(p n_b) nu S by named term, at neurons j and l; then
    intermediates, rates of accumulators, and `inside`, what the gradient of neuron j is multiplied
    with, its decay included.
    """

    moments: Moments
    drift: sp.Expr
    noise: Mapping[str, sp.Expr]
    definitions: list[Definition] = field(default_factory=list)
    rates: list[Definition] = field(default_factory=list)
    inside: sp.Expr = sp.S.One

    def at(self, neuron: sp.Expr) -> sp.Expr:
        """Alpha at a neuron."""
        return self.drift.xreplace({x.j: neuron})


def plain_factors(model: Model) -> tuple[sp.Expr, sp.Expr]:
    """Alpha and nu of SGD, up to what differs between clusters, which is part of their moments."""
    if model.spectrum is None:
        return sp.S.One, sp.S.One
    if model.clusters is not None:
        return sp.S.One, x.block_fraction[x.block]
    return x.eigenvalue[x.block], x.noise_factor[x.block]


def residual(model: Model, label: sp.Expr | None = None) -> sp.Expr:
    """G - f without noise, activations kept by name; of a cluster its label in place of G."""
    g = noiseless_label(model) if label is None else label
    return g - students_at(x.h, model.student.activation)


def risk_expression(model: Model) -> sp.Expr:
    """Population risk E(g - f)^2 / 2, without the noise floor."""
    if model.outputs > 1:
        from dmft.equations.update.outputs import risk_of_classes

        return risk_of_classes(model)
    return sp.Add(*(c.weight * c.own(_risk_in(model, c)) for c in clusters_of(model)))


def _risk_in(model: Model, cluster: Cluster) -> sp.Expr:
    """The risk in one cluster."""
    square = shared(residual(model, cluster.label) ** 2, model)
    return expectation(cluster.shifted(square)) / 2
