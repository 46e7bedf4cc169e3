"""Four erf units learn two by one-pass SGD: a plateau, its escape, and SGD on top of the theory.

Writes saad_solla.png (or the path given) and prints the time of escape from the plateau.
"""

import sys

import numpy as np

import dmft
from dmft.literature import saad_solla

path = sys.argv[1] if len(sys.argv) > 1 else "saad_solla.png"
model = saad_solla(width=4, teacher_width=2, label_noise=1e-3)
sgd = dmft.SGD(learning_rate=1.0)
equations = dmft.derive(model, sgd)

# Random weights in R^100 overlap visibly; the theory needs only these overlaps.
start = dmft.random_overlaps(model, dim=100, seed=0)
times = np.concatenate([[0.0], np.geomspace(0.1, 300.0, 120)])
theory = dmft.solve(equations, start, t_max=300.0, save_at=times)
escape = dmft.escape_time(theory, fraction=0.5, reference="plateau")

# The overlaps are an exact Markov chain: SGD in R^1000 without a vector in R^1000.
runs = dmft.simulate(model, sgd, 1000, 300.0, 4, start, method="overlaps", save_at=times)

dmft.plot(theory, runs, escape, path=path, dpi=100)
print(f"the plateau is left at t = {escape.value:.2f}")
