# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # Equations of motion of a committee under one-pass SGD
#
# **Statement.** Student $f = \frac1p\sum_j a_j\sigma(h_j)$, teacher
# $g = \frac1k\sum_r a^*_r\sigma_*(h^*_r)$, labels $y = g + \sqrt\Delta\,\xi$, inputs
# $x \sim \mathcal N(0, I_d)$, local fields $h = Wx/\sqrt d$, $h^* = W^*x/\sqrt d$. A step is
# $$w_j \leftarrow w_j + \frac{\gamma}{p\,n_b}\sum_{\mu\le n_b}\psi_j^\mu\frac{x^\mu}{\sqrt d},
#   \qquad \psi_j = a_j\sigma'(h_j)\,(y - f).$$
# As $d \to\infty$ the overlaps $M = WW^{*\top}/d$ and $Q = WW^\top/d$ obey closed ordinary
# differential equations in $t = \nu\gamma/(pd)$, free or with $|w_j|^2 = d$ restored each step.
#
# **Assumptions.** $\gamma, p, k, n_b = O(1)$; $\sigma$ with a derivative that is square integrable;
# fresh samples in each step.
#
# Run as `python derivations/committee_sgd.py [folder]`: the LaTeX goes to the folder (a temporary
# one by default).

# %%
# ruff: noqa: E741
import sys
import tempfile
from pathlib import Path

import numpy as np
import sympy as sp
from scipy.special import erf

import dmft
from dmft.gaussian.closed.product import product_expectation
from dmft.model import FIELD

z = FIELD
ERF = sp.erf(z / sp.sqrt(2))


def assert_equal(left, right, message):
    assert sp.simplify(left - right) == 0, message


# %% [markdown]
# ## Step 1: one step, exactly
#
# Insert the step in the definitions of the overlaps. Only products $\psi_j x\cdot w/\sqrt d$, which
# are $\psi_j$ times a local field, and $x^\mu\cdot x^\nu/d$ appear:
# $$\Delta M_{jr} = \tfrac{c}{d}\sum_\mu\psi_j^\mu h_r^{*\mu},\qquad
#   \Delta Q_{jl} = \tfrac cd\sum_\mu(\psi_j^\mu h_l^\mu + \psi_l^\mu h_j^\mu)
#   + \tfrac{c^2}{d}\sum_{\mu\nu}\psi_j^\mu\psi_l^\nu\,\tfrac{x^\mu\cdot x^\nu}{d},\quad
#   c = \tfrac{\gamma}{p\,n_b}.$$
# Below for symbols in $d = 3$ with $n_b = 2$ samples; nothing depends on these numbers.

# %%
c = sp.Symbol("c", positive=True)
DIM, BATCH = 3, 2
w_j, w_l, w_r = (sp.Matrix(sp.symbols(f"{name}_1:{DIM + 1}")) for name in ("u", "v", "w"))
xs = [sp.Matrix(sp.symbols(f"x{mu}_1:{DIM + 1}")) for mu in range(BATCH)]
psi_j, psi_l = sp.symbols(f"psi_j1:{BATCH + 1}"), sp.symbols(f"psi_l1:{BATCH + 1}")


def stepped(w, psi):
    return w + c * sum((v * x for v, x in zip(psi, xs, strict=True)), sp.zeros(DIM, 1)) / sp.sqrt(
        DIM
    )


def field(w, x):
    return w.dot(x) / sp.sqrt(DIM)


step_M = (stepped(w_j, psi_j).dot(w_r) - w_j.dot(w_r)) / DIM
step_Q = (stepped(w_j, psi_j).dot(stepped(w_l, psi_l)) - w_j.dot(w_l)) / DIM
linear = sum(
    a * field(w_l, x) + b * field(w_j, x) for a, b, x in zip(psi_j, psi_l, xs, strict=True)
)
double = sum(
    psi_j[mu] * psi_l[nu] * xs[mu].dot(xs[nu]) / DIM for mu in range(BATCH) for nu in range(BATCH)
)
drift_M = sum(a * field(w_r, x) for a, x in zip(psi_j, xs, strict=True))
assert sp.expand(step_M - c / DIM * drift_M) == 0
assert sp.expand(step_Q - c / DIM * linear - c**2 / DIM * double) == 0

