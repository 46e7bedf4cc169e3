"""Measures on problems and trajectories, hand-written ones included; knows no model."""
