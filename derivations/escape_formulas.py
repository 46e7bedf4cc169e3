# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # Escape formulas: any activation, any exponent, random starts
#
# **Statement.** Students start nearly orthogonal to the teacher, $u = \frac1p\sum_{jr} M_{jr}^2
# \simeq k/d$. The escape time is determined by the information exponent $\ell$: the smallest
# power whose coefficients $E[\sigma He_\ell]$ and $E[\sigma^* He_\ell]$ both differ from zero.
# `phase_retrieval.py` derives the square activation with free lengths; this file derives the
# other results of `dmft.escape_formula`.
#
# **Assumptions.** One-pass SGD on the sphere, $Q_{jj} = P_{rr} = 1$, equal unit readouts,
# $d\to\infty$ in $t = \text{steps}\cdot\gamma/(pd)$; neurons that start to learn one by one.
#
# Run as `python derivations/escape_formulas.py`; it checks itself and prints its numbers.

# %%
import numpy as np
import sympy as sp

import dmft
from dmft.gaussian.closed.product import product_expectation
from dmft.model import FIELD

z = FIELD
gamma, Delta = sp.Symbol("gamma", positive=True), sp.Symbol("Delta", nonnegative=True)
p, k = sp.symbols("p k", integer=True, positive=True)
m, u_0, u_1 = sp.symbols("m u_0 u_1", positive=True)


def assert_equal(left, right, message):
    assert sp.simplify(left - right) == 0, message


def moment(expr):
    """E[expr(z)], z ~ N(0, 1)."""
    return product_expectation([sp.expand(expr)], ["z"], lambda *_: 1)


# %% [markdown]
# ## Step 1: the signal
#
# With $\psi_j = \sigma'(\lambda_j)\,\varepsilon$, $\varepsilon = \frac1k\sum_r\sigma^*(h^*_r) -
# \frac1p\sum_l\sigma(\lambda_l)$, the constraint leaves
# $$\dot M_{jr} = E[\psi_j (h^*_r - M_{jr}\lambda_j)] - \tfrac{\gamma}{2p} M_{jr}\,
#   \big(E[\psi_j^2] + \Delta E[\sigma'^2]\big).$$
# The field $h^* - m\lambda$ is independent of $\lambda$, so the term $\sigma'\sigma$ drops out, and
# Stein's lemma turns the rest into a derivative of Mehler's series
# $E[\sigma(\lambda)\sigma^*(h^*)] = \sum_n c_n m^n$, $c_n = E[\sigma He_n]E[\sigma^* He_n]/n!$:
# $$\text{signal} = \tfrac1k (1-m^2)\,\tfrac{d}{dm}\sum_n c_n m^n
#   = \tfrac{\ell c_\ell}{k}\, m^{\ell-1} + \dots$$
# One neuron, against a Wick sum for $\sigma = z^3 + z^2$, $\sigma^* = z^3 - 3z + z^2$.

# %%
STUDENT, TEACHER = z**3 + z**2, z**3 - 3 * z + z**2


def cov(x, y):
    return 1 if x == y else m


def pair(first, second):
    """E[first(lambda) second(h*)] at covariance m."""
    return product_expectation([first, second], ["s", "t"], cov)


coefficients = [
    moment(STUDENT * dmft.hermite(n, z)) * moment(TEACHER * dmft.hermite(n, z)) / sp.factorial(n)
    for n in range(4)
]
series = sum(c * m**n for n, c in enumerate(coefficients))
assert_equal(pair(STUDENT, TEACHER), series, "Mehler's series")
slope = sp.diff(STUDENT, z)
signal = pair(slope, TEACHER * z) - m * pair(slope * z, TEACHER)
assert_equal(signal, (1 - m**2) * sp.diff(series, m), "signal")

