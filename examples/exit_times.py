"""Exit times of phase retrieval: paths of the stochastic equation against the exact chain.

Run as `python examples/exit_times.py [figure.png]`; prints the two mean exit times.
"""

import sys

import numpy as np
import sympy as sp

import dmft

z = sp.Symbol("z", real=True)
square = dmft.Committee(z**2, width=1)
model, sgd = dmft.Model(square, square), dmft.SGD(1 / 12, constraint="sphere")
equations = dmft.derive(model, sgd, dim=sp.Symbol("d"), fluctuations=True)

# The escape: the risk has fallen by a tenth of that of each run's own random start.
paths = dmft.escape_time(equations, None, 6.0, fraction=0.1, paths=2000, dt=0.01, d=300)
watch = dmft.FirstPassage("risk", 0.9, relative=True)
runs = dmft.simulate(model, sgd, 300, 6.0, 500, method="overlaps", first_passage=watch, save_at=2)
chain = dmft.escape_time(runs, fraction=0.1)
print(f"paths {paths.quantile(0.5):.3f}, chain {chain.quantile(0.5):.3f}")

if len(sys.argv) > 1:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5.0, 3.4), layout="constrained")
    bins = np.linspace(0.0, 4.0, 33)
    axes.hist(paths.times, bins, density=True, color="0.8", label="paths of the sde")
    axes.hist(
        chain.times, bins, density=True, histtype="step", color="tab:blue", label="overlap chain"
    )
    axes.set_xlabel(r"exit time $t$ (steps $\gamma/d$), $d = 300$")
    axes.set_ylabel("density")
    axes.legend(frameon=False)
    figure.savefig(sys.argv[1], dpi=150)
