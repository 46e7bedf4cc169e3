"""Tables of optimisers and structured inputs: rows x (law, loss), declared once.

As in `cells`, each is declared for the library in SymPy and for steps on vectors in NumPy.
"""

from dataclasses import dataclass, field

import numpy as np
import sympy as sp
from scipy.special import erf

import dmft

Z = sp.Symbol("z", real=True)
KIND, DIM, GAMMA, FLIP, NOISE = "optimisers", 500, 0.6, 0.15, 0.2
ERF = (
    sp.erf(Z / sp.sqrt(2)),
    lambda h: erf(h / np.sqrt(2)),
    lambda h: np.sqrt(2 / np.pi) * np.exp(-h * h / 2),
)
LINE = (Z, lambda h: h, np.ones_like)
# Laws of the inputs: fractions of the blocks, weights, means and scales of the clusters.
FRACTIONS, EIGENVALUES = (0.4, 0.6), (1.6, 0.5)
LAWS = ("Gaussian", "spectrum", "clusters", "clusters x blocks")
WEIGHTS, MEANS = (0.4, 0.6), ((1.0,), (-0.7,))
SCALES, SCALES_BY_BLOCK = ((1.0,), (0.6,)), ((1.0, 0.5), (0.6, 1.4))
MEANS_OF_CLASSES = ((1.0, 0.0), (-0.7, 0.4))
# Of classes: the two outputs of student and teacher.
ROWS_OF_STUDENT = ((1.5, 0.4), (-0.6, 1.0))
ROWS_OF_TEACHER = ((1.0, 0.5), (-0.5, 1.0))


@dataclass(frozen=True)
class Loss:
    """A column: the networks, the loss, and -dl/df (f (..., o), y (...)) in NumPy."""

    name: str
    student: tuple
    pull: object
    signs: bool = True
    flip: float = 0.0
    noise: float = 0.0


def _softmax(f, y):
    share = np.exp(f - f.max(axis=-1, keepdims=True))
    return (y[..., None] == np.arange(2)) - share / share.sum(axis=-1, keepdims=True)


