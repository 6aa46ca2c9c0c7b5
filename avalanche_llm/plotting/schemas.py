"""The seven result tables as data: which columns in which order, and which of them name a row (spec 18).

Names without `opt_` and their order are binding; `opt_` columns follow them. `columns.VOCABULARY` says what
a column means, in which unit and with which dtype, the same for every table.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from avalanche_llm.plotting.columns import GENERALIZATION_INTERVALS, INTERVALS, PAIRED, VOCABULARY, Column, DType

__all__ = ["SCHEMAS", "T01", "T02", "T03", "T04", "T05", "T06", "T07", "Column", "DType", "TableSchema"]


@dataclass(frozen=True)
class TableSchema:
    """One table: its id, the columns whose values name a row, and all columns in order."""

    table_id: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Every column name, in order."""
        return tuple(column.name for column in self.columns)


_RUN: Final = "run_id stage_id model_id model_role dataset_role"
_END: Final = "config_hash code_version"
_ROW: Final = "spike_def_id target_rate g"
_PAIR: Final = "spike_def_id target_rate g_condition"
_CI, _GENERALIZATION_CI, _PAIRED = (
    " ".join(column.name for column in columns) for columns in (INTERVALS, GENERALIZATION_INTERVALS, PAIRED)
)


def _table(table_id: str, key: str, names: str, *, nullable: str = "") -> TableSchema:
    """The listed columns; those in `nullable` may be empty in this table though not elsewhere."""
    unmeasured = nullable.split()
    columns = tuple(
        replace(VOCABULARY[name], nullable=True) if name in unmeasured else VOCABULARY[name] for name in names.split()
    )
    return TableSchema(table_id, tuple(key.split()), columns)


T01: Final = _table(
    "T01_SUMMARY",
    _ROW,
    f"{_RUN} {_ROW} tau0_baseline rate_match_tol_abs achieved_rate_mean achieved_rate_max_abs_err b_time "
    "b_depth b_tot b_time_perm b_depth_perm b_tot_perm delta_b_time delta_b_depth delta_b_tot chi "
    "crackling_gamma crackling_ci_low crackling_ci_high n_sequences n_avalanches avalanche_size_mean "
    f"avalanche_size_median avalanche_span_tokens_mean avalanche_span_layers_mean {_END} {_CI} "
    "opt_b_tot_shift opt_delta_b_tot_shift opt_delta_b_tot_shift_ci_low opt_delta_b_tot_shift_ci_high "
    "opt_delta_b_depth_shift opt_delta_b_depth_shift_ci_low opt_delta_b_depth_shift_ci_high "
    "opt_phase4_perm_null_marginals_exact opt_phase4_shift_null_marginals_exact opt_occupancy "
    "opt_occupancy_over_pc_4n opt_occupancy_over_pc_8n opt_largest_component_share opt_border_share "
    "opt_b_tot_over_perm opt_m_tokens opt_m_layers opt_chi_ddof1 opt_token0_event_share "
    "opt_perm_z_b_tot opt_perm_p_b_tot opt_shift_z_b_depth opt_shift_p_b_depth opt_n_avalanches_8n "
    "opt_avalanche_size_mean_8n opt_swap_delta_b_tot opt_swap_delta_b_tot_ci_low opt_swap_delta_b_tot_ci_high opt_rate_z_max",
)
T02: Final = _table(
    "T02_GENERALIZATION",
    _PAIR,
    f"{_RUN} {_PAIR} g b_time b_depth b_tot delta_b_tot chi n_sequences ppl nll_mean {_END} "
    f"{_GENERALIZATION_CI} opt_occupancy opt_heldout_rate_max_rel_err {_PAIRED} opt_note",
    nullable="b_time b_depth b_tot delta_b_tot chi",  # thresholds come from data set A, so B may be silent
)
T03: Final = _table(
    "T03_ARC",
    _PAIR,
    f"{_RUN} {_PAIR} g n_questions accuracy accuracy_ci_low accuracy_ci_high "
    f"mean_logprob_correct_minus_incorrect {_END} opt_acc_norm opt_acc_norm_ci_low opt_acc_norm_ci_high "
    "opt_acc_cloze opt_acc_cloze_ci_low opt_acc_cloze_ci_high opt_chance opt_same_place_share opt_mcnemar_p "
    "opt_delta_accuracy opt_delta_accuracy_ci_low opt_delta_accuracy_ci_high opt_delta_acc_cloze "
    "opt_delta_acc_cloze_ci_low opt_delta_acc_cloze_ci_high opt_note",
)
T04: Final = _table(
    "T04_TAIL_FITS",
    _ROW,
    f"{_RUN} {_ROW} xmin n_tail alpha_powerlaw lambda_exponential lognorm_mu lognorm_sigma ll_powerlaw "
    f"ll_exponential ll_lognormal llr_powerlaw_vs_lognormal llr_powerlaw_vs_exponential {_END} "
    "opt_vuong_p_lognormal opt_vuong_p_exponential opt_xmin_ks opt_alpha_ks opt_reason",
)
T05: Final = _table(
    "T05_CRACKLING_DIAGNOSTICS",
    _ROW,
    f"{_RUN} {_ROW} crackling_gamma crackling_ci_low crackling_ci_high crackling_ci_width n_duration_points "
    f"n_avalanches_used r2 pass {_END} opt_reason",
)
T06: Final = _table(
    "T06_ABLATIONS",
    f"{_PAIR} g intervention_id",
    f"{_RUN} {_PAIR} g intervention_id gain_target b_tot delta_b_tot chi achieved_rate_max_abs_err n_sequences {_END} opt_status",
    nullable="b_tot delta_b_tot chi achieved_rate_max_abs_err",  # opt_status says why
)
T07: Final = _table(
    "T07_REPLICATION_SUMMARY",
    "spike_def_id target_rate",
    "run_id stage_id model_id_base model_id_instruct run_id_s05_base run_id_s05_instruct spike_def_id "
    "target_rate gstar_base gstar_instruct delta_b_tot_at_gstar_base delta_b_tot_at_gstar_instruct "
    f"chi_at_gstar_base chi_at_gstar_instruct {_END}",
)

SCHEMAS: Final[Mapping[str, TableSchema]] = MappingProxyType(
    {schema.table_id: schema for schema in (T01, T02, T03, T04, T05, T06, T07)}
)
