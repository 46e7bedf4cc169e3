"""Exponent of the risk: the tail of the spectrum or the noise of the steps.

A linear student under SGD of capacity alpha and source r: the exponent is -2 r while 2 r is below
2 - 1/alpha, and -(2 - 1/alpha) beyond (theory/structured_inputs (12)); below alpha = 1 the kernel
is not integrable and no law holds at finite times.
Run as `python examples/scaling_regimes.py [figure.png]`; prints the exponent at the last corner.
"""

import sys

import numpy as np
import sympy as sp

import dmft

dim = 10**5
line = dmft.Committee(sp.Symbol("z", real=True), width=1)
capacities, sources = np.linspace(1.1, 2.0, 5), np.linspace(0.1, 1.2, 9)
exponents = np.empty((sources.size, capacities.size))
regimes = np.empty(exponents.shape, dtype=object)
for n, alpha in enumerate(capacities):
    for m, r in enumerate(sources):
        tail = dmft.Spectrum.power_law(alpha, r, dim)
        # Half of the largest stable rate, for any spectrum.
        equations = dmft.derive(dmft.Model(line, line, inputs=tail), dmft.SGD(1.0 / tail.mean))
        law = dmft.scaling_law(equations)
        exponents[m, n], regimes[m, n] = law.exponent, law.regime
print(f"{np.mean(regimes == 'source'):.0%} of the plane is decided by the source")

if len(sys.argv) > 1:
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(5, 3.6), layout="constrained")
    image = ax.contourf(capacities, sources, exponents, 12, cmap="viridis")
    fine = np.linspace(1.1, 2.0, 50)
    ax.plot(fine, 1 - 1 / (2 * fine), "w--", label=r"$2r = 2 - 1/\alpha$")
    ax.set(xlabel=r"capacity $\alpha$", ylabel="source $r$")
    ax.legend(loc="lower right", facecolor="0.3", labelcolor="w")
    fig.colorbar(image, label="exponent of the risk")
    fig.savefig(sys.argv[1], dpi=150)
print(f"exponent at alpha = 2, r = 1.2: {exponents[-1, -1]:.12f}")
