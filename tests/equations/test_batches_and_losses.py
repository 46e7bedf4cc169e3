"""Large-batch maps, correlation loss, trained readouts and batch exponents against the vectors."""

import json
from pathlib import Path

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.literature import saad_solla

z = sp.Symbol("z", real=True)
ACTIVATIONS = {"erf": sp.erf(z / sp.sqrt(2)), "relu": sp.Max(0, z), "square": z**2, "he2": z**2 - 1}
VECTORS = json.loads(
    (Path(__file__).parent.parent / "reference" / "batches_and_losses.json").read_text()
)
LOSSES = {"square": "squared", "corr": "correlation"}
CONSTRAINTS = {"free": None, "projected": "sphere", "sphgrad": "sphere-gradient"}


def model_of(case, readout=None):
    activation = ACTIVATIONS[case["act"]]
    width = len(case["Q0"] if "Q0" in case else case["Q"])
    student = dmft.Committee(activation, width)
    teacher = dmft.Committee(activation, len(case["P"]), readout=readout)
    return dmft.Model(student, teacher, label_noise=case["Delta"])


@pytest.mark.parametrize("case", VECTORS["moments_and_free_rhs"], ids=lambda c: c["name"])
def test_rates_of_weights_and_of_the_readout(case):
    model = model_of(case, case["astar"])
    loss = LOSSES[case["loss"]]
    algorithm = dmft.SGD(case["gamma"], batch_size=case["nb"], loss=loss, readout_rate=0.5)
    start = dmft.Overlaps(case["Q"], case["M"], case["P"], readout=case["a"])
    rates = dmft.derive(model, algorithm).evaluate(start)
    np.testing.assert_allclose(rates["M"], case["dM"], atol=1e-13)
    np.testing.assert_allclose(rates["Q"], case["dQ"], atol=1e-13)
    np.testing.assert_allclose(rates["readout"], 0.5 * np.array(case["A"]), atol=1e-13)


@pytest.mark.cases(2)
@pytest.mark.parametrize("case", VECTORS["large_batch_map"], ids=lambda c: c["mode"])
def test_map_gives_the_steps(case, solve):
    algorithm = dmft.SGD(
        case["gamma"], batch_size=case["nb"], loss=LOSSES[case["loss"]],
        constraint=CONSTRAINTS[case["mode"]],
    )  # fmt: skip
    equations = dmft.derive(model_of(case), algorithm, dim=case["d"])
    start = dmft.Overlaps(case["Q0"], case["M0"], case["P"])
    step = equations.evaluate(start)
    np.testing.assert_allclose(start.M + step["M"], case["steps"][0]["M"], atol=1e-14)
    run = solve(equations, start, t_max=len(case["steps"]))
    for n, truth in enumerate(case["steps"], start=1):
        np.testing.assert_allclose(run.Q[n], truth["Q"], atol=1e-13)
        np.testing.assert_allclose(run.M[n], truth["M"], atol=1e-13)


def test_a_map_counts_its_steps_and_samples():
    """And compiled code makes the steps too."""
    case = VECTORS["large_batch_map"][0]
    algorithm = dmft.SGD(
        case["gamma"], batch_size=case["nb"], loss=LOSSES[case["loss"]],
        constraint=CONSTRAINTS[case["mode"]],
    )  # fmt: skip
    equations = dmft.derive(model_of(case), algorithm, dim=case["d"])
    start = dmft.Overlaps(case["Q0"], case["M0"], case["P"])
    run = dmft.solve(equations, start, t_max=len(case["steps"]))
    np.testing.assert_allclose(run.Q[-1], case["steps"][-1]["Q"], atol=1e-13)
    np.testing.assert_array_equal(run.steps(case["d"]), run.t)
    np.testing.assert_array_equal(run.samples(case["d"]), case["nb"] * run.t)


def test_run_with_a_trained_readout(solve):
    case = VECTORS["trained_readout"]
    start = dmft.Overlaps(case["Q0"], case["M0"], case["P"], readout=case["a0"])
    algorithm = dmft.SGD(case["gamma"], readout_rate=case["rho_a"])
    equations = dmft.derive(model_of(case, case["astar"]), algorithm)
    run = solve(equations, start, case["t"][-1], save_at=case["t"], rtol=1e-10, atol=1e-12)
    for name, key in (("Q", "Q"), ("M", "M"), ("readout", "a"), ("risk", "risk")):
        np.testing.assert_allclose(getattr(run, name), case[key], atol=1e-9)


def test_gram_matrix_is_b_omega_pseudoinverse_b_also_where_omega_is_singular():
    model = saad_solla(2, 2)
    # Both students are the same vector: Omega has rank 3.
    start = dmft.Overlaps([[0.9, 0.9], [0.9, 0.9]], [[0.3, 0.1], [0.3, 0.1]], np.eye(2))
    gamma, dim, batch = 700.0, 1000, 1500
    full = dmft.derive(model, dmft.SGD(gamma, batch_size=batch), dim=dim)
    rest = full.without("population_gradient")
    gram = full.evaluate(start)["Q"] - rest.evaluate(start)["Q"]
    # b from the rates of gradient flow: B* and, through a tilted teacher, B by its symmetric part;
    # identical students make B symmetric, B + B^T = 2 B.
    flow = dmft.derive(model, dmft.GradientFlow()).evaluate(start)
    b = np.hstack([flow["Q"] / 2, flow["M"]])
    exact = b @ np.linalg.pinv(start.Omega, rcond=1e-12) @ b.T
    scale = (gamma / (2 * dim)) ** 2 * (1 - 1 / batch)
    np.testing.assert_allclose(gram, scale * exact, atol=1e-14)


