"""What leaves the machine and what comes back to be checked: the chain of runs, manifest and archive, verification."""
