"""The numbers of one-pass algorithms, each declared once: words, LaTeX, bounds, conflicts, torch.

Everyone else reads this table: checks of values, files and their help, symbols, refusals, the
dictionary to torch.optim (`dmft.model.torch`) and the table of docs/optimisers.md. What
a number makes of the equations stands in `dmft.equations.update.optimiser`, its step in
`dmft.simulation.steps.optimiser`, both under the name that it has here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import sympy as sp

D, P, MEMORY = sp.symbols("d p memory", positive=True)


@dataclass(frozen=True)
class InOptim:
    """What a number is called by an optimiser of torch.optim."""

    optimiser: str  # name of the class
    argument: str  # "betas[1]" for an entry of a pair
    # torch's number over ours, for code that stores theta = W/sqrt(d) and feeds x, and for code
    # that stores W and feeds x/sqrt(d). `MEMORY`: torch's is 1 - (ours) gamma/(p d).
    theta: sp.Expr = sp.S.One
    rows: sp.Expr = sp.S.One
    default: float = math.nan  # torch's own; an argument with this value is left out
    state: bool = False  # whether it is an entry of the optimiser's state, no argument


@dataclass(frozen=True)
class Number:
    """A number of an algorithm, declared once."""

    what: str  # in words
    latex: str = ""
    below: float = math.inf  # its values are from zero on and below this one
    # Why it is not used somewhere, and what to do instead; the keys are those of
    # `dmft.model.algorithm.refuse`, and "torch".
    refused: Mapping[str, str] = field(default_factory=dict)
    # Kind of the key that declares it in files (`dmft.cli.schema`); none where empty.
    key: str = ""
    declared: bool = False  # whether it is a number of the optimiser that `UpdateField` takes
    of_optimiser: bool = True  # whether it is one of `OPTIMISER`: no number of gradients themselves
    row: str = ""  # rows that a neuron keeps beside its weights where it is not zero
    additive: bool = False  # whether it is the variance of noise that is added to each step
    # None where torch has it in the data or in the model, not in an optimiser.
    torch: tuple[InOptim, ...] | None = ()


# Schedules of the batch size follow gamma/n_b; why not with what is no mean over the batch.
ONE_SIZE = "a schedule of batch_size needs steps that depend on gamma/n_b alone"
_AS_LARGER_RATE = "use SGD(learning_rate / (1 - momentum)), which has the same equations"
_DECAY = (1 / P, 1 / (P * D), 0.0)
REGISTRY: Mapping[str, Number] = MappingProxyType(
    {
        "learning_rate": Number(
            "gamma of one pass, t = steps * gamma / (p d), or eta of gradient-descent, t = steps",
            r"\gamma",
            key="scalar",
            of_optimiser=False,
            torch=(
                InOptim("SGD", "lr", 1 / D, sp.S.One),
                InOptim("Adam", "lr", 1 / (P * D), 1 / (P * sp.sqrt(D))),
                InOptim("RMSprop", "lr", 1 / (P * D), 1 / (P * sp.sqrt(D))),
                InOptim("Adagrad", "lr", 1 / (P * sp.sqrt(D)), 1 / P),
            ),
        ),
        "batch_size": Number(
            "fresh samples per step; 1 by default",
            "n_b",
            key="count",
            of_optimiser=False,
            torch=None,
        ),
        "readout_rate": Number(
            "relative learning rate rho_a of the readouts; 0 by default",
            r"\rho_a",
            refused={
                "torch": "is the learning rate of another group of parameters, the readouts a: "
                "pass torch.optim.SGD "
                "{'params': [a], 'lr': readout_rate * learning_rate / d} in addition to "
                "the group of the weights, and leave it out here"
            },
            key="scalar",
            of_optimiser=False,
        ),
        "weight_decay": Number(
            "rate zeta of weight decay (-zeta M, -2 zeta Q); 0 by default",
            r"\zeta",
            refused={
                "sphere": "shortens rows, but the constraint fixes their length: leave one of them "
                "out",
                "sequence": "shortens rows, but rows of sequence models have a fixed length",
                "escape": "is not included in formulas for escape and for largest learning rates; "
                "solve the equations: dmft.solve(dmft.derive(model, algorithm), ...)",
                "torch": "is decoupled from the gradient, which this optimiser of torch.optim does "
                "not support: multiply the weights by 1 - learning_rate * weight_decay/(p d) "
                "before each step and leave it out here, or use decoupled=False",
            },
            key="scalar",
            declared=True,
            torch=(
                InOptim("SGD", "weight_decay", *_DECAY),
                InOptim("Adam", "weight_decay", *_DECAY),
                InOptim("AdamW", "weight_decay", sp.S.One, 1 / sp.sqrt(D), 0.0),
                InOptim("RMSprop", "weight_decay", *_DECAY),
                InOptim("Adagrad", "weight_decay", *_DECAY),
            ),
        ),
        "decoupled": Number(
            "whether the decay is separate from the gradient (SGDW, AdamW)",
            key="flag",
            of_optimiser=False,
            torch=None,
        ),
        "momentum": Number(
            "beta of heavy-ball momentum; 0 by default",
            r"\beta",
            below=1.0,
            refused={
                "repeat": "is equivalent to SGD at a larger rate only for fresh samples: passes "
                "over the same sample would be correlated",
                "map": "correlates steps of batches of the order of d, so there is no closed map "
                'of Q and M: use dmft.simulate(..., method="weights"), or leave dim out',
                "sequence": f"is not derived for sequence models: {_AS_LARGER_RATE}",
                "chain": "depends on previous steps, which the chain of overlaps does not store: "
                'use method="weights"',
                "escape": f"is not included in formulas for plain SGD: {_AS_LARGER_RATE}",
            },
            key="memory",
            declared=True,
            torch=(InOptim("SGD", "momentum", default=0.0), InOptim("Adam", "betas[0]")),
        ),
        "gradient_noise": Number(
            "variance of Gaussian noise added to each step; 0 by default",
            r"\Delta_g",
            refused={
                "repeat": "is added once per gradient, and repeat= computes several gradients of "
                "one sample: leave repeat= or the noise out",
                "map": "is not derived for batches of the order of d: leave dim= out",
                "sequence": "is not derived for sequence models: leave it out",
                "chain": "moves weights in directions that the chain of overlaps does not contain: "
                'use method="weights"',
                "escape": "is not included in formulas for escape and for largest learning rates; "
                "solve the equations: dmft.solve(dmft.derive(model, algorithm), ...)",
                "noise": "is not derived for fluctuations and wide limits: leave it out or "
                "simulate",
                "batches": f"is added once per step, whatever the batch: {ONE_SIZE}",
                "explain": "is not supported in explanations: leave it out",
                "torch": "is not an argument of the optimisers of torch.optim: add "
                "sqrt(gradient_noise/d)/p times standard normal numbers to the gradient of W, "
                "and leave it out here",
            },
            key="scalar",
            declared=True,
            additive=True,
        ),
        "average": Number(
            "kappa_a of averaged weights; 0 by default",
            r"\kappa_a",
            refused={
                "torch": "is torch.optim.swa_utils.AveragedModel with get_ema_multi_avg_fn(1 - "
                "average * learning_rate/(p d)), not an argument of an optimiser: leave it out"
            },
            key="scalar",
            of_optimiser=False,
        ),
        "clip": Number(
            "largest length C of a gradient; longer ones are shortened",
            "C",
            refused={
                "torch": "is torch.nn.utils.clip_grad_norm_ of the weights between backward() and "
                "step(), with C sqrt(d) for theta and C for W: leave it out"
            },
            key="scalar",
            of_optimiser=False,
        ),
        "normalised": Number(
            "whether gradients are rescaled to length one",
            refused={
                "torch": "is not supported by torch.optim: divide the gradients by their norm "
                "between backward() and step(), and leave it out"
            },
            key="flag",
            of_optimiser=False,
        ),
        "average_rate": Number(
            "kappa_a of averaged weights; 0 by default",
            r"\kappa_a",
            refused=dict.fromkeys(
                ("sphere", "repeat", "map", "sequence", "chain", "escape", "noise"),
                "adds averaged rows, which are derived only for the ode of small batches without "
                'constraint, and simulated only with method="weights": leave one of them out',
            ),
            row="average",
            torch=None,
        ),
        "momentum_rate": Number(
            "kappa of Momentum(rate, direct); 0 by default",
            r"\kappa",
            refused=dict.fromkeys(
                ("sphere", "repeat", "map", "sequence", "chain", "escape", "readout", "noise"),
                "adds velocities, which are derived only for the ode of small batches without "
                "constraint and with fixed readouts, and simulated only with "
                'method="weights": leave one of them out, or use momentum=beta, a number',
            ),
            row="velocity",
            torch=(
                InOptim("SGD", "momentum", MEMORY, MEMORY, 0.0),
                InOptim("SGD", "dampening", MEMORY, MEMORY, 0.0),
            ),
        ),
        "momentum_direct": Number(
            "alpha_1 of Momentum(rate, direct); 0 by default",
            r"\alpha_1",
            refused={
                "torch": "adds a direct step to a velocity of (1 - beta) G, which torch.optim.SGD "
                "does not support: leave direct out"
            },
        ),
        "second_moment_rate": Number(
            "rate kappa_2 of second moments; without it they are instantaneous",
            r"\kappa_2",
            key="scalar",
            torch=(
                InOptim("Adam", "betas[1]", MEMORY, MEMORY),
                InOptim("RMSprop", "alpha", MEMORY, MEMORY),
            ),
        ),
        "beta2": Number(
            "fixed memory of second moments, for linear students",
            r"\beta_2",
            below=1.0,
            key="fraction",
            of_optimiser=False,
            torch=(InOptim("RMSprop", "alpha"),),
        ),
        "eps": Number(
            "constant added to the square roots of second moments",
            r"\epsilon",
            key="scalar",
            torch=(
                InOptim("Adam", "eps", 1 / P, 1 / (P * sp.sqrt(D))),
                InOptim("RMSprop", "eps", 1 / P, 1 / (P * sp.sqrt(D))),
            ),
        ),
        "initial": Number(
            "value of the accumulator at t = 0",
            "V_0",
            key="scalar",
            torch=(
                InOptim("Adagrad", "initial_accumulator_value", D / P**2, P**-2),
                InOptim("Adam", "exp_avg_sq", P**-2, 1 / (P**2 * D), state=True),
                InOptim("RMSprop", "square_avg", P**-2, 1 / (P**2 * D), state=True),
            ),
        ),
    }
)
# What an optimiser makes of a step besides the update field: symbols of equations, in their order.
OPTIMISER: Mapping[str, Number] = MappingProxyType(
    {name: number for name, number in REGISTRY.items() if number.of_optimiser}
)
# Those that a field of an algorithm declares.
DECLARED = tuple(name for name, number in REGISTRY.items() if number.declared)
# Variances of noise that is added to each step.
ADDITIVE = tuple(name for name, number in OPTIMISER.items() if number.additive)
# Rows beside the weights, by the numbers that ask for them.
ROWS: Mapping[str, str] = {n.row: name for name, n in OPTIMISER.items() if n.row}
