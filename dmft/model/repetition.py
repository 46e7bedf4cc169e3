"""Declarations of what a step does with its sample beyond one gradient: values of `repeat`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import sympy as sp

from dmft.errors import BadParameter
from dmft.model.rule import Named, UpdateRule
from dmft.validation import as_count, checked

DISPLACED = "dmft.equations.update.passes:displaced"


def _as_displacement(rho: float | sp.Expr, name: str, other: str) -> sp.Expr:
    """Return rho0 > 0 as SymPy; a negative one is the other declaration."""
    try:
        value = sp.sympify(rho, strict=True)
    except sp.SympifyError as error:
        raise BadParameter(f"rho must be a number or a SymPy symbol, got {rho!r}") from error
    if not isinstance(value, sp.Expr) or value.is_real is False or value.is_finite is False:
        raise BadParameter(f"rho must be a real, finite number or a SymPy symbol, got {rho!r}")
    if value.is_zero:
        raise BadParameter(f"rho = 0 has no effect: leave repeat={name}(...) out")
    if value.is_negative:
        raise BadParameter(
            f"rho = {rho!r} must be positive: for the opposite displacement use "
            f"dmft.{other}({-value})"
        )
    return value


@checked
@dataclass(frozen=True)
class Lookahead(UpdateRule):
    r"""Lookahead (extragradient): the gradient is evaluated after a trial step on the same sample.

    Equation    psi_j = psi^0_j(h + rho psi^0(h, y) |x|^2/d, y), psi^0_j(h, y) = a_j sigma'(h_j) E
    Scaling     |x|^2/d -> 1; a step uses one sample
    Source      theory/batch_reuse D.1

    Parameters
    ----------
    rho : float or sympy.Expr
        Length rho > 0 of the trial step; also a run-time value, ``rho=``.

    Examples
    --------
    >>> import dmft
    >>> dmft.SGD(0.1, constraint="sphere", repeat=dmft.Lookahead(0.1)).repeat
    Lookahead(rho=0.1)
    """

    written_by: ClassVar[Named] = DISPLACED
    simulated_by: ClassVar[Named] = "dmft.simulation.steps.weights:ahead"

    rho: sp.Expr

    def __post_init__(self) -> None:
        value = _as_displacement(self.rho, "Lookahead", "SharpnessAware")
        object.__setattr__(self, "rho", value)

    @property
    def scalars(self) -> Mapping[str, sp.Expr]:
        """Parameters of the displacement."""
        return {"rho": self.rho}

    @property
    def sign(self) -> int:
        """Sign of the displacement along the update."""
        return 1

    @property
    def normalised(self) -> bool:
        """Whether the displacement is normalised (always False)."""
        return False


@checked
@dataclass(frozen=True)
class SharpnessAware(UpdateRule):
    r"""Sharpness-aware steps: the gradient is evaluated after a step that increases the loss.

    Equation    psi_j = psi^0_j(h - rho psi^0(h, y) |x|^2/d, y); normalised:
                h - rho psi^0(h, y)/|psi^0(h, y)| |x|/sqrt(d)
    Scaling     |x|^2/d -> 1; in units where rows of W have the length sqrt(d), rho is the
                displacement of the fields or, if normalised, the radius in the space of weights
    Source      theory/batch_reuse D.1

    Parameters
    ----------
    rho : float or sympy.Expr
        Length rho > 0 of the displacement; also a run-time value, ``rho=``.
    normalised : bool
        Whether the displacement is divided by the norm of the gradient of the sample. It is zero
        if the gradient vanishes.

    Examples
    --------
    >>> import dmft
    >>> dmft.SharpnessAware(0.2, normalised=True).sign
    -1
    """

    written_by: ClassVar[Named] = DISPLACED

    rho: sp.Expr
    normalised: bool = False

    def __post_init__(self) -> None:
        value = _as_displacement(self.rho, "SharpnessAware", "Lookahead")
        object.__setattr__(self, "rho", value)
        if not isinstance(self.normalised, bool):
            raise BadParameter(f"normalised must be True or False, got {self.normalised!r}")

    @property
    def simulated_by(self) -> Named:  # type: ignore[override]
        """Function that simulates one displaced step."""
        return f"dmft.simulation.steps.weights:{'at_radius' if self.normalised else 'back'}"

    @property
    def scalars(self) -> Mapping[str, sp.Expr]:
        """Parameters of the displacement."""
        return {"rho": self.rho}

    @property
    def sign(self) -> int:
        """Sign of the displacement along the update."""
        return -1


@checked
@dataclass(frozen=True)
class Repeat(UpdateRule):
    r"""Several complete steps on the same batch before the next batch is drawn.

    Equation    h^(i+1) = h^(i) + gamma/(p n_b) psi^0(h^(i), y) |x|^2/d,
                psi = sum_{i < times} psi^0(h^(i), y)
    Scaling     |x|^2/d -> 1; t counts samples, not passes over them
    Source      theory/batch_reuse D.1

    Parameters
    ----------
    times : int
        Number K >= 1 of passes over each batch.

    Examples
    --------
    >>> import dmft
    >>> dmft.SGD(0.1, repeat=dmft.Repeat(2)).repeat.times
    2
    """

    written_by: ClassVar[Named] = "dmft.equations.update.passes:repeated"
    simulated_by: ClassVar[Named] = "dmft.simulation.steps.weights:gradient"

    times: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "times", as_count(self.times, "times"))

    @property
    def passes(self) -> int:
        """Number of passes over each batch."""
        return self.times


SEVERAL = (
    "clipped and normalised batches are derived only for linear students of linear teachers under "
    "the squared loss (normal residuals), and not for fluctuations; simulate others with "
    'method="weights", or use batch_size=1'
)


@dataclass(frozen=True)
class Clipping(UpdateRule):
    r"""Gradients of all neurons together, of length at most C or of length one.

    Equation    psi <- psi min(1, C p / (|psi| |x|/sqrt(d))), or psi <- p psi / (|psi| |x|/sqrt(d)),
                |psi|^2 = sum_j psi_j^2; of a batch the mean gradient is shortened
    Scaling     |x|^2/d -> tr Sigma/d
    Source      theory/structured_inputs 4.3

    Parameters
    ----------
    level : sympy.Expr or None
        C > 0, also a run-time value, ``clip=``; None: length one.
    """

    written_by: ClassVar[Named] = "dmft.equations.update.passes:shortened"
    shortens: ClassVar[bool] = True
    level: sp.Expr | None = None

    @property
    def scalars(self) -> Mapping[str, sp.Expr]:
        """The level."""
        return {} if self.level is None else {"clip": self.level}


def clipping_of(
    clip: sp.Expr | None, normalised: bool, given: UpdateRule | None
) -> Clipping | None:
    """The rule of these options of `SGD`, where `repeat` is `given`."""
    if not isinstance(normalised, bool):
        raise BadParameter(f"normalised must be True or False, got {normalised!r}")
    if clip is None and not normalised:
        return None
    if clip is not None and normalised:
        raise BadParameter(
            f"clip = {clip} bounds the length of a gradient, but normalised=True sets it to one: "
            "leave one of them out"
        )
    made = Clipping(clip)
    if given not in (None, made):
        option = "normalised=True" if clip is None else f"clip = {clip}"
        raise BadParameter(
            f"{option} rescales the gradient of a step, but repeat = {given} defines another "
            "update: "
            "leave one of them out"
        )
    return made
