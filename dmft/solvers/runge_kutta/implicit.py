"""SciPy's implicit methods behind the same call, with the same endings as the compiled loop.

SciPy's solver objects are stepped one step at a time. What they do badly alone is caught here:
a right-hand side that is not finite (LSODA would return it as success), a blow-up (LSODA would
not return), a state outside the domain. Each of these restarts the method from the last good
state with a shorter step, until the step has no length left; then the run ends with its status.
"""

from __future__ import annotations

import math
import threading
import time
from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import LSODA, OdeSolver, Radau
from scipy.optimize import brentq

from dmft.names import Status
from dmft.progress import Progress, is_cancelled
from dmft.solvers.run import Raw, Setup, Sink, Vector, event_gaps
from dmft.solvers.runge_kutta import layout
from dmft.solvers.runge_kutta.ending import band

SOLVERS: dict[str, type[OdeSolver]] = {"Radau": Radau, "LSODA": LSODA}
# A restart after a bad evaluation shortens the step by this factor.
RESTART_FACTOR = 0.25
# Python sees each step here, but progress and clocks are looked at only this often.
LOOK_SECONDS = 0.05
# Steps in a row whose length is at rounding before the run counts as collapsed.
TINY_STEPS = 5
# Evaluations within one step after which it is given up as collapsed (LSODA tries for ever).
EVALUATIONS_PER_STEP = 100_000
# Roots on the interpolant, relative to the step.
ROOT_XTOL = 1e-15

# Older SciPy keeps LSODA's state in static variables: one run at a time.
_LSODA_LOCK = threading.Lock()


class _BadEvaluation(Exception):
    """The right-hand side is not finite, or a step does not end."""

    def __init__(self, reason: int, component: int = 0) -> None:
        super().__init__(reason)
        self.reason, self.component = reason, component


class _Stopped(Exception):
    """A time limit or a cancellation, met inside a step."""

    def __init__(self, status: Status) -> None:
        super().__init__(status)
        self.status = status


class _Guard:
    """The right-hand side as SciPy calls it, watched."""

    def __init__(self, setup: Setup, raw: Raw) -> None:
        self.setup, self.raw = setup, raw
        self.evaluations, self.since_step = 0, 0
        self.began, self._looked = time.monotonic(), -math.inf

    def __call__(self, t: float, y: Vector) -> Vector:
        self.evaluations += 1
        self.since_step += 1
        self.look()
        # SciPy hands over columns of matrices; the compiled signature asks for contiguous ones.
        out = self.setup.rhs(t, y)
        if not np.all(np.isfinite(out)):
            self.raw.trial[:] = y
            bad = int(np.flatnonzero(~np.isfinite(out))[0])
            raise _BadEvaluation(layout.BY_NONFINITE, bad)
        if self.since_step > EVALUATIONS_PER_STEP:
            raise _BadEvaluation(layout.BY_ERROR)
        return out

    def look(self) -> None:
        """Stop when time is up or the parallel job was cancelled."""
        now = time.monotonic()
        if now - self._looked > min(LOOK_SECONDS, self.setup.timeout):
            self._looked = now
            if now - self.began > self.setup.timeout:
                raise _Stopped(Status.TIMEOUT)
            if is_cancelled():
                raise _Stopped(Status.INTERRUPTED)

    def jacobian(self) -> Any:
        """Return the compiled Jacobian as SciPy calls it, or None (finite differences)."""
        setup = self.setup
        if setup.problem.jacobian is None:
            return None

        def evaluate(t: float, y: Vector) -> NDArray[np.float64]:
            out = np.empty((y.size, y.size))
            setup.problem.jacobian(t, np.ascontiguousarray(y), setup.widths, setup.par, out)
            return out

        return evaluate


def march_implicit(setup: Setup) -> Raw:
    """Integrate with the SciPy method that `setup.method` names."""
    raw = Raw(setup.t_start, setup.start.copy(), setup.start.copy(), Sink(setup))
    walk = _Walk(setup, raw)
    with _LSODA_LOCK if setup.method == "LSODA" else nullcontext():
        try:
            with Progress(setup.progress, "solve") as bar, np.errstate(all="ignore"):
                walk.run(bar)
        except KeyboardInterrupt:
            raw.stopped = Status.INTERRUPTED
        except _Stopped as stop:
            raw.stopped = stop.status
    raw.statistics = {
        "steps": walk.steps,
        "rejected": walk.restarts,
        "evaluations": walk.guard.evaluations,
        "band_steps": walk.band_steps,
        "seconds": time.monotonic() - walk.guard.began,
    }
    return raw


