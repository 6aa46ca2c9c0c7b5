"""The paper's claims as the page shows them: read from claims.json, none reached anew (spec 20, spec 24)."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from avalanche_llm.errors import SchemaError
from avalanche_llm.report.gather import Evidence

SIGNS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {"supported": ("✓", "holds"), "mixed": ("◐", "mixed"), "not supported": ("✗", "fails"), "undetermined": ("–", "open")}
)
"""Verdict to its sign and its class in the page's style: never colour alone."""


@dataclass(frozen=True)
class ClaimView:
    """One claim: k of n conditions satisfy its rule (n = 0 where there is no count), its other numbers, its files."""

    title: str
    verdict: str
    sentence: str
    rule: str
    k: int
    n: int
    facts: tuple[Mapping[str, Any], ...]
    evidence: tuple[Mapping[str, str], ...]

    @property
    def sign(self) -> str:
        return SIGNS[self.verdict][0]

    @property
    def style(self) -> str:
        return SIGNS[self.verdict][1]


def claim_views(evidence: Evidence) -> list[ClaimView]:
    """Every claim in the order of the paper. SchemaError for a verdict that is none of the four."""
    return [_view(claim) for claim in evidence.claims["claims"]]


def tally(claims: Iterable[ClaimView]) -> str:
    """How many claims have which verdict."""
    counts = Counter(claim.verdict for claim in claims)
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in SIGNS if counts[verdict])


def _view(claim: Mapping[str, Any]) -> ClaimView:
    if claim["verdict"] not in SIGNS:
        raise SchemaError(f"claim {claim['claim_id']}: verdict must be one of {', '.join(SIGNS)}, found {claim['verdict']!r}")
    satisfied, of_all = f"count({claim['rule']})", "count(rows)"
    counts = {fact["column"]: fact["value"] for fact in claim["facts"] if fact["column"] in (satisfied, of_all)}
    return ClaimView(
        claim["title"],
        claim["verdict"],
        claim["sentence"],
        claim["rule"],
        int(counts.get(satisfied, 0)),
        int(counts.get(of_all, 0)),
        tuple(fact for fact in claim["facts"] if fact["column"] not in counts),
        tuple(claim["evidence"]),
    )
