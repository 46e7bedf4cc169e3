r"""Increments of one step as random variables: the only place where their equations stand.

A step multiplies the input of a sample by gamma psi_j/(p n_b) and adds it to neuron j. The overlaps
move by gamma/(p d) times the mean over the batch of (one_pass.md E.1)

    u_jl = psi_j h_l + psi_l h_j + gamma/(p n_b) psi_j psi_l,    v_jr = psi_j h*_r.

On the sphere the rows are divided by their new lengths: the first order of that division in the
step gives the increments, its second order a drift of order 1/d. Written polynomials
(`dmft.equations.moments`), the NumPy reference and compiled code (both from
`dmft.equations.increments_at_nodes`), LaTeX and text are made of the definitions below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.average import Average
from dmft.equations.definitions import Definition, define
from dmft.equations.steps import STEP
from dmft.equations.update.moments import shared
from dmft.equations.update.program import program_of
from dmft.model import SGD, Model

# Terms of the drift at order 1/d.
FINITE_SIZE, CURVATURE = "finite_size", "curvature"
Pair = Callable[[sp.Expr, sp.Expr], sp.Expr]


class Dilation(sp.Expr):
    r"""E[F (lambda^T Omega^+ lambda - rank Omega)], F a function of the fields.

    The squared length of the input within the span of all weights, less its mean. With
    lambda = root z the bracket is |z|^2 - rank; by Stein's identity this is E[lambda . grad F].
    """

    is_commutative = True
    is_real = True

    @property
    def function(self) -> sp.Expr:
        """F."""
        return self.args[0]

    def _sympystr(self, printer: Any) -> str:
        return f"⟨{printer.doprint(self.function)} (λᵀΩ⁺λ - rank Ω)⟩"

    def _latex(self, printer: Any) -> str:
        inside = printer.doprint(self.function)
        bracket = r"\left(\lambda^\top\Omega^{+}\lambda - \mathrm{rank}\,\Omega\right)"
        return rf"\Bigl\langle {inside}\,{bracket} \Bigr\rangle"


class Alignment(sp.Expr):
    r"""E[F lambda^T] Omega^+ E[lambda G]: inner product of the mean updates that F and G give.

    With lambda = root z it is sum_n E[F z_n] E[G z_n]; by Stein's identity sum_mn Omega_mn
    E[dF/dlambda_m] E[dG/dlambda_n].
    """

    is_commutative = True
    is_real = True

    def _sympystr(self, printer: Any) -> str:
        first, second = (printer.doprint(a) for a in self.args)
        return f"⟨{first} λᵀ⟩Ω⁺⟨λ {second}⟩"

    def _latex(self, printer: Any) -> str:
        first, second = (printer.doprint(a) for a in self.args)
        left, right = rf"\langle {first}\,\lambda^\top\rangle", rf"\langle\lambda\,{second}\rangle"
        return rf"{left}\,\Omega^{{+}}\,{right}"


@dataclass(frozen=True)
class Increments:
    """What one step of SGD adds to Q and M, in symbols.

    Attributes
    ----------
    model : Model
    algorithm : SGD
        Without repeats; batches of a fixed size.
    """

    model: Model
    algorithm: SGD

    @property
    def on_sphere(self) -> bool:
        """Whether rows are divided by their lengths after each step."""
        return self.algorithm.constraint is not None

    @property
    def share(self) -> sp.Expr:
        """1/n_b."""
        return sp.Rational(1, self.algorithm.batch_size)

    @property
    def free_bases(self) -> tuple[sp.IndexedBase, sp.IndexedBase]:
        """Bases of the increments without constraint."""
        return (x.free_u, x.free_v) if self.on_sphere else (x.step_u, x.step_v)

    @cached_property
    def update(self) -> Definition:
        """psi_j = a_j sigma'(h_j) E, label noise of unit variance in E."""
        whole = program_of(self.model, self.algorithm).inline(x.psi[x.j])
        return define(x.psi[x.j], {"update": shared(whole, self.model)}, "intermediate")

    @cached_property
    def free(self) -> tuple[Definition, Definition]:
        """u_jl and v_jr without the constraint."""
        j, l, r, psi = x.j, x.l, x.r, x.psi  # noqa: E741
        u, v = self.free_bases
        own = x.gamma * self.share / x.p * psi[j] * psi[l]
        first = {"step": psi[j] * x.h[l] + psi[l] * x.h[j] + own}
        return (
            define(u[j, l], first, "intermediate"),
            define(v[j, r], {"step": psi[j] * x.h_star[r]}, "intermediate"),
        )

    @cached_property
    def constrained(self) -> tuple[Definition, ...]:
        """u_jl and v_jr of normalised rows; nothing without a constraint."""
        if not self.on_sphere:
            return ()
        u, v = normalised(1)
        return (
            define(x.step_u[x.j, x.l], {"sphere": u}, "intermediate"),
            define(x.step_v[x.j, x.r], {"sphere": v}, "intermediate"),
        )

    @cached_property
    def excess(self) -> Definition:
        """Rate of Q at order 1/d without the constraint, in units of gamma/(p d).

        Outside the weights an input has the squared length d - rank, inside it
        lambda^T Omega^+ lambda; the inputs of one batch are orthogonal outside.
        """
        one, two = x.psi[x.j], x.psi[x.l]
        terms = {
            "samples": self.share * Dilation(one * two),
            "batch": (1 - self.share) * Alignment(one, two),
        }
        return define(x.excess[x.j, x.l], terms, "intermediate")

    @cached_property
    def rates(self) -> tuple[Definition, Definition]:
        """What a step adds to the drift of Q and of M at order 1/d, by named term."""
        j, l, r = x.j, x.l, x.r  # noqa: E741
        if not self.on_sphere:
            dQ, dM = {FINITE_SIZE: STEP * x.excess[j, l]}, {}
        else:
            # The mean of a step goes through the first order of the division, its spread
            # through the second.
            first = [e.xreplace(self._mean(e)) for e in normalised(1)]
            second = [bilinear(e, self.variables(e), self._batch) for e in normalised(2)]
            dQ, dM = (
                {FINITE_SIZE: STEP * one, CURVATURE: STEP * two}
                for one, two in zip(first, second, strict=True)
            )
        return define(x.Q[j, l], dQ, "rate"), define(x.M[j, r], dM, "rate")

    def variables(self, expr: sp.Expr) -> set[sp.Expr]:
        """Free increments that an expression holds."""
        return {e for e in expr.atoms(sp.Indexed) if e.base in self.free_bases}

    def _mean(self, expr: sp.Expr) -> dict[sp.Expr, sp.Expr]:
        """Rates at order 1/d in the place of free increments; M has none."""
        u, _ = self.free_bases
        return {e: x.excess[e.indices] if e.base == u else sp.S.Zero for e in self.variables(expr)}

    def _batch(self, one: sp.Expr, two: sp.Expr) -> sp.Expr:
        """Raw second moment of the batch means of two increments."""
        rest = (1 - self.share) * Average(one) * Average(two)
        return self.share * Average(one * two) + rest


