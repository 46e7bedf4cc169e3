"""Measures of equations over parameters: sweeps, diagrams, boundaries."""
