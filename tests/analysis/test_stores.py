"""Stores against a hostile world: two drivers, full disks, forks, folders that vanish."""

from __future__ import annotations

import errno
import functools
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from types import FunctionType, ModuleType

import numpy as np
import pytest

from dmft.analysis.phase_diagram import STATUSES
from dmft.analysis.sweeps import store
from dmft.analysis.sweeps.chunk import Task, compute_chunk
from dmft.analysis.sweeps.named import name_of
from dmft.analysis.sweeps.records import PARTS
from dmft.analysis.sweeps.run_sweep import Index, collect, look_up, run_sweep
from dmft.analysis.sweeps.store import Store, open_store
from dmft.analysis.sweeps.sweep import KEY, as_points
from dmft.errors import BadParameter

GRID = {"a": np.linspace(0.0, 2.0, 7), "b": [1, 2, 3]}
IDENTITY = {"measure": "product"}


def product(a, b):
    return a * b


def opened(folder, part=(0, 1)):
    return Store.open(folder / "s", IDENTITY, ("value",), part)


def records_of(handle, values):
    """Records with keys 0, 1, ..."""
    records = np.zeros(len(values), dtype=handle.kind)
    records["low"], records["values"] = np.arange(len(values)), np.array(values)[:, None]
    return records


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        ((0, 1), (0, 1), "another sweep is running on"),
        ((0, 1), (1, 3), "another sweep, of all points, is running"),
        ((1, 3), (0, 1), "another sweep, of 3 parts, is running"),
        ((1, 3), (1, 3), "another sweep, for part 1 of 3, is running"),
        ((1, 3), (1, 2), "another sweep, of 3 parts, is running"),
        ((1, 3), (2, 3), None),
    ],
)
def test_two_sweeps_on_one_store(tmp_path, first, second, reason):
    how = {"store": tmp_path / "s", "identity": IDENTITY}
    with opened(tmp_path, first).driver():
        if reason is None:
            assert run_sweep(GRID, product, part=second, **how).computed == 7
        else:
            with pytest.raises(BadParameter, match=reason):
                run_sweep(GRID, product, part=second, **how)
    run_sweep(GRID, product, part=second, **how)  # who ended holds nothing


