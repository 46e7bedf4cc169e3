"""Declaration files: what they become, and that every slip is named where it stands."""

import contextlib
import dataclasses
import inspect
import json
import math

import numpy as np
import pytest
import sympy as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dmft
from dmft.cli.declared import ALGORITHMS
from dmft.cli.schema import EXAMPLE, SCHEMA, describe, fields_of
from dmft.cli.toml import Axis, read_declaration
from dmft.errors import DmftError, ExpressionRefused, InvalidCovariance, ShapeMismatch
from dmft.model import SGD, GradientFlow
from dmft.model.adaptive import OTHERS, Adaptive
from dmft.model.algorithm import OPTIMISER

MINIMAL = """
[student]
activation = "z**2"
width = 1
[teacher]
activation = "z**2"
width = 1
[algorithm]
kind = "gradient-flow"
"""


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "model.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_the_printed_example_is_the_model_it_describes(write):
    read = read_declaration(write(EXAMPLE))
    z = sp.Symbol("z", real=True)
    assert read.model.student.activation == sp.erf(z / sp.sqrt(2))
    assert (read.model.student.width, read.model.teacher.width) == (4, 2)
    assert read.model.label_noise == sp.Float(1e-3)
    assert read.algorithm == SGD(sp.Symbol("gamma", real=True))
    assert read.parameters == {"gamma": 0.5}
    start = read.start()
    assert start.Q.shape == (4, 4)
    assert start.M.shape == (4, 2)
    # Random rows of length about sqrt(d) with d = 1000: overlaps near 1 and near 0.
    assert np.all(np.abs(np.diag(start.Q) - 1) < 6 * math.sqrt(2 / 1000))


def test_every_key_of_the_schema_is_in_the_help():
    text = describe()
    for name, table in SCHEMA.items():
        assert f"[{name}]" in text
        assert all(key in text for key in table.keys)


def test_every_field_of_every_algorithm_is_a_key_of_its_kind():
    """What the help reads from the text of declarations is what the declarations are."""
    keys, text = SCHEMA["algorithm"].keys, describe()
    for kind, declared in ALGORITHMS.items():
        names = [field.name for field in dataclasses.fields(declared)]
        if issubclass(declared, Adaptive):  # these have arguments in an order of their own
            own = (name for name in inspect.signature(declared).parameters if name != "others")
            names = list(dict.fromkeys([*own, *OTHERS]))
        assert list(fields_of(kind)) == names
        for name in names:
            assert not keys[name].only or kind in keys[name].only, (kind, name)
            assert f"    {name:<14}" in text
    for name, number in OPTIMISER.items():
        if not number.declared:
            continue
        assert keys[name].text == number.what


def test_samples_that_are_used_again(write):
    text = MINIMAL.replace('kind = "gradient-flow"', 'kind = "sgd"\nlearning_rate = 0.5\n%s')
    for line, wanted in (
        ("repeat = {kind = 'lookahead', rho = 0.3}", dmft.Lookahead(0.3)),
        ("repeat = {kind = 'passes', times = 3}", dmft.Repeat(3)),
        (
            "repeat = {kind = 'sharpness-aware', rho = 0.2, normalised = true}",
            dmft.SharpnessAware(0.2, normalised=True),
        ),
    ):
        assert read_declaration(write(text % line)).algorithm.repeat == wanted
    letter = text % "repeat = {kind = 'lookahead', rho = 'r'}" + "[parameters]\nr = 0.5\n"
    assert read_declaration(write(letter)).algorithm.repeat.rho == sp.Symbol("r", real=True)
    for line, why in (
        ("repeat = 2", "lookahead"),
        ("repeat = {kind = 'passes', rho = 2}", "times"),
        ("repeat = {kind = 'lookahead'}", "needs rho"),
        ("repeat = {kind = 'lookahead', rho = -1}", "SharpnessAware"),
        ("repeat = {kind = 'passes', times = 1.5}", "times"),
    ):
        with pytest.raises(DmftError, match=why):
            read_declaration(write(text % line))


