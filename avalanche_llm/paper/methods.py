"""01_METHODS: what was measured and how, every setting read from the resolved config (spec 20)."""

import inspect
import sys

from avalanche_llm.metrics import branching, density, stats
from avalanche_llm.metrics.gstar import CRITERIA
from avalanche_llm.paper.facts import Fact, constant
from avalanche_llm.paper.inputs import PaperInputs, configured, recorded
from avalanche_llm.paper.prose import Prose, equation, heading, joined, prose


def measured(inputs: PaperInputs) -> Prose:
    """Model, data and their sizes in two sentences."""
    grid = inputs.runs["PHASE2_GAIN_GRID"]
    rasters, text = inputs.runs["PHASE3_EXTRACT_RASTERS"], inputs.runs["PHASE6_GENERALIZE_B_METRICS"]
    return prose(
        "Model {model} ({role}; {layers} layers, {units} MLP units each; {device}, {dtype}). Gain grid on {windows} windows of "
        "{tokens} tokens of {data}; rasters on {held} other windows of it; generalisation on {n_b} windows of {b}.",
        model=recorded(grid, "model", "id"),
        role=recorded(grid, "model", "role"),
        layers=recorded(grid, "model", "n_layers"),
        units=recorded(grid, "model", "d_ff"),
        device=recorded(grid, "model", "device"),
        dtype=recorded(grid, "model", "dtype"),
        windows=recorded(grid, "dataset", "A_CALIBRATION", "n_windows"),
        tokens=recorded(grid, "dataset", "A_CALIBRATION", "seq_len_tokens"),
        data=recorded(grid, "dataset", "A_CALIBRATION", "id"),
        held=recorded(rasters, "dataset", "A_RASTERS", "n_windows"),
        n_b=recorded(text, "dataset", "B_EVAL", "n_windows"),
        b=recorded(text, "dataset", "B_EVAL", "id"),
    )


def methods(inputs: PaperInputs) -> list[Prose]:
    """The blocks of the section."""
    parts = (_events, _branching, _signatures, _questions)
    return [heading("Methods", 1), measured(inputs), *(block for part in parts for block in part(inputs))]


def interval_level() -> Fact:
    """The level of every interval, as the code has it."""
    level = inspect.signature(stats.t_interval).parameters["level"].default
    return constant(sys.modules[stats.t_interval.__module__], "t_interval.level", level)


def _of(inputs: PaperInputs, dotted: str) -> Fact:
    (fact,) = configured(inputs.runs["PHASE5_ANALYZE_AND_EXPORT"], dotted)
    return fact


def _list_of(inputs: PaperInputs, dotted: str) -> Prose:
    return joined(configured(inputs.runs["PHASE5_ANALYZE_AND_EXPORT"], dotted))


def _events(inputs: PaperInputs) -> list[Prose]:
    return [
        heading("Activation events"),
        prose(
            "u is the input of an MLP's last projection, for a gated MLP the product of gate and up branch [@shazeer2020]. "
            "Mean and standard deviation of every unit come from the calibration slice at the baseline gain {g}, merged over "
            "windows [@chan1983], with eps = {eps}. Definitions: {definitions}.",
            g=_of(inputs, "gains.baseline"),
            eps=_of(inputs, "events.eps"),
            definitions=_list_of(inputs, "events.spike_defs"),
        ),
        equation(
            "z = (u - mu) / (sigma + eps)",
            "event: v > tau, v = z (one-sided) or |z| (two-sided)",
            "A[layer, token] = events, X = A > 0",
        ),
        prose(
            "The target rates are {rates} events per unit and token, mean over layers, in the profile over layers that v > "
            "{tau} has at the baseline. The threshold tau of a layer is an exact order statistic that gives it its target at "
            "every gain, within {absolute} and within {relative} of the target or one event; on held-out windows and on data "
            "set B it is used unchanged. The first {burn} positions of a window are left out. A few units and tokens carry "
            "activations far above the rest [@sun2024]; the share of events at the first token is reported.",
            rates=_list_of(inputs, "events.target_rates"),
            tau=_of(inputs, "events.tau0_baseline"),
            absolute=_of(inputs, "events.rate_match_tol_abs"),
            relative=_of(inputs, "events.rate_match_tol_rel"),
            burn=_of(inputs, "pipeline.burn_in_tokens"),
        ),
        heading("Gain"),
        prose(
            "The gain g multiplies what each MLP adds to the residual stream; no weight is changed. Grid: {grid}.",
            grid=_list_of(inputs, "gains.grid"),
        ),
        equation("h' = h + attention(h) + g * mlp(h)"),
    ]