# %% [markdown]
# ## Step 2: averages and the limit
#
# With $B_{jl} = \mathbb E[\psi_jh_l]$, $B^*_{jr} = \mathbb E[\psi_jh^*_r]$,
# $S_{jl} = \mathbb E[\psi_j\psi_l]$. The part of $x$ outside the span of the $r \le p + k$ weight
# vectors is independent of $\psi$ and has squared length $d - r$ on average; the part inside has
# $|x_\parallel|^2 = \lambda^\top\Omega^+\lambda$. For one sample
# $\mathbb E[\psi_j\psi_l|x|^2/d] = (1 - \frac rd)S_{jl} + \frac1d S^{(2)}_{jl}$ with
# $S^{(2)} = \mathbb E[\psi_j\psi_l\,\lambda^\top\Omega^+\lambda]$; for two independent samples
# $\mathbb E[\psi_jx]\cdot\mathbb E[\psi_lx]/d = (b\,\Omega^+b^\top)_{jl}/d$, $b = (B, B^*)$. There
# are $n_b$ pairs of the first kind and $n_b(n_b-1)$ of the second. Divide by
# $\delta t = \gamma/(pd)$.

# %%
gamma, p, n_b, d = sp.symbols("gamma p n_b d", positive=True)
r, B_jl, B_lj, S, S2, G = sp.symbols("r B_jl B_lj S_jl S2_jl G_jl")
rate = gamma / (p * n_b)
same_sample = (1 - r / d) * S + S2 / d
mean_step = rate / d * n_b * (B_jl + B_lj)
mean_step += rate**2 / d * (n_b * same_sample + n_b * (n_b - 1) * G / d)
exact_rate = sp.expand(mean_step / (gamma / (p * d)))
dQ = sp.expand(sp.limit(exact_rate, d, sp.oo))
Bs = sp.Symbol("B^*_{jr}")
dM = sp.cancel(rate / d * n_b * Bs / (gamma / (p * d)))
assert_equal(dM, Bs, "no correction at any d")
assert_equal(dQ, B_jl + B_lj + gamma / (p * n_b) * S, "the limit")

# %% [markdown]
# ## Step 3: the drift is a linear image of the gradient of the risk
#
# For one pair of units let
# $I_2(C_{11}, C_{13}, C_{33}) = \mathbb E[\sigma(\lambda_1)\tau(\lambda_3)]$ and
# $I_3 = \mathbb E[\sigma'(\lambda_1)\,\lambda_2\,\tau(\lambda_3)]$. Then (Stein for $\lambda_2$,
# Price for the derivatives of $I_2$)
# $$I_3 = 2 C_{12}\,\partial_{C_{11}} I_2 + C_{23}\,\partial_{C_{13}} I_2 .$$
# Both sides are bilinear in $\sigma$ and $\tau$, so it is enough to prove it for exponentials
# $e^{\alpha\lambda}$, of which all functions are superpositions (imaginary $\alpha$: Fourier).

# %%
C = {(i, j): sp.Symbol(f"C_{i}{j}", real=True) for i in (1, 2, 3) for j in (1, 2, 3) if i <= j}
alpha, beta, tau = sp.symbols("alpha beta tau")


def cov(i, j):
    return C[min(i, j), max(i, j)]


def generating(*sources):
    """E exp(sum of sources), the Gaussian moment generating function."""
    return sp.exp(sp.Add(*(a * b * cov(i, j) for i, a in sources for j, b in sources)) / 2)


pair = generating((1, alpha), (3, beta))
with_field = alpha * sp.diff(generating((1, alpha), (2, tau), (3, beta)), tau).subs(tau, 0)
image = 2 * cov(1, 2) * sp.diff(pair, cov(1, 1)) + cov(2, 3) * sp.diff(pair, cov(1, 3))
assert_equal(with_field, image, "Stein and Price")

POINT = {v: sp.Rational(2 + 3 * (i == j) + i * j % 3, 9) for (i, j), v in C.items()}
for sigma, teacher in ((ERF, ERF), (z**3 - 3 * z, ERF), (z**2, z**2)):
    I2 = product_expectation([sigma, teacher], [1, 3], cov)
    I3 = product_expectation([sp.diff(sigma, z), z, teacher], [1, 2, 3], cov)
    image = 2 * cov(1, 2) * sp.diff(I2, cov(1, 1)) + cov(2, 3) * sp.diff(I2, cov(1, 3))
    assert abs(sp.N((I3 - image).subs(POINT), 30)) < 1e-25, (sigma, teacher)