def test_given_overlaps_and_readouts(write):
    text = MINIMAL.replace("width = 1\n[t", "width = 2\nreadout = [1.0, 'a']\n[t") + (
        "[start]\nkind = 'overlaps'\nQ = [[1.0, 0.0], [0, 1]]\nM = [[0.1], [0.2]]\n"
        "[parameters]\na = 0.5\n"
    )
    read = read_declaration(write(text))
    assert isinstance(read.algorithm, GradientFlow)
    np.testing.assert_array_equal(read.start().M, [[0.1], [0.2]])
    assert read.model.student.readout == (1.0, sp.Symbol("a", real=True))
    assert read.parameters == {"a": 0.5}


def test_symbolic_widths_and_phase_axes(write):
    text = MINIMAL.replace("width = 1\n[t", 'width = "p"\n[t').replace(
        'kind = "gradient-flow"', 'kind = "sgd"\nlearning_rate = "g"'
    )
    text += (
        '[phase]\nmeasure = "final_risk"\n'
        'x = {name = "g", from = 0.01, to = 1.0, points = 3, scale = "log"}\n'
        'y = {name = "label_noise", from = 0, to = 2, points = 5}\n'
    )
    read = read_declaration(write(text))
    assert read.model.student.width == sp.Symbol("p", integer=True, positive=True)
    x, y = read.axes["phase"]
    assert x.values() == pytest.approx([0.01, 0.1, 1.0], rel=1e-14)
    assert y.values() == [0.0, 0.5, 1.0, 1.5, 2.0]


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_axis_ends_are_exact(scale):
    values = Axis("g", 0.1, 0.7, 11, scale).values()
    assert values[0] == 0.1
    assert values[-1] == 0.7
    assert len(values) == 11


def _with(extra, old="", new=""):
    return MINIMAL.replace(old, new) + extra


