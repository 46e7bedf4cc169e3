"""Hand-written two-time problems: exact solutions of small ones, refusals, files, interruptions."""

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.errors import BadParameter
from dmft.solvers.two_time.run import integrals, interpolate

t, s, u = sp.symbols("t s u")
C, R, K, mu, m = sp.symbols("C R K mu m", cls=sp.Function)
rate = sp.Symbol("rate")
# dx/dt = -rate x + xi with <xi xi> = 2 rate: a stationary Gaussian process.
ORNSTEIN = dmft.TwoTime(
    rates={
        C(t, s): -rate * C(t, s),
        R(t, s): -rate * R(t, s),
        C(t, t): -2 * rate * C(t, t) + 2 * rate,
    },
    values={R(t, t): 1},
    start={C(0, 0): 0},
    causal=[R],
)


def test_ornstein_uhlenbeck_process():
    run = dmft.solve(ORNSTEIN, None, 3.0, rate=2.0, tol=1e-7, save_at=[1.0, 2.0, 3.0])
    exact = np.exp(-2 * (3.0 - run.row("R", 3.0)[0]))
    np.testing.assert_allclose(run.row("R", 3.0)[1], exact, atol=1e-6)
    diagonal = 1 - np.exp(-4 * run.t)
    np.testing.assert_allclose(run.C_diagonal, diagonal, atol=1e-6)
    assert run.at("C", 3.0, 1.0) == pytest.approx(np.exp(-4.0) * (1 - np.exp(-4.0)), abs=1e-7)
    assert run.at("C", 1.0, 3.0 - 2.5) == run.at("C", 1.0, 0.5)
    assert run.at("R", 1.0, 2.0) == 0.0
    times, chi = run.integral("R", 3.0)
    np.testing.assert_allclose(chi, (1 - np.exp(-2 * (3.0 - times))) / 2, atol=1e-6)


def test_rows_are_exact_for_polynomials_of_their_order():
    s = np.linspace(0.0, 1.0, 9)
    np.testing.assert_allclose(interpolate(s, s**4, np.array([0.3])), 0.0081, atol=1e-12)
    np.testing.assert_allclose(integrals(s, s**3), (1 - s**4) / 4, atol=1e-12)


def test_kernel_of_second_kind_and_signal_with_memory():
    """K = 1 + int K solves to exp(t - s); dm/dt = -int m with m(0) = 1 to cos t."""
    problem = dmft.TwoTime(
        rates={m(t): -sp.Integral(m(u), (u, 0, t))},
        values={K(t, s): 1 + sp.Integral(K(u, s), (u, s, t)), K(t, t): 1},
        start={m(0): 1},
        causal=[K],
    )
    run = dmft.solve(problem, None, 5.0, tol=1e-8)
    grid, found = run.row("K", 5.0)
    gap = np.abs(found - np.exp(5.0 - grid)).max()
    assert gap < min(run.error.K[-1], 1e-4)
    np.testing.assert_allclose(run.m, np.cos(run.t), atol=3e-6)
    assert np.all(np.abs(run.m - np.cos(run.t)) <= run.error.m + 1e-9)


def test_explicit_times_and_second_factors_of_any_form():
    """C(t, s) = int_0^s u C(s, u)^2 du + t s with C = t s: closed by hand from its integral."""
    wanted = t * s
    memory = sp.integrate(u * (s * u) ** 2 * (t * u), (u, 0, s))
    problem = dmft.TwoTime(
        rates={},
        values={
            C(t, s): wanted - memory + sp.Integral(u * C(t, u) * C(s, u) ** 2, (u, 0, s)),
            C(t, t): t**2,
        },
    )
    run = dmft.solve(problem, None, 1.5, tol=1e-7)
    grid, found = run.row("C", 1.5)
    gap = np.abs(found - 1.5 * grid).max()
    assert gap < min(run.error.C[-1], 2e-5)


def test_second_factors_with_signals_on_both_sides_of_s():
    """C = exp(-|t - s|), m = exp(t): int_0^t C(t, u) log(C(u, s) m(u)) du by hand."""
    inner = sp.integrate(sp.exp(u - t) * (2 * u - s), (u, 0, s))
    outer = sp.integrate(sp.exp(u - t) * s, (u, s, t))
    memory = sp.Integral(C(t, u) * sp.log(C(u, s) * m(u)), (u, 0, t))
    problem = dmft.TwoTime(
        rates={m(t): m(t)},
        values={C(t, s): sp.exp(s - t) + memory - sp.expand(inner + outer), C(t, t): 1},
        start={m(0): 1},
    )
    run = dmft.solve(problem, None, 1.0, tol=1e-5, max_steps=2000)
    grid, found = run.row("C", 1.0)
    gap = np.abs(found - np.exp(grid - 1.0)).max()
    assert gap < min(run.error.C[-1], 1e-5)


