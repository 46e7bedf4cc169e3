"""Ensembles of paths: law, threads, failures that are counted, requests that are refused."""

from __future__ import annotations

import math
import pickle
import time
from dataclasses import replace

import numpy as np
import pytest

import dmft
from dmft.compiled import njit
from dmft.errors import BadParameter, InvalidCovariance, ShapeMismatch
from dmft.solvers.events import Event
from dmft.solvers.signatures import JACOBIAN_SIGNATURE
from dmft.solvers.solve import solve_problem
from dmft.solvers.stochastic import march as path_march
from dmft.solvers.stochastic.ensemble import PathEnsemble
from dmft.solvers.stochastic.paths import solve_paths


@njit(JACOBIAN_SIGNATURE, nogil=True, cache=True)
def rotation(t, y, widths, par, out):
    out[0, 0], out[0, 1], out[1, 0], out[1, 1] = 1.0, -1.0, 1.0, 1.0


@pytest.mark.parametrize("method", ["euler", "weak2"])
def test_mean_and_spread_of_ornstein_uhlenbeck(ornstein_uhlenbeck, method):
    run = ornstein_uhlenbeck.solve(1.0, paths=20_000, dt=0.01, method=method, save_at=5)
    decay = np.exp(-2 * run.t)
    variance = 1.2**2 * (1 - decay**2) / 4
    assert np.all(np.abs(run.mean.y - 1.5 * decay) < 4 * run.stderr.y + 1e-2 * 0.01)
    np.testing.assert_allclose(run.std.y[1:] ** 2, variance[1:], rtol=0.05)
    np.testing.assert_allclose(run.stderr.y, run.std.y / math.sqrt(20_000), rtol=1e-14)
    assert run.std.y[0] == 0.0


@pytest.mark.parametrize("method", ["euler", "weak2"])
def test_threads_pieces_and_company_change_nothing(plane, method, monkeypatch):
    request = {"paths": 30, "dt": 0.04, "method": method, "keep_paths": True,
               "events": Event("y[0]", 0.5, terminal=False), "bridge": True}  # fmt: skip
    one = plane.solve(1.0, threads=1, **request)
    two = plane.solve(1.0, threads=2, **request)
    assert np.array_equal(one.paths.y, two.paths.y)
    assert (one.mean, one.std) == (two.mean, two.std)
    assert one.first_passage == two.first_passage
    monkeypatch.setattr(path_march, "FIRST_SLICE", 1)
    monkeypatch.setattr(path_march, "CHUNK_STEPS", 1)
    monkeypatch.setattr(path_march, "SLICE_SECONDS", 0.0)
    pieces = plane.solve(1.0, threads=2, **request)
    assert np.array_equal(one.paths.y, pieces.paths.y)
    assert one.first_passage == pieces.first_passage
    fewer = plane.solve(1.0, **{**request, "paths": 7})
    assert np.array_equal(one.paths.y[:7], fewer.paths.y)
    other = plane.solve(1.0, seed=1, **request)
    assert not np.any(one.paths.y[:, -1] == other.paths.y[:, -1])


def test_starts_of_their_own_and_observables(brownian):
    start = {"y": np.linspace(0.0, 1.0, 50)}
    run = solve_paths(
        brownian.problem, start, 1.0, paths=50, dt=0.1, widths={}, noise_scale=1e-12,
        parameters={"v": 2.0, "sigma": 1.0}, keep_paths=True, save_at=[0.0, 1.0],
    )  # fmt: skip
    np.testing.assert_allclose(run.paths.y[:, 1], start["y"] + 2.0, atol=1e-5)
    np.testing.assert_allclose(run.paths.square, run.paths.y**2, rtol=1e-15)
    np.testing.assert_allclose(run.mean.square, np.mean(run.paths.square, axis=0), rtol=1e-13)
    np.testing.assert_allclose(run.std.y, np.std(run.paths.y, axis=0, ddof=1), rtol=1e-12)


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("weak2", 2)])
def test_without_noise_the_drift_is_integrated(clocked, method, order):
    errors = []
    for steps in (20, 40):
        run = clocked.solve(2.0, paths=3, dt=2 / steps, method=method, noise_scale=0.0, save_at=2)
        assert run.std.y[-1] < 1e-15
        errors.append(abs(run.mean.y[-1] - math.exp(math.sin(2.0))))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


