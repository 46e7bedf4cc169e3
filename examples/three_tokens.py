"""Phase diagram of attention over three tokens, reduced by its trace: a target of no paper.

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

# Boundaries at some c: the corners lose their stability, are equal, the start turns towards e.
MEASURES = {
    "semantic stable below": lambda found: found.bend(e=0, m=1),
    "positional stable above": lambda found: found.bend(e=1, m=0),
    "equal risks": lambda found: found.risk(e=1, m=0) - found.risk(e=0, m=1),
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
for name, number in diagram.count().items():
    print(f"{number:4d} points: {name}")

if len(sys.argv) > 1:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, 3, figsize=(14.5, 9.0), layout="constrained")
    dmft.plot(diagram, ax=panels[0, 0])
    levels = np.linspace(0.8, 1.7, 13)
    for name, style in zip(MEASURES, ("--", "-.", "-", ":"), strict=True):
        panels[0, 1].plot(levels, [boundary(name, x) for x in levels], style, label=name)
    panels[0, 1].set(xlabel="$c$", ylabel=r"$\omega$", xlim=(0.8, 1.7), ylim=(0, 1))
    panels[0, 1].legend(frameon=False)
    panels[0, 2].axis("off")
    dmft.plot(dmft.landscape(risk, omega=0.62, c=1.2), ax=panels[1])
    figure.savefig(sys.argv[1], dpi=120)

print(f"semantic at c = 1.2 stable below {boundary('semantic stable below', 1.2):.6f}")
