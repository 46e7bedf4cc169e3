"""Controls of the page: what a slider changes, between which ends, on which scale."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import sympy as sp

from dmft.equations.parameter_values import resolve_scalars, run_parameters
from dmft.errors import BadParameter
from dmft.model.hyperparameters import REGISTRY
from dmft.names import QUANTITIES

# Decades of a slider on either side of a positive value, as a factor.
REACH = 30.0
# Ends of sliders of a student's width, and of a fixed batch.
WIDEST = 12
BATCHES = tuple(2**n for n in range(11))
SEEDS = 99
# Words and letters of parameters that every model may have; none of them is negative.
SAID = {
    "learning_rate": ("learning rate", REGISTRY["learning_rate"].latex),
    "label_noise": ("label noise", r"\Delta"),
    "readout_rate": ("rate of the readouts", REGISTRY["readout_rate"].latex),
    "weight_decay": ("weight decay", REGISTRY["weight_decay"].latex),
}
# Ends of sliders of parameters that are bounded.
MOST = {"momentum": 0.99, "label_flip": 1.0}


@dataclass(frozen=True)
class Control:
    """One slider: `scale` is linear, log, or cubic (zero included, fine near it).

    `structure` says that the equations are derived again, `axis` that it can span a diagram;
    `choices` are all values that there are.
    """

    name: str
    words: str
    value: float
    low: float
    high: float
    scale: str = "linear"
    latex: str = ""
    group: str = "parameters"
    whole: bool = False
    structure: bool = False
    axis: bool = False
    choices: tuple[float, ...] = field(default=())

    def facts(self) -> dict[str, Any]:
        """What the page is told."""
        return asdict(self)


def number_control(
    name: str, value: float, ends: tuple[float, float] | None = None, of: str | None = None
) -> Control:
    """Slider of a parameter of the equations around its declared value; a letter may be one."""
    known = (of or name) in REGISTRY or (of or name) in QUANTITIES
    fallback = (of or name).replace("_", " ") if known else f"parameter {name}"
    words, letter = SAID.get(of or name, (fallback, ""))
    if name not in SAID:
        letter = QUANTITIES[name].latex if name in QUANTITIES else sp.latex(sp.Symbol(name))
    non_negative = (of or name) in SAID
    if ends is not None:
        low, high = ends
        wide = low > 0 and high / low >= 50
        scale = "log" if wide else "linear"
    elif (of or name) in MOST:
        low, high, scale = 0.0, MOST[of or name], "linear"
    elif value > 0 and (of or name) != "label_noise":
        low, high, scale = rounded(value / REACH), rounded(value * REACH), "log"
    elif value >= 0 and non_negative:
        low, high, scale = 0.0, max(1.0, rounded(10 * value)) if value else 1.0, "cubic"
    else:
        size = max(1.0, 3 * abs(value))
        low, high, scale = -size, size, "linear"
    return Control(name, words, value, low, high, scale, letter, axis=True)


def rounded(value: float) -> float:
    """The nearest of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return min((1, 2, 5, 10), key=lambda digit: abs(math.log(value / (digit * power)))) * power


def parameter_controls(
    equations: Any, values: Mapping[str, float], ranges: Mapping[str, tuple[float, float]]
) -> list[Control]:
    """Sliders of the parameters of equations: letters, and numbers by their own names."""
    declared = equations.declared
    resolve_scalars(declared, (), {**values, **dict.fromkeys(ranges, 0.0)})  # refuses unknown names
    found = run_parameters(equations.model, equations.parameters, values)
    of = {str(v): name for name, v in equations.parameters.items() if v.is_Symbol}
    controls = []
    for name, value in found.items():
        if name == "dim":
            continue
        if value is None:
            raise BadParameter(
                f"{name} has no value to start from: pass {name}=1.0, for example, or use the "
                "table [parameters] of a file"
            )
        controls.append(number_control(name, value, ranges.get(name), of.get(name)))
    return controls


def network_controls(model: Any, algorithm: Any) -> list[Control]:
    """Sliders that derive the equations again: widths and the batch."""
    found = []
    width = getattr(model.student, "width", None)
    if width is not None and getattr(model.student, "readout", None) is None:
        value = int(width) if sp.sympify(width, strict=True).is_Integer else 2
        high = max(WIDEST, value)
        found.append(
            Control("width", "student width", value, 1, high, latex="p", group="student",
                    whole=True, structure=True)
        )  # fmt: skip
    batch = getattr(algorithm, "batch_size", None)
    if batch is not None and sp.sympify(batch, strict=True).is_Integer:
        choices = tuple(sorted({*BATCHES, int(batch)}))
        found.append(
            Control("batch_size", "batch size", int(batch), choices[0], choices[-1], "log",
                    "n_b", whole=True, structure=True, choices=choices)
        )  # fmt: skip
    return found


def start_controls(spec: Mapping[str, Any], on_sphere: bool) -> list[Control]:
    """Sliders of where the student starts."""
    found: list[Control] = []
    if spec["kind"] == "alignment":
        for name, words in (("e", "positional alignment"), ("m", "semantic alignment")):
            for n, value in enumerate(spec[name]):
                label = name if len(spec[name]) == 1 else f"{name}_{n + 1}"
                found.append(
                    Control(label, words, value, -0.95, 0.95, latex=label, group="start", axis=True)
                )
        return found
    if spec["kind"] == "random":
        found += [
            Control("dim", "input dimension", spec["dim"], 10, 10**6, "log", "d", "start", True),
            Control("seed", "seed of the start", spec["seed"], 0, SEEDS, group="start", whole=True),
        ]
    if not spec["blocks"]:
        if not on_sphere:
            found.append(
                Control(
                    "size", "size of the start", 1.0, 0.01, 10, "log", "|w|", "start", axis=True
                )
            )
        found.append(
            Control(
                "overlap", "overlap at the start", 0.0, 0.0, 0.99, "cubic", "c", "start", axis=True
            )
        )
    return found


def time_control(t_max: float, is_map: bool) -> Control:
    """Slider of the horizon."""
    low, high = rounded(t_max / 100), rounded(t_max * 100)
    if is_map:
        low = max(low, 10.0)
    return Control("t_max", "final time", t_max, low, high, "log", r"t_{\max}", "time", is_map)
