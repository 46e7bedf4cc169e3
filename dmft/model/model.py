"""A teacher-student model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeGuard

import sympy as sp

from dmft.checks import checked, refuse_unknown
from dmft.errors import BadParameter, ShapeMismatch
from dmft.model.algorithm import as_parameter
from dmft.model.multi_index import MultiIndex
from dmft.model.network import Committee
from dmft.record import Shown

if TYPE_CHECKING:
    from dmft.model.inputs.mixture import GaussianMixture
    from dmft.model.inputs.spectrum import Spectrum


@dataclass(frozen=True)
class Model(Shown):
    """Student learning the labels y = f*(x) + sqrt(label_noise) xi, with x ~ N(0, I_d).

    With a sequence student it is a `SequenceModel`, which also takes ``encoding=``.

    Parameters
    ----------
    student : Committee; of a sequence Attention, SequenceNetwork or SequenceTarget
    teacher : Committee, MultiIndex or GaussianMixture; of a sequence as its students
        A mixture gives inputs and labels, those of its clusters; its rows take the teacher's place.
    label_noise : float or sympy.Expr
        Variance Delta >= 0 of the label noise.
    inputs : GaussianMixture or Spectrum, optional
        Inputs from clusters whose means are combinations of the teacher's k rows w*_r, or with a
        covariance; labels are the teacher's at these inputs. Without, x ~ N(0, I_d).

    Raises
    ------
    BadParameter, ShapeMismatch

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.Symbol("z", real=True)
    >>> square = dmft.Committee(z**2, width=1)
    >>> dmft.Model(square, square).label_noise
    0
    >>> dmft.Model(dmft.Attention(2), dmft.Attention(2), encoding=1).encoding.means
    (e, -e)
    >>> twins = dmft.GaussianMixture([[1.0], [-1.0]], labels=[1, -1])
    >>> dmft.Model(dmft.Committee(z, 1), twins).inputs is twins
    True
    """

    student: Committee
    teacher: Committee | MultiIndex | GaussianMixture
    label_noise: sp.Expr = sp.S.Zero
    inputs: GaussianMixture | Spectrum | None = None

    # Whether its networks read tokens (`dmft.SequenceModel`).
    reads_sequences: ClassVar[bool] = False

    def __new__(
        cls,
        student: Any,
        teacher: Any,
        label_noise: Any = sp.S.Zero,
        inputs: Any = None,
        encoding: Any = None,
        **unknown: Any,
    ) -> Model:
        """Make the record of a sequence model where the student reads a sequence."""
        refuse_unknown(cls.__name__, unknown, ("student", "teacher", "label_noise", "inputs"))
        return object.__new__(getattr(student, "model_class", cls))

    def __getnewargs__(self) -> tuple[Any, ...]:
        """What a copy is made with, before its fields are restored."""
        return (self.student, self.teacher)

    def __post_init__(self) -> None:
        if not isinstance(self.student, Committee):
            raise BadParameter(f"student must be a dmft.Committee, got {self.student!r}")
        if not isinstance(self.teacher, Committee | MultiIndex) and not _is_mixture(self.teacher):
            raise BadParameter(
                "teacher must be a dmft.Committee, a dmft.MultiIndex or a dmft.GaussianMixture "
                f"with labels, got {self.teacher!r}"
            )
        object.__setattr__(self, "inputs", _inputs(self.teacher, self.inputs))
        object.__setattr__(self, "label_noise", as_parameter(self.label_noise, "label_noise"))

    @property
    def clusters(self) -> GaussianMixture | None:
        """Clusters of the inputs; None where there are none."""
        return self.inputs if _is_mixture(self.inputs) else None

    @property
    def spectrum(self) -> Spectrum | None:
        """Spectrum of the inputs; None where they are isotropic."""
        return None if _is_mixture(self.inputs) else self.inputs  # type: ignore[return-value]

    @property
    def blocks(self) -> int | None:
        """Number of blocks of overlaps; None where inputs are isotropic within clusters."""
        return None if self.spectrum is None else self.spectrum.blocks

    @property
    def matched(self) -> bool:
        """Whether student and teacher share the activation, so that fields form one basis."""
        teacher = self.teacher
        return isinstance(teacher, Committee) and self.student.activation == teacher.activation

    @property
    def parameters(self) -> set[sp.Symbol]:
        """Symbols of both networks that take values at run time."""
        return self.student.parameters | self.teacher.parameters


def _inputs(
    teacher: Committee | MultiIndex | GaussianMixture, given: GaussianMixture | Spectrum | None
) -> GaussianMixture | Spectrum | None:
    """Law of the inputs, checked against what writes the labels."""
    if not (given is None or _is_mixture(given) or _is_spectrum(given)):
        raise BadParameter(
            f"inputs must be a dmft.GaussianMixture, a dmft.Spectrum or None, got {given!r}"
        )
    if not isinstance(teacher, Committee | MultiIndex):
        if given not in (None, teacher):
            raise BadParameter("the labels' mixture is that of the inputs: leave inputs out")
        if teacher.labels is None:
            raise BadParameter(
                f"{teacher!r} has no labels: give labels=[...], or a teacher that writes them and "
                "inputs=mixture"
            )
        return teacher
    if _is_mixture(given):
        _check_clusters(teacher, given)
    return given


def _check_clusters(teacher: Committee | MultiIndex, given: GaussianMixture) -> None:
    """Refuse clusters whose means are not in the teacher's rows, or that write labels too."""
    if given.labels is not None:
        raise BadParameter(
            "both the teacher and the clusters write labels: leave out labels= of the mixture, or "
            "take Model(student, mixture)"
        )
    if not teacher.width.is_Integer:
        raise BadParameter(
            f"inputs from clusters need a numeric teacher width, got {teacher.width}"
        )
    if teacher.width != given.width:
        raise ShapeMismatch(
            f"means have {given.width} coordinates, in the teacher's rows, which are "
            f"{teacher.width}; a dmft.MultiIndex may have rows that its expression leaves out"
        )


