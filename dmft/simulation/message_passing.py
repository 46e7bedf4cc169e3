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

from dmft.arrays import Array

# The score (n, k) at labels (n,), fields (n, k) and their covariance (k, k), and the precision of
# the weights (k, k): minus the sum of its slopes over d, or its squares.
Score = Callable[[Array, Array, Array], tuple[Array, Array]]
# Posterior means (d, k) of weights and their mean covariance (k, k) at fields (d, k) and precision.
Denoiser = Callable[[Array, Array], tuple[Array, Array]]
# Below this variance, relative to that of the prior, the teacher counts as found: scores of
# labels without noise grow like 1/V.
FOUND = 1e-5


@dataclass(frozen=True, eq=False)
class MessagePassingRun:
    """Overlaps with the teacher and lengths (T + 1, k, k) after each step, and how the run ended.

    `found` is true if the variance of the posterior vanished; `estimate` is (d, k).
    """

    overlap: Array
    length: Array
    variance: Array
    found: bool
    estimate: Array


def normalised(weights: Array, second_moment: float) -> Array:
    """Teacher's weights (d, k), orthogonal and of the lengths that the theory has.

    The length of random weights fluctuates by d^(-1/2), and overlaps would with it.
    """
    basis, triangle = np.linalg.qr(weights)
    length = np.sqrt(second_moment * len(weights))
    return np.asarray(length * basis * np.sign(np.diag(triangle)))


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
    variance: Array,
    score: Score,
    denoise: Denoiser,
    steps: int,
) -> MessagePassingRun:
    """Run with k teacher fields: X (n, d) has entries of variance 1/d, teacher and start (d, k)."""
    dim, k = teacher.shape
    least = FOUND * float(np.mean(teacher**2))
    W, V, g = start, variance, np.zeros((len(y), k))
    seen = [(W.T @ teacher / dim, W.T @ W / dim, V)]
    for _ in range(steps):
        g, precision = score(y, X @ W - g @ V.T, V)
        # The form of sums of squares has the same mean, but freezes next to exact recovery; where
        # the slopes of few samples add up to the wrong sign, it has none.
        if k == 1 and not precision[0, 0] > 0.0:
            precision = g.T @ g / dim
        W, V = denoise(X.T @ g + W @ precision.T, precision)
        seen.append((W.T @ teacher / dim, W.T @ W / dim, V))
        if not (np.isfinite(V).all() and np.linalg.eigvalsh(V)[0] > least):
            break
    overlap, length, variances = (np.array(each) for each in zip(*seen, strict=True))
    return MessagePassingRun(overlap, length, variances, bool(np.trace(V) <= k * least), W)
