"""Floor 1: Numba special functions and random streams."""
