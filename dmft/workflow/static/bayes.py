"""`bayes_optimal` and `state_evolution`: overlaps of the posterior mean, and of AMP by steps."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dmft.errors import BadParameter
from dmft.gaussian.channels.channel import Channel
from dmft.gaussian.channels.curve import ZERO, Curve, Root
from dmft.gaussian.channels.declared import Label, label_of
from dmft.gaussian.channels.priors import GAUSSIAN, Prior, as_prior
from dmft.model import Model
from dmft.record import Record
from dmft.validation import checked, is_number, shown
from dmft.workflow.static import several_fields as fields
from dmft.workflow.static.numbers import CLOSED, QMC, QUADRATURE, Encoded
from dmft.workflow.static.several_fields import several_of

Array = NDArray[np.float64]
# Nodes of panels of the risk.
RISK_ORDER = 32
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
class BayesOptimal(Encoded):
    r"""Bayes-optimal estimation of a teacher from n = samples_per_dim d labels, d -> infinity.

    Attributes
    ----------
    q, qhat, mmse, free_entropy
        Of the selected branch, as in `branches`.
    risk : float
        E(g - E[g | x, data])^2/2 of a new sample, g without noise and flips.
    error_rate : float or None
        Smallest probability to mistake a label that has two values, without noise and flips; of a
        drawn label, the label itself.
    error : float
        Error of q.
    proof : str
    branches : tuple of FixedPointBranch
        All fixed points, by overlap.
    samples_per_dim, start, prior, label, message

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

    q: Any
    qhat: Any
    mmse: float
    risk: float
    error_rate: float | None
    free_entropy: float
    error: float
    proof: str
    branches: tuple[FixedPointBranch, ...]
    samples_per_dim: float
    start: str
    prior: str
    label: str
    message: str = ""


