"""Feedback alignment, and forgetting between two tasks.

Fixed feedback weights align the readouts first, then the error falls (Refinetti et al. 2021). A
network with a head for each task forgets most of the first one if the teacher of the second is
moderately similar (Lee et al. 2021).
Run as `python examples/alignment_and_forgetting.py [figure.png]`; prints what is forgotten at 1/2.
"""

import sys

import numpy as np
import sympy as sp

import dmft
from dmft import literature

feedback = np.array([0.8, -1.2])
aligned = dmft.derive(literature.feedback_alignment(feedback.tolist(), teacher=(1.0, 0.5)))
begin = dmft.Overlaps(
    [[0.3, 0.02], [0.02, 0.25]], [[0.1, 0.03], [-0.05, 0.12]], scalars={"v0": 0.01, "v1": 0.02}
)
learning = dmft.solve(aligned, begin, 60.0, save_at=np.geomspace(0.05, 60.0, 200))
readout = np.stack([learning.v0, learning.v1])
alignment = feedback @ readout / np.linalg.norm(feedback) / np.linalg.norm(readout, axis=0)

tasks = dmft.derive(literature.continual_learning(sp.Symbol("replay", real=True)))
heads = {"a0": 0.2, "a1": -0.1, "b0": 0.15, "b1": 0.25}
similarities, forgotten = np.array([0.0, 0.25, 0.5, 0.75, 0.9, 0.95]), []
for s in similarities:
    M = [[0.05, 0.02], [-0.03, 0.04]]
    start = dmft.Overlaps([[0.2, 0.01], [0.01, 0.15]], M, [[1, s], [s, 1]], scalars=heads)
    one = dmft.solve(tasks, start, 60.0, replay=0.0)
    forgotten.append(dmft.solve(tasks, one.final, 120.0, replay=1.0, t_start=60.0).first_risk[-1])
print("forgotten:", np.round(forgotten, 4).tolist())
print(f"at similarity 1/2: {forgotten[2]:.5f}")

if len(sys.argv) > 1:
    from matplotlib.figure import Figure

    c, d = Figure(figsize=(7.0, 3.0), layout="constrained").subplots(1, 2)
    c.semilogx(learning.t, alignment, label="readouts and feedback")
    c.semilogx(learning.t, learning.risk / learning.risk[0], label="risk / first risk")
    c.set(xlabel="t", title="feedback alignment")
    d.plot(similarities, forgotten, "o-", label="first risk after the second task")
    d.set(xlabel="similarity of the teachers", title="two tasks")
    for axes in (c, d):
        axes.legend(frameon=False, fontsize="small")
    c.figure.savefig(sys.argv[1], dpi=150)
