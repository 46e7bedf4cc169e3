# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # Large batches: the map of one step, and how many steps it takes
#
# **Statement.** A step of SGD averages the gradient over $n_b$ fresh samples,
# $$\delta w_j = \frac{\gamma}{p\sqrt d}\,\frac1{n_b}\sum_{\nu\le n_b}\psi_j^\nu x^\nu,\qquad
#   \psi_j = a_j\sigma'(h_j)\,\mathcal E,\quad
#   \mathcal E = y - f\ \text{(squared loss) or}\ y\ \text{(correlation loss)},$$
# with $\eta = \gamma/d$ of order one and $n_b = d^\mu$. How do the overlaps change in one step, and
# how many steps $\sim d^\theta$ does weak recovery take at information exponent $\ell$?
#
# **Assumptions.** $d\to\infty$; $\eta^2/n_b \to 0$, so that a step moves the overlaps by its mean.
#
# Run as `python derivations/large_batches.py [folder]`: the LaTeX goes to the folder (a temporary
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
gamma, Delta, eta = sp.symbols("gamma Delta eta", positive=True)
d, q, m = sp.Symbol("d"), sp.Symbol("q", positive=True), sp.Symbol("m", real=True)
BATCH = 64


def hermite(order):
    """Normalised Hermite polynomial."""
    raw = sp.expand((-1) ** order * sp.exp(z**2 / 2) * sp.diff(sp.exp(-(z**2) / 2), z, order))
    return sp.expand(sp.simplify(raw) / sp.sqrt(sp.factorial(order)))


def assert_equal(left, right, message):
    assert sp.simplify(left - right) == 0, message


# %% [markdown]
# ## Step 1: the map
#
# $Q_{jl} = w_j\cdot w_l/d$, $M_{jr} = w_j\cdot w^*_r/d$. The part linear in $\delta w$ has
# the mean $\eta\, b_{ji}/p$, $b_{ji} = \mathbb E[\psi_j\lambda_i]$. In
# $\delta w_j\cdot\delta w_l/d$ a sample
# meets itself $n_b$ times, where $|x|^2 = d + O(\sqrt d)$, and another one $n_b(n_b - 1)$ times:
# $$\frac{\eta^2}{p^2}\Big[\frac{d}{n_b}\,\mathbb E[\psi_j\psi_l]
#   + \Big(1 - \frac1{n_b}\Big)\,\mathbb E[\psi_j x]\cdot\mathbb E[\psi_l x]\Big].$$
# $\mathbb E[\psi_j x]$ lies in the span of the weights. With $\lambda_i = w_i\cdot x/\sqrt d$ its
# components there are $b_{ji}$, hence the product is $b\,\Omega^+ b^\top$.
#
# Checked on one neuron and one direction, with every average a Wick sum, for the second Hermite
# polynomial, against the equations that the library derives.


# %%
def averages(order, own, length=q):
    """b along the student and the teacher, and S, at Q = length, M = m, P = 1."""
    sigma = hermite(order)
    slope = sp.diff(sigma, z)

    def cov(x, y):
        return {"hh": length, "**": sp.Integer(1)}.get(x + y, m)

    def average(factors, labels):
        return product_expectation(factors, labels, cov)

    residual = [(1, "*"), (-1, "h")] if own else [(1, "*")]
    along = [
        sp.expand(sum(c * average([slope, z, sigma], ["h", i, x]) for c, x in residual))
        for i in ("h", "*")
    ]
    square = sum(
        c * e * average([slope, slope, sigma, sigma], ["h", "h", x, y])
        for c, x in residual
        for e, y in residual
    )
    return *along, sp.expand(square + Delta * average([slope, slope], ["h", "h"]))


def derived(order, loss, constraint):
    """Increments of M and Q per step as the library derives them."""
    unit = dmft.Committee(hermite(order), 1)
    sgd = dmft.SGD(gamma, batch_size=BATCH, loss=loss, constraint=constraint)
    system = dmft.derive(dmft.Model(unit, unit, Delta), sgd, dim=d).explicit()
    names = {system.symbols["M_11"]: m, system.symbols["Q_11"]: q, system.symbols["P_11"]: 1}
    rates = [system.rhs[system.symbols[name]].subs(names) for name in ("M_11", "Q_11")]
    return [rate.subs(gamma, eta * d) for rate in rates]


