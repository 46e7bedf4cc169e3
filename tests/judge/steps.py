"""The truth about a `Case`, in NumPy: averages over Gaussian fields, and steps on vectors in R^d.

Rates are those of theory/structured_inputs (4)-(6): the fields of a sample given its cluster are
normal with the covariances G_e of the rows, and given the fields that the update sees, those of a
block are their regression on them. Clusters and random labels are summed over; what is left are
averages over p + k normal numbers, on scrambled Sobol points whose spread is the error.
Steps in R^d are the definitions of the algorithms (dmft.simulate), with nothing averaged.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

import numpy as np
from features import FUNCTIONS, Case
from losses import Array
from scipy.special import ndtri
from scipy.stats import qmc

GROUPS = 16


@lru_cache(maxsize=12)
def points(dim: int, count: int, seed: int) -> Array:
    """Uniform numbers (groups, count, dim), each group a scramble of its own."""
    scrambles = [qmc.Sobol(dim, rng=np.random.default_rng([seed, g])) for g in range(GROUPS)]
    return np.clip([s.random(count) for s in scrambles], 2.0**-31, 1 - 2.0**-31)


# Labels and updates ---------------------------------------------------------------------------


def clean(case: Case, cluster: int, star: Array) -> Array:
    """Labels (...) of the teacher or of a cluster; one for the class and zero, (..., o)."""
    if case.outputs > 1:
        if case.labels == "class clusters":
            chosen = np.full(star.shape[:-1], cluster)
        else:
            units = FUNCTIONS[case.teacher].value(star)
            chosen = (units @ case.teacher_readout.T).argmax(-1)
        return 1.0 * (chosen[..., None] == np.arange(case.outputs))
    if case.cluster_labels:
        return case.cluster_labels[cluster].value(star)
    if case.target is not None:
        return case.target.value(star)
    return FUNCTIONS[case.teacher].value(star).mean(-1)


def drawn(case: Case, label: Array) -> list[tuple[Array, Array]]:
    """Chances of labels, and the labels that a sample has with them."""
    if case.channel is not None:
        chance = case.channel.value(label)
        return [(chance, np.ones_like(label)), (1 - chance, -np.ones_like(label))]
    if case.flip:
        return [(1 - case.flip + 0 * label, label), (case.flip + 0 * label, -label)]
    return [(np.ones(label.shape[: label.ndim - (case.outputs > 1)]), label)]


def output(case: Case, a: Array, h: Array) -> Array:
    """f (...), of several outputs (..., o), at fields (..., p) and readouts (..., o, p)."""
    found = (FUNCTIONS[case.student].value(h)[..., None, :] * a).sum(-1) / case.p
    return found if case.outputs > 1 else found[..., 0]


def gradient(case: Case, a: Array, h: Array, label: Array) -> tuple[Array, Array]:
    """psi (..., p) and what readouts follow, (..., o, p)."""
    unit = FUNCTIONS[case.student]
    pull = case.loss.pull(output(case, a, h), label)
    pull = pull if case.outputs > 1 else pull[..., None]
    assert unit.slope is not None
    psi = unit.slope(h) * (pull[..., None] * a).sum(-2)
    return psi, pull[..., None] * unit.value(h)[..., None, :]


def update(case: Case, a: Array, h: Array, label: Array, tau: Array) -> tuple[Array, Array]:
    """What a step does with a sample whose |x|^2/d is tau, before it is shortened."""
    psi, push = gradient(case, a, h, label)
    tau = tau[..., None]
    if case.field in ("ahead", "back"):
        sign = 1 if case.field == "ahead" else -1
        return gradient(case, a, h + sign * case.level * tau * psi, label)
    if case.field == "unit back":
        length = np.linalg.norm(psi, axis=-1, keepdims=True)
        psi = psi / np.where(length == 0, 1, length)
        return gradient(case, a, h - case.level * np.sqrt(tau) * psi, label)
    if case.field == "twice":
        step = pace(case) * case.rate / (case.p * case.batch) * tau * psi
        again, pushed = gradient(case, a, h + step, label)
        return psi + again, push + pushed
    return psi, push


def shorter(case: Case, length: Array) -> Array:
    """What clipping multiplies a gradient of this length with."""
    length = np.where(length == 0, 1, length)
    if case.field == "clip":
        return np.minimum(1, case.level / length)
    return 1 / length if case.field == "normalised" else np.ones_like(length)


def pace(case: Case) -> float:
    """How much faster time runs with momentum at fixed beta = 1/2."""
    return 2.0 if case.optimiser == "beta" else 1.0


# Averages over fields -------------------------------------------------------------------------


class Law:
    """Fields of a sample in each cluster: means, roots, and regressions on what is seen."""

    def __init__(self, case: Case, gram: Array) -> None:
        star, seen = case.part("teacher"), np.r_[case.part(""), case.part("teacher")]
        self.p = case.p
        means = np.einsum("eir,cr->cei", gram[:, :, star], case.means)
        covariance = np.einsum("ce,eij->cij", case.scales, gram)[:, seen][:, :, seen]
        self.root = np.linalg.cholesky(covariance)
        self.mean, self.by_block = means.sum(1)[:, seen], means
        inverse = np.linalg.inv(self.root)
        along = np.einsum("ce,eir,cqr->ceiq", case.scales, gram[:, :, seen], inverse)
        self.along = along  # (C, B, R, p + k): field i of block e is its mean + along . xi

    def seen(self, cluster: int, xi: Array) -> Array:
        """Fields of students and teachers (..., p + k)."""
        return self.mean[cluster] + xi @ self.root[cluster].T

    def blocks(self, cluster: int, xi: Array) -> Array:
        """Fields of all rows by block (..., B, R), in the mean given what is seen."""
        return self.by_block[cluster] + np.moveaxis(
            np.tensordot(xi, self.along[cluster], ([-1], [-1])), -3, -2
        ).reshape(*xi.shape[:-1], *self.by_block[cluster].shape)


def _atoms(case: Case, law: Law, count: int, seed: int) -> Iterator[tuple[Array, ...]]:
    """Weights (g, n), fields seen (g, n, 1, p + k), labels, those of blocks, cluster."""
    r, noisy = case.p + case.k, case.noise > 0
    z = ndtri(points(r + noisy, count, seed))[:, :, None]
    for c, weight in enumerate(case.weights):
        lam = law.seen(c, z[..., :r])
        for chance, label in drawn(case, clean(case, c, lam[..., case.p :])):
            if noisy:
                label = label + np.sqrt(case.noise) * z[..., r]
            fields = law.blocks(c, z[..., :r])
            yield weight * chance[..., 0], lam, label, fields, np.full(1, c)


def _batches(case: Case, law: Law, count: int, seed: int) -> Iterator[tuple[Array, ...]]:
    """The same of whole batches, (g, n, b, ...), clusters and labels drawn."""
    r, noisy, b = case.p + case.k, case.noise > 0, case.batch
    many, random = len(case.weights) > 1, case.flip > 0 or case.channel is not None
    size = r + noisy + many + random
    u = points(b * size, count, seed).reshape(GROUPS, count, b, size)
    z = ndtri(u[..., : r + noisy])
    cluster = np.zeros(u.shape[:3], int)
    if many:
        cluster = np.searchsorted(np.cumsum(case.weights)[:-1], u[..., r + noisy])
    lam, fields, label = 0.0, 0.0, 0.0
    for c in range(len(case.weights)):
        here = (cluster == c)[..., None]
        own = law.seen(c, z[..., :r])
        options = drawn(case, clean(case, c, own[..., case.p :]))
        one = options[0][1]
        if len(options) > 1:
            first = u[..., -1] < options[0][0]
            one = np.where(first, options[0][1], options[1][1])
        lam = lam + here * own
        fields = fields + here[..., None] * law.blocks(c, z[..., :r])
        label = label + (here if case.outputs > 1 else here[..., 0]) * one
    if noisy:
        label = label + np.sqrt(case.noise) * z[..., r]
    yield np.ones(u.shape[:2]), lam, label, fields, cluster


def moments(case: Case, gram: Array, a: Array, count: int, seed: int) -> dict[str, Array]:
    """Averages that rates are made of, each (groups, ...)."""
    law, found = Law(case, gram), {}
    share, bars = case.fractions, case.scales @ case.fractions
    for weight, lam, label, fields, cluster in (_batches if case.joint else _atoms)(
        case, law, count, seed
    ):
        b = lam.shape[2]
        scale, tau = case.scales[cluster], bars[cluster]
        psi, push = update(case, a, lam[..., : case.p], label, tau)
        length = np.sqrt((tau[..., None] * psi**2).sum((-1, -2))) / (case.p * b)
        psi = psi * shorter(case, length)[..., None, None]
        squares = scale[..., :, None] * psi[..., None, :] ** 2  # (g, n, b, B, p)
        move = np.broadcast_to(psi[..., None, :], squares.shape)
        if case.optimiser == "SignSGD":
            # Given psi, a coordinate of the mean gradient is normal with this deviation.
            size = np.sqrt(squares.sum(2, keepdims=True))
            move = psi[..., None, :] / np.where(size == 0, 1, size)
        spread = np.sqrt(scale[..., :, None]) * move
        N = np.einsum("gnbej,gnbel->gnejl", spread, spread) / b
        if case.optimiser == "SignSGD":
            N = 2 / np.pi * np.arcsin((N * b).clip(-1, 1))
            move = b * np.sqrt(2 / np.pi) * move
        each = {
            "drive": np.einsum("gnbej,gnber->gnejr", move, fields) / b,
            "noise": share[:, None, None] * N,
            "squares": squares.mean(2),
            "push": push.mean(2),
        }
        for name, value in each.items():
            mean = np.einsum("gn,gn...->g...", weight, value) / weight.shape[1]
            found[name] = found.get(name, 0.0) + mean
    return found


def measures(case: Case, gram: Array, a: Array, count: int, seed: int) -> dict[str, Array]:
    """Risk, loss, error rate and a size of the loss, each (groups,)."""
    law, found = Law(case, gram), dict.fromkeys(("risk", "loss", "error_rate", "size"), 0.0)
    for weight, lam, label, _, cluster in _atoms(case, law, count, seed):
        star, f = lam[..., case.p :], output(case, a, lam[..., : case.p])
        mean = clean(case, int(cluster[0]), star)
        chosen = mean
        if case.channel is not None:
            mean, chosen = 2 * case.channel.value(mean) - 1, label
        loss = case.loss.value(f, label)
        wrong = 0.5 * (1 - np.sign(f) * chosen) if case.outputs == 1 else _missed(f, mean)
        gap = (f - mean) ** 2
        each = {
            "risk": 0.5 * (gap.sum(-1) if case.outputs > 1 else gap),
            "loss": loss, "error_rate": wrong, "size": loss**2,
        }  # fmt: skip
        for name, value in each.items():
            found[name] = found[name] + (weight * value[..., 0]).mean(1)
    return found


def _missed(f: Array, label: Array) -> Array:
    """Chance that the largest output is not that of the class, uniform among tied ones."""
    tied = f == f.max(-1, keepdims=True)
    return 1 - (tied * label).sum(-1) / tied.sum(-1)


# Rates ------------------------------------------------------------------------------------------


def motion(case: Case) -> tuple[Array, Array]:
    """Linear motion (S, S) of the rows that a neuron keeps, and how they follow the drive (S,)."""
    count, decay = 1 + len(case.rows), case.level * ("decay" in case.features)
    A, g = np.zeros((count, count)), np.zeros(count)
    g[0] = 1.0
    if "velocity" in case.rows:
        A[0, 1], A[1, 1], g[0], g[1] = 1.0, -case.kappa, case.eps, case.kappa
    if "average" in case.rows:
        A[-1, 0], A[-1, -1] = case.kappa, -case.kappa
    # A part of the gradient, as in PyTorch, and of each of two steps on one batch.
    A[:, 0] -= decay * g * (2 if case.field == "twice" else 1)
    return A, g


def assembled(case: Case, gram: Array, second: Array, found: dict[str, Array]) -> dict[str, Array]:
    """Rates of the Gram matrices and of what is kept, per unit of t, from moments."""
    p, batch, moving = case.p, case.batch, (1 + len(case.rows)) * case.p
    squares = found["squares"] / batch  # samples of their own are nearly orthogonal
    gain, drive, N = np.ones((1, 1)), found["drive"], found["noise"]
    if case.optimiser == "Adam at once":
        gain = 1 / (np.sqrt(squares) + case.eps)
    elif case.optimiser in ("Adam", "RMSProp", "AdaGrad"):
        gain = 1 / (np.sqrt(second) + (0.0 if case.optimiser == "AdaGrad" else case.eps))
    elif case.optimiser == "AdaGradNorm":
        gain = np.full((1, 1), 1 / np.sqrt(second[0, 0]))
    drive, N = drive * gain[..., :, None], N * gain[..., :, None] * gain[..., None, :]
    A, g = motion(case)
    rate = 0.0 if case.optimiser == "GradientFlow" else pace(case) * case.rate
    samples = 1 if case.optimiser == "SignSGD" else batch
    T = np.zeros(gram.shape)
    T[:, :moving] = np.kron(A, np.eye(p)) @ gram[:, :moving]
    T[:, :moving] += np.concatenate([g_a * drive for g_a in g], axis=1)
    change = T + T.swapaxes(-1, -2)
    change[:, :moving, :moving] += rate / (p * samples) * np.kron(np.outer(g, g), N)
    if case.optimiser.startswith("sphere"):
        own = np.zeros(gram.shape[1])
        own[:p] = np.diagonal(change.sum(0))[:p] / 2
        change = change - gram * (own[:, None] + own)
    rates = {"gram": change}
    if case.trains:
        rates["readout"] = case.level * found["push"]
    if case.optimiser in ("Adam", "RMSProp"):
        rates["second_moment"] = case.kappa * (squares - second)
    if case.optimiser == "AdaGrad":
        rates["second_moment"] = p / case.rate * squares
    if case.optimiser == "AdaGradNorm":
        total = (case.fractions[:, None] * squares).sum() / p**2
        rates["accumulator"] = np.asarray(p / case.rate * total)
    return rates


def by_name(case: Case, rates: dict[str, Array]) -> dict[str, Array]:
    """Rates by the names of the library."""
    blocks = case.entries(rates["gram"])
    return blocks | {name: value for name, value in rates.items() if name != "gram"}


def spread(values: list[Array] | Array) -> tuple[Array, Array]:
    """Mean of groups and its standard error."""
    values = np.asarray(values)
    return values.mean(0), values.std(0, ddof=1) / np.sqrt(len(values))


def rates(case: Case, count: int, seed: int = 0) -> dict[str, tuple[Array, Array]]:
    """Rates by name with their standard errors."""
    found = moments(case, case.gram, case.readout, count, seed)
    each = [
        by_name(case, assembled(case, case.gram, case.second, {n: v[g] for n, v in found.items()}))
        for g in range(GROUPS)
    ]
    return {name: spread([one[name] for one in each]) for name in each[0]}


def expected(case: Case, count: int, seed: int = 0) -> dict[str, tuple[Array, Array]]:
    """Risk, loss and error rate with their standard errors."""
    found = measures(case, case.gram, case.readout, count, seed)
    return {name: spread(value) for name, value in found.items()}


def carried(case: Case, t_max: float, steps: int, count: int, seed: int) -> dict[str, Array]:
    """The state after a time under the schedule, by classical Runge-Kutta steps."""

    def slope(t: float, state: dict[str, Array]) -> dict[str, Array]:
        rate = case.rate * (1.0 if case.schedule is None else float(case.schedule.value(t)))
        here = replace(case, rate=rate)
        found = moments(here, state["gram"], state.get("readout", case.readout), count, seed)
        means = {name: value.mean(0) for name, value in found.items()}
        kept = state.get("second_moment", state.get("accumulator", case.second))
        return assembled(here, state["gram"], np.atleast_2d(kept), means)

    def moved(state: dict[str, Array], by: float, k: dict[str, Array]) -> dict[str, Array]:
        return {name: value + by * k[name] for name, value in state.items()}

    state = {"gram": case.gram} | ({"readout": case.readout} if case.trains else {})
    if case.optimiser in ("Adam", "RMSProp", "AdaGrad"):
        state["second_moment"] = case.second
    if case.optimiser == "AdaGradNorm":
        state["accumulator"] = case.second[0, 0]
    h = t_max / steps
    for n in range(steps):
        first = slope(n * h, state)
        second = slope((n + 0.5) * h, moved(state, h / 2, first))
        third = slope((n + 0.5) * h, moved(state, h / 2, second))
        fourth = slope((n + 1) * h, moved(state, h, third))
        for k, part in ((first, 1), (second, 2), (third, 2), (fourth, 1)):
            state = moved(state, h / 6 * part, k)
    return by_name(case, state)
