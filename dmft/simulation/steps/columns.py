"""Numbers of a step, by the column in which compiled steps find them.

gamma/(p n_b), the standard deviation of the label's noise, rho_a, the share of the weights that is
lost, and the part of the last step that is taken again (momentum).
"""

GAIN, SPREAD, TRAINED, LOST, KEPT = range(5)
