"""Every quantity of the library once: code name, LaTeX, shape, symmetry, names used elsewhere.

No SymPy here: printers, result records and files all read this table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

VERSION = "0.1.0"

# What makes the page of a record in a notebook; put here by the face, which sees who draws.
PAGES: list[Callable[[object], str | None]] = []


@dataclass(frozen=True)
class Quantity:
    """One named quantity; `shape` is written in the width symbols p and k."""

    code: str
    latex: str
    shape: str
    meaning: str
    symmetric: bool = False
    aliases: tuple[str, ...] = ()


QUANTITIES: dict[str, Quantity] = {
    q.code: q
    for q in (
        Quantity("Q", "Q", "(p, p)", "student-student overlap W W^T / d", True, ("q",)),
        Quantity("M", "M", "(p, k)", "student-teacher overlap W W*^T / d", False, ("R", "m")),
        Quantity("P", "P", "(k, k)", "teacher-teacher overlap W* W*^T / d", True, ("T", "rho")),
        Quantity("Omega", r"\Omega", "(p+k, p+k)", "covariance of all local fields", True, ("C",)),
        Quantity("readout", "a", "(p,)", "student readout", False, ("v",)),
        Quantity("teacher_readout", "a^*", "(k,)", "teacher readout", False, ("v*",)),
        Quantity("learning_rate", r"\gamma", "()", "learning rate", False, ("eta",)),
        Quantity("label_noise", r"\Delta", "()", "label-noise variance", False, ("sigma^2",)),
        Quantity("label_flip", r"\varepsilon", "()", "probability that a label is flipped"),
        Quantity(
            "risk", r"\mathcal{R}", "()", "population risk E(f* - f)^2 / 2", False, ("eps_g",)
        ),
        Quantity("loss", r"\mathcal{L}", "()", "expected loss of a fresh sample"),
        Quantity(
            "error_rate", r"\mathcal{E}", "()", "probability that sign f is not the teacher's sign"
        ),
        Quantity("t", "t", "()", "time"),
    )
}

# Overlaps within each block of a spectrum, by the names of their sums.
BLOCK = "block_"
BLOCKS = {name: f"{BLOCK}{name}" for name in "QMP"}
# Rows that optimisers keep beside the weights: a Gram matrix of their own, and with w* and w.
KEPT: tuple[str, ...] = ("average_M", "average_Q", "average")
KEPT += ("velocity_M", "velocity_Q", "velocity_average", "velocity")
QUANTITIES |= {
    BLOCKS[name]: Quantity(
        BLOCKS[name],
        name,
        "(B, " + QUANTITIES[name].shape[1:],
        f"{QUANTITIES[name].meaning} within each block of the spectrum",
        QUANTITIES[name].symmetric,
    )
    for name in BLOCKS
}
# What optimisers accumulate: a second moment for each neuron, by block too, and one sum for all.
ACCUMULATED: dict[str, tuple[str, ...]] = {"second_moment": ("p",), "accumulator": ()}
QUANTITIES |= {
    q.code: q
    for q in (
        Quantity("average_M", r"\bar{M}", "(p, k)", "averaged-teacher overlap w_a W*^T / d"),
        Quantity("average_Q", r"\bar{Q}", "(p, p)", "averaged-student overlap w_a W^T / d"),
        Quantity("average", r"\bar{\bar{Q}}", "(p, p)", "averaged overlap w_a w_a^T / d", True),
        Quantity("velocity_average", r"\bar{N}", "(p, p)", "velocity-averaged overlap u w_a^T / d"),
        Quantity("velocity_M", "L", "(p, k)", "velocity-teacher overlap u W*^T / d"),
        Quantity("velocity_Q", "N", "(p, p)", "velocity-student overlap u W^T / d"),
        Quantity("velocity", "T", "(p, p)", "velocity-velocity overlap u u^T / d", True),
        Quantity("second_moment", "V", "(p,)", "second moment of the coordinates of the gradient"),
        Quantity(
            "block_second_moment", "V", "(B, p)", "second moment of the coordinates within a block"
        ),
        Quantity(
            "accumulator", r"\mathcal{G}", "()", "sum of the squares of all gradients, divided by d"
        ),
    )
}
# Letters of what equations are printed in, by code name; a notation replaces some of them.
LETTERS: dict[str, str] = {
    **{q.code: q.latex for q in QUANTITIES.values()},
    "h": "h",
    "h_star": "h^*",
    "lambda": r"\lambda",
    "sigma": r"\sigma",
    "teacher_sigma": r"\sigma_*",
    "p": "p",
    "k": "k",
    "dim": "d",
    "batch_size": "n_b",
    "readout_rate": r"\rho_a",
    "x": "x",
    "y": "y",
    "noise": r"\xi",
    "W": "W",
    "W_star": "W^*",
    "c": r"\tilde{a}",
}
# Letters of papers; factors and clocks stay those of this library.
NOTATIONS: dict[str, dict[str, str]] = {
    "saad-solla": {
        "M": "R",
        "P": "T",
        "risk": r"\epsilon_g",
        "learning_rate": r"\eta",
        "h": "x",
        "h_star": "y",
        "x": r"\xi",
        "y": r"\zeta",
        "noise": r"\varrho",
        "W": "J",
        "W_star": "B",
        "c": r"\tilde{v}",
        "sigma": "g",
        "teacher_sigma": "g_*",
        "p": "K",
        "k": "M",
        "dim": "N",
        "label_noise": r"\sigma^2",
        "readout": "v",
        "teacher_readout": "v^*",
    },
    "scalar": {"Q": "q", "M": "m", "P": r"\rho"},
    "krzakala": {"h": r"\lambda", "h_star": r"\lambda^*", "lambda": r"\mu"},
}


# What measures and records hold besides, with the power of the time unit of each.
MEASURED: dict[str, tuple[str, int]] = {
    "escape_time": ("escape time", 1),
    "horizon": ("time until which a censored or failed point was followed", 1),
    "final_risk": ("population risk at the end", 0),
    "converged": ("1 where the run reached its end", 0),
    "growth_rate": ("largest growth rate of a small displacement", -1),
    "fixed_point": ("position among the names of fixed points", 0),
    "minima": ("number of strict local minima", 0),
    "learned_directions": ("number of learned teacher directions", 0),
    "overlap": ("largest overlap with a teacher direction", 0),
    "train_risk": ("risk on the training samples", 0),
    "computed": ("whether the point was computed or interpolated", 0),
    "error": ("half-width of the last bracket, in units of the ranges", 0),
}
SUMMARIES = {
    "mean": "mean of the {}",
    "std": "standard deviation of the {}",
    "stderr": "standard error of the mean of the {}",
    "error": "error of the {}",
    "runs": "{}, run by run",
}


def variable_attributes(name: str, time_unit: str) -> dict[str, str]:
    """Attributes `long_name` and `units` of a variable of this name, where it is known."""
    base, _, suffix = name.rpartition("_")
    frame = SUMMARIES.get(suffix, "{}") if base else "{}"
    for key, words in ((name, "{}"), (base, frame)):
        if key in QUANTITIES:
            meaning, power = QUANTITIES[key].meaning, int(key == "t")
        elif key in MEASURED:
            meaning, power = MEASURED[key]
        else:
            continue
        return {
            "long_name": words.format(meaning),
            "units": {0: "1", 1: time_unit, -1: f"1/t, {time_unit}"}[power],
        }
    return {}


class Status(StrEnum):
    """Status of a computation, for solvers, simulations and measures.

    Examples
    --------
    >>> from dmft import Status
    >>> Status.DIVERGED == "diverged"
    True
    """

    OK = "ok"
    EVENT = "event"
    DIVERGED = "diverged"
    NONFINITE = "nonfinite"
    LEFT_DOMAIN = "left_domain"
    TOLERANCE_NOT_MET = "tolerance_not_met"
    MAX_STEPS = "max_steps"
    TIMEOUT = "timeout"
    INTERRUPTED = "interrupted"
    NOT_CONVERGED = "not_converged"


# Labels of the measure "fixed_point", which is a position in this tuple: how far learning has come.
FIXED_POINTS = ("uninformative", "unspecialised", "partly specialised", "specialised")
