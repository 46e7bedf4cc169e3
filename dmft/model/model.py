"""A teacher-student model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeGuard

import numpy as np
import sympy as sp

from dmft.errors import BadParameter, ShapeMismatch
from dmft.model.algorithm import as_parameter
from dmft.model.network import Committee, MultiIndex
from dmft.record import Shown
from dmft.validation import checked, is_number, refuse_unknown

if TYPE_CHECKING:
    from dmft.initial_conditions import Overlaps
    from dmft.model.inputs.mixture import GaussianMixture
    from dmft.model.inputs.spectrum import Spectrum

# Samples of the teacher's fields at which its largest output must be one alone.
SAMPLES = 32


@dataclass(frozen=True)
class Model(Shown):
    """Student, teacher, inputs and labels.

    The student learns the labels y = f*(x) + sqrt(label_noise) xi with xi ~ N(0, 1), where f* is
    the teacher. By default the inputs are x ~ N(0, I_d). If the student is a sequence model, the
    result is a `SequenceModel`.

    Parameters
    ----------
    student : Committee; for sequences Attention, SequenceNetwork or SequenceTarget
    teacher : Committee, MultiIndex or GaussianMixture; for sequences the same types as the student
        A `GaussianMixture` defines both inputs and labels by its clusters.
    label_noise : float or sympy.Expr
        Variance Delta >= 0 of the label noise.
    label_flip : float or sympy.Expr
        Probability epsilon that the sign of a label is flipped, y = -f*(x) + noise. Averages over
        samples, such as the loss, include the flips. The risk and the error rate compare the
        student with the teacher's output before flips and noise.
    label_channel : sympy.Expr, optional
        Probability P(y = 1) of random labels +1 and -1, an expression in the symbol f, the
        teacher's output. The mean label E[y | x] becomes the teacher of the model, and the risk is
        computed relative to it. The error rate is the probability that the sign of the student's
        output differs from y.
    inputs : GaussianMixture or Spectrum, optional
        Law of the inputs: clusters with means in the span of the teacher's k rows w*_r, or a
        covariance. The labels are the teacher's output. By default x ~ N(0, I_d).
    encoding : number, sequence or matrix, optional
        Positional vectors of the tokens, for sequence models (see `SequenceModel`). The number 1
        declares two opposite vectors of length 1.

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
    label_flip: sp.Expr = sp.S.Zero
    label_channel: sp.Expr | None = None

    # Whether its networks read tokens (`dmft.SequenceModel`).
    reads_sequences: ClassVar[bool] = False
    # Kind of state of its equations.
    family: ClassVar[str] = "overlaps"

    def __new__(
        cls,
        student: Any,
        teacher: Any,
        label_noise: Any = sp.S.Zero,
        inputs: Any = None,
        label_flip: Any = sp.S.Zero,
        label_channel: Any = None,
        encoding: Any = None,
        **unknown: Any,
    ) -> Model:
        """Make the record of a sequence model where the student reads a sequence."""
        known = ("student", "teacher", "label_noise", "inputs", "label_flip", "label_channel")
        refuse_unknown(cls.__name__, unknown, known)
        made = getattr(student, "model_class", cls)
        if made.reads_sequences and inputs is not None:
            raise BadParameter(
                f"inputs = {inputs!r:.80} are not derived for sequence models: leave them out, "
                "or pass encoding="
            )
        if made.reads_sequences and label_channel is not None:
            raise BadParameter(
                "label_channel is not derived for sequence models: leave it out, or add label_noise"
            )
        if made.reads_sequences and not (is_number(label_flip) and label_flip == 0):
            raise BadParameter(
                f"label_flip = {label_flip!r} is not derived for sequence models: leave it out, "
                "or add label_noise"
            )
        return object.__new__(made)

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
        if self.outputs > 1 and _is_mixture(self.teacher) and self.teacher.labels is None:
            # The class of a sample is the number of its cluster.
            numbered = self.teacher.relabelled([sp.Integer(n) for n in range(self.outputs)])
            object.__setattr__(self, "teacher", numbered)
            object.__setattr__(self, "inputs", None)
        object.__setattr__(self, "inputs", _inputs(self.teacher, self.inputs))
        object.__setattr__(self, "label_noise", as_parameter(self.label_noise, "label_noise"))
        object.__setattr__(self, "label_flip", as_probability(self.label_flip, "label_flip"))
        if self.outputs > 1 or getattr(self.teacher, "outputs", 1) > 1:
            _check_classes(self)
        if self.label_channel is not None:
            self._draw_labels()

    def __str__(self) -> str:
        """Labels, student and inputs as formulas."""
        if self.reads_sequences:
            return self._in_full()
        Delta, flipped = (
            f"{float(y):g}" if y.is_number else str(y) for y in (self.label_noise, self.label_flip)
        )
        noise = "" if self.label_noise == 0 else f" + sqrt({Delta}) ξ, ξ ~ N(0, 1)"
        noise += f", the sign wrong with probability {flipped}" if self.flips else ""
        mean = "drawn with mean " if self.draws_labels else ""
        fields = "" if self.label_clusters is not None else ", z = W* x/sqrt(d)"
        return (
            f"labels   y = {mean}{self.teacher}{noise}{fields}\n"
            f"student  f = {self.student}, z = W x/sqrt(d)\n"
            f"inputs   {'x ~ N(0, I_d)' if self.inputs is None else repr(self.inputs)}"
        )

    @property
    def outputs(self) -> int:
        """Number of outputs of the student."""
        return self.student.outputs

    def _draw_labels(self) -> None:
        """Keep the mean label as the teacher, and the channel that draws labels about it."""
        from dmft.model.loss import OF_MEAN, as_channel, with_mean_labels

        for name in ("label_noise", "label_flip"):
            if not getattr(self, name).is_zero:
                raise BadParameter(
                    f"{name} = {getattr(self, name)} cannot be combined with label_channel, which "
                    "is the full distribution of a label: leave it out, or include it in the "
                    "channel (for flips with probability e: e + (1 - 2*e)*P)"
                )
        mean = with_mean_labels(self.teacher, as_channel(self.label_channel))
        if self.inputs is self.teacher:
            object.__setattr__(self, "inputs", mean)
        object.__setattr__(self, "teacher", mean)
        object.__setattr__(self, "label_channel", OF_MEAN)

    @property
    def draws_labels(self) -> bool:
        """Whether labels +1 and -1 are drawn at random, with the teacher as their mean."""
        return self.label_channel is not None

    @property
    def flips(self) -> bool:
        """Whether labels may be flipped; a symbol may be a positive probability."""
        return not self.label_flip.is_zero

    @property
    def clusters(self) -> GaussianMixture | None:
        """Clusters of the inputs; None for inputs without clusters."""
        return self.inputs if _is_mixture(self.inputs) else None

    @property
    def label_clusters(self) -> GaussianMixture | None:
        """Clusters that define the labels; None if a teacher does."""
        return self.teacher if _is_mixture(self.teacher) else None

    @property
    def spectrum(self) -> Spectrum | None:
        """Spectrum of the inputs, averaged over clusters; None if the inputs are isotropic."""
        return self.inputs.spectrum if _is_mixture(self.inputs) else self.inputs  # type: ignore[return-value]

    @property
    def blocks(self) -> int | None:
        """Number of blocks of overlaps; None if inputs are isotropic within clusters."""
        return None if self.spectrum is None else self.spectrum.blocks

    @property
    def matched(self) -> bool:
        """Whether student and teacher have the same activation."""
        return bool(self.student.activation == self.teacher.activation)

    @property
    def parameters(self) -> set[sp.Symbol]:
        """Symbols of both networks whose values are set at run time."""
        return self.student.parameters | self.teacher.parameters


