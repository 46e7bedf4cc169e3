r"""Gradient descent on samples that are used again: the closed two-time equations.

As d grows, one sample sees its local fields as an effective process h^t: pulled by the teacher,
driven by a Gaussian process r^t with the covariance C_theta of the weights, and by its own past
gradients g^s through the response R_theta of the weights. The weights in turn feel the samples
through the covariance C_l and the response R_l of the gradients. Everything is causal: a step
needs kernels of earlier times only (theory/batch_reuse A.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import Expectation
from dmft.equations.averages.passes import lowered
from dmft.equations.definitions import Definition, base_name, define, live, mapped
from dmft.equations.two_time.changes import (
    IndicesInTime,
    Named,
    TwoTimeEquations,
    as_expression,
    whole_numbers,
)
from dmft.equations.two_time.curvature import curvature
from dmft.equations.two_time.descent_process import (
    BATCH_LAWS,
    BLOCKS,
    EVERY_ARRAY,
    FREE,
    PARAMETERS,
    SYMBOLS_LATEX,
    C_r,
    C_theta,
    Descent,
    R_theta,
    TwoTimePrinter,
    at_time,
    chosen,
    label,
    law_of_teachers,
    loss,
    m,
    output,
    process_definitions,
    q,
    readout,
    s,
    sample_definitions,
    t,
    u,
    zeta,
)
from dmft.equations.two_time.flow_limit import equal_response_of, flow_definitions, kick_of
from dmft.equations.two_time.over_time import with_step
from dmft.equations.update.optimiser import block_definitions
from dmft.equations.update.overlaps import risk_expression
from dmft.equations.user_terms import check_parameter, users_of
from dmft.equations.views.closed import ClosedPrinter
from dmft.equations.views.declared import assigned, at_declared, declared_definitions, unit_widths
from dmft.equations.views.kernels import KERNEL_OPERATIONS, kernels_latex
from dmft.equations.views.latex import definition_latex
from dmft.equations.views.networks import put_in
from dmft.equations.views.paper_units import Subject
from dmft.equations.views.text import model_names, printed_definitions
from dmft.errors import BadParameter
from dmft.gaussian.derivative import derivative
from dmft.model import FIELD, Model, Overlaps
from dmft.model.algorithm import GradientDescent
from dmft.record import Short, in_full
from dmft.typeset.fragment import align
from dmft.typeset.plain import in_letters, plain_text

if TYPE_CHECKING:
    from dmft.equations.two_time.problem import TwoTime


RUNNING = (t, s, u, x.j, x.l, m, x.r, q)
INDICES = "t, s, u = 0, 1, ... (times); j, l, m = 1..p (students); r, q = 1..k (teachers)"
OF_A_SAMPLE = (output, label, loss, zeta, chosen)
STEP_UNIT = "t = steps; n = alpha d samples, used again"
FLOW_UNIT = "t = learning_rate * steps, learning_rate -> 0; n = alpha d samples"
STARTED = (
    r"The initial weights, independent of the samples, give $M$ and $Q$ at time zero, and with "
    r"them $C^{\theta}(0, 0)$; "
    r"$R^{\theta}(t, s) = 0$ for $s \geq t$, and $r$ and $h^*$ are independent."
)
# Length in time of the steps by which a flow is evaluated.
STEP = 0.01
# P of one teacher, in print.
OF_ONE = sp.Symbol("P", positive=True)


@dataclass(frozen=True, repr=False)
class DescentEquations(Short, Descent, TwoTimeEquations):
    """Self-consistent equations of gradient descent on repeated data, of kind "two-time".

    Equations of gradient flow are the limit of small steps. They have the same sample and process,
    and their terms are changed in the same way; `terms`, `definitions` and `latex` then show rates.
    Descent with a finite step is the Euler scheme of the flow, with an error that can be expanded
    in the step (theory/batch_reuse B.3).

    Attributes
    ----------
    model, algorithm
        Source of the derivation.
    sample : tuple of Definition
        Output, label, loss and gradients of one sample, in its local fields: compiled without
        changes.
    process : tuple of Definition
        The field of a sample, the averages over samples (C_l, R_l, g_star, mean_pull), and the
        recursions of M, R_theta, C_theta, Q and of the readout: compiled without changes.
    stepper : "descent" or "flow"
        Unit steps, or their limit.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> relu = dmft.Committee(sp.Max(sp.Symbol("z", real=True), 0), width=1)
    >>> model = dmft.Model(relu, relu)
    >>> eqs = dmft.derive(model, dmft.GradientDescent(0.3, samples_per_dim=3))
    >>> eqs.kind, sorted(eqs.terms["R_theta"])
    ('two-time', ['decay', 'kick', 'memory'])
    >>> descent = dmft.GradientDescent(1, samples_per_dim=2, ridge=0.1)
    >>> flow = dmft.derive(model, descent, scaling="gradient-flow")
    >>> sorted(flow.terms["M"]), sorted(flow.replace({"ridge": 0}).terms["M"])
    (['decay', 'learning'], ['learning'])
    """

    family: ClassVar[str] = "descent"
    scaling = "repeated data"

    @property
    def time_unit(self) -> str:
        """Unit of time, as text."""
        return FLOW_UNIT if self.is_flow else STEP_UNIT

    def _in_words(self) -> str:
        return f"{self.kind}; {self.time_unit}; {self.algorithm!r}"

    @cached_property
    def definitions(self) -> tuple[Definition, ...]:
        """All definitions, samples first; for a flow the field of a sample and the rates.

        On the sphere the terms that keep the lengths precede the rates of a flow: `multiplier`,
        half the rate at which the squared length of a free row would grow.
        """
        return flow_definitions(self.by_base) if self.is_flow else (*self.sample, *self.process)

    def _block_of(self, definition: Definition) -> str:
        return BLOCKS.get(definition.name, definition.name)

    @cached_property
    def equations(self) -> DescentEquations:
        """Descent with finite steps, as it is solved."""
        return replace(self, stepper="descent") if self.is_flow else self

    @cached_property
    def samples_as_derived(self) -> bool:
        """Whether the computation of a sample is the one of model and algorithm."""
        return self.sample == sample_definitions(self.model, self.algorithm)

    @property
    def _signature(self) -> str:
        algorithm, clusters = self.algorithm, self.model.clusters
        return f"{self.stepper} {algorithm.batch} {algorithm.batch_fraction} {clusters}"

    # Terms and their changes --------------------------------------------------------------------

    @property
    def terms(self) -> dict[str, dict[str, sp.Expr]]:
        """Named terms of each definition of the process, then of a sample; of a flow of its rates.

        A flow is changed by the terms of its descents: `equations.terms`.
        """
        return {self._block_of(d): dict(d.terms) for d in self._shown}

    @property
    def _shown(self) -> tuple[Definition, ...]:
        """Definitions with named terms."""
        return self.definitions if self.is_flow else self.stored

    @property
    def described(self) -> dict[str, str]:
        """Model and algorithm."""
        return {"model": in_full(self.model), "algorithm": str(self.algorithm)}

    @property
    def approximation(self) -> str:
        """How averages are computed."""
        return "averages over samples of the effective process"

    @property
    def as_derived(self) -> DescentEquations:
        """The equations before any change."""
        return replace(derive_descent(self.model, self.algorithm), stepper=self.stepper)

    @property
    def is_changed(self) -> bool:
        """Whether terms were added, dropped or replaced since the equations were derived."""
        return self.stored != self.as_derived.stored

    @property
    def _arrays(self) -> tuple[str, ...]:
        """Names of what has entries."""
        left_out = () if self.algorithm.on_sphere else FREE
        return tuple(name for name in EVERY_ARRAY if name not in left_out)

    @property
    def symbols(self) -> dict[str, Any]:
        """Symbols that a term may contain, by name: arrays, parameters, scalars of a sample.

        "h" and "a" are the fields and the readouts that a sample computes with, "h_at" and
        "readout" those over time.
        """
        arrays = {name: sp.IndexedBase(name) for name in self._arrays}
        short = {BLOCKS[name]: arrays[name] for name in ("M_at", "Q_at", "readout_at")}
        scalars = {name: PARAMETERS.get(name, sp.Symbol(name)) for name in self.declared}
        scalars |= {y.name: y for y in (*self.model.parameters, *OF_A_SAMPLE)}
        return {**arrays, **short, "a": x.a, **scalars, "p": x.p, "k": x.k}

    @property
    def indices(self) -> IndicesInTime:
        """Indices by name (times t, s, u; student units j, l, m; teacher units r, q)."""
        blocks = {}
        for d in (*self.sample, *self.process):
            free = {y for i in getattr(d.target, "indices", ()) for y in i.free_symbols}
            blocks[self._block_of(d)] = tuple(y for y in RUNNING if y in free)
        return IndicesInTime(blocks, RUNNING, INDICES)

    @property
    def _scalars(self) -> dict[str, sp.Symbol]:
        table = self.symbols
        return {name: table[name] for name in self.declared}

    def _value(self, name: str, given: object) -> sp.Expr:
        return self._checked("a parameter", given)

    def _rebuilt(self, named: Named, swap: Mapping[sp.Basic, sp.Basic]) -> Self:
        sample, process = (
            tuple(replace(d, terms=tuple(named[self._block_of(d)].items())) for d in y)
            for y in (self.sample, self.process)
        )
        found = replace(self, sample=sample, process=process)
        if self.is_flow:
            _ = found.definitions  # refuses steps that have no limit
        return found

    def _checked(self, block: str, given: object) -> sp.Expr:
        expr, known = as_expression(f"a term of {block}", given), self.symbols
        labels = {y.label for y in expr.atoms(sp.IndexedBase)}
        scalars = {n: y for n, y in known.items() if isinstance(y, sp.Symbol)}
        scalars |= self.indices.names
        free = {y for y in expr.free_symbols if isinstance(y, sp.Symbol)} - labels
        expr = expr.xreplace({y: scalars[y.name] for y in free if y.name in scalars})
        for entry in expr.atoms(sp.Indexed):
            if base_name(entry) not in self._arrays:
                raise BadParameter(
                    f"{entry} in a term of {block} is not an array of these equations: "
                    f"{', '.join(self._arrays)}"
                )
        self._refuse_free(block, expr, RUNNING, ("index", "sum"))
        for y in sorted(free, key=str):
            if y.name not in scalars and y.name not in users_of(self.declared):
                check_parameter(y, known)
        return expr

    # Numbers and print --------------------------------------------------------------------------

    def evaluate(
        self,
        start: Overlaps,
        steps: int = 1,
        *,
        step: float | None = None,
        points: NDArray[np.float64] | None = None,
        times: NDArray[np.float64] | None = None,
        **parameters: Any,
    ) -> dict[str, NDArray[np.float64]]:
        """Evaluate overlaps and kernels of the first steps with NumPy.

        Shapes      as for a `DescentRun` of these steps; responses by Stein's identity
        Valid for   a reference for small systems, slow and plain

        Parameters
        ----------
        start : Overlaps
        steps : int
            Number of steps; for a flow, steps of Euler's method.
        step : float, optional
            Length of a step of a flow in time, 0.01 by default.
        points : (k + p steps + 1, S) array, optional
            Standard normal numbers of the samples, for h*, the driving process and the label noise.
            By default 4096 pseudorandom samples are used.
        times : (steps, S) array, optional
            Number of times that the batch of each step contains each sample; random by default.
        **parameters
            Run-time values, as for `dmft.solve`.

        Returns
        -------
        dict of str to ndarray
            M, Q, Q2, corr, resp, train_loss and readout of the steps.

        Examples
        --------
        >>> import numpy as np, sympy as sp, dmft
        >>> line = dmft.Committee(sp.Symbol("z", real=True), width=1)
        >>> eqs = dmft.derive(dmft.Model(line, line), dmft.GradientDescent(0.2, samples_per_dim=2))
        >>> exact = np.sqrt(4) * np.hstack([np.eye(4), -np.eye(4)])  # cubature for quadratic forms
        >>> eqs.evaluate(dmft.Overlaps([[1.0]], [[0.0]]), 3, points=exact)["M"].ravel().round(9)
        array([0.   , 0.4  , 0.56 , 0.656])
        """
        from dmft.equations.two_time.process_reference import evaluate_process

        if self.is_flow:
            parameters = with_step(parameters, STEP if step is None else step)
        elif step is not None:
            parameters["step"] = step
        return evaluate_process(self.equations, start, steps, points, times, parameters)

    def closed(self, start: Overlaps, **parameters: Any) -> TwoTime:
        r"""Return the equations of a flow with affine student and target, which require no samples.

        Equation    rates of M, C and R, with N = E[g h*], D = E[g g] and K, the
                    response of g, from integral equations of the Gaussian process of the fields
        Shapes      functions of one or two times for each entry: "C_12(t, s)"; "C(t, s)" of one
                    unit on one. Correlations of later times first: C_12(t, s) with t >= s
        Scaling     the time of the flow; C is the overlap outside of the teacher,
                    Q(t, s) = C(t, s) + M(t) P^+ M(s)^T; on the sphere nu keeps the lengths
        Valid for   affine students and targets, squared loss, inputs of one cluster; d -> infinity
        Source      theory/batch_reuse A.1, B.3

        Parameters
        ----------
        start : Overlaps
        **parameters
            Values, or expressions in the time t. Other symbols are passed to `dmft.solve`.

        Returns
        -------
        TwoTime
            Problem that is solved without a start, ``dmft.solve(problem, None, t_max)``.

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

    def latex_of(self, expr: Any) -> str:
        """An expression as in `latex`."""
        return str(self._printer.doprint(expr))

    @property
    def _printer(self) -> TwoTimePrinter:
        return TwoTimePrinter(model_names(self.model))

    def block_latex(self, block: str) -> str:
        """Return a block with its indices, as LaTeX."""
        target = next(d.target for d in self._shown if self._block_of(d) == block)
        return self.latex_of(target)

    def _latex(self) -> str:
        """Return the process of a sample, averages over samples, and what weights do, as LaTeX."""
        own, weights, averages = list[str](), list[str](), list[str]()
        same = self.by_base[C_r].expr == C_theta[self.by_base[C_r].target.indices]
        defined, fronts = self.process, {"rate": ""}
        if self.is_flow:
            over = (d for d in self.process if d.expr.has(Expectation))
            first = R_theta[sp.Symbol("s^+"), s, x.j, x.l]
            kick = define(first, {"kick": kick_of(self.by_base)}, "intermediate")
            defined = (*self.definitions, kick, *over, equal_response_of(self.by_base))
            fronts = {d.name: r"\partial_t" for d in self.definitions if d.role == "rate"}
        for d in defined:
            rows = averages if d.expr.has(Expectation) else weights
            rows = own if d.name in ("h_at", "C_r") else rows
            for shown in [] if d.name == "C_r" and same else self._as_declared(d):
                rows += self._lines(shown, fronts.get(d.name, "") if d.role == "rate" else "")
        law = r"r &\sim \mathcal{N}(0, C^{%s}), \quad " % (r"\theta" if same else "r")
        own.append(law + law_of_teachers(self.model))
        own += [y for name, y in BATCH_LAWS.items() if name == self.algorithm.batch]
        parts = [f"% {self.time_unit}", align(own), "where", self.latex_of_sample()]
        if averages:
            parts += [r"With averages $\langle \cdot \rangle$ over samples,", align(averages)]
        text = "\n".join([*parts, "the weights follow", align(weights), STARTED])
        return "\n".join([text, f"Here {', '.join(self._meanings(text))}.", *self._risk()])

    def _risk(self) -> list[str]:
        """The risk in the overlaps at one time, and closed forms of its averages."""
        if self.model.clusters is not None:
            return [r"The risk is a function of $M^t$ and $Q(t, t)$."]
        risk = define(x.risk, {"risk": risk_expression(self.model)}, "observable")
        subject = Subject(self.model, live([*block_definitions(False), risk]), self.algorithm)
        names = {x.u: x.l, x.v: m, x.s: q}  # u and s are times
        shown = printed_definitions(declared_definitions(subject, False)[0])
        if self.algorithm.readout_rate != 0:
            indices = {a.indices for d in shown for a in d.expr.atoms(sp.Indexed) if a.base == x.a}
            names |= {x.a[i]: readout[(t, *i)].xreplace(names) for i in indices}
        shown = tuple(mapped(d, lambda e: e.xreplace(names)) for d in shown)
        rows = [y for d in shown if d.role != "block" for y in definition_latex(d, self._printer)]
        law = (
            r"A new example has centred Gaussian fields with the covariances $Q(t, t)$, $M^t$ and "
            "$P$ of $(h, h^*)$, and the risk at time $t$ is"
        )
        return [law, align(rows), *kernels_latex(lowered(shown), self._printer, KERNEL_OPERATIONS)]

    def _as_declared(self, definition: Definition) -> list[Definition]:
        """A definition at declared widths, unit readouts and zeros; none of what is in place."""
        subject = Subject(self.model, (), self.algorithm)
        single = unit_widths(subject)[1]
        put = {PARAMETERS[n]: sp.S.Zero for n, y in self.parameters.items() if y == 0}
        for one, index, other in zip(unit_widths(subject), (m, q), (x.v, x.s), strict=True):
            put |= {index: other} if one else {}
        # Averages that are read once.
        inner = {d.name: d for d in self.process if d.name in ("g_star", "mean_pull")}

        def at(expr: sp.Expr) -> sp.Expr:
            found = at_declared(put_in(expr, inner).xreplace(put), subject)
            inverse = {e for e in found.atoms(sp.Indexed) if str(e.base.label) == "P_inverse"}
            return found.xreplace(dict.fromkeys(inverse, 1 / OF_ONE)) if single else found

        found = replace(mapped(definition, at), target=at(definition.target))
        return [] if definition.name in inner else [*printed_definitions([found])]

    def _meanings(self, text: str) -> list[str]:
        """Values of parameters and what other letters are."""
        read = {s.name for d in self.definitions for s in d.expr.free_symbols}
        told = [
            f"${assigned(SYMBOLS_LATEX[s], sp.latex(whole_numbers(self.parameters[s.name])))}$"
            + " is the "
            + s.name.replace("_", " ").replace("samples per dim", "number of samples per dimension")
            for s in SYMBOLS_LATEX
            if s.name in read and self.parameters.get(s.name, 0) != 0
        ]
        told += ["$a$ and $a^*$ are the readouts"] if " a_{" in text else []
        marks = ("_j", "_l") if "H_{" in text else ("", "")
        curved = rf"$H{'_{j l}' if marks[0] else ''} = \partial g{marks[0]}/\partial h{marks[1]}$"
        return told + ([curved] if "\nH" in text else [])

    def latex_of_sample(self) -> str:
        r"""Return the computation of one sample, and the activation with its derivatives, as LaTeX.

        Returns
        -------
        str

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> line = dmft.Committee(sp.Symbol("z", real=True), width=1)
        >>> eqs = dmft.derive(dmft.Model(line, line), dmft.GradientDescent(0.2, samples_per_dim=2))
        >>> r"h^{*}" in eqs.latex_of_sample()
        True
        """
        shown = (*self.sample, curvature(self.sample)) if self.is_flow else self.sample
        trained = self.algorithm.readout_rate != 0
        declared = (y for d in shown for y in self._as_declared(at_time(d, trained)))
        sample = [line for d in declared for line in self._lines(d)]
        sigma = self.model.student.activation
        z = sp.Symbol("z", real=True)
        # Kinks are jumps of the slope and Dirac parts of the curvature.
        printer, text = ClosedPrinter({}), " ".join(sample)
        slopes = ((mark, derivative(sigma, n)) for n, mark in enumerate(("", "'", "''")))
        functions = [
            rf"\sigma{mark}(z) = {printer.doprint(slope.xreplace({FIELD: z}))}"
            for mark, slope in slopes
            if not mark or (rf"\sigma{mark}(" in text and slope.has(sp.Heaviside, sp.DiracDelta))
        ]
        functions = [] if sigma == FIELD else functions  # f = h
        return align([*sample, *(["& " + r",\quad ".join(functions)] if functions else [])])

    def _repr_latex_(self) -> str:
        return self.latex().split("\n", 1)[1]

    def __str__(self) -> str:
        what = "gradient flow on repeated data" if self.is_flow else "gradient descent (two-time)"
        return f"Equations of {what}; {in_letters(self.time_unit)}\n{plain_text(self.latex())}"


def derive_descent(model: Model, algorithm: GradientDescent) -> DescentEquations:
    """Equations of a committee on a committee's or a multi-index target, or on a mixture."""
    equations = DescentEquations(
        model, algorithm, sample_definitions(model, algorithm), process_definitions(algorithm)
    )
    _ = equations.parameters  # refuses clashing symbols
    return equations


def derive_flow(model: Model, algorithm: GradientDescent) -> DescentEquations:
    """Limit of the equations of descent as the learning rate goes to zero."""
    reasons = {
        "batch": ("parts of the samples average out", algorithm.batch is not None),
        "momentum": ("momentum only divides time by 1 - momentum", algorithm.momentum != 0),
        "temperature": (
            "noise is added in finite steps: derive the descent with a small learning rate",
            algorithm.temperature != 0,
        ),
        "readout_rate": (
            "readouts and weights move at unrelated rates",
            algorithm.readout_rate != 0,
        ),
    }
    for name, (reason, given) in reasons.items():
        if given:
            raise BadParameter(
                f'{name} = {getattr(algorithm, name)!r} with scaling="gradient-flow": as the '
                f"learning rate goes to zero, {reason}; leave it out"
            )
    return replace(derive_descent(model, algorithm), stepper="flow")