def test_moments_of_chunks_merge_to_those_of_all(brownian, monkeypatch):
    monkeypatch.setattr(path_march, "LARGEST_CHUNK", 7)
    run = brownian.solve(1.0, paths=100, dt=0.1, keep_paths=True)
    np.testing.assert_allclose(run.mean.y, run.paths.y.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(run.std.y, run.paths.y.std(axis=0, ddof=1), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("method", ["euler", "weak2"])
def test_paths_that_leave_the_domain_are_counted_and_left_out(absorbed, method):
    run = absorbed.solve(1.0, paths=2000, dt=0.01, method=method, keep_paths=True, save_at=2)
    gone = run.path_status.count("left_domain")
    # reflection principle, late by the steps
    assert gone / 2000 == pytest.approx(math.erfc(1 / (0.5 * math.sqrt(2))), abs=0.02)
    assert run.status == "left_domain"
    assert run.counted == 2000 - gone
    kept = np.array([s == "ok" for s in run.path_status])
    assert np.all(run.paths.y[kept] >= 0.0)
    assert run.mean.y[-1] == pytest.approx(run.paths.y[kept, -1].mean(), rel=1e-12)
    assert f"{gone} of 2000 paths left_domain (left out of the means)" in run.message
    assert "outside the domain (no vectors have these overlaps): first path" in run.message


@pytest.mark.parametrize("method", ["euler", "weak2"])
def test_a_covariance_that_is_not_positive_is_refused_with_its_eigenvalue(indefinite, method):
    run = indefinite.solve(4.0, paths=100, dt=0.01, method=method, save_at=2)
    assert run.status == "left_domain"
    assert "where the covariance of the noise is not positive: first path" in run.message
    when = float(run.message.split("after t = ")[1].split(",")[0])
    assert 0.0 < when < 4.0
    where = run.message.split("state [")[1].split("]")[0]
    lowest = float(run.message.split("smallest eigenvalue ")[1].split(" ")[0])
    assert lowest == pytest.approx(1.0 - abs(float(where.split(",")[0])), abs=1e-5)
    assert lowest < 0.0


def test_starts_without_a_covariance_are_refused(indefinite, absorbed):
    request = {"paths": 2, "dt": 0.1, "widths": {"n": 2}}
    starts = {"y": [[0.0, 0.0], [1.5, 0.0]]}
    with pytest.raises(InvalidCovariance, match=r"start of path 1: smallest eigenvalue -0\.5"):
        solve_paths(indefinite.problem, starts, 1.0, **request)
    with pytest.raises(InvalidCovariance, match="start of path 0 is outside the domain"):
        solve_paths(absorbed.problem, {"y": -1.0}, 1.0, paths=2, dt=0.1, widths={},
                    parameters=absorbed.parameters)  # fmt: skip


def test_a_start_outside_that_was_not_tested_ends_its_path(absorbed, monkeypatch):
    monkeypatch.setattr("dmft.solvers.stochastic.paths.TESTED_STARTS", 1)
    run = solve_paths(
        absorbed.problem, {"y": [5.0, -1.0]}, 0.1, paths=2, dt=0.1, widths={}, keep_paths=True,
        parameters=absorbed.parameters,
    )  # fmt: skip
    assert run.path_status == ("ok", "left_domain")
    assert "outside the domain (no vectors have these overlaps): first path 1" in run.message


def test_a_singular_covariance_is_no_failure(geometric):
    run = geometric.solve(1.0, paths=100, dt=0.01, method="weak2", keep_paths=True, save_at=2)
    assert run.status == "ok"
    exact = np.exp((0.5 - 0.32) + 0.8 * run.paths.B[:, -1])
    assert np.corrcoef(exact, run.paths.y[:, -1])[0, 1] > 0.99


def test_divergence_is_a_status(geometric):
    run = geometric.solve(1.0, paths=50, dt=0.1, norm_bound=1.5)
    assert run.status == "diverged"
    assert "beyond the bound 1.5: first path" in run.message
    assert 0 < run.counted < 50


def test_timeout_and_interrupt_keep_a_record(ornstein_uhlenbeck):
    began = time.monotonic()
    run = ornstein_uhlenbeck.solve(1e6, paths=8, dt=1e-3, timeout=0.3, save_at=[0.0, 1.0, 1e6])
    assert run.status == "timeout"
    assert time.monotonic() - began < 30.0  # of minutes
    assert run.counted == 0
    assert np.all(np.isnan(run.mean.y))

    def press(fraction, message):
        raise KeyboardInterrupt

    cut = ornstein_uhlenbeck.solve(1e6, paths=8, dt=1e-3, progress=press, save_at=2)
    assert cut.status == "interrupted"
    assert cut.message == "8 of 8 paths interrupted (left out of the means)"


def test_saved_times_are_whole_steps(brownian):
    run = brownian.solve(1.0, paths=3, dt=0.3, save_at=[0.1, 0.2, 1.0])
    assert run.t.tolist() == [0.0, 0.25, 1.0]
    assert run.provenance["dt"] == 0.25
    assert brownian.solve(1.0, paths=3, dt=0.1).t.size == 11


def test_records_round_trip(brownian, tmp_path):
    run = brownian.solve(
        2.0, paths=20, dt=0.1, events=Event("y", 0.0, terminal=False), keep_paths=True,
        provenance={"time_step_times_dim": 0.5},
    )  # fmt: skip
    assert PathEnsemble.load(run.save(tmp_path / "paths.nc")) == run
    assert dmft.load(tmp_path / "paths.nc") == run
    assert pickle.loads(pickle.dumps(run)) == run
    data = run.to_xarray()
    assert dict(data.sizes) == {"t": 21, "path": 20, "event": 1}
    assert float(data["y_mean"].sel(t=2.0)) == run.mean.y[-1]
    assert run.steps(dim=100)[-1] == 400.0
    assert repr(run).startswith("PathEnsemble(ok: 20 paths, t = 0..2 (21 points); y (21,), square")
    with pytest.raises(AttributeError, match="no 'Q' here"):
        _ = run.mean.Q


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"paths": 0}, "paths = 0 must be an integer >= 1"),
        ({"dt": 0.0}, "dt = 0.0 must be positive"),
        ({"dt": float("nan")}, "dt"),
        ({"noise_scale": -1.0}, "noise_scale"),
        ({"method": "milstein"}, "choose one of euler, weak2"),
        ({"seed": -1}, "seed"),
        ({"threads": 0}, "threads"),
        ({"t_max": 0.0}, "t_max"),
        ({"timeout": 0.0}, "timeout"),
        ({"increments": "uniform"}, "choose one of normal, three_point"),
        ({"method": "weak2", "substeps": 2}, "no finer path"),
        ({"save_at": [0.5, 2.0]}, "outside"),
        ({"parameters": {"v": 1.0}}, r"missing \['sigma'\]"),
        ({"events": [Event("y", 0.5, name="a"), Event("y", 0.1, name="a")]}, "same name"),
        ({"events": "y"}, "dmft.Event"),
    ],
)
def test_bad_requests_are_refused(brownian, change, message):
    request = {"t_max": 1.0, "paths": 2, "dt": 0.1, **change}
    with pytest.raises(BadParameter, match=message):
        brownian.solve(request.pop("t_max"), **request)


