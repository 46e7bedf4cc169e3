"""Speed of right-hand side, build and trajectory (`python tests/benchmarks`).

Every line is a ratio against a baseline of the same run (`plain_loops.py`, `plain_relu.py`, Euler
at dt = 0.01) or a wall time of a fresh process; best of several repetitions, one thread.
"""

import time

import numpy as np
import plain_loops
import plain_relu
import sympy as sp
from numba import njit
from table import line

import dmft
from dmft.compiled.vectors import LANES
from dmft.gaussian.tables.factor_table import factor_table
from dmft.model import FIELD
from dmft.special.averages import pair_average

Z = sp.Symbol("z", real=True)
ERF = sp.erf(Z / sp.sqrt(2))
RELU = sp.Max(0, Z)
GAMMA, NOISE = 0.5, 1e-3


@njit(cache=True)
def repeat(rhs, n, y, widths, par, out):
    for _ in range(n):
        rhs(0.0, y, widths, par, out)


def best(call, budget=0.5):
    """Best time of repeated calls within a budget of seconds."""
    call()
    times, end = [], time.perf_counter() + budget
    while time.perf_counter() < end or len(times) < 5:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def committee(p, k, activation=ERF):
    network = (dmft.Committee(activation, width) for width in (p, k))
    model = dmft.Model(*network, NOISE)
    return model, dmft.derive(model, dmft.SGD(GAMMA))


