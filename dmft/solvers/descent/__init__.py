"""The causal sweep of descents on repeated data."""
