"""Wide students: against recorded rates, the full equations at flat overlaps, and quadrature."""

import json
from pathlib import Path

import numpy as np
import pytest
import sympy as sp
from scipy.integrate import quad

import dmft

z = sp.Symbol("z", real=True)
ERF, RELU = sp.erf(z / sp.sqrt(2)), sp.Max(0, z)
P = np.array([[1.0, 0.15], [0.15, 0.8]])
M = np.array([[0.3, -0.1], [0.05, 0.4], [0.2, 0.1]])
RESIDUAL = np.array([0.8, 0.6, 0.9])
VECTORS = json.loads(
    (Path(__file__).parents[1] / "reference" / "wide_students.json").read_text("utf-8")
)


def flat(rows=3):
    """Start with orthogonal residuals."""
    m = M[:rows]
    return dmft.Overlaps(m @ np.linalg.inv(P) @ m.T + np.diag(RESIDUAL[:rows]), m, P)


def committee(student, teacher, rows=3):
    readout = [1.2, -0.7, 0.4][:rows]
    return dmft.Model(dmft.Committee(student, rows, readout), dmft.Committee(teacher, 2), 0.3)


z1, z2 = sp.symbols("z1 z2", real=True)
MODELS = {
    "erf": committee(ERF, ERF),
    "square": committee(z**2, z**2),
    "cubic": committee(z**3 - z, z**2),
    "relu": committee(RELU, RELU),
    "tanh": committee(sp.tanh(z), ERF),
    "joint": dmft.Model(dmft.Committee(ERF, 3), dmft.MultiIndex(z1 * z2, [z1, z2])),
}


@pytest.mark.parametrize("case", VECTORS, ids=["infinite dimension", "d - k = 100"])
def test_recorded_rates(case, solve):
    model = dmft.Model(dmft.Committee(ERF, 3), dmft.Committee(ERF, 2))
    n = case["d_minus_k"]
    eqs = dmft.derive(
        model, dmft.GradientFlow(), scaling="mean-field", dim=None if n is None else n + 2
    )
    rates = eqs.evaluate(flat())
    np.testing.assert_allclose(rates["M"], case["dM"], rtol=0, atol=1e-15)
    np.testing.assert_allclose(rates["Q_perp"], case["dQperp"], rtol=0, atol=1e-15)
    run = solve(eqs, flat(), t_max=0.1)
    assert run.risk[0] == pytest.approx(case["risk"], abs=1e-15)


