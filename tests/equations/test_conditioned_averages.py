"""Averages with multi-index targets: students integrated out, against nodes for all fields."""

import subprocess
import sys

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.equations.averages import nodes as node_module
from dmft.equations.averages.conditioned import conditioned
from dmft.equations.averages.expectation import At, Expectation
from dmft.equations.symbols import h, h_star, j, l, lam, u
from dmft.model import FIELD as z

ERF, RELU, TANH = sp.erf(z / sp.sqrt(2)), sp.Max(z, 0), sp.tanh(z)
Z1, Z2 = sp.symbols("z1 z2", real=True)
TARGET = sp.tanh(Z1 + Z2**3 - 3 * Z2)


def equations_of(activation, algorithm=None, target=TARGET):
    model = dmft.Model(dmft.Committee(activation, 2), dmft.MultiIndex(target, [Z1, Z2]), 0.01)
    return dmft.derive(model, algorithm or dmft.SGD(0.5))


def by_sampling(equations, start, samples):
    """Mean update of one step and its standard error, from the definition."""
    model = equations.model
    sigma = model.student.activation
    value = {ERF: sp.lambdify(z, ERF, "scipy"), RELU: lambda x: np.maximum(x, 0), TANH: np.tanh}
    slope = {
        ERF: lambda x: np.sqrt(2 / np.pi) * np.exp(-0.5 * x * x),
        RELU: lambda x: 1.0 * (x > 0),
        TANH: lambda x: 1 - np.tanh(x) ** 2,
    }
    rng = np.random.default_rng(8)
    fields = np.linalg.cholesky(start.Omega) @ rng.standard_normal((4, samples))
    y, a, b = fields[:2], fields[2], fields[3]
    noise = 0.1 * rng.standard_normal(samples)
    error = np.tanh(a + b**3 - 3 * b) + noise - value[sigma](y).mean(axis=0)
    psi = slope[sigma](y) * error
    q = psi[:, None] * y + y[:, None] * psi + 0.25 * psi[:, None] * psi
    m = psi[:, None] * fields[None, 2:]
    return {n: (v.mean(-1), v.std(-1) / samples**0.5) for n, v in (("Q", q), ("M", m))}


@pytest.mark.usefixtures("generated_code")
@pytest.mark.parametrize(
    ("activation", "options"),
    [
        (ERF, {"nodes": 192}),
        pytest.param(RELU, {"nodes": 1024}, marks=pytest.mark.slow),
        pytest.param(TANH, {"nodes": 256}, marks=pytest.mark.slow),
    ],
    ids=["erf", "relu", "tanh"],
)
def test_rates_of_a_steep_target_against_samples_and_compiled_code(activation, options):
    equations = equations_of(activation)
    start = dmft.random_overlaps(equations.model, dim=12, seed=3)
    rates = equations.evaluate(start, **options)
    error = equations.evaluate_error(start, **options)
    sampled = by_sampling(equations, start, 100_000)
    for name, (mean, deviation) in sampled.items():
        gap = np.abs(rates[name] - mean)
        assert np.max(gap / np.hypot(deviation, error[name] / 2.6)) < 4
    problem = dmft.build(equations)
    values = equations.values(start, options)
    out = np.empty(8)
    state = problem.pack({"Q": start.Q, "M": start.M})
    scalars = {name: values.scalars[name] for name in problem.parameters}
    par = problem.pack_parameters(scalars, values.arrays)
    widths = np.array([values.widths[name] for name in problem.widths])
    problem.rhs(0.0, state, widths, par, out)
    compiled = problem.unpack(out, values.widths)
    for name, rate in rates.items():
        np.testing.assert_allclose(compiled[name], rate, atol=2e-10)


def test_erf_students_need_the_dimensions_of_the_target_alone():
    equations = equations_of(ERF)
    start = dmft.random_overlaps(equations.model, dim=12, seed=3)
    assert "in 2 dimensions" in equations.rule(start, {}).label
    exact = equations.evaluate(start, nodes=512)
    value = equations.evaluate(start, nodes=192)
    claimed = equations.evaluate_error(start, nodes=192)
    for name in ("Q", "M"):
        assert np.max(claimed[name]) < 1e-8
        assert np.all(np.abs(value[name] - exact[name]) <= claimed[name] + 1e-14)


def test_the_number_is_the_same_on_nodes_for_all_fields(monkeypatch):
    equations = equations_of(ERF)
    start = dmft.random_overlaps(equations.model, dim=12, seed=3)
    exact = equations.evaluate(start, nodes=192)
    monkeypatch.setattr(node_module, "conditioned", lambda average: None)
    monkeypatch.setattr(node_module, "over_teachers", lambda found: False)
    plain = equations_of(ERF)
    value, error = (f(start, nodes=4096) for f in (plain.evaluate, plain.evaluate_error))
    for name in ("Q", "M"):
        assert np.max(error[name]) > 1e-6
        assert np.all(np.abs(value[name] - exact[name]) <= 1.5 * error[name])


