"""The web UI in a real browser: lineage, a table, a figure, a failed check, a launch, what is stale, the sensor, read-only mode.

Needs Playwright for Python and a Chromium (on PATH, or named by CHROMIUM); skipped where either is missing. With
SCREENSHOTS=FOLDER the pages are kept as pictures (`make screenshots`).
"""

import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
import tiny
import yaml
from started import free_port, started, wait_until

from avalanche_dagster.checks import CHECKS, check_names
from avalanche_dagster.sensors import analyze_when_nulls_are_complete
from avalanche_dagster.specs import asset_specs
from avalanche_llm.io.artifacts import read_record
from avalanche_llm.stages import stages

playwright_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
WINDOW = {"width": 1440, "height": 900}
PATIENCE_MS = 60_000
LOCATION = "avalanche_dagster.definitions"
SENSOR = analyze_when_nulls_are_complete.name
GROUPS = ["phase1", "phase2", "phase3", "phase4", "phase5", "phase6", "phase7", "phase8", "report"]


@pytest.fixture(scope="module")
def folder(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of work: a config, every phase measured by the command line, and the instance that recorded it."""
    folder = tmp_path_factory.mktemp("measurement")
    tiny.write_config(folder / "tiny.yaml", model_folder)
    command = [sys.executable, "-m", "avalanche_llm", "run_all", "--config", "tiny.yaml", "--runs_dir", "runs"]
    found = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=600, check=False)
    assert found.returncode == 0, found.stderr[-2000:]
    return folder


def environment(folder: Path) -> dict[str, str]:
    return os.environ | {"DAGSTER_HOME": str(folder / "home"), "PYTHONPATH": str(tiny.REPO)}


@contextmanager
def served(folder: Path, *command: str) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """The address of a web server on loopback that shows the folder's instance."""
    port = free_port()
    whole = [sys.executable, "-m", *command, "--host", "127.0.0.1", "--port", str(port)]
    whole += ["--workspace", str(tiny.REPO / "workspace.yaml")]
    with started(whole, folder / f"{port}.log", cwd=folder, env=environment(folder)) as process:
        wait_until(lambda: answers(port), "the web server's answer", 120, process)
        yield f"http://127.0.0.1:{port}", process


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/server_info", timeout=5) as found:
            return bool(found.status == 200)
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """What `make ui` starts: web server and daemon."""
    with served(folder, "dagster", "dev") as service:
        yield service


@pytest.fixture(scope="module")
def page(service: tuple[str, Any]) -> Iterator[Any]:
    with playwright_api.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM)
        page = chromium.new_context(viewport=WINDOW, base_url=service[0]).new_page()
        page.set_default_timeout(PATIENCE_MS)
        yield page
        chromium.close()


@pytest.fixture
def keep(page: Any, tmp_path: Path) -> Any:
    """Keep what the page shows under a name."""
    kept = Path(os.environ.get("SCREENSHOTS", tmp_path)).resolve()
    kept.mkdir(parents=True, exist_ok=True)

    def keep(name: str, element: Any = None) -> None:
        page.wait_for_timeout(500)  # fades end
        (element or page).screenshot(path=kept / f"{name}.png")

    return keep


def shown(page: Any, text: str, *, exact: bool = True) -> Any:
    """The first element with a text, once a reader can see it."""
    element = page.get_by_text(text, exact=exact).first
    element.wait_for(state="visible")
    return element


def test_every_group_is_in_the_lineage(page: Any, keep: Any) -> None:
    page.goto("/asset-groups")
    for group in GROUPS:
        shown(page, group)
    keep("lineage")


def test_a_group_shows_its_artifacts_with_their_checks(page: Any, keep: Any) -> None:
    stage = stages()["PHASE1_CALIBRATE"]
    page.goto(f"/locations/{LOCATION}/asset-groups/phase1/list")
    for spec in asset_specs(stage):
        shown(page, str(spec.description))  # the list shortens names
    keep("group_phase1")
    page.goto("/assets/phase1_calibrate/calibration_stats?view=checks")
    names = check_names(stage, "calibration_stats")
    for name in names:
        shown(page, name)
    shown(page, "Succeeded")
    assert page.get_by_text("Succeeded", exact=True).count() == len(names)


def test_a_late_artifact_shows_what_it_was_made_from_and_no_more(page: Any, keep: Any) -> None:
    page.goto("/assets/phase5_analyze_and_export/F03_BRANCHING_CURVES_png?view=lineage&lineageScope=upstream&lineageDepth=1")
    for text in ("gstar", "null_marginals", "rate_targets"):
        shown(page, text)
    assert page.get_by_text("raster_tokens", exact=True).count() == 0  # nobody reads it but a person
    keep("upstream")


def test_a_table_can_be_read(page: Any, keep: Any) -> None:
    page.goto("/assets/phase5_analyze_and_export/T01_SUMMARY_parquet")
    shown(page, "Summary of every condition of the gain grid (PARQUET).")
    for text in ("Row count", "sha256", "b_tot_at_g1"):
        shown(page, text)
    shown(page, "[Show Markdown]").click()
    table = page.get_by_role("dialog").locator("table")
    table.wait_for(state="visible")
    heads = table.locator("th").all_inner_texts()
    assert {"b_tot", "target_rate", "g"} <= set(heads[:12])  # in sight without scrolling
    assert table.locator("tbody tr").count() == 8
    gains = {row.locator("td").nth(heads.index("g")).inner_text() for row in table.locator("tbody tr").all()}
    assert {float(gain) for gain in gains} == set(tiny.GAINS)
    keep("table")


