"""Replica-symmetric equations of empirical risk minimisation with a linear student.

Equation    V = 1/(ridge + V_hat), m = V m_hat, q = m^2 + V^2 q_hat, V_hat = -alpha E[df/domega],
            q_hat = alpha E[f^2], m_hat = alpha E[f h*] + m V_hat
Valid for   d -> infinity; convex losses, others as long as the proximal operator does not jump
Source      theory/static_limits (13), (14), (17)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import sympy as sp
from scipy.optimize import root

from dmft.arrays import Array
from dmft.gaussian.channels.channel import Channel
from dmft.gaussian.channels.declared import Label
from dmft.gaussian.channels.panels import between, quiet
from dmft.workflow.static.proximal import Proximal

# Edges of panels of a standard normal variable; 2e-19 of it lies beyond the last.
EDGES = np.array([-9.0, -5.0, -3.0, -1.5, -0.5, 0.5, 1.5, 3.0, 5.0, 9.0])
# Weights of nodes of a label below are left out.
SMALLEST = 1e-18
# Points of a panel, and halvings of panels, of each level.
LEVELS = ((8, 0), (12, 0), (16, 1))
# Fields of one block.
BLOCK = 2**19
# Iterations before a root finder takes over, and the residual at which equations are solved.
WARM_UP, SOLVED = 12, 1e-9
# Logarithms of states stay below.
FARTHEST = 40.0
SMALLEST_RIDGE = 1e-4
# Ridges on the way to a small one are apart by this factor.
LADDER = 10.0


@dataclass(frozen=True, eq=False)
class LabelNodes:
    """Nodes of a standard normal field u, of the label, and their weights (n,).

    `share` is the correlation of u with the teacher's field, which is u where it is 1; `clean` is
    the label before noise and flips at the teacher's field, `case` the number of the flip or of the
    node of the noise.
    """

    u: Array
    y: Array
    clean: Array
    weight: Array
    share: float
    case: Array

    @classmethod
    def of(cls, label: Label, points: int, edges: Array | None = None) -> LabelNodes:
        """Gauss panels between the kinks of a label and other edges, so many points in each."""
        law = _law_of(label)
        u, y, weight = (each[0] for each in law.channel.rule_z(np.zeros(1), 1.0, points, edges))
        kept, case = weight > SMALLEST, np.cumsum(np.append(0, np.diff(u) < 0.0))
        u, y, weight, case = u[kept], y[kept], weight[kept] / weight.sum(), case[kept]
        y = y if law.line is None else law.line[0] + law.line[1] * u
        return cls(u, y, law.clean(u), weight, law.share, case)

    @classmethod
    def seen_by(
        cls, label: Label, points: int, m: float, q: float,
        breaks: Callable[[Array], Array] = lambda y: np.zeros((1, y.size)),
    ) -> LabelNodes:  # fmt: skip
        """The same for averages over omega, whose variance is q and overlap m.

        A long student magnifies the field. Panels are short near kinks of the label, and where the
        mean of omega passes `breaks` (n, N) of each label: of each case, panels of its own.
        """
        law = _law_of(label)
        halved = 1.5 * 0.5 ** np.arange(np.ceil(np.log2(1.0 + abs(m))) + 1.0)
        graded = np.add.outer(law.channel.breaks, np.append(halved, -halved)).ravel()
        nodes, m = cls.of(label, points, graded), law.share * m
        gap = (breaks(nodes.y) - m * nodes.u) / max(np.sqrt(max(q - m * m, 0.0)), SMALLEST)
        above = gap > EDGES[:, None, None]
        n, j, i = np.nonzero(above[..., 1:] != above[..., :-1])
        low, high, step = gap[j, i], gap[j, i + 1], np.diff(nodes.u)[i]
        with np.errstate(invalid="ignore"):
            edges = nodes.u[i] + (EDGES[n] - low) / (high - low) * step
        of = np.where(np.isfinite(edges) & (step > 0.0), nodes.case[i], -1)
        parts = []
        for case in np.unique(nodes.case):
            own = cls.of(label, points, np.append(graded, edges[of == case]))
            every = (own.u, own.y, own.clean, own.weight, own.case)
            parts.append([array[own.case == case] for array in every])
        u, y, clean, weight, of = map(np.concatenate, zip(*parts, strict=True))
        return cls(u, y, clean, weight, nodes.share, of)

    @property
    def signs(self) -> bool:
        """Whether all labels are +1 or -1."""
        return bool(np.all(np.abs(self.y) == 1.0))


class LabelLaw(NamedTuple):
    """Values of a label and of the same before noise; offset and length of a Gaussian label."""

    channel: Channel
    clean: Callable[[Array], Array]
    line: tuple[float, float] | None
    share: float


@lru_cache(maxsize=32)
def _law_of(label: Label) -> LabelLaw:
    (z,), noise, channel = label.fields, float(label.noise), label.channel()
    is_affine = label.expr.is_polynomial(z) and sp.degree(label.expr, z) == 1
    is_gaussian = noise > 0.0 and label.flip == 0 and is_affine
    if is_gaussian or not (noise or label.flip or label.drawn):
        channel = Channel(label.expr, z, mixture=((1.0, label.expr),))  # the label's values
    clean = quiet([z], label.expr)
    if not is_gaussian:
        return LabelLaw(channel, clean, None, 1.0)
    slope, offset = (float(label.expr.coeff(z, n)) for n in (1, 0))
    length = float(np.copysign(np.hypot(slope, np.sqrt(noise)), slope))
    return LabelLaw(channel, clean, (offset, length), slope / length)


def clean_nodes(label: Label, points: int, m: float, q: float) -> LabelNodes:
    """Nodes of the label before noise and flips; of drawn labels those of both labels."""
    return LabelNodes.seen_by(replace(label, noise=sp.S.Zero, flip=sp.S.Zero), points, m, q)


@dataclass(frozen=True)
class State:
    """V, m and q - m^2."""

    V: float
    m: float
    rest: float

    @property
    def q(self) -> float:
        """Squared length of the student."""
        return self.m**2 + self.rest

    @classmethod
    def of(cls, x: Array) -> State:
        """From log V, arsinh m and log(q - m^2)."""
        return cls(float(np.exp(x[0])), float(np.sinh(x[1])), float(np.exp(x[2])))

    @property
    def x(self) -> Array:
        """Inverse of `of`."""
        return np.array([np.log(self.V), np.arcsinh(self.m), np.log(self.rest)])


@dataclass(frozen=True, eq=False)
class Equations:
    """Averages over samples at the nodes of a level."""

    proximal: Proximal
    label: Label
    alpha: float
    ridge: float
    level: int

    def averages(self, state: State) -> dict[str, float]:
        """E[f^2], E[f u], E[df], E[df^2] and losses before and after the proximal step."""
        points, times = LEVELS[self.level]
        step = max(1, BLOCK // ((EDGES.size << times) * points))
        breaks = partial(self._breaks, state.V)
        nodes = LabelNodes.seen_by(self.label, points, state.m, state.q, breaks)
        parts = [
            self._block(nodes, state, slice(low, low + step))
            for low in range(0, nodes.u.size, step)
        ]
        return {name: float(sum(part[name] for part in parts)) for name in parts[0]}

    def _breaks(self, V: float, y: Array) -> Array:
        return np.vstack([self.proximal.breaks(y, V), np.zeros(y.size)])

    def _block(self, nodes: LabelNodes, state: State, here: slice) -> dict[str, float]:
        u, y, weight = nodes.u[here], nodes.y[here], nodes.weight[here]
        mean = nodes.share * state.m * u
        spread = np.sqrt(state.q - (nodes.share * state.m) ** 2)
        places = [self.proximal.breaks(y, state.V), self.proximal.places(y)]
        breaks = (np.concatenate(places) - mean) / spread
        t, share = panel_nodes(breaks, u.size, *LEVELS[self.level])
        omega, share = mean[:, None] + spread * t, share * weight[:, None]
        label = np.broadcast_to(y[:, None], omega.shape)
        p, f, slope = self.proximal(omega, label, state.V)
        value = self.proximal.value
        found = {
            "ff": f * f, "fu": f * u[:, None], "df": slope, "dfdf": slope * slope,
            "train": value(p, label), "test": value(omega, label),
        }  # fmt: skip
        return {name: float(np.sum(share * each)) for name, each in found.items()}

    def squared_distance(self, state: State, output: Callable[[Array], Array]) -> float:
        """E(f* - output(omega))^2, before noise and flips."""
        nodes = clean_nodes(self.label, LEVELS[self.level][0], state.m, state.q)
        none = np.empty((0, nodes.u.size))
        t, share = panel_nodes(none, nodes.u.size, *LEVELS[self.level])
        omega = state.m * nodes.u[:, None] + np.sqrt(state.rest) * t
        gap = nodes.clean[:, None] - output(omega)
        return float(np.sum(share * gap**2 * nodes.weight[:, None]))

    def step(self, state: State, ridge: float) -> State:
        """New state from the averages of one."""
        found, share = self.averages(state), _law_of(self.label).share
        V = 1.0 / (ridge - self.alpha * found["df"])
        pull = self.alpha * (found["fu"] - share * state.m * found["df"])
        return State(V, V * share * pull, V**2 * self.alpha * found["ff"])

    def solved(self, start: State, ridge: float) -> State | None:
        """Fixed point near a start; None where none was found."""

        def residual(x: Array) -> Array:
            if not np.all(np.abs(x) < FARTHEST):
                return np.full(3, np.nan)
            return np.nan_to_num(self.step(State.of(x), ridge).x - x, nan=FARTHEST)

        with np.errstate(all="ignore"):
            found = root(residual, start.x, method="hybr", options={"xtol": 1e-13})
            if not np.all(np.abs(residual(found.x)) < SOLVED):
                return None
        return State.of(found.x)

    def warmed(self, start: State, ridge: float) -> State:
        """A start after some iterations, each half of a step."""
        x = start.x
        for _ in range(WARM_UP):
            with np.errstate(all="ignore"):
                ahead = self.step(State.of(x), ridge).x
            if not np.all(np.abs(ahead) < FARTHEST):
                break
            x = 0.5 * (x + ahead)
        return State.of(x)

    def from_scratch(self) -> State | None:
        """Fixed point from a start far away; where needed, by continuation from large ridges."""
        start = State(1.0 / (self.ridge + 1.0), 0.3, 0.3)
        found = self.solved(self.warmed(start, self.ridge), self.ridge)
        largest = max(1.0, self.alpha)
        if found is not None or self.ridge >= largest:
            return found
        state = start
        ridges = [max(self.ridge, SMALLEST_RIDGE)]
        while ridges[-1] < largest:
            ridges.append(ridges[-1] * LADDER)
        for ridge in [*reversed(ridges), self.ridge]:
            found = self.solved(self.warmed(state, ridge), ridge)
            if found is None:
                return None
            state = found
        return state


def panel_nodes(breaks: Array, size: int, points: int, times: int) -> tuple[Array, Array]:
    """Nodes (size, n) of a standard normal variable, and weights, in panels split at breaks."""
    edges = EDGES
    for _ in range(times):
        edges = np.sort(np.concatenate([edges, 0.5 * (edges[1:] + edges[:-1])]))
    inside = np.clip(np.nan_to_num(breaks, nan=edges[-1]), edges[0], edges[-1])
    ends = np.sort(np.concatenate([np.tile(edges[:, None], size), inside]), axis=0)
    t, weight = between(ends, points)
    return t.T, (weight * np.exp(-0.5 * t**2) / np.sqrt(2.0 * np.pi)).T
