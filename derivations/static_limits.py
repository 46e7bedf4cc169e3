# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # Thresholds of labels and priors
#
# **Statement.** Three tables of the theory of static limits, each number from the declaration of
# a label and a prior only: samples per dimension for weak recovery, information-theoretic and
# algorithmic thresholds, and the output channels that have closed forms.
#
# **Assumptions.** Inputs and weights as in theory/static_limits; $d\to\infty$ with
# $n = \alpha d$ samples.
#
# **Source.** theory/static_limits 2 and 3.
#
# Run as `python derivations/static_limits.py`; it compares each number with the printed one.

# %%
import math

import numpy as np
import sympy as sp
from scipy.stats import multivariate_normal, norm

import dmft

z, z1, z2, z3 = sp.symbols("z z1 z2 z3", real=True)
STUDENT = dmft.Committee(z, 1)


def model(label, noise=0.0):
    """A teacher with this label; the student plays no role."""
    fields = [f for f in (z, z1, z2, z3) if f in label.free_symbols]
    return dmft.Model(STUDENT, dmft.MultiIndex(label, fields), label_noise=noise)


# %% [markdown]
# ## Step 1: weak recovery
#
# Above $\alpha_c$ the estimate has an overlap with the teacher. Labels whose mean knows the sign
# of a field have $\alpha_c = 0$; labels of generative exponent three or more have
# $\alpha_c = \infty$.

# %%
he3, he4 = z**3 - 3 * z, z**4 - 6 * z**2 + 3
WEAK = [
    ("z", z, 0.0, "0"),
    ("sign z", sp.sign(z), 0.0, "0"),
    ("relu z", sp.Max(0, z), 0.0, "0"),
    ("He3", he3, 0.0, "0"),
    ("z1 + z1 z2", z1 + z1 * z2, 0.0, "0"),
    ("|z|", sp.Abs(z), 0.0, "0.5"),
    ("z^2", z**2, 0.0, "0.5"),
    ("He4", he4, 0.0, "0.6448504699"),
    ("sign(|z| - 1/2)", sp.sign(sp.Abs(z) - sp.Rational(1, 2)), 0.0, "1.9063609285"),
    ("sign(|z| - 1)", sp.sign(sp.Abs(z) - 1), 0.0, "0.9249580393"),
    ("max(|z|, 1)", sp.Max(sp.Abs(z), 1), 0.0, "0.5139913951"),
    ("|z|, noise .1", sp.Abs(z), 0.1, "0.6042877"),
    ("|z|, noise .5", sp.Abs(z), 0.5, "1.0831018"),
    ("|z|, noise 1", sp.Abs(z), 1.0, "1.7620599"),
    ("z^2, noise .1", z**2, 0.1, "0.5180658"),
    ("z^2, noise .5", z**2, 0.5, "0.5779871"),
    ("z^2, noise 1", z**2, 1.0, "0.6465906"),
    ("sign(z1 z2)", sp.sign(z1 * z2), 0.0, "2.4674011"),
    ("z1 z2", z1 * z2, 0.0, "0.5937510979"),
    ("z1 z2 z3", z1 * z2 * z3, 0.0, "2.565"),
    ("sign(z1 z2 z3)", sp.sign(z1 * z2 * z3), 0.0, "inf"),
    ("z1^2 + sign(z1 z2 z3)", z1**2 + sp.sign(z1 * z2 * z3), 0.0, "0.5751663523"),
    ("z^2 exp(-z^2)", z**2 * sp.exp(-(z**2)), 0.0, "inf"),
]


def agrees(value, text):
    """Whether a number with its error has the digits of a text, up to one in the last."""
    if text == "inf":
        return math.isinf(value)
    last = 10.0 ** -len(text.partition(".")[2])
    return abs(float(value) - float(text)) <= 1.01 * last + getattr(value, "error", 0.0)


differ = []


def row(name, value, text):
    print(f"{name:28s} {float(value):<16.10g} {text}")
    if not agrees(value, text):
        differ.append((name, value, text))


