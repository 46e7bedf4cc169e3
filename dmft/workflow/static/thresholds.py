"""`thresholds`, `recovery_phase` and `sample_complexity`: how many samples algorithms need."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.errors import BadParameter
from dmft.gaussian.channels.channel import Channel
from dmft.gaussian.channels.curve import ZERO, Curve
from dmft.gaussian.channels.declared import Label, label_of
from dmft.gaussian.channels.priors import as_prior
from dmft.gaussian.channels.several import Several
from dmft.gaussian.closed.bivariate import normal_cdf
from dmft.gaussian.exponents.kinds import generative_exponent, leap_exponent
from dmft.model import Model
from dmft.record import Archived
from dmft.summary import Summary, as_formula
from dmft.validation import as_positive, checked
from dmft.workflow.static.bayes import (
    CLOSED,
    QMC,
    QUADRATURE,
    Threshold,
    check_gaussian,
    curve_of,
)
from dmft.workflow.static.continuation import Extreme, Lines
from dmft.workflow.static.several_fields import FINE_NODES, several_of
from dmft.workflow.static.staircase import StaircaseStep, staircase

# Points of the curve that a record keeps.
POINTS = 401
# Accuracy of equal areas, whose integral ends at a remaining variance of 1e-10.
AREA_ERROR = 1e-8
IMPOSSIBLE, HARD, EASY = "impossible", "hard", "easy"


@dataclass(frozen=True, eq=False)
class Thresholds(Archived):
    r"""Numbers of samples per dimension above which the teacher can be recovered.

    The overlap q of an estimate with the teacher is a fixed point of state evolution at alpha
    samples per dimension. AMP denotes approximate message passing. alpha(q) is the number of
    samples per dimension at which q is a fixed point.

    Attributes
    ----------
    trivial : (n, k)
        Orthonormal rows that span the directions learned at any alpha > 0.
    weak_recovery : Threshold
        Smallest alpha above which AMP finds a positive overlap with directions that are not
        `trivial`; infinite if no number of samples of order d suffices.
    directions : (n, k)
        Orthonormal rows that span the directions learned first, at `weak_recovery`.
    staircase : tuple of StaircaseStep
        Steps in which several directions are learned, in their order. Each step assumes the
        directions of the earlier ones.
    algorithmic : Threshold or None
        Smallest alpha above which AMP reaches the branch of fixed points with the largest overlap:
        the largest local maximum of alpha(q) or, if there is none, the threshold of exact recovery.
        For several fields q denotes the trace of the overlap matrix divided by k. None if it cannot
        be computed; `message` then contains the reason.
    information_theoretic : Threshold or None
        Smallest alpha above which this branch has the largest free entropy and is therefore
        Bayes-optimal. If the overlap grows continuously, the threshold of exact recovery, which is
        infinite for noisy and discrete labels.
    perfect : Threshold or None
        Smallest alpha above which recovery is exact from every start; infinite if the error
        only tends to zero as alpha grows.
    order : "first", "second" or None
        "first" if the overlap jumps, "second" if it grows continuously from zero.
    spinodals : tuple of (float, float)
        Values of alpha and q at the local extrema of alpha(q).
    samples, overlap : (P,)
        Points (alpha, q) of the curve alpha(q) of fixed points; for several fields, of the line
        that begins at q = 0.
    prior, label : str
    message : str
        A summary or the reason for a None.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.Symbol("z", real=True)
    >>> found = dmft.thresholds(dmft.Model(dmft.Committee(z, 1), dmft.Committee(sp.Abs(z), 1)))
    >>> found.weak_recovery, found.order
    (1/2 = 0.5, 'first')
    >>> round(found.algorithmic, 5), found.information_theoretic
    (1.12847, 1)
    """

    KIND = "dmft thresholds"
    AXES: ClassVar[dict[str, tuple[str, ...]]] = {"samples": ("point",), "overlap": ("point",)}
    PARTS: ClassVar[tuple[type, ...]] = (StaircaseStep, Threshold)

    trivial: Array
    weak_recovery: Threshold
    directions: Array
    staircase: tuple[StaircaseStep, ...]
    algorithmic: Threshold | None
    information_theoretic: Threshold | None
    perfect: Threshold | None
    order: str | None
    spinodals: tuple[tuple[float, float], ...]
    samples: Array = field(repr=False)
    overlap: Array = field(repr=False)
    prior: str
    label: str
    message: str = ""


@checked
def thresholds(model: Model, prior: Any = "gaussian") -> Thresholds:
    r"""Compute the numbers of samples per dimension above which the teacher can be recovered.

    From n = alpha d labelled samples, the Bayes-optimal estimate and approximate message passing
    (AMP) reach an overlap q with the teacher, which is a fixed point of state evolution. The
    thresholds are the values of alpha at which q becomes positive for AMP (weak recovery), at which
    AMP reaches the fixed point with the largest overlap (algorithmic), and at which this fixed
    point is Bayes-optimal (information-theoretic).

    Equation    weak recovery at alpha = 1/E_y[E[He_2(h*)|y]^2] for one teacher field h*, and at
                1/lambda_max of the map A -> E[G A G], G = E[h* h*^T - I|y], for several; at
                alpha = 0 if E[h*|y] is not zero. The algorithmic threshold is a maximum of
                alpha(q), the number of samples per dimension at which q is a fixed point; at the
                information-theoretic one two fixed points have equal free entropies
    Scaling     n = alpha d
    Valid for   any label of one to three fields, with `label_noise` or `label_flip`;
                `label_channel` for one field. Thresholds beyond weak recovery for one or two
                fields, and for discrete labels of three
    Source      theory/static_limits (9)-(12), 3.4, 3.5

    Parameters
    ----------
    model : Model
        Model whose teacher and label are used; the student is not used.
    prior : "gaussian", "rademacher", GaussBernoulli(density), laws.Normal or laws.Discrete
        Law of the teacher's weights. For several fields only "gaussian".

    Returns
    -------
    Thresholds
        Thresholds, each with its error, or None if it is not defined.

    Raises
    ------
    BadParameter

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.Symbol("z", real=True)
    >>> model = dmft.Model(dmft.Committee(z, 1), dmft.MultiIndex(sp.sign(z), [z]))
    >>> found = dmft.thresholds(model, prior="rademacher")
    >>> round(found.algorithmic, 5), round(found.information_theoretic, 5)
    (1.49263, 1.24468)
    """
    label, law = label_of(model, "thresholds"), as_prior(prior)
    if label.width > 1:
        check_gaussian(law, "thresholds")
        return _of_several(label)
    curve = curve_of(label, law)
    weak = weak_recovery_of(curve.channel)
    one, none, top = np.eye(1), np.zeros((0, 1)), curve.highest
    what = "h" if float(weak) == 0.0 else "h^2 - 1"
    step = StaircaseStep(weak, one, f"E[{what} | y] does not vanish")
    learned = weak < np.inf
    return Thresholds(
        trivial=one if float(weak) == 0.0 else none,
        weak_recovery=weak,
        directions=one if learned else none,
        staircase=(step,) if learned else (),
        algorithmic=_jump(curve, weak),
        information_theoretic=_equal(curve),
        perfect=_perfect(curve, weak),
        order="second" if top is None else "first",
        **_drawn(curve),
        prior=str(prior),
        label=str(label.expr),
    )


def _of_several(label: Label) -> Thresholds:
    """The same for two and three fields: weak recovery, the staircase, and what lines tell."""
    found = staircase(label)
    first = "the curve is that of the first step; " if found.curve else ""
    lines = lines_of(label)
    known = _on_lines(lines, found.threshold) if not (found.curve or lines.missing) else {}
    return Thresholds(
        trivial=found.trivial,
        weak_recovery=found.threshold,
        directions=found.directions,
        staircase=found.steps,
        algorithmic=known.get("algorithmic"),
        information_theoretic=known.get("information_theoretic", _dimensions(lines.channel)),
        perfect=known.get("perfect"),
        order=known.get("order"),
        **{**_drawn(found.curve), **known.get("drawn", {})},
        prior="gaussian",
        label=str(label.expr),
        message="; ".join(s for s in (first.rstrip("; "), found.message, lines.missing) if s),
    )


@lru_cache(maxsize=16)
def lines_of(label: Label) -> Lines:
    """Lines of fixed points of a label of several fields."""
    found = staircase(label)
    at = next((s.samples_per_dim for s in found.steps if s.samples_per_dim > found.threshold), None)
    turn = Extreme(float(at), at.error, found.turn, True) if at and found.turn else None
    return Lines(several_of(label), float(found.threshold), turn)


def _on_lines(lines: Lines, weak: Threshold) -> dict[str, Any]:
    """Thresholds beyond weak recovery, spinodals and the curve."""
    top, limit = lines.highest, _dimensions(lines.channel)
    last = Threshold(np.inf) if limit is None else limit
    jump = last if top is None else _of_extreme(top, weak)
    equal = lines.equal_entropy
    entropic = limit if equal is None else _of_extreme(equal, weak)
    x, fixed = lines.up.fixed
    return {
        "algorithmic": jump,
        "information_theoretic": last if top is None or entropic is None else entropic,
        "perfect": max(last, jump, key=float),
        "order": "second" if top is None else "first",
        "drawn": {
            "spinodals": tuple((_of_extreme(e, weak), e.overlap) for e in lines.extremes),
            "samples": np.exp(lines.up.spline(x)),
            "overlap": np.array([np.trace(f.overlap) for f in fixed]) / lines.channel.width,
        },
    }


def _of_extreme(extreme: Extreme, weak: Threshold) -> Threshold:
    if extreme.overlap == 0:
        return weak
    return Threshold(extreme.alpha, extreme.error, QMC)


def _dimensions(channel: Several) -> Threshold | None:
    """Exact recovery of k fields from labels with a density: one unknown for each label.

    Next to it the free entropy is (alpha p - k)/2 log(1/V), p the probability of labels that are
    no atoms, so that it is the largest for alpha > k/p and minus infinity below.
    """
    if not channel.identifies:
        return None
    if not len(channel.atoms):
        return Threshold(channel.width, 0.0, CLOSED)
    coarse, fine = (
        replace(channel, nodes=n).sums(
            channel.values, np.zeros((len(channel.values), channel.width)), np.eye(channel.width)
        ).mass.sum()
        for n in FINE_NODES[channel.width]
    )  # fmt: skip
    at = channel.width / (1.0 - fine)
    return Threshold(at, abs(at - channel.width / (1.0 - coarse)) + 1e-14, QUADRATURE)


def _drawn(curve: Curve | None) -> dict[str, Any]:
    """What a record keeps of the curve of one field."""
    if curve is None:
        return {"spinodals": (), "samples": np.zeros(0), "overlap": np.zeros(0)}
    x = np.linspace(*curve.ends, POINTS)
    return {
        "spinodals": tuple((e.alpha, float(e.overlap)) for e in curve.extremes),
        "samples": np.exp(curve.log_alpha(x)),
        "overlap": np.asarray(curve.prior.estimate(np.exp(x)).overlap),
    }


def weak_recovery_of(channel: Channel) -> Threshold:
    """Threshold (10), in closed form where the label has finitely many values or two roots."""
    first, second = channel.uninformed
    if first > ZERO:
        return Threshold(0.0, 0.0, QUADRATURE)
    formula = _closed_weak(channel)
    if formula is not None:
        return Threshold(1.0 / second, 0.0, CLOSED, str(formula))
    if second <= ZERO:
        return Threshold(np.inf, 0.0, QUADRATURE)
    coarse = channel.uninformed_at(24)[1]
    return Threshold(1.0 / second, abs(1 / coarse - 1 / second) + 1e-14, QUADRATURE)


def _closed_weak(channel: Channel) -> sp.Expr | None:
    """Formula of (10), or None."""
    if channel.noise or channel.drawn or len(channel.cases) > 1 or channel.prior_variance != 1:
        return None
    if channel.curved:
        one_size = channel.is_symmetric and len(channel.branches) == 2 and not channel.atoms
        return sp.Rational(1, 2) if one_size else None

    def density(end: sp.Expr) -> sp.Expr:
        return end * sp.exp(-(end**2) / 2) / sp.sqrt(2 * sp.pi) if end.is_finite else sp.S.Zero

    total = sp.S.Zero
    for flat in channel.atoms.values():
        ends = [(b.piece.low, b.piece.high) for b in flat]
        mass = sum(normal_cdf(b) - normal_cdf(a) for a, b in ends)
        total += sum(density(a) - density(b) for a, b in ends) ** 2 / mass
    return 1 / total if total != 0 else None


def _jump(curve: Curve, weak: Threshold) -> Threshold:
    """The largest local maximum, or the end of a curve that rises."""
    top = curve.highest
    if top is None:
        return Threshold(curve.limit, 0.0, CLOSED)
    return Threshold(top.alpha, curve.error * top.alpha, QUADRATURE) if top.overlap else weak


def _equal(curve: Curve) -> Threshold:
    at = curve.limit if curve.highest is None else curve.equal_area
    if at == curve.limit:
        return Threshold(at, 0.0, CLOSED)
    return Threshold(at, max(curve.error, AREA_ERROR) * at, QUADRATURE)


def _perfect(curve: Curve, weak: Threshold) -> Threshold:
    if curve.limit == np.inf or curve.supremum == curve.limit:
        return Threshold(curve.limit, 0.0, CLOSED)
    return _jump(curve, weak)


class RecoveryPhase(str):
    """The label of a phase: "impossible", "hard" or "easy", with what AMP reaches.

    Attributes
    ----------
    message : str
    """

    message: str

    def __new__(cls, phase: str, message: str) -> RecoveryPhase:
        """Keep the message with the label."""
        made = super().__new__(cls, phase)
        made.message = message
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:
        return str(self), self.message


@checked
def recovery_phase(model: Model, samples_per_dim: float, prior: Any = "gaussian") -> RecoveryPhase:
    """Determine whether recovery is impossible, hard or easy at a number of samples.

    Recovery is impossible below the information-theoretic threshold of a first-order transition, or
    below weak recovery if the overlap grows continuously from zero. It is hard between this
    threshold and the algorithmic one, and easy above both. Below a first-order transition AMP
    (approximate message passing) may reach a partial overlap, which `message` states.

    Equation    alpha_IT < alpha < alpha_alg is hard
    Source      theory/static_limits 3.5

    Parameters
    ----------
    model : Model
    samples_per_dim : float
    prior
        As in `dmft.thresholds`.

    Returns
    -------
    RecoveryPhase
        "impossible", "hard" or "easy" (a str) with the attribute `.message`.

    Raises
    ------
    BadParameter

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.Symbol("z", real=True)
    >>> model = dmft.Model(dmft.Committee(z, 1), dmft.Committee(sp.Abs(z), 1))
    >>> [str(dmft.recovery_phase(model, a)) for a in (0.3, 1.05, 1.2)]
    ['impossible', 'hard', 'easy']
    """
    alpha, label = (
        as_positive(samples_per_dim, "samples_per_dim"),
        label_of(model, "recovery_phase"),
    )
    if label.width > 1:
        check_gaussian(as_prior(prior), "recovery_phase")
        found = _of_several(label)
        if found.order is None:
            raise BadParameter(f"recovery_phase is not known for {label.expr}: {found.message}")
        start, needed, reached = (
            float(y or 0)
            for y in (found.weak_recovery, found.information_theoretic, found.algorithmic)
        )
        is_continuous = found.order == "second"
    else:
        curve = curve_of(label, as_prior(prior))
        start, is_continuous = curve.start, curve.highest is None
        needed, reached = curve.equal_area, curve.highest.alpha if curve.highest else np.nan
    if is_continuous:
        phase = EASY if alpha > start else IMPOSSIBLE
        return RecoveryPhase(phase, f"the overlap grows continuously above {start:.6g}")
    phase = EASY if alpha > reached else HARD if alpha > needed else IMPOSSIBLE
    message = (
        f"the information-theoretic threshold is {needed:.6g}, the algorithmic threshold "
        f"{reached:.6g}"
    )
    if phase != EASY and alpha > start:
        message += f"; AMP reaches a partial overlap above {start:.6g}"
    return RecoveryPhase(phase, message)


@dataclass(frozen=True, eq=False)
class SampleComplexity(Archived):
    """Numbers of samples that algorithms need to learn a label.

    Attributes
    ----------
    one_pass, reuse : str
        Number of samples for one-pass SGD and for gradient descent on repeated data, as a function
        of d.
    leap_exponent, generative_exponent : float
        Exponents that determine these functions; infinite if the label cannot be learned.
    message_passing : Threshold
        Threshold alpha_c of weak recovery by message passing from n = alpha_c d samples; infinite
        if no number of samples of order d suffices.
    algorithmic, information_theoretic, perfect : Threshold or None
        As in `dmft.thresholds`.
    label, prior : str

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.Symbol("z", real=True)
    >>> he3 = dmft.MultiIndex(z**3 - 3 * z, [z])
    >>> found = dmft.sample_complexity(dmft.Model(dmft.Committee(z, 1), he3))
    >>> found.one_pass, found.reuse, float(found.message_passing)
    ('d^2', 'd', 0.0)
    """

    KIND = "dmft sample complexity"
    PARTS = (Threshold,)
    one_pass: str
    reuse: str
    leap_exponent: float
    generative_exponent: float
    message_passing: Threshold
    algorithmic: Threshold | None
    information_theoretic: Threshold | None
    perfect: Threshold | None
    label: str
    prior: str

    @property
    def rows(self) -> list[tuple[str, str]]:
        """Names of the algorithms and the numbers of samples that they need, as text."""
        found = [
            ("one-pass SGD", self.one_pass),
            ("gradient descent on repeated data", self.reuse),
            ("message passing, positive overlap", _multiple(self.message_passing)),
        ]
        others = (
            ("message passing, largest overlap", self.algorithmic),
            ("any algorithm, largest overlap", self.information_theoretic),
            ("exact recovery from any start", self.perfect),
        )
        finite = ((name, y) for name, y in others if y is not None and y < float("inf"))
        return found + [(name, _multiple(y)) for name, y in finite]

    def _summary(self) -> Summary:
        return Summary(f"Samples to learn y = {as_formula(self.label)}", tuple(self.rows))


def _multiple(value: Threshold) -> str:
    if float(value) == float("inf"):
        return "no multiple of d"
    return (
        f"any multiple of d above {value}" if float(value) == 0.0 else f"n = {float(value):.7g} d"
    )


def scaling(exponent: float) -> str:
    """Samples of a gradient method whose first nonzero term has this exponent."""
    if exponent == float("inf"):
        return "none suffices"
    powers = {1: "d", 2: "d log d"}
    return powers.get(int(exponent), f"d^{int(exponent) - 1}")


@checked
def sample_complexity(model: Model, prior: Any = "gaussian") -> SampleComplexity:
    r"""Compute the numbers of samples that different algorithms need to learn a label.

    Equation    one pass: d, d log d, d^(l - 1) for a leap exponent l = 1, 2, l > 2; reuse: the same
                with the generative exponent; message passing: n = alpha_c d
    Valid for   labels of up to three fields; the generative exponent excludes noise and flips, and
                drawn labels have the exponents of the mean label
    Source      theory/static_limits 7; theory/batch_reuse D.4

    Parameters
    ----------
    model : Model
        Model whose teacher and label are used; the student is not used.
    prior : "gaussian", "rademacher", GaussBernoulli(density), laws.Normal or laws.Discrete

    Returns
    -------
    SampleComplexity
        Table with one row per algorithm (`.rows`), which `print` shows.

    Raises
    ------
    BadParameter

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.Symbol("z", real=True)
    >>> model = dmft.Model(dmft.Committee(z, 1), dmft.Committee(sp.Abs(z), 1))
    >>> dmft.sample_complexity(model).rows[0]
    ('one-pass SGD', 'd log d')
    """
    label = label_of(model, "sample_complexity")
    found = thresholds(model, prior)
    leap = float(leap_exponent(label.expr, label.fields).value)
    # A binary label has one bit: its conditional moments are those of its mean.
    reuse = leap
    if not label.drawn:
        reuse = float(generative_exponent(label.expr, label.fields).value)
    return SampleComplexity(
        scaling(leap), scaling(reuse), leap, reuse, found.weak_recovery, found.algorithmic,
        found.information_theoretic, found.perfect, str(label.expr), str(prior),
    )  # fmt: skip
