"""Learning from repeated samples: exponents and times to weak recovery.

A step that looks ahead on the same sample depends on a nonlinear function of the label, so the
generative exponent of the target determines the number of samples to weak recovery. The figure
shows it by formulas and by chains of the overlaps.
Run as `python examples/repetition.py [figure.png]`; prints the samples/d that lookahead
needs to learn He_3.
"""

import sys

import numpy as np
import sympy as sp

import dmft

z = sp.Symbol("z", real=True)
relu, erf = sp.Max(0, z), sp.erf(z / sp.sqrt(2))


def sphere(rate, repeat=None):
    return dmft.SGD(rate, constraint="sphere", repeat=repeat)


start, dims = dmft.Overlaps([[1.0]], [[0.0]]), np.array([1000, 3000, 10_000])
curves = []
for name, unit, order, sgd, level, horizon in (
    ("He$_2$, plain", relu, 2, sphere(0.4), 0.1, 80),
    ("He$_4$, sharpness-aware", erf, 4, sphere(0.12, dmft.SharpnessAware(0.2)), 0.1, 500),
    ("He$_3$, lookahead", relu, 3, sphere(0.1, dmft.Lookahead(0.1)), 0.3, 60),
):
    model = dmft.Model(dmft.Committee(unit, 1), dmft.MultiIndex(dmft.hermite(order, z), [z]))
    recovery, rate = dmft.weak_recovery(model, sgd), float(sgd.learning_rate)
    formula = [recovery.samples_per_dim(d, level, start="orthogonal") for d in dims]
    watch = {"first_passage": dmft.FirstPassage("overlap", level), "save_at": 2}
    runs = [
        dmft.simulate(model, sgd, d, horizon * rate, 24, start, "overlaps", **watch) for d in dims
    ]
    times = np.array([e.first_passage.times / rate for e in runs])
    mean, error = times.mean(1), times.std(1) / np.sqrt(24)
    curves.append((f"{name}: {recovery.samples}", formula, mean, error))
    print(f"{name}: {recovery}; chains {mean.round(1)}, formula {np.round(formula, 1)}")
print("He_3 by looking ahead at d = 10^4, samples/d:", mean[-1].round(2))

if len(sys.argv) > 1:
    from matplotlib.figure import Figure

    axes = (figure := Figure(figsize=(6.4, 4.4), layout="constrained")).subplots()
    for label, formula, mean, error in curves:
        (line,) = axes.semilogx(dims, formula, label=label)
        axes.errorbar(dims, mean, error, fmt="o", color=line.get_color(), capsize=2)
    axes.set(xlabel="$d$", ylabel="samples/$d$ to weak recovery", yscale="log", ylim=(2, 200))
    axes.legend(fontsize=8, loc="lower right")
    figure.savefig(sys.argv[1], dpi=120)
