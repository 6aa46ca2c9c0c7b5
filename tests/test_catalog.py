"""The run catalogue: what is listed, what a run is said to have found, and what it says of what is not there."""

import io
from pathlib import Path

import pandas as pd
import pytest
import tiny
from rich.console import Console

from avalanche_llm.catalog import downstream, entries, find
from avalanche_llm.catalog_print import print_list, print_run
from avalanche_llm.cli import main
from avalanche_llm.errors import MissingArtifact, UsageError
from avalanche_llm.io.store import RunStore


@pytest.fixture
def store(pipeline: Path, tmp_path: Path) -> RunStore:
    return RunStore(tiny.copied(pipeline, tmp_path / "runs"))


def printed(show: object, *arguments: object) -> str:
    text = io.StringIO()
    show(*arguments, Console(file=text, width=110))  # type: ignore[operator]
    return text.getvalue()


def test_entries_hold_every_run_with_its_status(store: RunStore) -> None:
    damaged = tiny.run_of(store.root, "S02B")
    (damaged / "run_record.json").write_bytes(b"{}")
    (store.root / "notes").mkdir()
    statuses = {entry.run_id.split("_")[1]: entry.status for entry in entries(store)}
    assert statuses == {"S01": "complete", "S02": "complete", "S02B": "damaged"}
    assert "damaged" in printed(print_list, list(entries(store)), store.root)


def test_numbers_are_those_of_the_artifacts(store: RunStore) -> None:
    grid = find(store, tiny.run_of(store.root, "S02").name)
    b_tot = pd.read_parquet(grid.path("metrics"))["b_tot"]
    assert grid.numbers() == f"b_tot {b_tot.min():.3f} to {b_tot.max():.3f} over {len(b_tot)} conditions"
    assert find(store, tiny.run_of(store.root, "S02B").name).numbers().startswith("g* ")
    calibrated = find(store, tiny.run_of(store.root, "S01").name).numbers()
    assert calibrated == f"2 definitions, 2 rates from {min(tiny.RATES):g} to {max(tiny.RATES):g}; 0 silent units"
    grid.path("metrics").write_bytes(b"no parquet")
    assert grid.numbers().startswith("unreadable: ")
    first = find(store, tiny.run_of(store.root, "S01").name)
    first.path("rate_targets").chmod(0o644)
    first.path("rate_targets").write_bytes(b'{"spike_defs": [], "silent_units": 0}')
    assert first.numbers().startswith("unreadable: ")


def test_brackets_in_a_name_are_shown_and_no_style(store: RunStore) -> None:
    moved = RunStore(store.root.rename(store.root.with_name("[red]runs")))
    shown = printed(print_run, find(moved, tiny.run_of(moved.root, "S01").name), moved)
    assert "[red]runs/RUN_S01" in "".join(shown.split())
    assert "[red]runs" in "".join(printed(print_list, [], moved.root).split())


def test_a_pipe_gets_one_line_a_run_and_a_narrow_terminal_short_names(
    store: RunStore, capsys: pytest.CaptureFixture[str]
) -> None:
    print_list(list(entries(store)), store.root)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(list(entries(store)))
    assert "phase2_gain_grid" in lines[2]
    narrow = io.StringIO()
    print_list(list(entries(store)), store.root, Console(file=narrow, width=80))
    assert "phase2_gain_grid" not in narrow.getvalue()


def test_downstream_is_the_inverse_of_upstream(store: RunStore) -> None:
    for entry in entries(store):
        for other in entries(store):
            assert (other.run_id in downstream(store, entry.run_id)) == (entry.run_id in other.upstream)
    assert downstream(store, tiny.run_of(store.root, "S01").name) == [tiny.run_of(store.root, "S02").name]


def test_find_names_the_nearest_run(store: RunStore) -> None:
    there = tiny.run_of(store.root, "S02").name
    with pytest.raises(MissingArtifact, match=f"did you mean {there}"):
        find(store, there[:-1] + ("0" if there[-1] != "0" else "1"))
    with pytest.raises(UsageError, match="is not a run id"):
        find(store, "../runs")


def test_print_run_shows_what_it_reads_and_what_rests_on_it(store: RunStore) -> None:
    shown = printed(print_run, find(store, tiny.run_of(store.root, "S02").name), store)
    for word in (
        "phase2_gain_grid",
        "results/metrics.parquet",
        tiny.run_of(store.root, "S01").name,
        tiny.run_of(store.root, "S02B").name,
    ):
        assert word in shown


def test_runs_command_lists_and_shows(pipeline: Path, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--config", str(config), "--runs_dir", str(pipeline)]
    run_id = tiny.run_of(pipeline, "S01").name
    assert main(["runs", "list", *common]) == 0
    assert run_id in capsys.readouterr().out
    assert main(["runs", "show", run_id, *common]) == 0
    assert "calibration_stats.npz" in capsys.readouterr().out
    assert main(["runs", "show", *common]) == 1
    assert "runs show needs a RUN_ID" in capsys.readouterr().err
    assert main(["runs", "show", "RUN_S01_000000000000", *common]) == 3
