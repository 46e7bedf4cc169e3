"""Benchmarks, one table after the other: `python tests/benchmarks`, or those that are named, as in
`python tests/benchmarks starts dynamics`.
"""

import importlib
import sys

NAMES = (
    "starts",
    "dynamics",
    "derivation",
    "paths",
    "descent",
    "regions",
    "sweeps",
    "points",
    "two_time",
    "structured",
    "first_runs",
    "waits",
    "beside",
)

wanted = sys.argv[1:] or NAMES[:-1]  # The last one needs numbalsoda and Cython.
unknown = sorted(set(wanted) - set(NAMES))
if unknown:
    sys.exit(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(NAMES)}")
for name in wanted:
    importlib.import_module(f"bench_{name}").main()
    print()
