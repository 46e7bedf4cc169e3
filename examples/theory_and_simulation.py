"""Theory and simulation from overlaps of order one: erf committees and phase retrieval.

Lines are the ordinary differential equations of d -> infinity. Points are SGD in R^1000 and
R^4000 and the exact chain of the overlaps at larger d. The distance of single runs from the
theory decreases as d^(-1/2): the script draws it, writes theory_and_simulation.png (or the path
given) and prints the fitted powers.
"""

import sys

import numpy as np

import dmft
from dmft.display.style import pyplot
from dmft.literature import phase_retrieval, saad_solla

path = sys.argv[1] if len(sys.argv) > 1 else "theory_and_simulation.png"
seeds, dims = 16, (1000, 4000, 16_000, 64_000)
cases = {
    "erf, p = k = 2": (
        saad_solla(2, label_noise=0.05),
        dmft.SGD(learning_rate=2.0),
        dmft.Overlaps(Q=[[0.9, 0.2], [0.2, 0.7]], M=[[0.3, -0.1], [0.05, 0.4]]),
        6.0,
    ),
    "phase retrieval, p = 1": (
        phase_retrieval(1),
        dmft.SGD(learning_rate=0.1),
        dmft.Overlaps(Q=[[0.9]], M=[[0.3]]),
        1.0,
    ),
}
figure, rows = pyplot().subplots(2, 3, figsize=(11, 6.4), layout="constrained")
for (name, (model, sgd, start, t_max)), (left, middle, right) in zip(
    cases.items(), rows, strict=True
):
    equations = dmft.derive(model, sgd)
    theory = dmft.solve(equations, start, t_max, save_at=200)
    how = {"start": start, "save_at": 13}
    weights = [dmft.simulate(model, sgd, d, t_max, seeds, **how) for d in (1000, 4000)]
    chains = [dmft.simulate(model, sgd, d, t_max, seeds, method="overlaps", **how) for d in dims]
    exact = dmft.solve(equations, start, t_max, save_at=13).M
    # Root mean square over runs of the largest deviation of M from the theory.
    by_weights, by_chain = (
        [np.sqrt(np.mean(np.abs(e.runs.M - exact).max(axis=(1, 2, 3)) ** 2)) for e in ensembles]
        for ensembles in (weights, chains)
    )
    power = np.polyfit(np.log(dims), np.log(by_chain), 1)[0]
    dmft.plot(theory, weights[1], chains[-1], ax=(left, middle))
    right.loglog(dims, by_chain, "o-", label="overlap chain")
    right.loglog([1000, 4000], by_weights, "s", label="weights in $R^d$")
    right.set(xlabel="$d$", ylabel="distance of a run", title=f"{name}: power {power:.2f}")
    right.legend()
    if left is not rows[0, 0]:  # both rows show the same dimensions
        middle.get_legend().remove()
    print(f"{name}: the distance falls like d to the power {power:.3f}")
figure.savefig(path, dpi=120)
