r"""Gradient flow on repeated data: the two-time equations of descent as its steps go to zero.

In the time eta * steps, sums over times become integrals: off the diagonal R_theta and R_l are eta
times a density, R_theta begins at -1, and R_l keeps a part at equal times (theory/batch_reuse B.3).
Descent with a finite step is the Euler scheme of these equations, with an error that has a clean
expansion in the step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.equations.averages.expectation import Expectation
from dmft.equations.definitions import Definition, base_name
from dmft.equations.two_time.changes import ChangesOfLimit
from dmft.equations.two_time.descent import DescentEquations, TwoTimePrinter, derive_descent
from dmft.equations.two_time.descent_process import BLOCKS
from dmft.equations.two_time.flow_limit import (
    equal_response_of,
    flow_definitions,
    kick_of,
)
from dmft.equations.two_time.written.problem import TwoTime
from dmft.equations.views.latex import align, definition_latex
from dmft.equations.views.text import functions_text, model_names
from dmft.errors import BadParameter
from dmft.model import Model, Overlaps
from dmft.model.descent import TIME, GradientDescent
from dmft.record import Short


@dataclass(frozen=True, repr=False)
class DescentFlow(Short, ChangesOfLimit):
    """Equations of gradient flow on repeated data, of kind "two-time".

    Attributes
    ----------
    equations : DescentEquations
        Descent with finite steps, whose limit this is: what is run.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> line = dmft.Committee(sp.Symbol("z", real=True), width=1)
    >>> descent = dmft.GradientDescent(1, samples_per_dim=2, ridge=0.1)
    >>> flow = dmft.derive(dmft.Model(line, line), descent, scaling="gradient-flow")
    >>> flow.kind, sorted(flow.terms["M"])
    ('two-time', ['decay', 'learning'])
    """

    family: ClassVar[str] = "flow"

    equations: DescentEquations
    kind: str = field(default="two-time", init=False)
    time_unit: str = field(
        default="t = learning_rate * steps, learning_rate -> 0; n = alpha d samples", init=False
    )

    def _in_words(self) -> str:
        return f"{self.kind}; {self.time_unit}; {self.equations.algorithm!r}"

    @cached_property
    def definitions(self) -> tuple[Definition, ...]:
        """The field of a sample; rates of M, R_theta and C_theta in the first time.

        On the sphere what keeps the lengths comes before the rates: `multiplier`, half the rate at
        which the squared length of a free row would grow.

        They are the limit of the process that is run: a term that changes there changes here.
        """
        return flow_definitions(self._process)

    @property
    def kick(self) -> sp.Expr:
        """R_theta just after s: what a force on the weights does at once."""
        return kick_of(self._process)

    @property
    def equal_response(self) -> Definition:
        """R_l at equal times, where the gradient moves with its own field."""
        return equal_response_of(self._process)

    @property
    def _process(self) -> dict[sp.IndexedBase, Definition]:
        return {d.target.base: d for d in self.equations.process}

    @property
    def model(self) -> Model:
        """What is learned by whom."""
        return self.equations.model

    @property
    def algorithm(self) -> GradientDescent:
        """The descent of which this is the limit."""
        return self.equations.algorithm

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the symbolic content."""
        return f"flow-{self.equations.fingerprint}"

    @property
    def terms(self) -> dict[str, dict[str, sp.Expr]]:
        """Named terms of each rate."""
        return {BLOCKS.get(d.name, d.name): dict(d.terms) for d in self.definitions}

    def evaluate(
        self,
        start: Overlaps,
        steps: int = 1,
        *,
        step: float = 0.01,
        points: NDArray[np.float64] | None = None,
        **parameters: Any,
    ) -> dict[str, NDArray[np.float64]]:
        """Overlaps and kernels after the first Euler steps, as `DescentEquations.evaluate`.

        Parameters
        ----------
        start : Overlaps
            Q (p, p), M (p, k), P (k, k).
        steps : int
            Of Euler's method.
        step : float
            Length of each in time.
        points : (k + p steps + 1, S) array, optional
            Standard normals of the samples, as of `DescentEquations.evaluate`.
        **parameters
            Run-time values, as for `dmft.solve`.

        Returns
        -------
        dict of str to ndarray
            M, Q, kernels and losses of the steps.

        Raises
        ------
        BadParameter, ShapeMismatch

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> line = dmft.Committee(sp.Symbol("z", real=True), width=1)
        >>> descent = dmft.GradientDescent(1, samples_per_dim=2, ridge=0.1)
        >>> flow = dmft.derive(dmft.Model(line, line), descent, scaling="gradient-flow")
        >>> start = dmft.Overlaps([[1.0]], [[0.0]])
        >>> flow.evaluate(start, 1, step=0.1)["M"].shape
        (2, 1, 1)
        """
        given = with_step(parameters, step)
        return self.equations.evaluate(start, steps, points=points, **given)

    def closed(self, start: Overlaps, **parameters: Any) -> TwoTime:
        r"""The same flow without samples, where students and targets are affine.

        Equation    rates of M, C and R as they stand, with N = E[g h*], D = E[g g] and K, the
                    response of g, from integral equations of the Gaussian process of the fields
        Shapes      functions of one or two times for each entry: "C_12(t, s)"; "C(t, s)" of one
                    unit on one. Correlations of later times first: C_12(t, s) with t >= s
        Scaling     the time of the flow; C is the overlap outside of the teacher,
                    Q(t, s) = C(t, s) + M(t) P^+ M(s)^T; on the sphere nu is what keeps lengths
        Valid for   affine students and targets, squared loss, inputs of one cluster; d -> infinity
        Source      theory/batch_reuse A.1, B.3

        Parameters
        ----------
        start : Overlaps
        **parameters
            Values, or expressions in the time t; symbols without one are given to `dmft.solve`.

        Returns
        -------
        TwoTime
            `dmft.solve` takes it without a start: ``dmft.solve(problem, None, t_max)``.

        Raises
        ------
        BadParameter, ShapeMismatch

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> line = dmft.Committee(sp.Symbol("z", real=True), width=1)
        >>> descent = dmft.GradientDescent(1, samples_per_dim=2, ridge=0.1)
        >>> flow = dmft.derive(dmft.Model(line, line, 0.3), descent, scaling="gradient-flow")
        >>> problem = flow.closed(dmft.Overlaps([[1.0]], [[0.2]]))
        >>> run = dmft.solve(problem, None, 1.0)
        >>> bool(abs(run.M[-1] - 0.7574181) < 1e-5)
        True
        """
        from dmft.equations.two_time.gaussian_flow import gaussian_flow

        return gaussian_flow(self, start, parameters)

    def latex(self) -> str:
        r"""LaTeX of the field, of the rates and of what closes them.

        Returns
        -------
        str

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> line = dmft.Committee(sp.Symbol("z", real=True), width=1)
        >>> descent = dmft.GradientDescent(1, samples_per_dim=2, ridge=0.1)
        >>> flow = dmft.derive(dmft.Model(line, line), descent, scaling="gradient-flow")
        >>> r"\mathrm{d}" in flow.latex() or r"\partial" in flow.latex()
        True
        """
        printer = FlowPrinter(model_names(self.model, r"\sigma", r"\sigma_*"))
        lines = []
        for d in self.definitions:
            shown = Definition(d.target, d.terms, "intermediate")
            rows = definition_latex(shown, printer)
            if d.role == "rate":
                target, rest = rows[0].split(" &= ", 1)
                rows[0] = rf"\partial_t {target} &= {rest}"
            lines += rows
        limits = [rf"R^{{\theta}}_{{j l}}(s^+, s) &= {printer.doprint(self.kick)}"]
        for d in self.equations.process:
            if d.expr.has(Expectation):
                limits += definition_latex(replace(d, role="intermediate"), printer)
        at_once = definition_latex(self.equal_response, printer)
        rest = self.equations.latex_of_sample()
        return "\n".join([f"% {self.time_unit}", align(lines), align([*limits, *at_once]), rest])

    def _repr_latex_(self) -> str:
        return self.latex().split("\n", 1)[1]

    def __str__(self) -> str:
        lines = [f"Equations of gradient flow on repeated data; {self.time_unit}"]
        for d in self.definitions:
            left = f"d {d.target}/dt" if d.role == "rate" else f"{d.target}"
            lines.append(f"  {left} = {d.expr}")
        return "\n".join([*lines, "  " + functions_text(self.model)])