def as_probability(value: float | sp.Expr, name: str) -> sp.Expr:
    """Return a probability, a number or an expression, as SymPy."""
    result = as_parameter(value, name)
    if result.is_number and float(result) > 1.0:
        raise BadParameter(f"{name} is a probability: it must lie in [0, 1], got {value!r}")
    return result


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
            raise BadParameter(
                "the mixture that defines the labels also defines the inputs: leave inputs out"
            )
        if teacher.labels is None:
            raise BadParameter(
                f"{teacher!r} has no labels: pass labels=[...], or a teacher that defines them and "
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
            "both the teacher and the clusters define labels: leave out labels= of the mixture, or "
            "use Model(student, mixture)"
        )
    if not teacher.width.is_Integer:
        raise BadParameter(
            f"inputs from clusters require a numeric teacher width, got {teacher.width}"
        )
    if teacher.width != given.width:
        raise ShapeMismatch(
            f"means have {given.width} coordinates, one for each row of the teacher, which has "
            f"{teacher.width}; a dmft.MultiIndex may have rows that its expression does not contain"
        )


def _check_classes(model: Model) -> None:
    """Refuse models of several outputs whose samples have no class 0, ..., outputs - 1."""
    count, teacher = model.outputs, model.teacher
    for name in ("label_noise", "label_flip"):
        if not getattr(model, name).is_zero:
            raise BadParameter(
                f"{name} = {getattr(model, name)} applies to labels that are numbers; with {count} "
                "outputs a label is a class (for a readout matrix, the row with the largest "
                "output of the teacher), and classes have no noise: leave it out"
            )
    if model.clusters is not None and model.blocks is not None:
        raise BadParameter(
            f"several outputs are derived only for clusters without blocks of a spectrum, got "
            f"{model.inputs}: leave fractions out"
        )
    if model.label_channel is not None:
        raise BadParameter(
            "label_channel draws labels +1 and -1 for students of one output: leave it out"
        )
    if isinstance(teacher, MultiIndex):
        raise BadParameter(
            f"the class of a sample must be that of the largest output of a dmft.Committee with "
            f"{count} rows of readout, or that of its cluster; {teacher!r} defines neither"
        )
    if isinstance(teacher, Committee):
        if teacher.outputs != count:
            raise ShapeMismatch(
                f"the student has {count} outputs and the teacher {teacher.outputs}: the class is "
                "that of the teacher's largest output, so both need a row of readout for each class"
            )
        _check_ties(teacher)
        return
    known = {str(n) for n in range(count)}
    wrong = [y for y in teacher.labels or () if str(y) not in known]
    if wrong:
        raise BadParameter(
            f"label {wrong[0]} of a cluster is not a class: with {count} outputs labels must be "
            f"integers 0 to {count - 1}"
        )


