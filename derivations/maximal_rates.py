# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # The largest learning rate of erf committees under label noise
#
# **Statement.** Student and teacher are erf committees of width $p$, $P = I$, unit readouts; labels
# have noise of variance $\Delta$. Units of the specialised stationary state are longer than the
# teacher's, $Q_{jj} = L^2 > 1$, and $L\to\infty$ as
# $$\gamma \to \gamma^*(p, \Delta) = \frac{2}{\Delta + v_p},\qquad
# v_1 = \tfrac2\pi\arcsin\tfrac13,$$
# with $v_p$ below for any width. Without noise $\gamma^*(p, 0)$ exceeds the rate up to which the
# perfect solution is stable (`dmft.maximal_learning_rate`): between the two the units are long and
# finite.
#
# **Assumptions.** One-pass SGD, $d\to\infty$; all units equivalent. That they stay so is checked
# at the end: at widths 3, 4 and 5 the symmetry breaks at a smaller rate.
#
# **Source.** Equations as in theory/one_pass B.2; the limit is derived here.
#
# Run as `python derivations/maximal_rates.py`; it checks itself and prints $v_p$.

# %%
import numpy as np
import sympy as sp
from scipy.optimize import brentq, root

import dmft

# %% [markdown]
# ## Step 1: only the passage of a field through zero counts
#
# $\sigma'(h_j) = \sqrt{2/\pi}\,e^{-h_j^2/2}$ lives at $|h_j| = O(1)$, which a field of variance
# $L^2$ visits with the flat density $\rho = 1/(\sqrt{2\pi}L)$. There, to leading order, the other
# units are $\mathrm{sign}(h_l)$, and the error is $E = e - \sigma(h_j)/p + \sqrt\Delta\,\xi$ with
# $$e = \frac1p\sum_r\sigma(h^*_r) - \frac1p\sum_{l\ne j}\mathrm{sign}(h_l),\qquad h_j = 0,$$
# independent of $h_j$ and even under the reversal of all fields. Hence
# $$\dot Q_{jj} = 2\,\mathbb E[\psi_jh_j] + \frac\gamma p\,\mathbb E[\psi_j^2]
# = \rho\Big[-\frac{2A}p + \frac\gamma p\Big(\frac B{p^2} + C\,(\Delta + \mathbb E e^2)\Big)\Big],$$
# $A = \int\sigma\sigma'h$, $B = \int\sigma^2\sigma'^2$, $C = \int\sigma'^2$. Since $h\sigma' =
# -\sigma''$, $A = C$, and $B/C = \tfrac2\pi\arcsin\tfrac13$ ($h$ has variance $1/2$ under
# $\sigma'^2$).

# %%
h = sp.Symbol("h", real=True)
sigma = sp.erf(h / sp.sqrt(2))
slope = sp.diff(sigma, h)
A = sp.integrate(slope**2, (h, -sp.oo, sp.oo))  # by parts
nodes, weights = np.polynomial.hermite_e.hermegauss(120)
f, g = (sp.lambdify(h, y, "scipy") for y in (sigma, slope))


def flat(values):
    """Integral over h from values at the nodes."""
    return float(np.sum(weights * np.exp(nodes**2 / 2) * values))


C, B = flat(g(nodes) ** 2), flat(f(nodes) ** 2 * g(nodes) ** 2)
OWN = 2 / np.pi * np.arcsin(1 / 3)
assert abs(C - float(A)) < 1e-12
assert abs(flat(f(nodes) * g(nodes) * nodes) - C) < 1e-12
assert abs(B / C - OWN) < 1e-12

# %% [markdown]
# ## Step 2: the directions
#
# What a unit has outside the teachers' span is $Q^\perp = O(L)$ and does not count. In the span its
# direction is stationary if $\mathbb E[e\,h^*_q\,|\,h_j = 0] = 0$ for all $q$ orthogonal to it.
# Signs jump where $\sigma(h^*)$ is smooth, so that other units pull too much and units lean away
# from the teachers of the others: $u_j\propto e_j - t\sum_{l\ne j}e_l$. With $C = I - u_ju_j^\top$
# the covariance of $h^*$ at $h_j = 0$, everything is an arcsine:
# $$\mathbb E[\sigma(a)\,b] = \sqrt{\tfrac2\pi}\frac{C_{ab}}{\sqrt{1 + C_{aa}}},\qquad
# \mathbb E[\sigma(a)\sigma(b)] = \tfrac2\pi\arcsin\frac{C_{ab}}{\sqrt{(1+C_{aa})(1+C_{bb})}},$$
# without the ones for signs. One equation fixes $t$, and
# $$\boxed{\gamma^* = \frac2{\Delta + v_p},\qquad
# v_p = \mathbb E[e^2\,|\,h_j = 0] + \frac2{\pi p^2}\arcsin\frac13 .}$$