# %% [markdown]
# ## Step 2: the noise of the samples, at any width
#
# At $M = 0$ all fields are independent. With $s_2 = E[\sigma'^2]$, $\mu = E[\sigma]$,
# $v = \mathrm{Var}\,\sigma$ the residual splits into the neuron's own part $-\sigma(\lambda_j)/p$
# and the rest, of mean $\mu/p$ and variance $v/k + (p-1)v/p^2$:
# $$V = s_2\Big[\tfrac vk + \tfrac{(p-1)v}{p^2} + \tfrac{\mu^2}{p^2}\Big]
#   - \tfrac{2\mu}{p^2}E[\sigma'^2\sigma] + \tfrac1{p^2}E[\sigma'^2\sigma^2] + \Delta s_2,$$
# a decay of the overlap at the rate $b = \gamma V/2p$. For $\ell = 2$ the overlaps grow at
# $\Lambda = 2c_2/k - b$.


# %%
def noise_of(sigma):
    """V for equal activations, in p, k and Delta."""
    s2, mean = moment(sp.diff(sigma, z) ** 2), moment(sigma)
    var = moment(sigma**2) - mean**2
    own = moment(sp.diff(sigma, z) ** 2 * sigma), moment(sp.diff(sigma, z) ** 2 * sigma**2)
    rest = s2 * (var / k + (p - 1) * var / p**2 + mean**2 / p**2)
    return sp.expand(rest - 2 * mean * own[0] / p**2 + own[1] / p**2 + Delta * s2)


def growth_of(sigma):
    return moment(sigma * (z**2 - 1)) ** 2 / k - gamma / (2 * p) * noise_of(sigma)


def derived(sigma, student=p, teacher=k):
    model = dmft.Model(dmft.Committee(sigma, student), dmft.Committee(sigma, teacher), Delta)
    return dmft.escape_formula(model, dmft.SGD(gamma, constraint="sphere"))


for sigma in (z**2, z**4 - 2 * z**2):
    assert_equal(derived(sigma).growth_rate, growth_of(sigma), f"rate of {sigma}")
B_p = 2 + 2 / p + 8 / p**2 + Delta
assert_equal(growth_of(z**2).subs(k, 1), 4 - 2 * gamma / p * B_p, "phase retrieval")

# %% [markdown]
# Steps are $p\,d\,t/\gamma \propto 1/(\gamma\Lambda)$ and $\Lambda = \Lambda_0 - \Lambda_1\gamma$:
# $\gamma_{\max} = \Lambda_0/\Lambda_1$, $\gamma_{opt} = \gamma_{\max}/2$. Gradient flow's rate does
# not depend on the width, which lowers the noise only: wide students gain
# $(12+\Delta)/(2+\Delta)$.

# %%
growth = growth_of(z**2).subs(k, 1)
(fastest,) = sp.solve(sp.diff(gamma * growth, gamma), gamma)
assert_equal(fastest, p / B_p, "fastest rate")
prefactor = sp.factor((p / (2 * gamma * growth)).subs(gamma, fastest))  # over d log(u_1/u_0)
assert_equal(prefactor, B_p / 4, "steps")
gain = prefactor.subs(p, 1) / prefactor
assert_equal(sp.limit(gain, p, sp.oo), (12 + Delta) / (2 + Delta), "gain from width")
assert_equal(derived(z**2, teacher=1).gain_from_width().subs(p, 7), gain.subs(p, 7), "gain")

# %% [markdown]
# ## Step 3: random starts and the noise of the samples
#
# Samples move $M_{jr}$ randomly too: $\frac{d}{dt}\langle M^2\rangle = 2\Lambda\langle M^2\rangle +
# D/d$ with $D = \frac\gamma p \mathrm{Var}[\psi_j h^*_r]$. Carried back to $t = 0$ each overlap
# is $N(0, (1+\kappa)/d)$ with $\kappa = D/2\Lambda$. For one square neuron
# $\mathrm{Var}[\psi h^*] = E[4\lambda^2(h^{*2}-\lambda^2)^2h^{*2}] + 4\Delta = 48 + 4\Delta$, and
# at the fastest rate $\kappa = 1$ at every $\Delta$: the noise halves the effective dimension.

