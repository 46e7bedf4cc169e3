# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # Gaussian integrals of the error function
#
# **Statement.** Let $\lambda \sim \mathcal N(0, C)$ be four fields and
# $\sigma(u) = \mathrm{erf}(u/\sqrt2)$. The integrals that the one-pass dynamics of a committee
# needs,
# $$I_2 = \mathbb E[\sigma(\lambda_1)\sigma(\lambda_2)],\quad
#   I_n = \mathbb E[\sigma'(\lambda_1)\sigma'(\lambda_2)],\quad
#   I_3 = \mathbb E[\sigma'(\lambda_1)\,\lambda_2\,\sigma(\lambda_3)],\quad
#   I_4 = \mathbb E[\sigma'(\lambda_1)\sigma'(\lambda_2)\sigma(\lambda_3)\sigma(\lambda_4)],$$
# are elementary: an arcsine at covariances tilted by the derivatives.
#
# **Assumptions.** Zero means; $C$ symmetric positive semi-definite, singular allowed.
#
# The cells below go from the definitions to the boxed formulas; each step is checked by SymPy, and
# the library's closed forms must equal what is derived here. Run as
# `python derivations/erf_integrals.py [folder]`: the LaTeX goes to the folder (a temporary one by
# default).

# %%
import sys
import tempfile
from pathlib import Path

import numpy as np
import sympy as sp
from scipy.special import erf

from dmft.gaussian.closed.product import product_expectation
from dmft.model import FIELD

z = FIELD
SIGMA = sp.erf(z / sp.sqrt(2))
SLOPE = sp.diff(SIGMA, z)


def named(letter):
    """Covariance function that returns symbols, for instance C_12."""

    def cov(i, j):
        i, j = sorted((i, j))
        return sp.Symbol(f"{letter}_{{{i}{j}}}", real=True)

    return cov


C, T, U = named("C"), named(r"\tilde{C}"), named(r"\hat{C}")


def assert_equal(left, right, message):
    assert sp.simplify(left - right) == 0, message


# %% [markdown]
# ## Step 1: the tilt
#
# $\sigma'(u) = \sqrt{2/\pi}\, e^{-u^2/2}$ is a Gaussian weight. Complete the square for one field
# $q$ of variance $C_{qq}$ (one-dimensional Gaussian integral),
# $$\mathbb E[e^{-q^2/2}] = (1 + C_{qq})^{-1/2},$$
# and note that under the weight $q$ is still Gaussian, with variance $C_{qq}/(1 + C_{qq})$. Every
# other field is $x = (C_{xq}/C_{qq})\, q + x_\perp$ with $x_\perp$ independent of $q$ and thus
# untouched, so that
# $$\mathbb E[e^{-q^2/2} F] = \frac{\mathbb E_{\tilde C}[F]}{\sqrt{1 + C_{qq}}},\qquad
#   \tilde C_{xy} = C_{xy} - \frac{C_{qx} C_{qy}}{1 + C_{qq}}.$$

# %%
v = sp.Symbol("v", positive=True)
density = sp.exp(-(z**2) / (2 * v)) / sp.sqrt(2 * sp.pi * v)
weight = sp.integrate(density * sp.exp(-(z**2) / 2), (z, -sp.oo, sp.oo))
tilted_variance = sp.integrate(z**2 * density * sp.exp(-(z**2) / 2), (z, -sp.oo, sp.oo)) / weight
assert_equal(weight, 1 / sp.sqrt(1 + v), "weight of the tilt")
assert_equal(tilted_variance, v / (1 + v), "variance under the tilt")


def tilt(cov, q):
    """Covariance under the weight exp(-q^2/2)."""
    return lambda x, y: cov(x, y) - cov(q, x) * cov(q, y) / (1 + cov(q, q))


# The regression coefficients C_xq/C_qq, C_yq/C_qq times the change of the variance of q:
change = C(1, 2) * C(1, 3) / C(1, 1) ** 2 * (C(1, 1) / (1 + C(1, 1)) - C(1, 1))
assert_equal(C(2, 3) + change, tilt(C, 1)(2, 3), "tilted covariance")