SGD_LINE = 'kind = "gradient-flow"'
REFUSALS = [
    ("tables", _with("[studnet]\nwidth = 1"), "[studnet]", "did you mean 'student'"),
    ("keys", _with("", "width = 1\n[t", "widht = 1\n[t"), "[student] widht", "'width'"),
    ("solve-key", _with("[solve]\nt_max = 1\nrtool = 1e-3"), "[solve] rtool", "'rtol'"),
    ("toplevel", "t_max = 3\n" + MINIMAL, "[t_max]", "unknown table or key"),
    ("not-a-table", "student = 3\n", "[student]", "must be a table"),
    ("array-of-tables", "[[student]]\nwidth = 1\n", "[student]", "must be a table"),
    ("no-student", "[teacher]\nactivation='z'\nwidth=1", "[student]", "missing"),
    ("no-width", _with("", "width = 1\n[t", "[t"), "[student]", "'width' is missing"),
    ("no-rate", _with("", SGD_LINE, 'kind = "sgd"'), "[algorithm]", "'learning_rate' is missing"),
    ("wrong-kind", _with("", SGD_LINE, 'kind = "adamax"'), "[algorithm] kind", "must be one of"),
    ("list-kind", _with("", SGD_LINE, 'kind = ["sgd"]'), "[algorithm] kind", "must be one of"),
    (
        "misplaced",
        _with("learning_rate = 1"),
        "[algorithm] learning_rate",
        'requires kind = "sgd"',
    ),
    ("width-float", _with("", "width = 1\n[t", "width = 1.5\n[t"), "width", "whole number"),
    ("width-bool", _with("", "width = 1\n[t", "width = true\n[t"), "width", "whole number"),
    ("width-zero", _with("", "width = 1\n[t", "width = 0\n[t"), "width", "must lie between"),
    ("width-huge", _with("", "width = 1\n[t", "width = 9999999999999\n[t"), "width", "between"),
    ("width-name", _with("", "width = 1\n[t", "width = 'a.b'\n[t"), "width", "parameter name"),
    ("number-text", _with("[solve]\nt_max = '1'"), "[solve] t_max", "must be a number"),
    ("infinite", _with("[solve]\nt_max = inf"), "[solve] t_max", "finite"),
    ("nan", _with("[solve]\nt_max = nan"), "[solve] t_max", "finite"),
    ("negative", _with("[solve]\nt_max = -1"), "[solve] t_max", "positive"),
    ("date", _with("[solve]\nt_max = 2020-01-01"), "[solve] t_max", "must be a number"),
    ("points", _with("[solve]\nt_max = 1\npoints = 100000000"), "[solve] points", "between"),
    ("method", _with("[solve]\nt_max = 1\nmethod = 5"), "[solve] method", "text in quotes"),
    ("fraction", _with("[escape]\nfraction = 1.0"), "[escape] fraction", "between 0 and 1"),
    ("formula", _with("", "z**2", "z.real"), "[student] activation", "column 2"),
    ("formula-type", _with("", '"z**2"', "2"), "[student] activation", "text in quotes"),
    ("formula-constant", _with("", "z**2", "2"), "[student] activation", "does not depend on"),
    ("letter", _with("", "z**2", "s*z"), "[student] activation", "values in [parameters]"),
    ("unused-letter", _with("[parameters]\nq1 = 3"), "[parameters] q1", "contains this symbol"),
    ("taken-letter", _with("[parameters]\nerf = 3"), "[parameters] erf", "already in use"),
    ("built-in", _with("[parameters]\nlabel_noise = 3"), "[parameters] label_noise", "[model]"),
    ("letter-type", _with("[parameters]\ng = 'x'"), "[parameters] g", "must be a number"),
    ("noise", _with("[model]\nlabel_noise = -1"), "[model]", "non-negative"),
    ("noise-formula", _with("[model]\nlabel_noise = 'os.x'"), "[model] label_noise", "column 3"),
    ("readout", _with("", "width = 1\n[t", "width=1\nreadout=1.0\n[t"), "readout", "a list"),
    ("matrix", _with("[start]\nkind='overlaps'\nQ=1\nM=[[0]]"), "[start] Q", "rows of numbers"),
    ("no-M", _with("[start]\nkind='overlaps'\nQ=[[1]]"), "[start]", "'M' is missing"),
    ("seed", _with("[start]\nkind='random'\ndim=9\nseed=-1"), "[start] seed", "between"),
    ("flag", _with("[start]\nkind='random'\ndim=9\nseed=1\nnormalised=1"), "normalised", "true or"),
    ("axis", _with("[phase]\nmeasure='status'\nx='g'\ny='h'"), "[phase] x", "must look like"),
    (
        "huge-hex",
        _with("", '"gradient-flow"', "0x" + "f" * 9000),
        "[algorithm] kind",
        "a huge number",
    ),
    ("huge-width", _with("", "width = 1\n[t", f"width = 0x{'f' * 9000}\n[t"), "width", "between"),
    ("huge-formula", _with("", '"z**2"', "0x" + "f" * 9000), "activation", "text in quotes"),
    ("long-text", _with("", '"gradient-flow"', f"'{'a' * 9000}'"), "[algorithm] kind", "aaa..."),
    ("terminal-codes", _with('"\\u001b[2J" = 1'), "[algorithm] ?[2J", "unknown key"),
    ("long-key", _with(f"{'k' * 9000} = 1"), "[algorithm] kkk", "..."),
    ("encoding", b"\xff\xfe[student]", "byte 1", "not UTF-8"),
    ("syntax", "[student\n", "not TOML", "line 1"),
    ("duplicate", MINIMAL + MINIMAL, "not TOML", "student"),
    ("brackets", "a = " + "[" * 50000, "not TOML", ""),
    ("long-integer", "a = " + "9" * 9999, "not TOML", ""),
    ("size", "#" * 300_000, "larger than", ""),
]


