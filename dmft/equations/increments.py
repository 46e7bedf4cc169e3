r"""Increments of one step as random variables, and their moments in closed form for polynomials.

One step moves the overlaps by gamma/(p d) times the mean over its batch of (one_pass.md E.1)

    u_jl = psi_j h_l + psi_l h_j + gamma/(p n_b) psi_j psi_l,    v_jr = psi_j h*_r,

psi_j = a_j sigma'(h_j) (g - f + sqrt(Delta) xi). Where the activations are polynomials, all moments
of u and v are polynomials in the overlaps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.explicit import Unroller
from dmft.equations.target import target
from dmft.gaussian.polynomial import polynomial_expectation
from dmft.gaussian.switch import derivative
from dmft.model import FIELD, SGD, Committee, Model

# Terms of the drift at order 1/d.
FINITE_SIZE, CURVATURE = "finite_size", "curvature"
Entry = tuple[str, tuple[int, int]]


def sees_itself(algorithm: SGD) -> bool:
    """Whether the student's output is in the error: not under the correlation loss."""
    return algorithm.loss == "squared"


def degrees(model: Model, algorithm: SGD) -> tuple[int, int] | None:
    """Degrees of psi_j and of E in the fields, or None when they are no polynomials."""
    sigma = model.student.activation
    output = target(model) if not isinstance(model.teacher, Committee) else None
    star = model.teacher.activation if isinstance(model.teacher, Committee) else None
    if not sigma.is_polynomial(FIELD):
        return None
    own = int(sp.degree(sigma, FIELD))
    if star is not None:
        if not star.is_polynomial(FIELD):
            return None
        other = int(sp.degree(star, FIELD))
    else:
        assert output is not None
        fields = sorted(output.atoms(sp.Indexed), key=sp.default_sort_key)
        plain = [sp.Dummy() for _ in fields]
        output = output.xreplace(dict(zip(fields, plain, strict=True)))
        if not output.is_polynomial(*plain):
            return None
        other = int(sp.Poly(output, *plain).total_degree()) if plain else 0
    error = max(own, other) if sees_itself(algorithm) else other
    return max(own - 1, 0) + error, error


