"""Sequence models in finite dimension."""