# %%
x = sp.Symbol("x")


def spread_of(sigma):
    """Var[psi h*] of one neuron at M = 0; all but one average factorise."""
    square = sp.diff(sigma, z) ** 2
    value = moment(square) * moment(sigma**2 * z**2)
    value += moment(square * sigma**2) - 2 * moment(square * sigma) * moment(sigma * z**2)
    return value + Delta * moment(square)


variance = spread_of(z**2)
assert_equal(variance, 48 + 4 * Delta, "noise of one neuron")
kappa = (gamma * variance / (2 * growth.subs(p, 1))).subs(gamma, fastest.subs(p, 1))
assert_equal(kappa, 1, "kappa at the fastest rate")

# %% [markdown]
# $u d\,p/(1+\kappa)$ is a chi-squared variable of $n = pk$ degrees. From
# $E[x^s] = 2^s\Gamma(n/2+s)/\Gamma(n/2)$: $E\log x = \log 2 + \psi(n/2)$,
# $\mathrm{Var}\log x = \psi'(n/2)$; the time is $-\log u(0)/2\Lambda$ plus a constant.

# %%
s, n = sp.symbols("s n", positive=True)
cumulants = s * sp.log(2) + sp.loggamma(n / 2 + s) - sp.loggamma(n / 2)
mean_log, var_log = (sp.diff(cumulants, s, order).subs(s, 0) for order in (1, 2))
assert_equal(mean_log.subs(n, 1).doit(), -sp.EulerGamma - sp.log(2), "mean, one overlap")
assert_equal(var_log.subs(n, 1).doit(), sp.pi**2 / 2, "variance, one overlap")

# %% [markdown]
# The whole equation of one square neuron is logistic, $\dot u = 2u(\Lambda - Au)$, and its mean
# over starts uses $u(0)$ small against $\Lambda/A$. Number: $d = 1000$, $\gamma = 1/12$, $T = 0.1$.

# %%
L, A = sp.symbols("Lambda A", positive=True)
t_logistic = sp.log(u_1 * (L - A * u_0) / (u_0 * (L - A * u_1))) / (2 * L)
velocity = 2 * u_1 * (L - A * u_1)
assert_equal(sp.diff(t_logistic, u_1) * velocity, 1, "time runs with u")
assert_equal(t_logistic.subs(u_1, u_0), 0, "starts at u_0")
rate = 1 / sp.Integer(12)
one = derived(z**2, 1, 1)
numbers = {L: 2, A: 4 - 24 * rate, u_1: sp.Rational(1, 10) + sp.Rational(9, 10) / 1000}
limit = sp.log(numbers[u_1] * 2 / (2 - numbers[A] * numbers[u_1])) / 4
mean = limit - (sp.log(2 * sp.Rational(1, 1000)) + mean_log.subs(n, 1).doit()) / 4
library = one.mean_time(1000, 0.1, learning_rate=rate, label_noise=0)
print(f"mean time, d = 1000: derived {float(mean):.12f}, library {library:.12f}")
assert abs(float(mean) - library) < 1e-12

# %% [markdown]
# ## Step 4: $\ell\ge3$, the leading power against the noise
#
# $\dot m = c\,m^{\ell-1} - b\,m$ is linear in $v = m^{-(\ell-2)}$: $\dot v = -(\ell-2)(c - bv)$.
# From $v_0$ to the end $v_1 = 0$ with $y = bv_0/c$: $t = -\log(1-y)/((\ell-2)b)$, so it escapes for
# $\gamma<\gamma_{\max}$, $y = 1$. Steps go as $-\log(1-y)/y^2$; with $1 - y = e^{-s}$ they are
# fewest where $e^s = 1+2s$: $y_{opt} = 0.7153$ for every $\ell$.

