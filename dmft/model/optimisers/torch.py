r"""Our numbers as arguments of torch.optim, and back (structured_inputs.md 6.8).

Two ways to write the same network. Code that stores theta = W/sqrt(d) and feeds x; and code that
stores W and feeds x/sqrt(d) (``scaled_inputs=True``). In both f = (1/p) sum_j a_j sigma(h_j), and
the loss is the mean over a batch of 1/2 (y - f)^2 (twice that is torch's MSELoss) or of the loss
that is declared. With g = psi x the gradient that torch sees is -g/p times 1, or 1/sqrt(d):

                     theta, x             W, x/sqrt(d)
    SGD lr           gamma/d              gamma
    sign, Adam lr    gamma/(p d)          gamma/(p sqrt(d))
    Adam eps         epsilon/p            epsilon/(p sqrt(d))
    Adam V           V/p^2                V/(p^2 d)
    Adagrad lr       gamma/(p sqrt(d))    gamma/p
    Adagrad sums     V d/p^2              V/p^2
    decay (SGD)      zeta/p               zeta/(p d)
    decay (AdamW)    zeta                 zeta/sqrt(d)

A decay is lr times this number: gamma zeta/(p d) of the weights in every step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import sympy as sp

from dmft.checks import shown
from dmft.errors import BadParameter
from dmft.model.algorithm import SGD, Momentum, as_count
from dmft.model.optimisers.adaptive import LONG, AdaGrad, AdaGradNorm, Adam, RMSProp, SignSGD

Settings = dict[str, Any]
Made = TypeVar("Made", bound=SGD)
# sign(g) is g/(|g| + eps) at an eps that no gradient feels.
NO_EPS = 1e-30
# torch's own eps, which gradients of order one do not feel.
TINY = 1e-8
# kappa_2 from which on second moments follow at once.
SHORT = 20.0


@dataclass(frozen=True)
class Code:
    """How code writes the network.

    Attributes
    ----------
    dim, width : int
        d and p.
    scaled_inputs : bool
        Whether it stores W and feeds x/sqrt(d), in place of W/sqrt(d) and x.
    """

    dim: int
    width: int
    scaled_inputs: bool

    @classmethod
    def of(cls, dim: int, width: int, scaled_inputs: bool) -> Self:
        """Checked."""
        return cls(as_count(dim, "dim"), as_count(width, "width"), bool(scaled_inputs))

    @property
    def gradient(self) -> float:
        """What psi x is of torch's gradient, up to the sign."""
        return self.width * (math.sqrt(self.dim) if self.scaled_inputs else 1.0)

    @property
    def plain(self) -> float:
        """Gamma over lr of steps along the gradient."""
        return 1.0 if self.scaled_inputs else float(self.dim)

    @property
    def scaled(self) -> float:
        """Gamma over lr of steps without the size of the gradient."""
        return self.width * (math.sqrt(self.dim) if self.scaled_inputs else float(self.dim))

    @property
    def square(self) -> float:
        """V of AdaGrad over torch's sum of squares."""
        return self.gradient**2 / self.dim

    def decay(self, over: float) -> float:
        """Zeta over weight_decay, where gamma is `over` times lr."""
        return self.width * self.dim / over


def as_torch(algorithm: SGD, dim: int, width: int, scaled_inputs: bool) -> Settings:
    """Arguments of the optimiser of `torch.optim` that takes the same steps.

    Raises
    ------
    BadParameter
        For what torch.optim has no optimiser for, and numbers that are symbols.
    """
    code = Code.of(dim, width, scaled_inputs)
    _check(algorithm)
    if isinstance(algorithm, AdaGradNorm):
        raise BadParameter(
            "torch.optim has no optimiser with one sum for all coordinates: take torch.optim.SGD("
            f"lr = {_number(algorithm, 'learning_rate') / code.plain:g}) and divide each step by "
            "sqrt(N), N <- N + |G|^2/d before it, |G|^2 that of the gradient by W"
        )
    if isinstance(algorithm, AdaGrad):
        _no_decay(algorithm, "Adagrad")
        # torch's sum of squares grows by g^2, our V by g^2/d.
        return {
            "lr": _number(algorithm, "learning_rate") * math.sqrt(code.dim) / code.scaled,
            "initial_accumulator_value": _number(algorithm, "initial") / code.square,
            "eps": 0.0,
        }
    if isinstance(algorithm, SignSGD | Adam):
        return _of_adam(algorithm, code)
    return _of_sgd(algorithm, code)


