"""Random networks at rest and in stationary states: fixed points, stability, chaos."""