# %%
def passing(p, t):
    """Pull towards the other teachers, and E e^2, while the field of one unit passes zero."""
    U = ((1 + t) * np.eye(p) - t) / np.sqrt(1 + (p - 1) * t * t)
    fields, sign = np.r_[np.eye(p), U[1:]], np.r_[np.ones(p), -np.ones(p - 1)] / p
    cov = fields @ (np.eye(p) - np.outer(U[0], U[0])) @ fields.T
    size = np.sqrt(np.diag(cov) + (sign > 0))
    angles = np.arcsin(np.clip(cov / np.outer(size, size), -1.0, 1.0))
    return sign / size @ cov[:, p - 1], 2 / np.pi * sign @ angles @ sign


def error(p):
    """v_p."""
    t = brentq(lambda t: passing(p, t)[0], 0.0, 1.0) if p > 1 else 0.0
    return passing(p, t)[1] + OWN / p**2


ERROR = {p: error(p) for p in range(1, 9)}
assert abs(ERROR[1] - OWN) < 1e-15

# %% [markdown]
# ## Step 3: against the equations of motion
#
# The stationary rate of long equal units approaches $\gamma^*$ as $1/L$; two lengths remove that.

# %%
width = sp.Symbol("K", integer=True, positive=True)
equations = dmft.derive(dmft.literature.saad_solla(width), dmft.SGD(1.0))
problem = dmft.build(equations)


def stationary(p, length, noise, first):
    """Learning rate of equal units of a length, what they have outside the span, their lean."""
    one, out = np.eye(p), np.empty(2 * p * p)
    blocks = {"P": one, "readout": np.ones(p), "teacher_readout": np.ones(p)}

    def overlaps(x):
        own, common, s = (*x, 0.0, 0.0)[1:4]
        r = np.sqrt(length**2 * (1 - (p - 1) * s * s) - length * own)
        M = length * s * (1 - one) + r * one
        return M @ M.T + length * (own * one + common * (1 - one)), M

    def motion(x):
        values = {"learning_rate": x[0], "label_noise": noise}
        par = problem.pack_parameters(values, blocks)
        problem.rhs(0.0, np.ravel(overlaps(x)), np.array([p, p]), par, out)
        return length * out[[0, p * p, 1, p * p + 1][: x.size]]

    found = root(motion, first, tol=1e-13)
    assert np.abs(motion(found.x)).max() < 1e-9, (p, length)
    return found.x, overlaps(found.x)


for p in (1, 2, 3, 5, 8):
    for noise in (0.0, 0.5):
        known = 2 / (noise + ERROR[p])
        x = np.array([0.9 * known, 1.0, -0.5, -0.05])[: 4 if p > 1 else 2]
        rates = [(x := stationary(p, length, noise, x)[0])[0] for length in (20.0, 40.0, 80.0)]
        limit = np.dot(rates, [1, -6, 8]) / 3
        assert abs(limit / known - 1) < 3e-4, (p, noise, limit, known)

# %% [markdown]
# ## Step 4: which widths keep their symmetry
#
# The growth rate of the state at $L = 10$ is positive at widths 3, 4, 5 only: there two units have
# begun to turn against each other at a smaller rate (`examples/maximal_rates.py`).

# %%
for p in range(1, 9):
    x = np.array([1.0, 1.0, -0.5, -0.05])[: 4 if p > 1 else 2]
    x, (Q, M) = stationary(p, 10.0, 1.0, x)
    state, how = dmft.Overlaps(Q, M), {"learning_rate": x[0], "label_noise": 1.0}
    assert (dmft.stability(equations, state, **how).growth_rate > 0) == (p in (3, 4, 5)), p
    rate = float(dmft.maximal_learning_rate(dmft.literature.saad_solla(p), dmft.SGD(1.0)))
    assert rate < 2 / ERROR[p]
    print(f"width {p}: v = {ERROR[p]:.10f}; without noise {2 / ERROR[p]:.6f}, perfect {rate:.6f}")
