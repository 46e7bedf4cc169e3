r"""Fluctuations of one-pass SGD at large d: covariance of the increments and O(1/d) drift.

    d(Q, M) = F dt + sqrt(gamma/(p d n_b)) Sigma^(1/2) dB,    Sigma = Cov[(u, v)]

(one_pass.md E.1; Ito). Sigma is a covariance over nodes, positive semidefinite by construction:
nodes that are exact for polynomial models, Gauss-Hermite or Sobol nodes with their error else.
F is the drift of the ordinary equations and what one step of an algorithm in d dimensions adds to
it at order 1/d (B.1, E.3), so that one step has the mean F gamma/(p d) up to order d^-3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.equations import symbols as x
from dmft.equations.average import At
from dmft.equations.definitions import define
from dmft.equations.explicit import ExplicitEquations
from dmft.equations.increments import (
    CURVATURE,
    FINITE_SIZE,
    closed_moments,
    degrees,
    sees_itself,
)
from dmft.equations.noise_nodes import exact_rule, noise_rule
from dmft.equations.reference import Interpreter
from dmft.equations.residual import residual_at
from dmft.equations.target import target
from dmft.equations.values import Values
from dmft.errors import BadParameter
from dmft.gaussian.nodes import NodeRule
from dmft.gaussian.switch import SWITCHES, derivative
from dmft.model import SGD, Committee, GradientFlow, Model, Overlaps, as_count

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Noise:
    """Fluctuations of a model under SGD in `dim` dimensions.

    Attributes
    ----------
    model, algorithm
    dim : sympy.Expr
        d, a number or a symbol.
    dropped : tuple of str
        Terms of the drift at order 1/d that are left out.
    """

    model: Model
    algorithm: SGD
    dim: sp.Expr
    dropped: tuple[str, ...] = ()

    @cached_property
    def slope(self) -> sp.Expr:
        """sigma', a function of z."""
        return derivative(self.model.student.activation)

    @cached_property
    def error_at(self) -> sp.Expr:
        """E without label noise: g - f, or g under the correlation loss."""
        if sees_itself(self.algorithm):
            return residual_at(self.model)
        teacher = self.model.teacher
        if isinstance(teacher, Committee):
            stars = x.a_star[x.r] * At(teacher.activation, x.h_star[x.r])
            return sp.Sum(stars, (x.r, 1, x.k)) / x.k
        return target(self.model)

    @property
    def terms(self) -> tuple[str, ...]:
        """Named terms of the drift at order 1/d."""
        known = (FINITE_SIZE, CURVATURE) if self.algorithm.constraint else (FINITE_SIZE,)
        return tuple(name for name in known if name not in self.dropped)

    def without(self, *names: str) -> Noise:
        """Leave terms out; names that are not its own belong to the rest of the drift."""
        mine = tuple(name for name in names if name in self.terms)
        return replace(self, dropped=(*self.dropped, *mine))

    @cached_property
    def polynomial(self) -> bool:
        """Whether all moments are polynomials in the overlaps."""
        return degrees(self.model, self.algorithm) is not None

    @property
    def closed(self) -> bool:
        """Whether the polynomials are short enough to be compiled: one student, one teacher."""
        widths = (self.model.student.width, self.model.teacher.width)
        return self.polynomial and widths == (1, 1)

    @cached_property
    def smooth(self) -> bool:
        """Whether neither error nor slope has a kink or a jump."""
        return not any(e.has(*SWITCHES) for e in (self.slope, self.error_at))

    @property
    def approximation(self) -> str:
        """How the covariance is computed, in words."""
        if self.closed:
            return "covariance of the increments in closed form"
        if self.polynomial:
            return "covariance of the increments on Gauss-Hermite nodes that are exact for it"
        return "covariance of the increments on nodes, its error estimated at given overlaps"

    @property
    def signature(self) -> str:
        """Text that tells two of them apart."""
        return f"noise:{self.model!r}:{self.algorithm!r}:{sp.srepr(self.dim)}:{self.dropped}"

    def rule(self, size: int, options: Mapping[str, Any]) -> NodeRule:
        """Nodes for p + k = `size` fields; `options` may hold nodes, replicas, seed."""
        found = degrees(self.model, self.algorithm)
        if found is not None:
            psi, _ = found
            rule = exact_rule(size, max(2 * (psi + 1), 4 * psi))
            if rule is not None:
                return rule
        return noise_rule(size, self.smooth, options)

    # Numbers ---------------------------------------------------------------------------------

    def add_to(
        self, rates: Mapping[str, Array], state: Mapping[str, Array], values: Values, rule: NodeRule
    ) -> dict[str, Array]:
        """Rates with their part of order 1/d, Sigma and the covariance, in plain NumPy."""
        sample = _Sample(self, {**values.arrays, **state}, values.scalars, rule)
        dQ, dM = sample.corrections()
        Sigma = sample.covariance()
        covariance = self.scale(values) * Sigma
        return {
            "Q": rates["Q"] + dQ, "M": rates["M"] + dM, "Sigma": Sigma, "covariance": covariance
        }  # fmt: skip

    def shared(self, errors: Mapping[str, Array]) -> dict[str, Array]:
        """Errors of which that of a covariance is its largest: single entries may agree by luck."""
        matrices = {n: np.full_like(errors[n], errors[n].max()) for n in ("Sigma", "covariance")}
        return {**errors, **matrices}

    def scale(self, values: Values) -> float:
        """gamma/(p d n_b): covariance per unit time over Sigma."""
        width, dim = values.widths["p"], values.scalars["dim"]
        return values.scalars["learning_rate"] / (width * dim * self.algorithm.batch_size)

    def check(self, values: Values, start: Overlaps, given: Mapping[str, Any]) -> None:
        """Refuse a dimension that is no count, or too small for the overlaps of a start."""
        if "batch_size" in given:
            raise BadParameter("batch_size is fixed in the equations of fluctuations; derive anew")
        dim = values.scalars["dim"]
        if not float(dim).is_integer():
            raise BadParameter(f"dim must be an integer, got {dim!r}")
        rank = int(np.linalg.matrix_rank(start.Omega, hermitian=True))
        if dim < rank:
            raise BadParameter(
                f"dim = {dim:g} cannot hold these weights: their overlaps have rank {rank}"
            )


