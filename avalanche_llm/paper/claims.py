"""Every claim of the paper, in its order (spec 20)."""

from avalanche_llm.paper.claim import Claim
from avalanche_llm.paper.claims_elsewhere import ELSEWHERE
from avalanche_llm.paper.claims_on_a import ON_A
from avalanche_llm.paper.inputs import PaperInputs


def all_claims(inputs: PaperInputs) -> list[Claim]:
    """Every claim in the order of the paper."""
    return [make(inputs) for make in (*ON_A, *ELSEWHERE)]
