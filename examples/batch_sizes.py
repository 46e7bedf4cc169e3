"""Two erf units learn from two others at one learning rate and three batch sizes n_b.

With gamma/(p n_b) = 20 the noise of the gradients dominates, at 1 noise and signal are comparable
(the equations of Saad and Solla), and at 0.05 only the population flow remains. Solid lines are the
three limits, dashed lines the equations with all terms, points SGD in R^10000 as chains of its
overlaps. Writes batch_sizes.png (or the path given) and prints the largest distance of the chains
from the limits and, last, from all terms (differences of risks, relative to the risk at the start).
"""

import sys

import matplotlib.pyplot as plt
import numpy as np

import dmft
from dmft.literature import saad_solla

path = sys.argv[1] if len(sys.argv) > 1 else "batch_sizes.png"
DIM, RATE, WIDTH = 10_000, 40.0, 2
model = saad_solla(WIDTH, WIDTH)
start = dmft.Overlaps(np.eye(2) / 4, [[0.25, 0.1], [0.1, 0.25]])
CURVES = (  # batch, limit, steps, chains
    (1, "noise-dominated", 75, 200),
    (20, "high-dimensional", 30_000, 4),
    (400, "gradient-flow", 30_000, 2),
)
NAMES = {"high-dimensional": "Saad-Solla", "gradient-flow": "population flow"}

figure, ax = plt.subplots(figsize=(6, 4), constrained_layout=True)
worst, risk = 0.0, dmft.population_risk(model)(Q=start.Q, M=start.M, P=start.P)
for batch, limit, steps, chains in CURVES:
    sgd = dmft.SGD(RATE, batch_size=batch)
    per_step = RATE / (WIDTH * DIM)
    counts = np.unique(np.rint(np.geomspace(1, steps, 25)))
    runs = dmft.simulate(
        model, sgd, DIM, steps * per_step, chains, start, "overlaps", save_at=counts * per_step
    )
    # Where noise dominates, time is counted in units of the noise.
    clock = per_step * (RATE / (WIDTH * batch) if limit == "noise-dominated" else 1.0)
    theory = dmft.solve(
        dmft.derive(model, sgd, scaling=limit), start, steps * clock, save_at=counts * clock
    )
    full = dmft.solve(dmft.derive(model, sgd), start, steps * per_step, save_at=counts * per_step)
    name = f"{NAMES.get(limit, limit)}, $n_b = {batch}$"
    (line,) = ax.loglog(counts, theory.risk, label=name)
    ax.loglog(counts, full.risk, "k--", lw=0.8)
    ax.errorbar(counts, runs.mean.risk, runs.stderr.risk, fmt="o", ms=4, color=line.get_color())
    gaps = [np.abs(runs.mean.risk - y.risk).max() / risk for y in (theory, full)]
    print(f"n_b = {batch}: distance to the limit {gaps[0]:.4f}, with all terms {gaps[1]:.4f}")
    worst = max(worst, gaps[1])
ax.set(xlabel="steps", ylabel="risk")
ax.legend()
figure.savefig(path, dpi=100)
print(f"largest distance with all terms: {worst:.4f}")