# %% [markdown]
# ## Step 2: the noise integral
#
# Tilt out $\lambda_1$, then $\lambda_2$ at its tilted variance. The product of the two
# normalisations is the determinant $\det(1 + C)$ of the pair.

# %%
noise = (2 / sp.pi) / (sp.sqrt(1 + C(1, 1)) * sp.sqrt(1 + tilt(C, 1)(2, 2)))
determinant = (1 + C(1, 1)) * (1 + C(2, 2)) - C(1, 2) ** 2
assert_equal(noise**2, 4 / (sp.pi**2 * determinant), "product of tilts is the determinant")
assert_equal(product_expectation([SLOPE, SLOPE], [1, 2], C), noise, "library I_n")

# %% [markdown]
# ## Step 3: the arcsine law
#
# Price's theorem (two integrations by parts): $\partial I_2/\partial C_{12} = I_n$. At $C_{12} = 0$
# the fields are independent and $\sigma$ is odd, so $I_2 = 0$; integrate from there.

# %%
a, c = sp.symbols("a c", positive=True)
primitive = sp.asin(c / a)
assert_equal(sp.diff(primitive, c) ** 2, 1 / (a**2 - c**2), "primitive of Price's integrand")
assert primitive.subs(c, 0) == 0
I2 = 2 / sp.pi * sp.asin(C(1, 2) / (sp.sqrt(1 + C(1, 1)) * sp.sqrt(1 + C(2, 2))))
assert_equal(sp.diff(I2, C(1, 2)) ** 2, noise**2, "Price: dI2/dC12 = I_n")
assert I2.subs(C(1, 2), 0) == 0
assert product_expectation([SIGMA, SIGMA], [1, 2], C) == I2

# %% [markdown]
# ## Step 4: the drift integral
#
# Tilt out $\lambda_1$; then Stein, $\mathbb E[\lambda_2 \sigma(\lambda_3)] =
# \tilde C_{23}\, \mathbb E[\sigma'(\lambda_3)]$, and one more tilt for $\sigma'(\lambda_3)$. The
# result must be the gradient of $I_2$ (the drift is a linear image of the gradient of the risk).

# %%
slope_constant = sp.sqrt(2 / sp.pi)
after = tilt(C, 1)
I3 = slope_constant**2 * after(2, 3) / (sp.sqrt(1 + C(1, 1)) * sp.sqrt(1 + after(3, 3)))
assert_equal(product_expectation([SLOPE, z, SIGMA], [1, 2, 3], C), I3, "library I_3")
pair = product_expectation([SIGMA, SIGMA], [1, 3], C)
gradient = 2 * C(1, 2) * sp.diff(pair, C(1, 1)) + C(2, 3) * sp.diff(pair, C(1, 3))
point = {
    C(i, j): sp.Rational(1 + i * j % 5, 7 + (i != j) * 9) for i in (1, 2, 3) for j in (1, 2, 3)
}
assert abs(sp.N((gradient - I3).subs(point), 30)) < 1e-28

# %% [markdown]
# ## Step 5: the quadratic integral
#
# Tilt out $\lambda_1$ and $\lambda_2$ one at a time, $C \to \tilde C \to \hat C$; what is left is
# $I_2$ of fields 3 and 4 at $\hat C$. (The determinant form with $\Lambda_0, \dots, \Lambda_4$ is
# equal, but loses digits when the fields are large and nearly parallel.)

# %%
twice = tilt(after, 2)
I4 = noise * I2.xreplace({C(1, 2): twice(3, 4), C(1, 1): twice(3, 3), C(2, 2): twice(4, 4)})
library_I4 = product_expectation([SLOPE, SLOPE, SIGMA, SIGMA], [1, 2, 3, 4], C)
assert_equal(library_I4, I4, "library I_4")

# %% [markdown]
# ## Boxed results

