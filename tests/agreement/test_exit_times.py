"""Exit times: one definition on flow, map, paths and chains, and the law of random starts."""

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.literature import phase_retrieval

FRACTION = 0.1


def exits(dim, paths, chains, gamma=1 / 12, noise=0.0, every=1):
    """Law of the formula, and the exits of SDE paths and of overlap chains from random starts."""
    model = phase_retrieval(1, label_noise=noise)
    sgd = dmft.SGD(gamma, constraint="sphere")
    formula = dmft.escape_formula(model, sgd)
    sde = dmft.derive(model, sgd, dim=sp.Symbol("d"), fluctuations=True)
    # Euler's steps grow by 1 + Lambda dt, not by its exponential: 0.02 late at d = 1e5.
    along = dmft.escape_time(
        sde, None, 12.0, fraction=FRACTION, paths=paths, dt=0.01, d=dim, seed=dim, method="weak2"
    )
    # Each chain stops at its exit, and nothing between its two ends is kept.
    level = dmft.FirstPassage("risk", 1 - FRACTION, relative=True, every=every)
    runs = dmft.simulate(
        model, sgd, dim, 12.0, chains, method="overlaps", first_passage=level, save_at=2
    )
    found = {"paths": along, "chains": dmft.escape_time(runs, fraction=FRACTION)}
    return (formula.mean_time(dim, FRACTION), formula.std(dim, FRACTION)), found


def deviations(law, found, dim):
    """Distance of mean and spread from the law, over what is allowed: 3.5 errors and 10/d."""
    mean, std = law
    return {
        name: (
            abs(e.mean - mean) / (3.5 * e.stderr + 10 / dim),
            abs(e.std - std) / (3.5 * e.std_stderr + 10 / dim),
        )
        for name, e in found.items()
    }


@pytest.mark.slow
def test_mean_and_spread_from_random_starts_at_a_thousand_dimensions():
    law, found = exits(1000, paths=1000, chains=200)
    worst = deviations(law, found, 1000)
    assert max(max(pair) for pair in worst.values()) < 1, worst


@pytest.mark.slow
def test_mean_and_spread_from_random_starts_in_every_dimension():
    """A chain takes d t / gamma steps, 3e6 at d = 1e5; the risk is looked at each d/1000 steps."""
    worst = {}
    for dim, chains, gamma, noise in (
        (10**3, 1000, 1 / 12, 0.0),
        (10**4, 300, 1 / 12, 0.0),
        (10**4, 300, 0.05, 0.5),
        (10**5, 200, 1 / 12, 0.0),
    ):
        law, found = exits(dim, 4000, chains, gamma, noise, every=dim // 1000)
        worst[dim, noise] = deviations(law, found, dim)
        for name, e in found.items():
            print(
                f"d = {dim}, Delta = {noise}, {name}: mean {e.mean:.4f} +- {e.stderr:.4f} "
                f"(law {law[0]:.4f}), std {e.std:.4f} +- {e.std_stderr:.4f} (law {law[1]:.4f})"
            )
    assert max(max(pair) for by in worst.values() for pair in by.values()) < 1, worst


def test_flow_and_map_have_one_definition_of_escape():
    dim, start = 4000, dmft.Overlaps([[1.0]], [[0.3]])
    model, sgd = phase_retrieval(1, label_noise=0.3), dmft.SGD(2.0, 40, constraint="sphere")
    ode = dmft.escape_time(dmft.derive(model, sgd), start, 8.0, fraction=0.4)
    steps = dmft.escape_time(dmft.derive(model, sgd, dim=dim), start, 10_000, fraction=0.4)
    assert steps.reference == ode.reference
    np.testing.assert_allclose(steps.threshold, ode.threshold, rtol=1e-12)
    # A step is eta = gamma/d = 5e-4 long: the map differs from the flow by as much, relatively.
    assert steps.value == pytest.approx(ode.steps(dim), rel=4 * 2.0 / dim)
    assert steps.steps(dim) == steps.value


@pytest.mark.slow
def test_flow_map_paths_and_chains_have_one_definition_of_escape():
    """In steps of one batched algorithm from one start, where all four describe it."""
    dim, batch = 4000, 40
    model = phase_retrieval(1, label_noise=0.3)
    sgd = dmft.SGD(2.0, batch_size=batch, constraint="sphere")
    start = dmft.Overlaps([[1.0]], [[0.3]])
    flow = dmft.derive(model, sgd)
    steps = dmft.derive(model, sgd, dim=dim)
    sde = dmft.derive(model, dmft.SGD(2.0 / batch, constraint="sphere"), dim=dim, fluctuations=True)
    for wanted, level in (
        ({"fraction": 0.4}, dmft.FirstPassage("risk", 0.6, relative=True)),
        ({"overlap": 0.7}, dmft.FirstPassage("overlap", 0.7)),
    ):
        ode = dmft.escape_time(flow, start, 8.0, **wanted)
        iterated = dmft.escape_time(steps, start, 10_000, **wanted)
        noisy = dmft.escape_time(sde, start, 8.0, paths=400, dt=0.002, seed=3, **wanted)
        runs = dmft.simulate(
            model, sgd, dim, 4.0, 10, start, "overlaps", save_at=2, first_passage=level
        )
        chains = dmft.escape_time(runs, **wanted)
        assert {e.reference for e in (ode, iterated, noisy, chains)} == {ode.reference}
        for e in (iterated, noisy, chains):
            np.testing.assert_allclose(e.threshold, ode.threshold, rtol=1e-12)
        truth = ode.steps(dim)
        # A step is eta = gamma/d = 5e-4 long: the map differs from the flow by as much, relatively.
        assert iterated.value == pytest.approx(truth, rel=4 * 2.0 / dim)
        assert iterated.steps(dim) == iterated.value
        # The unbatched equation has the same drift; its steps are one sample long.
        assert noisy.mean == pytest.approx(ode.value, abs=3.5 * noisy.stderr + 10 / dim)
        error = chains.stderr * dim / 2.0
        assert chains.steps(dim).mean() == pytest.approx(truth, abs=3.5 * error + 4e-3 * truth)


def test_escapes_under_a_schedule_count_its_steps():
    """A step is gamma(t)/d: at gamma = 0.08/(1 + t) there are d (t + t^2/2)/0.08 until t."""
    flow = dmft.derive(phase_retrieval(1), dmft.SGD(0.05, constraint="sphere"))
    start, rate = dmft.Overlaps([[1.0]], [[0.05]]), 0.08 / (1 + sp.Symbol("t"))
    run = dmft.solve(flow, start, 3.0, learning_rate=rate, rtol=1e-11, atol=1e-13)
    found = dmft.escape_time(run, fraction=0.3)
    t = found.value
    assert found.steps(1000) == pytest.approx(1000 * (t + t**2 / 2) / 0.08, rel=1e-8)
    direct = dmft.escape_time(flow, start, 3.0, fraction=0.3, learning_rate=rate)
    assert (direct.value, direct.steps(1000)) == pytest.approx((t, found.steps(1000)), rel=1e-8)
    # Of an alignment too, which is not the end of the run that it is read off.
    aligned = dmft.phases(run, level=0.9).alignment
    t = aligned.value
    assert t < 2
    assert aligned.steps(1000) == pytest.approx(1000 * (t + t**2 / 2) / 0.08, rel=1e-8)
