"""What each test costs, as a plugin of pytest: CPU seconds, with ended children, and megabytes.

PYTHONPATH=tests/benchmarks COSTS=costs.tsv pytest -q -p costs

Lines of `COSTS` are the name of a test, its seconds, and the memory of its process afterwards.
"""

import os
import resource
from pathlib import Path

import pytest


def seconds():
    """CPU seconds of this process and of its children that have ended."""
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    spent = [resource.getrusage(who) for who in whose]
    return sum(each.ru_utime + each.ru_stime for each in spent)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    began = seconds()
    try:
        return (yield)
    finally:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        megabytes = pages * os.sysconf("SC_PAGE_SIZE") // 2**20
        with Path(os.environ["COSTS"]).open("a") as file:
            file.write(f"{item.nodeid}\t{seconds() - began:.3f}\t{megabytes}\n")
