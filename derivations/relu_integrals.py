# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # Gaussian integrals of signs and of ReLU
#
# **Statement.** Let $\lambda\sim\mathcal N(0, C)$, $\rho_{ij}=C_{ij}/\sqrt{C_{ii}C_{jj}}$ and
# $\sigma(u)=\max(0,u)$. Products of two signs are an arcsine, products of four a one-dimensional
# integral, and the integrals of a ReLU committee are polynomials in the covariances times these.
#
# **Assumptions.** Zero means, positive variances. Parallel fields are limits of the formulas.
#
# **Steps.** (1) Price: $\partial_{C_{12}}\mathbb E[f(\lambda_1)g(\lambda_2)]=\mathbb E[f'g']$, and
# a sign has derivative $2\delta$. (2) Stein lowers the powers of ReLU, each derivative of a sign
# conditions the law. (3) Plackett: Price along $C(t)=tC+(1-t)\,\mathrm{diag}\,C$.
#
# Run as `python derivations/relu_integrals.py [folder]`: the LaTeX goes to the folder.

# %%
import sys
import tempfile
from pathlib import Path

import numpy as np
import sympy as sp
from scipy.integrate import quad

from dmft.gaussian.closed.orthant import FourSigns
from dmft.gaussian.expectation import Gaussian

q, r, s = sp.symbols("C_11 C_22 C_33", positive=True)
m, n, o = sp.symbols("C_12 C_13 C_23", real=True)
x, y, w = sp.symbols("x y w", real=True)
law = Gaussian([x, y, w], [[q, m, n], [m, r, o], [n, o, s]])
root = sp.sqrt(q * r - m**2)


def assert_equal(left, right, message):
    point = {q: 1.3, r: 0.7, s: 0.9, m: 0.4, n: -0.3, o: 0.2}
    assert abs(sp.N((left - right).subs(point))) < 1e-13, message


# %% [markdown]
# ## Two signs
#
# By Price, $\partial_m\mathbb E[\mathrm{sign}\,\mathrm{sign}]=4\,\mathbb E[\delta\delta]$, four
# times the joint density at the origin; at $m=0$ the average factorises and vanishes.

# %%
density = 1 / (2 * sp.pi * root)
arcsine = 2 / sp.pi * sp.asin(m / sp.sqrt(q * r))
assert_equal(arcsine.diff(m), 4 * density, "the arcsine has the derivative that Price wants")
assert arcsine.subs(m, 0) == 0
assert_equal(law.expect(sp.sign(x) * sp.sign(y)), arcsine, "library")

# %% [markdown]
# ## ReLU
#
# $\mathbb E[\theta\theta]$ follows from $\theta=(1+\mathrm{sign})/2$. Price integrates it once:
# $\partial_m I_2=\mathbb E[\theta\theta]$ with $I_2=\sqrt{C_{11}C_{22}}/(2\pi)$ at $m=0$. The drift
# integral is Stein's identity, one Dirac factor and one $\mathbb E[\theta\theta]$.

# %%
noise = sp.Rational(1, 4) + arcsine / 8 * 2
pair = root / (2 * sp.pi) + m * noise
drift = m * sp.sqrt(q * s - n**2) / (2 * sp.pi * q) + o * noise.subs({m: n, r: s})
assert_equal(pair.diff(m), noise, "Price for I_2")
assert_equal(pair.subs(m, 0), sp.sqrt(q * r) / (2 * sp.pi), "I_2 of independent fields")
relu = sp.Max
assert_equal(law.expect(sp.Heaviside(x) * sp.Heaviside(y)), noise, "library, I_n")
assert_equal(law.expect(relu(0, x) * relu(0, y)), pair, "library, I_2")
assert_equal(law.expect(sp.Heaviside(x) * y * relu(0, w)), drift, "library, I_3")

# %% [markdown]
# ## Four signs
#
# Along $R(t)$ with off-diagonal entries $tR_{ij}$ Price gives a sum over pairs: the density of
# $\lambda_i=\lambda_j=0$ times the arcsine of the other two under that condition.

