r"""Infinitely wide students at a finite gamma/p: overlaps of students by those with one teacher.

The quadratic term of SGD correlates the residuals of the students. On the sphere, with quadratic
activations, what it makes of them is one number C for all pairs,

    Q_jl = C M_j M_l  (j != l),   Q_jj = 1,

and a sum over students is p times an average over them. The equations of motion at such overlaps
are read off the symbols of the full equations; that the form stays is checked, not assumed:

    dM_j/dt = M_j (alpha - beta M_j^2),   dC/dt = rate of C,

with alpha, beta and that rate functions of C and of u = <M^2> alone (theory/one_pass F.4,
derivations/infinite_width.py).

dM/dt = M (alpha - beta M^2) from M = sqrt(u_0) z, z ~ N(0, 1), is solved by

    M^2 = X z^2 / (1 + Y z^2),   dX/dt = 2 alpha X,   dY/dt = 2 beta X,   X(0) = u_0,  Y(0) = 0,

and with g = sqrt(Y) z the mean is u = <M^2> = X E[(1 - g^2)/(1 + g^2)^2], by Stein's lemma.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import At, Covariances, Expectation
from dmft.equations.averages.passes import value_of
from dmft.equations.definitions import Definition, define, index_symbol
from dmft.equations.escape.uninformative import At_, Label, Uninformative
from dmft.equations.update.optimiser import step_size
from dmft.equations.update.rates import definitions
from dmft.errors import BadParameter, NotClosed
from dmft.model import FIELD, SGD, GradientFlow, Model

FIRST, SECOND, TEACHER = ("s", 0), ("s", 1), ("t", 0)
# C, u and gamma/p.
coupling, mean_square = sp.symbols("C u", real=True)
rate = sp.Symbol("g", positive=True)
# Names of the moments that the rates must not read begin so.
MOMENT = "u_"
# The field g = sqrt(Y) z.
SATURATED = sp.IndexedBase("g")


def overlap_of(label: Label) -> sp.Symbol:
    """M of one student."""
    return sp.Symbol(f"m_{label[1]}", real=True)


@dataclass(frozen=True)
class Aligned(Uninformative):
    """Values of indexed expressions at Q_jl = C M_j M_l, with one teacher of unit length."""

    def covariance(self, a: Label, b: Label) -> sp.Expr:
        """Covariance of the fields of two neurons."""
        if a == b:
            return sp.S.One
        students = [overlap_of(y) for y in (a, b) if y[0] == "s"]
        return sp.Mul(*students) * (coupling if len(students) == 2 else 1)

    def value(self, expr: sp.Expr, at: At_) -> sp.Expr:
        """Value of an expression; averages are polynomials in the overlaps."""
        if isinstance(expr, sp.Sum):
            parts = []
            for count, inner in self.choices(expr, at):
                others = set(inner.values()) - set(at.values()) - {FIRST, SECOND}
                parts.append(count * averaged(self.value(expr.function, inner), others))
            return sp.Add(*parts)
        if not isinstance(expr, Expectation):
            return super().value(expr, at)

        def cov(first: Any, second: Any) -> sp.Expr:
            return self.covariance(*(at[index_symbol(y.indices[0])] for y in (first, second)))

        closed = sp.expand(value_of(expr, cov))
        if not closed.is_polynomial():
            raise NotClosed(f"{expr} is not a polynomial in the overlaps")
        return closed

    def labels(self, index: sp.Symbol, taken: Sequence[Label]) -> list[tuple[sp.Expr, Label]]:
        """Neurons of the axis of an index; both students that are followed have names."""
        return super().labels(index, [*taken, FIRST, SECOND])

    def limit(self, name: str, *labels: Label) -> sp.Expr:
        """Rate or observable as p grows at fixed gamma/p; other students enter by <M^2>."""
        value = sp.expand(self.rate(name, *labels).subs(x.gamma, rate * x.p))
        if any(term.as_coeff_exponent(x.p)[1] > 0 for term in sp.Add.make_args(value)):
            raise NotClosed(f"the rate of {name} grows with the width")
        kept = sp.expand(value.coeff(x.p, 0))
        if any(symbol.name.startswith(MOMENT) for symbol in kept.free_symbols):
            raise NotClosed(f"the rate of {name} depends on moments of the overlaps beyond <M^2>")
        return kept


def moment(order: int) -> sp.Expr:
    """Mean of M^order over the students."""
    if order == 0:
        return sp.S.One
    return mean_square if order == 2 else sp.Symbol(f"{MOMENT}{order}", real=True)


def averaged(expr: sp.Expr, students: set[Label]) -> sp.Expr:
    """Average over these students, which are independent of each other."""
    for label in sorted(students):
        if label[0] == "s":
            m = overlap_of(label)
            polynomial = sp.Poly(expr, m)
            expr = sp.Add(*(c * moment(order) for (order,), c in polynomial.terms()))
    return expr


@dataclass(frozen=True)
class Reduction:
    """Rates of the closure in C, u and g = gamma/p: dM_j/dt = M_j (alpha - beta M_j^2).

    `coupling_rate` is dC/dt; `loss` is given where it is not the risk and a constant.
    """

    alpha: sp.Expr
    beta: sp.Expr
    coupling_rate: sp.Expr
    risk: sp.Expr
    loss: sp.Expr | None = None


def reduce_aligned(
    definitions: Sequence[Definition], readouts: tuple[sp.Expr, sp.Expr]
) -> Reduction:
    """Read the closure off the definitions of the full equations on the sphere."""
    point = Aligned(definitions, (x.p, sp.S.One), readouts=readouts)
    m, other = overlap_of(FIRST), overlap_of(SECOND)
    moved = sp.Poly(point.limit("M", FIRST, TEACHER), m)
    if not {power for (power,) in moved.monoms()} <= {1, 3}:
        raise NotClosed(f"dM_j/dt = {moved.as_expr()} is not M_j (alpha - beta M_j^2)")
    alpha, beta = moved.coeff_monomial(m), -moved.coeff_monomial(m**3)
    of_product = coupling * m * other * (2 * alpha - beta * (m**2 + other**2))
    rest = sp.expand(point.limit("Q", FIRST, SECOND) - of_product)
    coupling_rate = sp.expand(sp.cancel(rest / (m * other)))
    if coupling_rate.has(m, other):
        raise NotClosed(f"Q_jl = C M_j M_l is not conserved: the remainder is {coupling_rate}")
    own = any(d.name == x.loss.name for d in definitions)
    loss = point.limit(x.loss.name) if own else None
    return Reduction(alpha, beta, coupling_rate, point.limit("risk"), loss)


def aligned_definitions(model: Model, algorithm: SGD | GradientFlow) -> list[Definition]:
    """Infinitely wide limit at finite gamma/p of quadratic students of one teacher unit."""
    what = 'scaling = "wide-high-dimensional" is for'
    if not algorithm.on_sphere:
        raise BadParameter(
            f'{what} students on the sphere (constraint="sphere"): otherwise the lengths are '
            'additional variables; use scaling="high-dimensional"'
        )
    teacher = model.teacher
    if teacher.activation is None or teacher.width != 1 or algorithm.trains_readout:
        raise BadParameter(
            f"{what} a dmft.Committee of one teacher unit and fixed "
            'readouts; use scaling="high-dimensional"'
        )
    readouts = [set(c.readout or (sp.S.One,)) for c in (model.student, teacher)]
    if len(readouts[0]) > 1:
        raise BadParameter(f"equal readouts are needed, got {list(model.student.readout or ())}")
    values = (readouts[0].pop(), readouts[1].pop())
    reduced = reduce_aligned(definitions(model, algorithm, True, x.gamma), values)
    step = step_size(algorithm)
    found = {x.risk: reduced.risk} | ({} if reduced.loss is None else {x.loss: reduced.loss})
    seen = [
        define(symbol, {symbol.name: _at(value, sp.S.One, step)}, "observable")
        for symbol, value in found.items()
    ]
    return [*_definitions(reduced, step), *seen]


def _definitions(reduced: Reduction, step: sp.Expr) -> list[Definition]:
    """The mean of M^2, and the rates of X, Y and C by what they come from."""
    r = x.r
    field = SATURATED[r]
    law = Covariances(sp.Tuple(field, field, x.saturation[r]))
    falling = (1 - FIELD**2) / (1 + FIELD**2) ** 2
    average = Expectation(At(falling, field), law)
    mean = define(x.mean_square[r], {"average": x.variance[r] * average}, "intermediate")
    rates = (
        (x.variance[r], 2 * x.variance[r], reduced.alpha),
        (x.saturation[r], 2 * x.variance[r], reduced.beta),
        (x.coupling[r], sp.S.One, reduced.coupling_rate),
    )
    return [mean, *(define(y, _terms(factor, e, r, step), "rate") for y, factor, e in rates)]


def _terms(factor: sp.Expr, expr: sp.Expr, index: sp.Expr, step: sp.Expr) -> dict[str, sp.Expr]:
    """Drift, noise of the samples and label noise, each times a factor."""
    drift, quadratic = expr.coeff(rate, 0), expr - expr.coeff(rate, 0)
    label = sp.expand(quadratic).coeff(x.Delta, 1) * x.Delta
    parts = {"drift": drift, "sgd_noise": sp.expand(quadratic - label), "label_noise": label}
    return {name: factor * _at(sp.factor(part), index, step) for name, part in parts.items()}


def _at(expr: sp.Expr, index: sp.Expr, step: sp.Expr) -> sp.Expr:
    """Write C, u and the rate of steps over p in the symbols of the equations."""
    return expr.xreplace(
        {coupling: x.coupling[index], mean_square: x.mean_square[index], rate: step / x.p}
    )
