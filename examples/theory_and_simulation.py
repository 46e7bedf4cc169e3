"""Theory against simulation: erf students of an erf teacher, from overlaps of order one.

Lines are the ordinary differential equations of d -> infinity. Points are SGD in R^1000 and the
exact chain of the overlaps at larger d. The distance of single runs from the theory falls like
d^(-1/2): the script draws it, writes theory_and_simulation.png (or the path given) and prints
the fitted power.
"""

import sys

import numpy as np
import sympy as sp

import dmft
from dmft.display.style import pyplot

path = sys.argv[1] if len(sys.argv) > 1 else "theory_and_simulation.png"
z = sp.Symbol("z", real=True)
network = dmft.Committee(sp.erf(z / sp.sqrt(2)), width=2)
model = dmft.Model(network, network, label_noise=0.05)
sgd = dmft.SGD(learning_rate=2.0)
start = dmft.Overlaps(Q=[[0.9, 0.2], [0.2, 0.7]], M=[[0.3, -0.1], [0.05, 0.4]])
t_max, seeds = 6.0, 16

equations = dmft.derive(model, sgd)
theory = dmft.solve(equations, start, t_max, save_at=np.linspace(0.0, t_max, 200))
weights = dmft.simulate(model, sgd, 1000, t_max, seeds, start, save_at=13)
chains = [
    dmft.simulate(model, sgd, dim, t_max, seeds, start, method="overlaps", save_at=13)
    for dim in (1000, 10_000, 100_000)
]


def distance(runs):
    """Root mean square over runs of the largest deviation of M from the theory."""
    exact = dmft.solve(equations, start, t_max, save_at=runs.t)
    return np.sqrt(np.mean(np.abs(runs.runs.M - exact.M).max(axis=(1, 2, 3)) ** 2))


dims = [runs.dim for runs in chains]
gaps = [distance(runs) for runs in chains]
slope = np.polyfit(np.log(dims), np.log(gaps), 1)[0]

figure, (left, middle, right) = pyplot().subplots(1, 3, figsize=(11, 3.4), layout="constrained")
dmft.plot(theory, weights, chains[-1], ax=(left, middle))
right.loglog(dims, gaps, "o-", label="overlap chain")
right.loglog(1000, distance(weights), "s", label="weights in R^1000")
right.set(xlabel="$d$", ylabel="distance of a run from the theory", title=f"power {slope:.2f}")
right.legend()
figure.savefig(path, dpi=150)
print(f"the distance falls like d to the power {slope:.3f}")
