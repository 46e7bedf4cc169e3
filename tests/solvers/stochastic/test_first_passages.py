"""First passages of paths against the inverse Gaussian law of Brownian motion with drift."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from dmft.errors import BadParameter
from dmft.solvers.events import Event
from dmft.solvers.stochastic.ensemble import PassageTimes

# y = 1 - t + 0.9 B reaches zero at an inverse Gaussian time: mean 1, shape 1/0.81.
SHAPE = 1 / 0.81
LAW = stats.invgauss(mu=1 / SHAPE, scale=SHAPE)
ZERO = Event("y", 0.0, -1)
# Shift of a threshold that is watched in steps only, over sqrt(dt): -zeta(1/2)/sqrt(2 pi) sigma.
LATE = 0.5826 * 0.9


@pytest.mark.parametrize("dt", [1.0, 0.1])
def test_a_bridge_makes_the_law_exact_at_any_step(brownian, dt):
    run = brownian.solve(60.0, paths=4000, dt=dt, events=ZERO, bridge=True)
    times = run.first_passage[ZERO.name]
    assert run.status == "event"
    assert stats.kstest(times.times, LAW.cdf).pvalue > 1e-3
    assert abs(times.mean - 1.0) < 4 * times.stderr
    assert abs(times.std - LAW.std()) < 4 * times.std_stderr


def test_a_bridge_for_an_observable(brownian):
    """y^2 falls to 0.01 when y falls to 0.1: the slope of the observable enters the bridge."""
    event = Event("square", 0.01, -1)
    law = stats.invgauss(mu=1 / SHAPE / 0.9, scale=SHAPE * 0.81)
    run = brownian.solve(60.0, paths=4000, dt=0.005, events=event, bridge=True)
    times = run.first_passage[event.name]
    assert stats.kstest(times.times, law.cdf).pvalue > 1e-3


def test_without_a_bridge_exits_are_late_by_the_root_of_the_step(brownian):
    for dt in (0.04, 0.01):
        run = brownian.solve(60.0, paths=10_000, dt=dt, events=ZERO)
        times = run.first_passage[ZERO.name]
        # linear interpolation takes back part of the overshoot, never all
        assert (
            0.2 * LATE * math.sqrt(dt) < times.mean - 1.0 < LATE * math.sqrt(dt) + 4 * times.stderr
        )


@pytest.mark.slow
def test_three_point_paths_are_late_as_well(brownian):
    run = brownian.solve(
        60.0, paths=5000, dt=0.02, events=ZERO, method="weak2", increments="three_point"
    )
    assert run.first_passage[ZERO.name].mean > 1.01
    assert run.provenance["increments"] == "three_point"


def test_censored_paths_are_counted_not_dropped(brownian):
    run = brownian.solve(1.0, paths=4000, dt=0.1, events=ZERO, bridge=True)
    times = run.first_passage[ZERO.name]
    censored = int(times.censored.sum())
    assert run.path_status.count("ok") == censored
    assert run.path_status.count("event") == 4000 - censored
    share = 1 - LAW.cdf(1.0)
    assert abs(censored / 4000 - share) < 4 * math.sqrt(share * (1 - share) / 4000)
    with pytest.raises(BadParameter, match=f"{censored} of 4000 runs had not passed"):
        _ = times.mean
    low, high = times.quantile_interval(0.25, 0.9999)
    assert low < LAW.ppf(0.25) < high
    assert low < times.quantile(0.25) < high
    assert times.quantile(0.9) == math.inf
    assert np.all(times.horizon[times.censored] == 1.0)


def test_switches_are_first_passages_of_paths_that_go_on(brownian):
    events = [Event("y", 0.5, -1, False, "half"), Event("y", 0.0, -1, True, "zero")]
    run = brownian.solve(60.0, paths=500, dt=0.05, events=events, bridge=True, save_at=2)
    half, zero = run.first_passage["half"].times, run.first_passage["zero"].times
    # both are drawn in one step from bridges of their own, which may swap them within it
    assert np.all(half < zero + 0.05)
    assert np.mean(half < zero) > 0.9
    free = brownian.solve(2.0, paths=500, dt=0.05, events=events[:1])
    assert set(free.path_status) == {"ok"}
    assert np.all(np.isfinite(free.mean.y))


def test_a_start_on_the_threshold_is_no_passage(brownian):
    run = brownian.solve(0.5, paths=200, dt=0.1, events=Event("y", 1.0, 1), bridge=True)
    early = run.first_passage["y rises to 1"].times
    assert not np.any(early < 0.1)


def test_directions(brownian):
    run = brownian.solve(3.0, paths=300, dt=0.05, events=Event("y", 0.0, 1), save_at=2)
    assert run.path_status.count("event") < 300
    both = brownian.solve(9.0, paths=300, dt=0.05, events=Event("y", 0.0))
    down = brownian.solve(9.0, paths=300, dt=0.05, events=ZERO)
    assert np.array_equal(
        both.first_passage["y crosses 0"].times, down.first_passage[ZERO.name].times,
        equal_nan=True,
    )  # fmt: skip


def test_errors_of_passage_times():
    rng = np.random.default_rng(0)
    draws = [PassageTimes(rng.exponential(size=400), np.full(400, 50.0)) for _ in range(300)]
    spread = np.std([d.std for d in draws])
    assert np.mean([d.std_stderr for d in draws]) == pytest.approx(spread, rel=0.15)
    median = math.log(2)
    hits = sum(d.quantile_interval(0.5)[0] <= median <= d.quantile_interval(0.5)[1] for d in draws)
    assert 0.92 < hits / 300 <= 1.0
    few = PassageTimes(np.array([1.0, 2.0]), np.array([1.0, 2.0]))
    assert few.quantile_interval(0.5) == (0.0, math.inf)
    with pytest.raises(BadParameter, match=r"\(0, 1\)"):
        few.quantile_interval(1.0)
