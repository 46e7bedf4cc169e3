"""Steps of one He3 neuron with batches n_b = d^mu: squared loss against correlation loss.

At mu = 1 both take of the order of d steps. At mu = 1.75 the network's own output caps the rate of
the squared loss, which takes d^(1/2) steps; the correlation loss takes d^(1/4). Lines are iterated
maps from an overlap 3 d^(-1/2) to 1/2, points are medians and quartiles of chains in R^d. Run as
`python examples/correlation_loss.py [figure.png]`; prints the steps and, last, the mean distance of
the logarithms of chains and maps.
"""

import sys

import numpy as np
import sympy as sp

import dmft

z, chains = sp.Symbol("z", real=True), 24
unit = dmft.Committee(dmft.hermite(3, z) / sp.sqrt(6), width=1)
model, half = dmft.Model(unit, unit), dmft.Event("M[0, 0]", 0.5, direction=1)
NOISE = {"squared": 96.0, "correlation": 3.0}  # V = E[psi^2] at zero overlap
lines, points = np.geomspace(120, 1e5, 12), (250, 500, 1000)
cases, distances = {}, []
for mu in (1.0, 1.75):
    for loss in NOISE:
        sgd = dmft.SGD(1.0, batch_size=2, loss=loss, constraint="sphere")
        equations = dmft.derive(model, sgd, dim=100)
        steps, medians = [], []
        for dim in (*lines, *points):
            # The noise eta^2 d V m / (2 n_b) takes a tenth of the signal 3 eta m^2.
            eta = 0.1 * 6 * 3 * dim ** (mu - 1.5) / NOISE[loss]
            eta = min(eta, 0.1) if loss == "squared" else eta
            start = dmft.Overlaps([[1.0]], [[3 * dim**-0.5]])
            values = {"learning_rate": eta * dim, "dim": dim, "batch_size": dim**mu}
            run = dmft.solve(equations, start, 1e6, save_at=2, events=[half], **values)
            steps.append(run.t[-1])
            if dim in points:
                sgd = dmft.SGD(eta * dim, batch_size=round(dim**mu), loss=loss, constraint="sphere")
                options = {"save_at": 2, "first_passage": dmft.FirstPassage("overlap", 0.5)}
                t_max = np.ceil(5 * steps[-1]) * eta
                runs = dmft.simulate(model, sgd, dim, t_max, chains, start, "overlaps", **options)
                times = np.nan_to_num(runs.first_passage.times, nan=np.inf) / eta
                medians.append(np.quantile(times, (0.25, 0.5, 0.75)))
                distances.append(abs(np.log(medians[-1][1] / steps[-1])))
        cases[mu, loss] = np.array(steps), np.array(medians).T
        print(f"mu = {mu}, {loss}, d = {dim}: map {steps[-1]:.0f}, chains {medians[-1][1]:.0f}")
print(f"mean distance of the logarithms: {np.mean(distances):.3f}")

if len(sys.argv) > 1:
    import matplotlib.pyplot as plt

    plt.switch_backend("Agg")
    figure, axes = plt.subplots(1, 2, figsize=(9.0, 3.6), layout="constrained")
    for (mu, loss), (steps, (low, median, high)) in cases.items():
        ax, color = axes[int(mu > 1)], "C3" if loss == "squared" else "C0"
        power = float(dmft.batch_exponents(3, loss).at(mu)[0])
        ax.loglog(lines, steps[: lines.size], color=color, label=rf"{loss}, $\sim d^{{{power:g}}}$")
        ax.errorbar(points, median, (median - low, high - median), fmt="o", capsize=3, color=color)
        ax.set(xlabel="dimension $d$", ylabel="steps to $m = 1/2$", title=rf"$n_b = d^{{{mu:g}}}$")
        ax.legend(frameon=False)
    figure.savefig(sys.argv[1], dpi=150)
