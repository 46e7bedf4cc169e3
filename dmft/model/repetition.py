"""Declarations of what a step does with its sample beyond one gradient: values of `repeat`."""

from __future__ import annotations

from dataclasses import dataclass

import sympy as sp

from dmft.checks import checked
from dmft.errors import BadParameter
from dmft.record import Shown


def _as_displacement(rho: float | sp.Expr, name: str, other: str) -> sp.Expr:
    """Return rho0 > 0 as SymPy; a negative one is the other declaration."""
    try:
        value = sp.sympify(rho, strict=True)
    except sp.SympifyError as error:
        raise BadParameter(f"rho must be a number or a SymPy symbol, got {rho!r}") from error
    if not isinstance(value, sp.Expr) or value.is_real is False or value.is_finite is False:
        raise BadParameter(f"rho must be a real, finite number or a SymPy symbol, got {rho!r}")
    if value.is_zero:
        raise BadParameter(f"rho = 0 displaces nothing: leave repeat={name}(...) out")
    if value.is_negative:
        raise BadParameter(
            f"rho = {rho!r} must be positive: {name} displaces one way, dmft.{other}({-value}) "
            "the other"
        )
    return value


@checked
@dataclass(frozen=True)
class Lookahead(Shown):
    r"""Gradients taken where a step on the same sample leads: extragradient.

    Equation    psi_j = psi^0_j(h + rho psi^0(h, y) |x|^2/d, y), psi^0_j(h, y) = a_j sigma'(h_j) E
    Scaling     |x|^2/d -> 1; a step costs one sample, as without
    Source      batch_reuse.md D.1

    Parameters
    ----------
    rho : float or sympy.Expr
        Displacement rho_0 > 0 of the fields; also a run-time value, ``rho=``.

    Examples
    --------
    >>> import dmft
    >>> dmft.SGD(0.1, constraint="sphere", repeat=dmft.Lookahead(0.1)).repeat
    Lookahead(rho=0.100000000000000)
    """

    rho: sp.Expr

    def __post_init__(self) -> None:
        value = _as_displacement(self.rho, "Lookahead", "SharpnessAware")
        object.__setattr__(self, "rho", value)

    @property
    def sign(self) -> int:
        """Sign of the displacement along the update."""
        return 1

    @property
    def normalised(self) -> bool:
        """Whether the displacement has a length of its own: never."""
        return False


@checked
@dataclass(frozen=True)
class SharpnessAware(Shown):
    r"""Gradients taken where the loss of the same sample is larger: sharpness-aware steps.

    Equation    psi_j = psi^0_j(h - rho psi^0(h, y) |x|^2/d, y); normalised:
                h - rho psi^0(h, y)/|psi^0(h, y)| |x|/sqrt(d)
    Scaling     |x|^2/d -> 1; in units where rows of W have the length sqrt(d), rho is the
                displacement of the fields, normalised the radius in the space of the weights
    Source      batch_reuse.md D.1

    Parameters
    ----------
    rho : float or sympy.Expr
        rho_0 > 0; also a run-time value, ``rho=``.
    normalised : bool
        Divide by the norm of the sample's gradient; where that vanishes nothing is displaced.

    Examples
    --------
    >>> import dmft
    >>> dmft.SharpnessAware(0.2, normalised=True).sign
    -1
    """

    rho: sp.Expr
    normalised: bool = False

    def __post_init__(self) -> None:
        value = _as_displacement(self.rho, "SharpnessAware", "Lookahead")
        object.__setattr__(self, "rho", value)
        if not isinstance(self.normalised, bool):
            raise BadParameter(f"normalised must be True or False, got {self.normalised!r}")

    @property
    def sign(self) -> int:
        """Sign of the displacement along the update."""
        return -1


@checked
@dataclass(frozen=True)
class Repeat(Shown):
    r"""Several whole steps on one batch before the next one is drawn.

    Equation    h^(i+1) = h^(i) + gamma/(p n_b) psi^0(h^(i), y) |x|^2/d,
                psi = sum_{i < times} psi^0(h^(i), y)
    Scaling     |x|^2/d -> 1; t counts samples, not passes over them
    Source      batch_reuse.md D.1

    Parameters
    ----------
    times : int
        K >= 1 passes over each batch.

    Examples
    --------
    >>> import dmft
    >>> dmft.SGD(0.1, repeat=dmft.Repeat(2)).repeat.times
    2
    """

    times: int

    def __post_init__(self) -> None:
        times = self.times
        whole = isinstance(times, int) or getattr(times, "is_Integer", False)
        if isinstance(times, bool) or not whole or times < 1:
            raise BadParameter(f"times must be an integer >= 1, got {times!r}")
        object.__setattr__(self, "times", int(times))


Displaced = (Lookahead, SharpnessAware)
Repetition = Lookahead | SharpnessAware | Repeat
