"""Rules that are written with vectors, run in R^d, and as the exact chain of their Gram matrices.

Nothing here uses the derived equations: the step of `dmft.UpdateField` is taken as it is written.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.emit.quantities import as_expressions
from dmft.errors import BadParameter
from dmft.initial_conditions import STEPS, Overlaps, begin_of, check_end
from dmft.laws import Discrete
from dmft.model.schedule import Schedule as Table
from dmft.model.update import TIME, VectorRule
from dmft.names import BLOCK
from dmft.rules import Field, Gram, Mean, Random, Row, View
from dmft.simulation.clock import Clock, Schedule, Tabled

# Steps whose random numbers are drawn at once; numbers of one draw.
CHUNK, MOST_DRAWN = 64, 2**22


class Step:
    """A rule as functions of arrays, one value for each seed and sample."""

    def __init__(
        self,
        rule: VectorRule,
        dim: int,
        t_max: float,
        given: Mapping[str, Any],
        start: Overlaps,
        t_start: float | None = None,
    ) -> None:
        self.rule, self.dim = rule, dim
        self.values, rate = _values(rule, dim, given)
        is_tabled = isinstance(rate, Table)
        follows = is_tabled or any(y.has(TIME) for y in (rate, *self.values.values()))
        begin = begin_of(start, STEPS if is_tabled else TIME.name, t_start, follows)
        check_end(t_max, begin, STEPS if is_tabled else TIME.name)
        self.clock = self._clock(rate, t_max, begin)
        self.batch = int(self.number(sp.sympify(rule.batch_size, strict=True)))
        if any(y.has(Mean) for y in rule.expressions):
            raise BadParameter("steps with averages as coefficients are not simulated: use solve")
        self.rows: tuple[Row, ...] = (*rule.moving, *rule.fixed)
        self.learned = list(rule.learned)
        self.shares = np.array([self.number(y) for y in rule.fractions])
        # Latents and random numbers in the order in which they are drawn.
        both: list[View | Random] = [*rule.views, *rule.randoms]
        self.order: list[View | Random] = sorted(both, key=lambda y: y.number)
        self.fields = [Field(row, view) for view in rule.views for row in self.rows]
        self.grams = [Gram(a, b) for n, a in enumerate(self.rows) for b in self.rows[n:]]
        self.names = [*self.fields, *rule.randoms, *self.grams, *self.learned, TIME]
        self.psi = [
            [self.function(self._coefficient(row, v)) for v in rule.views] for row in rule.moving
        ]
        self.Phi = [
            [self.function(self._coefficient(row, r)) for r in self.rows] for row in rule.moving
        ]
        self.chi = [self.function(y) for y in rule.learned.values()]
        self.latents = {v: {r: self.function(c) for r, c in v.latents.items()} for v in rule.views}
        self.scales = {v: [self.function(s) for s in v.scales] for v in rule.views}
        self.weights = {
            r: [self.function(sp.sympify(p, strict=True)) for p in r.law.weights]
            for r in rule.randoms
            if isinstance(r.law, Discrete)
        }
        self.roots = [self._root(e) for e in range(len(self.shares))]

    def _coefficient(self, row: Row, vector: Row | View) -> sp.Expr:
        return dict(self.rule.steps)[row].terms.get(vector, sp.S.Zero)

    def _clock(self, rate: Any, t_max: float, begin: float) -> Clock:
        """Times of the steps; under a schedule, each step has its own rate."""
        if isinstance(rate, Table):
            return Tabled(rate, self.dim).clock(1.0, t_max, begin)
        at = rate.subs(self.values)
        if at.free_symbols == {TIME}:
            return Schedule(at).clock(1.0 / self.dim, t_max, begin)
        return Clock(self.number(rate) / self.dim, begin=begin)

    def rate(self, n: int) -> float:
        """Learning rate of a step."""
        clock = self.clock
        return clock.time_step * self.dim if clock.rates is None else float(clock.rates[n])

    def number(self, expr: sp.Expr) -> float:
        """An expression in parameters as a number."""
        left = sp.sympify(expr, strict=True).subs(self.values)
        if left.has(TIME):
            raise BadParameter(
                f"{expr} = {left} depends on t: simulate follows the learning rate and "
                "coefficients of the step; batches, laws and covariances are constant"
            )
        if left.free_symbols:
            missing = ", ".join(f"{s}=..." for s in sorted(map(str, left.free_symbols)))
            raise BadParameter(f"{expr} has no value; pass {missing}")
        return float(left)

    def function(self, expr: sp.Expr) -> Callable[[Mapping[sp.Symbol, Array]], Any] | None:
        """A function of the values of symbols; None for zero."""
        if expr == 0:
            return None
        at = expr.subs(self.values)
        own = sorted(at.free_symbols, key=str)
        missing = [s for s in own if s not in set(self.names)]
        if missing:
            raise BadParameter(f"{missing[0]} has no value; pass {missing[0]}=...")
        if not own:
            value = float(at)
            return lambda known: value
        dummies = [sp.Dummy(f"v{n}") for n in range(len(own))]
        steps = {"Heaviside": lambda y, half=0.5: np.heaviside(y, half)}
        renamed = at.xreplace(dict(zip(own, dummies, strict=True)))
        call = sp.lambdify(dummies, renamed, [steps, "scipy", "numpy"], cse=True)
        return lambda known: call(*(known[s] for s in own))

    def _root(self, e: int) -> Array:
        """Cholesky factor of the covariance of all views in a block."""
        rule = self.rule.views
        cov = np.zeros((len(rule), len(rule)))
        for a, v in enumerate(rule):
            for b, u in enumerate(rule):
                if u in v.group:
                    cov[a, b] = self.number(v.covs[e][v.group.index(v), v.group.index(u)])
        values, vectors = np.linalg.eigh(cov)
        root: Array = vectors * np.sqrt(np.maximum(values, 0.0))
        return root

    def draw(self, r: Random, u: Array, known: Mapping[sp.Symbol, Array]) -> Array:
        """A random number from a uniform one."""
        if isinstance(r.law, Discrete):
            weights = [np.broadcast_to(f(known) if f else 0.0, u.shape) for f in self.weights[r]]
            place = (u[None] > np.cumsum(weights, axis=0)[:-1]).sum(axis=0)
            values = np.array([self.number(sp.sympify(y, strict=True)) for y in r.law.values])
            return np.asarray(values[place])
        own = {n: self.number(sp.sympify(y, strict=True)) for n, y in vars(r.law).items()}
        return type(r.law)(**own).quantile(u)

    def coefficients(self, known: Mapping[sp.Symbol, Array], shape: tuple[int, ...]) -> Any:
        """Psi (J, T), Phi (J, L) and chi (K,), each with the shape of the samples behind."""

        def of(f: Any) -> Array:
            return np.broadcast_to(0.0 if f is None else f(known), shape)

        psi = np.array([[of(f) for f in row] for row in self.psi])
        Phi = np.array([[of(f) for f in row] for row in self.Phi])
        return psi, Phi, np.array([of(f) for f in self.chi]).reshape(len(self.chi), *shape)


def _values(
    rule: VectorRule, dim: int, given: Mapping[str, Any]
) -> tuple[dict[sp.Symbol, sp.Expr], Any]:
    """Values of the parameters, numbers or expressions in t, and the learning rate."""
    batch = sp.sympify(rule.batch_size, strict=True)
    symbols = rule.parameters | rule.learning_rate.free_symbols | batch.free_symbols
    known = {s.name: s for s in symbols}
    values: dict[sp.Symbol, sp.Expr] = {}
    rate: Any = rule.learning_rate
    if rate.is_Symbol:
        known["learning_rate"] = rate
    for name, value in as_expressions(given, set(given)).items():
        if isinstance(value, Table):
            if not name == value.control == "learning_rate":
                raise BadParameter(
                    f"{name} is given a schedule of {value.control}: simulate supports only "
                    "schedules of the learning rate"
                )
            rate = value
            continue
        if name not in known and name != "learning_rate":
            raise BadParameter(f"unknown parameter {name}; the rule has {sorted(known) or 'none'}")
        number = sp.sympify(value, strict=True)
        other = sorted(map(str, number.free_symbols - {TIME}))
        if other:
            raise BadParameter(f"{name} = {value} contains {other[0]}: it may depend on t only")
        if name in known:
            values[known[name]] = number
        else:
            rate = number
    if "d" in known:
        values[known["d"]] = sp.Integer(dim)
    if (
        isinstance(rate, Table)
        and rule.learning_rate.is_Symbol
        and (rule.learning_rate in rule.parameters)
    ):
        raise BadParameter(
            f"the step contains its learning rate {rule.learning_rate}: give it as an expression "
            "of t, not as a dmft.Schedule"
        )
    return values, rate


class Runs(ABC):
    """Scalars, time and random streams of all seeds."""

    def __init__(self, step: Step, start: Overlaps, seeds: Sequence[int]) -> None:
        self.step, self.count = step, len(seeds)
        self.generators = [np.random.default_rng([seed, step.dim]) for seed in seeds]
        given = start.scalars or {}
        missing = [s.name for s in step.learned if s.name not in given]
        if missing:
            raise BadParameter(f"the start has no {missing[0]}; pass Overlaps(..., scalars=...)")
        first = np.array([given[s.name] for s in step.learned], dtype=np.float64)
        self.theta = np.repeat(first[:, None], self.count, axis=1)
        self.n = 0
        self.lengths: Array = np.zeros(0)
        p, k = len(step.rule.moving), len(step.rule.fixed)
        by_block = len(step.shares) > 1
        if start.M.shape[-2:] != (p, k) or (start.Q.ndim == 3) != by_block:
            raise BadParameter(
                f"the start has Q {start.Q.shape} and M {start.M.shape}; the rule has the moving "
                f"rows {step.rule.moving} and the fixed rows {step.rule.fixed}"
            )
        self.gram0 = np.asarray(start.Omega).reshape(-1, p + k, p + k)

    def known(self, gram: Array, shape: tuple[int, ...]) -> dict[sp.Symbol, Array]:
        """Overlaps, scalars and the time, with the axes of samples behind that of seeds."""
        step = self.step
        extra = (slice(None), *(None,) * (len(shape) - 1))
        found: dict[sp.Symbol, Any] = {TIME: float(step.clock.at(self.n))}
        pairs = iter(step.grams)
        for i in range(len(step.rows)):
            for k in range(i, len(step.rows)):
                found[next(pairs)] = gram[:, i, k][extra]
        found |= {s: self.theta[n][extra] for n, s in enumerate(step.learned)}
        return found

    def constrained(self, rows: Array) -> Array:
        """Factors of the moving rows that keep a constraint; (S, J, J) applied from the left."""
        rule, p = self.step.rule, len(self.step.rule.moving)
        Q = rows
        if rule.on_sphere:
            own = self.lengths / np.einsum("sjj->sj", Q)
            return np.sqrt(own)[:, :, None] * np.eye(p)
        root = np.linalg.cholesky(Q)
        return np.linalg.inv(root)

    @property
    def is_constrained(self) -> bool:
        """Whether rows are renormalised."""
        return self.step.rule.on_sphere or self.step.rule.orthonormal

    def seen(self) -> dict[str, Array]:
        """Overlaps, by block too where there are several, and scalars."""
        p, blocks = len(self.step.rule.moving), self.grams()
        found = {"": blocks.sum(axis=1)}
        if blocks.shape[1] > 1:
            found[BLOCK] = blocks
        overlaps = {f"{name}Q": G[..., :p, :p] for name, G in found.items()}
        overlaps |= {f"{name}M": G[..., :p, p:] for name, G in found.items()}
        return overlaps | self.scalars_seen()

    @abstractmethod
    def grams(self) -> Array:
        """Gram matrices of all rows in each block (S, B, L, L)."""

    def scalars_seen(self) -> dict[str, Array]:
        """Learned numbers."""
        return {s.name: self.theta[n].copy() for n, s in enumerate(self.step.learned)}


class Weights(Runs):
    """Weights in R^d."""

    def __init__(self, step: Step, start: Overlaps, seeds: Sequence[int]) -> None:
        super().__init__(step, start, seeds)
        sizes = np.diff(np.rint(np.cumsum([0.0, *step.shares]) * step.dim).astype(int))
        if min(sizes) < len(step.rows):
            raise BadParameter(
                f"dim = {step.dim} is too small for {len(step.rows)} rows in blocks {list(sizes)}"
            )
        self.parts = np.split(np.arange(step.dim), np.cumsum(sizes)[:-1])
        self.X = np.stack([self._rows(g, sizes) for g in self.generators])
        self.lengths = np.einsum("sjj->sj", self.gram())[:, : len(step.rule.moving)]
        views = max(1, len(step.rule.views))
        per = self.count * step.batch * (views * step.dim + len(step.rule.randoms))
        self.chunk = int(max(1, min(CHUNK, MOST_DRAWN // per)))
        self.drawn = self.chunk

    def _rows(self, generator: np.random.Generator, sizes: Any) -> Array:
        found = []
        for gram, size in zip(self.gram0, sizes, strict=True):
            values, vectors = np.linalg.eigh(gram)
            basis = np.linalg.qr(generator.standard_normal((size, len(gram))))[0]
            root = vectors * np.sqrt(np.maximum(values, 0.0) * self.step.dim)
            found.append(root @ basis.T)
        return np.concatenate(found, axis=1)

    def gram(self) -> Array:
        """Gram matrices of all rows (S, L, L)."""
        return np.asarray(self.X @ self.X.transpose(0, 2, 1) / self.step.dim)

    def grams(self) -> Array:
        """Gram matrices of all rows in each block (S, B, L, L)."""
        parts = (self.X[..., part] for part in self.parts)
        return np.stack([x @ x.swapaxes(1, 2) / self.step.dim for x in parts], axis=1)

    def _fresh(self) -> None:
        step, shape = self.step, (self.chunk, self.step.batch)
        views, randoms = len(step.rule.views), len(step.rule.randoms)
        self.z = np.stack(
            [g.standard_normal((*shape, views, step.dim)) for g in self.generators], 1
        )
        self.u = np.stack([g.random((*shape, randoms)) for g in self.generators], 1)
        self.drawn = 0

    def advance(self) -> None:
        """One step of all seeds."""
        if self.drawn == self.chunk:
            self._fresh()
        step, rule, sq = self.step, self.step.rule, np.sqrt(self.step.dim)
        z, u = self.z[self.drawn], self.u[self.drawn]
        self.drawn += 1
        noise = np.empty_like(z)
        for root, part in zip(step.roots, self.parts, strict=True):
            noise[..., part] = np.einsum("ab,snbi->snai", root, z[..., part])
        shape = z.shape[:2]
        known = self.known(self.gram(), shape)
        x = np.empty_like(z)
        numbers = {r: n for n, r in enumerate(rule.randoms)}
        places = {v: n for n, v in enumerate(rule.views)}
        for item in step.order:
            if isinstance(item, Random):
                known[item] = step.draw(item, u[..., numbers[item]], known)
                continue
            a = places[item]
            x[:, :, a] = self._view(item, noise[:, :, a], known, sq)
            lam = np.einsum("sld,snd->lsn", self.X, x[:, :, a]) / sq
            known |= {Field(row, item): lam[n] for n, row in enumerate(step.rows)}
        psi, Phi, chi = step.coefficients(known, shape)
        p = len(rule.moving)
        rate = step.rate(self.n)
        new = self.X[:, :p] + rate / sq * np.einsum("jasn,snad->sjd", psi, x) / shape[1]
        new += rate / step.dim * np.einsum("jls,sld->sjd", Phi.mean(axis=-1), self.X)
        self.X[:, :p] = new
        self.theta = self.theta + rate / step.dim * chi.mean(axis=-1)
        if self.is_constrained:
            own = self.X[:, :p]
            Q = own @ own.transpose(0, 2, 1) / step.dim
            self.X[:, :p] = self.constrained(Q) @ own
        self.n += 1

    def _view(self, view: View, noise: Array, known: Any, sq: float) -> Array:
        step = self.step
        x = np.empty_like(noise)
        for f, part in zip(step.scales[view], self.parts, strict=True):
            scale = np.broadcast_to(0.0 if f is None else f(known), noise.shape[:2])
            x[..., part] = scale[..., None] * noise[..., part]
        places = {row: n for n, row in enumerate(step.rows)}
        replaced = list(view.replaces)
        if replaced:
            U = self.X[:, [places[r] for r in replaced]]
            inner = np.linalg.inv(U @ U.transpose(0, 2, 1))
            dual = inner @ U  # (S, R, d): coordinates of a vector along the rows
            x -= np.einsum("snr,srd->snd", np.einsum("srd,snd->snr", U, x), dual)
        for row, f in step.latents[view].items():
            c = np.broadcast_to(0.0 if f is None else f(known), noise.shape[:2])
            along = self.X[:, places[row]] / sq
            if row in view.replaces:
                along = sq * dual[:, replaced.index(row)]
            x += c[..., None] * along[:, None, :]
        return x
