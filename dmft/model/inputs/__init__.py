"""Laws of the inputs: clusters, spectra, positional encodings of sequences."""
