"""`approximate_message_passing`: runs at finite dimension with the channels of the theory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
from scipy.sparse.linalg import LinearOperator, eigsh

from dmft.arrays import Array
from dmft.errors import BadParameter
from dmft.gaussian.channels.channel import Channel
from dmft.gaussian.channels.declared import label_of
from dmft.gaussian.channels.priors import Prior, as_prior
from dmft.gaussian.channels.several import Several
from dmft.model import Model, as_count
from dmft.names import Status
from dmft.record import Archived
from dmft.simulation.message_passing import MessagePassingRun, near, normalised, pass_messages
from dmft.special.sampling import as_seeds
from dmft.validation import as_positive, checked, is_number, shown
from dmft.workflow.static.bayes import check_gaussian
from dmft.workflow.static.several_fields import NUDGE, several_of
from dmft.workflow.static.spectral import optimal_preprocessing, spectral

STEPS = 50
# Numbers of the inputs of a run, 16 GB.
MOST_INPUTS = 2**31
# Overlap of a spectral start where the theory gives less, relative to the second moment.
LEAST_OVERLAP = 0.01
# E[h | y]^2 on average below which a label tells nothing at first.
UNINFORMED = 1e-9


@dataclass(frozen=True, eq=False)
class MessagePassing(Archived):
    """Simulations of approximate message passing in finite dimension.

    Attributes
    ----------
    q : (seeds, T + 1) or (seeds, T + 1, k, k)
        Overlap of the estimate with the teacher after each step.
    length : as q
        Squared length of the estimate, which the theory predicts to equal q.
    found : tuple of bool
        Whether the teacher was recovered, that is, the posterior variance vanished. For a discrete
        prior the rounded estimate must also equal the teacher.
    status, message
    samples_per_dim, dim, prior, label, start

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.Symbol("z", real=True)
    >>> model = dmft.Model(dmft.Committee(z, 1), dmft.MultiIndex(sp.sign(z), [z]))
    >>> runs = dmft.approximate_message_passing(model, 2.0, dim=200, seeds=4, steps=10)
    >>> runs.q.shape, bool(abs(runs.mean[-1] - 0.728) < 0.1)
    ((4, 11), True)
    """

    q: Array
    length: Array
    found: tuple[bool, ...]
    status: Status
    message: str
    samples_per_dim: float
    dim: int
    prior: str
    label: str
    start: str

    KIND = "dmft message passing"
    AXES: ClassVar[dict[str, tuple[str, ...]]] = dict.fromkeys(
        ("q", "length"), ("seed", "t", "k", "k_2")
    )

    @property
    def mean(self) -> Array:
        """Overlap after each step, averaged over the seeds."""
        return np.asarray(self.q.mean(axis=0))

    @property
    def stderr(self) -> Array:
        """Standard error of `mean`; nan for one seed."""
        if len(self.q) == 1:
            return np.full(self.q.shape[1:], np.nan)
        return np.asarray(self.q.std(axis=0, ddof=1) / np.sqrt(len(self.q)))


@checked
def approximate_message_passing(
    model: Model,
    samples_per_dim: float,
    dim: int,
    seeds: int | Sequence[int],
    *,
    prior: Any = "gaussian",
    start: Any = None,
    steps: int = STEPS,
) -> MessagePassing:
    r"""Simulate approximate message passing (AMP) on data sets in finite dimension.

    Equation    omega = X w - V g_prev, g = g_out(y, omega, V), A = -sum dg/d, B = X^T g + A w,
                w = E[w | B, A], V = mean Var[w | B, A]; for k fields A = g^T g/d
    Shapes      q (seeds, T + 1), for k fields (seeds, T + 1, k, k)
    Scaling     n = samples_per_dim d samples; teachers of squared length d times the second moment
                of the prior; their overlap q follows `dmft.state_evolution` up to d^(-1/2)
    Valid for   labels of up to three fields (Gaussian prior for several)
    Source      theory/static_limits 5, (18)

    Parameters
    ----------
    model : Model
    samples_per_dim : float
    dim : int
        Input dimension d.
    seeds : int or sequence of int
        Seeds; a number n denotes the seeds 0 to n - 1.
    prior : "gaussian", "rademacher", GaussBernoulli(density), laws.Normal or laws.Discrete
    start : None, "spectral" or float
        Overlap with the teacher at the start. The default for several fields is 0.01, as in
        `dmft.state_evolution`; for one field it is 0 if E[h | y] does not vanish. Otherwise 0 is a
        fixed point, and the default is the spectral estimate, with the sign for which the final
        overlap is positive.
    steps : int
        Maximal number of iterations. A run ends when the teacher is recovered, and its later
        overlaps equal the last one.

    Returns
    -------
    MessagePassing
        `.q`, `.mean`, `.stderr`, `.length`, `.found`.

    Raises
    ------
    BadParameter

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.Symbol("z", real=True)
    >>> model = dmft.Model(dmft.Committee(z, 1), dmft.MultiIndex(sp.Abs(z), [z]))
    >>> runs = dmft.approximate_message_passing(model, 2.0, dim=200, seeds=2, start=0.3)
    >>> runs.found
    (True, True)
    """
    alpha = as_positive(samples_per_dim, "samples_per_dim")
    dim, steps = as_count(dim, "dim"), as_count(steps, "steps")
    label, law = label_of(model, "approximate_message_passing"), as_prior(prior)
    label.check_numbers()
    if label.width > 1:
        check_gaussian(law, "message passing")
    if dim < label.width:
        raise BadParameter(f"dim = {dim} is below the {label.width} fields of the label")
    if alpha * dim**2 > MOST_INPUTS:
        raise BadParameter(
            f"samples_per_dim = {alpha:g} at dim = {dim} are {alpha * dim:.3g} samples, whose "
            f"inputs do not fit into memory: use a smaller dim"
        )
    channel = label.channel(law.second_moment) if label.width == 1 else several_of(label)
    runs = [
        _run(channel, law, model, alpha, dim, start, steps, np.random.default_rng([seed, 18]))
        for seed in as_seeds(seeds)
    ]
    q, length = (_filled([getattr(run, name) for run in runs]) for name in ("overlap", "length"))
    if label.width == 1:
        q, length = q[..., 0, 0], length[..., 0, 0]
    finite = np.isfinite(q).all()
    return MessagePassing(
        q, length, tuple(bool(run.found) for run in runs),
        Status.OK if finite else Status.NONFINITE,
        "" if finite else "some overlaps are not finite",
        alpha, dim, str(prior), str(label.expr), str(start),
    )  # fmt: skip


def _filled(rows: list[Array]) -> Array:
    """Rows of several lengths, the last value repeated."""
    longest = max(map(len, rows))
    return np.array(
        [np.concatenate([r, np.repeat(r[-1:], longest - len(r), axis=0)]) for r in rows]
    )


def _run(
    channel: Channel | Several, law: Prior, model: Model, alpha: float, dim: int, start: Any,
    steps: int, rng: np.random.Generator,
) -> MessagePassingRun:  # fmt: skip
    """A run on one data set; for several fields the prior is Gaussian."""
    rho, k = law.second_moment, channel.width
    weights = law.sample(rng, (dim, 1)) if k == 1 else rng.standard_normal((dim, k))
    teacher = normalised(weights, rho)
    X = rng.standard_normal((max(1, round(alpha * dim)), dim)) / np.sqrt(dim)
    y = _labels(channel, X @ teacher, rng)
    turned = False
    if isinstance(channel, Channel):
        turned = (isinstance(start, str) and start == "spectral") or (
            start is None and not _informs(channel, y)
        )
    if turned and isinstance(channel, Channel):
        overlap = max(spectral(model, alpha).cosine_squared, LEAST_OVERLAP) * rho
        W = np.sqrt(overlap * dim) * _top_vector(channel, X, y, rng)[:, None]
    else:
        # Exactly symmetric rows stay equal, so that several fields would never specialise.
        default = 0.0 if k == 1 else NUDGE
        overlap = default if start is None else _overlap(start, rho)
        W = near(teacher, overlap, rho, rng)
    V = (rho - overlap) * np.eye(k)
    score, denoise = partial(_score, channel, dim), partial(_denoise, law)
    run = pass_messages(X, y, teacher, W, V, score, denoise, steps)
    sign = -1.0 if turned and run.overlap[-1, 0, 0] < 0.0 else 1.0
    found = run.found
    if found and not any(law.variances):  # rounded to the values of a discrete teacher
        values = np.array(law.means)
        nearest = values[np.argmin(np.abs(np.subtract.outer(sign * run.estimate, values)), axis=-1)]
        found = bool(np.allclose(nearest, teacher))
    return replace(run, overlap=sign * run.overlap, found=found)


def _labels(channel: Channel | Several, fields: Array, rng: np.random.Generator) -> Array:
    """Labels at the teacher's fields, drawn, flipped and with noise where the model says so."""
    if isinstance(channel, Channel) and channel.drawn:
        up = channel.likelihood.chance(np.ones(len(fields)), fields[:, 0])
        return np.where(rng.random(len(fields)) < up, 1.0, -1.0)
    y = np.array(channel.label(fields[:, 0] if isinstance(channel, Channel) else fields.T))
    if channel.flip:
        y *= np.where(rng.random(y.size) < channel.flip, -1.0, 1.0)
    return y + np.sqrt(channel.noise) * rng.standard_normal(y.size) if channel.noise else y


