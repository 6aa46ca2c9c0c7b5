"""One tiny model, one config and one pipeline run through the command line, shared by every test that only reads them."""

import json
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import jaxtyping
import pytest

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}  # the hub's library reads it when it is imported
hypothesis.settings.register_profile("no_clock", deadline=None)  # how loaded the machine is must not fail a test
hypothesis.settings.load_profile("no_clock")
jaxtyping.install_import_hook("avalanche_llm", "beartype.beartype")

import tiny  # noqa: E402  # annotations are checked only in what is imported after the hook

from avalanche_llm.cli import main  # noqa: E402  # likewise


@pytest.fixture(scope="session", autouse=True)
def dagster_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Dagster instance of our own."""
    home = tmp_path_factory.mktemp("dagster_home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(home))
        yield home


@pytest.fixture
def unannotated() -> Iterator[None]:
    """Let arguments past their annotations, so that the function's own check answers."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture
def bounded_memory() -> Iterator[None]:
    """What is allocated on the word of foreign bytes fails here, not on a smaller machine."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model on disk."""
    return tiny.save_model(tiny.llama(), tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def config(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny config on disk."""
    return tiny.write_config(tmp_path_factory.mktemp("config") / "tiny.yaml", model_folder)


@pytest.fixture(scope="session")
def pipeline(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs folder with phases 1 and 2 complete, made by the command line. Read only."""
    runs = tmp_path_factory.mktemp("pipeline") / "runs"
    for phase in tiny.PHASES:
        assert main([phase, "--config", str(config), "--runs_dir", str(runs)]) == 0
    return runs


@pytest.fixture(scope="session")
def materialized(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `runs`, every phase complete, and `home`, the instance whose job `full_pipeline` made them. Read only.

    `reads.json` says which artifacts each phase read of the runs that it names as its dependencies.
    """
    import dagster as dg

    from avalanche_dagster.definitions import defs

    folder = tmp_path_factory.mktemp("materialized")
    (folder / "home").mkdir()
    values = {
        "resources": {"instrument": {"config": {"config": str(config), "runs_dir": str(folder / "runs")}}},
        "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
    }
    with dg.DagsterInstance.from_config(str(folder / "home")) as instance, tiny.watched_reads() as reads:
        job = defs.resolve_job_def("full_pipeline")
        assert job.execute_in_process(instance=instance, partition_key="INSTRUCT", run_config=values).success
    (folder / "reads.json").write_text(json.dumps({phase: sorted(found) for phase, found in reads.items()}), encoding="utf-8")
    return folder
