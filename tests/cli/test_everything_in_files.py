"""Files declare what the API does: sequences, attention, clusters, repeats, schedules, events."""

import inspect
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


def test_a_sequence_without_positions_is_solved(tmp_path):
    text = SEQUENCE.replace("encoding = 1.0", "").replace("e = 0.1\n", "")
    found = read(tmp_path, text + ALGORITHM)
    target = dmft.SequenceTarget(U * V, [U, V])
    assert found.model == dmft.Model(dmft.SequenceNetwork(Z**2, 2), target)
    assert found.start() == dmft.Alignment(0.0, 0.3)
    with pytest.raises(dmft.errors.BadParameter, match="not derived for sequence models"):
        read(tmp_path, text + ALGORITHM + "[inputs]\nmeans = [[1.0]]\n")


@pytest.mark.parametrize("command", ["solve", "simulate", "escape"])
def test_a_width_beyond_memory_is_refused(tmp_path, capsys, command):
    file = tmp_path / "model.toml"
    start = '[start]\nkind = "random"\ndim = 1000\nseed = 0\n[solve]\nt_max = 1.0\n'
    wide = LINE.replace("1", "1000000")
    text = f"[student]\n{wide}[teacher]\n{LINE}{ALGORITHM}{start}[simulate]\ndim = 9\nseeds = 1\n"
    file.write_text(text)
    assert main([command, str(file)]) == 2
    assert "use at most 10000 units" in capsys.readouterr().err


def test_memory_that_is_short_is_a_sentence(monkeypatch, capsys):
    def short(arguments):
        raise MemoryError("Unable to allocate 7.28 TiB")

    monkeypatch.setattr("dmft.cli.main._run", short)
    assert main(["derive", "model.toml"]) == 2
    assert "not enough memory: use a smaller width" in capsys.readouterr().err


def test_letters_of_a_flow_are_used(tmp_path):
    flow = '[algorithm]\nkind = "gradient-flow"\nweight_decay = "zeta"\n[parameters]\nzeta = 0.1\n'
    found = read(tmp_path, f"[student]\n{LINE}[teacher]\n{LINE}{flow}")
    assert str(found.algorithm.weight_decay) == "zeta"


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


def test_channels_are_formulas(tmp_path):
    text = f"[student]\n{LINE}[teacher]\n{LINE}{ALGORITHM}"
    model = read(tmp_path, text + '[model]\nlabel_channel = "1/(1 + exp(-2*f))"\n').model
    f, z = sp.symbols("f z", real=True)
    line = dmft.Committee(z, 1)
    assert model == dmft.Model(line, line, label_channel=1 / (1 + sp.exp(-2 * f)))


def test_readouts_of_several_outputs_are_rows(tmp_path):
    text = """
        [student]
        activation = "z"
        width = 2
        readout = [[1.0, 0.0], [0.5, 1.0]]
        [inputs]
        means = [[1.0], [-1.0]]
        labels = [0, 1]
        [algorithm]
        kind = "sgd"
        learning_rate = 0.1
        loss = "cross-entropy"
        """
    found, z = read(tmp_path, text), sp.Symbol("z", real=True)
    student = dmft.Committee(z, 2, [[1.0, 0.0], [0.5, 1.0]])
    assert found.model == dmft.Model(student, dmft.GaussianMixture([[1.0], [-1.0]]))
    assert found.algorithm == dmft.SGD(0.1, loss="cross-entropy")


def test_each_algorithm_and_each_of_its_numbers_has_a_key():
    """What the API takes by name: a new loss, optimiser or number of one fails here."""
    from dmft.cli.declared import ALGORITHMS
    from dmft.cli.schema import SCHEMA

    learn = dmft.SGD, dmft.GradientFlow, dmft.GradientDescent
    made = {y for n in dmft.__all__ if isinstance(y := getattr(dmft, n), type)}
    # An update of one's own is code, not a file.
    found = {y for y in made if issubclass(y, learn)} - {dmft.UpdateField}
    assert found == set(ALGORITHMS.values())
    keys = SCHEMA["algorithm"].keys
    for kind, algorithm in ALGORITHMS.items():
        known = {name for name, key in keys.items() if not key.only or kind in key.only}
        assert arguments(algorithm) <= known, kind
    for table, made in (
        ("model", dmft.Model), ("inputs", dmft.GaussianMixture), ("inputs", dmft.Spectrum),
        ("inputs", dmft.Spectrum.power_law), ("inputs", dmft.Spectrum.marchenko_pastur),
    ):  # fmt: skip
        # Tables of their own.
        own = set(SCHEMA) if table == "model" else set()
        assert arguments(made) - own <= set(SCHEMA[table].keys), made
    assert {"learning_rate", "batch_size", "weight_decay"} <= set(SCHEMA["solve"].keys)