def test_a_lock_ends_with_its_process(tmp_path):
    script = (
        "import os, sys, time; from dmft.analysis.sweeps.store import Store\n"
        "with Store.open(sys.argv[1], {'measure': 'product'}, ['value'], (1, 3)).driver():\n"
        "    child = os.fork()\n"
        "    if not child: time.sleep(60); os._exit(0)\n"
        "    print(child, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "s")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        child = int(process.stdout.readline())
        for part in ((1, 3), (0, 1), (0, 2)):
            with (
                pytest.raises(BadParameter, match="another sweep"),
                opened(tmp_path, part).driver(),
            ):
                pass
        process.kill()
        process.wait()
        os.kill(child, 0)  # a fork of it is still there, as a worker that waits for work
        late = time.monotonic() + 20
        while True:  # on a busy machine the fork may not yet have run far enough to let go
            try:
                with opened(tmp_path).driver():
                    break
            except BadParameter:
                assert time.monotonic() < late
                time.sleep(0.05)
        os.kill(child, signal.SIGKILL)


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    import fcntl

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    with opened(tmp_path).driver():
        monkeypatch.setattr(fcntl, "fcntl", refuse)
        with pytest.warns(UserWarning, match="has no locks"):
            whole = run_sweep(GRID, product, store=tmp_path / "s", identity=IDENTITY)
    # Safe without: each writes its own shard, and a point that two computed counts once.
    second = opened(tmp_path)
    second.append(second.read().records[:5], {})
    assert second.read().repeated == 5
    again = collect(GRID, open_store(tmp_path / "s"))
    np.testing.assert_array_equal(again.values["value"], whole.values["value"])


def test_systems_with_whole_file_locks_only(tmp_path, monkeypatch):
    import fcntl

    monkeypatch.delattr(fcntl, "F_OFD_SETLK")
    with opened(tmp_path, (1, 3)).driver():
        with opened(tmp_path, (2, 3)).driver():
            pass
        with pytest.raises(BadParameter, match="another sweep"), opened(tmp_path).driver():
            pass


def test_a_lock_that_cannot_be_made(tmp_path):
    folder = opened(tmp_path).path
    (folder / "lock").mkdir()
    with pytest.raises(BadParameter, match="cannot write the store"), opened(tmp_path).driver():
        pass
    assert PARTS > 10**12


def test_no_room_half_way(tmp_path):
    """A limit of the size of files stops a write in the middle of a record."""
    script = """
import resource, sys, numpy as np
from dmft.analysis.sweeps.store import Store
from dmft.errors import BadParameter
store = Store.open(sys.argv[1], {"measure": "product"}, ["value"])
records = np.zeros(100, dtype=store.kind)
records["low"] = np.arange(100)
store.append(records[:10], {})
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
for messages in ({}, {(0, 50): "x" * 2000}):
    try:
        store.append(records[10:], messages)
    except BadParameter as error:
        print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
store.append(records[10:], {(0, 60): "said"})
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "s")], capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout.count("cannot write the store") == 2
    assert "File too large. Its contents are intact" in done.stdout
    found = opened(tmp_path).read()
    np.testing.assert_array_equal(found.records["low"], np.arange(100))
    assert (found.repeated, found.messages) == (0, {(0, 60): "said"})
    assert found.torn == 1  # the message that was cut off


def test_names_are_on_the_disk_before_records(tmp_path, monkeypatch):
    """Order of the calls: folder after each new file, words before numbers."""
    calls = []
    for name in ("open", "write", "fsync", "link"):
        function = getattr(os, name)

        def spy(*given, name=name, function=function, **more):
            calls.append((name, given[0]))
            return function(*given, **more)

        monkeypatch.setattr(store.os, name, spy)
    handle = opened(tmp_path)
    made = [name for name, _ in calls]
    assert made[:4] == ["open", "open", "fsync", "write"]
    assert made[made.index("link") :].count("fsync") == 2  # the folder, and the one that holds it
    calls.clear()
    handle.append(records_of(handle, [1.0]), {(0, 0): "said"})
    names = [name for name, _ in calls]
    new = ["open", "open", "fsync"]
    assert names == [*new, *new, "write", "fsync", "write", "fsync"]


def test_threads_share_the_waiting_for_the_disk(tmp_path, monkeypatch):
    handle = opened(tmp_path)
    handle.append(records_of(handle, [0.0]), {})
    syncs, inside, go = [], threading.Event(), threading.Event()
    fsync = os.fsync

    def slow(file):
        syncs.append(file)
        inside.set()
        go.wait(10)
        fsync(file)

    monkeypatch.setattr(store.os, "fsync", slow)
    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(handle.append, records_of(handle, [1.0]), {})
        inside.wait(10)
        others = [pool.submit(handle.append, records_of(handle, [2.0]), {}) for _ in range(8)]
        while handle._shard.written < 10:
            time.sleep(0.001)
        assert not any(future.done() for future in [first, *others])  # not before the disk
        go.set()
        for future in [first, *others]:
            future.result()
    assert len(syncs) == 2
    assert handle.read().repeated == 9


def test_a_disk_that_fails(tmp_path, monkeypatch):
    """A failure is told once by the system: nobody may take the next success for his own."""
    handle = opened(tmp_path)
    handle.append(records_of(handle, [1.0]), {})
    fsync, answers = os.fsync, [OSError(errno.EIO, "Input/output error")]

    def failing(file):
        inside.set()
        time.sleep(0.2)
        if answers:
            raise answers.pop()
        fsync(file)

    inside = threading.Event()
    monkeypatch.setattr(store.os, "fsync", failing)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(handle.append, records_of(handle, [1.0]), {})
        inside.wait(10)
        second = pool.submit(handle.append, records_of(handle, [1.0]), {})
        for future in (first, second):
            with pytest.raises(BadParameter, match="Input/output error"):
                future.result()
    handle.append(records_of(handle, [1.0]), {})  # in a new shard
    assert handle.read().shards == 2


def test_a_folder_that_was_removed(tmp_path):
    handle = opened(tmp_path)
    handle.append(records_of(handle, [1.0]), {})
    shutil.rmtree(tmp_path / "s")
    with pytest.raises(BadParameter, match="is not a store"):
        handle.append(records_of(handle, [1.0]), {})
    opened(tmp_path)
    handle.append(records_of(handle, [1.0, 2.0]), {})
    assert opened(tmp_path).read().records.size == 2
    shutil.rmtree(tmp_path / "s")
    Store.open(tmp_path / "s", {"measure": "other"}, ("value",))
    with pytest.raises(BadParameter, match="contains another sweep"):
        handle.append(records_of(handle, [1.0]), {})


def in_child(handle):
    handle.append(records_of(handle, [5.0]), {})


def test_a_fork_writes_to_its_own_shard_and_waits_for_no_thread(tmp_path):
    handle = opened(tmp_path)
    handle.append(records_of(handle, [1.0, 2.0]), {})
    with handle._writing:  # another thread of the parent writes while the child is made
        child = multiprocessing.get_context("fork").Process(target=in_child, args=(handle,))
        child.start()
        child.join(20)
        assert child.exitcode == 0
    handle.append(records_of(handle, [1.0, 2.0]), {})
    found = handle.read()
    assert (found.shards, found.records.size, found.repeated, found.torn) == (2, 2, 3, 0)


def test_odd_names_of_hosts_and_of_files(tmp_path, monkeypatch):
    monkeypatch.setattr(store.socket, "gethostname", lambda: "a-2of3/of ü-" + 80 * "x")
    handle = opened(tmp_path, (1, 3))
    handle.append(records_of(handle, [1.0]), {})
    (handle.path / "shard-notes.bin").write_bytes(b"mine")
    (handle.path / "readme.txt").write_text("mine")
    assert handle.read().records.size == 1
    assert opened(tmp_path, (2, 3)).read().records.size == 0
    assert opened(tmp_path, (1, 2)).read().records.size == 1


def test_stores_of_other_formats_and_what_cannot_be_kept(tmp_path):
    manifest = opened(tmp_path).path / "manifest.json"
    found = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**found, "format": 1}))
    for reader in (opened, lambda folder: open_store(folder / "s")):
        with pytest.raises(BadParameter, match="has the format 1, but this version of dmft reads"):
            reader(tmp_path)
    manifest.write_text(json.dumps({**found, "format": 2}))  # of which records say less
    assert run_sweep(GRID, product, store=tmp_path / "s", identity=IDENTITY).complete
    for text in ("[]", "{}", "{"):
        manifest.write_text(text)
        with pytest.raises(BadParameter, match="is not a store"):
            open_store(tmp_path / "s")
    for value in ({1, 2}, float("nan")):
        with pytest.raises(BadParameter, match="cannot be stored"):
            run_sweep(GRID, product, store=tmp_path / "n", identity={"data": value})


def test_a_file_system_without_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(store.os, "link", refuse)
    opened(tmp_path)
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["manifest.json"]


def test_the_first_of_two_results_counts(tmp_path):
    """Of a measure that does not give the same twice; within a block and between shards."""
    handle, points = opened(tmp_path), as_points({"a": [1.0, 2.0, 3.0]})
    records = np.zeros(6, dtype=handle.kind)
    keys = points.keys(np.array([2, 0, 2, 1, 0, 2]))
    records["high"], records["low"] = keys["high"], keys["low"]
    records["values"][:, 0] = np.arange(6)
    handle.append(records, {})
    found = np.zeros(3)

    def place(places, rows):
        found[places] = rows["values"][:, 0]

    assert look_up(handle, points, np.arange(3), place).repeated == 3
    assert found.tolist() == [1.0, 3.0, 0.0]


def test_keys_that_share_a_word():
    keys = np.array([(1, 7), (1, 3), (1, 7), (2, 3)], dtype=KEY)
    asked = np.array([(1, 3), (2, 4), (1, 7), (0, 0), (2, 3), (9, 9)], dtype=KEY)
    here, there = Index(keys).find(asked)
    assert sorted(zip(here.tolist(), there.tolist(), strict=True)) == [
        (0, 2), (1, 0), (2, 2), (3, 4),
    ]  # fmt: skip


def test_keys_of_many_points_differ():
    """Neighbouring values, powers of two, permuted values: no key is twice there."""
    axes = {"a": np.arange(50.0), "b": 2.0 ** np.arange(-50, 50), "c": np.linspace(0, 1, 20)}
    grid = as_points(axes)
    keys = grid.keys(np.arange(len(grid)))
    for word in ("high", "low"):
        bits = (keys[word][:, None] >> np.arange(64, dtype="u8")) & np.uint64(1)
        assert np.unique(keys[word]).size == 10**5
        assert abs(bits.mean(axis=0) - 0.5).max() < 5 * 0.5 / 10**2.5
    swapped = as_points([{"a": 1.0, "b": 2.0}, {"a": 2.0, "b": 1.0}])
    assert np.unique(swapped.keys(np.arange(2))).size == 2
    with pytest.raises(BadParameter, match="beyond 2"):
        as_points({"seed": [2**53 + 1]})


def test_a_longer_list_finds_points_of_other_parts(tmp_path):
    """New points in front shift all parts: what is there is found, shard by shard."""
    rows = [{"a": float(n)} for n in range(40)]
    how = {"store": tmp_path / "s", "identity": {"measure": "triple"}}

    def triple(a):
        return 3 * a if a != 11.0 else {}["eleven"] if a < 0 else float("nan")

    for part in range(4):
        run_sweep(rows[5:], triple, part=(part, 4), **how)
    # Of other numbers of parts, too; points twice in a list both have their result.
    for count, shards in ((2, 2), (3, 4), (4, 1), (6, 2), (8, 1)):
        handle = Store.open(tmp_path / "s", how["identity"], ("value",), (1, count))
        assert sum(map(len, handle.shards_by_part().values())) == shards
    some = run_sweep(rows[5:-1], triple, part=(1, 2), **how)
    assert some.points.columns[0].tolist() == list(np.arange(6.0, 39.0, 2))
    assert (some.computed, some.complete) == (0, True)
    some = run_sweep(rows, triple, part=(1, 3), **how)
    assert (some.computed, some.complete) == (2, True)
    whole = collect([*rows, rows[7]], open_store(tmp_path / "s"))
    values = whole.values["value"]
    assert whole.count() == {"interrupted": 3, "nonfinite": 1, "ok": 37}
    np.testing.assert_array_equal(values[12:41], [*(3 * np.arange(12.0, 40.0)), 21.0])


def test_memory_of_a_reader_does_not_grow_with_the_store(tmp_path, monkeypatch):
    handle = opened(tmp_path)
    handle.append(records_of(handle, np.arange(500.0)), {})
    monkeypatch.setattr("dmft.analysis.sweeps.records.BLOCK", 64)
    sizes = []
    points = as_points({"a": np.arange(500.0)})
    monkeypatch.setattr(
        type(points), "keys", lambda self, n: np.array([(0, k) for k in n], dtype=KEY)
    )
    found = look_up(handle, points, np.arange(500), lambda _, rows: sizes.append(rows.size))
    assert found.have.all()
    assert max(sizes) == 64


def test_what_a_store_remembers_of_a_function(tmp_path):
    class Scaled:
        def __call__(self, a):
            return a

    assert name_of(product).startswith("product ")
    assert name_of(functools.partial(product, b=2)) == f"{name_of(product)}(b=2)"
    assert ".Scaled " in name_of(Scaled())
    points = {"a": [1.0, 2.0]}
    run_sweep(points, functools.partial(product, b=2), store=tmp_path / "s")
    assert run_sweep(points, functools.partial(product, b=2), store=tmp_path / "s").computed == 0
    with pytest.raises(BadParameter, match="contains another sweep: its measure is"):
        run_sweep(points, functools.partial(product, b=3), store=tmp_path / "s")


class Factor:
    def __init__(self, size):
        self.size = size


def around(k):
    return lambda a: k * a


def scaled(weights, factor, a):
    return a * factor.size * float(np.sum(weights))


def test_functions_without_a_name_and_what_partial_binds_are_told_apart(tmp_path):
    """Long arrays are abbreviated by NumPy, objects are printed by their address."""
    weights, other = np.zeros(3000), np.zeros(3000)
    other[1500] = 1.0

    def partial(array, size):
        return name_of(functools.partial(scaled, array, Factor(size)))

    assert partial(weights, 1) == partial(weights.copy(), 1)
    assert partial(weights, 1) != partial(other, 1)
    assert partial(weights, 1) != partial(weights, 2)
    lambdas = [lambda a, k=k: k * a for k in (1.0, 2.0)]
    lambdas += [around(k) for k in (1.0, 2.0)]
    lambdas += [lambda a: a + 1, lambda a: a + 2, lambda a: abs(a), lambda a: round(a)]
    assert len({name_of(f) for f in lambdas}) == len(lambdas)
    assert name_of(around(1.0)) == name_of(around(1.0))
    points = {"a": [1.0, 2.0]}
    run_sweep(points, lambdas[0], store=tmp_path / "s")
    with pytest.raises(BadParameter, match="contains another sweep: its measure is"):
        run_sweep(points, lambdas[1], store=tmp_path / "s")


def test_measures_that_cannot_travel(tmp_path, monkeypatch):
    with pytest.raises(BadParameter, match="cannot be sent to other processes"):
        run_sweep(GRID, lambda a, b: a, executor="processes", store=tmp_path / "s")
    assert open_store(tmp_path / "s").read().records.size == 0
    # Known here, unknown there: a refusal, not points that end their workers.
    here = ModuleType("known_here_alone")
    here.measure = FunctionType((lambda a: a).__code__, {}, "measure")
    here.measure.__module__, here.measure.__qualname__ = here.__name__, "measure"
    monkeypatch.setitem(sys.modules, here.__name__, here)
    with pytest.raises(BadParameter, match=r"other processes \(No module named 'known_here_alone'"):
        run_sweep({"a": [1.0, 2.0]}, here.measure, executor="processes", workers=1)


def pool():
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


def test_workers_outlive_sweeps(tmp_path):
    """One pool for two parts, then for a store that was removed and made again."""
    how = {"store": tmp_path / "s", "identity": IDENTITY}
    with pool() as one:
        for part in ((0, 2), (1, 2)):
            run_sweep(GRID, product, executor=one, part=part, **how)
        for index in range(2):
            assert opened(tmp_path, (index, 2)).read().records.size == [11, 10][index]
        shutil.rmtree(tmp_path / "s")
        for _ in range(2):
            assert run_sweep(GRID, product, executor=one, **how).complete
            assert opened(tmp_path).read().records.size == 21
            shutil.rmtree(tmp_path / "s")
    task = Task(product, as_points(GRID), ("value",), str(tmp_path / "s"), IDENTITY)
    with pytest.raises(BadParameter, match="all workers must use the same folder"):
        compute_chunk(task, np.arange(2))


def test_a_store_named_from_where_the_driver_stands(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pool() as one:
        assert one.submit(os.getcwd).result() == str(Path.cwd())
        monkeypatch.chdir(tmp_path)
        run_sweep(GRID, product, executor=one, store="s", identity=IDENTITY)
    assert opened(tmp_path).read().records.size == 21
    assert not list((tmp_path / "elsewhere").iterdir())


def test_statuses_are_part_of_the_format():
    """Records hold their places: a change of them is a new FORMAT."""
    names = (
        "ok event diverged nonfinite left_domain tolerance_not_met max_steps timeout interrupted "
        "not_converged"
    )
    assert (store.FORMAT, " ".join(map(str, STATUSES))) == (3, names)
