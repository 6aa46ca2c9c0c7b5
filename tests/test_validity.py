"""The validity study: coverage and false positives on cheap repetitions, the latent drive, and the page made from the results."""

import hashlib
import io
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from avalanche_llm.canon import load_canon
from avalanche_llm.raster.nulls import CIRCULAR_SHIFT, COMMON_SHIFT, MARGIN_SWAP, PERMUTATION
from avalanche_llm.validity import exponent_study, memory_study, results
from avalanche_llm.validity.__main__ import main
from avalanche_llm.validity.branching_study import SEQUENCES, IntervalRow, NullRow, branching_study
from avalanche_llm.validity.exponent_study import tree_gamma
from avalanche_llm.validity.figures import figure_files
from avalanche_llm.validity.goals import Goal, goals
from avalanche_llm.validity.limits import Limits
from avalanche_llm.validity.markup import number, with_interval
from avalanche_llm.validity.memory_study import MemoryRow
from avalanche_llm.validity.report import report
from avalanche_llm.validity.results import Repetitions, Results, from_json, run_studies, to_json
from avalanche_llm.validity.scenarios import SCENARIOS, scenario, seed_of
from avalanche_llm.validity.shares import Share, share
from avalanche_llm.validity.surrogate_study import surrogate_study
from avalanche_llm.validity.verdict_study import PAIRED, paired_verdicts, swap_verdicts

DOCS = Path(__file__).parents[1] / "docs"
LIMITS = Limits.of(load_canon())


@pytest.fixture(scope="module")
def small() -> Results:
    """Every study, two repetitions each."""
    return run_studies(Repetitions(2, 2), LIMITS, workers=1)


@pytest.fixture(scope="module")
def lattice() -> tuple[list[IntervalRow], list[NullRow]]:
    return branching_study("lattice", 200, LIMITS)


@pytest.fixture(scope="module")
def layers_with_memory() -> tuple[list[IntervalRow], list[NullRow]]:
    return branching_study("branching", 200, LIMITS)


def interval_of(rows: list[IntervalRow], measure: str, n_sequences: int) -> IntervalRow:
    return next(row for row in rows if (row.measure, row.n_sequences) == (measure, n_sequences))


def null_of(rows: list[NullRow], null_id: str, statistic: str) -> NullRow:
    return next(row for row in rows if (row.null_id, row.statistic) == (null_id, statistic))


def case(name: str, seen: float = 1.0) -> MemoryRow:
    index = next(i for i, one in enumerate(memory_study.CASES) if (one.name, one.seen) == (name, seen))
    return memory_study.memory_study(index, 4)


def tail_of(name: str) -> exponent_study.TailRow:
    case = next(case for case in exponent_study.cases(LIMITS) if case.name == name)
    return exponent_study.exponent_study(case, 20, LIMITS)[1]


def test_share_has_the_exact_binomial_interval() -> None:
    found = share(np.arange(100) < 5)
    assert (found.value, found.n) == (0.05, 100)
    assert (found.low, found.high) == pytest.approx((0.01643, 0.11283), abs=1e-5)  # Clopper and Pearson
    assert share(np.zeros(20, dtype=bool)).low == 0.0


@pytest.mark.parametrize("measure", ["b_tot", "delta_b_time", "delta_b_depth", "delta_b_tot", "delta_b_tot_shift"])
def test_intervals_of_an_independent_lattice_cover_with_many_sequences(
    lattice: tuple[list[IntervalRow], list[NullRow]], measure: str
) -> None:
    """200 repetitions: a coverage of 0.94 falls below 0.89 once in 400 such tests."""
    found = interval_of(lattice[0], measure, 128)
    assert found.given.value == 1.0 and found.coverage is not None
    assert 0.89 <= found.coverage.value <= 0.995
    assert found.mean == pytest.approx(found.truth, abs=4 * found.sd / np.sqrt(200))
    if measure == "delta_b_tot":
        assert found.above_zero.low < 0.05


@pytest.mark.parametrize("measure", ["b_time", "b_tot", "delta_b_tot", "chi"])
def test_intervals_of_an_independent_lattice_cover_with_few_sequences(
    lattice: tuple[list[IntervalRow], list[NullRow]], measure: str
) -> None:
    """16 sequences; percentile intervals covered 79 % for chi and 91 % for the others, with a standard error of 2 % here."""
    found = interval_of(lattice[0], measure, SEQUENCES[0])
    assert found.coverage is not None and found.coverage.value >= 0.89 and found.coverage.high > 0.95


