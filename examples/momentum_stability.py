"""Where momentum with a direct step is stable, over its rate and the learning rate.

A linear unit on two eigenvalues. The diagram is the growth rate of the derived Jacobian at the
solution; the line is `dmft.maximal_learning_rate`, in closed form (theory/structured_inputs (19)).
Writes `momentum_stability.png`, or the path given.
"""

import sys

import numpy as np
import sympy as sp

import dmft

RATES, LEARNING_RATES = np.linspace(0.1, 4.0, 14), np.linspace(1.0, 3.0, 15)
line = dmft.Committee(sp.Symbol("z", real=True), width=1)
P = np.array([0.4, 1.2])[:, None, None]
model = dmft.Model(line, line, inputs=dmft.Spectrum([2.0, 0.5], [0.3, 0.7], teacher=P))
kappa = sp.Symbol("kappa", positive=True)


def sgd(rate: object) -> dmft.SGD:
    return dmft.SGD(1.0, momentum=dmft.Momentum(rate, direct=0.5))


diagram = dmft.phase_diagram(
    "growth_rate",
    ("momentum_rate", RATES),
    ("learning_rate", LEARNING_RATES),
    equations=dmft.derive(model, sgd(1.0)),
    start=dmft.Overlaps(P, P, P),
)
limit = sp.lambdify(kappa, dmft.maximal_learning_rate(model, sgd(kappa)))
limits = limit(RATES)
wrong = int(np.sum((diagram.values > 0) != (LEARNING_RATES[:, None] > limits)))
print(f"of {diagram.values.size} points, on the wrong side of the closed form: {wrong}")

if __name__ == "__main__":
    axes = dmft.plot(diagram)
    axes.plot(RATES, limits, "k-")
    axes.set_xlabel(r"rate of the momentum $\kappa$")
    axes.set_ylim(LEARNING_RATES[0], LEARNING_RATES[-1])
    axes.figure.savefig(sys.argv[1] if len(sys.argv) > 1 else "momentum_stability.png")
