"""The two-token attention with positional encoding: its loss, boundaries and regions in numbers."""
