"""`warm`: everything that equations are solved with, compiled ahead of its first use."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import sympy as sp

from dmft.codegen.build import build
from dmft.equations.derive import derive
from dmft.progress import ProgressOption, as_asked
from dmft.validation import checked

if TYPE_CHECKING:
    from dmft.model import SGD, GradientDescent, GradientFlow, Model, SequenceModel

# Where the loops of each kind of equations stand.
ROOMS = {
    "ode": ("runge_kutta",),
    "map": ("runge_kutta",),
    "sde": ("stochastic", "runge_kutta"),
    "two-time": ("descent", "two_time"),
}


@checked
def warm(
    model: Model | SequenceModel,
    algorithm: SGD | GradientFlow | GradientDescent,
    *,
    dim: int | sp.Expr | None = None,
    scaling: str | None = None,
    fluctuations: bool = False,
    progress: ProgressOption = None,
) -> int:
    """Compile the equations of a model and their solver in advance of `solve`.

    For container images, cluster nodes and notebooks. The code is kept in the cache
    directory (``DMFT_CACHE_DIR``) and next to the library, for this version on this processor.
    Widths and parameters are run-time values: one call serves all of them.

    Parameters
    ----------
    model, algorithm, dim, scaling, fluctuations
        As for `dmft.derive`.
    progress : None or bool
        False: nothing is announced.

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
    with as_asked(progress):
        equations: Any = derive(model, algorithm, **options)
        problem: Any = build(equations)
        functions = list(_parts(problem))
        for room in ROOMS.get(equations.kind, ()):
            functions += _compiled_in(f"dmft.solvers.{room}")
        return len({id(function) for function in functions if _settled(function)})


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
