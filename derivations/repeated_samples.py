# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # Samples that are used more than once: update field and weak recovery
#
# **Statement.** A step that displaces the weights along its own sample before it takes the gradient
# (extragradient, $\rho > 0$; sharpness-aware, $\rho < 0$), or makes several steps on it, has the
# update field
# $$\psi_j = \psi^0_j\bigl(h + \rho\,\psi^0(h, y), y\bigr),\qquad
#   \psi^0_j(h, y) = a_j \sigma'(h_j)\,\bigl(y - f(h)\bigr),$$
# and one neuron on the sphere sees its teacher through
# $$\dot m = (1 - m^2)\sum_{k\ge1}\frac{e_k}{(k-1)!}\,m^{k-1}
#   - \frac{\gamma}{2}\langle\psi^2\rangle m,\qquad e_k =
# \langle\psi\,\mathrm{He}_{k-1}(h)\,\mathrm{He}_k(h^*)\rangle_{m=0}.$$
#
# **Assumptions.** $x \sim N(0, I_d)$, small batches, $d \to \infty$.
#
# Run as `python derivations/repeated_samples.py [folder]`: the equations go to one LaTeX file in
# the folder (a temporary one by default).

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
SLOPE = sp.lambdify(z, sp.diff(ERF, z), "scipy")
VALUE = sp.lambdify(z, ERF, "scipy")

# %% [markdown]
# ## Step 1: a sample moves its own fields
#
# The displaced weights are $\tilde w_j = w_j + \rho\,\psi^0_j\, x/\sqrt d$, so that the fields of
# the same sample are $\tilde h_j = \tilde w_j \cdot x/\sqrt d = h_j + \rho\,\psi^0_j\,|x|^2/d$, at
# every $d$; $|x|^2/d = 1 + O(d^{-1/2})$. Another sample has $\tilde h_j = h_j + O(d^{-1/2})$: only
# the sample itself matters. In numbers, for one neuron at three dimensions:

# %%
rng = np.random.default_rng(0)
rho, spread = 0.3, []
for d in (100, 1600, 25600):
    w, star = rng.standard_normal((2, d))
    x = rng.standard_normal(d)
    h, y = w @ x / np.sqrt(d), (star @ x / np.sqrt(d)) ** 2
    psi = SLOPE(h) * (y - VALUE(h))
    moved = (w + rho * psi * x / np.sqrt(d)) @ x / np.sqrt(d)
    assert abs(moved - (h + rho * psi * (x @ x) / d)) < 1e-12
    spread.append(abs(x @ x / d - 1) * np.sqrt(d))
assert max(spread) < 4.5  # |x|^2/d - 1 has the standard deviation sqrt(2/d)

# %% [markdown]
# The overlaps move by $\delta M = \frac{\gamma}{pd}\,\psi h^*$ and
# $\delta Q = \frac{\gamma}{pd}(\psi h + h \psi) + (\frac{\gamma}{pd})^2 \psi\psi\,|x|^2$, as under
# every update field. The library derives the field and these averages:

# %%
model = dmft.Model(dmft.Committee(ERF, 1), dmft.MultiIndex(z**3 - 3 * z, [z]))
ahead = dmft.SGD(0.1, constraint="sphere", repeat=dmft.Lookahead(0.1))
equations = dmft.derive(model, ahead)

# %% [markdown]
# ## Step 2: the drift of one overlap
#
# At correlation $m$ Stein's identity gives
# $\langle\psi h^*\rangle - m\langle\psi h\rangle = (1 - m^2)\langle\partial_{h^*}\psi\rangle$, and
# Mehler's formula $\langle \mathrm{He}_a(h)\mathrm{He}_b(h^*)\rangle_m = \delta_{ab}\,a!\,m^a$
# picks $e_k$ out of the expansion of $\psi$ at $m = 0$. For polynomials the sum ends, and both
# sides can
# be compared as formulas:

