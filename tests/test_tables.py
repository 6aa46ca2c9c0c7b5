"""Result tables: the schemas are the contracted ones, violations are named, both files hold the same rows."""

import io
import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from avalanche_llm.canon import load_canon
from avalanche_llm.errors import SchemaError
from avalanche_llm.plotting import tables
from avalanche_llm.plotting.schemas import SCHEMAS, T01, T04, T05, T06, TableSchema

DEFINITIONS = ("SPIKE_ONE_SIDED_POS", "SPIKE_TWO_SIDED_ABS")
RATES = (1e-5, 2e-5, 4e-5, 8e-5)
GAINS = (0.7, 0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15, 1.2, 1.3)
KEYS = [(definition, rate, g) for definition in DEFINITIONS for rate in RATES for g in GAINS]

BINDING = {
    "T01_SUMMARY": (
        "run_id, stage_id, model_id, model_role, dataset_role, spike_def_id, target_rate, g, "
        "tau0_baseline, rate_match_tol_abs, achieved_rate_mean, achieved_rate_max_abs_err, b_time, "
        "b_depth, b_tot, b_time_perm, b_depth_perm, b_tot_perm, delta_b_time, delta_b_depth, "
        "delta_b_tot, chi, crackling_gamma, crackling_ci_low, crackling_ci_high, n_sequences, "
        "n_avalanches, avalanche_size_mean, avalanche_size_median, avalanche_span_tokens_mean, "
        "avalanche_span_layers_mean, config_hash, code_version"
    ),
    "T02_GENERALIZATION": (
        "run_id, stage_id, model_id, model_role, dataset_role, spike_def_id, target_rate, "
        "g_condition, g, b_time, b_depth, b_tot, delta_b_tot, chi, n_sequences, ppl, nll_mean, "
        "config_hash, code_version"
    ),
    "T03_ARC": (
        "run_id, stage_id, model_id, model_role, dataset_role, spike_def_id, target_rate, "
        "g_condition, g, n_questions, accuracy, accuracy_ci_low, accuracy_ci_high, "
        "mean_logprob_correct_minus_incorrect, config_hash, code_version"
    ),
    "T04_TAIL_FITS": (
        "run_id, stage_id, model_id, model_role, dataset_role, spike_def_id, target_rate, g, xmin, "
        "n_tail, alpha_powerlaw, lambda_exponential, lognorm_mu, lognorm_sigma, ll_powerlaw, "
        "ll_exponential, ll_lognormal, llr_powerlaw_vs_lognormal, llr_powerlaw_vs_exponential, "
        "config_hash, code_version"
    ),
    "T05_CRACKLING_DIAGNOSTICS": (
        "run_id, stage_id, model_id, model_role, dataset_role, spike_def_id, target_rate, g, "
        "crackling_gamma, crackling_ci_low, crackling_ci_high, crackling_ci_width, n_duration_points, "
        "n_avalanches_used, r2, pass, config_hash, code_version"
    ),
    "T06_ABLATIONS": (
        "run_id, stage_id, model_id, model_role, dataset_role, spike_def_id, target_rate, "
        "g_condition, g, intervention_id, gain_target, b_tot, delta_b_tot, chi, "
        "achieved_rate_max_abs_err, n_sequences, config_hash, code_version"
    ),
    "T07_REPLICATION_SUMMARY": (
        "run_id, stage_id, model_id_base, model_id_instruct, run_id_s05_base, run_id_s05_instruct, "
        "spike_def_id, target_rate, gstar_base, gstar_instruct, delta_b_tot_at_gstar_base, "
        "delta_b_tot_at_gstar_instruct, chi_at_gstar_base, chi_at_gstar_instruct, config_hash, "
        "code_version"
    ),
}


def rows(schema: TableSchema, keys: Sequence[tables.Key] = KEYS) -> list[dict[str, object]]:
    """Seeded rows for any schema, with a gap in every nullable column of every third row."""
    rng = np.random.default_rng(3)
    made = []
    for number, key in enumerate(keys):
        row: dict[str, object] = {}
        for column in schema.columns:
            value: object = {
                "string": f'{column.name}, "{number}" µ',
                "float64": float(rng.normal() * 10.0 ** rng.integers(-300, 300)),
                "int64": int(rng.integers(0, 2**53)),
                "bool": bool(rng.integers(0, 2)),
            }[column.dtype]
            row[column.name] = None if column.nullable and number % 3 == 0 else value
        made.append(row | dict(zip(schema.key, key, strict=True)))
    return made


