"""A perceptron that is rewarded only after an episode of right decisions.

If all T decisions of an episode must be right, rewards are rare at the start and learning waits on
a plateau that grows exponentially with T. With a penalty two states are stable: whether the
perceptron learns depends on its first overlap (Patel et al. 2023).
Run as `python examples/rewards.py [figure.png]`; prints the time to a cosine of 1/2 at T = 8.
"""

import sys

import numpy as np
import sympy as sp

import dmft

penalty = sp.Symbol("penalty", real=True)


def cosine(run):
    return run.M[:, 0, 0] / np.sqrt(run.Q[:, 0, 0])


def start(first):
    return dmft.Overlaps(Q=[[1.0]], M=[[first]])


runs = {}
for decisions in (1, 2, 4, 8):
    equations = dmft.derive(dmft.literature.reinforcement_perceptron(decisions))
    run = dmft.solve(equations, start(0.05), t_max=150.0, save_at=3001)
    runs[decisions] = run
    half = np.interp(0.5, cosine(run), run.t)
    print(f"T = {decisions}: cosine 1/2 at t = {half:.2f}")

penalised = dmft.derive(dmft.literature.reinforcement_perceptron(8, penalty=penalty))
penalties = np.array([0.02, 0.05, 0.06, 0.1, 0.3])
ends = {
    first: [cosine(dmft.solve(penalised, start(first), 2000.0, penalty=y))[-1] for y in penalties]
    for first in (0.05, 0.6)
}
for first, found in ends.items():
    print(f"from {first}: cosines at the end {np.round(found, 3).tolist()}")
print(f"time at T = 8: {half:.3f}")

if len(sys.argv) > 1:
    from matplotlib.figure import Figure

    left, right = Figure(figsize=(7.0, 3.0), layout="constrained").subplots(1, 2)
    for decisions, run in runs.items():
        left.plot(run.t, cosine(run), label=f"T = {decisions}")
    left.set(xlabel="t", ylabel=r"cosine of $w$ and teacher", xscale="log", xlim=(0.1, 150))
    for first, found in ends.items():
        right.plot(penalties, found, "o-", label=f"from {first}")
    right.set(xlabel="penalty", ylabel="cosine at the end, T = 8")
    for axes in (left, right):
        axes.legend(frameon=False)
    left.figure.savefig(sys.argv[1], dpi=150)
