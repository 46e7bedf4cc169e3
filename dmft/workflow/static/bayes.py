"""`bayes_optimal` and `state_evolution`: overlaps of the posterior mean, and of AMP by steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, Self

import numpy as np

from dmft.arrays import Array
from dmft.errors import BadParameter
from dmft.gaussian.channels.channel import Channel
from dmft.gaussian.channels.curve import ZERO, Curve, Root
from dmft.gaussian.channels.declared import Label, label_of
from dmft.gaussian.channels.priors import GAUSSIAN, Prior, as_prior
from dmft.model import Model
from dmft.record import Archived, Record
from dmft.summary import of_attributes
from dmft.typeset.fragment import COLUMN
from dmft.validation import as_positive, checked, is_array, is_number, shown
from dmft.workflow.static import continuation
from dmft.workflow.static import several_fields as fields
from dmft.workflow.static.page import bayes_latex
from dmft.workflow.static.several_fields import several_of

CLOSED, QUADRATURE, QMC = "closed form", "quadrature", "QMC"


class Threshold(float):
    """A number, possibly 0 or inf, with `error`, `proof` and, where it is known, a `formula`.

    Attributes
    ----------
    error : float
        Half-width of an interval that holds the value; 0 for exact ones.
    proof : "closed form", "quadrature" or "QMC"
    formula : str
        Empty where there is none.
    """

    error: float
    proof: str
    formula: str

    def __new__(
        cls, value: float, error: float = 0.0, proof: str = CLOSED, formula: str = ""
    ) -> Self:
        """Keep the error and the proof with the value."""
        made = super().__new__(cls, value)
        made.error, made.proof, made.formula = float(error), proof, formula
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:
        return float(self), self.error, self.proof, self.formula

    def __repr__(self) -> str:
        if self.formula:
            return f"{self.formula} = {float(self):.7g}"
        return f"{float(self):.8g}" + (f" +- {self.error:.1g}" if self.error else "")


def check_gaussian(prior: Prior, what: str) -> None:
    """Refuse other priors where several fields need the Gaussian one."""
    if prior != GAUSSIAN:
        raise BadParameter(
            f'{what} of labels of several fields is derived for prior="gaussian"; other priors '
            "are for labels of one field"
        )


# Nodes of panels of the risk.
RISK_ORDER = 16
# Errors are twice the change with so many more, which have an error as well.
MORE = 4
# Relative error of sums of a thousand terms.
ROUNDING = 1e-13
# Remaining variances below this are those of a limit.
TINY = 1e-14
STARTS = ("uninformed", "informed", "all")
# Overlap, in units of the second moment, from which even labels start.
NUDGE = 1e-3
# Steps of state evolution end where the overlap changes by less than this.
SETTLED, MOST_STEPS = 1e-10, 10_000


@dataclass(frozen=True, eq=False)
class FixedPointBranch(Record):
    """One fixed point of state evolution.

    Attributes
    ----------
    q, qhat : float or (k, k) ndarray
        Overlap of the estimate with the teacher, and precision of the effective observation; inf
        for exact recovery.
    mmse : float
        Mean squared error of the weights, tr(P - q)/k.
    free_entropy : float
        Its value at the fixed point; differences at one model and samples_per_dim have a meaning.
    stable : bool
    """

    q: Any
    qhat: Any
    mmse: float
    free_entropy: float
    stable: bool


@dataclass(frozen=True, eq=False)
class BayesOptimal(Archived):
    r"""Bayes-optimal estimation of a teacher from n = samples_per_dim * d labels, as d -> infinity.

    Attributes
    ----------
    q
        Overlap with the teacher of the selected branch.
    qhat
        Precision of the effective observation of the weights, conjugate to q.
    mmse : float
        Mean squared error of the weights.
    free_entropy : float
        Free entropy per dimension; differences between branches have a meaning.
    risk : float
        Risk E(g - E[g | x, data])^2/2 of a new sample; g is the label without noise and flips.
    error_rate : float or None
        Smallest probability of a wrong prediction, for labels with two values. Noise and flips are
        excluded; randomly drawn labels are compared with the label itself.
    error : float
        Error of q and of mmse.
    risk_error, error_rate_error, free_entropy_error : float
        Errors of these numbers by their quadrature and by the error of q.
    proof : str
    branches : tuple of FixedPointBranch
        All fixed points, in order of their overlap.
    samples_per_dim, start, prior, label, message
    model : Model or None
    law : Prior or None
        Model and prior, which `latex` prints; None for a record read from a file.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.Symbol("z", real=True)
    >>> model = dmft.Model(dmft.Committee(z, 1), dmft.MultiIndex(sp.sign(z), [z]))
    >>> found = dmft.bayes_optimal(model, samples_per_dim=1.0)
    >>> round(found.q, 6), round(found.error_rate, 6)
    (0.486264, 0.254373)
    """

    KIND = "dmft Bayes-optimal"
    PARTS: ClassVar[tuple[type, ...]] = (FixedPointBranch,)
    kind: ClassVar[str] = "static limit"

    q: Any
    qhat: Any
    mmse: float
    risk: float
    error_rate: float | None
    free_entropy: float
    error: float
    risk_error: float
    error_rate_error: float
    free_entropy_error: float
    proof: str
    branches: tuple[FixedPointBranch, ...]
    samples_per_dim: float
    start: str
    prior: str
    label: str
    message: str = ""
    model: Model | None = field(default=None, repr=False, compare=False)
    law: Prior | None = field(default=None, repr=False, compare=False)

    def latex(self, width: float = COLUMN) -> str:
        r"""Return the equations of the limit and its numbers.

        Parameters
        ----------
        width : float
            Width of the text in points.

        Returns
        -------
        str
            Sentences, equations and a table; the table alone for a record read from a file.

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> line = dmft.Committee(sp.Symbol("z", real=True), 1)
        >>> model = dmft.Model(line, line, label_noise=1)
        >>> text = dmft.bayes_optimal(model, samples_per_dim=2.0).latex()
        >>> [row for row in text.splitlines() if row.startswith("q ")]
        ['q &= \\frac{\\hat q}{1 + \\hat q} \\\\']
        """
        if self.model is not None and self.law is not None:
            return bayes_latex(self, self.model, self.law, width)
        summary = of_attributes(self)
        return "" if summary is None else summary.latex()


@checked
def bayes_optimal(
    model: Model, samples_per_dim: float, prior: Any = "gaussian", start: str = "uninformed"
) -> BayesOptimal:
    r"""Compute overlap, errors and free entropy of Bayes-optimal estimation and message passing.

    Equation    qhat = alpha m(q), q = F(qhat), m(q) = E[g_out g_out^T] (symbols as in
                theory/static_limits 1)
    Shapes      q, qhat: numbers for one field, (k, k) for k = 2, 3
    Scaling     alpha = samples_per_dim = n/d; weights and inputs of unit variance
    Valid for   any label of up to three fields, with `label_noise`, `label_flip` or
                `label_channel`; a theorem for one field, replica theory for several
    Source      theory/static_limits (2), (4), (5), (9)

    Parameters
    ----------
    model : Model
        Model whose teacher, `label_noise`, `label_flip` and `label_channel` are used. The student
        is not used.
    samples_per_dim : float
        Number of samples divided by d.
    prior : "gaussian", "rademacher", GaussBernoulli(density), laws.Normal or laws.Discrete
        Law of the teacher's weights. For several fields only "gaussian".
    start : "uninformed", "informed" or "all"
        Selected fixed point: the one that approximate message passing (AMP) reaches without prior
        information, the one closest to the teacher, or the one with the largest free entropy, which
        is the Bayes optimum.

    Returns
    -------
    BayesOptimal

    Raises
    ------
    BadParameter

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.Symbol("z", real=True)
    >>> model = dmft.Model(dmft.Committee(z, 1), dmft.Committee(sp.Abs(z), 1))
    >>> found = dmft.bayes_optimal(model, samples_per_dim=1.05)
    >>> [(round(b.q, 4), b.stable) for b in found.branches]
    [(0.0, False), (0.5684, True), (0.9918, False), (1.0, True)]
    >>> dmft.bayes_optimal(model, samples_per_dim=1.05, start="all").mmse
    0.0
    """
    alpha = as_positive(samples_per_dim, "samples_per_dim")
    if start not in STARTS:
        raise BadParameter(f"start must be one of {', '.join(STARTS)}, got {shown(start)}")
    label, law = label_of(model, "bayes_optimal"), as_prior(prior)
    if label.width > 1:
        check_gaussian(law, "bayes_optimal")
    branches, measured = (_of_one if label.width == 1 else _of_several)(label, law, alpha)
    number = _selected(branches, start, only_stable=label.width == 1)
    branch = branches[number]
    return BayesOptimal(
        q=branch.q,
        qhat=branch.qhat,
        mmse=branch.mmse,
        free_entropy=branch.free_entropy,
        **measured(number),
        branches=branches,
        samples_per_dim=alpha,
        start=start,
        prior=str(prior),
        label=str(label.expr),
        model=model,
        law=law,
    )


Found = tuple[tuple[FixedPointBranch, ...], Callable[[int], dict[str, Any]]]


def _of_one(label: Label, prior: Prior, alpha: float) -> Found:
    """Fixed points of a label of one field, and what is measured at one of them."""
    curve = curve_of(label, prior)
    roots = states(curve, alpha)
    if not roots:
        raise BadParameter(
            f"no fixed point is resolved at samples_per_dim = {alpha:g}: its overlap is too close "
            "to 0 or to its largest value"
        )
    branches = tuple(_branch(curve, alpha, root) for root in roots)

    def measured(number: int) -> dict[str, Any]:
        root = roots[number]
        exact = root.variance <= TINY or root.overlap == 0
        error = 0.0 if exact else curve.error * float(root.overlap) * float(root.variance)
        moved = root._replace(overlap=root.overlap - error, variance=root.variance + error)

        def with_error(name: str, of: Callable[..., float | None]) -> dict[str, Any]:
            value = of(curve.channel, root)
            if value is None:
                return {name: None, f"{name}_error": 0.0}
            others = (of(curve.channel, root, RISK_ORDER + MORE), of(curve.channel, moved))
            spread = 2.0 * sum(abs(float(y or 0.0) - value) for y in others)
            return {name: value, f"{name}_error": spread + ROUNDING * abs(value)}

        return {
            **with_error("risk", risk_of),
            **with_error("error_rate", error_rate_of),
            "free_entropy_error": _entropy_error(curve, alpha, root),
            "error": error,
            "proof": CLOSED if exact else QUADRATURE,
        }

    return branches, measured


def _of_several(label: Label, _: Prior, alpha: float) -> Found:
    """The same for two and three fields: fixed points from both ends."""
    channel = several_of(label)
    found = continuation.states(channel, alpha)
    branches = tuple(
        FixedPointBranch(
            s.overlap,
            s.precision,
            float(np.mean(1.0 - np.diag(s.overlap))),
            fields.free_entropy(s, alpha),
            s.stable,
        )
        for s in found
    )

    def measured(number: int) -> dict[str, Any]:
        q, error = found[number].overlap, found[number].error
        risk, of_risk = fields.claimed(fields.risks_of, fields.noiseless(label), q, error)
        rate, of_rate, bits = None, 0.0, 0.0
        if channel.is_discrete and len(channel.atoms) == 2:
            rate, of_rate = fields.claimed(fields.error_rates_of, channel, q, error)
        if np.isfinite(found[number].entropy):
            _, bits = fields.claimed(fields.entropies, channel, q, 0.0)
        return {
            "risk": risk,
            "risk_error": of_risk,
            "error_rate": rate,
            "error_rate_error": of_rate,
            "free_entropy_error": alpha * bits,
            "error": error,
            "proof": QMC,
        }

    return branches, measured


@lru_cache(maxsize=32)
def curve_of(label: Label, prior: Prior) -> Curve:
    """The curve of fixed points of a label of one field; kept, since it serves every alpha."""
    return Curve(label.channel(prior.second_moment), prior)


def states(curve: Curve, alpha: float) -> list[Root]:
    """All fixed points in the order of overlaps, those at q = 0 and at exact recovery included."""
    rho, found = curve.prior.second_moment, curve.roots(alpha)
    if curve.start > 0:
        found.insert(0, Root(0.0, rho, 0.0, alpha < curve.start))
    if curve.limit < np.inf:
        found.append(Root(rho, 0.0, np.inf, alpha > curve.limit))
    return found


def _branch(curve: Curve, alpha: float, root: Root) -> FixedPointBranch:
    q, variance, precision, stable = (float(a) for a in root)
    return FixedPointBranch(q, precision, variance, _entropy(curve, alpha, root), bool(stable))


def _entropy(curve: Curve, alpha: float, root: Root) -> float:
    """Free entropy, also where it is a limit."""
    if root.variance > TINY:
        if root.overlap == 0:
            return alpha * curve.channel.entropy(0.0)
        return float(curve.free_entropy(alpha, root))
    if curve.channel.density_share > ZERO:
        return np.inf if alpha > curve.limit else -np.inf
    labels = curve.channel.entropy(curve.prior.second_moment, variance=TINY)
    return -curve.prior.entropy + alpha * labels


def _selected(branches: tuple[FixedPointBranch, ...], start: str, only_stable: bool) -> int:
    kept = [n for n, b in enumerate(branches) if b.stable or not only_stable]
    kept = kept or [len(branches) - 1]  # marginal, where alpha is the threshold of recovery
    if start == "all":
        return max(kept, key=lambda n: branches[n].free_entropy)
    return kept[0] if start == "uninformed" else kept[-1]


def _entropy_error(curve: Curve, alpha: float, root: Root) -> float:
    """Error of the free entropy, which is stationary in the overlap."""
    value = _entropy(curve, alpha, root)
    if not np.isfinite(value):
        return 0.0
    q, channel = float(root.overlap), curve.channel
    if root.variance <= TINY:  # a limit of small variances
        pair = (channel.entropy(q, variance=v) for v in (TINY, 100 * TINY))
    else:
        orders = (channel.order, channel.order + MORE)
        pair = (channel.entropy(q, variance=float(root.variance), order=n) for n in orders)
    one, two = pair
    return 2.0 * alpha * abs(one - two) + ROUNDING * abs(value)


def risk_of(channel: Channel, root: Root, order: int = RISK_ORDER) -> float:
    """E Var(g | omega)/2 of the label without noise and flips."""
    if root.variance <= TINY:
        return 0.0
    clean = _clean(channel)
    omega, weight = clean.outer(float(root.overlap), float(root.variance), order)
    source = channel if channel.drawn else clean
    z, _, inner = source.rule_z(omega, float(root.variance), order)
    y = clean.label(z)
    mean = np.sum(inner * y, axis=1, keepdims=True)
    return 0.5 * float(weight @ np.sum(inner * (y - mean) ** 2, axis=1))


def error_rate_of(channel: Channel, root: Root, order: int = RISK_ORDER) -> float | None:
    """1 - E max_y P(y | omega) of a label with two values."""
    clean = channel if channel.drawn else _clean(channel)
    if clean.discrete is None or len(clean.discrete) != 2:
        return None
    variance = max(float(root.variance), TINY)
    omega, weight = clean.outer(float(root.overlap), variance, order)
    logs = [clean.log_z(np.array(v), omega, np.array(variance)) for v in clean.discrete]
    return float(weight @ np.exp(np.minimum(*logs)))


def _clean(channel: Channel) -> Channel:
    """The label itself: no noise, no flips, no outer function removed."""
    return Channel(
        channel.expr,
        channel.field,
        prior_variance=channel.prior_variance,
        mixture=((1.0, channel.expr),),
    )


@dataclass(frozen=True, eq=False)
class StateEvolution(Archived):
    """Overlap of the estimate of AMP after each iteration, as d -> infinity.

    Attributes
    ----------
    q : (T + 1,) or (T + 1, k, k)
        Overlap with the teacher, including the start.
    mmse : (T + 1,)
    converged : bool
        Whether the last change is below 1e-10.
    samples_per_dim, prior, label

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> line = dmft.Committee(sp.Symbol("z", real=True), 1)
    >>> run = dmft.state_evolution(dmft.Model(line, line, label_noise=1), samples_per_dim=2.0)
    >>> run.q[:2].round(4).tolist(), run.mmse[:2].round(4).tolist()
    ([0.0, 0.5], [1.0, 0.5])
    """

    KIND = "dmft state evolution"

    q: Array
    mmse: Array
    converged: bool
    samples_per_dim: float
    prior: str
    label: str


@checked
def state_evolution(
    model: Model,
    samples_per_dim: float,
    start: Any = "uninformed",
    *,
    prior: Any = "gaussian",
    steps: int = MOST_STEPS,
) -> StateEvolution:
    """Compute the overlap of approximate message passing after each iteration.

    Equation    q_(t+1) = F(alpha m(q_t))
    Source      theory/static_limits (2)

    Parameters
    ----------
    model : Model
    samples_per_dim : float
    start : "uninformed", "informed" or float
        Initial overlap. "uninformed" is zero, or 1e-3 of the second moment if zero is a fixed
        point. "informed" is 1 - 1e-3 of the second moment.
    prior
        As in `dmft.bayes_optimal`.
    steps : int
        Maximal number of iterations.

    Returns
    -------
    StateEvolution

    Raises
    ------
    BadParameter

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.Symbol("z", real=True)
    >>> model = dmft.Model(dmft.Committee(z, 1), dmft.MultiIndex(sp.sign(z), [z]))
    >>> run = dmft.state_evolution(model, samples_per_dim=1.0)
    >>> run.converged, run.q[:3].round(4).tolist(), float(run.q[-1].round(6))
    (True, [0.0, 0.389, 0.4616], 0.486264)
    """
    alpha = as_positive(samples_per_dim, "samples_per_dim")
    label, law = label_of(model, "state_evolution"), as_prior(prior)
    if label.width > 1:
        check_gaussian(law, "state_evolution")
    k, rho = label.width, law.second_moment
    ends, advance = (_walk_of_one if k == 1 else _walk_of_several)(label, law, alpha)
    first = _first_overlap(start, ends, k, rho)
    exact, settled = (SETTLED, SETTLED) if k == 1 else (fields.EXACT / k, fields.SETTLED[True])
    overlaps, left, converged = [first], [rho - float(np.trace(first)) / k], False
    for _ in range(min(steps, MOST_STEPS if k == 1 else fields.MOST_STEPS)):
        if converged := left[-1] <= exact:
            break
        q, rest = advance(overlaps[-1], left[-1], first)
        overlaps.append(q)
        left.append(float(rest))
        if converged := bool(np.abs(q - overlaps[-2]).max() < settled):
            break
    found = np.array(overlaps)
    found = found[:, 0, 0] if k == 1 else found
    return StateEvolution(found, np.array(left), converged, alpha, str(prior), str(label.expr))


# The ends of the walk and its step, from an overlap (k, k), the remaining variance and the start.
Walk = tuple[dict[str, float], Callable[[Array, float, Array], tuple[Array, Any]]]


def _walk_of_one(label: Label, law: Prior, alpha: float) -> Walk:
    channel, rho = label.channel(law.second_moment), law.second_moment
    low = 0.0 if channel.uninformed[0] > ZERO else NUDGE * rho

    def advance(q: Array, left: float, _: Array) -> tuple[Array, Any]:
        found = law.estimate(alpha * channel.information(float(q[0, 0]), variance=left))
        return found.overlap * np.eye(1), found.variance

    return {"uninformed": low, "informed": (1.0 - NUDGE) * rho}, advance


def _walk_of_several(label: Label, _: Prior, alpha: float) -> Walk:
    channel = several_of(label)

    def advance(q: Array, _: float, first: Array) -> tuple[Array, Any]:
        image = fields.step(channel, alpha, q, first)
        return image, 1.0 - np.trace(image) / len(q)

    return {"uninformed": fields.NUDGE, "informed": fields.NEAR}, advance


def _first_overlap(start: Any, ends: dict[str, float], k: int, rho: float) -> Array:
    given = ends.get(start) if isinstance(start, str) else start
    if is_number(given) or (k > 1 and is_array(given)):
        first = np.asarray(given, dtype=float)
        q = first * np.eye(k) if first.ndim == 0 else first
        if q.shape == (k, k) and _is_overlap(q / rho):
            return q
    matrix = f" or a matrix of shape ({k}, {k}) between 0 and I" if k > 1 else ""
    raise BadParameter(
        f'start must be "uninformed", "informed", an overlap in [0, {rho:g}){matrix}, got '
        f"{shown(start)}"
    )


def _is_overlap(q: Array) -> bool:
    """Whether a matrix is symmetric and between 0 and I."""
    if not np.isfinite(q).all():
        return False
    values = np.linalg.eigvalsh(q)
    return bool(np.allclose(q, q.T) and values[0] >= 0 and values[-1] < 1)
