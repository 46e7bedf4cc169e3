r"""Our numbers as arguments of torch.optim, and back (theory/structured_inputs 6.8).

Two ways to write the same network. Code that stores theta = W/sqrt(d) and feeds x; and code that
stores W and feeds x/sqrt(d) (``scaled_inputs=True``). In both f = (1/p) sum_j a_j sigma(h_j), and
the loss is the mean over a batch of 1/2 (y - f)^2 (twice that is torch's MSELoss) or of the loss
that is declared. What torch calls each number, and by how much the two differ, is part of
`dmft.model.hyperparameters`; a number that is not there is refused, both ways.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import sympy as sp

from dmft.errors import BadParameter
from dmft.model.adaptive import LONG, AdaGrad, AdaGradNorm, Adam, RMSProp, SignSGD
from dmft.model.algorithm import SGD, Momentum
from dmft.model.hyperparameters import MEMORY, REGISTRY, D, InOptim, P
from dmft.validation import as_count, shown

Settings = dict[str, Any]
Made = TypeVar("Made", bound=SGD)
# sign(g) is g/(|g| + eps) at an eps that no gradient feels.
NO_EPS = 1e-30
# torch's own eps, which gradients of order one do not feel.
TINY = 1e-8
# kappa_2 from which on second moments follow at once.
SHORT = 20.0
# Classes of torch.optim.
NAMES: Mapping[type[SGD], str] = {
    SGD: "SGD", SignSGD: "Adam", Adam: "Adam", RMSProp: "RMSprop", AdaGrad: "Adagrad",
}  # fmt: skip
# How torch computes, not what; Nesterov's look-ahead changes steps by a relative 1/d.
SAME_STEPS = {"foreach", "fused", "capturable", "differentiable", "initial_lr", "nesterov"}


@dataclass(frozen=True)
class Code:
    """How code writes the network: d, p, and whether it stores W and feeds x/sqrt(d)."""

    dim: int
    width: int
    scaled_inputs: bool

    def factor(self, entry: InOptim) -> float:
        """What torch's number is over ours."""
        found = entry.rows if self.scaled_inputs else entry.theta
        return float(found.subs({D: self.dim, P: self.width}))

    def step(self, rate: float) -> float:
        """Time of a step at this gamma."""
        return rate / (self.width * self.dim)


def _code(dim: int, width: int, scaled_inputs: bool) -> Code:
    return Code(as_count(dim, "dim"), as_count(width, "width"), bool(scaled_inputs))


def _entries(made: type[SGD], decoupled: bool) -> Iterator[tuple[str, InOptim]]:
    """Our names and torch's of the numbers of an optimiser."""
    optimiser = NAMES[made]
    for name, number in REGISTRY.items():
        wanted = f"{optimiser}W" if decoupled and name == "weight_decay" else optimiser
        yield from ((name, entry) for entry in number.torch or () if entry.optimiser == wanted)


def as_torch(algorithm: SGD, dim: int, width: int, scaled_inputs: bool) -> Settings:
    """Arguments of the optimiser of `torch.optim` that takes the same steps.

    Raises `BadParameter` for what torch.optim has no optimiser for, and numbers that are symbols.
    """
    code = _code(dim, width, scaled_inputs)
    if isinstance(algorithm, AdaGradNorm):
        rate = _of(algorithm.learning_rate, "learning_rate") / (1 if scaled_inputs else dim)
        raise BadParameter(
            "torch.optim has no optimiser with one sum for all coordinates: use torch.optim.SGD("
            f"lr = {rate:g}) and divide each step by sqrt(N), where N <- N + |G|^2/d before the "
            "step and G is the gradient with respect to W"
        )
    # Without memory it is the same whether a decay is part of a step or beside it.
    apart = algorithm.decoupled and (type(algorithm) is not SGD or algorithm.momentum != 0)
    entries = list(_entries(type(algorithm), apart)) if type(algorithm) in NAMES else []
    _check(algorithm, {name for name, _ in entries})
    step = code.step(_of(algorithm.learning_rate, "learning_rate"))
    found: Settings = {}
    for name, entry in entries:
        value = getattr(algorithm, name, None)
        if isinstance(value, Momentum) or value is None or entry.state:
            continue
        number = _of(value, name)
        if entry.theta == MEMORY:
            number = 1.0 - number * step if number else 0.0
        else:
            number *= code.factor(entry)
        if number != entry.default:
            found[entry.argument] = number
    return _whole(algorithm, found, code)


