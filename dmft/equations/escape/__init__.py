"""When and where runs escape: formulas, limits of the learning rate, weak recovery."""
