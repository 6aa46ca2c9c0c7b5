"""What the paper claims, and the verdict on each from numbers alone: k of n cells satisfy the claim's rule (spec 20).

supported: all of them; mixed: some; not supported: none; undetermined: there was nothing to decide it with. A cell counts
where the rule can be applied: a value that is not available is no evidence either way, and where g* is the baseline there is
nothing to compare. Cells share windows and events, so k of n is a count and no test; no p value is pooled over cells.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import pandas as pd

from avalanche_llm.paper import claims as _this
from avalanche_llm.paper.facts import Fact, Origin, Sheet, constant
from avalanche_llm.paper.inputs import CELL, GRID, HELD_OUT, SELECTIONS, VERDICTS, PaperInputs
from avalanche_llm.paper.prose import Prose, prose, span

Verdict = Literal["supported", "mixed", "not supported", "undetermined"]
HELD_OUT_Z_LIMIT: Final = 4.0
"""Binomial standard deviations that the worst of some dozens of layers may be off by chance."""
ALPHA: Final = 0.05


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


def all_claims(inputs: PaperInputs) -> list[Claim]:
    """Every claim in the order of the paper."""
    return [make(inputs) for make in _CLAIMS]


def _judged(claim_id: str, title: str, rule: str, sheet: Sheet, holds: np.ndarray, found: str, **more: Fact | Prose) -> Claim:
    """A claim over the rows of one sheet; `found` goes on after "In k of n ..."."""
    values = {"k": sheet.count(holds, rule), "n": sheet.size, **more}
    return Claim(claim_id, title, rule, verdict_of(holds), prose(found, **values))


def _known(sheet: Sheet, *columns: str) -> Sheet:
    """The rows that have a value in every one of these columns."""
    return sheet.where(sheet.frame[list(columns)].notna().all(axis=1))


def _away(sheet: Sheet, inputs: PaperInputs) -> Sheet:
    """The rows at a g* that is not the baseline: elsewhere both sides of a comparison are one evaluation."""
    return sheet.where(sheet.frame["g"] != inputs.job.settings.gains.baseline)


def _rates_matched(inputs: PaperInputs) -> Claim:
    grid = inputs.sheets[GRID]
    return _judged(
        "rates_matched",
        "Every condition has the event rate it was meant to have",
        "the achieved rate of every layer is within both tolerances",
        grid,
        grid.frame["rate_match_pass"].to_numpy(bool),
        "On the calibration slice {k} of {n} conditions meet both rate tolerances in every layer; the largest relative error of "
        "a condition is {error}.",
        error=span(grid.span("achieved_rate_max_rel_err")),
    )


def _rates_held_out(inputs: PaperInputs) -> Claim:
    held = inputs.sheets[HELD_OUT]
    holds = (held.frame["heldout_rate_z_max"] < HELD_OUT_Z_LIMIT).to_numpy()
    return _judged(
        "rates_held_out",
        "The rates carry over to held-out windows of data set A",
        "no layer's event count is further from its target than the binomial limit",
        held,
        holds,
        "On held-out windows {k} of {n} conditions keep every layer within {limit} binomial standard deviations of its target; "
        "the worst layer of a condition is off by {error} of its target.",
        limit=constant(_this, "HELD_OUT_Z_LIMIT", HELD_OUT_Z_LIMIT),
        error=span(held.span("heldout_rate_max_rel_err")),
    )


def _crossing(inputs: PaperInputs) -> Claim:
    chosen = inputs.sheets[SELECTIONS]
    return _judged(
        "crossing",
        "b_tot crosses one inside the gain grid",
        "the status of the selected gain is bracketed",
        chosen,
        (chosen.frame["status"] == "bracketed").to_numpy(),
        "The selected gain is bracketed by a crossing of one in {k} of {n} cells; elsewhere it lies at an edge of the grid or "
        "nothing crosses. Its distance |b_tot - one| is {distance}, and the selected gains are {gains}.",
        distance=span(chosen.span("distance")),
        gains=span(chosen.span("gstar")),
    )


def _excess(claim_id: str, title: str, column: str, low: str, at: str, sheet: Sheet) -> Claim:
    sheet = _known(sheet, column, low)
    return _judged(
        claim_id,
        title,
        f"the lower end of the bootstrap interval of {column} lies above zero",
        sheet,
        (sheet.frame[low] > 0).to_numpy(),
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


def _beyond_permutation(inputs: PaperInputs) -> Claim:
    title = "At baseline, neighbours branch more than permuting tokens within layers explains"
    return _excess("excess_g1", title, "delta_b_tot", "opt_delta_b_tot_ci_low", "At the baseline gain", at_baseline(inputs))


def _beyond_permutation_at_gstar(inputs: PaperInputs) -> Claim:
    title = "At the selected gain, neighbours branch more than permuting tokens within layers explains"
    return _excess("excess_gstar", title, "delta_b_tot", "opt_delta_b_tot_ci_low", "At the selected gain", at_gstar(inputs))


def _beyond_shift(inputs: PaperInputs) -> Claim:
    title = "Neighbours branch more than shifting each layer by itself explains"
    column, low = "opt_delta_b_tot_shift", "opt_delta_b_tot_shift_ci_low"
    return _excess("excess_shift", title, column, low, "Against shifts, at the baseline gain,", at_baseline(inputs))


def _beyond_swap(inputs: PaperInputs) -> Claim:
    sheet = _known(at_baseline(inputs), "opt_swap_delta_b_tot")
    share = sheet.made("swap_share", sheet.frame["opt_swap_delta_b_tot"] / sheet.frame["delta_b_tot"])
    return _judged(
        "excess_swap",
        "Some of the excess remains when the events of each token and of each layer are kept",
        "b_tot exceeds that of a margin-preserving swap; one swap a sequence, so without an interval",
        share,
        (sheet.frame["opt_swap_delta_b_tot"] > 0).to_numpy(),
        "Against swaps that keep every row and column sum, b_tot at the baseline gain is larger in {k} of {n} cells; "
        "{share} of the "
        "excess over the permutation null remains. One swap of each sequence was drawn, so that this has no interval. What "
        "the swap "
        "takes away goes with how many layers an eventful token excites.",
        share=span(share.span("swap_share")),
    )


def _signatures(inputs: PaperInputs) -> Claim:
    every = inputs.sheets[VERDICTS]
    sheet = every.where((every.frame["gstar_status"] == "bracketed") & every.frame["chi_peak_g"].notna())
    return _judged(
        "signatures_agree",
        "Susceptibility peaks near the selected gain",
        "chi peaks inside the grid, within the registered distance of a gain that a crossing brackets",
        sheet,
        sheet.frame["agrees"].to_numpy(bool),
        "Branching and susceptibility point to one gain in {k} of {n} cells whose selected gain a crossing brackets; elsewhere "
        "branching located nothing to agree with. Over all cells the largest chi lies {distance} from the selected gain.",
        distance=span(every.span("distance")),
    )


def _crackling(inputs: PaperInputs) -> Claim:
    sheet = inputs.sheets["T05_CRACKLING_DIAGNOSTICS"]
    return _judged(
        "crackling",
        "Size grows with duration as a power over the fitted range",
        "enough durations, enough replicates and an interval narrow enough",
        sheet,
        sheet.frame["pass"].to_numpy(bool),
        "The crackling fit passes its quality gate in {k} of {n} conditions; where there is a slope it is {gamma}. Passing says "
        "that a slope was measured, not why.",
        gamma=span(sheet.span("crackling_gamma")),
    )


def _tails(inputs: PaperInputs) -> Claim:
    sheet = inputs.sheets["T04_TAIL_FITS"].equal(g=inputs.job.settings.gains.baseline)
    sheet = sheet.where(sheet.frame["llr_powerlaw_vs_lognormal"].notna())
    ratio, p = sheet.frame["llr_powerlaw_vs_lognormal"], sheet.frame["opt_vuong_p_lognormal"]
    return _judged(
        "power_law",
        "Avalanche sizes prefer a power law to a log-normal",
        "the log-likelihood ratio is positive and its Vuong p below the level",
        sheet,
        ((ratio > 0) & (p < ALPHA)).to_numpy(),
        "At the baseline gain the tail of the sizes prefers the power law at level {alpha} in {k} of {n} cells, and the "
        "log-normal in {other}; the log-likelihood ratio is {ratio} nats. A preferred power law alone would say little "
        "about its cause.",
        alpha=constant(_this, "ALPHA", ALPHA),
        other=sheet.count(((ratio < 0) & (p < ALPHA)).to_numpy(), "log-normal preferred"),
        ratio=span(sheet.span("llr_powerlaw_vs_lognormal")),
    )


def _ablations(inputs: PaperInputs) -> Claim:
    sheet = _away(inputs.sheets["T06_ABLATIONS"].equal(g_condition="gstar"), inputs)
    distance = sheet.frame.assign(distance=(sheet.frame["b_tot"] - 1).abs())
    by_cell = distance.pivot_table(index=list(CELL), columns="intervention_id", values="distance")
    both = by_cell.reindex(columns=["MLP_GLOBAL", "ATTN_GLOBAL"]).dropna()
    holds = (both["MLP_GLOBAL"] < both["ATTN_GLOBAL"]).to_numpy()
    mlp = Sheet(sheet.origin, CELL, both.reset_index())
    return _judged(
        "mlp_rather_than_attention",
        "Scaling the MLPs brings b_tot nearer one than scaling attention does",
        "|b_tot - one| is smaller under MLP_GLOBAL than under ATTN_GLOBAL at the same gain",
        mlp,
        holds,
        "At a selected gain other than the baseline this holds in {k} of {n} cells: the distance is {mlp} for the MLPs and "
        "{attention} for attention. The gain was selected on the MLPs for just this distance, which favours them, and there "
        "is no "
        "interval.",
        mlp=span(mlp.span("MLP_GLOBAL")),
        attention=span(mlp.span("ATTN_GLOBAL")),
    )


def _excess_on_b(inputs: PaperInputs) -> Claim:
    title = "The excess over the permutation null carries over to data set B"
    sheet = inputs.sheets["T02_GENERALIZATION"]
    return _excess("excess_on_b", title, "delta_b_tot", "opt_delta_b_tot_ci_low", "On data set B, at both gains,", sheet)


def _likelihood(inputs: PaperInputs) -> Claim:
    sheet = _away(inputs.sheets["T02_GENERALIZATION"].equal(g_condition="gstar"), inputs)
    sheet = _known(sheet, "opt_diff_nll_mean", "opt_diff_nll_mean_ci_low", "opt_diff_nll_mean_ci_high")
    return _judged(
        "likelihood_kept",
        "The model predicts data set B no worse at the selected gain",
        "the upper end of the paired interval of the change in negative log-likelihood is zero or below",
        sheet,
        (sheet.frame["opt_diff_nll_mean_ci_high"] <= 0).to_numpy(),
        "At a selected gain other than the baseline this holds in {k} of {n} cells, and in {worse} the interval lies above "
        "zero: the "
        "model predicts worse there. The negative log-likelihood changes by {change} nats a token.",
        worse=sheet.count((sheet.frame["opt_diff_nll_mean_ci_low"] > 0).to_numpy(), "opt_diff_nll_mean_ci_low > 0"),
        change=span(sheet.span("opt_diff_nll_mean")),
    )


def _above_chance(inputs: PaperInputs) -> Claim:
    sheet = _known(inputs.sheets["T03_ARC"].equal(g_condition="g1"), "accuracy_ci_low", "opt_chance")
    return _judged(
        "arc_above_chance",
        "The model answers the questions above chance at baseline, by the label's probability",
        "the lower end of the interval of accuracy lies above chance",
        sheet,
        (sheet.frame["accuracy_ci_low"] > sheet.frame["opt_chance"]).to_numpy(),
        "By the label's probability the accuracy at the baseline gain is {accuracy}, its interval from {low}, where chance "
        "is {chance}; the rule holds in {k} of {n} rows, which share one evaluation. By the probability a byte of the full "
        "answer "
        "after the question alone the accuracy is {cloze}: a model may know answers and not bind them to labels.",
        accuracy=span(sheet.span("accuracy")),
        low=span(sheet.span("accuracy_ci_low")),
        chance=span(sheet.span("opt_chance")),
        cloze=span(sheet.span("opt_acc_cloze")),
    )


def _task_gain(inputs: PaperInputs) -> Claim:
    sheet = _away(inputs.sheets["T03_ARC"].equal(g_condition="gstar"), inputs)
    sheet = _known(sheet, "opt_delta_accuracy", "opt_delta_accuracy_ci_low")
    return _judged(
        "arc_gain",
        "The selected gain raises the accuracy on the questions",
        "the lower end of the paired interval of the change lies above zero",
        sheet,
        (sheet.frame["opt_delta_accuracy_ci_low"] > 0).to_numpy(),
        "At a selected gain other than the baseline this holds in {k} of {n} cells; the accuracy changes by {change}, by "
        "the full "
        "answer by {cloze}, and the smallest McNemar p of a cell is {p}. Cells that share a gain share one evaluation.",
        change=span(sheet.span("opt_delta_accuracy")),
        cloze=span(sheet.span("opt_delta_acc_cloze")),
        p=sheet.span("opt_mcnemar_p")[0],
    )


def _replication(inputs: PaperInputs) -> Claim:
    title, rule = "BASE and INSTRUCT select the same gain", "both selected gains are equal"
    sheet = inputs.sheets.get("T07_REPLICATION_SUMMARY")
    if sheet is None:
        role = inputs.job.settings.run.model_role
        sentence = prose(f"T07 compares BASE with INSTRUCT; only {role} was measured here.")
        return Claim("replication", title, rule, "undetermined", sentence)
    holds = (sheet.frame["gstar_base"] == sheet.frame["gstar_instruct"]).to_numpy()
    found = (
        "BASE selects {base} and INSTRUCT {instruct}; the gains are equal in {k} of {n} cells. Equal gains at an edge of "
        "the grid "
        "share the edge and no crossing."
    )
    ends = {role: span(sheet.span(f"gstar_{role}")) for role in ("base", "instruct")}
    return _judged("replication", title, rule, sheet, holds, found, **ends)


_CLAIMS: Final[tuple[Callable[[PaperInputs], Claim], ...]] = (
    _rates_matched,
    _rates_held_out,
    _crossing,
    _beyond_permutation,
    _beyond_permutation_at_gstar,
    _beyond_shift,
    _beyond_swap,
    _signatures,
    _crackling,
    _tails,
    _ablations,
    _excess_on_b,
    _likelihood,
    _above_chance,
    _task_gain,
    _replication,
)
