r"""Rates of the overlaps of one pass: all definitions, the blocks of the covariance first.

A neuron keeps rows, w among them, that move by dZ_a = sum_a' A_aa' Z_a' dt + g_a (drive). With
F_b[j, l] = E[psi_j (row l of b) . x/sqrt(d)], c_e D G_e[., b] within a block e of a spectrum,

    dG[a, w*] = sum_a' A_aa' G[a', w*] + g_a F_w*,
    dG[a, b]  = sum_a' A_aa' G[a', b] + g_a F_b + (a <-> b)^T + g_a g_b gamma/(p n_b) nu S

(theory/structured_inputs (6), (18)): plain SGD has the weights alone, A = 0, g = 1, c = nu = 1.
A decay in the gradient is divided as this is, A_j = -zeta/(sqrt(V_j) + eps): in a coordinate it is
below psi x by sqrt(d), so that V does not hold it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.definitions import Definition, define
from dmft.equations.update.optimiser import WEIGHTS, Blocks, Motion, motion_of, step_size
from dmft.equations.update.overlaps import (
    ON_SPHERE,
    Factors,
    Moments,
    plain_factors,
    risk_expression,
)
from dmft.errors import BadParameter
from dmft.model import SGD, GradientFlow, Model


def definitions(
    model: Model, algorithm: SGD | GradientFlow, quadratic: bool, step: sp.Expr | None = None
) -> list[Definition]:
    """All definitions of the overlap dynamics, blocks first and rates last.

    `step` is the rate of the steps in the quadratic term; that of the algorithm by default.

    Raises
    ------
    BadParameter
        For rows of constant length where the fields do not see lengths, or with rows of memory.
    """
    motion, blocks = motion_of(algorithm), Blocks(model.spectrum is not None)
    size = step or step_size(algorithm)
    factors = _factors(model, algorithm, blocks, size)
    moments = factors.moments
    plain = motion.rows == (WEIGHTS,) and not blocks.by_block
    if plain:
        drifts = moments.drift_definitions()
    elif algorithm.on_sphere:
        raise BadParameter(
            f"constraint = {algorithm.constraint!r} is not derived for inputs with a spectrum, "
            "whose overlaps have blocks, nor with rows that an optimiser keeps beside the weights; "
            "leave it out"
        )
    else:
        from dmft.equations.update.rows import row_definitions  # loaded by whoever has them

        drifts = row_definitions(moments, blocks, motion)
    rates = gram_rates(factors, blocks, motion, factors.noise if quadratic else {})
    if algorithm.on_sphere:
        rates = on_sphere(rates)
    rest = _beside_overlaps(moments)
    return [*drifts, *factors.definitions, *rates, *factors.rates, *rest]


def _factors(model: Model, algorithm: SGD | GradientFlow, blocks: Blocks, size: sp.Expr) -> Factors:
    """Factors of the drift and of the noise, with the quadratic term of steps of this size."""
    if isinstance(algorithm, SGD) and hasattr(algorithm, "scale"):
        from dmft.equations.update.adaptive.factors import factors_of  # loaded by whoever has it

        return factors_of(model, algorithm, blocks, size)
    moments = Moments(model, algorithm)
    alpha, share = plain_factors(model)
    noise: dict[str, sp.Expr] = {}
    if isinstance(algorithm, SGD):
        noise = moments.quadratic(share * size / (x.p * algorithm.batch_size))
    return Factors(moments, alpha, noise)


def gram_rates(
    factors: Factors, blocks: Blocks, motion: Motion, noise: Mapping[str, sp.Expr]
) -> list[Definition]:
    """Rates of all Gram matrices, the weights first."""
    j, l, r, p = x.j, x.l, x.r, x.p  # noqa: E741
    rows, drive, moments = motion.rows, motion.drive, factors.moments

    def met(name: str, row: str, first: sp.Expr, second: sp.Expr) -> sp.Expr:
        drift = blocks.drift(moments.bases[name], row, first, second)
        return factors.at(first) * drift

    def divided(name: str, neuron: sp.Expr) -> sp.Expr:
        return factors.inside.xreplace({j: neuron}) if name in motion.inside else sp.S.One

    result = []
    for a, one in enumerate(rows):
        terms = {n: drive[a] * met(n, WEIGHTS, j, p + r) for n in moments.bases}
        for name, A in motion.linear.items():
            moved = sp.Add(*(A[a, b] * blocks.overlap(two, r) for b, two in enumerate(rows)))
            terms[name] = divided(name, j) * moved
        result.append(define(blocks.overlap(one, r), terms, "rate"))
        for b, two in enumerate(rows[: a + 1]):
            terms = {
                n: drive[a] * met(n, two, j, l) + drive[b] * met(n, one, l, j)
                for n in moments.bases
            }
            terms |= {n: drive[a] * drive[b] * value for n, value in noise.items()}
            for name, A in motion.linear.items():
                first = (A[a, c] * blocks.pair(y, two, j, l) for c, y in enumerate(rows))
                second = (A[b, c] * blocks.pair(one, y, j, l) for c, y in enumerate(rows))
                both = (divided(name, j) * sp.Add(*first), divided(name, l) * sp.Add(*second))
                terms[name] = sp.Add(*both)
            result.append(define(blocks.pair(one, two, j, l), terms, "rate"))
    return result


def on_sphere(rates: Sequence[Definition]) -> list[Definition]:
    """Rates of rows whose length is kept, from those of free rows."""
    M, Q = rates
    free = define(x.Phi[x.j, x.l], dict(Q.terms), "intermediate")
    kept = {"free": x.Phi[x.j, x.l], "sphere": ON_SPHERE[x.Q]}
    moved = {**dict(M.terms), "sphere": ON_SPHERE[x.M]}
    return [free, define(M.target, moved, "rate"), define(Q.target, kept, "rate")]


def _beside_overlaps(moments: Moments) -> list[Definition]:
    """Rates of trained readouts, and the observables."""
    algorithm, result = moments.algorithm, []
    if isinstance(algorithm, SGD) and algorithm.trains_readout and moments.model.outputs > 1:
        from dmft.equations.update.outputs import readout_rates  # loaded by whoever has them

        result += readout_rates(moments)
    elif isinstance(algorithm, SGD) and algorithm.trains_readout:
        result.append(define(x.a[x.j], moments.readout(x.rho_a), "rate"))
    result.append(define(x.risk, {"risk": risk_expression(moments.model)}, "observable"))
    return [*result, *moments.observables()]
