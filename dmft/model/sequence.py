"""Declarations of sequence models: targets and students that read L token fields.

Every one of them has `outputs`, a SymPy matrix in the token fields z1, ..., zL (1 x 1 for a
scalar): what a student computes from its fields h_l and a target from h*_l.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal, cast

import numpy as np
import sympy as sp
from numpy.typing import ArrayLike

from dmft.arrays import Array
from dmft.errors import BadParameter, ShapeMismatch
from dmft.model.algorithm import as_parameter
from dmft.model.inputs.encoding import Encoding, as_encoding
from dmft.model.model import Model
from dmft.model.network import FIELD, Committee, canonical_target, distinct_fields, teacher_fields
from dmft.record import Brief
from dmft.validation import as_count, checked, checked_or

Vectors = tuple[tuple[sp.Expr, ...], tuple[sp.Expr, ...]]
Reduction = Literal["trace"] | Vectors | None


class TokenFunction(Brief):
    """What targets and students of sequences share; `outputs` and `length` are theirs."""

    length: int
    outputs: sp.ImmutableDenseMatrix

    @property
    def model_class(self) -> type[SequenceModel]:
        """Class of the models with such a student."""
        return SequenceModel

    @property
    def fields(self) -> tuple[sp.Symbol, ...]:
        """Token fields z1, ..., zL."""
        return token_fields(self.length)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the outputs."""
        rows, columns = self.outputs.shape
        return rows, columns

    @property
    def parameters(self) -> set[sp.Symbol]:
        """Symbols other than the fields, whose values are set at run time."""
        symbols: set[sp.Symbol] = self.outputs.free_symbols - set(self.fields)
        return symbols

    @property
    def reduced(self) -> tuple[tuple[sp.Expr, ...], tuple[sp.Symbol, ...]]:
        """Outputs in the fewest Gaussian fields (token fields or their mean), and these fields."""
        return tuple(self.outputs), self.fields

    @property
    def polynomial(self) -> bool:
        """Whether all outputs are polynomials in the fields."""
        return all(y.is_polynomial(*self.fields) for y in self.outputs)

    def _repr_latex_(self) -> str:
        shown = self.outputs[0] if self.outputs.shape == (1, 1) else self.outputs
        inside = ", ".join(sp.latex(z) for z in self.fields)
        return rf"$\displaystyle g({inside}) = {sp.latex(shown)}$"


def token_fields(length: int) -> tuple[sp.Symbol, ...]:
    """Canonical symbols z1, ..., zL of the token fields."""
    return teacher_fields(length)


@checked_or(fields='for example sympy.symbols("z1 z2", real=True)')
@dataclass(frozen=True)
class SequenceTarget(TokenFunction):
    r"""Target y = g(h*_1, ..., h*_L) of a sequence, h*_l = w*.x_l / sqrt(d), tokens x_l ~ N(0, I).

    As a student, it is g of the fields h_l = w.(x_l + p_l) / sqrt(d), with one w for all tokens.

    Parameters
    ----------
    expr : sympy.Expr or sympy.Matrix
        Function g, or a matrix of functions. Symbols other than the fields are parameters of the
        run.
    fields : sequence of sympy.Symbol
        The L token fields in order; g need not contain all of them.

    Raises
    ------
    BadParameter

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> a, b = sp.symbols("a b", real=True)
    >>> dmft.SequenceTarget(a * b, [a, b]).expr
    z1*z2
    """

    outputs: sp.ImmutableDenseMatrix
    length: int

    def __init__(
        self, expr: sp.Expr | sp.MatrixBase, fields: sp.Symbol | Sequence[sp.Symbol]
    ) -> None:
        given = distinct_fields(fields)
        if not isinstance(expr, sp.Expr | sp.MatrixBase):
            raise BadParameter(f"expr must be a SymPy expression in {list(given)}, got {expr!r}")
        matrix = expr if isinstance(expr, sp.MatrixBase) else sp.Matrix([[expr]])
        if not matrix.free_symbols & set(given):
            raise BadParameter(
                f"target {expr} depends on none of its fields {list(given)}; symbols with the same "
                "name but different assumptions are different symbols"
            )
        entries = [canonical_target(y, given, constant=True) for y in matrix]
        outputs = sp.ImmutableDenseMatrix(*matrix.shape, entries)
        object.__setattr__(self, "outputs", outputs)
        object.__setattr__(self, "length", len(given))

    @property
    def expr(self) -> sp.Expr | sp.ImmutableDenseMatrix:
        """The function in the symbols z1, ..., zL: an expression or a matrix of expressions."""
        return self.outputs[0] if self.outputs.shape == (1, 1) else self.outputs

    def __str__(self) -> str:
        return f"g({', '.join(map(str, self.fields))}) = {self.expr}"


