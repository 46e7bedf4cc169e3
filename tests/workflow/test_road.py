"""The verbs on top: solve, escape_time, phase_diagram, load, as a user calls them."""

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.errors import BadParameter, InvalidCovariance, ShapeMismatch

pytestmark = pytest.mark.compiled

Z = sp.Symbol("z", real=True)


@pytest.fixture(scope="module")
def phase_retrieval():
    square = dmft.Committee(Z**2, 1)
    model = dmft.Model(square, square, sp.Symbol("D"))
    return dmft.derive(model, dmft.SGD(sp.Symbol("g"), constraint="sphere"))


START = dmft.Overlaps([[1.0]], [[0.1]], [[1.0]])


def exact_cosine(t, g, D, m0=0.1):
    """Solution of dm/dt = m [A (1 - m^2) - B] (theory/one_pass F.1), by separation of variables."""
    A, B = 4 - 24 * g, 2 * g * D
    rate, limit = A - B, (A - B) / A
    u = m0**2
    return np.sqrt(limit / (1 + (limit / u - 1) * np.exp(-2 * rate * t)))


@pytest.mark.parametrize("method", ["rk5", "rk8", "Radau", "BDF", "LSODA"])
def test_solution_is_the_exact_one(phase_retrieval, method):
    times = np.linspace(0, 2.5, 11)
    run = dmft.solve(
        phase_retrieval, START, 2.5, method=method, rtol=1e-10, save_at=times, g=0.05, D=0.5
    )
    tolerance = 1e-8 if method in ("rk5", "rk8") else 1e-6
    np.testing.assert_allclose(run.M[:, 0, 0], exact_cosine(times, 0.05, 0.5), rtol=tolerance)
    np.testing.assert_allclose(run.risk, 2 * (1 - run.M[:, 0, 0] ** 2), atol=1e-8)
    assert run.status == dmft.Status.OK


def test_shapes_and_clock(committee_model):
    model = committee_model("erf", "erf", 3, 2, noise=0.1)
    equations = dmft.derive(model, dmft.SGD(0.6, batch_size=2))
    start = dmft.random_overlaps(model, 100, seed=0)
    run = dmft.solve(equations, start, 5.0, save_at=6)
    assert run.Q.shape == (6, 3, 3)
    assert run.M.shape == (6, 3, 2)
    assert run.readout.shape == (6, 3)
    assert run.risk.shape == run.t.shape == (6,)
    np.testing.assert_allclose(run.steps(dim=1000)[-1], 5.0 * 1000 * 3 / 0.6)
    np.testing.assert_allclose(run.samples(dim=1000)[-1], 2 * 5.0 * 1000 * 3 / 0.6)
    flow = dmft.solve(dmft.derive(model, dmft.GradientFlow()), start, 5.0, save_at=2)
    with pytest.raises(BadParameter, match="no steps"):
        flow.steps(dim=1000)


def test_one_build_serves_all_parameters_and_a_problem_is_enough(phase_retrieval):
    problem = dmft.build(phase_retrieval)
    one = dmft.solve(problem, START, 1.0, save_at=5, g=0.05, D=0.0)
    two = dmft.solve(phase_retrieval, START, 1.0, save_at=5, learning_rate=0.05, label_noise=0)
    np.testing.assert_array_equal(one.M, two.M)


