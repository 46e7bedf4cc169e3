"""A store at full size, written directly: `python tests/benchmarks/full_size_sweep.py 1e8 1000`.

Writes so many points in so many parts (48 bytes each, in a temporary folder or in that of the third
argument), then collects them, saves the result, and resumes one part that lacks nothing. Prints CPU
seconds and the memory of each in a process of its own.
"""

import multiprocessing
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from dmft.analysis.sweeps.run_sweep import collect, run_sweep
from dmft.analysis.sweeps.store import Store, open_store
from dmft.analysis.sweeps.sweep import as_points

CHUNK = 1 << 16


def axes(size):
    """A product of two axes with so many points."""
    rows = round(size**0.5)
    return {"a": np.arange(float(rows)), "b": np.arange(float(size // rows))}


def measure(a, b):
    """Never called: the store lacks nothing."""
    raise AssertionError


def write(folder, grid, parts):
    """Records of all points, the value of each its number."""
    points = as_points(grid)
    for part in range(parts):
        store = Store.open(folder, {"measure": "measure"}, ("value",), (part, parts))
        mine = np.arange(part, len(points), parts)
        for begin in range(0, mine.size, CHUNK):
            numbers = mine[begin : begin + CHUNK]
            records, keys = np.zeros(numbers.size, dtype=store.kind), points.keys(numbers)
            records["high"], records["low"] = keys["high"], keys["low"]
            records["values"][:, 0] = numbers
            store.append(records, {})
        store.close()


def gather(folder, grid, parts):
    """Collect, and check every value."""
    values = collect(grid, open_store(folder)).values["value"].ravel()
    assert all(
        np.array_equal(values[n : n + CHUNK], np.arange(n, min(n + CHUNK, values.size)))
        for n in range(0, values.size, CHUNK)
    )


def save(folder, grid, parts):
    """Collect and write the netCDF file."""
    target = folder.with_suffix(".nc")
    collect(grid, open_store(folder)).save(target)
    print(f"  file of {target.stat().st_size / 1e9:.2f} GB")


def resume(folder, grid, parts):
    """One part that lacks nothing."""
    done = run_sweep(grid, measure, store=folder, part=(parts // 3, parts))
    assert (done.computed, done.complete) == (0, True)


def reported(job, *given):
    """Run in this process and print what it took beyond the start of the interpreter."""
    memory, began = peak(), time.process_time()
    job(*given)
    print(
        f"{job.__name__:8s} {time.process_time() - began:9.2f} s of CPU, "
        f"{peak() - memory:7.3f} GB beyond {memory:.2f}",
        flush=True,
    )


def peak():
    """Largest memory of this process so far, GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


def main(size, parts, parent=None):
    grid = axes(size)
    with tempfile.TemporaryDirectory(dir=parent) as name:
        folder = Path(name) / "store"
        for job in (write, gather, save, resume):
            process = multiprocessing.get_context("spawn").Process(
                target=reported, args=(job, folder, grid, parts)
            )
            process.start()
            process.join()
            assert process.exitcode == 0
            if job is write:
                sizes = [entry.stat().st_size for entry in os.scandir(folder)]
                print(f"  {sum(sizes) / 1e9:.2f} GB in {len(sizes)} files")


if __name__ == "__main__":
    main(int(float(sys.argv[1])), int(sys.argv[2]), *sys.argv[3:])
