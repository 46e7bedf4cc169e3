"""Protocols: the adaptive loss of large batches against maps iterated by hand, and refusals."""

from __future__ import annotations

import numpy as np
import pytest

import dmft
from dmft.errors import BadParameter
from dmft.literature import saad_solla
from dmft.solvers import stages

DIM, BATCH, GAMMA, DELTA = 1000, 4000, 500.0, 0.02
MODEL = saad_solla(2, 2, label_noise=DELTA)
START = dmft.Overlaps(np.eye(2) / 4, [[0.06, 0.02], [0.01, 0.05]], np.eye(2))


def steps_of(loss):
    return dmft.derive(MODEL, dmft.SGD(GAMMA, batch_size=BATCH, loss=loss), dim=DIM)


CORRELATION, SQUARED = steps_of("correlation"), steps_of("squared")
RISK = dmft.population_risk(MODEL)


def risk(Q, M):
    return RISK(Q=Q, M=M, P=START.P)


LEVEL = 0.6 * (risk(START.Q, START.M) + DELTA / 2) - DELTA / 2


def by_hand(count):
    """Theory D.1, with the plain NumPy reference of each step."""
    Q, M, rate, equations, switch = START.Q, START.M, GAMMA, CORRELATION, None
    rows = [(Q, M)]
    for n in range(count):
        if switch is None and risk(Q, M) < LEVEL:
            rate, equations, switch = 0.1 * rate, SQUARED, n
        elif switch is not None:
            rate *= 0.995
        change = equations.evaluate(dmft.Overlaps(Q, M, START.P), learning_rate=rate)
        Q, M = Q + change["Q"], M + change["M"]
        rows.append((Q, M))
    return np.array([q for q, _ in rows]), np.array([m for _, m in rows]), switch


def test_adaptive_loss_switches_and_decays_as_by_hand():
    stages = [
        dmft.Stage(CORRELATION, until=dmft.Event("risk", LEVEL, -1)),
        dmft.Stage(
            SQUARED, lambda t0, _: {"learning_rate": lambda t: 0.1 * GAMMA * 0.995 ** (t - t0)}
        ),
    ]
    run = dmft.solve_stages(stages, START, 50)
    Q, M, switch = by_hand(50)
    assert switch is not None
    assert 1 < switch < 40
    assert [event.t for event in run.events] == [switch]
    assert [stage["t"] for stage in run.provenance["stages"]] == [0, switch]
    np.testing.assert_allclose(run.Q, Q, rtol=1e-11)
    np.testing.assert_allclose(run.M, M, rtol=1e-11)
    np.testing.assert_array_equal(run.t, np.arange(51))
    assert run.readout.shape == (51, 2)
    assert run.risk[-1] < run.risk[switch]
    assert "loss" not in run  # it is another in each stage