def _informs(channel: Channel, y: Array) -> bool:
    """Whether E[h | y] differs from zero at some label."""
    moments = channel.moments(y, np.zeros_like(y), np.array(channel.prior_variance))
    return float(np.mean(moments.first**2)) >= UNINFORMED


def _score(
    channel: Channel | Several, dim: int, y: Array, omega: Array, variance: Array
) -> tuple[Array, Array]:
    """Score of the labels and precision of the weights."""
    if not isinstance(channel, Channel):
        g = channel.score(y, omega, variance)
        return g, g.T @ g / dim
    v = variance[0]
    _, first, second = channel.moments(y, omega[:, 0], v)
    slopes = (second - first**2 - 1.0) / v
    return (first / np.sqrt(v))[:, None], np.array([[-float(np.sum(slopes)) / dim]])


def _denoise(law: Prior, field: Array, precision: Array) -> tuple[Array, Array]:
    """Posterior means of the weights and their mean covariance."""
    if len(precision) > 1:
        covariance = np.asarray(np.linalg.inv(np.eye(len(precision)) + precision))
        return np.asarray(field @ covariance), covariance
    mean, spread = law.denoise(field, precision[0])
    return mean, np.full((1, 1), np.mean(spread))


def _overlap(start: Any, rho: float) -> float:
    if not (is_number(start) and 0.0 <= float(start) < rho):
        raise BadParameter(
            f'start must be None, "spectral" or an overlap in [0, {rho:g}), got {shown(start)}'
        )
    return float(start)


def _top_vector(channel: Channel, X: Array, y: Array, rng: np.random.Generator) -> Array:
    """Top eigenvector of sum_mu T(y_mu) x_mu x_mu^T with the optimal preprocessing."""
    T, dim = optimal_preprocessing(channel, y), X.shape[1]
    matrix: Any = LinearOperator((dim, dim), matvec=lambda v: X.T @ (T * (X @ v)), dtype=float)
    _, vectors = eigsh(matrix, k=1, which="LA", v0=rng.standard_normal((dim,)), tol=1e-6)
    return np.asarray(vectors[:, 0])
