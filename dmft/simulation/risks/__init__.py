"""The population risk of a simulated run, by quadrature of its own."""
