"""Declarations of training algorithms."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import sympy as sp

from dmft.checks import checked, is_whole, shown
from dmft.errors import BadParameter
from dmft.model.loss import as_loss
from dmft.model.repetition import Repetition

Constraint = Literal["sphere", "sphere-gradient"] | None

CONSTRAINTS = (None, "sphere", "sphere-gradient")
# In a learning rate or a batch size this symbol is the input dimension: SGD(1, batch_size=d**2).
DIM_NAME = "d"
# Beyond, doubles do not hold all whole numbers.
LARGEST_COUNT = 2**53


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
    return result


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
            f"batch_size = {value} holds {', '.join(others)}; it is an integer, or an expression "
            "in the input dimension d = sympy.Symbol('d'), as d**2 or 3*d/2"
        )
    return value


def _check_constraint(constraint: str | None) -> None:
    if constraint not in CONSTRAINTS:
        raise BadParameter(f"constraint must be one of {list(CONSTRAINTS)}, got {constraint!r}")


def _as_decay(value: float | sp.Expr, constraint: str | None) -> sp.Expr:
    decay = as_parameter(value, "weight_decay")
    if not decay.is_zero and constraint is not None:
        raise BadParameter(
            f"weight_decay = {value} shortens rows whose length the constraint {constraint!r} "
            "keeps: leave one of them out"
        )
    return decay


@checked
@dataclass(frozen=True)
class SGD:
    r"""One-pass stochastic gradient descent.

    One step is w_j <- w_j + gamma/(p n_b) sum_mu psi_j^mu x^mu / sqrt(d), with
    psi_j = a_j sigma'(h_j) E; E = y - f for the squared loss and E = y for the correlation loss.
    Time is t = steps * gamma / (p d). A trained readout moves by
    a_j <- a_j + gamma_a/(p n_b) sum_mu E^mu sigma(h_j^mu), gamma_a = readout_rate * gamma / d.
    Of another loss l(f, y), E = -dl/df.

    Parameters
    ----------
    learning_rate : float or sympy.Expr
        gamma > 0.
    batch_size : int or sympy.Expr
        n_b >= 1 fresh samples a step; for batches that grow with the dimension an expression in
        ``d = sympy.Symbol("d")``, as ``d**2`` (`derive` with ``dim=`` gives the map of such steps).
    loss : "squared", "correlation", "frobenius" or sympy.Expr
        1/2 (y - f)^2, or 1 - y f: the update without the network's own output; or any expression
        in symbols called f (output) and y (label). For outputs of sequence models that are
        matrices also the norm ||f - y|| itself, not squared. `risk` is 1/2 E(f* - f)^2 always.
    constraint : None, "sphere" or "sphere-gradient"
        "sphere" divides each w_j by its length after the step, |w_j|^2 = d; "sphere-gradient"
        also takes the part of the step along w_j out before. Their differential equations agree,
        their maps do not.
    repeat : None, Lookahead, SharpnessAware or Repeat
        What a step does with its sample beyond one gradient; t counts samples as without.
    readout_rate : float or sympy.Expr
        rho_a >= 0: da_j/dt = rho_a E[E sigma(h_j)]; 0 keeps the readout fixed. With `repeat` it
        moves with the error and the fields of each gradient that moves the weights.
    weight_decay : float or sympy.Expr
        zeta >= 0: w <- w - gamma zeta/(p d) w in each step, which adds -zeta M and -2 zeta Q to
        the rates; not on readouts, and not on the sphere, where lengths are kept.
    momentum : float or sympy.Expr
        0 <= beta < 1: a step adds beta times the last one (heavy ball, readouts too). As d grows
        this is SGD at the rate gamma / (1 - beta), clock and decay included: t = steps *
        gamma / ((1 - beta) p d). Not with `repeat` and not with batches of order d, whose steps
        remember each other.

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

    learning_rate: sp.Expr
    batch_size: int | sp.Expr = 1
    loss: str | sp.Expr = "squared"
    constraint: Constraint = None
    repeat: Repetition | None = None
    readout_rate: sp.Expr = field(default=sp.S.Zero, kw_only=True)
    weight_decay: sp.Expr = field(default=sp.S.Zero, kw_only=True)
    momentum: sp.Expr = field(default=sp.S.Zero, kw_only=True)

    def __post_init__(self) -> None:
        rate = as_parameter(self.learning_rate, "learning_rate", positive=True)
        object.__setattr__(self, "learning_rate", rate)
        object.__setattr__(self, "batch_size", as_batch(self.batch_size))
        readout_rate = as_parameter(self.readout_rate, "readout_rate")
        object.__setattr__(self, "readout_rate", readout_rate)
        object.__setattr__(self, "loss", as_loss(self.loss))
        _check_constraint(self.constraint)
        decay = _as_decay(self.weight_decay, self.constraint)
        object.__setattr__(self, "weight_decay", decay)
        if not (self.repeat is None or isinstance(self.repeat, Repetition)):
            raise BadParameter(
                "repeat must be dmft.Lookahead(rho), dmft.SharpnessAware(rho), dmft.Repeat(times) "
                f"or None, got {self.repeat!r}"
            )
        object.__setattr__(self, "momentum", self._as_momentum(self.momentum))

    def _as_momentum(self, value: float | sp.Expr) -> sp.Expr:
        """Check beta, and refuse steps that remember each other where theory needs fresh ones."""
        beta = as_parameter(value, "momentum")
        if beta.is_number and float(beta) >= 1.0:
            raise BadParameter(f"momentum must lie in [0, 1), got {value!r}")
        whole = isinstance(self.batch_size, int) and self.constraint != "sphere-gradient"
        if not beta.is_zero and not (whole and self.repeat is None):
            raise BadParameter(
                f"momentum = {value} is SGD at a larger rate for batches of a fixed size, fresh "
                'samples, and rows that are free or on the "sphere"; got batch_size = '
                f"{self.batch_size}, repeat = {self.repeat}, constraint = {self.constraint!r}"
            )
        return beta

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
class GradientFlow:
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

    constraint: Literal["sphere"] | None = None
    weight_decay: sp.Expr = field(default=sp.S.Zero, kw_only=True)

    def __post_init__(self) -> None:
        if self.constraint not in (None, "sphere"):
            raise BadParameter(f'constraint must be None or "sphere", got {self.constraint!r}')
        decay = _as_decay(self.weight_decay, self.constraint)
        object.__setattr__(self, "weight_decay", decay)

    @property
    def trains_readout(self) -> bool:
        """The readout stays fixed."""
        return False

    @property
    def on_sphere(self) -> bool:
        """Whether the rows keep their length."""
        return self.constraint is not None
