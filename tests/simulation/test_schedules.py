"""Learning rates that follow the time: steps, paths of an sde and maps against exact solutions.

The rule psi = 1 adds white noise: with one unit and rate g(t), Q grows by the integral of g, and M
walks with the variance (integral of g)/d times P. Under g(t) = 1/(1 + t) that is log(1 + t).
"""

import numpy as np
import pytest
import sympy as sp
from scipy import special
from scipy.integrate import solve_ivp

import dmft
from dmft.errors import BadParameter
from dmft.simulation import clock, jobs
from dmft.simulation.plan import START_STREAM, WEIGHTS_STREAM, weights_with_overlaps
from dmft.special.sampling import random_stream

Z, H, F, Y = sp.symbols("z h f y", real=True)
TIME = sp.Symbol("t")
RATE = 1 / (1 + TIME)
NOTHING = sp.Max(0, -1 - TIME**2)
LINE = dmft.Model(dmft.Committee(Z, 1), dmft.Committee(Z, 1))
START = dmft.Overlaps([[1.0]], [[0.0]], [[1.3]])
DIM, T = 200, 3.0
GROWN = np.log(1 + T)


def white(**options):
    return dmft.UpdateField(sp.S.One, fields=(H, F, Y), learning_rate=1, **options)


@pytest.mark.cases(1)
@pytest.mark.parametrize("method", ["weights", "overlaps"])
def test_steps_take_the_rate_of_their_time(method):
    runs = dmft.simulate(
        LINE, white(), DIM, T, 150, START, method, save_at=[1.0, T], learning_rate=RATE
    )
    assert runs.t == pytest.approx([1.0, T], abs=1.0 / DIM)
    # t' = g/d a step: with g = 1/(1 + t), (1 + t)^2 = 1 + 2 steps/d.
    assert runs.steps() == pytest.approx(DIM * ((1 + runs.t) ** 2 - 1) / 2, abs=5)
    grown = np.log(1 + runs.t)
    assert np.all(np.abs(runs.mean.Q[:, 0, 0] - 1 - grown) < 4.5 * runs.stderr.Q[:, 0, 0] + 0.01)
    assert np.all(np.abs(runs.mean.M[:, 0, 0]) < 4.5 * runs.stderr.M[:, 0, 0])
    spread = runs.std.M[:, 0, 0] ** 2 * DIM / (1.3 * grown)
    assert np.all(np.abs(spread - 1) < 4.5 * np.sqrt(2 / 150))


def test_a_constant_schedule_is_a_constant():
    """To the bit, decay, momentum and several passes included."""
    model = dmft.Model(dmft.Committee(sp.erf(Z), 2), dmft.Committee(sp.erf(Z), 1), 0.1)
    start = dmft.Overlaps([[1.0, 0.2], [0.2, 0.8]], [[0.1], [0.3]])
    same = sp.Float(0.5) + NOTHING
    for algorithm in (
        dmft.SGD(0.5, 2, weight_decay=0.2, momentum=0.5, readout_rate=0.3),
        dmft.SGD(0.5, repeat=dmft.Repeat(2), weight_decay=0.2),
    ):
        plain, followed = (
            dmft.simulate(model, algorithm, 50, 0.4, 2, start, save_at=[0.4], learning_rate=rate)
            for rate in (0.5, same)
        )
        np.testing.assert_array_equal(plain.runs.Q, followed.runs.Q)
        np.testing.assert_array_equal(plain.steps(), followed.steps())


def test_decay_follows_the_rate():
    """Rows of psi = 0 shrink by the product of 1 - zeta dt over the steps: exp(-zeta t)."""
    rule = dmft.UpdateField(0 * H, fields=(H, F, Y), learning_rate=1, weight_decay=0.5)
    start = dmft.Overlaps([[1.0]], [[0.5]])
    runs = dmft.simulate(LINE, rule, DIM, T, 1, start, save_at=[T], learning_rate=RATE)
    assert runs.mean.M[-1, 0, 0] == pytest.approx(0.5 * np.exp(-0.5 * runs.t[-1]), rel=2e-3)
    run = dmft.solve(dmft.derive(LINE, rule), start, T, learning_rate=RATE)
    assert run.M[-1, 0, 0] == pytest.approx(0.5 * np.exp(-0.5 * T), rel=1e-7)


