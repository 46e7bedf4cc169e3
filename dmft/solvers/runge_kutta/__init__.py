"""Flows and maps: compiled loops, their steps, events and endings."""