class _Sample:
    """Increments at the nodes of a rule, one sample of a step."""

    def __init__(
        self,
        noise: Noise,
        arrays: Mapping[str, Array],
        scalars: Mapping[str, float],
        rule: NodeRule,
    ) -> None:
        self.noise, self.rule = noise, rule
        self.Q, self.M = arrays["Q"], arrays["M"]
        self.p, self.k = self.M.shape
        self.delta = scalars["label_noise"]
        self.share = 1.0 / noise.algorithm.batch_size
        self.step = scalars["learning_rate"] / (self.p * scalars["dim"])
        self.gain = scalars["learning_rate"] * self.share / self.p
        Omega = np.block([[self.Q, self.M], [self.M.T, arrays["P"]]])
        root = np.empty_like(Omega)
        from dmft.special.cholesky import field_root  # Numba, which deriving does not need

        field_root(Omega.copy(), self.p, root)
        self.active = np.any(root != 0.0, axis=0)
        self.fields = root @ rule.normal
        nodes = rule.weight.size
        known = {**arrays, "c": _coefficients(arrays), "lambda_at": self.fields}
        known["weight"] = rule.weight
        interpreter = Interpreter(known, scalars)
        self.slope, self.error = np.empty((self.p, nodes)), np.empty((1, nodes))
        slope = x.a[x.j] * At(noise.slope, x.h[x.j])
        for name, expr, out, index in (
            ("slope", slope, self.slope, x.j),
            ("error", noise.error_at, self.error, sp.Integer(1)),
        ):
            entry = sp.IndexedBase(name)[index, x.node]
            interpreter.define(define(entry, {name: at_nodes(expr)}, "intermediate"), out)

    def parts(self) -> list[tuple[float, Array, Array]]:
        """Coefficients of He_n(xi) in (u, v), with n!: u (p, p, nodes), v (p, k, nodes)."""
        h, star, s, E = self.fields[: self.p], self.fields[self.p :], self.slope, self.error[0]
        both = s[:, None] * h[None] + s[None] * h[:, None]
        pairs = self.gain * s[:, None] * s[None]
        v, root = s[:, None] * star[None], math.sqrt(self.delta)
        return [
            (1.0, both * E + pairs * (E**2 + self.delta), v * E),
            (1.0, root * (both + 2.0 * pairs * E), root * v),
            (2.0, self.delta * pairs, np.zeros_like(v)),
        ]

    def packed(self, u: Array, v: Array) -> Array:
        """Rows over the packed state."""
        nodes = self.rule.weight.size
        return np.concatenate([u.reshape(-1, nodes), v.reshape(-1, nodes)])

    def projected(self, u: Array, v: Array) -> tuple[Array, Array]:
        """Increments of normalised weights."""
        if self.noise.algorithm.constraint is None:
            return u, v
        own = np.einsum("jjn->jn", u)
        u = u - 0.5 * self.Q[:, :, None] * (own[:, None] + own[None])
        return u, v - 0.5 * self.M[:, :, None] * own[:, None]

    def covariance(self) -> Array:
        """Sigma: covariance of one sample's increments."""
        total = np.zeros((self.p * (self.p + self.k),) * 2)
        for number, (factorial, u, v) in enumerate(self.parts()):
            rows = self.packed(*self.projected(u, v))
            if number == 0:
                rows = rows - (rows @ self.rule.weight)[:, None]
            total += factorial * (rows * self.rule.weight) @ rows.T
        return 0.5 * (total + total.T)

    def excess(self) -> Array:
        """Finite-size rate of Q without constraint, in units of gamma/(p d)."""
        z, w, E = self.rule.normal[self.active], self.rule.weight, self.error[0]
        length = np.sum(z**2, axis=0) - z.shape[0]
        value = self.share * (self.slope * (w * length * (E**2 + self.delta))) @ self.slope.T
        means = (self.slope * (w * E)) @ z.T
        result: Array = value + (1.0 - self.share) * means @ means.T
        return result

    def corrections(self) -> tuple[Array, Array]:
        """Rates of Q and M at order 1/d."""
        dQ, dM = np.zeros_like(self.Q), np.zeros_like(self.M)
        sphere = self.noise.algorithm.constraint is not None
        if FINITE_SIZE in self.noise.terms:
            excess = self.step * self.excess()
            own = np.diag(excess)
            dQ += excess
            if sphere:
                dQ -= 0.5 * self.Q * (own[:, None] + own[None])
                dM -= 0.5 * self.M * own[:, None]
        if CURVATURE in self.noise.terms:
            change = self.curvature()
            dQ, dM = dQ + self.step * change[0], dM + self.step * change[1]
        if sphere:
            np.fill_diagonal(dQ, 0.0)
        return dQ, dM

    def curvature(self) -> tuple[Array, Array]:
        """Second order of the division by the lengths, in units of gamma/(p d)."""
        rows = [self.packed(u, v) for _, u, v in self.parts()]
        factorials = [factorial for factorial, _, _ in self.parts()]
        mean = rows[0] @ self.rule.weight
        second = sum(
            f * (r * self.rule.weight) @ r.T for f, r in zip(factorials, rows, strict=True)
        )
        second = self.share * second + (1.0 - self.share) * np.outer(mean, mean)
        p, square = self.p, self.p * self.p
        own = np.arange(p) * (p + 1)  # places of Q_jj
        squares = second[np.ix_(own, own)]
        mixed = second[:square, own].reshape(p, p, p)  # <u_jl u_mm>
        lengths = 0.375 * (np.diag(squares)[:, None] + np.diag(squares)[None]) + 0.25 * squares
        j, n = np.indices((p, p))
        dQ = self.Q * lengths - 0.5 * (mixed[j, n, j] + mixed[j, n, n])
        cross = second[square:, own].reshape(p, self.k, p)[np.arange(p), :, np.arange(p)]
        return dQ, 0.375 * self.M * np.diag(squares)[:, None] - 0.5 * cross