LOSSES = {
    "squared": Loss(
        "squared", ERF, lambda f, y: y[..., None] - f, signs=False, noise=NOISE
    ),
    "Huber": Loss(
        "huber", LINE, lambda f, y: np.clip(y[..., None] - f, -1, 1), signs=False, noise=NOISE
    ),
    "logistic, flipped labels": Loss(
        "logistic", LINE, lambda f, y: y[..., None] / (1 + np.exp(f * y[..., None])), flip=FLIP
    ),
    "hinge, flipped labels": Loss(
        "hinge", LINE, lambda f, y: y[..., None] * (f * y[..., None] < 1), flip=FLIP
    ),
    "cross-entropy, two outputs": Loss("cross-entropy", ERF, _softmax),
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """An algorithm: what declares it, and what the step on vectors takes."""

    declare: object = dmft.SGD
    options: dict = field(default_factory=dict)
    step: dict = field(default_factory=dict)


RATE, DIRECT, AVERAGED = 2.0, 0.3, 1.5
SLOW = {"momentum": dmft.Momentum(RATE, DIRECT)}
SLOW_STEP = {"momentum_rate": RATE, "momentum_direct": DIRECT}
MEAN = {"average": AVERAGED}
ROWS = {
    "SGD": Row(),
    "SGD, batches of 3, trained readouts, weight decay": Row(
        options={"batch_size": 3, "readout_rate": 0.5, "weight_decay": 0.4},
        step={"batch": 3, "readout_rate": 0.5, "decay": 0.4},
    ),
    "Momentum": Row(options=SLOW, step=SLOW_STEP),
    "average": Row(options=MEAN, step=MEAN),
    "Momentum, average, weight decay": Row(
        options={**SLOW, **MEAN, "weight_decay": 0.4}, step={**SLOW_STEP, **MEAN, "decay": 0.4}
    ),
    "clip": Row(options={"clip": 0.2}, step={"clip": 0.2}),
    "normalised": Row(options={"normalised": True}, step={"normalised": True}),
    "SignSGD": Row(dmft.SignSGD, {}, {"scale": "sign"}),
    "SignSGD, batches of 3": Row(
        dmft.SignSGD, {"batch_size": 3}, {"scale": "sign", "batch": 3}
    ),
    "Adam": Row(dmft.Adam, {"eps": 0.1}, {"scale": "moment", "eps": 0.1}),
    "Adam with memory, average, weight decay": Row(
        dmft.Adam,
        {"second_moment_rate": 1.5, "initial": 0.3, "eps": 0.1, **MEAN, "weight_decay": 0.4},
        {
            "scale": "moment", "second_moment_rate": 1.5, "initial": 0.3, "eps": 0.1, **MEAN,
            "decay": 0.4,
        },
    ),
    "RMSProp, batches of 3": Row(
        dmft.RMSProp, {"batch_size": 3}, {"scale": "moment", "batch": 3}
    ),
    "AdaGrad": Row(dmft.AdaGrad, {"initial": 0.2}, {"scale": "sum", "initial": 0.2}),
    "AdaGradNorm": Row(dmft.AdaGradNorm, {"initial": 0.7}, {"scale": "norm", "initial": 0.7}),
}  # fmt: skip


@dataclass(frozen=True)
class Optimised:
    """One optimiser on one loss, under one law."""

    row: str
    law: str
    loss: str
    kind: str = KIND

    @property
    def of_classes(self) -> bool:
        """Whether there are two outputs."""
        return LOSSES[self.loss].name == "cross-entropy"

    @property
    def by_block(self) -> bool:
        """Whether overlaps have blocks."""
        return self.law in ("spectrum", "clusters x blocks")

    @property
    def mixed(self) -> bool:
        """Whether inputs come from clusters."""
        return self.law.startswith("clusters")

    @property
    def means(self) -> tuple:
        """Means of the clusters in the teacher's rows."""
        return MEANS_OF_CLASSES if self.of_classes else MEANS

    @property
    def model(self) -> dmft.Model:
        """Labels of clusters are their classes where they are signs or classes."""
        loss = LOSSES[self.loss]
        readout = ROWS_OF_STUDENT if self.of_classes else (1.0, -0.7)
        student = dmft.Committee(loss.student[0], 2, readout)
        numbers = {"label_noise": loss.noise, "label_flip": loss.flip}
        scales = {
            "clusters": {"scales": [s[0] for s in SCALES]},
            "clusters x blocks": {"scales": SCALES_BY_BLOCK, "fractions": FRACTIONS},
        }.get(self.law, {})
        if self.mixed and (loss.signs or self.of_classes):
            labels = None if self.of_classes else [1.0, -1.0]
            classes = dmft.GaussianMixture(self.means, labels, WEIGHTS, **scales)
            return dmft.Model(student, classes, **numbers)
        inputs = None
        if self.mixed:
            inputs = dmft.GaussianMixture(self.means, weights=WEIGHTS, **scales)
        elif self.law == "spectrum":
            inputs = dmft.Spectrum(EIGENVALUES, FRACTIONS)
        if self.of_classes:
            teacher = dmft.Committee(Z, 2, ROWS_OF_TEACHER)
        else:
            teacher = dmft.Committee(sp.sign(Z) if loss.signs else loss.student[0], 1)
        return dmft.Model(student, teacher, inputs=inputs, **numbers)

    @property
    def algorithm(self) -> dmft.SGD:
        """The declared algorithm."""
        row = ROWS[self.row]
        return row.declare(GAMMA, loss=LOSSES[self.loss].name, **row.options)

    @property
    def counts(self) -> np.ndarray:
        """Coordinates of each block."""
        return np.array([200, 300]) if self.by_block else np.array([DIM])

    def rows(self) -> dict:
        """Weights, and what optimisers keep, in R^d."""
        rng, k = np.random.default_rng(7), 2 if self.of_classes else 1
        W, W_star = rng.normal(size=(2, DIM)), rng.normal(size=(k, DIM))
        W = 0.8 * W + 0.3 * (np.array([[1.0], [-0.7]]) * W_star[:1])
        kept, step = {"W": W, "W_star": W_star}, ROWS[self.row].step
        if "momentum_rate" in step:
            kept["velocity"] = 0.5 * rng.normal(size=(2, DIM)) + 0.3 * W
        if "average" in step:
            kept["average"] = 0.5 * rng.normal(size=(2, DIM)) + 0.5 * W
        return kept

    @property
    def start(self) -> dmft.Overlaps:
        """Overlaps of these rows, within their blocks where there are any."""
        rows, edges = self.rows(), np.cumsum(self.counts)[:-1]

        def within(one: str, two: str) -> np.ndarray:
            parts = zip(*(np.split(rows[n], edges, axis=1) for n in (one, two)), strict=True)
            found = np.stack([x @ y.T for x, y in parts]) / DIM
            return found if self.by_block else found[0]

        memory = {}
        for n in rows.keys() & {"velocity", "average"}:
            memory |= {f"{n}_M": within(n, "W_star"), f"{n}_Q": within(n, "W"), n: within(n, n)}
        if {"velocity", "average"} <= rows.keys():
            memory["velocity_average"] = within("velocity", "average")
        own = (within("W", "W"), within("W", "W_star"), within("W_star", "W_star"))
        return dmft.Overlaps(*own, memory=memory or None)

    def derive(self) -> dmft.Equations:
        """Equations of this cell, or a refusal."""
        return dmft.derive(self.model, self.algorithm)

    @property
    def step(self) -> dict:
        """Arguments of `vector_step.VectorStep`."""
        loss = LOSSES[self.loss]
        teacher = (lambda h: np.sign(h[..., 0])) if loss.signs else (
            lambda h: loss.student[1](h[..., 0])
        )  # fmt: skip
        label = lambda stars, _: teacher(stars)  # noqa: E731
        if self.of_classes:
            rows = np.array(ROWS_OF_TEACHER)
            label = lambda stars, _: (stars @ rows.T).argmax(axis=-1)  # noqa: E731
        if self.mixed and self.of_classes:
            label = lambda _, number: number  # noqa: E731
        elif self.mixed and loss.signs:
            label = lambda _, number: np.array([1.0, -1.0])[number]  # noqa: E731
        found = {
            "sigma": loss.student[1], "slope": loss.student[2], "pull": loss.pull, "label": label,
            "readout": np.atleast_2d(ROWS_OF_STUDENT if self.of_classes else (1.0, -0.7)),
            "gamma": GAMMA, "noise": loss.noise, "flip": loss.flip, **ROWS[self.row].step,
        }  # fmt: skip
        if self.law == "spectrum":
            found["scales"] = np.array([EIGENVALUES])
        k = 2 if self.of_classes else 1
        found["means"] = np.zeros((1, k))
        if self.mixed:
            found |= {
                "weights": WEIGHTS, "means": np.array(self.means),
                "scales": np.array(SCALES if self.law == "clusters" else SCALES_BY_BLOCK),
            }  # fmt: skip
        return found


CELLS = [Optimised(row, law, loss) for row in ROWS for law in LAWS for loss in LOSSES]
