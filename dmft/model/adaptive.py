"""Declarations of optimisers that scale their steps: signs, second moments, sums of squares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np
import sympy as sp

from dmft.aliases import whose
from dmft.errors import BadParameter
from dmft.model.algorithm import SGD, Momentum, as_parameter
from dmft.model.hyperparameters import ONE_SIZE
from dmft.model.rule import Named
from dmft.record import worded
from dmft.validation import checked, shown

# What a step is divided by: nothing but the sign is kept, the root of a second moment of each
# coordinate, or the root of one sum for all.
Scale = Literal["sign", "moment", "norm"]
# Keywords that all of them take, as `SGD` does.
OTHERS = ("batch_size", "loss", "weight_decay", "decoupled", "average")
# Where V follows at once, runs in d dimensions have 1 - beta_2 = 1/(LONG sqrt(d)): the fluctuations
# of V change steps by 2.5 (1 - beta_2), its memory by about 1/(d (1 - beta_2)).
LONG = 3.0
NOT_DERIVED = (
    "is derived for the ode of small batches with free rows, and simulated by its weights: use "
    "dmft.SGD here"
)


@dataclass(frozen=True, init=False)
class Adaptive(SGD):
    """Base of one-pass algorithms whose steps are scaled by what they have seen of gradients.

    Attributes
    ----------
    scale : "sign", "moment" or "norm"
        What a step is divided by.
    kept : str
        Name of the accumulator, a block of the state; empty where there is none.
    """

    scale: ClassVar[Scale]
    # Their momentum at fixed beta is an average of gradients, which drops out.
    drops: ClassVar[frozenset[str]] = frozenset({"momentum"})
    refuses: ClassVar[Mapping[str, str]] = MappingProxyType(
        dict.fromkeys(("map", "sequence", "chain", "escape", "noise", "explain"), NOT_DERIVED)
        | {"batches": "divides steps by sizes of gradients, which depend on the batch: " + ONE_SIZE}
    )

    def _declare(self, *, others: Mapping[str, Any] = MappingProxyType({}), **own: Any) -> None:
        """`others` are keywords that go to `SGD`."""
        unknown = sorted(set(others) - set(OTHERS))
        if unknown:
            raise BadParameter(
                f"{type(self).__name__} has no {unknown[0]}; in addition to its own parameters "
                f"it takes {', '.join(OTHERS)}{whose(unknown[0], OTHERS)}"
            )
        if not isinstance(others.get("decoupled", False), bool):
            raise BadParameter(f"decoupled must be True or False, got {shown(others['decoupled'])}")
        super()._declare(**others, **own)

    @property
    def gradient(self) -> SGD:
        """SGD with the same gradients."""
        return SGD(self.learning_rate, self.batch_size, self.loss)

    @property
    def kept(self) -> str:
        """Name of the accumulator."""
        return ""

    def check_units(self, readout: Iterable[float]) -> None:
        """Refuse readouts of zero where steps are gradients over their own size."""
        eps = getattr(self, "eps", sp.S.Zero)
        if self.scale == "norm" or self.kept or eps != 0:
            return
        # Of several outputs a unit has one in each row.
        rows = list(readout)
        units = zip(*rows, strict=True) if np.ndim(rows) > 1 else ((a,) for a in rows)
        for number, own in enumerate(units, start=1):
            if not any(own):
                raise BadParameter(
                    f"readout {number} of the student is 0: the gradient of a dead unit is 0, and "
                    f"steps of {type(self).__name__} divide it by its size; leave the unit out"
                    + (", or use eps > 0" if hasattr(self, "eps") else "")
                )

    def __repr__(self) -> str:
        plain = {f.name: f.default for f in fields(self)}
        held = {f: getattr(self, f) for f in plain}
        told = (f for f in held if held[f] != plain[f] or f == "learning_rate")
        return f"{type(self).__name__}({', '.join(f'{f}={worded(held[f], str)}' for f in told)})"


def _rate(value: float | sp.Expr | None, name: str) -> sp.Expr | None:
    return None if value is None else as_parameter(value, name, positive=True)


@checked
@dataclass(frozen=True, init=False, repr=False)
class SignSGD(Adaptive):
    r"""SignSGD: steps along the sign of every coordinate of the gradient.

    One step is w <- w + gamma/(p sqrt(d)) sign(g), g_ji = sum_mu psi_j^mu x_i^mu / n_b. Time is
    t = steps * gamma / (p d).

    Parameters
    ----------
    learning_rate : float or sympy.Expr
        gamma > 0.
    batch_size : int
        Number n_b of samples per step. For linear networks the averages have closed forms. For
        other networks they are computed by quadrature: for one smooth unit without a spectrum or
        average over the fields of a sample, otherwise of all samples (at most 16).
    **others
        loss, weight_decay and average, as in `SGD`. The decay gamma zeta/(p d) w is decoupled: as
        part of the gradient it would dominate the sign where psi x is nearly 0, and dw/dt would
        grow as log d.

    Notes
    -----
    - With one sample, sign(g_ji) = sign(psi_j) sign(x_i). The equations therefore contain sign(psi)
      instead of psi. In block e the drift is multiplied by sqrt(2 c_e/pi) and the noise by phi_e.
    - With more samples, the g_ji at given psi are normal with covariances
      A_jl = sum_mu psi_j^mu psi_l^mu. In the averages, sum_mu psi_j^mu lambda^mu/sqrt(A_jj)
      replaces sign(psi_j) lambda, and 2/pi asin(A_jl/sqrt(A_jj A_ll)) replaces
      sign(psi_j) sign(psi_l).

    Valid for   inputs with independent coordinates (`Spectrum`), and inputs of any covariance by
                `Spectrum.under_signs`; the result depends on the basis. Coordinates that contribute
                a finite share of the outputs are treated exactly for linear networks, otherwise
                neglected (`equations.approximation` reports their share)
    Source      theory/structured_inputs 4.4

    Examples
    --------
    >>> import dmft, sympy as sp
    >>> z = sp.Symbol("z", real=True)
    >>> line = dmft.Committee(z, width=1)
    >>> equations = dmft.derive(dmft.Model(line, line), dmft.SignSGD(0.1))
    >>> rates = equations.evaluate(dmft.Overlaps([[0.0]], [[0.0]]))
    >>> round(float(rates["M"][0, 0]), 12), round(float(rates["Q"][0, 0]), 12)  # 2/pi, gamma
    (0.636619772368, 0.1)
    """

    written_by: ClassVar[Named] = "dmft.equations.update.adaptive_signs:signs"
    scale: ClassVar[Scale] = "sign"
    words: ClassVar[str] = "SignSGD, in one pass,"
    direction: ClassVar[str] = "the sign of the gradient"

    decoupled: bool = True

    def __init__(self, learning_rate: float | sp.Expr, batch_size: int = 1, **others: Any) -> None:
        self._declare(learning_rate=learning_rate, batch_size=batch_size, others=others)
        if not self.decoupled:
            raise BadParameter(
                "decoupled = False: a decay inside the signs of gradients has no limit as d grows; "
                "leave decoupled out"
            )


@checked
@dataclass(frozen=True, init=False, repr=False)
class Adam(Adaptive):
    r"""Adam: each coordinate of a step is divided by the root of the second moment of its gradient.

    One step is w <- w + gamma/(p sqrt(d)) m/(sqrt(V) + eps), where m and V are running averages of
    g = psi x and of g^2 in every coordinate. In high dimension V depends on the unit j and the
    block e (with eigenvalue c_e and fraction phi_e of the coordinates) and obeys

        dV_je/dt = kappa_2 (c_e S_jj - V_je),   1 - beta_2 = kappa_2 gamma/(p d),

    with S_jj = E[psi_j^2]. Without `second_moment_rate`, V_je = c_e S_jj at all times: this is the
    limit 1/d << 1 - beta_2 << 1 of a memory that is long in steps but short in t, and simulations
    use 1 - beta_2 = 1/(3 sqrt(d)). The drift is multiplied by c_e r_je and the noise by
    c_e phi_e r_je r_le, with r = 1/(sqrt(V) + eps). Time is t = steps * gamma / (p d).

    Parameters
    ----------
    learning_rate : float or sympy.Expr
        gamma > 0.
    second_moment_rate : float or sympy.Expr, optional
        Rate kappa_2 at which V forgets earlier gradients.
    eps : float or sympy.Expr
        Constant added to sqrt(V), in units of g = psi x (`as_torch` converts it).
    momentum : float or sympy.Expr
        Memory 0 <= beta_1 < 1 of m. It has no effect in the limit of large d. Simulations use it,
        and the equations do not contain it.
    initial : float or sympy.Expr
        Value of V at t = 0, used with `second_moment_rate`; positive if eps = 0. There is no bias
        correction.
    **others
        batch_size, loss and average, as in `SGD`. weight_decay is part of the gradient, as in
        torch.optim.Adam: each step subtracts gamma zeta/(p d) r w from the weights, where
        r = 1/(sqrt(V) + eps) and V does not contain the decay. With ``decoupled=True`` (AdamW) a
        step subtracts gamma zeta/(p d) w.

    Notes
    -----
    Valid for   independent coordinates; at eps = 0 also a fixed covariance in any basis
                (`Spectrum.preconditioned` with P = diag(Sigma)^(-1/2); `initial` then refers to
                inputs of variance one). Coordinates that contribute a finite share of the outputs
                are treated as by `SignSGD`
    Source      theory/structured_inputs 4.5, (22)

    Examples
    --------
    >>> import dmft
    >>> adam = dmft.Adam(0.5, second_moment_rate=2.0, initial=0.5)
    >>> adam.kept, dmft.Adam(0.5).kept
    ('second_moment', '')
    """

    scale: ClassVar[Scale] = "moment"
    words: ClassVar[str] = "Adam, in one pass,"

    second_moment_rate: sp.Expr | None = None
    eps: sp.Expr = sp.S.Zero
    initial: sp.Expr = sp.S.Zero

    def __init__(
        self,
        learning_rate: float | sp.Expr,
        second_moment_rate: float | sp.Expr | None = None,
        eps: float | sp.Expr = 0,
        momentum: float | sp.Expr | Momentum = 0,
        initial: float | sp.Expr = 0,
        **others: Any,
    ) -> None:
        if isinstance(momentum, Momentum):
            raise BadParameter(
                f"momentum = {momentum}: Adam's first moment is derived at fixed beta_1, where it "
                "drops out; use a number below 1, or dmft.SGD(momentum=dmft.Momentum(...))"
            )
        self._declare(
            learning_rate=learning_rate,
            others=others,
            momentum=momentum,
            second_moment_rate=_rate(second_moment_rate, "second_moment_rate"),
            eps=as_parameter(eps, "eps"),
            initial=as_parameter(initial, "initial"),
        )
        if second_moment_rate is None and self.initial != 0:
            raise BadParameter(
                f"initial = {initial} has no effect without second_moment_rate: pass both, "
                "or leave initial out"
            )

    @property
    def kept(self) -> str:
        """Names of the second moments that are part of the state."""
        return "" if self.second_moment_rate is None else "second_moment"

    @property
    def direction(self) -> str:
        """What each coordinate of a step is, in a document."""
        words = "the gradient divided by the root of a running average of its square"
        if self.second_moment_rate is None and getattr(self, "beta2", None) is None:
            words += r", whose decay rate $\beta_2$ satisfies $1/d \ll 1 - \beta_2 \ll 1$"
        return words


@checked
@dataclass(frozen=True, init=False, repr=False)
class RMSProp(Adam):
    r"""RMSProp: `Adam` without momentum, also with a fixed memory of the second moment.

    Parameters
    ----------
    learning_rate, second_moment_rate, eps, initial
        As for `Adam`.
    beta2 : float, optional
        Fixed memory beta_2 < 1 instead of `second_moment_rate`. V then fluctuates with the last
        1/(1 - beta_2) samples. Drift and noise are multiplied by functions of beta_2, which are
        known only for linear networks at eps = 0 with one sample per step.
    **others
        batch_size, loss, weight_decay, decoupled and average, as in `Adam`. With a fixed beta2 the
        weight decay must be decoupled.

    Notes
    -----
    Source      theory/structured_inputs 4.5

    Examples
    --------
    >>> import dmft
    >>> dmft.RMSProp(0.5, beta2=0.9).beta2
    0.900000000000000
    """

    words: ClassVar[str] = "RMSProp, in one pass,"

    beta2: sp.Expr | None = None

    def __init__(
        self,
        learning_rate: float | sp.Expr,
        second_moment_rate: float | sp.Expr | None = None,
        eps: float | sp.Expr = 0,
        initial: float | sp.Expr = 0,
        beta2: float | None = None,
        **others: Any,
    ) -> None:
        object.__setattr__(self, "beta2", beta2 if beta2 is None else as_parameter(beta2, "beta2"))
        if beta2 is not None:
            self._check_fixed(second_moment_rate, others)
        if "momentum" in others:
            raise BadParameter("RMSProp has no momentum: use Adam(momentum=)")
        super().__init__(learning_rate, second_moment_rate, eps, 0, initial, **others)
        if beta2 is not None and self.weight_decay != 0 and not self.decoupled:
            raise BadParameter(
                f"weight_decay = {self.weight_decay} in steps with a fixed beta2 is divided by "
                "a fluctuating V, and the resulting constant is not known: use "
                "decoupled=True, or second_moment_rate"
            )
        if beta2 is not None and self.eps != 0:
            raise BadParameter(
                f"eps = {eps} with a fixed beta2: its constants are known for eps = 0; leave it "
                "out, or use second_moment_rate"
            )

    def _check_fixed(self, rate: Any, others: Mapping[str, Any]) -> None:
        beta2 = self.beta2
        assert beta2 is not None
        if not (beta2.is_number and 0.0 < float(beta2) < 1.0):
            raise BadParameter(f"beta2 must be a number between 0 and 1, got {shown(beta2)}")
        if rate is not None:
            raise BadParameter(
                f"beta2 = {beta2} and second_moment_rate = {rate} both set the memory of V: "
                "pass one of them"
            )
        if others.get("batch_size", 1) != 1:
            raise BadParameter(
                f"batch_size = {others['batch_size']} with fixed beta2: its constants are "
                "known for one sample per step; use second_moment_rate, or leave both out"
            )


@checked
@dataclass(frozen=True, init=False, repr=False)
class AdaGrad(Adaptive):
    r"""AdaGrad: each coordinate of a step is divided by the root of its sum of squared gradients.

    A step is w <- w + gamma/(p sqrt(d)) g/sqrt(V) with g = psi x and V_ji = initial + sum g_ji^2/d
    over all steps. In high dimension the sum for unit j in block e (eigenvalue c_e) is
    V_je = initial + c_e int S_jj dtau with S_jj = E[psi_j^2] and tau = steps/d.

    Parameters
    ----------
    learning_rate : float or sympy.Expr
        gamma > 0.
    initial : float or sympy.Expr
        Initial value of V, positive. At zero the first steps would have the length gamma/p for any
        gradient, and no differential equation would describe them.
    **others
        batch_size, loss, weight_decay, decoupled and average, as in `Adam`.

    Notes
    -----
    Valid for   independent coordinates
    Source      theory/structured_inputs 4.0, 4.5

    Examples
    --------
    >>> import dmft
    >>> dmft.AdaGrad(0.5, initial=0.2).kept
    'second_moment'
    """

    scale: ClassVar[Scale] = "moment"
    words: ClassVar[str] = "AdaGrad, in one pass,"
    direction: ClassVar[str] = "the gradient divided by the root of the sum of its squares"

    initial: sp.Expr = sp.S.Zero

    def __init__(
        self, learning_rate: float | sp.Expr, initial: float | sp.Expr = 0, **others: Any
    ) -> None:
        value = as_parameter(initial, "initial")
        self._declare(learning_rate=learning_rate, initial=value, others=others)

    @property
    def kept(self) -> str:
        """Sums of squares."""
        return "second_moment"


@checked
@dataclass(frozen=True, init=False, repr=False)
class AdaGradNorm(Adaptive):
    r"""SGD with the learning rate gamma/sqrt(N), where N accumulates squared gradient norms.

    N = initial + sum |G|^2/d over all steps with gradients G, so that
    dN/dtau = tr Sigma/d tr S / (p^2 n_b) with tau = steps/d. Time is t = steps * gamma / (p d) with
    the declared gamma.

    Parameters
    ----------
    learning_rate : float or sympy.Expr
        gamma > 0.
    initial : float or sympy.Expr
        Initial value of N, positive.
    **others
        batch_size, loss, weight_decay, decoupled and average, as in `Adam` with r = 1/sqrt(N).

    Notes
    -----
    Source      theory/structured_inputs 4.6, (23)

    Examples
    --------
    >>> import dmft
    >>> dmft.AdaGradNorm(0.5, initial=1.0).kept
    'accumulator'
    """

    scale: ClassVar[Scale] = "norm"
    words: ClassVar[str] = "AdaGrad with one sum of squares, in one pass"

    initial: sp.Expr = sp.S.Zero

    def __init__(
        self, learning_rate: float | sp.Expr, initial: float | sp.Expr, **others: Any
    ) -> None:
        value = as_parameter(initial, "initial", positive=True)
        self._declare(learning_rate=learning_rate, initial=value, others=others)

    @property
    def kept(self) -> str:
        """The sum of squares of all gradients."""
        return "accumulator"
