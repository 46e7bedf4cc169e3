"""Curves along which a measure changes its sign or its label."""
