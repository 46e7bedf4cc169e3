"""Attention over three tokens, reduced by its trace: regions, boundaries, dynamics of a new target.

Run as `python examples/three_tokens.py [figure.png]`; prints the regions, and the weight beyond
which the semantic minimum at c = 1.2 is no longer stable.
"""

import sys

import numpy as np
import sympy as sp

import dmft

# Student tr T(h) / sqrt(3); target (1 - omega) tr T(h*) / sqrt(3) + omega c; p_l = (1, 0, -1) p.
omega, c = sp.symbols("omega c", positive=True)
student = dmft.Attention(3, "trace")
model = dmft.Model(student, student.mixture(omega, c), encoding=[1, 0, -1])
risk = dmft.population_risk(model)
# The corners lose their stability; the start turns towards e.
MEASURES = {
    "semantic stable below": lambda found: found.bend(e=0, m=1),
    "positional stable above": lambda found: found.bend(e=1, m=0),
    "starts along $e$ above": lambda found: found.rates[0] - found.rates[1],
}


def boundary(name, level):
    """Weight omega on a boundary; nan where it is not met."""
    try:
        return dmft.landscape_boundary(risk, "omega", MEASURES[name], 0.1, 0.99, xtol=1e-6, c=level)
    except dmft.errors.BadParameter:
        return np.nan


axes = {"c": np.linspace(0.8, 1.7, 28), "omega": np.linspace(0.03, 0.98, 26)}
diagram = dmft.landscape_diagram(risk, axes, points=128)
print("\n".join(f"{number:4d} points: {name}" for name, number in diagram.count().items()))

if len(sys.argv) > 1:
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, 3, figsize=(14.5, 9.0), layout="constrained")
    dmft.plot(diagram, ax=panels[0, 0])
    levels, place, sgd = np.linspace(0.85, 1.7, 12), {"omega": 0.5, "c": 1.2}, dmft.SGD(0.5)
    for name, style in zip(MEASURES, ("k--", "k-.", "k:"), strict=True):
        panels[0, 0].plot(levels, [boundary(name, x) for x in levels], style, label=name)
    for ax, e, m in ((panels[0, 1], 0.1, 0.4), (panels[0, 2], 0.4, 0.1)):
        start = dmft.Alignment(e=e, m=m)
        run = dmft.solve(dmft.derive(model, sgd), start, 120.0, **place)
        chains = dmft.simulate(model, sgd, 1000, 120.0, 8, start, "overlaps", save_at=16, **place)
        for name in ("e", "m"):
            (line,) = ax.plot(run.t, getattr(run, name), label=f"${name}$")
            mean, error = getattr(chains.mean, name), getattr(chains.stderr, name)
            ax.errorbar(chains.t, mean, error, fmt=".", color=line.get_color())
        ax.set(xlabel="$t$", title=r"SGD, $\gamma = 0.5$, and eight chains of $d = 1000$")
        ax.legend()
    dmft.plot(dmft.landscape(risk, **place), ax=panels[1])
    figure.savefig(sys.argv[1], dpi=120)

print(f"semantic at c = 1.2 stable below {boundary('semantic stable below', 1.2):.6f}")
