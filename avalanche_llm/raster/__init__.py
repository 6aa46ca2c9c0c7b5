"""Token-by-layer rasters, their connected components and surrogates."""
