"""Events on formulas, functions and the time; schedules as texts: the same in every verb."""

import math

import numpy as np
import pytest
import sympy as sp
from scipy.integrate import solve_ivp

import dmft
from dmft.errors import BadParameter

Z = sp.Symbol("z", real=True)
SQUARE = dmft.Committee(Z**2, 1)
MODEL = dmft.Model(SQUARE, SQUARE, 1e-3)
SGD = dmft.SGD(0.05)
START = dmft.Overlaps([[1.0]], [[0.2]])
FLOW = dmft.derive(MODEL, SGD)


def cosine(state):
    return state["M"][0, 0] / np.sqrt(state["Q"][0, 0])


@pytest.fixture(scope="module")
def crossing():
    """Time at which the cosine is 0.9, by SciPy from the NumPy reference of the rates."""

    def rhs(t, y):
        rates = FLOW.evaluate(dmft.Overlaps([[y[0]]], [[y[1]]]))
        return [rates["Q"][0, 0], rates["M"][0, 0]]

    def gap(t, y):
        return y[1] / np.sqrt(y[0]) - 0.9

    gap.terminal = True
    found = solve_ivp(rhs, (0, 5), [1.0, 0.2], "DOP853", events=gap, rtol=1e-9, atol=1e-11)
    return found.t_events[0][0]


@pytest.mark.cases(3)
@pytest.mark.parametrize(
    "quantity",
    [
        "M[0,0]/sqrt(Q[0,0])",
        " M[0, 0] / sqrt( Q[0,0]*P[0,0] )",
        "M_11/sqrt(Q_11)",
        sp.Symbol("M_11") / sp.sqrt(sp.Symbol("Q_11", positive=True)),
        sp.Symbol("M[0,0]") / sp.sqrt(sp.IndexedBase("Q")[0, 0]),
        lambda t, state: cosine(state),
        lambda t, state: state["M"][0, 0] / sp.sqrt(state["Q"][0, 0]),
        dmft.LargestCosine(),
    ],
    ids=["text", "constants", "counted", "explicit", "sympy", "function", "number", "largest"],
)
def test_the_same_quantity_in_eight_spellings(quantity, crossing):
    run = dmft.solve(FLOW, START, 5.0, events=dmft.Event(quantity, 0.9), rtol=1e-10)
    assert run.status == "event"
    assert run.t[-1] == pytest.approx(crossing, rel=1e-7)
    assert run.names == ("Q", "M", "readout", "risk")
    assert run.problem.observables == ("risk",)
    assert cosine(run.events[-1].state) == pytest.approx(0.9, abs=1e-9)


def test_symbols_of_explicit_are_those_of_events(crossing):
    at = FLOW.explicit().symbols
    event = dmft.Event(at["M_11"] / sp.sqrt(at["Q_11"]), 0.9)
    assert dmft.solve(FLOW, START, 5.0, events=event).t[-1] == pytest.approx(crossing, rel=1e-6)


@pytest.mark.parametrize("method", ["rk8", "BDF", "Radau"])
def test_every_integrator(method, crossing):
    event = dmft.Event("M[0,0]/sqrt(Q[0,0])", 0.9)
    run = dmft.solve(FLOW, START, 5.0, events=event, method=method)
    assert run.t[-1] == pytest.approx(crossing, rel=1e-5)


def test_an_event_at_a_time():
    run = dmft.solve(FLOW, START, 5.0, events=dmft.Event("t", 1.25))
    assert (run.status, run.t[-1]) == ("event", pytest.approx(1.25, rel=1e-12))
    assert run.message == "ended by the event t = 1.25"
    going = dmft.solve(FLOW, START, 2.0, events=dmft.Event("t", 1.25, terminal=False))
    assert (going.status, going.events[0].t) == ("ok", pytest.approx(1.25, rel=1e-12))


def test_what_was_reached_starts_again_at_zero():
    whole = dmft.solve(FLOW, START, 2.0, save_at=3)
    half = dmft.solve(FLOW, START, 5.0, events=dmft.Event("t", 1.0))
    rest = dmft.solve(FLOW, half.final, 1.0)
    assert rest.t[0] == 0.0
    np.testing.assert_allclose(rest.M[-1], whole.M[-1], rtol=1e-7)


