"""Correlation loss, spherical gradient and trained readouts: both simulators, and the maps."""

import numpy as np
import pytest
import sympy as sp

import dmft

z = sp.Symbol("z", real=True)
ERF = sp.erf(z / sp.sqrt(2))
DIM, STEPS = 1000, 6
MODEL = dmft.Model(dmft.Committee(ERF, 2), dmft.Committee(ERF, 2), label_noise=0.05)
START = dmft.Overlaps([[1, 0.0425], [0.0425, 1]], [[0.3, 0.05], [0.1, 0.25]], np.eye(2))
# Largest deviation in standard errors of some ten correlated numbers.
SIGMAS = 5.0


@pytest.mark.cases(2)
@pytest.mark.parametrize("constraint", [None, "sphere", "sphere-gradient"])
@pytest.mark.parametrize(("loss", "eta"), [("squared", 2.0), ("correlation", 0.5)])
def test_chain_follows_the_map(constraint, loss, eta, solve):
    algorithm = dmft.SGD(
        eta * DIM, batch_size=DIM, loss=loss, constraint=constraint, readout_rate=0.2
    )
    run = solve(dmft.derive(MODEL, algorithm, dim=DIM), START, t_max=STEPS)
    chain = dmft.simulate(
        MODEL, algorithm, DIM, STEPS * eta / 2, 12, START, "overlaps", save_at=STEPS + 1
    )
    for name in ("Q", "M", "readout"):
        gap = np.abs(chain.mean[name] - getattr(run, name))[1:]
        # The map leaves out what is of order 1/d in a step.
        assert np.all(gap <= SIGMAS * chain.stderr[name][1:] + 4 * eta / DIM), name


@pytest.mark.cases(1)
@pytest.mark.parametrize("seeds", [150, pytest.param(3000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("constraint", ["sphere", "sphere-gradient"])
def test_both_simulators_have_one_law(constraint, seeds):
    algorithm = dmft.SGD(
        15.0, batch_size=3, loss="correlation", constraint=constraint, readout_rate=0.4
    )
    runs = [
        dmft.simulate(MODEL, algorithm, 20, 3.0, seeds, START, method, save_at=[3.0])
        for method in ("weights", "overlaps")
    ]
    for name in ("Q", "M", "readout"):
        one, two = (np.tril(r.mean[name][0]) if name == "Q" else r.mean[name][0] for r in runs)
        error = np.hypot(runs[0].stderr[name][0], runs[1].stderr[name][0])
        assert np.all(np.abs(one - two) <= SIGMAS * error + 1e-12), name


def test_a_batch_may_be_a_power_of_the_dimension():
    d = sp.Symbol("d")
    power = dmft.SGD(d / 2, batch_size=d ** sp.Rational(3, 2), constraint="sphere")
    plain = dmft.SGD(50, batch_size=1000, constraint="sphere")
    one, two = (
        dmft.simulate(MODEL, a, 100, 1.0, 2, START, "overlaps", save_at=2) for a in (power, plain)
    )
    np.testing.assert_array_equal(one.runs.Q, two.runs.Q)
    assert one.provenance["samples_per_step"] == 1000
    with pytest.raises(dmft.errors.BadParameter, match=r"is 0\.333333 at d = 100"):
        dmft.simulate(MODEL, dmft.SGD(0.1, batch_size=d / 300), 100, 1.0, 2, START)