class _Walk:
    """One run: steps, restarts, events, saved points."""

    def __init__(self, setup: Setup, raw: Raw) -> None:
        self.setup, self.raw = setup, raw
        self.guard = _Guard(setup, raw)
        self.watch = _Watch(setup)
        self.steps = self.restarts = self.band_steps = self.tiny = 0
        self.next_save = 0
        if setup.save is not None:
            self.next_save = int(np.searchsorted(setup.save, setup.t_start, side="right"))

    def run(self, bar: Progress) -> None:
        """Step until something ends the run."""
        solver: OdeSolver | None = None
        h = self.setup.first_step
        while self.raw.outcome == layout.RUNNING and self.raw.stopped is None:
            if self.steps + self.restarts >= self.setup.max_steps:
                self.raw.stopped = Status.MAX_STEPS
                return
            begun = self.raw.t
            try:
                if solver is None:
                    solver = self._fresh(h)
                self._advance(solver)
            except _BadEvaluation as error:
                h = self._shorten(solver, h, error)
                solver = None
                continue
            h = self.raw.t - begun
            done = (self.raw.t - self.setup.t_start) / (self.setup.t_end - self.setup.t_start)
            bar.update(done, f"t = {self.raw.t:.4g}, {self.steps} steps")
            self.guard.look()

    def _fresh(self, h: float | None) -> OdeSolver:
        setup, raw = self.setup, self.raw
        options: dict[str, Any] = {"rtol": setup.rtol, "atol": setup.atol}
        options["max_step"] = setup.max_step
        options["jac"] = self.guard.jacobian()
        if h is not None:
            options["first_step"] = min(h, setup.t_end - raw.t)
        self.guard.since_step = 0
        method: Any = SOLVERS[setup.method]
        solver: OdeSolver = method(self.guard, raw.t, raw.y.copy(), setup.t_end, **options)
        return solver

    def _advance(self, solver: OdeSolver) -> None:
        """Take one SciPy step and accept it, or raise `_BadEvaluation`."""
        self.guard.since_step = 0
        try:
            solver.step()
        except (np.linalg.LinAlgError, ValueError) as error:
            # LAPACK refuses matrices that hold NaN.
            raise _BadEvaluation(layout.BY_NONFINITE, self.raw.component) from error
        t, y = float(solver.t), np.array(solver.y, dtype=np.float64)
        if not np.all(np.isfinite(y)):
            raise _BadEvaluation(layout.BY_NONFINITE, int(np.flatnonzero(~np.isfinite(y))[0]))
        if solver.status == "failed":
            raise _BadEvaluation(layout.BY_ERROR)
        # LSODA alone never evaluates a state that it accepts, so ask here.
        self.guard(t, y)
        self._check_domain(y)
        length = t - self.raw.t
        self.tiny = self.tiny + 1 if length <= layout.STEP_ULPS * abs(t) else 0
        self._accept(solver, t, y)
        if self.tiny >= TINY_STEPS and self.raw.outcome == layout.RUNNING:
            self.raw.outcome, self.raw.reason = layout.COLLAPSED, layout.BY_ERROR

    def _check_domain(self, y: Vector) -> None:
        domain, setup = self.setup.problem.domain, self.setup
        if domain is None or domain(y, setup.widths, setup.par, 0.0) >= 0.0:
            return
        if domain(y, setup.widths, setup.par, band(setup, y)) >= 0.0:
            self.band_steps += 1
            return
        self.raw.trial[:] = y
        raise _BadEvaluation(layout.BY_DOMAIN)

    def _accept(self, solver: OdeSolver, t: float, y: Vector) -> None:
        setup, raw, begun = self.setup, self.raw, self.raw.t
        self.steps += 1
        raw.t, raw.y = t, y
        dense = None
        if setup.events:
            dense = solver.dense_output()
            self.watch.scan(dense, begun, raw)
        self._save(solver, dense)
        if raw.outcome == layout.RUNNING and float(np.max(np.abs(y), initial=0.0)) > setup.bound:
            raw.outcome = layout.BOUND
        if raw.outcome == layout.RUNNING and t >= setup.t_end:
            raw.outcome = layout.REACHED

    def _save(self, solver: OdeSolver, dense: Any) -> None:
        raw, save = self.raw, self.setup.save
        if save is None:
            raw.sink.add(np.array([raw.t]), raw.y[None, :].copy(), np.array([self.steps]))
            return
        last = int(np.searchsorted(save, raw.t, side="right"))
        if last > self.next_save:
            times = save[self.next_save : last].copy()
            dense = dense or solver.dense_output()
            rows = np.ascontiguousarray(dense(times).T)
            raw.sink.add(times, rows, np.full(times.size, self.steps))
            self.next_save = last

    def _shorten(self, solver: OdeSolver | None, h: float | None, error: _BadEvaluation) -> float:
        """Choose the step of a restart; without room for one, end the run."""
        raw = self.raw
        self.restarts += 1
        raw.reason, raw.component = error.reason, error.component
        tried = getattr(solver, "h_abs", None) if solver is not None else None
        room = self.setup.t_end - self.raw.t
        shorter = RESTART_FACTOR * min(x for x in (h, tried, room) if x is not None and x > 0)
        if shorter <= max(layout.STEP_ULPS * abs(raw.t), 1e-300):
            raw.outcome = layout.COLLAPSED
        return shorter


