"""Floor 1: explanations, their steps and the judge of these; no calculus, no equations."""
