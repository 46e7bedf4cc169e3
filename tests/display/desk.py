# %% [markdown]
# # From a declaration to a phase diagram
# A percent script: Jupytext opens it as a notebook of fifteen cells; the slow tests execute it.

# %%
import numpy as np
import sympy as sp

import dmft

z = sp.Symbol("z", real=True)
square = dmft.Committee(z**2, width=1)
square

# %%
model = dmft.Model(square, square, label_noise=1e-3)
model

# %%
risk = dmft.population_risk(model)
risk

# %%
written = risk.explicit(P=[[1]])
written

# %%
written.subs({"M_11": sp.Rational(1, 2), "Q_11": 1})

# %%
sgd = dmft.SGD(learning_rate=0.05, constraint="sphere")
sgd

# %%
equations = dmft.derive(model, sgd)
equations

# %%
start = dmft.Overlaps(Q=[[1.0]], M=[[0.05]])
start

# %%
run = dmft.solve(equations, start, t_max=5.0, progress=True)
run

# %%
found = dmft.solve(equations, start, 5.0, events=dmft.Event("M[0,0]/sqrt(Q[0,0])", 0.5))
found.events

# %%
dmft.solve(equations, found.final, 1.0, learning_rate="0.05/(1 + t)")

# %%
truth = dmft.simulate(model, sgd, 500, 5.0, 8, start, "overlaps", save_at=11, progress=True)
truth

# %%
dmft.plot(run, truth)
dmft.escape_time(run, overlap=0.5)

# %%
run.to_pandas().iloc[:: max(1, len(run) // 5)]

# %%
diagram = dmft.phase_diagram(
    "final_risk",
    ("learning_rate", np.linspace(0.02, 0.3, 8)),
    ("label_noise", np.linspace(0.0, 1.0, 8)),
    equations=equations,
    start=start,
    t_max=8.0,
    progress=True,
)
diagram
