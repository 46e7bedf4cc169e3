"""Learning rates that follow the time or the risk, against SciPy and loops over the reference."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp
from scipy.integrate import solve_ivp

import dmft
from dmft.errors import BadParameter
from dmft.literature import saad_solla

MODEL = saad_solla(2, 2, label_noise=0.02)
START = dmft.Overlaps(np.eye(2) / 4, [[0.06, 0.02], [0.01, 0.05]], np.eye(2))
TIME, RISK = sp.Symbol("t"), sp.Symbol("risk")
FLOW = dmft.derive(MODEL, dmft.SGD(1.0))
POPULATION = dmft.population_risk(MODEL)
SCHEDULES = {
    "time": (1 / (1 + TIME / 5), lambda t, risk: 1 / (1 + t / 5)),
    "risk": (sp.Rational(1, 10) + 20 * RISK, lambda t, risk: 0.1 + 20 * risk),
}


@pytest.mark.cases(1)
@pytest.mark.parametrize("name", SCHEDULES)
def test_flow_under_a_schedule(name):
    expr, rate = SCHEDULES[name]

    def rates(t, y):
        Q, M = y[:4].reshape(2, 2), y[4:8].reshape(2, 2)
        here = dmft.Overlaps((Q + Q.T) / 2, M, START.P)
        gamma = rate(t, POPULATION(Q=here.Q, M=M, P=START.P))
        change = FLOW.evaluate(here, learning_rate=gamma)
        return np.concatenate([change["Q"].ravel(), change["M"].ravel(), [2 / gamma]])

    begin = np.concatenate([START.Q.ravel(), START.M.ravel(), [0.0]])
    truth = solve_ivp(rates, (0, 4), begin, rtol=1e-9, atol=1e-11, method="DOP853").y[:, -1]
    run = dmft.solve(FLOW, START, 4.0, learning_rate=expr, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(run.Q[-1].ravel(), truth[:4], atol=1e-8)
    np.testing.assert_allclose(run.M[-1].ravel(), truth[4:8], atol=1e-8)
    assert run.steps(500)[-1] == pytest.approx(500 * truth[8], rel=1e-8)
    assert run.samples(500)[-1] == pytest.approx(500 * truth[8], rel=1e-8)


def test_constant_schedule_is_the_constant_rate():
    """An expression that is constant in effect: equal overlaps, equal clock."""
    plain = dmft.solve(FLOW, START, 5.0, learning_rate=0.7, save_at=6)
    same = dmft.solve(FLOW, START, 5.0, learning_rate=0.7 + 0 * RISK + 1e-300 * RISK, save_at=6)
    np.testing.assert_allclose(same.Q, plain.Q, atol=1e-7)
    np.testing.assert_allclose(same.steps(1000), plain.steps(1000), rtol=1e-9)


def test_map_under_a_schedule_of_the_risk():
    steps = dmft.derive(MODEL, dmft.SGD(500, batch_size=4000), dim=1000)
    run = dmft.solve(steps, START, 12, learning_rate=100 + 2000 * RISK)
    Q, M = START.Q, START.M
    for _ in range(12):
        gamma = 100 + 2000 * POPULATION(Q=Q, M=M, P=START.P)
        change = steps.evaluate(dmft.Overlaps(Q, M, START.P), learning_rate=gamma)
        Q, M = Q + change["Q"], M + change["M"]
    np.testing.assert_allclose(run.Q[-1], Q, rtol=1e-11)
    np.testing.assert_allclose(run.M[-1], M, rtol=1e-11)
    np.testing.assert_array_equal(run.steps(1000), np.arange(13))


def test_schedule_that_ends_says_so():
    run = dmft.solve(FLOW, START, 8.0, learning_rate=1 - TIME / 4)
    assert run.status in ("nonfinite", "diverged")
    assert "learning_rate falls to zero" in run.message
    assert run.t[-1] == pytest.approx(4.0, abs=0.01)
    unit = dmft.Committee(sp.erf(sp.Symbol("z", real=True) / sp.sqrt(2)), 1)
    alone = dmft.derive(dmft.Model(unit, unit), dmft.SGD(0.5))
    run = dmft.solve(alone, dmft.Overlaps([[1.0]], [[0.1]]), 5.0, learning_rate="1 - t")
    assert run.status == "tolerance_not_met"
    assert run.message.endswith("learning_rate falls to zero")


def test_scheduled_run_is_saved_and_read(tmp_path):
    run = dmft.solve(FLOW, START, 2.0, learning_rate=1 / (1 + TIME), save_at=3)
    again = dmft.load(run.save(tmp_path / "run.nc"))
    assert again == run
    np.testing.assert_array_equal(again.steps(10), run.steps(10))


def test_refusals():
    with pytest.raises(BadParameter, match=r"contains tau; a schedule must be an expression"):
        dmft.solve(FLOW, START, 1.0, learning_rate=sp.exp(-TIME / sp.Symbol("tau")))
    with pytest.raises(BadParameter, match=r"is -1 at the start"):
        dmft.solve(FLOW, START, 1.0, learning_rate=TIME - 1)
    with pytest.raises(BadParameter, match=r"is a function that does not accept symbols"):
        dmft.solve(FLOW, START, 1.0, learning_rate=lambda t: np.exp(-t))
    with pytest.raises(BadParameter, match=r"unknown name 'x' \(known: t, risk"):
        dmft.solve(FLOW, START, 1.0, learning_rate="1/x")
    flow = dmft.derive(MODEL, dmft.GradientFlow())
    with pytest.raises(BadParameter, match="schedules are for equations of one-pass SGD"):
        dmft.solve(flow, START, 1.0, learning_rate=1 / (1 + TIME))


def test_run_over_the_maximal_learning_rate_says_so():
    """theory/one_pass G.1: squared committee of one unit, gamma_max = 1/6 without a constraint."""
    square = dmft.Committee(sp.Symbol("z", real=True) ** 2, 1)
    for constraint in (None, "sphere"):
        equations = dmft.derive(dmft.Model(square, square), dmft.SGD(0.1, constraint=constraint))
        near = dmft.Overlaps([[1.0]], [[0.999]])
        below = dmft.solve(equations, near, 40.0, learning_rate=0.16)
        above = dmft.solve(equations, near, 40.0, learning_rate=0.18)
        assert "maximal" not in below.message
        assert "not below the maximal learning rate 0.166667" in above.message
        assert below.risk[-1] < below.risk[0]
        assert above.risk[-1] > above.risk[0]
    # F.1: with label noise 2/(12 + Delta) on the sphere; one formula serves every Delta.
    for noise in (0.5, 1.0, 2.5):
        said = dmft.solve(equations, near, 1.0, learning_rate=0.3, label_noise=noise).message
        assert f"the maximal learning rate {2 / (12 + noise):.6g} (" in said
    wide = dmft.derive(dmft.Model(square, dmft.Committee(square.activation, 2)), dmft.SGD(0.1))
    start = dmft.Overlaps([[1.0]], [[0.5, 0.5]], np.eye(2))
    assert "maximal" not in dmft.solve(wide, start, 0.1, learning_rate=5.0).message


@pytest.mark.slow
def test_noise_dominated_equations_count_their_own_steps():
    """Nothing but the clock reads the rate: dt' = (gamma/p)^2/(n_b d) a step."""
    z, t = sp.Symbol("z", real=True), sp.Symbol("t")
    square = dmft.Committee(z**2, 1)
    equations = dmft.derive(
        dmft.Model(square, square, 0.5), dmft.SGD(0.1, 2, momentum=0.5), scaling="noise-dominated"
    )
    start = dmft.Overlaps([[0.1]], [[0.05]])
    plain = dmft.solve(equations, start, 0.01, save_at=[0.01])
    run = dmft.solve(equations, start, 0.01, save_at=[0.01], learning_rate=0.1 / (1 + t))
    assert run.Q[-1, 0, 0] == pytest.approx(plain.Q[-1, 0, 0], rel=1e-7)
    assert plain.steps(100)[-1] == pytest.approx(0.01 * 100 * 2 / 0.2**2, rel=1e-12)
    passed = (1.01**3 - 1) / 3  # the integral of (1 + t)^2
    assert run.steps(100)[-1] == pytest.approx(passed * 100 * 2 / 0.2**2, rel=1e-7)


