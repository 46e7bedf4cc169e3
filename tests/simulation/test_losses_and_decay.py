"""Losses, weight decay and readouts of repeated samples: both simulators against the equations."""

from functools import cache

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


@cache
def end_of_reference(name):
    """Blocks at T: five steps of Runge-Kutta with rates of the NumPy reference; no code."""
    equations, start = (
        dmft.derive(MODEL, ALGORITHMS[name]),
        dmft.random_overlaps(MODEL, DIM, seed=0),
    )
    blocks = {"Q": start.Q, "M": start.M, "readout": np.ones(start.p)}

    def rates(at):
        return equations.evaluate(dmft.Overlaps(at["Q"], at["M"], start.P, readout=at["readout"]))

    def moved(by, slopes):
        return blocks | {name: blocks[name] + by * slope for name, slope in slopes.items()}

    step = T / 5
    for _ in range(5):
        one = rates(blocks)
        two = rates(moved(step / 2, one))
        three = rates(moved(step / 2, two))
        four = rates(moved(step, three))
        slopes = {n: (one[n] + 2 * two[n] + 2 * three[n] + four[n]) / 6 for n in one}
        blocks = moved(step, slopes)
    return {name: blocks[name] for name in slopes}


@cache
def end_of_run(name):
    """The same by compiled code."""
    start = dmft.random_overlaps(MODEL, DIM, seed=0)
    run = dmft.solve(dmft.derive(MODEL, ALGORITHMS[name]), start, T, save_at=[T])
    return {block: getattr(run, block)[-1] for block in run.blocks}


COMPILED = "lookahead with readout"


# Code on nodes takes ten seconds to compile: one model in the fast suite, all in the slow one.
@pytest.mark.parametrize("method", ["overlaps", "weights"])
@pytest.mark.parametrize(
    ("name", "end"),
    [
        *((name, end_of_reference) for name in ALGORITHMS),
        *(
            pytest.param(name, end_of_run, marks=() if name == COMPILED else pytest.mark.slow)
            for name in ALGORITHMS
        ),
    ],
)
def test_simulations_follow_the_equations(name, end, method):
    start = dmft.random_overlaps(MODEL, DIM, seed=0)
    truth = dmft.simulate(
        MODEL, ALGORITHMS[name], dim=DIM, t_max=T, start=start, seeds=16, method=method
    )
    for block, value in end(name).items():
        off = np.abs(truth.mean[block][-1] - value)
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
