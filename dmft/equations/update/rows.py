r"""Drifts of rows beside the weights, and within the blocks of a spectrum.

The drive of neuron j in block e of the inputs is c_e sum_m D_jm (row m of the weights),
D = b Omega^+ the mean slopes of psi, whatever the block and whichever row it meets. By Stein's
identity E[psi_j lambda_i] is a sum of slopes times covariances with lambda_i: with Gram entries in
their place it is D G, without an inverse (structured_inputs.md (3)-(6); the rates that are made of
them stand in `dmft.equations.update.rates`).
"""

from __future__ import annotations

from collections.abc import Mapping

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import Expectation, OneSample, free_indices
from dmft.equations.averages.inside import sums_inside
from dmft.equations.definitions import Definition, MeanSlope, define
from dmft.equations.update.optimiser import WEIGHTS, Blocks, Motion
from dmft.equations.update.overlaps import Moments, block_definitions, coefficient_definitions
from dmft.errors import NotClosed
from dmft.gaussian.closed.switch import SWITCHES


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


def row_definitions(moments: Moments, blocks: Blocks, motion: Motion) -> list[Definition]:
    """Blocks, random fields of a sample, and the parts of the drift as each row meets them."""
    drifts = Drifts(moments.drifts, blocks)
    result = [*gram_definitions(blocks, motion), *moments.sample_definitions()]
    result += drifts.definitions
    for row in motion.rows:
        index = x.row if row else x.i
        for name, base in moments.bases.items():
            target = blocks.drift(base, row, x.j, index)
            result.append(define(target, {name: drifts.met_by(row, name)}, "intermediate"))
    return result


def gram_definitions(blocks: Blocks, motion: Motion) -> list[Definition]:
    """Gram matrices over all fields, and the covariance of the fields."""
    j, l, r, s, p = x.j, x.l, x.r, x.s, x.p  # noqa: E741
    found = block_definitions()
    if blocks.by_block:
        e, G = x.block, x.Gram
        whole = sp.Sum(x.eigenvalue[e] * G[e, x.i, x.m], (e, 1, x.blocks))
        found = [
            define(G[e, j, l], {"students": blocks("Q", j, l)}, "block"),
            define(G[e, j, p + r], {"overlap": blocks("M", j, r)}, "block"),
            define(G[e, p + r, j], {"overlap": blocks("M", j, r)}, "block"),
            define(G[e, p + r, p + s], {"teachers": blocks("P", r, s)}, "block"),
            define(x.Omega[x.i, x.m], {"blocks": whole}, "block"),
            *coefficient_definitions(),
        ]
    for row in motion.rows[1:]:
        base = blocks.with_row(row)
        own = {"students": blocks.pair(row, WEIGHTS, j, l)}
        found.append(define(blocks.entry(base, j, l), own, "block"))
        known = {"overlap": blocks.overlap(row, r)}
        found.append(define(blocks.entry(base, j, p + r), known, "block"))
    return found
