"""Matched models learn perfectly: the covariance becomes singular and the run still ends ok."""

from __future__ import annotations

import numpy as np
import pytest

import dmft

# Small enough for stability (theory/one_pass G), large enough to converge within the time below.
RATES = {"erf": 0.2, "square": 0.02, "he2": 0.02, "he3": 0.002}


def informed_start(width, sphere, seed):
    """Students near their teachers, with Gram matrices of actual vectors."""
    rng = np.random.default_rng(seed)
    rows = 0.7 * np.eye(width, width + 2) + 0.2 * rng.normal(size=(width, width + 2))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True) if sphere else 1.0
    return dmft.Overlaps(rows @ rows.T, rows[:, :width], np.eye(width))


def lowest_eigenvalue(run):
    top = np.concatenate([run.Q, run.M], axis=2)
    bottom = np.concatenate(
        [run.M.transpose(0, 2, 1), np.broadcast_to(run.P, (run.t.size, *run.P.shape))], axis=2
    )
    return float(np.linalg.eigvalsh(np.concatenate([top, bottom], axis=1)).min())


def check(activation, name, width, sphere, method, rtol):
    network = dmft.Committee(activation, width)
    rule = dmft.SGD(RATES[name], constraint="sphere" if sphere else None)
    equations = dmft.derive(dmft.Model(network, network), rule)
    start = informed_start(width, sphere, seed=width)
    run = dmft.solve(equations, start, 300.0, method=method, rtol=rtol, atol=rtol / 100)
    assert run.status == "ok", run.message
    assert abs(run.risk[-1]) < max(1e3 * rtol, 1e-3 * run.risk[0])
    return lowest_eigenvalue(run), run.statistics["band_steps"]


@pytest.mark.cases(3)
@pytest.mark.parametrize("method", ["rk5", "rk8", "LSODA"])
@pytest.mark.parametrize("rtol", [1e-5, 1e-8])
def test_erf_students_recover_their_teacher(activations, method, rtol):
    lowest, in_band = check(activations["erf"], "erf", 1, True, method, rtol)
    # singular at the end: zero up to tolerances, from either side
    assert -5 * rtol < lowest < 5 * rtol
    assert in_band > 0 or lowest > -1e-14


@pytest.mark.slow
@pytest.mark.parametrize("name", list(RATES))
@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("sphere", [False, True])
def test_every_matched_model_ends_ok(activations, name, width, sphere):
    for method in ("rk5", "rk8", "LSODA"):
        for rtol in (1e-4, 1e-6, 1e-8, 1e-10):
            lowest, _ = check(activations[name], name, width, sphere, method, rtol)
            assert lowest > -5 * rtol
