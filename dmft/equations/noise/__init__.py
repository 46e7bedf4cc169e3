"""Fluctuations of the overlaps: the covariance of their increments in one step."""
