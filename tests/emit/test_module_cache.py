"""Generated modules: real files, compiled once over all processes, never a foreign text."""

import os
import subprocess
import sys
import textwrap
import threading
import warnings
from pathlib import Path

import numba
import numpy as np
import pytest

from dmft.compiled.machine_code import symbols
from dmft.compiled.object_files import code_of
from dmft.compiled.sealed import SealedCache
from dmft.emit import cache, cache_directory, load_module, module_name
from dmft.errors import BadParameter

COMPILED = textwrap.dedent(
    '''
    """A test module."""
    from dmft.compiled import njit

    @njit("float64(float64)", cache=True)
    def triple(x):
        return 3.0 * x
    '''
)
CHILD = textwrap.dedent(
    """
    import sys
    from dmft.emit import load_module
    module = load_module(sys.stdin.read(), "cached")
    stats = module.triple.stats
    print(module.triple(2.0), sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
    """
)


@pytest.fixture
def fresh_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DMFT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    return tmp_path / "cache"


def run_child():
    return subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


# Forks of one process in test_damaged_caches.py are fast; here each is new, and takes a second.
@pytest.mark.slow
def test_second_process_does_not_compile(fresh_cache):
    first, _ = run_child().communicate(COMPILED)
    assert first.split() == ["6.0", "0", "1"]
    assert list((fresh_cache / "__pycache__").glob("*.nbi"))
    second, _ = run_child().communicate(COMPILED)
    assert second.split() == ["6.0", "1", "0"]


def test_environments_with_other_versions_of_numba_keep_their_own(fresh_cache, monkeypatch):
    """They share the folder beside a source tree: what one keeps, the other leaves alone."""
    source = fresh_cache / "shared.py"
    source.parent.mkdir(mode=0o700)
    source.write_text(COMPILED)
    kept = {}
    for version in ("1.0", "2.0", "1.0"):
        monkeypatch.setattr(numba, "__version__", version)
        files = SealedCache(lambda x: x, source, fresh_cache)._cache_file
        assert files.load("key") == (kept.get(version))
        files.save("key", version)
        kept[version] = version


@pytest.mark.slow
def test_processes_at_once_compile_once(fresh_cache):
    children = [run_child() for _ in range(3)]
    for child in children:
        child.stdin.write(COMPILED)
        child.stdin.close()
    results = [child.stdout.read().split() for child in children]
    assert all(child.wait() == 0 for child in children)
    assert [r[0] for r in results] == ["6.0"] * 3
    assert sum(int(r[2]) for r in results) == 1


