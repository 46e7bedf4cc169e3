"""Update fields: psi as a small program, and its moments. Names are imported from the modules."""
