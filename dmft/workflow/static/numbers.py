"""Numbers of static limits with their error and proof."""

from __future__ import annotations

from typing import Any, Self

from dmft.errors import BadParameter
from dmft.gaussian.channels.priors import GAUSSIAN, Prior

CLOSED, QUADRATURE, QMC = "closed form", "quadrature", "QMC"


class Threshold(float):
    """A number, possibly 0 or inf, with `error`, `proof` and, where it is known, a `formula`.

    Attributes
    ----------
    error : float
        Half-width of an interval that holds the value; 0 for exact ones.
    proof : "closed form", "quadrature" or "QMC"
    formula : str
        Empty where there is none.
    """

    error: float
    proof: str
    formula: str

    def __new__(
        cls, value: float, error: float = 0.0, proof: str = CLOSED, formula: str = ""
    ) -> Self:
        """Keep the error and the proof with the value."""
        made = super().__new__(cls, value)
        made.error, made.proof, made.formula = float(error), proof, formula
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:
        return float(self), self.error, self.proof, self.formula

    def __repr__(self) -> str:
        if self.formula:
            return f"{self.formula} = {float(self):.7g}"
        return f"{float(self):.8g}" + (f" +- {self.error:.1g}" if self.error else "")


def check_gaussian(prior: Prior, what: str) -> None:
    """Refuse other priors where several fields need the Gaussian one."""
    if prior != GAUSSIAN:
        raise BadParameter(
            f'{what} of labels of several fields is derived for prior="gaussian"; other priors '
            "are for labels of one field"
        )
