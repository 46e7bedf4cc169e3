# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # Limits of one-pass SGD: which terms survive
#
# **Statement.** With $\gamma = \gamma_0 d^{-\kappa}$, $p = p_0 d^\delta$, $n_b = n_0 d^\mu$ a step
# takes the time $\delta t = \gamma/(pd)$ and the overlaps move by
# $$\dot M = B^*,\qquad \dot Q = B + B^\top + \frac{\gamma}{p\,n_b} S.$$
# The terms with the largest power of $d$ survive. There is a differential equation if the
# step vanishes in the time unit in which these terms are of order one.
#
# **Assumptions.** $k = O(1)$, $\delta \ge 0$, fresh samples in each step.
#
# Run as `python derivations/regimes.py [folder]`: all equations go to one LaTeX file in the folder
# (a temporary one by default).

# %%
import sys
import tempfile
from pathlib import Path

import numpy as np
import sympy as sp

import dmft
from dmft.display.latex import document

z = sp.Symbol("z", real=True)
ERF = sp.erf(z / sp.sqrt(2))

# %% [markdown]
# ## Step 1: powers of d
#
# The quadratic term has the weight $\gamma/(p n_b) \sim d^{-e-\mu}$, $e = \kappa + \delta$.
# Where it leads, $t' = t\,\gamma/(p n_b)$ makes it of order one, and a step is
# $\delta t' \sim d^{-(1 + 2e + \mu)}$. The library decides the same by itself:

# %%
kappa, delta, mu = sp.symbols("kappa delta mu", real=True)
step = -(1 + kappa + delta)
weight = -(kappa + delta + mu)
assert sp.expand(step + weight + 1 + 2 * (kappa + delta) + mu) == 0
for power, size in ((sp.Rational(1, 3), 0), (sp.Rational(1, 2), sp.Rational(1, 4))):
    scaling = dmft.Scaling(learning_rate=power, batch_size=size)
    values = {kappa: -power, delta: 0, mu: size}
    assert scaling.step_power == (step + weight).subs(values)
    assert scaling.region == "noise-dominated"

# %% [markdown]
# ## Step 2: limits of the equations
#
# As $\gamma \to 0$ the rates become those of gradient flow; as $\gamma \to \infty$, in $t'$,
# those of the noise-dominated limit. Deviations must shrink with $\gamma$ and $1/\gamma$.

# %%
student, teacher = dmft.Committee(ERF, 2), dmft.Committee(ERF, 2)
model = dmft.Model(student, teacher, label_noise=0.2)
start = dmft.Overlaps([[0.8, 0.1], [0.1, 0.6]], [[0.3, -0.1], [0.05, 0.4]])


def rates(gamma, scaling=None):
    return dmft.derive(model, dmft.SGD(gamma), scaling=scaling).evaluate(start)


flow, noise = rates(1.0, "gradient-flow"), rates(1.0, "noise-dominated")
for gamma in (1e-2, 1e-4):
    gap = np.abs(rates(gamma)["Q"] - flow["Q"]).max()
    print(f"gamma = {gamma:g}: distance to gradient flow {gap:.1e}")
    assert gap < gamma
for gamma in (1e2, 1e4):
    fast = rates(gamma)
    gap = max(np.abs(fast[name] * 2 / gamma - noise[name]).max() for name in ("Q", "M"))
    print(f"gamma = {gamma:g}: distance to the noise-dominated limit {gap:.1e}")
    assert gap < 10 / gamma

# %% [markdown]
# ## Step 3: wide students
#
# $Q = MP^{+}M^\top + \mathrm{diag}(Q^\perp)$. At such overlaps the rate of $M$ is that of the full
# equations, and $\dot Q^\perp_j = \dot Q_{jj} - 2\,(\dot M P^{+} M^\top)_{jj}$.

# %%
P = np.array([[1.0, 0.15], [0.15, 0.8]])
M = np.array([[0.3, -0.1], [0.05, 0.4]])
inverse = np.linalg.inv(P)
flat = dmft.Overlaps(M @ inverse @ M.T + np.diag([0.8, 0.6]), M, P)
wide = dmft.derive(model, dmft.GradientFlow(), scaling="mean-field").evaluate(flat)
full = dmft.derive(model, dmft.GradientFlow()).evaluate(flat)
residual = np.diag(full["Q"] - 2 * full["M"] @ inverse @ M.T)
assert np.abs(wide["M"] - full["M"]).max() < 1e-14
assert np.abs(wide["Q_perp"] - residual).max() < 1e-14

# %% [markdown]
# ## All equations

# %%
gamma, dim = sp.symbols("gamma", positive=True), sp.Symbol("d", positive=True)
square = dmft.Model(dmft.Committee(z**2, 2), dmft.Committee(z**2, 1), label_noise=0.2)
sgd = dmft.SGD(gamma)
BATCH = 1000
RECORDS = {
    "Plane of exponents": dmft.regimes(model),
    "Wide, squared activation, finite dimension": dmft.derive(
        square, dmft.GradientFlow(), scaling="mean-field", dim=500
    ),
    "Infinitely wide, squared activation, fixed learning rate over width": dmft.derive(
        square, dmft.SGD(gamma, constraint="sphere"), scaling="wide-high-dimensional"
    ),
    "Sphere": dmft.derive(model, dmft.SGD(gamma, constraint="sphere")),
    "Correlation loss": dmft.derive(model, dmft.SGD(gamma, loss="correlation")),
    "Trained readout": dmft.derive(model, dmft.SGD(gamma, readout_rate=1)),
    "Map of large batches": dmft.derive(model, dmft.SGD(gamma, batch_size=BATCH), dim=500),
    "Fluctuations": dmft.derive(square, sgd, dim=500, fluctuations=True),
}


class Titled:
    """A record under a heading."""

    def __init__(self, title, record):
        self.title, self.record = title, record

    def latex(self):
        return rf"\subsection*{{{self.title}}}" + "\n" + self.record.latex()


text = document(*(Titled(*item) for item in RECORDS.items()), title="Regimes of one-pass SGD")
assert text.isascii()
assert text.count(r"\begin{align*}") == text.count(r"\end{align*}") > len(RECORDS)
assert "\\begin{align*}\n\n" not in text, "TeX refuses an empty line in an alignment"
# A notebook has no __file__: the arguments there are those of its kernel.
given = sys.argv[1:] if "__file__" in globals() else []
folder = Path(given[0] if given else tempfile.mkdtemp())
folder.mkdir(parents=True, exist_ok=True)
(folder / "regimes.tex").write_text(text)
print(f"{len(RECORDS)} groups of equations in regimes.tex")