def test_maps_paths_and_stages_take_the_same_event():
    line = dmft.Committee(Z, 1)
    steps = dmft.derive(dmft.Model(line, line), dmft.SGD(200, batch_size=1000), dim=1000)
    event = dmft.Event("M[0,0]/sqrt(Q[0,0])", 0.9)
    run = dmft.solve(steps, START, 40, events=event)
    assert run.status == "event"
    assert (
        cosine({"M": run.M[-1], "Q": run.Q[-1]}) >= 0.9 > cosine({"M": run.M[-2], "Q": run.Q[-2]})
    )
    paths = dmft.solve(
        dmft.derive(MODEL, SGD, dim=10**6, fluctuations=True), START, 3.0,
        paths=4, dt=0.01, events=event, keep_paths=True,
    )  # fmt: skip
    flow = dmft.solve(FLOW, START, 3.0, events=event)
    assert list(paths.mean) == ["Q", "M", "risk", "readout"]
    np.testing.assert_allclose(paths.first_passage[event.name].times, flow.t[-1], rtol=0.02)
    stages = [dmft.Stage(FLOW, until=event), dmft.Stage(FLOW, {"learning_rate": 0.01})]
    protocol = dmft.solve_stages(stages, START, 3.0, events=dmft.Event("t", 2.5))
    assert protocol.events[0].t == pytest.approx(flow.t[-1], rel=1e-7)
    assert (protocol.status, protocol.t[-1]) == ("event", pytest.approx(2.5))


BY_FUNCTION = lambda t, s: np.sqrt(np.trace(s["M"] @ s["M"].T) / s["Q"][0, 0])  # noqa: E731


@pytest.mark.cases(2)
@pytest.mark.parametrize("method", ["weights", "overlaps"])
@pytest.mark.parametrize("quantity", ["M[0,0]/sqrt(Q[0,0])", BY_FUNCTION], ids=["text", "function"])
def test_simulations_take_the_event_of_flows(method, quantity):
    flow = dmft.solve(FLOW, START, 3.0, events=dmft.Event("M[0,0]/sqrt(Q[0,0])", 0.9))
    runs = dmft.simulate(
        MODEL, SGD, 300, 3.0, 8, START, method,
        events=dmft.Event(quantity, 0.9), keep_runs=False,
    )  # fmt: skip
    assert runs.status == "event"
    times = runs.first_passage.times
    error = times.std(ddof=1) / np.sqrt(8)
    assert abs(times.mean() - flow.t[-1]) < 5 * error + 0.02


@pytest.mark.parametrize(("at", "terminal"), [(0.5, True), (0.3, True), (0.5, False)])
def test_a_simulation_ends_at_a_time(at, terminal):
    event = dmft.Event("t", at, terminal=terminal)
    runs = dmft.simulate(MODEL, SGD, 200, 1.0, 2, START, "overlaps", save_at=5, events=event)
    plain = dmft.simulate(MODEL, SGD, 200, 1.0, 2, START, "overlaps", save_at=5)
    assert runs.status == ("event" if terminal else "ok")
    np.testing.assert_allclose(runs.first_passage.times, at, atol=3e-4)
    expected = np.where(plain.t > at, np.nan, plain.mean.risk) if terminal else plain.mean.risk
    np.testing.assert_array_equal(runs.mean.risk, expected)


@pytest.mark.cases("risk")
@pytest.mark.parametrize(
    "event",
    [dmft.Event("risk", 0.8), dmft.Event("2 - risk", 1.2, direction=1)],
    ids=["risk", "formula"],
)
def test_simulated_first_passages_are_those_of_events(event):
    given = (MODEL, SGD, 200, 1.0, 4, START, "overlaps")
    old = dmft.simulate(*given, first_passage=dmft.FirstPassage("risk", 0.8))
    new = dmft.simulate(*given, events=event)
    np.testing.assert_array_equal(new.first_passage.times, old.first_passage.times)


