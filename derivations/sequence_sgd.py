# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # Sequences: the risk in two alignments, its exponent, and spherical SGD
#
# **Statement.** A student $g(h)$ reads the fields $h_l=w\cdot(x_l+p_l)/\sqrt d$ of $L$ tokens
# $x_l\sim\mathcal N(0,I_d)$, the target $g_*(h^*)$ the fields $h^*_l=w_*\cdot x_l/\sqrt d$. With
# $|w|^2=|w_*|^2=d$, $m=w\cdot w_*/d$ and $e_l=w\cdot p_l/\sqrt d$ the risk
# $\mathcal R=\frac12\mathbb E\|g-g_*\|^2$ is a power series in $m$ whose coefficients $D_k(e)$
# say what one-pass SGD learns, and SGD on the sphere moves $s=(m,e)$ by an ordinary differential
# equation as $d\to\infty$.
#
# **Assumptions.** $g$ and $g_*$ have mean squares under the law of their fields; $|p_l|$ of order
# one; one fresh sequence a step, $\gamma$ fixed, $t=\text{steps}\,\gamma/d$.
#
# **Source.** theory/sequence A.1, A.2, B, C.2, C.7, C.8. Run as
# `python derivations/sequence_sgd.py [folder]`: the LaTeX goes to the folder.

# %%
import sys
import tempfile
from pathlib import Path

import numpy as np
import sympy as sp

import dmft
from dmft.model import token_fields

GAPS = {}


def check(name, left, right, tolerance=1e-10):
    GAPS[name] = abs(float(left) - float(right))
    assert GAPS[name] < tolerance, (name, float(left), float(right))


STEP = 0.1
x = STEP * np.arange(-90, 91)
weight = STEP * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
m = sp.Symbol("m", real=True)

# %% [markdown]
# ## 1. The risk
#
# Tokens are independent and $(h^*_l,h_l)\sim\mathcal N\big((0,e_l),
# \begin{pmatrix}1&m\\m&1\end{pmatrix}\big)$. Write $h^*_l=m\xi_l+\sqrt{1-m^2}\,\eta_l$,
# $h_l=\xi_l+e_l$. With $\mathrm{He}_n(z)=\prod_l\mathrm{He}_{n_l}(z_l)$ and
# $c^*_n=\mathbb E[g_*(z)\mathrm{He}_n(z)]$ Mehler's formula gives
# $\mathbb E[g_*(h^*)\,|\,\xi]=\sum_n m^{|n|}c^*_n\mathrm{He}_n(\xi)/n!$; averaging it against
# $g(\xi+e)$, with $c_n(e)=\mathbb E[g(z+e)\mathrm{He}_n(z)]$,
#
# $$\mathcal R=\tfrac12\mathbb E\|g_*\|^2+\tfrac12\mathbb E\|g(z+e)\|^2-\sum_{k\ge0}m^kD_k(e),
# \qquad D_k(e)=\sum_{|n|=k}\frac{\langle c^*_n,c_n(e)\rangle}{n!}.$$
#
# Integration by parts, $\partial_{e_l}c_n=c_{n+1_l}$, gives the gradient in $e$. Polynomials end
# the sum; a network $\sigma(\sum_lh_l/\sqrt L)$ has $c_n=L^{-|n|/2}c_{|n|}(\sigma)$, whose mean
# $\sum_le_l/\sqrt L$ vanishes for $p_1=-p_2$.
#
# Check: one order of the trace of attention, against a sum over its two fields.

# %%
z1, z2 = np.meshgrid(x, x, indexing="ij")


def trace(h1, h2):
    """Trace of attention over two tokens, divided by sqrt(2)."""
    return (1 / (1 + np.exp(h1 * (h2 - h1))) + 1 / (1 + np.exp(h2 * (h1 - h2)))) / np.sqrt(2)


y = token_fields(2)
product = dmft.SequenceTarget(y[0] * y[1], y)
exponent = dmft.sequence_information_exponent(product, dmft.Attention(2, "trace"))
check("D_2 of a product", weight @ (trace(z1, z2) * z1 * z2) @ weight, exponent.witness.value)
model = dmft.Model(dmft.Attention(2, "trace"), product, encoding=1)
direct = weight @ (trace(z1 + 0.6, z2 - 0.6) * z1 * z2) @ weight
check("D_2 at e = .6", direct, dmft.population_risk(model).order(2, e=0.6))

