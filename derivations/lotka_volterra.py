# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # Fixed points of random Lotka-Volterra communities
#
# **Statement.** $\dot x_i = x_i(K - x_i - \sum_j\alpha_{ij}x_j)$ with interactions of mean
# $\mu/N$, variance $\sigma^2/N$ and correlation $\gamma$ of $\alpha_{ij}$ and $\alpha_{ji}$. With
# $w_n = \mathbb E\max(0, \Delta + z)^n$, $w_0 = \Phi(\Delta)$, the fixed point is explicit in
# $\Delta$:
# $$\boxed{\sigma = \frac{\sqrt{w_2}}{w_2 + \gamma w_0},\quad v = \sigma\sqrt{w_2},\quad
# \frac Km = \mu + \frac{\Delta v}{w_1},\quad \text{survival} = w_0,\quad
# \sigma_c = \frac{\sqrt2}{1 + \gamma}.}$$
#
# **Assumptions.** $N\to\infty$; of several rest states a species takes the one that no invader
# changes.
#
# **Source.** [bunin_2017]
#
# Run as `python derivations/lotka_volterra.py`; it checks itself and prints $\sigma_c$.

# %%
import numpy as np
import sympy as sp
from scipy.stats import norm

import dmft

# %% [markdown]
# ## Step 1: the site at rest
#
# The equations of one site (`dmft.explain` shows the cavity argument) have the field
# $h = -\mu m + \sigma\sqrt q\,z + \gamma\sigma^2\chi x$ at rest, where the memory is
# $x\int R = \chi x$. A species with $K + h > x$ grows, so
# $$x = \max\Big(0, \frac{K - \mu m + \sigma\sqrt q z}{v}\Big)
# = \frac{\sigma\sqrt q}{v}\max(0, \Delta + z),\qquad v = 1 - \gamma\sigma^2\chi,\quad
# \Delta = \frac{K - \mu m}{\sigma\sqrt q}.$$

# %%
x, h, s, t = sp.symbols("x h s t", real=True)
sigma, gamma, mu = sp.symbols("sigma gamma mu", positive=True)
equations = dmft.derive(dmft.literature.lotka_volterra(mu, sigma, gamma))
terms = equations.terms["h"]
assert sp.simplify(terms["mean"] / equations.symbols["M"](dmft.t)) == -mu
assert sp.simplify(terms["memory"].function.subs(gamma, 0)) == 0

# %% [markdown]
# ## Step 2: the averages close
#
# $m = \mathbb Ex$, $q = \mathbb Ex^2$ and $\chi = \mathbb E\,\partial x/\partial h$ are
# $$m = \frac{\sigma\sqrt q}v w_1,\qquad q = \frac{\sigma^2q}{v^2}w_2,\qquad \chi = \frac{w_0}v.$$
# The second gives $v = \sigma\sqrt{w_2}$; with $v = 1 - \gamma\sigma^2w_0/v$ it is
# $\sigma(w_2 + \gamma w_0) = \sqrt{w_2}$; the first, with $K - \mu m = \Delta\sigma\sqrt q$, is
# $K/m = \mu + \Delta v/w_1$.

# %%
w0, w1, w2, v = sp.symbols("w0 w1 w2 v", positive=True)
root = sp.sqrt(w2) / (w2 + gamma * w0)
width = root * sp.sqrt(w2)
assert sp.simplify(width - (1 - gamma * root**2 * w0 / width)) == 0

# %% [markdown]
# ## Step 3: stability
#
# A weak white noise in the field moves survivors by $dx/dh = 1/v$, and the couplings multiply its
# variance by $\sigma^2w_0/v^2 = w_0/w_2$: the point is stable while $w_0 < w_2$. Since
# $w_2 - w_0 = \Delta w_1$, this is $\Delta > 0$, and at $\Delta = 0$, where $w_0 = w_2 = 1/2$,
# half of the species survive.

# %%
delta = np.linspace(-2.0, 3.0, 11)
numbers = norm.cdf(delta), delta * norm.cdf(delta) + norm.pdf(delta)
second = (1 + delta**2) * numbers[0] + delta * norm.pdf(delta)
assert np.allclose(second - numbers[0], delta * numbers[1])
critical = root.subs({w0: sp.Rational(1, 2), w2: sp.Rational(1, 2)})
assert sp.simplify(critical - sp.sqrt(2) / (1 + gamma)) == 0

# %% [markdown]
# ## Check: the fixed point of a drawn community
#
# Survivors have a positive growth rate at zero; counting $x > 0$ at a finite time counts species
# that still die out.

# %%
community = dmft.literature.lotka_volterra(4.0, 0.8, 0.5)
(point,) = dmft.fixed_points(community)
D = np.linspace(0.0, 3.0, 300_001)
W0, W2 = norm.cdf(D), (1 + D**2) * norm.cdf(D) + D * norm.pdf(D)
at = int(np.argmin(np.abs(np.sqrt(W2) / (W2 + 0.5 * W0) - 0.8)))
W1 = D[at] * W0[at] + norm.pdf(D[at])
assert abs(W0[at] - point.survival) < 1e-5
assert abs(1 / (4.0 + D[at] * 0.8 * np.sqrt(W2[at]) / W1) - point.output_mean) < 1e-5
drawn = dmft.simulate(community, dim=300, t_max=60.0, seeds=6, start=dmft.laws.Uniform(0.0, 1.0))
error = drawn.stderr.mean[-1]
assert abs(drawn.mean.mean[-1] - point.output_mean) < 4 * error + 0.003
print(
    f"sigma_c = {sp.latex(critical.simplify())}, at gamma = 0: {float(critical.subs(gamma, 0)):.7f}"
)