P_SPIN = dmft.literature.spherical_p_spin(3, sp.Rational(3, 10))
NETWORK = dmft.literature.random_network(sp.erf(t), 4, 0.3)
RIDGE = dmft.literature.ridge_flow(0.5, 0.1, (1, 0.2, 1), 0.3)


@pytest.mark.cases(2)
@pytest.mark.parametrize("tol", [1e-3, 1e-5])
@pytest.mark.parametrize("problem", [P_SPIN, NETWORK, RIDGE], ids=["p-spin", "network", "ridge"])
def test_claims_cover_at_early_times(problem, tol):
    """Few and growing steps: against a run at tol = 1e-7, on the grid of each saved row."""
    times = np.geomspace(0.05, 1.5, 8)
    run = dmft.solve(problem, None, 1.5, tol=tol, save_at=times)
    truth = dmft.solve(problem, None, 1.5, tol=1e-7, save_at=times, measure_error=False)
    for number, now in enumerate(times):
        for name in run.pairs:
            grid, found = run.row(name, now)
            exact = interpolate(*truth.row(name, now), grid)
            assert np.abs(found - exact).max() < run.error[name][number] + 1e-8, (name, now)
        here, there = (int(np.argmin(abs(r.t - now))) for r in (run, truth))
        for name in run.signals:
            gap = abs(run[name][here] - truth[name][there])
            assert gap < run.error[name][here] + 1e-8, (name, now)


REFUSED = {
    "no equation": ({"rates": {C(t, s): -R(t, s)}, "values": {C(t, t): 1}}, "has no equation"),
    "no diagonal": ({"rates": {C(t, s): -C(t, s)}}, "diagonal|C\\(t, t\\)"),
    "anticausal": (
        {"rates": {C(t, s): sp.Integral(C(t, u), (u, t, sp.oo))}, "values": {C(t, t): 1}},
        "not causal",
    ),
    "future of a response": (
        {
            "rates": {R(t, s): sp.Integral(R(u, t) * R(u, s), (u, s, t))}, "values": {R(t, t): 1},
            "causal": [R],
        },
        "is zero",
    ),
    "empty range": (
        {
            "rates": {R(t, s): sp.Integral(R(t, u) * R(s, u), (u, s, t))}, "values": {R(t, t): 1},
            "causal": [R],
        },
        "vanishes there",
    ),
    "no product": (
        {
            "rates": {C(t, s): sp.Integral(sp.exp(C(t, u) + sp.sin(C(t, u) * C(u, s))), (u, 0, s))},
            "values": {C(t, t): 1},
        },
        "not a product",
    ),
    "nested": (
        {
            "rates": {C(t, s): sp.Integral(C(t, u) * sp.Integral(C(u, s), (u, 0, s)), (u, 0, t))},
            "values": {C(t, t): 1},
        },
        "nests",
    ),
    "rate and value": (
        {"rates": {C(t, s): 0, C(t, t): 0}, "values": {C(t, t): 1}, "start": {C(0, 0): 1}},
        "both a rate and a value",
    ),
    "no start": ({"rates": {C(t, s): 0, C(t, t): 0}}, "start must give"),
    "shifted": ({"rates": {C(t, s): C(t - 1, s)}, "values": {C(t, t): 1}}, "only|are known"),
    "text": ({"rates": {C(t, s): "C(t, s)"}, "values": {C(t, t): 1}}, "not as text"),
    "key": ({"rates": {C: 1}}, "keys are functions"),
    "double role": (
        {"rates": {C(t, s): -sp.Symbol("C") * C(t, s)}, "values": {C(t, t): 1}}, "both a parameter",
    ),
    "causal without equation": (
        {"rates": {C(t, s): 0}, "values": {C(t, t): 1}, "causal": [R]}, "declared causal",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_causal_problem_is_refused(case):
    declared, reason = REFUSED[case]
    with pytest.raises(BadParameter, match=reason):
        dmft.solve(dmft.TwoTime(**declared), None, 1.0)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "rate=..."),
        ({"rate": 1.0, "speed": 2}, "speed"),
        ({"rate": np.nan}, "finite"),
        ({"rate": 1.0, "tol": 0.0}, "tol"),
        ({"rate": 1.0, "rtol": 1e-3}, "have no option rtol=.*tol="),
        ({"rate": 1.0, "quadrature_tol": 1e-3}, "have no option quadrature_tol="),
        ({"rate": 1.0, "method": "rk5"}, "volterra"),
        ({"rate": 1.0, "save_at": [2.0, 1.0]}, "increasing"),
        ({"rate": 1.0, "save_at": []}, "save_at"),
        ({"rate": 1.0, "save_at": [np.nan]}, "save_at"),
        ({"rate": 1.0, "save_at": [0.5, 7.0]}, "save_at"),
    ],
)
def test_options_are_checked(options, reason):
    with pytest.raises(BadParameter, match=reason):
        dmft.solve(ORNSTEIN, None, 1.0, **options)
    with pytest.raises(BadParameter, match="start"):
        dmft.solve(ORNSTEIN, dmft.Overlaps([[1.0]], [[0.0]]), 1.0, rate=1.0)


