"""Transition to chaos of a random network: correlations, variance and exponent over the gain.

Left C(tau) of dx/dt = -x + J tanh(x) with simulated networks, right C(0) and the largest Lyapunov
exponent. Run as `python examples/network_chaos.py [figure.png]`; prints the exponent at g = 2.
"""

import sys

import numpy as np
import sympy as sp

import dmft

x, h = sp.symbols("x h", real=True)


def network(g):
    return dmft.RandomNetwork(-x + h, x, h, output=sp.tanh(x), std=g)


print(f"exponent at g = 2: {dmft.stationary(network(2)).lyapunov_exponent:.7f}")

if len(sys.argv) > 1:
    import matplotlib.pyplot as plt

    plt.switch_backend("Agg")
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.4), layout="constrained")
    lags = np.linspace(0.0, 20.0, 201)
    for k, g in enumerate((1.2, 1.5, 2.0)):
        left.plot(lags, dmft.stationary(network(g)).correlation(lags), f"C{k}", label=f"g = {g}")
        many = dmft.simulate(network(g), dim=800, t_max=80.0, seeds=4, start=dmft.laws.Normal(),
                             save_at=np.arange(40.0, 81.0, 2.0))  # fmt: skip
        C = np.array([np.diagonal(many.mean.corr, n).mean() for n in range(11)])
        left.plot(2.0 * np.arange(11), C, f"C{k}o", ms=4, mfc="none")
    left.set(xlabel=r"lag $\tau$", ylabel=r"$C(\tau)$", title="lines theory, circles N = 800")
    gains = np.linspace(0.6, 2.4, 37)
    states = [dmft.stationary(network(g)) for g in gains]
    right.plot(gains, [state.variance for state in states], "C3", label="$C(0)$")
    right.plot(
        gains, [10 * state.lyapunov_exponent for state in states], "k", label=r"$10\,\lambda$"
    )
    right.axhline(0.0, color="0.7", lw=0.8)
    right.set(xlabel="$g$", title="chaos above g = 1", ylim=(-3.0, 3.0))
    for axes in (left, right):
        axes.legend(frameon=False)
    figure.savefig(sys.argv[1], dpi=110)
