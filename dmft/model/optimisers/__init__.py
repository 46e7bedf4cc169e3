"""Optimisers that divide their steps by what they have seen of gradients, and torch's names."""
