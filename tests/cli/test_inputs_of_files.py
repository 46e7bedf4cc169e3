"""The table [inputs] of declaration files: clusters that inputs come from."""

import numpy as np
import pytest

import dmft
from dmft.cli.toml import read_declaration
from dmft.errors import ExpressionRefused, ShapeMismatch

TEXT = """
[student]
activation = "erf(z/sqrt(2))"
width = 1

[teacher]
activation = "erf(z/sqrt(2))"
width = 2

[inputs]
means = [[1.0, 0.5], [-1.0, 0]]
weights = [0.25, 0.75]
scales = [1.0, 0.5]

[algorithm]
kind = "gradient-flow"
"""


def read(tmp_path, text):
    file = tmp_path / "model.toml"
    file.write_text(text)
    return read_declaration(file)


def test_clusters_are_those_of_the_file(tmp_path):
    read_ = read(tmp_path, TEXT)
    wanted = dmft.GaussianMixture(
        [[1.0, 0.5], [-1.0, 0.0]], weights=[0.25, 0.75], scales=[1.0, 0.5]
    )
    assert read_.model.inputs == wanted
    assert dmft.derive(read_.model, read_.algorithm).kind == "ode"


def test_clusters_may_have_blocks(tmp_path):
    blocks = "scales = [[2.0, 0.5], [1, 1]]\nfractions = [0.3, 0.7]"
    found = read(tmp_path, TEXT.replace("scales = [1.0, 0.5]", blocks)).model.inputs
    assert found == dmft.GaussianMixture(
        [[1.0, 0.5], [-1.0, 0.0]],
        weights=[0.25, 0.75],
        scales=[[2.0, 0.5], [1.0, 1.0]],
        fractions=[0.3, 0.7],
    )


def test_mistakes_are_refused_with_their_table(tmp_path):
    with pytest.raises(ExpressionRefused, match=r"\[inputs\] weights: must be a row of numbers"):
        read(tmp_path, TEXT.replace("[0.25, 0.75]", "0.5"))
    with pytest.raises(ExpressionRefused, match=r"\[inputs\] labels: the teacher also defines"):
        read(tmp_path, TEXT.replace("weights", "labels"))
    with pytest.raises(ShapeMismatch, match=r"\[inputs\]: weights has shape \(1,\)"):
        read(tmp_path, TEXT.replace("[0.25, 0.75]", "[1.0]"))
    with pytest.raises(ShapeMismatch, match=r"\[model\]: means have 2 coordinates"):
        read(tmp_path, TEXT.replace("width = 2", "width = 3"))


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        (
            "eigenvalues = [2.0, 0.5]\nfractions = [0.3, 0.7]",
            dmft.Spectrum([2.0, 0.5], [0.3, 0.7]),
        ),
        (
            "eigenvalues = [2.0, 0.5]\nfractions = [0.3, 0.7]\nnoise = [0.5, 0.4]\ndim = 90\n"
            "teacher = [[[1.0, 0.0], [0.0, 1.0]], [[0.5, 0.0], [0.0, 0.5]]]\nscaled = true",
            dmft.Spectrum(
                [2.0, 0.5],
                [0.3, 0.7],
                noise=[0.5, 0.4],
                teacher=[np.eye(2), np.eye(2) / 2],
                dim=90,
                scaled=True,
            ),
        ),
        (
            "capacity = 1.5\nsource = 0.2\ndim = 1000",
            dmft.Spectrum.power_law(1.5, 0.2, 1000),
        ),
        ("ratio = 0.5\nnodes = 4", dmft.Spectrum.marchenko_pastur(0.5, 4)),
    ],
)
def test_spectra_are_those_of_the_file(tmp_path, keys, wanted):
    clusters = TEXT[TEXT.index("means") : TEXT.index("[algorithm]")]
    assert read(tmp_path, TEXT.replace(clusters, keys + "\n\n")).model.inputs == wanted
    with pytest.raises(ValueError, match="cannot be combined with"):
        read(tmp_path, TEXT.replace("means =", f"{keys}\nmeans ="))


def test_a_rate_may_be_a_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = dmft.Schedule([0.0, 1.0, 2.0], [1.0, 0.5, 0.25])
    table.save("rates.csv")
    solve = '\n[solve]\nt_max = 2.0\nlearning_rate = "rates.csv"\n'
    text = TEXT.replace('"gradient-flow"', '"sgd"\nlearning_rate = 1.0')
    found = read(tmp_path, text + solve).table("solve")["learning_rate"]
    assert found == table
    with pytest.raises(ExpressionRefused, match="error in the table"):
        read(tmp_path, text + solve.replace("rates.csv", "none.csv"))