@pytest.mark.parametrize(
    ("quantity", "words"),
    [
        ("M[3,0]", r"M has shape \(1, 1\)"),
        ("M[3,0]*2", r"there is no M\[3,0\]; entries are M\[0,0\]"),
        ("W[0,0]", r"unknown array 'W' \(known: t, .*M\[0,0\]"),
        ("ReLU(risk)", "did you mean 'relu'"),
        ("2*3", "a constant does not cross"),
        ("__import__('os')", "unknown function"),
        (sp.Symbol("N"), "no N here; available: t"),
    ],
)
def test_refusals_say_what_there_is(quantity, words):
    with pytest.raises(BadParameter, match=words):
        dmft.solve(FLOW, START, 1.0, events=dmft.Event(quantity, 0.5))


def test_events_on_overlaps_in_eigenspaces_name_the_entry():
    inputs = dmft.Spectrum([1.0, 2.0], [0.5, 0.5])
    flow = dmft.derive(dmft.Model(MODEL.student, MODEL.teacher, inputs=inputs), SGD)
    start = dmft.Overlaps([[[1.0]]] * 2, [[[0.1]]] * 2, [[[1.0]]] * 2)
    with pytest.raises(BadParameter, match=r"did you mean 'block_M\[0,0,0\]'"):
        dmft.solve(flow, start, 1.0, events=dmft.Event("M[0,0]", 0.5))


def test_refusals_name_nothing_that_cannot_be_written():
    """Names by block are LaTeX in print."""
    model = dmft.Model(SQUARE, SQUARE, inputs=dmft.Spectrum([2.0, 0.5], [0.3, 0.7]))
    flow = dmft.derive(model, SGD)
    start = dmft.random_overlaps(model, dim=100, seed=0)
    with pytest.raises(BadParameter, match=r"there is no|unknown") as caught:
        dmft.solve(flow, start, 1.0, events=dmft.Event("error_rate", 0.5))
    assert "\\" not in str(caught.value)
    assert "block_Q[0,0,0]" in str(caught.value)


def test_errors_of_functions_are_theirs():
    with pytest.raises(ZeroDivisionError):
        dmft.solve(FLOW, START, 1.0, events=dmft.Event(lambda t, state: 1 / 0, 0.5))
    with pytest.raises(BadParameter, match="must return one number, got 'a'"):
        dmft.solve(FLOW, START, 1.0, events=dmft.Event(lambda t, state: "a", 0.5))
    with pytest.raises(BadParameter, match="no event on 3: a quantity is"):
        dmft.Event(3, 0.5)


def test_simulate_refuses_what_no_step_knows():
    given = (MODEL, SGD, 200, 1.0, 2, START)
    for quantity, words in (
        ("t*M[0,0]", "not the time; an event at a time"),
        (lambda t, state: math.exp(state["M"][0, 0]), "this function cannot be traced"),
    ):
        with pytest.raises(BadParameter, match=words):
            dmft.simulate(*given, events=dmft.Event(quantity, 0.5))
    both = {"events": dmft.Event("t", 1), "first_passage": dmft.FirstPassage("risk", 0.1)}
    with pytest.raises(BadParameter, match="not both"):
        dmft.simulate(*given, **both)


def test_schedules_are_expressions_texts_or_functions_everywhere():
    time = sp.Symbol("t")
    rates = (0.05 / (1 + time), "0.05/(1 + t)", lambda t: 0.05 / (1 + t))
    flows = [dmft.solve(FLOW, START, 2.0, learning_rate=r, save_at=3) for r in rates]
    stages = [dmft.Stage(FLOW, {"learning_rate": rates[1]}, until=dmft.Event("t", 1.0))]
    stages.append(dmft.Stage(FLOW, {"learning_rate": rates[2]}))
    flows.append(dmft.solve_stages(stages, START, 2.0, save_at=3))
    for run in flows[1:]:
        np.testing.assert_allclose(run.M, flows[0].M, rtol=1e-7)
        np.testing.assert_allclose(run.steps(10), flows[0].steps(10), rtol=1e-7)
    # d(steps/d)/dt = 1/rate
    assert flows[0].steps(1)[-1] == pytest.approx((2 + 2**2 / 2) / 0.05, rel=1e-7)
    runs = [
        dmft.simulate(MODEL, SGD, 100, 1.0, 2, START, "overlaps", learning_rate=r) for r in rates
    ]
    for run in runs[1:]:
        np.testing.assert_allclose(run.mean.M, runs[0].mean.M, rtol=1e-12)


