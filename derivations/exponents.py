# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # Exponents of single- and multi-index targets
#
# **Statement.** A target $y = g(h)$, $h \sim \mathcal N(0, I_k)$, has four integers that say how
# many samples its directions cost: the information exponent and the leap of one-pass SGD, the
# generative exponent and the generative leap of algorithms that may transform or reuse labels.
# With $H_n = \prod_r \mathrm{He}_{n_r}(h_r)$, $U$ the directions learned so far and $V$ those
# orthogonal to them,
# $$\ell = \min\{|n| \ge 1 : \mathbb E[y H_n] \ne 0\},\qquad
#   \ell_{\rm gen} = \min\{|n| \ge 1 : \exists T,\ \mathbb E[T(y) H_n] \ne 0\},$$
# $$\ell_{\rm leap} = \max_{\rm steps} \min\{k : \exists \phi,\
#   \mathbb E[y\, \phi(U h)\, H_k(V h)] \ne 0\},$$
# where each step adds the span of that tensor to $U$; the generative leap has $T(y)$ for $y$.
#
# **Assumptions.** $\mathbb E g^2 < \infty$; orthonormal teacher directions ($P = I$).
#
# Run as `python derivations/exponents.py [folder]`: the table of 24 targets goes to the folder as
# a LaTeX page (to a temporary one by default).

# %%
import sys
import tempfile
from pathlib import Path

import numpy as np
import sympy as sp

import dmft

z, z1, z2, z3 = sp.symbols("z z1 z2 z3", real=True)


def normal(polynomial):
    """E p(z) of a standard normal field from its moments, E z^(2m) = (2m - 1)!!."""
    moments = [sp.factorial2(m - 1) if m % 2 == 0 else 0 for m in range(41)]
    return sum(c * moments[m] for (m,), c in sp.Poly(polynomial, z).terms())


for m in (0, 2, 4):
    weight = sp.exp(-(z**2) / 2) / sp.sqrt(2 * sp.pi)
    assert sp.integrate(z**m * weight, (z, -sp.oo, sp.oo)) == normal(z**m + 0 * z)


# %% [markdown]
# ## Step 1: coefficients are mean derivatives
#
# Integrating by parts $n$ times (Stein), $\mathbb E[g\, \mathrm{He}_n] = \mathbb E[g^{(n)}]$. So a
# polynomial's exponents need no integral, and the leap's condition reads: the derivative along $V$,
# averaged over $V h$, is not the zero function of $U h$.

# %%
sample = z**5 - 2 * z**4 + z
for n in range(6):
    assert normal(sample * dmft.hermite(n, z)) == normal(sp.diff(sample, z, n))

# %% [markdown]
# ## Step 2: a transformed label sees more
#
# $\mathrm{He}_3$ has information exponent 3, yet $\mathbb E[y^3\, \mathrm{He}_1] \ne 0$: its
# generative exponent is 1. An even target is blind at odd orders whatever $T$ is, so
# $\mathrm{He}_4$ can reach 2 at best, and does with $T(y) = y^2$.

# %%
cubic, quartic = dmft.hermite(3, z), dmft.hermite(4, z)
assert [normal(cubic * dmft.hermite(n, z)) for n in (1, 2)] == [0, 0]
assert normal(cubic**3 * z) == 324
assert quartic.subs(z, -z) == quartic
assert normal(quartic**2 * (z**2 - 1)) == 192
for target, moment in ((cubic, 324), (quartic, 192)):
    assert dmft.generative_exponent(target, z).witness.value == moment

# %% [markdown]
# ## Step 3: a target that no transformation makes easy
#
# $\mathbb E[T(y)\, \mathrm{He}_k] = \int T(y)\, w_k(y)\, dy$ with the sum over the level set
# $w_k(y) = \sum_i \varphi(h_i)\, \mathrm{He}_k(h_i)/|g'(h_i)|$, and a $T$ exists iff
# $w_k \not\equiv 0$. For $g = h^2 e^{-h^2}$ let $s = h^2$; the level $y = s e^{-s}$ is met twice,
# once on each side of $s = 1$, and with $e^{s/2} = \sqrt{s/y}$ each branch contributes
# $$\frac{\varphi(h)\,(s-1)}{|g'(h)|} = \frac{\mathrm{sign}(s-1)}{\sqrt{2\pi}\, 2\sqrt y}:$$
# the branches cancel for every $y$, odd orders vanish by parity, and the exponent is 4.

# %%
s = sp.Symbol("s", positive=True)
level = s * sp.exp(-s)
density = sp.exp(-s / 2) / sp.sqrt(2 * sp.pi)
slope = 2 * sp.sqrt(s) * (1 - s) * sp.exp(-s)
branch = density * (s - 1) / slope
assert sp.simplify(branch * 2 * sp.sqrt(level) * sp.sqrt(2 * sp.pi)) == -1

