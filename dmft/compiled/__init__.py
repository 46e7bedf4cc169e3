"""Floor 0: compiled functions on disk: where they are kept, and why what is found is trusted.

Numba's own cache unpickles whatever lies in its folder: a damaged file ends the program, at every
start, and a planted one runs as the user. Here each file carries a digest that is checked first,
and folders in which somebody else can write are not used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from dmft.compiled.directory import cache_directory, tell_once


def njit(*signature: Any, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile as `numba.njit` does; with ``cache=True``, keep machine code in sealed files.

    A function that cannot be kept is compiled at each start: that is never an error.

    Parameters
    ----------
    signature
        None, a signature or a list of them.
    options
        Those of `numba.njit`, and `inner`: nothing but compiled code calls the function, which is
        not handed on as a first-class function either. It then lacks the entries for Python and C,
        which unpack every argument: where many arrays are passed, half of what Numba compiles.
        And `later`: a function that is not kept is compiled for its signature at its first use, as
        kept ones are. And `direct`, for functions of generated modules with ``cache=True``: those
        who take its address, and Python, call what `dmft.compiled.direct` makes of its text; Numba
        compiles it when compiled code calls it by name.
    """
    import numba

    # Numba would take that of the function whose compilation needs this one first, and keep it.
    options.setdefault("fastmath", False)
    if options.pop("inner", False):
        from dmft.compiled.object_files import closed

        options |= {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
        kept = njit(*signature, **options)
        return lambda function: closed(kept(function))
    later, direct = options.pop("later", False), options.pop("direct", False)
    if not options.pop("cache", False):
        if later:
            with contextlib.suppress(ImportError):  # of Numba's inner parts: compile at once
                from dmft.compiled.sealed import deferred

                return lambda function: deferred(numba.njit(**options)(function), *signature)
        return numba.njit(*signature, **options)

    def compiled(function: Callable[..., Any]) -> Any:
        try:
            from dmft.compiled.sealed import compile_sealed
        except ImportError as error:
            tell_once(
                f"this version of Numba ({numba.__version__}) stores machine code in an "
                f"unknown format ({error}): functions are compiled at each start"
            )
            return numba.njit(*signature, **options)(function)
        return compile_sealed(numba.njit(**options)(function), *signature, direct=direct)

    return compiled


__all__ = ["cache_directory", "njit"]
