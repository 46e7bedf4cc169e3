"""Escape times of phase retrieval over learning rate and label noise, with contours as boundaries.

The heat map takes one solve a cell; each contour is traced as the boundary of "escape time above
this level". On the sphere they are known: t = log(...) of theory/one_pass F.1; the last line is the
largest gap of the contours from it. Run as `python examples/escape_contours.py [figure.png]`.
"""

import sys
import time

import numpy as np

import dmft

LEVELS, START, FRACTION = (1.0, 1.5, 2.5, 5.0), 0.01, 0.5
model = dmft.literature.phase_retrieval(1)
equations = dmft.derive(model, dmft.SGD(0.1, constraint="sphere"))
x, y = ("learning_rate", 0.005, 0.15), ("label_noise", 0.0, 4.0)
how = {
    "equations": equations,
    "start": dmft.Overlaps([[1.0]], [[START**0.5]]),
    "t_max": 60.0,
    "fraction": FRACTION,
}


def exact(gamma, noise):
    """theory/one_pass F.1, in u = M^2."""
    A, rate = 4 - 24 * gamma, 4 - 2 * gamma * (12 + noise)
    end, limit = FRACTION + (1 - FRACTION) * START, rate / A
    return np.log(end / START * (limit - START) / (limit - end)) / (2 * rate)


began = time.perf_counter()
axes = [(name, np.linspace(low, high, 25)) for name, low, high in (x, y)]
diagram = dmft.phase_diagram("escape_time", *axes, **how)
print(f"{diagram.values.size} solves of the map in {time.perf_counter() - began:.1f} s: {diagram}")
curves, gap = [], 0.0
for level in LEVELS:
    began = time.perf_counter()
    found = dmft.boundary("escape_time", x, y, level=level, grid=(5, 5), **how)
    for curve in found.curves:
        if set(curve.labels) == {"-", "+"}:
            curves.append(curve)
            gap = max(gap, float(np.abs(exact(curve.x, curve.y) / level - 1).max()))
    print(f"t = {level}: {found}, {time.perf_counter() - began:.1f} s")
print(f"largest relative gap from the formula: {gap:.1e}")

if len(sys.argv) > 1:
    axis = dmft.plot(diagram)
    for curve in curves:
        axis.plot(curve.x, curve.y, color="white", linewidth=1.5)
    for level in LEVELS:
        here = [c for c in curves if abs(exact(c.x[0], c.y[0]) / level - 1) < 0.01]
        for curve in here:
            n = curve.x.size // 2
            axis.text(curve.x[n], curve.y[n], f"{level:g}", color="white", ha="right")
    axis.figure.savefig(sys.argv[1], dpi=150)
