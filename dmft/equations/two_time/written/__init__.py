"""Two-time problems written by hand: declaration, named terms, values, normal form."""
