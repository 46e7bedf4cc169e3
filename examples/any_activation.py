"""Activations and targets beyond erf: ReLU students and a tanh committee against simulation.

Lines are the equations of d -> infinity: closed forms for a ReLU student on Hermite polynomials,
averages on nodes for tanh. Points are means of sixteen exact chains of the overlaps. The script
writes any_activation.png (or the path given), and prints how the distance of runs to theory falls.
"""

import sys

import numpy as np
import sympy as sp

import dmft
from dmft.display.style import INK, colour, pyplot

path = sys.argv[1] if len(sys.argv) > 1 else "any_activation.png"
z, z1, z2 = sp.symbols("z z1 z2", real=True)
relu, tanh = sp.Max(0, z), dmft.Committee(sp.tanh(z), 2)
joint = dmft.MultiIndex(sp.tanh(z1 + z2**3 - 3 * z2), [z1, z2])
# Student, target, learning rate, first overlaps M and Q_12, last time.
cases = {
    r"ReLU on $\mathrm{He}_2(z)$": (
        dmft.Committee(relu, 2), dmft.Committee(z**2 - 1, 1), 0.5, [[0.4], [-0.2]], 0.2, 4.0,
    ),
    r"ReLU on $\mathrm{He}_3(z)$": (
        dmft.Committee(relu, 2, (1, -1)), dmft.Committee(z**3 - 3 * z, 1), 0.2,
        [[0.6], [-0.5]], -0.1, 3.0,
    ),
    r"ReLU on $\tanh(z_1 + \mathrm{He}_3(z_2))$": (
        dmft.Committee(relu, 2, (3, -3)), joint, 0.3, [[-0.3, 0.3], [-0.1, 0.2]], 0.2, 3.0,
    ),
    "tanh on tanh, $p = k = 2$": (tanh, tanh, 2.0, [[0.3, -0.1], [0.05, 0.4]], 0.2, 4.0),
}  # fmt: skip
figure, axes = pyplot().subplots(2, 2, figsize=(9, 6.4), layout="constrained")
distances = []
for ax, (name, case) in zip(axes.flat, cases.items(), strict=True):
    *networks, rate, M, q, t_max = case
    model, sgd = dmft.Model(*networks, label_noise=0.05), dmft.SGD(rate)
    start = dmft.Overlaps([[0.9, q], [q, 0.7]], M)
    theory = dmft.solve(dmft.derive(model, sgd), start, t_max, save_at=121, quadrature_tol=4e-3)
    for i, r in np.ndindex(start.p, start.k):
        label = f"$M_{{{i + 1}{r + 1}}}$"
        ax.plot(theory.t, theory.M[:, i, r], color=colour(2 * i + r), label=label)
    ax.plot(theory.t, theory.risk, color=INK, label="risk")
    for dim, marker in zip((1000, 4000), "ox", strict=True):
        runs = dmft.simulate(model, sgd, dim, t_max, 16, start, method="overlaps", save_at=13)
        style = {"fmt": marker, "ms": 4, "mfc": "none", "elinewidth": 1.5, "capsize": 4}
        for i, r in np.ndindex(start.p, start.k):
            mean, error = runs.mean.M[:, i, r], runs.stderr.M[:, i, r]
            ax.errorbar(runs.t, mean, error, color=colour(2 * i + r), **style)
        style |= {"color": INK, "label": f"$d = {dim}$"}
        ax.errorbar(runs.t, runs.mean.risk, runs.stderr.risk, **style)
        gaps = np.abs(runs.runs.M - theory.M[::10]).max(axis=(1, 2, 3))
        distances.append(np.sqrt(np.mean(gaps**2)))
    ax.set(title=name, xlabel="$t$")
    print(f"{name}: distance {distances[-2]:.4f} at d = 1000, {distances[-1]:.4f} at d = 4000")
figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=7)
power = np.mean(np.diff(np.log(distances).reshape(-1, 2))) / np.log(4)
figure.savefig(path, dpi=120)
print(f"the distance of a run falls like d to the power {power:.3f}")