@pytest.mark.parametrize("activation", [ERF, RELU], ids=["erf", "relu"])
def test_students_that_the_teacher_determines_have_finite_rates(activation):
    equations = equations_of(activation)
    inside = dmft.Overlaps(Q=np.eye(2), M=np.eye(2), P=np.eye(2))
    equal = dmft.Overlaps(Q=np.ones((2, 2)), M=0.4 * np.ones((2, 2)), P=np.eye(2))
    for start in (inside, equal):
        rates = equations.evaluate(start, nodes=256)
        assert all(np.isfinite(rate).all() for rate in rates.values())
    near = dmft.Overlaps(Q=np.eye(2), M=(1 - 1e-9) * np.eye(2), P=np.eye(2))
    rates = [equations.evaluate(start, nodes=256)["M"] for start in (inside, near)]
    np.testing.assert_allclose(*rates, atol=2e-3 if activation is RELU else 1e-6)


def test_kinks_of_equal_students_have_rates():
    """E[psi_j psi_l] of slopes with kinks, j = l among them, against samples."""
    half = z * RELU / 2
    model = dmft.Model(dmft.Committee(half, 2), dmft.MultiIndex(TARGET, [Z1, Z2]))
    equations = dmft.derive(model, dmft.SGD(0.5, loss="correlation"))
    start = dmft.random_overlaps(model, dim=12, seed=3)
    rates, claims = equations.evaluate(start), equations.evaluate_error(start)
    rng = np.random.default_rng(0)
    y, (a, b) = np.split(np.linalg.cholesky(start.Omega) @ rng.standard_normal((4, 100_000)), 2)
    psi = np.maximum(y, 0) * np.tanh(a + b**3 - 3 * b)
    q = psi[:, None] * y + y[:, None] * psi + 0.25 * psi[:, None] * psi
    for name, each in (("Q", q), ("M", psi[:, None] * np.array([a, b]))):
        error = np.hypot(each.std(-1) / 100_000**0.5, claims[name] / 2.6)
        assert np.max(np.abs(rates[name] - each.mean(-1)) / error) < 4


def test_what_is_conditioned():
    target = sp.tanh(h_star[1] * h_star[2])
    step = sp.Heaviside(z)
    assert conditioned(Expectation(At(step, h[j]) * lam[sp.Symbol("i", integer=True)] * target))
    assert conditioned(Expectation(At(step, h[j]) * At(step, h[l]) * target**2))
    assert conditioned(Expectation(At(TANH, h[j]) * target))
    assert conditioned(Expectation(At(TANH, h[j]) * At(TANH, h[l]) * target)) is None
    assert (
        conditioned(Expectation(At(step, h[j]) * At(step, h[l]) * At(RELU, h[u]) * target)) is None
    )
    assert conditioned(Expectation(At(step, h[j]) * At(step, h[l]))) is None


@pytest.mark.slow
def test_a_run_in_the_plane_of_the_target_meets_a_small_tolerance(tmp_path):
    equations = equations_of(ERF)
    start = dmft.random_overlaps(equations.model, dim=50, seed=1)
    run = dmft.solve(equations, start, 10.0, save_at=3, quadrature_tol=1e-7)
    assert run.status == "ok"
    assert run.provenance["quadrature_tol_met"]
    assert "in 2 dimensions" in run.provenance["approximation"]
    truth = dmft.solve(equations, start, 10.0, save_at=3, nodes=300, quadrature_tol=1e-7)
    for name in ("Q", "M", "risk"):
        assert np.max(np.abs(run[name] - truth[name])) < 1e-7
    back = dmft.load(run.save(tmp_path / "run.nc"))
    np.testing.assert_array_equal(back.error["Q"], run.error["Q"])


@pytest.mark.slow
def test_a_relu_student_claims_an_error_that_covers():
    equations = equations_of(RELU)
    start = dmft.random_overlaps(equations.model, dim=50, seed=1)
    truth = dmft.solve(equations, start, 10.0, save_at=6, nodes=2**16, seed=99)
    hits = []
    for seed in range(5):
        run = dmft.solve(equations, start, 10.0, save_at=6, nodes=1024, seed=seed)
        for name in ("Q", "M", "risk"):
            gap = np.abs(run[name] - truth[name])[1:]
            hits += (gap <= run.error[name][1:] + truth.error[name][1:]).ravel().tolist()
    assert np.mean(hits) >= 0.95
    assert np.max(np.abs(run.Q - truth.Q)) < 5e-3


@pytest.mark.slow
def test_deriving_a_relu_model_loads_no_compiler():
    code = (
        "import sys, sympy as sp, dmft\n"
        "relu = dmft.Committee(sp.Max(sp.Symbol('z', real=True), 0), 2)\n"
        "model = dmft.Model(relu, relu)\n"
        "print(dmft.derive(model, dmft.SGD(0.1)))\n"
        "print(dmft.derive(model, dmft.GradientFlow()).latex())\n"
        "assert 'numba' not in sys.modules"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