for name, label, noise, text in WEAK:
    row(name, dmft.thresholds(model(label, noise)).weak_recovery, text)

# %% [markdown]
# ## Step 2: information-theoretic and algorithmic thresholds
#
# Between the two a better estimate exists than the one that AMP finds.

# %%
sparse = dmft.GaussBernoulli
BEST = [
    ("sign, Rademacher", sp.sign(z), "rademacher", "1.2446840", "1.4926318"),
    ("|z|", sp.Abs(z), None, "1", "1.1284714"),
    ("z, sparse .1", z, sparse(0.1), "0.1", "0.2075591"),
    ("z, sparse .3", z, sparse(0.3), "0.3", "0.4802095"),
    ("z, sparse .5", z, sparse(0.5), "0.5", "0.6856985"),
    ("relu, sparse .1", sp.Max(0, z), sparse(0.1), "0.2", "0.334697"),
    ("relu, sparse .3", sp.Max(0, z), sparse(0.3), "0.6", "0.814758"),
    ("relu, sparse .5", sp.Max(0, z), sparse(0.5), "1", "1.210673"),
    ("relu", sp.Max(0, z), None, "2", "2"),
    ("He3", he3, None, "1", "1.1943115"),
    ("|z|, Rademacher", sp.Abs(z), "rademacher", "0", "0.8661590"),
]
for name, label, prior, information, algorithm in BEST:
    found = dmft.thresholds(model(label), **({} if prior is None else {"prior": prior}))
    row(f"{name}: information", found.information_theoretic, information)
    row(f"{name}: algorithm", found.algorithmic, algorithm)

# %% [markdown]
# ## Step 3: closed output channels
#
# The channel is the law of $y$ at fields of mean $\omega$ and covariance $V$.

# %%
OMEGA, V = 0.3, 0.7
root = math.sqrt(V)


def orthant(signs, mean=(0.3, -0.4), cov=((0.7, 0.2), (0.2, 0.5))):
    """Probability that both fields have these signs."""
    s = np.diag(signs)
    return multivariate_normal.cdf(s @ mean, cov=s @ np.array(cov) @ s)


same = orthant((1, 1)) + orthant((-1, -1))
CHANNELS = [
    ("z with noise", z, 0.5, 0.8, norm.pdf(0.8, OMEGA, math.sqrt(V + 0.5))),
    ("sign z", sp.sign(z), 0.0, 1.0, norm.cdf(OMEGA / root)),
    ("relu, y > 0", sp.Max(0, z), 0.0, 0.8, norm.pdf(0.8, OMEGA, root)),
    ("relu, y = 0", sp.Max(0, z), 0.0, 0.0, norm.cdf(-OMEGA / root)),
    ("|z|", sp.Abs(z), 0.0, 0.8, norm.pdf(0.8, OMEGA, root) + norm.pdf(-0.8, OMEGA, root)),
    ("sign(z1 z2), y = 1", sp.sign(z1 * z2), 0.0, 1.0, same),
    ("sign(z1 z2), y = -1", sp.sign(z1 * z2), 0.0, -1.0, 1 - same),
    ("sign z1 + sign z2, y = 2", sp.sign(z1) + sp.sign(z2), 0.0, 2.0, orthant((1, 1))),
    ("sign z1 + sign z2, y = 0", sp.sign(z1) + sp.sign(z2), 0.0, 0.0, 1 - same),
]
for name, label, noise, y, wanted in CHANNELS:
    channel = dmft.output_channel(model(label, noise))
    at = (OMEGA, V) if label.has(z) else (np.array([0.3, -0.4]), np.array([[0.7, 0.2], [0.2, 0.5]]))
    row(name, np.exp(channel.evaluate(y, *at)["log_Z"]).item(), f"{wanted:.8f}")

assert not differ, differ
print(f"{len(WEAK) + 2 * len(BEST) + len(CHANNELS)} numbers agree with the printed tables")
