r"""The update field psi of an algorithm as a small program over the fields of one sample.

Every one-pass algorithm adds psi_j x/sqrt(d) to neuron j. For a loss l(f, y)

    psi_j = a_j sigma'(h_j) e,   e = -dl/df at the output f and the label y,

and a readout moves along e sigma(h_j). A sample moves its own fields: with |x|^2/d -> 1 a step
along psi x^T/sqrt(d) adds psi to h, so that the field of the last gradient is a function of
(h, h*, xi) alone (theory/batch_reuse D.1; of a cluster |x|^2/d -> s_c),

    psi^(i)_j = a_j sigma'(h^(i)_j) e^(i),   h^(0) = h,
    h^(1) = h +- rho psi^(0)                                  (displaced, psi = psi^(1)),
    h^(i+1) = h^(i) + gamma/(p n_b) psi^(i)                   (repeated, psi = sum_i psi^(i)).

At finite d a step displaces by |x|^2/d, the `stretch` of a sample, times as much. Here stands the
first line; the others, and rules of a user, are in `dmft.equations.update.passes`: the records of
`dmft.model` name their functions. Averages are taken in `dmft.equations.update.moments`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import At
from dmft.equations.definitions import Definition, define
from dmft.equations.restrict.admissible import slope_of
from dmft.equations.update.law import Cluster, by_target, clusters_of, target
from dmft.equations.update.terms import Degrees
from dmft.errors import BadParameter, NotClosed
from dmft.gaussian.derivative import derivative
from dmft.model import FIELD, SGD, GradientFlow, Model
from dmft.model.loss import LABEL, PREDICTION, check_one_output, error_expr, is_of_outputs
from dmft.model.rule import at_use
from dmft.validation import shown

if TYPE_CHECKING:
    from dmft.equations.update.linear_students import Line

PLAIN_LAW = Cluster()
# Parts of the error of a loss whose slope is linear, by what they hold.
LEARNING, INTERACTION = "learning", "interaction"
# Square of outputs that are hardly off zero, where rounding decides about their sign.
LEAST_OUTPUT = sp.Float(2.0**-48)
# The error of a linear student while its powers are collected.
WHOLE = sp.Dummy("error", real=True)


@dataclass(frozen=True)
class Shortened:
    """Moments of psi_j = front_j e chi: E[e chi lambda] = Cov(e, lambda) gain, E[(e chi)^2]."""

    front: sp.Expr
    gain: sp.Expr
    square: sp.Expr
    definitions: tuple[Definition, ...]


@dataclass(frozen=True)
class Program:
    """Random fields of one sample in the order in which they are computed, psi last.

    `definitions` have the role "sample". `label` is without noise; `error` multiplies the last
    gradient, and `parts` is what it holds by name, where it is linear in output and label (else
    empty). A trained `readout` moves along the last error times the activation at the neuron j,
    summed over whole steps; `measures` are those of a rule at j. Averages may have closed forms
    where the program `closes`: gradients at the fields of the sample itself, or a rule that is a
    sum of products. `line` is what a loss sees of a linear student, with `slope` -dl/df in
    `PREDICTION` and `LABEL`; `second` is psi_j psi_l, where psi is a mean over the label's noise
    already or the product is not the simplest form; `shortened` are closed moments of psi = front_j
    e chi, of a normal residual e. `students`: whether it reads the student fields alone, and so
    does all that is averaged beside it. `batch`: samples the signs of whose sum of psi take the
    place of psi; 0 without one.
    """

    definitions: tuple[Definition, ...]
    label: sp.Expr
    error: sp.Expr
    parts: Mapping[str, sp.Expr]
    readout: sp.Expr
    closes: bool = True
    measures: Mapping[str, sp.Expr] = field(default_factory=dict)
    line: Line | None = None
    slope: sp.Expr = sp.S.Zero
    second: sp.Expr | None = None
    shortened: Shortened | None = None
    students: bool = False
    batch: int = 0

    @cached_property
    def table(self) -> dict[sp.Basic, Definition]:
        """Definitions by symbol or indexed base."""
        return by_target(self.definitions)

    @property
    def noisy(self) -> bool:
        """Whether the label's noise is among the fields of a sample."""
        return any(d.expr.has(x.xi) for d in self.definitions)

    @property
    def rounded(self) -> bool:
        """Whether there are kinks that an average over the label's noise has rounded off."""
        return any(e.has(x.Delta) for d in self.definitions for e in d.expr.atoms(sp.erf))

    def inline(self, expr: sp.Expr, part: str | None = None) -> sp.Expr:
        """An expression with what the program defines put in; of the error one part alone.

        The label's noise is left out of parts: it has the mean zero.
        """
        chosen: dict[sp.Basic, sp.Expr] = {}
        if self.line is not None and self.shortened is None:
            # Powers of the error are functions of the same combination.
            chosen[self.error] = WHOLE
        if part is not None:
            chosen[self.error] = self.parts[part].xreplace({x.label: self.label})

        def put_in(e: sp.Expr) -> sp.Expr:
            if e == WHOLE:
                return e
            if e in chosen:
                return put_in(chosen[e])
            base = getattr(e, "base", e) if isinstance(e, sp.Indexed | sp.Symbol) else None
            if base is not None and base in self.table:
                d = self.table[base]
                own = dict(zip(d.indices, getattr(e, "indices", ()), strict=True))
                return put_in(d.expr.xreplace(own))
            if not e.args or isinstance(e, At | sp.Indexed):
                return e
            if isinstance(e, sp.Sum):
                return sp.Sum(put_in(e.function), *e.limits)
            return e.func(*(put_in(a) for a in e.args))

        found = put_in(expr)
        if WHOLE not in chosen.values():
            return found
        powers = {e for e in found.atoms(sp.Pow) if e.base == WHOLE} | {WHOLE}
        return found.xreplace({e: self.seen(self.slope ** e.as_base_exp()[1]) for e in powers})

    def seen(self, expr: sp.Expr) -> sp.Expr:
        """A function of f and y as the line of a linear student has it."""
        found = None if self.line is None else self.line.form(expr)
        if found is None:
            raise NotClosed(f"{expr} is not a function of one Gaussian combination of the fields")
        return found

    def degree(self, expr: sp.Expr, of_label: bool = True) -> sp.Expr:
        """Total degree in the Gaussian variables; oo for other smooth functions, -1 for kinks.

        Without `of_label` the label counts as a constant.
        """
        return self.degrees(of_label).of(expr)

    def degrees(self, of_label: bool = True) -> Degrees:
        """Degrees of what the program defines; without `of_label` the label is a constant."""
        table = self.table
        if not of_label:
            table = {base: d for base, d in table.items() if base != x.label}
        return Degrees(table)