# %% [markdown]
# ## 2. The exponent and its sign
#
# Near $m=0$ the risk is $\text{const}-m^kD_k$ with the first $k\ge1$ of $D_k\ne0$: the sequence
# information exponent. It is at least the exponent of the target, for all positional vectors. At
# $e=0$ attention is even, $T(-h)=T(h)$, and odd orders vanish; with $e\ne0$ they open. **For even
# $k$ a negative $D_k$ makes $m=0$ a minimum**: the product of two tokens has $D_2<0$ under the
# trace and is never learned, although its exponent is two.

# %%
assert exponent == 2
assert exponent.sign == -1
assert not exponent.learned
difference = dmft.SequenceTarget(y[0] - y[1], y)
assert dmft.sequence_information_exponent(difference, dmft.Attention(2, "trace")) == sp.oo
lifted = dmft.sequence_information_exponent(difference, dmft.Attention(2, "trace"), [0.6, -0.6])
odd = weight @ (trace(z1 + 0.6, z2 - 0.6) * (z1 - z2)) @ weight
check("D_1 that e opens", odd, lifted.witness.value)

# %% [markdown]
# ## 3. SGD on the sphere
#
# One step is $w\leftarrow\sqrt d\,(w-\gamma G)/|w-\gamma G|$ with
# $G=\sum_l\ell_l\,(x_l+p_l)/\sqrt d$, $\ell_l=\partial\ell/\partial h_l$. Its squared length is
# $d\,[1-2\frac\gamma d\sum_l\ell_lh_l+\frac{\gamma^2}d\sum_l\ell_l^2+o(1/d)]$, because the
# $|x_l|^2/d\to1$ and different tokens are orthogonal. To first order in $1/d$, with
# $\mathbb E$ over the fields and $G_{ab}$ the Gram matrix of $(w_*/\sqrt d,p_1,\dots)$,
#
# $$\dot s=-(G-ss^\top)\nabla\mathcal R-\frac\gamma2\,\mathcal N\,s,\qquad
# \mathcal N=\mathbb E\sum_l(\partial_{h_l}\ell)^2=\mathbb E\|J^\top(g-g_*)\|^2 .$$
#
# With $u_a=\sum_l\ell_l\,b_a\cdot(x_l+p_l)$ for $b=(w_*/\sqrt d,p_1,\dots)$, integration by parts
# in $x_l$ gives $\mathbb E\,u=G\nabla\mathcal R+\kappa s$ and
# $\mathbb E\sum_l\ell_lh_l=s\cdot\nabla\mathcal R+\kappa$ with one
# $\kappa=\mathbb E\sum_l\partial^2_{h_l}\ell$, which drops out of
# $-\mathbb E\,u+s\,\mathbb E\sum_l\ell_lh_l$. The projection $ss^\top$ and the noise both
# come from the length. Untied networks are one neuron in
# dimension $Ld$ with $\mu_l=m_l/\sqrt L$ instead of $m$, in the time $\text{steps}\,\gamma/(Ld)$.
#
# Check: ReLU and the mean of the tokens, where $\mathcal N=1-m$ and
# $\dot m=(1-m)(1+m-\gamma m)/2$; squares, where all is a polynomial.

# %%
z = sp.Symbol("z", real=True)
silent = {sp.Symbol("label_noise", nonnegative=True): 0}
rate = sp.Symbol("learning_rate", positive=True)


def drift(activation, target, tied=True, length=2):
    """Rate of m, in the symbols of the library."""
    network = dmft.SequenceNetwork(activation, length, tied)
    model = dmft.Model(network, dmft.SequenceTarget(target, token_fields(length)))
    return {s: y.subs(silent) for s, y in dmft.derive(model, dmft.SGD(rate)).explicit().items()}