def frame_of(schema: TableSchema = T01) -> pd.DataFrame:
    return tables.from_rows(rows(schema), schema)


def read_csv(data: bytes, schema: TableSchema) -> pd.DataFrame:
    dtypes = {column.name: "str" if column.dtype == "string" else column.dtype for column in schema.columns}
    return pd.read_csv(io.BytesIO(data), dtype=dtypes, keep_default_na=False, na_values=[""])


def test_schemas_have_the_canonical_ids_and_binding_columns_in_order() -> None:
    assert tuple(SCHEMAS) == tuple(load_canon()["ID.TABLE"])
    for table_id, names in BINDING.items():
        found = SCHEMAS[table_id].names
        binding = names.split(", ")
        assert list(found[: len(binding)]) == binding
        assert all(name.startswith("opt_") for name in found[len(binding) :])


def test_schemas_name_every_optional_column_of_the_summary() -> None:
    measures = ("b_time", "b_depth", "b_tot", "delta_b_time", "delta_b_depth", "delta_b_tot", "chi")
    expected = [f"opt_{measure}_ci_{end}" for measure in measures for end in ("low", "high")]
    others = (
        "opt_b_tot_shift opt_delta_b_tot_shift opt_delta_b_tot_shift_ci_low opt_delta_b_tot_shift_ci_high "
        "opt_delta_b_depth_shift opt_delta_b_depth_shift_ci_low opt_delta_b_depth_shift_ci_high "
        "opt_phase4_perm_null_marginals_exact opt_phase4_shift_null_marginals_exact opt_occupancy "
        "opt_occupancy_over_pc_4n opt_occupancy_over_pc_8n opt_largest_component_share opt_border_share "
        "opt_b_tot_over_perm opt_m_tokens opt_m_layers opt_chi_ddof1 opt_token0_event_share opt_perm_z_b_tot "
        "opt_perm_p_b_tot opt_shift_z_b_depth opt_shift_p_b_depth opt_n_avalanches_8n opt_avalanche_size_mean_8n "
        "opt_swap_delta_b_tot opt_swap_delta_b_tot_ci_low opt_swap_delta_b_tot_ci_high opt_rate_z_max"
    )
    assert [name for name in T01.names if name.startswith("opt_")] == expected + others.split()


def test_schemas_require_the_numbers_that_may_not_be_missing() -> None:
    required = {column.name for column in T01.columns if not column.nullable}
    assert {"b_tot", "delta_b_tot", "chi", *T01.key} <= required
    for schema in SCHEMAS.values():
        assert set(schema.key) <= {column.name for column in schema.columns if not column.nullable}
        assert len(set(schema.names)) == len(schema.names)
        assert all(column.meaning for column in schema.columns)
        assert all(column.unit for column in schema.columns if column.dtype in ("float64", "int64"))


@pytest.mark.parametrize("table_id", ["T01_SUMMARY", "T04_TAIL_FITS", "T05_CRACKLING_DIAGNOSTICS"])
def test_validate_accepts_a_whole_table_and_orders_it_by_the_expected_keys(table_id: str) -> None:
    schema = SCHEMAS[table_id]
    frame = frame_of(schema)
    shuffled = frame.sample(frac=1.0, random_state=5)
    before = shuffled.copy()
    pd.testing.assert_frame_equal(tables.validate(shuffled, schema, KEYS), frame)
    pd.testing.assert_frame_equal(shuffled, before)