def _of_sgd(algorithm: SGD, code: Code) -> Settings:
    rate = _number(algorithm, "learning_rate") / code.plain
    found: Settings = {"lr": rate}
    momentum = algorithm.momentum
    if isinstance(momentum, Momentum):
        if momentum.direct != 0:
            raise BadParameter(
                f"momentum = {momentum}: torch.optim.SGD has no step that moves at once beside a "
                "velocity of (1 - beta) G; leave direct out"
            )
        kappa = _of(momentum.rate, "rate of Momentum")
        slow = kappa * _number(algorithm, "learning_rate") / (code.width * code.dim)
        found |= {"momentum": 1.0 - slow, "dampening": 1.0 - slow}
    elif momentum != 0:
        found["momentum"] = _number(algorithm, "momentum")
    if algorithm.weight_decay != 0:
        found["weight_decay"] = _number(algorithm, "weight_decay") / code.decay(code.plain)
    return found


def _of_adam(algorithm: SGD, code: Code) -> Settings:
    """Those of torch.optim.Adam (AdamW with a decay), or RMSprop."""
    rate = _number(algorithm, "learning_rate") / code.scaled
    found: Settings = {"lr": rate}
    if isinstance(algorithm, SignSGD):
        found |= {"betas": (0.0, 0.0), "eps": NO_EPS}
    else:
        beta_2, eps = _memory(algorithm, code), _number(algorithm, "eps") / code.gradient
        if isinstance(algorithm, RMSProp):
            found |= {"alpha": beta_2, "eps": eps}
            _no_decay(algorithm, "RMSprop")
        else:
            found |= {"betas": (_number(algorithm, "momentum"), beta_2), "eps": eps}
    if algorithm.weight_decay != 0:
        found["weight_decay"] = _number(algorithm, "weight_decay") / code.decay(code.scaled)
    return found


def _memory(algorithm: Any, code: Code) -> float:
    """beta_2; where nothing says it, one that is long in steps and short in t."""
    if getattr(algorithm, "beta2", None) is not None:
        return float(algorithm.beta2)
    if algorithm.second_moment_rate is None:
        return 1.0 - 1.0 / (LONG * math.sqrt(code.dim))
    step = _number(algorithm, "learning_rate") / (code.width * code.dim)
    return 1.0 - _number(algorithm, "second_moment_rate") * step


def _check(algorithm: SGD) -> None:
    """Refuse what is no optimiser of weights alone."""
    plain = algorithm.is_plain or isinstance(algorithm, SignSGD)
    if not plain or algorithm.on_sphere:
        raise BadParameter(
            f"{algorithm!r} is more than an optimiser: torch.optim has none with passes over one "
            "sample, rules of one's own or rows on the sphere"
        )
    if algorithm.average != 0:
        raise BadParameter(
            f"average = {algorithm.average} is torch.optim.swa_utils.AveragedModel with "
            "get_ema_multi_avg_fn(1 - average * learning_rate/(p d)), not an argument of an "
            "optimiser: leave it out"
        )


def _no_decay(algorithm: SGD, name: str) -> None:
    if algorithm.weight_decay != 0:
        raise BadParameter(
            f"weight_decay = {algorithm.weight_decay}: that of torch.optim.{name} is divided with "
            "the gradient, ours shortens the weights themselves; multiply them by 1 - gamma zeta/"
            "(p d) after each step"
        )


def _number(algorithm: Any, name: str) -> float:
    return _of(getattr(algorithm, name), name)


def _of(value: Any, name: str) -> float:
    found = sp.sympify(value, strict=True)
    if not found.is_number:
        raise BadParameter(f"{name} = {value} is a symbol: torch takes numbers")
    return float(found)


# Back -------------------------------------------------------------------------------------------


def from_torch(
    made: type[Made], given: Any, written: tuple[int, int, bool], others: Mapping[str, Any]
) -> Made:
    """The algorithm that takes the steps of an optimiser of `torch.optim`.

    Parameters
    ----------
    made : class of the algorithm
    given : mapping, torch optimiser or None
        Arguments of the optimiser, or itself.
    written : tuple
        dim, width and scaled_inputs.
    others : mapping
        Arguments by name, in the place of those given; those that torch does not have are ours.

    Raises
    ------
    BadParameter
    """
    code = Code.of(*written)
    if type(given).__name__ == "Adam" and _settings(given).get("weight_decay"):
        raise BadParameter(
            "weight_decay of torch.optim.Adam is divided with the gradient, which is not derived: "
            "take torch.optim.AdamW, whose decay shortens the weights themselves"
        )
    settings = _settings(given)
    names = TORCH.get(made)
    if names is None:
        raise BadParameter(f"torch.optim has no optimiser that takes the steps of {made.__name__}")
    own = {name: value for name, value in others.items() if name not in names}
    settings = {n: v for n, v in settings.items() if n in names} | {
        n: v for n, v in others.items() if n in names
    }
    if "lr" not in settings:
        raise BadParameter("lr is missing: that of the torch optimiser")
    found: Made = READERS[made](made, settings, code, own)
    return found


