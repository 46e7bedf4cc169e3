"""Spectral estimates: shared vectors, thresholds, and eigenvectors of matrices."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import sympy as sp
from scipy.integrate import quad
from scipy.optimize import brentq

import dmft

z, y = sp.symbols("z y", real=True)
FILE = Path(__file__).parents[1] / "reference" / "static_limits.json"
VECTORS = [v for v in json.loads(FILE.read_text(encoding="utf-8"))["vectors"]
           if v["kind"] == "spectral"]  # fmt: skip
HALF = sp.Rational(1, 2)
LABELS = {"Abs(z)": sp.Abs(z), "sign(Abs(z)-1/2)": sp.sign(sp.Abs(z) - HALF)}


def model(expr, **noise):
    return dmft.Model(dmft.Committee(z, 1), dmft.MultiIndex(expr, [z]), **noise)


@pytest.mark.parametrize("vector", VECTORS)
def test_shared_vectors(vector):
    given, wanted = vector["input"], vector["output"]["cosine_squared"]
    found = dmft.spectral(model(LABELS[given["label"]]), given["alpha"])
    # Vectors have four digits.
    assert found.cosine_squared == pytest.approx(wanted, rel=vector["rtol"], abs=5e-5)
    assert found.error < 1e-7


def test_thresholds_are_those_of_weak_recovery():
    assert dmft.spectral(model(sp.Abs(z)), 1.0).threshold == pytest.approx(0.5, abs=1e-12)
    assert dmft.spectral(model(sp.Abs(z)), 0.495).cosine_squared == 0.0
    assert dmft.spectral(model(sp.Abs(z)), 0.51).cosine_squared == pytest.approx(0.004, abs=1e-4)
    noisy = dmft.spectral(model(sp.Abs(z), label_noise=0.5), 2.0)
    assert noisy.threshold == pytest.approx(1.0831018, rel=1e-6)
    hidden = dmft.spectral(model(z**2 * sp.exp(-(z**2))), 2.0)
    assert (hidden.threshold, hidden.cosine_squared) == (math.inf, 0.0)


def leading_overlaps(label, T, alpha, dim, seeds):
    """Squared first coordinate of the top eigenvector of D, by NumPy: mean and standard error."""
    found = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        X = rng.standard_normal((int(alpha * dim), dim))
        vector = np.linalg.eigh((X.T * T(label(X[:, 0], rng))) @ X)[1][:, -1]
        found.append(vector[0] ** 2)
    return np.mean(found), np.std(found, ddof=1) / np.sqrt(seeds)


def overlap_of(T, alpha, top):
    """The overlap of a preprocessing T of |z|, with values up to `top`, by SciPy from (19)."""

    def mean(f):
        def weighted(x):
            return f(x) * np.exp(-x * x / 2) / np.sqrt(2 * np.pi)

        ends = itertools.pairwise((0.0, 1.0, 2.0, 4.0, 12.0))
        return 2 * sum(quad(weighted, *e, epsabs=1e-13, epsrel=1e-12)[0] for e in ends)

    level = brentq(
        lambda s: mean(lambda x: T(x) * (x * x - 1) / (s - T(x))) - 1 / alpha, 1.0001 * top, 99
    )
    rise = 1 / alpha - mean(lambda x: (T(x) / (level - T(x))) ** 2)
    return rise / (rise + mean(lambda x: (x * T(x) / (level - T(x))) ** 2))


def test_given_preprocessing():
    """Values of theory/static_limits 6 for min(y^2, 4)."""
    found = [dmft.spectral(model(sp.Abs(z)), a, sp.Min(y**2, 4)) for a in (1.0, 2.0)]
    exact = [overlap_of(lambda x: min(x * x, 4.0), a, 4.0) for a in (1.0, 2.0)]
    assert [r.cosine_squared for r in found] == pytest.approx(exact, rel=1e-9)
    assert exact == pytest.approx([0.07213, 0.26837], rel=1e-4)
    border = found[0].threshold
    below, above = (
        dmft.spectral(model(sp.Abs(z)), border * f, sp.Min(y**2, 4)) for f in (0.99, 1.01)
    )
    assert below.cosine_squared == 0.0 < above.cosine_squared < 0.01
    best = dmft.spectral(model(sp.Abs(z)), 2.0, 1 - 1 / sp.Max(y**2, sp.Rational(1, 1000)))
    known = dmft.spectral(model(sp.Abs(z)), 2.0).cosine_squared
    assert best.cosine_squared == pytest.approx(known, rel=1e-3)


def test_preprocessing_of_labels_that_saturate():
    """tanh(z^2) cannot be inverted at large z; its preprocessing is a function of |z|."""
    found = dmft.spectral(model(sp.tanh(z**2)), 3.0, y**2)
    exact = overlap_of(lambda x: np.tanh(x * x) ** 2, 3.0, 1.0)
    assert found.cosine_squared == pytest.approx(exact, rel=1e-7)


def test_preprocessing_that_saturates_where_no_label_is_seen():
    """The bulk ends at sup T: the threshold is 1/E[T (z^2 - 1)/(sup T - T)], for |z| closed."""
    late = dmft.spectral(model(sp.Abs(z)), 600.0, 1 - sp.exp(-(y**2) / 1000))
    assert late.threshold == pytest.approx(0.998**1.5 / 0.002, rel=1e-7)
    assert late.cosine_squared > 0.0
    slow = dmft.spectral(model(sp.Abs(z)), 49.0, y**2 / (y**2 + 100))
    assert slow.threshold == pytest.approx(50.0, rel=1e-7)
    assert slow.cosine_squared == 0.0


def test_refusals_and_files(tmp_path):
    with pytest.raises(dmft.errors.BadParameter, match="is nonzero"):
        dmft.spectral(model(sp.sign(z)), 1.0)
    with pytest.raises(dmft.errors.BadParameter, match="in y alone"):
        dmft.spectral(model(sp.Abs(z)), 1.0, z**2)
    with pytest.raises(dmft.errors.BadParameter, match="samples_per_dim"):
        dmft.spectral(model(sp.Abs(z)), -1.0)
    found = dmft.spectral(model(sp.Abs(z)), 1.0)
    assert dmft.load(found.save(tmp_path / "spectral.nc")) == found


def noisy_square(h, rng):
    return h * h + np.sqrt(0.2) * rng.standard_normal(h.size)


def bent(h, _):
    return np.tanh(h) ** 2


SMALL, TENTH = sp.Min(y**2, 4), sp.Rational(1, 10)
# The last five preprocessings have no positive values.
CASES = [
    (sp.Abs(z), {}, lambda h, _: np.abs(h), SMALL, 2.0),
    (z**2, {"label_noise": 0.2}, noisy_square, -1 / (y**2 + TENTH), 8.0),
    (sp.Abs(z), {}, lambda h, _: np.abs(h), -1 / (y**2 + TENTH), 8.0),
    (sp.tanh(z) ** 2, {}, bent, -1 / (y + TENTH), 20.0),
    (sp.tanh(z) ** 2, {}, bent, y - 1, 20.0),
    (sp.tanh(z) ** 2, {}, bent, y - 2, 0.8),
]


@pytest.mark.parametrize(("expr", "noise", "label", "T", "alpha"), CASES)
def test_eigenvectors_of_matrices(expr, noise, label, T, alpha):
    """NumPy's eigh of D at d = 200; D has its largest eigenvalues at zero for the last case."""
    dim = 200
    mean, error = leading_overlaps(label, sp.lambdify(y, T, "numpy"), alpha, dim, 12)
    theory = dmft.spectral(model(expr, **noise), alpha, T).cosine_squared
    assert abs(mean - theory) < 3 * error + 5 / dim