def students_at(fields: sp.IndexedBase, activation: sp.Expr) -> sp.Expr:
    """Output of the student at some fields."""
    return sp.Sum(x.a[x.u] * At(activation, fields[x.u]), (x.u, 1, x.p)) / x.p


def teachers_at(activation: sp.Expr) -> sp.Expr:
    """Label of a committee."""
    return sp.Sum(x.a_star[x.r] * At(activation, x.h_star[x.r]), (x.r, 1, x.k)) / x.k


def noiseless_label(model: Model) -> sp.Expr:
    """g(h*), activations of a committee kept by name."""
    if model.teacher.activation is not None:
        return teachers_at(model.teacher.activation)
    return target(model)


def is_noisy(model: Model) -> bool:
    """Whether labels are noisy; a symbol may be."""
    return not model.label_noise.is_zero


def error_of(algorithm: SGD | GradientFlow) -> sp.Expr:
    """-dl/df in the symbols of output and label."""
    loss = algorithm.loss
    check_one_output(loss)
    if loss == "frobenius":
        raise BadParameter(
            'loss = "frobenius" is the norm of the matrix f - y of a sequence model; a committee '
            'has loss="squared", loss="correlation" or an expression in symbols f and y'
        )
    return error_expr(loss)


def error_is_linear(algorithm: SGD | GradientFlow) -> bool:
    """Whether the error is linear in output and label, as of the squared loss."""
    if is_of_outputs(algorithm.loss):
        return False
    error = error_of(algorithm)
    return bool(error.diff(PREDICTION).is_number and error.diff(LABEL).is_number)