def test_equations_are_shown():
    text = dmft.literature.spherical_p_spin(3).latex()
    assert r"\partial_{t} C\left(t,s\right)" in text
    assert r"\int\limits_{0}^{s}" in text
    assert text.startswith(r"\begin{align}")


def test_growth_without_bound_is_a_status():
    blow = dmft.TwoTime(
        rates={C(t, s): C(t, s), m(t): m(t) ** 2}, values={C(t, t): 1}, start={m(0): 1}
    )
    run = dmft.solve(blow, None, 2.0)
    assert run.status in ("diverged", "nonfinite", "tolerance_not_met")
    assert 0.9 < run.t[-1] < 1.01
    assert run.message


def test_files_restore_an_equal_record(tmp_path):
    pytest.importorskip("h5netcdf")
    run = dmft.solve(ORNSTEIN, None, 1.0, rate=1.0, save_at=np.int64(5))
    assert run.saved.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert dmft.load(run.save(tmp_path / "run.nc")) == run
    pytest.importorskip("xarray")
    data = run.to_xarray()
    assert data["C"].shape == (5, 5)
    assert data["C_error"].shape == (5,)


class Stop(Exception):
    """Raised by the progress of a test."""


def test_a_stopped_run_resumes_to_the_same_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr("dmft.workflow.solving.two_time.EVERY", 0.0)
    options = {"rate": 1.0, "tol": 1e-6, "save_at": [1.0, 2.0, 4.0]}
    whole = dmft.solve(ORNSTEIN, None, 4.0, **options)

    def stop(fraction, message):
        if fraction > 0.3:
            raise Stop

    with pytest.raises(Stop):
        dmft.solve(ORNSTEIN, None, 4.0, checkpoint=tmp_path / "c", progress=stop, **options)
    again = dmft.solve(ORNSTEIN, None, 4.0, checkpoint=tmp_path / "c", **options)
    assert (tmp_path / "c" / "fine.npz").exists()
    for name in ("t", "C_diagonal", "C", "R"):
        np.testing.assert_array_equal(again[name], whole[name])
    assert again.error == whole.error
    torn = tmp_path / "c" / "fine.npz"
    torn.write_bytes(torn.read_bytes()[:100])
    anew = dmft.solve(ORNSTEIN, None, 4.0, checkpoint=tmp_path / "c", **options)
    np.testing.assert_array_equal(anew.C, whole.C)
    with pytest.raises(BadParameter, match=r"another run: its parameters.rate is 1.*, here 2"):
        dmft.solve(ORNSTEIN, None, 4.0, checkpoint=tmp_path / "c", **{**options, "rate": 2.0})


def test_interruption_and_timeout_keep_what_was_done():
    def interrupt(fraction, message):
        if fraction > 0.3:
            raise KeyboardInterrupt

    run = dmft.solve(ORNSTEIN, None, 4.0, rate=1.0, progress=interrupt)
    assert run.status == "interrupted"
    assert 1.0 < run.t[-1] < 4.0
    late = dmft.solve(ORNSTEIN, None, 4.0, rate=1.0, timeout=0.0)
    assert late.status == "timeout"
    few = dmft.solve(ORNSTEIN, None, 4.0, rate=1.0, max_steps=7)
    assert (few.status, few.t.size) == ("max_steps", 8)