Z = sp.Symbol("z", real=True)
LINE = dmft.Model(dmft.Committee(Z, 1), dmft.Committee(Z, 1), label_noise=0.1)
LINEAR, HALVES = dmft.SGD(0.5), "2/(1+t/20)"


def linear_risk(t, rate=lambda t: 2 / (1 + t / 20), begin=0.0, v=1.0):
    """2R = v of a linear unit from Q = M = 0: dv/dt = -2 v + gamma(t) (v + Delta)."""
    found = solve_ivp(
        lambda t, v: -2 * v + rate(t) * (v + 0.1), (begin, t), [v], "DOP853", rtol=1e-12, atol=1e-14
    )
    return found.y[0, -1] / 2


def test_schedule_continues_at_the_time_of_the_start():
    equations, start = dmft.derive(LINE, LINEAR), dmft.Overlaps([[0.0]], [[0.0]])
    exact = {"rtol": 1e-11, "atol": 1e-13, "learning_rate": HALVES}
    half = dmft.solve(equations, start, 20.0, **exact)
    assert half.final.t == 20.0
    rest = dmft.solve(equations, half.final, 40.0, **exact)
    assert rest.risk[-1] == pytest.approx(linear_risk(40.0), rel=1e-8)
    # dtau/dt = 1/gamma, from the very start.
    assert rest.steps(10)[[0, -1]] == pytest.approx([150.0, 400.0])
    saved = dmft.solve(equations, half.final, 40.0, t_start=0.0, **exact)
    again = linear_risk(40.0, v=2 * linear_risk(20.0))
    assert saved.risk[-1] == pytest.approx(again, rel=1e-8)
    assert saved.steps(10)[0] == 0.0
    with pytest.raises(BadParameter, match=r"t_max = 20 is not beyond t = 20, where the run"):
        dmft.solve(equations, half.final, 20.0, **exact)
    # A constant rate has no time of its own, and one that is given is kept.
    assert dmft.solve(equations, half.final, 1.0, learning_rate=0.5).t[0] == 0.0
    assert dmft.solve(equations, half.final, 21.0, t_start=20.0, save_at=2).t.tolist() == [20, 21]


