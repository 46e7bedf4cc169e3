"""`solve`: what each kind of equations brings to it."""
