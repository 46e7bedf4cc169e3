"""Simulated runs of a rule that is written with vectors, in R^d or by its exact Markov chain.

The chain is that of the Gram matrices (theory/update_rules 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmft.arrays import Array
from dmft.errors import BadParameter
from dmft.initial_conditions import Overlaps, steps_before
from dmft.model.schedule import Schedule as Table
from dmft.model.update import VectorRule
from dmft.names import BLOCKS, VERSION, Status
from dmft.progress import ProgressOption
from dmft.rules import Field, Random, View
from dmft.simulation.ensemble import Ensemble, averaged
from dmft.simulation.jobs import save_steps
from dmft.simulation.steps.vectors import CHUNK, Runs, Step, Weights
from dmft.solvers.jobs import Job, run_tasks
from dmft.special.sampling import as_seeds
from dmft.validation import as_count, as_positive, shown


class Chain(Runs):
    """The exact Markov chain of the Gram matrices, at a cost that does not depend on d."""

    def __init__(self, step: Step, start: Overlaps, seeds: Sequence[int]) -> None:
        super().__init__(step, start, seeds)
        if step.batch > 1:
            raise BadParameter("the chain of overlaps requires batches of one sample")
        self.G = np.repeat(self.gram0[None], self.count, axis=0)
        p = len(step.rule.moving)
        self.lengths = np.einsum("sjj->sj", self.G.sum(axis=1))[:, :p]
        sizes = np.rint(step.shares * step.dim)
        self.free = sizes - [np.linalg.matrix_rank(y, tol=1e-9) for y in self.gram0]
        if min(self.free) < len(step.rule.views):
            raise BadParameter(f"dim = {step.dim} is too small for {len(step.rows)} rows")
        self.drawn = CHUNK

    def _fresh(self) -> None:
        """Random numbers of the next steps, from the stream of each seed."""
        rule, blocks = self.step.rule, len(self.step.shares)
        rows, views = len(self.step.rows), len(rule.views)
        degrees = self.free[:, None] - np.arange(views)
        one = (CHUNK, blocks)
        parts = [
            (
                g.standard_normal((*one, rows, views)),
                g.random((CHUNK, len(rule.randoms))),
                g.standard_normal((*one, views, views)),
                np.sqrt(g.chisquare(np.broadcast_to(degrees, (*one, views)))),
            )
            for g in self.generators
        ]
        self.normal, self.u, lower, root = (np.stack(y, axis=1) for y in zip(*parts, strict=True))
        # Bartlett's factor of a Wishart matrix.
        lower = np.tril(lower, -1)
        lower[..., range(views), range(views)] = root
        whole = np.array(self.step.roots) @ lower
        self.wishart = whole @ whole.swapaxes(-1, -2)
        self.drawn = 0

    def grams(self) -> Array:
        """Gram matrices of all rows in each block (S, B, L, L)."""
        return self.G

    def advance(self) -> None:
        """One step of all seeds."""
        step, rule = self.step, self.step.rule
        views, count, blocks = rule.views, len(step.rows), len(step.shares)
        if self.drawn == CHUNK:
            self._fresh()
        normal, u = self.normal[self.drawn], self.u[self.drawn].T
        self.drawn += 1
        known = self.known(self.G.sum(axis=1), (self.count,))
        lam = np.zeros((self.count, blocks, count, len(views)))
        scale = np.zeros((self.count, blocks, len(views)))
        z = np.einsum("selb,eab->sela", normal, np.array(step.roots))
        numbers = {r: n for n, r in enumerate(rule.randoms)}
        places = {v: n for n, v in enumerate(views)}
        for item in step.order:
            if isinstance(item, Random):
                known[item] = step.draw(item, u[numbers[item]], known)
                continue
            a = places[item]
            for e, f in enumerate(step.scales[item]):
                scale[:, e, a] = 0.0 if f is None else f(known)
            lam[..., a] = self._fields(item, z[..., a] * scale[:, :, None, a], known)
            total = lam[..., a].sum(axis=1)
            known |= {Field(row, item): total[:, n] for n, row in enumerate(step.rows)}
        psi, Phi, chi = step.coefficients(known, (self.count,))
        self._move(np.moveaxis(psi, -1, 0), np.moveaxis(Phi, -1, 0), lam, scale)
        self.theta = self.theta + step.rate(self.n) / step.dim * chi
        self.n += 1

    def _fields(self, view: View, z: Array, known: Any) -> Array:
        """Fields (S, E, L) of a view, from normal numbers."""
        step = self.step
        places = {row: n for n, row in enumerate(step.rows)}
        A, replaced = self.G, [places[r] for r in view.replaces]
        if replaced:
            inner = np.linalg.inv(self.G[..., replaced, :][..., replaced])
            K = self.G[..., replaced] @ inner
            A = self.G - K @ self.G[..., replaced, :]
        values, vectors = np.linalg.eigh(A)
        root = vectors * np.sqrt(np.maximum(values, 0.0))[..., None, :]
        found = np.einsum("seij,sej->sei", root, z)
        for row, f in step.latents[view].items():
            c = np.broadcast_to(0.0 if f is None else f(known), (self.count,))
            along = self.G[..., places[row]]
            if row in view.replaces:
                along = K[..., replaced.index(places[row])]
            found = found + c[:, None, None] * along
        return np.asarray(found)

    def _move(self, psi: Array, Phi: Array, lam: Array, scale: Array) -> None:
        """The exact increments of the Gram matrices."""
        step, p = self.step, len(self.step.rule.moving)
        inverse = np.linalg.pinv(self.G, rcond=1e-10, hermitian=True)
        inside = np.einsum("sela,selm,semb->seab", lam, inverse, lam) / step.dim
        across = self.wishart[self.drawn - 1] * scale[..., :, None] * scale[..., None, :] / step.dim
        D = np.einsum("sja,sela->sejl", psi, lam) + np.einsum("sjm,seml->sejl", Phi, self.G)
        V = np.einsum("sja,sela,sil->seji", psi, lam, Phi)
        S = np.einsum("sja,seab,sib->seji", psi, inside + across, psi)
        S += (V + V.swapaxes(-1, -2) + np.einsum("sjl,selm,sim->seji", Phi, self.G, Phi)) / step.dim
        rate = step.rate(self.n)
        G, eta = self.G.copy(), rate / step.dim
        G[..., :p, p:] += eta * D[..., p:]
        G[..., p:, :p] = G[..., :p, p:].swapaxes(-1, -2)
        G[..., :p, :p] += eta * (D[..., :p] + D[..., :p].swapaxes(-1, -2)) + eta * rate * S
        if self.is_constrained:
            factor = np.broadcast_to(np.eye(G.shape[-1]), (self.count, *G.shape[-2:])).copy()
            factor[:, :p, :p] = self.constrained(G.sum(axis=1)[:, :p, :p])
            G = factor[:, None] @ G @ factor[:, None].swapaxes(-1, -2)
        self.G = G


def simulate_rule(
    rule: VectorRule,
    dim: int,
    t_max: float,
    seeds: int | Sequence[int],
    start: Any,
    method: str = "weights",
    *,
    save_at: int | ArrayLike | None = None,
    progress: ProgressOption = None,
    keep_runs: bool = True,
    t_start: float | None = None,
    **parameters: Any,
) -> Ensemble:
    """Runs of a rule for several seeds: weights in R^d, or the exact chain of overlaps.

    The learning rate and coefficients of the step may depend on t; a `dmft.Schedule` of the rate
    is a function of tau = steps/d, which is the time of the runs then.
    """
    if not isinstance(start, Overlaps):
        raise BadParameter(f"a rule starts from dmft.Overlaps of its rows, got {shown(start)}")
    dim, end = as_count(dim, "dim"), as_positive(t_max, "t_max")
    step = Step(rule, dim, end, parameters, start, t_start)
    numbers, clock = as_seeds(seeds), step.clock
    saved = save_steps(t_max, clock, save_at)
    is_tabled = any(isinstance(y, Table) for y in parameters.values())
    make = Weights if method == "weights" else Chain
    state = make(step, start, numbers)
    job = Job(int(saved[-1]))
    (arrays,) = run_tasks([lambda: _run(state, saved, job)], job, 1, progress, "simulate")
    finite = [all(np.isfinite(y[s]).all() for y in arrays.values()) for s in range(len(numbers))]
    status = tuple(Status.OK if one else Status.NONFINITE for one in finite)
    P = start.P.sum(axis=0) if start.P.ndim == 3 else start.P
    counted: dict[str, Any] = {"time_step_times_dim": clock.time_step * dim}
    if clock.rates is not None and not is_tabled:  # no constant unit
        steps = saved + dim * steps_before(start, clock.begin)
        counted = {"time_step_times_dim": None, "steps_at_saved_times": steps.tolist()}
    found = Ensemble(
        t=clock.at(saved), dim=int(dim),
        **averaged(arrays, numbers, status),
        provenance={
            "version": VERSION, "model": repr(rule), "method": method,
            **counted,
            "time_unit": "tau = steps / d" if is_tabled else "t = steps * learning_rate / d",
        },
        parameters={str(s): float(y) for s, y in step.values.items() if y.is_number},
        constants={"P": P, **({BLOCKS["P"]: start.P} if start.P.ndim == 3 else {})},
    )  # fmt: skip
    return found if keep_runs else replace(found, runs=None)


def _run(state: Any, saved: NDArray[np.int64], job: Job) -> dict[str, Array]:
    """Values at the saved steps, seed first."""
    rows: list[dict[str, Array]] = []
    wanted = set(saved.tolist())
    with np.errstate(all="ignore"):
        for n in range(int(saved[-1]) + 1):
            if n in wanted:
                rows.append(state.seen())
            if n < saved[-1]:
                state.advance()
                job.add(1)
            if job.cancelled():
                raise KeyboardInterrupt
    return {name: np.stack([row[name] for row in rows], axis=1) for name in rows[0]}
