"""Steps of a two-time problem on a thinned grid: its state, chunks of steps, saved rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmft.arrays import Array
from dmft.names import Status
from dmft.record import Short
from dmft.solvers.checkpoint import Stepper
from dmft.solvers.pointers import pointer
from dmft.solvers.two_time import advance as compiled
from dmft.solvers.two_time.advance import advance, thin
from dmft.solvers.two_time.step import LOCAL, PAIR, ROWS, SIGNALS, Work, begin

# The number of its axes (from the last) that are times, for each array of the state.
TIMES = {
    "x": 1, "q": 1, "Z": 1, "FZ": 0, "X": 1, "FX": 1, "G": 2, "A": 1, "BL": 1, "BE": 1, "S": 1,
    "J": 0, "out": 1,
}  # fmt: skip
# Times for which there is room at first.
ROOM = 256


@dataclass(frozen=True, eq=False, repr=False)
class VolterraProblem(Short):
    """A causal two-time problem without symbols, made of the equations `origin`.

    `functions` are compiled first, late, early, local, signals; signatures in
    `dmft.solvers.two_time.step`. `pairs` are functions of two times, `causal` those that vanish
    above the diagonal, `signals` those of one time, diagonals included. Rows of `flags`: whether X
    is a rate, whether Z is, whether u > s and u < s contribute to each of the `memories` terms,
    which signal is the diagonal of each pair. `totals` counts integrals over (0, t) of row
    functions alone; `start` gives the signals (z,) at t = 0.
    """

    functions: tuple[Any, ...]
    pairs: tuple[str, ...]
    signals: tuple[str, ...]
    causal: tuple[str, ...]
    parameters: tuple[str, ...]
    flags: NDArray[np.int64]
    memories: int
    totals: int
    start: Callable[[Mapping[str, float]], Array]
    source: str = field(repr=False)
    fingerprint: str = ""
    origin: Any = field(default=None, repr=False)
    kind: str = field(default="two-time", init=False)

    def _in_words(self) -> str:
        return (
            f"two-time: {', '.join((*self.pairs, *self.signals))}; parameters "
            f"{', '.join(self.parameters) or 'none'}"
        )


# Times that the grid may gain before it is thinned again.
SWEEP = 24
# Steps after which values are final: the beginnings of columns are solved with what follows.
OPEN = 2
# Numbers of a march that a checkpoint keeps.
SCALARS = ("n", "dt", "taken", "rejected", "passes", "swept")
FAILED = {
    compiled.NOT_FINITE: Status.NONFINITE,
    compiled.DIVERGED: Status.DIVERGED,
    compiled.STUCK: Status.TOLERANCE_NOT_MET,
}


@dataclass(frozen=True)
class Control:
    """How to march to t_max, keeping rows at increasing times, with the error `tol` of a step.

    Prescribed `times` of all steps switch the control off. `ratio` and `grid_tol` are those of the
    thinning; ratio 0 keeps every time.
    """

    t_max: float
    save_at: Array
    tol: float
    first_step: float
    max_step: float
    times: Array | None = None
    ratio: float = 0.0
    grid_tol: float = 0.0
    max_steps: int = 10_000_000


@dataclass
class March(Stepper):
    """A march under way: arrays, step, log and saved rows; all that a checkpoint keeps.

    It goes to t_max and two steps beyond, after which the rows up to t_max are final.

    Attributes
    ----------
    par : parameters in the order of the problem
    n : complete times
    arrays : by name; those with `ROWS` rows hold the last one at the end
        x (n,) kept times; q (n,) weights of integrals over (0, t); Z (z, n) signals, FZ their
        rates; X, FX (ROWS, x, n) functions and rates of the last rows; G (k, n, n) weights of the
        memory terms; A first factors of the last row; BL, BE (ROWS, k, n) second factors as
        B(u, s) and B(s, u); S, J integrals; out workspace.
    times, signals : of every step
    rows : time, grid and values of each saved row
    waiting : nodes of rows that are reached but not final
    """

    problem: VolterraProblem
    par: Array
    control: Control
    arrays: dict[str, Array]
    dt: float
    n: int = 1
    taken: int = 0
    rejected: int = 0
    passes: int = 0
    swept: int = 1
    status: Status = Status.OK
    message: str = ""
    times: list[float] = field(default_factory=lambda: [0.0])
    signals: list[Array] = field(default_factory=list)
    rows: list[tuple[float, Array, Array]] = field(default_factory=list)
    waiting: list[float] = field(default_factory=list)

    @property
    def functions(self) -> list[Any]:
        """Those of the problem as the compiled step takes them: by their addresses."""
        kinds = (PAIR, PAIR, PAIR, LOCAL, SIGNALS)
        return [pointer(f, kind) for f, kind in zip(self.problem.functions, kinds, strict=True)]

    @property
    def t(self) -> float:
        """Time of the last complete row."""
        return float(self.arrays["x"][self.n - 1])

    @property
    def room(self) -> float:
        """Steps that may still be taken where all times are prescribed."""
        times = self.control.times
        return math.inf if times is None else times.size - 1 - self.taken

    @property
    def finished(self) -> bool:
        """Whether all rows are saved, or all prescribed times are done."""
        return len(self.rows) >= self.control.save_at.size or self.room <= 0

    def step(self) -> None:
        """Take a chunk of steps, and thin the grid."""
        control = self.control
        count = int(min(_chunk(self), control.max_steps - self.taken, self.room))
        if count <= 0:
            self.stop(Status.MAX_STEPS)
            return
        _advance(self, count)
        if self.status == Status.OK and control.ratio > 0.0 and self.n >= self.swept + SWEEP:
            self.thin(control.ratio, control.grid_tol)
            self.swept = self.n

    def thin(self, ratio: float, tol: float) -> None:
        """Drop the times that the last row does not need."""
        a, n = self.arrays, self.n
        rows = np.concatenate([a["A"][:, :n], a["X"][-1, :, :n]])
        kept = np.ones(n, dtype=np.int64)
        count = thin(Work(**a), n, ratio, tol, kept, rows)
        if count == n:
            return
        chosen = kept[:count]
        for name, axes in TIMES.items():
            array = a[name]
            if axes == 1:
                array[..., :count] = array[..., chosen]
                array[..., count:n] = 0.0
            elif axes == 2:
                array[:, :count, :count] = array[:, chosen[:, None], chosen[None, :]]
                array[:, count:n, :] = 0.0
                array[:, :, count:n] = 0.0
        self.n = count

    def resize(self, room: int) -> None:
        """Make room for so many times."""
        for name, axes in TIMES.items():
            old = self.arrays[name]
            new = np.zeros(old.shape[: old.ndim - axes] + (room,) * axes)
            new[tuple(slice(size) for size in old.shape)] = old
            self.arrays[name] = new

    def where(self, status: Status) -> str:
        """The message of a march that was stopped here."""
        t = self.t
        words = {
            Status.MAX_STEPS: f"{self.taken} steps taken at t = {t:.6g}",
            Status.NONFINITE: f"the equations give no finite number after t = {t:.6g}",
            Status.DIVERGED: f"signals exceed {compiled.LARGEST:.0e} after t = {t:.6g}",
            Status.TOLERANCE_NOT_MET: f"no step from t = {t:.6g} meets the tolerance",
            Status.TIMEOUT: f"out of time at t = {t:.6g}",
        }
        return words.get(status, f"interrupted at t = {self.times[-1]:.6g}")

    def stored(self) -> dict[str, Any]:
        """Everything that the march needs to go on; arrays without their empty room."""
        pairs, rows = len(self.problem.pairs), self.rows
        data: dict[str, Any] = {
            "times": np.array(self.times), "signals": np.array(self.signals),
            "waiting": np.array(self.waiting), "row_t": np.array([t for t, _, _ in rows]),
            "row_edges": np.cumsum([0, *(s.size for _, s, _ in rows)]),
            "row_s": np.concatenate([np.zeros(0), *(s for _, s, _ in rows)]),
            "row_values": np.concatenate([np.zeros((pairs, 0)), *(v for _, _, v in rows)], axis=1),
        }  # fmt: skip
        data |= {name: np.array(getattr(self, name)) for name in SCALARS}
        within = {name: _within(self.n, axes) for name, axes in TIMES.items()}
        return data | {f"state_{name}": self.arrays[name][y] for name, y in within.items()}

    def restore(self, data: Mapping[str, Any]) -> None:
        """Take over what `stored` gave."""
        for name in SCALARS:
            setattr(self, name, data[name].item())
        if self.n + 2 > self.arrays["x"].size:
            self.resize(self.n + ROOM)
        for name, axes in TIMES.items():
            self.arrays[name][...] = 0.0
            self.arrays[name][_within(self.n, axes)] = data[f"state_{name}"]
        self.times, self.signals = data["times"].tolist(), list(data["signals"])
        self.waiting = data["waiting"].tolist()
        edges = data["row_edges"]
        self.rows = [
            (float(t), data["row_s"][a:b].copy(), data["row_values"][:, a:b].copy())
            for t, a, b in zip(data["row_t"], edges[:-1], edges[1:], strict=True)
        ]


def start(problem: VolterraProblem, values: Mapping[str, float], control: Control) -> March:
    """March before its first step."""
    par = np.array([values[name] for name in problem.parameters], dtype=np.float64)
    pairs, signals, k = len(problem.pairs), len(problem.signals), problem.memories
    shapes: dict[str, tuple[int, ...]] = {
        "x": (ROOM,), "q": (ROOM,), "Z": (signals, ROOM), "FZ": (ROWS, signals),
        "X": (ROWS, pairs, ROOM), "FX": (ROWS, pairs, ROOM), "G": (k, ROOM, ROOM),
        "A": (k + problem.totals, ROOM), "BL": (ROWS, k, ROOM), "BE": (ROWS, k, ROOM),
        "S": (k, ROOM), "J": (problem.totals,), "out": (pairs, ROOM),
    }  # fmt: skip
    arrays = {name: np.zeros(shape) for name, shape in shapes.items()}
    arrays["Z"][:, 0] = problem.start(values)
    run = March(problem, par, control, arrays, control.first_step)
    begin(*run.functions, par, problem.flags, Work(**arrays))
    run.signals.append(arrays["Z"][:, 0].copy())
    return run


def _within(n: int, axes: int) -> Any:
    """Index of the first n times along the last axes."""
    return (Ellipsis,) + (slice(n),) * axes


def _chunk(run: March) -> int:
    """Steps to the next sweep, or until a row that waits is final."""
    count = max(1, run.swept + SWEEP - run.n)
    if run.waiting:
        reached = int(np.searchsorted(run.arrays["x"][: run.n], run.waiting[0]))
        count = min(count, max(1, reached + OPEN + 1 - run.n))
    return count


def _advance(run: March, count: int) -> None:
    """Take a chunk of steps, log it, keep the rows that it made final."""
    control = run.control
    times = np.empty(0) if control.times is None else control.times
    ahead = len(run.rows) + len(run.waiting)
    stop = float(control.save_at[ahead]) if ahead < control.save_at.size else math.inf
    numbers = np.array(
        [run.dt, control.tol, control.max_step, stop, run.taken, run.rejected, run.passes],
        dtype=np.float64,
    )
    before, ending = run.n, np.zeros(1, dtype=np.int64)
    if run.n + count + 1 >= run.arrays["x"].size:
        run.resize((run.n + count + 2) * 3 // 2)
    run.n = advance(
        *run.functions, run.par, run.problem.flags, Work(**run.arrays), run.n, count, numbers,
        times, ending,
    )  # fmt: skip
    run.dt = float(numbers[compiled.DT])
    run.taken, run.rejected, run.passes = (int(y) for y in numbers[compiled.TAKEN :])
    _log(run, before)
    if run.n > before and run.t >= stop * (1.0 - 1e-14):
        run.waiting.append(run.t)
    while run.waiting:
        node = int(np.searchsorted(run.arrays["x"][: run.n], run.waiting[0]))
        behind = run.n - 1 - node
        if behind < OPEN:
            break
        row = run.arrays["X"][ROWS - 1 - behind, :, : node + 1].copy()
        run.rows.append((run.waiting.pop(0), run.arrays["x"][: node + 1].copy(), row))
    if int(ending[0]) in FAILED:
        run.stop(FAILED[int(ending[0])])


def _log(run: March, before: int) -> None:
    """Times and signals of new nodes; those of the two nodes before them are final now."""
    Z, x, n = run.arrays["Z"], run.arrays["x"], run.n
    for back in range(1, min(OPEN, before - 1) + 1):
        run.signals[-back] = Z[:, before - back].copy()
    for node in range(before, n):
        run.times.append(float(x[node]))
        run.signals.append(Z[:, node].copy())
