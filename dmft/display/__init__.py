"""Floor 5: figures, LaTeX documents and bibliography of the records of lower floors."""
