r"""Gradient descent on samples that are used again: the closed two-time equations.

As d grows, one sample sees its local fields as an effective process h^t: pulled by the teacher,
driven by a Gaussian process r^t with the covariance C_theta of the weights, and by its own past
gradients g^s through the response R_theta of the weights. The weights in turn feel the samples
through the covariance C_l and the response R_l of the gradients. Everything is causal: a step
needs kernels of earlier times only (theory/batch_reuse A.1).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import At, Expectation
from dmft.equations.definitions import Definition, define
from dmft.equations.two_time.changes import ChangesInTwoTimes
from dmft.equations.two_time.descent_process import (
    BATCH_LAWS,
    BLOCKS,
    SYMBOLS_LATEX,
    TIME_LATEX,
    TWO_TIMES,
    chosen,
    cluster,
    fraction,
    g,
    label,
    loss,
    output,
    process_definitions,
    pull,
    s,
    t,
    u,
    zeta,
)
from dmft.equations.two_time.slopes import curvature
from dmft.equations.update.law import target
from dmft.equations.views.latex import EquationPrinter, align, definition_latex
from dmft.equations.views.text import functions_text, model_names
from dmft.errors import BadParameter
from dmft.gaussian.derivative import derivative
from dmft.model import FIELD, Committee, GaussianMixture, Model, Overlaps
from dmft.model.descent import GradientDescent
from dmft.model.loss import LABEL, PREDICTION
from dmft.record import Short


def sample_definitions(model: Model, algorithm: GradientDescent) -> tuple[Definition, ...]:
    """What one sample computes from its fields: output, label, loss, gradient, readout gradient."""
    sigma, p = model.student.activation, x.p
    slope = sp.diff(algorithm.loss_expr, PREDICTION).xreplace({PREDICTION: output, LABEL: label})
    value = algorithm.loss_expr.xreplace({PREDICTION: output, LABEL: label})
    # Parts of the samples move the weights; the loss is that of all.
    share = chosen / fraction if algorithm.batch in BATCH_LAWS else sp.S.One
    f = sp.Sum(x.a[x.l] * At(sigma, x.h[x.l]), (x.l, 1, p)) / p
    first = derivative(sigma)
    if first.has(sp.DiracDelta):
        raise BadParameter(
            f"student activation {sigma} jumps: its derivative {first} is not a function, and no "
            "gradient descent can follow it"
        )
    result = [
        define(output, {"output": f}, "intermediate"),
        define(label, {"target": _named_target(model), "noise": sp.sqrt(x.Delta) * zeta},
               "intermediate"),
        define(loss, {"loss": value}, "observable"),
        define(g[x.j], {"gradient": share * slope * x.a[x.j] * At(first, x.h[x.j]) / p}, "rate"),
    ]  # fmt: skip
    if model.label_noise == 0:
        result[1] = result[1].without("noise")
    if algorithm.readout_rate != 0:
        result.append(define(pull[x.j], {"pull": share * slope * At(sigma, x.h[x.j])}, "rate"))
    return tuple(result)


def scalars_of(definitions: Sequence[Definition]) -> tuple[str, ...]:
    """Names of the parameters that definitions read."""
    known = {x.p, x.k, x.j, x.l, x.r, t, s, u, zeta, cluster, output, label, loss, chosen, FIELD}
    found: set[sp.Symbol] = set()
    for d in definitions:
        arrays = {y.base.label for y in d.expr.atoms(sp.Indexed)}
        found |= {y for y in d.expr.free_symbols if isinstance(y, sp.Symbol)} - known - arrays
    return tuple(sorted(y.name for y in found))


def _named_target(model: Model) -> sp.Expr:
    teacher = model.teacher
    if isinstance(teacher, GaussianMixture):
        return _label_of_cluster(teacher)
    if isinstance(teacher, Committee):
        body = x.a_star[x.r] * At(teacher.activation, x.h_star[x.r])
        return sp.Sum(body, (x.r, 1, x.k)) / x.k
    return target(model)


def _label_of_cluster(mixture: GaussianMixture) -> sp.Expr:
    fields = {z: x.h_star[r] for r, z in enumerate(mixture.fields, start=1)}
    labels = [y.xreplace(fields) for y in mixture.labels or ()]
    cases = [(y, sp.Eq(cluster, number)) for number, y in enumerate(labels)]
    return sp.Piecewise(*cases[:-1], (labels[-1], True))


@dataclass(frozen=True, repr=False)
class DescentEquations(Short, ChangesInTwoTimes):
    """Self-consistent equations of gradient descent on repeated data, of kind "two-time".

    Attributes
    ----------
    model, algorithm
        What they were derived from.
    sample : tuple of Definition
        Output, label, loss and gradients of one sample, in its local fields: compiled as it stands.
    process : tuple of Definition
        The field of a sample, the averages over samples (C_l, R_l, g_star, mean_pull), and the
        recursions of M, R_theta, C_theta, Q and of the readout: compiled as they stand.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> relu = dmft.Committee(sp.Max(sp.Symbol("z", real=True), 0), width=1)
    >>> eqs = dmft.derive(dmft.Model(relu, relu), dmft.GradientDescent(0.3, samples_per_dim=3))
    >>> eqs.kind, sorted(eqs.terms["R_theta"])
    ('two-time', ['decay', 'kick', 'memory'])
    """

    family: ClassVar[str] = "descent"

    model: Model
    algorithm: GradientDescent
    sample: tuple[Definition, ...]
    process: tuple[Definition, ...]
    kind: str = field(default="two-time", init=False)
    time_unit: str = field(default="t = steps; n = alpha d samples, used again", init=False)

    def _in_words(self) -> str:
        return f"{self.kind}; {self.time_unit}; {self.algorithm!r}"

    @property
    def definitions(self) -> tuple[Definition, ...]:
        """Everything, samples first."""
        return (*self.sample, *self.process)

    @cached_property
    def samples_as_derived(self) -> bool:
        """Whether samples compute what the model and the algorithm say."""
        return self.sample == sample_definitions(self.model, self.algorithm)

    @cached_property
    def slopes(self) -> Definition:
        """H_jl = dg_j/dh_l of a sample, from its definitions."""
        return curvature(self.sample)

    @property
    def as_derived(self) -> DescentEquations:
        """The equations before any change."""
        return derive_descent(self.model, self.algorithm)

    @cached_property
    def parameters(self) -> dict[str, sp.Expr]:
        """Scalar parameters by name, with their declared values."""
        algorithm = self.algorithm
        share = sp.Float(algorithm.batch_fraction)
        declared = {
            "learning_rate": algorithm.learning_rate,
            "samples_per_dim": algorithm.samples_per_dim,
            "ridge": algorithm.ridge,
            "momentum": algorithm.momentum,
            **({"temperature": algorithm.temperature} if algorithm.temperature != 0 else {}),
            **({"batch_fraction": share} if algorithm.batch in BATCH_LAWS else {}),
            "readout_rate": algorithm.readout_rate,
            "label_noise": self.model.label_noise,
        }
        symbols = sorted(self.model.parameters, key=str)
        clash = [y.name for y in symbols if y.name in declared]
        if clash:
            raise BadParameter(f"the model's symbol {clash[0]!r} clashes with a parameter; rename")
        found = {**declared, **{y.name: y for y in symbols}}
        # Symbols of terms that a user has added.
        return found | {y: sp.Symbol(y) for y in scalars_of(self.definitions) if y not in found}

    @cached_property
    def process_parameters(self) -> tuple[str, ...]:
        """Names of the scalars that the process reads."""
        return scalars_of(self.process)

    @cached_property
    def read_by_samples(self) -> frozenset[str]:
        """Names of the scalars that a sample reads."""
        return frozenset(scalars_of(self.sample))

    @property
    def read(self) -> frozenset[str]:
        """Names of the scalars that some definition reads."""
        return self.read_by_samples.union(self.process_parameters)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the symbolic content."""
        parts = [f"{d.target}={sp.srepr(e)}" for d in self.definitions for _, e in d.terms]
        parts += [str(self.algorithm.batch), str(self.algorithm.batch_fraction)]
        if self.model.clusters is not None:
            parts.append(str(self.model.clusters))
        return hashlib.blake2b("|".join(parts).encode(), digest_size=12).hexdigest()

    def evaluate(
        self,
        start: Overlaps,
        steps: int = 1,
        *,
        points: NDArray[np.float64] | None = None,
        times: NDArray[np.float64] | None = None,
        **parameters: Any,
    ) -> dict[str, NDArray[np.float64]]:
        """Overlaps and kernels of the first steps, by NumPy from the symbols as they stand.

        Shapes      as of a `DescentRun` of these steps; responses by Stein's identity
        Valid for   a reference for small systems, slow and plain

        Parameters
        ----------
        start : Overlaps
        steps : int
        points : (k + p steps + 1, S) array, optional
            Standard normals of the samples: of h*, of the driving process, of the label noise. By
            default 4096 pseudorandom ones.
        times : (steps, S) array, optional
            How often the batch of each step holds each sample; drawn by default.
        **parameters
            Run-time values, as for `dmft.solve`.

        Returns
        -------
        dict of str to ndarray
            M, Q, Q2, corr, resp, train_loss and readout of the steps.

        Raises
        ------
        BadParameter, ShapeMismatch

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

        return evaluate_process(self, start, steps, points, times, parameters)

    def latex_of(self, expr: Any) -> str:
        """An expression as in `latex`."""
        names = model_names(self.model, r"\sigma", r"\sigma_*")
        return str(TwoTimePrinter(names).doprint(expr))

    def block_latex(self, block: str) -> str:
        """A block with its indices."""
        target = next(d.target for d in self.definitions if BLOCKS.get(d.name, d.name) == block)
        return self.latex_of(target)

    def latex(self) -> str:
        r"""LaTeX of the process, of the averages that close it, and of the sample.

        Returns
        -------
        str

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> line = dmft.Committee(sp.Symbol("z", real=True), width=1)
        >>> eqs = dmft.derive(dmft.Model(line, line), dmft.GradientDescent(0.2, samples_per_dim=2))
        >>> r"\mathcal{N}" in eqs.latex()
        True
        """
        printer = TwoTimePrinter(model_names(self.model, r"\sigma", r"\sigma_*"))
        closing = [d for d in self.process if d.expr.has(Expectation)]
        rates = [line for d in self.process if d not in closing for line in _lines(d, printer)]
        averages = [
            *(line for d in closing for line in _lines(d, printer)),
            r"r &\sim \mathcal{N}(0, C^{r}), \quad " + _law_of_teachers(self.model),
            *_batches_latex(self.algorithm),
        ]
        parts = (align(rates), align(averages), self.latex_of_sample())
        return "\n".join([f"% {self.time_unit}", *parts])

    def latex_of_sample(self) -> str:
        r"""LaTeX of what a sample computes, and of the activation with its derivatives.

        Returns
        -------
        str

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> line = dmft.Committee(sp.Symbol("z", real=True), width=1)
        >>> eqs = dmft.derive(dmft.Model(line, line), dmft.GradientDescent(0.2, samples_per_dim=2))
        >>> r"\sigma" in eqs.latex_of_sample()
        True
        """
        printer = TwoTimePrinter(model_names(self.model, r"\sigma", r"\sigma_*"))
        sample = [line for d in (*self.sample, self.slopes) for line in _lines(d, printer)]
        sigma = self.model.student.activation
        z = sp.Symbol("z", real=True)
        # Kinks are jumps of the slope and Dirac parts of the curvature.
        functions = [
            rf"\sigma{prime}(z) = {sp.latex(derivative(sigma, order).xreplace({FIELD: z}))}"
            for order, prime in enumerate(("", "'", "''"))
        ]
        return "\n".join([align(sample), align([r"& " + r",\quad ".join(functions)])])

    def _repr_latex_(self) -> str:
        return self.latex().split("\n", 1)[1]

    def __str__(self) -> str:
        lines = [f"Equations of gradient descent (two-time); {self.time_unit}"]
        lines += [f"  {d.target} = {d.expr}" for d in self.definitions]
        return "\n".join([*lines, "  " + functions_text(self.model)])


def _batches_latex(algorithm: GradientDescent) -> list[str]:
    """Law of how often a batch holds a sample."""
    return [BATCH_LAWS[algorithm.batch]] if algorithm.batch in BATCH_LAWS else []


def _law_of_teachers(model: Model) -> str:
    """LaTeX of the law of h*."""
    if model.clusters is None:
        return r"h^* \sim \mathcal{N}(0, P)"
    means = sp.latex(sp.Matrix(model.clusters.means.T))
    weights = ", ".join(f"{y:g}" for y in model.clusters.weights)
    return (
        rf"h^* \mid c \sim \mathcal{{N}}(P \mu_c, P), \quad \mu = {means}, "
        rf"\quad \Pr(c) = ({weights})"
    )


class TwoTimePrinter(EquationPrinter):
    """Times as superscripts of vectors, as arguments of kernels."""

    def _print_Symbol(self, expr: sp.Symbol, style: str = "plain") -> str:
        return SYMBOLS_LATEX.get(expr) or super()._print_Symbol(expr, style)

    def _print_Indexed(self, expr: sp.Indexed) -> str:
        base = str(expr.base.label)
        indices = [self._print(y) for y in expr.indices]
        if base in TWO_TIMES:
            return f"{TIME_LATEX[base]}_{{{' '.join(indices[2:])}}}({', '.join(indices[:2])})"
        if base in TIME_LATEX:
            return f"{TIME_LATEX[base]}^{{{indices[0]}}}_{{{' '.join(indices[1:])}}}"
        special = {"P_inverse": r"P^{-1}_{%s}", "g_star": r"g^{\star %s}_{%s}",
                   "mean_pull": r"\langle \ell' \sigma \rangle^{%s}_{%s}",
                   "readout_pull": r"(\ell' \sigma)_{%s}"}  # fmt: skip
        if base == "P_inverse" or base == "readout_pull":
            return special[base] % " ".join(indices)
        if base in special:
            return special[base] % (indices[0], " ".join(indices[1:]))
        return super()._print_Indexed(expr)


def _lines(definition: Definition, printer: EquationPrinter) -> list[str]:
    """Lines of one definition, an equation and no rate."""
    shown = Definition(definition.target, definition.terms, "intermediate")
    return definition_latex(shown, printer)


def derive_descent(model: Model, algorithm: GradientDescent) -> DescentEquations:
    """Equations of a committee on a committee's or a multi-index target, or on a mixture."""
    equations = DescentEquations(
        model, algorithm, sample_definitions(model, algorithm), process_definitions(algorithm)
    )
    _ = equations.parameters  # refuses clashing symbols
    return equations