# %% [markdown]
# ## Step 4: the leap does not depend on the basis
#
# $\tanh z_1 + \tanh z_2$ has nonzero coefficients of order one along both axes, but the first
# tensor is one vector, $(1, 1)$: the first step learns only $z_1 + z_2$. Along $z_1 - z_2$ the
# target is even, so the second step costs two. (Counting coordinates instead would say leap 1.)

# %%
leap = dmft.leap_exponent(sp.tanh(z1) + sp.tanh(z2), [z1, z2])
assert [step.order for step in leap.steps] == [1, 2]
np.testing.assert_allclose(leap.directions[0], [[0.5**0.5, 0.5**0.5]], atol=1e-8)

# %% [markdown]
# ## Boxed results: the table
#
# The expected entries are those of theory/batch_reuse D.4: information exponent; order and
# number of directions of each step of the leap; generative exponent; the same for its leap.


# %%
def he(n, x):
    return dmft.hermite(n, x)


PARITY = sp.sign(z1 * z2 * z3)
TABLE = {
    "z_1": (z1, "1", "1(1)", "1", "1(1)"),
    r"\mathrm{ReLU}(z_1)": (sp.Max(0, z1), "1", "1(1)", "1", "1(1)"),
    r"\tanh(\mathrm{He}_3(z_1))": (sp.tanh(he(3, z1)), "1", "1(1)", "1", "1(1)"),
    r"\mathrm{He}_2(z_1)": (he(2, z1), "2", "2(1)", "2", "2(1)"),
    r"|z_1|": (sp.Abs(z1), "2", "2(1)", "2", "2(1)"),
    r"\mathrm{He}_3(z_1)": (he(3, z1), "3", "3(1)", "1", "1(1)"),
    r"\mathrm{He}_4(z_1)": (he(4, z1), "4", "4(1)", "2", "2(1)"),
    r"\mathrm{He}_2 + \mathrm{He}_3": (he(2, z1) + he(3, z1), "2", "2(1)", "1", "1(1)"),
    r"z_1^2 e^{-z_1^2}": (z1**2 * sp.exp(-(z1**2)), "4", "4(1)", "4", "4(1)"),
    r"z_1 + z_1 z_2": (z1 + z1 * z2, "1", "1(1) 1(1)", "1", "1(2)"),
    r"z_1 z_2": (z1 * z2, "2", "2(2)", "2", "2(2)"),
    r"\mathrm{sign}(z_1 z_2)": (sp.sign(z1 * z2), "2", "2(2)", "2", "2(2)"),
    r"z_1 + \mathrm{He}_3(z_2)": (z1 + he(3, z2), "1", "1(1) 3(1)", "1", "1(2)"),
    r"z_1 + z_1 \mathrm{He}_3(z_2)": (z1 + z1 * he(3, z2), "1", "1(1) 3(1)", "1", "1(2)"),
    r"\tanh(z_1 + \mathrm{He}_3(z_2))": (sp.tanh(z1 + he(3, z2)), "1", "1(1) 1(1)", "1", "1(2)"),
    r"\tanh z_1 + \tanh z_2": (sp.tanh(z1) + sp.tanh(z2), "1", "1(1) 2(1)", "1", "1(1) 2(1)"),
    r"\mathrm{He}_3(z_1) + \mathrm{He}_3(z_2)": (
        he(3, z1) + he(3, z2), "3", "3(2)", "1", "1(1) 2(1)",
    ),
    r"z_1 z_2 z_3": (z1 * z2 * z3, "3", "3(3)", "2", "2(3)"),
    r"\mathrm{sign}(z_1 z_2 z_3)": (PARITY, "3", "3(3)", "3", "3(3)"),
    r"z_1^2 + \mathrm{sign}(z_1 z_2 z_3)": (z1**2 + PARITY, "2", "2(1) 2(2)", "2", "2(1) 2(2)"),
    r"\mathrm{He}_4(z_1) + \mathrm{sign}(z_1 z_2 z_3)": (
        he(4, z1) + PARITY, "3", "3(3)", "2", "2(1) 2(2)",
    ),
    r"\mathrm{He}_3(z_1) + \mathrm{sign}(z_1 z_2 z_3)": (
        he(3, z1) + PARITY, "3", "3(3)", "1", "1(1) 2(2)",
    ),
    r"\mathrm{He}_3(z_1) + z_1 z_2 z_3": (
        he(3, z1) + z1 * z2 * z3, "3", "3(3)", "1", "1(1) 2(2)",
    ),
    r"z_1 + z_1 z_2 + z_1 z_2 z_3": (
        z1 + z1 * z2 + z1 * z2 * z3, "1", "1(1) 1(1) 1(1)", "1", "1(3)",
    ),
}  # fmt: skip


