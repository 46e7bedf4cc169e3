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


# What these processes cannot do without.
FLOORS = {
    "Numba and one cached function": FLOOR,
    "import sympy": "import sympy",
    "import numpy, llvmlite.binding": "import numpy, llvmlite.binding",
    "a figure without curves": "from matplotlib.figure import Figure; Figure().savefig('0.png')",
}
# CPU seconds of the steps of a session whose equations are new to the process.
STEPS = """
import time
import sympy as sp, dmft
z = sp.Symbol("z", real=True)
unit = dmft.Committee(sp.erf(z / sp.sqrt(2)), 2)
start = dmft.Overlaps([[1, .1], [.1, 1]], [[.2, .1], [0, .3]])
model = dmft.Model(unit, unit, 1e-3)
steps = {
    "derive": lambda: globals().update(equations=dmft.derive(model, dmft.SGD(0.5))),
    "explicit(2, 2)": lambda: equations.explicit(2, 2),
    "explicit(2, 2), again": lambda: equations.explicit(2, 2),
    "evaluate": lambda: equations.evaluate(start),
    "evaluate, again": lambda: equations.evaluate(start),
    "build, from the cache": lambda: dmft.build(equations),
    "build, again": lambda: dmft.build(equations),
    "solve": lambda: dmft.solve(equations, start, 10.0),
    "solve, again": lambda: dmft.solve(equations, start, 10.0),
}
for name, step in steps.items():
    began = time.process_time()
    step()
    print(f"{name}: {time.process_time() - began}")
"""
# CPU seconds of compiling a new model, and what LLVM takes of it.
COMPILED = (
    """
import time
from dmft.compiled import direct
spent = {"code_from_text": 0.0, "_optimised": 0.0}
def timed(name):
    plain = getattr(direct, name)
    def call(*arguments):
        began = time.process_time()
        try:
            return plain(*arguments)
        finally:
            spent[name] += time.process_time() - began
    setattr(direct, name, call)
for name in spent:
    timed(name)
"""
    + NEW.format(number=99)
    + """
print(f"compiling: {spent['code_from_text']}")
print(f"  of which LLVM: {spent['_optimised']}")
"""
)


def inside(code, cache):
    """What a process says of its own parts, by name."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(cache),
        cwd=cache,
        check=True,
        capture_output=True,
        text=True,
    )
    rows = (row.rsplit(": ", 1) for row in done.stdout.splitlines())
    return {name: float(seconds) for name, seconds in rows}


def environment(cache):
    """Everything that is kept is kept in `cache`."""
    return {
        **os.environ,
        "DMFT_CACHE_DIR": cache,
        "NUMBA_CACHE_DIR": str(Path(cache) / "numba"),
        "PYTHONPATH": str(ROOT),
        "MPLBACKEND": "Agg",
    }


def process(command, cache):
    """CPU seconds and largest resident memory (MB) of a process, whose children count."""
    if isinstance(command, str):
        command = ["-c", command, cache]
    running = subprocess.Popen(
        [sys.executable, *command],
        env=environment(cache),
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
        for name, code in FLOORS.items():
            tell(name, least([code] * REPEATS, cache))
        line("steps of one session, CPU", "seconds")
        sessions = [inside(STEPS, cache) for _ in range(REPEATS)]
        for name in sessions[0]:
            line(name, f"{min(session[name] for session in sessions):.3f} s")
        for name, seconds in inside(COMPILED, cache).items():
            line(name, f"{seconds:.2f} s")


if __name__ == "__main__":
    main()
