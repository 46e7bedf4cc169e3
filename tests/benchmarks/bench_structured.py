"""Spectra, optimisers and simulations (`python tests/benchmarks structured`).

CPU time, one thread, the least of many repeats: a right-hand side with 1, 16 and 256 blocks beside
inputs without a spectrum; AdaGrad-norm at d = 1000 with two eigenvalues; a step of simulated SGD.
"""

import time

import numpy as np
import sympy as sp
from bench_dynamics import ERF, repeat
from table import line

import dmft
from dmft.workflow.solving.inputs import problem_of, run_inputs

BLOCKS = (1, 16, 256)
CALLS, REPEATS = 200, 300
# Seconds that the public code needs at d = 1000, and relative error (theory/structured_inputs 9):
# least squares to T = 5, logistic regression to T = 1.
SQUARES, LOGISTIC = ((0.25, "6e-3"), (0.86, "1.5e-3")), ((14.0, "9e-5"),)
RTOL = 1e-9
DIM = 2000


def cpu(call, repeats):
    """Least CPU time of a call."""
    times = []
    for _ in range(repeats):
        began = time.process_time()
        call()
        times.append(time.process_time() - began)
    return min(times)


def right_hand_side(model, start):
    """CPU time of a right-hand side of SGD in compiled code."""
    equations = dmft.derive(model, dmft.SGD(0.5))
    problem, inputs = problem_of(equations), run_inputs(equations, start, {})
    y = problem.pack(inputs["state"])
    widths = np.array([inputs["widths"][n] for n in problem.widths])
    par = problem.pack_parameters(inputs["parameters"], inputs["constants"])
    out = np.empty_like(y)
    return cpu(lambda: repeat(problem.rhs, CALLS, y, widths, par, out), REPEATS) / CALLS


def blocks():
    """(p, k) = (2, 2), erf, label noise."""
    unit = dmft.Committee(ERF, 2)
    Q, M, P = np.eye(2) / 2, np.full((2, 2), 0.1), np.eye(2)
    plain = right_hand_side(dmft.Model(unit, unit, 0.1), dmft.Overlaps(Q, M, P))
    line("right-hand side, no spectrum", f"{1e6 * plain:.3f} us")
    first = None
    for count in BLOCKS:
        law = dmft.Spectrum(
            np.linspace(0.5, 1.5, count) if count > 1 else [1.0], [1 / count] * count
        )
        start = dmft.Overlaps(*(np.tile(x / count, (count, 1, 1)) for x in (Q, M, P)))
        took = right_hand_side(dmft.Model(unit, unit, 0.1, inputs=law), start)
        first = first or took
        line(f"right-hand side, {count} blocks", f"{1e6 * took:.3f} us", "", f"{took / first:.2f}")


def adagrad():
    """Two eigenvalues, d = 1000 (in which the equations do not hold d): both losses of section 9.

    Label noise, learning rate and start are not in section 9: they are this table's.
    """
    z = sp.Symbol("z", real=True)
    line_, sign = dmft.Committee(z, 1), dmft.Committee(sp.sign(z), 1)
    law = dmft.Spectrum([2.0, 0.5], [0.3, 0.7])
    zeros = np.zeros((2, 1, 1))
    start = dmft.Overlaps(zeros, zeros, np.array([0.3, 0.7])[:, None, None])
    flipped = {"label_flip": 0.1, "inputs": law}
    for name, model, loss, tau, public in (
        ("least squares", dmft.Model(line_, line_, 0.1, inputs=law), "squared", 5.0, SQUARES),
        ("logistic", dmft.Model(line_, sign, **flipped), "logistic", 1.0, LOGISTIC),
    ):
        equations = dmft.derive(model, dmft.AdaGradNorm(1.0, 1.0, loss=loss))
        first = start
        if loss == "logistic":  # no weights show no output: begin at small ones
            first = dmft.Overlaps(zeros + 1e-3, zeros, start.P)

        def run(rtol, equations=equations, first=first, tau=tau):
            return dmft.solve(equations, first, tau, rtol=rtol, atol=1e-2 * rtol)

        exact = run(1e-12).risk[-1]
        error = abs(run(RTOL).risk[-1] / exact - 1.0)
        took = cpu(lambda run=run: run(RTOL), 20)
        for seconds, off in public:
            line(
                f"AdaGrad-norm, {name} to T = {tau:g}, relative error {error:.0e}",
                f"{1e3 * took:.2f} ms", f"{1e3 * seconds:.0f} ms at {off}", f"{seconds / took:.0f}",
            )  # fmt: skip


def simulation():
    """Nanoseconds of a coordinate and step, two erf units that learn two."""
    unit = dmft.Committee(ERF, 2)
    model, sgd = dmft.Model(unit, unit, 0.1), dmft.SGD(1.0)
    start = dmft.random_overlaps(model, dim=DIM, seed=0)
    t_max, steps = 1.0, 2 * DIM

    def run():
        dmft.simulate(model, sgd, DIM, t_max, 1, start, save_at=2)

    run()
    took = cpu(run, 3) / (steps * DIM)
    line("simulated SGD, a coordinate and step", f"{1e9 * took:.1f} ns", "30 ns", "")


def main():
    """Print the table."""
    line("spectra, optimisers, simulations, CPU time", "dmft", "public", "ratio")
    blocks()
    adagrad()
    simulation()
