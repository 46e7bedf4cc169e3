"""Output channels P(y | fields) of declared labels, and priors of teacher weights."""
