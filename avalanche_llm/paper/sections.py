"""The sections of the paper as pages of words and facts; no number is typed by hand (spec 20)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import pandas as pd

from avalanche_llm.metrics.gstar import CRITERIA
from avalanche_llm.paper.claim import Claim, at_baseline, at_gstar
from avalanche_llm.paper.facts import Fact, Origin, Sheet
from avalanche_llm.paper.inputs import SELECTIONS, PaperInputs
from avalanche_llm.paper.limitations import limitations
from avalanche_llm.paper.methods import measured, methods
from avalanche_llm.paper.prose import Page, Prose, bullets, heading, joined, prose, table
from avalanche_llm.paper.provenance import provenance
from avalanche_llm.paper.rows import Column, rows_of

_B_TOT: Final = Column("b_tot", "b_tot", "opt_b_tot_ci")
_EXCESS: Final = Column("delta_b_tot", "delta_b_tot", "opt_delta_b_tot_ci")
_NLL: Final = Column("NLL", "nll_mean", "opt_nll_mean_ci")
_OVER_NULLS: Final = (
    _B_TOT,
    Column("permutation", "b_tot_perm"),
    _EXCESS,
    Column("depth over shift", "opt_delta_b_depth_shift", "opt_delta_b_depth_shift_ci"),
    Column("over swap", "opt_swap_delta_b_tot", "opt_swap_delta_b_tot_ci"),
    Column("chi", "chi", "opt_chi_ci"),
)
_PPL: Final = Column("ppl", "ppl", "opt_ppl_ci")
_ACCURACY: Final = Column("accuracy", "accuracy", "accuracy_ci")
_CLOZE: Final = Column("opt_acc_cloze", "opt_acc_cloze", "opt_acc_cloze_ci")
_CHANGE: Final = Column("NLL at g* minus baseline", "opt_diff_nll_mean", "opt_diff_nll_mean_ci")
_TAIL: Final = ("g", "xmin", "n_tail", "alpha_powerlaw", "llr_powerlaw_vs_lognormal", "opt_vuong_p_lognormal", "opt_reason")
_CRACKLING: Final = ("g", Column("gamma", "crackling_gamma", "crackling_ci"), "n_duration_points", "r2", "pass", "opt_reason")


def pages(inputs: PaperInputs, claims: Sequence[Claim], names: Mapping[str, str]) -> dict[str, Page]:
    """Every section by artifact name; `names` gives the file names."""
    made = {
        "paper_snapshot": _snapshot(inputs, claims),
        "paper_methods": methods(inputs),
        "paper_results": _results(inputs, claims),
        "paper_limitations": limitations(inputs, claims),
        "paper_provenance": provenance(inputs),
        "paper_claims": _evidence(claims),
    }
    return {artifact: Page(names[artifact], tuple(blocks)) for artifact, blocks in made.items()}


def exports(inputs: PaperInputs) -> list[tuple[str, str]]:
    """(run id, path) of every table and figure that a reader is led to: CSV and PDF of each."""
    return [
        (run.run_id, path)
        for run in inputs.runs.values()
        for name, path in sorted(run.record["artifacts"].items())
        if name[0] in "TF" and name.endswith(("_csv", "_pdf"))
    ]


def _snapshot(inputs: PaperInputs, claims: Sequence[Claim]) -> list[Prose]:
    return [
        heading("Do activation events cascade? One measurement on one page", 1),
        measured(inputs),
        heading("Verdicts"),
        prose(
            "supported: every cell satisfies the rule; mixed: some do; not supported: none does; undetermined: nothing to "
            "decide it with."
        ),
        table(["claim", "verdict"], [[claim.title, claim.verdict] for claim in claims]),
        heading("What was found"),
        bullets([joined([claim.title, ": ", claim.verdict, ". ", claim.sentence], "") for claim in claims]),
        heading("What this does not show"),
        prose(
            "Activation events that branch near one are avalanche-like at most. With independent sites b_tot is about twice "
            "the occupancy, so b_tot near one measures density first; a power law alone says little about its cause "
            "[@touboul2010]. No statement about a phase transition is made."
        ),
        heading("Tables and figures"),
        bullets([prose(f"[{path.rsplit('/', 1)[1]}](../../{run_id}/{path})") for run_id, path in exports(inputs)]),
    ]


def _results(inputs: PaperInputs, claims: Sequence[Claim]) -> list[Prose]:
    blocks = [heading("Results", 1)]
    for claim in claims:
        blocks += [heading(claim.title), prose("Verdict: {verdict}. {sentence}", verdict=claim.verdict, sentence=claim.sentence)]
    sheets = inputs.sheets
    chosen, both = at_both_gains(inputs), ("g", "opt_occupancy")
    quantity = CRITERIA[inputs.job.settings.pipeline.gstar_method].quantity
    looked_at = () if quantity == "b_tot" else (Column(quantity, "criterion"),)
    blocks += [
        heading("Selected gains"),
        rows_of(sheets[SELECTIONS], ("gstar", "gstar_ci_low", "gstar_ci_high", *looked_at, "b_tot", "distance", "status")),
        heading("Branching on the calibration slice, at baseline and at the selected gain"),
        rows_of(chosen, (*both, *_OVER_NULLS)),
        heading("Tails and crackling, at baseline and at the selected gain"),
        rows_of(_same_rows(sheets["T04_TAIL_FITS"], chosen), _TAIL),
        rows_of(_same_rows(sheets["T05_CRACKLING_DIAGNOSTICS"], chosen), _CRACKLING),
        heading("Interventions at the selected gain"),
        rows_of(sheets["T06_ABLATIONS"], ("g_condition", "g", "intervention_id", "b_tot", "delta_b_tot", "chi", "opt_status")),
        heading("Data set B"),
        rows_of(sheets["T02_GENERALIZATION"], ("g_condition", *both, _B_TOT, _EXCESS, _NLL, _PPL)),
        rows_of(sheets["T02_GENERALIZATION"].equal(g_condition="gstar"), ("g", _CHANGE)),
        heading("Questions"),
        rows_of(sheets["T03_ARC"], ("g_condition", "g", "n_questions", _ACCURACY, _CLOZE, "opt_mcnemar_p")),
    ]
    if "T07_REPLICATION_SUMMARY" in sheets:
        twins = [f"{name}_{role}" for name in ("gstar", "delta_b_tot_at_gstar", "chi_at_gstar") for role in ("base", "instruct")]
        blocks += [heading("BASE and INSTRUCT"), rows_of(sheets["T07_REPLICATION_SUMMARY"], twins)]
    return blocks


def at_both_gains(inputs: PaperInputs) -> Sheet:
    """T01 at the baseline and at each cell's g*, a row once where they are one gain."""
    found = at_baseline(inputs), at_gstar(inputs)
    frame = pd.concat([sheet.frame for sheet in found]).drop_duplicates(list(found[0].key)).sort_values(list(found[0].key))
    return replace(found[0], frame=frame)


def _same_rows(sheet: Sheet, of: Sheet) -> Sheet:
    """The rows of a table that have the keys of another."""
    wanted = set(of.frame[list(of.key)].itertuples(index=False, name=None))
    return sheet.where([key in wanted for key in sheet.frame[list(of.key)].itertuples(index=False, name=None)])


def _evidence(claims: Sequence[Claim]) -> list[Prose]:
    blocks = [heading("Claims to evidence", 1)]
    for claim in claims:
        blocks += [
            heading(claim.title),
            prose("Rule: {rule}. Verdict: {verdict}.", rule=claim.rule, verdict=claim.verdict),
            claim.sentence,
            bullets([prose("[{place}](../../{run}/{place}), sha256 {sha}", **_place(origin)) for origin in claim.evidence]),
        ]
    return [block for block in blocks if str(block)]


def _place(origin: Origin) -> dict[str, Fact]:
    def named(value: str, column: str) -> Fact:
        return Fact(value, "", origin, "", column, exact=True)

    return {
        "place": named(origin.relative_path, "relative_path"),
        "run": named(origin.run_id, "run_id"),
        "sha": named(origin.sha256, "sha256"),
    }