# %%
order, c, b, v = sp.symbols("l c b v", positive=True)
for value in (3, 4, 5):
    as_v = m ** -(value - 2)
    moved = sp.diff(as_v, m) * (c * m ** (value - 1) - b * m)
    assert_equal(moved, -(value - 2) * (c - b * as_v), "linear in v")
t_power = sp.log((c - b * v) / c) / -((order - 2) * b)
assert_equal(sp.diff(t_power, v) * -(order - 2) * (c - b * v), -1, "counts down with v")
steps = s / (1 - sp.exp(-s)) ** 2
s_opt = sp.nsolve(sp.exp(s) - 1 - 2 * s, s, 1.26)
assert abs(sp.diff(steps, s).subs(s, s_opt)) < 1e-12
y_opt = 1 - sp.exp(-s_opt)  # 0.7153
third = dmft.hermite(3, z) / sp.sqrt(6)
cubic = derived(third, 1, 1)
share = cubic.optimal_learning_rate(1e4) / cubic.maximal_learning_rate(1e4)
assert abs(sp.N(sp.cancel(share), 20) - y_opt) < 1e-12
decay = gamma / 2 * noise_of(third).subs({p: 1, k: 1})
(largest,) = sp.solve(decay * 100 - 3, gamma)  # c = 3 c_3 = 3, v_0 = sqrt(d) = 100
assert_equal(cubic.maximal_learning_rate(10**4), largest, "largest rate, l = 3")
print(f"y_opt = {float(y_opt):.10f}, fewest steps {float(steps.subs(s, s_opt) / 2):.7f}", end=" ")
print("V d v_0^2 / ((l - 2) c^2)")

# %% [markdown]
# $\ell = 1$: $\dot m = c - bm$ from the start on; $t = \frac1b\log\frac{c - bm_0}{c - bm_1}$.

# %%
m_0, m_1 = sp.symbols("m_0 m_1", positive=True)
t_drift = sp.log((c - b * m_0) / (c - b * m_1)) / b
assert_equal(sp.diff(t_drift, m_1) * (c - b * m_1), 1, "time runs with m")

# %% [markdown]
# ## Step 5: mean first passage
#
# For $\ell\ne2$ the noise is not absorbed into the start. $dm = f\,dt + \sqrt{D/d}\,dW$ in
# $x = m\sqrt d$ has noise $D$; the mean $\mathcal T$ of the time to $x_1$ solves the backward
# equation $f\mathcal T' + \frac D2\mathcal T'' = -1$, $\mathcal T(x_1) = 0$, with reflection at 0
# (even $\ell$). The second moment solves it with $-2\mathcal T$ on the right. The solution in terms
# of $W' = 2f/D$:

# %%
D = sp.Symbol("D", positive=True)
W, inner = sp.Function("W")(x), sp.Function("I")(x)
T_slope = -sp.exp(-W) * 2 / D * inner  # I' = exp(W), I(0) = 0
backward = D / 2 * (sp.diff(W, x) * T_slope + sp.diff(T_slope, x))
assert_equal(backward.subs(sp.diff(inner, x), sp.exp(W)), -1, "backward equation")

# %% [markdown]
# ## Step 6: the largest rate at which the perfect solution is stable
#
# Near $w_j = w^*$, $\varepsilon = \frac1p\sum_l\sigma'(h^*)\delta_l$ with $\delta_l =
# h^*-\lambda_l$: all $p$ units that learn one teacher unit take the same step, and
# $w = E[\bar\delta^2]$ obeys $\dot w = -2s_2w + \frac\gamma p s_4 w$, $s_4 = E[\sigma'^4]$:
# $\gamma_{\max} = 2ps_2/s_4$.

