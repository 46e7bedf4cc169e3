"""Phase diagram of the two-token attention (`python tests/benchmarks`).

Wall and CPU seconds from an empty cache of tables, best of several. The baseline evaluates the risk
of each point on 257 places of the circle with the same tables: cheaper than sums over four fields
for each loss (theory/sequence D.9), and it sees no minimum between its places.
"""

import time

import numpy as np
from table import line

from dmft.literature import (
    positional_semantic_boundaries,
    positional_semantic_diagram,
    positional_semantic_risk,
)
from dmft.literature import two_token_curves as curves
from dmft.literature import two_token_tables as tables

REPEATS, SIZE, SAMPLE = 5, 200, 40


def cleared():
    """Forget all tables."""
    for cached in (tables.tables, tables.circle, curves.curves):
        cached.cache_clear()


def best(function, empty=True):
    """Return the least wall and CPU time of several calls."""
    times = []
    for _ in range(REPEATS):
        if empty:
            cleared()
        wall, cpu = time.perf_counter(), time.process_time()
        function()
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    return np.min(times, axis=0)


def by_search():
    """Minima of some points of the grid on places of the circle, and the time for one point."""
    angles = np.linspace(0, np.pi / 2, 257)
    e, m = np.sin(angles), np.cos(angles)
    rng = np.random.default_rng(0)
    began = time.process_time()
    for a, omega in rng.uniform(0.5, 1.0, (SAMPLE, 2)):
        f = positional_semantic_risk(a, omega)(e, m)
        f[:-1].argmin()
    return (time.process_time() - began) / SAMPLE


def main():
    axis, fine = np.linspace(0.0, 1.0, SIZE), np.linspace(0.5, 1.5, 1001)
    print("two-token attention: wall s, CPU s")
    jobs = {
        "tables": tables.tables,
        "boundaries at 1001 a, with tables": lambda: positional_semantic_boundaries(fine),
        "regions 200 x 200, with tables": lambda: positional_semantic_diagram(axis, axis),
    }
    for name, job in jobs.items():
        wall, cpu = best(job)
        line(name, f"{wall:.2f}", f"{cpu:.2f}")
    _, cpu = best(jobs["regions 200 x 200, with tables"], empty=False)
    search = by_search()
    exact = 1e6 * cpu / SIZE**2
    line("one point in us, exact and by search", f"{exact:.1f}", f"{1e6 * search:.0f}",
         f"{1e6 * search / exact:.0f}")  # fmt: skip


if __name__ == "__main__":
    main()
