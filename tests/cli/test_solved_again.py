"""The second `dmft solve` of a file: without SymPy and Numba, and what it says is the same to the
last bit; whatever is doubtful goes the long way.
"""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

import dmft
from dmft.cli.file import load, question
from dmft.cli.main import main
from dmft.compiled import cache_directory, records
from dmft.compiled.machine_code import LINKED, Unknown, link
from dmft.workflow.kept_runs import find, key_of

pytestmark = pytest.mark.compiled

SQUARE = """
[student]
activation = "z**2"
width = 1
[teacher]
activation = "z**2"
width = 1
[algorithm]
kind = "sgd"
learning_rate = "gamma"
[parameters]
gamma = 0.05
[start]
kind = "overlaps"
Q = [[1.0]]
M = [[0.1]]
[solve]
t_max = 3.0
points = 11
"""
ERF = SQUARE.replace('"z**2"', '"erf(z/sqrt(2))"')
# Runs of each kind and with each ending, and their exit codes.
FILES = {
    "ok": (SQUARE, 0),
    "flow": (ERF.replace('"sgd"\nlearning_rate = "gamma"', '"gradient-flow"')
             .replace("[parameters]\ngamma = 0.05\n", "")
             .replace("points = 11", 'spacing = "log"\nmethod = "rk8"\nrtol = 1e-5'), 0),
    "map": (SQUARE.replace('"gamma"\n[par', '"gamma"\nbatch_size = 500\ndim = 100\n[par'), 0),
    "stiff": (ERF.replace("t_max = 3.0\npoints = 11", "t_max = 1e5\npoints = 5"), 0),
    "diverged": (SQUARE.replace("= 0.05", "= 8.0").replace("t_max = 3", "t_max = 90"), 3),
    "readout": (ERF.replace('"gamma"\n[par', '"gamma"\nreadout_rate = 0.3\n[par'), 0),
}  # fmt: skip
# What the command has loaded, behind what it says of itself.
SCRIPT = """
import sys
from dmft.cli.main import main
code = main(sys.argv[1:])
print(sorted({"numba", "sympy", "scipy"} & set(sys.modules)), file=sys.stderr)
raise SystemExit(code)
"""


def started(*arguments, **environment):
    """Exit code, output and messages of a command of its own, and what it loaded."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *map(str, arguments)],
        capture_output=True, text=True, env=os.environ | environment,
    )  # fmt: skip
    *messages, loaded = done.stderr.splitlines()
    return done.returncode, done.stdout, messages, loaded


def said(capsys, *arguments):
    """Exit code, output and messages of a command in this process."""
    code = main([*map(str, arguments)])
    out, messages = capsys.readouterr()
    return code, out, messages.splitlines()


def key(path, *overrides):
    """Name of the record of a file."""
    return key_of(question(load(Path(path)), overrides))


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A folder with a file, a cache with the record of a run in this process, what that said."""
    folder = tmp_path_factory.mktemp("kept")
    path, cache = folder / "model.toml", folder / "cache"
    path.write_text(SQUARE)
    cache.mkdir(mode=0o700)
    record = cache_directory() / key(path)
    record.unlink(missing_ok=True)
    out, messages = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(messages):
        code = main(["solve", str(path)])
    assert code == 0
    values, _ = records.load(record.name)
    for name in (record.name, *values["code"].values()):
        (cache / name).write_bytes((cache_directory() / name).read_bytes())
        (cache / name).chmod(0o600)
    return folder, (code, out.getvalue(), messages.getvalue().splitlines())


@pytest.fixture
def again(kept, tmp_path, monkeypatch):
    """A copy of that file and cache, to be spoilt."""
    folder, _ = kept
    (tmp_path / "cache").mkdir(mode=0o700)
    for name in (folder / "cache").iterdir():
        copy = tmp_path / "cache" / name.name
        copy.write_bytes(name.read_bytes())
        copy.chmod(0o600)
    (tmp_path / "model.toml").write_text(SQUARE)
    monkeypatch.setenv("DMFT_CACHE_DIR", str(tmp_path / "cache"))
    with mock.patch.dict(LINKED):
        LINKED.clear()
        yield tmp_path


@pytest.mark.cases(2)
@pytest.mark.parametrize(
    # `test_text_files_and_figures_are_the_same` runs the file of "ok".
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n in ("ok", "readout") else ()) for n in FILES],
)
def test_the_second_run_loads_no_symbols_and_no_compiler_and_says_the_same(name, tmp_path, capsys):
    text, code = FILES[name]
    path = tmp_path / "model.toml"
    path.write_text(text)
    (cache_directory() / key(path)).unlink(missing_ok=True)
    first = main(["solve", str(path), "--json"]), *capsys.readouterr()
    second = started("solve", path, "--json")
    # Order 8 has the coefficients of SciPy.
    assert second[3] == ("['scipy']" if name == "flow" else "[]"), second
    assert first[0] == second[0] == code
    assert (first[2], second[2]) == ("", [])
    runs = [json.loads(done[1]) for done in (first, second)]
    for run in runs:
        run["statistics"].pop("seconds")
    assert runs[0] == runs[1]  # JSON has all digits
    if name == "stiff":
        assert "BDF took over" in runs[1]["message"]


