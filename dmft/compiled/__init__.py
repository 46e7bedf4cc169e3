"""Floor 0: compiled functions on disk: where they are kept, and why what is found is trusted.

Numba's own cache unpickles whatever lies in its folder: a damaged file ends the program, at every
start, and a planted one runs as the user. Here each file carries a digest that is checked first,
and folders in which somebody else can write are not used.
"""

from dmft.compiled.directory import cache_directory
from dmft.compiled.functions import njit

__all__ = ["cache_directory", "njit"]
