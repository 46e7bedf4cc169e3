# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # What a certificate proves
#
# **Statement.** `dmft.certify` returns a ball that contains $\mathbb E[f(\lambda)]$,
# $\lambda\sim\mathcal N(m, C)$ with rational $m$ and $C$. Every step below is an identity or an
# inequality; ball arithmetic (Arb) keeps the errors of everything that is computed.
#
# **Assumptions.** $f$ has a proven bound $|f(x)|\le\sum c\,|x|^ne^{b|x|+qx^2}$ with $q$ below the
# decay of the law; switches of $f$ have polynomial arguments. Singularity and parallelism are
# tested in exact fractions.
#
# **Steps.** (1) one field; (2) two fields, one averaged given the other; (3) two fields by Hermite
# coefficients; (4) polynomials, Gaussian factors, signs; (5) products of three and four signs.
#
# Run as `python derivations/certificates.py [folder]`: the LaTeX goes to the folder. The checks
# below are of the identities, in plain floats; python-flint is not needed.

# %%
import sys
import tempfile
from pathlib import Path

import numpy as np
import sympy as sp
from scipy.integrate import quad
from scipy.special import erf

rng = np.random.default_rng(0)
GAPS = {}


def check(name, left, right, tolerance=1e-9):
    GAPS[name] = abs(float(left) - float(right))
    assert GAPS[name] < tolerance, (name, float(left), float(right))


# %% [markdown]
# ## 1. One field
#
# $x=m+su$. Between two neighbouring real roots of the arguments of its switches $f$ is one analytic
# expression (the sign of each argument at one rational point is its sign on the panel), and Arb
# integrates each panel with a proven error. Beyond $|u|=L$ let $r=s+|m|/L$, so that $|x|\le r|u|$.
# The logarithm of $u^ne^{bru-\kappa u^2/2}$, $\kappa=1-2qr^2$, is concave in $u$, and lies below
# its tangent at $L$, whose slope is $-g$ with $g=\kappa L-br-n/L$. If $g>0$,
#
# $$\int_L^\infty u^ne^{bru-\kappa u^2/2}\,du\le L^ne^{brL-\kappa L^2/2}/g .$$

# %%
TAIL = r"\int_L^\infty u^n e^{bru-\kappa u^2/2}\,du"
TAIL_BOUND = r"\frac{L^n e^{brL-\kappa L^2/2}}{\kappa L-br-n/L}"
for n, rate, kappa, L in [(0, 0.0, 1.0, 4.0), (3, 0.7, 0.8, 6.0), (6, 2.0, 0.5, 9.0)]:
    slope = kappa * L - rate - n / L
    bound = L**n * np.exp(rate * L - kappa * L**2 / 2) / slope
    tail = quad(lambda u, n=n, b=rate, k=kappa: u**n * np.exp(b * u - k * u * u / 2), L, np.inf)[0]
    assert 0.3 * bound < tail < bound

# %% [markdown]
# ## 2. Two fields, one averaged given the other
#
# $y$ given $x$ is normal with mean $\mu(x)$ and variance $v$. On each piece $g$ is a sum of
# $y^ne^{-ky^2/2+ly}$; completing the square, with $s^2=v/(1+kv)$ and $\mu'=(\mu+lv)/(1+kv)$, leaves
# moments of $\mathcal N(\mu',s^2)$ over an interval $[\alpha,\beta]$. With $p$ that density,
# $\frac{d}{dy}(y^{n-1}p)=(n-1)y^{n-2}p-y^{n-1}\frac{y-\mu'}{s^2}p$; integrated,
#
# $$M_n=\mu'M_{n-1}+(n-1)s^2M_{n-2}-s^2\big[y^{n-1}p\big]_\alpha^\beta .$$
#
# With $\mathrm{erf}(ay+c)$ under the integral the derivative acts on it too:
# $J_n=\mu'J_{n-1}+(n-1)s^2J_{n-2}+s^2\frac{2a}{\sqrt\pi}\mathbb E[y^{n-1}e^{-(ay+c)^2}]$ with
# $J_0=\mathrm{erf}\big((a\mu'+c)/\sqrt{1+2a^2s^2}\big)$. All of it is entire in $\mu$; the tail of
# the outer integral is at most $\sqrt{\mathbb E[f^2;|u|>L]\;\mathbb E g^2}$ (Cauchy-Schwarz).

