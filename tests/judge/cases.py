"""Random declarations and the truth about them, from their definitions alone.

Every field is a combination, with short binary coefficients, of the two coordinates of a Gaussian
plane, so that overlaps are exact in floats and risk, rates and noise are averages over a plane:
committees of up to three units, equal, opposite, zero and tiny ones, targets of several fields.
Full covariances are judged where pairs of fields suffice (risk and gradient flow).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import sympy as sp
from activations import ACTIVATIONS, Activation
from plane_quadrature import Line, plane_average

# Length of a unit of length zero: small enough to be its limit, large enough to be a number.
NEXT_TO_ZERO = 1e-140
u_1, u_2 = sp.symbols("u_1 u_2", real=True)


@dataclass(frozen=True)
class Target:
    """A label of several fields, as the judge knows it."""

    expression: sp.Expr
    value: Callable[[np.ndarray], np.ndarray]
    kinks: tuple[tuple[int, float], ...] = ()
    steep: tuple[int, ...] = ()


TARGETS = {
    "product": Target(u_1 * u_2, lambda x: x[0] * x[1]),
    "staircase": Target(u_1 + u_1 * u_2, lambda x: x[0] + x[0] * x[1]),
    "cubic": Target(u_1 + u_2**3 - 3 * u_2, lambda x: x[0] + x[1] ** 3 - 3 * x[1]),
    "relu_of_one": Target(sp.Max(0, u_1) * u_2, lambda x: np.maximum(0, x[0]) * x[1], ((0, 0.0),)),
    "signs": Target(
        sp.sign(u_1) * sp.sign(u_2), lambda x: np.sign(x[0]) * np.sign(x[1]), ((0, 0.0), (1, 0.0))
    ),
    "sine": Target(sp.sin(u_1) + u_2**2, lambda x: np.sin(x[0]) + x[1] ** 2),
    "waves_of_tanh": Target(sp.tanh(u_1) * u_2, lambda x: np.tanh(x[0]) * x[1], (), (0,)),
}


@dataclass
class Case:
    """One declaration, with the rows of its fields in the plane."""

    student: str
    teacher: str  # an activation, or a target where `several`
    several: bool
    rows: np.ndarray  # (p + k, 2)
    p: int
    readout: np.ndarray
    teacher_readout: np.ndarray
    noise: float
    rate: float
    loss: str
    flow: bool
    sphere: bool
    units: str
    note: str = field(default="")

    @property
    def k(self) -> int:
        return len(self.rows) - self.p

    @property
    def overlaps(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        gram = self.rows @ self.rows.T
        return gram[: self.p, : self.p], gram[: self.p, self.p :], gram[self.p :, self.p :]

    def __str__(self) -> str:
        what = "gradient flow" if self.flow else f"SGD {self.loss}"
        return (
            f"{self.student} x{self.p} on {self.teacher} x{self.k}, {what}"
            f"{', sphere' if self.sphere else ''}, {self.units}, rows {self.rows.tolist()}, "
            f"a {self.readout.tolist()}, noise {self.noise}, rate {self.rate}"
        )


def short(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Numbers of few binary digits, whose products and sums are exact."""
    return rng.integers(-24, 25, shape) / 16.0