def test_steps_are_counted_through_stages_of_constant_and_following_rates():
    stages = [
        dmft.Stage(FLOW, {"learning_rate": 0.1}, until=dmft.Event("t", 1.0)),
        dmft.Stage(FLOW, {"learning_rate": "0.05/t"}),
    ]
    run = dmft.solve_stages(stages, START, 2.0, save_at=3)
    assert run.steps(1)[-1] == pytest.approx(1 / 0.1 + (2**2 - 1) / 2 / 0.05, rel=1e-7)


@pytest.mark.slow  # one of them is BY_FUNCTION
@pytest.mark.parametrize(
    "function",
    [
        lambda t, state: cosine(state),
        lambda t, state: np.exp(np.log(np.abs(state["M"][0, 0])) - np.log(state["Q"][0, 0]) / 2),
        lambda t, state: np.sqrt(np.trace(state["M"] @ state["M"].T) / state["Q"][0, 0]),
    ],
    ids=["root", "exponential", "trace"],
)
def test_functions_of_numpy_are_followed_in_simulations(function):
    given = (MODEL, SGD, 400, 3.0, 2, START, "overlaps")
    text = dmft.simulate(*given, events=dmft.Event("M[0,0]/sqrt(Q[0,0])", 0.6))
    found = dmft.simulate(*given, events=dmft.Event(function, 0.6))
    assert found.status == text.status == "event"
    np.testing.assert_array_equal(found.mean.M, text.mean.M)


def level(value, direction=0, terminal=True, quantity="risk"):
    return dmft.Event(quantity, value, direction, terminal)


COS = "M[0,0]/sqrt(Q[0,0])"  # .2 at the start; the risk is 1.92 there


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([level(1.0), level(0.1)], "'risk crosses 0.1' can never be reached: the run ends at '"),
        ([level(0.1, -1), level(1.0, -1)], "'risk falls to 0.1' can never be reached"),
        ([level(0.5, quantity=COS), level(0.9, 1, quantity=COS)], "rises to 0.9' can never"),
        ([level(2.0, quantity="t"), level(1.0, quantity="t")], "'t = 2' can never be reached"),
        ([level(0.9, quantity=dmft.LargestCosine()), level(0.5, quantity=dmft.LargestCosine())],
         "'largest cosine crosses 0.9' can never"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", [None, "Radau"])
def test_events_that_can_never_be_reached_are_told(events, words, method):
    with pytest.warns(UserWarning, match=words) as told:
        run = dmft.solve(FLOW, START, 5.0, events=events, method=method)
    assert len(told) == 1
    assert run.status == "event"


@pytest.mark.parametrize(
    "events",
    [
        [level(1.0, terminal=False), level(0.1)],
        [level(1.0, 1), level(0.1)],  # the first counts rising risks, which this one is not
        [level(1.0), level(3.0)],  # one on either side of the start
        [level(1.0), level(0.9, quantity="M[0,0]")],
    ],
)
def test_events_that_may_be_reached_are_not_warned_of(events, recwarn):
    dmft.solve(FLOW, START, 5.0, events=events)
    assert not recwarn.list


def test_stages_may_wait_for_events_beyond_their_ends(recwarn):
    stages = [dmft.Stage(FLOW, until=level(1.0, -1)), dmft.Stage(FLOW)]
    run = dmft.solve_stages(stages, START, 5.0, events=level(0.1, -1))
    assert (run.status, run.risk[-1]) == ("event", pytest.approx(0.1, rel=1e-6))
    assert not recwarn.list


def test_the_first_line_of_event_says_that_it_ends_a_run():
    assert "the run ends" in dmft.Event.__doc__.splitlines()[0]


def test_what_stays_at_the_level_does_not_cross_it():
    """M of an even activation stays exactly zero; what leaves zero crosses it when it returns."""
    still = dmft.Overlaps([[1.0]], [[0.0]])
    run = dmft.solve(FLOW, still, 5.0, events=dmft.Event("M[0, 0]", 0.0, terminal=False))
    assert run.status == "ok"
    assert run.M[-1, 0, 0] == 0.0
    assert run.events == ()