def at_nodes(expr: sp.Expr) -> sp.Expr:
    """Expression of local fields, at the fields of the nodes."""
    expr = expr.xreplace({a: a.expr for a in expr.atoms(At)})
    places = {}
    for e in expr.atoms(sp.Indexed):
        if e.base in (x.h, x.lam):
            places[e] = x.lam_at[e.indices[0], x.node]
        elif e.base == x.h_star:
            places[e] = x.lam_at[x.p + e.indices[0], x.node]
    return expr.xreplace(places)


def _coefficients(arrays: Mapping[str, Array]) -> Array:
    """Residual coefficients c of all fields."""
    a, star = arrays["readout"], arrays["teacher_readout"]
    return np.concatenate([-a / a.size, star / star.size])


def with_fluctuations(
    explicit: ExplicitEquations,
    noise: Noise,
    widths: Mapping[str, int],
    constants: Mapping[str, Any],
) -> ExplicitEquations:
    """Scalar equations with the drift at order 1/d and the covariance Sigma, for polynomials."""
    if not noise.polynomial:
        raise BadParameter(
            "explicit() writes the covariance of the increments out for polynomial activations "
            "only; evaluate(...) gives it in numbers"
        )
    moments = closed_moments(noise.model, noise.algorithm, widths, constants)
    rates = dict(explicit.rhs)
    for (name, place), terms in moments.corrections(x.d).items():
        symbol = moments.unroller.entry(name, (place[0] + 1, place[1] + 1))
        rates[symbol] += sp.Add(*(terms.get(term, 0) for term in noise.terms))
    order = [moments.unroller.entry(name, (j + 1, n + 1)) for name, (j, n) in moments.entries]
    known = dict(zip(order, moments.entries, strict=True))
    entries = [known[symbol] for symbol in rates]
    Sigma = sp.Matrix([[moments.covariance(u, v) for v in entries] for u in entries])
    return replace(explicit, rhs=rates, covariance=Sigma)


