"""Floor 3: finite-dimensional runs, the witness; shares no formula with the theory.

Nothing is imported here: Numba loads with the modules that need it.
"""
