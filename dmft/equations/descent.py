r"""Gradient descent on samples that are used again: the closed two-time equations.

As d grows, one sample sees its local fields as an effective process h^t: pulled by the teacher,
driven by a Gaussian process r^t with the covariance C_theta of the weights, and by its own past
gradients g^s through the response R_theta of the weights. The weights in turn feel the samples
through the covariance C_l and the response R_l of the gradients. Everything is causal: a step
needs kernels of earlier times only (batch_reuse.md A.1).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.average import At, Average
from dmft.equations.definitions import Definition, define
from dmft.equations.latex import EquationPrinter, align, definition_latex
from dmft.equations.target import target
from dmft.equations.text import functions_text, model_names
from dmft.errors import BadParameter
from dmft.gaussian.switch import derivative
from dmft.model import FIELD, Committee, GaussianMixture, MixtureModel, Model
from dmft.model.descent import LABEL, PREDICTION, GradientDescent

eta, alpha = sp.symbols("learning_rate samples_per_dim", positive=True)
ridge, beta, readout_rate = sp.symbols("ridge momentum readout_rate", nonnegative=True)
zeta = sp.Symbol("zeta", real=True)
# Number of the cluster that a sample comes from, where inputs are a mixture.
cluster = sp.Symbol("cluster", integer=True, nonnegative=True)
output, label, loss = sp.symbols("output label loss", real=True)
t, s, u = sp.symbols("t s u", integer=True, nonnegative=True)
m, q = sp.symbols("m q", integer=True)
g, pull, H = (sp.IndexedBase(name) for name in ("g", "readout_pull", "H"))
field_at, driving, g_at = (sp.IndexedBase(name) for name in ("h_at", "r_at", "g_at"))
C_theta, R_theta, C_l, R_l = (sp.IndexedBase(y) for y in ("C_theta", "R_theta", "C_l", "R_l"))
M, Q, readout = (sp.IndexedBase(name) for name in ("M_at", "Q_at", "readout_at"))
P_inverse, learned, pulled = (sp.IndexedBase(y) for y in ("P_inverse", "g_star", "mean_pull"))
pull_at = sp.IndexedBase("pull_at")

PARAMETERS = {y.name: y for y in (eta, alpha, ridge, beta, readout_rate, x.Delta)}
TIME_LATEX = {
    "h_at": "h", "r_at": "r", "g_at": "g", "M_at": "M", "Q_at": "Q", "readout_at": "a",
    "pull_at": r"(\ell' \sigma)",
    "C_theta": r"C^{\theta}", "R_theta": r"R^{\theta}", "C_l": r"C^{\ell}", "R_l": r"R^{\ell}",
}  # fmt: skip
TWO_TIMES = frozenset({"Q_at", "C_theta", "R_theta", "C_l", "R_l"})
SYMBOLS_LATEX = {
    eta: r"\eta", alpha: r"\alpha", ridge: r"\lambda", beta: r"\beta", readout_rate: r"\eta_a",
    zeta: r"\zeta", cluster: "c", output: "f", label: "y", loss: r"\ell",
}  # fmt: skip


class PathSlope(sp.Expr):
    """Derivative of what a sample does at one time by its driving process at another.

    Examples
    --------
    >>> PathSlope(g_at[t, x.j], driving[s, x.l])
    d g_at[t, j] / d r_at[s, l]
    """

    is_commutative = True
    is_real = True

    def __new__(cls, of: sp.Indexed, by: sp.Indexed) -> PathSlope:
        """Keep both entries: SymPy's own derivative of one array by another is zero."""
        return sp.Expr.__new__(cls, of, by)

    def _sympystr(self, printer: Any) -> str:
        return f"d {printer.doprint(self.args[0])} / d {printer.doprint(self.args[1])}"

    def _latex(self, printer: Any) -> str:
        of, by = (printer.doprint(y) for y in self.args)
        return rf"\frac{{\partial {of}}}{{\partial {by}}}"


def sample_definitions(
    model: Model | MixtureModel, algorithm: GradientDescent
) -> tuple[Definition, ...]:
    """What one sample computes from its fields: output, label, loss, gradient, readout gradient."""
    sigma, p = model.student.activation, x.p
    slope = sp.diff(algorithm.loss_expr, PREDICTION).xreplace({PREDICTION: output, LABEL: label})
    value = algorithm.loss_expr.xreplace({PREDICTION: output, LABEL: label})
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
        define(g[x.j], {"gradient": slope * x.a[x.j] * At(first, x.h[x.j]) / p}, "rate"),
    ]  # fmt: skip
    if model.label_noise == 0:
        result[1] = result[1].without("noise")
    if algorithm.readout_rate != 0:
        result.append(define(pull[x.j], {"pull": slope * At(sigma, x.h[x.j])}, "rate"))
    return tuple(result)


def _named_target(model: Model | MixtureModel) -> sp.Expr:
    if isinstance(model, MixtureModel):
        return _label_of_cluster(model.mixture)
    teacher = model.teacher
    if isinstance(teacher, Committee):
        body = x.a_star[x.r] * At(teacher.activation, x.h_star[x.r])
        return sp.Sum(body, (x.r, 1, x.k)) / x.k
    return target(model)


