"""The march of two-time problems on a grid that thins itself."""