def _settings(given: Any) -> Mapping[str, Any]:
    if given is None:
        return {}
    groups = getattr(given, "param_groups", None)
    if groups is not None:
        if len(groups) != 1:
            raise BadParameter(
                f"the torch optimiser has {len(groups)} groups of parameters: pass the settings of "
                "the one that holds the weights, optimiser.param_groups[n]"
            )
        found: Mapping[str, Any] = {n: v for n, v in groups[0].items() if n != "params"}
        return found
    if isinstance(given, Mapping):
        return given
    raise BadParameter(f"a torch optimiser, or a mapping of its arguments, got {shown(given)}")


def _sgd(made: Any, s: Mapping[str, Any], code: Code, own: Mapping[str, Any]) -> SGD:
    rate, beta = s["lr"] * code.plain, s.get("momentum", 0.0)
    dampening = s.get("dampening", 0.0)
    decay = s.get("weight_decay", 0) * code.decay(code.plain) or 0
    momentum: Any = beta or 0
    if dampening != 0.0 and dampening != beta:
        raise BadParameter(
            f"dampening = {dampening} beside momentum = {beta}: a velocity takes up G, or (1 - "
            "momentum) G with dampening = momentum; nothing between is derived"
        )
    if dampening != 0.0:  # G as it is where beta is fixed; else a memory of order one in t
        momentum = Momentum((1.0 - beta) * code.width * code.dim / rate)
    found: SGD = made(rate, momentum=momentum, weight_decay=decay, **own)
    return found


def _signs(made: Any, s: Mapping[str, Any], code: Code, own: Mapping[str, Any]) -> SGD:
    if tuple(s.get("betas", (0.0, 0.0))) != (0.0, 0.0):
        raise BadParameter(f"betas = {s['betas']}: steps are signs of the gradient at (0, 0) alone")
    found: SGD = made(s["lr"] * code.scaled, **own)
    return found


def _adam(made: Any, s: Mapping[str, Any], code: Code, own: Mapping[str, Any]) -> SGD:
    rate = s["lr"] * code.scaled
    first, second = s.get("betas", (0.9, 0.999))
    return _moments(made, rate, second, s.get("eps", 1e-8), code, {"momentum": first, **own}, s)


def _rmsprop(made: Any, s: Mapping[str, Any], code: Code, own: Mapping[str, Any]) -> SGD:
    rate = s["lr"] * code.scaled
    return _moments(made, rate, s.get("alpha", 0.99), s.get("eps", 1e-8), code, dict(own), s)


def _moments(
    made: Any, rate: float, beta: float, eps: float, code: Code, own: Settings, s: Mapping[str, Any]
) -> SGD:
    """Second moments that follow at once where their memory is short in t.

    torch begins them at zero and corrects for it, so that they are right from the first steps on.
    """
    kappa = (1.0 - beta) * code.width * code.dim / rate
    # What `as_torch` takes where V follows at once is short, too.
    short = kappa > SHORT or (1.0 - beta) * LONG * math.sqrt(code.dim) > 1.0 - 1e-9
    if not short and "beta2" not in own and "second_moment_rate" not in own:
        if "initial" not in own:
            raise BadParameter(
                f"beta_2 = {beta}: 1/(1 - beta_2) = {1 / (1 - beta):.3g} steps are {1 / kappa:.3g} "
                "in t, a memory that counts; pass initial, V at the start in our units, and let "
                "the torch optimiser begin there: state['exp_avg_sq'] = V/p^2 (V/(p^2 d) where "
                "inputs are divided by sqrt(d)), state['step'] large, so that it corrects nothing"
            )
        own["second_moment_rate"] = kappa
    decay = s.get("weight_decay", 0.0) * code.decay(code.scaled)
    if "beta2" in own and eps <= TINY:
        eps = 0.0
    found: SGD = made(rate, eps=eps * code.gradient, weight_decay=decay, **own)
    return found


def _adagrad(made: Any, s: Mapping[str, Any], code: Code, own: Mapping[str, Any]) -> SGD:
    rate = s["lr"] * code.scaled / math.sqrt(code.dim)
    initial = s.get("initial_accumulator_value", 0.0) * code.square
    found: SGD = made(rate, initial=initial, **own)
    return found


READERS: Mapping[type[SGD], Any] = {
    SGD: _sgd,
    SignSGD: _signs,
    Adam: _adam,
    RMSProp: _rmsprop,
    AdaGrad: _adagrad,
}
TORCH: Mapping[type[SGD], tuple[str, ...]] = {
    SGD: ("lr", "momentum", "dampening", "weight_decay"),
    SignSGD: ("lr", "betas"),
    Adam: ("lr", "betas", "eps", "weight_decay"),
    RMSProp: ("lr", "alpha", "eps"),
    AdaGrad: ("lr", "initial_accumulator_value"),
}