def _label_of_cluster(mixture: GaussianMixture) -> sp.Expr:
    fields = {z: x.h_star[r] for r, z in enumerate(mixture.fields, start=1)}
    labels = [y.xreplace(fields) for y in mixture.labels]
    cases = [(y, sp.Eq(cluster, number)) for number, y in enumerate(labels)]
    return sp.Piecewise(*cases[:-1], (labels[-1], True))


def curvature(model: Model | MixtureModel, algorithm: GradientDescent) -> sp.Expr:
    r"""H_jl = dg_j/dh_l, the distributional part of kinks included.

    Equation    H_jl = l'' a_j a_l sigma'_j sigma'_l / p^2 + delta_jl l' a_j sigma''_j / p
    Source      batch_reuse.md 0
    """
    expr = algorithm.loss_expr
    rename = {PREDICTION: output, LABEL: label}
    slope, bend = (sp.diff(expr, PREDICTION, n).xreplace(rename) for n in (1, 2))
    sigma = model.student.activation
    first, second = derivative(sigma), derivative(sigma, 2)
    both = x.a[x.j] * x.a[x.l] * At(first, x.h[x.j]) * At(first, x.h[x.l]) / x.p**2
    same = sp.KroneckerDelta(x.j, x.l) * x.a[x.j] * At(second, x.h[x.j]) / x.p
    return bend * both + slope * same


def process_definitions(algorithm: GradientDescent) -> tuple[Definition, ...]:
    """Field of a sample, averages over samples, recursions of overlaps and kernels; named terms.

    Everything that is run over time: code is generated from these definitions
    (`dmft.codegen.process`), in their order at each step.
    """
    j, l, r = x.j, x.l, x.r  # noqa: E741
    now = 1 - eta * ridge
    drag = {
        M: (M[t, j, r], M[t - 1, j, r]),
        R_theta: (R_theta[t, s, j, l], R_theta[t - 1, s, j, l]),
        C_theta: (C_theta[t, s, j, l], C_theta[t - 1, s, j, l]),
    }
    # w^{-1} = w^0: the first step has no momentum.
    momentum = {base: beta * (new - old) for base, (new, old) in drag.items()}
    if algorithm.momentum == 0:
        momentum = dict.fromkeys(momentum, sp.S.Zero)
    own = sp.Sum(R_theta[t, s, j, l] * g_at[s, l], (s, 0, t - 1), (l, 1, x.p))
    field_terms = {
        "teacher": sp.Sum(
            M[t, j, r] * P_inverse[r, q] * x.h_star[q], (r, 1, x.k), (q, 1, x.k)
        ),
        "weights": driving[t, j],
        "memory": own,
    }  # fmt: skip
    if algorithm.batch == "fresh":  # a sample is seen once: its gradients have no past
        del field_terms["memory"]
    past_R = sp.Sum(R_l[t, u, j, m] * R_theta[u, s, m, l], (u, s + 1, t), (m, 1, x.p))
    past_C = sp.Sum(R_l[t, u, j, m] * C_theta[u, s, m, l], (u, 0, t), (m, 1, x.p))
    noise = sp.Sum(C_l[t, u, j, m] * R_theta[s, u, l, m], (u, 0, s - 1), (m, 1, x.p))
    kick = sp.KroneckerDelta(t, s) * sp.KroneckerDelta(j, l)
    rows = {
        field_at[t, j]: field_terms,
        **_averages(algorithm),
        M[t + 1, j, r]: {
            "decay": now * M[t, j, r],
            "learning": -eta * alpha * learned[t, j, r],
            "momentum": momentum[M],
        },
        R_theta[t + 1, s, j, l]: {
            "decay": now * R_theta[t, s, j, l],
            "kick": -eta * kick,
            "memory": -eta * past_R,
            "momentum": momentum[R_theta],
        },
        C_theta[t + 1, s, j, l]: {
            "decay": now * C_theta[t, s, j, l],
            "memory": -eta * past_C,
            "noise": -eta * noise,
            "momentum": momentum[C_theta],
        },
        Q[t, s, j, l]: {
            "weights": C_theta[t, s, j, l],
            "teacher": sp.Sum(
                M[t, j, r] * P_inverse[r, q] * M[s, l, q], (r, 1, x.k), (q, 1, x.k)
            ),
        },
    }  # fmt: skip
    if algorithm.readout_rate != 0:
        rows[readout[t + 1, j]] = {
            "decay": readout[t, j], "learning": -readout_rate * pulled[t, j]
        }  # fmt: skip
    return tuple(define(target, terms, "rate") for target, terms in rows.items())


def _averages(algorithm: GradientDescent) -> dict[sp.Indexed, dict[str, sp.Expr]]:
    """What the overlaps and the weights feel of the samples."""
    j, l, r = x.j, x.l, x.r  # noqa: E741
    # Samples that are seen once are independent of each other.
    once = sp.KroneckerDelta(t, s) if algorithm.batch == "fresh" else sp.S.One
    rows = {
        C_l[t, s, j, l]: {"gradients": alpha * once * Average(g_at[t, j] * g_at[s, l])},
        R_l[t, s, j, l]: {
            "gradients": alpha * once * Average(PathSlope(g_at[t, j], driving[s, l]))
        },
        learned[t, j, r]: {"gradients": Average(g_at[t, j] * x.h_star[r])},
    }
    if algorithm.readout_rate != 0:
        rows[pulled[t, j]] = {"gradients": Average(pull_at[t, j])}
    return rows