@pytest.mark.parametrize(
    ("text", "where", "reason"), [r[1:] for r in REFUSALS], ids=[r[0] for r in REFUSALS]
)
def test_slips_are_named(write, text, where, reason):
    path = write(text)
    with pytest.raises(DmftError) as caught:
        read_declaration(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert where in message
    assert reason in message


AXES = """\
x = {{name="{x}", from={low}, to=1, points=2{more}}}
y = {{name="{y}", from=0, to=1, points=2}}
"""


@pytest.mark.parametrize(
    ("axes", "reason"),
    [
        ({"x": "label_noise", "y": "label_noise"}, "both axes"),
        ({"x": "learning_rate", "y": "label_noise"}, "gradient flow has no learning_rate"),
        ({"x": "beta", "y": "label_noise"}, "contains this symbol"),
        ({"x": "label_noise", "y": "learning_rate", "more": ', scale = "log"'}, "positive ends"),
        ({"x": "label_noise", "y": "learning_rate", "more": ", step = 1"}, "unknown key"),
        ({"x": "a b", "y": "label_noise"}, "parameter name"),
    ],
)
def test_slips_in_axes_are_named(write, axes, reason):
    text = MINIMAL + '[phase]\nmeasure = "status"\n' + AXES.format(**{"low": 0, "more": "", **axes})
    with pytest.raises(ExpressionRefused, match=reason):
        read_declaration(write(text))


@pytest.mark.parametrize(
    ("name", "declared"), [("label_flip", ""), ("weight_decay", 0.1), ("momentum", 0.1)]
)
def test_axes_are_numbers_that_the_model_declares(write, name, declared):
    """`dmft phase` varies them as `dmft.phase_diagram` does; other verbs ignore the table."""
    sgd = '[model]\nlabel_flip = 0.1\n[algorithm]\nkind = "sgd"\nlearning_rate = 0.5\n'
    text = MINIMAL[: MINIMAL.index("[algorithm]")] + sgd
    text += f"{name} = {declared}\n" if declared else ""
    axes = AXES.format(x="learning_rate", y=name, low=0.1, more="")
    read = read_declaration(write(text + f'[phase]\nmeasure = "final_risk"\n{axes}'))
    assert [a.name for a in read.axes["phase"]] == ["learning_rate", name]
    assert read.parameters == {}
    with pytest.raises(ExpressionRefused, match=r"key of \[model\]"):
        read_declaration(write(text + "[parameters]\nlabel_flip = 0.1\n"))


def test_starts_have_the_blocks_of_a_spectrum(write):
    inputs = "[inputs]\neigenvalues = [2.0, 0.5]\nfractions = [0.3, 0.7]\n"
    start = "[start]\nkind = 'overlaps'\nQ = [[[0.1]], [[0.2]]]\nM = [[[0.0]], [[0.1]]]\nP = {P}\n"
    read = read_declaration(write(MINIMAL + inputs + start.format(P="[[[0.3]], [[0.7]]]")))
    found = read.start()
    np.testing.assert_array_equal(found.Q, [[[0.1]], [[0.2]]])
    np.testing.assert_array_equal(found.M, [[[0.0]], [[0.1]]])
    np.testing.assert_array_equal(found.P, [[[0.3]], [[0.7]]])
    with pytest.raises(ExpressionRefused, match=r"\[start\] P: must be rows"):
        read_declaration(write(MINIMAL + inputs + start.format(P="[[[0.3]], 0.7]")))


def test_starts_that_no_vectors_have_are_refused(write):
    start = "[start]\nkind = 'overlaps'\nQ = [[1.0]]\nM = [[{m}]]\n"
    read = read_declaration(write(MINIMAL + start.format(m="2.0")))
    with pytest.raises(InvalidCovariance, match=r"\[start\].*eigenvalue -1"):
        read.start()
    with pytest.raises(ShapeMismatch, match=r"\[start\]"):
        read_declaration(write(MINIMAL + start.format(m="0.1], [0.1"))).start()


def test_missing_tables_are_named_by_the_command_that_needs_them(write):
    with pytest.raises(ExpressionRefused, match=r"needs the table \[start\]"):
        read_declaration(write(MINIMAL)).start()


def test_files_that_cannot_be_read(tmp_path):
    for path in (tmp_path / "absent.toml", tmp_path):
        with pytest.raises(ExpressionRefused, match="cannot be read"):
            read_declaration(path)


SCALARS = st.one_of(
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.integers(), max_size=3),
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    table=st.sampled_from(sorted(SCHEMA)),
    key=st.sampled_from(sorted({k for t in SCHEMA.values() for k in t.keys} | {"g", "odd key"})),
    value=SCALARS,
)
def test_any_value_anywhere_is_read_or_refused(tmp_path, table, key, value):
    # JSON spells true, numbers, text and lists as TOML does, but for infinity and nan.
    text = json.dumps(value).replace("Infinity", "inf").replace("NaN", "nan")
    lines = MINIMAL.splitlines()
    if f"[{table}]" not in lines:
        lines.append(f"[{table}]")
    lines = [line for line in lines if not line.startswith(f"{key} =")]
    lines.insert(lines.index(f"[{table}]") + 1, f"{json.dumps(key)} = {text}")
    path = tmp_path / "model.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    with contextlib.suppress(DmftError):
        read_declaration(path)
