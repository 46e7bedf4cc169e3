"""Bifurcation of a random network whose couplings have a low-rank part.

Couplings g chi + m n^T / N with normal loadings of covariance E m n; kappa = E n tanh(x) of all
fixed points, thin where unstable. Run as `python examples/low_rank_bifurcation.py [figure.png]`;
prints the E m n at which kappa = 0 becomes unstable for g < 1; theory says 1.
"""

import sys

import numpy as np
import sympy as sp

import dmft

z = sp.Symbol("z", real=True)


def points(g, overlap):
    both = dmft.literature.low_rank_network(sp.tanh(z), g, std=(1.0, overlap), correlation=0.9)
    return dmft.fixed_points(both)


def kappa(overlap):
    return max(float(point.loadings[0]) for point in points(0.8, overlap / 0.9))


first, second = 1.01, 1.02
squares = kappa(first) ** 2, kappa(second) ** 2
print(f"E m n = {first - squares[0] * (second - first) / (squares[1] - squares[0]):.4f}")

if len(sys.argv) > 1:
    import matplotlib.pyplot as plt

    plt.switch_backend("Agg")
    figure, axes = plt.subplots(figsize=(5.2, 3.6), layout="constrained")
    for k, g in enumerate((0.2, 0.8, 1.3)):
        for overlap in np.linspace(0.5, 3.0, 18):
            for point in points(g, overlap / 0.9):
                full = "full" if point.stable else "none"
                axes.plot(overlap, point.loadings[0], f"C{k}o", ms=7 - 2 * k, fillstyle=full)
        axes.plot([], [], f"C{k}o", ms=7 - 2 * k, label=f"g = {g}")
    axes.set(xlabel=r"overlap $E\,m n$", ylabel=r"$\kappa = E\,n\,\phi(x)$",
             title="filled: stable, open: unstable")  # fmt: skip
    axes.legend(frameon=False)
    figure.savefig(sys.argv[1], dpi=110)
