"""Floor 0: formulas of LaTeX in lines of a given width; no SymPy, no equations."""