# %% [markdown]
# Sum over pairs. With $R = \frac12\mathbb E(g - f)^2$, $R_M = \partial R/\partial M$,
# $G_{jj} = 2\,\partial R/\partial Q_{jj}$ and $G_{jl} = \partial R/\partial Q_{jl}$ ($Q_{jl}$ and
# $Q_{lj}$ are one variable),
# $$B^* = -p\,(R_M P + G M),\qquad B = -p\,(R_M M^\top + G Q).$$
# Checked on the unrolled equations of the library, symbolically.

# %%
square = dmft.Model(dmft.Committee(z**2, 2, [1, 2]), dmft.Committee(z**2, 2, [1, -3]))
flow = dmft.derive(square, dmft.GradientFlow()).explicit()


def matrix(name, rows, columns, symmetric):
    def entry(i, j):
        i, j = sorted((i, j)) if symmetric else (i, j)
        return flow.symbols[f"{name}_{i + 1}{j + 1}"]

    return sp.Matrix(rows, columns, entry)


Q, M, P = matrix("Q", 2, 2, True), matrix("M", 2, 2, False), matrix("P", 2, 2, True)
R_M = sp.Matrix(2, 2, lambda j, r: sp.diff(flow.risk, M[j, r]))
gradient = sp.Matrix(2, 2, lambda j, l: (1 + (j == l)) * sp.diff(flow.risk, Q[j, l]))
B_star = -2 * (R_M * P + gradient * M)
B = -2 * (R_M * M.T + gradient * Q)
for j in range(2):
    for l in range(2):
        assert sp.expand(flow.rhs[M[j, l]] - B_star[j, l]) == 0
        assert sp.expand(flow.rhs[Q[j, l]] - B[j, l] - B[l, j]) == 0

# %% [markdown]
# ## Step 4: for an erf student the quadratic term is a risk
#
# $\sigma'(h_j)\sigma'(h_l)$ is a Gaussian weight in the fields $J = (j, l)$. Under it the law of
# the fields is Gaussian with
# $$\tilde\Omega = \Omega - \Omega_{\cdot J}(1 + \Omega_{JJ})^{-1}\Omega_{J\cdot},\qquad S_{jl} =
#   a_ja_l\,\frac{2/\pi}{\sqrt{\det(1 + \Omega_{JJ})}}\,\big[2R(\tilde\Omega) + \Delta\big],$$
# by completing the square (`erf_integrals.py`, Step 1, twice), and what is averaged is the squared
# residual. Checked in numbers: the quadratic term of the compiled equations is the risk of the
# library at tilted overlaps, also for a polynomial teacher and on the diagonal $j = l$.

# %%
rng = np.random.default_rng(7)
WIDTH, TEACHERS, RATE, NOISE = 2, 1, 0.8, 0.3
A = np.array([1.2, -0.7])
GRAM = np.array([[0.9, 0.25, 0.3], [0.25, 0.7, -0.2], [0.3, -0.2, 1.1]])
start = dmft.Overlaps(GRAM[:2, :2], GRAM[:2, 2:], GRAM[2:, 2:])


def quadratic_term(model):
    """S from the difference of the rates with and without it."""
    noisy = dmft.derive(model, dmft.SGD(RATE)).evaluate(start)
    return (noisy["Q"] - dmft.derive(model, dmft.GradientFlow()).evaluate(start)["Q"]) * (
        WIDTH / RATE
    )


def tilted_risk(model, j, l):
    """The right-hand side of the identity."""
    J = [j, l]
    core = np.eye(2) + GRAM[np.ix_(J, J)]
    tilted = GRAM - GRAM[:, J] @ np.linalg.solve(core, GRAM[J, :])
    risk = dmft.population_risk(model)(tilted[:2, :2], tilted[:2, 2:], tilted[2:, 2:])
    return A[j] * A[l] * 2 / np.pi / np.sqrt(np.linalg.det(core)) * (2 * risk + NOISE)


for star in (ERF, z**2 - 1, z**3 - 3 * z):
    model = dmft.Model(dmft.Committee(ERF, 2, list(A)), dmft.Committee(star, 1, [0.9]), NOISE)
    expected = [[tilted_risk(model, j, l) for l in range(2)] for j in range(2)]
    gap = np.abs(quadratic_term(model) - expected).max()
    print(f"tilt identity, teacher {star}: largest difference {gap:.1e}")
    assert gap < 1e-13

# %% [markdown]
# ## Step 5: the sphere
#
# Dividing each $w_j$ by its length after the step divides $M_{jr}$ by $\sqrt{Q_{jj}}$ and $Q_{jl}$
# by $\sqrt{Q_{jj}Q_{ll}}$. With $\Delta Q = \Phi\,\delta t$, to first order in $\delta t$ from
# $Q_{jj} = 1$; the quadratic term enters $\Phi$ and may not be dropped.

