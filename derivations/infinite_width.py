# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # Infinitely wide square students at a finite learning rate over width
#
# **Statement.** One-pass SGD on the sphere, $\sigma=\sigma^*=h^2$, one teacher unit,
# $p\to\infty$ at fixed $g=\gamma/p$. The quadratic term correlates the residuals of the students,
# and $Q = MM^\top + \mathrm{diag}$ of the mean field is not conserved. Conserved is
# $$Q_{jl} = C\,M_jM_l\quad (j\neq l),\qquad Q_{jj} = 1,$$
# with one number $C(t)$, $C(0) = 1$; the overlaps themselves follow from two more.
#
# **Assumptions.** $d\to\infty$ first; $M_j(0) = \sqrt{u_0}\,z_j$, $z_j\sim N(0,1)$ independent
# (random rows: $u_0 = 1/d$; with the noise of the samples carried back, $(1+\kappa)/d$).
#
# Run as `python derivations/infinite_width.py [folder]`: the LaTeX goes to the folder (a temporary
# one by default).

# %%
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import sympy as sp
from scipy.stats import norm

import dmft

g, Delta = sp.symbols("g Delta", positive=True)
C, u, m, n = sp.symbols("C u m n", real=True)  # m, n: overlaps of two students
SCALING = "wide-high-dimensional"


def assert_equal(left, right, message):
    assert sp.simplify(left - right) == 0, message


# %% [markdown]
# ## Step 1: sums over students
#
# For square activations all moments follow from $X = \Omega\Gamma$,
# $\Gamma = \mathrm{diag}(-\frac1p,\dots,-\frac1p, 1)$ (`committee_sgd.py`, theory/one_pass A.4):
# $b = 2(\tau\Omega + 2X\Omega)$,
# $S = 4[(\tau^2+2\tau_2+\Delta)\Omega + 4\tau X\Omega + 8X^2\Omega]$,
# $\tau = \mathrm{tr}X$, $\tau_2 = \mathrm{tr}X^2$. A sum over students is $p$ times a mean, and the
# terms $l = j$ and $l = m$ are $1/p$ of it: with $u = \langle M^2\rangle$
#
# - $\tau = 1 - \frac1p\sum_j Q_{jj} = 0$,
# - $\tau_2 = 1 - \frac2p\sum_j M_j^2 + \frac1{p^2}\sum_{jl}Q_{jl}^2$,
# - $(X\Omega)_{jl} = M_jM_l - \frac1p\sum_m Q_{jm}Q_{ml}$, also for $l = j$,
# - $(X\Omega)_{j*} = M_j - \frac1p\sum_m Q_{jm}M_m$,
# - $(X^2\Omega)_{jl} = M_j(X\Omega)_{*l} - \frac1p\sum_m Q_{jm}(X\Omega)_{ml}$.


# %%
def mean(function):
    """Average of a function of one overlap: <M^2> = u, <M^4> is never met."""
    x = sp.Dummy("x", real=True)
    polynomial = sp.Poly(sp.expand(function(x)), x)
    assert set(polynomial.monoms()) <= {(0,), (2,)}
    return polynomial.coeff_monomial(1) + u * polynomial.coeff_monomial(x**2)


def once(a, b):
    """(X Omega) between students of overlaps a and b."""
    return sp.expand(a * b - mean(lambda x: C * a * x * C * x * b))


def star(a):
    """(X Omega) between a student and the teacher."""
    return sp.expand(a - mean(lambda x: C * a * x * x))


def twice(a, b):
    """(X^2 Omega) between students."""
    return sp.expand(a * star(b) - mean(lambda x: C * a * x * once(x, b)))


tau_2 = 1 - 2 * u + C**2 * u**2  # <Q_jl^2> = C^2 u^2
assert_equal(once(m, n), m * n * (1 - C**2 * u), "X Omega")
assert_equal(twice(m, n), m * n * (1 - 2 * C * u + C**3 * u**2), "X^2 Omega")

# %% [markdown]
# ## Step 2: the closure
#
# $\Phi = b + b^\top + gS$, then $\dot M_j = b_{j*} - \frac12M_j\Phi_{jj}$ and
# $\dot Q_{jl} = \Phi_{jl} - \frac12Q_{jl}(\Phi_{jj}+\Phi_{ll})$. The second has the form
# $\frac{d}{dt}(CM_jM_l)$ with one $\dot C$ for all pairs.


# %%
def growth(a, b, overlap):
    """Phi at tau = 0 between students of overlaps a, b."""
    return 8 * once(a, b) + 4 * g * ((2 * tau_2 + Delta) * overlap + 8 * twice(a, b))


def velocity(a):
    return sp.expand(4 * star(a) - a * growth(a, a, 1) / 2)