@dataclass(frozen=True)
class DescentEquations:
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

    model: Model | MixtureModel
    algorithm: GradientDescent
    sample: tuple[Definition, ...]
    process: tuple[Definition, ...]
    kind: str = field(default="two-time", init=False)
    time_unit: str = field(default="t = steps; n = alpha d samples, used again", init=False)

    @property
    def definitions(self) -> tuple[Definition, ...]:
        """Everything, samples first."""
        return (*self.sample, *self.process)

    @property
    def terms(self) -> dict[str, dict[str, sp.Expr]]:
        """Named terms of each recursion."""
        names = {"M_at": "M", "Q_at": "Q", "h_at": "h", "readout_at": "readout"}
        return {names.get(d.name, d.name): dict(d.terms) for d in self.process}

    @cached_property
    def parameters(self) -> dict[str, sp.Expr]:
        """Scalar parameters by name, with their declared values."""
        algorithm = self.algorithm
        declared = {
            "learning_rate": algorithm.learning_rate,
            "samples_per_dim": algorithm.samples_per_dim,
            "ridge": algorithm.ridge,
            "momentum": algorithm.momentum,
            "readout_rate": algorithm.readout_rate,
            "label_noise": self.model.label_noise,
        }
        symbols = sorted(self.model.parameters, key=str)
        clash = [y.name for y in symbols if y.name in declared]
        if clash:
            raise BadParameter(f"the model's symbol {clash[0]!r} clashes with a parameter; rename")
        return {**declared, **{y.name: y for y in symbols}}

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the symbolic content."""
        parts = [sp.srepr(e) for d in self.definitions for _, e in d.terms]
        parts += [str(self.algorithm.batch), str(self.algorithm.batch_fraction)]
        if isinstance(self.model, MixtureModel):
            parts.append(repr(self.model.mixture))
        return hashlib.blake2b("|".join(parts).encode(), digest_size=12).hexdigest()

    def latex(self) -> str:
        r"""LaTeX of the process, of the averages that close it, and of the sample."""
        printer = TwoTimePrinter(model_names(self.model, r"\sigma", r"\sigma_*"))
        closing = [d for d in self.process if d.expr.has(Average)]
        rates = [line for d in self.process if d not in closing for line in _lines(d, printer)]
        bend = printer.doprint(curvature(self.model, self.algorithm))
        averages = [
            *(line for d in closing for line in _lines(d, printer)),
            r"r &\sim \mathcal{N}(0, C^{\theta}), \quad " + _law_of_teachers(self.model),
            rf"H_{{j l}} = \partial g_j / \partial h_l &= {bend}",
            *_masks_latex(self.algorithm),
        ]
        parts = (align(rates), align(averages), self.latex_of_sample())
        return "\n".join([f"% {self.time_unit}", *parts])

    def latex_of_sample(self) -> str:
        """LaTeX of what a sample computes, and of the activation with its derivatives."""
        printer = TwoTimePrinter(model_names(self.model, r"\sigma", r"\sigma_*"))
        sample = [line for d in self.sample for line in _lines(d, printer)]
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


def _masks_latex(algorithm: GradientDescent) -> list[str]:
    """What batches make of the gradients in the averages and in the memory."""
    part = f"{algorithm.batch_fraction:g}"
    weighted = rf"g^{{t}} &\to s^{{t}} g^{{t}} / {part}, \quad "
    if algorithm.readout_rate != 0:
        weighted += rf"(\ell' \sigma)^{{t}} \to s^{{t}} (\ell' \sigma)^{{t}} / {part}, \quad "
    rows = {
        "bernoulli": weighted
        + rf"s^{{t}} \in \{{0, 1\}} \text{{ independent}}, \Pr(s^{{t}} = 1) = {part}",
        "reshuffle": weighted + rf"s^{{t}} = 1 \text{{ once in each epoch of }} 1/{part} "
        r"\text{ steps, at a random one}",
    }  # fmt: skip
    return [rows[algorithm.batch]] if algorithm.batch in rows else []


def _law_of_teachers(model: Model | MixtureModel) -> str:
    """LaTeX of the law of h*."""
    if not isinstance(model, MixtureModel):
        return r"h^* \sim \mathcal{N}(0, P)"
    means = sp.latex(sp.Matrix(model.mixture.means.T))
    weights = ", ".join(f"{y:g}" for y in model.mixture.weights)
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


def derive_descent(model: Model | MixtureModel, algorithm: GradientDescent) -> DescentEquations:
    """Equations of a committee on a committee's or a multi-index target, or on a mixture."""
    equations = DescentEquations(
        model, algorithm, sample_definitions(model, algorithm), process_definitions(algorithm)
    )
    _ = equations.parameters  # refuses clashing symbols
    return equations
