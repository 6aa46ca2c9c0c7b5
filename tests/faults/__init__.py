"""Faults injected for real. A process that is forked must have no threads but its own, so the numeric libraries get none."""

import os

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
