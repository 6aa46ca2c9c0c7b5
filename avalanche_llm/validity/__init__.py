"""Truth against estimate for every measure, on simulators of known truth: `python -m avalanche_llm.validity`."""
