"""The law of random starts, against weights drawn in R^d."""

import numpy as np
import pytest
import sympy as sp
from scipy.stats import ks_2samp

import dmft
from dmft.errors import BadParameter, DmftError

Z = sp.Symbol("z", real=True)
DRAWS = 600


def model(p, k, readout=None):
    return dmft.Model(dmft.Committee(Z**2, p, readout), dmft.Committee(Z**2, k))


def drawn_weights(p, k, dim, normalised):
    """Definition: rows in R^d, teachers orthonormalised by Gram-Schmidt (QR)."""
    rng = np.random.default_rng(12345)
    samples = []
    for _ in range(DRAWS):
        W = rng.standard_normal((p, dim))
        if normalised:
            W *= np.sqrt(dim) / np.linalg.norm(W, axis=1, keepdims=True)
        teachers = np.sqrt(dim) * np.linalg.qr(rng.standard_normal((dim, k)))[0].T
        samples.append(np.hstack([(W @ W.T / dim).ravel(), (W @ teachers.T / dim).ravel()]))
    return np.array(samples)


def drawn_overlaps(p, k, dim, normalised):
    samples, widths = [], model(p, k)
    for seed in range(DRAWS):
        start = dmft.random_overlaps(widths, dim, seed, normalised)
        samples.append(np.hstack([start.Q.ravel(), start.M.ravel()]))
    return np.array(samples)


# The dimension is close to the widths in all, and below p + k (singular Omega) in the third.
@pytest.mark.parametrize(
    ("p", "k", "dim", "normalised"), [(2, 2, 6, False), (2, 2, 5, True), (3, 2, 4, False)]
)
def test_law_is_that_of_drawn_weights(p, k, dim, normalised):
    truth, mine = drawn_weights(p, k, dim, normalised), drawn_overlaps(p, k, dim, normalised)
    fixed = [j * (p + 1) for j in range(p)] if normalised else []
    free = [n for n in range(truth.shape[1]) if n not in fixed]
    assert (mine[:, fixed] == 1).all()
    for n in free:
        assert ks_2samp(truth[:, n], mine[:, n]).pvalue > 1e-3, n
    # Means of all products of two entries, and of two squares: the joint law.
    for power in (1, 2):
        parts = (y[:, free] ** power for y in (truth, mine))
        here, there = (np.einsum("ni,nj->nij", x, x) for x in parts)
        error = np.sqrt(here.var(axis=0) * 2 / DRAWS)
        assert (np.abs(here.mean(axis=0) - there.mean(axis=0)) < 5 * error).all()


def test_moments():
    """E Q_jj = 1, Var Q_jj = 2/d, Var Q_jl = Var M = 1/d, E Q_jj M_jr^2 = (1 + 2/d) / d."""
    p, k, dim = 3, 2, 6
    x = drawn_overlaps(p, k, dim, False)
    Q, M = x[:, : p * p].reshape(-1, p, p), x[:, p * p :].reshape(-1, p, k)
    diagonal = np.diagonal(Q, axis1=1, axis2=2)
    off = Q[:, [0, 0, 1], [1, 2, 2]]
    for sample, value in (
        (diagonal, 1), ((diagonal - 1) ** 2, 2 / dim), (off, 0), (off**2, 1 / dim),
        (M, 0), (M**2, 1 / dim), (diagonal[:, :, None] * M**2, (1 + 2 / dim) / dim),
    ):  # fmt: skip
        mean = sample.reshape(DRAWS, -1).mean(axis=1)
        assert abs(mean.mean() - value) < 4.5 * mean.std() / np.sqrt(DRAWS)


def test_same_seed_same_start():
    one, two, other = (dmft.random_overlaps(model(2, 1), 50, seed) for seed in (3, 3, 4))
    assert (one.Omega == two.Omega).all()
    assert not (one.Omega == other.Omega).all()


