"""Equations from equations: aligned, wide and other limits, and which scalings have them."""
