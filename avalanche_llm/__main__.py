"""`python -m avalanche_llm`."""

import sys

from avalanche_llm.cli import main

sys.exit(main())
