"""Functions that nothing but compiled code calls."""

from __future__ import annotations

from typing import Any, NoReturn

from numba.core.registry import CPUDispatcher


class Inner(CPUDispatcher):
    """Compiled function without an entry for Python, where a call would end the process."""

    def __call__(self, *args: Any, **kws: Any) -> NoReturn:
        """Refuse."""
        raise TypeError(
            f"{self.__name__} is called by compiled code only: from Python, call "
            f"{self.__name__}.py_func, or compile it without inner=True"
        )


def closed(function: Any) -> Any:
    """Give a function just made by `numba.njit` no way in from Python."""
    if hasattr(function, "py_func"):  # else NUMBA_DISABLE_JIT: Python's own function
        function.__class__ = Inner
    return function
