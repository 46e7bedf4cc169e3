"""Random networks: what a declaration refuses, what changes do, errors that cover, records."""

from dataclasses import replace

import numpy as np
import pytest
import sympy as sp
from scipy.optimize import brentq
from scipy.special import erf
from scipy.stats import norm

import dmft
from dmft.codegen.two_time_site import build_network
from dmft.errors import BadParameter, UnprovenStep
from dmft.laws import Bernoulli, Discrete, Laplace, Normal, Rademacher, Uniform
from dmft.solvers.checkpoint import march
from dmft.solvers.two_time.network_kernels import orthonormalise
from dmft.solvers.two_time.network_sweep import Sweep

X, H, THETA = sp.symbols("x h theta", real=True)
ERF = sp.erf(sp.sqrt(sp.pi) * X / 2)


def leaky(**options):
    return dmft.RandomNetwork(-X + H, X, H, **{"output": ERF, "std": 1.5, **options})


def layers(rate=H, **options):
    return dmft.RandomNetwork(
        rate, X, H, kind="map", **{"output": sp.tanh(X), "std": 1.3, **options}
    )


def normal_mean(function, mean, variance):
    """Average over N(mean, variance) by the trapezoidal rule."""
    z = np.linspace(-9.0, 9.0, 4000)
    w = np.exp(-(z**2) / 2.0)
    return w @ function(mean + np.sqrt(variance) * z) / w.sum()


