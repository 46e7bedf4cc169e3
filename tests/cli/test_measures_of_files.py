"""`dmft phase`, `boundary` and `sweep` with all measures, adaptive diagrams, and their refusals."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from dmft.cli.main import main
from dmft.names import FIXED_POINTS

SPHERE = """
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
M = [[0.1]]
[solve]
t_max = 1000.0
"""
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
samples_per_dim = "alpha"
[start]
kind = "overlaps"
Q = [[1.0]]
M = [[0.0]]
[solve]
t_max = 1
"""
GAMMA = '{name = "gamma", from = 0.05, to = 0.2, points = 21}'
NOISE = '{name = "label_noise", from = 0.5, to = 4.0, points = 17}'
ETA = '{name = "eta", from = 0.1, to = 0.3, points = 3}'
ALPHA = '{name = "alpha", from = 1.0, to = 2.0, points = 2}'


@pytest.fixture
def run(tmp_path, capsys):
    """Run a command on a declaration; its JSON, or what it says."""

    def call(command, text, *options, code=0):
        file = tmp_path / "model.toml"
        file.write_text(text)
        assert main([*command.split(), str(file), "--no-progress", *options]) == code
        streams = capsys.readouterr()
        return json.loads(streams.out) if "--json" in options else streams.out + streams.err

    return call


def table(name, measure, x=GAMMA, y=NOISE, more=""):
    return f'[{name}]\nmeasure = "{measure}"\nx = {x}\ny = {y}\n{more}\n'


def test_adaptive_diagram_of_fixed_points(run, tmp_path):
    """theory/one_pass F.1: the informed one for gamma < 2/(12 + Delta)."""
    axes = GAMMA.replace("21", "17"), NOISE.replace("17", "9")
    text = SPHERE + table("phase", "fixed_point", *axes, more="adaptive = true\ncoarse = 4")
    drawn = tmp_path / "d.png"
    facts = run("phase", text, "--json", "--plot", str(drawn))
    assert facts["labels"] == list(FIXED_POINTS)
    gamma, noise = np.array(facts["x"]["values"]), np.array(facts["y"]["values"])
    informed = gamma < 2 / (12 + noise[:, None])
    wanted = np.where(informed, FIXED_POINTS.index("specialised"), 0)
    np.testing.assert_array_equal(facts["values"], wanted)
    computed = np.array(facts["computed"])
    assert computed.shape == wanted.shape
    assert facts["solves"] == computed.sum() < 0.6 * wanted.size
    assert drawn.stat().st_size > 5000
    said = run("phase", text)
    assert f"{facts['solves']} of 153" in said
    assert re.search(rf"\n  specialised +{informed.sum()} points\n", said)


def test_level_of_an_adaptive_diagram(run):
    axes = GAMMA.replace("21", "11"), NOISE.replace("17", "8")
    text = SPHERE + table("phase", "overlap", *axes, more="adaptive = true\nlevel = 0.5")
    facts = run("phase", text, "--json")
    gamma, noise = np.array(facts["x"]["values"]), np.array(facts["y"]["values"])[:, None]
    # F.1: dm/dt = m (A (1 - m^2) - 2 gamma Delta), A = 4 - 24 gamma.
    A = 4 - 24 * gamma
    limit = np.sqrt(np.maximum(A - 2 * gamma * noise, 0.0) / np.where(A > 0, A, 1.0))
    np.testing.assert_array_equal(np.array(facts["values"]) > 0.5, limit > 0.5)
    full = run("phase", SPHERE + table("phase", "overlap", *axes), "--json")
    assert full["solves"] == 88
    assert facts["solves"] < 66
    assert "computed" not in full


def test_boundaries_and_sweeps_of_new_measures(run):
    ends = GAMMA.replace("21", "3"), NOISE.replace("17", "3")
    text = SPHERE + table("boundary", "fixed_point", *ends, more="step = 0.25")
    (curve,) = run("boundary", text, "--json")["curves"]
    assert set(curve["labels"]) == {"specialised", "uninformative"}
    gamma, noise = np.array(curve["gamma"]), np.array(curve["label_noise"])
    np.testing.assert_allclose(gamma, 2 / (12 + noise), atol=1e-6)
    sweep = f'[sweep]\nmeasure = "converged"\nstore = "s"\naxes = [{ends[0]}, {ends[1]}]\n'
    assert run("sweep run", SPHERE + sweep, "--json")["count"] == {"ok": 9}


def test_learned_directions_of_descents(run):
    """One step w -> w - eta S (w - w*), with <S> = alpha and <S^2> = alpha^2 + alpha."""
    facts = run("phase", LINEAR + table("phase", "overlap", ETA, ALPHA), "--json")
    eta, alpha = np.array(facts["x"]["values"]), np.array(facts["y"]["values"])[:, None]
    M = eta * alpha
    Q = (1 - M) ** 2 + eta**2 * alpha + M**2 + eta**2 * alpha
    np.testing.assert_allclose(facts["values"], M / np.sqrt(Q), rtol=1e-9)
    least = float(np.median(M / np.sqrt(Q)))
    text = LINEAR + table("phase", "learned_directions", ETA, ALPHA, f"overlap = {least}")
    counted = run("phase", text, "--json")
    np.testing.assert_array_equal(counted["values"], M / np.sqrt(Q) >= least)
    for measure in ("converged", "status", "final_risk"):
        assert run("phase", LINEAR + table("phase", measure, ETA, ALPHA), "--json")["count"] == {
            "ok": 6
        }


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (SPHERE + table("phase", "minima"), 'must be one of "escape_time"'),
        (SPHERE + table("phase", "final_risk", more="overlap = 0.5"),
         '[phase] overlap: requires measure = "learned_directions"'),
        (SPHERE + table("phase", "final_risk", more="level = 0.5"), "adaptive=True"),
        (SPHERE + table("phase", "final_risk", more="adaptive = 1"), "must be true or false"),
        (SPHERE + table("phase", "overlap", more="adaptive = true\ncoarse = 0"), "[phase] coarse"),
        (LINEAR + table("phase", "growth_rate", ETA, ALPHA), 'use "final_risk" or "overlap"'),
        (LINEAR + table("phase", "escape_time", ETA, ALPHA), '"learned_directions"'),
        (LINEAR + "rtol = 1e-9\n" + table("phase", "overlap", ETA, ALPHA), "[solve] rtol"),
        (SPHERE + "samples = 64\n" + table("phase", "overlap"), "[solve] samples"),
    ],
)  # fmt: skip
def test_refusals(run, text, reason):
    assert reason in run("phase", text, code=2)


def test_the_schema_knows_the_measures():
    from dmft.cli.schema import MEASURES, describe
    from dmft.workflow.diagrams.measures import MEASURES as known

    assert set(MEASURES) | {"minima"} == set(known)
    assert '"learned_directions"' in describe()