@pytest.mark.parametrize("n_sequences", SEQUENCES)
def test_intervals_of_chi_cover_where_few_sequences_hold_most_events(
    layers_with_memory: tuple[list[IntervalRow], list[NullRow]], n_sequences: int
) -> None:
    """t intervals of log chi covered 82 to 87 % here, with a standard error of 2.5 %."""
    found = interval_of(layers_with_memory[0], "chi", n_sequences).coverage
    assert found is not None and found.value >= 0.87 and found.high > 0.92


def test_intervals_of_a_sparse_raster_are_counted_apart_where_they_are_not_given() -> None:
    rows, _ = branching_study("sparse", 40, LIMITS)
    few = interval_of(rows, "b_time", 16)
    assert few.given.value < 0.1 and few.given.n == 40
    assert few.coverage is None or few.coverage.n == round(40 * few.given.value)
    assert interval_of(rows, "chi", 16).given.value == 1.0
    many = interval_of(rows, "b_tot", 128)
    assert many.given.value > 0.9 and many.coverage is not None and many.coverage.value > 0.8


def test_swap_s_claim_is_rarely_supported_where_the_swap_s_null_is_true() -> None:
    """The rule of an interval above 0, at 2.5 %; a sign alone, the rule before, held every other time."""
    for row in swap_verdicts("lattice", 40, LIMITS):
        assert row.claim == "excess_swap" and row.supported.low < 0.05
    assert [row.n for row in swap_verdicts("branching", 2, LIMITS) if row.supported.value == 1.0] == [16, 64]


@pytest.mark.parametrize("claim", PAIRED)
def test_claims_about_questions_and_likelihood_are_rarely_supported_by_chance(claim: str) -> None:
    for row in paired_verdicts(claim, 100, LIMITS):
        assert row.supported.low < 0.05


@pytest.mark.parametrize("null_id", [PERMUTATION, CIRCULAR_SHIFT])
def test_p_is_uniform_and_z_standard_on_an_independent_lattice(
    lattice: tuple[list[IntervalRow], list[NullRow]], null_id: str
) -> None:
    for statistic in ("b_depth", "b_tot"):
        found = null_of(lattice[1], null_id, statistic)
        assert found.holds
        assert found.ks_p > 1e-3
        assert found.rejected.low < 0.05 < found.rejected.high + 0.03
        assert abs(found.z_mean) < 4 / np.sqrt(200) and found.z_sd == pytest.approx(1.0, abs=0.2)
        assert sum(found.p_counts) == 200


def test_shift_calls_unrelated_layers_with_a_memory_structure_by_b_tot_but_not_by_b_depth(
    layers_with_memory: tuple[list[IntervalRow], list[NullRow]],
) -> None:
    total, depth = (null_of(layers_with_memory[1], CIRCULAR_SHIFT, statistic) for statistic in ("b_tot", "b_depth"))
    assert total.holds and depth.holds
    assert total.rejected.low > 0.1 and total.ks_small_p < 1e-6
    assert depth.rejected.low < 0.05 and depth.ks_p > 1e-3
    assert null_of(layers_with_memory[1], PERMUTATION, "b_tot").rejected.value == 1.0
    total, depth = (interval_of(layers_with_memory[0], f"delta_b_{axis}_shift", 128) for axis in ("tot", "depth"))
    assert total.above_zero.low > 0.1 and total.truth > 0.005
    assert depth.above_zero.low < 0.05 and depth.truth == pytest.approx(0.0, abs=1e-12)


def test_a_smooth_drive_fools_permutation_and_shift_and_not_the_swap() -> None:
    called = {row.null_id: row for row in surrogate_study("drive, smooth", 20)}
    assert called[PERMUTATION].rejected.value == called[CIRCULAR_SHIFT].rejected.value == 1.0
    assert called[PERMUTATION].excess > called[CIRCULAR_SHIFT].excess > 0.05
    assert called[MARGIN_SWAP].rejected.low < 0.05
    assert abs(called[MARGIN_SWAP].excess) < 0.02 and abs(called[COMMON_SHIFT].excess) < 0.02


def test_a_drive_that_varies_with_depth_passes_every_null_but_the_control() -> None:
    called = {row.null_id: row for row in surrogate_study("drive, banded", 20)}
    assert min(called[null_id].rejected.value for null_id in (PERMUTATION, CIRCULAR_SHIFT, MARGIN_SWAP)) > 0.8
    assert abs(called[COMMON_SHIFT].excess) < 0.02


