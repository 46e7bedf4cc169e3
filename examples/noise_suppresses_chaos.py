"""White noise suppresses the chaos of a random network: largest Lyapunov exponent over gain and D.

dx = (-x + J tanh(x)) dt + sqrt(2 D) dW; the line is where the exponent vanishes, the dotted line
where the silent state loses stability without noise. Run as
`python examples/noise_suppresses_chaos.py [figure.png]`; prints the critical D at g = 2 for erf.
"""

import sys

import numpy as np
import sympy as sp
from scipy.optimize import brentq

import dmft

x, h = sp.symbols("x h", real=True)


def network(output):
    return dmft.RandomNetwork(-x + h, x, h, output=output, std=2.0)


unit = network(sp.erf(sp.sqrt(sp.pi) * x / 2))
critical = brentq(lambda D: dmft.stationary(unit, noise=D).lyapunov_exponent, 0.3, 0.9)
print(f"critical noise at g = 2: {critical:.6f}")

if len(sys.argv) > 1:
    import matplotlib.pyplot as plt

    plt.switch_backend("Agg")
    figure, axes = plt.subplots(figsize=(5.4, 3.8), layout="constrained")
    gain, noise = np.linspace(0.8, 3.0, 40), np.linspace(0.02, 1.6, 40)
    shared = ("std", gain), ("noise", noise)
    diagram = dmft.phase_diagram("chaos", *shared, equations=network(sp.tanh(x)))
    size = float(np.abs(diagram.values).max())
    dmft.plot(diagram, ax=axes, cmap="RdBu_r", norm=plt.Normalize(-size, size))
    axes.contour(gain, noise, diagram.values, levels=[0.0], colors="k", linewidths=1.8)
    axes.axvline(1.0, color="k", ls=":", lw=1.2)
    axes.set(xlabel="gain $g$", ylabel="noise $D$", title="largest Lyapunov exponent")
    figure.savefig(sys.argv[1], dpi=110)
