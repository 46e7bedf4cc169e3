# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # Large sweeps: what $10^8$ points on $10^3$ nodes cost, from parts measured here
#
# **Statement.** A sweep of $N$ points of $\tau$ seconds on $n$ nodes of $c$ cores, $W = nc$
# workers, takes at best $N\tau/W$ seconds. How much time do the store (durable before
# it is reported), the scheduler, a resumption and the collection add?
#
# **Assumptions.** A job array of $n$ tasks, `dmft sweep work --task I --of n`, with $c$ threads
# each; every chunk of points ends with one `fsync`; a file system that all nodes share.
#
# **Steps.**
#
# 1. *Size.* A record is a key (two words), $q$ numbers, a horizon, a status and a checksum, words
#    of 8 bytes: $8(5+q)N$ bytes, and a line of text for each failure.
# 2. *Files.* Each process has one shard, an additional text file if a point failed, and there are
#    `manifest.json` and `lock`: $n(1+r)+2$ files for $r$ requeues a task; points make no files.
# 3. *Disk and scheduler.* Chunks last $s = \min(\max(0.2,\, W/200),\, 60)$ seconds
#    (`dmft/analysis/sweeps/sweep.py`): all workers together end $W/s \le 200$ chunks a second up to
#    12 000 workers, $W/60$ beyond. Threads of a task whose chunks end together share an `fsync`. An
#    array asks SLURM for $n$ tasks and nothing else; Dask has one task a chunk.
# 4. *Kills.* Unfinished chunks are lost: at most one per worker, $s/(N\tau/W)$ of the work.
# 5. *Resumption.* A task makes the keys of its own $N/n$ points and reads its own shards only.
# 6. *Collection.* One process reads shard after shard and looks their keys up among those of the
#    points of that part: 17 bytes a point for the result (number, horizon, status), and the keys of
#    one part.
#
# Run as `python derivations/large_sweeps.py`: it measures the parts on this machine and prints the
# cost of three sweeps.

# %%
import os
import resource
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from dmft.analysis.sweeps.run_sweep import (
    CHUNK_SECONDS,
    CHUNKS_PER_SECOND,
    LONGEST_CHUNK_SECONDS,
    collect,
    look_up,
    run_sweep,
)
from dmft.analysis.sweeps.store import Store, open_store
from dmft.analysis.sweeps.sweep import as_points

PARTS, CHUNK = 20, 1000
AXES = {"a": np.linspace(0.0, 1.0, 400), "b": np.linspace(0.0, 2.0, 500)}


def seconds_of(job, repeats=3):
    """Least CPU time of several calls."""
    times = []
    for _ in range(repeats):
        began = time.process_time()
        job()
        times.append(time.process_time() - began)
    return min(times)


# %% [markdown]
# ## The parts
# The store is written directly, in `PARTS` parts and chunks of `CHUNK` points.

# %%
points = as_points(AXES)
numbers = np.arange(len(points))
folder = Path(tempfile.mkdtemp()) / "store"
appends = []
for part in range(PARTS):
    handle = Store.open(folder, {"measure": "trivial"}, ("value",), (part, PARTS))
    mine = np.arange(part, len(points), PARTS)
    for begin in range(0, mine.size, CHUNK):
        chunk = mine[begin : begin + CHUNK]
        records, keys = np.zeros(chunk.size, dtype=handle.kind), points.keys(chunk)
        records["high"], records["low"] = keys["high"], keys["low"]
        records["values"][:, 0] = chunk
        began = time.perf_counter()
        handle.append(records, {})
        appends.append(time.perf_counter() - began)
    handle.close()

sizes = [entry.stat().st_size for entry in os.scandir(folder)]
assert len(sizes) == PARTS + 1  # one file a process, and the manifest
record = 8 * (5 + 1)
assert sum(sizes) - (folder / "manifest.json").stat().st_size == record * len(points)

key = seconds_of(lambda: points.keys(numbers)) / len(points)
gather = seconds_of(lambda: collect(AXES, open_store(folder))) / len(points)
own = points.only(np.arange(0, len(points), PARTS))
resume = seconds_of(lambda: look_up(handle, own, np.arange(len(own)), lambda *_: None)) / len(own)
append = float(np.median(appends))
result = collect(AXES, open_store(folder))
assert np.array_equal(result.values["value"].ravel(), numbers)
kept = sum(a.nbytes for a in (*result.values.values(), result.horizon, result.codes))
assert kept == 17 * len(points)

print(f"key of a point                    {1e6 * key:8.3f} us")
print(f"collecting a point                {1e6 * gather:8.3f} us")
print(f"resuming, a point of the task     {1e6 * resume:8.3f} us")
print(f"append of a chunk, with its fsync {1e3 * append:8.3f} ms")

