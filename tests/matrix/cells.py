"""The matrix: algorithms and features x (kind, input law, loss), declared once.

`docs/matrix.md` is written from this table and from what the library does with its cells
(`python tests/matrix`), and the test takes its cells from here. Each row and column is declared
twice: for the library in SymPy, and for steps on vectors (`one_step`, `two_steps`) in NumPy.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import sympy as sp
from scipy.special import erf, ndtri
from scipy.stats import poisson, qmc

import dmft

Z, F, Y = sp.symbols("z f y", real=True)
H, STAR = sp.symbols("h h_star", real=True)
GAMMA, NOISE, READOUT = 0.6, 0.2, (1.0, -0.7)
FREE = dmft.Overlaps([[0.9, 0.2], [0.2, 0.7]], [[0.3], [-0.2]], [[1.1]])
SPHERE = dmft.Overlaps([[1.0, 0.2], [0.2, 1.0]], [[0.3], [-0.2]], [[1.1]])

# Kinds: dimension, whether batches are of its order, options of `derive`. The truth is exact at
# each dimension; those of ode and sde are large, so that what is of order 1/d is nothing.
LARGE, OF_MAPS, BATCH_OF_MAPS = 10**6, 4000, 6000
KINDS = {
    "ode": {},
    "map": {"dim": OF_MAPS},
    "sde": {"dim": LARGE, "fluctuations": True},
}
WEIGHTS, MEANS, SCALES, CLASSES = (0.4, 0.6), ((1.0,), (-0.7,)), (1.0, 0.6), (1.0, -1.0)
LAWS = ("Gaussian", "clusters")


@dataclass(frozen=True)
class Network:
    """An activation: for the library, its values, its slope."""

    expr: sp.Expr
    value: Callable
    slope: Callable


ERF = Network(
    sp.erf(Z / sp.sqrt(2)),
    lambda h: erf(h / np.sqrt(2)),
    lambda h: np.sqrt(2 / np.pi) * np.exp(-h * h / 2),
)
LINE = Network(Z, lambda h: h, np.ones_like)
SIGN = Network(sp.sign(Z), np.sign, np.zeros_like)


@dataclass(frozen=True)
class Loss:
    """A column: student, teacher and loss; `value` of output and label, `pull` = -dl/df."""

    expr: str | sp.Expr
    student: Network
    teacher: Network
    value: Callable
    pull: Callable
    noise: float = NOISE

    @property
    def as_expr(self) -> sp.Expr:
        """The loss in f and y."""
        named = {"squared": (F - Y) ** 2 / 2, "correlation": 1 - F * Y}
        return named.get(self.expr, self.expr) if isinstance(self.expr, str) else self.expr


CUBIC = (F - Y) ** 3 / 6 + (F - Y) ** 2 / 2
LOGISTIC = sp.log(1 + sp.exp(-F * Y))
HUBER = sp.Piecewise(((F - Y) ** 2 / 2, sp.Abs(F - Y) < 1), (sp.Abs(F - Y) - sp.S.Half, True))


def _logistic(student, teacher, noise=NOISE):
    return Loss(
        LOGISTIC,
        student,
        teacher,
        lambda f, y: np.log1p(np.exp(-f * y)),
        lambda f, y: y / (1 + np.exp(f * y)),
        noise,
    )


def _squared(student, teacher, noise=NOISE):
    return Loss(
        "squared", student, teacher, lambda f, y: (f - y) ** 2 / 2, lambda f, y: y - f, noise
    )


LOSSES = {
    "squared": _squared(ERF, ERF),
    "correlation": Loss(
        "correlation", ERF, ERF, lambda f, y: 1 - f * y, lambda f, y: y + 0 * f
    ),
    "polynomial": Loss(
        CUBIC, ERF, ERF, lambda f, y: (f - y) ** 3 / 6 + (f - y) ** 2 / 2,
        lambda f, y: -((f - y) ** 2) / 2 - (f - y),
    ),
    "logistic": _logistic(ERF, ERF),
    "hinge": Loss(
        sp.Max(0, 1 - F * Y), LINE, SIGN,
        lambda f, y: np.maximum(0, 1 - f * y), lambda f, y: y * (f * y < 1), 0.0,
    ),
    "Huber": Loss(
        HUBER, LINE, LINE,
        lambda f, y: np.where(abs(f - y) < 1, (f - y) ** 2 / 2, abs(f - y) - 0.5),
        lambda f, y: np.clip(y - f, -1, 1),
    ),
    "squared on signs": _squared(ERF, SIGN, 0.0),
    "logistic on signs": _logistic(ERF, SIGN, 0.0),
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """An algorithm or feature: what `dmft.SGD` takes, and what the step on vectors takes."""

    options: dict = field(default_factory=dict)
    step: dict = field(default_factory=dict)
    flow: bool = False  # the limit of small rates
    rule: bool = False  # a rule of one's own

    @property
    def start(self) -> dmft.Overlaps:
        """Rows of length sqrt(d) where they keep it."""
        return SPHERE if "constraint" in self.options else FREE


def _both(**options) -> Row:
    return Row(options, options)


RATE, DECAY, RHO = 0.5, 0.4, 0.4
BATCH = ({"batch_size": 3}, {"batch": 3})
TRAINED, DECAYING = ({"readout_rate": RATE},) * 2, ({"weight_decay": DECAY}, {"decay": DECAY})
AHEAD = ({"repeat": dmft.Lookahead(RHO)}, {"displaced": RHO})
BACK = ({"repeat": dmft.SharpnessAware(RHO)}, {"displaced": -RHO})
UNIT = (
    {"repeat": dmft.SharpnessAware(RHO, normalised=True)},
    {"displaced": -RHO, "normalised": True},
)
TWICE = ({"repeat": dmft.Repeat(2)}, {"passes": 2})
SPHERICAL = ({"constraint": "sphere"},) * 2
TANGENT = ({"constraint": "sphere-gradient"},) * 2
SLOWED = ({"momentum": 0.5},) * 2


def _row(*features, **others) -> Row:
    """A row of several features."""
    options, step = ({}, {})
    for of_library, of_step in features:
        options, step = options | of_library, step | of_step
    return Row(options, step, **others)


ROWS = {
    "SGD": _row(),
    "SGD, batches of 3": _row(BATCH),
    "gradient flow": _row(flow=True),
    "weight decay": _row(DECAYING),
    "momentum, trained readouts, weight decay": _row(SLOWED, TRAINED, DECAYING),
    "sphere": _row(SPHERICAL),
    "sphere-gradient": _row(TANGENT),
    "trained readouts": _row(TRAINED),
    "Lookahead": _row(AHEAD),
    "Lookahead on the sphere, trained readouts": _row(AHEAD, SPHERICAL, TRAINED),
    "SharpnessAware": _row(BACK),
    "SharpnessAware, normalised": _row(UNIT),
    "Repeat": _row(TWICE),
    "Repeat, batches of 3, trained readouts, weight decay": _row(TWICE, BATCH, TRAINED, DECAYING),
    "own rule": _row(rule=True),
    "own rule on the sphere, batches of 3": _row(SPHERICAL, BATCH, rule=True),
}
# Steps of gradient flow: so small that their squares are nothing.
SMALL = 1e-5


def declared(loss: Loss, law: str, scales: tuple | None) -> dmft.Model:
    """The model of a loss under a law; labels of clusters are their classes where signs."""
    student = dmft.Committee(loss.student.expr, 2, READOUT)
    mixed = law == "clusters"
    if mixed and loss.teacher is SIGN:
        classes = dmft.GaussianMixture(MEANS, CLASSES, WEIGHTS, scales=scales)
        return dmft.Model(student, classes, loss.noise)
    inputs = dmft.GaussianMixture(MEANS, weights=WEIGHTS, scales=scales) if mixed else None
    return dmft.Model(student, dmft.Committee(loss.teacher.expr, 1), loss.noise, inputs=inputs)


def of_steps(loss: Loss, law: str) -> dict:
    """Functions and clusters as steps on vectors take them."""
    found = {
        "sigma": loss.student.value, "slope": loss.student.slope, "pull": loss.pull,
        "label": lambda stars, _: loss.teacher.value(stars[0]),
    }  # fmt: skip
    if law == "clusters":
        found |= {"weights": WEIGHTS, "means": MEANS}
        if loss.teacher is SIGN:
            found["label"] = lambda _, number: np.asarray(CLASSES)[number]
    return found


@dataclass(frozen=True)
class Cell:
    """One algorithm on one loss, of one kind, under one law."""

    row: str
    kind: str
    law: str
    loss: str

    @property
    def model(self) -> dmft.Model:
        """The declared model; labels of clusters are their classes where they are signs."""
        return declared(LOSSES[self.loss], self.law, SCALES)

    @property
    def start(self) -> dmft.Overlaps:
        """Where its row starts."""
        return ROWS[self.row].start

    @property
    def algorithm(self) -> dmft.SGD:
        """The declared algorithm, its rate of the order that its kind takes."""
        row, loss = ROWS[self.row], LOSSES[self.loss]
        options = dict(row.options)
        if self.kind == "map":
            options["batch_size"] = BATCH_OF_MAPS
        rate = GAMMA * (OF_MAPS if self.kind == "map" else 1)
        if not row.rule:
            return dmft.SGD(rate, loss=loss.expr, **options)
        factor = sp.diff(loss.student.expr, Z).subs(Z, H) + H / 2
        psi = -factor * sp.diff(loss.as_expr, F)
        return dmft.UpdateField(psi, fields=(H, STAR, Y), learning_rate=rate, **options)

    def derive(self) -> dmft.Equations:
        """Equations of this cell, or a refusal."""
        options = dict(KINDS[self.kind])
        if ROWS[self.row].flow:
            options["scaling"] = "gradient-flow"
        return dmft.derive(self.model, self.algorithm, **options)

    @property
    def dim(self) -> int:
        """Input dimension of the step on vectors."""
        return OF_MAPS if self.kind == "map" else LARGE

    @property
    def step(self) -> dict:
        """Arguments of `one_step.Step`."""
        row, loss = ROWS[self.row], LOSSES[self.loss]
        found = {
            **of_steps(loss, self.law),
            "readout": READOUT, "gamma": SMALL if row.flow else GAMMA, "noise": loss.noise,
        }  # fmt: skip
        found |= row.step
        if self.kind == "map":
            found |= {"batch": BATCH_OF_MAPS, "gamma": GAMMA * OF_MAPS}
        if row.rule:
            slope = loss.student.slope
            found["rule"] = lambda h, f, y: (slope(h) + h / 2) * loss.pull(f, y)
        if self.law == "clusters":
            found["scales"] = SCALES
        return found

    @property
    def time_step(self) -> float:
        """Time of one step: that of the equations; maps count steps."""
        if self.kind == "map":
            return 1.0
        step = self.step
        return step["gamma"] / ((1 - step.get("momentum", 0.0)) * 2 * self.dim)


# Descents on repeated data, of kind "two-time": what `dmft.GradientDescent` and the steps take.
PART = {"batch_fraction": 0.5}
DESCENTS = {
    "descent": {},
    "ridge, momentum": {"ridge": 0.2, "momentum": 0.4},
    "trained readouts": {"readout_rate": 0.4},
    "Langevin noise": {"temperature": 0.3},
    "Bernoulli batches": {"batch": "bernoulli", **PART},
    "reshuffled batches": {"batch": "reshuffle", **PART},
    "batches with replacement": {"batch": "replacement", **PART},
    "fresh batches": {"batch": "fresh"},
    "sphere": {"constraint": "sphere"},
    "sphere, ridge, momentum, Langevin noise": {
        "constraint": "sphere", "ridge": 0.2, "momentum": 0.4, "temperature": 0.3
    },
    "sphere, Bernoulli batches, trained readouts": {
        "constraint": "sphere", "batch": "bernoulli", "readout_rate": 0.4, **PART
    },
}  # fmt: skip
REPEATED, RATE_OF_DESCENTS, SAMPLES_PER_DIM = "two-time", 0.5, 1.5
# Two steps from one Sobol set of each scramble.
POINTS, SCRAMBLES = 2**11, 6


@dataclass(frozen=True)
class Repeated:
    """One descent on one loss, under one law; clusters have the variance of the others here."""

    row: str
    law: str
    loss: str
    kind: str = REPEATED

    @property
    def start(self) -> dmft.Overlaps:
        """Rows of length sqrt(d) where they keep it."""
        return SPHERE if "constraint" in DESCENTS[self.row] else FREE

    @property
    def model(self) -> dmft.Model:
        """The declared model; labels of clusters are their classes where they are signs."""
        return declared(LOSSES[self.loss], self.law, None)

    def derive(self) -> dmft.Equations:
        """Equations of this cell, or a refusal."""
        loss = LOSSES[self.loss]
        chosen = loss.expr if loss.expr == "squared" else loss.as_expr
        descent = dmft.GradientDescent(
            RATE_OF_DESCENTS, SAMPLES_PER_DIM, loss=chosen, **DESCENTS[self.row]
        )
        return dmft.derive(self.model, descent)

    def evaluate(self) -> tuple[dict, dict]:
        """What the symbols give after two steps: mean over scrambles, and its error."""
        equations, start = self.derive(), self.start
        rows = start.k + 2 * start.p + 1
        options, found = DESCENTS[self.row], []
        share = options.get("batch_fraction", 1.0)
        times_of = {
            "bernoulli": lambda u: u < share,
            "reshuffle": lambda u: np.array([u[0] < share, u[0] >= share]),
            "replacement": lambda u: poisson.ppf(u, share),
        }.get(options.get("batch"), lambda u: None)
        for seed in range(SCRAMBLES):
            points = qmc.Sobol(rows + 2, rng=seed).random(POINTS)
            # Clusters are counted off in the order of the points.
            points = np.random.default_rng(seed).permutation(points).T
            normal, times = ndtri(points[:rows]), times_of(points[rows:])
            found.append(equations.evaluate(start, 2, points=normal, times=times))
        blocks = ("Q2", "M", "readout")
        stack = {n: np.stack([one[n] for one in found]) for n in blocks}
        error = {n: a.std(axis=0, ddof=1) / np.sqrt(SCRAMBLES) for n, a in stack.items()}
        return {n: a.mean(axis=0) for n, a in stack.items()}, error

    @property
    def step(self) -> dict:
        """Arguments of `two_steps.Descent`."""
        loss, options = LOSSES[self.loss], DESCENTS[self.row]
        return {
            **of_steps(loss, self.law), "readout": READOUT, "rate": RATE_OF_DESCENTS,
            "samples_per_dim": SAMPLES_PER_DIM, "noise": loss.noise, **options,
        }  # fmt: skip


ONE_PASS = [
    Cell(row, kind, law, loss) for row in ROWS for kind in KINDS for law in LAWS for loss in LOSSES
]
DESCENT_CELLS = [Repeated(row, law, loss) for row in DESCENTS for law in LAWS for loss in LOSSES]
CELLS = ONE_PASS + DESCENT_CELLS


def rows_of(kind: str) -> dict:
    """Rows of the tables of a kind."""
    return DESCENTS if kind == REPEATED else ROWS


def cell(row: str, kind: str, law: str, loss: str) -> Cell | Repeated:
    """A cell by its names."""
    return Repeated(row, law, loss) if kind == REPEATED else Cell(row, kind, law, loss)


def sentence(refusal: Exception) -> str:
    """A refusal in one line."""
    return " ".join(str(refusal).split())


def outcome(cell: Cell | Repeated) -> str:
    """Empty where the cell derives and evaluates; else why it is refused."""
    try:
        cell.derive().evaluate(cell.start)
    except (dmft.errors.BadParameter, dmft.errors.NotClosed) as refusal:
        return sentence(refusal)
    return ""