def right_hand_sides():
    for p, k in [(1, 1), (2, 2), (4, 2), (8, 4), (16, 4)]:
        right_hand_side("erf", ERF, plain_loops, p, k, max(10, 20000 // (p + k) ** 3))
    for p, k in [(2, 2), (4, 2), (8, 4)]:
        right_hand_side("ReLU", RELU, plain_relu, p, k, max(1, 20000 // (p + k) ** 4))


def right_hand_side(name, activation, plain, p, k, n):
    model, equations = committee(p, k, activation)
    start = dmft.random_overlaps(model, 100, seed=0)
    problem = dmft.build(equations)
    values = equations.values(start, {})
    y = problem.pack({"Q": start.Q, "M": start.M})
    par = problem.pack_parameters(values.scalars, values.arrays)
    widths, out = np.array([p, k]), np.empty_like(y)
    dQ, dM = np.empty((p, p)), np.empty((p, k))
    many = 10 * n
    ours = best(lambda: repeat(problem.rhs, many, y, widths, par, out)) / many
    args = (start.Q, start.M, start.P, GAMMA, NOISE, dQ, dM)
    theirs = best(lambda: plain.repeat_rates(n, *args)) / n
    rates = problem.unpack(out, values.widths)
    assert np.allclose(rates["Q"], dQ, atol=1e-12)
    assert np.allclose(rates["M"], dM, atol=1e-12)
    line(
        f"{name} right-hand side (p,k) = ({p},{k})",
        f"{ours * 1e6:.2f} us",
        f"{theirs * 1e6:.1f} us",
        f"{theirs / ours:.1f}x",
    )


def states_side_by_side():
    """A right-hand side in lanes, time of one state, against the same of a state alone."""
    for p, k in [(1, 1), (2, 2), (4, 2), (8, 4), (16, 4)]:
        model, equations = committee(p, k)
        problem = dmft.build(equations)
        start = dmft.random_overlaps(model, 100, seed=0)
        values = equations.values(start, {})
        y = problem.pack({"Q": start.Q, "M": start.M})
        par = problem.pack_parameters(values.scalars, values.arrays)
        widths, out = np.array([p, k]), np.empty_like(y)
        rows = [np.repeat(x[:, None], LANES, axis=1) for x in (y, par, out)]
        many = max(10, 20000 // (p + k) ** 3)
        code = problem.lanes.function
        lanes = best(lambda: repeat(code, many, rows[0], widths, rows[1], rows[2])) / many  # noqa: B023
        alone = best(lambda: repeat(problem.rhs, many, y, widths, par, out)) / many  # noqa: B023
        line(
            f"erf right-hand side of {LANES} states, (p,k) = ({p},{k}), one state",
            f"{lanes / LANES * 1e6:.3f} us",
            f"{alone * 1e6:.3f} us",
            f"{alone / lanes * LANES:.1f}x",
        )


def open_activations():
    """The drift of a tanh committee by tables, and one call of a table."""
    table = factor_table(sp.tanh(FIELD)).values

    @njit
    def calls(count):
        total = 0.0
        for _ in range(count):
            total += pair_average(table, table, 1.0, 0.3, 1.2)
        return total

    line("one average E[tanh(u) tanh(v)] by table", f"{best(lambda: calls(1000)) * 1e3:.2f} us")
    flow = ("flow", dmft.GradientFlow(), {})
    for (p, k), (name, algorithm, nodes) in (
        ((4, 2), flow),
        ((8, 4), flow),
        ((4, 2), SGD_ON_NODES),
    ):
        network = (dmft.Committee(sp.tanh(Z), width) for width in (p, k))
        model = dmft.Model(*network, NOISE)
        start = dmft.random_overlaps(model, 100, seed=0)
        equations = dmft.derive(model, algorithm)
        problem = dmft.build(equations)
        values = equations.values(start, nodes)
        y = problem.pack({"Q": start.Q, "M": start.M})
        scalars = {key: values.scalars[key] for key in problem.parameters}
        par = problem.pack_parameters(scalars, values.arrays)
        widths, out = np.array([values.widths[w] for w in problem.widths]), np.empty_like(y)
        ours = best(lambda: repeat(problem.rhs, 10, y, widths, par, out)) / 10  # noqa: B023
        line(f"tanh right-hand side (p,k) = ({p},{k}), {name}", f"{ours * 1e6:.0f} us")


SGD_ON_NODES = ("SGD on 8 x 512 nodes", dmft.SGD(GAMMA), {"nodes": 512})


def trajectory():
    model, equations = committee(4, 2)
    start = dmft.random_overlaps(model, 1000, seed=0)
    times = np.arange(0.0, 1000.5, 10.0)
    exact = dmft.solve(equations, start, 1e3, rtol=1e-13, atol=1e-15, save_at=times)
    run = dmft.solve(equations, start, 1e3, rtol=1e-8, save_at=times)
    ours = best(lambda: dmft.solve(equations, start, 1e3, rtol=1e-8, save_at=times))
    by_euler = np.empty(times.size)

    def integrate():
        Q, M = start.Q.copy(), start.M.copy()
        by_euler[0] = plain_loops.risk(Q, M, start.P)
        for number in range(1, times.size):
            plain_loops.euler(Q, M, start.P, GAMMA, NOISE, 0.01, 1000)
            by_euler[number] = plain_loops.risk(Q, M, start.P)

    euler = best(integrate, budget=2.0)
    line(
        "trajectory p=4, k=2 to t=1000 (rtol 1e-8; Euler dt=0.01)",
        f"{ours * 1e3:.2f} ms",
        f"{euler * 1e3:.0f} ms",
        f"{euler / ours:.0f}x",
    )
    how = {"method": "BDF", "rtol": 5e-8, "save_at": times}
    ours = best(lambda: dmft.solve(equations, start, 1e3, **how))
    off = np.max(np.abs(dmft.solve(equations, start, 1e3, **how).risk / exact.risk - 1.0))
    line("  by BDF at rtol 5e-8, largest relative risk error", f"{ours * 1e3:.2f} ms", f"{off:.1e}")
    for name, scale in (("absolute", 1.0), ("relative", exact.risk)):
        mine, theirs = (np.max(np.abs(y - exact.risk) / scale) for y in (run.risk, by_euler))
        line(f"  largest {name} risk error on 101 saved times", f"{mine:.1e}", f"{theirs:.1e}")


def smallest_solve():
    """What a call of `solve` costs beside its loop."""
    model, equations = committee(1, 1)
    start = dmft.random_overlaps(model, 100, seed=0)
    ours = best(lambda: dmft.solve(equations, start, 10.0))
    line("solve p=1, k=1 to t=10", f"{ours * 1e3:.3f} ms")
    ours = best(lambda: dmft.solve(equations, start, 10.0).message)
    line("  with its message read, and the rounding of the run with it", f"{ours * 1e3:.3f} ms")


def long_runs():
    """Past relaxation: seconds of the loop alone, against rk5 at rtol 1e-8, and final errors."""
    model, equations = committee(4, 2)
    start = dmft.random_overlaps(model, 1000, seed=0)
    for t_max in (1e3, 1e4, 1e5):

        def run(method, rtol, t_max=t_max):
            options = {"method": method, "rtol": rtol, "atol": rtol / 100, "save_at": 2}
            runs = [dmft.solve(equations, start, t_max, **options) for _ in range(4)]
            return min(r.statistics["seconds"] for r in runs), runs[0].risk[-1]

        exact = run("rk8", 1e-11)[1]
        slow, far = run("rk5", 1e-8)
        for method, rtol in (("BDF", 1e-6), (None, 1e-8)):
            seconds, risk = run(method, rtol)
            line(
                f"p=4, k=2 to t={t_max:g}, {method or 'default'} at rtol {rtol:g} (rk5 1e-8)",
                f"{seconds * 1e3:.2f} ms",
                f"{slow * 1e3:.2f} ms",
                f"{slow / seconds:.1f}x",
            )
            errors = (f"{abs(r / exact - 1):.1e}" for r in (risk, far))
            line("  relative error of the last risk", *errors)


def main():
    line("what", "dmft", "baseline", "ratio")
    right_hand_sides()
    states_side_by_side()
    open_activations()
    trajectory()
    smallest_solve()
    long_runs()


if __name__ == "__main__":
    main()
