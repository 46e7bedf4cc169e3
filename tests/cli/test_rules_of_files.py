"""The table [rule] of declaration files: learning rules of papers."""

import json

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft import laws
from dmft.cli.main import main
from dmft.cli.toml import read_declaration
from dmft.errors import BadParameter, ExpressionRefused
from dmft.literature import rules as lit

TEXT = """
[rule]
name = "reinforcement_perceptron"
decisions = 3
penalty = "eta"
learning_rate = 0.5

[parameters]
eta = 0.02

[start]
kind = "overlaps"
Q = [[1.0]]
M = [[0.2]]

[solve]
t_max = 20.0
points = 5

[escape]
observable = "reward"
threshold = 0.4

[simulate]
dim = 60
seeds = 3
method = "overlaps"
"""
PHASE = """
[phase]
x = {name = "eta", from = 0.0, to = 0.1, points = 2}
y = {name = "learning_rate", from = 0.5, to = 1.0, points = 2}
measure = "overlap"
"""
SCALARS = """
[rule]
name = "contrastive_divergence"
separation = 1.1

[start]
kind = "overlaps"
Q = [[0.3]]
M = [[0.1]]
P = [[1.5]]
scalars = {b = 0.2}

[solve]
t_max = 1.0
points = 3
"""


@pytest.fixture
def read(tmp_path):
    def of(text):
        file = tmp_path / "rule.toml"
        file.write_text(text)
        return read_declaration(file)

    return of


def run(tmp_path, capsys, text, verb):
    file = tmp_path / "rule.toml"
    file.write_text(text)
    assert main([verb, str(file), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_runs_are_those_of_the_declared_rule(tmp_path, capsys):
    found = run(tmp_path, capsys, TEXT, "solve")
    eta = sp.Symbol("eta", real=True)
    eqs = dmft.derive(lit.reinforcement_perceptron(3, penalty=eta, learning_rate=0.5))
    start = dmft.Overlaps([[1.0]], [[0.2]])
    wanted = dmft.solve(eqs, start, 20.0, save_at=5, eta=0.02)
    np.testing.assert_allclose(found["M"], wanted.M, rtol=1e-12)
    np.testing.assert_allclose(found["reward"], wanted.reward, rtol=1e-12)
    escape = run(tmp_path, capsys, TEXT, "escape")
    time = dmft.escape_time(wanted, observable="reward", threshold=0.4)
    assert escape["t"] == pytest.approx(time.value, rel=1e-9)
    assert run(tmp_path, capsys, TEXT, "derive")["kind"] == "ode"
    simulated = run(tmp_path, capsys, TEXT, "simulate")
    assert np.shape(simulated["mean"]["M"]) == (5, 1, 1)


def test_scalars_of_a_start(tmp_path, capsys):
    file = tmp_path / "rule.toml"
    file.write_text(SCALARS)
    assert main(["solve", str(file)]) == 0
    text = capsys.readouterr().out
    eqs = dmft.derive(lit.contrastive_divergence(1.1))
    start = dmft.Overlaps([[0.3]], [[0.1]], [[1.5]], scalars={"b": 0.2})
    end = dmft.solve(eqs, start, 1.0, save_at=3).b[-1]
    assert f"{end:.6g}" in text


@pytest.mark.parametrize("verb", ["warm", "explore"])
def test_commands_that_rules_do_not_have(tmp_path, capsys, verb):
    file = tmp_path / "rule.toml"
    file.write_text(TEXT)
    assert main([verb, str(file)]) == 2
    assert f"dmft {verb} takes a model and its algorithm" in capsys.readouterr().err


@pytest.mark.slow  # test_runs_are_those_of_the_declared_rule reads the other tables
def test_diagrams_of_rules(tmp_path, capsys):
    found = run(tmp_path, capsys, TEXT.replace("learning_rate = 0.5", "") + PHASE, "phase")
    assert np.shape(found["values"]) == (2, 2)


@pytest.mark.parametrize(
    ("table", "rule"),
    [
        ('name = "perceptron_rule"\nkind = "adatron"', lambda: lit.perceptron_rule("adatron")),
        (
            'name = "independent_component"\nlaw = {kind = "laplace", scale = 0.7}',
            lambda: lit.independent_component(laws.Laplace(0.7)),
        ),
        (
            'name = "principal_components"\nspikes = [2.0, 0.6]\nlearning_rate = 0.5',
            lambda: lit.principal_components([2.0, 0.6], learning_rate=0.5),
        ),
        (
            'name = "nonlinear_autoencoder"\nspike = 2.0\nuntied = true',
            lambda: lit.nonlinear_autoencoder(2.0, untied=True),
        ),
        (
            'name = "dropout"\nkeep = 0.8\nnoise = 0.1',
            lambda: lit.dropout(keep=0.8, noise=0.1),
        ),
    ],
)
def test_arguments_of_every_kind(read, table, rule):
    found, wanted = read(f"[rule]\n{table}\n").model, rule()
    assert repr(found) == repr(wanted)
    assert [r.law for r in found.randoms] == [r.law for r in wanted.randoms]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"reinforcement_perceptron"', '"perceptrons"', "must be one of perceptron_rule, "),
        ("decisions = 3", "", "the key 'decisions' of reinforcement_perceptron is missing"),
        ("decisions = 3", "decisions = 3\nepisodes = 2", "takes decisions, reward, penalty"),
        ('"eta"', '"zeta"', "unknown name"),
        ("[parameters]", '[student]\nactivation = "z"\n[parameters]', "leave out this table"),
        ("eta = 0.02", "eta = 0.02\nspare = 1.0", "contains this symbol"),
        ('penalty = "eta"', 'penalty = {kind = "cauchy"}\nreward="eta"', "must be a law like"),
    ],
)
def test_mistakes_are_refused(read, old, new, words):
    with pytest.raises(ExpressionRefused, match=words):
        read(TEXT.replace(old, new, 1))


def test_scalars_and_starts_are_checked(read):
    letter = SCALARS.replace("separation = 1.1", 'separation = "b"')
    with pytest.raises(ExpressionRefused, match="this name belongs to a scalar"):
        read(letter + "\n[parameters]\nb = 1.0\n")
    begun = SCALARS[: SCALARS.index("[start]")]
    with pytest.raises(BadParameter, match="a rule starts from its overlaps"):
        read(begun + '[start]\nkind = "random"\ndim = 9\nseed = 0\n').start()
    with pytest.raises(ExpressionRefused, match="must be a table like"):
        read(SCALARS.replace("{b = 0.2}", "0.2"))
