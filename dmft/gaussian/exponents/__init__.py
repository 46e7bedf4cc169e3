"""Hermite expansions and the exponents that say how hard a target is."""