def is_linear(algorithm: SGD | GradientFlow) -> bool:
    """Whether psi is linear in output and label."""
    return algorithm.is_plain and error_is_linear(algorithm)


def check_linear(algorithm: SGD | GradientFlow, what: str) -> None:
    """Refuse losses for which something is not derived."""
    if not algorithm.is_plain:
        raise BadParameter(
            f"{what} are derived for plain SGD and its flow, with losses that are quadratic in f "
            f"and y, got {algorithm.rule!r}"
        )
    if not is_linear(algorithm):
        raise BadParameter(
            f"{what} are derived for losses that are quadratic in f and y, got loss = "
            f"{getattr(algorithm, 'loss', None)}; the ode of small batches takes any loss"
        )


def program_of(
    model: Model,
    algorithm: SGD | GradientFlow,
    noisy: bool = True,
    label: sp.Expr | None = None,
    square: sp.Expr = sp.S.One,
    cluster: Cluster = PLAIN_LAW,
    averaged: bool = False,
) -> Program:
    """Label, errors, displaced fields and updates of one sample, in order.

    The label is the teacher's, or that of the cluster, times -1 where it is flipped; `square` is
    |x|^2/d there. With `averaged`, psi may be its mean over the label's noise, with `second` the
    mean of psi_j psi_l.
    """
    rule = algorithm.rule
    write = at_use(rule.written_by, f"psi of {type(rule).__name__}")
    found = write(Writer(model, algorithm, noisy, label, square, cluster, averaged))
    if not isinstance(found, Program):
        raise BadParameter(
            f"psi of {type(rule).__name__}: {write.__name__} returned {shown(found)}; it must "
            "return a Program, as writer.whole(...) or writer.program() does"
        )
    return replace(found, students=found.students or reads_sign(model, found, cluster))


def reads_sign(model: Model, program: Program, cluster: Cluster) -> bool:
    """Whether a sample reads of the teacher nothing but the sign of its only field."""
    from dmft.equations.update.linear_students import jumps_at_first_teacher

    signs = {At(sp.sign(FIELD), x.h_star[1]): sp.S.One, sp.sign(x.h_star[1]): sp.S.One}
    read = (d.expr.xreplace(signs) for d in program.definitions)
    is_sign = model.blocks is None and model.teacher.width == 1
    is_sign = is_sign and jumps_at_first_teacher(cluster, program.label)
    return is_sign and not (program.batch or any(e.has(x.h_star, x.lam) for e in read))


def stretched_program(model: Model, algorithm: SGD | GradientFlow) -> Program:
    """The program with |x|^2/d as a symbol, of the first cluster where there are several."""
    label = clusters_of(model)[0].label
    return program_of(model, algorithm, is_noisy(model), label=label, square=x.stretch)


def depends_on_length(model: Model, algorithm: SGD | GradientFlow) -> bool:
    """Whether a sample moves its own fields, so that psi holds |x|^2/d."""
    if algorithm.is_plain or model.outputs > 1:  # the gradient of fresh samples, or its signs
        return False
    definitions = stretched_program(model, algorithm).definitions
    return any(d.expr.has(x.stretch) for d in definitions)


def plain(writer: Writer) -> Program:
    """psi_j = a_j sigma'(h_j) e, the gradient at the fields of the sample."""
    if writer.model.outputs > 1:
        from dmft.equations.update.outputs import gradient_definitions, of_students

        done = gradient_definitions(writer.model, writer.algorithm, writer.cluster)
        alone = of_students(writer.model)
        error = x.error_of_class(0)
        return Program(tuple(done), sp.S.Zero, error, {}, sp.S.Zero, False, students=alone)
    found = writer.whole(writer.gradient(x.h, 0, x.psi), x.h)
    if found.parts or (found.line is not None and not writer.model.draws_labels):
        return found
    error = error_of(writer.algorithm)
    moments = writer.means(error, error**2)
    if moments is None:
        return found
    front = x.a[x.j] * At(writer.slope, x.h[x.j])
    second = writer.of_means(front, *moments)
    return replace(found, definitions=tuple(writer.done), second=second)


