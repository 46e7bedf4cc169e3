"""One step of a one-pass algorithm on weight vectors, in NumPy: the truth of the matrix.

Vectors in R^d are written in coordinates in which they have few that are not zero: the span of all
weights, and the directions that the batch adds to it, whose lengths are those of Gaussian vectors
(Bartlett). The law of the step is exactly that in R^d. Rows are in units of sqrt(d), so that
Q = W W^T. Nothing of the library is used here.
"""

from dataclasses import dataclass

import numpy as np

# Batches up to this size are written out sample by sample outside the span of the weights.
FEW = 10
# The echo of a step under momentum is followed until it is this small.
SPENT = 1e-12


@dataclass(frozen=True)
class Step:
    """What a step does, in functions of arrays."""

    sigma: object
    slope: object
    pull: object  # -dl/df (f, y)
    label: object  # (h_star (k, ...), cluster (...)) -> y without noise
    readout: tuple
    gamma: float
    noise: float = 0.0
    batch: int = 1
    readout_rate: float = 0.0
    decay: float = 0.0
    momentum: float = 0.0
    constraint: str | None = None
    displaced: float = 0.0
    normalised: bool = False
    passes: int = 1
    rule: object = None  # psi(h, f, y) of a rule of one's own
    weights: tuple = (1.0,)  # of the clusters
    means: tuple = ((0.0,),)
    scales: tuple = (1.0,)


def bartlett(rng, count, size, degrees):
    """Lower triangles T (count, size, size) with T T^T a Wishart matrix."""
    T = np.tril(rng.standard_normal((count, size, size)), -1)
    for i in range(size):
        T[:, i, i] = np.sqrt(rng.chisquare(degrees - i, count))
    return T


def changes(step, Omega, p, dim, count, seed=0):
    """Changes of Q (count, p, p), M (count, p, k) and the readout (count, p) in one step."""
    rng = np.random.default_rng(seed)
    root = np.linalg.cholesky(Omega)
    size, few = len(Omega), step.batch <= FEW
    more = step.batch if few else p
    W_star = np.pad(root[p:], ((0, 0), (0, more)))
    start = np.pad(root[:p], ((0, 0), (0, more)))
    number = rng.choice(len(step.weights), (count, step.batch), p=step.weights)
    scale = np.asarray(step.scales)[number]
    X = np.zeros((count, step.batch, size + more))
    X[..., :size] = rng.standard_normal((count, step.batch, size)) * np.sqrt(scale)[..., None]
    X[..., :size] += (np.asarray(step.means) @ root[p:])[number]
    if few:
        X[..., size:] = np.sqrt(scale)[..., None] * bartlett(rng, count, more, dim - size)
    # Squared lengths: of many samples the part outside the span is not written out.
    square = (X**2).sum(-1, keepdims=True)
    if not few:
        square = square + (scale * rng.chisquare(dim - size, scale.shape))[..., None]
    square /= dim
    y = step.label(np.moveaxis(X @ W_star.T, -1, 0), number)
    y = y + np.sqrt(step.noise) * rng.standard_normal(number.shape)

    def gradients(h, a):
        """psi and e sigma(h), each (count, batch, p)."""
        f = np.einsum("cbp,cp->cb", step.sigma(h), a) / p
        error = step.pull(f, y)[..., None]
        if step.rule is not None:
            return step.rule(h, f[..., None], y[..., None]), error * step.sigma(h)
        return a[:, None] * step.slope(h) * error, error * step.sigma(h)

    gain = step.gamma / (p * step.batch)
    W, a = np.repeat(start[None], count, axis=0), np.tile(np.asarray(step.readout), (count, 1))
    for _ in range(step.passes):
        h = X @ W.swapaxes(1, 2)
        psi, push = gradients(h, a)
        if step.displaced:
            along = psi * square
            if step.normalised:
                length = np.sqrt((psi**2).sum(-1, keepdims=True))
                along = psi * np.sqrt(square) / np.where(length == 0, 1, length)
            psi, push = gradients(h + step.displaced * along, a)
        G = gain / dim * (psi.swapaxes(1, 2) @ X)
        if not few:  # the sum of many samples outside the span is Gaussian, given psi
            spread = (psi * scale[..., None]).swapaxes(1, 2) @ psi
            value, vector = np.linalg.eigh(spread)
            half = vector * np.sqrt(np.maximum(value, 0.0))[:, None]
            G[..., size:] += gain / dim * half @ bartlett(rng, count, p, dim - size)
        kick = gain / dim * step.readout_rate * push.sum(axis=1)
        if step.constraint == "sphere-gradient":
            G -= (G * W).sum(-1, keepdims=True) * W
        G -= step.decay * step.gamma / (p * dim) * W
        part = 1.0
        while part > SPENT:  # all later steps keep a part of this one
            W, a = W + part * G, a + part * kick
            part *= step.momentum
        if step.constraint:
            W = W / np.sqrt((W**2).sum(-1, keepdims=True))
    return {
        "Q": W @ W.swapaxes(1, 2) - start @ start.T,
        "M": W @ W_star.T - start @ W_star.T,
        "readout": a - np.asarray(step.readout),
    }


def mean(samples):
    """Mean over samples, the first axis, and its standard error."""
    return samples.mean(axis=0), samples.std(axis=0, ddof=1) / np.sqrt(len(samples))


def covariance(rows):
    """Covariance of rows (count, n) and the standard errors of its entries."""
    centred, n = rows - rows.mean(axis=0), len(rows)
    found = centred.T @ centred / n
    square = (centred**2).T @ centred**2 / n
    return found, np.sqrt(np.maximum(square - found**2, 0) / n)
