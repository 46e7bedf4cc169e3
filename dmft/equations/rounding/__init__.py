"""How many digits closed forms keep: bounds that run beside the values."""
