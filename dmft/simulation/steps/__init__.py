"""Compiled steps of weights and of the exact chain of overlaps."""