REFUSED = {
    "correlation": ({"symmetry": 1.5}, "from -1 to 1"),
    "asymmetric pairs": (
        {"symmetry": [[0, 0.2], [0.3, 0]], "std": [[1, 1], [1, 1]], "fractions": [0.5, 0.5]},
        "make them equal",
    ),
    "fractions": ({"fractions": [0.5, 0.4]}, "add up to 1"),
    "jump": ({"output": sp.sign(X), "symmetry": 0.5}, "symmetry other than 0"),
    "redrawn": ({"redrawn": True}, 'kind="map"'),
    "negative": ({"std": -1}, "negative"),
    "one kernel": ({"covariance": sp.Function("C")(*sp.symbols("t s")) ** 2}, "together"),
    "multiplier": ({"multiplier": (THETA, X, 1)}, "not in the rate"),
    "law": ({"parameters": {THETA: 3}}, "law of dmft.laws"),
    "noise and growth": ({"positive": True, "noise": 1}, "log x"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_contradictions_are_refused(name):
    options, words = REFUSED[name]
    with pytest.raises(BadParameter, match=words):
        leaky(**options)


def test_bad_calls_are_refused():
    eqs = dmft.derive(leaky(symmetry=0.5))
    for call, words in (
        (lambda: dmft.solve(eqs, None, 1.0), "is a number .* or a law"),
        (lambda: dmft.solve(eqs, Normal(), 1.05), "not a multiple"),
        (lambda: dmft.solve(eqs, Normal(), 1.0, method="closed"), "leave method= out"),
        (lambda: dmft.solve(eqs, Normal(), 1.0, g=2), "unknown option or parameter"),
        (lambda: dmft.solve(eqs, Normal(), 1e4, paths=100_000), "GiB"),
        (lambda: dmft.derive(leaky(), dmft.SGD(0.1)), "no algorithm"),
        (lambda: dmft.fixed_points(leaky(noise=0.1)), "stationary"),
        (lambda: dmft.fixed_points(leaky(output=sp.sign(X))), "has the jump"),
        (lambda: dmft.fixed_points(layers(redrawn=True)), "redrawn"),
        (lambda: dmft.lyapunov_exponent(leaky(output=sp.sign(X))), "has the jump"),
        (lambda: dmft.stationary(leaky(symmetry=0.5)), "symmetry = 0"),
        (lambda: dmft.simulate(leaky(), dim=1, t_max=1.0, seeds=1, start=0.1), "dim = 1"),
        (lambda: dmft.boundary("divergence", ("std", 1, 2), ("mean", 0, 1), equations=leaky()),
         "derived for positive"),
    ):  # fmt: skip
        with pytest.raises(BadParameter, match=words):
            call()


def test_equations_print_the_terms_of_the_declared_case():
    plain, full = dmft.derive(leaky()), dmft.derive(leaky(symmetry=0.5, noise=0.1, mean=1))
    assert set(plain.terms["h"]) == {"couplings"}
    assert set(full.terms["h"]) == {"mean", "couplings", "memory"}
    assert set(full.terms["x"]) == {"rate", "noise"}
    assert r"\int" in full.latex()
    assert r"\int" not in plain.latex()
    assert r"$\eta$ is a Gaussian process with mean zero" in plain.latex()
    assert r"\langle \eta(t) \eta(s) \rangle &= " in plain.latex()
    assert r"{\delta b(s)}" in full.latex()  # the response is not to h itself
    assert r"\delta h" not in full.latex()
    species = dmft.derive(dmft.literature.lotka_volterra(4.0, 0.8, 0.5)).latex()
    assert r"The abundances $x_{i} \ge 0$ of $N$ species obey the generalised Lotka" in species
    community = dmft.derive(dmft.literature.replicator(1.0, 0.5)).latex()
    assert r"x \left(- x + \eta - \nu(t)\right)" in community
    two = dmft.RandomNetwork(
        -X + H, X, H, output=[sp.tanh(X), X], std=[[1, 0.5], [0.5, 1]], fractions=[0.8, 0.2]
    )
    assert r"$\phi_1(x) = \tanh\left(x\right)$" in dmft.derive(two).latex()
    assert "white noise" not in plain.latex()


def test_the_cavity_argument_is_that_of_the_record():
    eqs = dmft.derive(leaky(symmetry=0.5, mean=0.3))
    proof = dmft.explain(eqs)
    assert proof.after == sum(eqs.terms["h"].values())
    assert proof.steps[2].after == eqs.terms["h"]["memory"]
    assert [step.rule for step in proof.steps].count("new_couplings") == 3
    two = {"std": [[1.4, 1.0], [0.8, 1.6]], "symmetry": [[0, 0.3], [0.3, 0]]}
    many = dmft.derive(leaky(fractions=[0.6, 0.4], **two))
    assert dmft.explain(many, of=1).steps[2].after == many.terms["h_2"]["memory"]
    wrong = replace(eqs, definitions=eqs.replace("h", "memory", -eqs.terms["h"]["memory"]).stored)
    with pytest.raises(UnprovenStep):
        dmft.explain(wrong)
    with pytest.raises(BadParameter, match="as_derived"):
        dmft.explain(eqs.without("memory"))


def test_changed_terms_change_the_run():
    """Without the memory a symmetric network is an asymmetric one; its sign matters."""
    eqs = dmft.derive(leaky(symmetry=0.5))
    options = {"paths": 2000, "sweeps": 2}
    whole = dmft.solve(eqs, Normal(), 5.0, **options)
    bare = dmft.solve(eqs.without("memory"), Normal(), 5.0, **options)
    turned = eqs.replace("h", "memory", -eqs.terms["h"]["memory"])
    opposite = dmft.solve(turned, Normal(), 5.0, **options)
    asymmetric = dmft.solve(dmft.derive(leaky()), Normal(), 5.0)
    assert bare.provenance["method"] == "closed"
    np.testing.assert_allclose(bare.corr, asymmetric.corr, rtol=1e-12)
    assert whole.corr[50, 50] > asymmetric.corr[50, 50] + 0.3 > opposite.corr[50, 50] + 0.6
    driven = dmft.derive(leaky()).with_term("h", "drive", sp.cos(sp.Symbol("t")))
    wave = dmft.solve(driven, Normal(), 5.0)
    assert wave.mean[30] != 0.0
    assert whole.mean[30] == pytest.approx(0.0, abs=0.2)


def test_sweeps_are_the_same_for_any_number_of_threads():
    eqs = dmft.derive(leaky(symmetry=0.5))
    runs = [dmft.solve(eqs, Normal(), 2.0, paths=300, threads=n) for n in (1, 3)]
    assert np.array_equal(runs[0].corr, runs[1].corr)
    assert np.array_equal(runs[0].resp, runs[1].resp)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["erf 2", "erf noise", "map", "two populations"])
def test_errors_cover_the_closed_answer(case):
    """In 90 of 100 runs at preselected times the 95 % interval holds the closed answer."""
    start = Normal()
    if case == "map":
        bias = dmft.GaussianInput(sp.Float(0.09))
        model = dmft.RandomNetwork(H, X, H, output=ERF, std=1.8, input=bias, kind="map")
        t_max, at = 12.0, (10, 8)
    elif case == "two populations":
        model = leaky(
            std=[[1.4, 1.0], [0.8, 1.6]], mean=[[1.2, -0.8], [1.0, -0.5]], fractions=[0.6, 0.4],
            input=[0.3, 0.1],
        )  # fmt: skip
        t_max, at = 5.0, (50, 30, 0)
    else:
        model, t_max, at = leaky(std=2, noise=0.5 if "noise" in case else 0), 5.0, (50, 35)
    eqs = dmft.derive(model)
    exact = dmft.solve(eqs, start, t_max).corr[at]
    held = 0
    for seed in range(100):
        run = dmft.solve(eqs, start, t_max, method="sweep", paths=500, seed=seed)
        held += bool(abs(run.corr[at] - exact) <= run.error.corr[at])
    assert held >= 90


def test_sampled_runs_agree_with_closed_ones():
    eqs = dmft.derive(leaky(std=2))
    exact = dmft.solve(eqs, Normal(), 4.0)
    run = dmft.solve(eqs, Normal(), 4.0, method="sweep", paths=2000)
    assert np.abs(run.corr - exact.corr).max() < 0.15
    assert np.abs(run.resp - exact.resp).max() < 0.02


def test_dropped_columns_of_the_response_are_interpolated():
    """More steps than columns: the response is that of all columns to the interpolation."""
    model = leaky(symmetry=0.3, std=0.8)
    run = dmft.solve(dmft.derive(model), Normal(), 20.0, dt=0.1, paths=600, sweeps=2, seed=2)
    linear = np.exp(-np.arange(200) * 0.1)
    assert run.resp.shape == (201, 201)
    assert np.all(np.abs(run.resp[200, :200][::-1]) < 3.0 * linear + 0.05)


def test_fields_that_follow_from_earlier_ones_have_no_innovation():
    """Linear sites have no sampling error; their response is that of the leak alone."""
    eqs, steps, paths = dmft.derive(leaky(output=X, std=0.8)), 150, 400
    generator = np.random.default_rng(2)
    start = Normal().sample(generator, paths)
    problem = build_network(eqs, {}, 0.1)
    run = march(Sweep(problem, steps, paths, [start], [np.empty((0, paths))], generator))
    assert len(run.pivots) < steps / 4
    closed = dmft.solve(eqs, Normal(), steps * 0.1, dt=0.1)
    np.testing.assert_allclose(run.state_corr[0], closed.corr, atol=1e-6)
    lag = np.arange(steps + 1)[:, None] - np.arange(steps + 1)
    leak = np.where(lag > 0, 0.1 * 0.9 ** np.maximum(lag - 1.0, 0.0), 0.0)
    np.testing.assert_allclose(run.resp[0], leak, atol=1e-6)


def test_a_past_between_columns_is_summed_as_at_all_steps():
    """Weights between columns are linear, so that sums with hat functions are the same."""
    equations = dmft.derive(leaky(symmetry=0.6, std=1.2))
    problem, found = build_network(equations, {}, 0.1), []
    for proportional in (True, False):
        generator = np.random.default_rng(5)
        start = [generator.standard_normal(40)]
        changed = replace(problem, proportional=[proportional])
        run = march(Sweep(changed, 260, 40, start, [np.empty((0, 40))], generator))
        found.append((run, run.columns[0].past.shape))
    (short, few), (whole, all_rows) = found
    assert problem.proportional == [True]
    assert few[2] < 0.6 * all_rows[2]
    assert np.abs(short.resp - whole.resp).max() < 2e-5 * np.abs(whole.resp).max()
    assert np.abs(short.corr - whole.corr).max() < 2e-5 * np.abs(whole.corr).max()


def test_couplings_of_symmetry_zero_have_no_memory():
    gamma = sp.Symbol("gamma", real=True)
    assert leaky(symmetry=0.0) == leaky(symmetry=0)
    assert not leaky(symmetry=[[0.0]]).has_memory
    run = dmft.solve(dmft.derive(leaky(symmetry=gamma)), Normal(), 0.2, gamma=0.0)
    assert run.provenance["method"] == "closed"
    assert dmft.stationary(leaky(symmetry=gamma), gamma=0.0).variance > 0


def test_weak_interactions_have_a_fixed_point():
    """Delta is 1 / std there: beyond the fine grid of the search."""
    (point,) = dmft.fixed_points(dmft.literature.lotka_volterra(1.0, 1e-3))
    assert point.output_mean == pytest.approx(0.5, abs=1e-5)
    assert point.survival == 1.0


def test_runs_without_sampling_end_before_the_first_state_that_is_too_large():
    x, h = sp.symbols("x h", real=True)
    network = dmft.RandomNetwork(x / 2 + h, x, h, std=2.0)
    run = dmft.solve(dmft.derive(network), dmft.laws.Normal(), 100.0, dt=0.1)
    size = np.abs(np.diagonal(run.corr))
    assert run.status == "diverged"
    assert size[-1] < 1e24 < size[-1] ** 2 / size[-2]


def test_rest_of_a_network_with_kinks_away_from_the_mean():
    """q = g^2 E[max(0, b + sqrt(q) z)^2], by the normal distribution; without couplings x = b."""
    b, g = 0.3, 1.2
    network = dmft.RandomNetwork(-X + H, X, H, output=sp.Max(X, 0), std=g, input=b)
    (point,) = dmft.fixed_points(network)
    q = brentq(
        lambda q: (
            g**2 * ((q + b**2) * norm.cdf(b / q**0.5) + b * q**0.5 * norm.pdf(b / q**0.5)) - q
        ),
        1.0,
        3.0,
        xtol=1e-13,
    )
    assert g**2 * point.output_second_moment == pytest.approx(q, rel=1e-11)
    (alone,) = dmft.fixed_points(dmft.RandomNetwork(-X + H, X, H, output=X**2, std=0, input=b))
    assert (alone.state_mean, alone.output_mean) == pytest.approx((b, b**2))


def test_divergence_is_a_status_with_its_time():
    model = dmft.literature.lotka_volterra(-3.0, 0.5)
    run = dmft.solve(dmft.derive(model), Uniform(0.0, 1.0), 20.0, paths=300, sweeps=2)
    assert run.status in ("diverged", "nonfinite")
    assert "t =" in run.message
    assert run.t[-1] < 20.0


def test_simulated_jacobian_and_exponent():
    """Linear network: a disc of radius std, exponent std - 1 to the fluctuation of one matrix."""
    model = leaky(output=X, std=0.6)
    found = dmft.simulate(
        model, dim=300, t_max=30.0, seeds=2, start=Normal(), lyapunov=True, jacobian=True
    )
    assert np.abs(found.eigenvalues + 1).max() == pytest.approx(0.6, abs=0.06)
    assert found.lyapunov_exponents.mean() == pytest.approx(-0.4, abs=0.06)


def test_symmetric_couplings_have_their_correlation():
    model = leaky(symmetry=0.5, std=1.0)
    found = dmft.simulate(model, dim=400, t_max=0.1, seeds=1, start=0.0, jacobian=True)
    slope = 1.0  # of the output at zero
    edges = found.eigenvalues[0]
    assert edges.real.max() == pytest.approx(-1 + 1.5 * slope, abs=0.08)
    assert edges.imag.max() == pytest.approx(0.5 * slope, abs=0.08)


def test_figures_of_networks_and_what_has_none(tmp_path):
    eqs = dmft.derive(leaky(symmetry=0.5))
    run = dmft.solve(eqs, Normal(), 1.0, paths=200, sweeps=2, keep_paths=5)
    many = dmft.simulate(leaky(), dim=20, t_max=1.0, seeds=2, start=Normal())
    assert len(dmft.plot(run, many, path=tmp_path / "run.png", dpi=40)) == 4
    assert len(dmft.plot(many, path=tmp_path / "many.png", dpi=40)) == 3
    two = dmft.derive(leaky(fractions=[0.5, 0.5], std=[[1, 1], [1, 1]]))
    axes = dmft.plot(dmft.solve(two, Normal(), 1.0), path=tmp_path / "two.png", dpi=40)
    assert len(axes) == 3
    low, high = axes[0].get_ylim()  # means of 1e-16 are no structure
    assert low < -0.01 < 0.01 < high
    with pytest.raises(BadParameter, match=r"random networks .* are not exported"):
        dmft.export(eqs, tmp_path / "a.py")
    with pytest.raises(BadParameter, match=r"explore takes .* random networks"):
        dmft.explore(leaky())


def test_records_come_back(tmp_path):
    run = dmft.solve(
        dmft.derive(leaky(symmetry=0.5)), Normal(), 1.0, paths=200, sweeps=2, keep_paths=5
    )
    many = dmft.simulate(leaky(), dim=50, t_max=1.0, seeds=2, start=Normal(), lyapunov=True)
    assert run.paths.shape == (2, 11, 5)
    for record in (run, many):
        assert dmft.load(record.save(tmp_path / "record.nc")) == record


@pytest.mark.parametrize(
    "law", [Normal(1.0, 2.0), Uniform(-1.0, 3.0), Laplace(0.7), Rademacher(), Bernoulli(0.3),
            Discrete({-2.0: 0.2, 0.5: 0.8})], ids=repr,
)  # fmt: skip
def test_laws_have_their_moments(law):
    u = (np.arange(200_000) + 0.5) / 200_000
    values = law.quantile(u)
    assert values.mean() == pytest.approx(law.mean, abs=1e-4)
    assert values.var() == pytest.approx(law.variance, rel=1e-3)


def test_rows_become_orthonormal():
    rows = np.random.default_rng(0).standard_normal((6, 200))
    rows[3] = rows[1]
    for n in range(6):
        orthonormalise(rows, n)
    gram = rows @ rows.T / 200
    np.testing.assert_allclose(gram, np.diag([1, 1, 1, 0, 1, 1]), atol=1e-12)


@pytest.mark.parametrize("noise", [sp.Rational(1, 2), (1 + X**2) / 10], ids=["plain", "of states"])
def test_networks_of_maps_are_noisy(noise):
    model = dmft.RandomNetwork(sp.tanh(H), X, H, std=1.5, noise=noise, kind="map")
    eqs = dmft.derive(model)
    assert "\n  x(t + 1) = " in str(eqs)
    run = dmft.solve(eqs, Normal(), 3, paths=20_000)
    found = dmft.simulate(model, dim=1000, t_max=3, seeds=12, start=Normal())
    at = np.arange(1, 4)
    gap = np.squeeze(run.corr)[at, at] - np.squeeze(found.mean.corr)[at, at]
    error = np.squeeze(found.stderr.corr)[at, at] + np.squeeze(run.error.corr)[at, at]
    assert np.all(abs(gap) < 4 * error + 5e-3)


@pytest.mark.parametrize("slope", [0, sp.Rational(1, 2)])
def test_redrawn_couplings_make_independent_layers(slope):
    """V' = a^2 V + g^2 E phi^2 + 2 D and Cov(x', x_l) = a Cov(x, x_l)."""
    run = dmft.solve(dmft.derive(layers(slope * X + H, redrawn=True, noise=0.05)), Normal(), 5)
    a, cov = float(slope), np.eye(6)
    for k in range(5):
        cov[k + 1, : k + 1] = cov[: k + 1, k + 1] = a * cov[k, : k + 1]
        square = normal_mean(lambda x: np.tanh(x) ** 2, 0.0, cov[k, k])
        cov[k + 1, k + 1] = a**2 * cov[k, k] + 1.3**2 * square + 0.1
    assert run.provenance["method"] == "closed"
    np.testing.assert_allclose(run.corr, cov, atol=1e-12)


def test_diagrams_of_redrawn_layers_show_no_fixed_point():
    axes = ("std", [0.5, 1.5]), ("mean", [0.0, 1.0])
    found = dmft.phase_diagram("output_mean", *axes, equations=layers(redrawn=True))
    assert np.isnan(found.values).all()


def test_sampled_layers_forget_their_start():
    run = dmft.solve(dmft.derive(layers(redrawn=True)), Uniform(-1, 1), 5, paths=1000)
    nodes = np.linspace(-1.0, 1.0, 4001)
    v = [1 / 3, 1.3**2 * np.trapezoid(np.tanh(nodes) ** 2, nodes) / 2]
    for _ in range(4):
        v.append(1.3**2 * normal_mean(lambda x: np.tanh(x) ** 2, 0.0, v[-1]))
    assert np.all(np.abs(run.corr - np.diag(v)) <= 3 * run.error.corr + 1e-6)


def test_redrawn_layers_of_two_populations_have_their_means():
    std, mean = np.array([[1.3, 0.8], [0.5, 1.1]]), np.array([[0.3, -0.2], [0.1, 0.4]])
    share, relu = np.array([0.6, 0.4]), sp.Max(X, 0)
    network = layers(
        redrawn=True, output=[sp.tanh(X), relu], fractions=[0.6, 0.4], std=std.tolist(),
        mean=mean.tolist(), input=0.2,
    )  # fmt: skip
    run = dmft.solve(dmft.derive(network), Normal(0.5, 1.0), 4)
    outputs = np.tanh, lambda x: np.maximum(x, 0.0)
    m, v = np.full(2, 0.5), np.ones(2)
    for k in range(5):
        np.testing.assert_allclose(run.mean[k], m, atol=1e-4)
        np.testing.assert_allclose(run.corr[k, k], v + m**2, atol=1e-4)
        pairs = list(zip(outputs, m, v, strict=True))
        first = np.array([normal_mean(f, *at) for f, *at in pairs])
        second = np.array([normal_mean(lambda x, f=f: f(x) ** 2, *at) for f, *at in pairs])
        m, v = mean @ (share * first) + 0.2, std**2 @ (share * second)


@pytest.mark.parametrize(("redrawn", "input"), [(True, 0), (False, 0.25), (True, 0.25)])
def test_noisy_maps_have_their_stationary_state(redrawn, input):
    """q = g^2 E phi^2 + b^2 + 2 D, exponent log(g^2 E phi'^2) / 2; lags from a long run."""
    network = layers(
        redrawn=redrawn, noise=0.05, std=1.6, input=dmft.GaussianInput(sp.Float(input))
    )
    q = 1.0
    for _ in range(200):
        q = 1.6**2 * normal_mean(lambda x: np.tanh(x) ** 2, 0.0, q) + input + 0.1
    slope = normal_mean(lambda x: np.cosh(x) ** -4.0, 0.0, q)
    state = dmft.stationary(network)
    np.testing.assert_allclose(state.variance, q, rtol=1e-10)
    np.testing.assert_allclose(state.lyapunov_exponent, np.log(1.6**2 * slope) / 2, atol=1e-9)
    run = dmft.solve(dmft.derive(network), Normal(), 80)
    np.testing.assert_allclose(state.correlation([1, 9]), run.corr[80, [79, 71]], atol=1e-5)
    found = dmft.lyapunov_exponent(network, Normal(), 40.0, paths=2000, sweeps=4)
    assert found.method == "perturbed sweep"
    assert abs(found.value - state.lyapunov_exponent) < found.error + 0.01


def test_exponents_of_two_populations_of_maps():
    """E y^2 of each grows by std_ab^2 f_b E phi_b'^2, x and y being independent Gaussians."""
    std, share, noise = (
        np.array([[1.6, 0.3], [1.4, 1.3]]),
        np.array([0.7, 0.3]),
        np.array([0.05, 0.2]),
    )
    network = layers(
        output=[sp.tanh(X), sp.erf(X)], std=std.tolist(), fractions=share.tolist(),
        noise=noise.tolist(),
    )  # fmt: skip
    v = np.ones(2)
    for _ in range(200):
        squares = [
            normal_mean(lambda x, f=f: f(x) ** 2, 0.0, q)
            for f, q in zip((np.tanh, erf), v, strict=True)
        ]
        v = std**2 @ (share * squares) + 2.0 * noise
    slopes = (lambda x: np.cosh(x) ** -4.0), (lambda x: 4.0 / np.pi * np.exp(-2.0 * x**2))
    growth = std**2 * share * [normal_mean(f, 0.0, q) for f, q in zip(slopes, v, strict=True)]
    exact = np.log(np.abs(np.linalg.eigvals(growth)).max()) / 2.0
    found = dmft.lyapunov_exponent(network, Normal(), 40.0, paths=1000, sweeps=4)
    assert abs(found.value - exact) < found.error + 0.005
    assert found.error < 0.02


@pytest.mark.slow
def test_exponents_of_two_populations_with_memory():
    """Those of simulated networks, and of one population that is divided into two."""
    network = dmft.RandomNetwork(
        -X + H, X, H, output=[sp.tanh(X), sp.tanh(2 * X)], std=[[1.6, 0.9], [0.9, 1.8]],
        symmetry=[[0.5, 0.4], [0.4, -0.3]], fractions=[0.6, 0.4],
    )  # fmt: skip
    found = dmft.lyapunov_exponent(network, Normal(), 10.0, paths=1500, sweeps=6)
    drawn = dmft.simulate(network, dim=1500, t_max=10.0, seeds=12, start=Normal(), lyapunov=True)
    each = drawn.lyapunov_exponents
    assert abs(found.value - each.mean()) < found.error + 2 * each.std(ddof=1) / 12**0.5 < 0.05
    half = np.full((2, 2), 0.5)
    divided = leaky(std=(3 * half).tolist(), symmetry=half.tolist(), fractions=[0.3, 0.7])
    both = [
        dmft.lyapunov_exponent(y, Normal(), 10.0, paths=paths, sweeps=8)
        for y, paths in ((leaky(symmetry=0.5), 2000), (divided, 1000))
    ]
    assert abs(both[0].value - both[1].value) < both[0].error + both[1].error < 0.05


@pytest.mark.parametrize("kink", [sp.Max(X, 0), sp.Max(-1, sp.Min(X, 1)), sp.sign(X)])
def test_kinks_and_jumps_of_the_output_have_exact_rows(kink):
    """V' = g^2 E phi^2 to rounding over many steps, and the first lag by a double average."""

    def square(v):
        s, low = np.sqrt(v), norm.cdf(-1 / np.sqrt(v))
        inside = v * (1 - 2 * low) - 2 * s * norm.pdf(1 / s)
        return {sp.sign(X): 1.0, sp.Max(X, 0): v / 2}.get(kink, inside + 2 * low)

    run = dmft.solve(dmft.derive(layers(output=kink)), Normal(), 12)
    phi = {sp.sign(X): np.sign, sp.Max(X, 0): lambda x: np.maximum(x, 0)}.get(
        kink, lambda x: np.clip(x, -1, 1)
    )
    v = [1.0]
    for _ in range(12):
        v.append(1.3**2 * square(v[-1]))
    np.testing.assert_allclose(np.diagonal(run.corr), v, rtol=1e-9)
    rho = run.corr[2, 1] / np.sqrt(v[1] * v[2])

    def given(x):
        inside = rho * x[:, None] + np.sqrt(1 - rho**2) * np.linspace(-7, 7, 1401)
        weight = np.exp(-(np.linspace(-7, 7, 1401) ** 2) / 2)
        return phi(np.sqrt(v[1]) * x) * (phi(np.sqrt(v[2]) * inside) @ weight) / weight.sum()

    np.testing.assert_allclose(run.corr[3, 2], 1.3**2 * normal_mean(given, 0.0, 1.0), atol=1e-3)


@pytest.mark.parametrize(("g", "bias"), [(2.5, 0.1), (4.0, 1.5)])
def test_stationary_maps_with_kinked_outputs(g, bias):
    """x' = J clip(x) + b: E clip^2 and P(|x| < 1) = E phi'^2 in closed form."""
    v = 1.0
    for _ in range(500):
        s, low = np.sqrt(v), norm.cdf(-1 / np.sqrt(v))
        v = g**2 * (v * (1 - 2 * low) - 2 * s * norm.pdf(1 / s) + 2 * low) + bias**2
    state = dmft.stationary(dmft.RandomNetwork(
        H, X, H, output=sp.Min(1.0, sp.Max(-1, X)), std=g, kind="map",
        input=dmft.GaussianInput(sp.Float(bias**2)),
    ))  # fmt: skip
    assert state.variance == pytest.approx(v, rel=1e-9)
    exact = np.log(g**2 * (1 - 2 * norm.cdf(-1 / np.sqrt(v)))) / 2
    assert state.lyapunov_exponent == pytest.approx(exact, abs=1e-8)


def test_stability_of_diagrams_is_that_of_the_aligned_sites():
    """Couplings of mean 3: m = E tanh, q = E tanh^2 and the replicon g^2 E (1 - tanh^2)^2."""
    network, g = leaky(output=sp.tanh(X), mean=3), 1.2
    m = q = 0.9
    for _ in range(200):
        at = 3.0 * m, g * g * q
        m = normal_mean(np.tanh, *at)
        q = normal_mean(lambda u: np.tanh(u) ** 2, *at)
    wanted = g * g * normal_mean(lambda u: (1 - np.tanh(u) ** 2) ** 2, 3.0 * m, g * g * q) - 1.0
    swept = dmft.sweep({"std": [g]}, "stability", equations=network).values["stability"]
    drawn = dmft.phase_diagram("stability", ("std", [g]), ("mean", [3.0]), equations=network)
    np.testing.assert_allclose([swept[0], drawn.values[0, 0]], wanted, atol=1e-8)


def test_perturbations_of_more_rows_than_paths_keep_their_factor():
    """Half of 100 units of a ReLU are at work: covariances of 102 rows are singular."""
    network = leaky(output=sp.Max(X, 0), std=0.5)
    few = dmft.lyapunov_exponent(network, None, 5.0, paths=100)
    many = dmft.lyapunov_exponent(network, None, 5.0, paths=1000)
    assert abs(few.value - many.value) < few.error + many.error


def test_stationary_states_name_symbols_without_a_value():
    with pytest.raises(BadParameter, match="no value for g; pass g="):
        dmft.stationary(leaky(std=sp.Symbol("g")))


@pytest.mark.parametrize(
    ("options", "leak"),
    [
        ({"mean": 2.5, "std": 0.3, "symmetry": 0.5}, 1.0),
        ({"mean": [[2.5, 0.0], [0.0, 0.4]], "std": 0.3, "fractions": [0.5, 0.5]}, 1.0),
        ({"mean": 2.5, "std": 0.3}, 2.0),
        ({"mean": 1.5, "std": 0.3}, 2.0),
        ({"mean": -2.5, "std": 0.3, "kind": "map"}, 0.0),
        ({"mean": -0.6, "std": 0.3, "kind": "map"}, 0.0),
    ],
)
def test_stable_points_have_no_outliers(options, leak):
    """At rest, eigenvalues of drawn matrices: -leak + J of tanh sites, J of the map tanh(h)."""
    is_map = options.get("kind") == "map"
    rate = sp.tanh(H) if is_map else -leak * X + H
    network = dmft.RandomNetwork(rate, X, H, **{"output": X if is_map else sp.tanh(X), **options})
    rest = min(dmft.fixed_points(network), key=lambda y: np.max(y.output_second_moment))
    size, rng = 400, np.random.default_rng(0)
    mean = np.atleast_2d(options["mean"])
    means = np.kron(mean, np.ones((size // len(mean),) * 2))
    first, second = rng.standard_normal((2, size, size))
    g = options.get("symmetry", 0.0)
    upper = np.triu(first, 1)
    J = upper + (g * upper + np.sqrt(1 - g**2) * np.triu(second, 1)).T
    J = means / size + options["std"] * J / np.sqrt(size)
    values = np.linalg.eigvals(J)
    assert rest.stable == (np.abs(values).max() < 1 if is_map else values.real.max() < leak)


@pytest.mark.parametrize(("mean", "is_stable"), [(1.4, True), (3.0, False)])
def test_stability_under_a_constraint_is_that_of_simulated_networks(mean, is_stable):
    """A ferromagnet with E x^2 = 1 in a random field leaves M = 0 above mean (1 + nu)/E phi'."""
    nu, size = sp.Symbol("nu", real=True), 600
    network = dmft.RandomNetwork(
        -X + H - nu * X, X, H, output=sp.tanh(X), std=0.5, mean=mean,
        multiplier=(nu, X**2, 1), input=dmft.GaussianInput(sp.S.One),
    )  # fmt: skip
    point = min(dmft.fixed_points(network), key=lambda point: abs(point.output_mean))
    assert abs(point.output_mean) < 1e-8
    assert point.replicon < 0.2
    assert point.stable == is_stable
    generator = np.random.default_rng(0)
    J = 0.5 * generator.standard_normal((size, size)) / np.sqrt(size) + mean / size
    field = norm.ppf((generator.permutation(size) + 0.5) / size)
    x = field + 0.15
    for _ in range(300):
        h = J @ np.tanh(x) + field
        x = x + 0.05 * (h - x * (x @ h) / (x @ x))
        x /= np.sqrt(np.mean(x**2))
    assert (abs(np.tanh(x).mean()) < 0.15) == is_stable


@pytest.mark.parametrize(("std", "symmetry", "field", "mean"), [
    (0.5, 0.0, 1.0, 0.0), (0.5, 1.0, 1.0, 0.0), (1.0, -0.5, 1.0, 0.0), (0.5, 0.3, 0.2, 3.0),
])  # fmt: skip
def test_spherical_sites_rest_where_only_the_multiplier_confines_them(std, symmetry, field, mean):
    """x = h/v, v = nu - symmetry std^2/v; E x^2 = 1 gives v at M = 0, and v = mean elsewhere."""
    nu = sp.Symbol("nu", real=True)
    network = dmft.RandomNetwork(
        -nu * X + H, X, H, std=std, symmetry=symmetry, mean=mean, multiplier=(nu, X**2, 1),
        input=dmft.GaussianInput(sp.Float(field**2)),
    )  # fmt: skip
    spread = np.sqrt(std**2 + field**2)
    wanted = [(spread, 0.0)]
    if mean > spread:
        outside = np.sqrt(1 - spread**2 / mean**2)
        wanted = [(mean, -outside), (spread, 0.0), (mean, outside)]
    points = dmft.fixed_points(network)
    assert len(points) == len(wanted)
    for point, (v, M) in zip(points, wanted, strict=True):
        found = point.multiplier, point.output_mean, point.response, point.replicon
        exact = v + symmetry * std**2 / v, M, 1 / v, std**2 / v**2
        np.testing.assert_allclose(found, exact, atol=1e-9)
        assert point.stable == (abs(v - wanted[0][0]) < 1e-9)


def test_negative_noise_is_named_where_a_run_ends():
    network = dmft.RandomNetwork(-X + H, X, H, output=sp.tanh(X), std=1.2, noise=0.3 - X**2 / 4)
    run = dmft.solve(dmft.derive(network), 0.1, 3.0, paths=200)
    assert run.status == "nonfinite"
    assert "is noise= negative at some states?" in run.message
    assert run.provenance["approximation"] == "4 sweeps of 200 paths"


@pytest.mark.parametrize("std", [0.5, 1.0, 1.3])
def test_marginal_points_are_not_stable(std):
    """Without a field the replicon of a spherical network is 1, up to rounding of either sign."""
    nu = sp.Symbol("nu", real=True)
    network = dmft.RandomNetwork(-nu * X + H, X, H, std=std, multiplier=(nu, X**2, 1))
    (point,) = dmft.fixed_points(network)
    assert point.replicon == pytest.approx(1.0, abs=1e-12)
    assert not point.stable


def test_a_constraint_is_a_mean_over_all_populations():
    """Linear sites x = h/nu: at each nu means and squares are linear; then E x^2 = 1 over all."""
    nu, share, drive = sp.Symbol("nu", real=True), np.array([0.3, 0.7]), np.array([1.0, 0.3])
    std, mean = np.array([[0.5, 0.3], [0.8, 0.4]]), np.array([[0.5, 0.2], [0.1, 0.3]])
    network = dmft.RandomNetwork(
        -nu * X + H, X, H, std=std.tolist(), mean=mean.tolist(), fractions=share.tolist(),
        input=drive.tolist(), multiplier=(nu, X**2, 1),
    )  # fmt: skip

    def squares(v):
        M = np.linalg.solve(v * np.eye(2) - share * mean, drive)
        return M, np.linalg.solve(v**2 * np.eye(2) - share * std**2, v**2 * M**2)

    exact = brentq(lambda v: share @ squares(v)[1] - 1, 0.9, 9.0)
    (point,) = (p for p in dmft.fixed_points(network) if (p.output_mean > 0).all())
    assert point.multiplier == pytest.approx(exact, abs=1e-9)
    np.testing.assert_allclose(point.output_mean, squares(exact)[0], atol=1e-9)
    np.testing.assert_allclose(point.state_second_moment, squares(exact)[1], atol=1e-9)
    run = dmft.solve(dmft.derive(network), 1.0, 12.0, dt=0.2, paths=200, sweeps=2)
    np.testing.assert_allclose(run.multiplier[-1], exact, atol=2e-3)
    np.testing.assert_allclose(run.mean[-1], squares(exact)[0], atol=2e-3)
    assert r"0.3 \left\langle" in dmft.derive(network).latex()


def test_a_constraint_with_site_parameters_of_several_populations():
    """Sites x = h/nu, h = theta + noise of mean zero: E theta x = E theta^2/nu = 1."""
    nu, law = sp.Symbol("nu", real=True), Discrete({0.5: 0.5, 1.5: 0.5})
    network = dmft.RandomNetwork(
        THETA - nu * X + H, X, H, std=[[0.5, 0.5], [0.5, 0.5]], fractions=[0.3, 0.7],
        parameters={THETA: law}, multiplier=(nu, THETA * X, 1),
    )  # fmt: skip
    (point,) = dmft.fixed_points(network)
    assert point.multiplier == pytest.approx(1.25, abs=1e-9)
    start = Normal(1.0, 0.1)
    run = dmft.solve(dmft.derive(network), start, 6.0, dt=0.2, paths=200, sweeps=2)
    np.testing.assert_allclose(run.multiplier[-1], 1.25, atol=2e-3)
    drawn = dmft.simulate(network, None, 200, 6.0, 4, start, dt=0.2)
    error = 5 * drawn.stderr.mean[-1] + 0.01
    assert (np.abs(drawn.mean.mean[-1] - 0.8) < error).all()


@pytest.mark.parametrize("std", [1.0, 0.0])
def test_replicators_without_self_limitation_do_not_rest(std):
    nu = sp.Symbol("nu", real=True)
    network = dmft.RandomNetwork(
        X * (H - nu), X, H, std=std, positive=True, multiplier=(nu, X, 1),
        input=dmft.GaussianInput(sp.Float(0.25)),
    )  # fmt: skip
    with pytest.raises(BadParameter, match="no fixed point"):
        dmft.fixed_points(network)


def test_diagrams_take_values_of_symbols():
    """Symbols that are no axes have values, as in `stationary`; sweeps are named by the measure."""
    gain, slope = sp.symbols("gain slope", positive=True)
    network = dmft.RandomNetwork(-X + H, X, H, output=sp.erf(slope * X), std=gain)
    exact = [dmft.stationary(network, gain=g, slope=1.3).lyapunov_exponent for g in (1.5, 2.0)]
    axis = {"equations": network, "slope": 1.3}
    swept = dmft.sweep({"gain": [1.5, 2.0]}, "chaos", **axis)
    np.testing.assert_allclose(swept.values["chaos"], exact, rtol=1e-9)
    drawn = dmft.phase_diagram("chaos", ("gain", [1.5, 2.0]), ("noise", [0.0, 0.1]), **axis)
    np.testing.assert_allclose(drawn.values[0], exact, rtol=1e-9)
    with pytest.raises(BadParameter, match="no value for slope"):
        dmft.phase_diagram("chaos", ("gain", [1.5, 2.0]), ("noise", [0.0, 0.1]), equations=network)


def test_kinks_of_sites_with_parameters_are_resolved():
    """Normal capacities and inputs add to the normal field: moments of one rectified normal."""
    z, w = np.polynomial.legendre.leggauss(400)

    def moments(mean, spread):
        u = mean / spread + (z + 1) / 2 * 10 - min(mean / spread, 10.0)  # from the kink on
        x = np.maximum(u, 0.0)
        density = 5 * w * np.exp(-((x - mean / spread) ** 2) / 2) / np.sqrt(2 * np.pi)
        return [spread**n * (density @ (x**n)) for n in range(3)]

    rectified = dmft.RandomNetwork(-X + H, X, H, output=sp.Max(0, X), mean=-0.5, std=0.9,
                                   input=THETA, parameters={THETA: Normal(0.3, 0.6)})  # fmt: skip
    species = dmft.RandomNetwork(X * (THETA - X + H), X, H, positive=True, mean=-1, std=0.5,
                                 parameters={THETA: Normal(1.0, 0.09)})  # fmt: skip
    for network, mean, std, shift, variance in (
        (rectified, -0.5, 0.9, 0.3, 0.6), (species, -1.0, 0.5, 1.0, 0.09),
    ):  # fmt: skip
        (point,) = dmft.fixed_points(network)
        spread = np.sqrt(std**2 * point.output_second_moment + variance)
        alive, first, second = moments(shift + mean * point.output_mean, spread)
        assert abs(point.output_mean - first) < 1e-7
        assert abs(point.output_second_moment - second) < 1e-7
        if network.positive:
            assert abs(point.survival - alive) < 1e-7


def test_print_shows_what_was_declared():
    g = sp.Symbol("g", positive=True)
    network = dmft.RandomNetwork(-X + H, X, H, output=sp.tanh(X), std=g, noise=0.5)
    rows = dict(line.split(maxsplit=1) for line in str(network).splitlines())
    assert rows == {"dx/dt": "h - x", "output": "tanh(x)", "std": "g", "noise": "0.5"}
    # Sentences with formulas in them are no formula.
    assert not dmft.derive(network)._repr_latex_().startswith("$")
