"""The report: one self-contained HTML page over a whole measurement."""