def over_labels(expr: sp.Expr, mean: sp.Expr) -> sp.Expr:
    """Average of a function of the label over labels +1 and -1 with this mean."""
    one, other = (expr.xreplace({LABEL: sp.Integer(y)}) for y in (1, -1))
    return (one + other) / 2 + mean * (one - other) / 2


def over_noise(expr: sp.Expr) -> sp.Expr | None:
    """Mean of a function of output and label over the label's noise; None where it is open.

    In the result `LABEL` is the label without noise. Kinks and jumps become error functions.
    """
    from dmft.gaussian.closed.product import product_expectation  # losses with noise need it

    # A function of the residual has kinks at numbers.
    factor, mean = sp.expand(expr.xreplace({LABEL: PREDICTION + FIELD})), LABEL - PREDICTION
    if factor.has(PREDICTION):
        factor, mean = expr.xreplace({LABEL: FIELD}), LABEL
    if not factor.has(FIELD):
        return factor
    centre = sp.Dummy("centre", real=True)
    try:
        found = product_expectation([factor], [FIELD], lambda *_: x.Delta, lambda _: centre)
    except NotClosed:
        return None
    # A kink at y = 1/f is infinitely far at f = 0: both sides meet there, although signs jump.
    size = sp.sqrt(PREDICTION**2 + LEAST_OUTPUT)
    smooth = {sp.sign(PREDICTION): PREDICTION / size, 1 / PREDICTION: PREDICTION / size**2}
    terms = (
        term.xreplace(smooth) if term.has(1 / PREDICTION) else term
        for term in sp.Add.make_args(sp.expand_mul(found))
    )
    return sp.Add(*terms).xreplace({centre: mean})


