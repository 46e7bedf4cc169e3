"""The record of a solved initial-value problem: named blocks, status, statistics, provenance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from dmft.arrays import Array
from dmft.initial_conditions import Alignment, Overlaps
from dmft.names import BLOCK, BLOCKS, QUANTITIES
from dmft.record import Short
from dmft.solvers.problem import Block, Problem
from dmft.solvers.solution import CLOCK, Solution, clock_of, start_of

if TYPE_CHECKING:
    from dmft import netcdf

# The fixed readout, as trained ones are.
READOUT = Block("readout", ("p",))
# Fields that may be computed when they are first read (`completed_later`).
DEFERRED = ("message", "provenance", "error")
LATER = ("_complete", "_ended", "_provenance")


@dataclass(frozen=True, repr=False)
class EventRecord(Short):
    """Crossing of an event.

    Attributes
    ----------
    name : str
        Name of the event.
    t : float
        Time of the crossing.
    state : mapping of str to ndarray
        State at this time.

    Examples
    --------
    >>> import dmft
    >>> eqs = dmft.derive(dmft.literature.phase_retrieval(1), dmft.SGD(0.05, constraint="sphere"))
    >>> half = dmft.Event("M[0,0]", 0.5)
    >>> run = dmft.solve(eqs, dmft.Overlaps([[1.0]], [[0.1]]), t_max=3.0, events=half)
    >>> found = run.events[0]
    >>> found.name, round(float(found.state["M"][0, 0]), 9)
    ('M[0,0] crosses 0.5', 0.5)
    """

    name: str
    t: float
    state: Mapping[str, Array]

    def _in_words(self) -> str:
        return f"{self.name}; t = {self.t:.6g}; state {', '.join(self.state)}"


@dataclass(frozen=True, eq=False, repr=False)
class Trajectory(Solution):
    """Solution at the saved times.

    State variables and observables are attributes (`run.Q`, `run.risk`).

    Attributes
    ----------
    t : (T,)
    blocks : mapping of str to (T, ...) arrays
        State variables, with time as first axis.
    observables : mapping of str to (T,) arrays
    status : Status
    message : str
        How the run ended, as text.
    events : tuple of EventRecord
        Crossings of events, in order of time.
    statistics : mapping
        Numbers of "steps", "rejected" steps and "evaluations", and "seconds". "band_steps" counts
        steps that end with a slightly negative covariance, within the tolerances. If overlaps
        slightly beyond the Cauchy-Schwarz bound were treated as parallel fields, "parallel_states"
        counts the saved states with such overlaps, and "parallel_excess" is their largest
        C_ij^2 / (C_ii C_jj) - 1.
    parameters, constants, widths : mapping
        Run-time parameters, constant arrays and widths of the run.
    layout : tuple of Block
        Names and axes of the state variables.
    provenance : mapping
        Versions, fingerprint of the problem, method, tolerances, time unit, scaling.
    start : mapping of str to arrays
        State at the initial time `provenance["t_start"]`, even if it is not among the saved times.
    problem : Problem or None
        Solved problem, which measures such as `dmft.escape_time` integrate again. It is not stored
        in files and pickles.
    error : mapping of str to arrays, or None
        Error of the state variables and observables, in their shapes: the estimated error (99 %) of
        averages computed by quadrature, or the rounding error of closed forms if it exceeds 1e-10
        of the size of their terms. None if the equations are exact to this level. The error of the
        integrator, which rtol and atol control, is not included. Rounding errors are computed when
        `message`, `provenance` or `error` is read.

    Examples
    --------
    >>> run = Trajectory(
    ...     t=np.array([0.0, 2.0]), blocks={"Q": np.ones((2, 1, 1))},
    ...     observables={"risk": np.array([1.0, 0.25])}, status="ok", message="",
    ...     provenance={"time_step_times_dim": 0.1},
    ... )
    >>> run.Q.shape, run.risk[-1].item(), run.steps(dim=100)[-1].item()
    ((2, 1, 1), 0.25, 2000.0)
    """

    blocks: Mapping[str, Array]
    observables: Mapping[str, Array]
    events: tuple[EventRecord, ...] = ()
    constants: Mapping[str, Array] = field(default_factory=dict)
    widths: Mapping[str, int] = field(default_factory=dict)
    layout: tuple[Block, ...] = ()
    start: Mapping[str, Array] = field(default_factory=dict)
    problem: Problem | None = field(default=None, repr=False, compare=False)
    error: Mapping[str, Array] | None = field(default_factory=lambda: None)

    KIND = "dmft trajectory"
    NAMES: ClassVar[Mapping[str, str]] = {**Solution.NAMES, "blocks": "{}", "observables": "{}"}
    PARTS = (Block, EventRecord)

    def with_fields(self, **changes: Any) -> Trajectory:
        """The run with some fields changed (four times faster than `replace`)."""
        other = object.__new__(Trajectory)
        other.__dict__.update(self.__dict__, **changes)
        return other

    def __getattr__(self, name: str) -> Any:
        complete = self.__dict__.get("_complete") if name in DEFERRED else None
        if complete is None:
            return super().__getattr__(name)
        if name not in self.__dict__:  # otherwise another thread has computed it
            completed = complete()
            self.__dict__.update({n: getattr(completed, n) for n in DEFERRED})
        return self.__dict__[name]

    @property
    def ending(self) -> str:
        """The message without rounding errors, whose computation takes longer than many runs."""
        ended = self.__dict__.get("_ended")
        return self.message if ended is None else ended()

    def __getstate__(self) -> dict[str, Any]:
        self.message  # noqa: B018 - computed before it is written
        kept = {name: value for name, value in self.__dict__.items() if name not in LATER}
        # Compiled functions would be compiled again by whoever unpickles the record.
        return {**kept, "problem": None}

    def _groups(self) -> tuple[Mapping[str, Array], ...]:
        return {**self.blocks, **self.observables}, self.constants

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self.constants})

    @property
    def quadrature_error(self) -> Array | None:
        """Largest error of all entries at each saved time, (T,); None for exact equations."""
        if self.error is None:
            return None
        rows = [e.reshape(self.t.size, -1).max(axis=1) for e in self.error.values()]
        worst: Array = np.max(rows, axis=0)
        return worst

    @property
    def last_state(self) -> dict[str, Array]:
        """State at the last saved time, as an argument of `dmft.solvers.solve.solve_problem`."""
        return {name: block[-1].copy() for name, block in self.blocks.items()}

    @property
    def final(self) -> Overlaps | Alignment | dict[str, Array]:
        """Final state with its time, as the start of another run.

        A schedule in time continues from this time; runs at a constant rate start at 0 again.
        Equations whose state variables are not Q, M or e, m return these variables without a time.
        """
        return start_of(self.last_state, self.constants, clock_of(self))

    @property
    def _steps_per_dim(self) -> Array | None:
        return self.blocks.get(CLOCK)

    def _axes(self, field: str, name: str, values: Array) -> tuple[str, ...]:
        if field == "constants" or name not in {b.name for b in self.layout}:
            return () if field == "constants" else ("t",)
        own = next(dimensions(b) for b in self.layout if b.name == name)
        return own if field in ("start", "events") else ("t", *own)

    def _displayed(self) -> list[netcdf.Variable]:
        """Events as `event_t`, and states like `event_M`, over `event`."""
        single = {id(y) for event in self.events for y in event.state.values()}
        rows = [row for row in super()._displayed() if id(row[2]) not in single]
        if self.events:
            rows.append(("event_t", ("event",), np.array([event.t for event in self.events])))
            for name in self.events[0].state:
                stacked = np.stack([event.state[name] for event in self.events])
                rows.append(
                    (f"event_{name}", ("event", *self._axes("events", name, stacked)), stacked)
                )
        return rows


def completed_later(
    run: Trajectory, complete: Callable[[], Trajectory], ended: Callable[[], str]
) -> Trajectory:
    """The run, whose message, provenance and error `complete` computes when one is first read.

    `ended` returns the part of the message that `Trajectory.ending` reports.
    """
    later = run.with_fields()
    for name in DEFERRED:
        del later.__dict__[name]
    later.__dict__.update(_complete=complete, _ended=ended, _provenance=run.provenance)
    return later


def with_readout(run: Trajectory) -> Trajectory:
    """Show the fixed readout as a block with time first, as trained readouts are.

    So are the overlaps that the fields see of inputs with a spectrum.
    """
    run = _with_totals(run)
    if "readout" in run.blocks or "readout" not in run.constants:
        return run
    readout = run.constants["readout"]
    block = readout[None].repeat(run.t.size, axis=0)
    own = READOUT if readout.ndim == 1 else replace(READOUT, axes=("outputs", "p"))
    return run.with_fields(blocks={**run.blocks, "readout": block}, layout=(*run.layout, own))


def _with_totals(run: Trajectory) -> Trajectory:
    """Add sums over the blocks of a spectrum, weighted by its eigenvalues."""
    if BLOCKS["Q"] not in run.blocks or "Q" in run.blocks:
        return run
    count = run.blocks[BLOCKS["Q"]].shape[1]
    c = run.constants.get("eigenvalue", np.ones(count))  # rules have plain sums
    parts = {b.name.removeprefix(BLOCK): b for b in run.layout if b.name.startswith(BLOCK)}
    # What optimisers accumulate has no sum over blocks.
    parts = {n: b for n, b in parts.items() if len(b.axes) == 3}
    seen = {n: np.einsum("e,teij->tij", c, run.blocks[b.name]) for n, b in parts.items()}
    P = np.einsum("e,eij->ij", c, run.constants[BLOCKS["P"]])
    shown = tuple(Block(n, b.axes[1:], QUANTITIES[n].symmetric) for n, b in parts.items())
    return replace(
        run,
        blocks={**seen, **run.blocks},
        constants={"P": P, **run.constants},
        layout=(*shown, *run.layout),
    )


def dimensions(block: Block) -> tuple[str, ...]:
    """Dimension names of a block; xarray refuses the same name twice (p, p -> p, p_2)."""
    seen: dict[str, int] = {}
    names = []
    for axis in block.axes:
        seen[axis] = seen.get(axis, 0) + 1
        names.append(axis if seen[axis] == 1 else f"{axis}_{seen[axis]}")
    return tuple(names)
