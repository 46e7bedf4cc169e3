"""First runs of new models where the package's code is kept, with the compiler of `dmft.compiled`
and by Numba alone (`python tests/benchmarks first_runs`): CPU seconds of a process of its own, and
of the same run again. Both are compiled in one cache, from which a run of another model has kept
the loops.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from table import line

ROOT = Path(__file__).parents[2]
HEAD = """
import sys, time
import sympy as sp, dmft
from dmft.compiled.sealed import Deferred
number, by_numba = float(sys.argv[1]), sys.argv[2] == "numba"
if by_numba:
    Deferred.native = None
z = sp.Symbol("z", real=True)
def timed(equations, start, *given, **options):
    for _ in range(2):
        began = time.process_time()
        dmft.solve(equations, start, *given, progress=False, **options)
        print(time.process_time() - began)
def model(activation, p, noise=0.1):
    unit = dmft.Committee(activation, p)
    return dmft.Model(unit, unit, noise)
"""
DESCENT = """
of = model({activation}, 2)
start = dmft.random_overlaps(of, dim=200, seed=0)
timed(dmft.derive(of, dmft.GradientDescent(0.3, samples_per_dim=3)), start, 10, threads=1)
"""
HUBER = """
of = model({activation}, 2, 0.0)
start = dmft.random_overlaps(of, dim=100, seed=0)
timed(dmft.derive(of, dmft.SGD(0.5, loss="huber")), start, 2.0)
"""
PATHS = """
of = model(number * (z**3 - 3 * z), 1)
rule = dmft.SGD(0.01, constraint="sphere")
start = dmft.Overlaps([[1.0]], [[0.1]])
timed(dmft.derive(of, rule, dim=500, fluctuations=True), start, 1.0, paths=200, dt=0.002, seed=1)
"""
JOBS = {
    "descent, tanh": DESCENT.format(activation="sp.tanh(number * z)"),
    "descent, ReLU": DESCENT.format(activation="sp.Max(0, number * z)"),
    "Huber loss, erf": HUBER.format(activation="sp.erf(number * z)"),
    "paths of a third Hermite polynomial": PATHS,
}


def seconds(code, cache, number, way):
    """First run and the run again."""
    kept = {"DMFT_CACHE_DIR": cache, "NUMBA_CACHE_DIR": f"{cache}/numba", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-c", HEAD + code, str(number), way]
    done = subprocess.run(
        command, env={**os.environ, **kept}, check=True, capture_output=True, text=True
    )
    return [float(row) for row in done.stdout.split()]


def main():
    """Print the table."""
    line("CPU seconds", "dmft", "by Numba", "ratio")
    for name, code in JOBS.items():
        with tempfile.TemporaryDirectory() as cache:
            for way in ("dmft", "numba"):
                seconds(code, cache, 0.75, way)
            ours, theirs = (seconds(code, cache, 1.25, way) for way in ("dmft", "numba"))
        for when, a, b in zip(("first", "again"), ours, theirs, strict=True):
            line(f"{name}, {when}", f"{a:.2f} s", f"{b:.2f} s", f"{b / a:.1f}x")


if __name__ == "__main__":
    main()
