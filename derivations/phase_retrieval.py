# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # Phase retrieval: escape from mediocrity
#
# **Statement.** Student and teacher have the square activation and one teacher direction of unit
# length ($k = 1$, $P = 1$, $a = a^* = 1$), labels with noise of variance $\Delta$. One-pass SGD
# starts nearly orthogonal to the teacher, $u = \frac1p\sum_j M_j^2 \simeq 1/d$. How long does it
# take to leave, up to which learning rate does it leave at all, and which rate is the fastest?
#
# **Assumptions.** $d\to\infty$ at fixed $\gamma$, $p$: the deterministic equations of motion, in
# $t = \nu\gamma/(pd)$; $\tilde g = \gamma/p$. Part I is exact ($p = 1$ on the sphere); part II
# (free weights, any $p$) is linear in $M$.
#
# Run as `python derivations/phase_retrieval.py [folder]`: the LaTeX goes to the folder (a temporary
# one by default).

# %%
import sys
import tempfile
from pathlib import Path

import numpy as np
import sympy as sp

import dmft
from dmft.gaussian.closed.product import product_expectation
from dmft.model import FIELD

z = FIELD
gamma, Delta = (sp.Symbol("gamma", positive=True), sp.Symbol("Delta", nonnegative=True))


def phase_retrieval(width):
    """Square student of this width, one square teacher unit, noise Delta."""
    return dmft.Model(dmft.Committee(z**2, width), dmft.Committee(z**2, 1), Delta)


def assert_equal(left, right, message):
    assert sp.simplify(left - right) == 0, message


# %% [markdown]
# ## Part I: one neuron
#
# ### Step 1: the equations of motion
#
# For polynomial activations every average is a Wick sum, so the indexed equations unroll to
# polynomials in $m = M_{11}$, $q = Q_{11}$ and $\rho = P_{11}$.

# %%
system = dmft.derive(phase_retrieval(1), dmft.SGD(gamma)).explicit()
m, q, rho = sp.symbols("m q rho", positive=True)
NAMES = dict(zip((system.symbols[s] for s in ("M_11", "Q_11", "P_11")), (m, q, rho), strict=True))
F_m, F_q = (sp.expand(system.rhs[system.symbols[s]].subs(NAMES)) for s in ("M_11", "Q_11"))
risk = system.risk.subs(NAMES)
flow, noise = sp.Poly(F_q, gamma).all_coeffs()[::-1]
assert_equal(F_m, 6 * m * (rho - q), "drift of m")
assert_equal(flow, 4 * (rho * q + 2 * m**2 - 3 * q**2), "gradient part of dq/dt")
cubic = 15 * q**3 - 6 * rho * q**2 + 3 * rho**2 * q - 24 * m**2 * q + 12 * rho * m**2
assert_equal(noise, 4 * (Delta * q + cubic), "quadratic part of dq/dt")

# %% [markdown]
# ### Step 2: on the sphere
#
# The constraint subtracts the radial part, $\dot m = F_m - \frac12 m F_q$ at $q = 1$. With
# $\rho = 1$ one cubic equation is left, $\dot m = m\,[\Lambda - A m^2]$: $\Lambda$ is the rate at
# which a small overlap grows.

# %%
sphere = dmft.derive(phase_retrieval(1), dmft.SGD(gamma, constraint="sphere")).explicit()
UNIT = {q: 1, rho: 1}
mdot = sp.expand(sphere.rhs[sphere.symbols["M_11"]].subs(NAMES).subs(UNIT))
assert_equal(mdot, (F_m - m * F_q / 2).subs(UNIT), "projection of the free equation")
assert_equal(sphere.rhs[sphere.symbols["Q_11"]].subs(NAMES).subs(UNIT), 0, "the length stays")
minus_A, Lambda = sp.Poly(mdot, m).all_coeffs()[0], sp.Poly(mdot, m).coeff_monomial(m)
A, Lambda = sp.factor(-minus_A), sp.expand(Lambda)
assert sp.Poly(mdot, m).monoms() == [(3,), (1,)]
assert_equal(A, 4 - 24 * gamma, "A")
assert_equal(Lambda, 4 - 2 * gamma * (12 + Delta), "Lambda")

