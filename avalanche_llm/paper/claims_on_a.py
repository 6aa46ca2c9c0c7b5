"""The claims about data set A, one function each: rates, selection, excess over nulls, signatures, tails, ablations (spec 20)."""

import sys
from collections.abc import Callable
from typing import Final

from avalanche_llm.metrics.gstar import CRITERIA
from avalanche_llm.paper.claim import Claim, at_baseline, at_gstar, away, excess, judged, known
from avalanche_llm.paper.facts import Sheet, constant
from avalanche_llm.paper.inputs import CELL, GRID, HELD_OUT, SELECTIONS, VERDICTS, PaperInputs
from avalanche_llm.paper.prose import span
from avalanche_llm.paper.rules import above, preferred

HELD_OUT_Z_LIMIT: Final = 4.0
"""Binomial standard deviations that the worst of some dozens of layers may be off by chance."""
ALPHA: Final = 0.05


def _rates_matched(inputs: PaperInputs) -> Claim:
    grid = inputs.sheets[GRID]
    return judged(
        "rates_matched",
        "Every condition has the event rate it was meant to have",
        "the achieved rate of every layer is within both tolerances",
        grid,
        grid.frame["rate_match_pass"].to_numpy(bool),
        "On the calibration slice {k} of {n} conditions meet both rate tolerances in every layer; the largest relative error "
        "of a condition is {error}.",
        error=span(grid.span("achieved_rate_max_rel_err")),
    )


def _rates_held_out(inputs: PaperInputs) -> Claim:
    held = known(inputs.sheets[HELD_OUT], "heldout_rate_z_max")
    holds = (held.frame["heldout_rate_z_max"] < HELD_OUT_Z_LIMIT).to_numpy()
    return judged(
        "rates_held_out",
        "The rates carry over to held-out windows of data set A",
        "no layer's event count is further from its target than the binomial limit",
        held,
        holds,
        "On held-out windows {k} of {n} conditions keep every layer within {limit} binomial standard deviations of its target; "
        "the worst layer of a condition is off by {error} of its target.",
        limit=constant(sys.modules[__name__], "HELD_OUT_Z_LIMIT", HELD_OUT_Z_LIMIT),
        error=span(held.span("heldout_rate_max_rel_err")),
    )


def _crossing(inputs: PaperInputs) -> Claim:
    chosen = inputs.sheets[SELECTIONS]
    criterion = CRITERIA[inputs.job.settings.pipeline.gstar_method]
    located = criterion.located
    looked_at = f"There {criterion.quantity} is {{criterion}}, and the" if criterion.quantity != "b_tot" else "Its"
    return judged(
        "crossing",
        f"{located} inside the gain grid",
        "the status of the selected gain is bracketed",
        chosen,
        (chosen.frame["status"] == "bracketed").to_numpy(),
        f"{located} at the selected gain in {{k}} of {{n}} cells; elsewhere the gain lies at an edge of the grid or is not "
        f"bracketed. {looked_at} distance |b_tot - one| is {{distance}}, and the selected gains are {{gains}}.",
        distance=span(chosen.span("distance")),
        gains=span(chosen.span("gstar")),
        **({"criterion": span(chosen.span("criterion"))} if criterion.quantity != "b_tot" else {}),
    )


def _beyond_permutation(inputs: PaperInputs) -> Claim:
    title = "At baseline, neighbours branch more than permuting tokens within layers explains"
    return excess("excess_g1", title, "delta_b_tot", "opt_delta_b_tot_ci_low", "At the baseline gain", at_baseline(inputs))


def _beyond_permutation_at_gstar(inputs: PaperInputs) -> Claim:
    title = "At the selected gain, neighbours branch more than permuting tokens within layers explains"
    return excess("excess_gstar", title, "delta_b_tot", "opt_delta_b_tot_ci_low", "At the selected gain", at_gstar(inputs))


def _beyond_shift(inputs: PaperInputs) -> Claim:
    title = "Layers pass on more than shifting each layer by itself explains"
    column, low = "opt_delta_b_depth_shift", "opt_delta_b_depth_shift_ci_low"
    return excess("excess_shift", title, column, low, "Against shifts, at the baseline gain,", at_baseline(inputs))


