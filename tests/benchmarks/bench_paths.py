"""Speed of maps and of stochastic paths (`python tests/benchmarks`).

The baseline of the paths is Euler-Maruyama written with NumPy arrays, all paths at once.
"""

import math
import time

import numpy as np
import sympy as sp
from bench_dynamics import best
from numba import njit
from table import line

import dmft
from dmft.solvers.events import Event
from dmft.solvers.problem import Block, Problem
from dmft.solvers.signatures import JACOBIAN_SIGNATURE, RHS_SIGNATURE
from dmft.solvers.solve import solve_problem
from dmft.solvers.stochastic.paths import solve_paths

GAMMA, DIM, PATHS, DT, T_MAX = 1 / 12, 3000, 10_000, 0.02, 8.0


@njit(RHS_SIGNATURE, nogil=True)
def logistic(t, y, widths, par, out):
    out[0] = 3.9 * y[0] * (1.0 - y[0]) - y[0]


@njit(RHS_SIGNATURE, nogil=True)
def rotation(t, y, widths, par, out):
    out[0], out[1] = y[1], -y[0]


@njit(RHS_SIGNATURE, nogil=True)
def drift(t, y, widths, par, out):
    """One spherical neuron of phase retrieval without label noise (theory/one_pass F.1)."""
    out[0] = y[0] * (4.0 - 24.0 * par[0]) * (1.0 - y[0] * y[0])


@njit(JACOBIAN_SIGNATURE, nogil=True)
def covariance(t, y, widths, par, out):
    w, gamma = y[0] * y[0], par[0]
    out[0, 0] = 4.0 * (
        12.0 - 4.0 * w - 28.0 * w * w + 20.0 * w**3 - 672.0 * gamma * w * (1.0 - w) ** 2
        + gamma * gamma * w * (7776.0 - 18432.0 * w + 13536.0 * w * w - 2880.0 * w**3)
    )  # fmt: skip


RETRIEVAL = Problem("sde", drift, (Block("m", ()),), (), ("gamma",), diffusion=covariance)


def exits(method="euler", threads=None, bridge=True):
    start = np.random.default_rng(0).normal(size=PATHS) / math.sqrt(DIM)
    level = math.sqrt(0.1)
    return solve_paths(
        RETRIEVAL, {"m": start}, T_MAX, paths=PATHS, dt=DT, method=method, widths={},
        parameters={"gamma": GAMMA}, noise_scale=GAMMA / DIM, threads=threads, save_at=2,
        events=[Event("m", level, 1), Event("m", -level, -1)], bridge=bridge,
    )  # fmt: skip


def exits_with_arrays():
    rng = np.random.default_rng(0)
    m = rng.normal(size=PATHS) / math.sqrt(DIM)
    times, alive = np.full(PATHS, np.nan), np.ones(PATHS, dtype=bool)
    for step in range(round(T_MAX / DT)):
        w = m * m
        sigma = 4.0 * (
            12.0 - 4.0 * w - 28.0 * w**2 + 20.0 * w**3 - 672.0 * GAMMA * w * (1.0 - w) ** 2
            + GAMMA**2 * w * (7776.0 - 18432.0 * w + 13536.0 * w**2 - 2880.0 * w**3)
        )  # fmt: skip
        noise = np.sqrt(GAMMA / DIM * DT * sigma) * rng.normal(size=m.size)
        m = m + DT * (4.0 - 24.0 * GAMMA) * m * (1.0 - w) + noise
        out = m * m >= 0.1
        times[np.flatnonzero(alive)[out]] = (step + 1) * DT
        alive[np.flatnonzero(alive)[out]] = False
        m = m[~out]
        if m.size == 0:
            break
    return times


def steps_of_loops():
    logistic_map = Problem("map", logistic, (Block("y", ()),), ())
    flow = Problem("ode", rotation, (Block("y", ("n",)),), ("n",))
    n = 10**6
    seconds = best(lambda: solve_problem(logistic_map, {"y": 0.3}, n, widths={}, save_at=2))
    line("a step of a map of one entry", f"{seconds / n * 1e9:.0f} ns")
    seconds = best(lambda: solve_problem(logistic_map, {"y": 0.3}, n, widths={}))
    line("  the same, every step saved", f"{seconds / n * 1e9:.0f} ns")
    run = solve_problem(flow, {"y": [1.0, 0.0]}, 1e4, widths={"n": 2}, save_at=2)
    seconds = best(lambda: solve_problem(flow, {"y": [1.0, 0.0]}, 1e4, widths={"n": 2}, save_at=2))
    line("a step of rk5, two entries", f"{seconds / run.statistics['steps'] * 1e9:.0f} ns")


def exit_times():
    began = time.perf_counter()
    arrays = exits_with_arrays()
    plain = time.perf_counter() - began
    for method in ("euler", "weak2"):
        run = exits(method)
        seconds, one = best(lambda: exits(method)), best(lambda: exits(method, threads=1))  # noqa: B023
        steps = run.statistics["steps"]
        line(
            f"{PATHS} exit times of phase retrieval, d = {DIM}, {method}",
            f"{seconds:.3f} s",
            f"{plain:.2f} s",
            f"{plain / seconds:.1f}x",
        )
        line("  a step of a path, one thread", f"{one / steps * 1e9:.0f} ns")
        times = np.fmin(*(passage.times for passage in run.first_passage.values()))
        line("  mean exit time (bridge; arrays: by steps)", f"{times.mean():.4f}",
             f"{np.nanmean(arrays):.4f}")  # fmt: skip


def derived_exits():
    """Through the verbs: random starts, derived covariance; and the exact chain."""
    square = dmft.Committee(sp.Symbol("z", real=True) ** 2, width=1)
    model, sgd = dmft.Model(square, square), dmft.SGD(GAMMA, constraint="sphere")
    eqs = dmft.derive(model, sgd, dim=DIM, fluctuations=True)
    options = {"fraction": 0.1, "paths": PATHS, "dt": 0.005}
    dmft.escape_time(eqs, None, T_MAX, **{**options, "paths": 10})
    seconds = best(lambda: dmft.escape_time(eqs, None, T_MAX, **options), 2)
    line(f"{PATHS} exit times through dmft.escape_time, d = {DIM}", f"{seconds:.2f} s", "< 10 s")
    level = dmft.FirstPassage("risk", 0.9, relative=True)
    chain = {"method": "overlaps", "first_passage": level, "save_at": 2}
    dmft.simulate(model, sgd, 1000, T_MAX, 4, **chain)
    began, used = time.perf_counter(), time.process_time()
    truth = dmft.simulate(model, sgd, 1000, T_MAX, PATHS, **chain)
    seconds, used = time.perf_counter() - began, time.process_time() - used
    line(f"{PATHS} exit times of the overlap chain, d = 1000", f"{seconds:.1f} s", "< 60 s")
    line("  of both cores together", f"{used:.1f} s")
    steps = np.sum(np.fmin(truth.first_passage.times, T_MAX)) * 1000 / GAMMA
    line("  a step of a chain, watched, one core", f"{used / steps * 1e9:.0f} ns")


def main():
    line("what", "dmft", "baseline", "ratio")
    steps_of_loops()
    exit_times()
    derived_exits()


if __name__ == "__main__":
    main()