def _is_mixture(given: object) -> TypeGuard[GaussianMixture]:
    if given is None:
        return False
    from dmft.model.inputs.mixture import GaussianMixture  # loaded by whoever has one

    return isinstance(given, GaussianMixture)


def _is_spectrum(given: object) -> bool:
    from dmft.model.inputs.spectrum import Spectrum  # loaded by whoever has one

    return isinstance(given, Spectrum)


def check_isotropic(model: Model, what: str) -> None:
    """Refuse inputs with a spectrum where something is derived for one eigenvalue alone.

    Raises
    ------
    BadParameter
    """
    if model.spectrum is not None:
        raise BadParameter(
            f"{what} for inputs without a spectrum, the model has {model.inputs}; with it there "
            "are dmft.population_risk, dmft.derive under SGD with small batches and GradientFlow, "
            "dmft.solve and dmft.simulate"
        )


def check_identity(model: Model, what: str) -> None:
    """Refuse inputs from clusters where something is derived for x ~ N(0, I_d) alone.

    Raises
    ------
    BadParameter
    """
    if model.inputs is not None:
        raise BadParameter(
            f"{what} for inputs x ~ N(0, I_d), the model has {model.inputs}; these have "
            "dmft.population_risk, dmft.derive, dmft.solve and dmft.simulate"
        )


@checked
@dataclass(frozen=True, init=False)
class MixtureModel(Model):
    """Student that learns the labels of clusters: ``Model(student, mixture)``.

    Parameters
    ----------
    student : Committee
    mixture : GaussianMixture
        Inputs and labels; its rows are the teacher's of `Overlaps`: M = W W*^T/d, P = W* W*^T/d.
    label_noise : float or sympy.Expr
        Variance Delta >= 0 of noise that is added to the labels.

    Raises
    ------
    BadParameter

    Examples
    --------
    >>> import dmft, sympy as sp
    >>> z, f, y = sp.symbols("z f y", real=True)
    >>> twins = dmft.GaussianMixture([[1.0], [-1.0]], labels=[1, -1])
    >>> model = dmft.MixtureModel(dmft.Committee(z, width=1), twins)
    >>> logistic = dmft.GradientDescent(0.5, samples_per_dim=2, loss=sp.log(1 + sp.exp(-f * y)))
    >>> run = dmft.solve(dmft.derive(model, logistic), dmft.Overlaps([[1.0]], [[0.0]]), 3)
    >>> bool(run.M[3, 0, 0] > run.M[1, 0, 0] > 0)
    True
    """

    teacher: GaussianMixture = field(init=False, repr=False)
    inputs: GaussianMixture = field(init=False, repr=False)
    mixture: GaussianMixture = field(kw_only=True)

    def __new__(
        cls, student: Any, mixture: Any, label_noise: Any = sp.S.Zero, **unknown: Any
    ) -> MixtureModel:
        """Take the arguments of this class, not those of `Model`."""
        refuse_unknown(cls.__name__, unknown, ("student", "mixture", "label_noise"))
        return object.__new__(cls)

    def __init__(
        self, student: Committee, mixture: GaussianMixture, label_noise: float | sp.Expr = sp.S.Zero
    ) -> None:
        if not _is_mixture(mixture):
            raise BadParameter(f"mixture must be a dmft.GaussianMixture, got {mixture!r}")
        object.__setattr__(self, "mixture", mixture)
        super().__init__(student, mixture, as_parameter(label_noise, "label_noise"))
