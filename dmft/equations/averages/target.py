"""The labels of a model in the local fields of the equations."""

from __future__ import annotations

import sympy as sp

from dmft.equations import symbols as x
from dmft.model import FIELD, Committee, Model, MultiIndex


def target(model: Model) -> sp.Expr:
    """Noiseless label: a sum over h_star[r], or g of h_star[1], ..., h_star[k].

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z1, z2 = sp.symbols("z1 z2", real=True)
    >>> student = dmft.Committee(z1**2, width=1)
    >>> target(dmft.Model(student, dmft.MultiIndex(z1 * z2, [z1, z2])))
    h_star[1]*h_star[2]
    """
    teacher = model.teacher
    if isinstance(teacher, Committee):
        body = x.a_star[x.r] * teacher.activation.xreplace({FIELD: x.h_star[x.r]})
        return sp.Sum(body, (x.r, 1, x.k)) / x.k
    assert isinstance(teacher, MultiIndex), "clusters have labels of their own"
    return teacher.expr.xreplace({z: x.h_star[r] for r, z in enumerate(teacher.fields, start=1)})
