"""Schedules of rules of vectors, against optima in closed form and searches by SciPy."""

import numpy as np
import pytest
import sympy as sp
from scipy.integrate import solve_ivp
from scipy.optimize import minimize

import dmft
from dmft import laws
from dmft.errors import BadParameter
from dmft.literature import rules as lit
from dmft.rules import Random, Rows, View, fixed, gram
from dmft.workflow.optimal_control import Search, read

ETA = sp.Symbol("eta", real=True)
MEAN = np.sqrt(2 / np.pi)


def test_hebb_has_one_best_rate():
    """With V = Q - M^2 dM = c g, dV = g^2 per tau: the best g is c V_0/M_0 at all times."""
    eqs, start = dmft.derive(lit.perceptron_rule("hebb")), dmft.Overlaps([[1.0]], [[0.4]])
    best = dmft.optimal_schedule(eqs, start, 3.0, minimise="error", pieces=10)
    g = MEAN * (1 - 0.4**2) / 0.4
    np.testing.assert_allclose(best.value, g, rtol=1e-4)
    V, M = 1 - 0.4**2 + 3 * g**2, 0.4 + 3 * MEAN * g
    assert best.run["error"][-1] == pytest.approx(np.arctan(np.sqrt(V) / M) / np.pi, rel=1e-7)
    assert str(best.status) == "ok"
    assert best.minimises == "error"
    assert "error" in repr(best)


def test_hebb_is_greedy():
    """The fastest fall of V/M^2 is at g = c V/M, which stays constant along the run."""
    eqs, start = dmft.derive(lit.perceptron_rule("hebb")), dmft.Overlaps([[1.0]], [[0.4]])
    found = dmft.greedy_schedule(eqs, start, 3.0, minimise="error", points=7)
    np.testing.assert_allclose(found.value, MEAN * (1 - 0.4**2) / 0.4, rtol=1e-6)


def test_oja_on_a_sphere_takes_the_rate_of_the_moment():
    """One number moves, m with dm = g omega m (1 - m^2) - g^2 m (1 + omega m^2)/2 per tau."""
    omega, w, u = 2.0, Rows("w"), fixed("u")
    x = View("x", replaces={u: Random("c", laws.Normal(variance=1 + omega))})
    rule = dmft.UpdateField(
        {w: (w @ x) * x}, learning_rate=0.1, constraint="sphere",
        measures={"lost": 1 - gram(w, u) ** 2},
    )  # fmt: skip
    eqs, start = dmft.derive(rule), dmft.Overlaps([[1.0]], [[0.3]])
    best = dmft.optimal_schedule(eqs, start, 4.0, minimise="lost", pieces=40)

    def rate(m):
        return omega * (1 - m**2) / (1 + omega * m**2)

    m = best.run.M[:, 0, 0]
    np.testing.assert_allclose(best.value[1:-1], rate(m)[1:-1], rtol=5e-3)

    def moves(_, y):
        g = rate(y)
        return g * omega * y * (1 - y**2) - g**2 * y * (1 + omega * y**2) / 2

    end = solve_ivp(moves, (0, 4), [0.3], rtol=1e-11, atol=1e-13).y[0, -1]
    assert best.run["lost"][-1] == pytest.approx(1 - end**2, rel=1e-6)


def adatron(y, g):
    """(6) of theory/update_rules: dQ/dt and dM/dt."""
    Q, M = y
    theta = np.arccos(M / np.sqrt(Q))
    A = (theta - np.cos(theta) * np.sin(theta)) / np.pi
    return np.array([(g - 2) * Q * A, np.sqrt(Q) / np.pi * (np.sin(theta) - theta * np.cos(theta))])


