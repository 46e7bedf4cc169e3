"""The update of one neuron by one sample, written out, and its averages as numbers or formulas."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.update.program import is_noisy, program_of
from dmft.equations.views.explicit import Unroller
from dmft.errors import BadParameter
from dmft.gaussian.expectation import Gaussian
from dmft.gaussian.nodes.grid import evaluator
from dmft.gaussian.nodes.rules import NodeRule, exact_dimensions, exact_rule, tensor_rule
from dmft.model import SGD, Model

# Local fields of the neuron and of the teacher; the noise of the label is `symbols.xi`.
H, H_STAR = sp.symbols("h h_star", real=True)
# Accuracy that averages without closed form are computed to.
RTOL = 1e-8
# Trapezoidal nodes an axis of smooth functions of two fields, geometrically convergent.
SMOOTH_POINTS = (192, 384, 768)
# Polynomials up to this degree in the fields are averaged as formulas.
LARGEST_DEGREE = 12


@dataclass(frozen=True)
class Value:
    """An average with its error, 0 where it is exact."""

    value: sp.Expr
    error: float = 0.0


def one_update(model: Model, algorithm: SGD) -> sp.Expr:
    """Psi as an expression in h, h_star and, with label noise, xi."""
    repeat = algorithm.repeat
    readouts = {
        "readout": model.student.readout or (sp.S.One,),
        "teacher_readout": model.teacher.readout or (sp.S.One,),
    }
    unroller = Unroller({"p": 1, "k": 1}, readouts)
    unroller.entries["h", (1,)], unroller.entries["h_star", (1,)] = H, H_STAR
    for d in program_of(model, algorithm, is_noisy(model)).definitions:
        unroller.define_sample(d)
        if d.name == "h_1" and getattr(repeat, "normalised", False):
            # psi/|psi| of one neuron, without the case of its zero.
            sign = sp.sign(unroller.entries["psi_0", (1,)])
            unroller.entries["h_1", (1,)] = H - x.rho * sign
    update: sp.Expr = unroller.entries["psi", (1,)]
    declared = {x.gamma: algorithm.learning_rate, x.Delta: model.label_noise}
    declared |= {x.scalar(name): value for name, value in algorithm.rule.scalars.items()}
    return rational(update.subs(declared))


def rational(expr: sp.Expr) -> sp.Expr:
    """Floats as the decimals that they print, so that polynomials stay exact."""
    return expr.xreplace({f: sp.Rational(str(float(f))) for f in expr.atoms(sp.Float)})


class SampleLaw:
    """Averages over (h, h*, xi) at one overlap m of unit fields."""

    def __init__(self, model: Model, algorithm: SGD, overlap: sp.Expr = sp.S.Zero) -> None:
        self.fields = (H, H_STAR, x.xi) if is_noisy(model) else (H, H_STAR)
        covariance = sp.eye(len(self.fields))
        covariance[0, 1] = covariance[1, 0] = overlap
        self.law = Gaussian(list(self.fields), covariance)
        self.overlap = overlap
        # Total degree of psi; oo for other smooth functions, -1 where there are kinks.
        self.degree = program_of(model, algorithm).degree(x.psi[x.j])

    def average(self, expr: sp.Expr, powers: int, factor: int = 0) -> Value:
        """Average of psi^powers times a polynomial in the fields of the degree `factor`.

        A formula for polynomials that are not large; a number for everything else.
        """
        if not self.degree.is_Integer or self.degree < 0:
            return self.number(expr)
        if self.degree <= LARGEST_DEGREE:
            return Value(sp.factor(self.law.expect(sp.expand(expr))))
        return self.number(expr, powers * int(self.degree) + factor)

    def number(self, expr: sp.Expr, degree: int | None = None) -> Value:
        """A number with its error; `degree` is that of a polynomial."""
        missing = sorted(map(str, expr.free_symbols - set(self.fields)))
        if missing:
            raise BadParameter(
                "averages of this update field have no closed form: substitute numbers for "
                f"{', '.join(missing)}"
            )
        if degree is not None and exact_dimensions(degree + 2) >= len(self.fields):
            return self._on(exact_rule(len(self.fields), degree), expr)
        if self.degree == sp.oo and len(self.fields) == 2:
            for points in SMOOTH_POINTS:
                found = self._on(tensor_rule(2, points), expr)
                if found.error <= RTOL * max(1.0, abs(found.value)):
                    return found
        value = self.law.quad(expr, rtol=RTOL)
        return Value(sp.Float(float(value)), value.error)

    def _on(self, rule: NodeRule, expr: sp.Expr) -> Value:
        """Value on the nodes of a rule, its error the distance to the other rule of its group."""
        function, m, values = evaluator(expr, self.fields), float(self.overlap), []
        for nodes in (rule, *rule.groups):
            u, v, *noise = nodes.normal
            points = np.stack([m * v + np.sqrt(1.0 - m * m) * u, v, *noise])
            values.append(float(nodes.weight @ function(points)))
        return Value(sp.Float(values[0]), abs(values[0] - values[1]))


def check_single(model: Model, algorithm: SGD, teachers: int, instead: str) -> None:
    """Refuse what is not one neuron on the sphere that learns one field."""
    if model.reads_sequences:
        raise BadParameter(f"one neuron and one teacher field, got a sequence model; {instead}")
    wide = model.student.width != 1
    several = teachers != 1 or model.teacher.width != 1
    if wide or several:
        raise BadParameter(
            f"one neuron and one teacher field, got widths {model.student.width} and "
            f"{model.teacher.width}; {instead}"
        )
    if not algorithm.on_sphere:
        raise BadParameter(
            'the neuron keeps its length: declare constraint="sphere" (free lengths move with the '
            f"overlap); {instead}"
        )
