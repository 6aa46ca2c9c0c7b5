"""What is computed from rasters."""