def test_smallest_dimensions():
    start = dmft.random_overlaps(model(3, 2), 2, 0)  # students inside the teacher's span
    np.testing.assert_allclose(start.Q, start.M @ start.M.T, atol=1e-14)
    start = dmft.random_overlaps(model(1, 1), 1, 0, normalised=True)
    assert abs(start.M[0, 0]) == pytest.approx(1)
    with pytest.raises(BadParameter, match="too small for 2 orthogonal teacher rows"):
        dmft.random_overlaps(model(3, 2), 1, 0)


def test_large_dimension_costs_nothing():
    start = dmft.random_overlaps(model(2, 2), 10**12, 0)
    np.testing.assert_allclose(start.Q, np.eye(2), atol=1e-5)
    assert 0 < np.abs(start.M).max() < 1e-5


def test_readouts_come_along():
    assert dmft.random_overlaps(model(2, 1, [3, -1]), 10, 0).readout.tolist() == [3.0, -1.0]
    assert dmft.random_overlaps(model(2, 1, [3, sp.Symbol("c")]), 10, 0).readout is None
    assert dmft.random_overlaps(model(2, 1), 10, 0).readout is None


@pytest.mark.parametrize(
    ("dim", "seed", "says"),
    [(0, 0, "dim"), (10.5, 0, "dim"), ("a", 0, "dim"), (10, -1, "seed"), (10, None, "seed")],
)
def test_refused_dimensions_and_seeds(dim, seed, says):
    """A start without a seed could not be drawn again."""
    with pytest.raises(BadParameter, match=says):
        dmft.random_overlaps(model(1, 1), dim, seed)


def test_symbolic_widths_are_refused():
    wide = dmft.Model(dmft.Committee(Z**2, sp.Symbol("p")), dmft.Committee(Z**2, 1))
    with pytest.raises(BadParameter, match="numeric widths"):
        dmft.random_overlaps(wide, 10, 0)


def test_overlaps_of_weights():
    rng = np.random.default_rng(0)
    W, W_star = rng.standard_normal((3, 200)), rng.standard_normal((2, 200))
    found = dmft.Overlaps.from_weights(W, W_star, readout=[1.0, 2.0, 3.0])
    rows = np.vstack([W, W_star])
    np.testing.assert_allclose(found.Omega, np.einsum("id,jd->ij", rows, rows) / 200, atol=1e-15)
    assert found.readout.tolist() == [1.0, 2.0, 3.0]
    # Fields h = w.x/sqrt(d) of these weights have this covariance.
    fields = rng.standard_normal((40_000, 200)) @ rows.T / np.sqrt(200)
    np.testing.assert_allclose(np.cov(fields.T), found.Omega, atol=0.05)


def test_overlaps_of_tensors():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra torch)")
    layer = torch.nn.Linear(100, 2, bias=False)
    teacher = torch.randn(1, 100)
    found = dmft.Overlaps.from_weights(layer.weight, teacher)
    W, W_star = layer.weight.detach().numpy(), teacher.numpy()
    np.testing.assert_allclose(found.M, W @ W_star.T / 100, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("W", "W_star", "reason"),
    [
        (np.ones((2, 100)), np.ones((1, 99)), "W has rows of 100 numbers and W_star of 99"),
        (np.ones(100), np.ones((1, 100)), r"W has shape \(100,\), expected \(units, d\)"),
        ([[1.0], [1.0, 2.0]], np.ones((1, 100)), r"W has shape \(\), expected"),
        (np.ones((2, 100)), np.ones((1, 100)) / 10, r"\|w\|\^2 = 1 in d = 100.*pass sqrt\(d\) W"),
        (np.full((2, 100), np.nan), np.ones((1, 100)), r"not finite: .{,100}$"),
    ],
)
def test_weights_that_are_no_rows_of_a_network(W, W_star, reason):
    with pytest.raises(DmftError, match=reason):
        dmft.Overlaps.from_weights(W, W_star)
