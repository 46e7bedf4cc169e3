r"""The update field psi of an algorithm as a small program over the fields of one sample.

Every one-pass algorithm adds psi_j x/sqrt(d) to neuron j. For a loss l(f, y)

    psi_j = a_j sigma'(h_j) e,   e = -dl/df at the output f and the label y,

and a readout moves along e sigma(h_j). A sample moves its own fields: with |x|^2/d -> 1 a step
along psi x^T/sqrt(d) adds psi to h, so that the field of the last gradient is a function of
(h, h*, xi) alone (batch_reuse.md D.1; of a cluster |x|^2/d -> s_c),

    psi^(i)_j = a_j sigma'(h^(i)_j) e^(i),   h^(0) = h,
    h^(1) = h +- rho psi^(0)                                  (displaced, psi = psi^(1)),
    h^(i+1) = h^(i) + gamma/(p n_b) psi^(i)                   (repeated, psi = sum_i psi^(i)).

At finite d a step displaces by |x|^2/d, the `stretch` of a sample, times as much. This is the only
place where psi stands; its averages are taken in `dmft.equations.update.moments`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import At
from dmft.equations.definitions import Definition, define
from dmft.equations.update.law import target
from dmft.equations.update.terms import in_products
from dmft.errors import BadParameter, NotClosed
from dmft.gaussian.closed.switch import SWITCHES
from dmft.gaussian.derivative import derivative
from dmft.model import FIELD, SGD, Committee, GaussianMixture, GradientFlow, Model, Repeat
from dmft.model.loss import LABEL, PREDICTION, loss_expr
from dmft.model.update import OUTPUT as RULE_OUTPUT
from dmft.model.update import UpdateField

# Passes over a sample that equations are written for.
MOST_PASSES = len(x.psi_pass)
# Parts of the error of a loss whose slope is linear, by what they hold.
LEARNING, INTERACTION = "learning", "interaction"


@dataclass(frozen=True)
class Program:
    """Random fields of one sample in the order in which they are computed, psi last.

    Attributes
    ----------
    definitions : tuple of Definition
        Of the role "sample".
    label : sympy.Expr
        Without noise.
    error : sympy.Expr
        Symbol of the error that multiplies the last gradient.
    parts : mapping
        The last error by what it holds, where it is linear in output and label; else empty.
    readout : sympy.Expr
        What a trained readout moves along at the neuron j: the last error times the activation
        there, summed over whole steps.
    closes : bool
        Whether averages may have closed forms: gradients at the fields of the sample itself, or a
        rule that is a sum of products.
    measures : mapping
        What a rule measures at the neuron j.
    """

    definitions: tuple[Definition, ...]
    label: sp.Expr
    error: sp.Expr
    parts: Mapping[str, sp.Expr]
    readout: sp.Expr
    closes: bool = True
    measures: Mapping[str, sp.Expr] = field(default_factory=dict)

    @cached_property
    def table(self) -> dict[sp.Basic, Definition]:
        """Definitions by symbol or indexed base."""
        return {getattr(d.target, "base", d.target): d for d in self.definitions}

    @property
    def noisy(self) -> bool:
        """Whether the label's noise is among the fields of a sample."""
        return any(d.expr.has(x.xi) for d in self.definitions)

    def inline(self, expr: sp.Expr, part: str | None = None) -> sp.Expr:
        """An expression with what the program defines put in; of the error one part alone.

        The label's noise is left out of parts: it has the mean zero.
        """
        chosen: dict[sp.Basic, sp.Expr] = {}
        if part is not None:
            chosen[self.error] = self.parts[part].xreplace({x.label: self.label})

        def put_in(e: sp.Expr) -> sp.Expr:
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

        return put_in(expr)

    def degree(self, expr: sp.Expr) -> sp.Expr:
        """Total degree in the Gaussian variables; oo for other smooth functions, -1 for kinks."""
        return _Degrees(self.table).of(expr)


