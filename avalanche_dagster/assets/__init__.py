"""Asset definitions, one module a phase."""
