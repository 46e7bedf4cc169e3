"""Problems, integrators, events and trajectories; knows no symbol (never imports SymPy).

Nothing is imported here: Numba and SciPy load with the modules that need them.
"""
