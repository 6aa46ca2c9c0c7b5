"""The paper's claims as the page shows them (spec 20, spec 24)."""

from dataclasses import dataclass

from avalanche_llm.report.gather import Evidence


@dataclass(frozen=True)
class ClaimView:
    title: str
    verdict: str
    state: str
    sign: str
    paragraphs: tuple[str, ...] = ()
    rule: str = ""
    k: int = 0
    n: int = 0
    evidence: tuple[dict[str, str], ...] = ()


def claim_views(evidence: Evidence) -> list[ClaimView]:
    return []
