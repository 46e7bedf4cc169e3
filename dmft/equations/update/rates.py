r"""Rates of the overlaps of one pass: all definitions, the blocks of the covariance first.

A neuron keeps rows, w among them, that move by dZ_a = sum_a' A_aa' Z_a' dt + g_a (drive). With
F_b[j, l] = E[psi_j (row l of b) . x/sqrt(d)], c_e D G_e[., b] within a block e of a spectrum,

    dG[a, w*] = sum_a' A_aa' G[a', w*] + g_a F_w*,
    dG[a, b]  = sum_a' A_aa' G[a', b] + g_a F_b + (a <-> b)^T + g_a g_b gamma/(p n_b) nu S

(theory/structured_inputs (6), (18)): plain SGD has the weights alone, A = 0, g = 1, c = nu = 1.
A decay in the gradient is divided as this is, A_j = -zeta/(sqrt(V_j) + eps): in a coordinate it is
below psi x by sqrt(d), so that V does not hold it.

The drive of neuron j in block e of the inputs is c_e sum_m D_jm (row m of the weights),
D = b Omega^+ the mean slopes of psi, in any block and for any row. By Stein's identity
E[psi_j lambda_i] is a sum of slopes times covariances with lambda_i: with Gram entries in their
place it is D G, without an inverse (theory/structured_inputs (3)-(6)). For inputs from clusters it
is a sum over these, plus E[psi_j] times the overlap of the mean and row i; c_e stands in front
where it is that of all clusters, and c_ce next to the Gram entries else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import At, Expectation, OneSample, free_indices
from dmft.equations.definitions import Definition, MeanSlope, define
from dmft.equations.update.law import Cluster
from dmft.equations.update.optimiser import (
    WEIGHTS,
    Blocks,
    Motion,
    block_definitions,
    motion_of,
    step_size,
)
from dmft.equations.update.overlaps import (
    ON_SPHERE,
    Factors,
    Moments,
    plain_factors,
    risk_expression,
)
from dmft.errors import BadParameter, NotClosed
from dmft.gaussian.closed.switch import SWITCHES
from dmft.model import SGD, GradientFlow, Model
from dmft.model.algorithm import numbers_of
from dmft.model.hyperparameters import ADDITIVE


def definitions(
    model: Model,
    algorithm: SGD | GradientFlow,
    quadratic: bool,
    step: sp.Expr | None = None,
    averaged: bool = True,
) -> list[Definition]:
    """All definitions of the overlap dynamics, blocks first and rates last.

    `step` is the rate of the steps in the quadratic term; that of the algorithm by default. Unless
    `averaged`, the update field of plain steps contains the label's noise. Raises
    `BadParameter` for rows of constant length where fields do not see lengths, or with rows of
    memory.
    """
    motion, blocks = motion_of(algorithm), Blocks(model.spectrum is not None)
    size = step or step_size(algorithm)
    factors = _factors(model, algorithm, blocks, size, averaged)
    moments = factors.moments
    plain = motion.rows == (WEIGHTS,) and not blocks.by_block
    if plain:
        drifts = moments.drift_definitions()
    elif algorithm.on_sphere:
        raise BadParameter(
            f"constraint = {algorithm.constraint!r} is not derived for inputs with a spectrum, "
            "or with additional rows of an optimiser; leave it out"
        )
    else:
        drifts = row_definitions(moments, blocks, motion)
    rates = gram_rates(factors, blocks, motion, factors.noise if quadratic else {})
    if algorithm.on_sphere:
        rates = on_sphere(rates)
    rest = beside_overlaps(moments)
    return [*drifts, *factors.definitions, *rates, *factors.rates, *rest]


def _factors(
    model: Model, algorithm: SGD | GradientFlow, blocks: Blocks, size: sp.Expr, averaged: bool
) -> Factors:
    """Factors of the drift and of the noise, with the quadratic term of steps of this size."""
    if not algorithm.is_flow and hasattr(algorithm, "scale"):
        from dmft.equations.update.adaptive_factors import factors_of  # loaded by whoever has it

        return factors_of(model, algorithm, blocks, size, averaged)
    moments = Moments(model, algorithm, averaged)
    alpha, share = plain_factors(model)
    noise: dict[str, sp.Expr] = {}
    if not algorithm.is_flow:
        noise = moments.quadratic(share * size / (x.p * algorithm.batch_size))
        noise |= _added(algorithm, blocks, size)
    return Factors(moments, alpha, noise)


def _added(algorithm: SGD, blocks: Blocks, size: sp.Expr) -> dict[str, sp.Expr]:
    """Noise that is added to each step, by named term: independent of the samples and neurons."""
    share = x.block_fraction[x.block] if blocks.by_block else sp.S.One
    unit = share * size / x.p * sp.KroneckerDelta(x.j, x.l)
    return {name: x.numbers[name] * unit for name in numbers_of(algorithm) if name in ADDITIVE}


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


def beside_overlaps(moments: Moments, step: sp.Expr = sp.S.One) -> list[Definition]:
    """Rates of trained readouts, or what a step of this size adds to them, and the observables."""
    algorithm, result = moments.algorithm, []
    if algorithm.trains_readout and moments.model.outputs > 1:
        result += _readouts_of_outputs(moments)
    elif algorithm.trains_readout:
        result.append(define(x.a[x.j], moments.readout(step * x.rho_a), "rate"))
    result.append(define(x.risk, {"risk": risk_expression(moments.model)}, "observable"))
    return [*result, *moments.observables()]


def _readouts_of_outputs(moments: Moments) -> list[Definition]:
    """Rates of trained readouts, rho_a E[e_o sigma(h_j)]."""
    model, pushes, rate = moments.model, [], sp.S.Zero
    for o in range(model.outputs):
        along = x.error_of_class(o) * At(model.student.activation, x.h[x.j])
        push = x.push_of_output(o)[x.j]
        whole = moments.over(lambda c: c.whole(along))  # noqa: B023
        pushes.append(define(push, {"update": whole}, "intermediate"))
        rate += sp.KroneckerDelta(x.o, o + 1) * push
    return [*pushes, define(x.a[x.o, x.j], {"update": x.rho_a * rate}, "rate")]


# Where mean slopes stand, and the number of the cluster whose covariance is its own, or 0.
Slopes = tuple[sp.IndexedBase, int]
LINE_COVARIANCES = frozenset(f"{name}_covariance" for name in x.LINES.values())


class Drifts:
    """Drifts E[psi_j lambda_i] with another Gram matrix in the place of the covariance.

    `definitions` are mean slopes of what has no closed averages, from averages along the directions
    z of the weights, lambda = root z.
    """

    def __init__(
        self,
        drifts: Mapping[str, sp.Expr],
        blocks: Blocks,
        lines: Mapping[sp.Expr, sp.Expr],
        laws: Sequence[Cluster],
    ) -> None:
        # Loaded for rows beside the weights and blocks alone: plain rates start without it.
        from dmft.equations.averages.conditioned import sums_inside

        self.definitions: list[Definition] = []
        self.blocks, self.laws = blocks, laws
        # What a loss sees of linear students meets each row through the covariances that it is of.
        whole = {name: value.xreplace(dict(lines)) for name, value in drifts.items()}
        self.drifts = {name: sums_inside(value) for name, value in whole.items()}
        open_ones = {q for e in self.drifts.values() for q in e.atoms(Expectation) if _along(q)}
        self.slopes = {q: self.slope(q) for q in sorted(open_ones, key=sp.default_sort_key)}

    def slope(self, average: Expectation) -> Slopes:
        """Mean slopes of an average that stands whole, and the cluster whose covariance it has."""
        if free_indices(average) != (x.i, x.j):
            raise NotClosed(f"{average} has no closed form, which blocks of a spectrum need")
        (field,) = _along(average)
        _, shape = x.cluster_of(field.base)
        number = len(self.definitions) // 2 + 1
        pull, slope = (sp.IndexedBase(f"{name}_{number}") for name in ("pull", "mean_slope"))
        root = x.base_in(x.root, shape) if shape else x.root
        inside = average.integrand.xreplace({field: x.coordinate[x.n]})
        law = average.law
        if not law.of_sample:
            kinked = average.integrand.has(*SWITCHES)
            law = OneSample(sp.Integer(-1) if kinked else sp.oo, sp.S.Zero)
        elif law.halves:  # slopes take a root with the teacher first
            law = OneSample(*law.args[:3], sp.S.Zero, *law.args[4:])
        target, entry = pull[x.j, x.n], slope[x.j, x.i]
        values = {target: Expectation(inside, law), entry: MeanSlope(target, root[x.i, x.n])}
        self.definitions += [define(t, {"update": e}, "intermediate") for t, e in values.items()]
        return slope, shape

    def met_by(self, row: str, name: str) -> sp.Expr:
        """The part `name` of a drift with this row in the place of field i."""
        base, drift, here = self.blocks.with_row(row), self.drifts[name], x.row if row else x.i

        def gram(field: sp.Expr) -> sp.Indexed:
            return self.blocks.entry(base, here, field)

        def own(shape: int) -> sp.Expr:
            return x.cluster_scale[shape, x.block] if shape else sp.S.One

        found = {
            q: own(shape) * sp.Sum(slope[x.j, x.m] * gram(x.m), (x.m, 1, x.p + x.k))
            for q, (slope, shape) in self.slopes.items()
        }
        for law in self.laws:
            mean = law.along_mean(lambda y: gram(x.position(y)))
            found[x.mean_in(law.number)[x.i]] = mean
        for entry in drift.atoms(sp.Indexed):
            covariance, shape = x.cluster_of(entry.base)
            if covariance == x.Omega and x.i in entry.indices:
                other = entry.indices[1] if entry.indices[0] == x.i else entry.indices[0]
                found[entry] = own(shape) * gram(other)
        return drift.xreplace(found)


def _along(average: Expectation) -> set[sp.Indexed]:
    """The field i, where an average is one along it."""
    fields = average.atoms(sp.Indexed)
    return {y for y in fields if x.cluster_of(y.base)[0] == x.lam and y.indices == (x.i,)}


def row_definitions(moments: Moments, blocks: Blocks, motion: Motion) -> list[Definition]:
    """Blocks, random fields of a sample, and the parts of the drift as each row meets them."""
    lines = {d.target: d.expr for d in moments.line_definitions() if d.name in LINE_COVARIANCES}
    laws = [case.cluster for case in moments.cases]
    drifts = Drifts(moments.drifts, blocks, lines, laws)
    result = [*grams_of_rows(blocks, motion), *moments.sample_definitions()]
    result += drifts.definitions
    for row in motion.rows:
        index = x.row if row else x.i
        for name, base in moments.bases.items():
            target = blocks.drift(base, row, x.j, index)
            result.append(define(target, {name: drifts.met_by(row, name)}, "intermediate"))
    return result


def grams_of_rows(blocks: Blocks, motion: Motion) -> list[Definition]:
    """Gram matrices over all fields, and the covariance of the fields."""
    j, l, r, p = x.j, x.l, x.r, x.p  # noqa: E741
    found = block_definitions(blocks.by_block)
    for row in motion.rows[1:]:
        base = blocks.with_row(row)
        own = {"students": blocks.pair(row, WEIGHTS, j, l)}
        found.append(define(blocks.entry(base, j, l), own, "block"))
        known = {"overlap": blocks.overlap(row, r)}
        found.append(define(blocks.entry(base, j, p + r), known, "block"))
    return found