def draw(rng: np.random.Generator) -> Case:
    """A random declaration and state."""
    students = [name for name, a in ACTIVATIONS.items() if a.slope is not None]
    student = str(rng.choice(students))
    several = rng.random() < 0.25
    p = int(rng.integers(1, 4))
    k = 2 if several else int(rng.integers(1, 3))
    teacher = str(rng.choice(list(TARGETS) if several else list(ACTIVATIONS)))
    if not several and rng.random() < 0.25:
        teacher = student
    largest = min(ACTIVATIONS[student].largest, 1.0 if several else ACTIVATIONS[teacher].largest)
    units = str(
        rng.choice(["full", "generic", "zero", "equal", "opposite", "scaled", "learned", "small"])
    )
    if several and units == "full":
        units = "generic"
    rows = np.zeros((p + k, p + k if units == "full" else 2))
    while not rows.any(axis=1).all():
        rows = short(rng, *rows.shape)
    if several:
        rows[p:] = np.eye(2)
    if units == "scaled":
        scales = np.ldexp(1.0, rng.integers(-10, 11, p + k))
        if several:
            scales[p:] = 1.0
        rows *= scales[:, None]
    elif units == "small":
        rows[:p] *= np.ldexp(1.0, int(rng.integers(-10, -3)))
    elif units == "zero":
        rows[int(rng.integers(0, p if several else p + k))] = 0.0
    elif units == "equal" and p + k > 1:
        rows[0] = rows[-1]
    elif units == "opposite" and p + k > 1:
        rows[0] = -rows[-1]
    elif units == "learned":
        rows[:p] = rows[p:][np.arange(p) % k]
    flow = units == "full" or rng.random() < 0.4
    sphere = bool(rng.random() < 0.3) and units in ("generic", "opposite", "equal", "learned")
    if sphere:  # a rational point of the circle, so that the lengths are exact
        quads = [(0.6, 0.8), (0.28, 0.96), (1.0, 0.0), (0.0, 1.0), (0.8, 0.6)]
        for j in range(p):
            x, y = quads[int(rng.integers(0, len(quads)))]
            rows[j] = [x * rng.choice([-1, 1]), y * rng.choice([-1, 1])]
    sizes = (rows**2).sum(axis=1)
    if sizes.max() > 2 * largest:
        most = int(np.floor(np.log2(np.sqrt(largest / sizes.max()))))
        shrink = np.where(sizes > largest, np.ldexp(1.0, most), 1.0)
        if several:
            shrink[p:] = 1.0
        rows = rows * shrink[:, None]
    loss = "correlation" if rng.random() < 0.2 else "squared"
    readout = rng.integers(1, 17, p) / 8.0 * rng.choice([-1, 1], p)
    teacher_readout = np.ones(k) if several else rng.integers(1, 17, k) / 8.0
    noise = float(rng.choice([0.0, 0.25]))
    rate = float(rng.choice([0.125, 0.5, 2.0]))
    return Case(
        student, teacher, several, rows, p, readout, teacher_readout, noise, rate,
        "squared" if flow else loss, flow, sphere, units,
    )  # fmt: skip


def _lines(case: Case, rows: np.ndarray) -> list[Line]:
    """Lines of the plane along which a student's or a teacher's function breaks."""
    lines = []
    for i, (a, b) in enumerate(rows):
        if i >= case.p and case.several:
            target = TARGETS[case.teacher]
            lines += [Line(a, b, t, 0.0) for r, t in target.kinks if r == i - case.p]
            lines += [Line(a, b, 0.0, 1.0) for r in target.steep if r == i - case.p]
            continue
        which: Activation = ACTIVATIONS[case.student if i < case.p else case.teacher]
        lines += [Line(a, b, t, 0.0) for t in which.kinks]
        lines += [Line(a, b, t, 1.0) for t in which.layers]
    return lines


@dataclass
class Truth:
    """Risk and rates, with the sizes that their rounding is measured by."""

    risk: float
    risk_scale: float
    M: np.ndarray
    M_scale: np.ndarray
    Q: np.ndarray
    Q_scale: np.ndarray


