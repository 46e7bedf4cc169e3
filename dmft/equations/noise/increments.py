r"""Increments of one step as random variables: the only place where their equations stand.

A step multiplies the input of a sample by gamma psi_j/(p n_b) and adds it to neuron j, psi the
update field of any algorithm (`dmft.equations.update.program`). The state moves by gamma/(p d)
times the mean over the batch of (theory/one_pass E.1)

    u_jl = psi_j h_l + psi_l h_j + gamma/(p n_b) psi_j psi_l,    v_jr = psi_j h*_r,
    w_j = rho_a e sigma(h_j)   (trained readouts).

On the sphere the rows are divided by their new lengths: the first order of that division in the
step gives the increments, its second order a drift of order 1/d. A sample from a cluster has that
cluster's fields and length. Written polynomials
(`dmft.equations.averages.moments`), the NumPy reference and compiled code (both from
`dmft.equations.noise.increments_at_nodes`), LaTeX and text are made of the definitions below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import Expectation
from dmft.equations.definitions import Definition, base_name, define, used_bases
from dmft.equations.steps import STEP
from dmft.equations.update.moments import Case, shared
from dmft.equations.update.optimiser import own_motion, step_size
from dmft.equations.update.overlaps import Moments
from dmft.equations.update.program import Program, depends_on_length, stretched_program
from dmft.errors import BadParameter
from dmft.model import SGD, Model
from dmft.model.repetition import SEVERAL

# Terms of the drift at order 1/d.
FINITE_SIZE, CURVATURE = "finite_size", "curvature"
Pair = Callable[[sp.Expr, sp.Expr], sp.Expr]


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


class Lengths(sp.Expr):
    r"""E[F(s) - F(1)], s = |x|^2/d of the sample, F a function of the fields and of s.

    A step displaces the fields of its sample by s times as much as at d -> infinity. At given
    fields s has the mean 1 + (lambda^T Omega^+ lambda - rank Omega)/d and the variance 2/d, so
    that to order 1/d the mean of F is that of its values at the mean less and plus sqrt(2/d).
    """

    is_commutative = True
    is_real = True

    @property
    def function(self) -> sp.Expr:
        """F."""
        return self.args[0]

    def _sympystr(self, printer: Any) -> str:
        inside = printer.doprint(self.function)
        return f"(⟨{inside}⟩ at s = |x|²/d minus that at s = 1)"

    def _latex(self, printer: Any) -> str:
        inside = printer.doprint(self.function)
        return rf"\Bigl\langle {inside} \Bigr\rangle_{{s = 1}}^{{s = |x|^2/d}}"


@dataclass(frozen=True)
class Increments:
    """What one step of an algorithm adds to Q, M and trained readouts, in symbols.

    Batches have a fixed size; each sample of a batch is displaced along its own gradient.
    """

    model: Model
    algorithm: SGD

    @cached_property
    def moments(self) -> Moments:
        """Moments of the same update field, which holds the noise of each sample."""
        if self.algorithm.rule.shortens and self.algorithm.batch_size != 1:
            raise BadParameter(f"batch_size = {self.algorithm.batch_size}: {SEVERAL}")
        return Moments(self.model, self.algorithm, averaged=False)

    @property
    def program(self) -> Program:
        """The update field."""
        return self.moments.program

    @property
    def noise_apart(self) -> bool:
        """Whether the label's noise is averaged over exactly: psi is linear in it."""
        return self.moments.noise_apart

    @property
    def on_sphere(self) -> bool:
        """Whether rows are divided by their lengths after each step."""
        return self.algorithm.constraint is not None

    @property
    def in_clusters(self) -> bool:
        """Whether samples are drawn from clusters."""
        return self.moments.cases[0].cluster.number > 0

    @cached_property
    def displaced(self) -> bool:
        """Whether the update depends on the length of the input."""
        once = self.algorithm.rule.passes == 1
        return once and depends_on_length(self.model, self.algorithm)

    @property
    def share(self) -> sp.Expr:
        """1/n_b."""
        return sp.Rational(1, self.algorithm.batch_size)

    @property
    def free_bases(self) -> tuple[sp.IndexedBase, sp.IndexedBase]:
        """Bases of the increments of Q and M without constraint."""
        return (x.free_u, x.free_v) if self.on_sphere else (x.step_u, x.step_v)

    @property
    def bases(self) -> tuple[sp.IndexedBase, ...]:
        """Bases of the increments of the state, in the order of its blocks."""
        trained = (x.step_w,) if self.algorithm.trains_readout else ()
        return (x.step_u, x.step_v, *trained)

    # Random fields of a sample -------------------------------------------------------------------

    @cached_property
    def sample(self) -> tuple[Definition, ...]:
        """Update psi_j, written out with label noise of unit variance or as a program."""
        return self.sample_of(self.program)

    def sample_of(self, program: Program) -> tuple[Definition, ...]:
        """The same of one program."""
        if not self.noise_apart:
            return program.definitions
        whole = shared(program.inline(x.psi[x.j]), self.model)
        return (define(x.psi[x.j], {"update": whole}, "intermediate"),)

    def of_case(self, case: Case) -> tuple[tuple[Definition, ...], tuple[Definition, ...]]:
        """Fields of a sample and its increments where it is drawn from one cluster."""
        program, scale = case.program, case.cluster.scale
        sample = self.sample_of(program)
        steps = (*self.free_of(program, scale), *self.constrained)
        own = {getattr(d.target, "base", d.target) for d in (*sample, *steps)}

        def named(d: Definition) -> Definition:
            terms = tuple((name, case.cluster.shifted(e, own)) for name, e in d.terms)
            return replace(d, target=case.cluster.shifted(d.target, own), terms=terms)

        return tuple(map(named, sample)), tuple(map(named, steps))

    @cached_property
    def stretched(self) -> tuple[Definition, ...]:
        """What of the program depends on s = |x|^2/d."""
        program = stretched_program(self.model, self.algorithm)
        found, names = [], {x.stretch.name}
        for d in program.definitions:
            if used_bases(d.expr) & names:
                found.append(d)
                names.add(base_name(d.target))
        return tuple(found)

    def free_step(
        self, stretch: sp.Expr = sp.S.One, program: Program | None = None
    ) -> tuple[sp.Expr, ...]:
        """u_jl, v_jr and, where readouts are trained, w_j without the constraint."""
        program = program or self.program
        j, l, r, psi = x.j, x.l, x.r, x.psi  # noqa: E741
        own = step_size(self.algorithm) * self.share / x.p * stretch * psi[j] * psi[l]
        u, v = psi[j] * x.h[l] + psi[l] * x.h[j] + own, psi[j] * x.h_star[r]
        if not self.algorithm.trains_readout:
            return u, v
        push = program.readout
        if self.noise_apart:
            push = shared(program.inline(push), self.model)
        return u, v, x.rho_a * push

    @cached_property
    def free(self) -> tuple[Definition, ...]:
        """Definitions of the increments without the constraint."""
        return self.free_of(self.program)

    def free_of(self, program: Program, stretch: sp.Expr = sp.S.One) -> tuple[Definition, ...]:
        """The same of one program, of a sample with this |x|^2/d."""
        u, v = self.free_bases
        targets = (u[x.j, x.l], v[x.j, x.r], x.step_w[x.j])
        pairs = zip(targets, self.free_step(stretch, program), strict=False)
        return tuple(define(target, {"step": e}, "intermediate") for target, e in pairs)

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

    # Drift at order 1/d --------------------------------------------------------------------------

    @property
    def terms(self) -> tuple[str, ...]:
        """Terms of the drift at order 1/d.

        None where whole steps are repeated: their passes also see what the first one made of
        constraint, readouts and the other samples, at the same order. None of inputs from
        clusters, whose lengths have a law of their own. None where a sample moves the weights in
        several steps: those after the first see what others made of the rows, at the same order.
        """
        if step_size(self.algorithm) != x.gamma:
            return ()
        if self.in_clusters or self.algorithm.rule.passes > 1:
            return ()
        return (FINITE_SIZE, CURVATURE) if self.on_sphere else (FINITE_SIZE,)

    @cached_property
    def excess(self) -> tuple[Definition, ...]:
        """Rates of Q, M and readouts at order 1/d without the constraint, in units of gamma/(p d).

        Outside the weights an input has the squared length d - rank, inside it
        lambda^T Omega^+ lambda; the inputs of one batch are orthogonal outside. The optimiser's own
        motion shortens the rows that the step is added to.
        """
        j, l, psi = x.j, x.l, x.psi  # noqa: E741
        terms = {
            "samples": self.share * Expectation(psi[j] * psi[l] * x.dilation),
            "batch": (1 - self.share) * Alignment(psi[j], psi[l]),
        }
        own = own_motion(self.algorithm)
        for name, rate in own.items():
            along = Expectation(psi[j] * x.h[l]) + Expectation(psi[l] * x.h[j])
            terms[name] = rate * sp.Add(*own.values()) * x.Q[j, l] + rate * along
        if not self.displaced:
            return (define(x.excess[j, l], terms, "intermediate"),)
        u, *others = (Lengths(e) / STEP for e in self.free_step(x.stretch))
        terms["samples"] = u
        targets = (x.excess_v[j, x.r], x.excess_w[j])
        return (
            define(x.excess[j, l], terms, "intermediate"),
            *(
                define(target, {"samples": e}, "intermediate")
                for target, e in zip(targets, others, strict=False)
            ),
        )

    @cached_property
    def rates(self) -> tuple[Definition, ...]:
        """What a step adds to the drift of Q, M and readouts at order 1/d, by named term."""
        j, l, r = x.j, x.l, x.r  # noqa: E741
        dQ: dict[str, sp.Expr] = {}
        dM: dict[str, sp.Expr] = {}
        if self.terms and not self.on_sphere:
            dQ[FINITE_SIZE] = STEP * x.excess[j, l]
            dM[FINITE_SIZE] = STEP * x.excess_v[j, r] if self.displaced else sp.S.Zero
        elif self.terms:
            # The mean of a step goes through the first order of the division, its spread
            # through the second.
            first = [e.xreplace(self._mean(e)) for e in normalised(1)]
            second = [bilinear(e, self.variables(e), self._batch) for e in normalised(2)]
            dQ, dM = (
                {FINITE_SIZE: STEP * one, CURVATURE: STEP * two}
                for one, two in zip(first, second, strict=True)
            )
        result = [define(x.Q[j, l], dQ, "rate"), define(x.M[j, r], dM, "rate")]
        if self.algorithm.trains_readout:
            da = STEP * x.excess_w[j] if self.displaced else sp.S.Zero
            result.append(define(x.a[j], {FINITE_SIZE: da}, "rate"))
        return tuple(result)

    def variables(self, expr: sp.Expr) -> set[sp.Expr]:
        """Free increments that an expression holds."""
        return {e for e in expr.atoms(sp.Indexed) if e.base in self.free_bases}

    def _mean(self, expr: sp.Expr) -> dict[sp.Expr, sp.Expr]:
        """Rates at order 1/d in the place of free increments; M has one where s moves psi."""
        u, _ = self.free_bases

        def value(e: sp.Indexed) -> sp.Expr:
            if e.base == u:
                return x.excess[e.indices]
            return x.excess_v[e.indices] if self.displaced else sp.S.Zero

        return {e: value(e) for e in self.variables(expr)}

    def _batch(self, one: sp.Expr, two: sp.Expr) -> sp.Expr:
        """Raw second moment of the batch means of two increments."""
        rest = (1 - self.share) * Expectation(one) * Expectation(two)
        return self.share * Expectation(one * two) + rest


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
    """Replace every product of two variables in a quadratic form by its `value`."""
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