# %% [markdown]
# ### Step 3: the time to a threshold
#
# $u = m^2$ obeys $\dot u = 2u(\Lambda - Au)$. Partial fractions of $dt = du/\dot u$ give
# logarithms. The run escapes when the risk has fallen by the fraction $T$ of its start; the risk on
# the sphere is linear in $u$, so the threshold is $u_1 = T + (1 - T) u_0$.

# %%
u, u0, u1, T = sp.symbols("u u_0 u_1 T", positive=True)
L, a = sp.symbols("Lambda A", positive=True)
u_inf = L / a  # where the overlap settles
fractions = sp.apart(1 / (2 * u * (L - a * u)), u)
primitive = (sp.log(u) - sp.log(u_inf - u)) / (2 * L)
assert_equal(sp.diff(primitive, u), fractions, "primitive of the partial fractions")
t_ext = sp.log(u1 / u0 * (u_inf - u0) / (u_inf - u1)) / (2 * L)
assert_equal(sp.diff(t_ext, u1), fractions.subs(u, u1), "dt/du at the end")
assert t_ext.subs(u1, u0) == 0

risk_on_sphere = sp.expand(risk.subs(UNIT).subs(m, sp.sqrt(u)))
threshold = sp.solve(risk_on_sphere - (1 - T) * risk_on_sphere.subs(u, u0), u)
assert_equal(risk_on_sphere, 2 * (1 - u), "risk on the sphere")
assert_equal(threshold[0], T + (1 - T) * u0, "threshold")

# %% [markdown]
# ### Step 4: the largest and the fastest learning rate
#
# The overlap grows while $\Lambda > 0$. A run takes $N = (d/\gamma)\, t_{\rm ext}$ samples; to
# leading logarithm $N \propto 1/(\gamma\Lambda)$.

# %%
(gamma_max,) = sp.solve(Lambda, gamma)
(gamma_opt,) = sp.solve(sp.diff(gamma * Lambda, gamma), gamma)
assert sp.simplify(sp.diff(gamma * Lambda, gamma, 2)).subs(Delta, 0) < 0, "a maximum"
samples_opt = sp.factor(1 / (2 * gamma * Lambda).subs(gamma, gamma_opt))  # times d log(u1/u0)
assert_equal(gamma_max, 2 / (12 + Delta), "largest rate")
assert_equal(gamma_opt, gamma_max / 2, "fastest rate")
assert_equal(samples_opt, (12 + Delta) / 4, "samples at the fastest rate")

# %% [markdown]
# ## Part II: free weights, any width
#
# ### Step 5: the lengths at the start
#
# At $M = 0$, $Q = qI$ the reflection $h_j \to -h_j$ keeps $Q$ diagonal, and by exchange of neurons
# one length $q$ remains. The sums over the other neurons are counted: $j$ itself, $p - 1$ others
# $l$, $(p-1)(p-2)$ ordered pairs of different others $l \ne l'$, and the teacher. Each kernel is a
# Wick sum in which only equal labels are correlated:
# $$\dot q = 2 b_{jj} + \tilde g\, S_{jj},\quad
#   b_{jj} = \sum_m c_m \mathbb E[\sigma'_j h_j \sigma_m],\quad
#   S_{jj} = \sum_{mn} c_m c_n \mathbb E[\sigma_j'^2 \sigma_m\sigma_n]
#   + \Delta\,\mathbb E[\sigma_j'^2].$$

# %%
p, g, s, mu = sp.symbols("p g s mu", positive=True)  # g = gamma / p; mu = M_j, small
SIGMA, SLOPE = z**2, 2 * z


def cov(x, y):
    """Covariance of the labels j, l, l' (students) and * (teacher) at Q = q I, M_j = mu."""
    if x == y:
        return sp.Integer(1) if x == "*" else q
    return mu if {x, y} == {"j", "*"} else sp.Integer(0)


def average(factors, labels):
    return product_expectation(factors, labels, cov)


LABELS = {"j": (-1 / p, 1), "l": (-1 / p, p - 1), "*": (sp.Integer(1), 1)}  # c_m and how many
PAIRS = [
    (x, y, LABELS[x][1] * LABELS[y][1]) for x in LABELS for y in LABELS if (x, y) != ("l", "l")
]
PAIRS += [("l", "l", p - 1), ("l", "l'", (p - 1) * (p - 2))]


