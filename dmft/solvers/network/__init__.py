"""Random networks: sampled sweeps and closed recursions of the effective process of a site."""
