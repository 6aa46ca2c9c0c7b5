"""03_LIMITATIONS: what the numbers do not show, said with the numbers that limit them (spec 20)."""

from collections.abc import Sequence

from avalanche_llm.paper.claim import Claim
from avalanche_llm.paper.inputs import PaperInputs, configured
from avalanche_llm.paper.prose import Prose, bullets, heading, joined, prose, span


def limitations(inputs: PaperInputs, claims: Sequence[Claim]) -> list[Prose]:
    """The blocks of the section: what always limits, then what these numbers add."""
    return [heading("Limitations", 1), bullets([*_always(inputs), *_here(inputs, {claim.claim_id: claim for claim in claims})])]


def _always(inputs: PaperInputs) -> list[Prose]:
    summary, arc = inputs.sheets["T01_SUMMARY"], inputs.sheets["T03_ARC"]
    share = summary.made("b_tot_perm / b_tot", summary.frame["b_tot_perm"] / summary.frame["b_tot"])
    (reps,) = configured(inputs.runs["PHASE5_ANALYZE_AND_EXPORT"], "statistics.bootstrap_reps")
    return [
        prose(
            "Density. Occupancy over the grid is {p}. Independent sites would already have b_tot of about twice the occupancy, "
            "and the permutation, which keeps no order in time, gives {share} of the b_tot that was found. b_tot near one "
            "measures density first.",
            p=span(summary.span("opt_occupancy")),
            share=span(share.span("b_tot_perm / b_tot")),
        ),
        prose(
            "Lattice. It has few layers: {border} of the components touch its border, the largest of a sequence holds "
            "{largest} of the occupied sites, and occupancy is {percolation} times the percolation threshold of four "
            "neighbours. Exponents cannot be read off it.",
            border=span(summary.span("opt_border_share")),
            largest=span(summary.span("opt_largest_component_share")),
            percolation=span(summary.span("opt_occupancy_over_pc_4n")),
        ),
        prose(
            "Intervals come from {reps} resamplings of {n} sequences on data set A. That of susceptibility may be too low where "
            "a few sequences hold most events. They say nothing about other models or other texts.",
            reps=reps,
            n=span(summary.span("n_sequences")),
        ),
        prose("Dependence. Cells share windows, events and one model; k of n cells is a count and no test."),
        prose(
            "A drive that all layers share at a token raises b_depth without anything being passed on. The margin-preserving "
            "swap takes much of it away; no surrogate here takes away all of it."
        ),
        prose("Attention links distant tokens; neighbours on the lattice are not the only ones that could pass activity on."),
        prose(
            "The first token that counts holds {share} of all events.",
            share=span(summary.span("opt_token0_event_share")),
        ),
        prose(
            "A fit that a power law wins says little about its cause [@touboul2010], and a crackling fit that passes its gate "
            "only that a slope was measured."
        ),
        prose(
            "{n} questions under one template: an interval of accuracy is wide, and a label's probability is not all that a "
            "model knows.",
            n=arc.fact(0, "n_questions"),
        ),
    ]


def _here(inputs: PaperInputs, claims: dict[str, Claim]) -> list[Prose]:
    lines = []
    if claims["crossing"].verdict != "supported":
        lines.append(joined(["Selection. ", claims["crossing"].sentence], ""))
    if claims["rates_held_out"].verdict != "supported":
        other = inputs.sheets["T02_GENERALIZATION"]
        lines.append(
            prose(
                "Rates. Thresholds fit their own slice. {held} On data set B the worst layer of a condition is off by {b} of "
                "its target: what is compared across texts differs in density too.",
                held=claims["rates_held_out"].sentence,
                b=span(other.span("opt_heldout_rate_max_rel_err")),
            )
        )
    if len({run.record["hashes"]["code_version"] for run in inputs.chain}) > 1:
        lines.append(prose("The runs were made by more than one version of the code; the provenance lists them."))
    if "T07_REPLICATION_SUMMARY" not in inputs.sheets:
        lines.append(claims["replication"].sentence)
    return lines
