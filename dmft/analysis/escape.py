"""When a run escapes: the first time at which it has learned, located by event.

Definitions. With a fraction T, the escape time is the first t with risk <= (1 - T) reference:

* reference "start": the risk at the start of the run;
* reference "plateau": the risk on the plateau, and the first such t after it. The plateau is where
  the slope |d log risk / d log t| is smallest between the first relaxation and the descent; a run
  whose risk does not fall fast at once (a tenth of its fastest fall) starts on its plateau.

With `overlap=c` it is instead the first t at which the largest |M_jr| / sqrt(Q_jj P_rr) reaches c,
and with `threshold=c` the first t at which the risk crosses c. Another observable takes the place
of the risk by its name.

A threshold relative to the start is often met while the run still relaxes towards its plateau,
before anything is learned (erf, p = 4, k = 2: one per cent at t = 0.02, while the plateau is left
at t = 185 to 270); such a result carries `relaxed=True` and warns.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dmft.analysis.plateau import Plateau, find_plateau, is_relaxing, refined, risk_rate
from dmft.errors import BadParameter
from dmft.names import Status
from dmft.record import Record
from dmft.solvers.events import Event, LargestCosine
from dmft.solvers.problem import Problem
from dmft.solvers.runge_kutta.batch import attempt, solve_batch
from dmft.solvers.runge_kutta.tableau import PAIRS
from dmft.solvers.solution import CLOCK
from dmft.solvers.solve import Request, check_request, solve_request
from dmft.solvers.trajectory import Trajectory

REFERENCES = ("start", "plateau")
# Times at which a run is saved around its plateau.
PARTS = 33
# An escape from overlaps of order d^(-1/2) amplifies early errors: these tolerances give its time
# to 1e-9 (one of 1e-8 in a plain run gives 1e-7). Order 8 takes half the time of order 5.
TIGHT: Mapping[str, Any] = {"rtol": 1e-10, "atol": 1e-15, "default": "rk8"}
# A risk below this is rounding: the start is the solution already.
NO_RISK = 1e-14


class EscapeWarning(UserWarning):
    """The threshold is crossed during the initial relaxation, before anything is learned.

    Examples
    --------
    >>> import warnings
    >>> warnings.simplefilter("error", EscapeWarning)  # refuse such escape times altogether
    >>> warnings.simplefilter("default", EscapeWarning)
    """


@dataclass(frozen=True, eq=False)
class EscapeTime(Record):
    """Time of an escape.

    Attributes
    ----------
    value : float
        Time at which the threshold is reached.
    threshold : float
        Risk (or largest cosine) at which the run escapes.
    reference : str
        "start", "plateau", "overlap" or "threshold".
    reference_value, reference_time : float
        Reference risk and its time (nan for an overlap).
    relaxed : bool
        Whether the threshold was crossed during the initial relaxation, before learning began.
    time_step_times_dim : float or None
        Time step times d, used by `steps`; the mean over the run if the rate follows a schedule.
    counts_steps : bool
        Whether `value` is a number of steps, as for a map.
    status : Status
        "event": the threshold was reached.

    Examples
    --------
    >>> escape = EscapeTime(1.5, threshold=0.2, reference="start", time_step_times_dim=0.05)
    >>> float(escape), escape.steps(dim=1000)
    (1.5, 30000.0)
    """

    value: float
    threshold: float
    reference: str
    reference_value: float = math.nan
    reference_time: float = math.nan
    relaxed: bool = False
    time_step_times_dim: float | None = None
    status: Status = Status.EVENT
    counts_steps: bool = False

    def __float__(self) -> float:
        return self.value

    def steps(self, dim: int) -> float:
        """Number of steps of the algorithm until the escape at input dimension `dim`.

        Parameters
        ----------
        dim : int
            Input dimension d.

        Returns
        -------
        float
            t p d / gamma for one-pass SGD; the time itself for a map.

        Raises
        ------
        BadParameter
            For the time of a continuous flow.

        Examples
        --------
        >>> escape = EscapeTime(1.5, threshold=0.2, reference="start", time_step_times_dim=0.05)
        >>> escape.steps(dim=1000)
        30000.0
        """
        if self.counts_steps:
            return self.value
        if self.time_step_times_dim is None:
            raise BadParameter(
                "this run has no steps: its time is that of a continuous flow, or a number of "
                "samples"
            )
        return self.value * dim / self.time_step_times_dim


@dataclass(frozen=True, eq=False)
class Censored(Record):
    """Result for a run that has not escaped before its end.

    Attributes
    ----------
    horizon : float
        Time until which the run was followed.
    threshold : float
        Risk (or largest cosine) at which the run would have escaped.
    reference : str
        "start", "plateau", "overlap" or "threshold".
    status : Status
        Why the run ended at `horizon`: ok (the requested time), or a failure.
    message : str
        The status as text.
    reference_value, reference_time : float
        Reference risk and its time (nan for an overlap).

    Examples
    --------
    >>> Censored(100.0, 0.2, "start", Status.OK, "reached t = 100").value
    Traceback (most recent call last):
        ...
    AttributeError: no escape until t = 100 (reached t = 100); test isinstance(result, \
dmft.Censored) or use a larger t_max
    """

    horizon: float
    threshold: float
    reference: str
    status: Status
    message: str
    reference_value: float = math.nan
    reference_time: float = math.nan

    @property
    def value(self) -> float:
        """Raises an error: the time of an escape that did not occur is unknown."""
        raise AttributeError(
            f"no escape until t = {self.horizon:g} ({self.message}); test isinstance(result, "
            "dmft.Censored) or use a larger t_max"
        )


def escape_time_of(run: Trajectory, **how: Any) -> EscapeTime | Censored:
    """Escape time of a solved run: it is integrated again, more tightly, up to its last time.

    Never read off the saved points, whose grid would limit it. `how` is that of
    `escape_time_of_problem`.
    """
    problem, options = run_again(run)
    return escape_time_of_problem(problem, run.start, float(run.t[-1]), **how, **options)


def run_again(run: Trajectory) -> tuple[Problem, dict[str, Any]]:
    """Problem of a run and the options that integrate it again, more tightly."""
    if run.problem is None:
        raise BadParameter(
            "a trajectory read from a file has no compiled equations, which are needed to "
            "locate its escape; call escape_time with the equations, the start and t_max"
        )
    options = {name: run.provenance[name] for name in ("rtol", "atol", "t_start")}
    options["default"] = method = run.provenance["method"]
    if method not in PAIRS:
        options["method"] = method
    # Averages on nodes are known to the tolerance of the run at best, and where integrands have
    # kinks tighter steps would follow the nodes.
    if run.provenance.get("quadrature_tol") is None:
        tighter = {name: min(options[name], TIGHT[name]) for name in ("rtol", "atol")}
        options |= {**TIGHT, **tighter}
    options["widths"], options["parameters"] = run.widths, run.parameters
    options["constants"] = {b.name: run.constants[b.name] for b in run.problem.constants}
    options["provenance"] = {name: run.provenance.get(name) for name in ("time_step_times_dim",)}
    return run.problem, options


def escape_time_of_problem(
    problem: Problem,
    state: Mapping[str, ArrayLike],
    t_max: float,
    *,
    fraction: float = 0.5,
    reference: str = "start",
    overlap: float | None = None,
    observable: str = "risk",
    threshold: float | None = None,
    **options: Any,
) -> EscapeTime | Censored:
    """Escape time of a problem from a start; `Censored` when the horizon or a failure is hit.

    The observables include `observable`, which is called the risk here; `threshold` is a value
    that it crosses, and `overlap` measures by the largest cosine instead. `options` go
    to `solve_problem`. An `EscapeWarning` is given if a threshold relative to the start is met
    before the plateau.
    """
    # Events and plateaus are looked for on every step.
    options = {n: value for n, value in options.items() if n not in ("save_at", "events")}
    if observable != "risk":
        problem = watching(problem, observable)
    check_escape(problem, fraction, reference, overlap)
    given = check_request(problem, state, t_max, **{**TIGHT, **options})
    if threshold is not None and overlap is None:
        run = solve_request(given.with_event(Event("risk", threshold)))
        return _result(run, threshold, "threshold")
    search = _search(given, fraction, reference, overlap)
    found = _after(search)
    while isinstance(found, Request):
        found = _after(search, solve_request(found))
    return found


def watching(problem: Problem, observable: str) -> Problem:
    """The problem with one of its observables instead of the risk."""
    check_observable(problem, observable)
    swap = {observable: "risk", "risk": observable}
    return replace(problem, observables=tuple(swap.get(n, n) for n in problem.observables))


def check_level(fraction: float, overlap: float | None) -> None:
    """Refuse thresholds of risks and of cosines that no run can cross."""
    if overlap is not None and not 0.0 < overlap <= 1.0:
        raise BadParameter(f"overlap = {overlap!r} is a cosine: it must lie in (0, 1]")
    if overlap is None and not 0.0 < fraction < 1.0:
        raise BadParameter(f"fraction = {fraction!r} must lie strictly between 0 and 1")


def check_escape(problem: Problem, fraction: float, reference: str, overlap: float | None) -> None:
    """Refuse what is no measure of an escape of this problem."""
    check_level(fraction, overlap)
    if overlap is not None:
        # A problem that observes its overlap says so itself.
        names = [block.name for block in problem.state]
        if "overlap" not in problem.observables and not {"Q", "M"} <= set(names):
            raise BadParameter(
                f"cosines are computed from Q and M, and the state of this problem is {names}: "
                "measure its escape by the risk (fraction=), or end a run of dmft.solve by events= "
                "with dmft.Event(a function of (t, state), overlap, direction=1)"
            )
        return
    if reference not in REFERENCES:
        raise BadParameter(f"unknown reference {reference!r}; choose one of {REFERENCES}")
    check_observable(problem, "risk")


def check_observable(problem: Problem, name: str) -> None:
    """Refuse what a problem does not observe."""
    if name not in problem.observables:
        raise BadParameter(
            f"the {name} is not among the observables of this problem, {problem.observables}: "
            "name one of them by observable=, or measure by overlap="
        )


def escape_times_of(
    requests: Sequence[Request | Exception], fraction: float, reference: str, overlap: float | None
) -> Iterator[Any]:
    """Escape times of many runs of one problem.

    Each is that of `escape_time_of_problem`; in the place of a run that cannot be made stands the
    exception. Ends early when the parallel job is cancelled.
    """
    found = [
        _search(given, fraction, reference, overlap) if isinstance(given, Request) else given
        for given in requests
    ]
    searches = {n: search for n, search in enumerate(found) if isinstance(search, Generator)}
    found = [attempt(_after, y) if n in searches else y for n, y in enumerate(found)]
    while asked := [n for n, y in enumerate(found) if isinstance(y, Request)]:
        done = 0
        for n, ended in zip(asked, solve_batch([found[n] for n in asked]), strict=False):
            found[n] = attempt(_after, searches[n], ended.trajectory())
            done += 1
        if done < len(asked):
            break
    yield from takewhile(lambda y: not isinstance(y, Request), found)


Search = Generator[Request, Trajectory, EscapeTime | Censored]


def _after(search: Search, run: Trajectory | None = None) -> Request | EscapeTime | Censored:
    """The next run that a search asks for after this one, or its result."""
    try:
        return next(search) if run is None else search.send(run)
    except StopIteration as end:
        return end.value


def _search(given: Request, fraction: float, reference: str, overlap: float | None) -> Search:
    """The escape of one run; it asks for runs, which the caller may make together with others."""
    begun = given.setup.t_start
    if overlap is not None:
        if _overlap_at_start(given) >= overlap:
            start = solve_request(replace(given, setup=replace(given.setup, max_steps=1)))
            return EscapeTime(begun, overlap, "overlap", **clock_of(start))
        known = "overlap" in given.setup.problem.observables
        event = Event("overlap" if known else LargestCosine(), overlap, direction=1)
        return _result((yield given.with_event(event)), overlap, "overlap")
    if reference == "plateau":
        return _after_plateau((yield given), given, fraction)
    event = _risk_event(_initial_risk(given), fraction)
    run = yield given.with_event(event)
    risk = float(run.risk[0])
    result = _result(
        run, (1.0 - fraction) * risk, "start", reference_value=risk, reference_time=begun
    )
    if isinstance(result, Censored) or result.value >= given.setup.t_end:
        return result
    if not is_relaxing(risk_rate(run)):
        return result
    # The risk fell about as fast as it ever did until then: is the plateau still ahead?
    del run
    plateau = find_plateau((yield given), origin=begun)
    if plateau is None or not plateau.left or plateau.t <= result.value:
        return result
    warnings.warn(_relaxation(result, plateau, fraction), EscapeWarning, stacklevel=5)
    return replace(result, relaxed=True)


def _overlap_at_start(given: Request) -> float:
    problem, seen = given.setup.problem, given.observe()
    if "overlap" in seen:
        return seen["overlap"]
    return LargestCosine().value(problem.unpack(given.setup.start, given.widths), given.constants)


def _risk_event(risk: float, fraction: float) -> Event:
    return Event("risk", (1.0 - fraction) * risk, direction=-1)


def _after_plateau(run: Trajectory, given: Request, fraction: float) -> EscapeTime | Censored:
    """Escape time from the plateau of a run that was saved at each step."""
    begun = given.setup.t_start
    # Without one nothing relaxes before the descent.
    plateau = find_plateau(run, origin=begun)
    if plateau is None:
        plateau = Plateau(begun, float(run.risk[0]))
    elif 0 < plateau.row < run.t.size - 1:
        # Steps on a plateau are long: polynomials through their ends locate it to 10^-3.
        begin, end = (float(run.t[plateau.row + side]) for side in (-1, 1))
        times = np.linspace(begin, end, PARTS)
        part = _from_row(run, plateau.row - 1, given, t_end=end, save=times)
        plateau = refined(plateau, part, begun)
    event = _risk_event(plateau.risk, fraction)
    # The run is followed again only through the step in which its risk falls that far.
    row = _before_fall(run, event.threshold, plateau.row)
    if row is not None:
        run = _from_row(run, row, given.with_event(event))
    known = {"reference_value": plateau.risk, "reference_time": plateau.t}
    return _result(run, event.threshold, "plateau", **known)


def _from_row(run: Trajectory, row: int, given: Request, **changes: Any) -> Trajectory:
    """The request from one of the rows of a run on."""
    start = given.setup.problem.pack({name: block[row] for name, block in run.blocks.items()})
    setup = replace(given.setup, t_start=float(run.t[row]), start=start, **changes)
    return solve_request(replace(given, setup=setup))


def _before_fall(run: Trajectory, threshold: float, first: int) -> int | None:
    """First row from `first` on after which the risk may reach the threshold in one step."""
    gap = run.risk[first:] - threshold
    near = np.minimum(gap[:-1], gap[1:]) <= np.abs(np.diff(gap))
    return first + int(np.argmax(near)) if np.any(near) else None


def _result(run: Trajectory, threshold: float, reference: str, **known: Any) -> Any:
    if run.status == Status.EVENT:
        return EscapeTime(float(run.t[-1]), threshold, reference, **clock_of(run), **known)
    return Censored(float(run.t[-1]), threshold, reference, run.status, run.ending, **known)


def clock_of(run: Trajectory) -> dict[str, Any]:
    """What turns the last time of a run into steps."""
    if run.provenance.get("time_unit") == "steps":
        return {"counts_steps": True}
    unit = run.provenance.get("time_step_times_dim")
    if unit is None and CLOCK not in run.blocks:
        return {}
    steps = float(run.steps(1)[-1])
    unit = run.t[-1] / steps if steps > 0 else unit
    return {} if unit is None else {"time_step_times_dim": float(unit)}


def _initial_risk(given: Request) -> float:
    risk = given.observe()["risk"]
    if not risk > NO_RISK:
        raise BadParameter(f"the risk at the start is {risk:g}: there is nothing to escape from")
    return risk


def _relaxation(result: EscapeTime, plateau: Plateau, fraction: float) -> str:
    return (
        f"the risk falls by the fraction {fraction:g} of its initial value at t = "
        f"{result.value:.4g}, while it still relaxes towards its plateau (risk {plateau.risk:.4g} "
        f"near t = {plateau.t:.4g}) and before anything is learned; "
        'use reference="plateau" or overlap='
    )