def residual(factors, labels):
    """Average with one residual sum_m c_m sigma(lambda_m)."""
    terms = (c * n * average([*factors, SIGMA], [*labels, x]) for x, (c, n) in LABELS.items())
    return sp.expand(sp.Add(*terms))


def residual_squared(factors, labels):
    """Average with the square of the residual."""
    total = sp.Integer(0)
    for x, y, count in PAIRS:
        weight = LABELS[x][0] * LABELS[y[0]][0] * count
        total += weight * average([*factors, SIGMA, SIGMA], [*labels, x, y])
    return sp.expand(total)


b = residual([SLOPE, z], ["j", "j"])
S = residual_squared([SLOPE, SLOPE], ["j", "j"]) + Delta * average([SLOPE, SLOPE], ["j", "j"])
qdot = sp.expand((2 * b + g * S).subs(mu, 0))
Mdot = residual([SLOPE, z], ["j", "*"])

# The same from the unrolled equations, at the widths that unroll.
for width in (1, 2, 3, 4):
    free = dmft.derive(phase_retrieval(width), dmft.SGD(p * g)).explicit(P=[[1]])
    start = {free.symbols[f"M_{j}1"]: 0 for j in range(2, width + 1)}
    start |= {v: q if n[-1] == n[-2] else 0 for n, v in free.symbols.items() if n[0] == "Q"}
    start |= {free.symbols["M_11"]: mu, p: width}
    rates = {n: free.rhs[v].subs(start) for n, v in free.symbols.items() if v in free.rhs}
    assert_equal(rates["Q_11"].subs(mu, 0), qdot.subs(p, width), "length")
    assert_equal(rates["M_11"], Mdot.subs(p, width), "overlap")
    assert all(r.subs(mu, 0) == 0 for n, r in rates.items() if n[0] == "Q" and n[-1] != n[-2])

# %% [markdown]
# In $s = (1 + 2/p)\,q$ and $\kappa = (p+4)/(p+2)$ the width enters only through $\kappa$.

# %%
kappa = (p + 4) / (p + 2)
sdot = sp.expand(qdot * (1 + 2 / p)).subs(q, s / (1 + 2 / p))
bracket = g * kappa * s**2 - (1 + 2 * g) * s + 1 + g * (3 + Delta)
assert_equal(sdot, 4 * s * bracket, "equation of s")
assert_equal(Mdot.subs(q, s / (1 + 2 / p)), 2 * (3 - s) * mu, "growth of M")

# %% [markdown]
# ### Step 6: the plateau and the escape rate
#
# The two roots of the bracket: $s_* = s_-$ is stable, the length diverges from above $s_+$.

# %%
kap = sp.Symbol("kappa", positive=True)
quadratic = sp.Poly(g * kap * s**2 - (1 + 2 * g) * s + 1 + g * (3 + Delta), s)
D = sp.expand(sp.discriminant(quadratic))
s_star = (1 + 2 * g - sp.sqrt(D)) / (2 * g * kap)
s_plus = (1 + 2 * g + sp.sqrt(D)) / (2 * g * kap)
for root in (s_star, s_plus):
    assert_equal(sp.expand(quadratic.as_expr().subs(s, root)), 0, "root")
assert sp.limit(s_star.subs({kap: 2, Delta: 0}), g, 0) == 1  # gradient flow: s = 1

# %% [markdown]
# ### Step 7: the transient
#
# $\frac{d}{dt}\log u = 4(3 - s)$ and $\dot s = 4\tilde g\kappa\, s(s - s_+)(s - s_*)$. Split
# $3 - s = (3 - s_*) - (s - s_*)$: the first part is the rate on the plateau, the second one is
# integrated over $s$ from $s_0 = (1 + 2/p)q_0$ to $s_*$.

