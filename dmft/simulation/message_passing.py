"""Approximate message passing in finite dimension: one run on one data set.

The score of the labels and the denoiser of the weights are functions that the caller passes.

Equation    omega = X w - V g_prev, g = score(y, omega, V), A = -sum dg/domega / d,
            B = X^T g + A w, w = E[w | B, A], V = mean Var[w | B, A]
Source      theory/static_limits (18)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
# The score at labels, fields and their variance, and its derivative by the field.
Score = Callable[[Array, Array, float], tuple[Array, Array]]
# Posterior mean and variance of weights at fields B and precision A.
Denoiser = Callable[[Array, float], tuple[Array, Array]]
# The score of several fields: labels (n,), fields (n, k), covariance (k, k) to (n, k).
Scores = Callable[[Array, Array, Array], Array]
# Below this variance, relative to that of the prior, the teacher counts as found: scores of
# labels without noise grow like 1/V.
FOUND = 1e-5


@dataclass(frozen=True, eq=False)
class MessagePassingRun:
    """Overlaps with the teacher and lengths after each step, and how the run ended.

    Attributes
    ----------
    overlap, length, variance : (T + 1,) or (T + 1, k, k)
    found : bool
        Whether the variance of the posterior vanished.
    estimate : (d,) or (d, k)
    """

    overlap: Array
    length: Array
    variance: Array
    found: bool
    estimate: Array


def normalised(weights: Array, second_moment: float) -> Array:
    """Teacher's weights (d,) of the length sqrt(d) that the theory has, or orthonormal (d, k).

    The length of random weights fluctuates by d^(-1/2), and overlaps would with it.
    """
    if weights.ndim == 1:
        return weights * np.sqrt(second_moment * weights.size / (weights @ weights))
    basis, triangle = np.linalg.qr(weights)
    return np.asarray(np.sqrt(len(weights)) * basis * np.sign(np.diag(triangle)))


def near(teacher: Array, overlap: float, second_moment: float, rng: np.random.Generator) -> Array:
    """An estimate whose overlap with the teacher and whose squared length are `overlap`."""
    share = overlap / second_moment
    noise = rng.standard_normal(teacher.shape)
    return np.asarray(share * teacher + np.sqrt(overlap * (1.0 - share)) * noise)


def pass_messages(
    X: Array,
    y: Array,
    teacher: Array,
    start: Array,
    variance: float,
    score: Score,
    denoise: Denoiser,
    steps: int,
) -> MessagePassingRun:
    """Run with one teacher field; X (n, d) has entries of variance 1/d."""
    dim, prior_variance = len(teacher), float(np.mean(teacher**2))
    w, V, g = start, variance, np.zeros(len(y))
    seen = [_seen(w, teacher, V)]
    for _ in range(steps):
        omega = X @ w - V * g
        g, slope = score(y, omega, V)
        # The form of sums of squares has the same mean, but freezes next to exact recovery; where
        # the slopes of few samples add up to the wrong sign, it has none.
        precision = -float(np.sum(slope)) / dim
        precision = precision if precision > 0.0 else float(g @ g) / dim
        w, spread = denoise(X.T @ g + precision * w, precision)
        V = float(np.mean(spread))
        seen.append(_seen(w, teacher, V))
        if not FOUND * prior_variance < V:
            break
    overlap, length, variances = (np.array(each) for each in zip(*seen, strict=True))
    return MessagePassingRun(overlap, length, variances, FOUND * prior_variance >= V, w)


def _seen(w: Array, teacher: Array, V: float) -> tuple[float, float, float]:
    return float(w @ teacher) / w.size, float(w @ w) / w.size, V


def pass_several(
    X: Array, y: Array, teacher: Array, start: Array, variance: Array, score: Scores, steps: int
) -> MessagePassingRun:
    """Run with k teacher fields and a Gaussian prior; teacher and start (d, k)."""
    dim, k = teacher.shape
    W, V, g = start, variance, np.zeros((len(y), k))
    seen = [(W.T @ teacher / dim, W.T @ W / dim, V)]
    for _ in range(steps):
        g = score(y, X @ W - g @ V.T, V)
        precision = g.T @ g / dim
        V = np.linalg.inv(np.eye(k) + precision)
        W = (X.T @ g + W @ precision.T) @ V
        seen.append((W.T @ teacher / dim, W.T @ W / dim, V))
        if not np.linalg.eigvalsh(V)[0] > FOUND:
            break
    overlap, length, variances = (np.array(each) for each in zip(*seen, strict=True))
    return MessagePassingRun(overlap, length, variances, bool(np.trace(V) <= k * FOUND), W)
