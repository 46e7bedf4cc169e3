"""A teacher-student model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import ArrayLike, NDArray

from dmft.checks import checked
from dmft.errors import BadParameter, ShapeMismatch
from dmft.model.algorithm import as_parameter
from dmft.model.encoding import Encoding, as_encoding
from dmft.model.multi_index import MultiIndex
from dmft.model.network import Committee
from dmft.model.sequence import SequenceNetwork, TokenFunction

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Model:
    """Student learning the labels y = f*(x) + sqrt(label_noise) xi, with x ~ N(0, I_d).

    With a sequence student it is a `SequenceModel`, which also takes ``encoding=``.

    Parameters
    ----------
    student : Committee; of a sequence Attention, SequenceNetwork or SequenceTarget
    teacher : Committee or MultiIndex; of a sequence as its students
    label_noise : float or sympy.Expr
        Variance Delta >= 0 of the label noise.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.Symbol("z", real=True)
    >>> square = dmft.Committee(z**2, width=1)
    >>> dmft.Model(square, square).label_noise
    0
    >>> dmft.Model(dmft.Attention(2), dmft.Attention(2), encoding=1).encoding.means
    (e, -e)
    """

    student: Committee
    teacher: Committee | MultiIndex
    label_noise: sp.Expr = sp.S.Zero

    def __new__(
        cls, student: Any, teacher: Any, label_noise: Any = sp.S.Zero, encoding: Any = None
    ) -> Model:
        """Make the record of a sequence model where the student reads a sequence."""
        return object.__new__(SequenceModel if isinstance(student, TokenFunction) else cls)

    def __getnewargs__(self) -> tuple[Any, ...]:
        """What a copy is made with, before its fields are restored."""
        return (self.student, self.teacher)

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


@checked
@dataclass(frozen=True)
class SequenceModel(Model):
    r"""Student of a sequence of L tokens x_l ~ N(0, I_d) with positional vectors p_l.

    Student fields are h_l = w.(x_l + p_l) / sqrt(d), those of the target h*_l = w*.x_l / sqrt(d);
    label noise is added to each output. `dmft.Model` makes this record.

    Parameters
    ----------
    student : Attention, SequenceNetwork or SequenceTarget
    teacher : SequenceTarget, Attention or SequenceNetwork
    label_noise : float or sympy.Expr
    encoding : None, float, (L,), (1 + L, 1 + L) or Encoding
        None: no positional vectors. A radius r: the opposite pair p_1 = -p_2 of length r (L = 2).
        A pattern c: p_l = c_l p with |p| = 1. A matrix: the Gram matrix of
        (w*/sqrt(d), p_1, ..., p_L). Radius and pattern are orthogonal to the target.

    Raises
    ------
    BadParameter, ShapeMismatch, InvalidCovariance

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.symbols("z1:4", real=True)
    >>> target = dmft.SequenceTarget(z[0] * z[1] * z[2], z)
    >>> model = dmft.Model(dmft.Attention(3, "trace"), target, encoding=[1, 0, -1])
    >>> model.length, model.encoding.means
    (3, (e, 0, -e))
    """

    student: TokenFunction  # type: ignore[assignment]
    teacher: TokenFunction  # type: ignore[assignment]
    encoding: Encoding = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        for network, name in ((self.student, "student"), (self.teacher, "teacher")):
            if not isinstance(network, TokenFunction):
                raise BadParameter(
                    f"the {name} of a sequence model must be a dmft.SequenceTarget, "
                    f"dmft.Attention or dmft.SequenceNetwork, got {network!r}"
                )
        if isinstance(self.teacher, SequenceNetwork) and not self.teacher.tied:
            raise BadParameter("a target has one w* for all tokens: tied=True for the teacher")
        if self.student.length != self.teacher.length:
            raise ShapeMismatch(
                f"student and teacher read {self.student.length} and {self.teacher.length} tokens"
            )
        shapes = self.student.shape, self.teacher.shape
        if shapes[0] != shapes[1]:
            raise ShapeMismatch(f"outputs of student and teacher have the shapes {shapes}")
        object.__setattr__(self, "label_noise", as_parameter(self.label_noise, "label_noise"))
        encoding = as_encoding(self.encoding, self.length)
        object.__setattr__(self, "encoding", encoding)
        if not self.tied and encoding.rank:
            raise BadParameter(
                "untied students have no positional encoding here: leave encoding out"
            )

    @property
    def length(self) -> int:
        """Number of tokens L."""
        return self.student.length

    @property
    def tied(self) -> bool:
        """Whether all tokens of the student share one weight vector."""
        return not (isinstance(self.student, SequenceNetwork) and not self.student.tied)

    @property
    def matched(self) -> bool:
        """Whether student and teacher are the same function."""
        return bool(self.student.outputs == self.teacher.outputs)

    def alignments(self, e: ArrayLike, m: ArrayLike) -> tuple[Array, Array]:
        """Alignments e (r,) and m, () tied or (L,) untied, checked against the feasible set.

        Raises
        ------
        InvalidCovariance, ShapeMismatch, BadParameter
        """
        position = self.encoding.as_array(e)
        semantic = np.array(m, dtype=np.float64)
        shape = () if self.tied else (self.length,)
        if semantic.shape != shape:
            raise ShapeMismatch(f"m has shape {semantic.shape}, expected {shape}")
        if not (np.all(np.isfinite(semantic)) and np.all(np.isfinite(position))):
            raise BadParameter(f"alignments must be finite, got e = {e!r}, m = {m!r}")
        length = float(semantic) if self.tied else float(np.sqrt(np.mean(semantic**2)))
        self.encoding.check(position, length)
        return position, semantic