# %%
s_0, root_plus, root_star = sp.symbols("s_0 s_+ s_*", positive=True)
slope = 4 * g * kap * s * (s - root_plus) * (s - root_star)
integrand = sp.cancel(-4 * (s - root_star) / slope)
assert not integrand.has(root_star)
primitive = (sp.log(s) - sp.log(root_plus - s)) / (g * kap * root_plus)
assert_equal(sp.diff(primitive, s), sp.apart(integrand, s), "primitive of the transient")
transient = sp.log((root_plus - root_star) * s_0 / (root_star * (root_plus - s_0)))
transient = transient / (g * kap * root_plus)
change = primitive.subs(s, root_star) - primitive.subs(s, s_0)
assert_equal(sp.expand_log(change + transient, force=True), 0, "log u lost in the transient")
t_free = (sp.log(u1 / u0) + transient) / (4 * (3 - root_star))

# %% [markdown]
# ### Step 8: the largest and the fastest learning rate
#
# The overlap grows when the plateau exists, $D \ge 0$, and lies at $s_* < 3$. With
# $\bar\kappa = \kappa - 1$ and $E_\kappa = \kappa(3 + \Delta) - 1$ the roots meet at
# $\tilde g_D = 1/2[\bar\kappa + \sqrt{\bar\kappa^2 + E_\kappa}]$. Up to
# $\Delta = 3\kappa - 1$ they meet below 3 and this is the limit; for stronger noise $s_*$ passes 3
# before, at $\tilde g_3$ where the bracket vanishes at $s = 3$.

# %%
bar, E = kap - 1, kap * (3 + Delta) - 1
assert_equal(D, 1 - 4 * bar * g - 4 * E * g**2, "discriminant")
g_D = 1 / (2 * (bar + sp.sqrt(bar**2 + E)))
assert_equal(D.subs(g, g_D), 0, "the roots meet at g_D")
(g_3,) = sp.solve(quadratic.as_expr().subs(s, 3), g)
double_root = (1 + 2 * g_D) / (2 * g_D * kap)
strong = 3 * kap - 1
radicand = sp.expand((bar**2 + E).subs(Delta, strong))
assert_equal(radicand, 4 * kap**2, "radicand where the limits meet")
meeting = 1 / (2 * (bar + 2 * kap))
assert_equal(meeting, g_3.subs(Delta, strong), "limits meet")
assert_equal((1 + 2 * meeting) / (2 * meeting * kap), 3, "double root at 3")
assert double_root.subs({Delta: 0, kap: 1}) < 3 < double_root.subs({Delta: 9, kap: 1})
g_max = sp.Piecewise((g_D, Delta <= strong), (g_3, True))

# %% [markdown]
# The length must also come down to the plateau: it diverges from $s_0 > s_+$. Unit lengths have
# $s_0 = 1 + 2/p$. For $p = 1$ that is $s_0 = 3$, so that the limit is
# $\tilde g_3 = 2/(12 + \Delta)$ at every $\Delta$, as on the sphere; for $p \ge 2$ it is below the
# double root and the limit stays $\tilde g_{\max}$.

# %%
assert_equal(g_3.subs(kap, kappa.subs(p, 1)), gamma_max, "unit length, p = 1")
for width in (1, 2, 3, 10, 100):
    at = double_root.subs({kap: kappa.subs(p, width), Delta: 0})  # grows with Delta
    assert (1 + sp.Rational(2, width) > at) == (width == 1)

# %% [markdown]
# The number of samples is $N = (d/\tilde g) \log(u_1/u_0) / 4(3 - s_*)$; maximise
# $\tilde g(3 - s_*)$. With $x = \bar\kappa + 2 E_\kappa \tilde g$ the condition is
# $x / \sqrt D = 3\kappa - 1$.

# %%
x, e = sp.symbols("x E", positive=True)
speed = g * (3 - s_star)
stationary = sp.diff(speed, g) - (3 * kap - 1 - (bar + 2 * E * g) / sp.sqrt(D)) / kap
assert_equal(stationary, 0, "stationarity")
D_of_x = 1 - (x**2 - bar**2) / e
assert_equal(D_of_x.subs({x: bar + 2 * E * g}).subs(e, E), D, "D in x")
root = (3 * kap - 1) * sp.sqrt((e + bar**2) / (e + (3 * kap - 1) ** 2))
assert_equal((x**2 - (3 * kap - 1) ** 2 * D_of_x).subs(x, root), 0, "solution x")
g_opt = ((root - bar) / (2 * e)).subs(e, E)
assert_equal(g_D.subs(kap, sp.Rational(5, 3)), 3 / (2 * (2 + sp.sqrt(40 + 15 * Delta))), "p = 1")