def _whole(algorithm: SGD, found: Settings, code: Code) -> Settings:
    """Arguments with those that are no numbers of ours, pairs put together."""
    if isinstance(algorithm, SignSGD):
        found |= {"betas[0]": 0.0, "betas[1]": 0.0, "eps": NO_EPS}
    elif isinstance(algorithm, Adam):
        # Where nothing says it, a memory that is long in steps and short in t.
        memory = "alpha" if isinstance(algorithm, RMSProp) else "betas[1]"
        found.setdefault(memory, 1.0 - 1.0 / (LONG * math.sqrt(code.dim)))
    elif isinstance(algorithm, AdaGrad):
        found["eps"] = 0.0
    if "betas[1]" in found:
        found["betas"] = (found.pop("betas[0]"), found.pop("betas[1]"))
    return found


def _check(algorithm: SGD, known: set[str]) -> None:
    """Refuse what is no optimiser of weights alone, and numbers that torch does not have."""
    for name, number in REGISTRY.items() if type(algorithm) in NAMES else ():
        value = getattr(algorithm, name, None)
        unused = value is None or value is False or isinstance(value, Momentum) or value == 0
        if number.torch is None or name in known or unused:
            continue
        why = "has no counterpart in torch.optim: leave it out"
        raise BadParameter(f"{name} = {value} {number.refused.get('torch', why)}")
    plain = type(algorithm) in NAMES and (algorithm.is_plain or isinstance(algorithm, SignSGD))
    if not plain or algorithm.on_sphere:
        raise BadParameter(
            f"{algorithm!r} has no counterpart in torch.optim, which has no passes over one "
            "sample, custom rules or rows on the sphere"
        )


def _of(value: Any, name: str) -> float:
    found = sp.sympify(value, strict=True)
    if not found.is_number:
        raise BadParameter(f"{name} = {value} is a symbol: torch takes numbers")
    return float(found)


# Back -------------------------------------------------------------------------------------------


def from_torch(
    made: type[Made], given: Any, written: tuple[int, int, bool], others: Mapping[str, Any]
) -> Made:
    """The algorithm of class `made` that takes the steps of an optimiser of `torch.optim`.

    `given` are arguments of the optimiser, or itself, `written` dim, width and scaled_inputs;
    `others` are arguments in place of those given; those that torch does not have are ours.
    """
    code, settings = _code(*written), dict(_settings(given))
    if made not in NAMES:
        raise BadParameter(f"torch.optim has no optimiser with the steps of {made.__name__}")
    names = {entry.argument.partition("[")[0] for _, entry in _entries(made, False)}
    names |= {"betas"} if made is SignSGD else set()
    own = {name: value for name, value in others.items() if name not in names}
    settings |= {name: value for name, value in others.items() if name in names}
    if "lr" not in settings:
        raise BadParameter("lr is missing: pass the learning rate of the torch optimiser")
    apart = bool(settings.pop("decoupled_weight_decay", False))
    apart = apart or type(given).__name__ == "AdamW" or made is SignSGD
    apart = own.setdefault("decoupled", apart) and made is not SGD
    _refuse_unknown(made, settings, names)
    first, second = settings.get("betas", (0.0, 0.0) if made is SignSGD else (0.9, 0.999))
    settings |= {"betas[0]": first, "betas[1]": second}
    numbers: Settings = {}
    for name, entry in _entries(made, apart):
        if entry.argument in settings and entry.theta != MEMORY and not entry.state:
            numbers.setdefault(name, settings[entry.argument] / code.factor(entry))
    return _READERS[made](made, settings, code, numbers, own)


