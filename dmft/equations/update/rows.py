r"""Drifts of rows beside the weights, and within the blocks of a spectrum.

The drive of neuron j in block e of the inputs is c_e sum_m D_jm (row m of the weights),
D = b Omega^+ the mean slopes of psi, whatever the block and whichever row it meets. By Stein's
identity E[psi_j lambda_i] is a sum of slopes times covariances with lambda_i: with Gram entries in
their place it is D G, without an inverse (theory/structured_inputs (3)-(6); the rates made of them
are in `dmft.equations.update.rates`). Of inputs from clusters it is a sum over these, with
E[psi_j] times the overlap of the mean and row i beside it; c_e stands in front where it is that of
all, and c_ce beside the Gram entries else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import Expectation, OneSample, free_indices
from dmft.equations.averages.inside import sums_inside
from dmft.equations.definitions import Definition, MeanSlope, define
from dmft.equations.update.law import Cluster
from dmft.equations.update.optimiser import (
    WEIGHTS,
    Blocks,
    Motion,
    block_definitions,
    gram_definitions,
)
from dmft.equations.update.overlaps import Moments
from dmft.errors import NotClosed
from dmft.gaussian.closed.switch import SWITCHES

# Where mean slopes stand, and the number of the cluster whose covariance is its own, or 0.
Slopes = tuple[sp.IndexedBase, int]
LINE_COVARIANCES = frozenset(f"{name}_covariance" for name in x.LINES.values())


class Drifts:
    """Drifts E[psi_j lambda_i] with another Gram matrix in the place of the covariance.

    Attributes
    ----------
    definitions : list of Definition
        Mean slopes of what has no closed averages, from averages along the directions z of the
        weights, lambda = root z.
    """

    def __init__(
        self,
        drifts: Mapping[str, sp.Expr],
        blocks: Blocks,
        lines: Mapping[sp.Expr, sp.Expr],
        laws: Sequence[Cluster],
    ) -> None:
        self.definitions: list[Definition] = []
        self.blocks, self.laws = blocks, laws
        # What a loss sees of linear students meets each row through the covariances that it is of.
        whole = {name: value.xreplace(dict(lines)) for name, value in drifts.items()}
        self.drifts = {name: sums_inside(value) for name, value in whole.items()}
        open_ones = {q for e in self.drifts.values() for q in e.atoms(Expectation) if _along(q)}
        self.slopes = {q: self.slope(q) for q in sorted(open_ones, key=sp.default_sort_key)}

    def slope(self, average: Expectation) -> Slopes:
        """Mean slopes of an average that stands whole, and the cluster whose covariance it has.

        Raises
        ------
        NotClosed
            Where the average is one for each pair of neurons.
        """
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
    found = gram_definitions() if blocks.by_block else block_definitions()
    for row in motion.rows[1:]:
        base = blocks.with_row(row)
        own = {"students": blocks.pair(row, WEIGHTS, j, l)}
        found.append(define(blocks.entry(base, j, l), own, "block"))
        known = {"overlap": blocks.overlap(row, r)}
        found.append(define(blocks.entry(base, j, p + r), known, "block"))
    return found