def test_stages_of_flows_are_the_two_runs_one_after_the_other():
    flow = dmft.derive(MODEL, dmft.SGD(1.0))
    event = dmft.Event("M[0, 0]", 0.1, 1)
    stages = [
        dmft.Stage(flow, {"learning_rate": 0.5}, event),
        dmft.Stage(flow, {"learning_rate": 0.2}),
    ]
    run = dmft.solve_stages(stages, START, 5.0, rtol=1e-10, atol=1e-12)
    first = dmft.solve(flow, START, 5.0, learning_rate=0.5, events=event, rtol=1e-10, atol=1e-12)
    middle = dmft.Overlaps(first.Q[-1], first.M[-1], START.P)
    left = 5.0 - first.t[-1]
    second = dmft.solve(flow, middle, left, learning_rate=0.2, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(run.Q[-1], second.Q[-1], atol=1e-9)
    np.testing.assert_allclose(run.M[-1], second.M[-1], atol=1e-9)


@pytest.mark.parametrize("declared", [True, False])
def test_steps_of_a_run_are_those_of_its_stages(declared):
    """A step takes gamma/((1 - beta) p d) of t, with gamma and beta of its stage."""
    fast = dmft.derive(MODEL, dmft.SGD(0.5))
    slow = dmft.derive(MODEL, dmft.SGD(0.1, momentum=0.5)) if declared else fast
    values = {} if declared else {"learning_rate": 0.2}
    end = dmft.Event("t", 2.0)
    stages = [dmft.Stage(fast, until=end), dmft.Stage(slow, values)]
    run = dmft.solve_stages(stages, START, 4.0, save_at=[0, 1, 2, 3, 4])
    expected = 2 * DIM * np.array([0, 1, 2, 2, 2]) / 0.5
    expected += 2 * DIM * np.array([0, 0, 0, 1, 2]) / 0.2
    np.testing.assert_allclose(run.steps(DIM), expected, rtol=1e-9)
    assert run.final.clock["steps / d"] == pytest.approx(expected[-1] / DIM)
    batch = dmft.derive(MODEL, dmft.SGD(0.5, batch_size=4))
    other = dmft.solve_stages([stages[0], dmft.Stage(batch)], START, 4.0)
    assert other.steps(DIM)[-1] == pytest.approx(2 * DIM * 4 / 0.5)
    with pytest.raises(BadParameter, match="different batch sizes"):
        other.samples(DIM)
    flows = [stages[0], dmft.Stage(dmft.derive(MODEL, dmft.GradientFlow()))]
    with pytest.raises(BadParameter, match="continuous flow"):
        dmft.solve_stages(flows, START, 4.0).steps(DIM)


def test_a_time_limit_is_that_of_all_stages(monkeypatch):
    left, check = [], stages.check_request

    def watched(*arguments, **options):
        left.append(options["timeout"])
        return check(*arguments, **options)

    monkeypatch.setattr(stages, "check_request", watched)
    parts = [dmft.Stage(CORRELATION, until=dmft.Event("risk", LEVEL, -1)), dmft.Stage(SQUARED)]
    run = dmft.solve_stages(parts, START, 50, timeout=100.0)
    assert run.status == "ok"
    assert 100.0 == left[0] > left[1] > 0.0


def test_refusals():
    flow = dmft.derive(MODEL, dmft.SGD(1.0))
    fading = {"learning_rate": lambda t: np.exp(-t)}
    with pytest.raises(BadParameter, match="is a function that does not accept symbols"):
        dmft.solve_stages([dmft.Stage(flow, fading)], START, 1.0)
    with pytest.raises(BadParameter, match="only for the learning_rate of a map"):
        dmft.solve_stages([dmft.Stage(flow, lambda t, state: fading)], START, 1.0)
    with pytest.raises(BadParameter, match="finite and not negative"):
        dmft.solve_stages([dmft.Stage(SQUARED, {"learning_rate": lambda t: 3.0 - t})], START, 9)
    with pytest.raises(BadParameter, match="has no until="):
        dmft.solve_stages([dmft.Stage(SQUARED), dmft.Stage(SQUARED)], START, 9)
    stages = [dmft.Stage(SQUARED, until=dmft.Event("risk", 0.1)), dmft.Stage(flow)]
    with pytest.raises(BadParameter, match="differs from stage 0 in its kind"):
        dmft.solve_stages(stages, START, 9)
    for late in (dmft.Event("risk", 1.0, -1), dmft.Event("M[0, 0]", 0.01, 1)):
        stages = [dmft.Stage(SQUARED, until=late), dmft.Stage(SQUARED)]
        with pytest.raises(BadParameter, match="begins at t = 0 after its end"):
            dmft.solve_stages(stages, START, 9)
    with pytest.raises(BadParameter, match="t_max = inf must be finite"):
        dmft.solve_stages([dmft.Stage(SQUARED)], START, np.inf)
    with pytest.raises(BadParameter, match="at least one"):
        dmft.solve_stages([], START, 9)
    with pytest.raises(BadParameter, match=r"Stage: equations = .* must be a dmft\.Equations"):
        dmft.Stage(MODEL)


def test_a_single_stage_switches_nowhere():
    alone = dmft.solve_stages([dmft.Stage(SQUARED)], START, 3)
    two = dmft.solve_stages(
        [dmft.Stage(SQUARED, until=dmft.Event("t", 1.0)), dmft.Stage(SQUARED)], START, 3
    )
    assert "switch" not in alone.message
    assert "switch" in two.message