# %%
arcsine = product_expectation([SIGMA, SIGMA], [3, 4], U)
root_1, root_2, root_3 = (sp.sqrt(1 + x) for x in (C(1, 1), T(2, 2), T(3, 3)))
BOXED = {
    "erf-I2": ("I_2", I2),
    "erf-noise": ("I_n", 2 / sp.pi / root_1 / root_2),
    "erf-I3": ("I_3", 2 / sp.pi * T(2, 3) / root_1 / root_3),
    "erf-I4": ("I_4", 2 / sp.pi / root_1 / root_2 * arcsine),
}
# The printed forms, with the tilted symbols written out, are the derived ones.
OUT = {T(i, j): after(i, j) for i in (2, 3) for j in (2, 3)}
OUT |= {U(i, j): twice(i, j) for i in (3, 4) for j in (3, 4)}
for key, derived in zip(BOXED, (I2, noise, I3, I4), strict=True):
    assert_equal(BOXED[key][1].xreplace(OUT), derived, key)


def document():
    """LaTeX document with one labelled boxed equation for each result."""
    lines = [
        r"\documentclass{article}",
        r"\usepackage{amsmath}",
        r"\begin{document}",
        r"Fields $\lambda \sim \mathcal{N}(0, C)$, $\sigma(u) = \mathrm{erf}(u/\sqrt{2})$, with",
        r"$\tilde{C}_{ij} = C_{ij} - C_{1i} C_{1j}/(1 + C_{11})$ and",
        r"$\hat{C}_{ij} = \tilde{C}_{ij} - \tilde{C}_{2i} \tilde{C}_{2j}/(1 + \tilde{C}_{22})$:",
    ]
    for label, (name, expr) in BOXED.items():
        lines += [
            rf"\begin{{equation}}\label{{eq:{label}}}",
            rf"\boxed{{{name} = {sp.latex(expr)}}}",
            r"\end{equation}",
        ]
    return "\n".join([*lines, r"\end{document}", ""])


# A notebook has no __file__: the arguments there are those of its kernel.
given = sys.argv[1:] if "__file__" in globals() else []
folder = Path(given[0] if given else tempfile.mkdtemp())
folder.mkdir(parents=True, exist_ok=True)
(folder / "erf_integrals.tex").write_text(document())

# %% [markdown]
# ## Numerical check
#
# Four-dimensional Gauss-Hermite quadrature of the definitions. Its error falls as
# $(c/(1+c))^{1.3 n}$ in the largest eigenvalue $c$ of the covariance; here $c = 0.8$ and $n = 32$.

# %%
COVARIANCE = 0.47 * np.array(
    [[0.9, 0.3, 0.25, -0.1], [0.3, 1.2, -0.4, 0.35], [0.25, -0.4, 0.7, 0.2], [-0.1, 0.35, 0.2, 1.0]]
)
nodes, weights = np.polynomial.hermite_e.hermegauss(32)
grid = np.stack(np.meshgrid(*[nodes] * 4, indexing="ij")).reshape(4, -1)
probability = np.prod(np.stack(np.meshgrid(*[weights] * 4, indexing="ij")), axis=0).ravel()
probability /= probability.sum()
field = np.linalg.cholesky(COVARIANCE) @ grid
s = erf(field / np.sqrt(2))
ds = np.sqrt(2 / np.pi) * np.exp(-(field**2) / 2)
DEFINITIONS = {
    "erf-I2": s[0] * s[1],
    "erf-noise": ds[0] * ds[1],
    "erf-I3": ds[0] * field[1] * s[2],
    "erf-I4": ds[0] * ds[1] * s[2] * s[3],
}
values = {C(i, j): COVARIANCE[i - 1, j - 1] for i in range(1, 5) for j in range(i, 5)}
for key, integrand in DEFINITIONS.items():
    truth = float(integrand @ probability)
    formula = float(BOXED[key][1].xreplace(OUT).subs(values))
    print(f"{key:10s} formula {formula:+.15f}  quadrature {truth:+.15f}")
    assert abs(formula - truth) < 1e-12, key

# %% [markdown]
# **Source.** D. Saad and S. A. Solla, Phys. Rev. E 52, 4225 (1995), with $J = W/\sqrt d$;
# theory/one_pass A.1, A.2. Used by `dmft/gaussian/closed/product.py`.
