"""Run directories, records, hashes and files."""
