"""Paths of the overlaps through dmft.solve, against the exact chain and against theory."""

import math

import numpy as np
import pytest
import sympy as sp
from scipy import stats

import dmft
from dmft.errors import BadParameter

Z = sp.Symbol("z", real=True)
SQUARE, ERF = Z**2, sp.erf(Z / sp.sqrt(2))
D = sp.Symbol("d")


def declared(act, p=1, noise=0.0):
    return dmft.Model(dmft.Committee(act, width=p), dmft.Committee(act, width=1), label_noise=noise)


def noisy(model, sgd):
    return dmft.derive(model, sgd, dim=D, fluctuations=True)


@pytest.fixture(scope="module")
def retrieval():
    sgd = dmft.SGD(1 / 12, constraint="sphere")
    return declared(SQUARE), sgd, noisy(declared(SQUARE), sgd)


def test_results_do_not_depend_on_threads_and_are_saved(retrieval, tmp_path):
    _, _, eqs = retrieval
    start = dmft.Overlaps([[1.0]], [[0.3]])
    runs = [
        dmft.solve(eqs, start, 1.0, paths=700, dt=0.04, seed=4, threads=n, d=500, save_at=5)
        for n in (1, 2)
    ]
    assert runs[0].mean == runs[1].mean
    assert runs[0].std == runs[1].std
    assert runs[0].steps(500)[-1] == pytest.approx(500 * 12)
    assert runs[0].mean.readout.shape == (5, 1)
    assert dmft.load(runs[0].save(tmp_path / "paths.nc")).mean == runs[0].mean
    times = [
        dmft.escape_time(eqs, None, 3.0, fraction=0.1, paths=300, dt=0.05, d=500, threads=n).times
        for n in (1, 2)
    ]
    assert np.array_equal(*times, equal_nan=True)


