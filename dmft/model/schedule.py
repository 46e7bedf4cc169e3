"""A schedule: values of a control at times tau = steps/d, linear between them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dmft.arrays import Array
from dmft.errors import BadParameter, ShapeMismatch
from dmft.names import Status
from dmft.record import Record, Short

# Controls that set the clock.
RATES = ("learning_rate", "batch_size")
TABLES = (".csv", ".tsv", ".txt", ".dat")
# Numbers of a table that a reader finds again to the last bit.
DIGITS = "%.17g"


def _numbers(value: Any, name: str) -> Array:
    """A copy as floats."""
    try:
        return np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ShapeMismatch(f"{name} is not an array of numbers: {error}") from error


def is_allowed(control: str, value: float) -> bool:
    """Whether a control may have this finite value; False for NaN."""
    if control in RATES:
        return value > 0.0
    return value >= 0.0 if control == "weight_decay" else not math.isnan(value)


@dataclass(frozen=True, eq=False, repr=False)
class Schedule(Short, Record):
    r"""Values of a control as a function of tau = steps/d (samples/d for batches).

    Pass it to `dmft.solve` or `dmft.simulate` as ``learning_rate=``, or to `dmft.solve` as
    ``batch_size=`` or another parameter. `t_max` is then a value of tau. `dmft.plot` draws it.

    Parameters
    ----------
    t : (T,)
        Times tau in ascending order, from 0. After the last one the value is constant.
    value : (T,)
        Values of the control: positive for the learning rate and the batch size, not negative for
        ``weight_decay``. Between two times 1/n_b, not n_b, is linear.
    control : "learning_rate", "batch_size" or another parameter by its name
    hamiltonian : (T,), optional
        Hamiltonian H at these times, which is constant along an optimal schedule.
    run : Trajectory, optional
        Run under the schedule, saved at the same times.
    status, message
        Result of the search.
    interpolation : "linear" or "constant"
        Interpolation between two times. A constant piece has the value at its start.
    minimises : str
        Observable of the run that the schedule minimises.

    Examples
    --------
    >>> import dmft
    >>> fall = dmft.Schedule([0.0, 5.0, 10.0], [1.0, 0.4, 0.1])
    >>> fall.at([2.5, 20.0]).round(6).tolist()
    [0.7, 0.1]
    """

    t: Array
    value: Array
    control: str = "learning_rate"
    hamiltonian: Array | None = None
    run: Any = field(default=None, compare=False)
    status: Status = Status.OK
    message: str = ""
    interpolation: str = "linear"
    minimises: str = "risk"

    def __post_init__(self) -> None:
        times, values = _numbers(self.t, "t"), _numbers(self.value, "value")
        if times.ndim != 1 or times.size < 2 or values.shape != times.shape:
            raise ShapeMismatch(
                f"t has shape {times.shape} and value {values.shape}; a schedule has at least "
                "two times, and a value at each"
            )
        if not (times[0] == 0.0 and np.all(np.diff(times) > 0.0) and np.isfinite(times[-1])):
            raise BadParameter("t of a schedule must start at 0 and increase; it is tau = steps/d")
        if not (isinstance(self.control, str) and self.control):
            raise BadParameter(f"control must be the name of a parameter, got {self.control!r}")
        named = isinstance(self.interpolation, str)
        if not (named and self.interpolation in ("linear", "constant")):
            raise BadParameter(
                f'interpolation must be "linear" or "constant", got {self.interpolation!r}'
            )
        low = float(values.min()) if np.all(np.isfinite(values)) else np.nan
        if not is_allowed(self.control, low):
            raise BadParameter(
                f"values of a schedule must be positive and finite; the smallest is {low}"
            )
        object.__setattr__(self, "t", times)
        object.__setattr__(self, "value", values)

    def at(self, t: ArrayLike) -> Array:
        """Return the values at times tau.

        Parameters
        ----------
        t : array
            tau = steps/d.

        Returns
        -------
        ndarray
            Values, with the shape of `t`.

        Examples
        --------
        >>> import dmft
        >>> fall = dmft.Schedule([0.0, 5.0, 10.0], [1.0, 0.4, 0.1])
        >>> fall.at(2.5).round(6).item()
        0.7
        """
        times = np.asarray(t, dtype=np.float64)
        if self.interpolation == "constant":
            place = np.searchsorted(self.t, times, side="right") - 1
            return np.asarray(self.value[np.clip(place, 0, self.t.size - 1)])
        if self.control == "batch_size":
            return np.asarray(1.0 / np.interp(times, self.t, 1.0 / self.value))
        return np.asarray(np.interp(times, self.t, self.value))

    def save(self, path: str | Path) -> Path:
        """Write a table with a row for each time: tau, the value, H and the minimised observable.

        Parameters
        ----------
        path : path
            Ending in .csv, .tsv, .txt or .dat.

        Returns
        -------
        Path

        Raises
        ------
        BadParameter
            For another suffix, or if the file cannot be written.

        Examples
        --------
        >>> import dmft
        >>> fall = dmft.Schedule([0.0, 5.0, 10.0], [1.0, 0.4, 0.1])
        >>> fall.save("fall.csv").read_text().splitlines()[0]
        'tau,learning_rate'
        """
        where = Path(path)
        if where.suffix not in TABLES:
            raise BadParameter(
                f"{where.name}: a schedule is saved as a table, .csv, .tsv, .txt or .dat; "
                "schedule.as_torch(dim) returns code for PyTorch"
            )
        columns = {"tau": self.t, self.control: self.value}
        if self.hamiltonian is not None:
            columns["hamiltonian"] = self.hamiltonian
        if self.run is not None and self.run.t.shape == self.t.shape:
            columns[self.minimises] = self.run[self.minimises]
        between = "," if where.suffix == ".csv" else "\t"
        head = between.join(columns)
        rows = np.column_stack(list(columns.values()))
        try:
            np.savetxt(where, rows, fmt=DIGITS, delimiter=between, header=head, comments="")
        except OSError as error:
            raise BadParameter(f"cannot write {where}: {error.strerror}") from error
        return where

    @classmethod
    def load(cls, path: str | Path, control: str = "learning_rate") -> Schedule:
        """Read the first two columns of a table that `save` wrote.

        Parameters
        ----------
        path : path
        control : str
            Name of the parameter.

        Returns
        -------
        Schedule

        Raises
        ------
        BadParameter
            If the file cannot be read or has no such table.

        Examples
        --------
        >>> import dmft
        >>> fall = dmft.Schedule([0.0, 5.0, 10.0], [1.0, 0.4, 0.1])
        >>> dmft.Schedule.load(fall.save("rates.csv")) == fall
        True
        """
        where = Path(path)
        between = "," if where.suffix == ".csv" else None
        try:
            rows = np.loadtxt(where, delimiter=between, skiprows=1, usecols=(0, 1), ndmin=2)
        except (OSError, ValueError) as error:
            raise BadParameter(f"cannot read a schedule from {where}: {error}") from error
        return cls(rows[:, 0], rows[:, 1], control)

    def as_torch(self, dim: int) -> str:
        """Return Python code of a `LambdaLR` for PyTorch, at input dimension `dim`.

        The code assumes weights theta = W/sqrt(d), inputs x and lr = gamma/d
        (theory/structured_inputs 6.8). Each step uses the value at its start.

        Parameters
        ----------
        dim : int
            Input dimension d.

        Returns
        -------
        str

        Raises
        ------
        BadParameter
            For controls other than the learning rate.

        Examples
        --------
        >>> import dmft
        >>> fall = dmft.Schedule([0.0, 5.0, 10.0], [1.0, 0.4, 0.1])
        >>> "LambdaLR" in fall.as_torch(dim=1000)
        True
        """
        if self.control != "learning_rate":
            raise BadParameter(f"PyTorch's schedulers set learning rates, not {self.control}")
        parts = self.value / self.value[0]
        return TORCH.format(
            dim=int(dim), rate=float(self.value[0]), lr=float(self.value[0]) / int(dim),
            times=", ".join(f"{y:.9g}" for y in self.t),
            parts=", ".join(f"{y:.9g}" for y in parts),
            between=" * x" if self.interpolation == "linear" else " * (x >= 1.0)",
        )  # fmt: skip

    def _in_words(self) -> str:
        low, high = self.value.min(), self.value.max()
        text = f"{self.control} from {self.value[0]:.4g} to {self.value[-1]:.4g} ({low:.4g} to "
        text += f"{high:.4g}), tau = 0 to {self.t[-1]:g}"
        if self.run is not None:
            text += f", {self.minimises} {self.run[self.minimises][-1]:.6g}"
        return text


TORCH = '''"""Rates of a dmft.Schedule for weights theta = W/sqrt(d): lr = gamma/d, d = {dim}."""

from bisect import bisect_right

import torch

LR = {lr!r}  # gamma = {rate!r} at the first step
TAU = ({times})
PART = ({parts})


def part(step):
    tau = step / {dim}
    n = min(max(bisect_right(TAU, tau), 1), len(TAU) - 1)
    x = min((tau - TAU[n - 1]) / (TAU[n] - TAU[n - 1]), 1.0)
    return PART[n - 1] + (PART[n] - PART[n - 1]){between}


def scheduler(optimizer):
    """For an optimizer of lr = LR; call .step() after each of its steps."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, part)
'''
