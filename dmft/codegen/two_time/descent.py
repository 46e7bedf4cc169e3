"""From the equations of a descent to what its solver takes: samples and recursions, compiled."""

from __future__ import annotations

from dmft.codegen.two_time.process import build_process
from dmft.codegen.two_time.sample import build_sample, parameter_order, sample_source
from dmft.equations.two_time.descent import DescentEquations
from dmft.solvers.descent.process import DescentProblem


def build_descent(equations: DescentEquations) -> DescentProblem:
    """Compile the functions of a descent, or load them from the cache."""
    process, module = build_process(equations), build_sample(equations)
    return DescentProblem(
        labels=module.labels,
        sample=module.sample,
        process=process,
        parameters=tuple(equations.parameters),
        scalars=tuple(parameter_order(equations)),
        source=f"{sample_source(equations)}\n\n{process.source}",
        time_unit=equations.time_unit,
        origin=equations,
    )