relu = drift(sp.Max(0, z), sum(y) / sp.sqrt(2))[m]
assert sp.expand(relu - (1 - m) * (1 + m - rate * m) / 2) == 0
# N of the squares by four normal variables: E sigma'(u)^2 (sigma(u) - y)^2.
points, w5 = np.polynomial.hermite_e.hermegauss(7)
w5 = w5 / np.sqrt(2 * np.pi)
a, b, c, d = np.meshgrid(points, points, points, points, indexing="ij")
W = w5[:, None, None, None] * w5[:, None, None] * w5[:, None] * w5
at = 0.3
h1, h2 = at * a + np.sqrt(1 - at**2) * c, at * b + np.sqrt(1 - at**2) * d
u, target = (h1 + h2) / np.sqrt(2), (a**2 + b**2 - 2) / np.sqrt(2)
noise = float(np.sum(W * 4 * u**2 * (u**2 - 1 - target) ** 2))
squares = drift(z**2 - 1, sum(t**2 - 1 for t in y) / sp.sqrt(2))[m]
check("N of squares", -2 * sp.diff(squares, rate).subs(m, at) / at, noise, 1e-9)

# %% [markdown]
# ## 4. Largest learning rates
#
# Near perfect recovery, $g=g_*$ and $\delta=1-m\to0$: $h-h^*$ has the variance $2\delta$, so that
# $\mathcal R=\delta\,\mathbb E\|J\|^2$ and $\mathcal N=2\delta\,\mathbb E\|J^\top J\|^2$ up to
# higher orders, and
#
# $$\dot\delta=-\delta\,(2\,\mathbb E\|J\|_F^2-\gamma\,\mathbb E\|J^\top J\|_F^2),\qquad
# \gamma_{\max}=\frac{2\,\mathbb E\|J\|_F^2}{\mathbb E\|J^\top J\|_F^2}.$$
#
# A small overlap grows as $\dot m=kD_km^{k-1}-\gamma\mathcal N(0)m/2$: at the start
# $\gamma<2kD_km^{k-2}/\mathcal N(0)$.

# %%
cubic = dmft.SequenceNetwork(z**3, 3)
limit = dmft.maximal_learning_rate(dmft.Model(cubic, cubic), dmft.SGD(1))
# J = 3 u^2: E J^2 = 27, E J^4 = 81 * 105.
assert limit == sp.Rational(2 * 27, 81 * 105)
rates = dmft.derive(dmft.Model(cubic, cubic), dmft.SGD(rate)).explicit()[m].subs(silent)
slope = sp.diff(rates, m).subs(m, 1)
check("slope at perfect recovery", slope.subs(rate, limit), 0.0, 1e-12)

# %% [markdown]
# ## 5. Gain from the length of a sequence
#
# From equal overlaps and at equal $\gamma$ the tied network sees the coefficient of $m^k$ along
# all tokens, the untied one the best direction of its tensor $C^*_k$, and its time has $L$ times as
# many steps:
#
# $$\text{gain}_k=L\,\frac{\langle C^*_k,(\mathbf 1/\sqrt L)^{\otimes k}\rangle}
# {\max_{|u|=1}\langle C^*_k,u^{\otimes k}\rangle}\le L .$$

# %%
for length in (2, 5):
    tokens = token_fields(length)
    relu_network = dmft.SequenceNetwork(sp.Max(0, z), length)
    for function, gain in ((sum(tokens), length), (tokens[0], np.sqrt(length))):
        found = dmft.sequence_length_gain(dmft.SequenceTarget(function, tokens), relu_network)
        check(f"gain of {function}", found, gain)
tied = drift(sp.Max(0, z), y[0])[m].subs({rate: 0, m: 0})
untied = drift(sp.Max(0, z), y[0], tied=False)
first = untied[sp.Symbol("m1", real=True)].subs(dict.fromkeys(untied, 0)).subs(rate, 0)
# dm/dt tied against d|mu|/dt' untied, each for one step of its own clock.
check("gain of one token from the rates", tied / (first / sp.sqrt(2) / 2), np.sqrt(2))

# %%
RESULTS = [
    (
        "risk",
        "Risk",
        r"\mathcal R = \tfrac12\mathbb E\|g_*\|^2 + \tfrac12\mathbb E\|g(z+e)\|^2"
        r" - \sum_k m^k D_k(e)",
    ),
    (
        "flow",
        "SGD",
        r"\dot s = -(G - s s^\top)\nabla\mathcal R - \tfrac\gamma2\,\mathcal N\,s",
    ),
    (
        "largest",
        "Largest rate",
        r"\gamma_{\max} = 2\,\mathbb E\|J\|_F^2 / \mathbb E\|J^\top J\|_F^2",
    ),
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
(folder / "sequence_sgd.tex").write_text(text)
print(f"{len(GAPS)} checks, largest gap {max(GAPS.values()):.1e}")
