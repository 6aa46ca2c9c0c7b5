"""Decoders: loading, hooks, gain, forward passes."""
