"""Alignments of two-token attention under SGD: the equations, and runs in finite dimension.

Lines are the equations, points means of eight runs of SGD in dimension 400. Run as
`python examples/attention_trajectories.py [figure.png]`; prints the semantic alignment at the end.
"""

import sys

import dmft

model, sgd = dmft.literature.positional_semantic(a=1.0, omega=0.7), dmft.SGD(0.05)
start = dmft.Alignment(e=0.05, m=0.1)
run = dmft.solve(dmft.derive(model, sgd), start, t_max=40.0)
points = dmft.simulate(model, sgd, 400, 40.0, 8, start, save_at=21)
if len(sys.argv) > 1:
    dmft.plot(run, points, path=sys.argv[1], dpi=150)
gap = abs(points.mean.m[-1] - run.m[-1]) / points.stderr.m[-1]
print(f"e = {float(run.e[-1]):.4f}, m off by {float(gap):.1f} standard errors, "
      f"m = {float(run.m[-1]):.5f}")  # fmt: skip