def students_at(fields: sp.IndexedBase, activation: sp.Expr) -> sp.Expr:
    """Output of the student at some fields."""
    return sp.Sum(x.a[x.u] * At(activation, fields[x.u]), (x.u, 1, x.p)) / x.p


def teachers_at(activation: sp.Expr) -> sp.Expr:
    """Label of a committee."""
    return sp.Sum(x.a_star[x.r] * At(activation, x.h_star[x.r]), (x.r, 1, x.k)) / x.k


def noiseless_label(model: Model) -> sp.Expr:
    """g(h*), activations of a committee kept by name."""
    if isinstance(model.teacher, Committee):
        return teachers_at(model.teacher.activation)
    return target(model)


def is_noisy(model: Model) -> bool:
    """Whether labels are noisy; a symbol may be."""
    return not model.label_noise.is_zero


def error_of(algorithm: SGD | GradientFlow) -> sp.Expr:
    """-dl/df in the symbols of output and label.

    Raises
    ------
    BadParameter
        For the norm ||f - y|| as a loss, which belongs to sequence models.
    """
    loss = getattr(algorithm, "loss", "squared")
    if loss == "frobenius":
        raise BadParameter(
            'loss = "frobenius" is the norm of the matrix f - y of a sequence model; a committee '
            'has loss="squared", loss="correlation" or an expression in symbols f and y'
        )
    return sp.expand(-sp.diff(loss_expr(loss), PREDICTION))


def is_linear(algorithm: SGD | GradientFlow) -> bool:
    """Whether the error is linear in output and label, as of the squared loss."""
    if isinstance(algorithm, UpdateField):
        return False
    error = error_of(algorithm)
    return bool(error.diff(PREDICTION).is_number and error.diff(LABEL).is_number)


def check_linear(algorithm: SGD | GradientFlow, what: str) -> None:
    """Refuse losses for which something is not derived.

    Raises
    ------
    BadParameter
    """
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
) -> Program:
    """Label, errors, displaced fields and updates of one sample, in order.

    The label is the teacher's, or that of a cluster; `square` is |x|^2/d there.

    Raises
    ------
    BadParameter
        For gradients of an activation that jumps at displaced fields, or too many passes.
    """
    return _Writer(model, algorithm, noisy, label, square).program()


