"""Floor 5: named models of the literature, ready to use."""