def four_exponents(target):
    """Information, leap, generative and generative leap exponents of one target."""
    fields = sorted(target.free_symbols, key=str)
    return (
        dmft.information_exponent(target, fields),
        dmft.leap_exponent(target, fields),
        dmft.generative_exponent(target, fields),
        dmft.generative_exponent(target, fields, leap=True),
    )


def in_words(result):
    """The exponent, or for a leap the order and the number of directions of each step."""
    if not result.steps:
        return str(result)
    return " ".join(f"{step.order}({len(step.directions)})" for step in result.steps)


FOUND = {name: four_exponents(entry[0]) for name, entry in TABLE.items()}
for name, (_, *expected) in TABLE.items():
    assert [in_words(result) for result in FOUND[name]] == expected, name

# %% [markdown]
# ## Step 5: samples per direction
#
# A step of order $k$ of the leap costs one-pass SGD $d^{\max(1, k-1)}$ samples (times $\log d$ at
# $k = 2$); a step of the generative leap costs the same when samples are reused, and
# $d^{\max(1, k/2)}$ for the best algorithm known. A direction costs the dearest step up to the one
# that finds it; only directions that reuse finds at order one throughout are found in finitely many
# steps on $n = O(d)$ samples. Written out for the targets whose algorithms differ:

# %%
DIRECTIONS = {
    r"\mathrm{He}_3(z_1) + \mathrm{He}_3(z_2)": ["z1 + z2: d^2, d, d", "z1 - z2: d^2, d log d, d"],
    r"\mathrm{He}_3(z_1) + z_1 z_2 z_3": ["z1: d^2, d, d", "z2, z3: d^2, d log d, d"],
    r"z_1 + \mathrm{He}_3(z_2)": ["z1: d, d, d", "z2: d^2, d, d"],
    r"z_1 z_2 z_3": ["z1, z2, z3: d^2, d log d, d"],
    r"\mathrm{sign}(z_1 z_2 z_3)": ["z1, z2, z3: d^2, d^2, d^(3/2)"],
    r"z_1^2 e^{-z_1^2}": ["z1: d^3, d^3, d^2"],
}


def samples(order, generic=False):
    """(exponent of d, logarithm) of one step."""
    if generic:
        return max(sp.Integer(1), sp.Rational(order, 2)), False
    return sp.Integer(max(1, order - 1)), order == 2


LEARNED = {}
for name, (target, *_) in TABLE.items():
    LEARNED[name] = dmft.learnability(target, sorted(target.free_symbols, key=str))
    steps = {"one-pass SGD": FOUND[name][1].steps, "data reuse": FOUND[name][3].steps}
    for row in LEARNED[name].table:
        for verdict in row.verdicts:
            taken = steps.get(verdict.algorithm, FOUND[name][3].steps)[: verdict.step]
            generic = verdict.algorithm == "generic"
            dearest = max(samples(step.order, generic) for step in taken)
            assert (verdict.exponent, verdict.logarithm) == dearest
    if name in DIRECTIONS:
        found = [
            f"{row.name}: {', '.join(v.samples for v in row.verdicts)}"
            for row in LEARNED[name].table
        ]
        assert found == DIRECTIONS[name], found

# %% [markdown]
# The page: a dagger marks what is known numerically (zero means below $10^{-6}$); the others are
# closed forms and symmetries.


# %%
def cell(result):
    mark = "" if result.proof == "symbolic" else r"^{\dagger}"
    if not result.steps:
        return f"${result}{mark}$"
    steps = r",\ ".join(
        str(step.order) + (rf"\,({len(step.directions)})" if len(result.fields) > 1 else "")
        for step in result.steps
    )
    leap_value = f"{result}:\\ " if len(result.steps) > 1 else ""
    return f"${leap_value}{steps}{mark}$"


def per_direction():
    """Rows of the table of samples: target, directions, then one-pass, reuse, generic."""
    rows = []
    for name, result in LEARNED.items():
        for i, row in enumerate(result.table):
            names = r",\ ".join(map(sp.latex, row.names))
            cells = " & ".join(f"${v.latex()}$" for v in row.verdicts)
            rows.append(rf"{f'${name}$' if i == 0 else ''} & ${names}$ & {cells} \\")
    return rows