@dataclass(frozen=True)
class ClosedMoments:
    """Moments of the increments of a polynomial model at numeric widths, as polynomials.

    Attributes
    ----------
    model, algorithm
    unroller : Unroller
        Gives the symbols of the overlaps and the values of the readouts.
    p, k : int
    """

    model: Model
    algorithm: SGD
    unroller: Unroller
    p: int
    k: int

    @cached_property
    def gain(self) -> sp.Expr:
        """gamma/(p n_b)."""
        return x.gamma / (self.p * self.algorithm.batch_size)

    @cached_property
    def fields(self) -> list[sp.Symbol]:
        """Local fields h_1 .. h_p, h*_1 .. h*_k and the label noise, as plain symbols."""
        names = [*(f"h_{j}" for j in range(self.p)), *(f"s_{r}" for r in range(self.k)), "xi"]
        return [sp.Dummy(name, real=True) for name in names]

    @cached_property
    def covariance_of_fields(self) -> sp.ImmutableDenseMatrix:
        """Covariance of the fields; the label noise has variance Delta."""
        size = self.p + self.k
        matrix = sp.zeros(size + 1, size + 1)
        for i in range(size):
            for n in range(size):
                matrix[i, n] = self.overlap(i, n)
        matrix[size, size] = x.Delta
        return sp.ImmutableDenseMatrix(matrix)

    def overlap(self, i: int, n: int) -> sp.Expr:
        """Entry of Omega at positions from 0."""
        i, n = sorted((i, n))
        if n < self.p:
            fixed = i == n and self.algorithm.constraint is not None
            return sp.Integer(1) if fixed else self.unroller.entry("Q", (i + 1, n + 1))
        if i < self.p:
            return self.unroller.entry("M", (i + 1, n + 1 - self.p))
        return self.unroller.entry("P", (i + 1 - self.p, n + 1 - self.p))

    @cached_property
    def psi(self) -> list[sp.Expr]:
        """Updates psi_j, polynomials in the fields."""
        h, star = self.fields[: self.p], self.fields[self.p : -1]
        sigma, teacher = self.model.student.activation, self.model.teacher
        a = [self.unroller.entry("readout", (j + 1,)) for j in range(self.p)]
        if isinstance(teacher, Committee):
            weights = [self.unroller.entry("teacher_readout", (r + 1,)) for r in range(self.k)]
            values = [teacher.activation.xreplace({FIELD: y}) for y in star]
            error = sp.Add(*(w * v for w, v in zip(weights, values, strict=True))) / self.k
        else:
            error = target(self.model).xreplace({x.h_star[r + 1]: y for r, y in enumerate(star)})
        if sees_itself(self.algorithm):
            outputs = (a[j] * sigma.xreplace({FIELD: h[j]}) for j in range(self.p))
            error -= sp.Add(*outputs) / self.p
        slope = derivative(sigma)
        error += self.fields[-1]
        return [sp.expand(a[j] * slope.xreplace({FIELD: h[j]}) * error) for j in range(self.p)]

    def mean(self, expr: sp.Expr) -> sp.Expr:
        """Expectation of a polynomial in the fields."""
        zero = [sp.S.Zero] * len(self.fields)
        value = polynomial_expectation(expr, self.fields, self.covariance_of_fields, zero)
        assert value is not None, expr
        return sp.expand(value)

    @cached_property
    def entries(self) -> list[Entry]:
        """Entries of the state that are different: Q_jl with j <= l, then M_jr."""
        students = [("Q", (j, n)) for j in range(self.p) for n in range(j, self.p)]
        return students + [("M", (j, r)) for j in range(self.p) for r in range(self.k)]

    @cached_property
    def increments(self) -> dict[Entry, sp.Expr]:
        """u_jl and v_jr without the constraint."""
        h, star, psi = self.fields[: self.p], self.fields[self.p : -1], self.psi
        result = {}
        for name, (j, n) in self.entries:
            if name == "Q":
                value = psi[j] * h[n] + psi[n] * h[j] + self.gain * psi[j] * psi[n]
            else:
                value = psi[j] * star[n]
            result[name, (j, n)] = sp.expand(value)
        return result

    @cached_property
    def means(self) -> dict[Entry, sp.Expr]:
        """Means of the increments: the rates without constraint, at leading order."""
        return {entry: self.mean(value) for entry, value in self.increments.items()}

    @cached_property
    def seconds(self) -> dict[tuple[Entry, Entry], sp.Expr]:
        """Raw second moments of the increments of one sample."""
        result = {}
        for number, one in enumerate(self.entries):
            for two in self.entries[: number + 1]:
                value = self.mean(self.increments[one] * self.increments[two])
                result[one, two] = result[two, one] = value
        return result

    def free_covariance(self, one: Entry, two: Entry) -> sp.Expr:
        """Covariance of two increments without the constraint."""
        return sp.expand(self.seconds[one, two] - self.means[one] * self.means[two])

    def projected(self, entry: Entry) -> list[tuple[sp.Expr, Entry]]:
        """Increment of normalised weights as a combination of free ones."""
        name, (j, n) = entry
        if self.algorithm.constraint is None:
            return [(sp.Integer(1), entry)]
        own: Entry = ("Q", (j, j))
        if name == "M":
            return [(sp.Integer(1), entry), (-self.overlap(j, self.p + n) / 2, own)]
        if j == n:
            return []
        half = -self.overlap(j, n) / 2
        return [(sp.Integer(1), entry), (half, own), (half, ("Q", (n, n)))]

    def covariance(self, one: Entry, two: Entry) -> sp.Expr:
        """Entry of Sigma: covariance of two increments, the constraint included."""
        total = [
            c * e * self.free_covariance(u, v)
            for c, u in self.projected(one)
            for e, v in self.projected(two)
        ]
        return sp.expand(sp.Add(*total))

    def batch_second(self, one: Entry, two: Entry) -> sp.Expr:
        """Raw second moment of the batch means of two increments."""
        share = sp.Rational(1, self.algorithm.batch_size)
        return share * self.seconds[one, two] + (1 - share) * self.means[one] * self.means[two]

    def excess(self, j: int, n: int) -> sp.Expr:
        """Finite-size rate of Q_jl without constraint, in units of gamma/(p d).

        E[psi psi (lambda^T Omega^+ lambda - rank)] is E[lambda . grad(psi psi)] by Stein's
        identity, and the Gram matrix of the mean updates is D Omega D^T, D_jm = E[d psi_j/d
        lambda_m].
        """
        share = sp.Rational(1, self.algorithm.batch_size)
        square, local = sp.expand(self.psi[j] * self.psi[n]), self.fields[:-1]
        value = share * self.mean(sp.Add(*(y * sp.diff(square, y) for y in local)))
        if share != 1:
            slopes = [[self.mean(sp.diff(self.psi[i], y)) for y in local] for i in (j, n)]
            size = range(len(local))
            gram = (slopes[0][a] * self.overlap(a, b) * slopes[1][b] for a in size for b in size)
            value += (1 - share) * sp.Add(*gram)
        return sp.expand(value)

    def corrections(self, dim: sp.Expr) -> dict[Entry, dict[str, sp.Expr]]:
        """Rates at order 1/d of every entry of the state, by named term."""
        step = x.gamma / (self.p * dim)
        if self.algorithm.constraint is None:
            rates = {e: {FINITE_SIZE: step * self.excess(*e[1])} for e in self.entries
                     if e[0] == "Q"}  # fmt: skip
            return {e: rates.get(e, {}) for e in self.entries}
        result: dict[Entry, dict[str, sp.Expr]] = {}
        for entry in self.entries:
            name, (j, n) = entry
            if name == "Q" and j == n:
                result[entry] = {}
                continue
            finite = sp.Add(*(c * self.excess(*u[1]) for c, u in self.projected(entry)
                              if u[0] == "Q"))  # fmt: skip
            result[entry] = {
                FINITE_SIZE: step * sp.expand(finite),
                CURVATURE: step * sp.expand(self.curvature(entry)),
            }
        return result

    def curvature(self, entry: Entry) -> sp.Expr:
        """Second order of the division by the lengths, in units of gamma/(p d)."""
        name, (j, n) = entry
        own: Entry = ("Q", (j, j))
        eighth = sp.Rational(3, 8)
        if name == "M":
            overlap = self.overlap(j, self.p + n)
            square, cross = self.batch_second(own, own), self.batch_second(own, entry)
            return eighth * overlap * square - cross / 2
        other: Entry = ("Q", (n, n))
        lengths = eighth * (self.batch_second(own, own) + self.batch_second(other, other))
        lengths += self.batch_second(own, other) / 4
        mixed = self.batch_second(entry, own) + self.batch_second(entry, other)
        return self.overlap(j, n) * lengths - mixed / 2


def closed_moments(
    model: Model, algorithm: SGD, widths: Mapping[str, int], constants: Mapping[str, object]
) -> ClosedMoments:
    """Moments at these widths; `constants` may fix P and the readouts, as for `unroll`."""
    unroller = Unroller(widths, constants)
    return ClosedMoments(model, algorithm, unroller, widths["p"], widths["k"])