def _refuse_unknown(made: type[SGD], settings: Mapping[str, Any], names: set[str]) -> None:
    """Refuse arguments of torch that are no number of ours, unless they change nothing."""
    for name, value in settings.items():
        tiny = name == "eps" and value <= TINY
        if name not in names | SAME_STEPS and value and not tiny:
            raise BadParameter(
                f"{name} = {shown(value)} of torch.optim.{NAMES[made]} is not derived: leave it "
                "out, or use another optimiser"
            )


def _settings(given: Any) -> Mapping[str, Any]:
    if given is None:
        return {}
    groups = getattr(given, "param_groups", None)
    if groups is not None:
        if len(groups) != 1:
            raise BadParameter(
                f"the torch optimiser has {len(groups)} groups of parameters: pass the settings of "
                "the one that contains the weights, optimiser.param_groups[n]"
            )
        found: Mapping[str, Any] = {n: v for n, v in groups[0].items() if n != "params"}
        return found
    if isinstance(given, Mapping):
        return given
    raise BadParameter(f"expected a torch optimiser or a mapping of arguments, got {shown(given)}")


def _sgd(made: Any, s: Settings, code: Code, numbers: Settings, own: Settings) -> Any:
    rate, beta, dampening = numbers["learning_rate"], s.get("momentum", 0.0), s.get("dampening", 0)
    if dampening != 0 and dampening != beta:
        raise BadParameter(
            f"dampening = {dampening} with momentum = {beta} is not derived: a velocity "
            "accumulates G, or (1 - momentum) G with dampening = momentum"
        )
    if dampening != 0:  # G as it is where beta is fixed; else a memory of order one in t
        numbers["momentum"] = Momentum((1.0 - beta) / code.step(rate))
    return made(**numbers, **own)


def _signs(made: Any, s: Settings, code: Code, numbers: Settings, own: Settings) -> Any:
    if (s["betas[0]"], s["betas[1]"]) != (0.0, 0.0):
        raise BadParameter(f"betas = {s['betas']}: steps are signs of the gradient only at (0, 0)")
    unused = {"momentum", "eps"}
    return made(**{n: y for n, y in numbers.items() if n not in unused}, **own)


def _moments(made: Any, s: Settings, code: Code, numbers: Settings, own: Settings) -> Any:
    """Second moments that follow at once where their memory is short in t.

    torch begins them at zero and corrects for it, so that they are right from the first steps on.
    """
    beta = s.get("alpha", 0.99) if made is RMSProp else s["betas[1]"]
    kappa = (1.0 - beta) / code.step(numbers["learning_rate"])
    # What `as_torch` takes where V follows at once is short, too.
    short = kappa > SHORT or (1.0 - beta) * LONG * math.sqrt(code.dim) > 1.0 - 1e-9
    numbers.pop("beta2", None)
    if not short and "beta2" not in own and "second_moment_rate" not in own:
        if "initial" not in own:
            raise BadParameter(
                f"beta_2 = {beta}: 1/(1 - beta_2) = {1 / (1 - beta):.3g} steps are {1 / kappa:.3g} "
                "in t, which is not short: pass initial= (V at the start, in units of dmft), and "
                "set the "
                "state of the torch optimiser to it: state['exp_avg_sq'] = V/p^2 (V/(p^2 d) if "
                "inputs are divided by sqrt(d)), and a large state['step'], so that its bias "
                "correction is negligible"
            )
        own["second_moment_rate"] = kappa
    (entry,) = (e for name, e in _entries(made, False) if name == "eps")
    eps = s.get("eps", TINY)
    numbers["eps"] = 0.0 if "beta2" in own and eps <= TINY else eps / code.factor(entry)
    return made(**{**numbers, **own})


def _adagrad(made: Any, s: Settings, code: Code, numbers: Settings, own: Settings) -> Any:
    return made(**{**numbers, **own})


_READERS: Mapping[type[SGD], Any] = {
    SGD: _sgd, SignSGD: _signs, Adam: _moments, RMSProp: _moments, AdaGrad: _adagrad,
}  # fmt: skip
