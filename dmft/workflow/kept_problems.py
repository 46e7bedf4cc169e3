"""Compiled equations of an earlier process, linked without Numba.

To import Numba and to load one cached function takes a process half a second, more than it takes to
solve most equations. So what Numba compiled is kept once more, as the object files that
`dmft.compiled.machine_code` links, under a name that says equations, library and machine
(`dmft.compiled.records`). The code and its bits are the same. New equations are compiled straight
from their text (`dmft.compiled.direct`) where another model's domain and loops are kept.

It is called through `ctypes`, which costs a run of .34 ms no more than Numba's way (median of 300).
A process that has loaded Numba already, or that asks for more than a plain run, takes Numba's way.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from typing import TYPE_CHECKING, Any

from dmft.codegen.build import DIVIDER, parallel_band, problem_of_functions, stored_source
from dmft.compiled import direct, records
from dmft.compiled.machine_code import Native
from dmft.solvers.runge_kutta.tableau import PAIRS
from dmft.workflow.kept_runs import FUNCTIONS, file_of, functions_of, keep_code, linked

if TYPE_CHECKING:
    from dmft.equations.equations import Equations
    from dmft.solvers.problem import Problem
    from dmft.workflow.solve import Options

# Functions that no other equations have.
OWN = ("rhs", "observe")
_LOCK = threading.Lock()
# Text, functions and band of the problems that this process has linked.
_LINKED: dict[str, tuple[str, dict[str, Any], float]] = {}
# The last problem of each of them.
_PROBLEMS: dict[str, Problem] = {}
_ASKED: set[str] = set()


def is_linked(problem: Problem) -> bool:
    """Whether the functions of a problem are machine code without Numba."""
    return isinstance(problem.rhs, Native)


def kept_problem(equations: Equations, options: Options) -> Problem | None:
    """Compiled problem for one plain run; None where Numba is to be asked."""
    events = options.events
    plain = options.method in (None, *PAIRS) and isinstance(events, tuple) and not events
    if not plain or "numba" in sys.modules or equations.noise or equations.averages:
        return None
    with _LOCK:
        for way in (_found, _made):
            with contextlib.suppress(Exception):  # no record, or one of another form
                return way(_name(equations), equations)
        return None


def _name(equations: Equations) -> str:
    return file_of("problem", equations.fingerprint, equations.kind)


def _found(name: str, equations: Equations) -> Problem:
    """The problem of these equations: others of the same text may declare other values."""
    if name not in _LINKED:
        found = records.load(name)
        if found is None:
            raise LookupError(name)
        functions = linked(found[0]["code"])
        own = {part: functions.get(part) for part in FUNCTIONS}
        _LINKED[name] = found[0]["source"], own, found[0]["band"]
    if name not in _PROBLEMS or _PROBLEMS[name].origin is not equations:
        _PROBLEMS[name] = problem_of_functions(equations, *_LINKED[name])
    return _PROBLEMS[name]


def _made(name: str, equations: Equations) -> Problem:
    """The problem of new equations: compiled from its text, with a domain and loops kept before."""
    source = stored_source(equations)
    rates, seen, domain = source.split(DIVIDER)
    found = records.load(_shared(equations.kind, domain))
    if found is None:
        raise LookupError("no such run yet")
    own = {"rhs": direct.native(rates, "rhs"), "observe": direct.native(seen, "observe")}
    code = found[0]["code"] | {part: keep_code(function) for part, function in own.items()}
    records.store(name, {"source": source, "band": parallel_band(source), "code": code}, {})
    return _found(name, equations)


def _shared(kind: str, domain: str) -> str:
    """Name of the record of what equations share: their domain, and the loops of their kind."""
    return file_of("shared", kind, domain)


def keep_problem(problem: Problem) -> None:
    """Keep what was compiled for equations that have run, once in a process and a machine.

    A problem with a tail has the rates of its equations inside of others: it is not theirs.
    """
    equations = problem.origin
    if problem.tail or is_linked(problem) or problem.diffusion is not None:
        return
    if equations.fingerprint in _ASKED:
        return
    _ASKED.add(equations.fingerprint)
    try:
        name = _name(equations)
        if records.load(name) is None:
            values = {"source": problem.source, "band": problem.parallel_band}
            code = _codes(problem)
            records.store(name, {**values, "code": code}, {})
            code = {part: file for part, file in code.items() if part not in OWN}
            shared = _shared(problem.kind, problem.source.split(DIVIDER)[-1])
            records.store(shared, {"code": code}, {})
    except Exception:  # what Numba does not keep, or keeps in another way: nothing is lost
        return


def _codes(problem: Problem) -> dict[str, str]:
    """Files of the functions that a run calls, and of its loops, by name."""
    found = functions_of(problem, ["iterate" if problem.kind == "map" else "advance"])
    return {part: keep_code(function) for part, function in found.items()}