@pytest.mark.slow
def test_text_files_and_figures_are_the_same(kept, tmp_path, monkeypatch, capsys):
    """Of the record in a new process, and the long way in this one."""
    folder, first = kept
    monkeypatch.setenv("DMFT_CACHE_DIR", str(folder / "cache"))
    record = folder / "cache" / key(folder / "model.toml")
    made = []
    for name in ("short", "long"):
        files = tmp_path / f"{name}.nc", tmp_path / f"{name}.png"
        command = "solve", folder / "model.toml", "--save", files[0], "--plot", files[1]
        if name == "long":
            record.unlink()  # it is written anew
            with warnings.catch_warnings():  # pytest would show those of an old matplotlib
                warnings.simplefilter("ignore", DeprecationWarning)
                done = said(capsys, *command)
            assert record.exists()
        else:
            *done, loaded = started(*command)
            assert "sympy" not in loaded
        assert (done[0], done[1], len(done[2])) == (0, first[1], 2)  # where the files are
        made.append((dmft.load(files[0]), files[1].read_bytes()))
    (short, figure), (long, other) = made
    assert figure == other
    assert short == replace(long, statistics=short.statistics)
    assert set(short.statistics) == set(long.statistics)


def test_other_parameters_are_another_run(again):
    path = again / "model.toml"
    assert find(key(path)) is not None
    assert find(key(path, "gamma=0.06")) is None
    path.write_text("# said otherwise\n" + SQUARE)
    assert find(key(path)) is not None
    for old, new in (("t_max = 3.0", "t_max = 3"), ("0.1", "0.2"), ("points = 11", "points = 12")):
        path.write_text(SQUARE.replace(old, new))
        assert find(key(path)) is None


@pytest.mark.parametrize("what", ["setting", "processor", "version", "source"])
def test_another_machine_or_library_goes_the_long_way(what, again, monkeypatch):
    path = again / "model.toml"
    before = key(path)
    if what == "setting":
        monkeypatch.setenv("NUMBA_CPU_NAME", "generic")
    elif what == "processor":
        monkeypatch.setattr(records, "_processor", lambda: ("another", "one"))
    elif what == "version":
        folder = again / "sympy"
        folder.mkdir()
        (folder / "release.py").write_text('__version__ = "0"')
        own = records._folder
        monkeypatch.setattr(records, "_folder", lambda n: folder if n == "sympy" else own(n))
    else:
        own = records._sources
        monkeypatch.setattr(records, "_sources", lambda folder: own(folder)[1:])
    records.identity.cache_clear()
    try:
        assert key(path) != before
        assert find(key(path)) is None
    finally:
        monkeypatch.undo()
        records.identity.cache_clear()


def test_damaged_files_go_the_long_way(again):
    path, rng = again / "model.toml", np.random.default_rng(1)
    files = [again / "cache" / key(path), *sorted((again / "cache").glob("code_*"))]
    assert len(files) >= 8
    for file in files:
        whole = file.read_bytes()
        flipped = bytearray(whole)
        flipped[rng.integers(len(whole))] ^= 1 << int(rng.integers(8))
        cut = whole[: int(rng.integers(len(whole)))]
        other = files[files.index(file) - 1].read_bytes()
        for content in (bytes(flipped), cut, b"", whole + b"x", other):
            file.write_bytes(content)
            LINKED.clear()
            assert find(key(path)) is None, file
        file.unlink()
        LINKED.clear()
        assert find(key(path)) is None
        file.write_bytes(whole)
        file.chmod(0o600)
    LINKED.clear()
    assert find(key(path)) is not None


def test_a_damaged_record_is_written_anew(kept, again, capsys):
    _, first = kept
    path, record = again / "model.toml", again / "cache" / key(again / "model.toml")
    whole = record.read_bytes()
    record.write_bytes(whole[:-1])
    assert said(capsys, "solve", path) == first
    assert record.read_bytes()[-1:] == whole[-1:]
    assert started("solve", path) == (*first, "[]")


# What is made ready: tests/workflow/test_warm.py; compiling it all takes ten seconds.
@pytest.mark.slow
def test_warm_prepares_the_first_run(tmp_path, capsys):
    path = tmp_path / "model.toml"
    path.write_text(SQUARE.replace("t_max = 3.0", "t_max = 2.9"))
    (cache_directory() / key(path)).unlink(missing_ok=True)
    assert main(["warm", str(path)]) == 0
    out, messages = capsys.readouterr()
    assert out == ""
    assert "ready: " in messages
    first = started("solve", path)
    assert (first[0], first[3]) == (0, "[]")