class FlowPrinter(TwoTimePrinter):
    """The response at equal times has one time, and so has what keeps lengths."""

    def _print_Indexed(self, expr: sp.Indexed) -> str:
        if base_name(expr) == "R_l_equal":
            time, *neurons = (self._print(y) for y in expr.indices)
            return rf"R^{{\ell}}_{{{' '.join(neurons)}}}({time})"
        if base_name(expr) == "multiplier":
            time, neuron = (self._print(y) for y in expr.indices)
            return rf"\nu_{{{neuron}}}({time})"
        return super()._print_Indexed(expr)


def derive_flow(model: Model, algorithm: GradientDescent) -> DescentFlow:
    """Limit of the equations of descent as the learning rate goes to zero.

    Raises
    ------
    BadParameter
        For batches, momentum, noise and trained readouts, with the reason.
    """
    reasons = {
        "batch": ("parts of the samples average out", algorithm.batch is not None),
        "momentum": ("momentum only divides time by 1 - momentum", algorithm.momentum != 0),
        "temperature": (
            "noise is added in finite steps: derive the descent, with a small one",
            algorithm.temperature != 0,
        ),
        "readout_rate": (
            "readouts and weights move at unrelated rates", algorithm.readout_rate != 0
        ),
    }  # fmt: skip
    for name, (reason, given) in reasons.items():
        if given:
            raise BadParameter(
                f'{name} = {getattr(algorithm, name)!r} with scaling="gradient-flow": as the '
                f"learning rate goes to zero, {reason}; leave it out"
            )
    return DescentFlow(derive_descent(model, algorithm))


def with_step(values: Mapping[str, Any], step: float) -> dict[str, Any]:
    """Run-time values of the descent that steps through the flow; schedules at its time."""
    if "learning_rate" in values:
        raise BadParameter("gradient flow has no learning_rate: its time is learning_rate * steps")
    return {name: _at_steps(y, step) for name, y in values.items()} | {"learning_rate": step}


def _at_steps(value: Any, step: float) -> Any:
    """An expression in the time t of a flow as one in the number of steps."""
    if not isinstance(value, sp.Expr):
        return value
    return value.xreplace({y: step * y for y in value.free_symbols if y.name == TIME})
