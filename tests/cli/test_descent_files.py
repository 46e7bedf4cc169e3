"""Descent on repeated data and maps of large batches from declaration files."""

import json
from pathlib import Path

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.cli.main import main
from dmft.cli.toml import read_declaration
from dmft.errors import ExpressionRefused

ROOT = Path(__file__).parents[2]
# A linear student of a linear target: exact by Marchenko-Pastur (theory/batch_reuse B.5).
LINEAR = """
[student]
activation = "z"
width = 1
[teacher]
activation = "z"
width = 1
[algorithm]
kind = "gradient-descent"
learning_rate = "eta"
samples_per_dim = 2.0
[parameters]
eta = 0.2
[start]
kind = "overlaps"
Q = [[1.0]]
M = [[0.0]]
[solve]
t_max = 3
[simulate]
dim = 200
seeds = 4
"""
# 1 - <(1 - eta mu)^t>: moments of mu at alpha = 2 are 2, 6, 22.
EXACT = [0.0, 0.4, 0.56, 0.656]


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.toml"
    path.write_text(LINEAR)
    return path


def edited(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return str(path)


def test_solve_reports_the_exact_overlaps(model, capsys):
    assert main(["solve", str(model), "--json"]) == 0
    run = json.loads(capsys.readouterr().out)
    np.testing.assert_allclose(np.array(run["M"])[:, 0, 0], EXACT, atol=1e-12)
    assert np.shape(run["corr"]) == (3, 3, 1, 1)
    assert np.max(run["error"]["M"]) == 0
    assert main(["solve", str(model), "--set", "eta=0.1"]) == 0
    text = capsys.readouterr().out
    assert "after 3 steps" in text
    assert "train loss" in text


def test_derive_writes_two_times(model, tmp_path, capsys):
    out = tmp_path / "equations.tex"
    assert main(["derive", str(model), "--latex", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "two-time"
    assert set(found["terms"]["R_theta"]) == {"decay", "kick", "memory"}
    assert r"R^{\ell}(t, s)" in out.read_text()


def test_files(model, tmp_path, capsys):
    pytest.importorskip("h5netcdf")
    saved = tmp_path / "run.nc"
    assert main(["solve", str(model), "--save", str(saved)]) == 0
    np.testing.assert_allclose(dmft.load(saved).M[:, 0, 0], EXACT, atol=1e-12)
    capsys.readouterr()
    assert main(["simulate", str(model), "--theory"]) == 0
    text = capsys.readouterr().out
    head, *rows = text.splitlines()[1:]
    assert "theory train loss" in head
    assert "theory M[1,1]" in head
    assert {len(row) for row in rows} == {len(head)}  # columns below their names


@pytest.mark.slow  # of one pass test_solve_saves_and_draws, of descents tests/display
def test_pictures(model, tmp_path):
    pytest.importorskip("matplotlib")
    picture, both = tmp_path / "run.png", tmp_path / "both.png"
    assert main(["solve", str(model), "--plot", str(picture)]) == 0
    assert picture.stat().st_size > 10_000
    assert main(["simulate", str(model), "--theory", "--plot", str(both)]) == 0
    assert both.exists()


def test_simulate_agrees_with_the_exact_overlaps(model, capsys):
    assert main(["simulate", str(model), "--theory", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    mean, error = (np.array(found[n]["M"])[:, 0, 0] for n in ("mean", "stderr"))
    assert np.all(np.abs(mean - EXACT) < 5 * error + 2 / 200)
    np.testing.assert_allclose(np.array(found["theory"]["M"])[:, 0, 0], EXACT, atol=1e-12)
    assert main(["solve", str(model), "--json"]) == 0
    run = json.loads(capsys.readouterr().out)
    assert {"Q2", "corr", "resp"} < set(run["error"]) < set(found["theory"])
    assert found["theory"]["resp"] == run["resp"]


def test_trained_readouts_are_printed(model, capsys):
    edited(model, "samples_per_dim = 2.0", "samples_per_dim = 2.0\nreadout_rate = 0.2")
    assert main(["simulate", str(model), "--theory", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for part in ("mean", "theory"):
        assert np.shape(found[part]["readout"])[-1] == 1


def test_every_key_reaches_the_algorithm(model):
    edited(model, "samples_per_dim = 2.0", 'samples_per_dim = "a"\nridge = 0.1\nmomentum = 0.3\n'
           'batch = "reshuffle"\nbatch_fraction = 0.5\nreadout_rate = 0.2\n'
           'loss = "log(1 + exp(-f*y))"')  # fmt: skip
    edited(model, "eta = 0.2", "eta = 0.2\na = 3.0")
    read = read_declaration(model)
    f, y, eta, a = sp.symbols("f y eta a", real=True)
    assert read.algorithm == dmft.GradientDescent(
        eta, a, ridge=0.1, momentum=0.3, batch="reshuffle", batch_fraction=0.5, readout_rate=0.2,
        loss=sp.log(1 + sp.exp(-f * y)),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("samples_per_dim = 2.0\n", "", ["samples_per_dim", "missing"]),
        ("samples_per_dim = 2.0", "samples_per_dim = -1.0", ["[algorithm]", "samples_per_dim"]),
        (
            "samples_per_dim = 2.0",
            'samples_per_dim = 2.0\nconstraint = "sphere-gradient"', ["constraint", "sphere"],
        ),
        ("samples_per_dim = 2.0", 'samples_per_dim = 2.0\nbatch = "half"', ["batch", "bernoulli"]),
        ("samples_per_dim = 2.0", 'samples_per_dim = 2.0\nloss = "f*w"', ["loss", "w"]),
        ("samples_per_dim = 2.0", 'samples_per_dim = 2.0\nloss = "y**2"', ["loss"]),
        ("samples_per_dim = 2.0", "samples_per_dim = 2.0\nbatch_fraction = 0.4", ["bernoulli"]),
        ('kind = "gradient-descent"', 'kind = "sgd"', ["samples_per_dim", "gradient-descent"]),
        ("eta = 0.2", "eta = 0.2\nunused = 1.0", ["unused"]),
        ("t_max = 3", "t_max = 3\npoints = 4", ["points", "steps"]),
        ("t_max = 3", "t_max = 2.5", ["steps"]),
        ("t_max = 3", 't_max = 3\nsamples = 1000', ["power of two"]),
    ],
)  # fmt: skip
def test_slips_are_named(model, old, new, words, capsys):
    path = edited(model, old, new)
    if "samples = 1000" in new:
        edited(model, '"z"\nwidth = 1\n[teacher]', '"relu(z)"\nwidth = 1\n[teacher]')
    assert main(["solve", path]) == 2
    message = capsys.readouterr().err
    assert all(word in message for word in words)


def test_an_escape_time_is_refused_with_the_way_out(model, capsys):
    assert main(["escape", str(model)]) == 2
    said = capsys.readouterr().err
    assert "gradient-descent" in said
    assert 'phase with measure = "overlap"' in said


def test_options_of_descents_are_not_those_of_sgd(model, capsys):
    edited(model, 'kind = "gradient-descent"\n', 'kind = "sgd"\n')
    edited(model, "samples_per_dim = 2.0\n", "")
    edited(model, "t_max = 3", "t_max = 3.0\nsamples = 64")
    assert main(["solve", str(model)]) == 2
    assert "samples" in capsys.readouterr().err


def test_a_dimension_makes_the_map_of_large_batches(model, capsys):
    """One step of n_b = 400 samples in d = 200, from the definition of the map."""
    edited(model, 'kind = "gradient-descent"\n', 'kind = "sgd"\nbatch_size = 400\ndim = 200\n')
    edited(model, "samples_per_dim = 2.0\n", "")
    edited(model, "eta = 0.2", "eta = 80.0")
    assert main(["derive", str(model), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "map"
    assert main(["solve", str(model), "--json"]) == 0
    run = json.loads(capsys.readouterr().out)
    m = np.array(run["M"])[:, 0, 0]
    # M <- M + (gamma / d) (1 - M) for linear networks.
    np.testing.assert_allclose(m[:2], [0.0, 0.4], rtol=1e-12)
    np.testing.assert_allclose(m[3], 1 - 0.6**3, rtol=1e-12)


def test_dim_belongs_to_sgd(model):
    edited(model, "samples_per_dim = 2.0", "samples_per_dim = 2.0\ndim = 100")
    with pytest.raises(ExpressionRefused, match="dim"):
        read_declaration(model)


def test_the_example_file_is_the_script_beside_it(capsys):
    read = read_declaration(ROOT / "examples" / "batch_reuse.toml")
    z1, z2 = sp.symbols("z1 z2", real=True)
    assert read.model.teacher == dmft.MultiIndex(sp.tanh(z1 + z2**3 - 3 * z2), [z1, z2])
    assert main(["derive", str(ROOT / "examples" / "batch_reuse.toml")]) == 0
    assert "two-time" in capsys.readouterr().out
