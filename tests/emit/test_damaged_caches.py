"""Attacks on compiled code on disk: whatever happened to the files, the values are right, the
program lives, and the next start but one finds everything compiled again.

A start is a fork of a waiting process (starts.py): hundreds of them take seconds.
"""

import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.compiled import cache_directory, directory, njit
from dmft.emit import cache, load_module

STRANGER = 12345
# normal_cdf(0) is one half.
PACKAGE = [("dmft.special.elementary", "normal_cdf", (0.0,))]
# By factors in starts.py; of both modules the function of the package too.
VALUES = {(3,): [6.0, 9.0], (3, 5): [6.0, 9.0, 10.0, 15.0, 0.5]}
ONE, BOTH = VALUES
RIGHT, FUNCTIONS = pytest.approx(VALUES[ONE]), len(VALUES[ONE])
needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away"
)


class Starts:
    """A copy of the package, a cache directory, and programs that start with them."""

    def __init__(self, home):
        self.home, self.cache, self.private = home, home / "cache", home / "private"
        self.private.mkdir()
        self.package = home / "lib" / "dmft"
        bare = shutil.ignore_patterns("__pycache__")
        shutil.copytree(Path(dmft.__file__).parent, self.package, ignore=bare)
        script = str(Path(__file__).with_name("starts.py"))
        self.good = {}  # files of all functions, compiled and kept
        self.server = subprocess.Popen(
            [sys.executable, script, str(self.package.parent)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, **task):
        environment = {"DMFT_CACHE_DIR": str(self.cache), "TMPDIR": str(self.private)}
        package = PACKAGE if task.get("factors") == BOTH else ()
        task = {"environment": environment, "factors": ONE, "package": package, **task}
        self.server.stdin.write(json.dumps(task) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())

    def files(self, suffix=".nb?"):
        return sorted([*self.cache.rglob(f"*{suffix}"), *self.package.rglob(f"*{suffix}")])

    def survives(self, factors=ONE):
        """Two starts after an attack: how many functions the first compiled again."""
        first, second = self(factors=factors)[0], self(factors=factors)[0]
        right = pytest.approx(VALUES[factors])
        assert first.get("values") == second.get("values") == right, (first, second)
        assert second["misses"] == 0
        return first["misses"]

    def clear(self):
        for path in self.files():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        for folder in (self.cache, self.private):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(mode=0o700)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    starts = Starts(tmp_path_factory.mktemp("starts"))
    yield starts
    starts.server.stdin.close()
    starts.server.wait()


@pytest.fixture
def starts(server):
    server.clear()
    return server


@pytest.fixture
def compiled(starts):
    """All functions compiled and kept."""
    if not starts.good:
        result = starts(factors=BOTH)[0]
        assert result["warnings"] == []
        assert len(starts.files(".nbi")) == len(starts.files(".nbc")) == len(VALUES[BOTH])
        assert starts.survives(BOTH) == 0
        files = [*starts.files(), *starts.cache.glob("*.py")]
        starts.good = {path: path.read_bytes() for path in files}
    for path, content in starts.good.items():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o600)
    return starts


def flipped(content, at, bit=0):
    changed = bytearray(content)
    changed[at] ^= 1 << bit
    return bytes(changed)


class Bomb:
    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return (os.mkdir, (self.target,))


