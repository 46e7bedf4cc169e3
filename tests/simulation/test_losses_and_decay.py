"""Losses, weight decay and readouts of repeated samples: both simulators against the equations."""

import numpy as np
import pytest
import sympy as sp
from scipy.special import erf

import dmft

Z = sp.Symbol("z", real=True)
F, Y = sp.symbols("f y", real=True)
ERF = sp.erf(Z / sp.sqrt(2))
MODEL = dmft.Model(dmft.Committee(ERF, 2), dmft.Committee(ERF, 1), 0.1)
DIM, T = 400, 1.0
ALGORITHMS = {
    "decay": dmft.SGD(0.5, weight_decay=0.4),
    "cubic with decay": dmft.SGD(
        0.5, 4, loss=(F - Y) ** 3 / 6 + (F - Y) ** 2 / 2, weight_decay=0.2
    ),
    "logistic": dmft.SGD(0.5, loss=sp.log(1 + sp.exp(-F * Y))),
    "twice with readout and decay": dmft.SGD(
        0.5, repeat=dmft.Repeat(2), readout_rate=0.5, weight_decay=0.1
    ),
    "lookahead with readout": dmft.SGD(0.5, repeat=dmft.Lookahead(0.2), readout_rate=0.5),
}


@pytest.mark.parametrize("method", ["overlaps", "weights"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_simulations_follow_the_equations(name, method):
    algorithm = ALGORITHMS[name]
    start = dmft.random_overlaps(MODEL, DIM, seed=0)
    run = dmft.solve(dmft.derive(MODEL, algorithm), start, T, save_at=[T])
    truth = dmft.simulate(MODEL, algorithm, dim=DIM, t_max=T, start=start, seeds=16, method=method)
    for block in run.blocks:
        off = np.abs(truth.mean[block][-1] - getattr(run, block)[-1])
        assert np.all(off < 4.5 * truth.stderr[block][-1] + 3.0 / DIM), block


def test_decay_alone_is_exponential():
    """A student of zero learning: with psi = 0 rows shrink by (1 - gamma zeta/(p d)) a step."""
    rule = dmft.UpdateField(0 * F + sp.S.Zero, fields=(Z, F, Y), learning_rate=1, weight_decay=0.5)
    model = dmft.Model(dmft.Committee(Z, 1), dmft.Committee(Z, 1))
    start = dmft.Overlaps([[1.0]], [[0.5]])
    run = dmft.solve(dmft.derive(model, rule), start, 2.0, save_at=[2.0], rtol=1e-10)
    assert run.M[-1, 0, 0] == pytest.approx(0.5 * np.exp(-1.0), rel=1e-9)
    assert run.Q[-1, 0, 0] == pytest.approx(np.exp(-2.0), rel=1e-9)
    truth = dmft.simulate(model, rule, dim=100, t_max=2.0, start=start, seeds=1)
    assert truth.mean["M"][-1, 0, 0] == pytest.approx(0.5 * (1 - 0.5 / 100) ** 200, rel=1e-12)


def test_runs_report_the_loss_itself():
    start = dmft.random_overlaps(MODEL, DIM, seed=0)
    plain = dmft.solve(dmft.derive(MODEL, dmft.SGD(0.5, loss=(F - Y) ** 2 / 2)), start, T)
    assert plain.loss == pytest.approx(plain.risk + 0.05, abs=1e-13)
    equations = dmft.derive(MODEL, dmft.SGD(0.5, loss=sp.log(sp.cosh(F - Y))))
    run = dmft.solve(equations, start, T, save_at=[0.0])
    rng = np.random.default_rng(2)
    lam = np.linalg.cholesky(start.Omega) @ rng.standard_normal((3, 400_000))
    value = [erf(x / np.sqrt(2)) for x in lam]
    y = value[2] + np.sqrt(0.1) * rng.standard_normal(lam.shape[1])
    loss = np.log(np.cosh((value[0] + value[1]) / 2 - y))
    assert run.loss[0] == pytest.approx(loss.mean(), abs=5 * loss.std() / np.sqrt(loss.size))