for loss in ("squared", "correlation"):
    b_own, b_star, S = averages(2, loss == "squared")
    Omega, b = sp.Matrix([[q, m], [m, 1]]), sp.Matrix([[b_own, b_star]])
    gram = (b * Omega.inv() * b.T)[0]
    bracket = d / BATCH * S + (1 - sp.Rational(1, BATCH)) * gram
    dM, dQ = derived(2, loss, None)
    assert_equal(dM, eta * b_star, "increment of M")
    assert_equal(dQ, 2 * eta * b_own + eta**2 * bracket, "increment of Q")

    # The spherical gradient leaves out c w, c = eta b_own, before the rows are normalised.
    c = eta * b_own
    new_Q = q + 2 * eta * b_own - 2 * c * q + eta**2 * bracket - 2 * c * eta * b_own + c**2 * q
    dM, dQ = derived(2, loss, "sphere-gradient")
    point = {m: sp.Rational(3, 10), q: 1, eta: sp.Rational(2, 7), Delta: sp.Rational(1, 2), d: 100}
    new_M = (m + eta * b_star - c * m) / sp.sqrt(new_Q)
    assert_equal(dM.subs(point), (new_M - m).subs(point), "spherical gradient")
    assert_equal(dQ.subs(point), 0, "the length stays")

# %% [markdown]
# ## Step 2: close to orthogonality
#
# On the sphere, with $\sigma = \sigma^* = He_\ell/\sqrt{\ell!}$ and $p = k = 1$, an expansion in
# the step gives
# $$m' - m = \eta\, c\, m^{\ell-1} - \frac{\eta^2}{2}\,\frac{d}{n_b}\,V m + \dots$$
# The own term of $b$ is radial for one neuron: the normalisation takes it out at first order.
# $V$ is $S$ at $m = 0$, $V = \mathbb E\sigma'^2\,(1 + \Delta)$ for the correlation loss and
# $\mathbb E\sigma'^2\sigma^2$ more for the squared loss.

# %%
SIGNAL, NOISE = {}, {}
for order in (1, 2, 3, 4):
    for loss in ("squared", "correlation"):
        b_own, b_star, S = averages(order, loss == "squared", sp.Integer(1))
        drift = sp.Poly(sp.expand(b_star - m * b_own), m)
        lowest = min(power for (power,) in drift.monoms())
        assert lowest == order - 1, "the information exponent is the power of the drift"
        SIGNAL[order] = drift.coeff_monomial(m**lowest)
        NOISE[order, loss] = sp.expand(S.subs(m, 0))
    assert_equal(SIGNAL[order], order, "c")
    assert_equal(NOISE[order, "correlation"], order * (1 + Delta), "V, correlation loss")
    assert_equal(
        NOISE[order, "squared"] - NOISE[order, "correlation"],
        {1: 1, 2: 10, 3: 93, 4: 852}[order],
        "what the network's own output adds to V",
    )

# %% [markdown]
# ## Step 3: the exponents
#
# Write $\eta = d^e$. From $m_0 \sim d^{-1/2}$ to $m = O(1)$ the noise must not beat the signal:
#
# - at $m_0$: $\eta\, d^{1-\mu} \lesssim m_0^{\ell-2}$, $e \le \mu - \ell/2$; at $m = O(1)$:
#   $e \le \mu - 1$. Together $e \le \mu - \max(\ell/2, 1)$.
# - The network's own output moves the weights by $O(\eta)$: squared loss, $e \le 0$. With a larger
#   rate the own term sets the length too, and a step multiplies $m$ by no more than
#   $1 + O(m^{\ell-2})$ for any $\eta$. (For one neuron this term is radial and could cancel the
#   length at one finely tuned rate, or be projected out; with several neurons it is not radial.)
#
# The time to leave is $m_0^{2-\ell}/\eta$ steps for $\ell \ge 2$ (times $\log d$ at $\ell = 2$) and
# $1/\eta$ for $\ell = 1$, and at least one step:
# $\theta = \max(\max(\ell/2 - 1, 0) - e,\ 0)$. One step is enough where its signal
# $m_0^{\ell-1}$ beats the gradient noise $\sqrt{d/n_b}$.


# %%
def theta(order, mu, loss):
    """Exponent of the steps from the three conditions."""
    half = sp.Rational(order, 2)
    e = mu - max(half, 1)
    if loss == "squared":
        e = min(e, 0)
    return max(max(half - 1, 0) - e, 0)