# %%
mu, v, k, l, low, high = 0.3, 0.8, 1.5, -0.4, -0.2, 1.7  # noqa: E741


def normal(y, mean, variance):
    return np.exp(-((y - mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)


s2, shifted = v / (1 + k * v), (mu + l * v) / (1 + k * v)
size = np.exp((l * mu + l * l * v / 2 - k * mu * mu / 2) / (1 + k * v)) / np.sqrt(1 + k * v)
M = [(erf((high - shifted) / np.sqrt(2 * s2)) - erf((low - shifted) / np.sqrt(2 * s2))) / 2]
for n in range(1, 4):
    edge = high ** (n - 1) * normal(high, shifted, s2) - low ** (n - 1) * normal(low, shifted, s2)
    M.append(shifted * M[n - 1] + ((n - 1) * s2 * M[n - 2] if n > 1 else 0) - s2 * edge)
direct = quad(lambda y: y**3 * np.exp(-k * y * y / 2 + l * y) * normal(y, mu, v), low, high)[0]
check("moments over an interval", size * M[3], direct)

a, c = 0.9, 0.35
spread = 1 + 2 * a * a * v
J = [erf((a * mu + c) / np.sqrt(spread))]
inner = np.exp(-((a * mu + c) ** 2) / spread) / np.sqrt(spread)
J.append(mu * J[0] + v * 2 * a / np.sqrt(np.pi) * inner)
direct = quad(lambda y: y * erf(a * y + c) * normal(y, mu, v), -12, 12)[0]
check("moment of an error function", J[1], direct)

# %% [markdown]
# ## 3. Two fields by Hermite coefficients
#
# $a_n=\mathbb E[f\,h_n]$, $b_n=\mathbb E[g\,h_n]$ with orthonormal $h_n=\mathrm{He}_n/\sqrt{n!}$ of
# the standardised fields; Mehler gives $\mathbb E[fg]=\sum_n\rho^na_nb_n$, and by Cauchy-Schwarz
# and Parseval the rest after order $N$ is at most
# $|\rho|^{N+1}\sqrt{\mathbb Ef^2-\sum_{n\le N}a_n^2}\,\sqrt{\mathbb Eg^2-\sum_{n\le N}b_n^2}$.
# Both sums are balls, and the bound is rounded up.

# %%
u, weights = np.polynomial.hermite_e.hermegauss(100)
weights = weights / np.sqrt(2 * np.pi)
h = [np.ones_like(u), u]
for n in range(2, 12):
    h.append((u * h[-1] - np.sqrt(n - 1) * h[-2]) / np.sqrt(n))
A = np.array([weights @ (np.tanh(u) * p) for p in h])
rho = 0.7
xs, ys = u[:, None], rho * u[:, None] + np.sqrt(1 - rho**2) * u[None, :]
whole = float(weights @ (np.tanh(xs) * np.tanh(ys)) @ weights)
left = float(weights @ np.tanh(u) ** 2) - float(A @ A)
error = abs(whole - float((rho ** np.arange(12)) @ A**2))
assert error < rho**12 * left

# %% [markdown]
# ## 4. Polynomials, Gaussian factors, signs
#
# * A field that occurs in a polynomial only is its regression on the others plus an independent
#   residual, whose moments are $(2k-1)!!\,v^k$ (Wick).
# * Under the weight $e^{-\frac12x^\top Bx+l^\top x}$ the law is Gaussian again,
#   $\tilde C=(I+CB)^{-1}C$, $\tilde m=(I+CB)^{-1}(m+Cl)$, for singular $C$ as well; it is a law if
#   and only if $\tilde C$ is positive semi-definite and $\det(I+CB)>0$.
# * A piecewise function is $\frac{p_0+p_K}2+\sum_k\frac{p_k-p_{k-1}}2\,\mathrm{sign}(x-a_k)$ off
#   its breaks, and $\mathrm{erf}(ay+c)=\mathbb E\,\mathrm{sign}(ay+c+\zeta)$, $\zeta\sim\mathcal
#   N(0,\frac12)$: only polynomials and signs are left.
# * Stein with $\partial\,\mathrm{sign}=2\delta$, and $\mathbb E[\delta(u)F]=p_u(0)\,\mathbb
#   E[F|u=0]$, lower the polynomials. For parallel fields with thresholds $s<t$:
#   $\mathrm{sign}(u-s)\,\mathrm{sign}(u-t)=1-\mathrm{sign}(u-s)+\mathrm{sign}(u-t)$.

# %%
C = np.array([[1.2, 0.4, 0.3], [0.4, 0.9, -0.2], [0.3, -0.2, 0.7]])
B = np.array([[0.5, 0.2, 0.0], [0.2, 0.3, 0.1], [0.0, 0.1, 0.4]])
m, slope = np.array([0.2, -0.1, 0.4]), np.array([0.3, 0.1, -0.2])
inverse = np.linalg.inv(np.eye(3) + C @ B)
tilted, mean = inverse @ C, inverse @ (m + C @ slope)
action = slope @ tilted @ slope / 2 + slope @ inverse @ m - m @ B @ inverse @ m / 2
prefactor = np.exp(action) / np.sqrt(np.linalg.det(np.eye(3) + C @ B))
grid = np.stack(np.meshgrid(u, u, u, indexing="ij")).reshape(3, -1)
w = (weights[:, None, None] * weights[None, :, None] * weights).reshape(-1)
point = m[:, None] + np.linalg.cholesky(C) @ grid
weight = np.exp(-(point * (B @ point)).sum(axis=0) / 2 + slope @ point)
check("tilt, prefactor", prefactor, w @ weight, 1e-8)
check("tilt, covariance", prefactor * (tilted[0, 2] + mean[0] * mean[2]),
      w @ (weight * point[0] * point[2]), 1e-8)  # fmt: skip
t = np.linspace(-2, 2, 400)  # none of them at a threshold
assert np.array_equal(np.sign(t + 1) * np.sign(t - 1), 1 - np.sign(t + 1) + np.sign(t - 1))

# %% [markdown]
# ## 5. Products of three and four signs
#
# Price along $C(t)=tC+(1-t)\,\mathrm{diag}\,C$: the derivative of $\mathbb E\prod\mathrm{sign}$ is
# $\sum_{i<j}4C_{ij}\,p_{ij}(0,0;t)\,\mathbb E_t[\text{the others}\mid u_i=u_j=0]$. With
# $D_{ij}=C_{ii}C_{jj}-t^2C_{ij}^2$ and $M_{kl}$ the minor of rows $i,j,k$ and columns $i,j,l$,
# $\mathrm{Cov}(u_k,u_l|u_i,u_j)=M_{kl}/D_{ij}$, and Sylvester's identity
# $M_{kk}M_{ll}-M_{kl}^2=D_{ij}\det C(t)$ turns the arcsine of the other two into
# $\frac2\pi\arctan\big(M_{kl}/\sqrt{D_{ij}\det C(t)}\big)$. All of these are polynomials in
# $\tau=1-t$ with rational coefficients; their zeros at $\tau=0$ are divided out exactly, and in
# $s=\sqrt\tau$ nothing singular is left at $s=0$.

# %%
tau = sp.Symbol("tau")
entries = sp.Matrix(
    [[2, 1, sp.Rational(1, 2), sp.Rational(1, 3)], [1, 3, sp.Rational(1, 4), sp.Rational(-1, 5)],
     [sp.Rational(1, 2), sp.Rational(1, 4), 1, sp.Rational(1, 7)],
     [sp.Rational(1, 3), sp.Rational(-1, 5), sp.Rational(1, 7), 2]]
)  # fmt: skip
path = sp.Matrix(4, 4, lambda i, j: entries[i, j] * (1 if i == j else 1 - tau))


def minor(rows, columns):
    return path.extract(rows, columns).det()


def sylvester(i, j, k, l):  # noqa: E741
    cross = minor([i, j, k], [i, j, l])
    left = minor([i, j, k], [i, j, k]) * minor([i, j, l], [i, j, l]) - cross**2
    return sp.expand(left - minor([i, j], [i, j]) * path.det())


assert all(sylvester(*order) == 0 for order in [(0, 1, 2, 3), (0, 2, 1, 3), (1, 3, 0, 2)])
pairs = [(0, 1, 2, 3), (0, 2, 1, 3), (0, 3, 1, 2), (1, 2, 0, 3), (1, 3, 0, 2), (2, 3, 0, 1)]
density = sp.S.Zero
for i, j, k, l in pairs:  # noqa: E741
    D = minor([i, j], [i, j])
    angle = sp.atan(minor([i, j, k], [i, j, l]) / sp.sqrt(D * path.det()))
    density += 4 / sp.pi**2 * entries[i, j] / sp.sqrt(D) * angle
four = quad(sp.lambdify(tau, density), 0, 1, epsabs=1e-12)[0]
half = rng.standard_normal((4, 1_000_000))
sample = np.linalg.cholesky(np.array(entries.tolist(), dtype=float)) @ half
signs = np.sign(sample.prod(axis=0))
check("four signs against samples", four, signs.mean(), 5 / np.sqrt(signs.size))

# %% [markdown]
# ## Boxed results

# %%
BOXED = {
    TAIL: (r"\le", TAIL_BOUND),
    r"M_n": ("=", r"\mu' M_{n-1}+(n-1)s^2M_{n-2}-s^2\left[y^{n-1}p(y)\right]_\alpha^\beta"),
    r"\Bigl|\sum_{n>N}\rho^na_nb_n\Bigr|": (
        r"\le", r"|\rho|^{N+1}\sqrt{\mathbb Ef^2-\sum_{n\le N}a_n^2}"
        r"\sqrt{\mathbb Eg^2-\sum_{n\le N}b_n^2}"
    ),
    r"\mathbb E\prod_{j=1}^4\mathrm{sign}(u_j)": (
        "=", r"\frac4{\pi^2}\int_0^1\!dt\sum_{i<j}\frac{C_{ij}}{\sqrt{D_{ij}}}"
        r"\arctan\frac{M_{kl}}{\sqrt{D_{ij}\det C(t)}}"
    ),
}  # fmt: skip
# A notebook has no __file__: the arguments there are those of its kernel.
given = sys.argv[1:] if "__file__" in globals() else []
folder = Path(given[0] if given else tempfile.mkdtemp())
folder.mkdir(parents=True, exist_ok=True)
lines = [r"\documentclass{article}", r"\usepackage{amsmath,amssymb}", r"\begin{document}"]
LABELS = ("tail", "interval-moments", "parseval", "four-signs-minors")
for label, (left_side, (relation, right_side)) in zip(LABELS, BOXED.items(), strict=True):
    lines.append(rf"\begin{{equation}}\label{{eq:{label}}}")
    lines += [rf"\boxed{{{left_side} {relation} {right_side}}}", r"\end{equation}"]
lines += [r"\end{document}", ""]
(folder / "certificates.tex").write_text("\n".join(lines))

# %% [markdown]
# ## Numerical check

# %%
for name, gap in GAPS.items():
    print(f"{name:30s} {gap:.1e}")

# %% [markdown]
# **Source.** F. Johansson, Numerical integration in arbitrary-precision ball arithmetic (2018);
# R. Price, IRE Trans. Inf. Theory 4, 69 (1958); theory/one_pass A. Used by
# `dmft/gaussian/certified/`.
