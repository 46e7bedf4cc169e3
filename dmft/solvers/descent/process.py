"""Arrays and compiled steps of a process in two times, as its generated code sees them.

The recursions of a descent (`dmft.equations.two_time.descent_process`) are compiled from their
symbols; what is here is where their arrays live and what the steps are called. Kernels are stored
by (time, neuron) twice, so that each is a matrix as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numpy.typing import NDArray

from dmft.record import Short
from dmft.solvers.signatures import VECTOR

Array = NDArray[np.float64]


class Arrays(NamedTuple):
    """Everything that the steps read and write; T steps, p students, k rows of the teacher.

    Attributes
    ----------
    M_at, readout_at : (T + 1, p, k), (T + 1, p)
    P_inverse : (k, k)
    C_theta, R_theta, Q_at, C_r : (T + 1, p, T + 1, p)
    C_l, R_l : (T, p, T, p)
    g_star, mean_pull : (T, p, k), (T, p)
    gradient_pairs, slopes : (p, T, p)
        Averages over the samples at the time of the step: <g_j g_l^s>, <dg_j / dr_l^s>.
    gradient_stars, pulls : (p, k), (p,)
        The same of g_j h*_r and of the gradients of the readouts.
    to_star, to_driving, to_past : (T, p, k), (T, p, p), (T, p, T, p)
        What the field at a time takes of h*, of r at that time and of earlier gradients.
    M_free, R_free, C_free, G_free : (p, k), (p, T + 1, p), (p, T + 1, p), (p, p)
        Of the step that is taken, before its rows are put back on the sphere.
    Q_free : (T + 1, p, p)
        Overlaps then; zero where rows are free.
    """

    M_at: Array
    readout_at: Array
    P_inverse: Array
    C_theta: Array
    R_theta: Array
    Q_at: Array
    C_r: Array
    C_l: Array
    R_l: Array
    g_star: Array
    mean_pull: Array
    gradient_pairs: Array
    slopes: Array
    gradient_stars: Array
    pulls: Array
    to_star: Array
    to_driving: Array
    to_past: Array
    M_free: Array
    R_free: Array
    C_free: Array
    G_free: Array
    Q_free: Array

    @classmethod
    def zeros(cls, steps: int, p: int, k: int) -> Arrays:
        """Arrays of a descent before its start."""
        T, big = steps, steps + 1
        shapes = {
            "M_at": (big, p, k), "readout_at": (big, p), "P_inverse": (k, k),
            **dict.fromkeys(("C_theta", "R_theta", "Q_at", "C_r"), (big, p, big, p)),
            **dict.fromkeys(("C_l", "R_l", "to_past"), (T, p, T, p)),
            "g_star": (T, p, k), "mean_pull": (T, p),
            "gradient_pairs": (p, T, p), "slopes": (p, T, p),
            "gradient_stars": (p, k), "pulls": (p,),
            "to_star": (T, p, k), "to_driving": (T, p, p),
            "M_free": (p, k), "R_free": (p, big, p), "C_free": (p, big, p), "G_free": (p, p),
            "Q_free": (big, p, p),
        }  # fmt: skip
        return cls(**{name: np.zeros(shape) for name, shape in shapes.items()})


ARRAYS = types.NamedTuple(
    [types.Array(types.float64, array.ndim, "C") for array in Arrays.zeros(1, 1, 1)], Arrays
)
# (t, par, arrays)
STEP_SIGNATURE = types.void(types.int64, VECTOR, ARRAYS)


@dataclass(frozen=True, eq=False)
class Process:
    """Compiled steps of a process; each fills arrays from those that are known at its time t.

    Attributes
    ----------
    begin : C_theta at (0, 0) from Q there
    fields : to_star, to_driving and to_past at t
    averages : C_l, g_star and mean_pull at t, from averages over the samples
    respond : R_l at t from their slopes, then R_theta at t + 1 (R_free where rows are put back)
    advance : M, C_theta and the readout at t + 1, and Q_free on the sphere
    overlaps : Q at (t, s <= t)
    drive : C_r, the covariance of the driving process, at (t, s <= t)
    answer : R_theta at t + 1, where the step put rows back on the sphere; else None
    parameters : tuple of str
        Order of ``par``.
    source : str
        Text of the compiled functions.
    """

    begin: Any
    fields: Any
    averages: Any
    respond: Any
    advance: Any
    overlaps: Any
    drive: Any
    parameters: tuple[str, ...]
    source: str = field(repr=False, default="")
    answer: Any = None

    def par(self, values: Mapping[str, float]) -> Array:
        """Parameters as the steps take them."""
        return np.array([float(values[name]) for name in self.parameters])


@dataclass(frozen=True, eq=False, repr=False)
class DescentProblem(Short):
    """A descent without symbols: what `dmft.build` makes of its equations.

    Attributes
    ----------
    labels, sample : compiled functions of the signatures in `dmft.solvers.descent.sampled`
    process : Process
    parameters : tuple of str
        Run-time values by name.
    scalars : tuple of str
        Those that a sample takes, in their order.
    source : str
        Text of all compiled functions.
    time_unit : str
    origin
        The equations.
    """

    labels: Any
    sample: Any
    process: Process
    parameters: tuple[str, ...]
    scalars: tuple[str, ...]
    source: str = field(repr=False)
    time_unit: str
    origin: Any = field(repr=False)
    kind: str = field(default="two-time", init=False)

    def _in_words(self) -> str:
        return f"descent: parameters {', '.join(self.parameters)}"