# %%
h, h_star, m, r = sp.symbols("h h_star m rho", real=True)
y = h_star**2 + h_star
psi_0 = 2 * h * (y - h**2)
moved = h + r * psi_0
psi = sp.expand(2 * moved * (y - moved**2))
apart = dmft.Gaussian([h, h_star], sp.eye(2))
together = dmft.Gaussian([h, h_star], sp.Matrix([[1, m], [m, 1]]))
left = together.expect(sp.expand(psi * (h_star - m * h)))
orders = range(1, int(sp.Poly(psi, h_star).degree()) + 1)
e = {
    k: apart.expect(sp.expand(psi * dmft.hermite(k - 1, h) * dmft.hermite(k, h_star)))
    for k in orders
}
right = (1 - m**2) * sum(e[k] * m ** (k - 1) / sp.factorial(k - 1) for k in orders)
assert sp.expand(left - right) == 0

# %% [markdown]
# ## Step 3: the exponent is that of the algorithm
#
# Without displacement $e_k = a\,\langle\sigma'\mathrm{He}_{k-1}\rangle\,\langle y\,
# \mathrm{He}_k\rangle$: the information exponent of the target. With it $\psi$ holds powers of $y$,
# and $e_k$ is nonzero from the generative exponent on. For $\mathrm{He}_3$, 3 becomes 1:

# %%
plain = dmft.weak_recovery(model, dmft.SGD(0.1, constraint="sphere"))
reuse = dmft.weak_recovery(model, ahead)
assert (plain.exponent, reuse.exponent) == (3, 1)
assert dmft.generative_exponent(z**3 - 3 * z, z) == 1
print(f"plain SGD: {plain}")
print(f"lookahead: {reuse}")

# %% [markdown]
# ## Step 4: times
#
# $e_1 \ne 0$: the ode leaves $m = 0$ by itself, $\tau = \frac{1}{\gamma}\int dm/\dot m$ samples
# over $d$. $e_1 = 0 < e_2$: $m$ grows at the rate
# $\Lambda = e_2 - \frac\gamma2\langle\psi^2\rangle$ from the noise of the start and of the
# samples, of variance $\frac1d\bigl(v_0 + \frac{\gamma}{2\Lambda}
# \langle\psi^2 {h^*}^2\rangle\bigr)$ when it no longer matters, and
# $-\langle\log|N(0,1)|\rangle = (\gamma_E + \log 2)/2$:
# $$\boxed{t = \frac1\Lambda\Bigl[\log m + \frac12\log\frac{d}{v_0 + \gamma\langle\psi^2{h^*}^2
#   \rangle/(2\Lambda)} + \frac{\gamma_E + \log 2}{2}\Bigr]}$$
# The linear equation with its noise, in numbers:

# %%
square = dmft.Model(dmft.Committee(sp.Max(0, z), 1), dmft.MultiIndex(z**2 - 1, [z]))
recovery = dmft.weak_recovery(square, dmft.SGD(0.4, constraint="sphere"))
growth, noise = float(recovery.growth_rate), 0.4 * float(recovery.cross.value)
d, level, dt = 1e8, 0.01, 0.02
paths = np.zeros(4000)
when = np.full(paths.size, np.nan)
for step in range(1, 2000):
    paths += growth * paths * dt + np.sqrt(noise * dt / d) * rng.standard_normal(paths.size)
    when[np.isnan(when) & (abs(paths) >= level)] = step * dt
formula = recovery.time(d, level, start="orthogonal")
error = np.nanstd(when) / np.sqrt(paths.size)
print(f"first passage {np.nanmean(when):.3f} +- {error:.3f}, formula {formula:.3f}")
assert not np.isnan(when).any()
assert abs(np.nanmean(when) - formula) < 4 * error + growth * dt
assert abs(np.nanstd(when) - recovery.std()) < 0.1

# %%
text = document(equations, reuse, title="Samples used more than once")
assert text.isascii()
assert text.count(r"\begin{align*}") == text.count(r"\end{align*}")
# A notebook has no __file__: the arguments there are those of its kernel.
given = sys.argv[1:] if "__file__" in globals() else []
folder = Path(given[0] if given else tempfile.mkdtemp())
folder.mkdir(parents=True, exist_ok=True)
(folder / "repeated_samples.tex").write_text(text)
print(f"e_1 of He_3 by looking ahead: {float(reuse.coefficients[0].value):.6f}")
