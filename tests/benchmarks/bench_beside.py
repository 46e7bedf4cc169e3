"""Calls of `dmft` and the same work by numbalsoda, Cython and NumPy, in turn, minimum of five.

`python tests/benchmarks/bench_beside.py` needs `pip install numbalsoda cython` (numbalsoda is built
with gfortran and CMake). LSODA integrates the compiled right-hand side of the same problem, so that
only the integrators and the code around them differ; Cython compiles the closed forms of one unit.
"""

import importlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from bench_dynamics import NOISE, committee, repeat
from numba import carray, cfunc
from numbalsoda import lsoda, lsoda_sig
from table import line

import dmft

CYTHON = """# cython: boundscheck=False, cdivision=True
from libc.math cimport asin, sqrt, M_PI
import time
cdef void rates(double t, double *y, double *par, double *out) noexcept nogil:
    cdef double Q = y[0], m = y[1], P = par[0], rate = par[1], noise = par[2]
    cdef double a = 1 + Q, b = 1 + P, D = a * b - m * m, E = (1 + 2 * Q) * b - 2 * m * m
    cdef double r = sqrt(D), s = sqrt(1 + 2 * Q)
    out[1] = 2 / M_PI / a * ((P * a - m * m) / r - m / s)
    out[0] = 4 / M_PI / a * (m / r - Q / s) + rate * (2 * noise / (M_PI * s) + 4 / (M_PI * M_PI * s)
        * (asin(Q / (1 + 3 * Q)) + asin((P * (1 + 2 * Q) - 2 * m * m) / E)
           - 2 * asin(m / sqrt(E * (1 + 3 * Q)))))
def repeat(int n, double[::1] y, double[::1] par, double[::1] out):
    cdef int i
    for i in range(n):
        rates(0.0, &y[0], &par[0], &out[0])
"""


def alternated(*calls, rounds=5):
    """Least CPU time of each call, called in turn."""
    for call in calls:
        call()
    times = [[] for _ in calls]
    for _ in range(rounds):
        for call, found in zip(calls, times, strict=True):
            began = time.process_time()
            call()
            found.append(time.process_time() - began)
    return [min(found) for found in times]


def against(name, ours, theirs, what, *errors, number=1, unit=1e3, units="ms"):
    mine, other = (unit * t / number for t in alternated(ours, theirs))
    line(name, f"{mine:.3g} {units}", f"{other:.3g} {units} {what}", " ".join(errors))


def by_lsoda(p, k, dim):
    """The equations, a start, and LSODA over saved times with the same right-hand side."""
    model, equations = committee(p, k)
    start = dmft.random_overlaps(model, dim, seed=0)
    problem = dmft.build(equations)
    values = equations.values(start, {})
    y = problem.pack({"Q": start.Q, "M": start.M})
    par = problem.pack_parameters(values.scalars, values.arrays)
    rhs, n, n_par = problem.rhs, y.size, par.size

    @cfunc(lsoda_sig)
    def rates(t, u, du, data):
        widths = np.array([p, k])
        rhs(t, carray(u, (n,)), widths, carray(data, (n_par,)), carray(du, (n,)))

    def run(times, rtol):
        found, success = lsoda(rates.address, y, times, par, rtol=rtol, atol=rtol / 100)
        assert success
        return found

    return equations, start, problem, y, par, run


def risk_of(rows, start, p, k):
    """Population risk of rows of states, in NumPy."""
    Q = rows[:, : p * p].reshape(-1, p, p)
    M, P = rows[:, p * p :].reshape(-1, p, k), start.P

    def pairs(C, a, b):
        return (2 / np.pi * np.arcsin(C / np.sqrt((1 + a)[..., None] * (1 + b)[..., None, :]))).sum(
            (-1, -2)
        )

    q = np.diagonal(Q, axis1=1, axis2=2)
    r = np.broadcast_to(np.diag(P), (len(rows), k))
    return (pairs(Q, q, q) / p**2 - 2 * pairs(M, q, r) / (p * k) + pairs(P, r, r) / k**2) / 2


def small():
    """A short run of one unit."""
    equations, start, *_, run = by_lsoda(1, 1, 100)
    times = np.linspace(0.0, 10.0, 101)
    calls = 200
    against(
        "solve, one erf unit to t = 10",
        lambda: [dmft.solve(equations, start, 10.0) for _ in range(calls)],
        lambda: [run(times, 1e-8) for _ in range(calls)],
        "numbalsoda",
        number=calls,
    )


