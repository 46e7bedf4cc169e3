"""Random networks against the vectors of the theory: exact recursions, statics, simulations."""

import json
from pathlib import Path

import numpy as np
import pytest
import sympy as sp
from scipy.special import erf

import dmft
from dmft.laws import JointNormal, Normal, Uniform
from dmft.literature.two_time import Layers

FILE = Path(__file__).parents[1] / "vectors" / "single_site_processes_vectors.json"
VECTORS = json.loads(FILE.read_text(encoding="utf-8"))["vectors"]
X, H = sp.symbols("x h", real=True)
PHI = {
    "erf_unit": sp.erf(sp.sqrt(sp.pi) * X / 2), "erf_std": sp.erf(X / sp.sqrt(2)),
    "tanh": sp.tanh(X), "relu": sp.Max(0, X),
}  # fmt: skip
# Box of 40 in the vector: the state is bound so weakly that the box shifts it. The slope of its
# decay at the end of any box from 20 to 120 gives this value (test_a_weakly_bound_state).
WEAKLY_BOUND = {"lyapunov_10": -0.428259301642}


def of(*kinds):
    found = [v for v in VECTORS if v["kind"] in kinds]
    return pytest.mark.parametrize("vector", found, ids=[v["id"] for v in found])


def leaky(phi, g, **more):
    return dmft.RandomNetwork(-X + H, X, H, output=PHI[phi], std=g, **more)


def close(found, wanted, vector, least=1e-12):
    np.testing.assert_allclose(found, wanted, rtol=0, atol=max(vector["tol"], least))


@of("scs_stationary")
def test_stationary_correlations(vector):
    i, e = vector["inputs"], vector["expected"]
    state = dmft.stationary(leaky(i["phi"], i["g"], noise=i["noise"]))
    close(state.variance, e["C0"], vector)
    close(state.correlation(e["tau"]), e["C"], vector)
    close(state.output_variance, e["Cphi0"], vector)


@of("lyapunov")
def test_exponents(vector):
    i, e = vector["inputs"], vector["expected"]
    state = dmft.stationary(leaky(i["phi"], i["g"], noise=i["noise"]))
    wanted = WEAKLY_BOUND.get(vector["id"], e["lambda_max"])
    close(state.lyapunov_exponent, wanted, vector)


@pytest.mark.parametrize(("g", "noise"), [(0.8, 0.5), (0.7, 0.3)])
def test_a_weakly_bound_state(g, noise):
    """Second differences in boxes of rising length approach the value from below."""
    state = dmft.stationary(leaky("erf_unit", g, noise=noise))
    k, v, step = sp.pi / 2, state.variance, 0.02
    found = []
    for length in (60.0, 240.0):
        tau = np.arange(step / 2, length, step)
        c = np.where(tau < state.lags[-1], state.correlation(np.minimum(tau, state.lags[-1])), 0.0)
        a = float(k) * c / (1 + float(k) * v)
        slopes = 1 / np.sqrt((1 + float(k) * v) ** 2 - (float(k) * c) ** 2)
        assert np.all(a < 1)
        W = 1 - g**2 * slopes
        from scipy.linalg import eigh_tridiagonal

        diagonal = 2 / step**2 + W
        diagonal[0] -= 1 / step**2
        off = np.full(tau.size - 1, -1 / step**2)
        ground = eigh_tridiagonal(diagonal, off, select="i", select_range=(0, 0))[0][0]
        found.append(np.sqrt(1 - ground) - 1)
    assert found[0] < found[1] < state.lyapunov_exponent + 1e-6
    assert found[1] == pytest.approx(state.lyapunov_exponent, abs=3e-5)


@of("critical_noise")
def test_noise_suppresses_chaos(vector):
    i, e = vector["inputs"], vector["expected"]
    sides = [dmft.stationary(leaky(i["phi"], i["g"], noise=e["D"] * f)) for f in (0.999, 1.001)]
    assert sides[0].lyapunov_exponent > 0 > sides[1].lyapunov_exponent


@of("map_stationary")
def test_maps(vector):
    i, e = vector["inputs"], vector["expected"]
    bias = dmft.GaussianInput(sp.Float(i["bias_std"] ** 2))
    state = dmft.stationary(
        dmft.RandomNetwork(H, X, H, output=PHI[i["phi"]], std=i["g"], input=bias, kind="map")
    )
    close([state.variance, float(state.correlation(1)), state.lyapunov_exponent],
          [e["q"], e["C_infty"], e["lambda_max"]], vector)  # fmt: skip


