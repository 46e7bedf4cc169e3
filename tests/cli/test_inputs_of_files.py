"""The table [inputs] of declaration files: clusters that inputs come from."""

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


def test_mistakes_are_refused_with_their_table(tmp_path):
    with pytest.raises(ExpressionRefused, match=r"\[inputs\] weights: must be a row of numbers"):
        read(tmp_path, TEXT.replace("[0.25, 0.75]", "0.5"))
    with pytest.raises(ExpressionRefused, match=r"\[inputs\] labels: the teacher writes labels"):
        read(tmp_path, TEXT.replace("weights", "labels"))
    with pytest.raises(ShapeMismatch, match=r"\[inputs\]: weights has shape \(1,\)"):
        read(tmp_path, TEXT.replace("[0.25, 0.75]", "[1.0]"))
    with pytest.raises(ShapeMismatch, match=r"\[model\]: means have 2 coordinates"):
        read(tmp_path, TEXT.replace("width = 2", "width = 3"))
