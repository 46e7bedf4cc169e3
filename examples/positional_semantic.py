"""Phase diagram of two-token attention: does it learn the meaning or the position of tokens?

Run as `python examples/positional_semantic.py [figure.png]`; prints the regions of the square of
all (a, omega), and the tricritical point, at which the mixed minima begin.
"""

import sys

import numpy as np

import dmft

# Target (1 - omega) attention + omega softmax([[a^2, -a^2], [-a^2, a^2]]): all minima, exactly.
axis = np.linspace(0.0, 1.0, 200)
diagram = dmft.literature.positional_semantic_diagram(axis, axis)
for name, number in diagram.count().items():
    print(f"{number:6d} points: {name}")
point = dmft.literature.positional_semantic_points()["tricritical_semantic"]

# Training that starts towards the wrong minimum, and a landscape with two minima.
wrong = dmft.literature.positional_semantic_risk(a=1.0, omega=0.7)
mixed = dmft.literature.positional_semantic_risk(a=0.755, omega=0.975)
for risk in (wrong, mixed):
    print(dmft.landscape(risk))
print(f"tricritical point at a = {point[0]:.7f}, omega = {point[1]:.7f}")

if len(sys.argv) > 1:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(3, 3, figsize=(14.5, 13.5), layout="constrained")
    windows = [(0.0, 1.0, 0.0, 1.0), (0.7, 1.0, 0.4, 1.0), (0.72, 0.8, 0.86, 1.0)]
    for ax, (a_0, a_1, omega_0, omega_1) in zip(axes[0], windows, strict=True):
        a, omega = np.linspace(a_0, a_1, 300), np.linspace(omega_0, omega_1, 300)
        dmft.plot(dmft.literature.positional_semantic_diagram(a, omega), ax=ax)
    for ax in axes[0, 1:]:
        ax.get_legend().remove()
    for row, risk in zip(axes[1:], (wrong, mixed), strict=True):
        title = f"$a = {risk.a:g}$, $\\omega = {risk.omega:g}$"
        dmft.plot(dmft.landscape(risk), ax=row, title=title)
    figure.savefig(sys.argv[1], dpi=120)
