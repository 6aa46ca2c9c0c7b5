"""`python -m avalanche_llm`."""

import signal
import sys

from avalanche_llm.garbage import looked_for_seldom

signal.signal(signal.SIGINT, signal.SIG_DFL)  # outside of main, before and after, Ctrl-C ends the process without a traceback

with looked_for_seldom():
    from avalanche_llm.cli import main  # importing it is work that can be interrupted

    code = main()
sys.exit(code)
