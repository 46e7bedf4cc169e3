"""The order in which the directions of a target are learned from repeated samples.

The directions of two targets are learned in the order that `learnability` predicts: equations
(lines), chains (points), and plain SGD (crosses), which does not learn them. Run as
`python examples/staircase.py [figure.png]`; prints the largest distance between equations and
chains at the end.
"""

import sys

import numpy as np
import sympy as sp

import dmft

z, *fields = sp.symbols("z z1 z2 z3", real=True)
cubic = [sp.expand(dmft.hermite(3, y)) for y in fields]
unit, runs, gap = dmft.Committee(sp.erf(z / sp.sqrt(2)), 1), [], 0.0
for target, rho, rate, horizon, dim in (
    (fields[0] + cubic[1], 0.1, 0.1, 60, 4000),
    (cubic[0] + 3 * sp.prod(fields), 0.15, 0.05, 800, 2000),
):
    k = len(target.free_symbols)
    model = dmft.Model(unit, dmft.MultiIndex(target, fields[:k]))
    order = dmft.learnability(target, fields[:k], ["one-pass SGD", "data reuse"])
    plain = dmft.SGD(rate, constraint="sphere")
    ahead = dmft.SGD(rate, constraint="sphere", repeat=dmft.Lookahead(rho))
    kick = dmft.Overlaps([[1.0]], [[0.0] * (k == 3) + [dim**-0.5] * 2])
    solved = dmft.solve(
        dmft.derive(model, ahead), kick, horizon * rate, save_at=200, quadrature_tol=0.02
    )
    chains = [
        dmft.simulate(model, sgd, dim, horizon * rate, 6, kick, "overlaps", save_at=21)
        for sgd in (ahead, plain)
    ]
    size = abs(chains[0].runs.M[:, -1, 0]).mean(0)
    gap = max(gap, float(abs(size - abs(solved.M[-1, 0])).max()))
    runs.append((target, rate, order, solved, chains))
    print(order)
print("largest distance at the end:", round(gap, 3))

if len(sys.argv) > 1:
    from matplotlib.figure import Figure

    panels = (figure := Figure(figsize=(9.0, 3.9), layout="constrained")).subplots(1, 2)
    for axis, (target, rate, order, solved, chains) in zip(panels, runs, strict=True):
        for r in range(solved.M.shape[2]):
            steps = next(row for row in order.table if fields[r] in row.names)["data reuse"]
            label = f"$z_{r + 1}$: {steps.samples}"
            (line,) = axis.plot(solved.t / rate, np.abs(solved.M[:, 0, r]), label=label)
            for found, mark in zip(chains, "ox", strict=True):
                mean = np.abs(found.runs.M[:, :, 0, r]).mean(0)
                axis.plot(found.t / rate, mean, mark, ms=4, c=line.get_color())
        axis.set(xlabel="samples/$d$", ylabel="overlap $|m_r|$", title=f"${sp.latex(target)}$")
        axis.legend(fontsize=8)
    figure.savefig(sys.argv[1], dpi=120)