class _Writer:
    """Writes the definitions of a program one after the other."""

    def __init__(
        self,
        model: Model,
        algorithm: SGD | GradientFlow,
        noisy: bool,
        label: sp.Expr | None,
        square: sp.Expr,
    ) -> None:
        self.square = square
        self.model, self.algorithm = model, algorithm
        self.sigma = model.student.activation
        self.slope = derivative(self.sigma)
        self.error = LABEL if isinstance(algorithm, UpdateField) else error_of(algorithm)
        # What earlier passes move a trained readout along.
        self.readout = sp.S.Zero
        self.label = noiseless_label(model) if label is None else label
        self.parts = dict[str, sp.Expr]()
        noise = sp.sqrt(x.Delta) * x.xi if noisy else sp.S.Zero
        self.done: list[Definition] = []
        self.add(x.label, label=self.label + noise)

    def add(self, target_: sp.Expr, **terms: sp.Expr) -> None:
        """Append a definition."""
        self.done.append(define(target_, terms, "sample"))

    def program(self) -> Program:
        """All definitions."""
        if isinstance(self.algorithm, UpdateField):
            return self.rule(self.algorithm)
        repeat = getattr(self.algorithm, "repeat", None)
        if repeat is None:
            return self.whole(self.gradient(x.h, 0, x.psi), x.h)
        if self.slope.has(sp.DiracDelta):
            raise BadParameter(
                f"the student's activation {self.sigma} jumps: its gradient at displaced fields is "
                "no function; take an activation without jumps"
            )
        write = self.repeated if isinstance(repeat, Repeat) else self.displaced
        return self.whole(*write(repeat))

    def whole(self, error: sp.Expr, fields: sp.IndexedBase) -> Program:
        """The program with its last error and the fields where that was taken."""
        readout = self.readout + error * At(self.sigma, fields[x.j])
        closes = not any(d.name == str(x.h_pass[1].label) for d in self.done)
        return Program(tuple(self.done), self.label, error, self.parts, readout, closes)

    def rule(self, own: UpdateField) -> Program:
        """The rule of a user."""
        h, *stars, y = own.fields
        width = self.model.teacher.width
        if width != len(stars):
            raise BadParameter(
                f"fields = {own.fields} has {len(stars)} teacher fields between h and y, the "
                f"model's teacher has {width}"
            )
        place = {h: x.h[x.j]} | {s: x.h_star[r] for r, s in enumerate(stars, start=1)}
        written = [own.written(e, self.slope) for e in (own.psi, *(e for _, e in own.measures))]
        if any(e.has(sp.DiracDelta) for e in written):
            raise BadParameter(
                f"the student's activation {self.sigma} jumps: it has no slope for {own.psi}"
            )
        if any(e.has(RULE_OUTPUT) for e in written):
            self.add(x.output_pass[0], output=students_at(x.h, self.sigma))
        rest = {y: x.label, RULE_OUTPUT: x.output_pass[0]}
        # Without noise the label is a function of the teacher fields, as those of the rule are.
        known = {y: self.label_of(stars)} if not is_noisy(self.model) else {}

        def closed(e: sp.Expr) -> sp.Expr | None:
            for form in dict.fromkeys((e.xreplace(known), e)):
                try:
                    return in_products(form, place, rest)
                except NotClosed:
                    continue
            return None

        forms = [closed(e) for e in written]
        plain = [e.xreplace(place | rest) for e in written]
        body, *measured = (p if f is None else f for f, p in zip(forms, plain, strict=True))
        self.add(x.psi[x.j], update=body)
        return Program(
            definitions=tuple(self.done),
            label=self.label,
            error=x.label,
            parts={},
            readout=sp.S.Zero,
            closes=forms[0] is not None,
            measures={n: e for (n, _), e in zip(own.measures, measured, strict=True)},
        )

    def label_of(self, stars: Sequence[sp.Symbol]) -> sp.Expr:
        """The label in other symbols of the teacher fields."""
        teacher = self.model.teacher
        if isinstance(teacher, GaussianMixture):
            place = {x.h_star[r]: s for r, s in enumerate(stars, start=1)}
            return self.label.xreplace(place)
        if not isinstance(teacher, Committee):
            return teacher.expr.xreplace(dict(zip(teacher.fields, stars, strict=True)))
        readout = teacher.readout or (sp.S.One,) * len(stars)
        each = (teacher.activation.xreplace({FIELD: s}) for s in stars)
        return sp.Add(*(a * e for a, e in zip(readout, each, strict=True))) / len(stars)

    def gradient(self, fields: sp.IndexedBase, number: int, target_: sp.IndexedBase) -> sp.Expr:
        """Error and gradient at some fields; the symbol of the error."""
        error = self.error_at(fields, number)
        self.add(target_[x.j], gradient=x.a[x.j] * At(self.slope, fields[x.j]) * error)
        return error

    def error_at(self, fields: sp.IndexedBase, number: int) -> sp.Expr:
        """Define -dl/df at some fields, by parts where it is linear."""
        if self.error == LABEL:
            self.parts = {LEARNING: x.label}
            return x.label
        output = students_at(fields, self.sigma)
        error = x.error_pass[number]
        if is_linear(self.algorithm):
            own = self.error.diff(PREDICTION)
            along = self.error.xreplace({PREDICTION: sp.S.Zero, LABEL: x.label})
            self.parts = {LEARNING: along, INTERACTION: own * output}
            self.add(error, error=along + own * output)
            return error
        symbol = x.output_pass[number]
        self.add(symbol, output=output)
        self.add(error, error=self.error.xreplace({PREDICTION: symbol, LABEL: x.label}))
        return error

    def repeated(self, repeat: Repeat) -> tuple[sp.Expr, sp.IndexedBase]:
        """Whole steps on one sample; error and fields of the last."""
        if repeat.times > MOST_PASSES:
            raise BadParameter(
                f"equations are written for at most {MOST_PASSES} passes over a sample, got "
                f"{repeat}; dmft.simulate runs any number"
            )
        assert isinstance(self.algorithm, SGD)
        step = self.square * x.gamma / (x.p * self.algorithm.batch_size)
        fields, error = x.h, x.label
        for number in range(repeat.times):
            error = self.gradient(fields, number, x.psi_pass[number])
            if number + 1 < repeat.times:
                self.readout += error * At(self.sigma, fields[x.j])
                moved = fields[x.j] + step * x.psi_pass[number][x.j]
                fields = x.h_pass[number + 1]
                self.add(fields[x.j], moved=moved)
        total = sp.Add(*(x.psi_pass[number][x.j] for number in range(repeat.times)))
        self.add(x.psi[x.j], update=total)
        return error, fields

    def displaced(self, repeat: sp.Basic) -> tuple[sp.Expr, sp.IndexedBase]:
        """Gradients where a step on the same sample leads; error and fields there."""
        self.gradient(x.h, 0, x.psi_pass[0])
        scale = repeat.sign * x.rho * self.square
        if repeat.normalised:
            square = sp.Sum(x.psi_pass[0][x.u] ** 2, (x.u, 1, x.p))
            # Where the gradient vanishes nothing is displaced, whatever stands below.
            length = sp.Piecewise((1, sp.Eq(x.psi_square, 0)), (sp.sqrt(x.psi_square), True))
            self.add(x.psi_square, square=square)
            self.add(x.psi_length, length=length)
            scale /= sp.sqrt(self.square) * x.psi_length
        self.add(x.h_pass[1][x.j], moved=x.h[x.j] + scale * x.psi_pass[0][x.j])
        return self.gradient(x.h_pass[1], 1, x.psi), x.h_pass[1]


