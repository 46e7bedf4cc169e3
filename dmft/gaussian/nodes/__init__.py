"""Quadrature: nodes, panels, kinks, series, and errors that can be believed."""
