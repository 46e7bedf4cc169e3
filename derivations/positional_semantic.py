# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # Position or meaning: the phase diagram of attention over two tokens
#
# **Statement.** With $T(h)=\mathrm{softmax}(hh^\top)$ by rows, $h_l=w\cdot(x_l+p_l)/\sqrt d$,
# $p_1=-p_2=p$, $|p|=1$, $p\perp w_*$, the target $(1-\omega)T(h^*)+\omega A$ and
# $A=\mathrm{softmax}\begin{pmatrix}a^2&-a^2\\-a^2&a^2\end{pmatrix}$, all minima of
# $\mathcal R=\frac12\mathbb E\|T(h)-\ldots\|_F^2$ over the weights on the sphere are roots of a
# function of $y=e^2$ that is linear in $\omega$ and $\omega\alpha$, $\alpha=1/(1+e^{-2a^2})$: the
# boundaries of the phase diagram are explicit.
#
# **Assumptions.** Tokens $x_l\sim\mathcal N(0,I_d)$, $d\to\infty$; $e=w\cdot p/\sqrt d$,
# $m=w\cdot w_*/d$, $e^2+m^2\le1$. That no minimum lies inside the disc rests on $C_m>0$ for $m>0$,
# which is seen in numbers, not proved.
#
# **Source.** [arnaboldi_2025]. Run as `python derivations/positional_semantic.py [folder]`: the
# LaTeX goes to the folder.

# %%
import sys
import tempfile
from pathlib import Path

import numpy as np
import sympy as sp

from dmft.literature import (
    positional_semantic_boundaries,
    positional_semantic_points,
    positional_semantic_risk,
)

GAPS = {}


def check(name, left, right, tolerance=1e-10):
    GAPS[name] = abs(float(left) - float(right))
    assert GAPS[name] < tolerance, (name, float(left), float(right))


STEP = 0.05
x = STEP * np.arange(-180, 181)
weight = STEP * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
z1, z2 = np.meshgrid(x, x, indexing="ij")


def sigmoid(q):
    return 1 / (1 + np.exp(-q))


def mean(values):
    """Trapezoidal sum over two standard normal fields."""
    return weight @ values @ weight


# %% [markdown]
# ## 1. One row is enough
#
# $T_{11}=s(h)=\sigma(h_1(h_1-h_2))$, $\sigma(q)=1/(1+e^{-q})$, and rows sum to one:
# $\|\Delta T\|_F^2=2(\Delta s_1)^2+2(\Delta s_2)^2$. $(h_1,h_2)\to(-h_2,-h_1)$ in both $h$ and
# $h^*$ exchanges the rows and keeps the law, so that with $M=\mathbb E\,s(h)$,
# $V=\mathbb E\,s(h)^2$, $C=\mathbb E\,s(h)s(h^*)$
#
# $$\mathcal R=2\{V(e)+(1-\omega)^2V(0)+\omega^2\alpha^2-2(1-\omega)C(e,m)-2\omega\alpha M(e)
# +2(1-\omega)\omega\alpha M(0)\}.$$
#
# ## 2. Tilting
#
# With $u=h_1$, $v=h_1-h_2$ the density of $(u,v)$ is $\propto e^{-u^2+uv-v^2/2+ev-e^2}$: times
# $e^{-uv}$ it factors into $u\sim\mathcal N(0,\frac12)$ and $v\sim\mathcal N(e,1)$,
#
# $$\mathbb E\,F(uv)=\frac{e^{-e^2/2}}{\sqrt2}\,\mathbb E_{u,v}\big[e^{uv}F(uv)\big],$$
#
# where $uv$ has a symmetric law. The symmetric part of $e^q(1-\sigma(q))=\sigma(q)$ is $\frac12$.

# %%
u, v, q, e, y = sp.symbols("u v q e y", real=True)
exponent = -((u - e) ** 2 + (u - v + e) ** 2) / 2
assert sp.expand(exponent - u * v - (-(u**2) - (v - e) ** 2 / 2 - e**2 / 2)) == 0
s = 1 / (1 + sp.exp(-q))


def symmetric(f):
    return sp.simplify(((f + f.subs(q, -q)) / 2).rewrite(sp.exp))


assert symmetric(sp.exp(q) * (1 - s)) == sp.Rational(1, 2)
assert sp.simplify(symmetric(sp.exp(q) * (1 - s**2)) - (1 - s * (1 - s))) == 0
M = 1 - sp.sqrt(2) / 4 * sp.exp(-(e**2) / 2)
V = r"1-\frac{e^{-e^2/2}}{\sqrt2}\Big(1-\mathbb{E}_{u,v}\,\sigma(uv)(1-\sigma(uv))\Big)"
for value in (0.0, 0.6, 1.0):
    h1, h2 = z1 + value, z2 - value
    one = sigmoid(h1 * (h1 - h2))
    check(f"M({value})", M.subs(e, value), mean(one), 1e-14)
    product = (z1 / np.sqrt(2)) * (z2 + value)
    kappa = mean(sigmoid(product) * sigmoid(-product))
    square = 1 - np.exp(-(value**2) / 2) / np.sqrt(2) * (1 - kappa)
    check(f"V({value})", square, mean(one**2), 1e-14)

