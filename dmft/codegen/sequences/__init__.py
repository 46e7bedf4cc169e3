"""Code of sequence models."""
