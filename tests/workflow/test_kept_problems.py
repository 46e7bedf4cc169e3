"""A second process solves by linked machine code, without Numba, and finds the same bits; whatever
is doubtful takes Numba's way.
"""

import contextlib
import io
import os
import subprocess
import sys

import pytest

from dmft.compiled import cache_directory
from dmft.workflow.kept_problems import _name

pytestmark = pytest.mark.compiled

# Of an activation that no other test has: a process keeps a problem once, whoever solves it.
EQUATIONS = """
import sympy as sp, dmft
z = sp.Symbol("z", real=True)
square = dmft.Committee(53 * z**2 / 50, width=1)
equations = dmft.derive(dmft.Model(square, square), dmft.SGD(0.053, constraint="sphere"))
"""
SCRIPT = f"""
import sys
{EQUATIONS}
start = dmft.Overlaps([[1.0]], [[0.1]])
events = [dmft.Event("risk", 1e-4)] if sys.argv[1] == "event" else ()
run = dmft.solve(equations, start, 3.0, events=events)
plain = "numba" not in sys.modules
faster = dmft.derive(dmft.Model(square, square), dmft.SGD(0.067, constraint="sphere"))
one, two = dmft.solve(faster, start, 3.0), dmft.solve(equations, start, 3.0, learning_rate=0.067)
assert one.M.tobytes() == two.M.tobytes() != run.M.tobytes()
for _ in range(int(sys.argv[2])):
    more = dmft.solve(equations, start, 3.0)
    assert more.Q.tobytes() == run.Q.tobytes()
last = "numba" not in sys.modules
rate = None
if sys.argv[1] == "schedule":
    followed = dmft.solve(run.problem, start, 3.0, learning_rate=sp.Symbol("risk") / 20)
    rate = followed.M.tobytes().hex()
print(plain, last, rate, run.message, run.M.tobytes().hex(), run.risk.tobytes().hex())
print(run.provenance)
"""


def said(cache, options="-", runs=0):
    """Whether the first and the last run were linked, and what the first found."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, options, str(runs)], capture_output=True, text=True,
        check=True, env={**os.environ, "DMFT_CACHE_DIR": str(cache)},
    )  # fmt: skip
    return words(done.stdout)


def words(text):
    first, last, *rest = text.split(" ", 2)
    return first == "True", last == "True", rest


@pytest.fixture(scope="module")
def solved():
    """The record that a run in this process writes, and what that run found."""
    scope, out = {}, io.StringIO()
    exec(EQUATIONS, scope)
    record = cache_directory() / _name(scope["equations"])
    record.unlink(missing_ok=True)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setattr(sys, "argv", ["-c", "-", "0"])
        exec(SCRIPT, scope)
    linked, _, found = words(out.getvalue())
    assert not linked
    assert record.exists()
    return record, found


def test_a_second_process_links_and_finds_the_same(solved):
    record, found = solved
    assert said(record.parent, runs=20) == (True, True, found)


@pytest.mark.slow
def test_more_than_a_plain_run_asks_numba(solved):
    assert said(solved[0].parent, "event")[0] is False


@pytest.mark.slow
def test_damaged_records_are_not_used_and_written_anew(solved):
    record, found = solved
    damaged = record.read_bytes()[:-1]
    record.write_bytes(damaged)
    assert said(record.parent)[2] == found
    assert record.read_bytes() != damaged


@pytest.mark.slow  # seconds of compiling; in one process tests/workflow/test_schedules.py
def test_a_linked_problem_takes_a_schedule(solved, tmp_path, lent):
    cache = solved[0].parent
    tmp_path.chmod(0o700)
    with lent(tmp_path):
        wanted = said(tmp_path, "schedule")
    assert said(cache, "schedule") == (True, True, wanted[2])
    assert not wanted[0]
