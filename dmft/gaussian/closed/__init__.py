"""Closed forms of Gaussian averages, and the factors that have them."""
