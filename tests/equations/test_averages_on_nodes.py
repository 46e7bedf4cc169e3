"""Averages on nodes: against closed forms, Monte Carlo, compiled code and their own error."""

from dataclasses import replace

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.equations import symbols as x
from dmft.equations.averages.conditioned import sums_inside
from dmft.equations.averages.expectation import At, Expectation
from dmft.equations.averages.nodes import discretise
from dmft.equations.definitions import Definition, ErfSquare
from dmft.equations.update.moments import shared
from dmft.equations.update.overlaps import residual
from dmft.errors import BadParameter, NotClosed
from dmft.gaussian.derivative import derivative
from dmft.model import FIELD as z

ERF = sp.erf(z / sp.sqrt(2))
RELU = sp.Max(0, z)
TARGET = sp.symbols("z1 z2", real=True)


def by_nodes(equations):
    """The same equations with the quadratic term forced to one average."""
    prime = derivative(equations.model.student.activation)
    square = shared(residual(equations.model) ** 2, equations.model)
    average = Expectation(At(prime, x.h[x.j]) * At(prime, x.h[x.l]) * square)
    terms = {"sgd_noise": x.gamma * x.a[x.j] * x.a[x.l] / x.p * average}
    definitions = [
        Definition(d.target, tuple((t, terms.get(t, e)) for t, e in d.terms), d.role)
        for d in equations.definitions
    ]
    return replace(equations, definitions=tuple(definitions))


def compiled_rates(equations, start, **options):
    """Rates by the generated code."""
    problem = dmft.build(equations)
    values = equations.values(start, options)
    y = problem.pack({"Q": start.Q, "M": start.M})
    scalars = {name: values.scalars[name] for name in problem.parameters}
    par = problem.pack_parameters(scalars, values.arrays)
    out = np.empty_like(y)
    widths = np.array([values.widths[name] for name in problem.widths])
    problem.rhs(0.0, y, widths, par, out)
    return problem.unpack(out, values.widths)


def without_neighbours(monkeypatch):
    """Leave quadratic terms of sigmoids to the nodes alone."""
    monkeypatch.setattr("dmft.equations.averages.nodes.neighbours", lambda found: {})
    monkeypatch.setattr("dmft.equations.averages.nodes.mixtures_of", lambda found: ())


def committee(activation, p=3, k=2, teacher=None, noise=0.1):
    student = dmft.Committee(activation, p)
    return dmft.Model(student, dmft.Committee(teacher or activation, k), noise)


@pytest.mark.cases("matched-relu")
@pytest.mark.parametrize("activation", [ERF, RELU], ids=["erf", "relu"])
@pytest.mark.parametrize("teacher", [None, z**2], ids=["matched", "square"])
def test_nodes_meet_closed_forms_within_their_claim(activation, teacher, monkeypatch):
    without_neighbours(monkeypatch)
    model = committee(activation, p=2, k=1, teacher=teacher)
    closed = dmft.derive(model, dmft.SGD(0.7))
    assert not closed.averages
    open_form = by_nodes(closed)
    assert len(open_form.averages) == 1
    start = dmft.random_overlaps(model, dim=12, seed=3)
    exact = closed.evaluate(start)["Q"]
    ratios = []
    for seed in range(4):
        value = open_form.evaluate(start, nodes=512, seed=seed)["Q"]
        error = open_form.evaluate_error(start, nodes=512, seed=seed)["Q"]
        ratios.append((np.abs(value - exact) / error)[np.triu_indices(2)])
        assert np.max(error) < 0.2 * np.max(np.abs(exact))
    # Coverage at 99 % needs the 200 scrambles of test_normal_nodes.py; here a bias would show.
    assert np.max(ratios) < 2
    assert np.mean(np.array(ratios) <= 1) > 0.9
    assert np.median(ratios) < 0.5


