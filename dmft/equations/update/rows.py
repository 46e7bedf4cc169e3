r"""Rates of the Gram matrices of rows: several rows a neuron, blocks of a spectrum.

A neuron keeps rows, w among them, that move by dZ_a = sum_a' A_aa' Z_a' dt + g_a (drive). The
drive of neuron j in block e of the inputs is c_e sum_m D_jm (row m of the weights), D = b Omega^+
the mean slopes of psi, whatever the block and whichever row it meets. The fields see sum_e c_e G_e
alone, G_e the unweighted Gram matrix of the weights in block e. So with F_b = c_e D G_e[., b]

    dG_e[a, w*] = sum_a' A_aa' G_e[a', w*] + g_a F_w*,
    dG_e[a, b]  = sum_a' A_aa' G_e[a', b] + g_a F_b + (a <-> b)^T + g_a g_b gamma/(p n_b) nu_e S

(structured_inputs.md (3)-(6), (18)). By Stein's identity E[psi_j lambda_i] is a sum of slopes times
covariances with lambda_i: with Gram entries in their place it is D G, without an inverse.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import Expectation, OneSample, free_indices
from dmft.equations.averages.inside import sums_inside
from dmft.equations.definitions import Definition, MeanSlope, define
from dmft.equations.update.optimiser import Motion, motion_of, step_size
from dmft.equations.update.overlaps import Moments, block_definitions, coefficient_definitions
from dmft.errors import BadParameter, NotClosed
from dmft.gaussian.closed.switch import SWITCHES
from dmft.model import SGD, GradientFlow

WEIGHTS = ""


@dataclass(frozen=True)
class Blocks:
    """Gram matrices of the rows, by block of a spectrum or of all inputs at once."""

    by_block: bool

    def __call__(self, name: str, *indices: sp.Expr) -> sp.Indexed:
        """Entry of the Gram matrix of this name."""
        if self.by_block:
            return sp.IndexedBase(f"block_{name}")[(x.block, *indices)]
        return sp.IndexedBase(name)[indices]

    def entry(self, base: sp.IndexedBase, *indices: sp.Expr) -> sp.Indexed:
        """Entry of another array that has blocks where these have."""
        return base[(x.block, *indices)] if self.by_block else base[indices]

    def overlap(self, row: str, index: sp.Expr) -> sp.Indexed:
        """Entry of G[row, w*]."""
        return self(f"{row}_M" if row else "M", x.j, index)

    def pair(self, one: str, two: str, j: sp.Expr, l: sp.Expr) -> sp.Indexed:  # noqa: E741
        """Entry (j, l) of G[one, two]; stored once for each pair, the weights second."""
        if one == two:
            return self(one or "Q", j, l)
        if one == WEIGHTS or (two != WEIGHTS and one < two):
            return self.pair(two, one, l, j)
        return self(f"{one}_{two or 'Q'}", j, l)

    @property
    def gram(self) -> sp.IndexedBase:
        """Gram matrix of the weights and of the teacher's rows."""
        return x.Gram if self.by_block else x.Omega

    def with_row(self, row: str) -> sp.IndexedBase:
        """Gram matrix of a row of the optimiser with the weights and the teacher's rows."""
        return sp.IndexedBase(f"Gram_{row}") if row else self.gram

    def definitions(self, rows: tuple[str, ...]) -> list[Definition]:
        """Gram matrices over all fields, and the covariance of the fields."""
        j, l, r, s, p = x.j, x.l, x.r, x.s, x.p  # noqa: E741
        found: list[Definition] = []
        if self.by_block:
            e, G = x.block, x.Gram
            whole = sp.Sum(x.eigenvalue[e] * G[e, x.i, x.m], (e, 1, x.blocks))
            found += [
                define(G[e, j, l], {"students": self("Q", j, l)}, "block"),
                define(G[e, j, p + r], {"overlap": self("M", j, r)}, "block"),
                define(G[e, p + r, j], {"overlap": self("M", j, r)}, "block"),
                define(G[e, p + r, p + s], {"teachers": self("P", r, s)}, "block"),
                define(x.Omega[x.i, x.m], {"blocks": whole}, "block"),
                *coefficient_definitions(),
            ]
        else:
            found += block_definitions()
        for row in rows[1:]:
            base = self.with_row(row)
            own = {"students": self.pair(row, WEIGHTS, j, l)}
            found.append(define(self.entry(base, j, l), own, "block"))
            known = {"overlap": self.overlap(row, r)}
            found.append(define(self.entry(base, j, p + r), known, "block"))
        return found


