"""Random networks of coupled sites."""
