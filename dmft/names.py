"""Every quantity of the library once: code name, LaTeX, shape, symmetry, names used elsewhere.

No SymPy here: printers, result records and files all read this table.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

VERSION = "0.1.0"


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
        Quantity(
            "risk", r"\mathcal{R}", "()", "population risk E(f* - f)^2 / 2", False, ("eps_g",)
        ),
        Quantity("t", "t", "()", "time"),
    )
}


class Status(StrEnum):
    """How a computation ended: one vocabulary for solvers, simulations and measures.

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
