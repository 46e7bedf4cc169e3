r"""Losses of linear students: functions of one Gaussian combination of the fields.

A linear student sees a sample through its output f alone, which is normal like the fields, with
Cov(f, lambda_i) = sum_u a_u Omega_ui / p. Where labels are y = c + w s with a sign s, any function
of both is

    e(f, y) = [e(f, c + w) + e(f, c - w)]/2 + s [e(f, c + w) - e(f, c - w)]/2,

a sum of products of functions of single fields; where it is a linear teacher's, e(y - f) is a
function of the residual. Averages of these have closed forms or tables in place of nodes
(theory/structured_inputs (15)-(17)): hinge and Huber in error functions and bivariate normals, the
logistic loss in one-dimensional averages, the density of a jump at h* = 0 counted by Stein.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import At
from dmft.equations.definitions import Definition, define
from dmft.equations.update.law import Cluster
from dmft.equations.update.terms import is_random
from dmft.gaussian.closed.switch import to_signs
from dmft.model import FIELD, Model
from dmft.model.loss import LABEL, PREDICTION

# A constant that `together` finds is worth more than two equal halves.
HALF = sp.Rational(1, 2)


@dataclass(frozen=True)
class Line:
    """What a loss sees of a sample: one Gaussian combination, and a sign where the label is one.

    `symbol` is `dmft.equations.symbols.output` or `residual`; `sign` that of the label, in products
    of functions of single fields (of labels that are drawn the mean), and `values` the label where
    it is 1 and -1; `weights` multiply h_u and h_star_r, the second is zero for the output; `noise`
    is the variance of what is added.
    """

    symbol: sp.Symbol
    sign: sp.Expr | None
    weights: tuple[sp.Expr, sp.Expr]
    noise: sp.Expr = sp.S.Zero
    values: tuple[sp.Expr, sp.Expr] = (sp.S.One, sp.S.NegativeOne)

    def form(self, expr: sp.Expr) -> sp.Expr | None:
        """A function of f and y in products; None where it is a function of more."""
        if self.sign is None:
            moved = expr.xreplace({PREDICTION: LABEL - FIELD})
            moved = moved if not moved.has(LABEL) else sp.expand(moved)
            moved = moved if not moved.has(LABEL) else sp.simplify(moved)
            return None if moved.has(LABEL) else At(moved, self.symbol)
        one, other = (expr.xreplace({PREDICTION: FIELD, LABEL: y}) for y in self.values)
        odd = constant_or((one - other) / 2)
        even = one - odd if odd.is_number else constant_or((one + other) / 2)
        return self._at(even) + self.sign * self._at(odd)

    def _at(self, factor: sp.Expr) -> sp.Expr:
        return At(factor, self.symbol) if factor.has_free(FIELD) else factor

    def mean_in(self, cluster: Cluster) -> Definition:
        """Its mean in a cluster."""
        mean = self._sum(cluster.mean_of)
        return define(x.output_mean_in(cluster.number), {"mean": mean}, "intermediate")

    def definitions(self) -> list[Definition]:
        """Its covariances with all fields, and its variance."""
        fields = self._sum(lambda y: x.covariance(x.lam[x.i], y))
        own = self._sum(lambda y: x.line_covariance(self.symbol, x.position(y)))
        return [
            define(x.line_covariance(self.symbol, x.i), {"fields": fields}, "intermediate"),
            define(
                x.line_variance(self.symbol), {"fields": own, "noise": self.noise}, "intermediate"
            ),
        ]

    def _sum(self, value: Callable[[sp.Expr], sp.Expr]) -> sp.Expr:
        """The combination of values of the fields."""
        student, teacher = self.weights
        total = sp.Sum(student * value(x.h[x.u]), (x.u, 1, x.p))
        if teacher == 0:
            return total
        return total + sp.Sum(teacher * value(x.h_star[x.r]), (x.r, 1, x.k))


def constant_or(expr: sp.Expr) -> sp.Expr:
    """An expression as the number that it is, where it is one; else as it stands."""
    if not expr.has_free(FIELD):
        return expr
    smooth = not expr.has(sp.Heaviside, sp.sign, sp.Abs, sp.Max, sp.Min, sp.Piecewise)
    found = sp.simplify(expr) if smooth else sp.expand(expr)
    return expr if found.has_free(FIELD) else found


def line_of(model: Model, label: sp.Expr, noisy: bool, residuals: bool = True) -> Line | None:
    """What losses of a model see of a sample; None where it is more than one combination.

    `label` is without noise, in the fields, and `noisy` where noise is added to it; `residuals`
    is true if it is the teacher's, about mean zero: neither flipped nor in clusters.
    """
    slope = slope_of(model.student.activation)
    if slope is None:
        return None
    weight = slope * x.a[x.u] / x.p
    # A drawn label is +1 or -1 as well: products hold its mean in its place.
    found = (label, sp.S.Zero, sp.S.One) if model.draws_labels else two_valued(label)
    if found is not None and not noisy:
        sign, centre, half = found
        values = (centre + half, centre - half)
        return Line(x.output, sign, (weight, sp.S.Zero), values=values)
    along = _linear_teacher(model) if residuals else None
    if along is None:
        return None
    return Line(x.residual, None, (-weight, along), x.Delta if noisy else sp.S.Zero)


def _linear_teacher(model: Model) -> sp.Expr | None:
    """What multiplies h_star[r] in the label of a linear teacher."""
    teacher = model.teacher
    if teacher.activation is None:
        return None
    slope = slope_of(teacher.activation)
    return None if slope is None else slope * x.a_star[x.r] / x.k


def slope_of(activation: sp.Expr) -> sp.Expr | None:
    """What multiplies the field in a linear activation; None for others, z tanh(z) among them."""
    slope = sp.diff(activation, FIELD)
    linear = not slope.has_free(FIELD) and activation.xreplace({FIELD: sp.S.Zero}) == 0
    return slope if linear else None


def is_sign(expr: sp.Expr) -> bool:
    """Whether an expression is 1 or -1 almost everywhere."""
    if isinstance(expr, At):
        return is_sign(expr.factor)
    if expr.is_Mul:
        return all(is_sign(e) for e in expr.args)
    if isinstance(expr, sp.Piecewise):
        return all(is_sign(e) for e, _ in expr.args)
    return isinstance(expr, sp.sign) or expr in (1, -1)


def sign_of(label: sp.Expr) -> sp.Expr | None:
    """A label that is a sign, in products of functions of single fields; None for others."""
    sign, centre, half = two_valued(label) or (label, sp.S.One, sp.S.Zero)
    return half * sign if centre == 0 and half in (1, -1) else None


def two_valued(label: sp.Expr) -> tuple[sp.Expr, sp.Expr, sp.Expr] | None:
    """The sign s and the numbers c and w of a label c + w s; None for others."""
    if is_sign(label):
        return label, sp.S.Zero, sp.S.One
    written = sp.expand(to_signs(label, [*label.free_symbols]))
    centre, rest = written.as_independent(sp.sign, At, as_Add=True)
    half, sign = rest.as_independent(sp.sign, At, as_Add=False)
    return (sign, centre, half) if is_sign(sign) and centre.is_number and half.is_number else None


def label_of(model: Model) -> sp.Expr | None:
    """The label, without a sum, of a teacher of one unit that writes two values; else None."""
    teacher = model.teacher
    if teacher.activation is None or teacher.width != 1 or model.outputs > 1:
        return None
    (readout,) = teacher.readout or (sp.S.One,)
    written = sp.expand(to_signs(teacher.activation, [FIELD]))
    centre, rest = written.as_independent(FIELD, as_Add=True)
    half, sign = rest.as_independent(FIELD, as_Add=False)
    label = readout * (centre + half * At(sign, x.h_star[1]))
    return label if is_sign(sign) and is_random(label) else None


def jumps_at_first_teacher(cluster: Cluster, label: sp.Expr) -> bool:
    """Whether a label jumps where the first field of the teacher changes its sign, only there."""
    first = x.h_star[1]
    inside = label.xreplace({At(sp.sign(FIELD), first): sp.S.One, sp.sign(first): sp.S.One})
    return cluster.is_centred and label.has(sp.sign) and not inside.has(sp.sign, sp.Heaviside)


def writes_signs(model: Model) -> bool:
    """Whether all labels are 1 or -1, before flips and noise."""
    if model.draws_labels:
        return True
    if model.teacher.activation is not None:
        label = label_of(model)
        return label is not None and is_sign(label)
    return all(sign_of(y) is not None for y, _ in model.teacher.functions)
