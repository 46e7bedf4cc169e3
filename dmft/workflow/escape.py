"""`escape_time`: when a run, or equations from a start, escape."""

from __future__ import annotations

from typing import Any

from dmft.analysis.escape import Censored, EscapeTime, escape_time_of, escape_time_of_problem
from dmft.equations import Equations
from dmft.errors import BadParameter
from dmft.model import Overlaps
from dmft.solvers.problem import Problem
from dmft.solvers.trajectory import Trajectory
from dmft.workflow.inputs import problem_of, run_inputs, split_options


def escape_time(
    run_or_equations: Trajectory | Equations | Problem,
    start: Overlaps | None = None,
    t_max: float | None = None,
    *,
    fraction: float = 0.5,
    reference: str = "start",
    overlap: float | None = None,
    **options: Any,
) -> EscapeTime | Censored:
    r"""First time at which the risk has fallen by a fraction, or an overlap has grown.

    Equation    first t with risk(t) <= (1 - fraction) * reference risk; with `overlap=c`, the
                first t with max_jr |M_jr| / sqrt(Q_jj P_rr) >= c
    Scaling     t of the equations; `.steps(dim)` converts where there are steps
    Valid for   a threshold crossed within the run; else a `Censored` record with the horizon.
                The crossing is located on the dense output, never on the saved points, of a run
                at rtol = 1e-11 and atol = 1e-15 (unless you pass your own)
    Source      one_pass.md F; the plateau is where |d log risk / d log t| is smallest

    Parameters
    ----------
    run_or_equations : Trajectory, Equations or Problem
        A solved run is followed again to its last time; equations need `start` and `t_max`.
    start : Overlaps
    t_max : float
    fraction : float in (0, 1)
    reference : {"start", "plateau"}
    overlap : float in (0, 1], optional
        Measure by the largest cosine between a student and a teacher direction.
    **options
        Solver options and run-time parameters, as for `dmft.solve`.

    Warns
    -----
    EscapeWarning
        When the threshold is met while the run still relaxes, before anything is learned.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> square = dmft.Committee(sp.Symbol("z", real=True)**2, width=1)
    >>> eqs = dmft.derive(dmft.Model(square, square), dmft.SGD(0.05, constraint="sphere"))
    >>> run = dmft.solve(eqs, dmft.Overlaps([[1.0]], [[0.1]], [[1.0]]), t_max=3.0)
    >>> round(dmft.escape_time(run, fraction=0.5).value, 6)
    0.824129
    """
    if isinstance(run_or_equations, Trajectory):
        if start is not None or t_max is not None or options:
            raise BadParameter(
                "a solved run brings its own start, horizon and options; pass the equations to "
                "change them"
            )
        return escape_time_of(run_or_equations, fraction, reference, overlap)
    problem = problem_of(run_or_equations)
    if start is None or t_max is None:
        raise BadParameter("escape_time of equations needs start= and t_max=")
    solver, parameters = split_options(options)
    inputs = run_inputs(run_or_equations, start, parameters)
    return escape_time_of_problem(
        problem,
        inputs.pop("state"),
        t_max,
        fraction=fraction,
        reference=reference,
        overlap=overlap,
        **inputs,
        **solver,
    )
