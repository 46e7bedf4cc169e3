"""Declarations of training algorithms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.errors import BadParameter
from dmft.model.hyperparameters import OPTIMISER
from dmft.model.loss import as_loss, loss_expr
from dmft.model.rule import PLAIN, InTorch, Named, UpdateRule
from dmft.record import Shown
from dmft.validation import as_count, checked, checked_or, shown

Constraint = Literal["sphere", "sphere-gradient"] | None

CONSTRAINTS = (None, "sphere", "sphere-gradient")
# In a learning rate or a batch size this symbol is the input dimension: SGD(1, batch_size=d**2).
DIM_NAME = "d"


def numbers_of(algorithm: object) -> dict[str, sp.Expr]:
    """The numbers of `OPTIMISER` that an algorithm declares, zeros left out."""
    dropped = getattr(algorithm, "drops", ())
    found = {name: getattr(algorithm, name, None) for name in OPTIMISER if name not in dropped}
    numbers = ((name, v) for name, v in found.items() if isinstance(v, sp.Expr))
    return {name: value for name, value in numbers if value != 0}


def refuse(algorithm: object, *where: str, numbers: Mapping[str, object] | None = None) -> None:
    """Refuse numbers of the optimiser that are not used there, by default the declared ones.

    `where` is "sphere", "repeat", "map", "sequence", "chain", "escape", "readout", "explain",
    "noise" (what is derived beyond the rates of the overlaps: fluctuations, wide limits) or
    "batches" (schedules of the batch size).
    """
    own = getattr(algorithm, "refuses", {})
    for place in where:
        if place in own:
            raise BadParameter(f"{algorithm!r} {own[place]}")
    given = numbers_of(algorithm) if numbers is None else numbers
    for name, value in given.items():
        for place in where:
            if name in OPTIMISER and place in OPTIMISER[name].refused:
                raise BadParameter(f"{name} = {value} {OPTIMISER[name].refused[place]}")


def _check_numbers(algorithm: SGD | GradientFlow) -> None:
    """Numbers of the optimiser as SymPy, within their bounds and allowed by the declaration."""
    for name, number in OPTIMISER.items():
        if not (number.declared and hasattr(algorithm, name)):
            continue
        given = getattr(algorithm, name)
        if isinstance(given, Momentum):
            continue
        value = as_parameter(given, name)
        if value.is_number and not float(value) < number.below:
            raise BadParameter(f"{name} must be below {number.below:g}, got {value}")
        object.__setattr__(algorithm, name, value)
    refuse(algorithm, *places(algorithm))


def places(algorithm: SGD | GradientFlow) -> Iterator[str]:
    """What a declaration says by itself."""
    if algorithm.on_sphere:
        yield "sphere"
    if algorithm.rule.passes > 1:
        yield "repeat"
    if algorithm.trains_readout:
        yield "readout"


def as_parameter(value: float | sp.Expr, name: str, *, positive: bool = False) -> sp.Expr:
    """Return a number or an expression as SymPy, refusing what cannot be this parameter."""
    try:
        result = sp.sympify(value, strict=True)
    except (sp.SympifyError, TypeError, ValueError) as error:
        raise BadParameter(
            f"{name} must be a number or a SymPy symbol, got {shown(value)}"
        ) from error
    if not isinstance(result, sp.Expr):
        raise BadParameter(f"{name} must be a number or a SymPy symbol, got {value!r}")
    if result.is_negative:
        raise BadParameter(f"{name} must be non-negative, got {value!r}")
    if result.is_real is False:
        raise BadParameter(f"{name} must be real and finite, got {value!r}")
    if result.is_number:
        if not (result.is_real and result.is_finite):
            raise BadParameter(f"{name} must be real and finite, got {value!r}")
        if positive and float(result) == 0:
            raise BadParameter(f"{name} must be positive, got {value!r}")
    # SymPy tells 0.0 from 0: what asks whether there is noise would see some.
    return sp.S.Zero if result.is_zero else result


def as_batch(value: int | sp.Expr) -> int | sp.Expr:
    """Return a batch size: an integer >= 1, or an expression in the symbol d of the dimension."""
    if not isinstance(value, sp.Expr) or value.is_number:
        return as_count(value, "batch_size")
    others = sorted(s.name for s in value.free_symbols if s.name != DIM_NAME)
    if others:
        raise BadParameter(
            f"batch_size = {value} contains {', '.join(others)}; it must be an integer, or an "
            "expression in the input dimension d = sympy.Symbol('d') such as d**2 or 3*d/2"
        )
    return value


def _check_constraint(constraint: str | None) -> None:
    if constraint not in CONSTRAINTS:
        raise BadParameter(f"constraint must be one of {list(CONSTRAINTS)}, got {constraint!r}")


def _shorten(algorithm: SGD) -> None:
    """Put the rule of shortened gradients in its place."""
    if algorithm.clip is not None:
        level = as_parameter(algorithm.clip, "clip", positive=True)
        object.__setattr__(algorithm, "clip", level)
    if algorithm.clip is None and algorithm.normalised is False:
        return
    from dmft.model.repetition import clipping_of  # few algorithms have it

    made = clipping_of(algorithm.clip, algorithm.normalised, algorithm.repeat)
    if made is None:
        return
    if algorithm.readout_rate != 0:
        raise BadParameter(
            f"readout_rate = {algorithm.readout_rate} trains readouts, and their gradients "
            "would contribute to the length: clip= and normalised= require fixed readouts"
        )
    object.__setattr__(algorithm, "repeat", made)


def _check_repeat(algorithm: SGD) -> None:
    repeat, own = algorithm.repeat, type(algorithm)
    if repeat is None:
        return
    if not isinstance(repeat, UpdateRule) or isinstance(repeat, SGD | GradientFlow):
        raise BadParameter(f"repeat = {repeat!r} defines no update; {REPETITIONS}")
    if own.written_by != PLAIN:
        raise BadParameter(f"{own.__name__} defines its own update: leave repeat={repeat!r} out")


REPETITIONS = (
    "use dmft.Lookahead(rho), dmft.SharpnessAware(rho), dmft.Repeat(times) or a custom record"
)


@checked
@dataclass(frozen=True)
class Momentum(Shown):
    r"""Heavy-ball momentum whose memory is of order one in t.

    The step is v <- beta v + (1 - beta) G and w <- w + alpha_1 G + v, where G is the step of SGD
    and 1 - beta = kappa gamma/(p d). The velocity u = p d v/gamma contributes u to dw/dt. Its
    overlaps velocity_M = u w*^T/d, velocity_Q = u w^T/d and velocity = u u^T/d are part of the
    equations and are zero at the start by default.

    Parameters
    ----------
    rate : float or sympy.Expr
        Rate kappa > 0 at which velocities decay, per unit of t. (``SGD(momentum=beta)`` declares a
        fixed beta, whose memory is of order 1/d in t.)
    direct : float or sympy.Expr
        Part alpha_1 >= 0 of each step that moves the weights directly.

    Notes
    -----
    Source      theory/structured_inputs (18), (19)

    Examples
    --------
    >>> import dmft
    >>> dmft.SGD(0.5, momentum=dmft.Momentum(rate=2.0)).momentum_rate
    2.00000000000000
    """

    rate: sp.Expr
    direct: sp.Expr = sp.S.Zero

    def __post_init__(self) -> None:
        rate = as_parameter(self.rate, "rate of Momentum", positive=True)
        object.__setattr__(self, "rate", rate)
        object.__setattr__(self, "direct", as_parameter(self.direct, "direct of Momentum"))
        if rate == 0:
            raise BadParameter("rate of Momentum must be positive: use SGD without momentum")


@checked_or(repeat=REPETITIONS)
@dataclass(frozen=True)
class SGD(UpdateRule, InTorch):
    r"""One-pass stochastic gradient descent.

    Every step uses n_b fresh samples mu and updates the weights of each hidden unit j of the
    student (width p) by w_j <- w_j + gamma/(p n_b) sum_mu psi_j^mu x^mu / sqrt(d). The update field
    is psi_j = a_j sigma'(h_j) E, where E = -dl/df is the error under the loss l(f, y): y - f for
    the squared loss, and y for the correlation loss. Time is t = steps * gamma / (p d).

    Parameters
    ----------
    learning_rate : float or sympy.Expr
        Learning rate gamma > 0.
    batch_size : int or sympy.Expr
        Number n_b >= 1 of samples per step. Declare batches that grow with the dimension by an
        expression in ``d = sympy.Symbol("d")`` such as ``d**2``, and pass ``dim=`` to `derive`,
        which then returns the map of one step.
    loss : "squared", "correlation", "logistic", "hinge", "huber" ... or sympy.Expr
        - "squared": 1/2 (y - f)^2;
        - "correlation": 1 - y f, whose gradient does not depend on f;
        - "logistic": log(1 + exp(-y f)); "hinge": max(0, 1 - y f); "huber": the squared loss for
          |y - f| <= 1, and |y - f| - 1/2 beyond;
        - "cross-entropy": -log softmax_y(f), for several outputs;
        - "frobenius": the norm ||f - y|| (not squared), for matrix outputs of sequence models;
        - any expression in symbols named f (output) and y (label).

        For several outputs, an expression contains the symbols f1, f2, ... and y1, y2, ... The
        label y_o is 1 for the class of the sample and 0 for the others. "squared" is then
        sum_o (y_o - f_o)^2/2, and "correlation" is 1 - sum_o y_o f_o. The risk of a run is
        1/2 E(f* - f)^2 for every loss.
    constraint : None, "sphere" or "sphere-gradient"
        "sphere" rescales each w_j to |w_j|^2 = d after the step. "sphere-gradient" first removes
        the component of the step along w_j, and then rescales. Both lead to the same differential
        equations, but to different maps for large batches.
    repeat : None, Lookahead, SharpnessAware, Repeat or a custom record
        Repeated use of each sample within a step. Time still counts each sample once. A custom
        record extends `dmft.UpdateRule`.
    readout_rate : float or sympy.Expr
        Relative learning rate rho_a >= 0 of the readouts: a step adds
        rho_a gamma/(p d n_b) sum_mu E^mu sigma(h_j^mu) to a_j, so that da_j/dt is rho_a times the
        average of E sigma(h_j). With 0 the readouts are fixed. With `repeat`, the readouts use the
        errors and the fields at which the gradients of the weights are evaluated.
    weight_decay : float or sympy.Expr
        Weight decay zeta >= 0. Each step adds -gamma zeta/(p d) w to the weights, which adds
        -zeta M and -2 zeta Q to the rates. As in PyTorch, the decay is part of the gradient that
        momentum accumulates. Readouts do not decay. Not available on the sphere.
    decoupled : bool
        If True, the decay is not part of the gradient (SGDW): the weights decrease by
        gamma zeta/(p d) w in addition to the step, and velocities do not contain the decay. Without
        momentum both settings agree. With a fixed momentum beta, the decay adds
        -(1 - beta) zeta M and -2 (1 - beta) zeta Q to the rates, because a step advances t by
        gamma/((1 - beta) p d). With `Momentum` it adds -zeta M and -2 zeta Q to the rates of the
        weights, and nothing to the rates of the velocities.
    momentum : float, sympy.Expr or Momentum
        Heavy-ball momentum 0 <= beta < 1: a step includes beta times the previous step, also for
        the readouts. In high dimension this is equivalent to SGD at the learning rate
        gamma/(1 - beta), with t = steps * gamma / ((1 - beta) p d). Not available with `Repeat`, or
        with batches of order d (their steps would be correlated). With a `Momentum`, beta tends to
        1 as d grows (see there). Velocities then decay over times t of order one, and the equations
        contain their overlaps.
    gradient_noise : float or sympy.Expr
        Variance Delta_g >= 0 of Langevin noise: a step adds (gamma/p) sqrt(Delta_g/d) xi_j to w_j,
        with fresh xi_j ~ N(0, I_d) for each unit. The noise adds gamma Delta_g/p to dQ_jj/dt for
        any batch size. Velocities accumulate the noise like gradients.
    clip : float or sympy.Expr, optional
        Largest length C > 0 of the gradient, the vector of psi_j x/(p sqrt(d)) of all units j,
        averaged over the batch. Longer gradients are shortened to C. Requires fixed readouts.
    normalised : bool
        Rescale this gradient to length one. Not available with `clip`.
    average : float or sympy.Expr
        Rate kappa_a >= 0 of a running average w_a of the weights, dw_a/dt = kappa_a (w - w_a),
        which starts at w_a = w. With 0 there is no average. A run contains its overlaps with the
        teacher (average_M), with w (average_Q) and with itself (average). The risk is the risk of
        w, not of w_a.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> dmft.SGD(learning_rate=0.5).batch_size
    1
    >>> f, y = sp.symbols("f y")
    >>> dmft.SGD(0.5, loss=sp.log(1 + sp.exp(-f * y)), weight_decay=0.1).loss
    log(1 + exp(-f*y))
    >>> dmft.SGD(0.5, batch_size=1000, loss="correlation", constraint="sphere").loss
    'correlation'
    """

    written_by: ClassVar[Named] = PLAIN
    one_pass: ClassVar[Literal[True]] = True
    is_flow: ClassVar[Literal[False]] = False

    learning_rate: sp.Expr
    batch_size: int | sp.Expr = 1
    loss: str | sp.Expr = "squared"
    constraint: Constraint = None
    repeat: UpdateRule | None = None
    readout_rate: sp.Expr = field(default=sp.S.Zero, kw_only=True)
    weight_decay: sp.Expr = field(default=sp.S.Zero, kw_only=True)
    momentum: sp.Expr | Momentum = field(default=sp.S.Zero, kw_only=True)
    gradient_noise: sp.Expr = field(default=sp.S.Zero, kw_only=True)
    average: sp.Expr = field(default=sp.S.Zero, kw_only=True)
    decoupled: bool = field(default=False, kw_only=True)
    clip: sp.Expr | None = field(default=None, kw_only=True)
    normalised: bool = field(default=False, kw_only=True)

    def _declare(self, **own: Any) -> None:
        """Set these fields, leave the others at their defaults, and check all."""
        for name, value in own.items():
            object.__setattr__(self, name, value)
        self.__post_init__()

    def __post_init__(self) -> None:
        _shorten(self)
        rate = as_parameter(self.learning_rate, "learning_rate", positive=True)
        object.__setattr__(self, "learning_rate", rate)
        object.__setattr__(self, "batch_size", as_batch(self.batch_size))
        readout_rate = as_parameter(self.readout_rate, "readout_rate")
        object.__setattr__(self, "readout_rate", readout_rate)
        object.__setattr__(self, "loss", as_loss(self.loss))
        _check_constraint(self.constraint)
        _check_repeat(self)
        object.__setattr__(self, "average", as_parameter(self.average, "average"))
        _check_numbers(self)

    @property
    def rule(self) -> UpdateRule:
        """Record that defines psi."""
        return self.repeat or self

    @property
    def average_rate(self) -> sp.Expr:
        """Rate kappa_a of averaged weights; zero without averaging."""
        return self.average

    @property
    def momentum_rate(self) -> sp.Expr:
        """Rate kappa of `Momentum`; zero if there is none."""
        return self.momentum.rate if isinstance(self.momentum, Momentum) else sp.S.Zero

    @property
    def momentum_direct(self) -> sp.Expr:
        """Part alpha_1 of `Momentum`; zero if there is none."""
        return self.momentum.direct if isinstance(self.momentum, Momentum) else sp.S.Zero

    @property
    def trains_readout(self) -> bool:
        """Whether the readouts are trained."""
        return self.readout_rate != 0

    @property
    def on_sphere(self) -> bool:
        """Whether the rows keep their length."""
        return self.constraint is not None


@checked
@dataclass(frozen=True)
class GradientFlow(UpdateRule):
    """Gradient flow of the population risk, the limit gamma/p -> 0 of one-pass SGD.

    Parameters
    ----------
    constraint : None or "sphere"
    weight_decay : float or sympy.Expr
        Weight decay zeta >= 0, which adds -zeta M and -2 zeta Q to the rates. Not available on the
        sphere.

    Examples
    --------
    >>> import dmft
    >>> dmft.GradientFlow(constraint="sphere").constraint
    'sphere'
    """

    written_by: ClassVar[Named] = PLAIN
    one_pass: ClassVar[Literal[True]] = True
    is_flow: ClassVar[Literal[True]] = True
    # Its gradient is that of the population risk.
    loss: ClassVar[str] = "squared"
    repeat: ClassVar[None] = None

    constraint: Literal["sphere"] | None = None
    weight_decay: sp.Expr = field(default=sp.S.Zero, kw_only=True)

    def __post_init__(self) -> None:
        if self.constraint not in (None, "sphere"):
            raise BadParameter(f'constraint must be None or "sphere", got {self.constraint!r}')
        _check_numbers(self)

    @property
    def trains_readout(self) -> bool:
        """Whether the readouts are trained (always False)."""
        return False

    @property
    def on_sphere(self) -> bool:
        """Whether the rows keep their length."""
        return self.constraint is not None


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
