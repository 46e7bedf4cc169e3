"""Sweeps that are killed at random moments and carried on: nothing lost, nothing done twice."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import dmft
from dmft.analysis.sweeps.run_sweep import look_up, run_sweep
from dmft.analysis.sweeps.store import Store, open_store, read_manifest
from dmft.analysis.sweeps.sweep import as_points

HERE = Path(__file__).parent
# A point takes at least 2 ms, a chunk 0.2 s, and a worker runs one chunk at a time.
SECONDS, CHUNK = 0.002, 100
LOG: dict[int, int] = {}
BEGAN = time.monotonic()

SCRIPT = """
import sys
sys.path.insert(0, {here!r})
from dmft.analysis.sweeps.run_sweep import run_sweep
from test_sweeps_killed import engine, logged, points_of, said
if __name__ == "__main__":
    run_sweep(points_of({size}), logged, store={store!r}, executor=engine({executor!r}),
              workers={workers}, part={part!r}, progress=said)
"""


def points_of(size):
    return {"a": np.arange(float(size)), "b": [0.5]}


def engine(name):
    if not name.startswith("tcp"):
        return name
    from distributed import Client

    return Client(name)


def logged(a, b):
    """Number that needs all bits, a failure now and then; each call is in a file of the process."""
    if os.getpid() not in LOG:
        name = f"calls-{os.environ.get('SESSION', '0')}-{os.getpid()}"
        path = Path(os.environ["LOGS"]) / name
        LOG[os.getpid()] = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(LOG[os.getpid()], b"%d\n" % int(a))
    time.sleep(SECONDS)
    return number_at(a, b)


def number_at(a, b):
    return float("inf") if a % 97 == 13 else float(np.sin(a)) / (3.0 + b) / (1.0 if a % 89 else 0)


def said(fraction, message):
    """Report of the driver: points of this session that are done."""
    session = os.environ["SESSION"]
    with (Path(os.environ["LOGS"]) / f"said-{session}").open("a") as file:
        file.write(message.split()[0] + "\n")


class Ledger:
    """What was called, reported and stored of the points of a part, session by session."""

    def __init__(self, folder, size, seed, part=(0, 1)):
        self.folder, self.size, self.part = folder, size, part
        self.store = folder / "store"
        self.rng = np.random.default_rng((seed, part[0]))
        self.held, self.torn = np.zeros(size, dtype=bool), 0
        self.values = np.full(size, np.nan)
        self.in_vain, self.flying, self.kills = 0, 0, 0
        self.sessions = []

    def start(self, executor, workers=2):
        """Start a driver in a group of processes of its own."""
        session = f"{self.part[0]}of{self.part[1]}x{len(self.sessions)}"
        self.sessions.append(session)
        environment = {**os.environ, "LOGS": str(self.folder), "SESSION": session}
        script = SCRIPT.format(
            here=str(HERE), size=self.size, store=str(self.store), executor=executor,
            workers=workers, part=self.part,
        )  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", script], env=environment, start_new_session=True
        )
        process.session = session
        return process

    def calls(self, session):
        """How often each point was called in a session."""
        count = np.zeros(self.size, dtype=int)
        for path in self.folder.glob(f"calls-{session}-*"):
            for line in path.read_bytes().splitlines():
                count[int(line)] += 1
        return count

    def reported(self, session):
        """Points that a driver last reported as done."""
        path = self.folder / f"said-{session}"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return int(lines[-1]) if lines else 0

    def pids(self, session):
        """Processes that computed points in a session."""
        return [int(path.name.split("-")[2]) for path in self.folder.glob(f"calls-{session}-*")]

    def wait(self, process):
        """Let some of the work be done: a random time from the start, or from the first report."""
        until = time.monotonic() + 60
        if self.rng.random() < 0.75:
            while not self.reported(process.session) and time.monotonic() < until:
                if process.poll() is not None:
                    break
                time.sleep(0.01)
            time.sleep(float(self.rng.uniform(0.0, 0.6)))
        else:
            time.sleep(float(self.rng.uniform(0.0, 1.5)))

    def audit(self, *sessions, flying=2 * CHUNK, called=0):
        """After a kill: hold every line of the promise against the files."""
        if not (self.store / "manifest.json").exists():
            return
        records = np.full(self.size, np.nan)
        mine = np.arange(self.part[0], self.size, self.part[1])
        store = Store.open(self.store, read_manifest(self.store)["identity"], ["value"], self.part)
        have = np.zeros(self.size, dtype=bool)

        def place(places, rows):
            have[mine[places]] = True
            records[mine[places]] = rows["values"][:, 0]

        points = as_points(points_of(self.size)).only(mine)
        found = look_up(store, points, np.arange(mine.size), place)
        called = called + sum(self.calls(session) for session in sessions)
        # What was reported is there, and what was there stays, bit for bit.
        fresh = int(np.count_nonzero(have & ~self.held))
        assert fresh >= sum(self.reported(session) for session in sessions)
        assert np.all(have[self.held])
        kept = np.flatnonzero(self.held)
        assert records[kept].tobytes() == self.values[kept].tobytes()
        # What was there was not computed again; what was computed in vain was in flight.
        assert not np.any(called[self.held])
        in_vain = int(called.sum()) - fresh
        assert 0 <= in_vain <= flying
        self.in_vain, self.flying = self.in_vain + in_vain, self.flying + flying
        # Torn records so far were written by the test, or by a kill within a write.
        assert found.torn >= self.torn
        self.held, self.values, self.torn = have, records, found.torn

    def tear(self):
        """Half of a record at the end of a shard, as of a driver killed while it wrote."""
        whole = [y for y in self.store.glob("shard-*.bin") if y.stat().st_size % 48 == 0]
        if whole:
            with self.rng.choice(sorted(whole)).open("ab") as file:
                file.write(os.urandom(int(self.rng.integers(1, 48))))
            self.torn += 1

    def compare(self, executor="threads"):
        """Finish; the store and an uninterrupted run hold the same bits."""
        assert self.start(executor).wait() == 0
        self.audit(self.sessions[-1])
        again = run_sweep(points_of(self.size), logged, store=self.store)
        assert (again.computed, again.complete, again.torn) == (0, True, self.torn)
        whole = run_sweep(points_of(self.size), number_at)
        for name in ("status", "horizon"):
            np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))
        assert again.values["value"].tobytes() == whole.values["value"].tobytes()
        assert again.messages == whole.messages
        failures = collections.Counter(whole.status.ravel().tolist())
        assert failures["nonfinite"] > self.size // 100
        print(
            f"{self.size} points, {self.kills} kills, computed in vain {self.in_vain}, "
            f"in flight at most {self.flying}, torn {self.torn}, {time.monotonic() - BEGAN:.0f} s"
        )


def alive(pid):
    """Whether a process runs; one that ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def group(leader):
    """Processes of a group that run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, number = path.read_text().rsplit(")", 1)[1].split()[:3]
            if int(number) == leader and state != "Z":
                found.append(int(path.parent.name))
    return found


def kill(ledger, process, whom):
    """Kill all processes of a driver at once, or the driver alone: its workers must end too."""
    assert process.poll() is None, "too few points to be killed"
    ledger.kills += 1
    if whom == "driver":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    until = time.monotonic() + 20
    while group(process.pid):
        assert time.monotonic() < until, "workers outlived their driver"
        time.sleep(0.02)


def kill_and_resume(ledger, kills, executor):
    for _ in range(kills):
        process = ledger.start(executor)
        ledger.wait(process)
        flying = 2 * CHUNK
        workers = [pid for pid in ledger.pids(process.session) if pid != process.pid]
        if workers and ledger.rng.random() < 0.5:  # first a worker: the driver goes on without
            os.kill(int(ledger.rng.choice(workers)), signal.SIGKILL)
            ledger.kills += 1
            ledger.wait(process)
            flying += 4 * CHUNK  # the pool breaks: all its chunks are computed again
        kill(ledger, process, ledger.rng.choice(["driver", "all"]))
        ledger.audit(process.session, flying=flying)
        if ledger.rng.random() < 0.5:
            ledger.tear()
    ledger.compare(executor)


def test_killed_and_resumed(tmp_path):
    kill_and_resume(Ledger(tmp_path, 2000, 0), 1, "threads")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_ten_thousand_points_killed_ten_times(tmp_path, executor, seed):
    kill_and_resume(Ledger(tmp_path, 10_000, seed), 10, executor)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [3, 4])
def test_tasks_of_a_job_array_killed_and_queued_again(tmp_path, seed):
    """Five tasks share a store, as those of a SLURM array; each kill is answered by a new one."""
    tasks, kills, size = 5, 0, 20_000
    parts = [Ledger(tmp_path, size, seed, (i, tasks)) for i in range(tasks)]
    running = [part.start("threads", workers=1) for part in parts]
    rng = np.random.default_rng(seed)
    for _ in range(4):
        chosen = rng.choice(tasks, 3, replace=False)
        parts[chosen[0]].wait(running[chosen[0]])
        for index in chosen:
            kill(parts[index], running[index], "all")
            parts[index].audit(running[index].session, flying=CHUNK)
            running[index] = parts[index].start("threads", workers=1)
            kills += 1
    assert [process.wait() for process in running] == [0] * tasks
    whole = Ledger(tmp_path, size, seed)
    for part, process in zip(parts, running, strict=True):
        part.audit(process.session, flying=0)
        assert np.array_equal(np.flatnonzero(part.held), np.arange(part.part[0], size, tasks))
    whole.kills = kills
    whole.audit(*(session for part in parts for session in part.sessions), flying=CHUNK * kills)
    whole.compare()


DECLARATION = """
[student]
activation = "z**2"
width = 1
[teacher]
activation = "z**2"
width = 1
[algorithm]
kind = "sgd"
learning_rate = 0.1
constraint = "sphere"
[start]
kind = "overlaps"
Q = [[1.0]]
M = [[0.1]]
[solve]
t_max = 3000.0
[sweep]
measure = "final_risk"
store = "store"
axes = [{name = "learning_rate", from = 0.01, to = 0.2, points = 100},
        {name = "label_noise", from = 0.0, to = 1.0, points = 60}]
