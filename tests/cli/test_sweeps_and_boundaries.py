"""`dmft boundary` and `dmft sweep`: runs, resumptions, parts, job scripts, refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dmft.cli.main import main

MODEL = """
[student]
activation = "z**2"
width = 1
[teacher]
activation = "z**2"
width = 1
[algorithm]
kind = "sgd"
learning_rate = "gamma"
constraint = "sphere"
[start]
kind = "overlaps"
Q = [[1.0]]
M = [[{m}]]
[solve]
t_max = 20.0
[boundary]
measure = "growth_rate"
x = {{name = "gamma", from = 0.05, to = 0.2, points = 3}}
y = {{name = "label_noise", from = 0.0, to = 4.0, points = 3}}
step = 0.25
[sweep]
measure = "final_risk"
store = "store"
axes = [{{name = "gamma", from = 0.05, to = 0.1, points = 3}},
        {{name = "label_noise", from = 0.0, to = 1.0, points = 2}}]
"""


@pytest.fixture
def declaration(tmp_path):
    def write(m=0.1, text=MODEL):
        file = tmp_path / "model.toml"
        file.write_text(text.format(m=m))
        return str(file)

    return write


def test_a_boundary_with_a_store_is_drawn_and_computed_once(declaration, capsys, tmp_path):
    file = declaration(m=0.0, text=MODEL.replace("[sweep]", 'store = "points"\n[sweep]'))
    answers = []
    for options in (["--plot", str(tmp_path / "b.png")], []):
        assert main(["boundary", file, "--json", *options]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    first, second = answers
    (curve,) = first["curves"]
    gamma, noise = np.array(curve["gamma"]), np.array(curve["label_noise"])
    np.testing.assert_allclose(gamma, 2 / (12 + noise), atol=1e-6)
    assert (tmp_path / "b.png").stat().st_size > 5000
    assert first["curves"] == second["curves"]
    assert second["solves"] == {"grid": 0, "curves": 0}
    assert second["stored"] == sum(first["solves"].values())
    assert second["status"] == "ok"
    assert (tmp_path / "points" / "manifest.json").exists()


def test_sweep_is_run_watched_and_collected(declaration, capsys, tmp_path):
    file = declaration()
    assert main(["sweep", "status", file]) == 2
    assert "is not a store" in capsys.readouterr().err
    assert main(["sweep", "work", file, "--task", "1", "--of", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["computed"] == 2
    assert main(["sweep", "status", file]) == 0
    assert "not computed: 4" in capsys.readouterr().out
    assert main(["sweep", "run", file, "--json", "--no-progress"]) == 0
    assert json.loads(capsys.readouterr().out) | {"torn": 0} == {
        "points": 6, "count": {"ok": 6}, "computed": 4, "reused": 2, "torn": 0,
        "complete": True,
    }  # fmt: skip
    assert main(["sweep", "resume", file, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["computed"] == 0
    outputs = ["--save", str(tmp_path / "s.nc"), "--plot", str(tmp_path / "s.png")]
    assert main(["sweep", "collect", file, "--json", *outputs]) == 0
    collected = json.loads(capsys.readouterr().out)
    assert np.shape(collected["values"]["final_risk"]) == (3, 2)
    assert collected["status"] == [["ok", "ok"]] * 3
    assert np.shape(collected["horizon"]) == (3, 2)
    assert (tmp_path / "s.png").stat().st_size > 5000


def test_outputs_of_a_sweep_are_written_or_refused(declaration, capsys, tmp_path):
    file, saved, drawn = declaration(), tmp_path / "s.nc", tmp_path / "s.png"
    outputs = ["--save", str(saved), "--plot", str(drawn)]
    assert main(["sweep", "work", file, "--of", "2", *outputs]) == 2
    assert "requires sweep run, resume or collect" in capsys.readouterr().err
    assert main(["sweep", "run", file, *outputs]) == 0
    assert saved.exists()
    assert drawn.exists()
    one = MODEL.split(',\n        {{name = "label_noise", from = 0.0, to = 1.0')[0] + "]\n"
    assert main(["sweep", "run", declaration(text=one), "--plot", str(drawn)]) == 2
    assert "over two parameters, this one has ['gamma']" in capsys.readouterr().err


def test_another_sweep_is_refused(declaration, capsys):
    file = declaration()
    assert main(["sweep", "work", file, "--of", "6"]) == 0
    file = declaration(m=0.2)
    assert main(["sweep", "run", file]) == 2
    assert "contains another sweep: its start is" in capsys.readouterr().err


def test_job_script(declaration, capsys):
    file = declaration()
    assert main(["sweep", "submit", file, "--of", "40"]) == 0
    script = capsys.readouterr().out
    assert "#SBATCH --array=0-39" in script
    assert '--of 40 --no-progress --task "$SLURM_ARRAY_TASK_ID"' in script
    assert main(["sweep", "submit", file, "--yes"]) == 2
    assert "no sbatch" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (('"label_noise", from = 0.0, to = 1.0', '"gamma", from = 0.0, to = 1.0'), "both axes are"),
        (('name = "gamma", from = 0.05, to = 0.1', 'name = "q", from = 0.05, to = 0.1'), "q"),
        (("axes = [", "axes = ["), None),
        (('store = "store"', ""), "'store' is missing"),
        (('measure = "growth_rate"', 'measure = "growth"'), "growth"),
    ],
)
def test_slips(declaration, capsys, change, reason):
    if reason is None:
        text = MODEL.split("axes = ")[0] + "axes = []\n"
        reason = "must be a list"
    else:
        text = MODEL.replace(*change)
    assert main(["sweep", "run", declaration(text=text)]) == 2
    assert reason in capsys.readouterr().err


def test_a_part_needs_its_number(declaration, capsys):
    assert main(["sweep", "work", declaration()]) == 2
    assert "--of N" in capsys.readouterr().err
    assert main(["sweep", "work", declaration(), "--task", "3", "--of", "2"]) == 2
    assert "0 <= i < n" in capsys.readouterr().err


def test_a_sweep_on_a_dask_cluster(declaration, capsys):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    ) as cluster:
        address = cluster.scheduler_address
        assert main(["sweep", "run", declaration(), "--json", "--scheduler", address]) == 0
    assert json.loads(capsys.readouterr().out)["count"] == {"ok": 6}
