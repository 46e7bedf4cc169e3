"""What descent on repeated data learns in 16 steps, over samples per dimension and learning rate.

Student and teacher are one smooth |h|, an even target: the overlap starts at 0.2 and is learned if
it reaches 1/2. The two-time equations are built once and solved at each point of the plane. The
curve is traced with two sets of nodes, which gives its sampling error, and compared with descent in
d = 500 on both sides. Run as `python examples/dmft_learnability.py [figure.png]`; the last number
is the largest gap of overlaps between equations and descent.
"""

import sys
import time
from functools import partial

import numpy as np
import sympy as sp

import dmft

unit = dmft.Committee(sp.sqrt(sp.Symbol("z", real=True) ** 2 + sp.Rational(1, 4)), 1)
model, start, steps = dmft.Model(unit, unit), dmft.Overlaps([[1.0]], [[0.2]]), 16
equations = dmft.derive(model, dmft.GradientDescent(0.1, samples_per_dim=4))
how = {"samples": 2**13, "scrambles": 1, "threads": 1}


def overlap(seed=0, **values):
    """Cosine of student and teacher at the end; diverged where the student is twice too long."""
    run = dmft.solve(equations, start, steps, seed=seed, **how, **values)
    length = np.sqrt(run.Q[-1, 0, 0])
    return (run.M[-1, 0, 0] / length, "ok") if length < 2.0 else (np.nan, "diverged")


began, curves, gap = time.perf_counter(), [], 0.0
x, y = ("samples_per_dim", 2.0, 10.0), ("learning_rate", 0.02, 0.3)
for seed in (0, 1):
    trace = {"level": 0.5, "log": (x[0], y[0]), "grid": (5, 5), "step": 0.08}
    found = dmft.boundary(partial(overlap, seed), x, y, **trace)
    print(f"{found}, {time.perf_counter() - began:.1f} s so far")
    curves += found.curves
other = np.interp(curves[0].y, curves[1].y, curves[1].x)  # both run upwards
print(f"sampling error of alpha: {np.abs(other / curves[0].x - 1).max() / 2**0.5:.1%}")
for alpha in (2.8, 4.6):
    descent = dmft.GradientDescent(0.1, samples_per_dim=alpha)
    runs = dmft.simulate(model, descent, 500, steps, 16, start).runs
    ends = runs.M[:, -1, 0, 0] / np.sqrt(runs.Q[:, -1, 0, 0])
    theory, _ = overlap(samples_per_dim=alpha, learning_rate=0.1)
    print(f"alpha = {alpha}: {ends.mean():.3f} +- {ends.std() / 15**0.5:.3f}, theory {theory:.3f}")
    gap = max(gap, abs(ends.mean() - theory))
print(f"largest gap: {gap:.3f}")

if len(sys.argv) > 1:
    wide = [(x[0], np.geomspace(2, 16, 22)), (y[0], np.geomspace(0.02, 1, 22))]
    axis = dmft.plot(dmft.phase_diagram(overlap, *wide))
    for curve in curves:
        axis.plot(curve.x, curve.y, color="white", linewidth=1.5)
    axis.set(xlabel=r"samples per dimension $\alpha$", ylabel=r"learning rate $\eta$")
    axis.figure.savefig(sys.argv[1], dpi=150)
