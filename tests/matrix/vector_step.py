"""One step of an optimiser on weights and inputs in R^d, in NumPy: the truth of its tables.

Signs and second moments are those of coordinates, so that vectors are written out, unlike in
`one_step`. Rows have lengths of order sqrt(d); Grams are taken within blocks of coordinates.
Nothing of the library is used here.
"""

from dataclasses import dataclass, field

import numpy as np

CHUNK = 1000


@dataclass(frozen=True)
class VectorStep:
    """What a step does, in functions of arrays; rates and memories are those of `VectorStep.dt`."""

    sigma: object
    slope: object
    # (outputs (n, o), label (n,) or class (n,)) -> -dl/df (n, o)
    pull: object
    label: object  # (h_star (n, k), cluster (n,)) -> label or class
    readout: np.ndarray  # (o, p)
    gamma: float
    noise: float = 0.0
    flip: float = 0.0
    batch: int = 1
    readout_rate: float = 0.0
    decay: float = 0.0
    # "" for SGD, "sign", "moment", "sum", "norm"
    scale: str = ""
    eps: float = 0.0
    second_moment_rate: float | None = None
    initial: float = 0.0
    clip: float | None = None
    normalised: bool = False
    momentum_rate: float = 0.0
    momentum_direct: float = 0.0
    average: float = 0.0
    weights: tuple = (1.0,)
    means: np.ndarray = field(default_factory=lambda: np.zeros((1, 1)))
    scales: np.ndarray = field(default_factory=lambda: np.ones((1, 1)))  # (clusters, blocks)


def gram(one, two, counts):
    """Grams of rows (..., p, d) within blocks of coordinates, (..., B, p, k)."""
    edges = np.cumsum(counts)[:-1]
    pairs = zip(np.split(one, edges, axis=-1), np.split(two, edges, axis=-1), strict=True)
    return np.stack([x @ np.swapaxes(y, -1, -2) for x, y in pairs], axis=-3) / counts.sum()


def samples(step, rows, counts, count, rng):
    """psi (n, batch, p), errors (n, batch, o), sigma(h), inputs (n, batch, d), of drawn batches."""
    W, W_star = rows["W"], rows["W_star"]
    d, p = counts.sum(), len(W)
    number = rng.choice(len(step.weights), (count, step.batch), p=step.weights)
    deviation = np.repeat(np.sqrt(step.scales), counts, axis=1)[number]
    X = rng.standard_normal((count, step.batch, d)) * deviation
    X += (step.means @ W_star / np.sqrt(d))[number]
    h, h_star = X @ W.T / np.sqrt(d), X @ W_star.T / np.sqrt(d)
    y = step.label(h_star, number)
    y = y * np.where(rng.random(y.shape) < step.flip, -1.0, 1.0)
    y = y + np.sqrt(step.noise) * rng.standard_normal(y.shape)
    error = step.pull(step.sigma(h) @ step.readout.T / p, y)
    return step.slope(h) * (error @ step.readout), error, step.sigma(h), X


def rates(step, rows, counts, count, seed=0):
    """Changes per unit of t of all Grams, readouts and accumulators, for each of the steps."""
    rng, chunks = np.random.default_rng(seed), []
    moment = None
    if step.scale == "moment" and step.second_moment_rate is None:
        # V follows at once: E g^2 within each block, from samples of its own.
        psi, _, _, X = samples(step, rows, counts, 4 * CHUNK, rng)
        g = (psi.swapaxes(1, 2) @ X) / step.batch
        moment = by_block(g**2, counts).mean(axis=0)
    for _ in range(count // CHUNK):
        psi, error, value, X = samples(step, rows, counts, CHUNK, rng)
        g = (psi.swapaxes(1, 2) @ X) / step.batch  # (n, p, d)
        kick = error.swapaxes(1, 2) @ value / step.batch
        chunks.append(moved(step, rows, counts, g, kick, moment))
    return {name: np.concatenate([c[name] for c in chunks]) for name in chunks[0]}


def by_block(values, counts):
    """Means over the coordinates of each block, (n, B, p)."""
    edges = np.cumsum(counts)[:-1]
    return np.stack([x.mean(axis=-1) for x in np.split(values, edges, axis=-1)], axis=1)


def moved(step, rows, counts, g, kick, moment):
    """What gradients g = psi x (n, p, d) make of one step."""
    d, p = counts.sum(), len(rows["W"])
    dt, found = step.gamma / (p * d), {}
    G = step.gamma / (p * np.sqrt(d)) * g
    if step.clip is not None or step.normalised:
        length = np.sqrt((g**2).sum(axis=(1, 2), keepdims=True)) / (p * np.sqrt(d))
        length[length == 0] = 1.0  # gradients of zero stay
        G = G / length if step.normalised else G * np.minimum(1.0, step.clip / length)
    gain = 1.0
    if step.scale == "sign":
        G = step.gamma / (p * np.sqrt(d)) * np.sign(g)
    elif step.scale == "norm":
        gain = 1 / np.sqrt(step.initial)
        G = G * gain
        square = (g**2).sum(axis=(1, 2)) / d / p**2
        found["accumulator"] = square / d / dt
    elif step.scale:
        V = np.full((len(counts), p), step.initial) if moment is None else moment
        gain = 1 / (np.sqrt(np.repeat(V, counts, axis=0)).T + step.eps)
        G = G * gain
        square = by_block(g**2, counts)
        if step.scale == "sum":
            found["second_moment"] = square / d / dt
        elif step.second_moment_rate is not None:
            found["second_moment"] = step.second_moment_rate * (square - V)
    W, W_star, U = rows["W"], rows["W_star"], rows.get("velocity")
    G = G - dt * step.decay * gain * W  # a part of the gradient, too small for its square
    new = {"W": W + G}
    if U is not None:
        share = step.momentum_rate * dt  # 1 - beta
        v = (1 - share) * U * dt + share * G
        new = {"W": W + step.momentum_direct * G + v, "velocity": v / dt}
    if "average" in rows:
        new["average"] = rows["average"] + step.average * dt * (W - rows["average"])
    for name, (one, two) in pairs_of(rows).items():
        before = gram(rows[one], rows[two], counts)
        after = gram(new[one], new.get(two, W_star), counts)
        # Averages move alike in all steps.
        found[name] = np.broadcast_to((after - before) / dt, (len(g), *before.shape))
    if step.readout_rate:
        found["readout"] = step.readout_rate * kick
    return found


def pairs_of(rows):
    """Names of Grams and the rows that they are of."""
    found = {"Q": ("W", "W"), "M": ("W", "W_star")}
    for name in rows.keys() - {"W", "W_star"}:
        found |= {f"{name}_M": (name, "W_star"), f"{name}_Q": (name, "W"), name: (name, name)}
    if {"velocity", "average"} <= rows.keys():
        found["velocity_average"] = ("velocity", "average")
    return found
