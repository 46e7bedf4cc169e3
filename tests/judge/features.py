"""Random declarations that combine features, as text for the library and as NumPy functions.

A `Case` draws two or three features at once: labels, inputs, losses, optimisers, updates, batches,
schedules, trained readouts. Its text is what the library runs, so that a failure prints one line
that reproduces it. Everything else is numbers and NumPy functions, for the truth in `steps`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from activations import ACTIVATIONS, GATED, Activation
from losses import LOSSES, LOSSES_OF_OUTPUTS, TEXTS_OF_OUTPUTS, Array, Label, Loss

BEGIN = (
    "import dmft, numpy as np; from sympy import *; "
    'z, f, y, t, a, b = symbols("z f y t a b", real=True); '
    'f1, f2, f3, y1, y2, y3 = symbols("f1:4 y1:4", real=True)'
)
BASIC = {name: ACTIVATIONS[name] for name in ("linear", "erf", "relu")}
BASIC["square"] = Activation(ACTIVATIONS["linear"].expression ** 2, np.square, lambda x: 2 * x)
FUNCTIONS = {**ACTIVATIONS, **BASIC, **GATED}
SCALED = ("SignSGD", "Adam", "Adam at once", "RMSProp", "AdaGrad", "AdaGradNorm")


@dataclass
class Case:
    """One declaration and state in numbers."""

    number: int
    features: dict[str, str]
    student: str
    teacher: str  # an activation; what writes labels where these are those of clusters
    p: int
    k: int
    readout: Array  # (o, p)
    teacher_readout: Array  # (o, k)
    target: Label | None
    cluster_labels: tuple[Label, ...]
    channel: Label | None
    loss_name: str
    noise: float
    flip: float
    scales: Array  # (C, B)
    fractions: Array  # (B,)
    weights: Array  # (C,)
    means: Array  # (C, k), in rows of the teacher
    gram: Array  # (B, R, R) of students, rows of the optimiser, teachers
    rate: float
    level: float  # of clipping, displacement, decay, readouts
    kappa: float
    second: Array  # (B, p)
    eps: float
    batch: int
    schedule: Label | None

    @property
    def law(self) -> str:
        return self.features.get("inputs", "isotropic")

    @property
    def optimiser(self) -> str:
        return self.features.get("optimiser", "SGD")

    @property
    def field(self) -> str:
        return self.features.get("field", "plain")

    @property
    def labels(self) -> str:
        return self.features.get("labels", "committee")

    @property
    def outputs(self) -> int:
        return len(self.readout)

    @property
    def by_block(self) -> bool:
        return self.law in ("spectrum", "clusters by block")

    @property
    def clustered(self) -> bool:
        return self.law.startswith("clusters")

    @property
    def rows(self) -> tuple[str, ...]:
        """What an optimiser keeps beside the weights."""
        velocity = ("velocity",) if self.optimiser == "Momentum" else ()
        return velocity + (("average",) if "average" in self.features else ())

    @property
    def joint(self) -> bool:
        """Whether the mean of a batch is no mean over its samples."""
        nonlinear = self.field in ("clip", "normalised") or self.optimiser == "SignSGD"
        return self.batch > 1 and nonlinear

    @property
    def loss(self) -> Loss:
        if self.outputs == 1:
            return LOSSES[self.loss_name]
        found = LOSSES_OF_OUTPUTS[self.loss_name]
        text = TEXTS_OF_OUTPUTS.get(self.loss_name)
        return found if text is None else found._replace(text=text(self.outputs))

    @property
    def trains(self) -> bool:
        return "readouts" in self.features

    @property
    def signs(self) -> bool:
        """Whether labels are 1 and -1 where they are neither flipped nor noisy."""
        fixed = all(one.text in ("1.0", "-1.0") for one in self.cluster_labels)
        if self.cluster_labels:
            return fixed
        if self.target is not None:
            return self.target.text.startswith("sign")
        return self.teacher == "sign" and self.k == 1 and self.teacher_readout[0, 0] == 1.0

    @property
    def infinite(self) -> bool:
        """Whether E exp(-2 f y) of normal f and y diverges, which squares of the update hold."""
        plain = self.student == self.teacher == "linear" and self.labels in ("committee", "noise")
        slow = self.optimiser in ("SGD", "beta", "Momentum") and self.field == "plain"
        if self.loss_name != "exponential" or not (plain and slow) or self.clustered:
            return False
        seen = np.r_[self.part(""), self.part("teacher")]
        rows = np.zeros((2, self.p + self.k))
        rows[0, : self.p], rows[1, self.p :] = self.readout[0] / self.p, 1 / self.k
        cov = rows @ np.einsum("e,eij->ij", self.scales[0], self.gram)[np.ix_(seen, seen)] @ rows.T
        cov[1, 1] += self.noise
        exponent = np.linalg.inv(cov) + np.array([[0, 2], [2, 0]])
        return bool(np.linalg.eigvalsh(exponent)[0] < -0.1)

    def part(self, row: str) -> slice:
        """Rows of the Gram matrices."""
        number = ("", *self.rows, "teacher").index(row)
        return slice(number * self.p, number * self.p + (self.k if row == "teacher" else self.p))

    def entries(self, gram: Array) -> dict[str, Array]:
        """Blocks (B, ...) of a Gram matrix or its rate by the library's names."""
        w, star = self.part(""), self.part("teacher")
        found = {"Q": gram[..., w, w], "M": gram[..., w, star]}
        for row in self.rows:
            o = self.part(row)
            found |= {f"{row}_M": gram[..., o, star], f"{row}_Q": gram[..., o, w]}
            found[row] = gram[..., o, o]
        if len(self.rows) == 2:
            found["velocity_average"] = gram[..., self.part("velocity"), self.part("average")]
        return found

    # The text of the library ----------------------------------------------------------------

    @property
    def model_text(self) -> str:
        p, k, many = self.p, self.k, self.outputs > 1
        own = FUNCTIONS[self.student].expression
        readout = self.readout.tolist() if many else self.readout[0].tolist()
        student = f"dmft.Committee({own}, {p}, {readout})"
        options = [f"label_noise={self.noise}"] * bool(self.noise)
        options += [f"label_flip={self.flip}"] * bool(self.flip)
        options += [f"label_channel={self.channel.text}"] if self.channel else []
        mixture = self._mixture_text() if self.clustered else ""
        if self.cluster_labels or self.labels == "class clusters":
            return f"dmft.Model({', '.join([student, mixture, *options])})"
        if self.target is not None:
            teacher = f"dmft.MultiIndex({self.target.text}, [a, b])"
        else:
            rows = self.teacher_readout.tolist() if many else self.teacher_readout[0].tolist()
            teacher = f"dmft.Committee({FUNCTIONS[self.teacher].expression}, {k}, {rows})"
        if mixture:
            options.append(f"inputs={mixture}")
        if self.law == "spectrum":
            options.append(
                f"inputs=dmft.Spectrum({self.scales[0].tolist()}, {self.fractions.tolist()})"
            )
        return f"dmft.Model({', '.join([student, teacher, *options])})"

    def _mixture_text(self) -> str:
        labels = f", [{', '.join(one.text for one in self.cluster_labels)}]"
        fields = "[a]" if self.k == 1 else "[a, b]"
        options = [f"weights={self.weights.tolist()}"]
        if self.cluster_labels and self.labels == "cluster functions":
            options.append(f"fields={fields}")
        if self.law == "clusters by block":
            options.append(f"scales={self.scales.tolist()}, fractions={self.fractions.tolist()}")
        else:
            options.append(f"scales={self.scales[:, 0].tolist()}")
        own = labels if self.cluster_labels else ""
        return f"dmft.GaussianMixture({self.means.tolist()}{own}, {', '.join(options)})"

    @property
    def algorithm_text(self) -> str:
        o, kappa, level, eps = self.optimiser, self.kappa, self.level, self.eps
        decay = [f"weight_decay={level}"] if "decay" in self.features else []
        if decay and o in SCALED and o != "SignSGD":
            decay.append("decoupled=True")
        if o == "GradientFlow":
            return f"dmft.GradientFlow({', '.join(decay)})"
        options = [str(self.rate)]
        if self.batch > 1:
            options.append(f"batch_size={self.batch}")
        if self.loss_name != "squared":
            options.append(f"loss={self.loss.text}")
        options += decay + ([f"average={kappa}"] if "average" in self.features else [])
        options += [f"readout_rate={level}"] if self.trains else []
        own = {
            "clip": f"clip={level}", "normalised": "normalised=True",
            "ahead": f"repeat=dmft.Lookahead({level})",
            "back": f"repeat=dmft.SharpnessAware({level})",
            "unit back": f"repeat=dmft.SharpnessAware({level}, normalised=True)",
            "twice": "repeat=dmft.Repeat(2)", "beta": "momentum=0.5",
            "Momentum": f"momentum=dmft.Momentum({kappa}, {eps})",
            "sphere": 'constraint="sphere"', "sphere-gradient": 'constraint="sphere-gradient"',
            "Adam": f"second_moment_rate={kappa}, eps={eps}, initial=1.0",
            "Adam at once": f"eps={eps}", "AdaGrad": "initial=1.0",
            "RMSProp": f"second_moment_rate={kappa}, eps={eps}, initial=1.0",
            "AdaGradNorm": f"initial={self.second[0, 0]}",
        }  # fmt: skip
        options += [own[name] for name in (o, self.field) if name in own]
        name = o.split()[0] if o in SCALED else "SGD"
        return f"dmft.{name}({', '.join(options)})"

    @property
    def memory(self) -> dict[str, Array]:
        """What an optimiser has kept at the start, by block."""
        found = {n: v for n, v in self.entries(self.gram).items() if n not in ("Q", "M")}
        if self.optimiser in ("Adam", "RMSProp", "AdaGrad"):
            found["second_moment"] = self.second
        return found

    def start_text(self, memory: dict[str, Array]) -> str:
        """Overlaps, with what the optimiser keeps."""
        star = self.part("teacher")
        blocks = self.entries(self.gram) | {"P": self.gram[:, star, star]}
        one = slice(None) if self.by_block else 0
        texts = [str(blocks[name][one].tolist()) for name in "QMP"]
        kept = {name: value[one].tolist() for name, value in memory.items()}
        return f"dmft.Overlaps({', '.join(texts)}{f', memory={kept}' if kept else ''})"

    @property
    def schedule_text(self) -> str:
        return "" if self.schedule is None else self.schedule.text.format(self.rate)

    def line(self, call: str) -> str:
        """What a user pastes to see `call` of the equations."""
        return (
            f"{BEGIN}; model = {self.model_text}; algorithm = {self.algorithm_text}; "
            f"start = {self.start_text(self.memory)}; {call}"
        )

    def __str__(self) -> str:
        named = ", ".join(f"{name} {value}" for name, value in sorted(self.features.items()))
        return f"case {self.number} [{named}]"
