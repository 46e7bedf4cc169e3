"""Teachers of declaration files that are functions of several fields."""

import pytest
import sympy as sp

from dmft.cli.main import main
from dmft.cli.toml import read_declaration
from dmft.errors import ExpressionRefused
from dmft.model import MultiIndex

FILE = """
[student]
activation = "relu(z)"
width = 2
[teacher]
{teacher}
[algorithm]
kind = "sgd"
learning_rate = 0.5
[parameters]
c = 0.3
[start]
kind = "random"
dim = 100
seed = 0
"""
TARGET = """fields = ["u", "v"]
expression = "He(2, u) + c*u*v"
"""


def declaration(tmp_path, teacher):
    path = tmp_path / "model.toml"
    path.write_text(FILE.format(teacher=teacher))
    return path


def test_fields_and_expression_are_a_multi_index_target(tmp_path):
    read = read_declaration(declaration(tmp_path, TARGET))
    u, v, c = sp.symbols("u v c", real=True)
    assert read.model.teacher == MultiIndex(u**2 - 1 + c * u * v, [u, v])
    assert read.start().M.shape == (2, 2)


def test_the_command_prints_the_target(tmp_path, capsys):
    assert main(["derive", str(declaration(tmp_path, TARGET))]) == 0
    assert "g(h*) = c h*_1 h*_2 + h*_1² - 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("teacher", "words"),
    [
        ('fields = ["u"]', ["expression", "missing"]),
        ('expression = "u"', ["'expression'", "'fields' is missing"]),
        ('fields = ["u", "u"]\nexpression = "u*c"', ["fields", "twice"]),
        ('fields = ["c", "u"]\nexpression = "u*c"', ["already a symbol"]),
        ('fields = []\nexpression = "c"', ["fields", "list"]),
        ('fields = "u"\nexpression = "u*c"', ["fields", "list"]),
        ('fields = ["u"]\nexpression = "c"', ["expression", "none of its fields"]),
        ('fields = ["u"]\nexpression = "u*w*c"', ["expression", "w"]),
        ('fields = ["u"]\nexpression = "__import__(u)"', ["expression"]),
        ('fields = ["sin"]\nexpression = "sin(sin)"', ["fields", "in use"]),
        (TARGET + "width = 2", ["width", "network"]),
        ('activation = "c*z"', ["width", "missing"]),
        ("width = 2", ["activation", "missing"]),
    ],
)
def test_slips_are_named(tmp_path, teacher, words):
    with pytest.raises(ExpressionRefused) as error:
        read_declaration(declaration(tmp_path, teacher))
    assert "[teacher]" in str(error.value)
    assert all(word in str(error.value) for word in words)