def test_memory_study_finds_m_where_one_step_fails_and_where_nothing_branches() -> None:
    hidden, drive, none = case("branching, m = 0.9", 0.1), case("drive, smooth"), case("Poisson")
    assert hidden.mean == pytest.approx(hidden.truth, abs=0.03) and hidden.one_step < 0.5
    assert drive.mean == pytest.approx(0.8, abs=0.05) and not drive.propagates
    assert none.available.value < 0.5 and np.isnan(none.truth)


def test_memory_study_gives_no_mean_where_few_repetitions_have_an_m(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_study, "MOSTLY", 1.01)
    found = case("drive, smooth")
    assert found.available.value == 1.0 and np.isnan(found.mean) and np.isnan(found.sd)


def test_tail_verdicts_reject_the_power_law_for_lognormal_sizes_and_not_for_its_own() -> None:
    own, lognormal = tail_of("power law, 2.5"), tail_of("log-normal")
    assert own.mean == pytest.approx(2.5, abs=0.03)
    assert own.coverage is not None and own.coverage.high > 0.92
    assert own.under_lognormal.low < 0.05 and lognormal.under_lognormal.value == 1.0
    assert lognormal.over_lognormal.value == 0.0 and lognormal.coverage is None


def test_tree_gamma_is_that_of_short_durations_and_of_trees_that_the_end_cuts() -> None:
    assert tree_gamma(LIMITS) == pytest.approx((1.786, 1.820), abs=0.001)


def test_long_run_finds_the_slope_of_exact_mean_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    trees = next(case for case in exponent_study.cases(LIMITS) if case.name == "critical trees")
    monkeypatch.setattr(exponent_study, "LONG_RUN", 20)
    monkeypatch.setattr(exponent_study, "MANY", 20)
    assert exponent_study.long_run_gamma(trees, LIMITS) == pytest.approx(trees.gamma, abs=0.03)


def test_seeds_come_from_names_alone() -> None:
    assert seed_of("a", "b") == seed_of("a", "b") != seed_of("a", "b", 1)
    assert len({seed_of("branching", one.name) for one in SCENARIOS}) == len(SCENARIOS)
    with pytest.raises(StopIteration):
        scenario("no such process")


def test_studies_give_the_same_numbers_in_any_number_of_processes() -> None:
    tasks = [partial(results._surrogates, name, 2) for name in ("lattice", "directed", "branching")]
    assert list(results._run(tasks, 1)) == list(results._run(tasks, 2))


def test_results_survive_their_json(small: Results) -> None:
    data = to_json(small)
    assert b"NaN" not in data
    assert to_json(from_json(data)) == data
    read = from_json(data)
    assert [row.scenario for row in read.tails] == [one.name for one in exponent_study.cases(LIMITS)]
    assert np.isnan(next(row for row in read.memory if row.scenario == "lattice").truth)
    assert next(row for row in read.memory if row.scenario == "lattice").coverage is None
    assert isinstance(read.nulls[0].p_counts, tuple)


def test_every_process_is_in_the_results(small: Results) -> None:
    assert results.scenarios_of(small.intervals) == [one.name for one in SCENARIOS]
    assert {row.n_sequences for row in small.intervals} == set(SEQUENCES)
    assert all(row.given.n == 2 for row in small.intervals)
    assert {row.claim for row in small.verdicts} == {"excess_swap", *PAIRED}


def goal(found: Results, name: str) -> Goal:
    return next(one for one in goals(found) if one.goal == name)


def test_goals_follow_the_numbers(small: Results) -> None:
    good, bad = Share(0.95, 0.94, 0.96, 1000), Share(0.9, 0.88, 0.91, 1000)
    always, seldom = Share(1.0, 0.99, 1.0, 1000), Share(0.1, 0.08, 0.12, 1000)
    perfect = replace(small, intervals=tuple(replace(row, coverage=good, given=always) for row in small.intervals))
    assert goal(perfect, "coverage of b, 16 sequences").met
    spoiled = replace(perfect, intervals=(replace(perfect.intervals[0], coverage=bad), *perfect.intervals[1:]))
    found = goal(spoiled, "coverage of b, 16 sequences")
    assert not found.met
    assert found.found == "inside in 32 of 33 cases; furthest off 90.0 [88.0, 91.0] % (lattice, b_time)"
    assert goal(spoiled, "coverage of b, 64 sequences").met
    rare = replace(perfect, intervals=(replace(perfect.intervals[0], coverage=bad, given=seldom), *perfect.intervals[1:]))
    found = goal(rare, "coverage of b, 16 sequences")
    assert found.met and found.found.startswith("inside in 32 of 32 cases") and found.found.endswith("; mostly not given in 1 more")


