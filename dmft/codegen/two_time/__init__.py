"""Code of equations in two times."""