@checked_or(
    activation='it is a function of one symbol, for example sympy.erf(sympy.Symbol("z", real=True))'
)
@dataclass(frozen=True)
class SequenceNetwork(TokenFunction):
    r"""Feed-forward network f = sigma(sum_l h_l / sqrt(L)) on a sequence of L tokens.

    With tied weights all tokens share one vector w in R^d. With untied weights each token has its
    own vector w_l, and the spherical constraint fixes the norm of the joint vector in R^(Ld).

    Parameters
    ----------
    activation : sympy.Expr
        Activation sigma, an expression in one symbol.
    length : int
        L >= 1.
    tied : bool
    field : sympy.Symbol, optional
        Symbol of `activation` that denotes the field, if there are several symbols.

    Raises
    ------
    BadParameter

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.Symbol("z", real=True)
    >>> dmft.SequenceNetwork(z**2 - 1, 2).outputs[0].expand()
    z1**2/2 + z1*z2 + z2**2/2 - 1
    """

    activation: sp.Expr
    length: int
    tied: bool = True

    def __init__(
        self, activation: sp.Expr, length: int, tied: bool = True, *, field: sp.Symbol | None = None
    ) -> None:
        object.__setattr__(
            self, "activation", Committee(activation, width=1, field=field).activation
        )
        object.__setattr__(self, "length", as_count(length, "length"))
        if not isinstance(tied, bool):
            raise BadParameter(f"tied must be True or False, got {tied!r}")
        object.__setattr__(self, "tied", tied)

    @cached_property
    def outputs(self) -> sp.ImmutableDenseMatrix:
        """The one output sigma(sum_l z_l / sqrt(L))."""
        mean = sp.Add(*self.fields) / sp.sqrt(self.length)
        return sp.ImmutableDenseMatrix([[self.activation.xreplace({FIELD: mean})]])

    @property
    def reduced(self) -> tuple[tuple[sp.Expr, ...], tuple[sp.Symbol, ...]]:
        """Activation as a function of sum_l h_l / sqrt(L), and the symbol of this field."""
        return (self.activation,), (FIELD,)

    def __str__(self) -> str:
        kind = "tied" if self.tied else "untied"
        return f"{kind} network {self.activation} of length {self.length}"


