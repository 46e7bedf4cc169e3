"""Measures of equations at given parameters, as objects that travel to other processes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.analysis.escape import EscapeWarning
from dmft.analysis.phase_diagram import Point
from dmft.analysis.sweeps.named import name_of
from dmft.arrays import cosines
from dmft.equations.equations import Equations
from dmft.equations.parameter_values import seen_by
from dmft.equations.sequence.risk import SequenceRisk
from dmft.equations.two_time.descent import DescentEquations
from dmft.equations.two_time.network import NetworkEquations
from dmft.errors import BadParameter
from dmft.model import Alignment, Overlaps, SequenceModel, as_count
from dmft.model.random_network import RandomNetwork
from dmft.names import FIXED_POINTS, VERSION, Status
from dmft.solvers.checkpoint import Digest
from dmft.solvers.problem import Problem
from dmft.workflow.diagrams.end_states import end_state, followed_point
from dmft.workflow.diagrams.landscape import landscape, risk_of
from dmft.workflow.diagrams.many import results_of
from dmft.workflow.escape import escape_time
from dmft.workflow.fixed_points import stability
from dmft.workflow.solve import declared, equations_of, solve
from dmft.workflow.solving.descent_runs import SOLVER as DESCENTS
from dmft.workflow.solving.descent_runs import descent_task
from dmft.workflow.solving.inputs import problem_of, run_inputs, split_options

System = (
    Equations | DescentEquations | SequenceModel | SequenceRisk
    | NetworkEquations | RandomNetwork | Problem
)  # fmt: skip
FINE = (Status.OK, Status.EVENT)
STATUSES = tuple(Status)
# Larger arrays of a start are known by a digest to the store of a sweep.
LISTED = 10_000
# Cosine from which a teacher direction counts as learned: far above the errors of averages on
# nodes, below what one step of descent finds.
LEARNED = 0.1
# Of escape times, what is watched and where it counts as escaped.
WATCHED = ("observable", "threshold")
# What systems are, in the words of refusals.
FLOW = "equations of one pass or of gradient flow"
SEQUENCE = "equations of a sequence model"
DESCENT = "a descent on repeated data"
LANDSCAPE = "a sequence model"
FLUCTUATING = "equations with fluctuations"
OTHER = "a problem written by hand"

# Measures that are defined by an overlap.
BY_OVERLAP = ("escape_time", "learned_directions")


@dataclass(frozen=True)
class EquationMeasure:
    """A measure of one system of equations, called with its parameters by name.

    What each of them is stands in `MEASURES`; "escape_time" is read by `how`, as by
    `dmft.escape_time`, and "learned_directions" by the `overlap` in it.
    """

    name: str
    equations: Any
    start: Any = None
    t_max: float | None = None
    how: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    # Parameters at which the start leads to the fixed point whose growth rate is measured; by
    # default those of each point, with no regard to the others.
    followed_from: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        own = self.observed
        if self.name not in (*MEASURES, *own):
            raise BadParameter(
                f"unknown measure {self.name!r}; {BUILT_IN}"
                + (f", or one of {', '.join(own)}" if own else "")
            )
        kind = self.kind
        absent = [n for n in ("equations", *kind.needs) if getattr(self, n) is None]
        if absent:
            words = ", ".join(f"{n}=" for n in ("equations", *kind.needs))
            raise BadParameter(f'the measure "{self.name}" needs {words} (no {absent[0]}= given)')
        if self.what not in kind.takes:
            raise BadParameter(
                f'the measure "{self.name}" is defined for {" or ".join(kind.takes)}, not for '
                f"{self.what}: {kind.way_out}"
            )
        if self.name == "final_risk" and self.is_rule and "risk" not in own:
            raise BadParameter(
                "this rule has no measure called risk; "
                + (f"name one of {', '.join(own)} instead" if own else "declare measures={...}")
            )
        reach = self.how.get("overlap")
        if reach is not None and not 0.0 < reach <= 1.0:
            raise BadParameter(f"overlap = {reach!r} is a cosine: 0 < overlap <= 1")
        if reach is not None and self.name not in BY_OVERLAP:
            raise BadParameter(
                f"overlap = {reach!r} is used by the measures {' and '.join(BY_OVERLAP)}, not by "
                f'"{self.name}": leave it out'
            )

    @property
    def kind(self) -> Built:
        """How it is computed: of a name of the equations, as their observable at the end."""
        return MEASURES.get(self.name, OBSERVED)

    @property
    def what(self) -> str:
        """What is measured, as refusals call it."""
        system = self.origin
        if isinstance(system, Equations):
            flow = SEQUENCE if system.model.reads_sequences else FLOW
            return flow if system.noise is None else FLUCTUATING
        if isinstance(system, DescentEquations):
            return DESCENT
        if isinstance(system, SequenceModel | SequenceRisk):
            return LANDSCAPE
        return OTHER if isinstance(system, Problem) else f"a {type(system).__name__}"

    @property
    def origin(self) -> Any:
        """Symbols behind the measure."""
        return equations_of(self.equations)

    @property
    def observed(self) -> tuple[str, ...]:
        """Names of the measures that a rule declares; none of other systems."""
        return tuple(n for n, _ in self.origin.algorithm.measures) if self.is_rule else ()

    @property
    def is_rule(self) -> bool:
        """Whether the equations are those of a rule of vectors."""
        return isinstance(self.origin, Equations) and self.origin.family == "rule"

    def check(self, parameters: Mapping[str, float]) -> None:
        """Refuse a name that the equations lack or a bad start, before any point is computed."""
        _, given = split_options(self.options)
        twice = sorted(set(parameters) & set(self.options))
        if twice:
            raise BadParameter(
                f"{twice[0]} = {self.options[twice[0]]!r} is given, but points have values of it "
                "too: leave one of them out"
            )
        values = {**given, **parameters}
        if self.what == LANDSCAPE:
            values.pop("points", None)
            risk_of(self.equations)(e=0.0, m=0.0, **values)
        elif isinstance(self.equations, DescentEquations):
            if not self.equations.is_flow:
                steps = as_count(self.t_max, "t_max (the number of steps)")
                descent_task(self.equations, self.start, steps, DESCENTS.read({}, values)[1])
        elif self.what != DESCENT:
            run_inputs(self.equations, self.start, values)

    @property
    def problem(self) -> Problem:
        """The compiled problem, one in each process."""
        return problem_of(self.equations)

    @property
    def fingerprint(self) -> str:
        """Of the equations, or of the risk of a model."""
        if self.what == LANDSCAPE:
            text = sp.srepr(risk_of(self.equations).expr)
            return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        if self.what == DESCENT:
            return str(self.equations.fingerprint)
        return str(self.problem.provenance.get("equations", ""))

    @property
    def provenance(self) -> dict[str, Any]:
        """What a record of many points says of its measure."""
        if self.what in (LANDSCAPE, DESCENT):
            known: dict[str, Any] = {"equations": self.fingerprint, "version": VERSION}
        else:
            known = dict(self.problem.provenance)
        how = self.how if self.name == "escape_time" else {}
        unit = getattr(self.equations, "time_unit", "steps")
        origin = self.followed_from if self.name == "growth_rate" else None
        followed = {"followed_from": dict(origin)} if origin else {}
        return {**known, "t_max": self.t_max, "time_unit": unit, **how, **followed}

    @property
    def start_arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """Numbers of the start, by name."""
        start = self.start
        names = ("e", "m") if isinstance(start, Alignment) else ("Q", "M", "P", "readout")
        given = {n: getattr(start, n, None) for n in names} | (getattr(start, "memory", None) or {})
        clock = getattr(start, "clock", None) or {}
        given |= {f"clock_{name}": np.array(value) for name, value in clock.items()}
        scalars = getattr(start, "scalars", None) or {}  # of rules of vectors
        given |= {f"scalar_{name}": np.array(value) for name, value in scalars.items()}
        return {name: a for name, a in given.items() if a is not None}

    @property
    def identity(self) -> dict[str, Any]:
        """What the results depend on, besides the parameters of the points."""
        arrays = self.start_arrays
        digest = hashlib.blake2b(b"".join(a.tobytes() for a in arrays.values()))
        start = {
            name: a.tolist() if a.size <= LISTED else hashlib.blake2b(a.tobytes()).hexdigest()
            for name, a in arrays.items()
        }
        options = {name: value for name, value in self.options.items() if name != "progress"}
        origin = self.followed_from if self.name == "growth_rate" else None
        return {
            **({"followed_from": dict(origin)} if origin else {}),
            "measure": self.name,
            "equations": self.fingerprint,
            "declared": declared(self.equations),
            "version": VERSION,
            "start": Digest.of(digest.hexdigest()[:24], start),
            "t_max": self.t_max,
            "options": json.loads(json.dumps({**self.how, **options}, default=str, sort_keys=True)),
        }

    def __call__(self, **parameters: float) -> Any:
        """Value at these parameters."""
        return self.kind.function(self, {**self.options, **parameters})

    def many(self, points: Sequence[Mapping[str, float]]) -> Iterator[Any]:
        """Values at many parameters, from one compiled batch of runs where they are closed forms.

        In the place of a point that raises an exception stands the exception.
        """
        return results_of(self, self.kind.function, points)

    def label(self, result: Any) -> Any:
        """What a boundary compares: names and bools instead of the numbers of a sweep."""
        if self.name == "fixed_point":
            number, status = result
            if status == Status.NOT_CONVERGED:
                return "not stationary"
            return FIXED_POINTS[number] if status in FINE else str(status)
        if self.name == "status":
            return str(result[1])
        if self.name == "learned_directions":
            return result[0] if result[1] in FINE else str(result[1])
        return result

    def run(self, here: Mapping[str, Any]) -> Any:
        """Solve to t_max, in one thread."""
        options = {**here, "progress": False}
        if self.what == DESCENT:
            options.setdefault("threads", 1)
            return solve(self.equations, self.start, self.t_max, **options)  # type: ignore[arg-type]
        return solve(self.problem, self.start, self.t_max, save_at=2, **options)  # type: ignore[arg-type]

    def __getstate__(self) -> dict[str, Any]:
        # A compiled problem is built again from its equations where this is sent to.
        return {**self.__dict__, "equations": self.origin}


@dataclass(frozen=True)
class Chosen:
    """A measure as the verbs of many points take it: its name, and what records say of it.

    `known` is what a store agrees on.
    """

    function: Callable[..., Any]
    name: str
    known: Mapping[str, Any]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def label(self, result: Any) -> Any:
        """What a boundary compares; results of functions are labels or numbers as they are."""
        of = self.function
        return of.label(result) if isinstance(of, EquationMeasure) else result


def chosen_measure(
    measure: str | Callable[..., Any],
    at: Mapping[str, float] | None,
    follows: bool,
    /,
    *,
    equations: System | None = None,
    start: Overlaps | Alignment | None = None,
    t_max: float | None = None,
    fraction: float = 0.5,
    reference: str = "start",
    overlap: float | None = None,
    **options: Any,
) -> Chosen:
    """The measure of a call: a wrong name or a bad start is refused here, not at every point.

    It is checked at the point `at`, if one is given; with `follows` the fixed point of
    "growth_rate" is the one found there.
    """
    if not callable(measure) and getattr(equations, "family", "") == "network":
        from dmft.workflow.networks import sites, verbs

        # A function of named values, which needs no equations, at given values of symbols.
        known = {y.name for y in sites.declared(equations).scalars} & {*options}  # type: ignore[arg-type]
        equations = sites.at_values(equations, {n: options.pop(n) for n in known}, True)  # type: ignore[arg-type]
        measure, equations = verbs.network_measure(measure, equations), None
    if callable(measure):
        given = {"equations": equations, "start": start, "t_max": t_max, "overlap": overlap}
        names = [f"{n}=" for n, value in {**given, **options}.items() if value is not None]
        if names:
            raise BadParameter(
                f"a custom measure takes no equations or options ({', '.join(names)}): it is "
                "called only with the parameters of its points; bind everything else in a closure"
            )
        name = str(getattr(measure, "__name__", "value")).replace("<lambda>", "value")
        return Chosen(measure, name, {"measure": name_of(measure)})
    how = {"fraction": fraction, "reference": reference, "overlap": overlap}
    watched = {n: options.pop(n) for n in WATCHED if n in options and measure == "escape_time"}
    of = EquationMeasure(
        measure, equations, start, t_max, {**how, **watched}, options, at if follows else None
    )
    if at is not None:
        of.check(at)
    return Chosen(of, measure, of.identity, of.provenance)


@contextlib.contextmanager
def one_warning() -> Iterator[None]:
    """Of many points, only the first warning about its escape time is shown."""
    with warnings.catch_warnings():
        show, lock = warnings.showwarning, threading.Lock()

        def first(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
            if not issubclass(category, EscapeWarning) or lock.acquire(blocking=False):
                show(message, category, *where, **more)

        warnings.showwarning = first
        yield


def _escape_time(of: EquationMeasure, here: dict[str, Any]) -> Any:
    assert of.t_max is not None
    return escape_time(of.problem, of.start, of.t_max, **of.how, **{**here, "progress": False})


def _at_end(
    read: Callable[[EquationMeasure, Any], float],
) -> Callable[[EquationMeasure, dict[str, Any]], tuple[float, Status]]:
    """A number of the run at its end, with its status; nan of a run that failed."""

    def measured(of: EquationMeasure, here: dict[str, Any]) -> tuple[float, Status]:
        run = of.run(here)
        return (read(of, run) if run.status in FINE else np.nan), run.status

    return measured


def _final_risk(of: EquationMeasure, here: dict[str, Any]) -> Any:
    # A trajectory tells besides how long it was followed, and why no longer.
    return of.run(here) if of.what != DESCENT else _last_risk(of, here)


_last_risk = _at_end(lambda of, run: float(run.risk[-1]))
_observed = _at_end(lambda of, run: float(run[of.name][-1]))


def _converged(of: EquationMeasure, here: dict[str, Any]) -> bool:
    return of.run(here).status in FINE


def _status(of: EquationMeasure, here: dict[str, Any]) -> tuple[int, Status]:
    status = Status(of.run(here).status)
    return STATUSES.index(status), status


def _growth_rate(of: EquationMeasure, here: dict[str, Any]) -> Any:
    equations, (_, parameters) = of.origin, split_options(here)
    how = {"max_steps": here["max_steps"]} if "max_steps" in here else {}
    if "tolerance" in parameters:
        how["tolerance"] = parameters.pop("tolerance")
    reference = {**parameters, **(of.followed_from or {})}
    point = followed_point(equations, of.start, reference, parameters, **how)
    if point.status != Status.OK:
        return Point(float("nan"), point.status, message=point.message)
    return stability(equations, point, **parameters).growth_rate


def _fixed_point(of: EquationMeasure, here: dict[str, Any]) -> Any:
    _, parameters = split_options(here)
    run = of.run(here)
    if run.status not in FINE:
        return float("nan"), run.status
    found = end_state(of.origin, run, parameters)
    if found.status != Status.OK:
        return float("nan"), found.status
    return FIXED_POINTS.index(found.kind), Status.OK


def _minima(of: EquationMeasure, here: dict[str, Any]) -> int:
    return len(landscape(of.equations, **here).minima)


@_at_end
def _learned_directions(of: EquationMeasure, run: Any) -> int:
    return int(np.sum(_cosines(of, run).max(axis=0) >= (of.how.get("overlap") or LEARNED)))


@_at_end
def _overlap(of: EquationMeasure, run: Any) -> float:
    return float(run.overlap[-1] if of.what == SEQUENCE else _cosines(of, run).max())


def _cosines(of: EquationMeasure, run: Any) -> NDArray[np.float64]:
    """Of the students and the teachers at the end, in all blocks of the inputs."""
    return cosines(run.M[-1], run.Q[-1], seen_by(of.origin.model, of.start).P)


@dataclass(frozen=True)
class Built:
    """A measure that is ready: which systems it reads, what it needs besides, how it is had."""

    function: Callable[[EquationMeasure, dict[str, Any]], Any]
    takes: tuple[str, ...]
    way_out: str
    needs: tuple[str, ...] = ("start", "t_max")


_RUNS = (FLOW, SEQUENCE, DESCENT)
_NO_RUN = "pass derived equations, without fluctuations"
OBSERVED = Built(_observed, (FLOW,), _NO_RUN)
MEASURES: Mapping[str, Built] = {
    "escape_time": Built(
        _escape_time, (FLOW, SEQUENCE),
        'for descents use "overlap" with level=, or "learned_directions"',
    ),
    "final_risk": Built(_final_risk, _RUNS, _NO_RUN),
    "converged": Built(_converged, _RUNS, _NO_RUN),
    "status": Built(_status, _RUNS, _NO_RUN),
    "growth_rate": Built(
        _growth_rate, (FLOW,),
        'for descents use "final_risk" or "overlap", for sequence models "minima"', ("start",),
    ),
    "fixed_point": Built(
        _fixed_point, (FLOW,),
        'for descents use "learned_directions", for sequence models "minima" or "overlap"',
    ),
    "minima": Built(
        _minima, (LANDSCAPE,),
        "pass the model itself (or its population_risk) as equations=; for other networks use "
        '"fixed_point"', (),
    ),
    "learned_directions": Built(
        _learned_directions, (FLOW, DESCENT), 'for sequence models use "overlap"'
    ),
    "overlap": Built(_overlap, _RUNS, _NO_RUN),
}  # fmt: skip
BUILT_IN = f"choose one of {tuple(MEASURES)} or a function"