# %%
s_2, s_4 = moment((2 * z) ** 2), moment((2 * z) ** 4)
perfect = dmft.maximal_learning_rate(
    dmft.Model(dmft.Committee(z**2, p), dmft.Committee(z**2, 1)), dmft.SGD(1, constraint="sphere")
)
assert_equal(perfect, 2 * p * s_2 / s_4, "perfect solution")
assert_equal(fastest.subs(Delta, 0) - perfect, p / (2 + 2 / p + 8 / p**2) - p / 6, "both optima")
for width in (2, 3, 8):  # the fastest weak recovery of a wide student learns nothing in the end
    assert float(fastest.subs({p: width, Delta: 0})) > float(perfect.subs(p, width))

# %% [markdown]
# ## Numerical check 1: the integrated equations
#
# A crossing of the equations of motion at $\ell = 2$ (two units each) and at $\ell = 3$
# with overlaps so small that the leading power is all.

# %%


def crossing(model, rate, start, end):
    algorithm = dmft.SGD(rate, constraint="sphere")
    width, teachers = int(model.student.width), int(model.teacher.width)
    begin = dmft.Overlaps(np.eye(width), np.full((width, teachers), start))
    run = dmft.solve(
        dmft.derive(model, algorithm), begin, 1e5, events=[dmft.Event("M[0, 0]", end)],
        rtol=1e-11, atol=1e-18,
    )  # fmt: skip
    assert run.status == "event"
    return run.t[-1]


for sigma, width, value, begin, end in (
    (z**2, 2, 0.2, 1e-6, 1e-4),
    (third, 1, 2e-5, 1e-3, 4e-3),
):
    committee = dmft.Committee(sigma, width)
    model = dmft.Model(committee, committee, 0.3)
    formula = dmft.escape_formula(model, dmft.SGD(value, constraint="sphere"))
    expected = formula.time(1e6, u=width * end**2, u0=width * begin**2)
    found = crossing(model, value, begin, end)
    print(f"l = {formula.exponent}: formula {expected:.8f}, solver {found:.8f}")
    assert abs(found / expected - 1) < 5e-4

# %% [markdown]
# ## Numerical check 2: the first passage at $\ell = 3$
#
# Paths of $dx = (c\,x^2/\sqrt d - bx)\,dt + \sqrt D\,dW$ from $x(0)\sim N(0,1)$, $d = 100$,
# at half of the largest rate.

# %%
dim, end = 100, 0.5
value = float(cubic.maximal_learning_rate(dim).subs(Delta, 0)) / 2
given = {"learning_rate": value, "label_noise": 0}
mean = cubic.mean_time(dim, overlap=end, **given)
spread = cubic.std(dim, overlap=end, **given)
diffusion = value * float(spread_of(third).subs(Delta, 0))
damping = float(decay.subs({gamma: value, Delta: 0}))
random = np.random.default_rng(1)
dt, paths = mean / 1500, 4000
place = random.standard_normal(paths)
times, alive = np.zeros(paths), np.ones(paths, dtype=bool)
for step in range(1, 60_000):
    on = place[alive]
    kick = np.sqrt(diffusion * dt) * random.standard_normal(on.size)
    on = on + (3 * on**2 / dim**0.5 - damping * on) * dt + kick
    place[alive] = on
    arrived = alive & (place >= end * dim**0.5)
    times[arrived] = step * dt
    alive &= ~arrived
    if not alive.any():
        break
error = times.std() / paths**0.5
print(f"first passage, l = 3: quadrature {mean:.4f} (std {spread:.4f}), ", end="")
print(f"paths {times.mean():.4f} +- {error:.4f} (std {times.std():.4f})")
assert not alive.any()
assert abs(times.mean() - mean) < 4 * error
print(f"relative deviation of the mean: {abs(times.mean() / mean - 1):.4f}")

# %% [markdown]
# **Source.** theory/one_pass D.4, E.1, F, G.1; Arnaboldi, Krzakala, Loureiro, Stephan (2023),
# arXiv:2305.18502. The library's formulas are held to published vectors in
# `tests/equations/test_escape_formula.py`.
