"""Events on expressions, on functions and on the time: hidden observables while a run lasts.

The integrators know thresholds on observables and on entries of the state. Anything else becomes an
observable of its own, which the record of the run does not keep.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import sympy as sp

from dmft.compiled import njit
from dmft.emit.expression import vector_function
from dmft.emit.quantities import entry_name, quantity_expression
from dmft.equations import symbols as x
from dmft.solvers.events import TIME, Event, is_plain, number_of
from dmft.solvers.problem import Problem
from dmft.solvers.run import check_events
from dmft.solvers.signatures import RHS_SIGNATURE
from dmft.solvers.solution import Values

Run = TypeVar("Run", bound=Any)
# Where a symbol of an expression is read.
CLOCK, STATE, PARAMETER, OBSERVED = range(4)
Place = tuple[int, int]
# void(t, y, out): how compiled code calls functions of a user's own.
CALL = ctypes.CFUNCTYPE(None, ctypes.c_double, ctypes.c_void_p, ctypes.c_void_p)
# Constant blocks that expressions may hold.
CONSTANTS = ("P", "readout", "teacher_readout")


@dataclass(frozen=True)
class Watched:
    """A problem that observes what its events watch; `plain` is the problem before.

    Events are on observables and entries alone, of which those in `hidden` were added; `raised` is
    what the user's functions have raised in the run.
    """

    plain: Problem
    problem: Problem
    events: tuple[Event, ...]
    hidden: tuple[str, ...] = ()
    raised: list[BaseException] = field(default_factory=list)

    def finished(self, run: Run) -> Run:
        """The record without what was only watched."""
        if self.raised:
            raise self.raised[0]
        if not self.hidden:
            return run
        changes: dict[str, Any] = {}
        for one in fields(run):
            values = getattr(run, one.name)
            if isinstance(values, Values):
                changes[one.name] = Values(self._shown(values.arrays))
            elif isinstance(values, Mapping) and one.name != "first_passage":
                changes[one.name] = self._shown(values)
        if getattr(run, "problem", None) is not None:
            changes["problem"] = self.plain
        return replace(run, **changes)

    def share(self, first: Watched) -> None:
        """Report failures of functions where those of `first` are."""
        object.__setattr__(self, "raised", first.raised)

    def _shown(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in values.items() if name not in self.hidden}


def watched(
    problem: Problem, inputs: Mapping[str, Any], events: Event | Sequence[Event]
) -> Watched:
    """Make every event one that the integrators take, with widths and constants from `run_inputs`.

    Raises `BadParameter` where an expression holds what the run has not.
    """
    given, widths = check_events(events), inputs["widths"]
    others = [event for event in given if not is_plain(event, problem)]
    if not others:
        return Watched(problem, problem, given)
    names = {id(event): _name(event, number) for number, event in enumerate(others)}
    formulas = [event for event in others if not _is_function(event)]
    functions = [event.quantity for event in others if _is_function(event)]
    found = [_expression(event, problem, inputs) for event in formulas]
    hidden = tuple(dict.fromkeys(names[id(event)] for event in formulas))
    exprs = {names[id(event)]: expr for event, expr in zip(formulas, found, strict=True)}
    read, places = _places(problem, widths, exprs.values())
    formula = vector_function(list(exprs.values()), read) if exprs else None
    raised: list[BaseException] = []
    call = _call(functions, problem, widths, raised) if functions else None
    hidden += tuple(names[id(event)] for event in others if _is_function(event))
    # A user's functions belong to one run.
    observing = _observing_formulas if call is None else _observing
    observe = observing(
        problem.observe, len(problem.observables), formula, places, len(exprs), call
    )
    return Watched(
        problem,
        replace(problem, observe=observe, observables=(*problem.observables, *hidden)),
        tuple(replace(e, quantity=names[id(e)]) if id(e) in names else e for e in given),
        hidden,
        raised,
    )


def _is_function(event: Event) -> bool:
    return callable(event.quantity) and not isinstance(event.quantity, sp.Basic)


def _name(event: Event, number: int) -> str:
    return f"event function {number}" if _is_function(event) else str(event.quantity)


def known_symbols(problem: Problem, widths: Mapping[str, int]) -> dict[str, Place]:
    """What expressions may hold: names, and where the run has their values."""
    found: dict[str, Place] = {TIME: (CLOCK, 0)}
    found |= {name: (PARAMETER, i) for i, name in enumerate(problem.parameters)}
    found |= {name: (OBSERVED, i) for i, name in enumerate(problem.observables)}
    offset = 0
    for block in problem.state:
        for place, index in enumerate(np.ndindex(block.shape(widths))):
            found[entry_name(block.name, index)] = (STATE, offset + place)
        offset += block.size(widths)
    return found


def _expression(event: Event, problem: Problem, inputs: Mapping[str, Any]) -> sp.Expr:
    """The quantity in symbols whose names are those of `known_symbols`; constants are numbers."""
    widths = inputs["widths"]
    constants = {n: np.asarray(y) for n, y in inputs["constants"].items() if n in CONSTANTS}
    shapes = {block.name: block.shape(widths) for block in problem.state}
    shapes |= {name: values.shape for name, values in constants.items()}
    scalars = (TIME, *problem.parameters, *problem.observables)
    expr = quantity_expression(event.quantity, shapes, scalars, x.BASE_LATEX)
    numbers = {
        entry_name(name, index): sp.Float(float(value))
        for name, values in constants.items()
        for index, value in np.ndenumerate(values)
    }
    return expr.xreplace({s: numbers[s.name] for s in expr.free_symbols if s.name in numbers})


def _places(
    problem: Problem, widths: Mapping[str, int], exprs: Any
) -> tuple[list[sp.Symbol], tuple[Place, ...]]:
    """Symbols of the expressions in order, and where each is read."""
    known = known_symbols(problem, widths)
    free = {s for expr in exprs for s in expr.free_symbols}
    order = sorted(free, key=lambda s: known[s.name])
    return order, tuple(known[s.name] for s in order)


def _observing(
    plain: Any, count: int, formula: Any, places: tuple[Place, ...], formulas: int, call: Any
) -> Any:
    """Compiled observables, then the values of formulas, then those of a user's functions."""
    kinds = np.array([kind for kind, _ in places], dtype=np.int64)
    at = np.array([place for _, place in places], dtype=np.int64)
    size = len(places)
    has_formula, has_call = formula is not None, call is not None
    formula_or_none = formula if has_formula else vector_function([sp.S.Zero], [])
    call_or_none = call if has_call else _unused

    @njit(RHS_SIGNATURE, nogil=True, later=True)
    def observe(t, y, widths, par, out):  # type: ignore[no-untyped-def]
        seen = np.empty(count)
        plain(t, y, widths, par, seen)
        for i in range(count):  # here and below: slices take Numba half a second to compile
            out[i] = seen[i]
        if has_formula:
            values, found = np.empty(size), np.empty(formulas)
            for i in range(size):
                if kinds[i] == CLOCK:
                    values[i] = t
                elif kinds[i] == STATE:
                    values[i] = y[at[i]]
                elif kinds[i] == PARAMETER:
                    values[i] = par[at[i]]
                else:
                    values[i] = seen[at[i]]
            formula_or_none(values, np.empty(0), found)
            for i in range(formulas):
                out[count + i] = found[i]
        if has_call:
            more = np.empty(out.size - count - formulas)
            call_or_none(t, y.ctypes, more.ctypes)
            for i in range(more.size):
                out[count + formulas + i] = more[i]

    return observe


_observing_formulas = lru_cache(maxsize=32)(_observing)


def _call(
    functions: Sequence[Callable[..., Any]],
    problem: Problem,
    widths: Mapping[str, int],
    raised: list[BaseException],
) -> Any:
    """The user's functions of (t, state) as compiled code calls them; what they raise is kept."""
    size = sum(block.size(widths) for block in problem.state)

    def evaluate(t: float, state: int, out: int) -> None:
        result = np.ctypeslib.as_array((ctypes.c_double * len(functions)).from_address(out))
        result[:] = np.nan
        if raised:
            return
        try:
            y = np.ctypeslib.as_array((ctypes.c_double * size).from_address(state))
            blocks = {n: b[0].copy() for n, b in problem.unpack(y[None, :].copy(), widths).items()}
            for i, function in enumerate(functions):
                result[i] = number_of(function(t, blocks), function)
        except BaseException as error:
            raised.append(error)

    return CALL(evaluate)


_unused = CALL(lambda t, y, out: None)
