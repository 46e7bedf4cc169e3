"""Floor 1: one SymPy expression to Numba source in a real file; loader and cache."""

from dmft.compiled import cache_directory
from dmft.emit.cache import load_module, module_name
from dmft.emit.expression import emit_expression, emit_scalar_function, scalar_function

__all__ = [
    "cache_directory",
    "emit_expression",
    "emit_scalar_function",
    "load_module",
    "module_name",
    "scalar_function",
]