@checked
def bayes_optimal(
    model: Model,
    samples_per_dim: float,
    prior: Any = "gaussian",
    start: str = "uninformed",
) -> BayesOptimal:
    r"""Overlap, errors and free entropy of Bayes-optimal estimation and of AMP.

    Equation    qhat = alpha m(q), q = F(qhat), m(q) = E[g_out g_out^T]
    Shapes      q, qhat: numbers for one field, (k, k) for k = 2, 3
    Scaling     alpha = samples_per_dim = n/d; weights and inputs of unit variance
    Valid for   any label of up to three fields, noise, flips, drawn labels; a theorem for one
                field, replica theory for several
    Source      theory/static_limits (2), (4), (5), (9)

    Parameters
    ----------
    model : Model
        Its teacher, `label_noise`, `label_flip` and `label_channel`; the student plays no role.
    samples_per_dim : float
        Samples over dimension.
    prior : "gaussian", "rademacher" or GaussBernoulli(density)
        Law of the teacher's weights; for several fields "gaussian".
    start : "uninformed", "informed" or "all"
        The branch that AMP reaches from no knowledge of the teacher, the branch next to the
        teacher, or the one of largest free entropy, which is the Bayes optimum.

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
    alpha = samples_of(samples_per_dim)
    if start not in STARTS:
        raise BadParameter(f"start must be one of {', '.join(STARTS)}, got {shown(start)}")
    label, law = label_of(model, "bayes_optimal"), as_prior(prior)
    if label.width > 1:
        check_gaussian(law, "bayes_optimal")
        return _of_several(label, alpha, start)
    curve = curve_of(label, law)
    roots = states(curve, alpha)
    branches = tuple(_branch(curve, alpha, root) for root in roots)
    number = _selected(branches, start)
    root, branch = roots[number], branches[number]
    exact = root.variance == 0 or root.overlap == 0
    return BayesOptimal(
        q=branch.q,
        qhat=branch.qhat,
        mmse=branch.mmse,
        risk=risk_of(curve.channel, root),
        error_rate=error_rate_of(curve.channel, root),
        free_entropy=branch.free_entropy,
        error=0.0 if exact else curve.error * branch.q * branch.mmse,
        proof=CLOSED if exact else QUADRATURE,
        branches=branches,
        samples_per_dim=alpha,
        start=start,
        prior=str(prior),
        label=str(label.expr),
    )


def check_gaussian(prior: Prior, what: str) -> None:
    """Refuse other priors where several fields need the Gaussian one."""
    if prior != GAUSSIAN:
        raise BadParameter(
            f'{what} of labels of several fields is derived for prior="gaussian"; other priors '
            "are for labels of one field"
        )


def _of_several(label: Label, alpha: float, start: str) -> BayesOptimal:
    """The same for two and three fields: fixed points from both ends."""
    channel = several_of(label)
    found = fields.states(channel, alpha)
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
    number = {"uninformed": 0, "informed": -1}.get(start)
    if number is None:
        number = int(np.argmax([np.nan_to_num(b.free_entropy, nan=np.inf) for b in branches]))
    branch, state = branches[number], found[number]
    rate = fields.error_rate_of(channel, state.overlap)
    return BayesOptimal(
        q=branch.q,
        qhat=branch.qhat,
        mmse=branch.mmse,
        risk=fields.risk_of(label, state.overlap),
        error_rate=rate,
        free_entropy=branch.free_entropy,
        error=state.error,
        proof=QMC,
        branches=branches,
        samples_per_dim=alpha,
        start=start,
        prior="gaussian",
        label=str(label.expr),
    )


def samples_of(given: Any) -> float:
    """Samples over dimension as a positive number."""
    if not (is_number(given) and 0.0 < float(given) < np.inf):
        raise BadParameter(f"samples_per_dim must be positive and finite, got {shown(given)}")
    return float(given)


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
    if root.variance > 0:
        if root.overlap == 0:
            return alpha * curve.channel.entropy(0.0)
        return float(curve.free_entropy(alpha, root))
    if curve.channel.density_share > ZERO:
        return np.inf if alpha > curve.limit else -np.inf
    labels = curve.channel.entropy(curve.prior.second_moment, variance=1e-14)
    return -curve.prior.entropy + alpha * labels


def _selected(branches: tuple[FixedPointBranch, ...], start: str) -> int:
    stable = [n for n, b in enumerate(branches) if b.stable]
    if start == "all":
        return max(stable, key=lambda n: branches[n].free_entropy)
    return stable[0] if start == "uninformed" else stable[-1]


def risk_of(channel: Channel, root: Root) -> float:
    """E Var(g | omega)/2 of the label without noise and flips."""
    if root.variance == 0:
        return 0.0
    clean = _clean(channel)
    omega, weight = clean.outer(float(root.overlap), float(root.variance), 12)
    y, inner = clean.rule(omega, float(root.variance), RISK_ORDER)
    if channel.drawn:
        z, _, inner = channel.rule_z(omega, float(root.variance))
        y = channel.label(z)
    mean = np.sum(inner * y, axis=1, keepdims=True)
    return 0.5 * float(weight @ np.sum(inner * (y - mean) ** 2, axis=1))


def error_rate_of(channel: Channel, root: Root) -> float | None:
    """1 - E max_y P(y | omega) of a label with two values."""
    clean = channel if channel.drawn else _clean(channel)
    if clean.discrete is None or len(clean.discrete) != 2:
        return None
    variance = float(root.variance) or 1e-14
    omega, weight = clean.outer(float(root.overlap), variance, 12)
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
class StateEvolution(Encoded):
    """Overlap of AMP's estimate after each step, as d -> infinity.

    Attributes
    ----------
    q : (T + 1,) or (T + 1, k, k)
        From the start on.
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
    """Overlap of approximate message passing in iterations.

    Equation    q_(t+1) = F(alpha m(q_t))
    Source      theory/static_limits (2)

    Parameters
    ----------
    model : Model
    samples_per_dim : float
    start : "uninformed", "informed" or float
        An overlap. Uninformed is zero, or 1e-3 of the second moment where zero is a fixed point;
        informed is 1 - 1e-3 of it.
    prior
        As in `dmft.bayes_optimal`.
    steps : int
        At most so many; the iteration ends earlier where it has converged.

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
    alpha = samples_of(samples_per_dim)
    label, law = label_of(model, "state_evolution"), as_prior(prior)
    if label.width > 1:
        check_gaussian(law, "state_evolution")
        return _evolution_of_several(label, alpha, start, steps)
    channel, rho = label.channel(law.second_moment), law.second_moment
    overlaps, left = [_start(start, channel, rho)], [0.0]
    left[0] = rho - overlaps[0]
    while len(overlaps) <= steps and left[-1] > SETTLED:
        m = channel.information(overlaps[-1], variance=left[-1])
        found = law.estimate(alpha * m)
        overlaps.append(float(found.overlap))
        left.append(float(found.variance))
        if abs(left[-1] - left[-2]) < SETTLED:
            break
    converged = left[-1] <= SETTLED or abs(left[-1] - left[-2]) < SETTLED
    q, mmse = np.array(overlaps), np.array(left)
    return StateEvolution(q, mmse, bool(converged), alpha, str(prior), str(label.expr))


def _start(given: Any, channel: Channel, rho: float) -> float:
    """The first overlap."""
    if given == "uninformed":
        return 0.0 if channel.uninformed[0] > ZERO else NUDGE * rho
    if given == "informed":
        return (1.0 - NUDGE) * rho
    if is_number(given) and 0.0 <= float(given) < rho:
        return float(given)
    raise BadParameter(
        f'start must be "uninformed", "informed" or an overlap in [0, {rho:g}), got {shown(given)}'
    )


def _evolution_of_several(label: Label, alpha: float, start: Any, steps: int) -> StateEvolution:
    """The same for two and three fields."""
    channel = several_of(label)
    ends = {"uninformed": fields.NUDGE, "informed": fields.NEAR}
    first = np.asarray(ends.get(start, np.nan) if isinstance(start, str) else start, dtype=float)
    q = first * np.eye(label.width) if first.ndim == 0 else first
    if q.shape != (label.width,) * 2 or not _is_overlap(q):
        raise BadParameter(
            'start must be "uninformed", "informed", an overlap in [0, 1) or a matrix of shape '
            f"({label.width}, {label.width}) between 0 and I, got {shown(start)}"
        )
    overlaps, converged = [q], False
    for _ in range(min(steps, fields.MOST_STEPS)):
        image = fields.step(channel, alpha, overlaps[-1], q)
        converged = bool(np.abs(image - overlaps[-1]).max() < fields.SETTLED[True])
        overlaps.append(image)
        if converged or np.trace(np.eye(len(q)) - image) < fields.EXACT:
            break
    found = np.array(overlaps)
    mmse = 1.0 - np.trace(found, axis1=1, axis2=2) / label.width
    return StateEvolution(found, mmse, converged, alpha, "gaussian", str(label.expr))


def _is_overlap(q: Array) -> bool:
    """Whether a matrix is symmetric and between 0 and I."""
    if not np.isfinite(q).all():
        return False
    values = np.linalg.eigvalsh(q)
    return bool(np.allclose(q, q.T) and values[0] >= 0 and values[-1] < 1)