@pytest.mark.cases(4)
@pytest.mark.parametrize("name", MODELS)
def test_rates_are_those_of_the_full_equations_at_flat_overlaps(name):
    model, start = MODELS[name], flat()
    wide = dmft.derive(model, dmft.GradientFlow(), scaling="mean-field").evaluate(start)
    full = dmft.derive(model, dmft.GradientFlow()).evaluate(start)
    outside = np.diag(full["Q"] - 2 * full["M"] @ np.linalg.inv(P) @ start.M.T)
    np.testing.assert_allclose(wide["M"], full["M"], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(wide["Q_perp"], outside, rtol=1e-9, atol=1e-12)


def test_correlation_loss_sphere_and_readout_are_those_of_the_full_equations():
    model = committee(ERF, z**2 - 1)
    free = flat()
    length = np.sqrt(np.diag(free.Q))
    unit = dmft.Overlaps(free.Q / np.outer(length, length), free.M / length[:, None], P)
    algorithm = dmft.SGD(1e-12, loss="correlation", constraint="sphere", readout_rate=0.7)
    wide = dmft.derive(model, algorithm, scaling="mean-field").evaluate(unit)
    full = dmft.derive(model, algorithm, scaling="gradient-flow").evaluate(unit)
    outside = np.diag(full["Q"] - 2 * full["M"] @ np.linalg.inv(P) @ unit.M.T)
    for name, value in {"M": full["M"], "Q_perp": outside, "readout": full["readout"]}.items():
        np.testing.assert_allclose(wide[name], value, rtol=0, atol=1e-11)


@pytest.mark.cases("erf")
@pytest.mark.parametrize("name", ["erf", "square"])
def test_two_residuals_are_averaged_over_their_cosine(name):
    # For p = 2 there is one cosine: the full equations averaged over it by quadrature.
    n = 5
    activation = {"erf": ERF, "square": z**2}[name]
    model, start = committee(activation, activation, rows=2), flat(2)
    full = dmft.derive(model, dmft.GradientFlow())
    inverse, root = np.linalg.inv(P), np.sqrt(RESIDUAL[0] * RESIDUAL[1])

    def at(cosine):
        Q = start.Q + cosine * root * np.array([[0.0, 1.0], [1.0, 0.0]])
        here = dmft.Overlaps(Q, start.M, P)
        rates = full.evaluate(here)
        outside = np.diag(rates["Q"] - 2 * rates["M"] @ inverse @ start.M.T)
        risk = dmft.population_risk(model)(Q, start.M, P, [1.2, -0.7])
        return np.concatenate([rates["M"].ravel(), outside, [risk]])

    # (1 - z^2)^((n - 3)/2) is a polynomial at n = 5: Gauss-Legendre is exact up to its nodes.
    nodes, weights = np.polynomial.legendre.leggauss(14)
    weights = weights * (1 - nodes**2) ** ((n - 3) / 2)
    weights /= quad(lambda c: (1 - c**2) ** ((n - 3) / 2), -1, 1)[0]
    expected = sum(w * at(c) for c, w in zip(nodes, weights, strict=True))
    eqs = dmft.derive(model, dmft.GradientFlow(), scaling="mean-field", dim=n + 2)
    rates = eqs.evaluate(start)
    found = np.concatenate([rates["M"].ravel(), rates["Q_perp"]])
    np.testing.assert_allclose(found, expected[:-1], rtol=0, atol=1e-12)
    run = dmft.solve(eqs, start, t_max=0.01)
    assert run.risk[0] == pytest.approx(expected[-1], abs=1e-12)


@pytest.mark.slow
def test_squared_activations_cost_a_number_linear_in_the_width():
    # p = 10^6: the p^2 pairs would be 10^12 operations.
    model = dmft.Model(dmft.Committee(z**2, sp.Symbol("p")), dmft.Committee(z**2, 1))
    problem = dmft.build(dmft.derive(model, dmft.GradientFlow(), scaling="mean-field"))
    p = 10**6
    y, out = np.ones(2 * p), np.empty(2 * p)
    par = np.concatenate([[1.0], np.ones(p), [1.0], [1.0]])
    problem.rhs(0.0, y, np.array([p, 1]), par, out)
    # dM = 2 [(1 - tr Q/p) M + 2 (M P - Q M / p)] with Q = M M^T + I (theory/one_pass B.2, B.4).
    assert out[0] == pytest.approx(2 * ((1 - 2) + 2 * (1 - (p + 1) / p)), rel=1e-12)


def test_where_the_closure_fails_is_said():
    model = committee(z**2, z**2)
    with pytest.warns(dmft.ClosureWarning, match="gamma"):
        run = dmft.solve(
            dmft.derive(model, dmft.SGD(0.6), scaling="mean-field"), flat(), t_max=0.01
        )
    assert "gamma/p" in run.provenance["approximation"]
    assert "1/p" in run.provenance["approximation"]
    eqs = dmft.derive(model, dmft.GradientFlow(), scaling="mean-field", dim=3)
    with pytest.raises(dmft.errors.BadParameter, match="two dimensions"):
        eqs.evaluate(flat())
    with pytest.raises(dmft.errors.BadParameter, match="explicit"):
        eqs.explicit()


@pytest.mark.slow
def test_a_wide_square_network_follows_the_full_gradient_flow():
    model = dmft.Model(dmft.Committee(z**2, 400), dmft.Committee(z**2, 2))
    start = dmft.random_overlaps(model, dim=200, seed=0)
    times = np.linspace(0, 6, 25)
    wide, full = (
        dmft.solve(dmft.derive(model, dmft.GradientFlow(), **how), start, 6.0, save_at=times)
        for how in ({"scaling": "mean-field", "dim": 200}, {})
    )
    assert np.abs(wide.risk - full.risk).max() < 5e-3
    assert abs(wide.risk[0] - full.risk[0]) < 1e-3


@pytest.mark.slow
def test_the_error_for_erf_halves_with_the_width():
    gaps = []
    for p in (15, 30, 60):
        model = dmft.Model(dmft.Committee(ERF, p), dmft.Committee(ERF, 2))
        start = dmft.random_overlaps(model, dim=2000, seed=1)
        wide = dmft.solve(
            dmft.derive(model, dmft.GradientFlow(), scaling="mean-field", dim=2000), start, 20.0
        )
        full = dmft.solve(dmft.derive(model, dmft.GradientFlow()), start, 20.0)
        outside = np.diag(full.Q[-1]) - (full.M[-1] ** 2).sum(axis=1)
        gaps.append(np.abs(wide.Q_perp[-1] - outside).mean())
    ratios = np.divide(gaps[:-1], gaps[1:])
    assert np.all((ratios > 1.5) & (ratios < 2.7)), gaps


def test_runs_on_the_sphere_end_without_an_array_of_overlaps():
    square = sp.Symbol("z", real=True) ** 2
    model = dmft.Model(dmft.Committee(square, 4), dmft.Committee(square, 2))
    equations = dmft.derive(model, dmft.GradientFlow(constraint="sphere"), scaling="mean-field")
    start = dmft.random_overlaps(model, 40, seed=1, normalised=True)
    run = dmft.solve(equations, start, t_max=0.1)
    assert str(run.status) == "ok"
    lengths = run["Q_perp"] + np.sum(run["M"] ** 2, axis=2)  # P = I
    np.testing.assert_allclose(lengths, 1.0, rtol=1e-7)
