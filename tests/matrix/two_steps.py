"""Two steps of gradient descent on repeated data, on weight vectors in NumPy: truth of the matrix.

Everything is written out in R^d: n samples, their fields, gradients summed over them. Nothing of
the library is used here.
"""

from dataclasses import dataclass

import numpy as np

STEPS = 2


@dataclass(frozen=True)
class Descent:
    """What a descent does, in functions of arrays."""

    sigma: object
    slope: object
    pull: object  # -dl/df (f, y)
    label: object  # (h_star (k, n), cluster (n,)) -> y without noise
    readout: tuple
    rate: float
    samples_per_dim: float
    noise: float = 0.0
    ridge: float = 0.0
    momentum: float = 0.0
    temperature: float = 0.0
    readout_rate: float = 0.0
    constraint: str | None = None
    batch: str | None = None
    batch_fraction: float = 1.0
    weights: tuple = (1.0,)  # of the clusters
    means: tuple = ((0.0,),)


def chosen(descent, rng, slot, t):
    """How often the batch of a step holds each sample, over its share."""
    n, share = slot.size, descent.batch_fraction
    if descent.batch == "bernoulli":
        return (rng.random(n) < share) / share
    if descent.batch == "reshuffle":
        return (slot == t) / share
    if descent.batch == "replacement":
        return np.bincount(rng.integers(n, size=round(share * n)), minlength=n) / share
    return np.ones(n)


def overlaps(descent, Omega, p, dim, seed):
    """Q2 (T + 1, T + 1, p, p), M (T + 1, p, k) and readouts (T + 1, p) of one seed."""
    rng = np.random.default_rng(seed)
    n = round(descent.samples_per_dim * dim)
    basis, _ = np.linalg.qr(rng.standard_normal((dim, len(Omega))))
    rows = np.sqrt(dim) * np.linalg.cholesky(Omega) @ basis.T
    W, W_star = rows[:p], rows[p:]
    before, a = W, np.asarray(descent.readout)
    found, readouts = [W], [a]
    slot = rng.permutation(n) % round(1 / descent.batch_fraction)
    for t in range(STEPS):
        if t == 0 or descent.batch == "fresh":
            number = rng.choice(len(descent.weights), n, p=descent.weights)
            X = rng.standard_normal((n, dim))
            X += np.asarray(descent.means)[number] @ W_star / np.sqrt(dim)
            y = descent.label((X @ W_star.T / np.sqrt(dim)).T, number)
            y = y + np.sqrt(descent.noise) * rng.standard_normal(n)
        h = X @ W.T / np.sqrt(dim)
        error = descent.pull(descent.sigma(h) @ a / p, y)
        error = error * chosen(descent, rng, slot, t)
        ascent = (error[:, None] * descent.slope(h) * a / p).T @ X / np.sqrt(dim)
        moved = W + descent.rate * (ascent - descent.ridge * W) + descent.momentum * (W - before)
        heat = np.sqrt(2 * descent.rate * descent.temperature)
        moved = moved + heat * rng.standard_normal(W.shape)
        if descent.constraint:
            moved = moved * np.sqrt(dim / (moved**2).sum(axis=1, keepdims=True))
        a = a + descent.readout_rate * error @ descent.sigma(h) / n
        before, W = W, moved
        found.append(W)
        readouts.append(a)
    W = np.array(found)
    Q2 = np.einsum("tjd,sld->tsjl", W, W) / dim
    return {"Q2": Q2, "M": W @ W_star.T / dim, "readout": np.array(readouts)}
