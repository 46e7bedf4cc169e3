"""What all results of solvers have in common: named arrays, how they ended, files, tables."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from dmft.arrays import Array
from dmft.errors import BadParameter, MissingExtra
from dmft.initial_conditions import SAMPLES, STEPS, TIME, Alignment, Overlaps
from dmft.names import ACCUMULATED, BLOCK, BLOCKS, KEPT, QUANTITIES, Status
from dmft.record import Archived, Record, Short

if TYPE_CHECKING:
    import pandas

    from dmft.summary import Summary

# Block that counts steps per dimension where the learning rate follows a schedule.
CLOCK = "steps_per_dim"
# Single runs whose values enter means: an event is an end that was asked for.
COUNTED = (Status.OK, Status.EVENT)
# From the worst: the first of these that some run has is the status of all.
SEVERITY = (
    Status.INTERRUPTED, Status.TIMEOUT, Status.NONFINITE, Status.DIVERGED, Status.LEFT_DOMAIN,
    Status.MAX_STEPS, Status.EVENT, Status.OK,
)  # fmt: skip
# Of runs that are left out, so many are named.
NAMED = 8
# Entries of an array that a summary shows at both ends, and at all.
ENTRIES, MOST_ENTRIES = 4, 17
SUMMARIES = ("mean", "std", "stderr")
# Fields with the values of each single run, and where it ended.
OF_EACH = ("runs", "paths", "ends")
# What the loss is above the risk where the two differ by a constant, in the provenance of runs.
ABOVE = "loss_above_risk"


def ending(statuses: Sequence[Status], what: str, names: Sequence[int] = ()) -> tuple[Status, str]:
    """The worst status of runs, and how many ended how; with names, which were left out."""
    parts = []
    for status in reversed(SEVERITY):
        which = [n for n, ended in enumerate(statuses) if ended == status]
        if not which:
            continue
        left_out = "" if status in COUNTED else " (left out of the means)"
        if left_out and names:
            named = [str(names[n]) for n in which[:NAMED]] + ["..."] * (len(which) > NAMED)
            left_out = f" (left out of the means: {what} {', '.join(named)})"
        parts.append(f"{len(which)} of {len(statuses)} {what} {status}{left_out}")
    return next(status for status in SEVERITY if status in statuses), "; ".join(parts)


@dataclass(frozen=True, eq=False, repr=False)
class Values(Short, Record, Mapping[str, Array]):
    """Arrays by name, as attributes or keys.

    Attributes
    ----------
    arrays : mapping of str to ndarray
        The values.

    Examples
    --------
    >>> import numpy as np
    >>> found = Values({"M": np.zeros((2, 1, 1))})
    >>> found.M.shape, list(found)
    ((2, 1, 1), ['M'])
    """

    arrays: Mapping[str, Array]

    def __getitem__(self, name: str) -> Array:
        if name not in self.arrays:
            raise KeyError(f"no {name!r} here; available: {sorted(self.arrays)}")
        return self.arrays[name]

    def __getattr__(self, name: str) -> Array:
        if not name.startswith("_") and "arrays" in self.__dict__:
            if name in self.arrays:
                return self.arrays[name]
            raise AttributeError(f"no {name!r} here; available: {sorted(self.arrays)}")
        raise AttributeError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def _in_words(self) -> str:
        return ", ".join(f"{name} {array.shape}" for name, array in self.arrays.items())

    def __len__(self) -> int:
        return len(self.arrays)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self.arrays})


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Solution(Archived):
    """Base of the results of `dmft.solve`: dataclasses whose arrays are attributes and keys.

    Attributes
    ----------
    t : (T,)
        Saved times.
    status : Status
    message : str
        How it ended, in words.
    statistics, parameters, provenance : mapping
        Counts and seconds; run-time values; versions, fingerprint of the problem, method,
        tolerances, time unit, scaling. Plain values, as files keep them.
    error : mapping of str to arrays, or None
        Error of arrays, in their shapes.
    """

    t: Array
    status: Status
    message: str
    statistics: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, float] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    COORDINATES: ClassVar[tuple[str, ...]] = ("t",)
    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {"t": ("t",)}
    NAMES: ClassVar[Mapping[str, str]] = {"constants": "constant_{}"}
    PARTS: ClassVar[tuple[type, ...]] = (Values,)
    _NO_FINAL: ClassVar[str] = ""  # why there is no final state to start from

    @abstractmethod
    def _groups(self) -> tuple[Mapping[str, Array], ...]:
        """Arrays by name: those that are shown first, then those that are only found."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the arrays that run over the saved times."""
        return tuple(self._groups()[0])

    def _find(self, name: str) -> Array | None:
        return next((group[name] for group in self._groups() if name in group), None)

    def _unknown(self, name: str) -> str:
        if name == "final" and self._NO_FINAL:
            return self._NO_FINAL
        return f"this {type(self).__name__} has no {name!r}; it has {sorted(self)}"

    def __getattr__(self, name: str) -> Array:
        # Copying and unpickling ask for attributes before the fields exist.
        if name.startswith("_") or "status" not in self.__dict__:
            raise AttributeError(name)
        found = self._find(name)
        if found is None:
            raise AttributeError(self._unknown(name))
        return found

    def __getitem__(self, name: str) -> Array:
        found = self.t if name == "t" else self._find(name)
        if found is None:
            raise KeyError(self._unknown(name))
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(("t", *self.names))

    def __len__(self) -> int:
        return int(self.t.size)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self.names})

    def _shown(self) -> str:
        """Times and shapes, for `repr`."""
        if not self.t.size:
            return "empty"
        shapes = ", ".join(f"{name} {self[name].shape}" for name in self.names)
        return f"t = {self.t[0]:g}..{self.t[-1]:g} ({self.t.size} points); {shapes}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.status}: {self._shown()}; {self.message})"

    def _summary(self) -> Summary:
        from dmft.summary import Summary, figures

        rows, notes, size = [], [], self.t.size
        error: Any = self.error or {}
        if size:
            unit = str(self.provenance.get("time_unit", "t")).partition(";")[0]
            rows.append(
                ("t", figures(self.t[0]), figures(self.t[-1]), f"{size} saved times, {unit}")
            )
        for name in self.names:
            array, known = self[name], QUANTITIES.get(name)
            words = name.replace("_", " ")
            label, meaning = (f"${known.latex}$", known.meaning) if known else (words, "")
            last = error[name][-1] if name in error and len(error[name]) else None
            of_two_times = array.ndim > 1 and array.shape[0] == array.shape[1] > 2
            entries = array[0].size if len(array) and not of_two_times else MOST_ENTRIES
            if entries <= ENTRIES:
                rows.append((label, figures(array[0]), figures(array[-1], last), meaning))
            else:
                rows.append((label, f"array of shape {array.shape}", "", meaning))
                if entries < MOST_ENTRIES:
                    notes.append(f"{label} at the end: {figures(array[-1])}.")
        given = ", ".join(f"{name} = {number:.6g}" for name, number in self.parameters.items())
        notes += [f"Parameters: {given}."] if given else []
        told = ("method", "learning_rate_schedule", "approximation")
        notes += [
            f"{name.replace('_', ' ').capitalize()}: {self.provenance[name]}."
            for name in told
            if self.provenance.get(name) is not None
        ]
        return Summary(
            f"{type(self).__name__}, {self.status}: {self.message}",
            tuple(rows),
            ("", "start", "end", ""),
            tuple(notes),
        )

    @property
    def loss(self) -> Array:
        """Expected loss of a fresh sample at each saved time, including label noise, (T,).

        For several runs, the mean over the runs.
        """
        found = self._find("loss")
        if found is None and ABOVE in self.provenance:
            found = self["risk"] + self.provenance[ABOVE]
        if found is None:
            raise AttributeError(self._unknown("loss"))
        return found

    @property
    def _steps_per_dim(self) -> Array | None:
        """Steps over d at each saved time, where the run has counted them."""
        return None

    def steps(self, dim: int) -> Array:
        """Number of steps of the algorithm at input dimension `dim`, at each saved time.

        One step is delta t = time_step_times_dim / dim, with gamma/p for one-pass SGD. If the rate
        follows a schedule, the steps are counted during the run. The time of a map is the number of
        steps.

        Parameters
        ----------
        dim : int
            Input dimension d.

        Returns
        -------
        (T,) ndarray
            Number at each saved time, t p d / gamma for one-pass SGD, not rounded.

        Raises
        ------
        BadParameter
            If the time is that of a continuous flow.

        Examples
        --------
        >>> import dmft
        >>> sgd = dmft.SGD(0.05, constraint="sphere")
        >>> eqs = dmft.derive(dmft.literature.phase_retrieval(1), sgd)
        >>> run = dmft.solve(eqs, dmft.Overlaps([[1.0]], [[0.1]]), t_max=3.0)
        >>> float(run.steps(dim=100)[-1])
        6000.0
        """
        if self._steps_per_dim is not None:
            return dim * self._steps_per_dim
        known = _own_provenance(self)
        if known.get("time_unit") == "steps":
            return self.t.copy()
        unit = known.get("time_step_times_dim")
        if unit is None:
            raise BadParameter(
                "this run has no steps: its time is that of a continuous flow, or a number of "
                "samples "
                f"(time unit: {self.provenance.get('time_unit', 't')})"
            )
        return self.t * (dim / float(unit))

    def samples(self, dim: int) -> Array:
        """Number of samples that the algorithm has used at input dimension `dim`.

        Parameters
        ----------
        dim : int
            Input dimension d.

        Returns
        -------
        (T,) ndarray
            Number at each saved time.

        Examples
        --------
        >>> import dmft
        >>> sgd = dmft.SGD(0.05, constraint="sphere")
        >>> eqs = dmft.derive(dmft.literature.phase_retrieval(1), sgd)
        >>> run = dmft.solve(eqs, dmft.Overlaps([[1.0]], [[0.1]]), t_max=3.0)
        >>> float(run.samples(dim=100)[-1])
        6000.0
        """
        if _own_provenance(self).get("time_unit") == SAMPLES:
            return self.t * float(dim)
        batch = self.provenance.get("samples_per_step", 1)
        if batch is None:
            raise BadParameter("the stages of this run have different batch sizes: use run.steps")
        return self.steps(dim) * float(batch)

    def to_pandas(self) -> pandas.DataFrame:
        """Return a `pandas.DataFrame` with index t and a column for each entry: risk, M[0,1].

        Arrays over two times and over single paths are omitted. Requires the extra `io`.

        Returns
        -------
        pandas.DataFrame

        Raises
        ------
        MissingExtra
            If pandas is not installed.

        Examples
        --------
        >>> import dmft
        >>> sgd = dmft.SGD(0.05, constraint="sphere")
        >>> eqs = dmft.derive(dmft.literature.phase_retrieval(1), sgd)
        >>> run = dmft.solve(eqs, dmft.Overlaps([[1.0]], [[0.1]]), t_max=3.0)
        >>> table = run.to_pandas()
        >>> list(table.columns), table.index.name
        (['Q[0,0]', 'M[0,0]', 'readout[0]', 'risk'], 't')
        """
        try:
            import pandas
        except ImportError as error:
            raise MissingExtra('to_pandas needs pandas: pip install "dmft[io]"') from error
        columns = {}
        for name, dims, values in self._displayed():
            if dims[:1] != ("t",) or name == "t" or any(d.startswith("t_") for d in dims):
                continue
            for entry in np.ndindex(values.shape[1:]):
                label = f"{name}[{','.join(map(str, entry))}]" if entry else name
                columns[label] = values[(slice(None), *entry)]
        return pandas.DataFrame(columns, index=pandas.Index(self.t, name="t"))


