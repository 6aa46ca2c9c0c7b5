"""Standardised activations, thresholds, rate matching, the tail of a pass."""
