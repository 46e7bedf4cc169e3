r"""Symbols of descents on repeated data, the process that is run over time, and its samples.

Equation    theory/batch_reuse A.1, A.4: the field of a sample, averages over samples, recursions;
            output, label, loss and gradients of one sample, and the slopes of its gradients
Source      theory/batch_reuse A.1
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import At, Expectation
from dmft.equations.definitions import Definition, define, mapped
from dmft.equations.restrict.admissible import slope_of
from dmft.equations.symbols import ONLY
from dmft.equations.update.program import noiseless_label
from dmft.equations.views.latex import EquationPrinter
from dmft.errors import BadParameter
from dmft.model import FIELD, GaussianMixture, Model
from dmft.model.algorithm import GradientDescent
from dmft.model.loss import LABEL, PREDICTION

eta, alpha = sp.symbols("learning_rate samples_per_dim", positive=True)
ridge, beta, readout_rate, temperature = sp.symbols(
    "ridge momentum readout_rate temperature", nonnegative=True
)
zeta = sp.Symbol("zeta", real=True)
# How often the batch of a step holds a sample, and the share of the samples in it.
chosen = sp.Symbol("chosen", nonnegative=True)
fraction = sp.Symbol("batch_fraction", positive=True)
# Number of the cluster that a sample comes from, where inputs are a mixture.
cluster = sp.Symbol("cluster", integer=True, nonnegative=True)
output, label, loss = sp.symbols("output label loss", real=True)
t, s, u = sp.symbols("t s u", integer=True, nonnegative=True)
m, q = sp.symbols("m q", integer=True)
g, pull, H, H_at = (sp.IndexedBase(name) for name in ("g", "readout_pull", "H", "H_at"))
field_at, driving, g_at = (sp.IndexedBase(name) for name in ("h_at", "r_at", "g_at"))
C_theta, R_theta, C_l, R_l = (sp.IndexedBase(y) for y in ("C_theta", "R_theta", "C_l", "R_l"))
M, Q, readout = (sp.IndexedBase(name) for name in ("M_at", "Q_at", "readout_at"))
C_r = sp.IndexedBase("C_r")
P_inverse, learned, pulled = (sp.IndexedBase(y) for y in ("P_inverse", "g_star", "mean_pull"))
pull_at = sp.IndexedBase("pull_at")
# A step before its rows are put back on the sphere: overlaps with the teacher, response, overlaps
# outside of the teacher with earlier weights and with itself, all overlaps with itself.
FREE = ("M_free", "R_free", "C_free", "G_free", "Q_free")
M_free, R_free, C_free, G_free, Q_free = (sp.IndexedBase(name) for name in FREE)

PARAMETERS = {
    y.name: y for y in (eta, alpha, ridge, beta, readout_rate, temperature, fraction, x.Delta)
}
TIME_LATEX = {
    "h_at": "h", "r_at": "r", "g_at": "g", "M_at": "M", "Q_at": "Q", "readout_at": "a",
    "pull_at": r"(\ell' \sigma)", "H_at": "H",
    "C_r": "C^{r}", "C_theta": r"C^{\theta}", "R_theta": r"R^{\theta}",
    "C_l": r"C^{\ell}", "R_l": r"R^{\ell}",
    "M_free": r"\tilde{M}", "R_free": r"\tilde{R}^{\theta}", "C_free": r"\tilde{C}^{\theta}",
    "G_free": r"\tilde{G}", "Q_free": r"\tilde{Q}",
}  # fmt: skip
# Names of blocks, where they are not those of their arrays.
BLOCKS = {"M_at": "M", "Q_at": "Q", "h_at": "h", "readout_at": "readout"}
# Kernels with X(t, s) = X(s, t)^T; the others vanish for s > t, R_theta for s = t too.
SYMMETRIC = frozenset({"C_theta", "C_l", "C_r", "Q_at"})
TWO_TIMES = frozenset({"Q_at", "C_theta", "R_theta", "C_l", "R_l", "C_r", "R_free", "C_free"})
# Everything that has entries: of the process, then of a sample.
EVERY_ARRAY = (
    *(name for name in TIME_LATEX if name != "H_at"),
    "P_inverse", "g_star", "mean_pull", "h", "h_star", "readout", "teacher_readout",
)  # fmt: skip
SYMBOLS_LATEX = {
    eta: r"\eta", alpha: r"\alpha", ridge: r"\lambda", beta: r"\beta", readout_rate: r"\eta_a",
    zeta: r"\xi", cluster: "c", output: "f", label: "y", loss: r"\ell",
    chosen: r"\chi", fraction: "b", temperature: "T",
}  # fmt: skip
# How often the batch of a step holds a sample, where not once.
BATCH_LAWS = {
    "bernoulli": r"\chi^{t} &\in \{0, 1\} \text{ independent}, \quad \Pr(\chi^{t} = 1) = b",
    "reshuffle": r"\chi^{t} &= 1 \text{ once in each epoch of } 1/b \text{ steps, at a random one}",
    "replacement": r"\chi^{t} &\sim \mathrm{Poisson}(b) \text{ independent}",
}


class PathSlope(sp.Expr):
    """Derivative of what a sample does at one time by its driving process at another."""

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


def process_definitions(algorithm: GradientDescent) -> tuple[Definition, ...]:
    """Field of a sample, averages over samples, recursions of overlaps and kernels; named terms.

    Everything that is run over time: code is generated from these definitions
    (`dmft.codegen.two_time_process`), in their order at each step.
    """
    j, l = x.j, x.l  # noqa: E741
    own = sp.Sum(R_theta[t, s, j, l] * g_at[s, l], (s, 0, t - 1), (l, 1, x.p))
    field_terms = {
        "teacher": sp.Sum(
            M[t, j, x.r] * P_inverse[x.r, q] * x.h_star[q], (x.r, 1, x.k), (q, 1, x.k)
        ),
        "weights": driving[t, j],
        "memory": own,
    }
    if algorithm.batch == "fresh":  # a sample is seen once: its gradients have no past
        del field_terms["memory"]
    moved = _free(algorithm, (M, R_theta, C_theta), sp.KroneckerDelta(s, t + 1))
    # Samples that are seen once are independent of each other, and so is what drives them.
    once = sp.KroneckerDelta(t, s) if algorithm.batch == "fresh" else sp.S.One
    rows = {
        field_at[t, j]: field_terms,
        **_averages(algorithm, once),
        **(_on_sphere(algorithm) if algorithm.on_sphere else moved),
        C_r[t, s, j, l]: {"weights": once * C_theta[t, s, j, l]},
        Q[t, s, j, l]: {
            "weights": C_theta[t, s, j, l],
            "teacher": _in_the_span(M[t, j, x.r], M[s, l, q]),
        },
    }
    if algorithm.readout_rate != 0:
        rows[readout[t + 1, j]] = {"decay": readout[t, j], "learning": -readout_rate * pulled[t, j]}
    return tuple(define(target, terms, "rate") for target, terms in rows.items())


def _in_the_span(first: sp.Expr, second: sp.Expr) -> sp.Expr:
    """Overlap of what two rows have in the span of the teacher, from their M."""
    return sp.Sum(first * P_inverse[x.r, q] * second, (x.r, 1, x.k), (q, 1, x.k))


def _moved(
    algorithm: GradientDescent, entry: Callable[[sp.Expr], sp.Expr], **terms: sp.Expr
) -> dict[str, sp.Expr]:
    """One step of what is linear in the weights at time t, `entry(t)`: penalty, momentum, terms."""
    momentum = sp.S.Zero
    if algorithm.momentum != 0:  # w^{-1} = w^0: the first step has none
        momentum = beta * (entry(t) - entry(t - 1))
    return {"decay": (1 - eta * ridge) * entry(t), **terms, "momentum": momentum}


def _response(algorithm: GradientDescent) -> dict[str, sp.Expr]:
    """Response of the weights after a step to a force at s <= t."""
    j, l = x.j, x.l  # noqa: E741
    past = sp.Sum(R_l[t, u, j, m] * R_theta[u, s, m, l], (u, s + 1, t), (m, 1, x.p))
    kick = sp.KroneckerDelta(t, s) * sp.KroneckerDelta(j, l)
    return _moved(
        algorithm, lambda time: R_theta[time, s, j, l], kick=-eta * kick, memory=-eta * past
    )


def _covariance(
    algorithm: GradientDescent,
    other: Callable[[sp.Expr, sp.Expr], sp.Expr],
    answer: Callable[[sp.Expr, sp.Expr], sp.Expr],
    last: sp.Expr,
    heat: sp.Expr,
) -> dict[str, sp.Expr]:
    """Covariance of the weights after a step with others, of neuron l.

    `other(u, m)` is that of the weights of neuron m at u with them; `answer(u, m)` what they answer
    to a force on neuron m at u, zero for u > last.
    """
    past = sp.Sum(R_l[t, u, x.j, m] * other(u, m), (u, 0, t), (m, 1, x.p))
    noise = sp.Sum(C_l[t, u, x.j, m] * answer(u, m), (u, 0, last), (m, 1, x.p))
    warm = 2 * eta * temperature * heat * sp.KroneckerDelta(x.j, x.l)
    return _moved(
        algorithm, lambda time: other(time, x.j), memory=-eta * past, noise=-eta * noise,
        heat=sp.S.Zero if algorithm.temperature == 0 else warm,
    )  # fmt: skip


def _free(
    algorithm: GradientDescent, names: Sequence[sp.IndexedBase], heat: sp.Expr
) -> dict[sp.Indexed, dict[str, sp.Expr]]:
    """Overlaps and kernels, of these names, of weights that go where the step leads."""
    j, l, r = x.j, x.l, x.r  # noqa: E741
    overlap, response, covariance = names
    learning = -eta * alpha * learned[t, j, r]
    return {
        overlap[t + 1, j, r]: _moved(algorithm, lambda time: M[time, j, r], learning=learning),
        response[t + 1, s, j, l]: _response(algorithm),
        covariance[t + 1, s, j, l]: _covariance(
            algorithm,
            lambda time, a: C_theta[time, s, a, l],
            lambda time, a: R_theta[s, time, l, a],
            last=s - 1,
            heat=heat,
        ),
    }


def _on_sphere(algorithm: GradientDescent) -> dict[sp.Indexed, dict[str, sp.Expr]]:
    r"""The same where each row is divided by its length after the step.

    Equation    w_j^{t+1} = \tilde w_j / \sqrt{\tilde Q_{jj}}, \tilde w the row after the step:
                lengths do not fluctuate as d -> infinity: each row is multiplied by a number
    """
    j, l, r = x.j, x.l, x.r  # noqa: E741
    now = t + 1
    equal = sp.KroneckerDelta(s, now)

    def scale(neuron: sp.Symbol) -> sp.Expr:
        return 1 / sp.sqrt(Q_free[now, neuron, neuron])

    return {
        **_free(algorithm, (M_free, R_free, C_free), sp.S.Zero),
        G_free[now, j, l]: _covariance(
            algorithm,
            lambda time, a: C_free[now, time, l, a],
            lambda time, a: R_free[now, time, l, a],
            last=t,
            heat=sp.S.One,
        ),
        Q_free[now, j, l]: {
            "weights": G_free[now, j, l],
            "teacher": _in_the_span(M_free[now, j, r], M_free[now, l, q]),
        },
        M[now, j, r]: {"sphere": scale(j) * M_free[now, j, r]},
        R_theta[now, s, j, l]: {"sphere": scale(j) * R_free[now, s, j, l]},
        C_theta[now, s, j, l]: {
            "earlier": (1 - equal) * scale(j) * C_free[now, s, j, l],
            "equal": equal * scale(j) * scale(l) * G_free[now, j, l],
        },
    }


def _averages(algorithm: GradientDescent, once: sp.Expr) -> dict[sp.Indexed, dict[str, sp.Expr]]:
    """What the overlaps and the weights feel of the samples."""
    j, l, r = x.j, x.l, x.r  # noqa: E741
    rows = {
        C_l[t, s, j, l]: {"gradients": alpha * once * Expectation(g_at[t, j] * g_at[s, l])},
        R_l[t, s, j, l]: {
            "gradients": alpha * once * Expectation(PathSlope(g_at[t, j], driving[s, l]))
        },
        learned[t, j, r]: {"gradients": Expectation(g_at[t, j] * x.h_star[r])},
    }
    if algorithm.readout_rate != 0:
        rows[pulled[t, j]] = {"gradients": Expectation(pull_at[t, j])}
    return rows


def law_of_teachers(model: Model) -> str:
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

    def first(self, factor: sp.Expr) -> tuple[int, ...]:
        """The kernel of the latest time stands first in a product."""
        if isinstance(factor, sp.Indexed) and str(factor.base.label) in (*TIME_LATEX, "h_star"):
            return (2,) if factor.indices[0] == t else (3,)
        return super().first(factor)

    def _print_Indexed(self, expr: sp.Indexed) -> str:
        base = str(expr.base.label)
        indices = [self._print(y) for y in expr.indices if y not in ONLY]

        def under(name: str, *rows: str) -> str:
            return f"{name}_{{{' '.join(rows)}}}" if rows else name

        if base in TWO_TIMES:
            return f"{under(TIME_LATEX[base], *indices[2:])}({', '.join(indices[:2])})"
        if base in TIME_LATEX or base == "mean_pull":
            name = TIME_LATEX.get(base, r"\langle \ell' \sigma \rangle")
            return under(f"{name}^{{{indices[0]}}}", *indices[1:])
        if base in ("R_l_equal", "multiplier"):  # of a flow: one time
            name = r"R^{\ell}" if base == "R_l_equal" else r"\nu"
            return f"{under(name, *indices[1:])}({indices[0]})"
        if base in ("P_inverse", "readout_pull"):
            return under("P^{-1}" if base == "P_inverse" else r"(\ell' \sigma)", *indices)
        if base == "g_star":
            return under(rf"g^{{\star {indices[0]}}}", *indices[1:])
        return super()._print_Indexed(expr)


def sample_definitions(model: Model, algorithm: GradientDescent) -> tuple[Definition, ...]:
    """What one sample computes from its fields: output, label, loss, gradient, readout gradient."""
    sigma, p = model.student.activation, x.p
    mixture = model.label_clusters
    labelled = noiseless_label(model) if mixture is None else _label_of_cluster(mixture)
    slope = sp.diff(algorithm.loss_expr, PREDICTION).xreplace({PREDICTION: output, LABEL: label})
    value = algorithm.loss_expr.xreplace({PREDICTION: output, LABEL: label})
    # Parts of the samples move the weights; the loss is that of all.
    share = chosen / fraction if algorithm.batch in BATCH_LAWS else sp.S.One
    f = sp.Sum(x.a[x.l] * At(sigma, x.h[x.l]), (x.l, 1, p)) / p
    first = slope_of(sigma)
    result = [
        define(output, {"output": f}, "intermediate"),
        define(label, {"target": labelled, "noise": sp.sqrt(x.Delta) * zeta}, "intermediate"),
        define(loss, {"loss": value}, "observable"),
        define(g[x.j], {"gradient": share * slope * x.a[x.j] * At(first, x.h[x.j]) / p}, "rate"),
    ]
    if model.label_noise == 0:
        result[1] = result[1].without("noise")
    if algorithm.readout_rate != 0:
        result.append(define(pull[x.j], {"pull": share * slope * At(sigma, x.h[x.j])}, "rate"))
    return tuple(result)


def at_time(definition: Definition, trained: bool) -> Definition:
    """What a sample computes, in print: with the time of all that changes, also `trained` a."""
    letters = {y: sp.Symbol(f"{SYMBOLS_LATEX[y]}^{{t}}", real=True) for y in (output, loss, chosen)}
    arrays = {x.h: field_at, g: g_at, H: H_at, pull: pull_at} | ({x.a: readout} if trained else {})

    def at(expr: sp.Expr) -> sp.Expr:
        known = [e for e in expr.atoms(sp.Indexed) if e.base in arrays]
        return expr.xreplace(letters | {e: arrays[e.base][(t, *e.indices)] for e in known})

    return replace(mapped(definition, at), target=at(definition.target))


def scalars_of(definitions: Sequence[Definition]) -> tuple[str, ...]:
    """Names of the parameters that definitions read."""
    known = {x.p, x.k, x.j, x.l, x.r, t, s, u, zeta, cluster, output, label, loss, chosen, FIELD}
    found: set[sp.Symbol] = set()
    for d in definitions:
        arrays = {y.base.label for y in d.expr.atoms(sp.Indexed)}
        found |= {y for y in d.expr.free_symbols if isinstance(y, sp.Symbol)} - known - arrays
    return tuple(sorted(y.name for y in found))


@dataclass(frozen=True, repr=False)
class Descent:
    """What `DescentEquations` hold, and the parameters that follow."""

    model: Model
    algorithm: GradientDescent
    sample: tuple[Definition, ...]
    process: tuple[Definition, ...]
    stepper: str = "descent"
    kind: str = field(default="two-time", init=False)

    @property
    def is_flow(self) -> bool:
        """Whether these are rates, the limit of small steps."""
        return self.stepper == "flow"

    @property
    def by_base(self) -> dict[sp.IndexedBase, Definition]:
        """Definitions of the process by their arrays."""
        return {d.target.base: d for d in self.process}

    @property
    def stored(self) -> tuple[Definition, ...]:
        """Everything that is run, in the order in which terms are listed."""
        return (*self.process, *self.sample)

    @cached_property
    def declared(self) -> dict[str, sp.Expr]:
        """Scalar parameters of the descent by name, with their declared values."""
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
        return found | {y: sp.Symbol(y) for y in scalars_of(self.stored) if y not in found}

    @property
    def parameters(self) -> dict[str, sp.Expr]:
        """Scalar parameters by name, with their declared values; a flow has no learning rate."""
        hidden = "learning_rate" if self.is_flow else ""
        return {name: value for name, value in self.declared.items() if name != hidden}

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


def _label_of_cluster(mixture: GaussianMixture) -> sp.Expr:
    fields = {z: x.h_star[r] for r, z in enumerate(mixture.fields, start=1)}
    labels = [y.xreplace(fields) for y in mixture.labels or ()]
    cases = [(y, sp.Eq(cluster, number)) for number, y in enumerate(labels)]
    return sp.Piecewise(*cases[:-1], (labels[-1], True))