class Drifts:
    """Drifts E[psi_j lambda_i] with another Gram matrix in the place of the covariance.

    Attributes
    ----------
    definitions : list of Definition
        Mean slopes of what has no closed averages, from averages along the directions z of the
        weights, lambda = root z.
    """

    def __init__(self, drifts: Mapping[str, sp.Expr], blocks: Blocks) -> None:
        self.definitions: list[Definition] = []
        self.blocks = blocks
        self.drifts = {name: sums_inside(value) for name, value in drifts.items()}
        open_ones = {q for e in self.drifts.values() for q in e.atoms(Expectation) if q.has(x.lam)}
        self.slopes = {q: self.slope(q) for q in sorted(open_ones, key=sp.default_sort_key)}

    def slope(self, average: Expectation) -> sp.IndexedBase:
        """Mean slopes of an average that stands whole.

        Raises
        ------
        NotClosed
            Where the average is one for each pair of neurons.
        """
        if free_indices(average) != (x.i, x.j):
            raise NotClosed(f"{average} has no closed form, which blocks of a spectrum need")
        number = len(self.definitions) // 2 + 1
        pull, slope = (sp.IndexedBase(f"{name}_{number}") for name in ("pull", "mean_slope"))
        inside = average.integrand.xreplace({x.lam[x.i]: x.coordinate[x.n]})
        law = average.law
        if not law.of_sample:
            kinked = average.integrand.has(*SWITCHES)
            law = OneSample(sp.Integer(-1) if kinked else sp.oo, sp.S.Zero)
        target, entry = pull[x.j, x.n], slope[x.j, x.i]
        values = {target: Expectation(inside, law), entry: MeanSlope(target, x.root[x.i, x.n])}
        self.definitions += [define(t, {"update": e}, "intermediate") for t, e in values.items()]
        return slope

    def met_by(self, row: str, name: str) -> sp.Expr:
        """The part `name` of a drift with this row in the place of field i."""
        base, drift, here = self.blocks.with_row(row), self.drifts[name], x.row if row else x.i

        def gram(field: sp.Expr) -> sp.Indexed:
            return self.blocks.entry(base, here, field)

        whole = {
            q: sp.Sum(slope[x.j, x.m] * gram(x.m), (x.m, 1, x.p + x.k))
            for q, slope in self.slopes.items()
        }
        covariances = {
            entry: gram(entry.indices[1] if entry.indices[0] == x.i else entry.indices[0])
            for entry in drift.atoms(sp.Indexed)
            if entry.base == x.Omega and x.i in entry.indices
        }
        return drift.xreplace(whole | covariances)


def row_definitions(moments: Moments, quadratic: bool) -> list[Definition]:
    """Definitions of the overlaps of all rows, blocks first and rates last.

    Raises
    ------
    BadParameter
        For rows of constant length where the fields do not see lengths, or with rows of memory.
    """
    algorithm: SGD | GradientFlow = moments.algorithm
    blocks, motion = Blocks(moments.model.spectrum is not None), motion_of(algorithm)
    if algorithm.on_sphere:
        raise BadParameter(
            f"constraint = {algorithm.constraint!r} is not derived for inputs with a spectrum, "
            "whose overlaps have blocks, nor with rows that an optimiser keeps beside the weights; "
            "leave it out"
        )
    drifts = Drifts(moments.drifts, blocks)
    result = [*blocks.definitions(motion.rows), *moments.sample_definitions(), *drifts.definitions]
    for row in motion.rows:
        index = x.row if row else x.i
        for name in moments.bases:
            target = blocks.entry(drift_base(moments, name, row), x.j, index)
            result.append(define(target, {name: drifts.met_by(row, name)}, "intermediate"))
    return [*result, *_rates(moments, blocks, motion, quadratic)]


def drift_base(moments: Moments, name: str, row: str) -> sp.IndexedBase:
    """Where a part of the drift stands, as a row of the optimiser meets it."""
    base = moments.bases[name]
    return sp.IndexedBase(f"{base.label}_{row}") if row else base


def _rates(moments: Moments, blocks: Blocks, motion: Motion, quadratic: bool) -> list[Definition]:
    """Rates of all Gram matrices, the weights first."""
    j, l, r, p = x.j, x.l, x.r, x.p  # noqa: E741
    algorithm = moments.algorithm
    variance = x.eigenvalue[x.block] if blocks.by_block else sp.S.One
    share = x.noise_factor[x.block] if blocks.by_block else sp.S.One
    noise: dict[str, sp.Expr] = {}
    if quadratic and isinstance(algorithm, SGD):
        noise = moments.quadratic(share * step_size(algorithm) / (p * algorithm.batch_size))

    def met(name: str, row: str, first: sp.Expr, second: sp.Expr) -> sp.Expr:
        return variance * blocks.entry(drift_base(moments, name, row), first, second)

    result = []
    for a, one in enumerate(motion.rows):
        terms = {n: motion.drive[a] * met(n, WEIGHTS, j, p + r) for n in moments.bases}
        for name, A in motion.linear.items():
            moved = (A[a, b] * blocks.overlap(two, r) for b, two in enumerate(motion.rows))
            terms[name] = sp.Add(*moved)
        result.append(define(blocks.overlap(one, r), terms, "rate"))
        for b, two in enumerate(motion.rows[: a + 1]):
            terms = {
                n: motion.drive[a] * met(n, two, j, l) + motion.drive[b] * met(n, one, l, j)
                for n in moments.bases
            }
            terms |= {n: motion.drive[a] * motion.drive[b] * value for n, value in noise.items()}
            for name, matrix in motion.linear.items():
                first = (
                    matrix[a, c] * blocks.pair(y, two, j, l) for c, y in enumerate(motion.rows)
                )
                second = (
                    matrix[b, c] * blocks.pair(one, y, j, l) for c, y in enumerate(motion.rows)
                )
                terms[name] = sp.Add(*first, *second)
            result.append(define(blocks.pair(one, two, j, l), terms, "rate"))
    return result