DAMAGE = {
    "empty": lambda content: b"",
    "one byte": lambda content: content[:1],
    "digest only": lambda content: content[:32],
    "half": lambda content: content[: len(content) // 2],
    "last byte gone": lambda content: content[:-1],
    "longer": lambda content: content + b"\0",
    "bit of the digest": lambda content: flipped(content, 5),
    "first bit behind": lambda content: flipped(content, 32),
    "bit in the middle": lambda content: flipped(content, len(content) // 2, 3),
    "last bit": lambda content: flipped(content, -1, 7),
    "zeros": lambda content: bytes(len(content)),
    "noise": lambda content: random.Random(1).randbytes(len(content)),
    "digest of nothing": lambda content: content[:32] + pickle.dumps({}),
}


def written(kind):
    return lambda path: path.write_bytes(DAMAGE[kind](path.read_bytes()))


def linked(path):
    """To nowhere."""
    path.unlink()
    path.symlink_to(path.with_suffix(".gone"))


def looped(path):
    path.unlink()
    path.symlink_to(path)


@pytest.mark.parametrize(
    "attacks",
    [
        {
            "early.nbi": written("empty"),
            "late.nbi": written("bit of the digest"),
            "early.nbc": written("half"),
            "late.nbc": written("bit in the middle"),
        },
        {
            "early.nbi": looped,
            "late.nbi": lambda path: path.chmod(0o620),
            "early.nbc": linked,
            "late.nbc": lambda path: path.chmod(0o602),
        },
    ],
    ids=["damage", "strangers"],
)
def test_one_attack_on_each_function(compiled, attacks):
    """Indices of one module, machine code of the other; every kind on all files is slow."""
    for name, attack in attacks.items():
        stem, suffix = name.split(".")
        paths = [path for path in compiled.files(f".{suffix}") if f"{stem}-" in path.name]
        assert len(paths) == 2
        attack(paths[suffix == "nbc"])
    assert compiled.survives(BOTH) == 4


@pytest.mark.slow  # test_one_attack_on_each_function
@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize("kind", ["empty", "half", "bit of the digest", "bit in the middle"])
def test_damaged_files_are_compiled_once_more(compiled, suffix, kind):
    for path in compiled.files(suffix):
        written(kind)(path)
    assert compiled.survives() == FUNCTIONS


@pytest.mark.cases(1)
@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
def test_swapped_files_do_not_swap_functions(compiled, suffix):
    # `early` of both modules has the same byte code and signature: Numba's keys are equal.
    files = [path for path in compiled.files(suffix) if "early" in path.name]
    contents = [path.read_bytes() for path in files]
    for path, content in zip(files, reversed(contents), strict=True):
        path.write_bytes(content)
    assert compiled.survives(BOTH) == 2


@pytest.mark.slow  # test_one_attack_on_each_function
@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
def test_links_that_lead_nowhere_are_replaced(compiled, suffix):
    for path, target in zip(compiled.files(suffix), ("gone", "loop") * FUNCTIONS, strict=False):
        path.unlink()
        path.symlink_to(path if target == "loop" else compiled.home / target)
    assert compiled.survives() == FUNCTIONS


@pytest.mark.cases(".py", ".lock")
@pytest.mark.parametrize("suffix", [".nbi", ".nbc", ".py", ".lock"])
def test_folders_in_place_of_files_cost_time_only(compiled, suffix):
    for path in compiled.files(suffix) if suffix[1] == "n" else compiled.cache.glob(f"*{suffix}"):
        path.unlink()
        path.mkdir()
    for _ in range(2):
        result = compiled()[0]
        assert result["values"] == RIGHT
        assert suffix == ".lock" or "compiled again" in result["warnings"][0]


def test_planted_pickles_are_not_read(compiled):
    """In Numba's own format, and with the digest that is there: neither is unpickled."""
    target = compiled.home / "planted"
    for path in compiled.files():
        bomb = pickle.dumps(Bomb(target))
        digest = path.read_bytes()[:32] if "late" in path.name else b""
        version = pickle.dumps("0.0") if path.suffix == ".nbi" and not digest else b""
        path.write_bytes(digest + version + bomb)
    assert compiled.survives() == FUNCTIONS
    assert not target.exists()


@pytest.mark.slow  # test_one_attack_on_each_function
@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_files_that_others_can_write_are_not_read(compiled, mode):
    for path in compiled.files(".nbc"):
        path.chmod(mode)
    assert compiled.survives() == FUNCTIONS


@needs_root
@pytest.mark.cases(1)
@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
def test_files_of_others_are_not_read(compiled, suffix):
    for path in compiled.files(suffix):
        os.chown(path, STRANGER, STRANGER)
    assert compiled.survives() == FUNCTIONS


def open_to_others(path):
    path.chmod(0o777)


def open_to_the_group(path):
    path.chmod(0o770)


def like_tmp(path):
    path.chmod(0o1777)


def give_away(path):
    os.chown(path, STRANGER, STRANGER)


@pytest.mark.cases("open_to_others-.", "like_tmp-..", "give_away-__pycache__")
@pytest.mark.parametrize(
    ("attack", "level"),
    [
        (open_to_others, "__pycache__"),
        (open_to_others, "."),
        (open_to_others, ".."),
        (open_to_the_group, "."),
        (like_tmp, "."),
        (like_tmp, ".."),
        pytest.param(give_away, "__pycache__", marks=needs_root),
        pytest.param(give_away, "..", marks=needs_root),
    ],
)
def test_nothing_is_loaded_from_a_directory_of_others(compiled, attack, level):
    """What lies there is even valid; it is refused for the place alone, with one warning."""
    attacked = compiled.cache / "deep" / "cache"
    attacked.parent.mkdir(mode=0o700)
    shutil.copytree(compiled.cache, attacked, ignore=shutil.ignore_patterns("deep"))
    attack(attacked / level)
    environment = {"DMFT_CACHE_DIR": str(attacked), "TMPDIR": str(compiled.private)}
    first, second = (compiled(environment=environment)[0] for _ in range(2))
    assert first["values"] == second["values"] == RIGHT
    harmless = level == ".." and attack is like_tmp  # only the owner can replace what is his
    assert (first["hits"], second["hits"]) == (FUNCTIONS if harmless else 0, FUNCTIONS)
    told = [] if harmless or level == "__pycache__" else ["DMFT_CACHE_DIR"]
    for result in (first, second):
        assert [word for text in result["warnings"] for word in told if word in text] == told
        assert len(result["warnings"]) == len(told)


def test_compiled_code_beside_the_source_is_kept_elsewhere_if_others_can_write_there(compiled):
    beside = compiled.package / "special" / "__pycache__"
    beside.chmod(0o777)
    try:
        assert compiled.survives(BOTH) == 1
        assert [path.name for path in compiled.cache.glob("special_*/elementary.*.nbi")]
    finally:
        beside.chmod(0o755)


@pytest.mark.parametrize("times", [3, pytest.param(8, marks=pytest.mark.slow)])
def test_processes_at_once_compile_once(starts, times):
    results = starts(times=times)
    assert [result["values"] for result in results] == [RIGHT] * times
    # Functions with a signature, as the module is loaded; the others are compiled at a first call.
    assert sum(result["compiled"].count("early") for result in results) == 1
    assert starts.survives() == 0


def test_killed_while_compiling(starts):
    for delay in (0.01, 0.05, 0.2):
        starts(kill_after=delay)
    assert starts()[0]["values"] == RIGHT
    assert starts.survives() == 0


@pytest.mark.cases("5000")
@pytest.mark.parametrize("limit", [0, 100, 5_000])
def test_full_disk(starts, limit):
    """No file can pass `limit` bytes: nothing fits, the lock only, all but machine code."""
    result = starts(limit=limit, factors=BOTH)[0]
    assert result["values"] == pytest.approx(VALUES[BOTH])
    # Of two folders: that of the cache, and that beside the package.
    assert sum("cannot write" in text for text in result["warnings"]) == 1
    assert not list(starts.cache.rglob("*.tmp"))
    assert starts.survives() <= FUNCTIONS


@needs_root
@pytest.mark.slow
@pytest.mark.parametrize("options", ["ro", "size=16k", "nr_inodes=8"])
def test_real_disk(starts, options):
    starts()
    mount = ["mount", "-t", "tmpfs", "-o", options, "none", str(starts.cache)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount")
    try:
        for _ in range(2):
            result = starts()[0]
            assert result["values"] == RIGHT
            assert result["warnings"]
    finally:
        subprocess.run(["umount", str(starts.cache)], check=True)


@pytest.mark.slow
def test_each_damage_of_each_file(compiled, record_property):
    """13 kinds, and 20 bits at random, of each of the ten files, one at a time."""
    rng = random.Random(13)
    kinds = dict(DAMAGE)
    for i in range(20):
        kinds[f"random bit {i}"] = lambda c: flipped(c, rng.randrange(len(c)), rng.randrange(8))
    saved = {path: path.read_bytes() for path in compiled.files()}
    count = Counter()
    for damage in kinds.values():
        for path, content in saved.items():
            path.write_bytes(damage(content))
            assert compiled.survives(BOTH) == 1
            count[path.suffix] += 1
            path.write_bytes(content)
            partner = path.with_suffix(".nbi")  # both again as they were
            if partner in saved:
                partner.write_bytes(saved[partner])
    assert sum(count.values()) == 330


@pytest.mark.slow
def test_killed_at_any_time(starts):
    for delay in np.linspace(0.0, 0.6, 60):
        starts(kill_after=float(delay))
        assert starts()[0]["values"] == RIGHT
        assert starts.survives() == 0
        starts.clear()


@pytest.fixture
def no_fallback(monkeypatch):
    """No folder at all can be written."""
    monkeypatch.setenv("DMFT_CACHE_DIR", f"{os.devnull}/cache")
    monkeypatch.setattr(directory, "_private_temporary_directory", lambda: directory.NOWHERE)
    monkeypatch.setattr(directory, "_TOLD", set())


def test_no_folder_at_all(no_fallback):
    source = "from dmft.compiled import njit\n@njit(cache=True)\ndef f(x):\n    return x + 1.0\n"
    with pytest.warns(UserWarning, match="compiled code is not kept"):
        module = load_module(source, "homeless")
    assert module.f(1.0) == 2.0
    cache.store_array("homeless", np.arange(3.0))
    assert cache.load_array("homeless").tolist() == [0.0, 1.0, 2.0]


def test_new_models_are_solved_without_a_folder(no_fallback):
    """M = 1 - (1 - M(0)) exp(-s^2 t) for the linear student s z under gradient flow."""
    slope = sp.Rational(7919, 10007)  # of no other test: nothing of it is compiled
    line = dmft.Committee(slope * sp.Symbol("z", real=True), width=1)
    equations = dmft.derive(dmft.Model(line, line), dmft.GradientFlow())
    with pytest.warns(UserWarning, match="compiled code is not kept") as told:
        run = dmft.solve(equations, dmft.Overlaps([[0.8]], [[0.2]]), 2.0)
    assert run.M[-1, 0, 0] == pytest.approx(1 - 0.8 * np.exp(-2 * float(slope) ** 2), rel=1e-7)
    assert len(told) == 1


def test_no_folder_is_made_where_others_could_replace_it(monkeypatch, tmp_path):
    """As in a namespace of users: its root owns no folder, the system's belong to nobody."""
    monkeypatch.setattr(directory, "_TOLD", set())
    monkeypatch.setattr(directory, "_is_trusted", lambda user: False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("DMFT_CACHE_DIR", str(tmp_path / "chosen"))
    directory._private_temporary_directory.cache_clear()
    try:
        with pytest.warns(UserWarning, match="compiled code is not kept"):
            assert cache_directory() == directory.NOWHERE
    finally:
        directory._private_temporary_directory.cache_clear()
    assert list(tmp_path.iterdir()) == []


NAMESPACE = """
import warnings
from dmft.compiled import cache_directory, directory
with warnings.catch_warnings(record=True) as told:
    print(cache_directory() == directory.NOWHERE, len(told))
"""


def test_all_users_look_alike_in_a_namespace_without_them(tmp_path):
    """Folders of anybody belong to number 65534 there, and so does the process: none is trusted."""
    command = ["unshare", "--user", sys.executable, "-c", NAMESPACE]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "DMFT_CACHE_DIR": str(tmp_path / "c")}
    try:
        subprocess.run(["unshare", "--user", "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no namespaces of users here")
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert said.stdout.split() == ["True", "1"]
    assert list(tmp_path.iterdir()) == []


def test_unknown_homes_fall_back_in_words(monkeypatch, tmp_path):
    pwd = pytest.importorskip("pwd")
    monkeypatch.setattr(directory, "_TOLD", set())
    monkeypatch.setenv("DMFT_CACHE_DIR", "~nosuchuser/cache")
    with pytest.warns(UserWarning, match="nosuchuser"):
        fallback = cache_directory()
    assert fallback.is_dir()

    def unknown(user):
        raise KeyError(user)

    for name in ("DMFT_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="HOME"):
        assert cache_directory() == fallback
    assert list(tmp_path.iterdir()) == []  # no folder named ~


def test_links_of_others_are_not_followed(tmp_path):
    (tmp_path / "own").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "own")
    assert directory.danger(tmp_path / "link") == ""
    tmp_path.chmod(0o777)
    assert "others" in directory.danger(tmp_path / "link")
    tmp_path.chmod(0o1777)
    assert directory.danger(tmp_path / "link") == ""
    if os.geteuid() == 0:
        os.chown(tmp_path / "link", STRANGER, STRANGER, follow_symlinks=False)
        assert str(STRANGER) in directory.danger(tmp_path / "link")


def test_every_link_on_the_way_counts(tmp_path):
    """first -> between/second -> own: neither what is written nor where it leads is `between`."""
    own, between = tmp_path / "own", tmp_path / "between"
    own.mkdir(mode=0o700)
    between.mkdir(mode=0o700)
    (between / "second").symlink_to("../own")
    (tmp_path / "first").symlink_to(between / "second")
    assert directory.danger(tmp_path / "first") == ""
    between.chmod(0o777)
    assert "others" in directory.danger(tmp_path / "first")
    assert "others" in directory.danger(tmp_path / "first" / "below")
    assert directory.danger(own) == ""
    between.chmod(0o1777)
    assert directory.danger(tmp_path / "first") == ""
    assert "others" in directory.danger(own / ".." / "between")  # itself open
    if os.geteuid() == 0:
        os.chown(between / "second", STRANGER, STRANGER, follow_symlinks=False)
        assert str(STRANGER) in directory.danger(tmp_path / "first")
    (own / "loop").symlink_to(own / "loop")
    assert "symbolic links" in directory.refusal(own / "loop")


def locked_by_another(path):
    fcntl = pytest.importorskip("fcntl")
    file = path.open("a")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def test_locks_are_not_waited_for_in_silence_nor_forever(tmp_path, monkeypatch):
    monkeypatch.setattr(directory, "_TOLD", set())
    monkeypatch.setattr(directory, "WARNED", 0.05, raising=False)
    monkeypatch.setattr(directory, "LONGEST_WAIT", 0.2, raising=False)
    told, entered = [], threading.Event()
    monkeypatch.setattr(directory.warnings, "warn", lambda message, *_, **__: told.append(message))

    def compile_too():
        with directory.process_lock(tmp_path / "lock"):
            entered.set()

    with locked_by_another(tmp_path / "lock"):
        thread = threading.Thread(target=compile_too)
        thread.start()
        went_on = entered.wait(3.0)
    thread.join()
    assert went_on
    assert len(told) == 1
    assert str(tmp_path / "lock") in told[0]


def test_children_do_not_keep_the_locks_of_their_parent(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    read, write = os.pipe()
    with directory.process_lock(tmp_path / "lock"):
        child = os.fork()
        if child == 0:
            os.read(read, 1)
            os._exit(0)
    try:
        with (tmp_path / "lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.write(write, b"x")
        os.waitpid(child, 0)


def test_folders_are_made_for_us_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("DMFT_CACHE_DIR", str(tmp_path / "a" / "b"))
    before = os.umask(0)
    try:
        assert cache_directory() == tmp_path / "a" / "b"
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700


def test_another_numba_means_no_cache_in_words(monkeypatch):
    monkeypatch.setitem(sys.modules, "dmft.compiled.sealed", None)
    monkeypatch.setattr(directory, "_TOLD", set())
    with pytest.warns(UserWarning, match="compiled at each start"):
        function = njit("float64(float64)", cache=True)(lambda x: x + 1.0)
    assert function(1.0) == 2.0


@pytest.mark.slow
def test_functions_may_call_themselves():
    source = (
        "from dmft.compiled import njit\n@njit('int64(int64)', cache=True)\n"
        "def factorial(n):\n    return 1 if n < 2 else n * factorial(n - 1)\n"
    )
    assert load_module(source, "recursive").factorial(10) == 3628800
