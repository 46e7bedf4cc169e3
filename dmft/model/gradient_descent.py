"""Declaration of gradient descent on a fixed set of samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.errors import BadParameter
from dmft.model.algorithm import as_parameter
from dmft.model.loss import as_loss, loss_expr
from dmft.record import Shown
from dmft.validation import checked

Batch = Literal["bernoulli", "reshuffle", "replacement", "fresh"] | None
# Parameters of a step, which runs take as expressions in the time too.
OF_A_STEP = ("learning_rate", "ridge", "momentum", "readout_rate", "temperature")
TIME = "t"
BATCHES = (None, "bernoulli", "reshuffle", "replacement", "fresh")


@checked
@dataclass(frozen=True)
class GradientDescent(Shown):
    r"""Gradient descent on n = samples_per_dim * d samples that are reused in every step.

    One step is W <- W - eta (sum_mu grad l(f(x_mu), y_mu) + ridge W) + momentum (W - W_before). The
    gradient is summed over the samples, so the learning rate of a mean gradient must be divided by
    n. Time is the number of steps.

    Parameters
    ----------
    learning_rate : float or sympy.Expr
        Learning rate eta > 0, of order one as d grows.
    samples_per_dim : float or sympy.Expr
        Ratio alpha = n / d > 0; with `batch="fresh"` it refers to the samples of one step.
    ridge : float or sympy.Expr
        Coefficient lambda >= 0 of the penalty lambda |W|^2 / 2.
    batch : None, "bernoulli", "reshuffle", "replacement" or "fresh"
        Samples that a step uses. Gradients over a batch are divided by `batch_fraction`.

        - None: all samples;
        - "bernoulli": each sample with probability `batch_fraction`;
        - "reshuffle": the next part of a random order, which is redrawn for each epoch;
        - "replacement": batch_fraction * n samples drawn with replacement, so that each occurs
          Poisson(batch_fraction) times;
        - "fresh": new samples in each step.
    batch_fraction : float
        Fraction of the samples in a batch, in (0, 1]; for "reshuffle" the inverse of an integer.
    momentum : float or sympy.Expr
        Heavy-ball momentum beta in [0, 1). The first step has no momentum.
    readout_rate : float or sympy.Expr
        Learning rate of the readouts: a_j <- a_j - readout_rate E[l'(f, y) sigma(h_j)], with the
        mean over the batch of the step. This is readout_rate times width times the gradient of
        the mean loss.
    loss : "squared", "correlation", "logistic", "hinge", "huber" or sympy.Expr
        Loss of a sample, as in `SGD`: a name, or an expression in symbols named f (output) and y
        (label). "squared" is (f - y)^2 / 2, "correlation" 1 - f y, "logistic" log(1 + exp(-f y)).
    temperature : float or sympy.Expr
        Temperature T >= 0 of Langevin noise: each step adds sqrt(2 eta T) N(0, 1) to every weight.
    constraint : None or "sphere"
        "sphere" rescales each w_j to |w_j|^2 = d after the complete step, including penalty,
        momentum and noise. `momentum` multiplies the difference of the rescaled rows.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> dmft.GradientDescent(0.3, samples_per_dim=3).ridge
    0
    >>> f, y = sp.symbols("f y", real=True)
    >>> dmft.GradientDescent(0.3, 3, loss=sp.log(1 + sp.exp(-f * y))).loss
    log(1 + exp(-f*y))
    """

    # Whether each sample is used in one step only, and whether steps are infinitely short.
    one_pass: ClassVar[Literal[False]] = False
    is_flow: ClassVar[Literal[False]] = False

    learning_rate: sp.Expr
    samples_per_dim: sp.Expr
    ridge: sp.Expr = sp.S.Zero
    batch: Batch = None
    batch_fraction: float = 1.0
    momentum: sp.Expr = sp.S.Zero
    readout_rate: sp.Expr = sp.S.Zero
    loss: str | sp.Expr = "squared"
    temperature: sp.Expr = sp.S.Zero
    constraint: Literal["sphere"] | None = None

    def __post_init__(self) -> None:
        for name in ("learning_rate", "samples_per_dim"):
            object.__setattr__(self, name, as_parameter(getattr(self, name), name, positive=True))
        for name in ("ridge", "momentum", "readout_rate", "temperature"):
            object.__setattr__(self, name, as_parameter(getattr(self, name), name))
        if self.momentum.is_number and not self.momentum < 1:
            raise BadParameter(f"momentum must lie in [0, 1), got {self.momentum}")
        if self.batch not in BATCHES:
            raise BadParameter(f"batch must be one of {BATCHES}, got {self.batch!r}")
        object.__setattr__(self, "batch_fraction", check_fraction(self.batch_fraction, self.batch))
        object.__setattr__(self, "loss", as_loss(self.loss, ("squared",)))

    @property
    def on_sphere(self) -> bool:
        """Whether rows keep the length sqrt(d)."""
        return self.constraint is not None

    @property
    def loss_expr(self) -> sp.Expr:
        """Loss of a sample in `PREDICTION` and `LABEL`."""
        return loss_expr(self.loss)


def check_fraction(value: float, batch: Batch) -> float:
    """The share of the samples in a batch, or a refusal."""
    number = float(as_parameter(value, "batch_fraction", positive=True))
    if not number <= 1.0:
        raise BadParameter(f"batch_fraction must lie in (0, 1], got {value!r}")
    if batch in (None, "fresh") and number != 1.0:
        raise BadParameter(
            f'batch_fraction = {value!r} requires batch="bernoulli", "reshuffle" or "replacement", '
            f"got {batch!r}"
        )
    if batch == "reshuffle" and abs(1.0 / number - round(1.0 / number)) > 1e-9:
        raise BadParameter(
            'batch="reshuffle" divides an epoch into equal parts: batch_fraction must be the '
            f"inverse of an integer, got {value!r}"
        )
    return number


def at_each_step(name: str, expr: sp.Expr, steps: int) -> NDArray[np.float64]:
    """Values of a parameter that follows the time t, the number of steps before."""
    others = sorted({y.name for y in expr.free_symbols} - {TIME})
    if others:
        hint = (
            "; for gradient descent the risk is computed only after the run"
            if others == ["risk"]
            else ""
        )
        raise BadParameter(
            f"{name} = {expr} contains {', '.join(others)}; a schedule must be an expression in "
            f"sympy.Symbol('t'), the number of previous steps{hint}"
        )
    values = np.empty(steps)
    for step in range(steps):
        value = expr.xreplace({y: sp.Integer(step) for y in expr.free_symbols}).evalf()
        if not (value.is_number and value.is_real and value.is_finite):
            raise BadParameter(f"{name} = {expr} is {value} at t = {step}: not a finite number")
        values[step] = float(value)
        below = name in OF_A_STEP and values[step] < 0.0
        if below or (name == "momentum" and values[step] >= 1.0):
            least = "must lie in [0, 1)" if name == "momentum" else "must be at least 0"
            raise BadParameter(f"{name} = {expr} is {values[step]:g} at t = {step}; it {least}")
    return values
