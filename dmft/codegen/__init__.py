"""Floor 4: the bridge from `Equations` through loops to a compiled `Problem`."""
