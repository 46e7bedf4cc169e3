"""Powers of the dimension that a learning rate, a width and a batch grow with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import sympy as sp

from dmft.errors import BadParameter
from dmft.record import Shown
from dmft.validation import checked_or

Region = Literal["gradient-flow", "mean-field", "high-dimensional", "noise-dominated"]


@checked_or(**dict.fromkeys(("learning_rate", "width", "batch_size"), "the exponent of d"))
@dataclass(frozen=True)
class Scaling(Shown):
    r"""Powers of d of learning rate, width and batch size, which determine the surviving terms.

    Equation    gamma = gamma_0 d^-kappa, p = p_0 d^delta, n_b = n_0 d^mu; a step is
                delta t = gamma/(p d) ~ d^-(1 + kappa + delta), the quadratic term has the weight
                gamma/(p n_b) ~ d^-s with s = kappa + delta + mu
    Scaling     s > 0: only the drift (gradient flow; mean field where delta > 0). s = 0: both.
                s < 0: only the quadratic term, in the time t' = t gamma/(p n_b), as long as its
                steps ~ d^-(1 + 2 (kappa + delta) + mu) vanish
    Source      theory/one_pass B.3 [veiga_2022]

    Parameters
    ----------
    learning_rate, width, batch_size : int, float, fraction or SymPy number
        Powers -kappa, delta >= 0 and mu >= 0 of d. Floats are read as decimal numbers.

    Raises
    ------
    BadParameter

    Examples
    --------
    >>> import dmft
    >>> dmft.Scaling(learning_rate=0.5, width=0.5).region
    'high-dimensional'
    >>> dmft.Scaling(learning_rate=-1, width=0.5).region
    'mean-field'
    >>> dmft.Scaling(learning_rate=0.25).region
    'noise-dominated'
    """

    learning_rate: sp.Rational = sp.S.Zero
    width: sp.Rational = sp.S.Zero
    batch_size: sp.Rational = sp.S.Zero

    def __post_init__(self) -> None:
        for name in ("learning_rate", "width", "batch_size"):
            object.__setattr__(self, name, _as_power(getattr(self, name), name))
        for name in ("width", "batch_size"):
            if getattr(self, name) < 0:
                raise BadParameter(
                    f"{name} = {getattr(self, name)} is the exponent of d and must be at least 0, "
                    "because the number of units or samples cannot decrease"
                )

    @property
    def kappa(self) -> sp.Rational:
        """Exponent kappa of the learning rate gamma_0 d^-kappa."""
        return -self.learning_rate

    @property
    def noise_power(self) -> sp.Rational:
        """Power of d of gamma/(p n_b), the weight of the quadratic term relative to the drift."""
        return self.learning_rate - self.width - self.batch_size

    @property
    def step_power(self) -> sp.Rational:
        """Power of d of one step in the time of the limit; negative if the limit is an ode."""
        return self.learning_rate - self.width - 1 + max(self.noise_power, sp.S.Zero)

    @property
    def has_ode(self) -> bool:
        """Whether the limit is an ordinary differential equation."""
        return bool(self.step_power < 0)

    @property
    def region(self) -> Region:
        """Name of the limit.

        Raises
        ------
        BadParameter
            If no differential equation remains; the message names the remaining dynamics.
        """
        if not self.has_ode:
            raise BadParameter(self.refusal)
        if self.noise_power > 0:
            return "noise-dominated"
        if self.noise_power == 0:
            return "high-dimensional"
        return "mean-field" if self.width > 0 else "gradient-flow"

    @property
    def refusal(self) -> str:
        """Why there is no differential equation, and an alternative."""
        where = f"kappa + delta = {self.kappa + self.width}"
        if self.noise_power > 0 and self.batch_size < 1:
            bound = -(1 + self.batch_size) / 2
            return (
                f"{self} has no limiting ode: {where} <= {bound}, so that a step of the "
                f"quadratic term, of order d^({self.step_power}), does not vanish; lower the "
                f"learning rate below d^({self.width - bound}), where only noise acts, or to "
                f"d^({self.width + self.batch_size}) or below, where the network learns"
            )
        if self.step_power == 0:
            return (
                f"{self} has no limiting ode: {where}, and a step changes the overlaps by a finite "
                "amount. Batches of the order of d at this rate are a discrete map: "
                "derive(model, SGD(..., batch_size=...), dim=...)"
            )
        return (
            f"{self} has no limit: {where} < -1, so that a step changes the overlaps by "
            f"d^({self.step_power}); lower the learning rate to d^({self.width + 1}) for the map "
            "of large batches (derive(..., dim=...)), or below for an ode"
        )

    def __str__(self) -> str:
        parts = [f"learning_rate={self.learning_rate}", f"width={self.width}"]
        parts += [f"batch_size={self.batch_size}"] * (self.batch_size != 0)
        return f"Scaling({', '.join(parts)})"


def _as_power(value: object, name: str) -> sp.Rational:
    """Exact rational of a number; 0.1 is one tenth, so that sums of powers can be compared."""
    try:
        exact = sp.Rational(str(value))
    except (TypeError, ValueError) as error:
        raise BadParameter(f"{name} = {value!r} must be a number: the exponent of d") from error
    if not exact.is_finite:
        raise BadParameter(f"{name} = {value!r} must be finite")
    return exact
