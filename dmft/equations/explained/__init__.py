"""Explanations of risks, rates, exponents of escape and first steps, from the definition on."""