@pytest.mark.parametrize(
    "activation",
    [sp.tanh(z), pytest.param(z / (1 + sp.exp(-z)), marks=pytest.mark.slow)],
    ids=["tanh", "silu"],
)
def test_rates_of_open_activations_against_monte_carlo(activation):
    model = committee(activation, p=2, noise=0.2)
    equations = dmft.derive(model, dmft.SGD(0.8))
    assert equations.averages
    assert not equations.open_kernels
    start = dmft.random_overlaps(model, dim=9, seed=1)
    rates, error = equations.evaluate(start), equations.evaluate_error(start)
    mean, deviation = monte_carlo(model, start, 0.8, 100_000)
    for name in ("Q", "M"):
        z_scores = (rates[name] - mean[name]) / np.hypot(deviation[name], error[name] / 2.6)
        assert np.max(np.abs(z_scores)) < 4


def monte_carlo(model, start, learning_rate, samples):
    """Means of the update and their standard deviations, from the definition of one step."""
    sigma, star = (
        sp.lambdify(z, net.activation, "scipy") for net in (model.student, model.teacher)
    )
    slope = sp.lambdify(z, derivative(model.student.activation), "scipy")
    rng = np.random.default_rng(11)
    omega = np.block([[start.Q, start.M], [start.M.T, start.P]])
    fields = np.linalg.cholesky(omega) @ rng.standard_normal((len(omega), samples))
    h, h_star = fields[: start.p], fields[start.p :]
    noise = np.sqrt(float(model.label_noise)) * rng.standard_normal(samples)
    psi = slope(h) * (star(h_star).mean(0) + noise - sigma(h).mean(0))
    gamma = learning_rate / start.p
    q = psi[:, None] * h[None] + h[:, None] * psi[None] + gamma * psi[:, None] * psi[None]
    m = psi[:, None] * h_star[None]
    mean = {"Q": q.mean(-1), "M": m.mean(-1)}
    return mean, {"Q": q.std(-1) / samples**0.5, "M": m.std(-1) / samples**0.5}


@pytest.mark.usefixtures("generated_code")
@pytest.mark.parametrize(
    ("activation", "teacher"),
    [
        (sp.tanh(z), None),
        pytest.param(1 / (1 + sp.exp(-z)), sp.tanh(z), marks=pytest.mark.slow),
        pytest.param(z / (1 + sp.exp(-z)), ERF, marks=pytest.mark.slow),
        (sp.Piecewise((z / 10, z < 1), (z - sp.Rational(9, 10), True)), RELU),
    ],
    ids=["tanh", "sigmoid", "silu", "piecewise"],
)
def test_reference_and_compiled_rates_agree(activation, teacher):
    model = committee(activation, p=2, teacher=teacher)
    equations = dmft.derive(model, dmft.SGD(0.8, constraint="sphere"))
    if activation.has(sp.Piecewise):  # its tables take half a minute
        equations = equations.without("learning", "interaction", "label_noise")
    start = dmft.random_overlaps(model, dim=9, seed=1, normalised=True)
    rates = equations.evaluate(start, nodes=64)
    compiled = compiled_rates(equations, start, nodes=64)
    for name, rate in rates.items():
        np.testing.assert_allclose(compiled[name], rate, atol=1e-13 * np.max(np.abs(rate)))


@pytest.mark.usefixtures("generated_code")
def test_joint_targets_are_averaged_on_nodes():
    model = dmft.Model(
        dmft.Committee(ERF, 2), dmft.MultiIndex(sp.tanh(TARGET[0] + TARGET[1] ** 2), TARGET)
    )
    equations = dmft.derive(model, dmft.SGD(0.8))
    start = dmft.random_overlaps(model, dim=9, seed=1)
    rates = equations.evaluate(start, nodes=64)
    compiled = compiled_rates(equations, start, nodes=64)
    for name, rate in rates.items():
        np.testing.assert_allclose(compiled[name], rate, atol=1e-13)