def test_validate_tells_ablations_of_one_gain_apart() -> None:
    keys: list[tables.Key] = [
        ("SPIKE_ONE_SIDED_POS", 1e-5, "g1", 1.0, "MLP_GLOBAL"),
        ("SPIKE_ONE_SIDED_POS", 1e-5, "gstar", 1.0, "MLP_GLOBAL"),
        ("SPIKE_ONE_SIDED_POS", 1e-5, "gstar", 1.0, "ATTN_GLOBAL"),
    ]
    frame = tables.from_rows(rows(T06, keys), T06)
    assert len(tables.validate(frame, T06, keys)) == 3


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_validate_names_table_row_and_column_of_a_value_that_must_be_there(bad: float) -> None:
    frame = frame_of()
    frame.loc[12, "chi"] = bad
    where = re.escape("(spike_def_id=SPIKE_ONE_SIDED_POS, target_rate=2e-05, g=0.8)")
    with pytest.raises(
        SchemaError, match=f"T01_SUMMARY, row {where}: column chi must hold a value.*1 such of 88"
    ):
        tables.validate(frame, T01, KEYS)


def test_validate_lets_a_nullable_column_be_empty_or_infinite() -> None:
    frame = frame_of()
    frame["crackling_gamma"] = np.nan
    frame.loc[0, "opt_perm_z_b_tot"] = np.inf
    assert tables.validate(frame, T01, KEYS)["opt_perm_z_b_tot"].iloc[0] == np.inf


@pytest.mark.parametrize("text", ["", "two\nlines", "tab\there"])
def test_validate_refuses_text_that_a_csv_could_not_tell_from_none(text: str) -> None:
    frame = frame_of(T05)
    frame.loc[1, "opt_reason"] = text
    with pytest.raises(SchemaError, match=r"T05_CRACKLING_DIAGNOSTICS, row \(.*g=0.8\): column opt_reason"):
        tables.validate(frame, T05, KEYS)


def test_validate_refuses_null_text_where_a_value_is_required() -> None:
    frame = frame_of()
    frame.loc[0, "model_id"] = None
    with pytest.raises(SchemaError, match=r"g=0.7\): column model_id must hold a value"):
        tables.validate(frame, T01, KEYS)


def test_validate_names_missing_extra_misplaced_and_repeated_columns() -> None:
    frame = frame_of()
    swapped = [*T01.names[:8], T01.names[9], T01.names[8], *T01.names[10:]]
    cases = {
        "column chi is missing": frame.drop(columns="chi"),
        "column opt_new is not in the schema": frame.assign(opt_new=1.0),
        "column 8 is rate_match_tol_abs, expected tau0_baseline": frame[swapped],
        "column opt_rate_z_max appears more than once": frame[[*T01.names, "opt_rate_z_max"]],
    }
    for message, bad in cases.items():
        with pytest.raises(SchemaError, match=f"T01_SUMMARY, every row: {message}"):
            tables.validate(bad, T01, KEYS)


@pytest.mark.parametrize(
    ("column", "dtype"), [("n_avalanches", "float64"), ("g", "float32"), ("run_id", "object"), ("g", "str")]
)
def test_validate_names_a_wrong_dtype(column: str, dtype: str) -> None:
    with pytest.raises(SchemaError, match=f"column {column} must be .*, found {dtype}"):
        tables.validate(frame_of().astype({column: dtype}), T01, KEYS)


def test_validate_names_missing_extra_and_repeated_keys() -> None:
    frame = frame_of()
    cases = {
        r"g=0.7\): key is missing \(1 such; 88 rows expected, 87 found\)": (frame.iloc[1:], KEYS),
        r"g=1.3\): key is not expected \(1 such; 87 rows expected, 88 found\)": (frame, KEYS[:-1]),
        r"g=0.7\): key appears more than once": (pd.concat([frame, frame.iloc[:1]]), KEYS),
        r"g=0.7\): key is expected more than once": (frame, [*KEYS, KEYS[0]]),
    }
    for message, (bad, keys) in cases.items():
        with pytest.raises(SchemaError, match=message):
            tables.validate(bad, T01, keys)


def test_from_rows_gives_the_dtypes_of_the_schema_even_where_all_is_missing() -> None:
    made = [row | {"opt_reason": None, "xmin": None, "n_tail": np.int64(3)} for row in rows(T04)]
    frame = tables.from_rows(made, T04)
    assert frame["opt_reason"].isna().all() and isinstance(frame["opt_reason"].dtype, pd.StringDtype)
    assert frame["xmin"].dtype == np.dtype("float64") and frame["n_tail"].dtype == np.dtype("int64")
    assert len(tables.validate(frame, T04, KEYS)) == len(KEYS)