# %% [markdown]
# ## 3. On the circle
#
# The flow is $\dot s=-(I-ss^\top)\nabla\mathcal R$; its stable fixed points are the strict minima
# over the closed disc. For $\omega<1$ they lie on the circle, where $m^2=1-y$ and
#
# $$\tfrac12f'(y)=N(y)+2\omega C_y-2\omega\alpha M_y,\qquad N=V_y-2C_y.$$
#
# The semantic corner $y=0$ is stable for $f'(0)>0$, the positional one $y=1$ for $f'(1)<0$. Both
# conditions, $\mathcal R(0,1)=\mathcal R(1,0)$ and $\mathcal R_{ee}=\mathcal R_{mm}$ at the origin
# have the form
#
# $$\boxed{\omega=\frac{A}{B+C\alpha}}$$
#
# At $h=h^*$, averages of derivatives give the semantic one, $v=(1,-1)$:
# $A=\mathbb E(\partial_vs)^2+\mathbb E|\nabla s|^2$,
# $B=\mathbb E|\nabla s|^2-\mathbb E\,s\,\partial_v^2s$, $C=\sqrt2/4$.

# %%
t1, t2 = sp.symbols("t1 t2", real=True)
S = 1 / (1 + sp.exp(-t1 * (t1 - t2)))
D1, D2 = sp.diff(S, t1), sp.diff(S, t2)
along = D1 - D2
curved = sp.diff(along, t1) - sp.diff(along, t2)


def average(expression):
    with np.errstate(all="ignore"):
        values = sp.lambdify((t1, t2), expression, cse=True)(z1, z2)
    return mean(np.where(np.isfinite(values), values, 0.0))


gradient = average(D1**2 + D2**2)
A, B = average(along**2) + gradient, gradient - average(S * curved)
for a in (0.8, 1.0, 1.4):
    alpha = sigmoid(2 * a**2)
    curves = positional_semantic_boundaries(a)
    check(f"semantic({a})", A / (B + np.sqrt(2) / 4 * alpha), curves.semantic)
    equal = positional_semantic_risk(a, float(curves.equal))
    check(f"equal({a})", equal(0.0, 1.0), equal(1.0, 0.0), 1e-14)
    turning = positional_semantic_risk(a, float(curves.direction)).hessian(0.0, 0.0)
    check(f"direction({a})", turning[0, 0], turning[1, 1], 1e-12)

# %% [markdown]
# ## 4. The lobe of mixed minima
#
# At a stationary point inside the quarter circle $\omega=N/(2\alpha M_y-2C_y)$; it is stable where
# this rises with $y$. It folds where the derivative in $y$ vanishes, which is linear in $\alpha$:
#
# $$\boxed{\alpha=\frac{N'C_y-NC_{yy}}{N'M_y-NM_{yy}}}$$
#
# At the two ends of the circle these are the tricritical points. At the tip $\omega=1$ the semantic
# corner loses its stability at $\alpha=(A-B)/C$.

# %%
tip = np.sqrt(np.log(1 / (1 / ((A - B) / (np.sqrt(2) / 4)) - 1)) / 2)
points = positional_semantic_points()
check("tip", tip, points["tip"][0])
for place in ("tricritical_semantic", "tricritical_positional"):
    a, omega = points[place]
    at = {"tricritical_semantic": 0.0, "tricritical_positional": np.pi / 2}[place]
    step = 0.03 * np.arange(-4, 5)
    risk = positional_semantic_risk(a, omega)(np.sin(at + step), np.cos(at + step))
    # Second and fourth derivative along the circle vanish together.
    _, second, _, fourth = np.polynomial.polynomial.polyfit(step, risk, 8)[1:5]
    check(place, second, 0.0, 1e-8)
    check(f"{place}, next order", fourth, 0.0, 1e-5)

# %%
RESULTS = [
    ("mean", "Mean of $s$", "M(e) = " + sp.latex(M)),
    ("mean-square", "Mean square", "V(e) = " + V),
    (
        "boundaries",
        "Boundaries",
        r"\omega = \frac{A}{B + C\alpha},\quad \alpha = \frac{1}{1+e^{-2a^2}}",
    ),
    ("fold", "Fold", r"\alpha = \frac{N'C_y - N C_{yy}}{N'M_y - N M_{yy}},\quad N = V_y - 2C_y"),
]
body = "\n".join(
    rf"\paragraph{{{title}.}}\begin{{equation}}\label{{eq:{name}}}\boxed{{{formula}}}\end{{equation}}"
    for name, title, formula in RESULTS
)
# A notebook has no __file__: the arguments there are those of its kernel.
given = sys.argv[1:] if "__file__" in globals() else []
folder = Path(given[0] if given else tempfile.mkdtemp())
folder.mkdir(parents=True, exist_ok=True)
text = rf"""\documentclass{{article}}
\usepackage{{amsmath,amssymb}}
\begin{{document}}
{body}
\end{{document}}
"""
(folder / "positional_semantic.tex").write_text(text)
print(f"tip at a = {tip:.12f}; {len(GAPS)} checks, largest gap {max(GAPS.values()):.1e}")
