r"""The law of the fields of one sample: a Gaussian, or a mixture of Gaussians with means.

In cluster c, which has the probability w_c, the fields lambda = (h, h*) are

    lambda_i = m_i^c + sqrt(s_c) lambda'_i,  lambda' ~ N(0, Omega),  m_i^c = sum_r mu_cr Omega_i,p+r

so that an average over the mixture is sum_c w_c of averages over N(0, Omega) of shifted functions:
what is known of centred fields is used as it stands (theory/structured_inputs (1), (3), 2).

A spectrum is one cluster with B blocks, and a mixture may have both, x = sqrt(c_ce) N(0, 1) in
block e: fields of cluster c are then lambda_in_c ~ N(0, Omega_in_c), with Gram matrices by block,

    Omega_in_c = sum_e c_ce G_e,   m_i^c = sum_r mu_cr sum_e G_i,p+r,e.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import At
from dmft.equations.definitions import Definition, define
from dmft.gaussian.closed.switch import linear_in_signs
from dmft.model import FIELD, Model

if TYPE_CHECKING:
    from dmft.model import GaussianMixture

# Numbers that are fractions with denominators up to this are printed as such.
LARGEST_DENOMINATOR = 1000


def by_target(definitions: Iterable[Definition]) -> dict[sp.Basic, Definition]:
    """Definitions by symbol or indexed base."""
    return {getattr(d.target, "base", d.target): d for d in definitions}


def _without_pieces(factor: sp.Expr) -> sp.Expr:
    """Pieces of one field by Max and Min, which compute no piece outside its interval."""
    if not isinstance(factor, sp.Piecewise):
        return factor.func(*map(_without_pieces, factor.args)) if factor.args else factor
    bounds = [c.gts if c.lts == FIELD else None for _, c in factor.args[:-1]
              if isinstance(c, sp.StrictLessThan | sp.LessThan)]  # fmt: skip
    pieces, ends = [e for e, _ in factor.args], [-sp.oo, *bounds, sp.oo]
    if factor.args[-1][1] != sp.true or len(ends) != len(pieces) + 1 or None in bounds:
        return factor
    clipped = [
        e.xreplace({FIELD: sp.Max(low, sp.Min(FIELD, high))})
        for e, low, high in zip(pieces, ends[:-1], ends[1:], strict=True)
    ]
    found = clipped[0]
    for before, piece, here, end in zip(pieces, pieces[1:], clipped[1:], bounds, strict=False):
        jump = sp.simplify((piece - before).subs(FIELD, end))
        found += here - piece.subs(FIELD, end) + jump * sp.Heaviside(FIELD - end)
    return found


@dataclass(frozen=True)
class Cluster:
    """One Gaussian law of the fields, and what it is weighted with.

    `number` counts from 1; 0 is the only law, centred: N(0, Omega). `weight` w_c, `scale` s_c,
    `mean` mu_c in the rows of the teacher; `label` in h_star[1], ..., h_star[k], None where the
    teacher writes it, with `sign` -1 for samples whose label is flipped. `shape` is the number of
    the cluster whose covariance Omega_in_c its fields have, 0 for s_c Omega; `square` is |x|^2/d.
    """

    number: int = 0
    weight: sp.Expr = sp.S.One
    scale: sp.Expr = sp.S.One
    mean: tuple[sp.Expr, ...] = ()
    label: sp.Expr | None = None
    sign: int = 1
    shape: int = 0
    square: sp.Expr = sp.S.One

    @property
    def covariance(self) -> sp.IndexedBase:
        """Where the covariance of its fields, or that up to s_c, stands."""
        return x.base_in(x.Omega, self.shape) if self.shape else x.Omega

    @property
    def variance(self) -> sp.Expr:
        """Of inputs: s_c, or c_ce in block e."""
        return x.cluster_scale[self.shape, x.block] if self.shape else self.scale

    @property
    def root(self) -> sp.Expr:
        """sqrt(s_c)."""
        return sp.sqrt(self.scale)

    @property
    def is_centred(self) -> bool:
        """Whether its fields have the mean zero."""
        return all(m == 0 for m in self.mean)

    @property
    def is_plain(self) -> bool:
        """Whether fields have the law N(0, Omega) and labels are not flipped."""
        return self.is_centred and self.scale == 1 and self.sign == 1

    def mean_of(self, field: sp.Expr) -> sp.Expr:
        """Mean of a field, or of a linear combination of fields."""
        if self.is_centred:
            return sp.S.Zero
        if field == x.output:
            return x.output_mean_in(self.number)
        if isinstance(field, sp.Indexed):
            return x.mean_in(self.number)[x.position(field)]
        parts = [y for y in field.atoms(sp.Indexed) if y.base in x.FIELDS]
        return sp.Add(*(field.coeff(y) * self.mean_of(y) for y in parts))

    def shifted(self, expr: sp.Expr, own: Iterable[sp.Basic] = ()) -> sp.Expr:
        """An expression in the fields of this cluster, in centred ones.

        `own` are random fields defined beside it, which have another name in each cluster.
        """
        if self.number == 0:
            return expr
        names = set(own)

        def moved(e: sp.Expr) -> sp.Expr:
            if isinstance(e, At):
                return self._shifted_at(e, moved)
            if isinstance(e, sp.Indexed):
                if e.base in x.FIELDS:
                    return self.root * e + self.mean_of(e)
                return x.base_in(e.base, self.number)[e.indices] if e.base in names else e
            if isinstance(e, sp.Symbol):
                return x.symbol_in(e, self.number) if e in names else e
            if isinstance(e, sp.Sum):
                return sp.Sum(moved(e.function), *e.limits)
            return e.func(*map(moved, e.args)) if e.args else e

        return moved(expr)

    def _shifted_at(self, at: At, moved: object) -> sp.Expr:
        """A function at a field: the function takes the shift, the field stays."""
        random = at.field in x.LINES or any(y.base in x.FIELDS for y in at.field.atoms(sp.Indexed))
        if not random:
            return At(at.factor, moved(at.field))  # type: ignore[operator]
        inside = self.root * FIELD + self.mean_of(at.field)
        # SymPy takes a Piecewise that has the index of a sum, as means have, out of its `At`.
        factor = _without_pieces(at.factor).xreplace({FIELD: inside})
        if inside != FIELD and at.factor.is_polynomial(FIELD):
            factor = sp.expand(factor)
        return At(factor, at.field)

    def own(self, expr: sp.Expr) -> sp.Expr:
        """An expression with fields and covariances as they are called in this cluster."""
        if not self.shape:
            return expr
        bases = {b: x.base_in(b, self.shape) for b in (*x.FIELDS, x.Omega)}
        return expr.xreplace(bases)

    def named(self, definitions: Sequence[Definition]) -> list[Definition]:
        """Definitions of a sample as they are called in this cluster."""
        names = by_target(definitions)
        return [
            replace(
                d,
                target=self.shifted(d.target, names),
                terms=tuple((n, self.own(self.shifted(e, names))) for n, e in d.terms),
            )
            for d in definitions
        ]

    def along_mean(self, row: Callable[[sp.Expr], sp.Expr]) -> sp.Expr:
        """Overlap of the mean with a row, of its overlaps with the rows that span the means."""
        return sp.Add(*(m * row(x.h_star[r]) for r, m in enumerate(self.mean, start=1)))

    def definitions(self) -> list[Definition]:
        """The means of its fields, and their covariance where that is its own."""
        found = []
        if self.shape and self.shape == self.number:
            whole = sp.Sum(self.variance * x.Gram[x.i, x.m, x.block], (x.block, 1, x.blocks))
            found.append(define(self.covariance[x.i, x.m], {"blocks": whole}, "block"))

        def row(field: sp.Expr) -> sp.Expr:
            if not self.shape:
                return x.covariance(x.lam[x.i], field)
            entry = x.Gram[x.i, x.position(field), x.block]
            return sp.Sum(entry, (x.block, 1, x.blocks))

        if not self.is_centred:
            entry = x.mean_in(self.number)[x.i]
            found.append(define(entry, {"mean": self.along_mean(row)}, "block"))
        return found


def clusters_of(model: Model) -> tuple[Cluster, ...]:
    """Laws of the fields of a model, one for each cluster of its inputs."""
    inputs = model.clusters
    if inputs is None:
        spectrum = model.spectrum
        return (Cluster(square=sp.S.One if spectrum is None else number_of(spectrum.mean)),)
    labels = _labels(inputs) if model.teacher is inputs else None
    shares = np.ones(1) if inputs.fractions is None else inputs.fractions
    squares = inputs.scales.reshape(len(inputs.weights), -1) @ shares
    rows = zip(inputs.weights, squares, inputs.means, strict=True)
    own = inputs.fractions is not None
    return tuple(
        Cluster(
            number=number,
            weight=number_of(weight),
            scale=sp.S.One if own else number_of(square),
            mean=tuple(map(number_of, mean)),
            label=None if labels is None else labels[number - 1],
            shape=number if own else 0,
            square=number_of(square),
        )
        for number, (weight, square, mean) in enumerate(rows, start=1)
    )


def laws_of(model: Model) -> tuple[Cluster, ...]:
    """Laws of samples: the clusters, each with and without a flip where labels may be flipped."""
    clusters = clusters_of(model)
    if not model.flips:
        return clusters
    # The risk knows the clusters by their own numbers.
    kept = [
        replace(c, number=n, weight=c.weight * (1 - x.flip))
        for n, c in enumerate(clusters, start=1)
    ]
    return (
        *kept,
        *(
            replace(c, number=c.number + len(clusters), weight=w.weight * x.flip, sign=-1)
            for c, w in zip(kept, clusters, strict=True)
        ),
    )


def mean_definitions(model: Model) -> list[Definition]:
    """Means of the fields in all clusters, and covariances of their own."""
    return [d for cluster in laws_of(model) for d in cluster.definitions()]


def _labels(mixture: GaussianMixture) -> list[sp.Expr]:
    fields = {z: x.h_star[r] for r, z in enumerate(mixture.fields, start=1)}
    return [linear_in_signs(y.xreplace(fields)) for y in mixture.labels or ()]


def number_of(value: float) -> sp.Expr:
    """A float as SymPy, as a fraction where it is one of small numbers."""
    near = Fraction(float(value)).limit_denominator(LARGEST_DENOMINATOR)
    return sp.Rational(near) if float(near) == value else sp.Float(float(value), 17)


def target(model: Model) -> sp.Expr:
    """Noiseless label: a sum over h_star[r], or g of h_star[1], ..., h_star[k]."""
    teacher = model.teacher
    if teacher.activation is not None:
        body = x.a_star[x.r] * teacher.activation.xreplace({FIELD: x.h_star[x.r]})
        return sp.Sum(body, (x.r, 1, x.k)) / x.k
    ((expr, fields),) = teacher.functions
    return linear_in_signs(expr.xreplace({z: x.h_star[r] for r, z in enumerate(fields, start=1)}))
