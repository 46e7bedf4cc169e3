"""Files declare what the API does: sequences, attention, clusters, repeats, schedules, events."""

import json

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.cli.main import main
from dmft.cli.toml import read_declaration
from dmft.errors import ExpressionRefused

Z = sp.Symbol("z", real=True)
U, V = sp.symbols("u v", real=True)
LINE = 'activation = "z"\nwidth = 1\n'
ALGORITHM = '[algorithm]\nkind = "sgd"\nlearning_rate = 0.1\n'
START = '[start]\nkind = "overlaps"\nQ = [[1.0]]\nM = [[0.1]]\n'


def read(tmp_path, text):
    file = tmp_path / "model.toml"
    file.write_text(text)
    return read_declaration(file)


SEQUENCE = """
[student]
kind = "sequence"
activation = "z**2"
length = 2
[teacher]
fields = ["u", "v"]
expression = "u*v"
[model]
encoding = 1.0
[start]
kind = "alignment"
e = 0.1
m = 0.3
[solve]
t_max = 1.0
points = 3
learning_rate = "0.1/(1 + t)"
events = [{quantity = "t", threshold = 0.5}]
"""


def test_sequences_attention_and_positions(tmp_path):
    found = read(tmp_path, SEQUENCE + ALGORITHM)
    target = dmft.SequenceTarget(U * V, [U, V])
    assert found.model == dmft.Model(dmft.SequenceNetwork(Z**2, 2), target, encoding=1.0)
    assert found.start() == dmft.Alignment(0.1, 0.3)
    text = """
        [student]
        kind = "attention"
        length = 3
        reduction = "trace"
        [teacher]
        fields = ["u", "v", "w"]
        expression = "u*v*w"
        [model]
        encoding = [1, 0, -1]
    """
    model = read(tmp_path, text + ALGORITHM).model
    assert model.student == dmft.Attention(3, "trace")
    assert model.encoding.pattern.shape == (3, 1)


def test_a_sequence_is_solved_from_its_file(tmp_path, capsys):
    file = tmp_path / "model.toml"
    file.write_text(SEQUENCE + ALGORITHM)
    assert main(["solve", str(file), "--json"]) in (0, 3)
    found = json.loads(capsys.readouterr().out)
    model = read_declaration(file).model
    expected = dmft.solve(
        dmft.derive(model, dmft.SGD(0.1)), dmft.Alignment(0.1, 0.3), 0.5,
        learning_rate="0.1/(1 + t)", save_at=2,
    )  # fmt: skip
    assert (found["status"], found["t"][-1]) == ("event", pytest.approx(0.5))
    assert found["m"][-1] == pytest.approx(expected.m[-1], rel=1e-6)
    main(["solve", str(file)])
    assert "ended by the event t = 0.5" in capsys.readouterr().out


def test_clusters_write_the_labels(tmp_path):
    text = f"""
        [student]
        {LINE}
        [inputs]
        means = [[1.0], [-1.0]]
        labels = [1, "-u**2"]
        fields = ["u"]
    """
    model = read(tmp_path, text.replace("        ", "") + ALGORITHM).model
    mixture = dmft.GaussianMixture([[1.0], [-1.0]], [1, -(U**2)], fields=[U])
    assert model == dmft.Model(dmft.Committee(Z, 1), mixture)
    bare = text.replace("        ", "").split("labels")[0] + ALGORITHM
    with pytest.raises(ExpressionRefused, match=r"\[teacher\] is missing; without it \[inputs\]"):
        read(tmp_path, bare)


@pytest.mark.parametrize(
    ("lines", "repeat"),
    [
        ('repeat = {kind = "lookahead", rho = 0.2}', dmft.Lookahead(0.2)),
        ('repeat = {kind = "sharpness-aware", rho = 0.2}', dmft.SharpnessAware(0.2)),
        ('repeat = {kind = "passes", times = 3}', dmft.Repeat(3)),
    ],
)
def test_repeats(tmp_path, lines, repeat):
    text = f"[student]\n{LINE}[teacher]\n{LINE}{ALGORITHM}{lines}\n"
    assert read(tmp_path, text).algorithm == dmft.SGD(0.1, repeat=repeat)


def test_losses_are_names_or_formulas(tmp_path):
    text = f"[student]\n{LINE}[teacher]\n{LINE}{ALGORITHM}"
    logistic = read(tmp_path, text + 'loss = "log(1 + exp(-y*f))"\n').algorithm
    y, f = sp.symbols("y f", real=True)
    assert logistic == dmft.SGD(0.1, loss=sp.log(1 + sp.exp(-y * f)))


def test_events_and_schedules_are_those_of_the_api(tmp_path):
    solve = """
        [solve]
        t_max = 5.0
        learning_rate = "0.1/(1 + t)"
        [[solve.events]]
        quantity = "M[0,0]/sqrt(Q[0,0])"
        threshold = 0.5
        direction = "rises"
        terminal = false
    """.replace("        ", "")
    found = read(tmp_path, f"[student]\n{LINE}[teacher]\n{LINE}{ALGORITHM}{START}{solve}")
    keys = found.table("solve")
    quantity = "M[0,0]/sqrt(Q[0,0])"
    assert keys["events"] == [dmft.Event(quantity, 0.5, direction=1, terminal=False)]
    assert str(keys["learning_rate"]) == "0.1/(1 + t)" or keys["learning_rate"].free_symbols
    from dmft.cli.commands import solve_options

    run = dmft.solve(
        dmft.derive(found.model, found.algorithm), found.start(), **solve_options(found)
    )
    at = run.events[0].state
    assert at["M"][0, 0] / np.sqrt(at["Q"][0, 0]) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('"z"', '"ReLU(z)"'), r"\[student\] activation: column 1: .* did you mean 'relu'"),
        (('"sgd"', '"SGD"'), r'\[algorithm\] kind: .* got \'SGD\'; did you mean "sgd"'),
        (('"sgd"', '"GradientFlow"'), 'did you mean "gradient-flow"'),
        (('"sgd"', '"gd"'), 'did you mean "gradient-descent"'),
        (("width = 1\n", ""), r"\[student\]: the key 'width' is missing beside 'activation'"),
        (("= 0.1\n", "= 0.1\nrho = 1\n"), "rho: unknown key"),
        (
            ("learning_rate = 0.1", 'learning_rate = 0.1\nrepeat = "lookahead"'),
            "must be a table {kind = ",
        ),
        (
            ("M = [[0.1]]", 'M = [[0.1]]\n[solve]\nt_max = 1\nevents = ["risk"]'),
            "must be a list like",
        ),
        (
            ("M = [[0.1]]", 'M = [[0.1]]\n[solve]\nt_max = 1\nevents = [{quantity = "risk"}]'),
            r"\[solve\] events\[0\]: the key 'threshold' is missing",
        ),
        (
            ("M = [[0.1]]", 'M = [[0.1]]\n[solve]\nt_max = 1\nlearning_rate = "1/x"'),
            r"\[solve\] learning_rate: column 3: unknown name 'x'",
        ),
    ],
)  # fmt: skip
def test_messages_are_in_the_words_of_the_file(tmp_path, change, words):
    text = f"[student]\n{LINE}[teacher]\n{LINE}{ALGORITHM}{START}"
    with pytest.raises(ExpressionRefused, match=words):
        read(tmp_path, text.replace(*change, 1))
