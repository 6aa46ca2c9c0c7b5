"""`python -m avalanche_llm`."""

import signal
import sys

signal.signal(signal.SIGINT, signal.SIG_DFL)  # outside of main, before and after, Ctrl-C ends the process without a traceback

from avalanche_llm.garbage import looked_for_seldom  # noqa: E402  # whatever is imported can be interrupted

with looked_for_seldom():
    from avalanche_llm.cli import main

    code = main()
sys.exit(code)
