"""Sanger's rule and a denoising autoencoder, written as steps.

Sanger's rule loses component k at a rate of 2 omega_k (Biehl and Schloesser 1998). A denoising
autoencoder of one unit finds the means of two clusters, more accurately at smaller rates.
Run as `python examples/components.py [figure.png]`; prints the second cosine at g = 0.6.
"""

import sys

import numpy as np
import sympy as sp

import dmft
from dmft import literature

g = sp.Symbol("g", positive=True)

sanger = dmft.derive(literature.principal_components([2.0, 0.6], learning_rate=g))
first = dmft.Overlaps([[0.9, 0.05], [0.05, 0.8]], [[0.3, 0.1], [-0.1, 0.25]])
rates = np.array([0.2, 0.6, 1.0, 1.15, 1.25, 1.6, 2.0])
ends = [dmft.solve(sanger, first, 200.0, g=rate) for rate in rates]
cosines = np.array([np.abs(np.diag(r.M[-1])) / np.sqrt(np.diag(r.Q[-1])) for r in ends])

noises = np.array([0.25, 0.5, 1.0, 2.0])
means = {}
for rate in (0.05, 0.5):
    equations = dmft.derive(literature.denoising_autoencoder(sp.Symbol("s2"), rate))
    found = [
        dmft.solve(
            equations, dmft.Overlaps([[0.5]], [[0.2]], [[2.0]], scalars={"b": 1 / (1 + s2)}),
            60.0, s2=s2,
        )
        for s2 in noises
    ]  # fmt: skip
    means[rate] = [r.M[-1, 0, 0] / np.sqrt(2.0 * r.Q[-1, 0, 0]) for r in found]
print(f"second component at g = {rates[1]}: {cosines[1, 1]:.6f}")

if len(sys.argv) > 1:
    from matplotlib.figure import Figure

    a, b = Figure(figsize=(7.0, 3.0), layout="constrained").subplots(1, 2)
    a.plot(rates, cosines, "o-", label=["component 1", "component 2"])
    a.set(xlabel="rate g", ylabel="cosine with the spike", title="Sanger's rule")
    for rate, values in means.items():
        b.plot(noises, values, "o-", label=f"g = {rate}")
    b.set(xlabel="noise", ylabel="cosine with the means", title="denoising")
    for axes in (a, b):
        axes.legend(frameon=False, fontsize="small")
    a.figure.savefig(sys.argv[1], dpi=150)
