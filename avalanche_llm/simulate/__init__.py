"""Simulators of known truth: seeded rasters A[seq, layer, token] with what they must measure as, exact where it can be."""