def noise_of(model: Model, algorithm: SGD | GradientFlow, dim: int | sp.Expr | None) -> Noise:
    """Fluctuations of an algorithm, or a refusal.

    Raises
    ------
    BadParameter
        For gradient flow, which has none; without a dimension; for what is not derived.
    """
    if isinstance(algorithm, GradientFlow):
        raise BadParameter(
            "gradient flow has no fluctuations: they are those of the samples; derive with "
            "dmft.SGD(learning_rate=...)"
        )
    if dim is None:
        raise BadParameter(
            "fluctuations are of order 1/sqrt(d): pass dim=, a number or a symbol whose value "
            "is given at run time"
        )
    if getattr(algorithm, "repeat", None) is not None:
        raise BadParameter("fluctuations of repeated gradients (repeat=) are not derived")
    if getattr(algorithm, "readout_rate", 0) != 0:
        raise BadParameter(
            "fluctuations of a trained second layer are not derived; take readout_rate=0"
        )
    if algorithm.constraint not in (None, "sphere"):
        raise BadParameter(
            f"fluctuations under constraint={algorithm.constraint!r} are not derived; "
            'constraint="sphere" has the same covariance'
        )
    if not isinstance(algorithm.batch_size, int):
        raise BadParameter(
            f"fluctuations are those of batches of order one, got {algorithm.batch_size}; "
            "steps of large batches are the map of derive(..., dim=...)"
        )
    if derivative(model.student.activation).has(sp.DiracDelta):
        raise BadParameter(
            f"the student activation {model.student.activation} jumps: the gradient of a sample "
            "does not exist"
        )
    return Noise(model, algorithm, as_dimension(dim))


def as_dimension(dim: int | sp.Expr) -> sp.Expr:
    """Return an input dimension as SymPy: an integer, or a symbol that is given at run time."""
    if isinstance(dim, sp.Expr) and dim.free_symbols:
        return dim
    return sp.Integer(as_count(int(dim) if isinstance(dim, sp.Integer) else dim, "dim"))
