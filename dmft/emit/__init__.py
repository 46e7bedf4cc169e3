"""Floor 1: one SymPy expression to Numba source in a real file; loader and cache."""

from dmft.compiled import cache_directory
from dmft.emit.cache import load_module, module_name
from dmft.emit.expression import emit_expression, emit_scalar_function, scalar_function
from dmft.emit.vector import emit_vector_function, vector_function

__all__ = [
    "cache_directory",
    "emit_expression",
    "emit_scalar_function",
    "emit_vector_function",
    "load_module",
    "module_name",
    "scalar_function",
    "vector_function",
]