def test_threads_at_once_get_one_module(fresh_cache):
    source = "import time\ntime.sleep(0.05)\nvalue = object()\n"
    seen = []
    threads = [
        threading.Thread(target=lambda: seen.append(load_module(source, "shared").value))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 4
    assert len(set(map(id, seen))) == 1


def test_tampered_file_is_not_executed(fresh_cache):
    source = "value = 'ours'\n"
    path = cache_directory() / f"{module_name(source, 'tampered')}.py"
    path.write_text("value = 'evil'\n")
    module = load_module(source, "tampered")
    assert module.value == "ours"
    assert path.read_text() == source
    assert Path(module.__file__) == path
    assert sys.modules[module.__name__] is module


def test_failing_module_is_not_registered(fresh_cache):
    source = "raise RuntimeError('broken')\n"
    for _ in range(2):
        with pytest.raises(RuntimeError, match="broken"):
            load_module(source, "broken")
    assert module_name(source, "broken") not in sys.modules


def test_name_depends_on_source_and_on_inlined_helpers(monkeypatch):
    name = module_name("x = 1\n", "stem")
    assert name == module_name("x = 1\n", "stem")
    assert name != module_name("x = 2\n", "stem")
    monkeypatch.setattr(cache, "_dependencies", lambda: ("another version of asin",))
    assert name != module_name("x = 1\n", "stem")


@pytest.mark.parametrize("stem", ["../escape", "a b", "", "1a"])
def test_stem_must_be_an_identifier(stem):
    with pytest.raises(BadParameter, match="identifier"):
        load_module("", stem)


def test_directory_follows_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("DMFT_CACHE_DIR", str(tmp_path / "chosen"))
    assert cache_directory() == tmp_path / "chosen"
    monkeypatch.delenv("DMFT_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg" / "dmft"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_directory() == tmp_path / "home" / ".cache" / "dmft"


def test_unwritable_directory_falls_back_with_one_warning(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    monkeypatch.setenv("DMFT_CACHE_DIR", str(blocked / "cache"))
    with pytest.warns(UserWarning, match="DMFT_CACHE_DIR"):
        fallback = cache_directory()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cache_directory() == fallback
    assert fallback.stat().st_uid == os.getuid()
    assert fallback.stat().st_mode & 0o022 == 0


SUMS = textwrap.dedent(
    '''
    """A test module: one sum, which each caller may order in its own way."""
    import numpy as np
    from dmft.compiled import njit

    OPTIONS = {"fastmath": {"reassoc", "contract"}}

    @njit(inner=True, **OPTIONS)
    def product(x, y, n):
        total = 0.0
        for m in range(n):
            total += x[m] * y[m]
        if total > 1e300:
            raise ValueError(np.cumsum(x)[0])
        return total

    @njit("float64(float64[::1], float64[::1])", cache=True, **OPTIONS)
    def once(x, y):
        return product(x, y, x.size)

    @njit("float64(float64[::1], float64[::1])", cache=True, **OPTIONS)
    def thrice(x, y):
        return product(x, x, x.size) - 2.0 * product(x, y, y.size) + product(y, y, 3)
    '''
)


def test_kept_functions_share_no_machine_code(fresh_cache):
    """Else the copy of `product` that runs depends on what the process compiled before."""
    module = load_module(SUMS, "sums")
    x, y = np.arange(1.0, 6.0), np.full(5, 0.5)
    assert module.once(x, y) == pytest.approx(7.5)
    assert module.thrice(x, y) == pytest.approx(40.75)
    for name in ("once", "thrice"):
        # The linker of a process looks up names that are local to a file in its table of all.
        named = {n for n in symbols(code_of(getattr(module, name)).content)[0] if "product" in n}
        assert not [n for n in named if not n.startswith((".const", "_ZN08NumbaEnv"))]


NESTED = textwrap.dedent(
    '''
    """A test module: a kept function that calls another one, and one for compiled code only."""
    from dmft.compiled import njit

    @njit(inner=True)
    def half(x):
        if x < 0.0:
            raise ValueError(x, "is below zero")
        return 0.5 * x

    @njit("float64(float64)", cache=True)
    def quarter(x):
        return half(half(x))

    @njit("float64(float64)", cache=True)
    def rest(x):
        return x - quarter(x) - half(max(x, -1.0))
    '''
)


def test_functions_that_python_does_not_call_have_no_machine_code(fresh_cache):
    module = load_module(NESTED, "nested")
    assert module.rest(8.0) == 2.0  # compiles `quarter` on the way
    with pytest.raises(ValueError, match=r"-3\.0, 'is below zero'"):
        module.rest(-3.0)
    assert module.quarter(8.0) == 2.0
    for name, has_code in (("half", False), ("quarter", True), ("rest", True)):
        made = getattr(module, name).overloads.values()  # none where a child compiled the others
        assert any(one.library._finalized for one in made) == has_code


TWO_TIMES = textwrap.dedent(
    """
    import sympy as sp, dmft
    glass = dmft.literature.spherical_p_spin(3, sp.Symbol("T", positive=True))
    run = dmft.solve(glass, None, 30.0, T=0.5, tol=1e-5, measure_error=False)
    print(run.status, float(run.E[-1]).hex(), run.E.size)
    """
)


@pytest.mark.slow  # compiles the two-time march: 12 s
def test_a_process_that_compiles_finds_the_bits_of_one_that_loads(fresh_cache, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(fresh_cache / "numba"))
    said = [
        subprocess.run(
            [sys.executable, "-c", TWO_TIMES], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    ]
    assert list((fresh_cache / "numba").rglob("advance*.nbc"))
    assert said[0].startswith("ok ")
    assert said[0] == said[1]
