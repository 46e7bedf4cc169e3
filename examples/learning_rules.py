"""Hebb, perceptron and AdaTron: three learning rules, each declared in one line.

One unit learns the sign of another one from samples that it sees once, at rate 1. The error is the
probability of a wrong sign, arccos(M / sqrt(Q)) / pi. Points are the same declarations simulated on
vectors in R^d. Run as `python examples/learning_rules.py [figure.png]`; prints the errors after 20
samples per dimension, the AdaTron last.
"""

import sys

import numpy as np
import sympy as sp

import dmft

h, h_star, y, z = sp.symbols("h h_star y z", real=True)
RULES = {
    "Hebb": y,
    "perceptron": y * sp.Heaviside(-h * y),
    "AdaTron": y * sp.Abs(h) * sp.Heaviside(-h * y),
}
model = dmft.Model(dmft.Committee(z, 1), dmft.Committee(sp.sign(z), 1))
start = dmft.Overlaps([[1.0]], [[1e-3]])
times = np.linspace(0.0, 20.0, 201)


def error_of(run):
    return np.arccos(run["M"][:, 0, 0] / np.sqrt(run["Q"][:, 0, 0])) / np.pi


curves, points = {}, {}
for name, psi in RULES.items():
    rule = dmft.UpdateField(psi, fields=(h, h_star, y), learning_rate=1)
    run = dmft.solve(dmft.derive(model, rule), start, t_max=20.0, save_at=times)
    truth = dmft.simulate(
        model,
        rule,
        dim=400,
        t_max=20.0,
        start=start,
        seeds=4,
        method="weights",
        save_at=times[::40],
    )
    curves[name] = error_of({"M": run.M, "Q": run.Q})
    points[name] = error_of(truth.mean)
    print(f"{name:10s} on vectors {points[name][-1]:.4f}, by the equations {curves[name][-1]:.4f}")

if len(sys.argv) > 1:
    from matplotlib.figure import Figure

    axes = (figure := Figure(figsize=(4.8, 3.6), layout="constrained")).subplots()
    for name in RULES:
        (line,) = axes.semilogy(times, curves[name], label=name)
        axes.plot(times[::40], points[name], "o", color=line.get_color())
    axes.set(xlabel="samples / $d$", ylabel="probability of a wrong sign")
    axes.legend(frameon=False)
    figure.savefig(sys.argv[1], dpi=150)