# %%
dt, M_jr, Q_jl, Phi_jl, Phi_jj, Phi_ll = sp.symbols(
    r"dt M_{jr} Q_{jl} \Phi_{jl} \Phi_{jj} \Phi_{ll}"
)
new_M = (M_jr + Bs * dt) / sp.sqrt(1 + Phi_jj * dt)
new_Q = (Q_jl + Phi_jl * dt) / sp.sqrt((1 + Phi_jj * dt) * (1 + Phi_ll * dt))
sphere_M, sphere_Q = (sp.expand(sp.diff(y, dt).subs(dt, 0)) for y in (new_M, new_Q))
assert_equal(sphere_Q.subs({Q_jl: 1, Phi_jl: Phi_jj, Phi_ll: Phi_jj}), 0, "lengths stay")

unit = dmft.Overlaps([[1.0, 0.2], [0.2, 1.0]], [[0.3], [-0.4]])
mixed = dmft.Model(dmft.Committee(ERF, 2), dmft.Committee(z**2 - 1, 1), NOISE)
free = dmft.derive(mixed, dmft.SGD(RATE)).evaluate(unit)
bound = dmft.derive(mixed, dmft.SGD(RATE, constraint="sphere")).evaluate(unit)
for j, l in ((0, 0), (0, 1), (1, 1)):
    values = {M_jr: unit.M[j, 0], Q_jl: unit.Q[j, l], Bs: free["M"][j, 0]}
    values |= {Phi_jl: free["Q"][j, l], Phi_jj: free["Q"][j, j], Phi_ll: free["Q"][l, l]}
    assert abs(sphere_M.subs(values) - bound["M"][j, 0]) < 1e-14
    assert abs(sphere_Q.subs(values) - bound["Q"][j, l]) < 1e-14

# %% [markdown]
# ## Boxed results

# %%
LETTERS = {
    S: sp.Symbol("S_{jl}"),
    B_jl: sp.Symbol("B_{jl}"),
    B_lj: sp.Symbol("B_{lj}"),
    S2: sp.Symbol("S^{(2)}_{jl}"),
    G: sp.Symbol(r"(b\Omega^{+}b^\top)_{jl}"),
}
BOXED = {
    "sgd-M": (r"\dot M_{jr}", dM),
    "sgd-Q": (r"\dot Q_{jl}", dQ),
    "sgd-finite": (r"\frac{\mathbb{E}\,\Delta Q_{jl}}{\delta t}", exact_rate),
    "sgd-sphere-M": (r"\dot M_{jr}\big|_{\mathrm{sphere}}", sphere_M),
    "sgd-sphere-Q": (r"\dot Q_{jl}\big|_{\mathrm{sphere}}", sphere_Q),
}


def document():
    """LaTeX document with one labelled boxed equation for each result."""
    lines = [
        r"\documentclass{article}",
        r"\usepackage{amsmath,amssymb}",
        r"\begin{document}",
        r"$B^*_{jr} = \mathbb{E}[\psi_j h^*_r]$, $B_{jl} = \mathbb{E}[\psi_j h_l]$,",
        r"$S_{jl} = \mathbb{E}[\psi_j \psi_l]$, $\psi_j = a_j \sigma'(h_j)(y - f)$;",
        r"$\Phi$ is the free rate of $Q$; $t = \nu\gamma/(pd)$:",
    ]
    for label, (name, expr) in BOXED.items():
        lines += [
            rf"\begin{{equation}}\label{{eq:{label}}}",
            rf"\boxed{{{name} = {sp.latex(expr.subs(LETTERS))}}}",
            r"\end{equation}",
        ]
    return "\n".join([*lines, r"\end{document}", ""])


# A notebook has no __file__: the arguments there are those of its kernel.
given = sys.argv[1:] if "__file__" in globals() else []
folder = Path(given[0] if given else tempfile.mkdtemp())
folder.mkdir(parents=True, exist_ok=True)
(folder / "committee_sgd.tex").write_text(document())

# %% [markdown]
# ## Numerical check
#
# One step of SGD in $\mathbb R^d$ from weights with the overlaps above, erf student, He2 teacher,
# two samples a step. The mean of many steps must equal the rates of the library within its standard
# error, up to the pieces of order $1/d$ of Step 2. These are averages over three fields, done by
# Gauss-Hermite quadrature, which also gives the rates once more from their definition.

