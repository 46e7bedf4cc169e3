"""The integrator is machine code on disk: no process but the first compiles it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from dmft import solvers

SCRIPT = """
import json, sys
from importlib import import_module
from numba import njit
from dmft.solvers.events import Event
from dmft.solvers.problem import Block, Problem
from dmft.solvers.signatures import RHS_SIGNATURE
from dmft.solvers.solve import solve_problem

@njit(RHS_SIGNATURE)
def rhs(t, y, widths, par, out):
    out[0] = -y[0]

problem = Problem("ode", rhs, (Block("y", ()),), ())
run = solve_problem(problem, {"y": 1.0}, 5.0, widths={}, events=[Event("y", 0.5)])
loops = [name.rpartition(".") for name in sys.argv[1:]]
dispatchers = [getattr(import_module(f"dmft.solvers.{room}"), name) for room, _, name in loops]
print(json.dumps({
    "hits": [len(d.stats.cache_hits) for d in dispatchers],
    "signatures": [len(d.signatures) for d in dispatchers],
    "t": float(run.t[-1]),
}))
"""
DISPATCHERS = {
    "flows and maps": (
        "runge_kutta.explicit.advance", "runge_kutta.crossings.watch",
        "runge_kutta.discrete.iterate", "runge_kutta.batch_loop.fly",
    ),
    "paths": ("stochastic.schemes.advance_euler", "stochastic.schemes.advance_weak"),
}  # fmt: skip


@pytest.mark.parametrize("loops", DISPATCHERS.values(), ids=DISPATCHERS)
def test_a_second_process_loads_the_loop_and_takes_any_right_hand_side(loops):
    # Another worker may compile the same loops just now, and its index replaces that of the first
    # process here: then the third or fourth finds them.
    for _ in range(4):
        text = subprocess.run(
            [sys.executable, "-c", SCRIPT, *loops], capture_output=True, text=True, check=True
        ).stdout
        report = json.loads(text)
        if report["hits"] == [1] * len(loops):
            break
    assert report["hits"] == [1] * len(loops)
    assert report["signatures"] == [1] * len(loops)
    assert abs(report["t"] - 0.6931471805599453) < 1e-7


def test_importing_the_package_loads_no_compiler():
    script = "import sys, dmft, dmft.solvers, dmft.progress; print('numba' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


SOLVERS = Path(solvers.__file__).parent
LOOP = ("signatures", *(f"runge_kutta/{name}" for name in ("layout", "primitives")))
FLOW = (*LOOP, "runge_kutta/tableau")
BACKWARD = (*FLOW, "runge_kutta/explicit")
VECTORS = tuple(f"../compiled/{n}" for n in ("vectors", "instructions", "known_functions"))
PATHS = (*LOOP, "stochastic/loop")


# What each loop is built on; a file stands behind those that it is built on.
BUILT_ON = {
    "runge_kutta/crossings": LOOP,
    "runge_kutta/explicit": FLOW,
    "runge_kutta/backward": BACKWARD,
    "runge_kutta/discrete": LOOP,
    "runge_kutta/batch_loop": FLOW,
    "runge_kutta/lanes": (*BACKWARD, "runge_kutta/batch_loop", *VECTORS),
    "stochastic/schemes": PATHS,
}


def stamp_of_loop(module):
    """Line that stands in the file of a loop (`python tests/emit/restamp.py` renews it)."""
    digest = hashlib.blake2b(digest_size=8)
    for name in BUILT_ON[module]:
        digest.update((SOLVERS / f"{name}.py").read_bytes())
    return f'BUILT_ON = "{digest.hexdigest()}"'


@pytest.mark.parametrize("module", BUILT_ON)
def test_a_change_of_what_the_loop_is_built_on_renews_its_cache(module):
    """Numba's cache looks at the file of the entry point only; `BUILT_ON` makes it change."""
    text = (SOLVERS / f"{module}.py").read_text()
    assert stamp_of_loop(module) in text, "run python tests/emit/restamp.py"