def test_batches_may_be_powers_of_the_dimension():
    d = sp.Symbol("d")
    model, start = saad_solla(2, 2), dmft.Overlaps(np.eye(2), 0.2 * np.eye(2), np.eye(2))
    power = dmft.derive(model, dmft.SGD(d / 2, batch_size=d ** sp.Rational(3, 2)), dim=100)
    plain = dmft.derive(model, dmft.SGD(50, batch_size=1000), dim=100)
    np.testing.assert_allclose(power.evaluate(start)["Q"], plain.evaluate(start)["Q"], rtol=1e-13)
    other = dmft.derive(model, dmft.SGD(200, batch_size=8000), dim=400).evaluate(start)
    np.testing.assert_allclose(power.evaluate(start, dim=400)["Q"], other["Q"], rtol=1e-13)
    with pytest.raises(dmft.errors.BadParameter, match="dim="):
        dmft.derive(model, dmft.SGD(1, batch_size=d**2))
    with pytest.raises(dmft.errors.BadParameter, match="batch_size = 1"):
        dmft.derive(model, dmft.SGD(1), dim=100)
    small = dmft.derive(model, dmft.SGD(1000, batch_size=2), dim=100)
    with pytest.raises(dmft.errors.BadParameter, match="too small for the map"):
        small.evaluate(start)


def test_map_prints_its_gram_matrix_and_its_increments():
    equations = dmft.derive(saad_solla(2, 2), dmft.SGD(500, batch_size=1000), dim=1000)
    text = equations.latex()
    assert r"\left(b\,\Omega^{+}b^{\top}\right)_{j l}" in text
    assert r"\Delta M_{j r} &=" in text
    assert {"sgd_noise", "population_gradient"} <= set(equations.terms["Q"])


@pytest.mark.parametrize("case", VECTORS["batch_exponents"], ids=lambda c: f"{c['l']}-{c['mu']}")
def test_exponents(case):
    for loss, key in (("squared", "theta_sgd"), ("correlation", "theta_corr")):
        steps, samples = dmft.batch_exponents(case["l"], loss).at(case["mu"])
        assert float(steps) == case[key]
        assert float(samples) == case[key] + case["mu"]


def test_optimal_batches_waste_no_sample():
    for order in (2, 3, 4, 5):
        assert dmft.batch_exponents(order).optimal_batch == sp.Rational(order, 2)
        assert dmft.batch_exponents(order, "correlation").optimal_batch == order - 1
    assert dmft.batch_exponents(1).optimal_batch == 1


def test_exponents_are_accepted_as_computed():
    z = sp.Symbol("z", real=True)
    cubic = dmft.information_exponent(z**3 - 3 * z, z)
    assert dmft.batch_exponents(cubic) == dmft.batch_exponents(3)
    never = dmft.information_exponent(sp.S.One, z)
    with pytest.raises(dmft.errors.BadParameter, match="exponent = oo must be an integer >= 1"):
        dmft.batch_exponents(never)


def test_map_of_a_joint_target_by_the_definition():
    """No factor of this target is a function of one field: b and its Gram matrix by quadrature."""
    y, u, v = sp.symbols("y u v", real=True)
    gamma, batch, dim, noise = 500.0, 2000, 1000, 0.1
    student = dmft.Committee(sp.erf(y / sp.sqrt(2)), 2)
    target = dmft.MultiIndex(sp.tanh(u / 2 + u * v / 4), [u, v])
    equations = dmft.derive(
        dmft.Model(student, target, noise), dmft.SGD(gamma, batch_size=batch), dim=dim
    )
    start = dmft.Overlaps([[1, 0.2], [0.2, 0.8]], [[0.3, 0.1], [-0.1, 0.4]], np.eye(2))
    nodes, weights = np.polynomial.hermite_e.hermegauss(22)
    normal, weight = (
        np.array(np.meshgrid(*[part] * 4, indexing="ij")).reshape(4, -1)
        for part in (nodes, weights / weights.sum())
    )
    weight = weight.prod(axis=0)
    omega = np.block([[start.Q, start.M], [start.M.T, np.eye(2)]])
    field = np.linalg.cholesky(omega) @ normal
    from scipy.special import erf

    residual = np.tanh(field[2] / 2 + field[2] * field[3] / 4) - erf(field[:2] / np.sqrt(2)).mean(
        axis=0
    )
    slope = np.sqrt(2 / np.pi) * np.exp(-(field[:2] ** 2) / 2)
    b = (weight * slope * residual) @ field.T
    S = (weight * slope * (residual**2 + noise)) @ slope.T
    step = gamma / dim / 2
    gram = (1 - 1 / batch) * b @ np.linalg.solve(omega, b.T) + dim / batch * S
    found = equations.evaluate(start)
    np.testing.assert_allclose(found["M"], step * b[:, 2:], atol=2e-7)
    np.testing.assert_allclose(
        found["Q"], step * (b[:, :2] + b[:, :2].T) + step**2 * gram, atol=2e-7
    )
    kinked = dmft.Model(dmft.Committee(sp.Max(0, y), 2), target)
    with pytest.raises(dmft.errors.NotClosed, match="are singular at kinks"):
        dmft.derive(kinked, dmft.SGD(gamma, batch_size=batch), dim=dim)
