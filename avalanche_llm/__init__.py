"""avalanche_llm: do activation events of a language model form cascades, and is it more than chance?"""

__version__ = "0.1.0"