def truth(case: Case) -> Truth:
    """Averages of the definitions over the plane, or over the plane of each pair of fields."""
    if case.units == "full":
        return _truth_of_pairs(case)
    p, k = case.p, case.k
    rows = case.rows
    # A unit of length zero is a short one that is independent of all others: of its field only
    # the sign matters, and is drawn apart.
    zero = ~rows.any(axis=1)
    student = ACTIVATIONS[case.student]
    assert student.slope is not None
    a = case.readout

    def every(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        fields = rows[:, :1] * u + rows[:, 1:] * v
        if not zero.any():
            return integrands(fields)
        halves = (integrands(fields + s * zero[:, None]) for s in (-NEXT_TO_ZERO, NEXT_TO_ZERO))
        return 0.5 * sum(halves)

    def integrands(fields: np.ndarray) -> np.ndarray:
        h = fields[:p]
        sigma, slope = student.value(h), a[:, None] * student.slope(h)
        f = a @ sigma / p
        absolute_f = np.abs(a) @ np.abs(sigma) / p
        if case.several:
            y = TARGETS[case.teacher].value(fields[p:])
            absolute_y = np.abs(y)
        else:
            outputs = ACTIVATIONS[case.teacher].value(fields[p:])
            y = case.teacher_readout @ outputs / k
            absolute_y = np.abs(case.teacher_readout) @ np.abs(outputs) / k
        psi = slope * (y - f if case.loss == "squared" else y)
        size = np.abs(slope) * (absolute_y + (absolute_f if case.loss == "squared" else 0.0))
        noisy = case.noise * slope[:, None] * slope[None]
        parts = [
            (0.5 * (y - f) ** 2)[None],
            (0.5 * (absolute_y + absolute_f) ** 2)[None],
            (psi[:, None] * fields).reshape(p * (p + k), -1),
            (size[:, None] * np.abs(fields)).reshape(p * (p + k), -1),
            (psi[:, None] * psi[None] + noisy).reshape(p * p, -1),
            (size[:, None] * size[None] + np.abs(noisy)).reshape(p * p, -1),
        ]
        return np.concatenate(parts)

    found = plane_average(every, _lines(case, rows))
    parts = np.split(found, np.cumsum([1, 1, p * (p + k), p * (p + k), p * p]))
    risk, risk_scale, drift, drift_scale, spread, spread_scale = parts
    factor = 0.0 if case.flow else case.rate / p
    noise = (factor * spread.reshape(p, p), factor * spread_scale.reshape(p, p))
    drifts = (drift.reshape(p, p + k), drift_scale.reshape(p, p + k))
    return _rates(case, (float(risk[0]), float(risk_scale[0])), drifts, noise)


def _truth_of_pairs(case: Case) -> Truth:
    """Risk and gradient flow from pairs of fields: a third field is its regression on them."""
    p, k = case.p, case.k
    gram = case.rows @ case.rows.T
    weights = np.concatenate([-case.readout / p, case.teacher_readout / k])
    kinds = [ACTIVATIONS[case.student if i < p else case.teacher] for i in range(p + k)]
    risk = risk_scale = 0.0
    drift, drift_scale = np.zeros((2, p, p + k))
    for i in range(p + k):
        for n in range(p + k):
            # Coordinates of the pair in its own plane: x along u, y = (c, s).
            length = np.sqrt(gram[i, i])
            c = gram[i, n] / length
            s = 0.0 if i == n else np.sqrt(gram[n, n] - c * c)
            rows = np.array([[length, 0.0], [c, s]])
            lines = [
                Line(a, b, t, width)
                for (a, b), which in zip(rows, (kinds[i], kinds[n]), strict=True)
                for width, places in ((0.0, which.kinks), (1.0, which.layers))
                for t in places
            ]

            def averages(u, v, i=i, n=n, rows=rows):  # type: ignore[no-untyped-def]
                x, y = rows[:, :1] * u + rows[:, 1:] * v
                outer, slope = kinds[n].value(y), kinds[i].slope
                whole = 0.5 * kinds[i].value(x) * outer
                pieces = [whole, np.abs(whole)]
                if i < p and slope is not None:
                    product = slope(x) * outer
                    for part in (u, v):
                        pieces += [product * part, np.abs(product * part)]
                return np.stack(pieces)

            found = plane_average(averages, lines)
            risk += weights[i] * weights[n] * found[0]
            risk_scale += abs(weights[i] * weights[n]) * found[1]
            if i < p:
                # The components of every field along u and v.
                along = gram[i] / length
                across = (gram[n] - c * along) / s if s > 0 else np.zeros(p + k)
                factor = case.readout[i] * weights[n]
                drift[i] += factor * (along * found[2] + across * found[4])
                size = np.abs(along) * found[3] + np.abs(across) * found[5]
                drift_scale[i] += abs(factor) * size
    return _rates(case, (risk, risk_scale), (drift, drift_scale), (0.0, 0.0))


def _rates(case: Case, risk: tuple, drift: tuple, noise: tuple) -> Truth:  # type: ignore[type-arg]
    """The rates of M and Q, on the sphere or free, from the moments of the update."""
    p = case.p
    (B, B_scale), (spread, spread_scale) = drift, noise
    Phi = B[:, :p] + B[:, :p].T + spread
    Phi_scale = B_scale[:, :p] + B_scale[:, :p].T + spread_scale
    M, M_scale = B[:, p:], B_scale[:, p:]
    if case.sphere:
        Q_here, M_here, _ = case.overlaps
        along, size = np.diag(Phi), np.diag(Phi_scale)
        M = M - M_here * along[:, None] / 2
        M_scale = M_scale + np.abs(M_here) * size[:, None] / 2
        Phi = Phi - Q_here * (along[:, None] + along) / 2
        Phi_scale = Phi_scale + np.abs(Q_here) * (size[:, None] + size) / 2
    return Truth(*risk, M, M_scale, Phi, Phi_scale)