def test_closed_neighbour_is_the_closed_form_and_takes_the_noise(monkeypatch):
    """One error function of unit scale is the erf committee; three of them are near tanh."""
    model = committee(ERF, noise=0.0)
    closed = dmft.derive(model, dmft.SGD(3.0))
    start = dmft.random_overlaps(model, dim=9, seed=2)
    exact = closed.evaluate(start)["Q"] - closed.without("sgd_noise").evaluate(start)["Q"]
    square = ErfSquare(x.Omega[x.i, x.n], x.c[x.i], x.mixture)
    one = np.array([0.0, 1.0, 1.0, 1.0] * 2)
    omega = np.block([[start.Q, start.M], [start.M.T, start.P]])
    c = np.array([-1 / 3] * 3 + [1 / 2] * 2)
    value = square.matrix({"Omega": omega, "c": c, "mixture": one}, 3)
    np.testing.assert_allclose(value, exact, atol=1e-14)
    tanh = dmft.derive(committee(sp.tanh(z)), dmft.SGD(3.0))
    assert any(isinstance(d.expr, ErfSquare) for d in tanh.on_nodes)
    error = tanh.evaluate_error(start, nodes=512)["Q"]
    without_neighbours(monkeypatch)
    plain = dmft.derive(committee(sp.tanh(z)), dmft.SGD(3.0))
    rough = plain.evaluate_error(start, nodes=512)["Q"]
    assert np.max(error) < np.max(rough) / 20


def test_parameters_inside_activations_are_averaged_on_nodes():
    """tanh(b h) with a number for b at run time: sums over a grid of both fields."""
    b = sp.Symbol("b", real=True)
    model = dmft.Model(dmft.Committee(sp.tanh(b * z), 1), dmft.Committee(sp.tanh(z), 1))
    equations = dmft.derive(model, dmft.SGD(0.5))
    start = dmft.Overlaps(Q=[[0.5]], M=[[0.1]], P=[[1.0]])
    t, step = np.linspace(-9.0, 9.0, 601, retstep=True)
    weight = step * np.exp(-(t**2) / 2) / np.sqrt(2 * np.pi)
    h = np.sqrt(0.5) * t[:, None]
    y = 0.2 * h + np.sqrt(1 - 0.02) * t
    for value in (2.0, 0.7):
        error, slope = np.tanh(y) - np.tanh(value * h), value / np.cosh(value * h) ** 2
        drift = weight @ (error * slope * y) @ weight
        growth = weight @ (2 * error * slope * h + 0.5 * (error * slope) ** 2) @ weight
        rates, claim = equations.evaluate(start, b=value), equations.evaluate_error(start, b=value)
        assert abs(rates["M"][0, 0] - drift) <= claim["M"][0, 0] < 1e-3
        assert abs(rates["Q"][0, 0] - growth) <= claim["Q"][0, 0] < 1e-3


def by_quadrature(model, start, points=120):
    """dQ/dt of two students and one teacher, by Gauss-Hermite quadrature of its definition."""
    axis, weight = np.polynomial.hermite_e.hermegauss(points)
    weight = weight / weight.sum()
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij")).reshape(3, -1)
    weights = np.einsum("i,j,k->ijk", weight, weight, weight).ravel()
    h = np.linalg.cholesky(start.Omega) @ grid
    student, slope = (
        sp.lambdify(z, f, "scipy")
        for f in (model.student.activation, sp.diff(model.student.activation, z))
    )
    teacher = sp.lambdify(z, model.teacher.activation, "scipy")
    error = teacher(h[2]) - (student(h[0]) + student(h[1])) / 2
    psi = slope(h[:2])
    drift = np.einsum("q,q,jq,lq->jl", weights, error, psi, h[:2])
    noise = np.einsum("q,q,jq,lq->jl", weights, error**2 + float(model.label_noise), psi, psi)
    return drift + drift.T, noise


