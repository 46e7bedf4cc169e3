r"""Where the closed forms of a system lose digits: its rounding at ordinary overlaps, in words.

A system is evaluated with bounds (`dmft.equations.rounding.bounds`) at a small set of states:
variances of the students 0.01, 1 and 100 beside unit teachers (1 on the sphere), cosines between a
student and its teacher 0.1, 0.5 and 1 - 1e-6, at most two students and two teachers. Relative is
relative to the sum of the sizes of the terms: next to the perfect solution terms of a rate cancel,
which is subtraction, not a loss of digits in a closed form.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.equations.averages.expectation import Expectation
from dmft.equations.averages.passes import value_of
from dmft.equations.definitions import Definition
from dmft.equations.parameter_values import Values
from dmft.equations.rounding.bounds import OF_FOUR, rounding
from dmft.equations.rounding.rules import relative_rounding
from dmft.errors import NotClosed
from dmft.model import MultiIndex

if TYPE_CHECKING:
    from dmft.equations.system import System

# Rounding relative to the sum of |terms| from which a claim says so.
WORTH_SAYING = 1e-10
VARIANCES, COSINES = (1e-2, 1.0, 1e2), (0.1, 0.5, 1.0 - 1e-6)
# Widths of the states that are tried; multi-index targets keep all their directions.
WIDTH = 2
# Cosine of two students beside what they share with the teachers.
SHARED = 0.2
# Value of a parameter that has none yet, and of the dimension.
UNKNOWN, DIMENSION = 1.0, 1000.0


@lru_cache(maxsize=128)
def light(definitions: tuple[Definition, ...]) -> tuple[Definition, ...]:
    """Definitions without the terms that hold averages of four signs.

    These take microseconds an entry; they are right to 1e-14 of the size of their fields.
    """
    heavy = {
        q
        for d in definitions
        for q in d.expr.atoms(Expectation)
        if {type(f).__name__ for f in value_of(q).atoms(sp.Function)} & set(OF_FOUR)
    }
    if not heavy:
        return definitions
    return tuple(
        Definition(
            d.target, tuple((t, e) for t, e in d.terms if not e.has(*heavy)), d.role, d.factor
        )
        for d in definitions
    )


def cancellation_in_words(equations: System) -> list[str]:
    """What `Equations.approximation` says of rounding: nothing below 1e-10 of the terms."""
    worst = ordinary_rounding(equations)
    if worst <= WORTH_SAYING:
        return []
    return [
        f"closed forms that cancel: rounding up to {worst:.0e} of the sum of their terms at "
        f"variances {VARIANCES[0]:g} to {VARIANCES[-1]:g}, estimated in each run"
    ]


def ordinary_rounding(equations: System) -> float:
    """Largest relative rounding of rates and risk at the states of this file; 0 without Q and M."""
    moved = {d.name for d in equations.definitions if d.role == "rate"}
    # Rows and blocks read the same averages, and have states of their own.
    if equations.open_kernels or not {"Q", "M"} <= moved <= {"Q", "M", "readout"}:
        return 0.0
    states, values = _states(equations)
    definitions = light(equations.definitions)
    try:
        rows = [
            relative_rounding(rounding(definitions, states, values, wanted))
            for wanted in ("rate", "observable")
        ]
    except NotClosed:
        return 0.0
    # A state at which a value overflows is not ordinary for these functions.
    finite = [row[np.isfinite(row)].max(initial=0.0) for row in rows]
    return float(max(finite))


def _states(equations: System) -> tuple[dict[str, Array], Values]:
    model, algorithm = equations.model, equations.algorithm
    p, k = (min(int(n), WIDTH) if n.is_Integer else WIDTH for n in _widths(equations))
    if isinstance(model.teacher, MultiIndex):
        k = int(model.teacher.width)
    rows = []
    for q in (1.0,) if algorithm.on_sphere else VARIANCES:
        for cosine in COSINES:
            inside = cosine * np.eye(max(p, k))[:p, :k]
            rest = 1.0 - np.sum(inside**2, axis=1)
            mixed = (1.0 - SHARED) * np.eye(p) + SHARED
            outside = np.sqrt(np.outer(rest, rest)) * mixed
            rows.append((q * (inside @ inside.T + outside), np.sqrt(q) * inside))
    numbers = {name: _number(value) for name, value in equations.parameters.items()}
    arrays = {"P": np.eye(k), "readout": np.ones(p), "teacher_readout": np.ones(k)}
    states = {"Q": np.array([Q for Q, _ in rows]), "M": np.array([M for _, M in rows])}
    return states, Values({"p": p, "k": k}, numbers, arrays)


def _widths(equations: System) -> tuple[sp.Expr, sp.Expr]:
    return equations.model.student.width, equations.model.teacher.width


def _number(value: sp.Expr) -> float:
    """A parameter as declared, its symbols at ordinary values."""
    return float(
        value.subs({s: DIMENSION if s.name == "d" else UNKNOWN for s in value.free_symbols})
    )