def test_thresholds_of_preprocessings_without_positive_values():
    """Where the bulk's edge meets the outlier, by SciPy from (19); alpha spread = 1 there."""
    T = lambda x: np.tanh(x) ** 2 - 1  # noqa: E731

    def mean(f):
        return quad(lambda x: f(x) * np.exp(-x * x / 2) / np.sqrt(2 * np.pi), -12, 12, limit=200)[0]

    def spread(s):
        return mean(lambda x: (T(x) / (s - T(x))) ** 2)

    edge = brentq(lambda s: spread(s) - mean(lambda x: T(x) * (x * x - 1) / (s - T(x))), 0.01, 10.0)
    found = dmft.spectral(model(sp.tanh(z) ** 2), 20.0, y - 1)
    assert found.threshold == pytest.approx(1 / spread(edge), rel=1e-7)
    below, above = (
        dmft.spectral(model(sp.tanh(z) ** 2), found.threshold * f, y - 1) for f in (0.99, 1.01)
    )
    assert below.cosine_squared == 0.0 < above.cosine_squared < 0.05


@pytest.mark.parametrize("noise", [{}, {"label_noise": 0.1}])
@pytest.mark.parametrize("grows", [y, y**2, sp.log(1 + y**2)])
def test_the_largest_label_dominates_what_is_unbounded(grows, noise):
    """The largest of n values of T grows without bound: its eigenvector has no overlap, ever."""
    found = dmft.spectral(model(sp.Abs(z), **noise), 50.0, preprocessing=grows)
    assert (found.threshold, found.cosine_squared) == (math.inf, 0.0)