# %% [markdown]
# ## Boxed results

# %%
tilde_g = sp.Symbol(r"\tilde{g}", positive=True)
rename = {g: tilde_g, root_star: sp.Symbol("s_*"), root_plus: sp.Symbol("s_+")}
BOXED = {
    "pr-sphere": (r"\dot m", sp.Symbol("m") * (L - a * sp.Symbol("m") ** 2)),
    "pr-rates": (r"\Lambda", Lambda),
    "pr-time": (r"t_{\mathrm{ext}}", t_ext),
    "pr-gamma-max": (r"\gamma_{\max}", gamma_max),
    "pr-gamma-opt": (r"\gamma_{\mathrm{opt}}", gamma_opt),
    "pr-samples": (r"\frac{N_{\mathrm{opt}}}{d \log(u_1/u_0)}", samples_opt),
    "pr-plateau": (r"s_*", s_star.subs(D, sp.Symbol("D"))),
    "pr-discriminant": ("D", D),
    "pr-free-time": (r"t_{\mathrm{ext}}", t_free),
    "pr-free-max": (r"\tilde g_{\max}", g_max),
    "pr-free-opt": (r"\tilde g_{\mathrm{opt}}", g_opt),
}


def document():
    """LaTeX document with one labelled boxed equation for each result."""
    lines = [
        r"\documentclass{article}",
        r"\usepackage{amsmath}",
        r"\begin{document}",
        rf"Sphere, $p = 1$: $A = {sp.latex(A)}$, $u = m^2$. Free weights:",
        rf"$\kappa = {sp.latex(kappa)}$, $s = (1 + 2/p)\, q$, $\dot M_j = 2 (3 - s) M_j$ and",
        rf"$\dot s = 4 s \left[{sp.latex(quadratic.as_expr().subs(rename))}\right]$.",
    ]
    for label, (name, expr) in BOXED.items():
        lines += [
            rf"\begin{{equation}}\label{{eq:{label}}}",
            rf"\boxed{{{name} = {sp.latex(expr.subs(rename))}}}",
            r"\end{equation}",
        ]
    return "\n".join([*lines, r"\end{document}", ""])


# A notebook has no __file__: the arguments there are those of its kernel.
given = sys.argv[1:] if "__file__" in globals() else []
folder = Path(given[0] if given else tempfile.mkdtemp())
folder.mkdir(parents=True, exist_ok=True)
(folder / "phase_retrieval.tex").write_text(document())

# %% [markdown]
# ## Numerical check 1: escape times on the sphere
#
# The compiled equations of motion with the crossing of the risk as event, against the boxed time.
# At $1.02\,\gamma_{\max}$ the overlap shrinks instead.

# %%


def problem(width, constraint):
    """Equations with the learning rate and the noise as run-time values."""
    square = dmft.Committee(z**2, width)
    model = dmft.Model(square, dmft.Committee(z**2, 1), 0)
    return dmft.derive(model, dmft.SGD(1.0, constraint=constraint))


on_sphere = problem(1, "sphere")
for value, delta, start_u, fraction in (
    (1 / 12, 0.0, 1e-3, 0.1),
    (0.05, 0.5, 1 / 3000, 0.3),
    (0.02, 1.0, 1e-8, 0.9),
):
    numbers = {gamma: value, Delta: delta}
    end = float(threshold[0].subs({T: fraction, u0: start_u}))
    rates = {L: float(Lambda.subs(numbers)), a: float(A.subs(numbers))}
    formula = float(t_ext.subs(rates).subs({u0: start_u, u1: end}))
    falls = dmft.Event("risk", 2 * (1 - fraction) * (1 - start_u), direction=-1)
    run = dmft.solve(
        on_sphere, dmft.Overlaps([[1.0]], [[start_u**0.5]]), 50.0, events=[falls],
        rtol=1e-11, atol=1e-14, learning_rate=value, label_noise=delta,
    )  # fmt: skip
    print(f"gamma={value:.4f} Delta={delta}: formula {formula:.12f}  solver {run.t[-1]:.12f}")
    assert run.status == "event"
    assert abs(run.t[-1] - formula) < 1e-8