# %%
PLACKETT = (
    r"\frac4{\pi^2}\sum_{i<j}\int_0^1\frac{R_{ij}\,dt}{\sqrt{1-t^2R_{ij}^2}}\,"
    r"\arcsin\rho_{kl|ij}(tR+(1-t)I)"
)
R = np.array([[1, 0.3, 0.2, -0.1], [0.3, 1, -0.4, 0.3], [0.2, -0.4, 1, 0.25], [-0.1, 0.3, 0.25, 1]])


def integrand(t):
    total, Rt = 0.0, t * R + (1 - t) * np.eye(4)
    for i in range(4):
        for j in range(i + 1, 4):
            rest = [a for a in range(4) if a not in (i, j)]
            gain = Rt[np.ix_(rest, [i, j])] @ np.linalg.inv(Rt[np.ix_([i, j], [i, j])])
            D = Rt[np.ix_(rest, rest)] - gain @ Rt[np.ix_([i, j], rest)]
            angle = np.arcsin(D[0, 1] / np.sqrt(D[0, 0] * D[1, 1]))
            total += R[i, j] / np.sqrt(1 - (t * R[i, j]) ** 2) * angle
    return 4 / np.pi**2 * total


four = quad(integrand, 0, 1, epsabs=1e-13)[0]
entries = [sp.Float(R[i, j]) for i in range(4) for j in range(i, 4)]
assert abs(four - float(FourSigns(*entries).evalf())) < 1e-12

# %% [markdown]
# ## Boxed results

# %%
BOXED = {
    r"\mathbb E[\mathrm{sign}_1\mathrm{sign}_2]": sp.latex(arcsine),
    r"I_n=\mathbb E[\sigma'_1\sigma'_2]": sp.latex(noise),
    r"I_2=\mathbb E[\sigma_1\sigma_2]": sp.latex(pair),
    r"I_3=\mathbb E[\sigma'_1\lambda_2\sigma_3]": sp.latex(drift),
    r"\mathbb E[\mathrm{sign}_1\mathrm{sign}_2\mathrm{sign}_3\mathrm{sign}_4]": PLACKETT,
}
# A notebook has no __file__: the arguments there are those of its kernel.
given = sys.argv[1:] if "__file__" in globals() else []
folder = Path(given[0] if given else tempfile.mkdtemp())
folder.mkdir(parents=True, exist_ok=True)
lines = [r"\documentclass{article}", r"\usepackage{amsmath,amssymb}", r"\begin{document}"]
LABELS = ("signs", "relu-noise", "relu-I2", "relu-I3", "four-signs")
for label, (left, right) in zip(LABELS, BOXED.items(), strict=True):
    lines.append(rf"\begin{{equation}}\label{{eq:{label}}}")
    lines += [rf"\boxed{{{left} = {right}}}", r"\end{equation}"]
lines += [r"\end{document}", ""]
(folder / "relu_integrals.tex").write_text("\n".join(lines))

# %% [markdown]
# ## Numerical check
#
# Samples of the definitions, $2\cdot10^6$ in antithetic pairs.

# %%
half = np.random.default_rng(1).standard_normal((4, 1_000_000))
u = np.linalg.cholesky(R) @ np.hstack([half, -half])
values = {q: 1, r: 1, s: 1, m: R[0, 1], n: R[0, 2], o: R[1, 2]}
positive = np.maximum(u, 0)
DEFINITIONS = {
    "sign sign": (np.sign(u[0] * u[1]), arcsine),
    "relu-noise": (1.0 * (u[0] > 0) * (u[1] > 0), noise),
    "relu-I2": (positive[0] * positive[1], pair),
    "relu-I3": ((u[0] > 0) * u[1] * positive[2], drift),
    "four signs": (np.sign(u[0] * u[1] * u[2] * u[3]), sp.Float(four)),
}
for key, (sample, formula) in DEFINITIONS.items():
    exact, error = float(formula.subs(values)), sample.std() / np.sqrt(sample.size / 2)
    print(f"{key:10s} formula {exact:+.6f}  samples {sample.mean():+.6f} +- {error:.6f}")
    assert abs(exact - sample.mean()) < 5 * error, key

# %% [markdown]
# **Source.** R. Price, IRE Trans. Inf. Theory 4, 69 (1958); R. L. Plackett, Biometrika 41, 351
# (1954); theory/one_pass A.3. Used by `dmft/gaussian/closed/product.py`,
# `dmft/gaussian/closed/orthant.py`.