def _check_ties(teacher: Committee) -> None:
    """Refuse teachers whose largest outputs are equal with a positive probability."""
    if not teacher.activation.has(sp.Max, sp.Min, sp.Heaviside, sp.sign, sp.Piecewise):
        return
    for point in np.random.default_rng(0).standard_normal((SAMPLES, int(teacher.width))):
        values = teacher.outputs_at([sp.Float(z) for z in point])
        if all(v.is_number for v in values) and sorted(values)[-1] == sorted(values)[-2]:
            raise BadParameter(
                f"{teacher!r} has no class where its largest outputs are equal, as at the fields "
                f"{point.round(2).tolist()}: use an activation without flat parts, or define the "
                "classes by clusters (dmft.GaussianMixture)"
            )


def _is_mixture(given: object) -> TypeGuard[GaussianMixture]:
    if given is None:
        return False
    from dmft.model.inputs.mixture import GaussianMixture  # loaded by whoever has one

    return isinstance(given, GaussianMixture)


def _is_spectrum(given: object) -> bool:
    from dmft.model.inputs.spectrum import Spectrum  # loaded by whoever has one

    return isinstance(given, Spectrum)


def check_labels(model: Model, what: str) -> None:
    """Refuse drawn labels and classes, where something is derived for labels of the teacher."""
    check_outputs(model, what)
    if model.label_channel is not None:
        raise BadParameter(
            f"{what} only for labels defined by the teacher, not for labels drawn by "
            "label_channel; for these use dmft.population_risk, dmft.derive with plain SGD and "
            "small batches, dmft.solve and dmft.simulate"
        )


def check_unflipped(model: Model, what: str, other: str = "") -> None:
    """Refuse flipped labels, where something is derived for labels of the teacher."""
    if model.flips:
        other = other or (
            "for these use dmft.population_risk, dmft.derive with one-pass algorithms, dmft.solve "
            "and dmft.simulate"
        )
        raise BadParameter(
            f"{what} only for labels defined by the teacher, not for flipped ones, label_flip = "
            f"{model.label_flip}; {other}"
        )