class _Degrees:
    """Total degrees of expressions in the fields and the noise of one sample."""

    def __init__(self, table: Mapping[sp.Basic, Definition]) -> None:
        self.table = table
        self.known: dict[sp.Basic, sp.Expr] = {}

    def of(self, e: sp.Expr) -> sp.Expr:
        """Degree, oo for smooth functions without one, -1 where there are kinks."""
        if isinstance(e, sp.Indexed | sp.Symbol):
            return self.of_symbol(getattr(e, "base", e))
        if isinstance(e, At):
            return self.composed(e.factor, (FIELD,), self.of(e.field))
        if isinstance(e, sp.Sum):
            return self.of(e.function)
        if e.is_Add or e.is_Mul:
            parts = [self.of(a) for a in e.args]
            if -1 in parts:
                return sp.Integer(-1)
            return sp.Max(*parts) if e.is_Add else sp.Add(*parts)
        if e.is_Pow and e.exp.is_Integer and e.exp > 0:
            inside = self.of(e.base)
            return inside if inside < 0 else inside * e.exp
        atoms = sorted(e.atoms(sp.Indexed, sp.Symbol), key=str)
        inside = [self.of(a) for a in atoms]
        if -1 in inside:
            return sp.Integer(-1)
        largest = max(inside, default=sp.S.Zero)
        return sp.S.Zero if largest == 0 else self.composed(e, tuple(atoms), largest)

    def of_symbol(self, base: sp.Basic) -> sp.Expr:
        """Degree of a field or of what the program defines; constants have 0."""
        if base in (x.h, x.h_star, x.lam, x.xi):
            return sp.S.One
        if base not in self.table:
            return sp.S.Zero
        if base not in self.known:
            self.known[base] = self.of(self.table[base].expr)
        return self.known[base]

    def composed(self, function: sp.Expr, fields: tuple[sp.Basic, ...], inside: sp.Expr) -> sp.Expr:
        """Degree of a function of variables of the degree `inside`."""
        if inside < 0 or function.has(*SWITCHES):
            return sp.Integer(-1)
        if function.is_polynomial(*fields):
            return inside * sp.Poly(function, *fields).total_degree()
        return sp.oo