# %%
D, STEPS, SAMPLES = 40, 480_000, 2
model = dmft.Model(dmft.Committee(ERF, 2, list(A)), dmft.Committee(z**2 - 1, 1, [0.9]), NOISE)
theory = dmft.derive(model, dmft.SGD(RATE, batch_size=SAMPLES)).evaluate(start)


def update_field(h, h_star, label_noise):
    """psi (p, ...) of fields with the neuron or teacher first."""
    output = np.einsum("j,j...->...", A, erf(h / np.sqrt(2))) / WIDTH
    slopes = np.sqrt(2 / np.pi) * np.exp(-(h**2) / 2)
    return (slopes.T * A).T * (0.9 * (h_star[0] ** 2 - 1) + label_noise - output)


nodes, weights = np.polynomial.hermite_e.hermegauss(60)
grid = np.stack(np.meshgrid(nodes, nodes, nodes, indexing="ij")).reshape(3, -1)
mass = np.prod(np.stack(np.meshgrid(weights, weights, weights, indexing="ij")), axis=0).ravel()
mass /= mass.sum()
fields = np.linalg.cholesky(GRAM) @ grid
psi = update_field(fields[:2], fields[2:], 0.0)
slope = update_field(fields[:2], fields[2:], 1.0) - psi  # a_j sigma'(h_j)
moment = (psi * mass) @ fields.T  # b = (B, B*)
radius = (grid**2).sum(axis=0)


def second_moment(weight):
    """E[psi psi^T weight] with the label noise."""
    return (psi * mass * weight) @ psi.T + NOISE * (slope * mass * weight) @ slope.T


by_definition = {
    "M": moment[:, 2:],
    "Q": moment[:, :2] + moment[:, :2].T + RATE / (WIDTH * SAMPLES) * second_moment(1.0),
}
for name, value in by_definition.items():
    gap = np.abs(theory[name] - value).max()
    print(f"d{name}/dt against quadrature of the definition: largest difference {gap:.1e}")
    assert gap < 1e-10

NUMBERS = {gamma: RATE, p: WIDTH, n_b: SAMPLES, d: D, r: 3}
finite = np.empty((2, 2))
for j in range(2):
    for l in range(2):
        values = {B_jl: moment[j, l], B_lj: moment[l, j], S: second_moment(1.0)[j, l]}
        values |= {S2: second_moment(radius)[j, l]}
        values |= {G: (moment @ np.linalg.solve(GRAM, moment.T))[j, l]}
        finite[j, l] = exact_rate.subs(NUMBERS).subs(values)

basis = np.linalg.qr(rng.standard_normal((D, 3)))[0]
W = np.sqrt(D) * np.linalg.cholesky(GRAM) @ basis.T  # rows with W W^T / d = GRAM
time_step = RATE / (WIDTH * D)


def sampled_rates(steps):
    """Change of M and Q in independent single steps, over the time of a step."""
    x = rng.standard_normal((steps, SAMPLES, D))
    h = np.moveaxis(x @ W.T, -1, 0) / np.sqrt(D)
    psi_x = update_field(h[:2], h[2:], np.sqrt(NOISE) * rng.standard_normal((steps, SAMPLES)))
    step = np.moveaxis(psi_x, 0, 1) @ x * RATE / (WIDTH * SAMPLES * np.sqrt(D))
    after = W[:2] + step
    dM = after @ W[2:].T / D - start.M
    dQ = after @ np.moveaxis(after, 1, 2) / D - start.Q
    return dM / time_step, dQ / time_step


parts = [sampled_rates(STEPS // 8) for _ in range(8)]
rate_M, rate_Q = (np.concatenate(part) for part in zip(*parts, strict=True))
for name, sampled, exact in (("M", rate_M, theory["M"]), ("Q", rate_Q, finite)):
    mean, error = sampled.mean(axis=0), sampled.std(axis=0) / np.sqrt(STEPS)
    for index in np.ndindex(mean.shape):
        print(
            f"d{name}{list(index)}/dt: SGD d={D} {mean[index]:+.4f} +- {error[index]:.4f}, "
            f"exact mean {exact[index]:+.4f}, d -> oo {theory[name][index]:+.4f}"
        )
    assert (np.abs(mean - exact) < 4 * error).all(), name
    assert (np.abs(exact - theory[name]) < 3 * (1 + np.abs(theory[name])) / D).all()

# %% [markdown]
# **Source.** theory/one_pass A.1, B.1, B.2, C; D. Saad and S. A. Solla, Phys. Rev. E 52, 4225
# (1995). Used by `dmft/equations/update`.
