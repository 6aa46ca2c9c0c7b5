"""The tests that the implementation contract names."""