for factor, grows in ((0.98, True), (1.02, False)):
    value = factor * float(gamma_max.subs(Delta, 0.5))
    start = dmft.Overlaps([[1.0]], [[1e-3]])
    run = dmft.solve(on_sphere, start, 5.0, learning_rate=value, label_noise=0.5)
    assert (run.M[-1, 0, 0] > 1e-3) == grows

# %% [markdown]
# ## Numerical check 2: free weights
#
# Overlaps so small that the linear theory is exact to rounding, and so long an escape that the
# length has settled to rounding too: plateau, escape time, and what happens to the length on both
# sides of $\tilde g_{\max}$.

# %%
FREE = {1: problem(1, None), 5: problem(5, None)}
for width, value, delta in ((1, 0.1, 0.2), (5, 0.1, 0.3)):
    numbers = {g: value, Delta: delta, kap: kappa.subs(p, width)}
    star, plus = (float(root.subs(numbers)) for root in (s_star, s_plus))
    numbers |= {root_star: star, root_plus: plus, s_0: 1 + 2 / width, u0: 1e-60, u1: 1e-12}
    formula = float(t_free.subs(numbers))
    start = dmft.Overlaps(np.eye(width), np.full((width, 1), 1e-30))
    rises = dmft.Event("M[0, 0]", 1e-6, direction=1)
    options = {"rtol": 1e-11, "atol": 1e-40, "label_noise": delta}
    run = dmft.solve(
        FREE[width], start, 50.0, events=[rises], learning_rate=value * width, **options
    )
    s_end = (1 + 2 / width) * run.Q[-1, 0, 0]
    print(f"p={width}: formula {formula:.12f}  solver {run.t[-1]:.12f}")
    print(f"     plateau {star:.12f}  solver {s_end:.12f}")
    assert run.status == "event"
    assert abs(run.t[-1] - formula) < 1e-8
    still = dmft.Overlaps(np.eye(width), np.zeros((width, 1)))
    run = dmft.solve(FREE[width], still, 50.0, learning_rate=value * width, **options)
    assert abs((1 + 2 / width) * run.Q[-1, 0, 0] - star) < 1e-8

    limits = [(0.5, g_max.subs(numbers))]  # from a short start: until the plateau ends
    if width == 1:
        limits.append((1.0, gamma_max.subs(numbers)))  # from unit length
    for length, limit in limits:
        short = dmft.Overlaps(length * np.eye(width), np.zeros((width, 1)))
        for factor, status in ((0.99, "ok"), (1.01, "diverged")):
            run = dmft.solve(
                FREE[width], short, 1e3, save_at=2,
                learning_rate=factor * float(limit) * width, label_noise=delta,
            )  # fmt: skip
            assert run.status == status, (width, length, factor, run.message)

    loud = {Delta: 8.0, kap: numbers[kap]}  # strong noise: bounded, but no growth above g_3
    for factor, grows in ((0.99, True), (1.01, False)):
        value = factor * float(g_max.subs(loud))
        assert value < float(g_D.subs(loud))
        tiny = dmft.Overlaps(0.5 * np.eye(width), np.full((width, 1), 1e-30))
        run = dmft.solve(
            FREE[width], tiny, 200.0, save_at=[150.0, 200.0],
            learning_rate=value * width, label_noise=8.0, atol=1e-40,
        )  # fmt: skip
        assert (run.M[-1, 0, 0] > run.M[0, 0, 0]) == grows

    best = float(g_opt.subs(numbers))
    pace = sp.lambdify(g, speed.subs({n: numbers[n] for n in (Delta, kap)}))
    assert pace(best) > max(pace(best * (1 - 1e-4)), pace(best * (1 + 1e-4)))

# %% [markdown]
# **Source.** theory/one_pass E.2, F.1, F.3; Arnaboldi, Krzakala, Loureiro, Stephan (2023),
# arXiv:2305.18502. The library's event times are held to these formulas in
# `tests/agreement/test_escape_formulas.py`.
