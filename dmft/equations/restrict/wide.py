r"""Wide students, from the kernels of the full dynamics: M, residual lengths, and closures.

Equation    dM_jr/dt = E[psi_j h*_r],
            dQ_perp_j/dt = 2 E[psi_j h_perp_j] + gamma/(p n_b) E[noise of psi_j^2]
with h_perp_j = h_j - (M P^+ h*)_j (theory/one_pass B.4). Both are b_ji = E[psi_j lambda_i] of the
full equations at another field lambda_i; its sum over the other students is done at the overlaps of
`dmft.equations.averages.closure`, its own term l = j at Q_jj.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.equations import symbols as x
from dmft.equations.averages import closure
from dmft.equations.averages.closure import TWIN, cosine_rule
from dmft.equations.averages.expectation import At, Expectation, product_average
from dmft.equations.averages.passes import on_nodes
from dmft.equations.definitions import Definition, define, used_bases
from dmft.equations.parameter_values import Values
from dmft.equations.states import StateSpace
from dmft.equations.update.moments import expectation
from dmft.equations.update.optimiser import own_motion, step_size
from dmft.equations.update.overlaps import Moments
from dmft.equations.update.program import noiseless_label
from dmft.errors import BadParameter, NotClosed
from dmft.model import SGD, GradientFlow, Model, Overlaps
from dmft.model.loss import LABEL, PREDICTION, loss_expr


def wide_definitions(
    model: Model, algorithm: SGD | GradientFlow, *, finite: bool
) -> list[Definition]:
    """All definitions; `finite` averages over the cosines of the residuals."""
    work = _Reduction(finite)
    j, r = x.j, x.r
    moments = Moments(model, algorithm)
    # The teacher of sums is s: r is that of the rate.
    b = {name: e.xreplace({x.r: x.s}) for name, e in moments.drifts.items()}
    target = {name: work.expression(_along(e, x.p + r), x.l) for name, e in b.items()}
    residual = {name: work.expression(_along(e, closure.RESIDUAL), x.l) for name, e in b.items()}
    noise: dict[str, sp.Expr] = {}
    if not algorithm.is_flow:
        value = closure.close(moments.label_noise.xreplace({x.l: x.j}))
        noise["label_noise"] = step_size(algorithm) * value / (x.p * algorithm.batch_size)
    rates = _rates(target, residual, noise, algorithm, work)
    if algorithm.trains_readout:
        terms = moments.readout(x.rho_a)
        terms = {name: work.expression(e, x.l) for name, e in terms.items()}
        rates.append(define(x.a[j], terms, "rate"))
    seen = work.observables(model, algorithm)
    return [*_geometry(), *work.collector.definitions, *work.rest, *rates, *seen]


def _along(b: sp.Expr, position: sp.Expr) -> sp.Expr:
    """E[psi_j lambda_i] at the field of this position."""
    entries = {
        e: x.Omega[tuple(position if i == x.i else i for i in e.indices)]
        for e in b.atoms(sp.Indexed)
        if e.base == x.Omega
    }
    return b.xreplace(entries)


def _geometry() -> list[Definition]:
    """N = M P^+, the squared lengths q_j and the overlaps within the span of the teachers."""
    j, l, r, s = x.j, x.l, x.r, x.s  # noqa: E741
    along = sp.Sum(x.M[j, s] * x.P_inverse[s, r], (s, 1, x.k))
    inside = sp.Sum(x.along[j, r] * x.M[l, r], (r, 1, x.k))
    own = sp.Sum(x.along[j, r] * x.M[j, r], (r, 1, x.k))
    return [
        define(x.along[j, r], {"along": along}, "intermediate"),
        define(x.size[j], {"teachers": own, "residual": x.Q_perp[j]}, "intermediate"),
        define(x.parallel[j, l], {"parallel": inside}, "intermediate"),
        # Rounding may take the squared length of a vanishing residual below zero.
        define(x.abs_perp[j], {"modulus": sp.sqrt(x.Q_perp[j] ** 2)}, "intermediate"),
        define(x.root_perp[j], {"root": sp.sqrt(x.abs_perp[j])}, "intermediate"),
    ]


def _rates(
    target: dict[str, sp.Expr],
    residual: dict[str, sp.Expr],
    noise: dict[str, sp.Expr],
    algorithm: SGD | GradientFlow,
    work: _Reduction,
) -> list[Definition]:
    """Rates of M and Q_perp; on the sphere both are scaled back by the rate of Q_jj."""
    j, r = x.j, x.r
    dM = dict(target)
    dQ_perp = {name: 2 * e for name, e in residual.items()} | noise
    for name, rate in own_motion(algorithm).items():
        dM[name], dQ_perp[name] = rate * x.M[j, r], 2 * rate * x.Q_perp[j]
    if algorithm.on_sphere:
        bases = {"learning": x.perp_learning, "interaction": x.perp_interaction}
        spans = {"learning": x.learning, "interaction": x.interaction}
        names = [name for name in bases if target.get(name, 0) != 0]
        for name in names:
            work.rest.append(define(spans[name][j, r], {name: target[name]}, "intermediate"))
            work.rest.append(define(bases[name][j], {name: residual[name]}, "intermediate"))
        # Phi_jj = dQ_jj/dt without the constraint, as a vector.
        growth = {name: 2 * bases[name][j] for name in names} | noise
        for name in names:
            inside = sp.Sum(x.along[j, r] * spans[name][j, r], (r, 1, x.k))
            growth[name] += 2 * inside
        work.rest.append(define(x.growth[j], growth, "intermediate"))
        dM = {name: spans[name][j, r] for name in names}
        dM["sphere"] = -x.M[j, r] * x.growth[j] / 2
        dQ_perp = {name: 2 * bases[name][j] for name in names} | noise
        dQ_perp["sphere"] = -x.Q_perp[j] * x.growth[j]
    return [define(x.M[j, r], dM, "rate"), define(x.Q_perp[j], dQ_perp, "rate")]


@dataclass
class _Reduction:
    """Writes sums over students by the closure, and collects what factorises."""

    finite: bool
    collector: closure.Collector = field(default_factory=closure.Collector)
    rest: list[Definition] = field(default_factory=list)

    def expression(self, expr: sp.Expr, index: sp.Symbol) -> sp.Expr:
        """An expression of neuron j with at most one sum over the students `index`."""
        if on_nodes(expr):
            raise NotClosed(
                f"{expr} has an average without closed form; the wide reduction needs closed forms "
                "or tables of one and two fields"
            )
        sums = [s for s in expr.atoms(sp.Sum) if s.limits[0][0] == index]
        names = {s: sp.Dummy() for s in sums}
        values = {names[s]: self.over_students(s.function, index) for s in sums}
        return closure.close(expr.xreplace(names)).xreplace(values)

    def over_students(self, body: sp.Expr, index: sp.Symbol) -> sp.Expr:
        """Sum over all students l of a body of j and l, its own term l = j at Q_jj."""
        pair = closure.averaged(closure.close(body), self.finite)
        return self.summed(pair, index) + self.own(body, pair, index)

    def own(self, body: sp.Expr, pair: sp.Expr, index: sp.Symbol) -> sp.Expr:
        """What the term of the student itself differs from that of another one like it."""
        twin = pair.xreplace({x.h[index]: closure.TWIN[index]}).xreplace({index: x.j})
        own = closure.averaged(closure.close(body.xreplace({index: x.j})), self.finite)
        if closure.is_polynomial(pair):
            twin = sp.expand(twin.xreplace({x.parallel[x.j, x.j]: x.size[x.j] - x.Q_perp[x.j]}))
        return sp.expand(own - twin) if closure.is_polynomial(own - twin) else own - twin

    def summed(self, pair: sp.Expr, index: sp.Symbol) -> sp.Expr:
        """Sum over students, collected where it is a polynomial."""
        if closure.is_polynomial(pair) and closure.can_collect([pair]):
            return self.collector.sum(pair, index)
        return sp.Sum(pair, (index, 1, x.p))

    def observables(self, model: Model, algorithm: SGD | GradientFlow) -> list[Definition]:
        """The risk, and the expected loss where that is not the risk and a constant."""
        moments = self.moments(model)
        risk = (moments[2, 0] + moments[0, 2]) / 2 - moments[1, 1]
        seen = [define(x.risk, {"risk": risk}, "observable")]
        given = algorithm.loss
        if given == "squared":
            return seen
        moments[0, 2] += x.Delta
        terms = sp.Poly(loss_expr(given), PREDICTION, LABEL).terms()
        loss = sp.Add(*(c * moments[powers] for powers, c in terms))
        return [*seen, define(x.loss, {"loss": loss}, "observable")]

    def moments(self, model: Model) -> dict[tuple[int, ...], sp.Expr]:
        """E[f^m g^n] by (m, n) up to the second, the double sum over students by the closure."""
        sigma, g = model.student.activation, noiseless_label(model)
        body = x.a[x.j] * x.a[x.l] * product_average([sigma, sigma], [x.h[x.j], x.h[x.l]])
        pair = closure.averaged(closure.close(body), self.finite)
        both = self.summed(self.summed(pair, x.l), x.j)
        both += self.summed(self.own(body, pair, x.l), x.j)

        def over(average: sp.Expr) -> sp.Expr:
            return sp.Sum(x.a[x.l] * closure.close(average), (x.l, 1, x.p)) / x.p

        return {
            (0, 0): sp.S.One,
            (1, 0): over(expectation(At(sigma, x.h[x.l]))),
            (0, 1): closure.close(expectation(g)),
            (2, 0): both / x.p**2,
            (1, 1): over(expectation(At(sigma, x.h[x.l]) * g)),
            (0, 2): closure.close(expectation(g**2)),
        }


# gamma/(p n_b) from which a run warns: what the closure leaves out is of this relative order.
FINITE_RATE = 0.05
# Mean of Q_jl^2 over pairs from which students count as aligned with each other at the start;
# random ones have 1/d.
LARGEST_ALIGNMENT = 0.1
# Of a length or a readout that is given as a number.
ROUNDING = 1e-9


class ClosureWarning(UserWarning):
    """A reduction for wide networks is used where the neglected terms are not small.

    Examples
    --------
    >>> import dmft
    >>> issubclass(dmft.ClosureWarning, UserWarning)
    True
    """


NOT_EXPORTED = (
    "equations of wide limits are not exported; equations of the overlaps Q, M and of the "
    "alignments e, m are: export those from which they were derived"
)


@dataclass(frozen=True)
class MeanField(StateSpace):
    """Q = M P^+ M^T + diag(Q_perp): the state is M (p, k) and Q_perp (p,).

    With `finite`, residuals meet at the random cosines of a finite dimension.
    """

    finite: bool

    not_unrolled = (
        "explicit() unrolls p + k <= 5 fields, where a wide reduction is not accurate; unroll the "
        'full equations (scaling="gradient-flow") instead'
    )
    not_exported = NOT_EXPORTED

    def approximation(self, averages: str, error: float) -> str:
        """The residuals that are left out, and how the averages are computed."""
        finite = (
            "residuals at random cosines of dimension d - k" if self.finite else "d -> infinity"
        )
        text = f"wide closure Q = M P^+ M^T + diag(Q_perp), {finite}: exact as p -> infinity "
        text += "(error of order 1/p)"
        if not self.algorithm.is_flow:
            text += (
                " and gamma/p -> 0; at finite gamma/p the quadratic term correlates the residuals, "
                "which is left out, an error of relative order gamma/(p n_b)"
            )
        return text if averages == "exact" else f"{text}; {averages}"

    def closure_text(self, definitions: Iterable[Definition]) -> str:
        """Q by M and Q_perp."""
        cosine, twin, law = "", "Q∥[j,j]", ""
        if self.finite:
            cosine, twin = " + z*sqrt(Q⊥[j]*Q⊥[l])", "Q∥[j,j] + z*Q⊥[j]"
            law = ", averaged over the cosine z of two residuals in d - k dimensions"
        text = f"closure: Q[j,j] = q[j], Q[j,l] = Σ_r N[j,r]*M[l,r]{cosine}{law}"
        return text + (f"; Cov(h[j], h'[j]) = {twin}" if _has_twins(definitions) else "")

    def closure_latex(self, definitions: Iterable[Definition]) -> list[str]:
        """The same."""
        cosine, twin, law = "", r"Q^{\parallel}_{jj}", ""
        if self.finite:
            cosine = r" + z \sqrt{Q^{\perp}_j Q^{\perp}_l}"
            twin = r"Q^{\parallel}_{jj} + z\,Q^{\perp}_j"
            law = r",\quad z \sim (1 - z^2)^{(d - k - 3)/2}"
        lines = [
            rf"& Q_{{jj}} = q_j,\quad Q_{{jl}} = Q^{{\parallel}}_{{jl}}{cosine}\ (j \neq l){law}"
        ]
        if _has_twins(definitions):
            lines.append(rf"& \mathrm{{Cov}}(h_j, h'_j) = {twin},\quad \mathrm{{Var}}(h'_j) = q_j")
        return lines

    def state(self, start: Overlaps) -> dict[str, Array]:
        """M and the squared lengths of the rows outside the span of the teachers."""
        inside = np.einsum("jr,rs,js->j", start.M, np.linalg.pinv(start.P), start.M)
        return {"M": start.M, "Q_perp": np.diag(start.Q) - inside}

    def with_constants(
        self, values: Values, definitions: Sequence[Definition], start: Overlaps
    ) -> Values:
        """Values with P^+ and the nodes of the cosine."""
        inverse = np.linalg.pinv(start.P).astype(np.float64)
        arrays = {**values.arrays, "P_inverse": inverse}
        widths, dim = values.widths, values.scalars.get("dim")
        if dim is not None and dim - start.k < 2:
            raise BadParameter(
                f"dim = {dim:g} leaves fewer than two dimensions to the residuals of "
                f"k = {start.k} teachers; use a larger dim, or the full equations"
            )
        if dim is not None and any("cosine" in used_bases(d.expr) for d in definitions):
            arrays["cosine"], arrays["cosine_weight"] = cosine_rule(dim - start.k)
            widths = {**widths, "cosines": arrays["cosine"].size}
        self._warn(values.scalars.get("learning_rate"), start.p)
        return replace(values, widths=widths, arrays=arrays)

    def _warn(self, learning_rate: float | None, width: int) -> None:
        """Say where the closure fails."""
        if learning_rate is None or self.algorithm.is_flow:
            return
        rate = learning_rate / width / int(self.algorithm.batch_size)
        if rate > FINITE_RATE:
            warnings.warn(
                f"gamma/(p n_b) = {rate:.3g} is not small: the quadratic term of SGD correlates "
                "the residuals of the students, which the wide reduction leaves out; expect "
                'relative errors of this order, or use scaling="high-dimensional"',
                ClosureWarning,
                stacklevel=7,
            )


@dataclass(frozen=True)
class InfiniteWidth(StateSpace):
    """M_j^2 = X z^2 / (1 + Y z^2), Q_jl = C M_j M_l: the state is X, Y and C.

    A start gives u_0, the mean of its M_jr^2; its width gives gamma/p. A run has the blocks
    ``variance`` (X), ``saturation`` (Y) and ``coupling`` (C).
    """

    not_unrolled = "these equations are scalar already: see .terms"
    not_exported = NOT_EXPORTED

    def approximation(self, averages: str, error: float) -> str:
        """What the limit leaves out, and the table of the average over the overlaps."""
        return (
            "infinite width at finite gamma/p: Q_jl = C M_j M_l for j != l, exact as p -> infinity "
            "(error of order 1/p); the overlaps start as N(0, u_0); "
            f"average over them by a table (relative error {error:.0e})"
        )

    def closure_text(self, definitions: Iterable[Definition]) -> str:
        """M and Q by X, Y and C."""
        return (
            "closure: M[j]^2 = X z^2/(1 + Y z^2), z ~ N(0, 1), g = sqrt(Y) z; Q[j,j] = 1, "
            "Q[j,l] = C*M[j]*M[l]"
        )

    def closure_latex(self, definitions: Iterable[Definition]) -> list[str]:
        """The same."""
        return [
            r"& M_j^2 = \frac{X z_j^2}{1 + Y z_j^2},\quad z_j \sim \mathcal{N}(0, 1),\quad "
            r"g = \sqrt{Y} z,\quad Q_{jl} = C M_j M_l\ (j \neq l),\quad Q_{jj} = 1"
        ]

    def state(self, start: Overlaps) -> dict[str, Array]:
        """X = u_0, Y = 0, C = 1."""
        spread = float(np.mean(start.M**2))
        if not spread > 0:
            raise BadParameter("all M_jr are zero at the start, and stay so; pass a random start")
        off = start.Q - np.diag(np.diag(start.Q))
        mean = np.sum(off**2) / max(start.p * (start.p - 1), 1)
        if mean > LARGEST_ALIGNMENT:
            raise BadParameter(
                "the students of this start are aligned with each other (mean Q_jl^2 = "
                f"{mean:.3g}), but the infinitely wide limit requires random "
                'ones; use scaling="high-dimensional"'
            )
        return {"variance": np.array([spread]), "saturation": np.zeros(1), "coupling": np.ones(1)}

    def with_constants(
        self, values: Values, definitions: Sequence[Definition], start: Overlaps
    ) -> Values:
        """The same values."""
        if start.k != 1 or abs(float(start.P[0, 0]) - 1) > ROUNDING:
            raise BadParameter(
                f"the infinitely wide limit requires one teacher of unit length, got P = {start.P}"
            )
        given = start.readout
        declared = sp.sympify((self.model.student.readout or (1,))[0], strict=True)
        if given is not None and (
            not declared.is_number or np.any(np.abs(given - float(declared)) > ROUNDING)
        ):
            raise BadParameter(
                f"the infinitely wide limit was derived at the readouts {declared} of the model, "
                f"but the start has {given}: declare them in the model"
            )
        return values


def _has_twins(definitions: Iterable[Definition]) -> bool:
    """Whether a student is set against another one like it."""
    averages = {q for d in definitions for q in d.expr.atoms(Expectation)}
    return any(f.has(TWIN) for q in averages for f in q.fields)
