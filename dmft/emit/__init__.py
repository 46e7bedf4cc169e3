"""Floor 1: text to a SymPy expression, a SymPy expression to Numba source in a real file; cache."""

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
