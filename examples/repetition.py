"""Learning from repeated samples: exponents, times and the order of directions.

A step that looks ahead on its own sample sees a nonlinear function of the label, and learns from
the generative exponent of the target on. Left: samples to weak recovery, formulas against overlap
chains. Middle and right: two targets whose directions come in the order that `learnability` states,
the solved equations (lines) against chains (points), and plain SGD (crosses), which is stuck. The
script writes repetition.png (or the path given) and prints samples/d to see He_3 by looking ahead.
"""

import sys

import numpy as np
import sympy as sp

import dmft
from dmft.display.style import pyplot

path = sys.argv[1] if len(sys.argv) > 1 else "repetition.png"
z, *fields = sp.symbols("z z1 z2 z3", real=True)
relu, erf = sp.Max(0, z), sp.erf(z / sp.sqrt(2))


def he(n, x):
    return sp.expand(dmft.hermite(n, x))


def sphere(rate, repeat=None):
    return dmft.SGD(rate, constraint="sphere", repeat=repeat)


figure, (left, *stairs) = pyplot().subplots(1, 3, figsize=(12.5, 3.9), layout="constrained")
start, dims = dmft.Overlaps([[1.0]], [[0.0]]), np.array([1000, 3000, 10_000])
for name, unit, order, sgd, level, horizon in (
    ("He$_2$, plain", relu, 2, sphere(0.4), 0.1, 80),
    ("He$_4$, sharpness-aware", erf, 4, sphere(0.12, dmft.SharpnessAware(0.2)), 0.1, 500),
    ("He$_3$, lookahead", relu, 3, sphere(0.1, dmft.Lookahead(0.1)), 0.3, 60),
):
    model = dmft.Model(dmft.Committee(unit, 1), dmft.MultiIndex(he(order, z), [z]))
    recovery, rate = dmft.weak_recovery(model, sgd), float(sgd.learning_rate)
    formula = [recovery.samples_per_dim(d, level, start="orthogonal") for d in dims]
    watch = {"first_passage": dmft.FirstPassage("overlap", level), "save_at": 2}
    runs = [
        dmft.simulate(model, sgd, d, horizon * rate, 24, start, "overlaps", **watch) for d in dims
    ]
    times = np.array([e.first_passage.times / rate for e in runs])
    mean, error = times.mean(1), times.std(1) / np.sqrt(24)
    (line,) = left.semilogx(dims, formula, label=f"{name}: {recovery.samples}")
    left.errorbar(dims, mean, error, fmt="o", color=line.get_color(), capsize=2)
    print(f"{name}: {recovery}; chains {mean.round(1)}, formula {np.round(formula, 1)}")
left.set(xlabel="$d$", ylabel="samples/$d$ to weak recovery", yscale="log", ylim=(2, 200))
left.legend(fontsize=8, loc="lower right")

for axis, target, rho, rate, horizon, dim in (
    (stairs[0], fields[0] + he(3, fields[1]), 0.1, 0.1, 60, 4000),
    (stairs[1], he(3, fields[0]) + 3 * sp.prod(fields), 0.15, 0.05, 800, 2000),
):
    k = len(target.free_symbols)
    model = dmft.Model(dmft.Committee(erf, 1), dmft.MultiIndex(target, fields[:k]))
    order = dmft.learnability(target, fields[:k], ["one-pass SGD", "data reuse"])
    ahead = sphere(rate, dmft.Lookahead(rho))
    kick = dmft.Overlaps([[1.0]], [[0.0] * (k == 3) + [dim**-0.5] * 2])
    solved = dmft.solve(
        dmft.derive(model, ahead), kick, horizon * rate, save_at=200, quadrature_tol=0.02
    )
    how = {"method": "overlaps", "save_at": 21}
    chain, plain = (
        dmft.simulate(model, sgd, dim, horizon * rate, 6, kick, **how)
        for sgd in (ahead, sphere(rate))
    )
    for r in range(k):
        steps = next(row for row in order.table if fields[r] in row.names)["data reuse"]
        (line,) = axis.plot(
            solved.t / rate, abs(solved.M[:, 0, r]), label=f"$z_{r + 1}$: {steps.samples}"
        )
        for runs, mark in ((chain, "o"), (plain, "x")):
            axis.plot(
                runs.t / rate, abs(runs.runs.M[:, :, 0, r]).mean(0), mark, ms=4, c=line.get_color()
            )
    axis.set(xlabel="samples/$d$", ylabel="overlap $|m_r|$", title=f"${sp.latex(target)}$")
    axis.legend(fontsize=8)
    print(order)
figure.savefig(path, dpi=120)
print("He_3 by looking ahead at d = 10^4, samples/d:", mean[-1].round(2))
