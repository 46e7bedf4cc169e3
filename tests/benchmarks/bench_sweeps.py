"""Sweeps: overhead, parallel efficiency, store (`python tests/benchmarks`).

Best of several. Points are runs of an erf committee whose length is tuned to the seconds that are
asked for. Efficiency on n cores is T1 / (n Tn), both of the same sweep with the same store.
"""

import contextlib
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import sympy as sp
from table import line

import dmft
from dmft.analysis.sweeps.run_sweep import collect, run_sweep
from dmft.analysis.sweeps.store import open_store

REPEATS, CORES = 3, 2
TRIVIAL = {"a": np.arange(400.0), "b": np.arange(500.0)}
RATES = (0.4, 0.6)


def trivial(a, b):
    """A point that costs nothing."""
    return a + b


def seconds_of(job, repeats=REPEATS):
    """Least wall time of several calls."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        job()
        times.append(time.perf_counter() - began)
    return min(times)


@contextlib.contextmanager
def stores(used):
    """Names of stores that are not there yet, or None."""
    with tempfile.TemporaryDirectory() as folder:
        numbers = iter(range(10**6))
        yield lambda: Path(folder) / str(next(numbers)) if used else None


def executors():
    """Ready executors by name: what they cost to start is not that of a point."""
    yield "threads", lambda: contextlib.nullcontext("threads")
    yield (
        "processes",
        lambda: ProcessPoolExecutor(CORES, mp_context=get_context("spawn")),
    )
    with contextlib.suppress(ImportError):
        from distributed import Client, LocalCluster

        @contextlib.contextmanager
        def dask():
            with (
                LocalCluster(
                    n_workers=CORES, threads_per_worker=1, processes=True, dashboard_address=None
                ) as cluster,
                Client(cluster) as client,
            ):
                yield client

        yield "Dask", dask


def overhead():
    """Microseconds of a point that costs nothing."""
    size = TRIVIAL["a"].size * TRIVIAL["b"].size
    print(f"{size} points that cost nothing: us each, without and with a store")
    for name, make in executors():
        with make() as executor:
            row = []
            for used in (False, True):
                with stores(used) as fresh:

                    def job(executor=executor, fresh=fresh):
                        run_sweep(TRIVIAL, trivial, store=fresh(), executor=executor, workers=CORES)

                    job()
                    row.append(f"{1e6 * seconds_of(job, 3) / size:.1f}")
        line(name, *row)


def timed_run(seconds):
    """Return a run of an erf committee that takes about so long, as a function of the rate."""
    erf = dmft.Committee(sp.erf(sp.Symbol("z", real=True) / sp.sqrt(2)), 2)
    equations = dmft.derive(dmft.Model(erf, erf), dmft.SGD(0.5))
    start = dmft.random_overlaps(equations.model, 100, 0)

    def run(learning_rate, t_max):
        found = dmft.solve(equations, start, t_max, learning_rate=learning_rate, save_at=2)
        return found.risk[-1]

    t_max = 100.0
    run(0.5, t_max)
    rates = np.linspace(*RATES, 10)
    for _ in range(6):
        each = seconds_of(lambda until=t_max: [run(rate, until) for rate in rates]) / rates.size
        t_max *= seconds / each
    return lambda learning_rate, until=t_max: run(learning_rate, until)


def apart(run, rates):
    """A plain loop over a share of the points in each of some processes that do nothing else."""

    def loop(n):
        for rate in rates[n::CORES]:
            run(rate)

    children = [get_context("fork").Process(target=loop, args=(n,)) for n in range(CORES)]
    for child in children:
        child.start()
    for child in children:
        child.join()


def efficiency():
    """Two threads against one."""
    print("runs of an erf committee, ms each in a plain loop: overhead of a point on one core,")
    print("efficiency on two cores, and that of two plain loops in two processes, the ceiling")
    for seconds, count in ((0.010, 200), (0.001, 2000)):
        run = timed_run(seconds)
        points = {"learning_rate": np.linspace(*RATES, count)}
        plain = seconds_of(lambda run=run, points=points: [run(x) for x in points["learning_rate"]])
        ceiling = seconds_of(lambda run=run, points=points: apart(run, points["learning_rate"]))
        for used in (False, True):
            with stores(used) as fresh:

                def job(n, run=run, points=points, fresh=fresh):
                    run_sweep(points, run, store=fresh(), workers=n)

                one, many = (seconds_of(lambda n=n, job=job: job(n)) for n in (1, CORES))
            line(
                f"{1e3 * plain / count:.2f} ms, {'with a store' if used else 'without'}",
                f"{1e6 * (one - plain) / count:.0f} us",
                f"{100 * one / (CORES * many):.0f} %",
                f"{100 * plain / (CORES * ceiling):.0f} %",
            )


def storage():
    """What a store costs: disk, files, time to collect it and to see that nothing is missing."""
    size = TRIVIAL["a"].size * TRIVIAL["b"].size
    with stores(True) as fresh:
        store = fresh()
        for part in range(10):
            run_sweep(TRIVIAL, trivial, store=store, part=(part, 10))
        files = [entry.stat().st_size for entry in os.scandir(store)]
        gather = seconds_of(lambda: collect(TRIVIAL, open_store(store)))
        resume = seconds_of(lambda: run_sweep(TRIVIAL, trivial, store=store))
        task = seconds_of(lambda: run_sweep(TRIVIAL, trivial, store=store, part=(3, 10)))
    print(f"a store of {size} points in ten parts")
    line("bytes a point, files", f"{sum(files) / size:.1f}", str(len(files)))
    line(
        "us a point to collect, to resume, to resume one part",
        f"{1e6 * gather / size:.2f}",
        f"{1e6 * resume / size:.2f}",
        f"{1e7 * task / size:.2f}",
    )


def main():
    load = os.getloadavg()[0]
    print(f"sweeps (load of the machine {load:.1f})")
    efficiency()
    overhead()
    storage()


if __name__ == "__main__":
    main()
