"""A committee trained in PyTorch: its measured overlaps and risk on the lines of the theory.

Two erf units learn two erf units by `torch.optim.SGD`, one fresh sample a step, in 300 dimensions.
`as_torch` gives the learning rate of the optimiser, and `Overlaps.from_weights` measures the
weights. Eight runs are trained at once, as one tensor (runs, units, d).
Run as `python examples/pytorch_committee.py [figure.png]` with the extra `torch`; prints the
largest distance of the mean overlaps M from the theory.
"""

import sys

import numpy as np
import sympy as sp

import dmft

try:
    import torch
except ImportError as error:
    raise SystemExit('this example trains in PyTorch: pip install "dmft[torch]"') from error

torch.set_num_threads(1)
D, RUNS, T_MAX = 300, 8, 120.0
erf = dmft.Committee(sp.erf(sp.Symbol("z", real=True) / sp.sqrt(2)), width=2)
model, sgd = dmft.Model(erf, erf), dmft.SGD(learning_rate=2.0)

generator = torch.Generator().manual_seed(0)
W_star = torch.randn(2, D, generator=generator)
first = torch.randn(2, D, generator=generator) + 0.3 * W_star
W = first.expand(RUNS, 2, D).clone().requires_grad_()
optimiser = torch.optim.SGD([W], **sgd.as_torch(dim=D, width=2, scaled_inputs=True))

run = dmft.solve(dmft.derive(model, sgd), dmft.Overlaps.from_weights(first, W_star), T_MAX)
saved = np.rint(np.geomspace(30, run.steps(D)[-1], 24)).astype(int)
measured = []
for step in range(saved[-1] + 1):
    if step in saved:
        measured.append([dmft.Overlaps.from_weights(w, W_star) for w in W])
    x = torch.randn(RUNS, D, generator=generator) / D**0.5
    h, h_star = torch.einsum("sd,spd->sp", x, W), x @ W_star.T
    f, y = (torch.erf(fields / 2**0.5).mean(dim=1) for fields in (h, h_star))
    optimiser.zero_grad()
    (0.5 * (y - f) ** 2).sum().backward()
    optimiser.step()

t = saved * run.t[-1] / saved[-1]
M = np.mean([[overlaps.M for overlaps in row] for row in measured], axis=1)
loss = dmft.population_risk(model)
risk = np.mean([[float(loss(Q=o.Q, M=o.M, P=o.P)) for o in row] for row in measured], axis=1)
if len(sys.argv) > 1:
    axes = dmft.plot(run)
    for j, r in np.ndindex(2, 2):
        axes[0].plot(t, M[:, j, r], "o", mfc="white", color=("#0072B2", "#D55E00")[r])
    axes[1].plot(t, risk, "ko", mfc="white", label=f"PyTorch, d = {D}, mean of {RUNS} runs")
    axes[1].legend(frameon=False)
    axes[0].figure.savefig(sys.argv[1], dpi=150)
theory = np.array([np.interp(t, run.t, run.M[:, j, r]) for j, r in np.ndindex(2, 2)])
print(f"largest distance of M: {np.abs(M.reshape(-1, 4).T - theory).max():.3f}")
