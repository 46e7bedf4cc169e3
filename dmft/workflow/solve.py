"""`solve`: from equations (or a problem) and a start to a trajectory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache, cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import ArrayLike

from dmft.errors import BadParameter
from dmft.initial_conditions import Alignment, Overlaps
from dmft.progress import ProgressOption, as_asked
from dmft.record import worded
from dmft.solvers.events import Event
from dmft.solvers.solution import Solution
from dmft.validation import checked_or

if TYPE_CHECKING:
    from dmft.equations.equations import Equations
    from dmft.equations.two_time.descent import DescentEquations
    from dmft.equations.two_time.network import NetworkEquations
    from dmft.equations.two_time.problem import TwoTime
    from dmft.laws import Law
    from dmft.solvers.problem import Problem
    from dmft.solvers.stochastic.ensemble import PathEnsemble
    from dmft.solvers.trajectory import Trajectory
    from dmft.solvers.two_time.descent_process import DescentProblem
    from dmft.solvers.two_time.run import DescentRun, NetworkRun, TwoTimeRun
    from dmft.solvers.two_time.thinned import VolterraProblem

# What is asked for by default; solvers that have no such option refuse anything else.
RTOL, ATOL, MAX_STEPS, QUADRATURE_TOL = 1e-8, 1e-10, 1_000_000, 1e-5


@overload
def solve(
    system: DescentEquations | DescentProblem, start: Overlaps, t_max: float, **options: Any
) -> DescentRun: ...
@overload
def solve(
    system: TwoTime | VolterraProblem, start: None, t_max: float, **options: Any
) -> TwoTimeRun: ...
@overload
def solve(
    system: NetworkEquations,
    start: Law | float | Sequence[Law | float],
    t_max: float,
    **options: Any,
) -> NetworkRun: ...
@overload
def solve(
    system: Equations | Problem,
    start: Overlaps | Alignment | Sequence[Overlaps] | None,
    t_max: float,
    **options: Any,
) -> Trajectory | PathEnsemble: ...


@checked_or(
    system="equations come from dmft.derive(model, algorithm)",
    start="lists of starts are for equations of kind 'sde'",
)
def solve(
    system: Equations | DescentEquations | TwoTime | NetworkEquations | Problem
    | DescentProblem | VolterraProblem,
    start: Overlaps | Alignment | Law | float | Sequence[Overlaps | Law | float] | None,
    t_max: float,
    *,
    method: str | None = None,
    rtol: float = RTOL,
    atol: float = ATOL,
    save_at: int | ArrayLike | None = None,
    events: Event | Sequence[Event] = (),
    progress: ProgressOption = None,
    max_steps: int = MAX_STEPS,
    timeout: float | None = None,
    quadrature_tol: float = QUADRATURE_TOL,
    t_start: float | None = None,
    **parameters: Any,
) -> Solution:  # fmt: skip
    r"""Integrate equations of motion from a start to the time `t_max`.

    Shapes      start Q (p, p), M (p, k), P (k, k); result Q (T, p, p), M (T, p, k),
                readout (T, p), risk (T,), t (T,)
    Scaling     t = steps * learning_rate / (p d); `run.steps(dim)` converts
    Valid for   any closed `Equations`; the status shows whether the run reached `t_max`

    Parameters
    ----------
    system : Equations, DescentEquations, NetworkEquations, TwoTime, or the result of `dmft.build`
        Equations to integrate.
    start : Overlaps
        Initial overlaps. For sequence models an `Alignment`; for a `RandomNetwork` a number or a
        law of `dmft.laws`; for a `TwoTime`, which contains its start, None. For a stochastic
        differential equation (SDE) also a list with one start per path, or None for random starts
        (drawn by `random_overlaps`, or uniform on the sphere under that constraint).
    t_max : float
        Final time of the run (not its length).
    method : {"rk5", "rk8", "BDF", "Radau", "LSODA"} or, for an SDE, {"euler", "weak2"}
        - "rk5" (the default) and "rk8" (the default for averages of smooth functions on nodes):
          explicit Runge-Kutta methods of order 5 and 8, compiled. If `method` is not given and
          stability instead of accuracy limits the steps of a long run, the solver switches to "BDF"
          (`run.message` reports the time);
        - "BDF": backward differentiation, compiled; "Radau" and "LSODA": the methods of SciPy;
        - "euler" (the default for an SDE) and "weak2": Euler-Maruyama and a scheme of weak order 2.

        Not available for maps.
    rtol, atol : float
        Tolerances: the error per step is kept below atol + rtol |y|.
    save_at : None, int or (T,) array
        Times to save: None for each accepted step, n for n equidistant times, or an array of times
        (for example from `np.geomspace`).
    events : dmft.Event or sequence of them
        Thresholds on the risk, on overlaps, on a formula or a function of these, or on the time.
        Crossings are located on the dense output. The first crossing of an event ends the run,
        unless the event has ``terminal=False``.
    progress : None, bool or callable
        By default a progress bar is shown after two seconds if the output is a terminal.
    max_steps, timeout
        Limits on the number of steps and on the computing time in seconds, which is checked about
        every 0.1 s. A run that exceeds a limit ends with the status "max_steps" or "timeout".
        If averages are computed on nodes, the limits apply to each refinement separately.
    quadrature_tol : float
        Tolerance of averages that are computed by quadrature on nodes: the number of nodes is
        increased until the estimated error of every saved overlap and of the risk is below this
        value (see Notes).
    t_start : float, optional
        Initial time. By default 0, or, if a schedule depends on t, the time stored in `start`
        (``run.final`` stores its time), so that the schedule continues.
    **parameters
        Run-time values: ``learning_rate=``, ``label_noise=`` and the symbols of the model. The
        learning rate can depend on time and risk (for a rule of vectors, every parameter on time,
        scalars and measures). It is then an expression in ``sympy.Symbol("t")``
        and ``sympy.Symbol("risk")``, a string (``"0.5/(1 + t/10)"``), or a function of both that
        accepts SymPy symbols. See Notes for further options.

    Returns
    -------
    Trajectory
        The run. `run.final` is a valid start, and `run.error` contains the error of averages and
        the rounding error of closed forms. It is None if the equations are exact to 1e-10.
    PathEnsemble, DescentRun, NetworkRun or TwoTimeRun
        For an SDE, a descent on repeated data, a `RandomNetwork` and a `TwoTime`, respectively.

    Raises
    ------
    BadParameter, ShapeMismatch, InvalidCovariance, NotClosed

    Notes
    -----
    Options of some kinds of equations:

    - an SDE: ``paths=`` (their number), ``dt=`` (the step in t), ``seed=``, ``threads=``,
      ``bridge=`` (crossings within a step), ``keep_paths=``, ``substeps=``, ``increments=``
      (`dmft.solvers.stochastic.paths.solve_paths`);
    - averages on nodes: ``nodes=`` (a fixed number of them, or of terms, see below),
      ``replicas=`` (independent sets of nodes), ``seed=``;
    - `TwoTime`: ``tol=``, ``thin=``, ``checkpoint=`` and more
      (`dmft.workflow.solving.two_time.TwoTimeOptions`);
    - `RandomNetwork`: ``dt=``, ``paths=``, ``sweeps=`` and more
      (`dmft.workflow.solving.network.NetworkOptions`);
    - `GradientDescent`: `dmft.workflow.solving.descent_nodes.DescentOptions`, and for a gradient
      flow `dmft.workflow.solving.descent_flow.FlowOptions`.

    In the terms quadratic in the learning rate, tanh and similar sigmoids are approximated by sums
    of error functions, whose averages have closed forms; ``nodes=`` (4 to 9) is then the number of
    terms of a sum. `run.message` reports if the largest number of nodes is reached. For activations
    with kinks, averages on nodes are discontinuous in the overlaps. Therefore rtol is at least
    0.1 * quadrature_tol, and atol at least 1e-3 * quadrature_tol. For sequence models with the norm
    as loss, which has a cone at y = f, `quadrature_tol` is at least 5e-3, rtol 1e-5 and atol 1e-7.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> eqs = dmft.derive(dmft.literature.phase_retrieval(1), dmft.SGD(0.05, constraint="sphere"))
    >>> run = dmft.solve(eqs, dmft.Overlaps([[1.0]], [[0.1]], [[1.0]]), t_max=3.0)
    >>> str(run.status), bool(run.risk[-1] < 1e-3)
    ('ok', True)

    A learning rate that decreases with the risk:

    >>> run = dmft.solve(
    ...     eqs, dmft.Overlaps([[1.0]], [[0.1]]), t_max=3.0, learning_rate=sp.Symbol("risk") / 20
    ... )
    >>> bool(np.all(np.diff(run.steps(dim=1000)) > 0))
    True
    """
    given = {
        name: value
        for name, value, default in (
            ("method", method, None), ("rtol", rtol, RTOL), ("atol", atol, ATOL),
            ("save_at", save_at, None), ("events", events, ()), ("progress", progress, None),
            ("max_steps", max_steps, MAX_STEPS), ("timeout", timeout, None),
            ("quadrature_tol", quadrature_tol, QUADRATURE_TOL), ("t_start", t_start, None),
        )
        if value is not default and (isinstance(value, np.ndarray) or value != default)
    }  # fmt: skip
    solver = solver_of(system)
    options, values = solver.read(given, as_expressions(system, parameters))
    if progress is not False:
        return solver.run(system, start, t_max, options, values)
    with as_asked(progress):
        return solver.run(system, start, t_max, options, values)


# Where the solver of each kind stands; it is loaded when first asked for.
SOLVERS = {
    "ode": "dmft.workflow.solving.one_pass",
    "map": "dmft.workflow.solving.one_pass",
    "sde": "dmft.workflow.solving.paths",
    "descent": "dmft.workflow.solving.descent_runs",
    "flow": "dmft.workflow.solving.descent_flow",
    "two-time": "dmft.workflow.solving.two_time",
    "network": "dmft.workflow.solving.network",
}


@dataclass(frozen=True)
class Options:
    """Options that most kinds of equations have, each with more of its own."""

    method: str | None = None
    save_at: int | ArrayLike | None = None
    events: Event | Sequence[Event] = ()
    progress: ProgressOption = None
    timeout: float | None = None
    t_start: float | None = None


@dataclass(frozen=True)
class Solver:
    """How one kind of equations is solved.

    `what` is the kind in words, and `instead` what there is in place of the options of others, for
    refusals; `options` is a dataclass that checks them, all with defaults; `run` takes (system,
    start, t_max, options, values), the run-time values by name.
    """

    what: str
    options: type[Any]
    run: Callable[[Any, Any, Any, Any, Mapping[str, Any]], Solution]
    instead: str = ""

    @cached_property
    def known(self) -> frozenset[str]:
        """Names of its options."""
        return frozenset(one.name for one in fields(self.options))

    def read(
        self, given: Mapping[str, Any], parameters: Mapping[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """Options of the call, and the run-time values among its keywords."""
        known = self.known
        if not given.keys() <= known:
            unused = [f"{name}=" for name in given if name not in known]
            raise BadParameter(f"{self.what} have no option {', '.join(unused)}{self.instead}")
        mine = {name: value for name, value in parameters.items() if name in known}
        values = {name: value for name, value in parameters.items() if name not in known}
        return self.options(**given, **mine), values


def equations_of(system: Any) -> Any:
    """What a problem was built from; equations, and problems written by hand, as they are."""
    return getattr(system, "origin", None) or system


def declared(system: Any) -> dict[str, Any]:
    """What equations were declared with, in words: numbers too, which no fingerprint holds."""
    system = equations_of(system)
    system = getattr(system, "equations", system)  # descents of a flow
    own = {"model": system} if type(system).__module__.startswith("dmft.model") else {}
    names = ("model", "algorithm", "kind", "scaling", "dim")
    parts = {n: y for n in names if (y := getattr(system, n, own.get(n))) is not None}
    changes = getattr(system, "changes", None)
    lines = "\n".join(changes.lines) if changes else ""
    return {name: _fields(value) for name, value in parts.items()} | {"changes": lines}


def _fields(value: Any) -> Any:
    """The fields of a declaration; anything else in one word."""
    from dmft.analysis.sweeps.named import word_of

    if not is_dataclass(value):
        return word_of(value)
    held = {one.name: worded(getattr(value, one.name), word_of) for one in fields(value)}
    return {"class": type(value).__name__, **held}


def as_expressions(system: Any, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """Run-time values with texts and functions of the time as expressions."""
    if not any(isinstance(value, str) or callable(value) for value in parameters.values()):
        return parameters
    from dmft.emit.quantities import as_expressions as followed

    declared = getattr(equations_of(system), "parameters", ())
    return followed(parameters, {"learning_rate", *declared})


def solver_of(system: Any) -> Solver:
    """The solver of a system, or the refusal of what is none."""
    origin = equations_of(system)
    kind = getattr(origin, "stepper", getattr(origin, "kind", None))
    if kind not in SOLVERS:
        raise BadParameter(f"expected dmft.Equations or a Problem, got {type(system).__name__}")
    return _solver(SOLVERS[kind])


@cache
def _solver(module: str) -> Solver:
    found: Solver = import_module(module).SOLVER
    return found
