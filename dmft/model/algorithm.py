"""Declarations of training algorithms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import sympy as sp

from dmft.errors import BadParameter
from dmft.model.hyperparameters import OPTIMISER
from dmft.model.loss import as_loss
from dmft.model.rule import PLAIN, InTorch, Named, UpdateRule
from dmft.record import Shown
from dmft.validation import checked, checked_or, is_whole, shown

Constraint = Literal["sphere", "sphere-gradient"] | None

CONSTRAINTS = (None, "sphere", "sphere-gradient")
# In a learning rate or a batch size this symbol is the input dimension: SGD(1, batch_size=d**2).
DIM_NAME = "d"
# Beyond, doubles do not hold all whole numbers.
LARGEST_COUNT = 2**53


def numbers_of(algorithm: object) -> dict[str, sp.Expr]:
    """The numbers of `OPTIMISER` that an algorithm declares, zeros left out."""
    dropped = getattr(algorithm, "drops", ())
    found = {name: getattr(algorithm, name, None) for name in OPTIMISER if name not in dropped}
    numbers = ((name, v) for name, v in found.items() if isinstance(v, sp.Expr))
    return {name: value for name, value in numbers if value != 0}


def refuse(algorithm: object, *where: str) -> None:
    """Refuse numbers of the optimiser that are not used there.

    `where` is "sphere", "repeat", "map", "sequence", "chain", "escape", "readout", "explain" or
    "noise" (what is derived beyond the rates of the overlaps: fluctuations, wide limits).
    """
    own = getattr(algorithm, "refuses", {})
    for place in where:
        if place in own:
            raise BadParameter(f"{algorithm!r} {own[place]}")
    for name, value in numbers_of(algorithm).items():
        for place in where:
            if place in OPTIMISER[name].refused:
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
    refuse(algorithm, *_places(algorithm))


def _places(algorithm: SGD | GradientFlow) -> Iterator[str]:
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


def as_count(value: int, name: str) -> int:
    """Return an integer that is at least 1; NumPy's and whole floats (1e3) are welcome."""
    if is_whole(value) and 1 <= value <= LARGEST_COUNT:
        return int(value)
    raise BadParameter(f"{name} must be an integer >= 1 (and at most 2**53), got {shown(value)}")


