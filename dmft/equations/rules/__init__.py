"""Equations of rules that are written with vectors: averages over one step, rates, state."""
