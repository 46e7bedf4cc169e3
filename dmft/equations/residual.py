"""The quadratic term as one average over all fields, where its four-field kernels stay open."""

from __future__ import annotations

from collections.abc import Sequence

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.average import At, Average
from dmft.equations.kernels import Kernel
from dmft.equations.target import target
from dmft.errors import NotClosed
from dmft.model import Committee, Model

Weights = Sequence[tuple[sp.Expr, sp.Indexed]]


def residual_at(model: Model, with_student: bool = True) -> sp.Expr:
    """Residual g - f, or g alone, as sums over neurons of activations kept by name."""
    if isinstance(model.teacher, Committee):
        if not with_student:
            return _teachers(model.teacher.activation)
        return of_committees(model.student.activation, model.teacher.activation)
    student = _students(model.student.activation) if with_student else sp.S.Zero
    return target(model) - student


def of_committees(student: sp.Expr, teacher: sp.Expr) -> sp.Expr:
    """Residual of two committees; one sum over all fields where they share the activation."""
    if student == teacher:
        return sp.Sum(x.c[x.m] * At(student, x.lam[x.m]), (x.m, 1, x.p + x.k))
    return _teachers(teacher) - _students(student)


def _teachers(activation: sp.Expr) -> sp.Expr:
    return sp.Sum(x.a_star[x.r] * At(activation, x.h_star[x.r]), (x.r, 1, x.k)) / x.k


def _students(activation: sp.Expr) -> sp.Expr:
    return sp.Sum(x.a[x.u] * At(activation, x.h[x.u]), (x.u, 1, x.p)) / x.p


def average_square(model: Model, weights: Weights, with_student: bool = True) -> sp.Expr:
    """Return E[prod_i w_i(field_i) (g - f)^2] as one `Average`."""
    named = [At(w, field) for w, field in weights]
    return Average(sp.Mul(*named, residual_at(model, with_student) ** 2))


def closed_or_average(
    expr: sp.Expr, model: Model, weights: Weights, with_student: bool = True
) -> sp.Expr:
    """Return `expr`, E[prod_i w_i(field_i) (g - f)^2] in kernels, or one average if one is open.

    Distributions stay kernels, whose refusal says why: a Dirac delta has no value at a node.
    """
    if expr.has(sp.DiracDelta) or not any(is_open(q) for q in expr.atoms(Kernel)):
        return expr
    return average_square(model, weights, with_student)


def is_open(kernel: Kernel) -> bool:
    """Whether a kernel has neither a closed form nor a table."""
    try:
        kernel.closed()
    except NotClosed:
        return True
    return False
