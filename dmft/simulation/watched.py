"""Events of simulated runs: what compiled steps compare with a level, after every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.compiled import njit
from dmft.emit.quantities import entry_name, quantity_expression
from dmft.emit.vector import vector_function
from dmft.errors import BadParameter
from dmft.simulation.passage import WATCH_RISK, FirstPassage
from dmft.simulation.risks.risk import RISK_SIGNATURE
from dmft.solvers.events import TIME, Event, LargestCosine
from dmft.solvers.request import check_events

Array = NDArray[np.float64]
ARRAYS = ("Q", "M", "P", "readout")
# Names of the arrays' entries in `Equations.explicit`.
LABELS = {"readout": "a"}
RISK = "risk"
# Functions of NumPy that are followed, which calls methods of these names.
FUNCTIONS = {
    n: getattr(sp, n) for n in ("sqrt", "exp", "log", "sin", "cos", "tan", "sinh", "cosh", "tanh")
}


class _Traced:
    """A symbolic number that functions of NumPy take in arrays of objects."""

    def __init__(self, expr: sp.Expr) -> None:
        self.expr = expr

    def _sympy_(self) -> sp.Expr:
        return self.expr

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in FUNCTIONS:
            raise AttributeError(name)
        return lambda: _Traced(FUNCTIONS[name](self.expr))

    def __abs__(self) -> _Traced:
        return _Traced(sp.Abs(self.expr))

    def __neg__(self) -> _Traced:
        return _Traced(-self.expr)


def _operation(name: str) -> Callable[[_Traced, Any], Any]:
    """An operation of expressions, between traced numbers and others."""

    def operation(self: _Traced, other: Any) -> Any:
        if isinstance(other, np.ndarray):
            return NotImplemented
        return _Traced(getattr(self.expr, name)(sp.sympify(other, strict=True)))

    return operation


for _name in ("add", "sub", "mul", "truediv", "pow"):
    for _way in (f"__{_name}__", f"__r{_name}__"):
        setattr(_Traced, _way, _operation(_way))


@dataclass(frozen=True)
class Watch:
    """One event of a simulation, in place of a `FirstPassage`.

    Attributes
    ----------
    event : Event
    value : compiled function of `RISK_SIGNATURE`, or None for the time
    every : int
        Tested after every `every`-th step.
    """

    event: Event
    value: Any
    every: int = 1

    @property
    def stop(self) -> bool:
        """Whether it ends a run."""
        return self.event.terminal

    @property
    def end(self) -> float | None:
        """The time at which it happens, where it is an event of the time."""
        return self.event.threshold if self.value is None else None

    def side(self, at_start: float) -> float:
        """1 for a quantity that falls, -1 for one that rises."""
        if self.event.direction:
            return -float(self.event.direction)
        return 1.0 if at_start > self.event.threshold else -1.0


def watch_of(events: Event | Sequence[Event], p: int, k: int, risk: Any) -> Watch | None:
    """What a simulation with p and k units watches for; None for no event.

    Parameters
    ----------
    events : Event or sequence of them
    risk : compiled function
        The population risk, which a quantity may hold.

    Raises
    ------
    BadParameter
        For several events, and for quantities that no step knows.
    """
    given = check_events(events)
    if not given:
        return None
    if len(given) > 1:
        raise BadParameter(
            f"simulate watches for one event, got {len(given)}: {', '.join(e.name for e in given)}"
        )
    event = given[0]
    if event.quantity == TIME:
        return Watch(event, None)
    shapes = {"Q": (p, p), "M": (p, k), "P": (k, k), "readout": (p,)}
    expr = _expression(event, shapes)
    order = sorted(expr.free_symbols, key=str)
    if any(s.name == TIME for s in order):
        raise BadParameter(
            f"event {event.name}: a step of simulate knows the overlaps and the risk, not the "
            "time; an event at a time is dmft.Event('t', 5.0)"
        )
    # Beside the number of an array and of an entry, that of the risk.
    places = {
        entry_name(name, index): (n, int(np.ravel_multi_index(index, shapes[name])))
        for n, name in enumerate(ARRAYS)
        for index in np.ndindex(shapes[name])
    }
    read = tuple(places.get(s.name, (len(ARRAYS), 0)) for s in order)
    return Watch(event, _value(vector_function([expr], order), read, risk))


def _expression(event: Event, shapes: dict[str, tuple[int, ...]]) -> sp.Expr:
    quantity = event.quantity
    if isinstance(quantity, LargestCosine):
        p, k = shapes["M"]
        known = {n: sp.Symbol(n, real=True) for n in _entries(shapes)}
        return sp.Max(
            *(
                sp.Abs(known[f"M[{j},{r}]"]) / sp.sqrt(known[f"Q[{j},{j}]"] * known[f"P[{r},{r}]"])
                for j, r in np.ndindex(p, k)
            )
        )
    if not isinstance(quantity, str) and callable(quantity) and not isinstance(quantity, sp.Basic):
        quantity = _followed(event, shapes)
    return quantity_expression(quantity, shapes, (TIME, RISK), LABELS)


def _entries(shapes: dict[str, tuple[int, ...]]) -> list[str]:
    return [entry_name(n, i) for n, shape in shapes.items() for i in np.ndindex(shape)]


def _followed(event: Event, shapes: dict[str, tuple[int, ...]]) -> sp.Expr:
    """What a user's function of (t, state) makes of symbols."""
    state = {
        name: np.array(
            [_Traced(sp.Symbol(entry_name(name, i), real=True)) for i in np.ndindex(shape)],
            dtype=object,
        ).reshape(shape)
        for name, shape in shapes.items()
        if name != "P"
    }
    try:
        return sp.sympify(event.quantity(_Traced(sp.Symbol(TIME, real=True)), state), strict=True)
    except Exception as error:
        raise BadParameter(
            f"event on {event.what}: simulate compiles what it watches, and this function takes "
            f"numbers alone (of NumPy {', '.join(FUNCTIONS)} and abs are followed) "
            f'({error}); write it as a text, "M[0,0]/sqrt(Q[0,0])", or with SymPy'
        ) from error


