"""What a new process costs: CPU seconds, user and system, and the most memory that it held
(`python tests/benchmarks starts`).

Each job runs in a process of its own and is repeated; the least is told. An empty cache holds
nothing of ours and nothing of Numba's.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from table import line

ROOT = Path(__file__).parents[2]
FIRST = ["-m", "dmft.cli.main", "solve", str(ROOT / "examples" / "saad_solla.toml")]
REPEATS = 5
MODEL = """
import sympy as sp, dmft
z = sp.Symbol("z", real=True)
unit = dmft.Committee({activation}, 2)
equations = dmft.derive(dmft.Model(unit, unit, 1e-3), dmft.SGD(0.5))
dmft.solve(equations, dmft.Overlaps([[1, .1], [.1, 1]], [[.2, .1], [0, .3]]), 10.0)
"""
ERF = MODEL.format(activation="sp.erf(z / sp.sqrt(2))")
NEW = MODEL.format(activation="sp.erf(z / {number})")
# What any compiled library pays: import Numba and load one trivial cached function.
FLOOR = """
import pathlib, sys
folder = pathlib.Path(sys.argv[1])
(folder / "trivial.py").write_text(
    "from numba import njit\\n@njit('f8(f8)', cache=True)\\ndef f(x):\\n    return x\\n")
sys.path.insert(0, str(folder))
import trivial
"""


def process(command, cache):
    """CPU seconds and largest resident memory (MB) of a process, whose children count."""
    environment = {
        **os.environ,
        "DMFT_CACHE_DIR": cache,
        "NUMBA_CACHE_DIR": str(Path(cache) / "numba"),
        "PYTHONPATH": str(ROOT),
        "MPLBACKEND": "Agg",
    }
    if isinstance(command, str):
        command = ["-c", command, cache]
    running = subprocess.Popen(
        [sys.executable, *command],
        env=environment,
        cwd=cache,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(running.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, command
    running.returncode = 0
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def least(commands, cache):
    """The process of least CPU time."""
    return min(process(command, cache) for command in commands)


def tell(what, found):
    seconds, memory = found
    line(what, f"{seconds:.2f} s", f"{memory:.0f} MB")


def main():
    """Print the table."""
    line("a new process, CPU", "seconds", "memory")
    for name, command in (
        ("dmft solve saad_solla.toml", FIRST),
        ("the same with --plot", [*FIRST, "--plot", "run.png"]),
    ):
        with tempfile.TemporaryDirectory() as cache:
            tell(f"{name}, empty cache", process(command, cache))
            tell("  second time", least([command] * REPEATS, cache))
    with tempfile.TemporaryDirectory() as cache:
        process(ERF, cache)
        tell("import, derive, solve (erf), warm", least([ERF] * REPEATS, cache))
        models = [NEW.format(number=number) for number in range(3, 3 + REPEATS)]
        process(NEW.format(number=2), cache)
        tell("the same, new model, package code cached", least(models, cache))
        tell("import dmft", least(["import dmft"] * REPEATS, cache))
        tell("Numba and one cached function", least([FLOOR] * REPEATS, cache))


if __name__ == "__main__":
    main()
