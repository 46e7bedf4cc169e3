"""What the theory proves about the drift, checked without the derivation's own formulas."""

from functools import cache

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import dmft

PAIRS = [("erf", "erf"), ("he3", "he3"), ("erf", "he3"), ("he2", "erf"), ("square", "square")]


def random_start(seed, p=2, k=2, rank=None):
    """Overlaps of generic weights; of few dimensions when `rank` makes them singular."""
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((p + k, rank or 6)) / np.sqrt(rank or 6)
    gram = weights @ weights.T
    return dmft.Overlaps(gram[:p, :p], gram[:p, p:], gram[p:, p:])


def gradient_flow_from_risk(model, start, step=1e-6):
    """theory/one_pass A.1: B* = -p (R_M P + G M), B = -p (R_M M^T + G Q), by finite differences."""
    risk = dmft.population_risk(model)
    p, k = start.M.shape

    def at(Q, M):
        return risk(Q=Q, M=M, P=start.P)

    R_M = np.empty((p, k))
    for j in range(p):
        for r in range(k):
            shift = np.zeros((p, k))
            shift[j, r] = step
            R_M[j, r] = (at(start.Q, start.M + shift) - at(start.Q, start.M - shift)) / (2 * step)
    G = np.empty((p, p))
    for j in range(p):
        for l in range(p):  # noqa: E741
            shift = np.zeros((p, p))
            shift[j, l] = shift[l, j] = step
            slope = (at(start.Q + shift, start.M) - at(start.Q - shift, start.M)) / (2 * step)
            G[j, l] = 2 * slope if j == l else slope
    dM = -p * (R_M @ start.P + G @ start.M)
    B = -p * (R_M @ start.M.T + G @ start.Q)
    return dM, B + B.T


@pytest.mark.parametrize(("student", "teacher"), PAIRS)
def test_drift_is_the_linear_image_of_the_risk_gradient(committee_model, student, teacher):
    model = committee_model(student, teacher, 2, 2, [1.2, -0.7], [0.9, 1.1], 0.2)
    start = random_start(3)
    rates = dmft.derive(model, dmft.GradientFlow()).evaluate(start)
    dM, dQ = gradient_flow_from_risk(model, start)
    scale = 1 + np.abs(dM).max()
    np.testing.assert_allclose(rates["M"], dM, atol=2e-8 * scale)
    np.testing.assert_allclose(rates["Q"], dQ, atol=2e-8 * scale)


@pytest.mark.parametrize(("student", "teacher"), PAIRS)
def test_rates_are_the_moments_of_the_update_field(committee_model, student, teacher):
    """Definition: B*, B + B^T and S as averages of psi by Gauss-Hermite over all four fields."""
    model = committee_model(student, teacher, 2, 1, [1.2, -0.7], [0.9], 0.3)
    gamma = 0.8
    start = random_start(5, 2, 1)
    rates = dmft.derive(model, dmft.SGD(gamma)).evaluate(start)
    nodes, weights = np.polynomial.hermite_e.hermegauss(36)
    grid = np.array(np.meshgrid(nodes, nodes, nodes, indexing="ij")).reshape(3, -1)
    weight = np.prod(np.array(np.meshgrid(weights, weights, weights, indexing="ij")), axis=0)
    weight = weight.ravel() / weight.sum()
    fields = np.linalg.cholesky(start.Omega) @ grid
    z = next(iter(model.student.activation.free_symbols))
    sigma = sp.lambdify(z, model.student.activation, "scipy")
    slope = sp.lambdify(z, sp.diff(model.student.activation, z), "scipy")
    star = sp.lambdify(z, model.teacher.activation, "scipy")
    a = np.array([1.2, -0.7])
    h, h_star = fields[:2], fields[2:]
    residual = 0.9 * star(h_star[0]) - (a @ sigma(h)) / 2
    field = a[:, None] * slope(h)
    psi = field * residual
    dM = (psi * weight) @ h_star.T
    B = (psi * weight) @ h.T
    S = (psi * weight) @ psi.T + 0.3 * (field * weight) @ field.T
    scale = 1 + np.abs(S).max()
    np.testing.assert_allclose(rates["M"], dM, atol=1e-8 * scale)
    np.testing.assert_allclose(rates["Q"], B + B.T + gamma / 2 * S, atol=1e-8 * scale)


@cache
def pair_of_pairs():
    erf = dmft.Committee(sp.erf(sp.Symbol("z", real=True) / sp.sqrt(2)), 2)
    return dmft.derive(dmft.Model(erf, erf, 0.1), dmft.SGD(0.7))


@given(seed=st.integers(0, 10**6), rank=st.sampled_from([1, 2, 6]))
@settings(max_examples=25, deadline=None)
def test_relabelling_units_commutes_with_the_flow(seed, rank):
    equations = pair_of_pairs()
    start = random_start(seed, rank=rank)
    swapped = dmft.Overlaps(start.Q[::-1, ::-1], start.M[::-1], start.P)
    one, two = equations.evaluate(start), equations.evaluate(swapped)
    np.testing.assert_allclose(one["Q"], two["Q"][::-1, ::-1], atol=1e-13)
    np.testing.assert_allclose(one["M"], two["M"][::-1], atol=1e-13)


@pytest.mark.parametrize("name", ["erf", "he3", "square"])
def test_perfect_solution_is_a_fixed_point_without_noise(committee_model, name):
    model = committee_model(name, name, 2, 2)
    perfect = dmft.Overlaps(np.eye(2), np.eye(2), np.eye(2))
    rates = dmft.derive(model, dmft.SGD(0.3)).evaluate(perfect)
    assert np.abs(rates["Q"]).max() < 1e-13
    assert np.abs(rates["M"]).max() < 1e-13
    assert dmft.population_risk(model)(Q=np.eye(2), M=np.eye(2), P=np.eye(2)) < 1e-15


def test_sphere_keeps_lengths_and_equals_projection_of_the_free_flow(committee_model):
    model = committee_model("erf", "erf", 2, 2, noise=0.1)
    start = dmft.random_overlaps(model, 20, seed=1, normalised=True)
    free = dmft.derive(model, dmft.SGD(0.5)).evaluate(start)
    sphere = dmft.derive(model, dmft.SGD(0.5, constraint="sphere")).evaluate(start)
    radial = np.diag(free["Q"])
    np.testing.assert_allclose(np.diag(sphere["Q"]), 0, atol=1e-15)
    np.testing.assert_allclose(sphere["M"], free["M"] - start.M * radial[:, None] / 2, atol=1e-14)
    expected = free["Q"] - start.Q * (radial[:, None] + radial) / 2
    np.testing.assert_allclose(sphere["Q"], expected, atol=1e-14)


def test_batches_divide_the_quadratic_term(committee_model):
    model = committee_model("erf", "erf", 2, 1, noise=0.1)
    start = random_start(2, 2, 1)
    flow = dmft.derive(model, dmft.GradientFlow()).evaluate(start)["Q"]
    one = dmft.derive(model, dmft.SGD(0.6)).evaluate(start)["Q"] - flow
    four = dmft.derive(model, dmft.SGD(0.6, batch_size=4)).evaluate(start)["Q"] - flow
    np.testing.assert_allclose(one, 4 * four, atol=1e-14)