@dataclass(frozen=True, eq=False, repr=False)
class Averages(Solution):
    """Base of the results of many runs: averages over those that count, and what each one gave.

    Attributes
    ----------
    mean, std, stderr : Values
        Over the counted runs: mean, standard deviation (n - 1), standard error of the mean.
    constants : mapping of str to arrays
    """

    mean: Values
    std: Values
    stderr: Values
    constants: Mapping[str, Array] = field(default_factory=dict, kw_only=True)
    # What a single run is called, the dimension over all of them, and the option that keeps them.
    SINGLE: ClassVar[str]
    OVER: ClassVar[str]
    KEPT_BY: ClassVar[str]
    NAMES: ClassVar[Mapping[str, str]] = {
        **Solution.NAMES,
        **{name: f"{{}}_{name}" for name in (*SUMMARIES, *OF_EACH)},
    }

    def _unknown(self, name: str) -> str:
        if name == "final" and not self._NO_FINAL:
            return f"single {self.SINGLE}s were not saved: {self.KEPT_BY}"
        return super()._unknown(name)

    @property
    def _singles(self) -> Values | None:
        """Values of each run, run first; None where they were not kept."""
        singles: Values | None = getattr(self, f"{self.SINGLE}s")
        return singles

    @property
    def _ended(self) -> tuple[Status, ...]:
        """How each run ended."""
        ended: tuple[Status, ...] = getattr(self, f"{self.OVER}_status")
        return ended

    @property
    @abstractmethod
    def _state(self) -> tuple[str, ...]:
        """Names of the state blocks."""

    @property
    def _ends(self) -> Values | None:
        """State of each run where it ended, run first; None where that was not kept."""
        return None

    @property
    def _end_times(self) -> Array:
        """Time at which each run ended, where its state there was kept."""
        return np.empty(0)

    @abstractmethod
    def _axes_of(self, name: str, count: int) -> tuple[str, ...]:
        """Names of the dimensions of an average, which are so many, time first."""

    def _axes(self, field: str, name: str, values: np.ndarray[Any, Any]) -> tuple[str, ...]:
        if field not in (*SUMMARIES, *OF_EACH):
            return {"t": ("t",), "first_passage": (self.OVER,)}.get(field, ())
        front, without_time = int(field in OF_EACH), int(field == "ends")
        axes = self._axes_of(name, values.ndim - front + without_time)
        return (*(self.OVER,) * front, *axes[without_time:])

    @property
    def error(self) -> Values:
        """Standard errors of the means."""
        return self.stderr

    @property
    def final(self) -> list[Any]:
        """Final states of the counted runs, as starts of other runs.

        Raises
        ------
        AttributeError
            If single runs were not kept.
        """
        singles = self._singles
        if singles is None or self._NO_FINAL:
            raise AttributeError  # `__getattr__` is asked next, and gives the reason
        counted = [i for i, status in enumerate(self._ended) if status in COUNTED]
        reached = [self._reached(i, singles) for i in counted]
        return [start_of(blocks, self.constants, clock_of(self, t)) for blocks, t in reached]

    def _reached(self, i: int, singles: Values) -> tuple[dict[str, Array], float | None]:
        """State of a run at the last saved time, or where an event ended it before, and when."""
        blocks = {n: singles[n][i, -1] for n in self._state}
        if self._ended[i] is not Status.EVENT or all(np.isfinite(y).all() for y in blocks.values()):
            return blocks, None
        if self._ends is None:
            raise BadParameter(
                f"{self.SINGLE} {i} was ended by an event between saved times, and its state "
                "there was not saved: use Event(..., terminal=False), or end all at a saved time"
            )
        return {n: self._ends[n][i] for n in blocks}, float(self._end_times[i])

    def _groups(self) -> tuple[Mapping[str, Array], ...]:
        return self.mean, self.constants