moved = sp.Poly(velocity(m), m)
assert set(moved.monoms()) == {(1,), (3,)}
alpha, beta = moved.coeff_monomial(m), -moved.coeff_monomial(m**3)
dQ = growth(m, n, C * m * n) - C * m * n * (growth(m, m, 1) + growth(n, n, 1)) / 2
dC = sp.expand(sp.cancel((dQ - C * (velocity(m) * n + m * velocity(n))) / (m * n)))
assert not dC.has(m, n), "one C for all pairs"
assert_equal(alpha, 4 * (1 - C * u) - 2 * g * (2 + Delta - 4 * u + 2 * C**2 * u**2), "alpha")
assert_equal(beta, 4 * (1 - C**2 * u) + 16 * g * (1 - 2 * C * u + C**3 * u**2), "beta")

# %% [markdown]
# ## Step 3: the overlaps as two numbers
#
# $\dot M = M(\alpha-\beta M^2)$ is solved by $M^2 = Xz^2/(1+Yz^2)$ with $\dot X = 2\alpha X$,
# $\dot Y = 2\beta X$; then $u = X\,E[z^2/(1+Yz^2)]$, by Stein's lemma
# $X\,E[(1-Yz^2)/(1+Yz^2)^2]$, which is regular at $Y = 0$.

# %%
X, Y, z = sp.symbols("X Y z", positive=True)
a, b = sp.symbols("alpha beta", real=True)
square = X * z**2 / (1 + Y * z**2)
moving = sp.diff(square, X) * 2 * a * X + sp.diff(square, Y) * 2 * b * X
assert_equal(moving, 2 * square * (a - b * square), "solution")
assert_equal(sp.diff(z / (1 + Y * z**2), z), (1 - Y * z**2) / (1 + Y * z**2) ** 2, "Stein")

# %% [markdown]
# ## Step 4: what the library derives
#
# It reads the same off the kernels of the full equations, without the matrices of step 1.

# %%
sgd = dmft.SGD(sp.Symbol("gamma", positive=True), constraint="sphere")
model = dmft.literature.phase_retrieval(sp.Symbol("p", integer=True, positive=True), Delta)
equations = dmft.derive(model, sgd, scaling=SCALING)
NAMES = {"variance": X, "coupling": C, "mean_square": u}


def in_symbols(expr):
    entries = {e: NAMES[str(e.base)] for e in expr.atoms(sp.Indexed)}
    values = {"learning_rate": g, "label_noise": Delta, "p": 1}
    return expr.xreplace(entries).subs(
        {s: values[s.name] for s in expr.free_symbols if s.name in values}
    )


for name, expected in (("variance", 2 * alpha * X), ("saturation", 2 * beta * X), ("coupling", dC)):
    found = in_symbols(sp.Add(*equations.terms[name].values()))
    assert_equal(sp.expand(found), sp.expand(expected), name)

# %% [markdown]
# ## Numerical check: the full equations
#
# Exit at $T = 0.1$ from $d = 10^5$, $g = 0.2$, with overlaps at equal steps of probability: the
# distance falls as $1/p$.

# %%
gaps = []
for p in (25, 50, 100):
    quantiles = norm.ppf((np.arange(p) + 0.5) / p)
    M = quantiles[:, None] / np.sqrt(np.mean(quantiles**2) * 1e5)
    Q = M @ M.T
    np.fill_diagonal(Q, 1.0)
    here = dmft.literature.phase_retrieval(p), dmft.SGD(0.2 * p, constraint="sphere")
    full, wide = (
        dmft.escape_time(dmft.derive(*here, **how), dmft.Overlaps(Q, M), 3.0, fraction=0.1).value
        for how in ({}, {"scaling": SCALING})
    )
    gaps.append(full - wide)
    print(f"p = {p}: full equations {full:.5f}, infinite width {wide:.5f}")
assert all(1.7 < before / after < 3 for before, after in pairwise(gaps))

# %% [markdown]
# ## Boxed results

# %%
BOXED = {
    "iw-alpha": rf"\alpha = {sp.latex(sp.collect(alpha, g))}",
    "iw-beta": rf"\beta = {sp.latex(sp.collect(beta, g))}",
    "iw-C": rf"\dot C = {sp.latex(sp.collect(dC, g))}",
    "iw-u": r"u = X\,E\frac{1-Yz^2}{(1+Yz^2)^2},\quad \dot X = 2\alpha X,\quad \dot Y = 2\beta X",
    "iw-R": rf"R = {sp.latex(tau_2)}",
}
document = [r"\documentclass{article}", r"\usepackage{amsmath}", r"\begin{document}"]
for label, text in BOXED.items():
    document += [
        rf"\begin{{equation}}\label{{eq:{label}}}",
        rf"\boxed{{{text}}}",
        r"\end{equation}",
    ]
# A notebook has no __file__: the arguments there are those of its kernel.
given = sys.argv[1:] if "__file__" in globals() else []
folder = Path(given[0] if given else tempfile.mkdtemp())
folder.mkdir(parents=True, exist_ok=True)
(folder / "infinite_width.tex").write_text("\n".join([*document, r"\end{document}", ""]))
print(f"distances at p = 25, 50, 100: {', '.join(f'{gap:.5f}' for gap in gaps)}")

# %% [markdown]
# **Source.** theory/one_pass A.4, B.4, F.4; Arnaboldi, Krzakala, Loureiro, Stephan (2023),
# arXiv:2305.18502, for the model. Vectors: `tests/equations/test_infinite_width.py`.
