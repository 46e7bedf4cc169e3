"""What each kind of equations brings to `solve`: its options, and what takes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache, cached_property
from importlib import import_module
from typing import Any

from dmft.errors import BadParameter
from dmft.record import worded
from dmft.solvers.solution import Solution

# Where the solver of each kind stands; it is loaded when first asked for.
SOLVERS = {
    "ode": "dmft.workflow.solving.one_pass",
    "map": "dmft.workflow.solving.one_pass",
    "sde": "dmft.workflow.solving.paths",
    "descent": "dmft.workflow.solving.descent",
    "flow": "dmft.workflow.solving.descent_flow",
    "two-time": "dmft.workflow.solving.two_time",
}


@dataclass(frozen=True)
class Solver:
    """How one kind of equations is solved.

    Attributes
    ----------
    what : str
        The kind in words, for refusals.
    options : type
        Dataclass of the options, which checks them; all have defaults.
    run : callable(system, start, t_max, options, values) -> Solution
        `values` are the run-time values by name.
    instead : str
        What there is in place of the options of others, for refusals.
    """

    what: str
    options: type[Any]
    run: Callable[[Any, Any, Any, Any, Mapping[str, Any]], Solution]
    instead: str = ""

    @cached_property
    def known(self) -> frozenset[str]:
        """Names of its options."""
        return frozenset(one.name for one in fields(self.options))

    def read(
        self, given: Mapping[str, Any], parameters: Mapping[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """Options of the call, and the run-time values among its keywords.

        Raises
        ------
        BadParameter
            For options that this kind does not have.
        """
        known = self.known
        if not given.keys() <= known:
            unused = [f"{name}=" for name in given if name not in known]
            raise BadParameter(f"{self.what} know no {', '.join(unused)}{self.instead}")
        mine = {name: value for name, value in parameters.items() if name in known}
        values = {name: value for name, value in parameters.items() if name not in known}
        return self.options(**given, **mine), values


def equations_of(system: Any) -> Any:
    """What a problem was built from; equations, and problems written by hand, as they are."""
    return getattr(system, "origin", None) or system


def declared(system: Any) -> dict[str, Any]:
    """What equations were declared with, in words: numbers too, which no fingerprint holds."""
    system = equations_of(system)
    system = getattr(system, "equations", system)  # descents of a flow
    own = {"model": system} if type(system).__module__.startswith("dmft.model") else {}
    names = ("model", "algorithm", "kind", "scaling", "dim")
    parts = {n: y for n in names if (y := getattr(system, n, own.get(n))) is not None}
    changes = str(getattr(system, "changes", None) or "")
    return {name: _fields(value) for name, value in parts.items()} | {"changes": changes}


def _fields(value: Any) -> Any:
    """The fields of a declaration; anything else in one word."""
    from dmft.analysis.sweeps.named import word_of

    if not is_dataclass(value):
        return word_of(value)
    held = {one.name: worded(getattr(value, one.name), word_of) for one in fields(value)}
    return {"class": type(value).__name__, **held}


def as_expressions(system: Any, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """Run-time values with texts and functions of the time as expressions."""
    if not any(isinstance(value, str) or callable(value) for value in parameters.values()):
        return parameters
    from dmft.emit import schedules

    declared = getattr(equations_of(system), "parameters", ())
    return schedules.as_expressions(parameters, {"learning_rate", *declared})


def solver_of(system: Any) -> Solver:
    """The solver of a system, or the refusal of what is none."""
    origin = equations_of(system)
    kind = getattr(origin, "family", None)
    kind = kind if kind in SOLVERS else getattr(origin, "kind", None)
    if kind not in SOLVERS:
        raise BadParameter(f"expected dmft.Equations or a Problem, got {type(system).__name__}")
    return _solver(SOLVERS[kind])


@cache
def _solver(module: str) -> Solver:
    found: Solver = import_module(module).SOLVER
    return found