def as_batch(value: int | sp.Expr) -> int | sp.Expr:
    """Return a batch size: an integer >= 1, or an expression in the symbol d of the dimension."""
    if not isinstance(value, sp.Expr) or value.is_number:
        return as_count(int(value) if isinstance(value, sp.Integer) else value, "batch_size")
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
    r"""Heavy ball with 1 - beta = kappa gamma/(p d): its memory is of order one in t.

    With G the step of SGD, v <- beta v + (1 - beta) G and w <- w + alpha_1 G + v. The velocity
    u = p d v/gamma, with dw/dt = u, is an additional row: overlaps velocity_M = u w*^T/d,
    velocity_Q = u w^T/d and velocity = u u^T/d, zero at a start.

    Parameters
    ----------
    rate : float or sympy.Expr
        kappa > 0. At fixed beta, ``SGD(momentum=beta)``, the memory is of order 1/d in t.
    direct : float or sympy.Expr
        alpha_1 >= 0, the part of a step that moves the weights at once.

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

    One step is w_j <- w_j + gamma/(p n_b) sum_mu psi_j^mu x^mu / sqrt(d), with
    psi_j = a_j sigma'(h_j) E; E = -dl/df for the loss l(f, y), which is y - f for the squared loss
    and y for the correlation loss. Time is t = steps * gamma / (p d).

    Parameters
    ----------
    learning_rate : float or sympy.Expr
        gamma > 0.
    batch_size : int or sympy.Expr
        n_b >= 1 fresh samples per step. For batches that grow with the dimension, an expression in
        ``d = sympy.Symbol("d")`` such as ``d**2`` (`derive` with ``dim=`` gives the map of such
        steps).
    loss : "squared", "correlation", "cross-entropy", "frobenius" or sympy.Expr
        - "squared": 1/2 (y - f)^2;
        - "correlation": 1 - y f, whose gradient does not depend on f;
        - "cross-entropy": -log softmax_y(f), for several outputs;
        - "frobenius": the norm ||f - y|| (not squared), for matrix outputs of sequence models;
        - any expression in symbols named f (output) and y (label).

        For several outputs y_o is 1 for the class of the sample and 0 for the others: an expression
        contains f1, f2, ... and y1, y2, ...; "squared" is sum_o (y_o - f_o)^2/2, "correlation"
        1 - sum_o y_o f_o. `risk` is 1/2 E(f* - f)^2 for every loss.
    constraint : None, "sphere" or "sphere-gradient"
        "sphere" divides each w_j by its length after the step, |w_j|^2 = d; "sphere-gradient"
        first removes the component of the step along w_j. Both give the same differential
        equations, but different maps.
    repeat : None, Lookahead, SharpnessAware, Repeat or a custom record
        How a sample is used more than once; t still counts samples. A custom record extends
        `dmft.UpdateRule`; a new algorithm may extend this class in the same way.
    readout_rate : float or sympy.Expr
        rho_a >= 0: da_j/dt = rho_a E[E sigma(h_j)], by steps a_j <- a_j + gamma_a/(p n_b) sum_mu
        E^mu sigma(h_j^mu), gamma_a = rho_a gamma / d. 0 keeps the readout fixed. With `repeat` the
        readout uses the error and the fields of each gradient of the weights.
    weight_decay : float or sympy.Expr
        zeta >= 0: each step adds -gamma zeta/(p d) w, as ``weight_decay`` does in PyTorch. The
        rates gain the terms -zeta M and -2 zeta Q. Heavy-ball momentum and the velocity of
        `Momentum` include the decay like the gradient. Readouts do not decay; not available on the
        sphere.
    decoupled : bool
        True: the weights decrease by gamma zeta/(p d) w in addition to the step (SGDW), and
        velocities do not decay. Without momentum both settings agree. With a number beta, one step
        advances t by gamma/((1 - beta) p d), and the decay adds -(1 - beta) zeta M and
        -2 (1 - beta) zeta Q to the rates. With `Momentum` it adds -zeta M and -2 zeta Q to the
        rates of the weights, and nothing to those of the velocities.
    momentum : float, sympy.Expr or Momentum
        0 <= beta < 1: a step includes beta times the previous step (heavy ball, also for readouts).
        As d grows this is SGD at the rate gamma / (1 - beta), including time, decay and
        fluctuations: t = steps * gamma / ((1 - beta) p d). Not available with `Repeat` or with
        batches of order d, whose steps are correlated. With ``Momentum(rate, direct)`` beta tends
        to 1 as d grows, so that velocities decay over times t of order one; they are additional
        rows of the equations.
    gradient_noise : float or sympy.Expr
        Delta_g >= 0: a step adds (gamma/p) sqrt(Delta_g/d) xi_j to w_j, with fresh xi_j ~ N(0, I_d)
        for each neuron (Langevin noise). It adds gamma Delta_g/p to dQ_jj/dt for any batch size;
        velocities accumulate it like gradients.
    clip : float or sympy.Expr, optional
        C > 0: the gradient g = psi x/(p sqrt(d)) of all neurons (the mean over a batch) is
        shortened to |g| <= C. Requires fixed readouts.
    normalised : bool
        Rescale gradients to length one; not with `clip`.
    average : float or sympy.Expr
        Rate kappa_a >= 0 of a running average w_a of the weights, dw_a/dt = kappa_a (w - w_a), with
        w_a = w at the start; 0 for none. Its overlaps are average_M, average_Q and average; the
        risk is that of w.

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
        """The record that defines psi."""
        return self.repeat or self

    @property
    def average_rate(self) -> sp.Expr:
        """kappa_a of averaged weights, zero without averaging."""
        return self.average

    @property
    def momentum_rate(self) -> sp.Expr:
        """Kappa of `Momentum`, zero without."""
        return self.momentum.rate if isinstance(self.momentum, Momentum) else sp.S.Zero

    @property
    def momentum_direct(self) -> sp.Expr:
        """alpha_1 of `Momentum`, zero without."""
        return self.momentum.direct if isinstance(self.momentum, Momentum) else sp.S.Zero

    @property
    def trains_readout(self) -> bool:
        """Whether the second layer learns too."""
        return self.readout_rate != 0

    @property
    def on_sphere(self) -> bool:
        """Whether the rows keep their length."""
        return self.constraint is not None


@checked
@dataclass(frozen=True)
class GradientFlow(UpdateRule):
    """Gradient flow of the population risk: the limit gamma/p -> 0 of one-pass SGD.

    Parameters
    ----------
    constraint : None or "sphere"
    weight_decay : float or sympy.Expr
        zeta >= 0: adds -zeta M and -2 zeta Q to the rates; not on the sphere.

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
        """The readout stays fixed."""
        return False

    @property
    def on_sphere(self) -> bool:
        """Whether the rows keep their length."""
        return self.constraint is not None
