"""Floor 3: derivations and the `Equations` that they return."""
