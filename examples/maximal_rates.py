"""Maximal learning rate of erf committees over width and label noise, teacher and student alike.

Noise makes the units longer than the teacher's. Up to the maximal rate they are finite and stable.
Beyond it all units grow without bound, or (widths 3 to 5, dashed) the symmetry breaks and two units
that cancel grow. Prints the largest relative gap from derivations/maximal_rates.py.
"""

import sys
import time
from functools import partial

import numpy as np
import sympy as sp
from scipy.optimize import root

import dmft

equations = dmft.derive(dmft.literature.saad_solla(sp.Symbol("K")), dmft.SGD(1.0))
problem, curves, began = dmft.build(equations), {}, time.perf_counter()  # one for all widths
ERROR = {1: 0.216346896, 2: 0.124555904, 6: 0.0450255323, 7: 0.0387838940, 8: 0.0340577090}
x, y = ("label_noise", 0.01, 2.0), ("learning_rate", 0.3, 60.0)


def margin(p, **rates):
    """Negative below the maximal rate: growth of what breaks symmetry, drift of endless units."""
    one, ones, drift, out = np.eye(p), np.ones(p), [], np.empty(2 * p * p)
    if p not in ERROR:
        (state,) = dmft.fixed_points(equations, dmft.Overlaps(one, one), max_steps=30, **rates)
        reached = state.status == "ok" and state.overlaps.Q[0, 0] < 150.0
        return dmft.stability(equations, state, **rates).growth_rate if reached else 1.0
    par = problem.pack_parameters(rates, {"P": one, "readout": ones, "teacher_readout": ones})

    def motion(u, length):  # u: cosines with the own teacher, between units, with other teachers
        r, c, s = (*u, 0.0, 0.0)[:3]
        Q, M = length**2 * (one + c * (1 - one)), length * (r * one + s * (1 - one))
        problem.rhs(0.0, np.ravel([Q, M]), np.array([p, p]), par, out)
        return out[[p * p, 1, p * p + 1][: u.size]]

    for length in (16.0, 32.0, 64.0, 128.0):
        first = [1 - 0.5 / length, -0.8 / p, -0.4 / p][: 3 if p > 1 else 1]
        motion(root(motion, first, length, tol=1e-13).x, length)  # directions settle
        drift.append(length * out[0])
    return np.dot(drift, [-1, 14, -56, 64]) / 21  # to infinite length, in powers of 1 / length


for p in range(1, 9):
    found = dmft.boundary(partial(margin, p), x, y, log=(x[0], y[0]), grid=(5, 9), step=0.08)
    (curves[p],) = found.curves
    print(f"width {p}: {found}, {time.perf_counter() - began:.1f} s so far")
gap = max(abs(curves[p].y * (curves[p].x + ERROR[p]) / 2 - 1).max() for p in ERROR)
print(f"largest relative gap: {gap:.1e}")

if len(sys.argv) > 1:
    import matplotlib.pyplot as plt

    for p, curve in curves.items():
        plt.loglog(curve.x, curve.y, "-" if p in ERROR else "--", label=f"width {p}")
    plt.gca().set(xlabel=r"label noise $\Delta$", ylabel=r"maximal learning rate $\gamma$")
    plt.legend()
    plt.savefig(sys.argv[1], dpi=150)