def test_a_false_positive_counts_where_its_null_is_true_only(small: Results) -> None:
    never, often = Share(0.0, 0.0, 0.004, 1000), Share(0.4, 0.37, 0.43, 1000)
    name = "circular shift: p of b_tot at most 0.05, null true"
    rows = tuple(replace(row, rejected=never if row.holds else often) for row in small.nulls)
    assert goal(replace(small, nulls=rows), name).met
    rows = tuple(replace(row, rejected=often if row.scenario == "branching" else never) for row in small.nulls)
    assert goal(replace(small, nulls=rows), name).found == "7 cases; most 40.0 [37.0, 43.0] % (branching)"
    assert not goal(replace(small, nulls=rows), name).met
    assert goal(replace(small, nulls=rows), "permutation: p of b_tot at most 0.05, null true").met


def test_goals_say_whether_a_claim_rests_on_them(small: Results) -> None:
    used = {one.goal for one in goals(small) if one.used}
    assert {f"coverage of {name}, 16 sequences" for name in ("delta_b", "gamma")} < used
    assert all(one.used for one in goals(small) if one.goal.startswith("claim: "))
    assert len([name for name in used if name.startswith("claim: ")]) == 7
    unused = "interval of delta_b_tot_shift above 0, shift null true"
    assert unused in {one.goal for one in goals(small)} - used


def test_report_takes_its_numbers_from_the_results(small: Results) -> None:
    marked = tuple(replace(row, one_step=0.123456) for row in small.memory)
    page = report(replace(small, memory=marked))
    assert page.count("| 0.1235 |") == len(marked)
    assert "0.1235" not in report(small)
    assert "nan" not in page
    assert page.count("](figures/validity_") == 5


def test_numbers_are_written_for_readers() -> None:
    assert [number(value) for value in (2.0, 0.123456, -6e-17, float("nan"))] == ["2", "0.1235", "0", ""]
    assert with_interval(Share(0.05, 0.016, 0.113, 100)) == "5.0 [1.6, 11.3]"
    assert with_interval(None) == ""


def test_figures_are_the_same_bytes_twice_and_name_their_results(small: Results) -> None:
    data = to_json(small)
    first, again = (figure_files(from_json(data), data) for _ in range(2))
    assert first == again
    assert sorted(first) == [f"validity_{name}.png" for name in ("coverage", "exponents", "memory", "p_values", "surrogates")]
    for png in first.values():
        with Image.open(io.BytesIO(png)) as image:
            assert image.text["config_hash"] == hashlib.sha256(data).hexdigest()


def test_main_renders_what_is_there(small: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--folder", str(tmp_path), "--render"]) == 3
    assert "validity.json is missing: run python -m avalanche_llm.validity without --render" in capsys.readouterr().err
    (tmp_path / "validity.json").write_bytes(to_json(small))
    assert main(["--folder", str(tmp_path), "--render"]) == 0
    assert (tmp_path / "validity.md").read_text(encoding="utf-8") == report(from_json(to_json(small)))
    assert len(list((tmp_path / "figures").iterdir())) == 5


@pytest.mark.parametrize(("flag", "value"), [("--workers", "0"), ("--repetitions", "1"), ("--other_repetitions", "-3"), ("--workers", "two")])
def test_main_refuses_numbers_that_measure_nothing(flag: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--folder", str(tmp_path), f"{flag}={value}"])
    assert stopped.value.code == 2
    assert "expected a whole number from" in capsys.readouterr().err


def test_the_page_in_the_repository_is_that_of_its_results() -> None:
    data = (DOCS / "validity.json").read_bytes()
    found = from_json(data)
    assert report(found) == (DOCS / "validity.md").read_text(encoding="utf-8")
    assert min(row.given.n for row in found.intervals) >= 200
    assert found.limits == LIMITS
    for path in (DOCS / "figures").glob("validity_*.png"):
        with Image.open(path) as image:
            assert image.text["config_hash"] == hashlib.sha256(data).hexdigest(), path.name