@checked
@dataclass(frozen=True)
class Attention(TokenFunction):
    r"""One layer of attention with one head: T_ij = exp(h_i h_j) / sum_k exp(h_i h_k).

    Parameters
    ----------
    length : int
        L >= 2.
    reduction : None, "trace" or (left, right)
        The matrix T (L, L) itself; sum_i T_ii / sqrt(L); or left^T T right with two vectors (L,).

    Raises
    ------
    BadParameter, ShapeMismatch

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> student = dmft.Attention(2)
    >>> omega = sp.Symbol("omega", positive=True)
    >>> teacher = student.mixture(omega, [[0.9, 0.1], [0.1, 0.9]])
    >>> teacher.outputs.shape, teacher.parameters
    ((2, 2), {omega})
    """

    length: int
    reduction: Reduction = None

    def __init__(self, length: int, reduction: Any = None) -> None:
        size = as_count(length, "length")
        if size < 2:
            raise BadParameter(
                "attention over one token is the constant 1: length must be at least 2"
            )
        object.__setattr__(self, "length", size)
        object.__setattr__(self, "reduction", _canonical_reduction(reduction, size))

    @cached_property
    def matrix(self) -> sp.ImmutableDenseMatrix:
        """The attention matrix T (L, L), for any reduction."""
        z = self.fields

        def entry(i: int, j: int) -> sp.Expr:
            # Divided by exp(h_i h_j), so that large fields underflow instead of giving inf/inf.
            return 1 / (1 + sp.Add(*(sp.exp(z[i] * (y - z[j])) for y in z if y != z[j])))

        return sp.ImmutableDenseMatrix(self.length, self.length, entry)

    @cached_property
    def outputs(self) -> sp.ImmutableDenseMatrix:
        """Outputs in the token fields: T, or one number."""
        if self.reduction is None:
            return self.matrix
        if self.reduction == "trace":
            value = self.matrix.trace() / sp.sqrt(self.length)
        else:
            left, right = self.reduction
            value = sum(
                left[i] * right[j] * self.matrix[i, j]
                for i in range(self.length)
                for j in range(self.length)
            )
        return sp.ImmutableDenseMatrix([[value]])

    @property
    def polynomial(self) -> bool:
        """Whether the output is a polynomial (always False: it is a quotient of exponentials)."""
        return False

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the output: (L, L), or (1, 1) with a reduction."""
        return (self.length, self.length) if self.reduction is None else (1, 1)

    def mixture(self, omega: float | sp.Expr, constant: Any) -> SequenceTarget:
        """Target (1 - omega) T + omega A, which mixes attention to content and to position.

        Parameters
        ----------
        omega : float or sympy.Symbol
            Weight of the constant matrix. A symbol is a parameter of the run.
        constant : (L, L) nested sequence or matrix; a number with a reduction
            The constant matrix A.

        Returns
        -------
        SequenceTarget
            Target of the same length; with a reduction it has one output.

        Raises
        ------
        BadParameter, ShapeMismatch

        Examples
        --------
        >>> import dmft
        >>> attention = dmft.Attention(2)
        >>> attention.mixture(0.5, [[0.9, 0.1], [0.1, 0.9]]).shape
        (2, 2)
        """
        weight = _number(omega, "omega")
        wanted = self.shape
        given = constant if wanted != (1, 1) else [[constant]]
        try:
            fixed = sp.ImmutableDenseMatrix(sp.Matrix(given))
        except (TypeError, ValueError) as error:
            raise BadParameter(f"A must be a matrix of numbers, got {constant!r}") from error
        if fixed.shape != wanted:
            raise ShapeMismatch(f"A has shape {fixed.shape}, expected {wanted}")
        return SequenceTarget((1 - weight) * self.outputs + weight * fixed, self.fields)

    def __str__(self) -> str:
        names = {None: "matrix", "trace": "trace"}
        kind = "projection" if isinstance(self.reduction, tuple) else names[self.reduction]
        return f"attention ({kind}) of length {self.length}"


def _canonical_reduction(reduction: Any, length: int) -> Reduction:
    if reduction is None or (isinstance(reduction, str) and reduction == "trace"):
        return cast(Reduction, reduction)
    try:
        left, right = reduction
        pair = (
            tuple(_number(y, "reduction") for y in left),
            tuple(_number(y, "reduction") for y in right),
        )
    except (TypeError, ValueError) as error:
        raise BadParameter(
            f'reduction must be None, "trace" or two vectors (left, right), got {reduction!r}'
        ) from error
    for side in pair:
        if len(side) != length:
            raise ShapeMismatch(
                f"reduction contains a vector of {len(side)} entries, but L = {length}"
            )
    return pair


def _number(value: Any, name: str) -> sp.Expr:
    """A number or an expression in parameters."""
    if hasattr(value, "item"):  # NumPy's numbers
        value = value.item()
    try:
        result = sp.sympify(value, strict=True)
    except sp.SympifyError as error:
        raise BadParameter(f"{name} must be a number or a symbol, got {value!r}") from error
    if not isinstance(result, sp.Expr) or result.is_real is False or result.has(sp.nan, sp.oo):
        raise BadParameter(f"{name} must be real and finite, got {value!r}")
    return result


@checked
@dataclass(frozen=True)
class SequenceModel(Model):
    r"""Student and teacher for sequences of L tokens x_l ~ N(0, I_d) with positional vectors p_l.

    The fields of the student are h_l = w.(x_l + p_l) / sqrt(d), and the fields of the target are
    h*_l = w*.x_l / sqrt(d). Label noise is added to each output. `dmft.Model` returns this record
    if the student is a sequence model.

    Parameters
    ----------
    student : Attention, SequenceNetwork or SequenceTarget
    teacher : SequenceTarget, Attention or SequenceNetwork
    label_noise : float or sympy.Expr
    encoding : None, float, (L,), (1 + L, 1 + L) or Encoding
        Positional vectors. None declares no vectors. A number r declares an opposite pair
        p_1 = -p_2 of length r (for L = 2). A sequence c declares p_l = c_l p with |p| = 1. In both
        cases the vectors are orthogonal to the target. A matrix is the Gram matrix of
        (w*/sqrt(d), p_1, ..., p_L).

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
    inputs: None = field(default=None, init=False, repr=False)
    label_flip: sp.Expr = field(default=sp.S.Zero, init=False, repr=False)
    label_channel: None = field(default=None, init=False, repr=False)
    encoding: Encoding = None  # type: ignore[assignment]

    reads_sequences: ClassVar[bool] = True
    family: ClassVar[str] = "sequence"

    def __post_init__(self) -> None:
        for network, name in ((self.student, "student"), (self.teacher, "teacher")):
            if not isinstance(network, TokenFunction):
                raise BadParameter(
                    f"the {name} of a sequence model must be a dmft.SequenceTarget, "
                    f"dmft.Attention or dmft.SequenceNetwork, got {network!r}"
                )
        if isinstance(self.teacher, SequenceNetwork) and not self.teacher.tied:
            raise BadParameter("a target has one w* for all tokens: use tied=True for the teacher")
        if self.student.length != self.teacher.length:
            raise ShapeMismatch(
                f"student and teacher have {self.student.length} and {self.teacher.length} tokens"
            )
        shapes = self.student.shape, self.teacher.shape
        if shapes[0] != shapes[1]:
            raise ShapeMismatch(f"outputs of student and teacher have the shapes {shapes}")
        object.__setattr__(self, "label_noise", as_parameter(self.label_noise, "label_noise"))
        encoding = as_encoding(self.encoding, self.length)
        object.__setattr__(self, "encoding", encoding)
        if not self.tied and encoding.rank:
            raise BadParameter(
                "positional encodings are not supported for untied students: leave encoding out"
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
        """Check alignments against the feasible set, and return them as arrays.

        Parameters
        ----------
        e : float or array_like
            Positional alignment, a number for an encoding along one direction.
        m : float or (L,) array_like
            Semantic alignment, a number for tied weights.

        Returns
        -------
        (ndarray, ndarray)
            Arrays e (r,) and m, of shape () for tied and (L,) for untied weights.

        Raises
        ------
        InvalidCovariance, ShapeMismatch, BadParameter

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> z = sp.symbols("z1:3", real=True)
        >>> target = dmft.SequenceTarget(z[0] * z[1], z)
        >>> model = dmft.Model(dmft.Attention(2, "trace"), target, encoding=1)
        >>> [part.tolist() for part in model.alignments(0.1, 0.5)]
        [[0.1], 0.5]
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