def normalised(order: int) -> tuple[sp.Expr, sp.Expr]:
    """Power of a small step in the overlaps of rows that are divided by their lengths, Q_jj = 1."""
    j, l, r, step = x.j, x.l, x.r, sp.Dummy("step")  # noqa: E741
    own, other = 1 + step * x.free_u[j, j], 1 + step * x.free_u[l, l]
    new_Q = (x.Q[j, l] + step * x.free_u[j, l]) / sp.sqrt(own) / sp.sqrt(other)
    new_M = (x.M[j, r] + step * x.free_v[j, r]) / sp.sqrt(own)
    scale = sp.factorial(order)
    Q, M = (sp.expand(sp.diff(e, step, order).subs(step, 0) / scale) for e in (new_Q, new_M))
    return Q, M


def bilinear(expr: sp.Expr, variables: Iterable[sp.Expr], value: Pair) -> sp.Expr:
    """Replace every product of two variables in a quadratic form by its `value`.

    Examples
    --------
    >>> a, b, q = sp.symbols("a b q")
    >>> bilinear(q * a * b - a**2, [a, b], lambda one, two: sp.Function("cov")(one, two))
    q*cov(a, b) - cov(a, a)
    """
    known, total = set(variables), []
    for term in sp.Add.make_args(sp.expand(expr)):
        pair: list[sp.Expr] = []
        for factor in sp.Mul.make_args(term):
            base, power = factor.as_base_exp()
            if base in known:
                pair += [base] * int(power)
        one, two = sorted(pair, key=sp.default_sort_key)
        total.append(term / (one * two) * value(one, two))
    return sp.Add(*total)
