"""The error that an average on nodes claims, over random states, against a much finer rule."""

from functools import partial

import numpy as np
import pytest
import sympy as sp
from scipy.special import erf, expit

import dmft
from dmft.errors import BadParameter
from dmft.model import FIELD as z

SILU = z / (1 + sp.exp(-z))
MODELS = {
    "tanh": (sp.tanh(z), sp.tanh(z)),
    "SiLU, softplus": (SILU, sp.log(1 + sp.exp(z))),
    "kink": (sp.Max(z, sp.Rational(1, 2)), sp.tanh(z)),
}


def covered(name, states, truth_nodes):
    """Share of entries of dQ/dt whose claimed error (99 %) covers the true one, at 256 nodes."""
    student, teacher = MODELS[name]
    model = dmft.Model(dmft.Committee(student, 3), dmft.Committee(teacher, 2), 0.1)
    # The quadratic term alone: the drift has tables and closed forms.
    equations = dmft.derive(model, dmft.SGD(0.8))
    equations = equations.without("learning", "interaction", "label_noise")
    hits = []
    for seed in range(states):
        start = dmft.random_overlaps(model, dim=8 + seed, seed=seed)
        truth = equations.evaluate(start, nodes=truth_nodes, seed=1000 + seed)["Q"]
        value = equations.evaluate(start, nodes=256, seed=seed)["Q"]
        error = equations.evaluate_error(start, nodes=256, seed=seed)["Q"]
        hits += (np.abs(value - truth) <= error)[np.triu_indices(3)].tolist()
    return np.mean(hits)


def test_claims_cover_in_a_few_states():
    assert covered("tanh", 5, 2048) >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_claims_cover_in_forty_eight_states(name):
    assert covered(name, 48, 16384) >= 0.95


def test_claims_of_steep_labels_are_finite_and_cover():
    """Labels tanh(a^3 - 3 a + b^2): exponentials overflow at nodes, and layers are thin there."""
    a, b, f = sp.symbols("a b f", real=True)
    gelu, law = z * (1 + sp.erf(z / sp.sqrt(2))) / 2, dmft.Spectrum([3.0, 1.59], [0.4, 0.6])
    model = dmft.Model(
        dmft.Committee(gelu, 1, [1.34]),
        dmft.MultiIndex(a**3 - 3 * a + b**2, [a, b]),
        label_channel=1 / (1 + sp.exp(-2 * f)),
        inputs=law,
    )
    rows = np.random.default_rng(0).standard_normal((2, 3, 5)) / 2
    G = np.einsum("eij,ekj->eik", rows, rows)
    start = dmft.Overlaps(G[:, :1, :1], G[:, :1, 1:], G[:, 1:, 1:])
    equations = dmft.derive(model, dmft.GradientFlow(weight_decay=0.54))
    found, claim = equations.evaluate(start), equations.evaluate_error(start)
    assert all(np.isfinite(value).all() for value in claim.values())
    # The definition: fields of each block, N(0, c_e G_e), and those of all blocks, their sums.
    count, rng = 1_000_000, np.random.default_rng(1)
    parts = np.sqrt(law.eigenvalues)[:, None, None] * (rows @ rng.standard_normal((2, 5, count)))
    h, u, v = parts.sum(axis=0)
    normal = np.exp(-(h**2) / 2) / np.sqrt(2 * np.pi)
    share = (1 + erf(h / np.sqrt(2))) / 2
    psi = 1.34 * (share + h * normal) * (np.tanh(u**3 - 3 * u + v**2) - 1.34 * h * share)
    moved = psi * parts
    spread = moved.std(axis=2) / np.sqrt(count)
    off = moved.mean(axis=2)[:, 1:] - 0.54 * G[:, 0, 1:] - found["M"][:, 0]
    assert (np.abs(off) < 4 * spread[:, 1:] + claim["M"][:, 0]).all()
    assert (claim["M"] < 0.01).all()


@pytest.mark.parametrize("scale", [1.0, 25.0])
def test_claims_are_finite_where_gradients_vanish(scale):
    """Clipped steps divide by lengths of gradients that underflow far out."""
    a, b = sp.symbols("a b", real=True)
    target = dmft.MultiIndex(a**3 - 3 * a + b**2, [a, b])
    G = np.array([[1.1, 0.3, -0.2], [0.3, 1.0, 0.1], [-0.2, 0.1, 0.8]]) * scale
    start = dmft.Overlaps(G[:1, :1], G[:1, 1:], G[1:, 1:])
    gelu = z * (1 + sp.erf(z / sp.sqrt(2))) / 2
    for student in (gelu, sp.tanh(z)):
        model = dmft.Model(dmft.Committee(student, 1), target)
        equations = dmft.derive(model, dmft.SGD(0.1, clip=0.3))
        claim = equations.evaluate_error(start, nodes=256)
        assert all(np.isfinite(value).all() for value in claim.values())


def moments(Q, M, c):
    """E exp(-c f y) and the covariance of (f, y) under it, of N(0, [[Q, M], [M, 1]]); or None."""
    law = np.array([[Q, M], [M, 1.0]])
    tilted = np.linalg.inv(law) + c * np.array([[0.0, 1.0], [1.0, 0.0]])
    if np.linalg.eigvalsh(tilted).min() <= 0:
        return None
    here = np.linalg.inv(tilted)
    return np.sqrt(np.linalg.det(here) / np.linalg.det(law)), here