def _branching(inputs: PaperInputs) -> list[Prose]:
    criterion = CRITERIA[inputs.job.settings.pipeline.gstar_method]
    return [
        heading("Branching"),
        prose(
            "Occupied neighbours one token later and one layer deeper, per occupied site, sequences pooled; avalanches are "
            "connected components in the sense of [@beggs2003]."
        ),
        equation("b_time = sum X[l,t] X[l,t+1] / sum X", "b_depth = sum X[l,t] X[l+1,t] / sum X", "b_tot = b_time + b_depth"),
        prose(
            "The excess is taken over the exact expectations under permutation and under circular shift of the tokens within "
            "layers, with k the occupied sites of a layer, and over one drawn swap that keeps the sum of every layer and every "
            "token [@strona2014]:"
        ),
        equation(
            "E[pairs in time, permuted]  = sum_l k_l (k_l - 1) / T",
            "E[pairs in depth, permuted] = sum_l k_l k_(l+1) / T",
            "delta_b = b - b_null",
        ),
        prose(
            "Intervals at level {level} are the estimate less its bias, plus and minus its standard error times Student's t "
            "with one degree of freedom fewer than there are sequences. Bias and standard error come from {reps} resamplings "
            "of the sequences [@efron1993], scaled up by what resampling a few of them falls short of [@hesterberg2015]; for "
            "crackling from leaving out one sequence at a time [@miller1974]. They are those of the logarithm of b and "
            "perplexity, of the arcsine root of accuracy, of differences and slopes as they are; the interval of chi is the "
            "studentised bootstrap of its logarithm [@efron1993], with the kurtosis of [@bonett2006]. No interval of b or its "
            "excess is given where fewer than {holders} sequences hold a pair, none of crackling where one sequence alone "
            "holds a duration. p counts the observed value among {draws} draws of a null [@davison1997], whose runs follow "
            "[@mood1940]. Occupancy stands beside the site percolation thresholds {four} for four and {eight} for eight "
            "neighbours [@newman2000] [@sykes1964]. The multistep regression of [@wilting2018] is left out where its slopes do "
            "not differ from independent activity [@boxpierce1970].",
            level=interval_level(),
            holders=constant(sys.modules[branching.__name__], "MIN_HOLDERS", branching.MIN_HOLDERS),
            reps=_of(inputs, "statistics.bootstrap_reps"),
            draws=_of(inputs, "statistics.null_draws"),
            four=constant(density, "PERCOLATION_THRESHOLD.ADJ_4N", density.PERCOLATION_THRESHOLD["ADJ_4N"]),
            eight=constant(density, "PERCOLATION_THRESHOLD.ADJ_8N", density.PERCOLATION_THRESHOLD["ADJ_8N"]),
        ),
        heading("Selection of the gain"),
        prose(
            f"Method {{method}}: the gain of the grid with {criterion.rule} on data set A; no task result enters. It is "
            f"bracketed where {criterion.located} there.",
            method=_of(inputs, "pipeline.gstar_method"),
        ),
    ]


def _signatures(inputs: PaperInputs) -> list[Prose]:
    return [
        heading("Susceptibility, tails, crackling"),
        prose(
            "chi is the variance over the mean of the events of a sequence; its peak agrees with a bracketed gain within "
            "{limit}. Discrete power law, exponential and log-normal are fitted to sizes from the {quantile} quantile up, "
            "where at least {least} components remain [@clauset2009], and compared by the ratio of [@vuong1989]. Mean size "
            "over duration is fitted as a power [@sethna2001] for durations from {shortest} to {longest}, of which {points} "
            "must occur; the gate asks for an interval no wider than {width}.",
            limit=_of(inputs, "statistics.signature_alignment_g_diff_max"),
            quantile=_of(inputs, "statistics.tail_xmin_percentile"),
            least=_of(inputs, "statistics.tail_min_samples"),
            shortest=_of(inputs, "statistics.crackling_d_range_min"),
            longest=_of(inputs, "statistics.crackling_d_range_max"),
            points=_of(inputs, "statistics.crackling_min_points"),
            width=_of(inputs, "statistics.ci_width_max"),
        ),
    ]


def _questions(inputs: PaperInputs) -> list[Prose]:
    (form,) = configured(inputs.runs["PHASE6_ARC_MCQ_EVAL"], "datasets.ARC_MCQ.prompt_template_id")
    (source,) = configured(inputs.runs["PHASE6_ARC_MCQ_EVAL"], "datasets.ARC_MCQ.hf_id")
    return [
        heading("Questions"),
        prose(
            "{n} questions of {source} in the schema of [@clark2018], template {form}, scored by the label's probability; the "
            "two gains are compared by question [@mcnemar1947].",
            n=inputs.sheets["T03_ARC"].fact(0, "n_questions"),
            source=source,
            form=form,
        ),
    ]