def document():
    """LaTeX page with the table of exponents, and that of samples per direction."""
    rows = [
        f"${name}$ & " + " & ".join(map(cell, results)) + r" \\" for name, results in FOUND.items()
    ]
    return "\n".join(
        [
            r"\documentclass{article}",
            r"\usepackage{amsmath}",
            r"\usepackage[margin=2cm]{geometry}",
            r"\begin{document}",
            r"\begin{table}\centering",
            r"\caption{Information exponent $\ell$, leap $\ell_{\rm leap}$, generative exponent",
            r"$\ell_{\rm gen}$ and generative leap of 24 targets. Leaps list the order of each",
            r"step, with the number of directions that it finds in brackets. $\dagger$:",
            r"numerical, zero means below $10^{-6}$ (coefficients: $10^{-10}$).}",
            r"\label{tab:exponents}",
            r"\begin{tabular}{lcccc}",
            r"\hline",
            r"target & $\ell$ & $\ell_{\rm leap}$ & $\ell_{\rm gen}$ & generative leap \\",
            r"\hline",
            *rows,
            r"\hline",
            r"\end{tabular}",
            r"\end{table}",
            r"\begin{table}\centering",
            r"\caption{Samples after which each direction is learned in dimension $d$: one-pass",
            r"SGD, SGD that reuses samples, and the best algorithm known. Where reuse takes $d$",
            r"samples, finitely many steps on $n = O(d)$ of them suffice.}",
            r"\label{tab:learnability}",
            r"\begin{tabular}{llccc}",
            r"\hline",
            r"target & directions & one pass & reuse & generic \\",
            r"\hline",
            *per_direction(),
            r"\hline",
            r"\end{tabular}",
            r"\end{table}",
            r"\end{document}",
            "",
        ]
    )


# A notebook has no __file__: the arguments there are those of its kernel.
given = sys.argv[1:] if "__file__" in globals() else []
folder = Path(given[0] if given else tempfile.mkdtemp())
folder.mkdir(parents=True, exist_ok=True)
(folder / "exponents.tex").write_text(document())

# %% [markdown]
# ## Numerical check
#
# The level-set sums $w_k(y)$ of step 3, from the roots of $g(h) = y$ on a fine grid, for
# single-index targets: the first $k$ with $w_k \not\equiv 0$ is the generative exponent.
# Orders below it cancel to the precision of the roots.


# %%
def level_set_sums(target, level, order):
    """w_k(y) for k = 1..order, relative to sum_i phi |He_k| / |g'|."""
    g = sp.lambdify(z1, target, "numpy")
    slope = sp.lambdify(z1, sp.diff(target, z1), "numpy")
    grid = np.linspace(-7.9123, 8.1, 40_001)
    values = g(grid) - level
    lower = grid[:-1][values[:-1] * values[1:] < 0]
    step = grid[1] - grid[0]
    roots = lower + step / 2
    low, high = lower, lower + step
    for _ in range(50):
        left = (g(low) - level) * (g(roots) - level) <= 0
        low, high = np.where(left, low, roots), np.where(left, roots, high)
        roots = (low + high) / 2
    weight = np.exp(-(roots**2) / 2) / np.abs(slope(roots))
    he_k = [np.polynomial.hermite_e.hermeval(roots, [0] * k + [1]) for k in range(1, order + 1)]
    return [float(abs(weight @ p) / (weight @ np.abs(p))) for p in he_k]


LEVELS = {
    r"\mathrm{He}_3(z_1)": (-1.3, 0.4, 3.0),
    r"\mathrm{He}_4(z_1)": (-5.0, 1.0, 40.0),
    r"\tanh(\mathrm{He}_3(z_1))": (-0.6, 0.3, 0.9),
    r"\mathrm{He}_2 + \mathrm{He}_3": (-3.0, 0.5, 6.0),
    r"z_1^2 e^{-z_1^2}": (0.05, 0.2, 0.35),
}
for name, levels in LEVELS.items():
    order = int(FOUND[name][2])
    sums = np.max([level_set_sums(TABLE[name][0], y, order) for y in levels], axis=0)
    print(f"{name:32s} largest |w_k|, k = 1..{order}: {np.array2string(sums, precision=3)}")
    assert (sums[:-1] < 1e-8).all(), name
    assert sums[-1] > 0.05, name

# %% [markdown]
# **Source.** A. Damian, L. Pillaud-Vivien, J. D. Lee and J. Bruna, "Computational-statistical gaps
# in Gaussian single-index models" (2024); E. Abbe, E. Boix-Adserà and T. Misiakiewicz, "SGD
# learning on neural networks: leap complexity and saddle-to-saddle dynamics" (2023);
# theory/batch_reuse D.4. Used by `dmft/gaussian/exponents/kinds.py` and its neighbours.
