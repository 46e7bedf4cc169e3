"""Paths of stochastic differential equations."""
