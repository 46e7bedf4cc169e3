"""Static limits as formulas: output channels of declared labels."""
