"""Every column of the result tables, described once: a name means one thing in every table (spec 18).

Dtypes: `string`, `float64`, `int64`, `bool`. A measure that can be unavailable is a nullable float64, never
an integer. Branching numbers are occupied neighbour pairs per occupied site, chi is in events, rates are
events per unit and token, log-likelihoods are in nats; "1" is dimensionless.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, Literal

DType = Literal["string", "float64", "int64", "bool"]


@dataclass(frozen=True)
class Column:
    """One column. `nullable`: a row may hold no value there (NaN for a float, null for a string)."""

    name: str
    dtype: DType
    unit: str
    meaning: str
    nullable: bool = False


def _of(dtype: DType, *, nullable: bool = False) -> Callable[[str, str, str], Column]:
    return lambda name, unit, meaning: Column(name, dtype, unit, meaning, nullable)


_text, _real, _count, _flag = _of("string"), _of("float64"), _of("int64"), _of("bool")
_maybe, _maybe_text = _of("float64", nullable=True), _of("string", nullable=True)

_RATE: Final = "events/unit/token"
_BRANCHING: Final = "pairs/site"

_MEASURES: Final = (
    _real("b_time", _BRANCHING, "occupied neighbours one token later per occupied site, sequences pooled"),
    _real("b_depth", _BRANCHING, "occupied neighbours one layer deeper per occupied site, sequences pooled"),
    _real("b_tot", _BRANCHING, "b_time + b_depth"),
    _real("delta_b_time", _BRANCHING, "b_time - b_time_perm"),
    _real("delta_b_depth", _BRANCHING, "b_depth - b_depth_perm"),
    _real("delta_b_tot", _BRANCHING, "b_tot - b_tot_perm"),
    _real("chi", "events", "population variance over mean of the events per sequence"),
)

_LIKELIHOOD: Final = (
    _real("nll_mean", "nats/token", "mean negative log-likelihood of the next token"),
    _real("ppl", "1", "perplexity, exp(nll_mean)"),
)


def _intervals(columns: tuple[Column, ...]) -> tuple[Column, ...]:
    return tuple(
        _maybe(f"opt_{of.name}_ci_{end}", of.unit, f"bootstrap over sequences, {end} end of {of.name}")
        for of in columns
        for end in ("low", "high")
    )


INTERVALS: Final = _intervals(_MEASURES)
_LIKELIHOOD_INTERVALS: Final = _intervals(_LIKELIHOOD)
GENERALIZATION_INTERVALS: Final = (
    *(column for column in INTERVALS if column.name.startswith(("opt_b_tot", "opt_delta_b_tot", "opt_chi"))),
    *_LIKELIHOOD_INTERVALS,
)

PAIRED: Final = tuple(
    column
    for name, unit, meaning in (
        *(
            (f"opt_diff_{of.name}", of.unit, f"{of.name} at gstar minus g1, the same sequences")
            for of in (*_MEASURES, *_LIKELIHOOD)
            if of.name in ("b_tot", "delta_b_tot", "chi", "nll_mean")
        ),
        ("opt_ppl_ratio", "1", "ppl at gstar over g1, the same sequences"),
    )
    for column in (
        _maybe(name, unit, meaning),
        *(_maybe(f"{name}_ci_{end}", unit, f"paired bootstrap over sequences, {end} end of {name}") for end in ("low", "high")),
    )
)
"""What changes between the two gains of a cell; empty in g1 rows."""

_PLAIN: Final = (
    _text("run_id", "", "run that wrote the table"),
    _text("stage_id", "", "stage tag of that run"),
    _text("model_id", "", "hub id or local path of the model"),
    _text("model_role", "", "BASE or INSTRUCT"),
    _text("dataset_role", "", "A, B or ARC_MCQ"),
    _text("spike_def_id", "", "which tail of z counts as an event"),
    _real("target_rate", _RATE, "target of the rate matching, mean over layers"),
    _real("g", "1", "factor on what the intervened modules add to the residual stream"),
    _text("g_condition", "", "g1 (no intervention) or gstar (the selected gain)"),
    _text("config_hash", "", "sha256 of the resolved configuration"),
    _text("code_version", "", "version of the code that wrote the table"),
    _real("tau0_baseline", "sd of z", "threshold that fixes the rate profile over layers at g = 1"),
    _real("rate_match_tol_abs", _RATE, "absolute tolerance of the rate matching"),
    _real("achieved_rate_mean", _RATE, "rate reached on the calibration slice, mean over layers"),
    _real("achieved_rate_max_abs_err", _RATE, "largest |achieved - target| of any layer"),
    _real("b_time_perm", _BRANCHING, "exact expectation of b_time under within-layer permutation"),
    _real("b_depth_perm", _BRANCHING, "exact expectation of b_depth under within-layer permutation"),
    _real("b_tot_perm", _BRANCHING, "exact expectation of b_tot under within-layer permutation"),
    _maybe("crackling_gamma", "1", "slope of log mean size on log duration; empty where not available"),
    _maybe("crackling_ci_low", "1", "jackknife over sequences, low end of crackling_gamma"),
    _maybe("crackling_ci_high", "1", "jackknife over sequences, high end of crackling_gamma"),
    _maybe("crackling_ci_width", "1", "crackling_ci_high - crackling_ci_low"),
    _count("n_sequences", "sequences", "sequences that were measured"),
    _count("n_avalanches", "components", "connected components, 4-neighbour adjacency"),
    _real("avalanche_size_mean", "events", "mean size of a component"),
    _real("avalanche_size_median", "events", "median size of a component"),
    _real("avalanche_span_tokens_mean", "tokens", "mean token span of a component"),
    _real("avalanche_span_layers_mean", "layers", "mean layer span of a component"),
    _maybe("opt_b_tot_shift", _BRANCHING, "exact expectation of b_tot under non-zero circular shifts"),
    _maybe("opt_delta_b_tot_shift", _BRANCHING, "b_tot - opt_b_tot_shift; above 0 for memory along tokens alone"),
    _maybe("opt_delta_b_tot_shift_ci_low", _BRANCHING, "bootstrap, low end of opt_delta_b_tot_shift"),
    _maybe("opt_delta_b_tot_shift_ci_high", _BRANCHING, "bootstrap, high end of opt_delta_b_tot_shift"),
    _maybe("opt_delta_b_depth_shift", _BRANCHING, "b_depth minus its exact expectation under non-zero circular shifts"),
    _maybe("opt_delta_b_depth_shift_ci_low", _BRANCHING, "bootstrap, low end of opt_delta_b_depth_shift"),
    _maybe("opt_delta_b_depth_shift_ci_high", _BRANCHING, "bootstrap, high end of opt_delta_b_depth_shift"),
    _flag("opt_phase4_perm_null_marginals_exact", "", "the drawn permutations keep every layer count"),
    _flag("opt_phase4_shift_null_marginals_exact", "", "the drawn shifts keep every layer count"),
    _maybe("opt_occupancy", "1", "occupied share p of the sites"),
    _maybe("opt_occupancy_over_pc_4n", "1", "p over the site percolation threshold 0.592746 (4 neighbours)"),
    _maybe("opt_occupancy_over_pc_8n", "1", "p over the site percolation threshold 0.407254 (8 neighbours)"),
    _maybe("opt_largest_component_share", "1", "share of occupied sites in its largest component"),
    _maybe("opt_border_share", "1", "share of the components that touch the border of the raster"),
    _maybe("opt_b_tot_over_perm", "1", "b_tot over b_tot_perm"),
    _maybe("opt_m_tokens", "1", "multistep-regression branching parameter along tokens"),
    _maybe("opt_m_layers", "1", "multistep-regression branching parameter along layers"),
    _maybe("opt_chi_ddof1", "events", "chi with the sample variance"),
    _maybe("opt_token0_event_share", "1", "share of all events at the first token of the raster, position 0 without burn-in"),
    _maybe("opt_perm_z_b_tot", "sd", "b_tot against the permutation ensemble, in its standard deviation"),
    _maybe("opt_perm_p_b_tot", "1", "(1 + draws at least as large) / (1 + draws), permutation ensemble"),
    _maybe("opt_shift_z_b_depth", "sd", "b_depth against the circular-shift ensemble, in its standard deviation"),
    _maybe("opt_shift_p_b_depth", "1", "(1 + draws at least as large) / (1 + draws), b_depth under circular shifts"),
    _maybe("opt_n_avalanches_8n", "components", "connected components, 8-neighbour adjacency"),
    _maybe("opt_avalanche_size_mean_8n", "events", "mean size of a component, 8-neighbour adjacency"),
    _maybe("opt_swap_delta_b_tot", _BRANCHING, "b_tot minus that of one margin-keeping swap of each sequence"),
    _maybe("opt_swap_delta_b_tot_ci_low", _BRANCHING, "bootstrap over sequences, low end of opt_swap_delta_b_tot"),
    _maybe("opt_swap_delta_b_tot_ci_high", _BRANCHING, "bootstrap over sequences, high end of opt_swap_delta_b_tot"),
    _maybe("opt_rate_z_max", "sd", "largest binomial |z| of a layer's rate on the held-out raster slice"),
    _maybe("opt_heldout_rate_max_rel_err", "1", "largest |achieved / target - 1| of a layer's rate, thresholds fitted elsewhere"),
    _count("n_questions", "questions", "questions that were scored"),
    _real("accuracy", "1", "share of questions with the right label most probable"),
    _real("accuracy_ci_low", "1", "bootstrap over questions, low end of accuracy"),
    _real("accuracy_ci_high", "1", "bootstrap over questions, high end of accuracy"),
    _real("mean_logprob_correct_minus_incorrect", "nats", "log-probability, right minus mean wrong label"),
    _maybe("opt_acc_norm", "1", "accuracy of the full answer's score per byte, after the listed choices"),
    _maybe("opt_acc_norm_ci_low", "1", "bootstrap over questions, low end of opt_acc_norm"),
    _maybe("opt_acc_norm_ci_high", "1", "bootstrap over questions, high end of opt_acc_norm"),
    _maybe("opt_acc_cloze", "1", "accuracy of the full answer's score per byte, after the question alone"),
    _maybe("opt_acc_cloze_ci_low", "1", "bootstrap over questions, low end of opt_acc_cloze"),
    _maybe("opt_acc_cloze_ci_high", "1", "bootstrap over questions, high end of opt_acc_cloze"),
    _maybe("opt_same_place_share", "1", "share of questions answered with the place chosen most often; 1: always the same"),
    _maybe("opt_chance", "1", "expected accuracy of a uniform guess, mean of 1 over the number of choices"),
    _maybe("opt_mcnemar_p", "1", "exact McNemar test of gstar against g1, paired by question"),
    _maybe("opt_delta_accuracy", "1", "accuracy at gstar minus accuracy at g1, paired by question"),
    _maybe("opt_delta_accuracy_ci_low", "1", "paired bootstrap, low end of opt_delta_accuracy"),
    _maybe("opt_delta_accuracy_ci_high", "1", "paired bootstrap, high end of opt_delta_accuracy"),
    _maybe("opt_delta_acc_cloze", "1", "opt_acc_cloze at gstar minus that at g1, paired by question"),
    _maybe("opt_delta_acc_cloze_ci_low", "1", "paired bootstrap, low end of opt_delta_acc_cloze"),
    _maybe("opt_delta_acc_cloze_ci_high", "1", "paired bootstrap, high end of opt_delta_acc_cloze"),
    _maybe_text("opt_note", "", "what a reader of this row must know"),
    _maybe("xmin", "events", "smallest size of the tail, by percentile"),
    _count("n_tail", "components", "components of size xmin or more"),
    _maybe("alpha_powerlaw", "1", "exponent of the discrete power law on the tail"),
    _maybe("lambda_exponential", "1/event", "rate of the discrete exponential on the tail"),
    _maybe("lognorm_mu", "log event", "mu of the log-normal, normalised on the tail"),
    _maybe("lognorm_sigma", "log event", "sigma of the log-normal, normalised on the tail"),
    _maybe("ll_powerlaw", "nats", "log-likelihood of the power law"),
    _maybe("ll_exponential", "nats", "log-likelihood of the exponential"),
    _maybe("ll_lognormal", "nats", "log-likelihood of the log-normal"),
    _maybe("llr_powerlaw_vs_lognormal", "nats", "ll_powerlaw - ll_lognormal"),
    _maybe("llr_powerlaw_vs_exponential", "nats", "ll_powerlaw - ll_exponential"),
    _maybe("opt_vuong_p_lognormal", "1", "two-sided Vuong p of the ratio against the log-normal"),
    _maybe("opt_vuong_p_exponential", "1", "two-sided Vuong p of the ratio against the exponential"),
    _maybe("opt_xmin_ks", "events", "smallest size of the tail, by Kolmogorov-Smirnov distance"),
    _maybe("opt_alpha_ks", "1", "exponent of the power law above opt_xmin_ks"),
    _maybe_text("opt_reason", "", "why a value of this row is not available"),
    _count("n_duration_points", "durations", "distinct durations in the fitted range"),
    _count("n_avalanches_used", "components", "components in the fitted range"),
    _maybe("r2", "1", "coefficient of determination of the log-log fit"),
    _flag("pass", "", "the fit is available and its interval narrow enough; says nothing about its cause"),
    _text("intervention_id", "", "which modules of which layers the gain scales"),
    _text("gain_target", "", "MLP or ATTN"),
    _maybe_text("opt_status", "", "measured, or why not"),
)

_TWINS: Final = tuple(
    replace(column, name=f"{column.name}_{role}", meaning=f"{column.meaning}, {role.upper()} role")
    for column in (
        _text("model_id", "", "hub id or local path of the model"),
        _text("run_id_s05", "", "analysis run"),
        _real("gstar", "1", "selected gain"),
        _real("delta_b_tot_at_gstar", _BRANCHING, "delta_b_tot at the selected gain"),
        _real("chi_at_gstar", "events", "chi at the selected gain"),
    )
    for role in ("base", "instruct")
)

SPIKE_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {"SPIKE_ONE_SIDED_POS": "one-sided", "SPIKE_TWO_SIDED_ABS": "two-sided"}
)
"""The values of spike_def_id in words."""

VOCABULARY: Final[Mapping[str, Column]] = MappingProxyType(
    {column.name: column for column in (*_PLAIN, *_MEASURES, *_LIKELIHOOD, *INTERVALS, *_LIKELIHOOD_INTERVALS, *PAIRED, *_TWINS)}
)