def test_infinite_averages_are_refused_and_heavy_ones_claim_their_tails():
    """Loss exp(-f y): psi = y exp(-f y), whose moments are those of tilted Gaussians."""
    f, y = sp.symbols("f y", real=True)
    line = dmft.Committee(z, 1)
    model = dmft.Model(line, line)
    equations = dmft.derive(model, dmft.SGD(1.0, loss=sp.exp(-f * y)))
    for Q, M in ((0.1, 0.1), (0.2, 0.2), (0.2, 0.0)):
        start = dmft.Overlaps([[Q]], [[M]], [[1.0]])
        found, claim = equations.evaluate(start), equations.evaluate_error(start)
        (one, law), (two, twice) = moments(Q, M, 1), moments(Q, M, 2)
        true = {"M": one * law[1, 1], "Q": 2 * one * law[0, 1] + two * twice[1, 1]}
        for name, value in true.items():
            assert abs(found[name].item() - value) < claim[name].item()
    assert moments(1.0, -0.3, 1) is None
    start = dmft.Overlaps([[1.0]], [[-0.3]], [[1.0]])
    solve = partial(dmft.solve, equations, t_max=1.0)
    for call in (equations.evaluate, equations.evaluate_error, solve):
        with pytest.raises(BadParameter, match="is infinite"):
            call(start)
    fast = dmft.derive(model, dmft.SGD(1.0, loss=sp.exp(f**2 * y**2)))
    with pytest.raises(BadParameter, match="is infinite"):  # whatever the weights
        fast.evaluate(dmft.Overlaps([[0.1]], [[0.0]], [[1.0]]))


def test_averages_that_vanish_by_symmetry_are_not_taken_for_infinite_ones():
    """Units along axes of a product: some averages are zero, and their sums far out rounding."""
    u, v = sp.symbols("u v", real=True)
    silu = dmft.Committee(z / (1 + sp.exp(-z)), 3, [-0.375, -0.75, 1.625])
    model = dmft.Model(silu, dmft.MultiIndex(sp.tanh(u) * v, [u, v]))
    rows = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    start = dmft.Overlaps(rows @ rows.T, rows, np.eye(2))
    found = dmft.derive(model, dmft.GradientFlow()).evaluate(start)["M"]
    # psi on a grid of both fields, which are independent
    x = np.linspace(-9.0, 9.0, 721)
    h, weight = (
        rows @ np.stack(np.meshgrid(x, x)).reshape(2, -1),
        np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi),
    )
    weight = np.outer(weight, weight).ravel() * (x[1] - x[0]) ** 2
    s, a = 1 / (1 + np.exp(-h)), np.array([-0.375, -0.75, 1.625])
    psi = a[:, None] * (s + h * s * (1 - s)) * (np.tanh(h[0]) * h[1] - a @ (h * s) / 3)
    assert np.allclose(found, (psi * weight) @ h[:2].T, atol=1e-9)


def test_runs_end_where_an_average_becomes_infinite():
    f, y = sp.symbols("f y", real=True)
    line = dmft.Committee(z, 1)
    loss = sp.exp(f * y) / 4 - f * y / 2
    equations = dmft.derive(dmft.Model(line, line), dmft.SGD(0.3, loss=loss))
    start = dmft.Overlaps([[0.05]], [[-0.01]], [[1.0]])
    run = dmft.solve(equations, start, 3.0, save_at=11)
    assert run.status == "nonfinite"
    assert "is infinite" in run.message
    last = np.flatnonzero(np.isfinite(run.Q[:, 0, 0]))[-1]
    assert moments(run.Q[last, 0, 0], run.M[last, 0, 0], -2) is not None
    assert np.isnan(run.Q[last + 1 :]).all()


def test_risks_of_heavy_targets_claim_their_tails():
    """E exp(2 c a b) = 1/sqrt(1 - 4 c^2) of independent a, b, for the target exp(c a b)."""
    a, b = sp.symbols("a b", real=True)
    risk = dmft.population_risk(
        dmft.Model(dmft.Committee(z, 1), dmft.MultiIndex(sp.exp(2 * a * b / 5), [a, b]))
    )
    found = risk(Q=[[1.0]], M=[[0.1, 0.1]], P=np.eye(2))
    assert abs(found - (1 / 0.6 + 1) / 2) < found.error < 1e-3


def test_sums_that_are_rounding_do_not_grow():
    """Sums of a bounded average at the radii of `tails`: the last one grows by rounding alone."""
    from dmft.equations.averages.tails import _grown

    bounded = np.array([1e-2, 1e-5, 8e-25, 1.8e-20])
    growing = np.array([1e-2, 1e-5, 1e-7, 1e-6])
    assert not _grown(bounded[:, None])
    assert _grown(growing[:, None])
    assert _grown(np.stack([bounded, growing], axis=1))


def test_two_rules_that_miss_a_steep_teacher_alike_are_told_apart():
    """A sigmoid of a field of deviation 12 turns between two nodes; the truth is a fine grid."""
    Q, M, P, a, gamma, noise = 0.00941467, -0.13671875, 153.25, 0.125, 0.125, 0.25
    grid = np.linspace(-9, 9, 4001)
    weight = np.exp(-(grid**2) / 2) / np.exp(-(grid**2) / 2).sum()
    h_star = np.sqrt(P) * grid[:, None]
    h = M / P * h_star + np.sqrt(Q - M**2 / P) * grid[::20]
    w = weight[:, None] * weight[::20] * 20
    step = expit(h) * expit(-h) * a
    left = expit(h_star) - a * expit(h)
    truth = np.sum(w * (2 * step * left * h + gamma * step**2 * (left**2 + noise)))
    unit = 1 / (1 + sp.exp(-z))
    model = dmft.Model(dmft.Committee(unit, 1, [a]), dmft.Committee(unit, 1), noise)
    equations, at = dmft.derive(model, dmft.SGD(gamma)), dmft.Overlaps([[Q]], [[M]], [[P]])
    assert abs(equations.evaluate(at)["Q"] - truth) < equations.evaluate_error(at)["Q"] < 1e-8
