"""Escape of phase retrieval: formula, ODE, SDE and simulation; and what width gains.

Run as `python examples/escape_formulas.py [figure.png]`; prints the mean escape times at d = 1000.
"""

import sys

import numpy as np
import sympy as sp

import dmft

noise, p = sp.Symbol("Delta", nonnegative=True), sp.Symbol("p", integer=True, positive=True)
sgd, fraction = dmft.SGD(1 / 12, constraint="sphere"), 0.1
model = dmft.literature.phase_retrieval(1)
formula = dmft.escape_formula(model, sgd)
flow = dmft.derive(model, sgd)
sde = dmft.derive(model, sgd, dim=sp.Symbol("d"), fluctuations=True)

# Equations from |m| = d^(-1/2); the noisy ones from random starts.
dims, watch = (100, 300, 1000), dmft.FirstPassage("risk", 1 - fraction, relative=True)
rows = []
for d in dims:
    typical = dmft.Overlaps([[1.0]], [[d**-0.5]])
    ode = dmft.escape_time(flow, typical, 8.0, fraction=fraction).value
    paths = dmft.escape_time(sde, None, 8.0, fraction=fraction, paths=1000, dt=0.01, d=d)
    runs = dmft.simulate(model, sgd, d, 8.0, 300, method="overlaps", first_passage=watch, save_at=2)
    chains = dmft.escape_time(runs, fraction=fraction)
    rows.append((ode, paths.mean, paths.stderr, chains.mean, chains.stderr))
rows = np.array(rows)
mean = formula.mean_time(1000, fraction)
print(f"d = 1000: formula {mean:.3f}, paths {rows[2, 1]:.3f}, chains {rows[2, 3]:.3f}")

if len(sys.argv) > 1:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.4), layout="constrained")
    line = np.geomspace(80, 2000, 30)
    left.plot(line, [formula.time(d, fraction) for d in line], "k-", label="formula, typical start")
    left.plot(dims, rows[:, 0], "ks", mfc="w", label="ODE")
    left.plot(line, [formula.mean_time(d, fraction) for d in line], "b-", label="formula, mean")
    for n, style, label in ((1, "o", "SDE"), (3, "^", "overlap chains")):
        left.errorbar(dims, rows[:, n], rows[:, n + 1], fmt=style, capsize=3, label=label)
    left.set(xscale="log", ylim=(0.3, 1.6), xlabel="dimension $d$", ylabel="escape time $t$")
    widths = np.arange(1, 31)
    wide = dmft.literature.phase_retrieval(p, label_noise=noise)
    gain = dmft.escape_formula(wide, sgd).gain_from_width()
    for value in (0, 1, 10):
        right.plot(widths, [gain.subs({noise: value, p: w}) for w in widths], ".-", label=value)
    right.legend(title=r"label noise $\Delta$", frameon=False, loc=(0.7, 0.27))
    right.set(xlabel="width $p$", ylabel="steps of one unit / steps of $p$")
    left.legend(frameon=False, loc="lower right", fontsize=8)
    figure.savefig(sys.argv[1], dpi=150)
