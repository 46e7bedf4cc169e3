"""Gain from width in escape times, and collapse of wide students at the fastest learning rate.

Left: the risk of eight square units at the rate of the fastest weak recovery, which is above the
stability limit of the perfect solution, and at half of this limit. Lines are the equations, points
the mean of overlap chains at d = 2000. Right: the gain from width. Run as
`python examples/escape_formulas.py [figure.png]`; prints the highest risk over that at the start.
"""

import sys

import numpy as np
import sympy as sp

import dmft

noise, p = sp.Symbol("Delta", nonnegative=True), sp.Symbol("p", integer=True, positive=True)
dim, width, t_max = 2000, 8, 10.0
model = dmft.literature.phase_retrieval(width)
formula = dmft.escape_formula(model, dmft.SGD(0.5, constraint="sphere"))
rates = {
    "fastest weak recovery": float(formula.optimal_learning_rate()),
    "fastest learning": float(formula.perfect_limit) / 2,
}
print(formula.validity.replace(". ", ".\n"))
start = dmft.Overlaps(np.eye(width), np.full((width, 1), dim**-0.5))
curves = {}
for name, rate in rates.items():
    sgd = dmft.SGD(rate, constraint="sphere")
    ode = dmft.solve(dmft.derive(model, sgd), start, t_max, save_at=201)
    chains = dmft.simulate(model, sgd, dim, t_max, 6, start, "overlaps", save_at=21)
    curves[name] = ode, chains
    ends = [run.risk.max() / run.risk[0] for run in (chains.mean, ode)]
    low = ode.risk.min() / ode.risk[0]
    print(
        f"{name}: lowest {low:.4f}, highest by chains {ends[0]:.3f}, by the equations {ends[1]:.3f}"
    )
ode, _ = curves["fastest weak recovery"]
print(f"collapse: the risk rises to {ode.risk.max() / ode.risk[0]:.3f} times that of the start")

if len(sys.argv) > 1:
    import matplotlib.pyplot as plt

    plt.switch_backend("Agg")
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.6), layout="constrained")
    for (name, (ode, chains)), color in zip(curves.items(), ("C3", "C0"), strict=True):
        label = rf"{name}, $\gamma/p = {rates[name] / width:.3f}$"
        left.plot(ode.t, ode.risk / ode.risk[0], color=color, label=label)
        mean, error = (y.risk / chains.mean.risk[0] for y in (chains.mean, chains.stderr))
        left.errorbar(chains.t, mean, error, fmt="o", ms=4, color=color)
    left.set(xlabel=r"$t$ (steps $\gamma/(pd)$), $p = 8$", ylabel="risk / risk at the start")
    left.legend(frameon=False, fontsize=8, loc="center right")
    wide = dmft.literature.phase_retrieval(p, label_noise=noise)
    gain = dmft.escape_formula(wide, sgd).gain_from_width()
    for value in (0, 1, 10):
        gains = [gain.subs({noise: value, p: w}) for w in range(1, 31)]
        right.plot(range(1, 31), gains, ".-", label=rf"$\Delta = {value}$")
    right.set(xlabel="width $p$", ylabel="steps of one unit / steps of $p$")
    right.legend(frameon=False)
    figure.savefig(sys.argv[1], dpi=150)
