"""The parity of two signs is learned in a few samples per dimension, that of three in many more.

Labels are products of the signs of two or of three fields, and the student is one Hermite unit of
the same order under SGD with the correlation loss. The information exponent is the number of signs.
Lines are the equations, points chains at d = 4000, all from M = 0.1. Run as
`python examples/sparse_parity.py [figure.png]`; prints how many times more samples three signs need
to reach M = 0.3.
"""

import sys

import numpy as np
import sympy as sp

import dmft

z, *fields = sp.symbols("z z1 z2 z3", real=True)
found, runs = [], []
for k, rate, t_max in ((2, 0.05, 4.0), (3, 0.004, 8.0)):
    signs = fields[:k]
    target = dmft.MultiIndex(sp.prod([sp.sign(y) for y in signs]), signs)
    assert dmft.information_exponent(target.expr, signs).value == k
    unit = dmft.Committee(dmft.hermite(k, z), 1)
    model = dmft.Model(unit, target)
    sgd = dmft.SGD(rate, constraint="sphere", loss="correlation")
    start = dmft.Overlaps([[1.0]], [[0.1] * k])
    run = dmft.solve(dmft.derive(model, sgd), start, t_max, save_at=np.linspace(0, t_max, 400))
    times = np.geomspace(0.05 * t_max, t_max, 9)
    chains = dmft.simulate(model, sgd, 4000, t_max, 8, start, method="overlaps", save_at=times)
    found.append(np.interp(0.3, run.M[:, 0, 0], run.t) / rate)
    runs.append((k, rate, run, chains))
    print(f"{k} signs: {found[-1]:.1f} d samples to M = 0.3; at the end M = {run.M[-1, 0, 0]:.3f}, "
          f"chains {chains.mean.M[-1].mean():.3f}")  # fmt: skip

if len(sys.argv) > 1:
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(5.2, 3.4), layout="constrained")
    for number, (k, rate, run, chains) in enumerate(runs):
        axis.plot(run.t / rate, run.M[:, 0, 0], f"C{number}", label=f"parity of {k} signs")
        M, error = (each.M.mean(axis=(1, 2)) for each in (chains.mean, chains.stderr))
        axis.errorbar(chains.t / rate, M, error, fmt=f"C{number}o", mfc="white")
    axis.set(xscale="log", xlabel="samples / d", ylabel="overlap with each direction")
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False)
    figure.savefig(sys.argv[1], dpi=150)
print(f"three signs over two: {found[1] / found[0]:.1f}")
