"""One pass over inputs with a power-law spectrum: the risk falls as t^(-2 r).

A linear student learns a linear teacher of source r = 0.4 from inputs with eigenvalues i^-1.5,
i = 1 .. 10^6, by SGD with step size eta = 0.1, plain and with heavy-ball momentum of
long memory. The spectrum is 184 blocks: 64 eigenvalues and nodes in log i.
Run as `python examples/power_law.py [figure.png]`; prints the local slope of the risk at t = 3e4.
"""

import sys

import numpy as np
import sympy as sp

import dmft

capacity, source, dim, eta = 1.5, 0.4, 10**6, 0.1
spectrum = dmft.Spectrum.power_law(capacity, source, dim)
line = dmft.Committee(sp.Symbol("z", real=True), width=1)
model = dmft.Model(line, line, inputs=spectrum)
nothing = np.zeros((spectrum.blocks, 1, 1))
start = dmft.Overlaps(nothing, nothing, spectrum.teacher)

# t counts eta * steps, as learning_rate = eta * dim.
times = np.geomspace(0.1, 3e4, 60)
algorithms = {
    "SGD": dmft.SGD(eta * dim),
    "heavy ball, 1 - beta = eta": dmft.SGD(eta * dim, momentum=dmft.Momentum(1.0)),
}
runs = {
    name: dmft.solve(dmft.derive(model, algorithm), start, times[-1], save_at=times)
    for name, algorithm in algorithms.items()
}
risk = runs["SGD"].risk
slope = np.log(risk[-1] / risk[-4]) / np.log(times[-1] / times[-4])
print(f"intrinsic dimension {spectrum.intrinsic_dim:.2f}: the mean of a noisy path")
print(f"exponent 2 r = {2 * source:.3f}")
print(f"slope at t = {times[-1]:.0f}: {slope:.4f}")

if len(sys.argv) > 1:
    import matplotlib.pyplot as plt

    for name, run in runs.items():
        plt.loglog(run.t, run.risk, label=name)
    plt.loglog(times, risk[30] * (times / times[30]) ** (-2 * source), "k:", label=r"$t^{-2r}$")
    plt.xlabel(r"$t = \eta\,\nu$")
    plt.ylabel("risk")
    plt.legend(frameon=False)
    plt.savefig(sys.argv[1])