@lru_cache(maxsize=32)
def _value(formula: Any, read: tuple[tuple[int, int], ...], risk: Any) -> Any:
    """Compiled quantity in the place of the risk."""
    kinds = np.array([kind for kind, _ in read], dtype=np.int64)
    at = np.array([place for _, place in read], dtype=np.int64)
    size, needs_risk = len(read), any(kind == len(ARRAYS) for kind, _ in read)

    @njit(RISK_SIGNATURE, nogil=True, error_model="numpy")
    def value(Q, M, P, a, a_star, sigma, sigma_star, par, par_star, rule, clusters):  # type: ignore[no-untyped-def]
        values, found, other = np.empty(size), np.empty(1), 0.0
        if needs_risk:
            other = risk(Q, M, P, a, a_star, sigma, sigma_star, par, par_star, rule, clusters)
        for i in range(size):
            kind = kinds[i]
            if kind == 0:
                values[i] = Q.flat[at[i]]
            elif kind == 1:
                values[i] = M.flat[at[i]]
            elif kind == 2:
                values[i] = P.flat[at[i]]
            elif kind == 3:
                values[i] = a[at[i]]
            else:
                values[i] = other
        formula(values, np.empty(0), found)
        return found[0]

    return value


@lru_cache(maxsize=64)
def risen(value: Any) -> Any:
    """The quantity with its sign turned: compiled steps compare with levels from above."""

    @njit(RISK_SIGNATURE, nogil=True, error_model="numpy")
    def turned(Q, M, P, a, a_star, sigma, sigma_star, par, par_star, rule, clusters):  # type: ignore[no-untyped-def]
        return -value(Q, M, P, a, a_star, sigma, sigma_star, par, par_star, rule, clusters)

    return turned


def levels(watch: Watch, side: float) -> Array:
    """[code, level, every] for compiled code."""
    return np.array([WATCH_RISK, side * watch.event.threshold, float(watch.every)])


def refuse_both(first_passage: FirstPassage | None, events: Event | Sequence[Event]) -> None:
    """Refuse two things to watch for."""
    if check_events(events) and first_passage is not None:
        raise BadParameter("give events= or first_passage=, not both: a run is watched for one")