def _beyond_swap(inputs: PaperInputs) -> Claim:
    sheet = known(at_baseline(inputs), "opt_swap_delta_b_tot", "opt_swap_delta_b_tot_ci_low")
    expression = "opt_swap_delta_b_tot / delta_b_tot"
    share = sheet.made(expression, sheet.frame["opt_swap_delta_b_tot"] / sheet.frame["delta_b_tot"])
    return judged(
        "excess_swap",
        "Some of the excess remains when the events of each token and of each layer are kept",
        "the lower end of the interval of opt_swap_delta_b_tot, over sequences and one swap of each, lies above zero",
        share,
        above(sheet.frame["opt_swap_delta_b_tot_ci_low"]),
        "Against swaps that keep every row and column sum, one of each sequence, the interval of the excess at the baseline gain "
        "lies above zero in {k} of {n} cells; {share} of the excess over the permutation null remains. What the swap takes away "
        "goes with how many layers an eventful token excites.",
        share=span(share.span(expression)),
    )


def _signatures(inputs: PaperInputs) -> Claim:
    every = inputs.sheets[VERDICTS]
    sheet = every.where((every.frame["gstar_status"] == "bracketed") & every.frame["chi_peak_g"].notna())
    return judged(
        "signatures_agree",
        "Susceptibility peaks near the selected gain",
        "chi peaks inside the grid, within the registered distance of a bracketed gain",
        sheet,
        sheet.frame["agrees"].to_numpy(bool),
        "Branching and susceptibility point to one gain in {k} of {n} cells whose selected gain is bracketed; elsewhere "
        "branching located nothing to agree with. Over all cells the largest chi lies {distance} from the selected gain.",
        distance=span(every.span("distance")),
    )


def _crackling(inputs: PaperInputs) -> Claim:
    sheet = inputs.sheets["T05_CRACKLING_DIAGNOSTICS"]
    return judged(
        "crackling",
        "Size grows with duration as a power over the fitted range",
        "enough durations, enough replicates and an interval narrow enough",
        sheet,
        sheet.frame["pass"].to_numpy(bool),
        "The crackling fit passes its quality gate in {k} of {n} conditions; where there is a slope it is {gamma}. Passing "
        "says that a slope was measured, not why.",
        gamma=span(sheet.span("crackling_gamma")),
    )


def _tails(inputs: PaperInputs) -> Claim:
    sheet = inputs.sheets["T04_TAIL_FITS"].equal(g=inputs.job.settings.gains.baseline)
    sheet = known(sheet, "llr_powerlaw_vs_lognormal", "opt_vuong_p_lognormal")
    ratio, p = sheet.frame["llr_powerlaw_vs_lognormal"], sheet.frame["opt_vuong_p_lognormal"]
    return judged(
        "power_law",
        "Avalanche sizes prefer a power law to a log-normal",
        "the log-likelihood ratio is positive and its Vuong p below the level",
        sheet,
        preferred(ratio, p, ALPHA),
        "At the baseline gain the tail of the sizes prefers the power law at level {alpha} in {k} of {n} cells, and the "
        "log-normal in {other}; the log-likelihood ratio is {ratio} nats. A preferred power law alone would say little about "
        "its cause.",
        alpha=constant(sys.modules[__name__], "ALPHA", ALPHA),
        other=sheet.count(preferred(-ratio, p, ALPHA), "log-normal preferred"),
        ratio=span(sheet.span("llr_powerlaw_vs_lognormal")),
    )


def _ablations(inputs: PaperInputs) -> Claim:
    sheet = away(inputs.sheets["T06_ABLATIONS"].equal(g_condition="gstar"), inputs)
    distance = sheet.frame.assign(distance=(sheet.frame["b_tot"] - 1).abs())
    by_cell = distance.pivot_table(index=list(CELL), columns="intervention_id", values="distance")
    both = by_cell.reindex(columns=["MLP_GLOBAL", "ATTN_GLOBAL"]).dropna()
    holds = (both["MLP_GLOBAL"] < both["ATTN_GLOBAL"]).to_numpy()
    mlp = Sheet(sheet.origin, CELL, both.reset_index())
    rule = CRITERIA[inputs.job.settings.pipeline.gstar_method]
    chosen_for = "for just this distance, which favours them" if rule.quantity == "b_tot" else f"for {rule.rule}"
    return judged(
        "mlp_rather_than_attention",
        "Scaling the MLPs brings b_tot nearer one than scaling attention does",
        "|b_tot - one| is smaller under MLP_GLOBAL than under ATTN_GLOBAL at the same gain",
        mlp,
        holds,
        "At a selected gain other than the baseline this holds in {k} of {n} cells: the distance is {mlp} for the MLPs and "
        f"{{attention}} for attention. The gain was selected on the MLPs {chosen_for}, and there is no interval.",
        mlp=span(mlp.span("MLP_GLOBAL")),
        attention=span(mlp.span("ATTN_GLOBAL")),
    )


ON_A: Final[tuple[Callable[[PaperInputs], Claim], ...]] = (
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
)
