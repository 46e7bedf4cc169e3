"""Phase diagram of a Lotka-Volterra community: surviving species, stability and divergence.

Species interact with mean -mu/N and spread sigma/sqrt(N). Right of the white line the fixed point
is unstable, below the black one abundances grow without bound. Run as
`python examples/species_survival.py [figure.png]`; prints sigma_c, which is sqrt(2).
"""

import sys

import numpy as np
from scipy.optimize import brentq

import dmft

community = dmft.literature.lotka_volterra(competition=1.0, std=0.5)


def replicon(sigma):
    (point,) = dmft.fixed_points(community, std=sigma, mean=-4.0)
    return point.replicon - 1.0


print(f"sigma_c = {brentq(replicon, 1.2, 1.6):.7f}")

if len(sys.argv) > 1:
    import matplotlib.pyplot as plt

    plt.switch_backend("Agg")
    figure, axes = plt.subplots(figsize=(5.2, 3.8), layout="constrained")
    std, mean = np.linspace(0.02, 1.8, 90), np.linspace(-4.0, 1.2, 90)
    shared = ("std", std), ("mean", mean)
    diagram = dmft.phase_diagram("survival", *shared, equations=community)
    dmft.plot(diagram, ax=axes, cmap="viridis")
    for measure, colour in (("stability", "w"), ("divergence", "k")):
        line = dmft.phase_diagram(measure, *shared, equations=community)
        axes.contour(std, mean, line.values, levels=[0.0], colors=colour, linewidths=1.8)
    axes.set(xlabel=r"spread $\sigma$ of interactions", ylabel=r"mean interaction $-\mu$",
             title="share of surviving species")  # fmt: skip
    figure.savefig(sys.argv[1], dpi=110)
