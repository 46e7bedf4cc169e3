"""Averages with exponential branches, by parts that keep all digits."""
