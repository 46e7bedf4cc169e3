"""Events of simulated runs: what compiled steps compare with a level, after every step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.compiled import njit
from dmft.emit.expression import vector_function
from dmft.emit.quantities import entry_name, quantity_expression
from dmft.errors import BadParameter
from dmft.names import Status
from dmft.simulation.clock import Clock
from dmft.simulation.ensemble import WATCH_RISK, FirstPassage
from dmft.simulation.jobs import March
from dmft.simulation.risk import RISK_SIGNATURE
from dmft.solvers.events import TIME, Event, LargestCosine, number_of
from dmft.solvers.run import check_events

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
    """One event of a simulation, in place of a `FirstPassage`."""

    event: Event
    # Compiled quantity of `RISK_SIGNATURE`, of alignments for sequence models; None for the time.
    value: Any
    every: int = 1  # tested after every `every`-th step

    @property
    def stop(self) -> bool:
        """Whether it ends a run."""
        return self.event.terminal

    @property
    def end(self) -> float | None:
        """The time at which it happens, where it is an event of the time."""
        return self.event.threshold if self.event.quantity == TIME else None

    def side(self, at_start: float) -> float:
        """1 for a quantity that falls, -1 for one that rises."""
        if self.event.direction:
            return -float(self.event.direction)
        return 1.0 if at_start > self.event.threshold else -1.0


@dataclass(frozen=True)
class Watching:
    """What runs of one clock are watched for, and how far they go."""

    watch: Watch | FirstPassage | None
    clock: Clock
    total: int  # steps up to `t_max`

    @property
    def stops(self) -> bool:
        """Whether a first passage ends a run."""
        return self.watch is not None and self.watch.stop

    @property
    def event_name(self) -> str | None:
        """Name of the event, for provenance."""
        return self.watch.event.name if isinstance(self.watch, Watch) else None

    @property
    def last(self) -> int:
        """Step at which an event of the time happens; one after all where there is none."""
        end = self.watch.end if isinstance(self.watch, Watch) else None
        if end is None or end > self.clock.at(self.total):
            return self.total + 1
        return int(self.clock.nearest(max(end, self.clock.begin)))

    def carry_on(self, march: March, target: int) -> None:
        """Carry a run on to this step. An event of the time happens before the step after it."""
        march.to(min(target, self.last))
        if march.status is Status.OK and march.step == self.last:
            march.passage = self.last
        if march.status is Status.OK and march.step < target:
            if self.stops:
                march.status = Status.EVENT
            march.to(target)

    def finish(self, march: March) -> None:
        """Carry on to `t_max`: what is watched for may happen after the last saved time."""
        if march.status is Status.OK and self.watch is not None:
            self.carry_on(march, self.total + (self.stops and march.step == self.last))


def one_event(events: Event | Sequence[Event]) -> Event | None:
    """The event that a simulation watches for; None for none. Several are refused."""
    given = check_events(events)
    if len(given) > 1:
        raise BadParameter(
            f"simulate supports one event, got {len(given)}: {', '.join(e.name for e in given)}"
        )
    return given[0] if given else None


def watch_of(events: Event | Sequence[Event], p: int, k: int, risk: Any) -> Watch | None:
    """What a simulation with p and k units watches for; None for no event.

    Quantities may hold the compiled `risk`. Several events are refused, and quantities that no step
    knows.
    """
    event = one_event(events)
    if event is None or event.quantity == TIME:
        return None if event is None else Watch(event, None)
    shapes = {"Q": (p, p), "M": (p, k), "P": (k, k), "readout": (p,)}
    expr = watched_expression(event, shapes, (RISK,))
    order = sorted(expr.free_symbols, key=str)
    # Beside the number of an array and of an entry, that of the risk.
    places = {
        entry_name(name, index): (n, int(np.ravel_multi_index(index, shapes[name])))
        for n, name in enumerate(ARRAYS)
        for index in np.ndindex(shapes[name])
    }
    read = tuple(places.get(s.name, (len(ARRAYS), 0)) for s in order)
    return Watch(event, _value(vector_function([expr], order), read, risk))


def watched_expression(
    event: Event, shapes: Mapping[str, tuple[int, ...]], scalars: Sequence[str]
) -> sp.Expr:
    """The quantity in real symbols named like ``M[0,1]``, which compiled steps know.

    They know arrays of these shapes and scalars, as the risk. Other names are refused, the time,
    and functions that take no symbols.
    """
    quantity = event.quantity
    if isinstance(quantity, LargestCosine):
        if not {quantity.cross, quantity.own, quantity.other} <= set(shapes):
            raise BadParameter(
                f"event on the {event.what}: these runs have {', '.join(shapes)}, no {quantity}"
            )
        return largest_cosine(quantity, shapes)
    if not isinstance(quantity, str) and callable(quantity) and not isinstance(quantity, sp.Basic):
        quantity = _followed(event, shapes)
    expr = quantity_expression(quantity, shapes, (TIME, *scalars), LABELS)
    if any(s.name == TIME for s in expr.free_symbols):
        raise BadParameter(
            f"event {event.name}: a step of simulate provides "
            f"{', '.join((*shapes, *scalars))}, not the time; an event at a time is "
            "dmft.Event('t', 5.0)"
        )
    return expr


def watch_of_python(
    events: Event | Sequence[Event],
    shapes: Mapping[str, tuple[int, ...]],
    scalars: Sequence[str],
    constants: Mapping[str, Array],
) -> Watch | None:
    """What steps in Python are watched for: a function of (t, state); None for no event.

    The state has arrays of these shapes, and scalars that functions of a user's own do not get.
    Several events are refused, and names that the state does not have.
    """
    event = one_event(events)
    if event is None or event.quantity == TIME:
        return None if event is None else Watch(event, None)
    quantity = event.quantity
    if isinstance(quantity, LargestCosine):
        return Watch(event, lambda t, state: quantity.value(state, constants))
    if not isinstance(quantity, str | sp.Basic):
        return Watch(
            event, lambda t, state: number_of(quantity(t, {n: state[n] for n in shapes}), quantity)
        )
    everything = {**shapes, **{n: y.shape for n, y in constants.items()}}
    expr = quantity_expression(quantity, everything, (TIME, *scalars), LABELS)
    order = [sp.Symbol(n, real=True) for n in (TIME, *scalars, *entries(everything))]
    formula = vector_function([expr], order)

    def value(t: float, state: Mapping[str, Any]) -> float:
        arrays = [state[n] for n in (*scalars, *shapes)] + list(constants.values())
        found = np.empty(1)
        formula(np.concatenate([[t], *(np.ravel(y) for y in arrays)]), np.empty(0), found)
        return float(found[0])

    return Watch(event, value)


@dataclass
class Lookout:
    """What a run of steps in Python has seen, by a `Watch` of `watch_of_python`."""

    watching: Watching
    side: float = 0.0
    passage: int | None = None

    def ends(self, t: int, state: Callable[[], Mapping[str, Any]]) -> bool:
        """Whether the run ends at step t, where it has this state; notes the first passage."""
        watch = self.watching.watch
        if not isinstance(watch, Watch) or self.passage is not None:
            return False
        if watch.value is None:
            there = t == self.watching.last
        else:
            value = watch.value(float(t), state())
            if t == 0:
                self.side = watch.side(value)
                return False
            there = self.side * value <= self.side * watch.event.threshold
        if there:
            self.passage = t
        return there and watch.stop


def largest_cosine(cosine: LargestCosine, shapes: Mapping[str, tuple[int, ...]]) -> sp.Expr:
    """The largest cosine in symbols of the entries."""
    known = {n: sp.Symbol(n, real=True) for n in entries(shapes)}
    cross, own, other = cosine.cross, cosine.own, cosine.other
    return sp.Max(
        *(
            sp.Abs(known[f"{cross}[{j},{r}]"])
            / sp.sqrt(known[f"{own}[{j},{j}]"] * known[f"{other}[{r},{r}]"])
            for j, r in np.ndindex(*shapes[cross])
        )
    )


def entries(shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Names of all entries, array by array."""
    return [entry_name(n, i) for n, shape in shapes.items() for i in np.ndindex(shape)]


def _followed(event: Event, shapes: Mapping[str, tuple[int, ...]]) -> sp.Expr:
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
        found = event.quantity(_Traced(sp.Symbol(TIME, real=True)), state)
        if isinstance(found, np.ndarray) and found.size == 1:
            found = found.reshape(())[()]
        return sp.sympify(found, strict=True)
    except Exception as error:
        raise BadParameter(
            f"event on {event.what}: simulate compiles its events, and this function cannot be "
            f"traced ({', '.join(FUNCTIONS)} of NumPy and abs are supported) ({error}); write "
            f'it as a string, "{entries(shapes)[-1]}**2", or with SymPy'
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
                values[i] = Q[at[i] // Q.shape[1], at[i] % Q.shape[1]]
            elif kind == 1:
                values[i] = M[at[i] // M.shape[1], at[i] % M.shape[1]]
            elif kind == 2:
                values[i] = P[at[i] // P.shape[1], at[i] % P.shape[1]]
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
        raise BadParameter("pass events= or first_passage=, not both")