@pytest.mark.slow
def test_two_pieces_against_a_search():
    eqs, start = dmft.derive(lit.perceptron_rule("adatron")), dmft.Overlaps([[1.0]], [[0.1]])
    best = dmft.optimal_schedule(
        eqs, start, 6.0, minimise="error", pieces=2, interpolation="constant"
    )

    def error(rates):
        y = np.array([1.0, 0.1])
        for g in rates:
            y = solve_ivp(lambda _, y, g: g * adatron(y, g), (0, 3), y, args=(g,), rtol=1e-10,
                          atol=1e-12).y[:, -1]  # fmt: skip
        return np.arccos(y[1] / np.sqrt(y[0])) / np.pi

    grid = np.linspace(0.6, 3.0, 7)
    first = min(((a, b) for a in grid for b in grid), key=error)
    truth = minimize(error, first, method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-11})
    np.testing.assert_allclose(best.value[:2], truth.x, rtol=1e-4)
    assert best.run["error"][-1] == pytest.approx(truth.fun, rel=1e-7)
    run = dmft.solve(eqs, start, 6.0, learning_rate=best, save_at=[6.0])
    assert run["error"][-1] == pytest.approx(error(best.value[:2]), rel=1e-6)


def linear(rate, factor=1):
    """A linear unit on noisy labels; the risk without the noise."""
    w, B, x, xi = Rows("w"), fixed("B"), View("x"), Random("xi", laws.Normal())
    e = (B @ x) - (w @ x)
    return dmft.UpdateField(
        {w: factor * (e + xi / 2) * x}, learning_rate=rate, measures={"risk": e**2 / 2}
    )


@pytest.mark.slow
def test_a_parameter_is_a_control():
    """A factor of the step at rate one does what the rate does: squares of it are in the rates."""
    start = dmft.Overlaps([[0.0]], [[0.0]])
    how = {"t_max": 8.0, "bounds": (0.01, 1.5), "pieces": 20}
    rates = dmft.optimal_schedule(dmft.derive(linear(1)), start, **how)
    factors = dmft.optimal_schedule(dmft.derive(linear(1, ETA)), start, control="eta", **how)
    np.testing.assert_allclose(factors.value, rates.value, rtol=2e-3)
    assert factors.run.risk[-1] == pytest.approx(rates.run.risk[-1], rel=1e-8)
    assert str(factors.status) == str(rates.status) == "ok"
    # E = (1 - M)^2 + V falls by u E, the rate of which is at best E/(E + Delta).
    unit = dmft.Model(dmft.Committee(z := sp.Symbol("z"), 1), dmft.Committee(z, 1), 0.25)
    model = dmft.optimal_schedule(dmft.derive(unit, dmft.SGD(1)), start, **how)
    np.testing.assert_allclose(model.value, rates.value, rtol=1e-4)
    run = dmft.solve(dmft.derive(linear(1, ETA)), start, 8.0, eta=factors, save_at=3)
    assert run.risk[-1] == pytest.approx(rates.run.risk[-1], rel=1e-6)


def of_model(name):
    z = sp.Symbol("z", real=True)
    square = dmft.Committee(z**2, 1)
    sgd = dmft.SGD(0.2, readout_rate=0.3)
    if name != "readout_rate":
        sgd = dmft.SGD(0.2, momentum=dmft.Momentum(1.0, 0.4), weight_decay=0.1)
    model = dmft.Model(square, square, label_noise=0.1)
    return dmft.derive(model, sgd), dmft.Overlaps([[0.5]], [[0.2]]), "risk"


def of_rule(name):
    if name == "F":
        w, B, x, v = Rows("w"), fixed("B"), View("x"), sp.Symbol("v", real=True)
        e, F = B @ x - v * (w @ x), sp.Symbol("F", real=True)
        rule = dmft.UpdateField(
            {w: F * e * x}, scalars={v: e * (w @ x)}, learning_rate=0.3, measures={"risk": e**2}
        )
        return dmft.derive(rule), dmft.Overlaps([[0.5]], [[0.1]], scalars={"v": 0.3}), "risk"
    eqs = dmft.derive(lit.reinforcement_perceptron(3, 1, sp.Symbol("penalty", positive=True)))
    return eqs, dmft.Overlaps([[1.0]], [[0.3]]), "reward"


