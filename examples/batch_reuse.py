"""Gradient descent on repeated data learns what one pass cannot: theory and simulation.

A ReLU neuron learns y = tanh(z1 + He3(z2)) by full-batch gradient descent on n = 3 d samples: the
two-time equations as lines, runs in d = 500 as points, and the kernels of the gradients as maps.
"""

import sys

import numpy as np
import sympy as sp

import dmft

z, z1, z2 = sp.symbols("z z1 z2", real=True)
target = dmft.MultiIndex(sp.tanh(z1 + z2**3 - 3 * z2), [z1, z2])
model = dmft.Model(dmft.Committee(sp.Max(z, 0), width=1), target)
descent = dmft.GradientDescent(0.3, samples_per_dim=3)
start = dmft.Overlaps([[1.0]], [[0.0, 0.0]])
steps = 7

equations = dmft.derive(model, descent)
theory = dmft.solve(equations, start, steps, samples=2**13)
truth = dmft.simulate(model, descent, 500, steps, 24, start)

gap = theory.M - truth.mean["M"]
error = np.hypot(theory.error["M"], truth.stderr["M"])[1:]
rms = np.sqrt(np.mean((gap[1:] / error) ** 2))

# Which directions two steps find, for a target that one pass learns half of.
staircase = dmft.MultiIndex(z1 + z2**3 - 3 * z2, [z1, z2])
erf = dmft.Committee(sp.erf(z / sp.sqrt(2)), width=1)
for batch in (None, "fresh"):
    algorithm = dmft.GradientDescent(0.3, samples_per_dim=3, batch=batch)
    print(dmft.learned_directions(dmft.Model(erf, staircase), algorithm, rtol=1e-5))

print(f"overlaps of theory and simulation, rms difference in standard errors: {rms:.2f}")
dmft.plot(theory, truth, path=sys.argv[1] if len(sys.argv) > 1 else "batch_reuse.png")
