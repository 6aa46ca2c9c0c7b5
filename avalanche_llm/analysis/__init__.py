"""From metrics to the rows of the tables."""