for order in range(1, 6):
    for loss in ("squared", "correlation"):
        result = dmft.batch_exponents(order, loss)
        for mu in (sp.Rational(i, 4) for i in range(4 * order + 2)):
            assert result.at(mu) == (theta(order, mu, loss), theta(order, mu, loss) + mu)
        # (1 - mu)/2 <= -(l - 1)/2
        assert result.one_step == order

# %% [markdown]
# ## Boxed results

# %%
BOXED = {
    "lb-map": (
        r"Q' &= Q + \tfrac{\eta}{p}(B + B^\top) + \tfrac{\eta^2}{p^2}\Big[\tfrac{d}{n_b} S"
        r" + \big(1 - \tfrac1{n_b}\big) b\,\Omega^+ b^\top\Big],\quad"
        r" M' = M + \tfrac{\eta}{p} B^*"
    ),
    "lb-small": r"m' - m &= \eta\,c\,m^{\ell-1} - \tfrac{\eta^2}{2}\tfrac{d}{n_b} V m",
}
for order in (1, 2, 3, 4):
    values = [sp.latex(sp.factor(NOISE[order, loss])) for loss in ("squared", "correlation")]
    BOXED[f"lb-V-{order}"] = (
        rf"V_{{\ell={order}}} &= {values[0]}\ \text{{(squared)}},\quad"
        rf" {values[1]}\ \text{{(correlation)}}"
    )
for order in (1, 2, 3):
    steps = [
        sp.latex(dmft.batch_exponents(order, loss).steps) for loss in ("squared", "correlation")
    ]
    BOXED[f"lb-theta-{order}"] = (
        rf"\theta_{{\ell={order}}} &= {steps[0]}\ \text{{(squared)}},\quad"
        rf" {steps[1]}\ \text{{(correlation)}}"
    )
document = [r"\documentclass{article}", r"\usepackage{amsmath}", r"\begin{document}"]
for label, text in BOXED.items():
    body = text.replace("&", "")
    document += [
        rf"\begin{{equation}}\label{{eq:{label}}}",
        rf"\boxed{{{body}}}",
        r"\end{equation}",
    ]
# A notebook has no __file__: the arguments there are those of its kernel.
given = sys.argv[1:] if "__file__" in globals() else []
folder = Path(given[0] if given else tempfile.mkdtemp())
folder.mkdir(parents=True, exist_ok=True)
(folder / "large_batches.tex").write_text("\n".join([*document, r"\end{document}", ""]))

# %% [markdown]
# ## Numerical check: iterating the compiled maps
#
# Steps from $m_0 = d^{-1/2}$ to $m = 1/2$ at half the rate at which noise and signal balance at
# the start, for two dimensions a decade apart; the slope is that of the steps, at $\ell = 2$ of the
# steps divided by $\log d$. More batches: `tests/workflow/test_slopes_of_batches.py`.


# %%
def compiled(order, loss):
    """The map on the sphere with rate, batch and dimension as run-time values."""
    unit = dmft.Committee(hermite(order), 1)
    sgd = dmft.SGD(1.0, batch_size=2, loss=loss, constraint="sphere")
    return dmft.derive(dmft.Model(unit, unit), sgd, dim=100)


def steps(order, mu, loss, dim, factor=0.5, rate=None, t_max=4e5):
    """Steps to m = 1/2, and where the run ends."""
    balance = 2 * order / float(NOISE[order, loss].subs(Delta, 0))
    value = factor * balance * dim ** (mu - max(order / 2, 1))
    if loss == "squared":
        value = min(value, 0.1)
    value = value if rate is None else rate
    start = dmft.Overlaps([[1.0]], [[dim**-0.5]], [[1.0]])
    run = dmft.solve(
        MAPS[order, loss], start, t_max, save_at=2, events=[dmft.Event("M[0, 0]", 0.5, 1)],
        learning_rate=value * dim, dim=dim, batch_size=dim**mu,
    )  # fmt: skip
    reached = run.status == "event"
    return (run.t[-1] if reached else np.inf), run.M[-1, 0, 0]


