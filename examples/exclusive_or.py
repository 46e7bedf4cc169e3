"""Four erf units learn the exclusive or of two directions: a mixture of four clusters, one pass.

Inputs lie about +mu_1 and -mu_1 (label 1), +mu_2 and -mu_2 (label -1). Lines are the equations of
d -> infinity in closed form, points means of twelve exact chains at d = 2000. The script writes
exclusive_or.png (or the path given), and prints the largest gap in units of its standard error.
"""

import sys

import numpy as np
import sympy as sp

import dmft
from dmft.display.style import INK, colour, pyplot

path = sys.argv[1] if len(sys.argv) > 1 else "exclusive_or.png"
z = sp.Symbol("z", real=True)
clusters = dmft.GaussianMixture(
    [[2, 0], [-2, 0], [0, 2], [0, -2]], labels=[1, 1, -1, -1], scales=[0.3] * 4
)
student = dmft.Committee(sp.erf(z / sp.sqrt(2)), 4, readout=(4, 4, -4, -4))
model, sgd = dmft.Model(student, clusters), dmft.SGD(1.0)
start = dmft.Overlaps(
    0.8 * np.eye(4), [[0.4, -0.2], [-0.5, 0.2], [-0.3, 0.1], [0.1, 0.4]], np.eye(2)
)
theory = dmft.solve(dmft.derive(model, sgd), start, 8.0, save_at=81)
runs = dmft.simulate(model, sgd, 2000, 8.0, 12, start, "overlaps", save_at=9)
figure, (left, right) = pyplot().subplots(1, 2, figsize=(9, 3.6), layout="constrained")
left.plot(theory.t, theory.risk, color=INK)
left.errorbar(runs.t, runs.mean.risk, runs.stderr.risk, fmt="o", mfc="none", color=INK)
for j, r in np.ndindex(4, 2):
    style = {"color": colour(j), "label": f"unit {j + 1}" if r == 0 else None}
    right.plot(theory.t, theory.M[:, j, r], "--" if r else "-", **style)
    right.plot(runs.t, runs.mean.M[:, j, r], "x" if r else "o", color=colour(j), mfc="none")
left.set(xlabel="$t$", ylabel="risk")
right.set(xlabel="$t$", ylabel=r"$M_{j1}$ (lines), $M_{j2}$ (dashes)")
right.legend()
figure.savefig(path, dpi=120)
gap = (runs.mean.risk - theory.risk[::10])[1:] / runs.stderr.risk[1:]
print(f"risk {theory.risk[0]:.3f} at the start, {theory.risk[-1]:.3f} at t = 8")
print(f"root mean square of the gap over its error {np.sqrt(np.mean(gap**2)):.2f}")
