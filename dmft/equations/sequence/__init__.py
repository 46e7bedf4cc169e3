"""Equations of sequence models."""