def test_whole_floats_are_counts_and_seeds(brownian):
    found = brownian.solve(1.0, dt=0.1, paths=2.0, seed=3.0, substeps=2.0)
    same = brownian.solve(1.0, dt=0.1, paths=2, seed=3, substeps=2)
    np.testing.assert_array_equal(found.mean.y, same.mean.y)
    assert found.provenance == same.provenance
    model = dmft.literature.phase_retrieval(1)
    noisy = dmft.derive(model, dmft.SGD(0.05), dim=100, fluctuations=True)
    runs = [dmft.solve(noisy, None, 0.2, dt=0.1, paths=2, seed=seed) for seed in (3, 3.0)]
    np.testing.assert_array_equal(runs[0].mean.M, runs[1].mean.M)


def test_shapes_kinds_and_factors_are_refused(brownian, plane):
    request = {"paths": 2, "dt": 0.1, "widths": {"n": 2}}
    with pytest.raises(ShapeMismatch, match="3 starts along its first axis, for 2 paths"):
        solve_paths(plane.problem, {"y": np.ones((3, 2))}, 1.0, **request)
    with pytest.raises(BadParameter, match="solve_paths"):
        solve_problem(brownian.problem, brownian.start, 1.0, widths={})
    flow = replace(plane.problem, kind="ode")
    with pytest.raises(BadParameter, match="of kind 'ode'"):
        solve_paths(flow, plane.start, 1.0, **request)
    with pytest.raises(BadParameter, match="without a diffusion"):
        solve_paths(replace(plane.problem, diffusion=None), plane.start, 1.0, **request)
    factor = replace(plane.problem, diffusion=rotation)
    with pytest.raises(InvalidCovariance, match="the covariance of the noise, not a factor of it"):
        solve_paths(factor, plane.start, 1.0, **request)
