"""The integrator is machine code on disk: no process but the first compiles it."""

from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = """
import json, os
from numba import njit
from dmft.solvers import explicit
from dmft.solvers.events import Event
from dmft.solvers.problem import Block, Problem
from dmft.solvers.signatures import RHS_SIGNATURE
from dmft.solvers.solve import solve_problem

@njit(RHS_SIGNATURE)
def rhs(t, y, widths, par, out):
    out[0] = -y[0]

problem = Problem("ode", rhs, (Block("y", ()),), ())
run = solve_problem(problem, {"y": 1.0}, 5.0, widths={}, events=[Event("y", 0.5)])
dispatchers = [explicit.advance, explicit.watch_function(1)]
print(json.dumps({
    "hits": [len(d.stats.cache_hits) for d in dispatchers],
    "signatures": [len(d.signatures) for d in dispatchers],
    "t": float(run.t[-1]),
}))
"""


def test_a_second_process_loads_the_loop_and_takes_any_right_hand_side():
    for _ in range(2):
        text = subprocess.run(
            [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
        ).stdout
    report = json.loads(text)
    assert report["hits"] == [1, 1]
    assert report["signatures"] == [1, 1]
    assert abs(report["t"] - 0.6931471805599453) < 1e-7


def test_importing_the_package_loads_no_compiler():
    script = "import sys, dmft, dmft.solvers, dmft.progress; print('numba' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
