"""`python -m avalanche_llm`."""

import gc
import signal
import sys

signal.signal(signal.SIGINT, signal.SIG_DFL)  # outside of main, before and after, Ctrl-C ends the process without a traceback

gc.set_threshold(100_000, 10, 10)  # imports make a million objects that stay: looking through them at Python's 700 is a second

from avalanche_llm.cli import main  # noqa: E402  # importing it is work that can be interrupted

sys.exit(main())
