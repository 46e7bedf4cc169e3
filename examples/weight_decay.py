"""Weight decay as a user-defined term in derived equations.

One linear unit learns another from noisy labels by one-pass SGD. A decay -zeta w of its weights
adds -zeta M and -2 zeta Q to the rates; zeta is a value of the run. The stationary risk is lowest
at zeta = 1/sqrt(2), for learning rate and label noise of one. Points are SGD on vectors in R^d.
Run as `python examples/weight_decay.py [figure.png]`; prints the lowest stationary risk.
"""

import sys

import numpy as np
import sympy as sp
from scipy.optimize import minimize_scalar

import dmft

line = dmft.Committee(sp.Symbol("z", real=True), width=1)
plain = dmft.derive(dmft.Model(line, line, label_noise=1), dmft.SGD(1.0))
Q, M, zeta = plain.symbols["Q"], plain.symbols["M"], sp.Symbol("zeta", positive=True)
j, l, r = (plain.indices[name] for name in "jlr")  # noqa: E741
equations = plain.with_term("M", "decay", -zeta * M[j, r])
equations = equations.with_term("Q", "decay", -2 * zeta * Q[j, l])
print(plain.diff(equations))

start = dmft.Overlaps([[1.0]], [[0.0]])


def stationary_risk(decay):
    return dmft.solve(equations, start, t_max=60, rtol=1e-9, zeta=decay).risk[-1]


def simulated_risk(decay, dim=200, runs=16, t_max=12, seed=0):
    """Mean risk of SGD on vectors over the second half of the time, in R^d."""
    rng = np.random.default_rng(seed)
    target, w, risks = np.ones(dim), rng.normal(size=(runs, dim)), []
    for step in range(t_max * dim):
        x = rng.normal(size=(runs, dim))
        error = ((target - w) * x).sum(1) / np.sqrt(dim) + rng.normal(size=runs)
        w += error[:, None] * x / np.sqrt(dim) - decay * w / dim
        if step > t_max * dim / 2 and step % dim == 0:
            risks.append(np.mean((target - w) ** 2) / 2)
    return np.mean(risks)


best = minimize_scalar(stationary_risk, bounds=(0.0, 3.0), method="bounded")
few = (0.0, 0.3, 1.5)
for decay in few:
    print(f"zeta = {decay}: {stationary_risk(decay):.4f}, on vectors {simulated_risk(decay):.4f}")
print(f"lowest risk, at zeta = {best.x:.4f}: {best.fun:.6f}")

if len(sys.argv) > 1:
    from matplotlib.figure import Figure

    axes = (figure := Figure(figsize=(4.8, 3.6), layout="constrained")).subplots()
    decays = np.linspace(0, 2, 41)
    axes.plot(decays, [stationary_risk(decay) for decay in decays], label="equations")
    axes.plot(few, [simulated_risk(decay) for decay in few], "o", label="SGD, $d = 200$")
    axes.set(xlabel=r"decay $\zeta$", ylabel="stationary risk")
    axes.legend(frameon=False)
    figure.savefig(sys.argv[1], dpi=150)