@pytest.mark.parametrize(
    ("column", "value"),
    [("n_tail", 2.5), ("n_tail", None), ("n_tail", True), ("xmin", "3"), ("opt_reason", 3), ("g", False)],
)
def test_from_rows_names_a_value_of_another_type(column: str, value: object) -> None:
    made = rows(T04)
    made[2][column] = value
    with pytest.raises(SchemaError, match=f"T04_TAIL_FITS, row .*: column {column} must be"):
        tables.from_rows(made, T04)


def test_from_rows_names_a_missing_and_an_extra_column() -> None:
    made = rows(T05)
    del made[0]["pass"]
    with pytest.raises(
        SchemaError, match=r"T05_CRACKLING_DIAGNOSTICS, row .*g=0.7\): column pass is missing"
    ):
        tables.from_rows(made, T05)
    with pytest.raises(SchemaError, match="column gamma is not in the schema"):
        tables.from_rows([row | {"gamma": 1.0} for row in rows(T05)], T05)


@pytest.mark.parametrize("table_id", list(SCHEMAS))
def test_csv_and_parquet_read_back_as_the_same_frame(table_id: str) -> None:
    schema = SCHEMAS[table_id]
    types = {column.name: column.dtype for column in schema.columns}
    keys: list[tables.Key] = [
        tuple(f"{name} {n}" if types[name] == "string" else n / 7 for name in schema.key) for n in range(9)
    ]
    frame = tables.validate(tables.from_rows(rows(schema, keys), schema), schema, keys)
    pd.testing.assert_frame_equal(read_csv(tables.to_csv_bytes(frame), schema), frame, check_exact=True)
    parquet = pd.read_parquet(io.BytesIO(tables.to_parquet_bytes(frame, schema)))
    pd.testing.assert_frame_equal(parquet, frame, check_exact=True)


def test_to_csv_bytes_keeps_every_bit_of_a_float_and_ends_lines_with_lf() -> None:
    frame = frame_of()
    frame.loc[0, "chi"] = 0.1 + 0.2
    frame.loc[1, "chi"] = 5e-324
    data = tables.to_csv_bytes(frame)
    assert read_csv(data, T01)["chi"].tolist() == frame["chi"].tolist()
    assert b"0.30000000000000004" in data and b"5e-324" in data
    assert b"\r" not in data and data.count(b"\n") == len(frame) + 1
    assert data == tables.to_csv_bytes(frame_of().assign(chi=frame["chi"]))


def test_to_parquet_bytes_is_stable_and_carries_units_but_no_pandas_block() -> None:
    data = tables.to_parquet_bytes(frame_of(), T01)
    reindexed = frame_of().set_index(pd.RangeIndex(100, 188))
    assert tables.to_parquet_bytes(reindexed, T01) == data
    read = pq.read_schema(io.BytesIO(data))
    assert read.metadata == {b"table_id": b"T01_SUMMARY", b"key": b"spike_def_id,target_rate,g"}
    assert read.field("chi").metadata[b"unit"] == b"events"
    assert b"variance" in read.field("chi").metadata[b"meaning"]
    assert (read.field("chi").nullable, read.field("crackling_gamma").nullable) == (False, True)
    assert pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0).column(0).compression == "ZSTD"


def test_to_parquet_bytes_refuses_a_frame_of_another_table() -> None:
    with pytest.raises(SchemaError, match="T04_TAIL_FITS, every row: column xmin is missing"):
        tables.to_parquet_bytes(frame_of(T05), T04)


def test_markdown_head_shows_the_first_rows_and_counts_the_rest() -> None:
    frame = pd.DataFrame({"name": ["a|b", None, "c"], "x": [1 / 3, 2e-5, 3.0], "n": [1, 2, 3]})
    assert tables.markdown_head(frame, n=2).splitlines() == [
        "| name | x | n |",
        "| --- | --- | --- |",
        "| a\\|b | 0.333333 | 1 |",
        "|  | 2e-05 | 2 |",
        "",
        "1 more rows",
    ]
    assert "more rows" not in tables.markdown_head(frame)