@of("driven_network")
def test_driven_networks(vector):
    i, e = vector["inputs"], vector["expected"]
    state = dmft.stationary(
        dmft.literature.driven_network(PHI[i["phi"]], i["g"], i["I"], i["omega"])
    )
    close([state.variance, float(state.correlation(state.period / 2)), state.lyapunov_exponent],
          [e["C_tau_0"], e["C_tau_half_period"], e["lambda_max"]], vector)  # fmt: skip


@of("driven_random_phases")
def test_random_phases_of_fixed_amplitude(vector):
    """Sites are not Gaussian: averages over the phase of a Gaussian part around a mean wave."""
    i, e = vector["inputs"], vector["expected"]
    phase = sp.Symbol("theta", real=True)
    state = dmft.stationary(
        leaky(
            i["phi"], i["g"], input=i["I"] * sp.cos(i["omega"] * dmft.t + phase),
            parameters={phase: Uniform(0.0, 2.0 * np.pi)},
        )
    )  # fmt: skip
    close([state.variance, *state.correlation([state.period / 4, state.period / 2])],
          [e["C_tau_0"], e["C_tau_quarter_period"], e["C_tau_half_period"]], vector)  # fmt: skip


@of("glv_fixed_point")
def test_lotka_volterra_at_rest(vector):
    i, e = vector["inputs"], vector["expected"]
    model = dmft.literature.lotka_volterra(i["mu"], i["sigma"], i["gamma"], capacity=i["K"])
    (point,) = dmft.fixed_points(model)
    close([point.output_mean, point.output_second_moment, point.survival, point.response],
          [e["m"], e["q"], e["survival"], e["chi"]], vector)  # fmt: skip


@of("glv_sigma_c", "critical_coupling")
def test_lines_of_stability(vector):
    i, e = vector["inputs"], vector["expected"]
    if vector["kind"] == "glv_sigma_c":
        cases, model = [(i["gamma"], e["sigma_c"])], dmft.literature.lotka_volterra(1.0, 1.0)
    else:
        cases, model = list(zip(i["gamma"], e["g_c"], strict=True)), leaky(i["phi"], 1)
    for gamma, wanted in cases:
        diagram = dmft.phase_diagram(
            "stability", ("std", [wanted * (1 - 1e-6), wanted * (1 + 1e-6)]),
            ("symmetry", [gamma, min(1.0, gamma + 0.01)]), equations=model,
        )  # fmt: skip
        below, above = diagram.values[0]
        assert below < 0 < above


@of("glv_divergence")
def test_line_of_divergence(vector):
    i, e = vector["inputs"], vector["expected"]
    for shift, sign in ((1e-8, 1), (-1e-8, -1)):
        model = dmft.literature.lotka_volterra(e["mu_d"] + shift, i["sigma"], i["gamma"])
        if sign < 0:
            with pytest.raises(dmft.errors.BadParameter, match="without bound"):
                dmft.fixed_points(model)
        else:
            (point,) = dmft.fixed_points(model)
            assert point.output_mean == pytest.approx(1e8, rel=0.2)


@of("replicator")
def test_replicators(vector):
    i, e = vector["inputs"], vector["expected"]
    (point,) = dmft.fixed_points(dmft.literature.replicator(i["u"], i["sigma"], i["gamma"]))
    close([point.output_mean, point.output_second_moment, point.survival, point.multiplier],
          [1.0, e["q"], e["survival"], e["nu"]], vector)  # fmt: skip
    assert point.stable == (i["u"] > e["u_c"])


@of("low_rank")
@pytest.mark.cases(1)
def test_low_rank(vector):
    i, e = vector["inputs"], vector["expected"]
    model = dmft.literature.low_rank_network(
        PHI[i["phi"]], i["g"], (i["m_mean"], i["n_mean"]), (i["m_std"], i["n_std"]), i["corr"]
    )
    point = max(dmft.fixed_points(model), key=lambda y: y.loadings[0])
    variance = e["C0"] if i["m_std"] else e["C0"] + (i["m_mean"] * e["kappa"]) ** 2
    mean = i["m_mean"] * e["kappa"]
    close(point.loadings, [e["kappa"]], vector)
    close(point.state_second_moment, variance + (mean**2 if i["m_std"] else 0.0), vector)
    close([point.outliers.real.max(), point.bulk_radius], [e["outlier"], e["bulk_radius"]],
          vector, 5e-8)  # fmt: skip
    assert point.stable


