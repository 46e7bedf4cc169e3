"""The command as a user meets it: outputs, files, refusals and exit codes."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import dmft
from dmft.cli.commands import save_times
from dmft.cli.main import build_parser, main
from dmft.cli.report import EXIT_CODES, matrix, table
from dmft.cli.schema import EXAMPLE, SCHEMA
from dmft.errors import BadParameter
from dmft.names import Status
from dmft.record import plain

# Phase retrieval on the sphere, one student: the risk is 2 (1 - m^2) (theory/one_pass F.1).
PHASE_RETRIEVAL = """
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
[parameters]
gamma = 0.05
[start]
kind = "overlaps"
Q = [[1.0]]
M = [[0.1]]
[solve]
t_max = 2.0
points = 11
[simulate]
dim = 500
seeds = 2
method = "overlaps"
[escape]
fraction = 0.5
"""


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.toml"
    path.write_text(PHASE_RETRIEVAL)
    return str(path)


def edited(path, old, new):
    text = Path(path).read_text()
    assert old in text
    Path(path).write_text(text.replace(old, new))


def test_help_teaches_every_command_and_ends_well(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for word in (
        "derive",
        "solve",
        "simulate",
        "escape",
        "phase",
        "[student]",
        "exit codes",
        "erf",
    ):
        assert word in text


def test_printed_example_can_be_solved(tmp_path, capsys):
    assert main(["example"]) == 0
    text = capsys.readouterr().out
    assert text == EXAMPLE
    path = tmp_path / "example.toml"
    path.write_text(text.replace("t_max = 1000.0", "t_max = 1.0"))
    assert main(["solve", str(path)]) == 0
    assert "status: ok" in capsys.readouterr().out


def test_solve_as_json_agrees_with_the_closed_form(model, capsys):
    assert main(["solve", model, "--json"]) == 0
    run = json.loads(capsys.readouterr().out)
    t, m = np.array(run["t"]), np.array(run["M"])[:, 0, 0]
    np.testing.assert_allclose(t, np.linspace(0, 2, 11), atol=1e-15)
    # dm/dt = m [A (1 - m^2)] with A = 4 - 24 gamma at zero noise: logistic in m^2.
    rate = 2 * (4 - 24 * 0.05)
    u0 = 0.01
    u = u0 * np.exp(rate * t) / (1 - u0 + u0 * np.exp(rate * t))
    np.testing.assert_allclose(m**2, u, rtol=1e-7)
    np.testing.assert_allclose(run["risk"], 2 * (1 - u), rtol=1e-7, atol=1e-8)


def test_set_changes_a_letter(model, capsys):
    assert main(["solve", model, "--json", "--set", "gamma=1/10"]) == 0
    m = json.loads(capsys.readouterr().out)["M"][-1][0][0]
    rate = 2 * (4 - 24 * 0.1)
    u = 0.01 * np.exp(rate * 2) / (0.99 + 0.01 * np.exp(rate * 2))
    assert m**2 == pytest.approx(u, rel=1e-7)


def test_derive_prints_equations_and_writes_a_document(model, tmp_path, capsys):
    out = tmp_path / "equations.tex"
    assert main(["derive", model, "--latex", str(out)]) == 0
    printed = capsys.readouterr()
    assert "dM/dt = (4 - 24 γ) M (1 - M²)" in printed.out
    assert "written to" in printed.err
    assert out.read_text().startswith(r"\documentclass")
    assert main(["derive", model, "--json"]) == 0
    parts = json.loads(capsys.readouterr().out)
    assert parts["kind"] == "ode"
    assert set(parts["terms"]) == {"M", "Q"}
    assert parts["open_expectations"] == []


def test_parameters_of_activations_are_closed_and_singular_slopes_are_refused(model, capsys):
    edited(model, '[student]\nactivation = "z**2"', '[student]\nactivation = "tanh(b*z)"')
    edited(model, "[parameters]", "[parameters]\nb = 2")
    assert main(["derive", model]) == 0
    assert "open expectation" not in capsys.readouterr().err
    edited(model, "tanh(b*z)", "z*log(Abs(z))")
    edited(model, "\nb = 2", "")
    assert main(["solve", model]) == 2
    assert "no finite value at 0" in capsys.readouterr().err


def test_students_without_a_gradient_are_refused(model, capsys):
    # The drift of a sign would be that of a Dirac delta: nothing that a sample could follow.
    edited(model, '[student]\nactivation = "z**2"', '[student]\nactivation = "sign(z)"')
    for command in ("derive", "solve"):
        assert main([command, model]) == 2
        assert "jumps: its derivative 2*DiracDelta(z)" in capsys.readouterr().err


def test_solve_saves_and_draws(model, tmp_path, capsys):
    pytest.importorskip("h5netcdf")
    pytest.importorskip("matplotlib")
    saved, drawn = tmp_path / "run.nc", tmp_path / "run.png"
    assert main(["solve", model, "--save", str(saved), "--plot", str(drawn)]) == 0
    out, err = capsys.readouterr()
    assert "written" not in out
    assert err.count("written to") == 2
    assert drawn.read_bytes().startswith(b"\x89PNG")
    from dmft.solvers.trajectory import Trajectory

    assert Trajectory.load(saved).risk[-1] == pytest.approx(0.0025, abs=0.01)


def test_simulate_prints_means_with_errors_and_theory(model, capsys):
    assert main(["simulate", model, "--theory", "--json", "--no-progress"]) == 0
    result = json.loads(capsys.readouterr().out)
    mean, error = np.array(result["mean"]["risk"]), np.array(result["stderr"]["risk"])
    assert mean.shape == error.shape == (11,)
    assert result["theory"]["t"][-1] == 2.0
    assert main(["simulate", model, "--theory"]) == 0
    assert "theory" in capsys.readouterr().out.splitlines()[1]


def test_gradient_flow_has_nothing_to_simulate(model, capsys):
    edited(model, 'kind = "sgd"\nlearning_rate = "gamma"', 'kind = "gradient-flow"')
    edited(model, "[parameters]\ngamma = 0.05", "")
    assert main(["simulate", model]) == 2
    assert "has steps to simulate" in capsys.readouterr().err


def test_divergence_has_its_exit_code_and_keeps_the_result(model, capsys):
    edited(model, 'constraint = "sphere"\n', "")
    edited(model, "t_max = 2.0", "t_max = 200.0")
    assert main(["solve", model, "--set", "gamma=1"]) == 3
    out = capsys.readouterr().out
    assert "status: diverged" in out
    assert main(["solve", model, "--set", "gamma=1", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["status"] == "diverged"


@pytest.mark.parametrize("command", ["solve", "simulate"])
def test_interruption_has_its_exit_code(model, monkeypatch, command, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("dmft.cli.toml.read_declaration", interrupt)
    # A value that no other test solves: what was solved before does not come there.
    assert main([command, model, "--set", "gamma=0.0123"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_exit_codes_cover_the_vocabulary():
    codes = {status: EXIT_CODES.get(status, 3) for status in Status}
    assert {s for s, c in codes.items() if c == 0} == {Status.OK, Status.EVENT}
    assert codes[Status.TOLERANCE_NOT_MET] == 4
    assert codes[Status.INTERRUPTED] == 130
    assert {codes[s] for s in (Status.DIVERGED, Status.NONFINITE, Status.LEFT_DOMAIN)} == {3}


REFUSED = [
    (["solve", "absent.toml"], "cannot be read"),
    (["solve"], "required: FILE"),
    ([], "required: COMMAND"),
    (["slove", "{model}"], "invalid choice: 'slove'"),
    (["derive", "{model}", "--plot", "a.png"], "unrecognized arguments"),
    (["solve", "{model}", "--plot", "a.exe"], "must end in .png"),
    (["solve", "{model}", "--plot", "/no/such/folder/a.png"], "no folder /no/such/folder"),
    (["solve", "{model}", "--save", "a.txt"], "must end in .nc"),
    (["derive", "{model}", "--latex", "a"], "must end in .tex"),
    (["solve", "{model}", "--set", "beta=1"], "a name from [parameters]"),
    (["solve", "{model}", "--set", "gamma"], "NAME=VALUE"),
    (["solve", "{model}", "--set", "gamma=__import__('os')"], "unknown function"),
    (["solve", "{model}", "--set", "gamma=-1"], "learning_rate must be"),
]


@pytest.mark.parametrize(("arguments", "reason"), REFUSED, ids=[" ".join(r[0]) for r in REFUSED])
def test_wrong_requests_exit_2_with_a_reason(model, capsys, arguments, reason):
    try:
        code = main([a.format(model=model) for a in arguments])
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    out, err = capsys.readouterr()
    assert not out
    assert reason in err
    assert "Traceback" not in err


def test_wrong_method_and_shapes_are_refused(model, capsys):
    edited(model, "t_max = 2.0", 't_max = 2.0\nmethod = "euler"')
    assert main(["solve", model]) == 2
    assert "unknown method 'euler'" in capsys.readouterr().err
    edited(model, "M = [[0.1]]", "M = [[0.1, 0.2]]")
    edited(model, 'method = "euler"', "")
    assert main(["solve", model]) == 2


def test_missing_extra_is_named_before_anything_is_computed(model, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("dmft.cli.main.run_command", lambda _: pytest.fail("computed"))
    assert main(["solve", model, "--plot", "a.png"]) == 2
    assert 'pip install "dmft[plot]"' in capsys.readouterr().err


def test_help_imports_nothing_heavy():
    code = "import sys, dmft.cli.main as m; m.build_parser().format_help(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"sympy", "numpy", "numba"} & set(done.stdout.split())


def test_a_reader_that_leaves_early_gets_no_traceback(model):
    command = f"{sys.executable} -m dmft.cli.main solve {model} --json | head -c 5"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert "Traceback" not in done.stderr


def test_parser_lists_the_commands_of_the_issue():
    text = build_parser().format_help()
    assert all(re.search(rf"^ +{name} ", text, re.M) for name in ("derive", "solve", "phase"))


def test_numbers_that_are_not_finite_become_null():
    values = {
        "a": np.array([1.0, np.nan]),
        "b": np.float64("inf"),
        "c": Status.OK,
        "d": np.int64(3),
    }
    assert plain(values) == {"a": [1.0, None], "b": None, "c": "ok", "d": 3}
    json.dumps(plain(values), allow_nan=False)


def test_tables_keep_their_ends_and_large_matrices_are_summarised():
    lines = table({"t": np.arange(1000.0)}, rows=5).splitlines()
    assert [float(x) for x in lines[1:]] == pytest.approx([0, 250, 500, 749, 999], abs=1)
    assert "from 0 to 99" in matrix("Q", np.arange(100.0).reshape(10, 10))
    assert table({"t": np.empty(0)}) == "(no points)"


def test_saved_times():
    times = save_times(100.0, 5, "log", 0.1)
    np.testing.assert_allclose(times, [0, 0.1, 1, 10, 100])
    assert save_times(100.0, 7, "linear", None) == 7
    for wrong in (("linear", 0.1), ("log", 200.0)):
        with pytest.raises(BadParameter):
            save_times(100.0, 5, *wrong)


def test_escape_agrees_with_the_closed_form(model, capsys):
    assert main(["escape", model, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    # theory/one_pass F.1: u_0 = 0.01, u_1 = T + (1 - T) u_0, u_infinity = 1 without noise.
    u0, u1, rate = 0.01, 0.505, 2 * (4 - 24 * 0.05)
    expected = np.log(u1 / u0 * (1 - u0) / (1 - u1)) / rate
    assert facts["escaped"] is True
    assert facts["t"] == pytest.approx(expected, rel=1e-7)
    assert facts["threshold"] == pytest.approx(0.5 * 2 * (1 - u0), rel=1e-12)
    assert main(["escape", model]) == 0
    assert f"escape at t = {expected:.6f}"[:-2] in capsys.readouterr().out


def test_an_escape_that_was_not_seen_is_a_result(model, capsys):
    edited(model, "t_max = 2.0", "t_max = 0.1")
    assert main(["escape", model]) == 0
    assert "no escape until t = 0.1" in capsys.readouterr().out
    assert main(["escape", model, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["escaped"], facts["t"], facts["horizon"]) == (False, None, 0.1)


PHASE = """
[phase]
measure = "{measure}"
x = {{name = "gamma", from = 0.02, to = 0.3, points = 4}}
y = {{name = "label_noise", from = 0.0, to = 4.0, points = 3}}
"""


@pytest.fixture
def phase(model):
    def write(measure):
        with Path(model).open("a") as file:
            file.write(PHASE.format(measure=measure))
        return model

    return write


def test_phase_diagram_knows_the_boundary_of_learning(phase, capsys):
    assert main(["phase", phase("escape_time"), "--json", "--no-progress"]) == 0
    diagram = json.loads(capsys.readouterr().out)
    x, y = np.array(diagram["x"]["values"]), np.array(diagram["y"]["values"])
    values = np.array(diagram["values"], dtype=float)
    assert values.shape == (3, 4)
    # theory/one_pass F.1: m grows from zero only for gamma < 2 / (12 + Delta).
    never = x[None, :] > 2 / (12 + y[:, None])
    assert np.all(np.isnan(values[never]))
    assert np.isfinite(values[0, 0])
    assert diagram["status"][0][0] == "ok"
    assert diagram["status"][-1][-1] == "not_converged"


@pytest.mark.parametrize("measure", ["final_risk", "status"])
def test_phase_measures_print_save_and_draw(phase, tmp_path, measure, capsys):
    pytest.importorskip("h5netcdf")
    pytest.importorskip("matplotlib")
    saved, drawn = tmp_path / "d.nc", tmp_path / "d.png"
    assert main(["phase", phase(measure), "--save", str(saved), "--plot", str(drawn)]) == 0
    out = capsys.readouterr().out
    assert "12 ok" in out
    assert "smallest" in out
    from dmft.workflow.load import load

    assert load(saved).quantity == measure
    assert drawn.exists()


def test_escape_can_be_drawn_on_its_run(model, tmp_path):
    pytest.importorskip("matplotlib")
    assert main(["escape", model, "--plot", str(tmp_path / "e.svg")]) == 0
    assert (tmp_path / "e.svg").exists()


@pytest.mark.slow
def test_control_c_keeps_what_is_computed(model, tmp_path):
    edited(model, "dim = 500", "dim = 50000000")
    saved = tmp_path / "runs.nc"
    command = [sys.executable, "-m", "dmft.cli.main", "simulate", model, "--save", str(saved)]
    # The compiled code is in the cache by now, whichever test came first.
    assert main(["solve", model]) == 0
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A process that a shell started in the background passes its deafness to SIGINT on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    time.sleep(15.0)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in out
    assert "Traceback" not in err
    assert saved.exists()


def test_export_writes_the_right_hand_side(tmp_path, capsys):
    file = tmp_path / "model.toml"
    file.write_text(PHASE_RETRIEVAL)
    assert main(["export", str(file), str(tmp_path / "model.js")]) == 0
    text = (tmp_path / "model.js").read_text()
    assert "export function rhs(t, Q, M, P" in text
    assert '"gamma": 0.05' in text  # a letter of [parameters], with its value
    assert main(["export", str(file), str(tmp_path / "model.f90")]) == 2
    assert "export writes _jax.py" in capsys.readouterr().err


LABEL = """
[student]
activation = "z"
width = 1
[teacher]
activation = "Abs(z)"
width = 1
[algorithm]
kind = "sgd"
learning_rate = 0.1
[limits]
"""


def test_static_limits_of_files(tmp_path, capsys):
    file = tmp_path / "model.toml"
    file.write_text(LABEL + 'verb = "bayes_optimal"\nsamples_per_dim = 1.05\nstart = "all"\n')
    saved = tmp_path / "limit.nc"
    assert main(["limits", str(file), "--json", "--save", str(saved)]) == 0
    assert json.loads(capsys.readouterr().out)["mmse"] == 0.0
    assert dmft.load(saved).risk == 0.0
    file.write_text(LABEL + 'verb = "recovery_phase"\nsamples_per_dim = 1.05\n')
    assert main(["limits", str(file)]) == 0
    assert "hard: the information-theoretic" in capsys.readouterr().out
    for keys, words in (('verb = "erm"\nprior = "gaussian"', "erm takes"),
                        ('verb = "spectral"', "needs samples_per_dim")):  # fmt: skip
        file.write_text(LABEL + keys)
        assert main(["limits", str(file)]) == 2
        assert words in capsys.readouterr().err


def test_names_of_keys_stand_apart_in_the_help(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    for keys in SCHEMA.values():
        for name, key in keys.keys.items():
            assert re.search(rf"^    {name} +{re.escape(key.text[:10])}", shown, re.MULTILINE), name


@pytest.mark.parametrize("loss", ["correlation", "logistic", "hinge", "huber"])
def test_descents_take_the_losses_that_the_help_offers(tmp_path, loss):
    assert loss in SCHEMA["algorithm"].keys["loss"].text
    file = tmp_path / "model.toml"
    file.write_text(
        '[student]\nactivation = "z"\nwidth = 1\n[teacher]\nactivation = "sign(z)"\nwidth = 1\n'
        '[algorithm]\nkind = "gradient-descent"\nlearning_rate = 0.2\nsamples_per_dim = 2\n'
        f'loss = "{loss}"\n'
    )
    assert main(["derive", str(file)]) == 0