@pytest.mark.cases(1)
@pytest.mark.parametrize("name", ["learning_rate", "readout_rate", "momentum_rate", "F", "penalty"])
def test_gradients_by_any_parameter_are_differences(name, monkeypatch):
    eqs, start, measure = (of_rule if name in ("F", "penalty") else of_model)(name)
    search = Search(read(eqs, start, 2.0, measure, name, {}), 0.05, 2.0, 1e-10, 1)
    rng, seen = np.random.default_rng(4), []

    def descended(value, first, reach):
        at = first + 0.1 * rng.standard_normal(first.size)
        _, slope = value(at)
        for n in range(at.size):
            step = 1e-5 * np.eye(at.size)[n]
            gap = (value(at + step)[0] - value(at - step)[0]) / 2e-5
            assert gap == pytest.approx(slope[n], rel=1e-4, abs=1e-7)
        seen.append(slope)
        return first

    monkeypatch.setattr(search, "descended", descended)
    search.minimised(np.array([0.0, 0.7, 2.0]), np.array([0.3, 0.2, 0.25]), linear=True)
    assert np.all(np.abs(seen) > 0)


def test_what_has_no_schedule():
    start = dmft.Overlaps([[1.0]], [[0.3]])
    w, x = Rows("w"), View("x")
    h = w @ x
    late = dmft.UpdateField({w: dmft.t * h * x}, learning_rate=1, measures={"risk": h**2})
    g = sp.Symbol("g", positive=True)
    twice = dmft.UpdateField({w: g * h * x}, learning_rate=g, measures={"risk": h**2})
    lost = dmft.UpdateField({w: ETA * h * x}, learning_rate=1, measures={"gain": -(h**2)})
    own = dmft.UpdateField({w: ETA * h * x}, learning_rate=1, measures={"risk": (ETA * h) ** 2})
    bare = dmft.Overlaps([[1.0]], np.zeros((1, 0)), np.zeros((0, 0)))
    reward = dmft.derive(lit.reinforcement_perceptron(2, 1, 0))
    calls = [
        (lambda: dmft.optimal_schedule(dmft.derive(own), bare, 2.0, control="eta", bounds=(0, 1)),
         "depends on eta itself"),
        (lambda: dmft.optimal_schedule(reward, start, 2.0), "a measure of the rule; these"),
        (lambda: dmft.optimal_schedule(reward, start, 2.0, minimise="reward", control="eta"),
         "must be one of"),
        (lambda: dmft.optimal_schedule(dmft.derive(late), bare, 2.0), "depend on the time t"),
        (lambda: dmft.optimal_schedule(dmft.derive(twice), bare, 2.0, control="g"), "depends on g"),
        (lambda: dmft.optimal_schedule(dmft.derive(lost), bare, 2.0, minimise="gain", control="eta",
                                       bounds=(0, 1)), "must be positive"),
        (lambda: dmft.optimal_schedule(dmft.derive(lost), bare, 2.0, minimise="gain",
                                       control="eta"), "requires bounds"),
        (lambda: dmft.optimal_schedule(dmft.derive(lost), bare, 2.0, minimise="gain",
                                       control="eta", method="sweep"), "rates and batches"),
        (lambda: dmft.greedy_schedule(dmft.derive(lost), bare, 2.0, minimise="gain",
                                      control="eta"), "use dmft.optimal_schedule"),
    ]  # fmt: skip
    for call, words in calls:
        with pytest.raises(BadParameter, match=words):
            call()
    nodes = dmft.derive(lit.reinforce())
    start = dmft.Overlaps([[1.0]], [[0.3]], scalars={"b": 0.5})
    measure = nodes.model.measures[0][0]
    # Each step raises the reward, an average on nodes: the rate that keeps it low is the least.
    found = dmft.optimal_schedule(nodes, start, 2.0, minimise=measure, bounds=(0.01, 1.0))
    np.testing.assert_allclose(found.value, 0.01)