@pytest.mark.parametrize(
    ("name", "rate", "constraint"),
    [
        ("erf", 1.0, None), ("erf", 1.0, "sphere"), ("square", 0.05, None),
        ("square", 0.05, "sphere"),
        # Polynomials as the square, which compile longest.
        pytest.param("he3", 0.005, None, marks=pytest.mark.slow),
        pytest.param("he3", 0.005, "sphere", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_perfect_recovery_ends_ok(committee_model, name, rate, constraint):
    """The covariance becomes singular: the run must not be called out of its domain."""
    model = committee_model(name, name, 1, 1)
    equations = dmft.derive(model, dmft.SGD(rate, constraint=constraint))
    run = dmft.solve(equations, dmft.Overlaps([[1.0]], [[0.6]], [[1.0]]), 400.0)
    assert run.status == dmft.Status.OK, run.message
    # The risk is linear in the overlaps, which carry errors of the order of rtol.
    assert abs(run.risk[-1]) < 1e-6


def test_matched_erf_committee_recovers_and_ends_ok(committee_model):
    model = committee_model("erf", "erf", 2, 2)
    start = dmft.Overlaps(np.eye(2), [[0.6, 0.1], [0.2, 0.5]], np.eye(2))
    for constraint in (None, "sphere"):
        run = dmft.solve(dmft.derive(model, dmft.SGD(1.0, constraint=constraint)), start, 2000.0)
        assert run.status == dmft.Status.OK, run.message
        assert abs(run.risk[-1]) < 1e-8


def test_divergence_is_a_status(committee_model):
    model = committee_model("square", "square", 1, 1)
    run = dmft.solve(dmft.derive(model, dmft.SGD(5.0)), START, 50.0)
    assert run.status == dmft.Status.DIVERGED
    assert 0 < run.t[-1] < 50.0
    assert "t =" in run.message


def test_escape_of_runs_and_of_equations_agree(phase_retrieval):
    run = dmft.solve(phase_retrieval, START, 5.0, g=0.05, D=0.0)
    by_run = dmft.escape_time(run, fraction=0.3)
    by_equations = dmft.escape_time(phase_retrieval, START, 5.0, fraction=0.3, g=0.05, D=0.0)
    u0, u1, rate = 0.01, 0.3 + 0.7 * 0.01, 2.8
    exact = np.log(u1 / u0 * (1 - u0) / (1 - u1)) / (2 * rate)
    assert by_run.value == pytest.approx(exact, rel=1e-7)
    assert by_equations.value == pytest.approx(exact, rel=1e-7)
    assert by_run.steps(1000) == pytest.approx(exact * 1000 / 0.05, rel=1e-7)
    by_overlap = dmft.escape_time(run, overlap=0.5)
    assert exact_cosine(by_overlap.value, 0.05, 0.0) == pytest.approx(0.5, rel=1e-7)


@pytest.mark.parametrize("m0", [0.1, 1e-4])
def test_escape_time_is_exact_to_nine_digits_by_default(phase_retrieval, m0):
    u0 = m0**2
    u1 = 0.5 + 0.5 * u0
    exact = np.log(u1 / u0 * (1 - u0) / (1 - u1)) / 5.6
    start = dmft.Overlaps([[1.0]], [[m0]], [[1.0]])
    found = dmft.escape_time(phase_retrieval, start, 20.0, fraction=0.5, g=0.05, D=0.0)
    assert found.value == pytest.approx(exact, abs=1e-9)


def test_nothing_to_escape_from(phase_retrieval):
    perfect = dmft.Overlaps([[1.0]], [[1.0]], [[1.0]])
    with pytest.raises(BadParameter, match="nothing to escape from"):
        dmft.escape_time(phase_retrieval, perfect, 1.0, g=0.05, D=0.0)


def test_escape_beyond_the_horizon_is_censored(phase_retrieval):
    result = dmft.escape_time(phase_retrieval, START, 0.1, g=0.05, D=0.0)
    assert isinstance(result, dmft.Censored)
    assert result.horizon == 0.1
    with pytest.raises(AttributeError, match=r"no escape until t = 0\.1"):
        _ = result.value


def test_erf_committee_warns_that_nothing_is_learned_yet(committee_model):
    """Issue A: 1 % is reached at t = 0.02, the plateau is left at t = 185-270."""
    model = committee_model("erf", "erf", 4, 2, noise=1e-3)
    equations = dmft.derive(model, dmft.SGD(0.5))
    start = dmft.random_overlaps(model, 1000, seed=0)
    with pytest.warns(dmft.EscapeWarning, match="before anything is learned"):
        early = dmft.escape_time(equations, start, 1000.0, fraction=0.01)
    assert early.relaxed
    assert early.value < 0.1
    late = dmft.escape_time(equations, start, 1000.0, fraction=0.5, reference="plateau")
    assert 150 < late.value < 350
    assert not late.relaxed


def test_phase_diagram_of_escape_times_is_exact_and_independent_of_threads(phase_retrieval):
    rates, noises = [0.02, 0.06, 0.1, 0.2], [0.0, 1.0, 3.0]
    diagrams = [
        dmft.phase_diagram(
            "escape_time",
            ("g", rates),
            ("D", noises),
            equations=phase_retrieval,
            start=START,
            t_max=400.0,
            fraction=0.3,
            threads=threads,
        )
        for threads in (1, 2)
    ]
    np.testing.assert_array_equal(diagrams[0].values, diagrams[1].values)
    u0, u1 = 0.01, 0.3 + 0.7 * 0.01
    for row, noise in enumerate(noises):
        for column, g in enumerate(rates):
            A, rate = 4 - 24 * g, 4 - 2 * g * (12 + noise)
            limit = rate / A
            if rate > 0 and limit > u1:
                exact = np.log(u1 / u0 * (limit - u0) / (limit - u1)) / (2 * rate)
                assert diagrams[0].values[row, column] == pytest.approx(exact, rel=1e-6)
            else:
                assert np.isnan(diagrams[0].values[row, column])
                assert diagrams[0].status[row, column] == "not_converged"


def test_phase_diagram_of_a_users_function_and_of_failures(committee_model, tmp_path):
    equations = dmft.derive(committee_model("square", "square", 1, 1), dmft.SGD(0.1))
    diagram = dmft.phase_diagram(
        "converged",
        ("learning_rate", [0.05, 5.0]),
        ("label_noise", [0.0]),
        equations=equations,
        start=START,
        t_max=50.0,
    )
    assert diagram.values.tolist() == [[1.0, 0.0]]
    final = dmft.phase_diagram(
        "final_risk",
        ("learning_rate", [0.05, 5.0]),
        ("label_noise", [0.0]),
        equations=equations,
        start=START,
        t_max=50.0,
    )
    assert final.status.tolist() == [["ok", "diverged"]]
    mine = dmft.phase_diagram(lambda a, b: a - b, ("a", [1.0, 2.0]), ("b", [1.0]))
    assert mine.values.tolist() == [[0.0, 1.0]]
    assert dmft.load(final.save(tmp_path / "diagram.nc")) == final


def test_refusals(phase_retrieval, committee_model, tmp_path):
    with pytest.raises(BadParameter, match=r"system = 'equations' must be a dmft\.Equations"):
        dmft.solve("equations", START, 1.0)
    with pytest.raises(BadParameter, match="pass g="):
        dmft.solve(phase_retrieval, START, 1.0, D=0.0)
    with pytest.raises(BadParameter, match="unknown parameter 'rate'"):
        dmft.solve(phase_retrieval, START, 1.0, g=0.1, D=0.0, rate=1.0)
    with pytest.raises(BadParameter, match="unknown method"):
        dmft.solve(phase_retrieval, START, 1.0, g=0.1, D=0.0, method="euler")
    with pytest.raises(BadParameter, match=r"dmft\.Event records"):
        dmft.solve(phase_retrieval, START, 1.0, g=0.1, D=0.0, events=["risk"])
    with pytest.raises(BadParameter, match="t_max = '1' must be a number"):
        dmft.solve(phase_retrieval, START, "1", g=0.1, D=0.0)
    with pytest.raises(BadParameter, match=r"atol = array.* must be a number"):
        dmft.solve(phase_retrieval, START, 1.0, g=0.1, D=0.0, atol=np.ones(2))
    run = dmft.solve(phase_retrieval, START, 1.0, g=0.1, D=0.0, events=dmft.Event("risk", 1.0))
    with pytest.raises(BadParameter, match="there is no folder"):
        run.save(tmp_path / "missing" / "run.nc")
    with pytest.raises(BadParameter, match="unknown measure"):
        dmft.phase_diagram("speed", ("g", [1]), ("D", [1]))
    with pytest.raises(BadParameter, match="unknown parameter 'x'"):
        dmft.phase_diagram(
            "final_risk", ("x", [1]), ("D", [1]), equations=phase_retrieval, start=START, t_max=1
        )
    with pytest.raises(BadParameter, match="start"):
        dmft.escape_time(phase_retrieval)
    with pytest.raises(BadParameter, match="no file"):
        dmft.load(tmp_path / "missing.nc")
    (tmp_path / "text.nc").write_text("not a netCDF file")
    with pytest.raises(BadParameter, match="not a netCDF file"):
        dmft.load(tmp_path / "text.nc")
    with pytest.raises(ShapeMismatch):
        dmft.Overlaps(np.eye(2), np.zeros((3, 1)))
    with pytest.raises(InvalidCovariance, match="eigenvalue"):
        dmft.Overlaps([[1.0]], [[2.0]], [[1.0]])


def test_interrupted_run_keeps_what_is_saved(committee_model):
    equations = dmft.derive(committee_model("erf", "erf", 2, 2), dmft.SGD(0.5))
    start = dmft.Overlaps(np.eye(2), 0.1 * np.eye(2))

    def stop(fraction, message):
        raise KeyboardInterrupt

    run = dmft.solve(equations, start, 1e9, max_steps=10**9, progress=stop, save_at=10**5)
    assert run.status == dmft.Status.INTERRUPTED
    assert run.t.size > 0
    assert np.all(np.isfinite(run.Q))