"""


@pytest.mark.slow
def test_the_printed_job_script_with_tasks_killed(tmp_path):
    """What `dmft sweep submit` prints, run by bash in the place of SLURM: four tasks at once."""
    import sympy as sp

    model, tasks, rng = tmp_path / "model.toml", 4, np.random.default_rng(0)
    model.write_text(DECLARATION)
    command = [sys.executable, "-m", "dmft.cli.main", "sweep"]
    script = subprocess.run(
        [*command, "submit", str(model), "--of", str(tasks)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip

    def task(index):
        return subprocess.Popen(
            ["bash", "-c", script], env={**os.environ, "SLURM_ARRAY_TASK_ID": str(index)},
            start_new_session=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip

    subprocess.run([*command, "work", str(model), "--of", "6000"], check=True)  # compiles
    stored, running = [], [task(index) for index in range(tasks)]
    for _ in range(6):
        time.sleep(float(rng.uniform(1.0, 4.0)))
        index = int(rng.integers(tasks))
        if running[index].poll() is None:
            os.killpg(running[index].pid, signal.SIGKILL)
            running[index].wait()
            running[index] = task(index)
        stored.append(open_store(tmp_path / "store").read().records.size)
    assert [process.wait() for process in running] == [0] * tasks
    assert stored == sorted(stored)
    assert len(set(stored)) > 2, "killed before there was something to lose"
    found = subprocess.run(
        [*command, "collect", str(model), "--json"], capture_output=True, check=True
    )
    found = json.loads(found.stdout)
    assert found["count"] == {"ok": 6000}
    contents = open_store(tmp_path / "store").read()
    print(f"stored at the kills {stored}, computed twice {contents.repeated}")
    assert contents.repeated == 0  # nor the point of another number of parts
    square = dmft.Committee(sp.Symbol("z", real=True) ** 2, 1)
    equations = dmft.derive(dmft.Model(square, square), dmft.SGD(0.1, constraint="sphere"))
    whole = dmft.sweep(
        found["axes"], "final_risk", equations=equations, start=dmft.Overlaps([[1.0]], [[0.1]]),
        t_max=3000.0,
    )  # fmt: skip
    assert np.array(found["values"]["final_risk"]).tobytes() == whole.values["final_risk"].tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [5, 6])
def test_dask_driver_and_workers_killed(tmp_path, monkeypatch, seed):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setenv("LOGS", str(tmp_path))
    monkeypatch.setenv("SESSION", "dask")
    monkeypatch.syspath_prepend(HERE)
    ledger, before = Ledger(tmp_path, 10_000, seed), np.zeros(10_000, dtype=int)
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        for _ in range(5):
            process = ledger.start(cluster.scheduler_address)
            ledger.wait(process)
            workers = [pid for pid in ledger.pids("dask") if alive(pid)]
            if workers:  # its nanny starts another one
                os.kill(int(ledger.rng.choice(workers)), signal.SIGKILL)
                ledger.kills += 1
                ledger.wait(process)
            kill(ledger, process, "all")
            while len(cluster.scheduler.clients) > 1 or cluster.scheduler.tasks:
                time.sleep(0.05)
            while not is_quiet(tmp_path):
                pass
            called = ledger.calls("dask") - before
            ledger.audit(process.session, called=called, flying=8 * CHUNK)
            before += called
    ledger.compare()


def is_quiet(folder):
    """Whether no point was called for a while: the workers finished what they had."""
    sizes = [sum(path.stat().st_size for path in folder.glob("calls-*"))]
    time.sleep(1.0)
    sizes.append(sum(path.stat().st_size for path in folder.glob("calls-*")))
    return sizes[0] == sizes[1]