def test_all_verbs_continue_the_clock(tmp_path):
    equations, start = dmft.derive(LINE, LINEAR), dmft.Overlaps([[0.0]], [[0.0]])
    half = dmft.solve(equations, start, 5.0, learning_rate=HALVES)
    end = dmft.load(half.save(tmp_path / "half.nc")).final
    stages = [
        dmft.Stage(equations, {"learning_rate": HALVES}, until=dmft.Event("t", 8.0)),
        dmft.Stage(equations, {"learning_rate": "1/(1+t)"}),
    ]
    staged = dmft.solve_stages(stages, end, 12.0, rtol=1e-10, atol=1e-12)
    at_switch = 2 * linear_risk(8.0)
    truth = linear_risk(12.0, lambda t: 1 / (1 + t), 8.0, at_switch)
    assert staged.risk[-1] == pytest.approx(truth, rel=1e-6)
    # The risk stays above half of what it is at t = 5 until late.
    escape = dmft.escape_time(equations, end, 60.0, fraction=0.5, learning_rate=HALVES)
    assert linear_risk(escape.value) == pytest.approx(linear_risk(5.0) / 2, rel=1e-6)
    rate, fall = ("0.5/(1+t/5)", lambda t: 0.5 / (1 + t / 5))
    half = dmft.solve(equations, start, 1.0, learning_rate=rate)
    for method in ("weights", "overlaps"):
        runs = dmft.simulate(
            LINE, LINEAR, 400, 2.0, 16, half.final, method, learning_rate=rate, save_at=3
        )
        assert runs.t == pytest.approx([1.0, 1.5, 2.0], abs=2e-3)
        assert runs.steps(400) / 400 == pytest.approx([2.2, 3.45, 4.8], abs=0.02)
        assert runs.final[0].t == runs.t[-1]
        off = runs.mean.risk[-1] - linear_risk(2.0, fall)
        assert abs(off) < 5 * runs.stderr.risk[-1] + 1 / 400
    noisy = dmft.derive(LINE, LINEAR, dim=10**6, fluctuations=True)
    how = {"learning_rate": rate, "dt": 0.002, "method": "weak2"}
    first = dmft.solve(noisy, start, 1.0, paths=2, keep_paths=True, **how)
    paths = dmft.solve(noisy, first.final, 2.0, **how)
    assert paths.t[0] == 1.0
    assert paths.mean.risk[-1] == pytest.approx(linear_risk(2.0, fall), rel=0.02)


