"""docs/reference/conventions.md: what t, risk, widths and rates mean, and all shapes."""

import numpy as np
import pytest
import sympy as sp
from scipy.special import erf

import dmft
from dmft.literature import phase_retrieval, saad_solla

P, K, DIM, GAMMA = 3, 2, 400, 0.8


@pytest.fixture(scope="module")
def model():
    return saad_solla(P, K, label_noise=0.1)


@pytest.fixture(scope="module")
def start(model):
    return dmft.random_overlaps(model, dim=DIM, seed=3)


@pytest.fixture(scope="module")
def run(model, start):
    return dmft.solve(dmft.derive(model, dmft.SGD(GAMMA)), start, t_max=2.0, save_at=5)


def test_blocks_have_time_first(run):
    assert run.t.shape == (5,)
    assert run.Q.shape == (5, P, P)
    assert run.M.shape == (5, P, K)
    assert run.readout.shape == (5, P)
    assert run.risk.shape == (5,)
    assert run.status == "ok"
    assert all(a.dtype == np.float64 for a in (run.t, run.Q, run.M, run.risk))
    np.testing.assert_array_equal(run.Q, np.swapaxes(run.Q, 1, 2))


def test_time_is_steps_times_gamma_over_p_d(run):
    np.testing.assert_allclose(run.steps(DIM), run.t * P * DIM / GAMMA)
    np.testing.assert_allclose(run.samples(DIM), run.steps(DIM))


def test_samples_count_the_batch(model, start):
    eqs = dmft.derive(model, dmft.SGD(GAMMA, batch_size=7))
    run = dmft.solve(eqs, start, t_max=0.5)
    np.testing.assert_allclose(run.samples(DIM), 7 * run.steps(DIM))


def test_gradient_flow_has_no_steps(model, start):
    run = dmft.solve(dmft.derive(model, dmft.GradientFlow()), start, t_max=0.5)
    with pytest.raises(dmft.errors.BadParameter):
        run.steps(DIM)


def test_risk_is_half_the_mean_square_without_the_noise_floor(model, start, run):
    # By sampling the definition: f and f* are means over units of a_j sigma(h_j).
    rng = np.random.default_rng(0)
    fields = rng.multivariate_normal(np.zeros(P + K), start.Omega, size=400_000, method="eigh")
    values = erf(fields / np.sqrt(2))
    sample = 0.5 * (values[:, P:].mean(axis=1) - values[:, :P].mean(axis=1)) ** 2
    error = sample.std() / np.sqrt(sample.size)
    risk = dmft.population_risk(model)(Q=start.Q, M=start.M, P=start.P)
    assert abs(risk - sample.mean()) < 5 * error
    assert run.risk[0] == pytest.approx(risk, rel=1e-12)


def test_one_step_moves_the_overlaps_by_the_rates_times_dt(model, start):
    # w_j <- w_j + gamma/p psi_j x/sqrt(d): averaged over samples and divided by gamma/(p d).
    rng = np.random.default_rng(1)
    samples = 1_000_000
    fields = rng.multivariate_normal(np.zeros(P + K), start.Omega, size=samples, method="eigh")
    h, h_star = fields[:, :P], fields[:, P:]
    noise = np.sqrt(0.1) * rng.standard_normal(samples)
    error = (erf(h_star / np.sqrt(2)).mean(axis=1) + noise - erf(h / np.sqrt(2)).mean(axis=1))[
        :, None
    ]
    psi = np.sqrt(2 / np.pi) * np.exp(-(h**2) / 2) * error
    drift_M = psi.T @ h_star / samples
    drift_Q = (psi.T @ h + h.T @ psi + GAMMA / P * psi.T @ psi) / samples
    rates = dmft.derive(model, dmft.SGD(GAMMA)).evaluate(start)
    assert set(rates) >= {"Q", "M"}
    np.testing.assert_allclose(rates["M"], drift_M, atol=6e-3)
    np.testing.assert_allclose(rates["Q"], drift_Q, atol=6e-3)


def test_simulation_has_the_same_observables_and_clock(model, start, run):
    runs = dmft.simulate(
        model, dmft.SGD(GAMMA), dim=DIM, t_max=2.0, seeds=3, start=start, method="overlaps",
        save_at=5,
    )  # fmt: skip
    for part in (runs.mean, runs.stderr):
        assert part.Q.shape == (5, P, P)
        assert part.M.shape == (5, P, K)
        assert part.risk.shape == (5,)
    # Saved at whole steps, nearest to the theory's times.
    np.testing.assert_allclose(runs.t, run.t, atol=0.51 * GAMMA / (P * DIM))
    np.testing.assert_allclose(runs.steps(DIM), np.rint(runs.steps(DIM)), atol=1e-9)
    np.testing.assert_allclose(runs.mean.M[0], start.M, atol=1e-12)


