"""Averages of few fields from tables with a claimed error."""
