"""`warm`: everything that equations are solved with, compiled ahead of its first use."""

from __future__ import annotations

import os
import pkgutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import sympy as sp

from dmft.codegen.build import build
from dmft.compiled.sealed import Deferred
from dmft.equations.derive import derive
from dmft.errors import BadParameter
from dmft.progress import Progress, ProgressOption, as_asked
from dmft.record import in_full
from dmft.validation import checked

if TYPE_CHECKING:
    from dmft.model import SGD, GradientDescent, GradientFlow, Model, SequenceModel

# Where the loops of each kind of equations stand.
ROOMS = {
    "ode": ("runge_kutta",),
    "map": ("runge_kutta",),
    "sde": ("stochastic", "runge_kutta"),
    "two-time": ("two_time",),
}
# Networks and losses whose generated code calls functions of tables, of signs, and of diagrams.
FIELD = sp.Symbol("z", real=True)
COMMON: tuple[tuple[sp.Expr, sp.Expr, int, str], ...] = (
    (sp.tanh(FIELD), sp.tanh(FIELD), 2, "squared"),
    (sp.Max(0, FIELD), sp.Max(0, FIELD), 2, "squared"),
    (gelu := FIELD * (1 + sp.erf(FIELD / sp.sqrt(2))) / 2, gelu, 2, "squared"),
    (FIELD, sp.sign(FIELD), 1, "logistic"),
    (FIELD**5, FIELD**2, 1, "squared"),
)
# Folders whose functions Python calls whatever the model is.
LIBRARY = ("dmft.special", "dmft.solvers", "dmft.simulation", "dmft.workflow")


@checked
def warm(
    model: Model | SequenceModel | None = None,
    algorithm: SGD | GradientFlow | GradientDescent | None = None,
    *,
    dim: int | sp.Expr | None = None,
    scaling: str | None = None,
    fluctuations: bool = False,
    progress: ProgressOption = None,
) -> int:
    """Compile the equations of a model, or the functions of the library, in advance.

    Use it for container images, clusters and notebooks. The code is kept in the cache directory
    (``DMFT_CACHE_DIR``) and next to the library, for this version and this processor. Widths and
    parameters are run-time values, so one call is sufficient for all of them. Without a model, the
    functions of the library are compiled by one process per core, in one to two minutes: the loops
    of all solvers, simulations and controls, and the equations of tanh, ReLU, GELU and polynomial
    networks and of logistic regression.

    Parameters
    ----------
    model, algorithm, dim, scaling, fluctuations
        As in `dmft.derive`, or none of them.
    progress : None, bool or callable
        With False no progress is shown.

    Returns
    -------
    int
        Number of compiled functions that are ready.

    Raises
    ------
    BadParameter, NotClosed

    Examples
    --------
    >>> import dmft
    >>> dmft.warm(dmft.literature.phase_retrieval(1), dmft.SGD(0.05)) > 5
    True
    """
    given = {"dim": dim, "scaling": scaling, "fluctuations": fluctuations}
    options: dict[str, Any] = {name: value for name, value in given.items() if value}
    if model is None and algorithm is None and not options:
        return _library_ready(progress)
    if model is None or algorithm is None:
        raise BadParameter(
            "warm takes a model with an algorithm, or nothing at all for the functions of the "
            f"library; got model = {in_full(model)}, algorithm = {algorithm}"
        )
    with as_asked(progress):
        equations: Any = derive(model, algorithm, **options)
        problem: Any = build(equations)
        functions = list(_parts(problem))
        for room in ROOMS.get(equations.kind, ()):
            functions += _compiled_in(f"dmft.solvers.{room}")
        return len({id(function) for function in functions if _settled(function)})


def _library_ready(progress: ProgressOption) -> int:
    """Compile, or load, all in processes that start at different places of the list."""
    functions = library()
    count = os.cpu_count() or 1
    here = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    text = "import sys; from dmft.workflow.warm import compile_part; compile_part(*sys.argv[1:])"
    workers = [
        subprocess.Popen([sys.executable, "-c", text, str(n), str(count)], env=here)
        for n in range(count)
    ]
    try:
        with Progress(progress, "compiling the library") as bar:
            while any(worker.poll() is None for worker in workers):
                ready = sum(f.is_kept for f in functions)
                bar.update(ready / len(functions), f"{ready} of {len(functions)} functions")
                time.sleep(0.2)
    finally:
        for worker in workers:
            worker.kill()
    if any(worker.returncode for worker in workers):
        raise RuntimeError("a process that compiles has failed; its message is above")
    return sum(f.is_kept for f in functions)


def compile_part(number: str, count: str) -> None:
    """Compile the functions of the library, or load them; each of `count` begins elsewhere.

    What only generated code calls is compiled with the equations of common networks.
    """
    from dmft.model import SGD, Committee, Model

    functions, n, steps = library(), int(number), int(count)
    first = n * len(functions) // steps
    for function in functions[first:] + functions[:first]:
        function.settle()
    for student, teacher, width, loss in COMMON[n::steps]:
        model = Model(Committee(student, width), Committee(teacher, width))
        warm(model, SGD(1.0, loss=loss), progress=False)


def library() -> list[Any]:
    """Compiled functions of the library that Python calls, each once."""
    found = {}
    for package in LIBRARY:
        for module in pkgutil.walk_packages(import_module(package).__path__, f"{package}."):
            for one in vars(import_module(module.name)).values():
                if isinstance(one, Deferred):
                    found[f"{one.py_func.__module__}.{one.py_func.__qualname__}"] = one
    return [found[name] for name in sorted(found)]


def _parts(record: Any) -> Iterator[Any]:
    """What a problem holds, its records opened: the steps of a descent are one; no equations."""
    for one in fields(record):
        part = getattr(record, one.name)
        if is_dataclass(part) and one.name != "origin":
            yield from _parts(part)
        else:
            yield part


def _compiled_in(package: str) -> list[Any]:
    """What stands in the modules of a room."""
    found = []
    for module in pkgutil.iter_modules(import_module(package).__path__, f"{package}."):
        found += list(vars(import_module(module.name)).values())
    return found


def _settled(function: Any) -> bool:
    """Compile a function of fixed signatures, as runs call it; False for anything else."""
    if getattr(function, "native", None) is not None:
        return True
    settle = getattr(type(function), "settle", None)
    if settle is None:
        return False
    settle(function)
    return True
