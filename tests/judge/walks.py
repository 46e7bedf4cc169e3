"""Steps on vectors in R^d by their definitions, many runs at once, in NumPy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from features import Case
from losses import Array
from steps import clean, drawn, pace, shorter, spread, update

WALKED = ("SGD", "beta", "Momentum", "sphere", "SignSGD", "Adam", "RMSProp", "AdaGrad")
WALKED += ("AdaGradNorm",)


def times(case: Case, dim: int, t_max: float) -> tuple[Array, Array]:
    """Times of all steps up to the first past `t_max`, and their rates."""
    t, found, rates = 0.0, [0.0], []
    unit = pace(case) / (case.p * dim)
    while t < t_max:
        rates.append(case.rate * (1.0 if case.schedule is None else float(case.schedule.value(t))))
        t += unit * rates[-1]
        found.append(t)
    return np.array(found), np.array(rates)


class Walk:
    """Runs of one case in R^d, the run first in every array."""

    def __init__(self, case: Case, dim: int, runs: int, seed: int) -> None:
        self.case, self.dim, self.runs = case, dim, runs
        # Passes over a batch are made one by one: it moves the weights in between.
        once = {name: value for name, value in case.features.items() if value != "twice"}
        self.single = replace(case, features=once)
        self.rng = np.random.default_rng([seed, case.number])
        self.counts = np.rint(case.fractions * dim).astype(int)
        seen = np.r_[case.part(""), case.part("teacher")]
        parts = []
        for gram, size in zip(case.gram[:, seen][:, :, seen], self.counts, strict=True):
            frame, _ = np.linalg.qr(self.rng.standard_normal((runs, size, len(seen))))
            parts.append(np.linalg.cholesky(gram) @ frame.swapaxes(1, 2))
        rows = np.sqrt(dim) * np.concatenate(parts, axis=2)
        self.W, self.star = rows[:, : case.p], rows[:, case.p :]
        self.a = np.repeat(case.readout[None], runs, axis=0)
        self.velocity, self.average = np.zeros_like(self.W), self.W.copy()
        self.last, self.push = np.zeros_like(self.W), np.zeros_like(self.a)
        self.V = np.repeat(np.repeat(case.second, self.counts, axis=0).T[None], runs, axis=0)
        self.total = np.full(runs, case.second[0, 0])
        self.deviations = np.repeat(np.sqrt(case.scales), self.counts, axis=1)

    def inputs(self) -> tuple[Array, Array]:
        """Inputs (S, b, d) and clean labels with their law drawn, (S, b, ...)."""
        case, rng, shape = self.case, self.rng, (self.runs, self.case.batch)
        cluster = rng.choice(len(case.weights), shape, p=case.weights)
        x = self.deviations[cluster] * rng.standard_normal((*shape, self.dim))
        x += case.means[cluster] @ self.star / np.sqrt(self.dim)
        star = x @ self.star.swapaxes(1, 2) / np.sqrt(self.dim)
        label: Array = np.zeros((*shape, case.outputs)[: 2 + (case.outputs > 1)])
        u = rng.random(shape)
        for c in range(len(case.weights)):
            options = drawn(case, clean(case, c, star))
            one = options[0][1]
            if len(options) > 1:
                one = np.where(u < options[0][0], one, options[1][1])
            here = cluster == c
            label = label + (here[..., None] if case.outputs > 1 else here) * one
        if case.noise:
            label = label + np.sqrt(case.noise) * rng.standard_normal(shape)
        return x, label

    def gradients(self, x: Array, label: Array) -> tuple[Array, Array]:
        """g (S, p, d), the mean over the batch of psi x, and what readouts follow (S, o, p)."""
        case = self.case
        h = x @ self.W.swapaxes(1, 2) / np.sqrt(self.dim)
        tau = (x**2).sum(-1) / self.dim
        psi, push = update(self.single, self.a[:, None], h, label, tau)
        g = psi.swapaxes(1, 2) @ x / case.batch
        length = np.sqrt((g**2).sum((1, 2)) / self.dim) / case.p
        return g * shorter(case, length)[:, None, None], push.mean(1)

    def step(self, rate: float) -> None:
        """One step of the algorithm at this rate."""
        case, p, d = self.case, self.case.p, self.dim
        x, label = self.inputs()
        time = rate / (p * d)
        lost = case.level * ("decay" in case.features) * time
        for _ in range(2 if case.field == "twice" else 1):
            g, push = self.gradients(x, label)
            if case.optimiser in ("SignSGD", "Adam", "RMSProp", "AdaGrad", "AdaGradNorm"):
                move = time * np.sqrt(d) * self.scaled(g, time) - lost * self.W
            else:
                move = time * np.sqrt(d) * g - lost * self.W
            if case.optimiser == "beta":
                move, push = move + 0.5 * self.last, push + 0.5 * self.push
                self.last, self.push = move, push
            if case.optimiser == "Momentum":
                self.velocity += case.kappa * time * (move - self.velocity)
                move = case.eps * move + self.velocity
            self.W = self.W + move
            if case.trains:
                self.a = self.a + case.level * time * push
            if case.optimiser == "sphere":
                self.W *= np.sqrt(d) / np.linalg.norm(self.W, axis=2, keepdims=True)
        if "average" in case.features:
            self.average += case.kappa * time * (self.W - self.average)

    def scaled(self, g: Array, time: float) -> Array:
        """Steps in place of gradients."""
        case, d = self.case, self.dim
        if case.optimiser == "SignSGD":
            return np.sign(g)
        if case.optimiser == "AdaGradNorm":
            self.total = self.total + (g**2).sum((1, 2)) / (case.p * d) ** 2
            return g / np.sqrt(self.total)[:, None, None]
        if case.optimiser == "AdaGrad":
            self.V = self.V + g**2 / d
            return g / np.sqrt(self.V)
        self.V = self.V + case.kappa * time * (g**2 - self.V)
        return g / (np.sqrt(self.V) + case.eps)

    def state(self, time: float) -> dict[str, Array]:
        """Overlaps by block and what is kept, by the library's names, (S, ...)."""
        case = self.case
        rows = {"velocity": self.velocity / time, "average": self.average}
        every = np.concatenate([self.W, *(rows[n] for n in case.rows), self.star], axis=1)
        parts = np.split(every, np.cumsum(self.counts)[:-1], axis=2)
        gram = np.stack([x @ x.swapaxes(1, 2) for x in parts], axis=1) / self.dim
        found = case.entries(gram)
        if case.trains:
            found["readout"] = self.a
        if case.optimiser in ("Adam", "RMSProp", "AdaGrad"):
            blocks = np.split(self.V, np.cumsum(self.counts)[:-1], axis=2)
            found["second_moment"] = np.stack([v.mean(2) for v in blocks], axis=1)
        if case.optimiser == "AdaGradNorm":
            found["accumulator"] = self.total
        return found


def walked(case: Case, dim: int, t_max: float, runs: int, seed: int) -> dict[str, tuple]:
    """Means and standard errors of the state at the step nearest to `t_max`."""
    walk = Walk(case, dim, runs, seed)
    at, rates = times(case, dim, t_max)
    steps = int(np.searchsorted((at[1:] + at[:-1]) / 2, t_max))
    for rate in rates[:steps]:
        walk.step(float(rate))
    unit = pace(case) * case.rate / (case.p * dim)
    return {name: spread(value) for name, value in walk.state(unit).items()}


def names(case: Case) -> list[str]:
    """What a walk knows."""
    found = [*case.entries(case.gram)] + ["readout"] * case.trains
    found += ["second_moment"] * (case.optimiser in ("Adam", "RMSProp", "AdaGrad"))
    return found + ["accumulator"] * (case.optimiser == "AdaGradNorm")