@of("fixed_point_symmetric")
def test_symmetric_fixed_points(vector):
    i, e = vector["inputs"], vector["expected"]
    given = dmft.GaussianInput(sp.Float(i["input_std"] ** 2))
    (point,) = dmft.fixed_points(leaky(i["phi"], i["g"], symmetry=i["gamma"], input=given))
    names = ("q", "Ex2", "chi", "replicon", "spectral_edge")
    found = [i["g"] ** 2 * point.output_second_moment, point.state_second_moment, point.response,
             point.replicon, point.spectral_edge]  # fmt: skip
    if i["gamma"] < 0:
        close(found, [e[n] for n in names], vector)
        return
    # The vector's 160 Gauss-Hermite nodes miss a pole of x(z) near the axis by up to 5 %.
    np.testing.assert_allclose(found, [e[n] for n in names], rtol=0.05, atol=0.011)
    wanted = symmetric_by_sums(i, point)
    np.testing.assert_allclose(found[:4], wanted, rtol=1e-9)


def symmetric_by_sums(i, point):
    """(8) and (9) at omega = 0 on 4001 steps: averages that follow from those of the point."""
    z = np.linspace(-9, 9, 4001)
    weight = np.exp(-(z**2) / 2) / np.exp(-(z**2) / 2).sum()
    q = i["g"] ** 2 * point.output_second_moment + i["input_std"] ** 2
    back = i["gamma"] * i["g"] ** 2 * point.response
    x = np.sqrt(q) * z
    for _ in range(60):
        slope = np.exp(-np.pi * x**2 / 4)
        x -= (x - np.sqrt(q) * z - back * erf(np.sqrt(np.pi) * x / 2)) / (1 - back * slope)
    slope = np.exp(-np.pi * x**2 / 4)
    by_field = slope / (1 - back * slope)
    rows = [erf(np.sqrt(np.pi) * x / 2) ** 2, x**2, by_field, by_field**2]
    return np.array([i["g"] ** 2, 1, 1, i["g"] ** 2]) * (np.array(rows) @ weight)


@of("edge_of_chaos", "depth_scales")
def test_signal_propagation(vector):
    i, e = vector["inputs"], vector["expected"]
    phi = PHI[i["phi"]]
    if vector["kind"] == "edge_of_chaos":
        weight, q = dmft.literature.signal_propagation(phi, 1.0, i["sigma_b"]).edge_of_chaos
        close(weight, e["sigma_w"], vector, 1e-11)
        assert np.isnan(q) if e["q"] is None else q == pytest.approx(e["q"], abs=1e-10)
        return
    found = dmft.literature.signal_propagation(phi, i["sigma_w"], i["sigma_b"])
    scales = [found.depth_scales[n] for n in ("variance", "correlation", "gradient")]
    close([found.variance, found.chi, found.correlation, *scales],
          [e[n] for n in ("q", "chi", "c", "xi_q", "xi_c", "xi_grad")], vector, 1e-10)  # fmt: skip


@of("layers")
def test_layers(vector):
    i, e = vector["inputs"], vector["expected"]
    layers, q, c = Layers(PHI[i["phi"]]), i["q0"], i["c0"]
    for wanted in zip(e["q"], e["c"], strict=True):
        q, c = layers.next(q, c, i["sigma_w"] ** 2, i["sigma_b"] ** 2)
        close((q, c), wanted, vector)


@of("two_time_exact")
def test_closed_recursions_of_networks_of_the_same_step(vector):
    i, e = vector["inputs"], vector["expected"]
    at = np.array(i["steps_recorded"])
    if i["model"] == "scs_euler":
        model, start = leaky(i["phi"], i["g"], noise=i["noise"]), Normal(0.0, i["v0"])
        run = dmft.solve(dmft.derive(model), start, float(at[-1] * i["dt"]), dt=i["dt"])
        close(run.corr[np.ix_(at, at)], e["C"], vector)
        close(run.output_corr[np.ix_(at, at)], e["Cphi"], vector)
    else:
        model = leaky(i["phi"], i["sigma"], mean=i["mu"], fractions=i["n"], input=i["I"])
        start = [Normal(0.0, v) for v in i["v0"]]
        run = dmft.solve(dmft.derive(model), start, float(at[-1] * i["dt"]), dt=i["dt"])
        close(np.moveaxis(run.mean[at], -1, 0), e["mean"], vector)
        close(np.moveaxis(run.corr[np.ix_(at, at)], -1, 0), e["C_raw"], vector)
    assert run.provenance["method"] == "closed"


@of("linear_ou")
def test_linear_networks_in_continuous_time(vector):
    """Extrapolation in dt of the closed recursion, against Bessel series."""
    i, e = vector["inputs"], vector["expected"]
    model = dmft.RandomNetwork(-X + H, X, H, std=i["g"], symmetry=i["gamma"], noise=i["T"])
    run = dmft.solve(dmft.derive(model), Normal(0.0, i["C0"]), 6.0, extrapolate=3)
    at = [np.rint(np.array(e[n]) / 0.1).astype(int) for n in ("t", "s")]
    np.testing.assert_allclose(run.corr[tuple(at)], e["C"], rtol=1e-6, atol=1e-6)
    lags = np.rint(np.array(e["R_tau"]) / 0.1).astype(int)
    np.testing.assert_allclose(run.resp[lags, 0], e["R"], atol=2e-6)