def test_one_alignment_is_greedy():
    """A sequence model without positions: the rate with the fastest fall at each time is best."""
    z = sp.symbols("z1:3", real=True)
    target = dmft.SequenceTarget(z[0] * z[1] + z[0], z)
    model = dmft.Model(target, target, label_noise=0.2)
    eqs, start = dmft.derive(model, dmft.SGD(0.1, constraint="sphere")), dmft.Alignment(0, 0.3)
    best = dmft.optimal_schedule(eqs, start, 4.0, pieces=20)
    greedy = dmft.greedy_schedule(eqs, start, 4.0, points=201)
    np.testing.assert_allclose(best.value[1:-1], greedy.at(best.t[1:-1]), rtol=2e-2)
    assert best.run.risk[-1] == pytest.approx(greedy.run.risk[-1], rel=1e-5)


def decaying():
    """Two linear units under a decay lam: dM = B - M - lam M, and what a schedule makes of it."""
    w, B, x = Rows("w", 2), fixed("B"), View("x")
    lam = sp.Symbol("lam", real=True)
    miss = B @ x - w[0] @ x
    steps = {w[0]: miss * x - lam * w[0], w[1]: -lam * w[1] + (B @ x) * x}
    rule = dmft.UpdateField(steps, learning_rate=0.5, measures={"risk": miss**2 / 2})
    return rule, dmft.Overlaps([[0.5, 0.0], [0.0, 0.5]], [[0.1], [0.2]])


FADING, SLOWER = 0.3 * sp.exp(-dmft.t / 2), 1 / (1 + dmft.t)


def faded(t, y):
    """M and Q of the first unit where lam fades and the rate falls."""
    M, Q = y
    lam = 0.3 * np.exp(-t / 2)
    return [1 - M - lam * M, 2 * (M - Q) - 2 * lam * Q + (1 - 2 * M + Q) / (1 + t)]


def test_schedules_of_rules_continue_and_count_steps():
    """A start knows its time: both parts of a run are the whole, and d(steps/d) = dt/g."""
    rule, start = decaying()
    eqs, given = dmft.derive(rule), {"lam": FADING, "learning_rate": SLOWER}
    whole = dmft.solve(eqs, start, 4.0, **given)
    first = dmft.solve(eqs, start, 1.5, **given)
    second = dmft.solve(eqs, first.final, 4.0, **given)
    exact = solve_ivp(faded, (0, 4), [0.1, 0.5], rtol=1e-11, atol=1e-13).y[:, -1]
    for run in (whole, second):
        np.testing.assert_allclose([run.M[-1, 0, 0], run.Q[-1, 0, 0]], exact, atol=1e-8)
        np.testing.assert_allclose(run.steps(100)[-1], 100 * (4 + 8), rtol=1e-8)
    assert first.final.scalars is None
    again = dmft.solve(eqs, first.final, 1.0, t_start=0.0, **given)
    assert again.t[0] == 0.0
    runs = dmft.simulate(rule, dim=200, t_max=4.0, seeds=20, start=first.final, save_at=2, **given)
    assert runs.t[0] == 1.5
    np.testing.assert_allclose(runs.steps(200), [200 * (1.5 + 1.125), 200 * 12], rtol=1e-3)
    gap = runs.mean.M[-1, 0, 0] - exact[0]
    assert abs(gap) < 4 * runs.stderr.M[-1, 0, 0] + 2 / 200


def test_escape_times_follow_schedules_of_rules():
    """The risk of the first unit reaches a fifth where SciPy finds it."""
    rule, start = decaying()

    def left(_, y):
        return (1 - 2 * y[0] + y[1]) / 2 - 0.2

    left.terminal = True
    exact = solve_ivp(faded, (0, 4), [0.1, 0.5], events=left, rtol=1e-11, atol=1e-13).t_events[0]
    found = dmft.escape_time(
        dmft.derive(rule), start, 4.0, observable="risk", threshold=0.2, lam=FADING,
        learning_rate=SLOWER,
    )  # fmt: skip
    np.testing.assert_allclose(found.value, exact[0], rtol=1e-7)


def test_paths_refuse_schedules_of_other_parameters():
    rule, start = decaying()
    noisy = dmft.derive(rule, dim=200, fluctuations=True)
    with pytest.raises(BadParameter, match="is a schedule; paths"):
        dmft.solve(noisy, start, 1.0, paths=4, dt=0.1, lam=FADING)