@pytest.mark.slow
def test_equations_say_what_they_are(model):
    eqs = dmft.derive(model, dmft.SGD(GAMMA))
    assert eqs.kind == "ode"
    assert set(eqs.terms) == {"Q", "M"}
    assert {"learning", "interaction", "sgd_noise", "label_noise"} <= set(eqs.terms["Q"])
    assert "t = steps" in eqs.time_unit
    assert r"\begin{align" in eqs.latex()
    assert eqs._repr_latex_()


def test_random_starts_are_normalised_as_declared(model):
    free = dmft.random_overlaps(model, dim=DIM, seed=0)
    assert free.Q.shape == (P, P)
    np.testing.assert_array_equal(free.P, np.eye(K))
    assert not np.allclose(np.diag(free.Q), 1, atol=1e-6)
    sphere = dmft.random_overlaps(model, dim=DIM, seed=0, normalised=True)
    np.testing.assert_array_equal(np.diag(sphere.Q), 1)


def test_sphere_refuses_other_lengths(start, model):
    eqs = dmft.derive(model, dmft.SGD(GAMMA, constraint="sphere"))
    with pytest.raises(dmft.errors.BadParameter, match="Q_jj = 1"):
        dmft.solve(eqs, start, t_max=1.0)


def test_numbers_and_symbols_are_accepted_wherever_a_parameter_is(start):
    g, D = sp.Symbol("g", positive=True), sp.Symbol("D", positive=True)
    symbolic = dmft.derive(saad_solla(P, K, label_noise=D), dmft.SGD(g))
    numeric = dmft.derive(saad_solla(P, K, label_noise=sp.Rational(1, 5)), dmft.SGD(0.3))
    one, two = symbolic.evaluate(start, g=0.3, D=0.2), numeric.evaluate(start)
    np.testing.assert_allclose(one["Q"], two["Q"], rtol=1e-13)
    with pytest.raises(dmft.errors.BadParameter, match="g="):
        symbolic.evaluate(start, D=0.2)


def test_records_are_frozen_and_know_their_parents(run, model):
    with pytest.raises(AttributeError):
        run.t = run.t
    with pytest.raises(AttributeError):
        model.label_noise = 3
    assert run.provenance["dmft"] == dmft.__version__
    assert run.provenance["equations"] == dmft.derive(model, dmft.SGD(GAMMA)).fingerprint
    assert run.provenance["approximation"] == "exact"


def test_files_restore_an_equal_record(run, tmp_path):
    pytest.importorskip("h5netcdf")
    assert dmft.load(run.save(tmp_path / "run.nc")) == run
    data = run.to_xarray()
    assert data["Q"].dims[0] == "t"
    assert data.sizes["t"] == 5


def test_escape_has_a_value_or_is_censored():
    eqs = dmft.derive(phase_retrieval(1), dmft.SGD(0.05, constraint="sphere"))
    start = dmft.Overlaps([[1.0]], [[0.1]])
    run = dmft.solve(eqs, start, t_max=5.0)
    seen = dmft.escape_time(run, fraction=0.5, reference="start")
    # theory/one_pass F.1 with u_0 = 0.01, u_1 = T + (1 - T) u_0 and u_infinity = 1.
    u0, u1, rate = 0.01, 0.505, 2 * (4 - 24 * 0.05)
    assert seen.value == pytest.approx(np.log(u1 / u0 * (1 - u0) / (1 - u1)) / rate, rel=1e-7)
    late = dmft.escape_time(dmft.solve(eqs, start, t_max=0.1), fraction=0.5)
    assert isinstance(late, dmft.Censored)
    assert late.horizon == pytest.approx(0.1)


def test_equations_with_fluctuations_give_a_covariance_and_paths():
    model = phase_retrieval(1)
    eqs = dmft.derive(model, dmft.SGD(0.05), dim=1000, fluctuations=True)
    assert eqs.kind == "sde"
    start = dmft.Overlaps([[1.0]], [[0.5]])
    values = eqs.evaluate(start)
    assert set(values) == {"Q", "M", "Sigma", "covariance"}
    # theory/one_pass E.2: q = rho = 1, m = 1/2, gamma = 0.05, Delta = 0.
    assert values["Sigma"] == pytest.approx(np.array([[432.36, 139.5], [139.5, 72.0]]))
    assert values["covariance"] == pytest.approx(values["Sigma"] * 0.05 / 1000)
    # Paths of a linear unit, which compiles in half of the time.
    line = dmft.Committee(sp.Symbol("z", real=True), 1)
    eqs = dmft.derive(dmft.Model(line, line), dmft.SGD(0.05), dim=1000, fluctuations=True)
    run = dmft.solve(eqs, start, t_max=0.1, paths=8, dt=0.01, seed=0)
    assert isinstance(run, dmft.PathEnsemble)
    assert run.mean.M.shape[1:] == run.std.M.shape[1:] == (1, 1)
    assert run.steps(1000)[-1] == pytest.approx(0.1 * 1000 / 0.05)
    escapes = dmft.escape_time(eqs, start, 0.01, fraction=0.5, paths=4, dt=0.01)
    assert isinstance(escapes, dmft.EscapeTimes)
    assert escapes.censored == 4
