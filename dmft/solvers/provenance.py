"""Who computed a record, with what and of which problem."""

from __future__ import annotations

import hashlib
import platform
from functools import lru_cache
from typing import Any

import numpy as np

from dmft.names import VERSION
from dmft.solvers.problem import Block, Problem


def describe_problem(problem: Problem) -> dict[str, Any]:
    """Versions, fingerprint of the problem and unit of its time, as plain JSON values."""
    import numba
    import scipy

    return {
        "dmft": VERSION,
        "numpy": np.__version__,
        "numba": numba.__version__,
        "scipy": scipy.__version__,
        "python": platform.python_version(),
        "problem": _fingerprint(problem.source, problem.state, problem.observables),
        "time_unit": "steps" if problem.kind == "map" else problem.time_unit,
    }


@lru_cache(maxsize=64)
def _fingerprint(source: str, state: tuple[Block, ...], observables: tuple[str, ...]) -> str:
    text = repr((source, state, observables))
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
