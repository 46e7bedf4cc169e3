"""The record: names, units, files that restore an equal record, optional dependencies."""

from __future__ import annotations

import pickle
import sys

import numpy as np
import pytest

from dmft.errors import BadParameter, MissingExtra
from dmft.solvers.events import Event
from dmft.solvers.solve import solve_problem
from dmft.solvers.trajectory import Trajectory


@pytest.fixture(scope="module")
def run(retrieval):
    system = retrieval(0.05, 0.3, 1e-2)
    return solve_problem(
        system.problem, system.start, 5.0, **system.arguments(), save_at=7,
        events=[Event("risk", 1.0, -1, terminal=False), Event("M[0, 0]", 0.1, terminal=False)],
        provenance={"time_step_times_dim": 0.05, "samples_per_step": 4},
    )  # fmt: skip


def test_names_and_shapes(run):
    assert run.Q.shape == (7, 1, 1)
    assert run["M"].shape == (7, 1, 1)
    assert run.risk.shape == run.t.shape == (7,)
    assert run.P.tolist() == [[1.0]]
    assert list(run) == ["t", "Q", "M", "risk"]
    assert {"Q", "risk", "P"} <= set(dir(run))
    np.testing.assert_allclose(run.risk, 2 * (1 - run.M[:, 0, 0] ** 2), rtol=1e-14)
    with pytest.raises(AttributeError, match="no 'R'; it has"):
        _ = run.R
    with pytest.raises(KeyError, match="no 'R'"):
        run["R"]
    assert "Trajectory(ok: t = 0..5 (7 points)" in repr(run)
    assert run.final.M.shape == (1, 1)


def test_steps_and_samples(run, oscillator):
    assert run.steps(dim=1000)[-1] == pytest.approx(5.0 * 1000 / 0.05)
    assert run.samples(dim=1000)[-1] == pytest.approx(4 * 5.0 * 1000 / 0.05)
    flow = solve_problem(oscillator.problem, oscillator.start, 1.0, **oscillator.arguments())
    with pytest.raises(BadParameter, match="no steps"):
        flow.steps(dim=1000)


def test_restarting_from_the_final_state_continues_the_run(run, retrieval):
    system = retrieval(0.05, 0.3, 1e-2)
    more = solve_problem(
        system.problem, run.last_state, 6.0, **system.arguments(), t_start=float(run.t[-1])
    )
    assert more.M[-1, 0, 0] == pytest.approx(system.exact(6.0)[1], abs=1e-7)


def test_save_and_load_restore_an_equal_record(run, tmp_path):
    path = run.save(tmp_path / "run.nc")
    again = Trajectory.load(path)
    assert again == run
    assert len(again.events) == 2
    assert again.provenance["method"] == "rk5"
    assert [p.name for p in tmp_path.iterdir()] == ["run.nc"]
    changed = pickle.loads(pickle.dumps(run))
    assert changed == run
    changed.blocks["M"][0, 0, 0] += 1e-12
    assert changed != run


def test_a_run_without_events_or_save_points_round_trips(oscillator, tmp_path):
    for save_at in (None, [0.5]):
        run = solve_problem(
            oscillator.problem, oscillator.start, 1.0, **oscillator.arguments(), save_at=save_at
        )
        assert Trajectory.load(run.save(tmp_path / "a.nc")) == run


def test_files_are_plain_netcdf(run, tmp_path):
    xarray = pytest.importorskip("xarray")
    run.save(tmp_path / "run.nc")
    with xarray.open_dataset(tmp_path / "run.nc", engine="h5netcdf") as data:
        np.testing.assert_array_equal(data["risk"], run.risk)
        assert data.attrs["status"] == "ok"
    data = run.to_xarray()
    assert dict(data.sizes)["t"] == 7
    assert data["Q"].dims == ("t", "p", "p_2")
    assert float(data["risk"].sel(t=5.0)) == run.risk[-1]


def test_foreign_files_are_refused(tmp_path):
    h5netcdf = pytest.importorskip("h5netcdf")
    with h5netcdf.File(tmp_path / "other.nc", "w") as file:
        file.attrs["title"] = "rain"
    with pytest.raises(BadParameter, match="damaged or foreign file: it does not record its kind"):
        Trajectory.load(tmp_path / "other.nc")
    with pytest.raises(BadParameter, match="no file"):
        Trajectory.load(tmp_path / "none.nc")


def test_missing_extra_is_named(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5netcdf", None)
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(MissingExtra, match=r'pip install "dmft\[io\]"'):
        run.save(tmp_path / "run.nc")
    with pytest.raises(MissingExtra, match=r'pip install "dmft\[io\]"'):
        run.to_xarray()
