"""Equations in two times: descents, their flows, problems written by hand, first steps."""
