"""Floor 2: Gaussian calculus. Closed forms, Hermite expansions and exponents of functions."""