MAPS = {(n, loss): compiled(n, loss) for n in (1, 2, 3, 4) for loss in ("squared", "correlation")}
LOSSES = {"squared": "SGD", "correlation": "correlation"}
table = []
# At l = 2 the noise of the correlation loss grows with m like the signal: half of the balance is
# too much before m = 1/2.
for order, loss, mu, low, factor in (
    (1, "squared", 0.0, 1e4, 0.5),
    (1, "squared", 0.5, 1e7, 0.5),
    (1, "squared", 1.0, 1e10, 0.5),
    (1, "correlation", 0.0, 1e4, 0.5),
    (1, "correlation", 0.5, 1e7, 0.5),
    (1, "correlation", 1.0, 1e10, 0.5),
    (2, "squared", 0.5, 1e6, 0.5),
    (2, "squared", 1.0, 1e10, 0.5),
    (2, "correlation", 0.5, 1e6, 0.25),
    (2, "correlation", 1.0, 1e10, 0.25),
    (3, "squared", 1.0, 1e3, 0.5),
    (3, "squared", 1.25, 1e4, 0.5),
    (3, "squared", 2.0, 1e6, 0.5),
    (3, "squared", 2.5, 1e6, 0.5),
    (3, "correlation", 1.0, 1e4, 0.5),
    (3, "correlation", 1.5, 1e7, 0.5),
    (3, "correlation", 2.0, 1e10, 0.5),
    (3, "correlation", 2.5, 1e10, 0.5),
    (4, "squared", 2.0, 1e3, 0.5),
    (4, "squared", 3.0, 1e4, 0.5),
    (4, "squared", 3.5, 1e4, 0.5),
    (4, "correlation", 1.5, 1e3, 0.5),
    (4, "correlation", 2.0, 1e5, 0.5),
    (4, "correlation", 2.5, 1e7, 0.5),
    (4, "correlation", 3.0, 1e10, 0.5),
):
    taken = np.array([steps(order, mu, loss, dim, factor)[0] for dim in (low, 10 * low)])
    times = taken / np.log([low, 10 * low]) if order == 2 else taken
    slope = np.log10(times[1] / times[0])
    predicted = float(dmft.batch_exponents(order, loss).at(mu)[0])
    print(f"l={order} {loss:11s} mu={mu}: slope {slope:.3f}  predicted {predicted:g}")
    assert abs(slope - predicted) < 0.06
    where = rf"{order} & {LOSSES[loss]} & {mu:g} & $10^{{{round(np.log10(low))}}}$"
    table.append(rf"{where} & {taken[0]:.0f} & {taken[1]:.0f} & {slope:.3f} & {predicted:g} \\")

# %%
head = r"$\ell$ & loss & $\mu$ & $d$ & steps & steps at $10\,d$ & slope & $\theta$ \\ \hline"
body = [r"\begin{tabular}{llllrrrr}", head, *table, r"\end{tabular}"]
(folder / "large_batches.tex").write_text("\n".join([*document, *body, r"\end{document}", ""]))

# %% [markdown]
# Above the balance the overlap falls; and for the squared loss beyond $\mu = \ell/2$ no rate at all
# does better than $d^{\ell/2-1}$ steps, where the correlation loss needs a number of order one.

# %%
for loss in ("squared", "correlation"):
    taken, end = steps(3, 1.25, loss, 1e6, factor=1.5, t_max=2e4)
    assert taken == np.inf
    assert end < 1e-3
    taken, end = steps(3, 1.25, loss, 1e4, factor=0.9)
    assert taken < np.inf

SCANNED = 10.0 ** np.arange(-2.25, 2.5, 0.5)  # none at the cancellation of the length, eta l = 1
best = [
    min(steps(3, 2.5, "squared", dim, rate=x, t_max=2e4)[0] for x in SCANNED) for dim in (1e7, 1e8)
]
slope = np.log10(best[1] / best[0])
print(f"best of all rates at l=3, mu=2.5: slope {slope:.3f}  predicted 0.5")
assert abs(slope - 0.5) < 0.03
few = steps(3, 2.5, "correlation", 1e8)[0]
print(f"steps at l=3, mu=2.5, d=1e8: squared {best[1]:g}, correlation {few:g}")
assert few < 10
assert best[1] > 1000

# %% [markdown]
# **Source.** theory/one_pass D.1-D.4; Arnaboldi, Dandi, Krzakala, Loureiro, Pesce, Stephan (2024),
# arXiv:2406.02157. Vectors of the maps: `tests/equations/test_batches_and_losses.py`; sampled
# batches against them: `tests/simulation`.