class Writer:
    """Writes the definitions of a program one after the other, of the psi of the record `rule`.

    `square` is |x|^2/d; `label` is without noise, with which it is defined as
    `dmft.equations.symbols.label`; `sigma` and `slope` are the student's activation and its
    derivative; with `averaged`, psi may be a mean over the label's noise.
    """

    def __init__(
        self,
        model: Model,
        algorithm: SGD | GradientFlow,
        noisy: bool,
        label: sp.Expr | None,
        square: sp.Expr,
        cluster: Cluster = PLAIN_LAW,
        averaged: bool = False,
    ) -> None:
        self.square, self.averaged = square, averaged
        self.model, self.algorithm, self.rule = model, algorithm, algorithm.rule
        self.sigma = model.student.activation
        self.slope = derivative(self.sigma)
        # What earlier passes move a trained readout along.
        self.readout = sp.S.Zero
        plain = algorithm.is_plain and not error_is_linear(algorithm)
        own = label if model.outputs == 1 else sp.S.Zero
        if plain and label is None:
            from dmft.equations.update.linear_students import (
                label_of,  # loaded by losses that need it
            )

            own = label_of(model)
        self.label = noiseless_label(model) if own is None else own
        self.label *= cluster.sign
        self.cluster = cluster
        self.noisy = noisy
        self.parts = dict[str, sp.Expr]()
        noise = sp.sqrt(x.Delta) * x.xi if noisy else sp.S.Zero
        self.done: list[Definition] = []
        self.add(x.label, label=self.label + noise)

    def add(self, target_: sp.Expr, **terms: sp.Expr) -> None:
        """Append a definition: of a random number of the sample, or of one at neuron j."""
        self.done.append(define(target_, terms, "sample"))

    def scalar(self, name: str) -> sp.Symbol:
        """Symbol of one of the rule's own numbers."""
        if name not in self.rule.scalars:
            raise BadParameter(f"{self.rule!r} has no scalar {name!r}")
        return x.scalar(name)

    def along(self, error: sp.Expr, fields: sp.IndexedBase) -> sp.Expr:
        """What an error at some fields moves a trained readout along, at neuron j."""
        return error * At(self.sigma, fields[x.j])

    def whole(self, error: sp.Expr, fields: sp.IndexedBase) -> Program:
        """The program whose psi is a gradient: its error and the fields where it was taken."""
        readout = self.readout + self.along(error, fields)
        closes = fields == x.h and not self.readout
        line = None
        if closes and not self.parts and not self.cluster.shape:
            from dmft.equations.update.linear_students import line_of

            line = line_of(self.model, self.label, self.noisy, self.cluster.is_plain)
        slope = sp.S.Zero if line is None else error_of(self.algorithm)
        return Program(
            tuple(self.done), self.label, error, self.parts, readout, closes, line=line, slope=slope
        )

    def program(
        self,
        readout: sp.Expr = sp.S.Zero,
        closes: bool = False,
        measures: Mapping[str, sp.Expr] = MappingProxyType({}),
        second: sp.Expr | None = None,
    ) -> Program:
        """The program of another psi, the last definition.

        A trained readout moves along `readout` at neuron j; with `closes` psi is a sum of products
        of functions of single fields; `second` is psi_j psi_l, such a product.
        """
        done = tuple(self.done)
        return Program(done, self.label, x.label, {}, readout, closes, measures, second=second)

    def means(self, *values: sp.Expr) -> list[sp.Expr] | None:
        """Means over the random part of the label of functions of `PREDICTION` and `LABEL`.

        `LABEL` becomes the mean of labels that are drawn, or the label without noise. None where
        there is nothing random, or a mean is open.
        """
        if self.model.draws_labels:
            return [over_labels(value, LABEL) for value in values]
        if not (self.noisy and self.averaged and is_noisy(self.model)):
            return None
        found = [mean for value in values if (mean := over_noise(value)) is not None]
        return found if len(found) == len(values) else None

    def of_means(self, front: sp.Expr, mean: sp.Expr, square: sp.Expr) -> sp.Expr:
        """Write psi_j = front_j times a mean error; returns the mean of psi_j psi_l."""
        error, second, output = x.error_pass[0], x.error_pass[1], x.output_pass[0]
        self.done = []
        self.add(x.label, label=self.label)
        self.add(output, output=students_at(x.h, self.sigma))
        for symbol, value in ((error, mean), (second, square)):
            if not value.is_number:
                self.add(symbol, error=value.xreplace({PREDICTION: output, LABEL: x.label}))
        self.add(x.psi[x.j], gradient=front * error)
        return front * front.xreplace({x.j: x.l}) * (square if square.is_number else second)

    def gradient(self, fields: sp.IndexedBase, number: int, target_: sp.IndexedBase) -> sp.Expr:
        """Error and gradient at some fields; the symbol of the error."""
        error = self.error_at(fields, number)
        self.add(target_[x.j], gradient=x.a[x.j] * At(slope_of(self.sigma), fields[x.j]) * error)
        return error

    def error_at(self, fields: sp.IndexedBase, number: int) -> sp.Expr:
        """Define -dl/df at some fields, by parts where it is linear."""
        slope = error_of(self.algorithm)
        if slope == LABEL:
            self.parts = {LEARNING: x.label}
            return x.label
        output = students_at(fields, self.sigma)
        error = x.error_pass[number]
        if error_is_linear(self.algorithm):
            own = slope.diff(PREDICTION)
            along = slope.xreplace({PREDICTION: sp.S.Zero, LABEL: x.label})
            self.parts = {LEARNING: along, INTERACTION: own * output}
            self.add(error, error=along + own * output)
            return error
        symbol = x.output_pass[number]
        self.add(symbol, output=output)
        self.add(error, error=slope.xreplace({PREDICTION: symbol, LABEL: x.label}))
        return error