def test_a_figure_is_drawn(page: Any, keep: Any) -> None:
    page.goto("/assets/phase5_analyze_and_export/F03_BRANCHING_CURVES_png")
    shown(page, "[Show Markdown]").click()
    image = page.get_by_role("dialog").locator("img")
    image.wait_for(state="visible")
    assert image.evaluate("(image) => image.decode().then(() => image.naturalWidth)") > 500
    keep("figure")


def test_a_failed_check_shows_its_numbers(page: Any, keep: Any) -> None:
    page.goto("/assets/phase2_select_gstar/gstar?view=checks&checkDetail=gstar_bracketed")
    shown(page, "Failed")
    shown(page, "grid_edge")
    shown(page, CHECKS["gstar_bracketed"].meaning)
    keep("failed_check")


def test_the_launchpad_starts_a_phase_that_succeeds(page: Any, keep: Any, folder: Path) -> None:
    page.goto(f"/locations/{LOCATION}/jobs/phase1_calibrate/playground")
    shown(page, "instrument:", exact=False)
    launchpad = {"resources": {"instrument": {"config": {"config": "tiny.yaml", "runs_dir": "launched"}}}}
    page.evaluate("(text) => document.querySelector('.CodeMirror').CodeMirror.setValue(text)", yaml.safe_dump(launchpad))
    page.get_by_placeholder("Partition").fill("INSTRUCT")
    page.keyboard.press("Enter")
    shown(page, "No errors")
    keep("launchpad")
    page.get_by_role("button", name="Launch Run").click()
    page.wait_for_url(re.compile("/runs/"))
    shown(page, "Success")
    assert read_record(tiny.run_of(folder / "launched", "S01"))["stage_status"] == "complete"
    assert tiny.result_hashes(tiny.run_of(folder / "launched", "S01")) == tiny.result_hashes(tiny.run_of(folder / "runs", "S01"))


def test_the_same_content_launched_again_leaves_everything_fresh(page: Any) -> None:
    """After the launch above: what the pages show as stale, from the server that they ask."""
    query = '{ assetNodes { assetKey { path } staleStatusByPartition(partitions: ["INSTRUCT"]) } }'
    nodes = page.request.post("/graphql", data={"query": query}).json()["data"]["assetNodes"]
    found = {tuple(node["assetKey"]["path"]): node["staleStatusByPartition"] for node in nodes}
    optional = {(stage.command, name) for stage in stages().values() for name in stage.optional}
    assert len(found) == sum(len(stage.artifacts) for stage in stages().values())
    assert all(status == (["MISSING"] if key in optional else ["FRESH"]) for key, status in found.items())


def test_the_daemon_starts_phase_5_once_the_sensor_is_on(service: tuple[str, Any], folder: Path) -> None:
    """Phase 4 completes in a new runs folder; the sensor is off, then on; phase 5 follows with the bytes of the first measurement."""
    runs = folder / "sensed"
    for tag in ("S01", "S02", "S02B", "S03"):
        source = tiny.run_of(folder / "runs", tag)
        shutil.copytree(source, runs / source.name)

    def command(*words: str) -> None:
        whole = [sys.executable, "-m", *words]
        found = subprocess.run(whole, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=600, check=False)
        assert found.returncode == 0, found.stderr[-2000:]

    command("avalanche_llm", "phase4_run_nulls", "--config", "tiny.yaml", "--runs_dir", str(runs))
    with dg.DagsterInstance.from_config(str(folder / "home")) as instance:

        def of_sensor() -> list[dg.DagsterRun]:
            return list(instance.get_runs(dg.RunsFilter(tags={"dagster/sensor_name": SENSOR})))

        assert of_sensor() == []
        command("dagster", "sensor", "start", SENSOR, "--workspace", str(tiny.REPO / "workspace.yaml"))
        wait_until(lambda: any(run.is_finished for run in of_sensor()), "a run that the sensor asked for", 600, service[1])
        (run,) = of_sensor()
        assert (run.job_name, run.status) == ("phase5_analyze_and_export", dg.DagsterRunStatus.SUCCESS)
        assert run.tags["dagster/partition"] == "INSTRUCT"
        command("dagster", "sensor", "stop", SENSOR, "--workspace", str(tiny.REPO / "workspace.yaml"))
    indices = [read_record(tiny.run_of(place, "S05"))["artifact_index"] for place in (runs, folder / "runs")]
    sensed, first = ({entry["relative_path"]: entry["sha256"] for entry in index} for index in indices)
    assert sensed == first


def test_make_ui_listens_on_loopback_alone(service: tuple[str, "subprocess.Popen[bytes]"]) -> None:
    parent = psutil.Process(service[1].pid)
    listening = [
        connection.laddr.ip
        for process in (parent, *parent.children(recursive=True))
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening
    assert set(listening) <= {"127.0.0.1", "::1"}


def test_a_read_only_server_shows_everything_and_launches_nothing(page: Any, folder: Path) -> None:
    with served(folder, "dagster_webserver", "--read-only") as (address, _):
        page.goto(f"{address}/locations/{LOCATION}/jobs/phase1_calibrate")
        shown(page, "phase1_calibrate")
        assert page.get_by_text("Launchpad", exact=True).count() == 0
        query = {"query": "{ permissions { permission value } }"}
        found = page.request.post(f"{address}/graphql", data=query).json()["data"]["permissions"]
        values = {entry["permission"]: entry["value"] for entry in found}
        assert values["launch_pipeline_execution"] is False