def escapes():
    """Escape of two units: LSODA on 301 saved times, then the first row below the level."""
    _equations, start, problem, *_, run = by_lsoda(2, 2, 1000)
    times, calls = np.linspace(0.0, 300.0, 301), 20
    how = {"start": start, "t_max": 300.0, "fraction": 0.5, "reference": "plateau"}

    def theirs():
        risk = risk_of(run(times, 1e-8), start, 2, 2)
        level = 0.5 * risk[np.argmin(np.abs(np.gradient(np.log(risk)))[: risk.size // 2])]
        return times[np.argmax(risk < level)]

    against(
        "escape time, two erf units, t = 300",
        lambda: [dmft.escape_time(problem, **how) for _ in range(calls)],
        lambda: [theirs() for _ in range(calls)],
        "numbalsoda",
        number=calls,
    )


def long_run():
    """Four units: all saved risks to t = 1000, and the last one at t = 1e4."""
    equations, start, *_, run = by_lsoda(4, 2, 1000)
    for t_max, count, rtol, theirs in ((1e3, 101, 1e-8, 1e-9), (1e4, 2, 1e-8, 1e-8)):
        times = np.linspace(0.0, t_max, count)
        exact = dmft.solve(equations, start, t_max, rtol=1e-12, atol=1e-15, save_at=times).risk

        def ours(times=times, t_max=t_max, rtol=rtol):
            return dmft.solve(equations, start, t_max, rtol=rtol, save_at=times).risk

        def other(times=times, theirs=theirs):
            return risk_of(run(times, theirs), start, 4, 2)

        errors = [f"{np.max(np.abs(f() / exact - 1)):.1e}" for f in (ours, other)]
        against(f"p = 4, k = 2 to t = {t_max:g}, {count} risks", ours, other, "numbalsoda", *errors)


def right_hand_side():
    """One unit: the compiled right-hand side and Cython."""
    _, start, problem, y, par, _ = by_lsoda(1, 1, 100)
    folder = Path(tempfile.mkdtemp())
    (folder / "one_unit.pyx").write_text(CYTHON)
    command = [sys.executable, "-m", "cython", "-3", str(folder / "one_unit.pyx")]
    subprocess.run(command, check=True, capture_output=True)
    include = importlib.import_module("sysconfig").get_paths()["include"]
    flags = ["gcc", "-O3", "-march=native", "-shared", "-fPIC", f"-I{include}"]
    library = [str(folder / "one_unit.c"), "-o", str(folder / "one_unit.so"), "-lm"]
    subprocess.run([*flags, *library], check=True)
    sys.path.insert(0, str(folder))
    theirs = importlib.import_module("one_unit").repeat
    n, out, found = 100_000, np.empty_like(y), np.empty_like(y)
    values = np.array([start.P[0, 0], 0.5, NOISE])
    widths = np.array([1, 1])
    against(
        "right-hand side, one erf unit",
        lambda: repeat(problem.rhs, n, y, widths, par, out),
        lambda: theirs(n, y, values, found),
        "Cython",
        number=n,
        unit=1e9,
        units="ns",
    )
    assert np.allclose(out, found, rtol=1e-12), (out, found)


def simulation():
    """One run of SGD, two units on two, d = 1000: a step and coordinate."""
    dim, steps = 1000, 20_000
    model, _ = committee(2, 2)
    from scipy.special import erf

    def theirs():
        rng = np.random.default_rng(0)
        W, T = rng.standard_normal((2, 2, dim))
        slope = np.sqrt(2 / np.pi) / np.sqrt(dim)
        for _ in range(steps):
            x = rng.standard_normal(dim)
            h, s = W @ x / np.sqrt(dim), T @ x / np.sqrt(dim)
            y = erf(s / np.sqrt(2)).mean() + np.sqrt(NOISE) * rng.standard_normal()
            error = y - erf(h / np.sqrt(2)).mean()
            W += np.outer(0.5 * slope * error * np.exp(-(h**2) / 2), x)

    algorithm, t_max = dmft.SGD(0.5), 0.5 * steps / (2 * dim)
    against(
        "simulated SGD, p = k = 2, d = 1000, step and coordinate",
        lambda: dmft.simulate(model, algorithm, dim, t_max, 1, threads=1),
        theirs,
        "NumPy",
        number=steps * dim,
        unit=1e9,
        units="ns",
    )


def main():
    """Print the table."""
    line("CPU time, minimum of five", "dmft", "beside", "relative errors of both")
    for row in (small, escapes, long_run, right_hand_side, simulation):
        row()


if __name__ == "__main__":
    main()