# %% [markdown]
# ## Threads share the waiting for the disk
# Eight threads that append one record each, again and again: fewer waits than appends.

# %%
shared = Store.open(folder.parent / "shared", {"measure": "trivial"}, ("value",))
waits, system = [], os.fsync


def counted(file):
    """Count the waits."""
    waits.append(file)
    system(file)


one = np.zeros(1, dtype=shared.kind)
os.fsync = counted
try:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: [shared.append(one, {}) for _ in range(20)], range(8)))
finally:
    os.fsync = system
print(f"waits for the disk of 160 appends by 8 threads {len(waits):4d}")
assert len(waits) < 160

# %% [markdown]
# ## What a driver adds to a point of a millisecond
# A Python loop represents the point; the sweep is one task of ten.


# %%
def busy(a, b):
    """A point of about one millisecond of work."""
    until = time.thread_time() + 1e-3
    while time.thread_time() < until:
        pass
    return a + b


small = {"a": AXES["a"][:100], "b": AXES["b"][:100]}
began = time.process_time()
done = run_sweep(small, busy, store=folder.parent / "small", part=(0, 10), workers=1)
added = (time.process_time() - began) / done.computed - 1e-3
print(f"added to a point of 1 ms          {1e6 * added:8.1f} us")
assert added < 1e-3

# %% [markdown]
# ## The whole
# $$\boxed{\text{store } 8(5+q)N,\quad \text{files } n(1+r)+2,\quad
#   \text{syncs a second } W/s \le \max(200, W/60),\quad
#   \text{resume } t_r N/n,\quad \text{collect } t_c N}$$


# %%
def cost(size, seconds, nodes, cores):
    """Print what a sweep of `size` points costs."""
    workers = nodes * cores
    chunk = min(max(CHUNK_SECONDS, workers / CHUNKS_PER_SECOND), LONGEST_CHUNK_SECONDS)
    wall = size * seconds / workers
    print(f"\n{size:.0e} points of {seconds:g} s on {nodes} nodes of {cores} cores")
    print(f"  work                   {wall / 3600:10.3f} h")
    print(f"  store                  {record * size / 1e9:10.3f} GB in {nodes + 2} files")
    print(f"  chunks                 {chunk:10.2f} s, {workers / chunk:.0f} syncs a second")
    print(f"  lost by a kill of all  {100 * min(1.0, chunk / wall):10.3f} % at most")
    print(f"  resume, each task      {resume * size / nodes:10.3f} s")
    print(f"  collect                {gather * size:10.1f} s, {17 * size / 1e9:.2f} GB")


cost(1e4, 0.01, 1, 2)
cost(1e6, 0.1, 1, 48)
cost(1e8, 10.0, 1000, 48)

# %% [markdown]
# ## Checked at full size
# `python tests/benchmarks/full_size_sweep.py 1e8 1000` on this project's machine (2 cores, a local
# disk): $10^8$ records in 1000 shards, 4.80 GB in 1001 files. `collect`: 31 s of CPU and 2.5 GB
# (twice: 23 and 31 s, 42 s on the busy machine); its netCDF file: 1.70 GB; one task of 1000 that
# finds nothing missing: 0.03 s and 20 MB. A single writer instead of 1000 (parts 1; one shard, or
# the workers of a Dask cluster) holds the keys of all points at once, 70 bytes a point.
#
# Once, by hand: $10^6$ points of 1 ms of work, in 100 parts by two processes on two busy cores, one
# of them killed once: 1040 s of CPU, 35 us added to a point (median over parts), 82 waits for the
# disk a part, none twice in the store, 170 MB a process; collected in 0.3 s.
#
# Before, keys were made one by one, all records were sorted at once, statuses were kept as words,
# and each task had the places of all points: 2.5 us and some 300 bytes a point to collect (30 GB),
# 7 GB for each task; the points of a list were sent along with each chunk, and each of 48 000
# threads waited for a separate disk five times a second.
#
# **Limits.** Dask: one scheduler takes a few hundred tasks a second, thus some $10^4$ workers
# with chunks of a minute; its driver holds all points. Threads: a run takes about 0.25 ms of the
# interpreter's lock when it is alone in its loop, so points of 10 ms fill 40 cores of a task, not
# more: take more tasks of fewer cores. SLURM: `MaxArraySize` (often 1001) bounds $n$.
#
# **Source.** `dmft/analysis/sweeps/store.py`, `lookup.py`, `sweep.py`;
# `tests/benchmarks/bench_sweeps.py` for the efficiency; `tests/analysis/test_sweeps_killed.py` for
# what survives.

# %%
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(f"\nmemory of all this: {peak:.0f} MB")
