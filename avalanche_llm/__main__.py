"""`python -m avalanche_llm`."""

import signal
import sys

signal.signal(signal.SIGINT, signal.SIG_DFL)  # outside of main, before and after, Ctrl-C ends the process without a traceback

from avalanche_llm.cli import main  # noqa: E402  # importing it is work that can be interrupted

sys.exit(main())