@pytest.mark.cases(1)
@pytest.mark.usefixtures("generated_code")
@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        (sp.tanh(z), 1 / (1 + sp.exp(-2 * z))),
        (2 * sp.atan(sp.tanh(z / 2)), None),
        (sp.tanh(z), ERF),
    ],
)
def test_sums_of_error_functions_take_the_place_of_nodes(student, teacher):
    """Within their claim of the definition, and to 1e-9 with the longest sums."""
    model = committee(student, p=2, k=1, teacher=teacher)
    rate = 0.7
    equations = dmft.derive(model, dmft.SGD(rate))
    start = dmft.Overlaps([[1.2, 0.3], [0.3, 0.8]], [[0.4], [-0.2]], [[1.0]])
    drift, noise = by_quadrature(model, start)
    exact = drift + rate * noise / 2
    for terms in (5, 7, None):
        value = equations.evaluate(start, nodes=terms)["Q"]
        claim = equations.evaluate_error(start, nodes=terms)["Q"]
        assert np.all(np.abs(value - exact) <= claim + 1e-9)
        assert np.max(claim) < {5: 1e-4, 7: 3e-6, None: 1e-7}[terms]
        np.testing.assert_allclose(
            compiled_rates(equations, start, nodes=terms)["Q"], value, atol=1e-13
        )
    run = dmft.solve(equations, start, t_max=2.0, progress=False)
    assert "error functions" in run.provenance["quadrature_rule"]
    assert run.provenance["quadrature_tol_met"]
    with pytest.raises(BadParameter, match="4 to 9 terms"):
        equations.evaluate(start, nodes=2)


@pytest.mark.slow
def test_lattices_know_which_integrands_are_even():
    """Half of the nodes are enough for tanh - tanh, not where a sign of all fields matters."""
    start = dmft.Overlaps([[1.2, 0.3], [0.3, 0.8]], [[0.4], [-0.2]], [[1.0]])
    softplus = committee(sp.log(1 + sp.exp(z)), p=2, k=1)
    equations = dmft.derive(softplus, dmft.SGD(0.7))
    assert equations.rule(start, {}).kind == "lattice"
    drift, noise = by_quadrature(softplus, start)
    claim = equations.evaluate_error(start)["Q"]
    assert np.all(np.abs(equations.evaluate(start)["Q"] - drift - 0.35 * noise) <= claim + 1e-9)
    even = committee(sp.tanh(z), p=2, k=1, teacher=sp.tanh(z) ** 3)
    half = dmft.derive(even, dmft.SGD(0.7))
    sizes = [e.rule(start, {"nodes": 12}).weight.size for e in (half, equations)]
    assert 2 * sizes[0] - 1 == sizes[1]


@pytest.mark.slow
def test_claims_of_sums_of_error_functions_cover():
    equations = dmft.derive(committee(sp.tanh(z), p=2, k=2), dmft.SGD(2.0))
    for seed in range(12):
        start = dmft.random_overlaps(equations.model, dim=6, seed=seed)
        best = equations.evaluate(start)["Q"]
        for terms in (5, 6):
            error = np.abs(equations.evaluate(start, nodes=terms)["Q"] - best)
            assert np.all(error <= equations.evaluate_error(start, nodes=terms)["Q"] + 1e-12)


def test_a_tolerance_beyond_the_longest_sum_takes_nodes():
    from dmft.workflow.solving.quadrature import next_count

    equations = dmft.derive(committee(sp.tanh(z), p=2, k=1), dmft.SGD(0.5))
    start = dmft.Overlaps(np.eye(2), [[0.1], [0.2]], [[1.0]])
    rules = [equations.rule(start, {"nodes": count}) for count in (5, 9)]
    assert next_count(rules[0], 5, 1e-4, 1e-5) == 7
    assert next_count(rules[0], 5, 1e-4, 1e-12) == 9
    assert equations.rule(start, {"nodes": next_count(rules[1], 9, 1e-9, 1e-12)}).kind == "sobol"