# Flips on repeated data: a cluster for each sign.
FLIPS_AS_CLUSTERS = (
    "write flips with probability e as two clusters of mean zero, dmft.Model(student, "
    "dmft.GaussianMixture([[0], [0]], [y, -y], [1 - e, e], fields=z)) for the label y(z); the risk "
    "is then that of flipped labels"
)


def check_outputs(model: Model, what: str) -> None:
    """Refuse students of several outputs."""
    if not model.reads_sequences and model.outputs > 1:
        raise BadParameter(
            f"{what} only for students of one output, but this one has {model.outputs}; for "
            "several outputs use dmft.population_risk, dmft.derive with plain SGD and small "
            "batches, dmft.solve and dmft.simulate"
        )


def check_readout(model: Model, start: Overlaps) -> None:
    """Refuse a start whose readout is not that of so many outputs."""
    if start.readout is None:
        return
    shape = (start.p,) if model.outputs == 1 else (model.outputs, start.p)
    if start.readout.shape != shape:
        raise ShapeMismatch(
            f"the readout of the start has shape {start.readout.shape}, expected {shape}: the "
            f"student has {model.outputs} output{'s' * (model.outputs > 1)}"
        )


def check_isotropic(model: Model, what: str) -> None:
    """Refuse inputs with a spectrum where something is derived for one eigenvalue alone."""
    if model.spectrum is not None:
        raise BadParameter(
            f"{what} only for inputs without a spectrum, but the model has {model.inputs}; with a "
            "spectrum use dmft.population_risk, dmft.derive with SGD and small batches or "
            "GradientFlow, dmft.solve and dmft.simulate"
        )


def check_identity(model: Model, what: str) -> None:
    """Refuse inputs from clusters where something is derived for x ~ N(0, I_d) alone."""
    check_labels(model, what)
    if model.inputs is not None:
        raise BadParameter(
            f"{what} only for inputs x ~ N(0, I_d), but the model has {model.inputs}; for these "
            "use dmft.population_risk, dmft.derive, dmft.solve and dmft.simulate"
        )


@checked
@dataclass(frozen=True, init=False)
class MixtureModel(Model):
    """Student that learns the labels of Gaussian clusters: ``Model(student, mixture)``.

    Parameters
    ----------
    student : Committee
    mixture : GaussianMixture
        Inputs and labels. Its rows w*_r are the teacher rows of `Overlaps`, M = W W*^T/d and
        P = W* W*^T/d.
    label_noise : float or sympy.Expr
        Variance Delta >= 0 of the label noise.
    label_flip : float or sympy.Expr
        Probability epsilon that the sign of a label is flipped.
    label_channel : sympy.Expr, optional
        Probability P(y = 1), an expression in the label f of the cluster.

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
        cls,
        student: Any,
        mixture: Any,
        label_noise: Any = sp.S.Zero,
        label_flip: Any = sp.S.Zero,
        label_channel: Any = None,
        **unknown: Any,
    ) -> MixtureModel:
        """Take the arguments of this class, not those of `Model`."""
        known = ("student", "mixture", "label_noise", "label_flip", "label_channel")
        refuse_unknown(cls.__name__, unknown, known)
        return object.__new__(cls)

    def __init__(
        self,
        student: Committee,
        mixture: GaussianMixture,
        label_noise: float | sp.Expr = sp.S.Zero,
        label_flip: float | sp.Expr = sp.S.Zero,
        label_channel: sp.Expr | None = None,
    ) -> None:
        if not _is_mixture(mixture):
            raise BadParameter(f"mixture must be a dmft.GaussianMixture, got {mixture!r}")
        object.__setattr__(self, "mixture", mixture)
        super().__init__(
            student,
            mixture,
            as_parameter(label_noise, "label_noise"),
            label_flip=as_probability(label_flip, "label_flip"),
            label_channel=label_channel,
        )
        object.__setattr__(self, "mixture", self.teacher)  # its labels are means where drawn
