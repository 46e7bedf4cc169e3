"""Averages over local fields inside equations: nodes of expressions, and what opens them."""