def test_a_search_takes_long_steps_where_the_error_falls_slowly():
    from dmft.gaussian.nodes.rules import tensor_rule
    from dmft.workflow.solving.quadrature import next_count

    rule = tensor_rule(2, 48)
    assert next_count(rule, 48, 1e-2, 1e-5) == 96
    assert next_count(rule, 48, 1e-2, 1e-5, before=(24, 1.0)) == 96  # by the power 6.6
    assert next_count(rule, 48, 1e-2, 1e-5, before=(24, 0.16)) == 48 * 6  # by the power 4
    assert next_count(rule, 48, 1e-4, 1e-5, before=(24, 1.6e-3)) == np.ceil(48 * 15**0.25)
    assert next_count(rule, 48, np.inf, 1e-5, before=(24, 1.0)) == 96


@pytest.mark.usefixtures("generated_code")
def test_perfect_recovery_has_a_root_and_no_noise():
    model = committee(sp.tanh(z), p=2, k=2, noise=0.0)
    equations = dmft.derive(model, dmft.SGD(0.8))
    same = dmft.Overlaps(np.eye(2), np.eye(2), np.eye(2))
    for rates in (equations.evaluate(same, nodes=64), compiled_rates(equations, same, nodes=64)):
        assert np.max(np.abs(rates["Q"])) < 1e-12


def test_gradient_flow_and_closed_models_need_no_nodes():
    tanh = committee(sp.tanh(z))
    flow = dmft.derive(tanh, dmft.GradientFlow())
    assert not flow.averages
    assert flow.on_nodes == flow.definitions
    assert not dmft.derive(tanh, dmft.SGD(0.5)).without("sgd_noise").averages
    for activation in (ERF, z**3 - 3 * z, RELU):
        closed = dmft.derive(committee(activation), dmft.SGD(0.5))
        assert closed.approximation == "exact"
        start = dmft.random_overlaps(closed.model, dim=9, seed=1)
        with pytest.raises(BadParameter, match="nodes"):
            closed.evaluate(start, nodes=64)


def test_tensor_rule_in_two_dimensions_is_far_more_accurate():
    model = committee(sp.log(1 + sp.exp(z)), p=1, k=1)
    equations = dmft.derive(model, dmft.SGD(0.5))
    start = dmft.Overlaps([[0.8]], [[0.3]], [[1.0]])
    assert equations.rule(start, {}).kind == "gauss-hermite"
    coarse = equations.evaluate(start, nodes=32)["Q"]
    assert np.abs(coarse - equations.evaluate(start)["Q"]) < 1e-9
    kinked = dmft.derive(committee(sp.Max(0, z - 1), p=1, k=1), dmft.SGD(0.5))
    assert kinked.rule(start, {}).kind == "sobol"


def test_averages_print_and_refuse():
    equations = dmft.derive(committee(sp.tanh(z)), dmft.SGD(0.5))
    assert "⟨σ'(h[j]) σ'(h[l]) [1/k Σ_r σ(h*[r]) - 1/p Σ_u σ(h[u])]²⟩" in str(equations)
    assert r"\sigma'(z_{1})\,\sigma'(z_{2})" in equations.latex()
    assert "error estimated" in equations.approximation
    assert 0 < equations.error < 1e-9
    with pytest.raises(BadParameter, match=r"average .* none.* on nodes: .* dmft\.solve"):
        equations.explicit(1, 1)
    start = dmft.random_overlaps(equations.model, dim=9, seed=1)
    for wrong in ({"nodes": 100}, {"nodes": 64, "replicas": 1}, {"seed": -1}):
        with pytest.raises(BadParameter):
            equations.evaluate(start, **wrong)
    jump = Expectation(sp.DiracDelta(x.h[x.j]))
    with pytest.raises(NotClosed, match="Dirac"):
        discretise([Definition(x.risk, (("risk", jump),), "observable")])


def test_sums_over_neurons_go_inside():
    inner = Expectation(x.h[x.j] * x.h[x.u])
    moved = sums_inside(sp.Sum(x.a[x.u] * inner, (x.u, 1, x.p)) / x.p)
    total = sp.Sum(x.a[x.u] * x.h[x.u], (x.u, 1, x.p))
    assert moved.atoms(Expectation) == {Expectation(x.h[x.j] * total)}