def _own_provenance(run: Solution) -> Mapping[str, Any]:
    """Provenance of a run before its rounding is bounded, which costs more than the run."""
    known: Mapping[str, Any] | None = run.__dict__.get("_provenance")
    return run.provenance if known is None else known


def clock_of(run: Solution, t: float | None = None) -> dict[str, float]:
    """What a run has counted at the time `t`, or at the last saved one, as starts keep it."""
    end = float(run.t[-1]) if t is None else t
    known = _own_provenance(run)
    unit = str(known.get("time_unit", TIME)).removeprefix("t = ")
    if unit == SAMPLES:
        return {SAMPLES: end}
    clock, of_step = {} if unit == STEPS else {TIME: end}, known.get("time_step_times_dim")
    with contextlib.suppress(BadParameter):  # the time of a flow, which has no steps
        if of_step is not None or (t is None and unit != "steps"):
            steps = end / of_step if of_step else float(run.steps(1)[-1])
            clock[STEPS] = steps
            if (batch := known.get("samples_per_step", 1)) is not None:
                clock[SAMPLES] = steps * float(batch)
    return clock


def start_of(
    blocks: Mapping[str, Array],
    constants: Mapping[str, Array],
    clock: Mapping[str, float] | None = None,
) -> Overlaps | Alignment | dict[str, Array]:
    """State at one time as the start of another run; plain blocks where they are of another kind.

    What a run has reached is not checked again: at perfect recovery the covariance of its fields
    may lie below zero by what its tolerances allow, which the next run checks by its own.
    """
    readout = blocks.get("readout", constants.get("readout"))
    front = BLOCK if BLOCKS["Q"] in blocks else ""
    kept = {n: blocks[f"{front}{n}"] for n in (*KEPT, *ACCUMULATED) if f"{front}{n}" in blocks}
    memory = {n: blocks[n] for n in ACCUMULATED if n in blocks} | kept or None
    if {"Q", "M"} <= blocks.keys() and f"{front}P" in constants:
        Q, M, P = (blocks.get(f"{front}{n}", constants.get(f"{front}{n}")) for n in "QMP")
        known = {*KEPT, *ACCUMULATED, "Q", "M", "readout", CLOCK}
        plain = {n: float(y) for n, y in blocks.items() if np.ndim(y) == 0 and n not in known}
        return _unchecked(
            Overlaps, Q=Q, M=M, P=P, readout=readout, memory=memory, clock=clock,
            scalars=plain or None,
        )  # fmt: skip
    if {"M", "Q_perp"} <= blocks.keys() and "P" in constants:
        # Wide students: overlaps that have these lengths outside the span of the teachers.
        inside = blocks["M"] @ np.linalg.pinv(constants["P"]) @ blocks["M"].T
        return start_of({**blocks, "Q": inside + np.diag(blocks["Q_perp"])}, constants, clock)
    if "m" in blocks and blocks.keys() <= {"e", "m", CLOCK}:
        e, m = blocks.get("e", np.zeros(())), blocks["m"]
        return _unchecked(Alignment, e=e, m=m, radius=1.0, clock=clock)
    return dict(blocks)


def _unchecked(kind: Any, **values: Any) -> Any:
    made = object.__new__(kind)
    for name, value in values.items():
        object.__setattr__(made, name, value.copy() if isinstance(value, np.ndarray) else value)
    return made
