"""Measures and landscapes on a grid of two parameters."""