def test_files_and_folders_of_others_are_not_read(again):
    path, cache = again / "model.toml", again / "cache"
    for file in (cache / key(path), *cache.glob("code_*")):
        file.chmod(0o622)
        LINKED.clear()
        assert find(key(path)) is None
        file.chmod(0o600)
        if os.geteuid() == 0:
            os.chown(file, 12345, -1)
            assert find(key(path)) is None
            os.chown(file, 0, -1)
    cache.chmod(0o777)
    with pytest.warns(UserWarning, match="is not used"):
        assert find(key(path)) is None
    cache.chmod(0o700)


def test_code_whose_needs_are_not_there_is_not_linked(again):
    code = find(key(again / "model.toml")).request.setup.problem.rhs.code
    with pytest.raises(Unknown, match="no such_a_symbol"):
        link({"rhs": replace(code, needs=(*code.needs, "such_a_symbol"))})


def test_a_run_with_other_numbers_is_completed_the_long_way(again):
    found = find(key(again / "model.toml"))
    seen = []
    other = replace(found, ending={**found.ending, "numbers": "of another run"})
    other.solve(False, lambda run: seen.append(run) or run)
    known = found.solve(False, lambda run: pytest.fail("the numbers are the same"))
    (raw,) = seen
    assert np.array_equal(raw.risk, known.risk)
    assert "rounding" in known.provenance
    assert "rounding" not in raw.provenance


def test_records_are_plain():
    arrays = {"x": np.array([[1.0, np.nan], [-0.0, np.inf]]), "n": np.arange(3)}
    text = {"a": [1, 2.5, "é"], "b": None}
    values, back = records._unpacked(records.packed(text, arrays))
    assert values == text
    for name, array in arrays.items():
        assert back[name].tobytes() == array.tobytes()
        assert back[name].shape == array.shape
    for bad in ({"a": object()}, {"a": {1, 2}}):
        with pytest.raises(TypeError):
            records.packed(bad, {})
    with pytest.raises(TypeError, match="arrays of object are not kept"):
        records.packed({}, {"x": np.array([object()])})


def computed(process, seconds):
    """Wait until a process has computed for that long, however busy the machine is."""
    try:
        while sum(map(int, Path(f"/proc/{process.pid}/stat").read_text().split()[13:15])) < (
            seconds * os.sysconf("SC_CLK_TCK")
        ):
            time.sleep(0.05)
    except OSError:
        time.sleep(2 * seconds)


@pytest.mark.slow
def test_an_interrupt_of_a_known_run_keeps_what_was_computed(tmp_path):
    """A record that is said to end later than it did, so that the run it gives is a long one."""
    path = tmp_path / "model.toml"
    text = SQUARE.replace("points = 11", 'method = "rk5"\npoints = 11')
    path.write_text(text)
    assert main(["solve", str(path)]) == 0
    values, arrays = records.load(key(path))
    values["setup"] |= {"t_end": 1e9, "max_steps": 2**61}
    arrays["_setup_save"] = np.linspace(0.0, 1e9, 11)
    path.write_text(text.replace("t_max = 3.0", "t_max = 1e9"))
    assert records.store(key(path), values, arrays)
    record = cache_directory() / key(path)
    whole = record.read_bytes()
    process = subprocess.Popen(
        [sys.executable, "-c", f"print('started', flush=True){SCRIPT}", "solve", path, "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # Jobs that a shell starts in the background ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        process.stdout.readline()
        computed(process, 1.0)  # imports, and the beginning of the run
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=120)
    finally:
        process.kill()
    # What was interrupted is not saved in its place.
    left = record.read_bytes()
    record.unlink()
    assert left == whole
    assert process.returncode == 130, error
    run = json.loads(out)
    assert run["status"] == "interrupted"
    assert "rounding" in run["provenance"]


def test_records_do_not_pile_up(tmp_path, monkeypatch):
    """What was not asked for the longest time goes; files of others stay."""
    monkeypatch.setenv("DMFT_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(records, "MOST", 20)
    (tmp_path / "model.py").write_text("")
    for number in range(20):
        assert records.store(f"run_{number}.bin", {"number": number}, {})
        os.utime(tmp_path / f"run_{number}.bin", (number, number))
    assert records.load("run_0.bin") == ({"number": 0}, {})  # asked for
    assert records.store("run_20.bin", {}, {})
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"model.py", "run_0.bin", *(f"run_{n}.bin" for n in range(3, 21))}
    assert records.load("run_1.bin") is None