class _Watch:
    """Event functions along SciPy's interpolants, found and located as in the compiled loop."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.side: Vector | None = None

    def gaps(self, t: float, y: Vector) -> Vector:
        """All event functions at one state."""
        return event_gaps(self.setup, t, y)

    def scan(self, dense: Any, begun: float, raw: Raw) -> None:
        """Record the crossings of the last step; a terminal one ends the run at its time."""
        if self.side is None:
            self.side = np.sign(self.gaps(self.setup.t_start, self.setup.start))
        times = np.linspace(begun, raw.t, layout.SCAN + 1)
        values = np.array([self.gaps(t, dense(t)) for t in times])
        hits: list[tuple[float, int]] = []
        for e in range(values.shape[1]):
            hits += [(t, e) for t in self._crossings(dense, times, values[:, e], e)]
        for t, e in sorted(hits):
            raw.event_t.append(t)
            raw.event_y.append(np.array(dense(t)))
            raw.event_id.append(e)
            if self.setup.events[e].terminal:
                raw.t, raw.y, raw.outcome = t, np.array(dense(t)), layout.EVENT
                return

    def _crossings(self, dense: Any, times: Vector, values: Vector, e: int) -> list[float]:
        found: list[float] = []
        points = [(t, g) for t, g in zip(times, values, strict=True) if np.isfinite(g)]
        points = self._with_turns(dense, points, e)
        side, direction = self.side, self.setup.events[e].direction
        assert side is not None
        for (t0, g0), (t1, g1) in pairwise(points):
            if side[e] == 0.0:
                side[e] = np.sign(g1)
            elif g1 * side[e] <= 0.0:
                if direction * side[e] <= 0:
                    found.append(self._root(dense, e, (t0, g0), (t1, g1)))
                side[e] = -side[e]
        return found

    def _root(
        self, dense: Any, e: int, left: tuple[float, float], right: tuple[float, float]
    ) -> float:
        if left[1] * right[1] >= 0.0:
            return right[0] if right[1] == 0.0 else left[0]
        xtol = max(ROOT_XTOL * (right[0] - left[0]), 1e-300)
        root = brentq(lambda t: self.gaps(t, dense(t))[e], left[0], right[0], xtol=xtol)
        return float(root)

    def _with_turns(
        self, dense: Any, points: list[tuple[float, float]], e: int
    ) -> list[tuple[float, float]]:
        """Add the turning points of parabolas through three scan points that approach zero."""
        extra = []
        for (t0, g0), (t1, g1), (t2, g2) in zip(points, points[1:], points[2:], strict=False):
            bend = g0 - 2.0 * g1 + g2
            if g0 * g1 > 0.0 and g1 * g2 > 0.0 and bend * g1 > 0.0:
                t = t1 + 0.25 * (t2 - t0) * (g0 - g2) / bend
                if t0 < t < t2:
                    extra.append((t, float(self.gaps(t, dense(t))[e])))
        return sorted({*points, *extra})