def test_first_passages_and_files_know_the_clock(tmp_path):
    pytest.importorskip("h5netcdf")
    passage = dmft.simulation.ensemble.FirstPassage("overlap", 0.05, stop=False)
    runs = dmft.simulate(
        LINE, white(), DIM, T, 8, START, save_at=4, learning_rate=RATE, first_passage=passage
    )
    times = runs.first_passage.times
    assert np.nanmax(times) <= T + 1 / DIM
    runs.save(tmp_path / "runs.nc")
    found = dmft.load(tmp_path / "runs.nc")
    np.testing.assert_array_equal(found.steps(), runs.steps())
    assert found.provenance["learning_rate_schedule"] == "1/(t + 1)"


RISK = sp.Symbol("risk")


@pytest.mark.cases(1)
@pytest.mark.parametrize("method", ["weights", "overlaps"])
def test_steps_take_the_rate_of_their_risk(method):
    """White noise on a linear unit: dQ/dt = g(risk), risk = (1.3 + Q)/2 in the mean."""
    rate, end = 1.5 * RISK / (1 + TIME), 1.5
    runs = dmft.simulate(
        LINE, white(), DIM, end, 10, START, method, save_at=[0.0, end], learning_rate=rate
    )
    assert runs.t.tolist() == [0.0, end]
    exact = solve_ivp(lambda t, Q: 0.75 * (1.3 + Q) / (1 + t), (0, end), [1.0], rtol=1e-9)
    gap = runs.mean.Q[-1, 0, 0] - exact.y[0, -1]
    assert abs(gap) < 4.5 * runs.stderr.Q[-1, 0, 0] + 2.0 / DIM
    # dt = g/d: steps are the integral of d/g along each run.
    at = solve_ivp(
        lambda t, y: [0.75 * (1.3 + y[0]) / (1 + t), DIM * (1 + t) / (0.75 * (1.3 + y[0]))],
        (0, end), [1.0, 0.0], rtol=1e-9,
    )  # fmt: skip
    assert runs.steps()[-1] == pytest.approx(at.y[1, -1], rel=0.15)


def test_rates_of_the_risk_in_numpy():
    """One run of the weights, whose steps are written out here."""
    erf = sp.erf(Z / sp.sqrt(2))
    model = dmft.Model(dmft.Committee(erf, 1), dmft.Committee(erf, 1))
    start, dim = dmft.Overlaps([[0.6]], [[0.2]]), 50
    runs = dmft.simulate(
        model, dmft.SGD(1.0), dim, 0.5, 1, start, save_at=[0.5], learning_rate=5 * RISK
    )

    def risk(q, m):
        inside = np.arcsin(q / (1 + q)) + np.arcsin(1 / 2) - 2 * np.arcsin(m / np.sqrt(2 * (1 + q)))
        return inside / np.pi

    draw, rng = random_stream(0, START_STREAM), random_stream(0, WEIGHTS_STREAM)
    W, star = weights_with_overlaps(start, dim, draw)
    w, t, steps = W[0], 0.0, 0
    while True:
        size = 5 * risk(w @ w / dim, w @ star[0] / dim)
        if 0.5 - t <= t + size / dim - 0.5:
            break
        x = rng.standard_normal(dim)
        h, h_star = w @ x / np.sqrt(dim), star[0] @ x / np.sqrt(dim)
        gap = special.erf(h_star / np.sqrt(2)) - special.erf(h / np.sqrt(2))
        psi = np.sqrt(2 / np.pi) * np.exp(-(h**2) / 2) * gap
        w, t, steps = w + size * psi * x / np.sqrt(dim), t + size / dim, steps + 1
    assert runs.steps()[-1] == steps > 20
    assert runs.mean.Q[-1, 0, 0] == pytest.approx(w @ w / dim, abs=1e-10)


def test_a_rate_that_falls_to_zero_with_the_risk_is_a_status(monkeypatch):
    monkeypatch.setattr(jobs, "MOST_SCHEDULED", 100)
    runs = dmft.simulate(LINE, white(), DIM, T, 2, START, learning_rate=RISK - 10)
    assert runs.status == "nonfinite"
    runs = dmft.simulate(LINE, white(), DIM, T, 2, START, learning_rate=1e-6 * RISK)
    assert runs.status == "max_steps"


@pytest.mark.parametrize(
    ("rate", "why"),
    [
        (sp.Piecewise((1, TIME < 1), (-1, True)), "is -1 at t = 1"),
        (1 - TIME, "takes more than 1,000 steps to t_max = 3: these reach only t = "),
        (sp.Symbol("c") * TIME, "pass its value: c="),
        (TIME, "is 0 at t = 0"),
    ],
)
def test_rates_that_are_refused(rate, why, monkeypatch):
    monkeypatch.setattr(clock, "MOST_SCHEDULED", 1000)
    with pytest.raises(BadParameter, match=why):
        dmft.simulate(LINE, white(), DIM, T, 1, START, learning_rate=rate)


