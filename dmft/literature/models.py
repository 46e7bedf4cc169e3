"""Teacher-student models of the papers, in the conventions of this library.

Networks are means over their units here. Papers that sum over units (Saad and Solla, Goldt et al.)
have the same equations with the conversions given below.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sympy as sp
from sympy.polys.orthopolys import hermite_prob_poly

from dmft.errors import BadParameter
from dmft.model import FIELD, Committee, Model, MultiIndex, teacher_field
from dmft.validation import as_count


def saad_solla(
    width: int | sp.Expr,
    teacher_width: int | sp.Expr | None = None,
    label_noise: float | sp.Expr = 0,
) -> Model:
    r"""Soft committee machine: an erf student learns an erf teacher.

    Equation    f = (1/p) sum_j erf(h_j / sqrt 2), y = (1/k) sum_r erf(h*_r / sqrt 2) + noise
    Scaling     with p = k = K: the paper's rate is eta = gamma / K^2, its generalisation error
                eps_g = K^2 risk, its time alpha = steps / d = t K / gamma
    Source      [saad_solla_1995]

    Parameters
    ----------
    width : int or sympy.Symbol
        p, of the student.
    teacher_width : int or sympy.Symbol, optional
        k; equal to `width` by default.
    label_noise : float or sympy.Expr
        Variance Delta.

    Examples
    --------
    >>> from dmft.literature import saad_solla
    >>> model = saad_solla(4, teacher_width=2)
    >>> model.student.activation, model.teacher.width
    (erf(sqrt(2)*z/2), 2)
    """
    return _matched(sp.erf(FIELD / sp.sqrt(2)), width, teacher_width, label_noise)


def phase_retrieval(width: int | sp.Expr, label_noise: float | sp.Expr = 0) -> Model:
    r"""Phase retrieval: p units with square activation learn one such unit.

    Equation    f = (1/p) sum_j h_j^2, y = (h*)^2 + noise
    Scaling     t = steps * gamma / (p d); escape takes of order d log d steps
    Source      [arnaboldi_2023_mediocrity]

    Parameters
    ----------
    width : int or sympy.Symbol
        p, of the student; the teacher has one unit.
    label_noise : float or sympy.Expr
        Variance Delta.

    Examples
    --------
    >>> from dmft.literature import phase_retrieval
    >>> phase_retrieval(1).teacher.activation
    z**2
    """
    return _matched(FIELD**2, width, 1, label_noise)


def hermite_committee(
    order: int,
    width: int | sp.Expr,
    teacher_width: int | sp.Expr | None = None,
    label_noise: float | sp.Expr = 0,
) -> Model:
    r"""Committees of one Hermite polynomial: the information exponent is the order.

    Equation    f = (1/p) sum_j He_n(h_j), y = (1/k) sum_r He_n(h*_r) + noise (probabilists' He_n)
    Scaling     on the sphere, escape from random starts takes of order d^(n-1) steps for n >= 3
    Source      [ben_arous_2021]

    Parameters
    ----------
    order : int
        n >= 1.
    width, teacher_width : int or sympy.Symbol
        p and k; equal by default.
    label_noise : float or sympy.Expr
        Variance Delta.

    Examples
    --------
    >>> from dmft.literature import hermite_committee
    >>> hermite_committee(3, width=1).student.activation
    z**3 - 3*z
    """
    activation = hermite_prob_poly(as_count(order, "order"), FIELD)
    return _matched(activation, width, teacher_width, label_noise)


def reusing_batches(
    width: int | sp.Expr = 1,
    target: MultiIndex | None = None,
    readout: Sequence[float | sp.Expr] | None = None,
    label_noise: float | sp.Expr = 0,
) -> Model:
    r"""Reused batches: ReLU students of a target that one pass over the data cannot learn at n ~ d.

    Equation    f = (1/p) sum_j a_j max(0, h_j), y = tanh(h*_1 + He_3(h*_2)) + noise
    Scaling     full-batch descent, n = alpha d samples, t counts steps; the paper's f is a sum over
                units, so our a_j are p times the paper's (ones here are 1/p there)
    Source      [dandi_2024_reusing]

    Parameters
    ----------
    width : int or sympy.Symbol
        p, of the student.
    target : MultiIndex, optional
        Another target.
    readout : sequence, optional
        The a_j; ones by default.
    label_noise : float or sympy.Expr
        Variance Delta.

    Examples
    --------
    >>> import dmft
    >>> from dmft.literature import reusing_batches
    >>> equations = dmft.derive(reusing_batches(), dmft.GradientDescent(0.3, samples_per_dim=3))
    >>> start = dmft.Overlaps([[1.0]], [[0.0, 0.0]])
    >>> run = dmft.solve(equations, start, t_max=2, samples=2**12, seed=0)
    >>> bool(abs(run.M[2, 0, 0]) > 0.1)
    True
    """
    z1, z2 = teacher_field(1), teacher_field(2)
    published = MultiIndex(sp.tanh(z1 + z2**3 - 3 * z2), [z1, z2])
    student = Committee(sp.Max(0, FIELD), width, readout, field=FIELD)
    return Model(student, published if target is None else target, label_noise)


def _matched(
    activation: sp.Expr,
    width: int | sp.Expr,
    teacher_width: int | sp.Expr | None,
    label_noise: float | sp.Expr,
) -> Model:
    k = width if teacher_width is None else teacher_width
    student = Committee(activation, width, field=FIELD)
    return Model(student, Committee(activation, k, field=FIELD), label_noise)


@dataclass(frozen=True)
class Convention:
    """Dictionary of one paper: each of its quantities in terms of ours.

    Attributes
    ----------
    source : str
        Key of `dmft.display.bibliography`.
    network : str
        How its networks are obtained here.
    quantities : tuple of (theirs, ours)
    """

    source: str
    network: str
    quantities: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        width = max(len(theirs) for theirs, _ in self.quantities)
        rows = [f"  {theirs:<{width}} = {ours}" for theirs, ours in self.quantities]
        return "\n".join([f"{self.source}: {self.network}", *rows])


CONVENTIONS = {
    c.source: c
    for c in (
        Convention(
            "saad_solla_1995",
            "sums over units: readouts a_j = p, a*_r = k; or unit readouts and p = k = K",
            (
                ("J", "W / sqrt(d)"),
                ("R_in", "M_in"),
                ("T", "P"),
                ("eta (a_j = p)", "gamma"),
                ("alpha (a_j = p)", "t p / gamma"),
                ("eta (unit readouts)", "gamma / K^2"),
                ("alpha (unit readouts)", "t K / gamma"),
                ("eps_g (unit readouts)", "K^2 risk"),
                ("noise std (unit readouts)", "K sqrt(Delta)"),
            ),
        ),
        Convention(
            "goldt_2019",
            "sums over units: readouts a_j = p v_j, a*_r = k v*_r",
            (("eta", "gamma"), ("alpha", "t p / gamma")),
        ),
        Convention(
            "veiga_2022",
            "the same networks; gamma = gamma_0 d^-kappa, p = p_0 d^delta",
            (("time", "(p_0 / gamma_0) t"),),
        ),
        Convention(
            "arnaboldi_2023_odes",
            "identical (also the code committee_learning)",
            (("gamma_over_p", "gamma / p"), ("noise", "Delta"), ("time", "t")),
        ),
        Convention(
            "arnaboldi_2024",
            "weights of unit length, fields without 1/sqrt(d) (also the code giant_learning)",
            (("w", "w / sqrt(d)"), ("gamma", "gamma / d"), ("I4_diagonal", "d / n_b")),
        ),
        Convention(
            "ben_arous_2021",
            "p = k = 1 on the unit sphere",
            (("delta, loss E^2 / 2", "gamma"), ("delta, loss E^2", "gamma / 2")),
        ),
    )
}


def convention(source: str) -> Convention:
    """Return the dictionary of a paper.

    Examples
    --------
    >>> from dmft.literature import convention
    >>> print(convention("veiga_2022"))
    veiga_2022: the same networks; gamma = gamma_0 d^-kappa, p = p_0 d^delta
      time = (p_0 / gamma_0) t
    """
    if source not in CONVENTIONS:
        raise BadParameter(f"no convention of {source!r}; available: {sorted(CONVENTIONS)}")
    return CONVENTIONS[source]
