"""`sample_complexity`: samples needed by one pass, by reuse, by message passing, and at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dmft.gaussian.channels.declared import label_of
from dmft.gaussian.exponents.kinds import generative_exponent, leap_exponent
from dmft.model import Model
from dmft.validation import checked
from dmft.workflow.static.numbers import StaticLimit, Threshold
from dmft.workflow.static.thresholds import thresholds


@dataclass(frozen=True, eq=False)
class SampleComplexity(StaticLimit):
    """Samples that algorithms need to learn a label.

    Attributes
    ----------
    one_pass, reuse : str
        Scaling with d of one-pass SGD and of gradient descent on repeated data.
    leap_exponent, generative_exponent : float
        Exponents that give these scalings; infinite if there is none.
    message_passing : Threshold
        alpha_c of weak recovery by message passing, n = alpha_c d; infinite if no multiple of d
        suffices.
    algorithmic, information_theoretic, perfect : Threshold or None
        As in `dmft.thresholds`.
    label, prior : str

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.Symbol("z", real=True)
    >>> he3 = dmft.MultiIndex(z**3 - 3 * z, [z])
    >>> found = dmft.sample_complexity(dmft.Model(dmft.Committee(z, 1), he3))
    >>> found.one_pass, found.reuse, float(found.message_passing)
    ('d^2', 'd', 0.0)
    """

    KIND = "dmft sample complexity"
    one_pass: str
    reuse: str
    leap_exponent: float
    generative_exponent: float
    message_passing: Threshold
    algorithmic: Threshold | None
    information_theoretic: Threshold | None
    perfect: Threshold | None
    label: str
    prior: str

    @property
    def rows(self) -> list[tuple[str, str]]:
        """Algorithms and the samples that they need, as text."""
        found = [
            ("one-pass SGD", self.one_pass),
            ("gradient descent on repeated data", self.reuse),
            ("message passing, better than a guess", _multiple(self.message_passing)),
        ]
        others = (
            ("message passing, last branch", self.algorithmic),
            ("any algorithm, last branch", self.information_theoretic),
            ("exact recovery from any start", self.perfect),
        )
        finite = ((name, y) for name, y in others if y is not None and y < float("inf"))
        return found + [(name, _multiple(y)) for name, y in finite]

    def __str__(self) -> str:
        width = max(len(name) for name, _ in self.rows)
        lines = [f"{name.ljust(width)}  {value}" for name, value in self.rows]
        return "\n".join([f"samples to learn y = {self.label}", *lines])


def _multiple(value: Threshold) -> str:
    if float(value) == float("inf"):
        return "no multiple of d"
    return (
        f"any multiple of d above {value}" if float(value) == 0.0 else f"n = {float(value):.7g} d"
    )


def scaling(exponent: float) -> str:
    """Samples of a gradient method whose first nonzero term has this exponent."""
    if exponent == float("inf"):
        return "none suffices"
    powers = {1: "d", 2: "d log d"}
    return powers.get(int(exponent), f"d^{int(exponent) - 1}")


@checked
def sample_complexity(model: Model, prior: Any = "gaussian") -> SampleComplexity:
    r"""Table of the samples that one pass, reuse, message passing and any algorithm need.

    Equation    one pass: d, d log d, d^(l - 1) for a leap exponent l = 1, 2, l > 2; reuse: the same
                of the generative exponent; message passing: n = alpha_c d
    Valid for   labels of up to three fields; the generative exponent is that of the label without
                noise and flips, those of drawn labels are of their mean
    Source      theory/static_limits 7; theory/batch_reuse D.4

    Parameters
    ----------
    model : Model
        Its teacher; the student plays no role.
    prior : "gaussian", "rademacher" or GaussBernoulli(density)

    Returns
    -------
    SampleComplexity
        `.rows`; `print` shows the table.

    Raises
    ------
    BadParameter

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.Symbol("z", real=True)
    >>> model = dmft.Model(dmft.Committee(z, 1), dmft.Committee(sp.Abs(z), 1))
    >>> dmft.sample_complexity(model).rows[0]
    ('one-pass SGD', 'd log d')
    """
    label = label_of(model, "sample_complexity")
    found = thresholds(model, prior)
    leap = float(leap_exponent(label.expr, label.fields).value)
    # A binary label has one bit: its conditional moments are those of its mean.
    reuse = leap
    if not label.drawn:
        reuse = float(generative_exponent(label.expr, label.fields).value)
    return SampleComplexity(
        scaling(leap), scaling(reuse), leap, reuse, found.weak_recovery, found.algorithmic,
        found.information_theoretic, found.perfect, str(label.expr), str(prior),
    )  # fmt: skip
