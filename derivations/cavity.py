# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # The cavity argument: from N coupled units to one site
#
# **Statement.** Units $\dot x_i = f(x_i, h_i)$ with $h_i = \sum_jJ_{ij}\phi(x_j)$, couplings of
# variance $\sigma^2/N$ and correlation $\gamma$ of $J_{ij}$ and $J_{ji}$. As $N\to\infty$ a site
# sees
# $$\boxed{h(t) = \eta(t) + \gamma\sigma^2\!\int_0^t\!R(t, s)\,\phi(x(s))\,ds,\qquad
# \mathbb E\,\eta(t)\eta(s) = \sigma^2\,\mathbb E\,\phi(x(t))\phi(x(s)),}$$
# $\eta$ Gaussian, $R(t, s) = \mathbb E\,\delta\phi(x(t))/\delta h(s)$.
#
# **Assumptions.** Independent pairs of couplings of finite variance; times of order one.
#
# **Source.** [sompolinsky_1988], [eissfeller_opper_1992]
#
# Run as `python derivations/cavity.py`; it checks itself and prints the largest deviation of the
# memory from theory in units of its standard error.

# %%
import numpy as np
import sympy as sp

import dmft

# %% [markdown]
# ## Step 1: add a site
#
# Site 0 joins a network that has run without it. Its couplings add $J_{k0}\phi(x_0)$ to the fields
# of the others, which is of order $N^{-1/2}$: they respond linearly,
# $$\sum_jJ_{0j}\phi_j = \sum_jJ_{0j}\phi^{(0)}_j
# + \sum_{jk}J_{0j}J_{k0}\int_0^t\frac{\delta\phi_j(t)}{\delta h_k(s)}\phi(x_0(s))\,ds.$$
#
# ## Step 2: average over its couplings
#
# $J_{0j}$ and $J_{j0}$ are independent of all $\phi^{(0)}$. The first sum is Gaussian (central
# limit theorem), with the covariance $\frac{\sigma^2}N\sum_j\phi^{(0)}_j(t)\phi^{(0)}_j(s)$,
# or $\sigma^2C(t, s)$. Of the second only $j = k$ has a mean, $\gamma\sigma^2/N$ for each $j$, and
# $\frac1N\sum_j\delta\phi_j(t)/\delta h_j(s) = R(t, s)$; the rest is of order $N^{-1/2}$.
# `dmft.explain` checks both averages for any declared network.

# %%
x, h = sp.symbols("x h", real=True)
network = dmft.RandomNetwork(-x + h, x, h, output=sp.tanh(x), std=1.5, symmetry=0.5)
equations = dmft.derive(network)
proof = dmft.explain(equations)
assert proof.steps[-1].after == equations.terms["Sigma"]["couplings"]

# %% [markdown]
# ## Check: remove one site after another from drawn networks
#
# Two steps of $x\leftarrow x + dt(-x + h)$ with and without site 0, whose first output is $\phi_0$:
# the difference of the fields of site 0 is the memory, $\gamma\sigma^2\,dt\,R\,\phi_0$ with
# $R = \mathbb E\phi'(x_1)$ one step after the kick, up to $N^{-1/2}$.

# %%
dt, size, sigma, gamma = 0.1, 400, 1.5, 0.5
rng = np.random.default_rng(0)
found = []
for _ in range(20):
    upper, lower = np.triu(rng.standard_normal((size, size))), rng.standard_normal((size, size))
    mixed = gamma * upper.T + np.sqrt(1 - gamma**2) * np.tril(lower)
    J = sigma / np.sqrt(size) * (np.triu(upper, 1) + np.tril(mixed, -1))
    start = rng.standard_normal(size)
    for site in range(20):
        phi, row = np.tanh(start), J[site]
        alone = start + dt * (-start + J @ phi - J[:, site] * phi[site])
        joined = alone + dt * J[:, site] * phi[site]
        slope = np.delete(1 - np.tanh(alone) ** 2, site).mean()
        memory = row @ (np.tanh(joined) - np.tanh(alone))
        found.append(memory / (dt * slope * phi[site]))
found = np.array(found)
error = found.std() / np.sqrt(found.size)
assert abs(found.mean() - gamma * sigma**2) < 4 * error
print(f"memory {found.mean():.4f} +- {error:.4f}, theory {gamma * sigma**2}: "
      f"{abs(found.mean() - gamma * sigma**2) / error:.2f}")  # fmt: skip
