# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # Fluctuations of one-pass SGD
#
# **Statement.** At large $d$ the overlaps follow
# $$d(Q, M) = F\,dt + \sqrt{\tfrac{\gamma}{p\,d\,n_b}}\,\Sigma^{1/2}dB_t,\qquad
# \Sigma = \mathrm{Cov}[(u, v)],$$
# $u_{jl} = \psi_jh_l + \psi_lh_j + \frac{\gamma}{pn_b}\psi_j\psi_l$, $v_{jr} = \psi_jh^*_r$.
#
# **Assumptions.** $\gamma, p, k, n_b$ fixed; $x\sim\mathcal N(0, I_d)$; $\psi_j$ has moments.
#
# Run as `python derivations/fluctuations.py [folder]`.
#
# **Steps.** One step adds $\frac{\gamma}{pn_b}\sum_\mu\psi_j^\mu x^\mu/\sqrt d$ to $w_j$, so that
# $Q$ moves by $\delta t$ times the batch mean of $u$, with $\delta t = \gamma/(pd)$, up to
# $|x|^2/d - 1 = O(d^{-1/2})$; $M$ by $\delta t$ times that of $v$. Increments of different steps
# are independent given the overlaps: variance $\delta t^2\Sigma/n_b$ a step is
# $\delta t\,\Sigma/n_b$ per unit $t$.
#
# *Mean at order $1/d$.* In $x$ the span of the weights carries
# $\lambda^\top\Omega^+\lambda$, the rest $d - r$ on average, hence
# $\mathbb E[\psi\psi^\top|x|^2] = (d - r)S + S^{(2)}$. By Stein's identity
# $S^{(2)} - rS = \mathbb E[\lambda\cdot\nabla(\psi\psi^\top)]$: no inverse is needed.
#
# *Sphere.* Dividing by $\sqrt{1 + \Delta Q_{jj}}$ and expanding to second order,
# $\delta M_{jr} = \Delta M_{jr} - \frac12M_{jr}\Delta Q_{jj} - \frac12\Delta M_{jr}\Delta Q_{jj} +
# \frac38M_{jr}\Delta Q_{jj}^2$, whose last two terms have raw second moments of the batch means.
#
# *What is left.* A step of SGD is a step of an Euler scheme: against the flow it is off by
# $-\frac12\delta t\,(\partial F)F$ per unit $t$, also of order $1/d$. Paths at `dt` $=\delta t$
# with `method="euler"` have that bias as SGD does; finer ones do not.

# %%
import sys
import tempfile
from pathlib import Path

import numpy as np
import sympy as sp

import dmft

# A notebook has no __file__: the arguments there are those of its kernel.
given = sys.argv[1:] if "__file__" in globals() else []
folder = Path(given[0] if given else tempfile.mkdtemp())
z, d = sp.Symbol("z", real=True), sp.Symbol("d")
gamma, delta = sp.symbols("gamma Delta", positive=True)
square = dmft.Committee(z**2, width=1)
model = dmft.Model(square, square, label_noise=delta)
sphere = dmft.derive(
    model, dmft.SGD(gamma, constraint="sphere"), dim=d, fluctuations=True
).explicit(P=[[1]])
m = sphere.symbols["M_11"]
place = list(sphere.rhs).index(m)
Sigma = sp.factor(sphere.covariance[place, place])

# %% [markdown]
# **Result** for phase retrieval on the sphere, $p = k = 1$: the noise at $m = 0$ is $48 + 4\Delta$,
# which fixes the exit times (theory/one_pass F.4).

# %%
assert sp.expand(Sigma.subs(m, 0) - (48 + 4 * delta)) == 0
text = rf"\[\boxed{{\Sigma^{{\mathrm{{sph}}}} = {sp.latex(Sigma)}}}\]"
(folder / "fluctuations.tex").write_text(text, encoding="utf-8")

# %% [markdown]
# **Check** by one step in $\mathbb R^d$, $d = 50$: mean of what is of order $1/d$, and covariance.

# %%
rng = np.random.default_rng(0)
dim, rate, noise, m0, n = 50, 0.05, 0.2, 0.5, 2_000_000
h_star = rng.standard_normal(n)
h = m0 * h_star + np.sqrt(1 - m0**2) * rng.standard_normal(n)
span = h_star**2 + (h - m0 * h_star) ** 2 / (1 - m0**2)
length = span + rng.chisquare(dim - 2, n)
psi = 2 * h * (h_star**2 - h**2 + np.sqrt(noise) * rng.standard_normal(n))
dt = rate / dim
dM, dQ = dt * psi * h_star, 2 * dt * psi * h + dt**2 * psi**2 * length
step = ((m0 + dM) / np.sqrt(1 + dQ) - m0) / dt
linear = psi * h_star - 0.5 * m0 * (2 * psi * h + rate * psi**2)
values = {m: m0, gamma: rate, delta: noise, d: dim}
drift = sphere.rhs[m].subs({sphere.symbols["Q_11"]: 1, m: m0, gamma: rate, delta: noise})
expected = float(drift.subs(d, dim) - drift.limit(d, sp.oo))
rest = step - linear
assert abs(rest.mean() - expected) < 4 * rest.std() / np.sqrt(n) + 0.1 * abs(expected)
assert abs(linear.var() / float(Sigma.subs(values)) - 1) < 0.03
print(f"O(1/d) drift at d = {dim}: derived {expected:.5f}, sampled {rest.mean():.5f}")

# %% [markdown]
# **Source.** theory/one_pass B.1, E.1, E.2, E.3. `tests/equations/test_fluctuations.py` repeats the
# check for two student units, batches and erf.
