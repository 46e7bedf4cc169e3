"""Exit times of phase retrieval: formula, ODE, SDE and simulation in one picture.

Left the distribution at d = 1000, right its mean and spread over the dimension. Run as
`python examples/exit_times.py [figure.png]`; prints means, the last that of chains at d = 1000.
"""

import sys

import numpy as np
import sympy as sp

import dmft

sgd, fraction, t_max = dmft.SGD(1 / 12, constraint="sphere"), 0.1, 10.0
model = dmft.literature.phase_retrieval(1)
formula = dmft.escape_formula(model, sgd)
flow = dmft.derive(model, sgd)
sde = dmft.derive(model, sgd, dim=sp.Symbol("d"), fluctuations=True)
# The escape: the risk has fallen by a tenth of that of each run's own start.
watch = dmft.FirstPassage("risk", 1 - fraction, relative=True)
dims, odes, paths, chains = (100, 300, 1000), [], [], []
for n, d in enumerate(dims):
    typical = dmft.Overlaps([[1.0]], [[d**-0.5]])
    odes.append(dmft.escape_time(flow, typical, t_max, fraction=fraction).value)
    options = {"paths": 2000, "dt": 0.01, "d": d, "seed": d, "method": "weak2"}
    paths.append(dmft.escape_time(sde, None, t_max, fraction=fraction, **options))
    seeds, options = range(200 * n, 200 * n + 200), {"first_passage": watch, "save_at": 2}
    runs = dmft.simulate(model, sgd, d, t_max, seeds, method="overlaps", **options)
    chains.append(dmft.escape_time(runs, fraction=fraction))
mean, std = formula.mean_time(1000, fraction), formula.std(1000, fraction)
print(f"ODE {odes[-1]:.3f}, formula {mean:.3f}, SDE {paths[-1].mean:.3f}, {chains[-1].mean:.3f}")

if len(sys.argv) > 1:
    import matplotlib.pyplot as plt

    plt.switch_backend("Agg")
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.6), layout="constrained")
    bins, t = np.linspace(0.0, 4.0, 21), np.linspace(0.02, 4.0, 300)
    left.hist(paths[-1].times, bins, density=True, color="0.82", label="SDE")
    left.hist(chains[-1].times, bins, density=True, histtype="step", color="C1", label="chains")
    # In the formula t - mean = (E log z^2 - log z^2) / (2 Lambda), z ~ N(0, 1).
    rate = 2 * float(formula.growth_rate)
    square = np.exp(-np.euler_gamma - np.log(2) - rate * (t - mean))
    left.plot(t, rate * np.sqrt(square / 2 / np.pi) * np.exp(-square / 2), "b-", label="formula")
    left.axvline(odes[-1], color="k", ls="--", label="ODE, typical start")
    left.legend(frameon=False)
    left.set(xlabel=r"exit time $t$ (steps $\gamma/d$), $d = 1000$", ylabel="density")
    d = np.geomspace(80, 1250, 20)
    mean = np.array([formula.mean_time(x, fraction) for x in d])
    right.plot(d, mean, "b-", label="formula, mean")
    right.fill_between(d, mean - std, mean + std, color="b", alpha=0.1, lw=0, label="and spread")
    right.plot(d, [formula.time(x, fraction) for x in d], "k-", label="formula, typical start")
    right.plot(dims, odes, "ks", mfc="w", label="ODE, typical start")
    for found, shift, style, label in ((paths, 0.97, "o", "SDE"), (chains, 1.03, "^", "chains")):
        at, value = shift * np.array(dims), [e.mean for e in found]
        right.errorbar(at, value, [e.stderr for e in found], fmt=style, capsize=3, label=label)
    right.set(xscale="log", ylim=(0, 2.4), xlabel="dimension $d$", ylabel="exit time $t$")
    right.legend(frameon=False, fontsize=8, ncols=2, loc="lower right")
    figure.savefig(sys.argv[1], dpi=150)
