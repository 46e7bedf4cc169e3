"""Steps that are scaled by what an optimiser has seen of gradients."""