@of("p_spin")
@pytest.mark.cases(1)
def test_p_spin_with_covariance_and_memory_written_out(vector):
    """Spherical sites by the closed recursion with a multiplier, and by sweeps of one step."""
    i, e = vector["inputs"], vector["expected"]
    t, s, nu = *sp.symbols("t s", real=True), sp.Symbol("nu", real=True)
    C, R, p = sp.Function("C")(t, s), sp.Function("R")(t, s), i["p"]
    kernels = {
        "covariance": sp.Rational(p, 2) * C ** (p - 1),
        "memory": sp.Rational(p * (p - 1), 2) * C ** (p - 2) * R,
    }
    model = dmft.RandomNetwork(
        -nu * X + H, X, H, noise=sp.Float(i["T"]), multiplier=(nu, X**2, 1), **kernels
    )
    equations = dmft.derive(model)
    run = dmft.solve(equations, Normal(), 2.0, dt=0.1, extrapolate=3)
    assert run.message.startswith("closed recursion")
    energy = (i["T"] - run.multiplier[[5, 10]]) / p
    np.testing.assert_allclose(energy, e["energy"][:2], atol=1e-5)
    coarse, drawn = (
        dmft.solve(equations, Normal(), 2.0, dt=0.1, method=method, seed=1)
        for method in ("closed", "sweep")
    )
    assert drawn.message.startswith("4 sweeps")
    # Innovations are matched: sweeps of linear sites have no sampling error.
    np.testing.assert_allclose(drawn.multiplier, coarse.multiplier, atol=1e-6)
    np.testing.assert_allclose(drawn.corr, coarse.corr, atol=1e-6)


SIMULATED = [v for v in VECTORS if v["kind"] == "simulation"]


def simulated_model(vector):
    i = vector["inputs"]
    if "mu" in i and "n" not in i:
        return dmft.literature.lotka_volterra(i["mu"], i["sigma"], i["gamma"]), Uniform(0.0, 1.0)
    if "n" in i:
        model = leaky(i["phi"], i["sigma"], mean=i["mu"], fractions=i["n"], input=i["I"])
        return model, [Normal(0.0, v) for v in i["v0"]]
    if "b" in i:
        bias = dmft.GaussianInput(sp.Float(i["b"] ** 2))
        model = dmft.RandomNetwork(
            H, X, H, output=PHI[i["phi"]], std=i["g"], input=bias, kind="map"
        )
        return model, Normal(0.0, i["v0"])
    return leaky(i["phi"], i["g"], symmetry=i["gamma"]), Normal(0.0, i["v0"])


@pytest.mark.cases(1)
@pytest.mark.parametrize("vector", SIMULATED, ids=[v["id"] for v in SIMULATED])
def test_simulated_networks(vector):
    """The limit against networks of 3,000 units: rms of z below 1.6, none beyond 4."""
    i, e = vector["inputs"], vector["expected"]
    model, start = simulated_model(vector)
    at = np.array(i["steps_recorded"])
    dt = i.get("dt", 1.0)
    run = dmft.solve(dmft.derive(model), start, float(at[-1] * dt), paths=2000)
    for name, mine in (("C", "corr"), ("Cphi", "output_corr"), ("m", "mean")):
        if name not in e:
            continue
        index = np.ix_(at, at) if mine != "mean" else at
        found, error = run[mine][index], run.error[mine][index] / 3.18
        if found.ndim == np.ndim(e[name]) and "n" in i:
            found, error = np.moveaxis(found, -1, 0), np.moveaxis(error, -1, 0)
        se = np.hypot(np.array(e[f"{name}_se"]), error)
        gap = found - np.array(e[name])
        z = gap[se > 1e-12] / se[se > 1e-12]
        assert np.sqrt(np.mean(z**2)) < 1.6, name
        assert np.abs(z).max() < 4.0, name
    if "R" in e:
        found = run.resp[np.ix_(at, i["kick_steps"])]
        se = np.array(e["R_se"])
        z = (found - np.array(e["R"]))[se > 0] / se[se > 0]
        assert np.sqrt(np.mean(z**2)) < 1.6


def test_joint_loadings_have_their_moments():
    law = JointNormal([[1.0, 0.6], [0.6, 2.0]], [0.5, -1.0])
    drawn = law.sample(np.random.default_rng(0), 500)
    np.testing.assert_allclose(drawn.mean(axis=1), law.mean, atol=1e-12)
    np.testing.assert_allclose(np.cov(drawn, bias=True), law.covariance, atol=1e-12)
