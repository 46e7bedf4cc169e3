"""References of equations in two times: definitions of a descent entry by entry, rates at a time.

Shares no pass with code generation: times and neurons are numbers, an average is the mean over
arrays of samples. Slow and plain on purpose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise, product
from typing import Any

import numpy as np
import sympy as sp
from sympy.core.function import AppliedUndef

from dmft.arrays import Array
from dmft.equations import symbols as x
from dmft.equations.averages.expectation import At, Expectation
from dmft.equations.definitions import Definition, base_name
from dmft.equations.reference import Interpreter, kind_of
from dmft.equations.two_time.descent_process import (
    BATCH_LAWS,
    SYMMETRIC,
    TIME_LATEX,
    TWO_TIMES,
    C_theta,
    Descent,
    PathSlope,
    chosen,
    cluster,
    s,
    t,
    zeta,
)
from dmft.equations.two_time.over_time import OverTime, begun
from dmft.errors import BadParameter
from dmft.model import Overlaps, as_count
from dmft.validation import checked

# Arrays with one time in front of their neurons.
ONE_TIME = frozenset({*TIME_LATEX, "g_star", "mean_pull"}) - TWO_TIMES
# Relative to the trace of C_r, on the diagonal of what has a Cholesky root.
JITTER = 1e-12


@checked
def evaluate_process(
    equations: Descent,
    start: Overlaps,
    steps: int,
    points: Array | None,
    times: Array | None,
    parameters: Mapping[str, Any],
) -> dict[str, Array]:
    """Arrays of `DescentEquations.evaluate`."""
    given, readouts = begun(equations, start, parameters, as_count(steps, "steps"))
    reference = _Reference(equations, start, steps, given, readouts)
    reference.draw(points)
    reference.draw_batches(times)
    for time in range(steps):
        reference.step(time)
    return reference.result()


class _Reference(Interpreter):
    """State of the interpretation; arrays are indexed as in the symbols, neurons from 0."""

    def __init__(
        self,
        equations: Descent,
        start: Overlaps,
        steps: int,
        given: OverTime,
        readouts: Mapping[str, Array],
    ) -> None:
        self.equations, self.start, self.given, self.steps = equations, start, given, steps
        p, k, big = start.p, start.k, steps + 1
        super().__init__({n: np.zeros((big, big, p, p)) for n in TWO_TIMES}, given.scalars)
        self.p, self.k, self.numbers = p, k, {x.p: p, x.k: k}
        self.arrays |= {n: np.zeros((big, p)) for n in ("readout_at", "mean_pull")}
        self.arrays |= {n: np.zeros((big, p, k)) for n in ("M_at", "g_star", "M_free")}
        self.arrays |= {n: np.zeros((big, p, p)) for n in ("G_free", "Q_free")}
        self.arrays["P_inverse"] = np.asarray(np.linalg.pinv(start.P), dtype=np.float64)
        self.arrays |= {"teacher_readout": readouts["teacher_readout"]}
        self.arrays["readout_at"][:] = readouts["readout"]
        self.arrays["M_at"][0], self.arrays["Q_at"][0, 0] = start.M, start.Q
        self.train_loss = np.zeros(steps)
        self.known: dict[sp.Symbol, Any] = {}

    def draw(self, points: Array | None) -> None:
        """Teacher's fields, noise and normals of the driving process."""
        p, k, steps = self.p, self.k, self.steps
        rows = k + p * steps + 1
        if points is None:
            points = np.random.default_rng(0).standard_normal((rows, 2**12))
        if points.ndim != 2 or points.shape[0] < rows - (self.scalars["label_noise"] == 0):
            raise BadParameter(f"points must have {rows} rows of normals, got {points.shape}")
        values, vectors = np.linalg.eigh(self.start.P)
        star = vectors * np.sqrt(np.maximum(values, 0.0)) @ points[:k]
        size = points.shape[1]
        mixture = self.equations.model.clusters
        if mixture is not None:
            counts = np.cumsum(np.round(np.array(mixture.weights) * size)).astype(int)
            number = np.searchsorted(counts[:-1], np.arange(size), side="right")
            star = star + (mixture.means @ self.start.P).T[:, number]
            self.known[cluster] = number
        self.known[zeta] = points[rows - 1] if points.shape[0] >= rows else np.zeros(size)
        self.normal = points[k : k + p * steps]
        self.arrays["h_star"] = star
        shape = (steps, p, size)
        self.arrays |= {n: np.zeros(shape) for n in ("h_at", "r_at", "g_at", "pull_at")}

    def draw_batches(self, times: Array | None) -> None:
        """How often the batch of each step holds each sample."""
        batch, size, steps = self.equations.algorithm.batch, self.normal.shape[1], self.steps
        if batch not in BATCH_LAWS:
            times = np.ones((steps, size))
        elif times is None:
            rng, b = np.random.default_rng(1), self.scalars["batch_fraction"]
            parts = round(1.0 / b)
            slots = rng.integers(parts, size=(-(-steps // parts), size)).repeat(parts, axis=0)
            times = {
                "bernoulli": lambda: rng.random((steps, size)) < b,
                "replacement": lambda: rng.poisson(b, (steps, size)),
                "reshuffle": lambda: slots[:steps] == np.arange(steps)[:, None] % parts,
            }[batch]()
        if times.shape[0] < steps or times.shape[1] != size:
            raise BadParameter(f"times must have {(steps, size)} entries, got {times.shape}")
        self.times = np.asarray(times, dtype=np.float64)

    def step(self, time: int) -> None:
        """Fields and gradients at a time, then everything that follows from them."""
        here = {d.name: d for d in self.equations.process}
        self.scalars = self.given.at(time)
        if time == 0:
            self.first_kernel(here["Q_at"])
        self.define_at(here["C_r"], time)
        root = self.root(time + 1)
        p, now = self.p, slice(time * self.p, (time + 1) * self.p)
        rows = (time + 1) * p
        self.arrays["r_at"][time] = root[now] @ self.normal[:rows]
        for j in range(p):
            self.arrays["h_at"][time, j] = self.value(here["h_at"].expr, {t: time, x.j: j + 1})
        self.sample(time)
        with_normal = self.arrays["g_at"][time] @ self.normal[:rows].T / self.normal.shape[1]
        slopes = np.linalg.solve(root.T, with_normal.T).T
        self.slopes = slopes.reshape(p, time + 1, p)
        for definition in self.equations.process:
            if definition.name not in ("h_at", "C_r"):
                self.define_at(definition, time)

    def first_kernel(self, overlap: Definition) -> None:
        """C_theta at the start: the definition of Q, solved for it."""
        kernel = C_theta[overlap.target.args[1:]]
        share = float(self.value(sp.expand(overlap.expr).coeff(kernel), {}))
        for j, m in np.ndindex(self.p, self.p):
            # The entry itself is still zero.
            rest = self.value(overlap.expr, {t: 0, s: 0, x.j: j + 1, x.l: m + 1})
            self.arrays["C_theta"][0, 0, j, m] = (self.arrays["Q_at"][0, 0, j, m] - rest) / share

    def root(self, times: int) -> Array:
        """Cholesky root of C_r over (time, neuron)."""
        kernel = self.arrays["C_r"][:times, :times].transpose(0, 2, 1, 3)
        square = kernel.reshape(times * self.p, times * self.p)
        blocks = np.trace(square.reshape(times, self.p, times, self.p), axis1=1, axis2=3)
        jitter = np.repeat(JITTER * np.diag(blocks), self.p)
        try:
            return np.asarray(np.linalg.cholesky(square + np.diag(jitter)))
        except np.linalg.LinAlgError as error:
            raise BadParameter(
                "the covariance of the driving noise of the samples is not positive at step "
                f"{times - 1}"
            ) from error

    def sample(self, time: int) -> None:
        """Loss and gradients of all samples at a time."""
        self.arrays["h"], self.known[chosen] = self.arrays["h_at"][time], self.times[time]
        self.arrays["readout"] = self.arrays["readout_at"][time]
        for d in self.equations.sample:
            if isinstance(d.target, sp.Indexed):
                into = self.arrays["g_at" if d.name == "g" else "pull_at"]
                for j in range(self.p):
                    into[time, j] = self.value(d.expr, {x.j: j + 1})
            else:
                self.known[d.target] = self.value(d.expr, {})
                if d.name == "loss":
                    self.train_loss[time] = np.mean(self.known[d.target])

    def define_at(self, d: Definition, time: int) -> None:
        """Write one definition of the process; Q is known one step later than its averages."""
        assert isinstance(d.target, sp.Indexed)
        first, *rest = d.target.indices
        now = time + 1 if d.name == "Q_at" else time
        here = int(first.subs(t, now))
        earlier: list[dict[Any, int]] = [{}]
        if d.name in TWO_TIMES:
            last = here if d.name in SYMMETRIC else now
            earlier = [{s: n} for n in range(last + 1)]
            rest = rest[1:]
        sizes = [self.k if y == x.r else self.p for y in rest]
        for early, neurons in product(earlier, np.ndindex(*sizes)):
            at = {t: now, **early, **{y: n + 1 for y, n in zip(rest, neurons, strict=True)}}
            place = (here, *early.values(), *neurons)
            self.arrays[d.name][place] = self.value(d.expr, at)
            if d.name in SYMMETRIC:
                turned = (place[1], place[0], place[3], place[2])
                self.arrays[d.name][turned] = self.arrays[d.name][place]

    def value(self, expr: sp.Expr, at: Mapping[Any, int]) -> Any:
        """Value of an expression at these indices; those of samples are arrays over them."""
        self.at = at
        return self(expr)

    def __call__(self, expr: sp.Expr) -> Any:
        """Value at the present indices, which change: none is kept."""
        return getattr(self, kind_of(expr))(expr)

    def symbol(self, symbol: sp.Symbol) -> Any:
        """Index, width, what samples have, or parameter."""
        for known in (self.at, self.numbers, self.known):
            if symbol in known:
                return known[symbol]
        return self.scalars[symbol.name]

    def average(self, expr: Expectation) -> Any:
        """Mean over the samples, or the slope of a path by what drives it."""
        if isinstance(expr.integrand, PathSlope):
            (_, j), (time, m) = (y.indices for y in expr.integrand.args)
            return self.slopes[int(self(j)) - 1, int(self(time)), int(self(m)) - 1]
        return np.mean(self(expr.integrand))

    def power(self, expr: sp.Pow) -> Any:
        """Power, of an integer as well."""
        return np.power(np.float64(1.0) * self(expr.base), self(expr.exp))

    def of_parameters(self, expr: sp.Expr) -> Any:
        """Function of the parameters, or of what samples have."""
        return self.power(expr) if expr.is_Pow else super().of_parameters(expr)

    def unknown(self, expr: sp.Expr) -> Any:
        """Function of a field by its name."""
        if isinstance(expr, At):
            return self(expr.expr)
        if expr.is_Pow:
            return self.power(expr)
        raise BadParameter(f"{expr.func.__name__} in {expr} is not in the NumPy reference")

    def same(self, expr: sp.KroneckerDelta) -> Any:
        """1 where both indices are the same, else 0."""
        return float(self(expr.args[0]) == self(expr.args[1]))

    def entry(self, expr: sp.Indexed) -> Any:
        """Entry of an array; w^{-1} = w^0."""
        name = base_name(expr)
        count = 2 if name in TWO_TIMES else 1 if name in ONE_TIME else 0
        places = [int(self(y)) for y in expr.indices]
        times = [max(y, 0) for y in places[:count]]
        return self.arrays[name][(*times, *(y - 1 for y in places[count:]))]

    def sum(self, expr: sp.Sum) -> Any:
        """Sum, term by term."""
        before, terms = self.at, []
        symbols = [y[0] for y in expr.limits]
        ranges = [range(int(self(low)), int(self(high)) + 1) for _, low, high in expr.limits]
        for values in product(*ranges):
            self.at = {**before, **dict(zip(symbols, values, strict=True))}
            terms.append(self(expr.function))
        self.at = before
        return sum(terms)

    def result(self) -> dict[str, Array]:
        """Arrays as of a `DescentRun`."""
        n, arrays = self.steps, self.arrays
        Q2 = arrays["Q_at"]
        return {
            "M": arrays["M_at"], "Q": Q2[np.arange(n + 1), np.arange(n + 1)], "Q2": Q2,
            "corr": arrays["C_l"][:n, :n], "resp": arrays["R_l"][:n, :n],
            "readout": arrays["readout_at"], "train_loss": self.train_loss,
        }  # fmt: skip


@dataclass(frozen=True)
class ValuesAtTimes:
    """Values of expressions at numeric times."""

    causal: tuple[Any, ...]
    known: Mapping[str, Callable[..., float]]
    parameters: Mapping[sp.Symbol, sp.Expr]
    s: sp.Expr
    nodes: int

    def __call__(self, expr: sp.Expr, at: Mapping[sp.Symbol, sp.Expr]) -> sp.Expr:
        """Value of an expression where the times are `at`."""
        table: dict[sp.Expr, sp.Expr] = {}
        for total in expr.atoms(sp.Integral):
            table[total] = self.integral(total, at)
        plain = expr.xreplace(table)
        functions = plain.atoms(AppliedUndef)
        plain = plain.xreplace({f: self.function(f, at) for f in functions})
        return plain.xreplace({**self.parameters, **at})

    def integral(self, total: sp.Integral, at: Mapping[sp.Symbol, sp.Expr]) -> sp.Expr:
        """Integral over one time; functions have kinks at s."""
        (symbol, low, high) = total.limits[0]
        ends = [y.xreplace(dict(at)) for y in (low, high)]
        ends[1:1] = [self.s] if ends[0] < self.s < ends[1] else []
        result = sp.Float(0)
        for begin, end in pairwise(ends):
            half = (end - begin) / 2
            for place, weight in _rule(self.nodes):
                here = {**at, symbol: begin + half * (1 + place)}
                result += half * weight * self(total.function, here)
        return result

    def function(self, applied: sp.Expr, at: Mapping[sp.Symbol, sp.Expr]) -> sp.Expr:
        """Value of a function at its times: symmetric, or zero before its cause."""
        times = [float(y.xreplace(dict(at))) for y in applied.args]
        if len(times) == 2 and times[0] < times[1]:
            if applied.func in self.causal:
                return sp.Float(0)
            times.reverse()
        return sp.Float(self.known[str(applied.func)](*times))


@lru_cache(maxsize=8)
def _rule(nodes: int) -> tuple[tuple[sp.Expr, sp.Expr], ...]:
    """Places in [-1, 1] and weights of Gauss and Legendre."""
    places, weights = np.polynomial.legendre.leggauss(nodes)
    return tuple((sp.Float(x), sp.Float(w)) for x, w in zip(places, weights, strict=True))
