"""A measure at many points, with a store that survives being killed."""
