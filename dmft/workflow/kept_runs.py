"""Runs that were solved once, solved again by kept records and machine code.

A record holds what the integrator was asked (packed start, parameters, layout, tolerances) and what
the equations say of the run beside its numbers (`dmft.workflow.solving.one_pass.finish`), which
holds for a run with the same numbers only: a digest of them says so. The machine code is the one
that Numba kept, linked by `dmft.compiled.machine_code`. So neither SymPy nor Numba is loaded, and
the numbers are the same bits.

Whatever is doubtful is as good as no record: the caller then goes the long way.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dmft.compiled import records
from dmft.compiled.machine_code import LINKED, Code, Native, code_parts, link, native_of, read_code
from dmft.compiled.records import identity
from dmft.names import Status
from dmft.progress import ProgressOption
from dmft.record import decoded, encoded, is_same
from dmft.solvers.events import encode_events
from dmft.solvers.pointers import loop, loop_name
from dmft.solvers.problem import Block, Problem, describe_problem, sizes_of
from dmft.solvers.run import Setup
from dmft.solvers.runge_kutta.group import march
from dmft.solvers.solve import Request, trajectory_of
from dmft.solvers.trajectory import Trajectory, with_readout

# Raised when the content of records changes its form.
FORM = 3
# Fields of a problem, of a setup and of a request that are kept, and its compiled functions.
PROBLEM = (
    "kind", "parallel_band", "time_unit", "widths", "parameters", "observables", "state",
    "constants", "provenance",
)  # fmt: skip
FUNCTIONS = ("rhs", "observe", "domain", "covariance")
SETUP = (
    "method", "t_start", "t_end", "rtol", "atol", "max_steps", "first_step", "max_step", "bound",
    "trace", "worth", "par", "start", "save",
)  # fmt: skip
REQUEST = ("widths", "parameters", "constants", "provenance", "described")
DIGEST_SIZE = 16


def key_of(question: Any) -> str:
    """Name of the record of a question, plain values that determine a run.

    Raises `TypeError` or `OSError` or `ImportError` when it has none: values that are not plain, a
    library whose state cannot be told.
    """
    return file_of("run", question)


def file_of(kind: str, *question: Any) -> str:
    """Name of the file of a record, by what its content depends on besides library and machine."""
    text = json.dumps([FORM, identity(), *question])
    return f"{kind}_{hashlib.blake2b(text.encode(), digest_size=DIGEST_SIZE).hexdigest()}.bin"


@dataclass(frozen=True)
class Kept:
    """A record, with its code linked: ready to be solved."""

    request: Request
    ending: Mapping[str, Any]
    error: Mapping[str, Any] | None

    def solve(
        self, progress: ProgressOption, finish: Callable[[Trajectory], Trajectory]
    ) -> Trajectory:
        """Solve it again; `finish` completes a run that is another one (interrupted, say)."""
        given = replace(self.request, setup=replace(self.request.setup, progress=progress))
        run = trajectory_of(given, march(given.setup))
        ending = self.ending
        if numbers_of(run) != ending["numbers"]:
            return finish(run)
        run = replace(
            run, message=ending["message"], provenance=ending["provenance"], error=self.error
        )
        return with_readout(run) if ending["readout"] else run


def find(key: str) -> Kept | None:
    """The record of a key, None where there is none to rely on."""
    try:
        found = records.load(key)
        return None if found is None else _kept(decoded(*found, (Block,)))
    except Exception:  # ours, but of another form, or code that cannot be linked: the long way
        return None


def _kept(values: Mapping[str, Any]) -> Kept:
    functions: dict[str, Any] = linked(values["code"])
    own = {name: functions[name] for name in FUNCTIONS if name in functions}
    problem, asked, widths = Problem(**values["problem"], **own), values["setup"], values["widths"]
    setup = Setup(
        problem=problem,
        **asked,
        widths=sizes_of(problem, widths),
        events=(),
        table=encode_events((), problem, widths, asked["par"]),
        timeout=math.inf,
        progress=None,
    )
    request = Request(setup, **{name: values[name] for name in REQUEST})
    return Kept(request, values["ending"], values["error"])


def linked(files: Mapping[str, str]) -> dict[str, Native]:
    """Functions of a record by name; the loops are from now on those of the whole process."""
    wanted = {name: file for name, file in files.items() if name not in LINKED}
    found = link({name: _read_code(file) for name, file in wanted.items()})
    LINKED.update({name: one for name, one in found.items() if name not in FUNCTIONS})
    return {name: LINKED.get(name) or found[name] for name in files}


def _read_code(file: str) -> Code:
    code = read_code(file)
    if code is None:
        raise LookupError(file)
    return code


def keep(key: str, given: Request, run: Trajectory) -> bool:
    """Keep a run that was solved as asked, if it is of the kind that can be solved again."""
    try:
        return _keep(key, given, run)
    except Exception:  # code that is not kept, values that are not plain: nothing is lost
        return False


def _keep(key: str, given: Request, run: Trajectory) -> bool:
    setup, problem = given.setup, given.setup.problem
    plain = not (setup.events or math.isfinite(setup.timeout) or problem.jacobian is not None)
    if not (given.is_compiled and plain) or run.status in (Status.INTERRUPTED, Status.TIMEOUT):
        return False
    values = {
        "problem": {name: getattr(problem, name) for name in PROBLEM},
        "setup": {name: getattr(setup, name) for name in SETUP},
        **{name: getattr(given, name) for name in REQUEST},
        "described": describe_problem(problem),
        "ending": {
            "numbers": numbers_of(run, problem),
            "message": run.message,
            "provenance": dict(run.provenance),
            "readout": len(run.layout) > len(problem.state),
        },
        "error": run.error,
    }
    found, arrays = encoded(values, (Block,))
    if not is_same(decoded(found, arrays, (Block,)), values):  # what is no plain value
        return False
    found["code"] = {name: keep_code(function) for name, function in _used(setup, run).items()}
    return records.store(key, found, arrays)


def _used(setup: Setup, run: Trajectory) -> dict[str, Any]:
    """Compiled functions of a run by name, those that it called."""
    problem = setup.problem
    loops = []
    if problem.kind == "map":
        loops.append("iterate")
    elif setup.method != "BDF":
        loops.append("advance")
    if setup.method == "BDF" or "stiff_from" in run.provenance:
        loops.append("advance_backward")
    return functions_of(problem, loops)


def functions_of(problem: Problem, loops: Sequence[str]) -> dict[str, Any]:
    """Compiled functions of a problem and of its runs by name, and more loops."""
    found = {n: getattr(problem, n) for n in FUNCTIONS if getattr(problem, n) is not None}
    more = ["fly", "unwatched"]
    more += ["evaluate_rows"] if problem.observables else []
    more += ["nothing"] if problem.observe is None else []
    more += ["everywhere"] if problem.domain is None else []
    return found | {loop_name(name): loop(name) for name in (*more, *loops)}


def keep_code(function: Any) -> str:
    """Name of the file that holds the code of a function; written if it is not there."""
    native = native_of(function)
    if native is not None:
        code = native.code
    else:
        from dmft.compiled.object_files import code_of

        code = code_of(function)
    values, arrays = code_parts(code)
    digest = hashlib.blake2b(records.packed(values, arrays), digest_size=DIGEST_SIZE).hexdigest()
    file = f"code_{digest}.bin"
    if records.load(file) is None and not records.store(file, values, arrays):
        raise OSError(f"cannot keep {file}")
    return file


def numbers_of(run: Trajectory, problem: Problem | None = None) -> str:
    """Digest of what the integrator made: state, observables, counts, status."""
    counts = {name: value for name, value in run.statistics.items() if name != "seconds"}
    digest = hashlib.blake2b(repr((str(run.status), counts)).encode(), digest_size=DIGEST_SIZE)
    blocks = [run.blocks[block.name] for block in (problem or run.problem).state]  # type: ignore[union-attr]
    for array in (run.t, *blocks, *run.observables.values()):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
