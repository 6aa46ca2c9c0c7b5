"""The claims about what carries over: data set B, the questions, the model of the other role (spec 20)."""

from collections.abc import Callable
from typing import Final

from avalanche_llm.paper.claim import Claim, away, excess, judged, known
from avalanche_llm.paper.inputs import PaperInputs
from avalanche_llm.paper.prose import prose, span
from avalanche_llm.paper.rules import above, no_worse


def _excess_on_b(inputs: PaperInputs) -> Claim:
    title = "The excess over the permutation null carries over to data set B"
    sheet = inputs.sheets["T02_GENERALIZATION"]
    return excess("excess_on_b", title, "delta_b_tot", "opt_delta_b_tot_ci_low", "On data set B, at both gains,", sheet)


def _likelihood(inputs: PaperInputs) -> Claim:
    sheet = away(inputs.sheets["T02_GENERALIZATION"].equal(g_condition="gstar"), inputs)
    sheet = known(sheet, "opt_diff_nll_mean", "opt_diff_nll_mean_ci_low", "opt_diff_nll_mean_ci_high")
    return judged(
        "likelihood_kept",
        "The model predicts data set B no worse at the selected gain",
        "the upper end of the paired interval of the change in negative log-likelihood is zero or below",
        sheet,
        no_worse(sheet.frame["opt_diff_nll_mean_ci_high"]),
        "At a selected gain other than the baseline this holds in {k} of {n} cells, and in {worse} the interval lies above "
        "zero: the model predicts worse there. The negative log-likelihood changes by {change} nats a token.",
        worse=sheet.count(above(sheet.frame["opt_diff_nll_mean_ci_low"]), "opt_diff_nll_mean_ci_low > 0"),
        change=span(sheet.span("opt_diff_nll_mean")),
    )


def _above_chance(inputs: PaperInputs) -> Claim:
    sheet = known(inputs.sheets["T03_ARC"].equal(g_condition="g1"), "accuracy_ci_low", "opt_chance")
    return judged(
        "arc_above_chance",
        "The model answers the questions above chance at baseline, by the label's probability",
        "the lower end of the interval of accuracy lies above chance",
        sheet,
        above(sheet.frame["accuracy_ci_low"], sheet.frame["opt_chance"]),
        "By the label's probability the accuracy at the baseline gain is {accuracy}, its interval from {low}, where chance is "
        "{chance}; the rule holds in {k} of {n} rows, which share one evaluation. By the probability a byte of the full answer "
        "after the question alone the accuracy is {cloze}: a model may know answers and not bind them to labels.",
        accuracy=span(sheet.span("accuracy")),
        low=span(sheet.span("accuracy_ci_low")),
        chance=span(sheet.span("opt_chance")),
        cloze=span(sheet.span("opt_acc_cloze")),
    )


def _task_gain(inputs: PaperInputs) -> Claim:
    sheet = away(inputs.sheets["T03_ARC"].equal(g_condition="gstar"), inputs)
    sheet = known(sheet, "opt_delta_accuracy", "opt_delta_accuracy_ci_low")
    return judged(
        "arc_gain",
        "The selected gain raises the accuracy on the questions",
        "the lower end of the paired interval of the change lies above zero",
        sheet,
        above(sheet.frame["opt_delta_accuracy_ci_low"]),
        "At a selected gain other than the baseline this holds in {k} of {n} cells; the accuracy changes by {change}, by the "
        "full answer by {cloze}, and the smallest McNemar p of a cell is {p}. Cells that share a gain share one evaluation.",
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
        "BASE selects {base} and INSTRUCT {instruct}; the gains are equal in {k} of {n} cells. Equal gains at an edge of the "
        "grid share the edge and no crossing."
    )
    ends = {role: span(sheet.span(f"gstar_{role}")) for role in ("base", "instruct")}
    return judged("replication", title, rule, sheet, holds, found, **ends)


ELSEWHERE: Final[tuple[Callable[[PaperInputs], Claim], ...]] = (
    _excess_on_b,
    _likelihood,
    _above_chance,
    _task_gain,
    _replication,
)
