r"""The law of the fields of one sample: a Gaussian, or a mixture of Gaussians with means.

In cluster c, which has the probability w_c, the fields lambda = (h, h*) are

    lambda_i = m_i^c + sqrt(s_c) lambda'_i,  lambda' ~ N(0, Omega),  m_i^c = sum_r mu_cr Omega_i,p+r

so that an average over the mixture is sum_c w_c of averages over N(0, Omega) of shifted functions:
what is known of centred fields is used as it stands (structured_inputs.md (1), (3), 2).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import At
from dmft.equations.definitions import Definition, define
from dmft.model import FIELD, Committee, Model, MultiIndex

if TYPE_CHECKING:
    from dmft.model import GaussianMixture

# Numbers that are fractions with denominators up to this are printed as such.
LARGEST_DENOMINATOR = 1000


@dataclass(frozen=True)
class Cluster:
    """One Gaussian law of the fields, and what it is weighted with.

    Attributes
    ----------
    number : int
        From 1; 0 where it is the only law and centred, N(0, Omega).
    weight, scale : sympy.Expr
        w_c and s_c.
    mean : tuple of sympy.Expr
        mu_c, in the rows of the teacher.
    label : sympy.Expr or None
        In h_star[1], ..., h_star[k]; None where the teacher writes it.
    """

    number: int = 0
    weight: sp.Expr = sp.S.One
    scale: sp.Expr = sp.S.One
    mean: tuple[sp.Expr, ...] = ()
    label: sp.Expr | None = None

    @property
    def root(self) -> sp.Expr:
        """sqrt(s_c)."""
        return sp.sqrt(self.scale)

    @property
    def is_centred(self) -> bool:
        """Whether its fields have the mean zero."""
        return all(m == 0 for m in self.mean)

    def mean_of(self, field: sp.Expr) -> sp.Expr:
        """Mean of a field, or of a linear combination of fields."""
        if self.is_centred:
            return sp.S.Zero
        if isinstance(field, sp.Indexed):
            return x.mean_in(self.number)[x.position(field)]
        parts = [y for y in field.atoms(sp.Indexed) if y.base in x.FIELDS]
        return sp.Add(*(field.coeff(y) * self.mean_of(y) for y in parts))

    def shifted(self, expr: sp.Expr, own: Iterable[sp.Basic] = ()) -> sp.Expr:
        """An expression in the fields of this cluster, in centred ones.

        Parameters
        ----------
        expr : sympy.Expr
        own : iterable of symbols and bases
            Random fields defined beside it, which have a name of their own in each cluster.

        Examples
        --------
        >>> cluster = Cluster(1, mean=(sp.Integer(1),))
        >>> cluster.shifted(x.h[x.j] * At(FIELD**2, x.h_star[x.r]))
        (h[j] + mean_1[j])*(h_star[r]**2 + 2*h_star[r]*mean_1[p + r] + mean_1[p + r]**2)
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
        if not any(y.base in x.FIELDS for y in at.field.atoms(sp.Indexed)):
            return At(at.factor, moved(at.field))  # type: ignore[operator]
        inside = self.root * FIELD + self.mean_of(at.field)
        factor = at.factor.xreplace({FIELD: inside})
        if inside != FIELD and at.factor.is_polynomial(FIELD):
            factor = sp.expand(factor)
        return At(factor, at.field)

    def definitions(self) -> list[Definition]:
        """The means of its fields."""
        if self.is_centred:
            return []
        along = (
            m * x.covariance(x.lam[x.i], x.h_star[r]) for r, m in enumerate(self.mean, start=1)
        )
        entry = x.mean_in(self.number)[x.i]
        return [define(entry, {"mean": sp.Add(*along)}, "block")]


def clusters_of(model: Model) -> tuple[Cluster, ...]:
    """Laws of the fields of a model, one for each cluster of its inputs.

    Examples
    --------
    >>> import dmft
    >>> line = dmft.Committee(FIELD, 1)
    >>> [c.number for c in clusters_of(dmft.Model(line, line))]
    [0]
    >>> twins = dmft.GaussianMixture([[1.0], [-1.0]], labels=[1, -1])
    >>> [(c.weight, c.mean, c.label) for c in clusters_of(dmft.Model(line, twins))]
    [(1/2, (1,), 1), (1/2, (-1,), -1)]
    """
    inputs = model.clusters
    if inputs is None:
        return (Cluster(),)
    labels = _labels(inputs) if model.teacher is inputs else None
    rows = zip(inputs.weights, inputs.scales, inputs.means, strict=True)
    return tuple(
        Cluster(
            number=number,
            weight=number_of(weight),
            scale=number_of(scale),
            mean=tuple(map(number_of, mean)),
            label=None if labels is None else labels[number - 1],
        )
        for number, (weight, scale, mean) in enumerate(rows, start=1)
    )


def mean_definitions(model: Model) -> list[Definition]:
    """Means of the fields in all clusters."""
    return [d for cluster in clusters_of(model) for d in cluster.definitions()]


def _labels(mixture: GaussianMixture) -> list[sp.Expr]:
    fields = {z: x.h_star[r] for r, z in enumerate(mixture.fields, start=1)}
    return [y.xreplace(fields) for y in mixture.labels or ()]


def number_of(value: float) -> sp.Expr:
    """A float as SymPy, as a fraction where it is one of small numbers.

    Examples
    --------
    >>> number_of(0.25), number_of(1 / 3), float(number_of(0.1234567))
    (1/4, 1/3, 0.1234567)
    """
    near = Fraction(float(value)).limit_denominator(LARGEST_DENOMINATOR)
    return sp.Rational(near) if float(near) == value else sp.Float(float(value), 17)


def target(model: Model) -> sp.Expr:
    """Noiseless label: a sum over h_star[r], or g of h_star[1], ..., h_star[k].

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z1, z2 = sp.symbols("z1 z2", real=True)
    >>> student = dmft.Committee(z1**2, width=1)
    >>> target(dmft.Model(student, dmft.MultiIndex(z1 * z2, [z1, z2])))
    h_star[1]*h_star[2]
    """
    teacher = model.teacher
    if isinstance(teacher, Committee):
        body = x.a_star[x.r] * teacher.activation.xreplace({FIELD: x.h_star[x.r]})
        return sp.Sum(body, (x.r, 1, x.k)) / x.k
    assert isinstance(teacher, MultiIndex), "clusters have labels of their own"
    return teacher.expr.xreplace({z: x.h_star[r] for r, z in enumerate(teacher.fields, start=1)})
