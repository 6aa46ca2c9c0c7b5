"""What the paper claims, and the verdict on each from numbers alone: k of n cells satisfy the claim's rule (spec 20).

supported: all of them; mixed: some; not supported: none; undetermined: there was nothing to decide it with. A cell counts
where the rule can be applied: a value that is not available is no evidence either way, and where g* is the baseline there is
nothing to compare. Cells share windows and events, so k of n is a count and no test; no p value is pooled over cells.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from avalanche_llm.paper.facts import Fact, Origin, Sheet
from avalanche_llm.paper.inputs import CELL, SELECTIONS, PaperInputs
from avalanche_llm.paper.prose import Prose, prose, span
from avalanche_llm.paper.rules import above

Verdict = Literal["supported", "mixed", "not supported", "undetermined"]


@dataclass(frozen=True)
class Claim:
    """One claim. sentence: what was found, with its numbers; rule: what a cell must satisfy."""

    claim_id: str
    title: str
    rule: str
    verdict: Verdict
    sentence: Prose

    @property
    def evidence(self) -> list[Origin]:
        """The files that its numbers were read from, each once."""
        return list(dict.fromkeys(fact.origin for fact in self.sentence.facts if fact.origin.run_id))


def verdict_of(holds: Sequence[bool] | np.ndarray | pd.Series) -> Verdict:
    """The verdict of a rule over the cells that it could be applied to."""
    satisfied = np.asarray(holds, dtype=bool)
    if not len(satisfied):
        return "undetermined"
    return "supported" if satisfied.all() else "mixed" if satisfied.any() else "not supported"


def judged(claim_id: str, title: str, rule: str, sheet: Sheet, holds: np.ndarray, found: str, **more: Fact | Prose) -> Claim:
    """A claim over the rows of one sheet; `found` goes on after "In k of n ..."."""
    values = {"k": sheet.count(holds, rule), "n": sheet.size, **more}
    return Claim(claim_id, title, rule, verdict_of(holds), prose(found, **values))


def known(sheet: Sheet, *columns: str) -> Sheet:
    """The rows that have a value in every one of these columns."""
    return sheet.where(sheet.frame[list(columns)].notna().all(axis=1))


def away(sheet: Sheet, inputs: PaperInputs) -> Sheet:
    """The rows at a g* that is not the baseline: elsewhere both sides of a comparison are one evaluation."""
    return sheet.where(sheet.frame["g"] != inputs.job.settings.gains.baseline)


def excess(claim_id: str, title: str, column: str, low: str, at: str, sheet: Sheet) -> Claim:
    """The claim that an excess over a null is above zero, decided by the lower end of its interval."""
    sheet = known(sheet, column, low)
    return judged(
        claim_id,
        title,
        f"the lower end of the interval of {column} lies above zero",
        sheet,
        above(sheet.frame[low]),
        f"{at} the interval of {column} lies above zero in {{k}} of {{n}} cells; its value is {{excess}} pairs a site, where "
        "b_tot itself is {b_tot}.",
        excess=span(sheet.span(column)),
        b_tot=span(sheet.span("b_tot")),
    )


def at_baseline(inputs: PaperInputs) -> Sheet:
    """T01 at the baseline gain."""
    return inputs.sheets["T01_SUMMARY"].equal(g=inputs.job.settings.gains.baseline)


def at_gstar(inputs: PaperInputs) -> Sheet:
    """T01 at the selected gain of each cell."""
    summary = inputs.sheets["T01_SUMMARY"]
    chosen = inputs.sheets[SELECTIONS].frame.set_index(list(CELL))["gstar"]
    wanted = pd.MultiIndex.from_frame(summary.frame[list(CELL)])
    return summary.where(summary.frame["g"].to_numpy() == chosen.reindex(wanted).to_numpy())