def test_steps_of_a_table_hold_until_the_next_time():
    held = dmft.Schedule([0.0, 10.0, 20.0], [1.0, 0.5, 0.1], interpolation="constant")
    assert held.at([-1, 0, 5, 10, 15, 20, 25]).tolist() == [1.0, 1.0, 1.0, 0.5, 0.5, 0.1, 0.1]


def test_table_continues_in_its_own_time():
    equations, start = dmft.derive(LINE, LINEAR), dmft.Overlaps([[0.0]], [[0.0]])
    fall = dmft.Schedule([0.0, 10.0, 20.0], [1.0, 0.5, 0.1])
    exact = {"rtol": 1e-11, "atol": 1e-13, "learning_rate": fall}
    whole = dmft.solve(equations, start, 20.0, **exact)
    half = dmft.solve(equations, start, 10.0, **exact)
    assert dmft.solve(equations, half.final, 20.0, **exact).risk[-1] == pytest.approx(
        whole.risk[-1], rel=1e-8
    )
    # Steps at a constant rate count in tau = steps/d, but a table counts no t.
    plain = dmft.solve(equations, start, 5.0)
    assert dmft.solve(equations, plain.final, 12.0, learning_rate=fall).t[0] == 10.0
    with pytest.raises(
        BadParameter, match=r"steps / d = 10, which is not a single t for a schedule"
    ):
        dmft.solve(equations, half.final, 30.0, learning_rate=HALVES)
    runs = dmft.simulate(LINE, LINEAR, 50, 12.0, 2, half.final, learning_rate=fall, save_at=2)
    assert runs.t.tolist() == [10.0, 12.0]


def test_scheduled_runs_of_sequences_continue():
    """`final` of a run that counts its steps is an `Alignment`; the whole run is the truth."""
    a, b = sp.symbols("a b", real=True)
    target = dmft.SequenceTarget(a * b + a / 2, [a, b])
    student = dmft.SequenceTarget(a * b + b**2 / 3, [a, b])
    equations = dmft.derive(dmft.Model(student, target, encoding=1.0), dmft.SGD(0.3))
    start = dmft.Alignment(e=0.3, m=0.3)
    whole = dmft.solve(equations, start, 1.0, learning_rate="0.3/(1 + t)")
    half = dmft.solve(equations, start, 0.4, learning_rate="0.3/(1 + t)")
    rest = dmft.solve(equations, half.final, 1.0, learning_rate="0.3/(1 + t)")
    assert rest.t[0] == 0.4
    assert abs(rest.m[-1] - whole.m[-1]) < 1e-7
    assert abs(rest.steps(100)[-1] - whole.steps(100)[-1]) < 1e-4
