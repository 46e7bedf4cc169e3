"""When paths or simulated runs escape: one definition with that of flows, over many runs.

Each run's own risk at its start is the reference, and the escape is the first time at which its
risk has fallen to the fraction (1 - T) of it, or its largest cosine has risen to a level.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dmft.analysis.escape import NO_RISK, check_level
from dmft.arrays import Array, cosines
from dmft.errors import BadParameter
from dmft.solvers.events import Event, LargestCosine
from dmft.solvers.problem import Problem, observed_at, sizes_of
from dmft.solvers.stochastic.ensemble import PassageTimes
from dmft.solvers.stochastic.paths import solve_paths

ESCAPE = "escape"


@dataclass(frozen=True, eq=False)
class EscapeTimes(PassageTimes):
    """Escape times of many runs. Runs that have not escaped are kept as censored.

    Attributes
    ----------
    times : (S,) array
        Escape times, NaN for censored runs.
    horizon : (S,) array
        Final time of each run.
    threshold : (S,) array
        Risk (or largest cosine) at which each run escapes.
    reference : str
        "start" or "overlap".
    reference_value : (S,) array
        Risk at the start of each run (nan for an overlap).
    time_step_times_dim : float or None
        Time step times d, used by `steps`.

    Examples
    --------
    >>> import numpy as np
    >>> times, ends = np.array([1.0, 2.0, np.nan]), np.array([1.0, 2.0, 5.0])
    >>> escape = EscapeTimes(times, ends, np.full(3, 0.9), "start", np.ones(3), 0.05)
    >>> escape.censored, escape.quantile(0.5), float(escape.steps(dim=1000)[0])
    (1, 2.0, 20000.0)
    """

    threshold: Array
    reference: str
    reference_value: Array
    time_step_times_dim: float | None = None

    @property
    def censored(self) -> int:  # type: ignore[override]
        """Number of runs that had not escaped when they ended."""
        return int(self._late.sum())

    def steps(self, dim: int) -> Array:
        """Number of steps of the algorithm until each escape, at input dimension `dim`.

        Parameters
        ----------
        dim : int
            Input dimension d.

        Returns
        -------
        (S,) ndarray
            Steps t p d / gamma of each run, NaN for censored runs.

        Raises
        ------
        BadParameter
            If the length of a step is not known.

        Examples
        --------
        >>> import numpy as np
        >>> times, ends = np.array([1.0, 2.0, np.nan]), np.array([1.0, 2.0, 5.0])
        >>> escape = EscapeTimes(times, ends, np.full(3, 0.9), "start", np.ones(3), 0.05)
        >>> escape.steps(dim=1000).tolist()
        [20000.0, 40000.0, nan]
        """
        if self.time_step_times_dim is None:
            raise BadParameter("these runs do not contain the time step in units of t")
        return self.times * dim / self.time_step_times_dim

    def __repr__(self) -> str:
        size = self.times.size
        if self.censored:
            middle = f"median {self.quantile(0.5):.6g}, {self.censored} of {size} censored"
        else:
            middle = f"mean {self.mean:.6g} ± {self.stderr:.2g}, std {self.std:.6g}, {size} runs"
        return f"EscapeTimes({self.reference}: {middle})"


def escape_of_paths(
    problem: Problem,
    starts: Array,
    t_max: float,
    fraction: float,
    overlap: float | None,
    options: Mapping[str, Any],
) -> EscapeTimes:
    """Escape times of paths of an sde, from packed states (S, n) for each path or (1, n)."""
    given = {"bridge": True, **options, "save_at": 2, "keep_paths": False}
    given["increments"] = "normal"
    threshold, risk = _threshold(problem, starts, fraction, overlap, given)
    if overlap is not None:
        event = Event(LargestCosine(), overlap, direction=1, name=ESCAPE)
    else:
        event = Event("risk", float(threshold[0]), direction=-1, name=ESCAPE)
    own = {ESCAPE: threshold} if len(threshold) > 1 and overlap is None else {}
    blocks = problem.unpack(starts if len(starts) > 1 else starts[0], given["widths"])
    run = solve_paths(problem, blocks, t_max, events=event, thresholds=own, **given)
    passage = _with_early(run.first_passage[ESCAPE], problem, starts, given, overlap)
    paths = passage.times.size
    return EscapeTimes(
        passage.times,
        passage.horizon,
        np.broadcast_to(threshold, paths).copy(),
        "start" if overlap is None else "overlap",
        np.broadcast_to(risk, paths).copy(),
        run.provenance.get("time_step_times_dim"),
    )


def _threshold(
    problem: Problem,
    starts: Array,
    fraction: float,
    overlap: float | None,
    options: Mapping[str, Any],
) -> tuple[Array, Array]:
    """Level that counts as escaped and the risk of each start."""
    unknown = np.full(len(starts), math.nan)
    check_level(fraction, overlap)
    if overlap is not None:
        return np.full(len(starts), overlap), unknown
    par = problem.pack_parameters(options["parameters"], options["constants"])
    given = sizes_of(problem, options["widths"]), par
    begun = float(options.get("t_start", 0.0))
    risk = np.array([observed_at(problem, begun, y, *given)["risk"] for y in starts])
    if not np.all(risk > NO_RISK):
        raise BadParameter(
            f"the risk at start {int(np.argmin(risk))} is {risk.min():g}: there is nothing to "
            "escape from"
        )
    return (1.0 - fraction) * risk, risk


def _with_early(
    passage: PassageTimes,
    problem: Problem,
    starts: Array,
    options: Mapping[str, Any],
    overlap: float | None,
) -> PassageTimes:
    """Passages with those of starts that are beyond an overlap already: at once."""
    if overlap is None:
        return passage
    state = problem.unpack(starts, options["widths"])
    here = cosines(state["M"], state["Q"], options["constants"]["P"])
    beyond = here.max(axis=(1, 2)) >= overlap
    early = np.broadcast_to(beyond, passage.times.shape)
    begun = float(options.get("t_start", 0.0))
    times, horizon = passage.times.copy(), passage.horizon.copy()
    times[early], horizon[early] = begun, begun
    return PassageTimes(times, horizon)


def escape_of_runs(
    passage: PassageTimes | None,
    watched: Mapping[str, Any] | None,
    start_risk: Array,
    fraction: float,
    overlap: float | None,
    unit: float | None,
) -> EscapeTimes:
    """Escape times of simulated runs that were watched for this escape."""
    wanted = (
        f'dmft.FirstPassage("overlap", {overlap:g})'
        if overlap is not None
        else f'dmft.FirstPassage("risk", {1.0 - fraction:g}, relative=True)'
    )
    if passage is None or watched is None:
        how = "without first_passage=" if passage is None else "with events="
        raise BadParameter(
            f"these runs were simulated {how}, and saved times are too coarse to find the escape: "
            f"simulate with first_passage={wanted}"
        )
    level = overlap if overlap is not None else 1.0 - fraction
    kind = "overlap" if overlap is not None else "risk"
    same = watched["observable"] == kind and watched["relative"] == (kind == "risk")
    if not same or abs(watched["level"] - level) > LEVEL_ROUNDING:
        raise BadParameter(f"these runs recorded the escape for {watched}, not for {wanted}")
    times, none = passage.times, np.full(passage.times.size, math.nan)
    reached = level * start_risk if overlap is None else np.full(times.size, level)
    reference, value = ("start", start_risk) if overlap is None else ("overlap", none)
    return EscapeTimes(times, passage.horizon, reached, reference, value, unit)


# Levels given as 1 - T in two ways differ by their rounding.
LEVEL_ROUNDING = 1e-12
