"""Which entries of a descent are known: where a claimed error passes the signal, a status says so.

An entry is not known where its error is larger than half of its value (zero is within two errors),
than a tenth of the unit of its block, and than rounding. The unit is the largest entry of the block
whose error is at most half of it: so zeros by symmetry count as known to the error of a block that
is resolved, and nothing does in a block of noise. Overlaps with the teacher may all vanish: their
unit is the largest length of a student.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dmft.names import Status
from dmft.solvers.descent.run import DescentRun

Array = NDArray[np.float64]
# An error passes the signal beyond this share of it.
SIGNAL = 0.5
# Share of the unit of its block up to which an error is small whatever the value.
SMALL = 0.1
# Errors of rounding, for overlaps of order one.
ROUNDING = 1e-9


def unknown(run: DescentRun, name: str) -> NDArray[np.bool_]:
    """Entries of a block whose error passes the signal, or that are not finite.

    Errors that nothing is known of (nan, from one scramble) accuse nobody.
    """
    values, error = run.arrays[name], run.error[name]
    least = max(SMALL * _unit(run, name), ROUNDING)
    lost: NDArray[np.bool_] = error > np.maximum(SIGNAL * np.abs(values), least)
    return lost | ~np.isfinite(values)


def _unit(run: DescentRun, name: str) -> float:
    """Scale of a block, in which errors are small or not."""
    if name == "M" and "Q" in run.arrays:
        return math.sqrt(_largest_known(run, "Q"))
    return _largest_known(run, name)


def _largest_known(run: DescentRun, name: str) -> float:
    values, error = np.abs(run.arrays[name]), run.error[name]
    known = np.isfinite(values) & ~(error > SIGNAL * values)
    return float(np.max(values[known], initial=0.0))


def judged(run: DescentRun) -> DescentRun:
    """The same run; one that ended well is "tolerance_not_met" where entries are not known."""
    if run.status is not Status.OK:
        return run
    words = []
    for name, values in run.arrays.items():
        lost = unknown(run, name)
        if np.any(lost):
            error = run.error[name]
            worst = np.unravel_index(np.argmax(np.where(lost, error, -1.0)), error.shape)
            where = ", ".join(str(int(i)) for i in worst)
            words.append(
                f"{name}[{where}] = {values[worst]:.3g} +- {error[worst]:.2g} is not known "
                f"({np.count_nonzero(lost)} of {values.size} entries of {name} lie within two "
                "errors of zero)"
            )
    if not words:
        return run
    message = "; ".join([run.message, *words, "take more samples"])
    return replace(run, status=Status.TOLERANCE_NOT_MET, message=message)