@pytest.mark.cases(1)
@pytest.mark.parametrize("paths", [500, pytest.param(1500, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("act", "constraint", "gamma", "p", "dim"),
    [
        (SQUARE, "sphere", 0.1, 1, 300),
        (SQUARE, None, 0.05, 1, 1000),
        pytest.param(ERF, None, 0.8, 1, 300, marks=pytest.mark.slow),
        pytest.param(ERF, "sphere", 0.8, 2, 300, marks=pytest.mark.slow),
    ],
)
def test_mean_and_spread_are_those_of_the_exact_chain(act, constraint, gamma, p, dim, paths):
    model, sgd = declared(act, p, 0.2), dmft.SGD(gamma, constraint=constraint)
    Q = np.eye(p) if constraint else 0.8 * np.eye(p)
    start, t_max = dmft.Overlaps(Q, [[0.3], [0.1]][:p]), 0.6
    chain = dmft.simulate(
        model, sgd, dim, t_max, paths, start, "overlaps", save_at=3, progress=False
    )
    run = dmft.solve(
        noisy(model, sgd), start, t_max, paths=paths, dt=0.01, save_at=3, d=dim, seed=1
    )
    assert run.status == "ok"
    for name in ("Q", "M"):
        gap = np.abs(run.mean[name][1:] - chain.mean[name][1:])
        band = np.hypot(run.stderr[name][1:], chain.stderr[name][1:])
        assert np.all(gap <= 4.5 * band + 1e-12)
        ratio = (run.std[name][1:] + 1e-15) / (chain.std[name][1:] + 1e-15)
        # Standard error of a ratio of two standard deviations, at kurtosis up to 5.
        assert np.all(np.abs(np.log(ratio)) < 4.5 * math.sqrt(2 / paths))


@pytest.mark.slow
def test_ornstein_uhlenbeck_at_a_fixed_point():
    model, sgd = declared(SQUARE, noise=0.5), dmft.SGD(0.05)
    (point,) = dmft.fixed_points(dmft.derive(model, sgd), dmft.Overlaps([[1.0]], [[0.97]]))
    eqs = dmft.derive(model, sgd, dim=1000, fluctuations=True)
    law = dmft.linear_noise(eqs, point)
    # The linear equation, written out with derivatives by differences.
    step = 1e-5

    def drift(y):
        values = eqs.without("finite_size").evaluate(dmft.Overlaps([[y[0]]], [[y[1]]]))
        return np.array([values["Q"][0, 0], values["M"][0, 0]])

    y = np.array([point.overlaps.Q[0, 0], point.overlaps.M[0, 0]])
    J = np.transpose([(drift(y + step * e) - drift(y - step * e)) / (2 * step) for e in np.eye(2)])
    noise = eqs.evaluate(point.overlaps)["covariance"]
    residual = J @ law.covariance + law.covariance @ J.T + noise
    assert np.max(np.abs(residual)) < 1e-7 * np.max(noise)
    run = dmft.solve(
        eqs, point.overlaps, 2.0, paths=2000, dt=0.02, save_at=2, keep_paths=True, seed=2
    )
    found = np.cov(run.paths.Q[:, -1, 0, 0], run.paths.M[:, -1, 0, 0])
    assert found == pytest.approx(law.covariance, rel=4.5 * math.sqrt(2 / 2000) + 0.02)
    assert law.std["M"] == pytest.approx(np.sqrt(law.covariance[1, 1]))


def test_escapes_of_paths_chains_and_flow_have_one_definition(retrieval):
    model, sgd, eqs = retrieval
    start = dmft.Overlaps([[1.0]], [[0.2]])
    flow = dmft.escape_time(dmft.derive(model, sgd), start, 8.0, fraction=0.3)
    still = dmft.escape_time(eqs, start, 8.0, fraction=0.3, paths=2, dt=0.002, d=10**8)
    assert still.mean == pytest.approx(flow.value, rel=2e-3)
    assert still.threshold[0] == pytest.approx(flow.threshold)
    # Ensembles are followed again with the same noise, and the same crossings are found.
    run = dmft.solve(eqs, start, 4.0, paths=200, dt=0.02, d=300, seed=5)
    direct = dmft.escape_time(eqs, start, 4.0, fraction=0.3, paths=200, dt=0.02, d=300, seed=5)
    assert np.array_equal(dmft.escape_time(run, fraction=0.3).times, direct.times, equal_nan=True)
    level = dmft.FirstPassage("risk", 0.7, relative=True)
    chain = dmft.simulate(model, sgd, 300, 4.0, 300, start, "overlaps", first_passage=level)
    seen = dmft.escape_time(chain, fraction=0.3)
    assert stats.ks_2samp(seen.times, direct.times).pvalue > 1e-3
    assert "mean" in repr(seen)


def test_each_start_is_its_own_reference(retrieval):
    _, _, eqs = retrieval
    starts = [dmft.Overlaps([[1.0]], [[m]]) for m in (0.1, 0.4, 0.6)]
    found = dmft.escape_time(eqs, starts, 8.0, fraction=0.2, dt=0.005, d=10**8)
    assert found.reference_value == pytest.approx([2 * (1 - m**2) for m in (0.1, 0.4, 0.6)])
    single = [
        dmft.escape_time(eqs, s, 8.0, fraction=0.2, paths=1, dt=0.005, d=10**8) for s in starts
    ]
    assert found.times == pytest.approx([float(e.times[0]) for e in single], rel=5e-3)
    late = dmft.escape_time(eqs, starts, 0.05, fraction=0.2, dt=0.005, d=10**8)
    assert late.censored == 3
    at_once = dmft.escape_time(eqs, starts, 8.0, overlap=0.5, dt=0.005, d=10**8)
    assert at_once.times[2] == 0.0


def test_refusals(retrieval):
    model, sgd, eqs = retrieval
    start = dmft.Overlaps([[1.0]], [[0.3]])
    with pytest.raises(BadParameter, match="pass dt, paths"):
        dmft.solve(eqs, start, 1.0, d=100)
    with pytest.raises(BadParameter, match="belong to equations of kind 'sde'"):
        dmft.solve(dmft.derive(model, sgd), start, 1.0, paths=10, dt=0.1)
    with pytest.raises(BadParameter, match="reference"):
        dmft.escape_time(eqs, start, 1.0, reference="plateau", paths=3, dt=0.1, d=100)
    runs = dmft.simulate(model, sgd, 50, 0.1, 2, start, "overlaps")
    with pytest.raises(BadParameter, match="without first_passage="):
        dmft.escape_time(runs, fraction=0.1)
    with pytest.raises(BadParameter, match="with fluctuations"):
        dmft.linear_noise(dmft.derive(model, sgd), start)
    with pytest.raises(BadParameter, match="still move"):
        dmft.linear_noise(eqs, start, d=100)
    with pytest.raises(BadParameter, match="batch_size is fixed"):
        dmft.solve(eqs, start, 1.0, paths=3, dt=0.1, d=100, batch_size=2)
