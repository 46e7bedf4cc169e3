"""A thousand squared units learn two: how the units spread, as a picture and as an animation."""

import sys
from pathlib import Path

import numpy as np
import sympy as sp

import dmft
from dmft.display.density import animate_density, plot_density

z = sp.Symbol("z", real=True)
model = dmft.Model(dmft.Committee(z**2, width=1000), dmft.Committee(z**2, width=2))
start = dmft.random_overlaps(model, dim=1000, seed=0)
equations = dmft.derive(model, dmft.GradientFlow(), scaling="mean-field", dim=1000)
run = dmft.solve(equations, start, t_max=10.0, save_at=np.linspace(0, 10, 41))

folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()
plot_density(run, path=folder / "wide_network.png")
animate_density(run, folder / "wide_network.gif")
print(f"risk from {run.risk[0]:.3f} to {run.risk[-1]:.8f}")
