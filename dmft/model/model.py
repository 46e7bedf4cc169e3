"""A teacher-student model."""

from __future__ import annotations

from dataclasses import dataclass

import sympy as sp

from dmft.errors import BadParameter
from dmft.model.algorithm import as_parameter
from dmft.model.multi_index import MultiIndex
from dmft.model.network import Committee


@dataclass(frozen=True)
class Model:
    """Student learning the labels y = f*(x) + sqrt(label_noise) xi, with x ~ N(0, I_d).

    Parameters
    ----------
    student : Committee
    teacher : Committee or MultiIndex
    label_noise : float or sympy.Expr
        Variance Delta >= 0 of the label noise.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.Symbol("z", real=True)
    >>> square = dmft.Committee(z**2, width=1)
    >>> dmft.Model(square, square).label_noise
    0
    """

    student: Committee
    teacher: Committee | MultiIndex
    label_noise: sp.Expr = sp.S.Zero

    def __post_init__(self) -> None:
        if not isinstance(self.student, Committee):
            raise BadParameter(f"student must be a dmft.Committee, got {self.student!r}")
        if not isinstance(self.teacher, Committee | MultiIndex):
            raise BadParameter(
                f"teacher must be a dmft.Committee or a dmft.MultiIndex, got {self.teacher!r}"
            )
        object.__setattr__(self, "label_noise", as_parameter(self.label_noise, "label_noise"))

    @property
    def matched(self) -> bool:
        """Whether student and teacher share the activation, so that fields form one basis."""
        teacher = self.teacher
        return isinstance(teacher, Committee) and self.student.activation == teacher.activation

    @property
    def parameters(self) -> set[sp.Symbol]:
        """Symbols of both networks that take values at run time."""
        return self.student.parameters | self.teacher.parameters