def arguments(function):
    named = inspect.signature(function).parameters.values()
    return {p.name for p in named if p.kind is not p.VAR_KEYWORD}


@pytest.mark.parametrize(
    ("kind", "lines", "algorithm"),
    [
        ("sign-sgd", "batch_size = 3\n", dmft.SignSGD(0.1, batch_size=3)),
        ("adam", "second_moment_rate = 2.0\neps = 0.01\n", dmft.Adam(0.1, 2.0, 0.01)),
        ("rmsprop", "second_moment_rate = 2.0\n", dmft.RMSProp(0.1, 2.0)),
        ("adagrad", "initial = 0.2\nweight_decay = 0.3\n",
         dmft.AdaGrad(0.1, 0.2, weight_decay=0.3)),
        ("adagrad-norm", "initial = 0.2\n", dmft.AdaGradNorm(0.1, 0.2)),
        ("sgd", "loss = \"hinge\"\nweight_decay = 0.1\nclip = 2.0\n",
         dmft.SGD(0.1, loss="hinge", weight_decay=0.1, clip=2.0)),
        ("sgd", "momentum = 0.9\n", dmft.SGD(0.1, momentum=0.9)),
        ("sgd", "average = 1.5\n", dmft.SGD(0.1, average=1.5)),
    ],
)  # fmt: skip
def test_optimisers_and_losses_by_name(tmp_path, kind, lines, algorithm):
    text = f"[student]\n{LINE}[teacher]\n{LINE}" + ALGORITHM.replace('"sgd"', f'"{kind}"') + lines
    assert read(tmp_path, text).algorithm == algorithm


def test_a_memory_that_lasts_is_a_table(tmp_path):
    text = f"[student]\n{LINE}[teacher]\n{LINE}{ALGORITHM}"
    found = read(tmp_path, text + "momentum = {rate = 1.5, direct = 0.2}\n").algorithm
    assert found == dmft.SGD(0.1, momentum=dmft.Momentum(1.5, 0.2))
    for line, words in (
        ("{direct = 1.0}", "the table needs rate"),
        ("{beta = 1.0}", "the keys of this table are rate, direct, not beta"),
        ("{rate = -1.0}", r"\[algorithm\] momentum: "),
    ):
        with pytest.raises(ExpressionRefused, match=words):
            read(tmp_path, f"{text}momentum = {line}\n")


def test_flipped_labels_and_schedules_of_controls(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = dmft.Schedule([0.0, 1.0], [1.0, 2.0], control="batch_size")
    table.save("batches.csv")
    signs = f'[student]\n{LINE}[teacher]\nactivation = "sign(z)"\nwidth = 1\n'
    text = f"{signs}[model]\nlabel_flip = 0.1\n{ALGORITHM}[solve]\nt_max = 1.0\n"
    found = read(tmp_path, text + 'batch_size = "batches.csv"\nweight_decay = "0.1/(1 + t)"\n')
    assert float(found.model.label_flip) == 0.1
    np.testing.assert_array_equal(found.table("solve")["batch_size"].value, table.value)
    assert found.table("solve")["batch_size"].control == "batch_size"
    assert found.table("solve")["weight_decay"].free_symbols


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
        (("width = 1\n", ""), r"\[student\]: the key 'width' is missing; it is required"),
        (("= 0.1\n", "= 0.1\nrho = 1\n"), "rho: unknown key"),
        (("learning_rate", "lr"), "lr: unknown key; did you mean 'learning_rate'"),
        (("width", "p"), r"\[student\] p: unknown key; did you mean 'width'"),
        (("= 0.1\n", '= 0.1\nloss = "Squared"\n'), "'Squared'; did you mean \"squared\""),
        (
            ("= 0.1\n", '= 0.1\nrepeat = {kind = "SAM", rho = 0.1}\n'),
            'did you mean "sharpness-aware"',
        ),
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