@pytest.mark.slow
def test_paths_follow_the_schedule():
    equations = dmft.derive(LINE, white(), dim=DIM, fluctuations=True)
    run = dmft.solve(
        equations, START, T, paths=2000, dt=0.02, save_at=[T], seed=1, learning_rate=RATE
    )
    assert run.status == "ok"
    # The finite-size term of Q adds (1 + 1/d) once more.
    assert abs(run.mean.Q[-1, 0, 0] - 1 - GROWN) < 4.5 * run.stderr.Q[-1, 0, 0] + 0.01 + 2 / DIM
    spread = run.std.M[-1, 0, 0] ** 2 * DIM / (1.3 * GROWN)
    assert abs(spread - 1) < 4.5 * np.sqrt(2 / 2000) + 0.01
    assert run.provenance["learning_rate_schedule"] == "1/(t + 1)"


def test_maps_follow_the_schedule():
    """Steps of psi = 1: Q grows by g^2 (d/n_b)/d^2 a step, t counting the steps."""
    equations = dmft.derive(LINE, white(batch_size=2 * DIM), dim=DIM)
    run = dmft.solve(equations, START, 3, learning_rate=20 / (1 + TIME), save_at=[3])
    grown = sum((20 / (1 + t) / DIM) ** 2 / 2 for t in range(3))
    assert run.Q[-1, 0, 0] == pytest.approx(1 + grown, rel=1e-12)


def test_a_schedule_of_the_risk_beside_other_observables():
    """It wrote all observables into room for one."""
    error = dmft.UpdateField(
        Y - sp.Symbol("f"), fields=(H, F, Y), learning_rate=1, measures={"one": H**2, "two": H**4}
    )
    run = dmft.solve(dmft.derive(LINE, error), START, 1.0, learning_rate=sp.Symbol("risk"))
    # dR/dt = -2 R + g R with g = R and P = 1.3, in units where h is the only field.
    assert run.status == "ok"
    assert run.one == pytest.approx(run.Q[:, 0, 0], rel=1e-12)
    rates = np.gradient(run.risk, run.t, edge_order=2)
    wanted = -2 * run.risk + run.risk**2
    np.testing.assert_allclose(rates[5:-5], wanted[5:-5], rtol=2e-3)


@pytest.mark.cases(1)
@pytest.mark.parametrize("tied", [True, False])
def test_sequence_models_follow_the_rate(tied):
    """ReLU learns the mean field by dm/dt = (1 - m)(1 + m - gamma m)/2 (theory/sequence C.4)."""
    z = sp.symbols("z1:3", real=True)
    mean = dmft.SequenceTarget(sp.Add(*z) / sp.sqrt(2), z)
    model = dmft.Model(dmft.SequenceNetwork(sp.Max(0, Z), 2, tied=tied), mean)
    start = dmft.Alignment(m=0.2 if tied else [0.2] * 2)
    rate = 3 / (1 + TIME)
    run = dmft.solve(dmft.derive(model, dmft.SGD(3)), start, T, save_at=[T], learning_rate=rate)
    exact = solve_ivp(
        lambda t, m: (1 - m) * (1 + m - 3 / (1 + t) * m) / 2, (0, T), [0.2], rtol=1e-10
    )
    assert run.m[-1] == pytest.approx(exact.y[0, -1], rel=1e-5)
    for method, dim, seeds in (("overlaps", 2000, 32), ("weights", 200, 24)):
        runs = dmft.simulate(
            model, dmft.SGD(3), dim, T, seeds, start, method, save_at=[T], learning_rate=rate
        )
        off = np.abs(runs.mean.m[-1] - exact.y[0, -1])
        assert np.all(off < 4.5 * runs.stderr.m[-1] + 3.0 / dim), method
        # t' = g/d a step (g/(L d) untied): steps/d = L (integral of 1/g).
        rows = 1 if tied else 2
        assert runs.steps()[-1] == pytest.approx(rows * dim * (T + T**2 / 2) / 3, rel=0.02)
        constant = dmft.simulate(
            model, dmft.SGD(1), 20, 0.5, 2, start, method, learning_rate=3 + NOTHING
        )
        plain = dmft.simulate(model, dmft.SGD(3), 20, 0.5, 2, start, method)
        np.testing.assert_array_equal(constant.runs.m, plain.runs.m)
