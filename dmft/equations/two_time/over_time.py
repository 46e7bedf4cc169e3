"""Run-time values of descents: numbers, and expressions in the time that give one at each step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import sympy as sp

from dmft.arrays import Array
from dmft.equations.parameter_values import (
    check_lengths,
    check_widths,
    readout_arrays,
    resolve_scalars,
)
from dmft.equations.two_time.descent_process import Descent, alpha, fraction
from dmft.errors import BadParameter
from dmft.model import Overlaps
from dmft.model.algorithm import TIME, at_each_step

# Parameters that the number of samples fixes once.
ONCE = frozenset({alpha.name, fraction.name})


@dataclass(frozen=True)
class OverTime:
    """Scalars of a run at the first step, by name and by the model's own symbols.

    `varying` are the values at each step (steps,) of those that follow their `schedules`.
    """

    scalars: dict[str, float]
    symbols: dict[sp.Symbol, float]
    varying: dict[str, Array] = field(default_factory=dict)
    schedules: dict[str, sp.Expr] = field(default_factory=dict)

    def at(self, step: int) -> dict[str, float]:
        """Scalars of the step that begins at this time."""
        return self.scalars | {n: float(y[step]) for n, y in self.varying.items()}

    @property
    def described(self) -> dict[str, str]:
        """Schedules for a provenance."""
        return {f"{name}_schedule": str(y) for name, y in self.schedules.items()}


def begun(
    equations: Descent, start: Overlaps, given: Mapping[str, Any], steps: int
) -> tuple[OverTime, dict[str, Array]]:
    """Numbers of a run of so many steps, and its readouts, from a start that fits the equations."""
    if not isinstance(start, Overlaps):
        raise BadParameter(f"start must be a dmft.Overlaps, got {type(start).__name__}")
    check_widths(equations.model, start)
    if equations.algorithm.on_sphere:
        check_lengths(start)
    numbers = over_time(equations, given, steps)
    return numbers, readout_arrays(equations.model, start, numbers.symbols)


def over_time(equations: Descent, given: Mapping[str, Any], steps: int) -> OverTime:
    """Numbers for all parameters of a run of so many steps."""
    schedules = schedules_of(equations, given)
    table = {name: at_each_step(name, expr, steps) for name, expr in schedules.items()}
    numbers = {**given, **{name: float(y[0]) for name, y in table.items()}}
    declared = equations.declared
    scalars, symbols = resolve_scalars(declared, declared, numbers)
    refuse_unread(equations, {name: scalars[name] for name in _UNREAD if name in given})
    return OverTime(scalars, symbols, table, schedules)


# Parameters whose terms are left out where they were declared as zero.
_UNREAD = {
    "momentum": "no momentum; derive with GradientDescent(momentum=...)",
    "readout_rate": "fixed readouts; derive with GradientDescent(readout_rate=...)",
    "label_noise": "labels without noise; declare Model(label_noise=...)",
}


def refuse_unread(equations: Descent, given: Mapping[str, Any]) -> None:
    """Refuse values of a run that no definition reads; a declared one whose term was dropped stays.

    Raises `BadParameter`.
    """
    for name, reason in _UNREAD.items():
        if given.get(name, 0) != 0 and name not in equations.read:
            raise BadParameter(f"{name} = {given[name]}: these equations have {reason}")


def schedules_of(equations: Descent, given: Mapping[str, Any]) -> dict[str, sp.Expr]:
    """Parameters that are given as expressions in the time t, the number of steps before."""
    found: dict[str, sp.Expr] = {}
    for name, value in given.items():
        if callable(value) and not isinstance(value, sp.Basic):
            raise BadParameter(
                f"{name} is a function; pass an expression in sympy.Symbol('t'), the number of "
                "previous steps, as 0.5 / (1 + t / 10)"
            )
        if not isinstance(value, sp.Expr) or value.is_number:
            continue
        if name in ONCE or name in equations.read_by_samples or name not in equations.parameters:
            able = sorted(
                y
                for y in equations.process_parameters
                if y not in ONCE and y not in equations.read_by_samples
            )
            raise BadParameter(
                f"{name} = {value} is a schedule; parameters that may depend on time are "
                f"{', '.join(able)}"
            )
        found[name] = value
    return found


def with_step(values: Mapping[str, Any], step: float) -> dict[str, Any]:
    """Run-time values of the descent that steps through the flow; schedules at its time."""
    if "learning_rate" in values:
        raise BadParameter("gradient flow has no learning_rate: its time is learning_rate * steps")
    # Expressions in the time t of a flow become those in the number of steps.
    at_steps = {
        name: value.xreplace({y: step * y for y in value.free_symbols if y.name == TIME})
        for name, value in values.items()
        if isinstance(value, sp.Expr)
    }
    return {**values, **at_steps, "learning_rate": step}
