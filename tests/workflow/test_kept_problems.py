"""A second process solves by linked machine code, without Numba, and finds the same bits; whatever
is doubtful takes Numba's way.
"""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import sys
import sympy as sp, dmft
z = sp.Symbol("z", real=True)
square = dmft.Committee(z**2, width=1)
equations = dmft.derive(dmft.Model(square, square), dmft.SGD(0.05, constraint="sphere"))
start = dmft.Overlaps([[1.0]], [[0.1]])
events = [dmft.Event("risk", 1e-4)] if sys.argv[1] == "event" else ()
run = dmft.solve(equations, start, 3.0, events=events)
plain = "numba" not in sys.modules
faster = dmft.derive(dmft.Model(square, square), dmft.SGD(0.06, constraint="sphere"))
one, two = dmft.solve(faster, start, 3.0), dmft.solve(equations, start, 3.0, learning_rate=0.06)
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
print({name: value for name, value in run.provenance.items()})
"""


def said(cache, options="-", runs=0):
    """Whether the first and the last run were linked, and what the first found."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, options, str(runs)], capture_output=True, text=True,
        check=True, env={**os.environ, "DMFT_CACHE_DIR": str(cache)},
    )  # fmt: skip
    first, last, *rest = done.stdout.split(" ", 2)
    return first == "True", last == "True", rest


@pytest.fixture(scope="module")
def solved(tmp_path_factory, lent):
    """A cache after one run, and what that found."""
    cache = tmp_path_factory.mktemp("cache")
    cache.chmod(0o700)
    with lent(cache):
        linked, _, found = said(cache)
    assert not linked
    return cache, found


def test_a_second_process_links_and_finds_the_same(solved):
    cache, found = solved
    assert said(cache, runs=20) == (True, False, found)  # of many runs the last ask Numba


@pytest.mark.slow
def test_more_than_a_plain_run_asks_numba(solved):
    assert said(solved[0], "event")[0] is False


@pytest.mark.slow
def test_damaged_records_are_not_used_and_written_anew(solved):
    cache, found = solved
    (record,) = cache.glob("problem_*.bin")
    damaged = record.read_bytes()[:-1]
    record.write_bytes(damaged)
    assert said(cache)[2] == found
    assert record.read_bytes() != damaged


@pytest.mark.slow  # seconds of compiling; in one process tests/workflow/test_schedules.py
def test_a_linked_problem_takes_a_schedule(solved, tmp_path, lent):
    cache, _ = solved
    tmp_path.chmod(0o700)
    with lent(tmp_path):
        wanted = said(tmp_path, "schedule")
    assert said(cache, "schedule") == (True, True, wanted[2])
    assert not wanted[0]
