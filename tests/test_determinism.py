"""Flags, seeds and what cannot be had; and one measurement under other outer conditions (spec 12, 16)."""

import os
import random
import warnings
from pathlib import Path

import determinism_cases
import numpy as np
import pytest
import tiny
import torch

from avalanche_llm.cli import main
from avalanche_llm.determinism import deterministic
from avalanche_llm.errors import DeterminismError
from avalanche_llm.io.artifacts import read_record
from avalanche_llm.phases import calibrate as calibrate_module
from avalanche_llm.settings import Determinism

PUT = "put_"


def of(*, strict: bool) -> Determinism:
    return Determinism(seed=1337, strict=strict, cublas_workspace_config=":4096:8")


def unordered_kernel() -> None:
    """torch has no deterministic version of this one, on a CPU either."""
    torch.zeros(3).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))


def test_a_kernel_without_a_deterministic_version_is_on_record() -> None:
    with deterministic(of(strict=False)) as record:
        unordered_kernel()
    assert len(record["unavailable"]) == 1
    assert PUT in record["unavailable"][0]
    with deterministic(of(strict=False)) as record:
        torch.zeros(3).add_(1)
    assert record["unavailable"] == []


def test_strict_makes_it_an_error_with_exit_code_two() -> None:
    with (
        pytest.raises(DeterminismError, match=r"determinism\.strict is on and put_ does not have a deterministic") as caught,
        deterministic(of(strict=True)),
    ):
        unordered_kernel()
    assert caught.value.exit_code == 2
    assert not torch.are_deterministic_algorithms_enabled()


def test_deterministic_seeds_everything_and_gives_the_flags_back() -> None:
    def draws() -> tuple[float, float, float]:
        with deterministic(of(strict=False)):
            return random.random(), float(np.random.rand()), float(torch.rand(1))  # noqa: NPY002

    before = torch.are_deterministic_algorithms_enabled()
    assert draws() == draws()
    assert torch.are_deterministic_algorithms_enabled() is before
    with pytest.raises(ZeroDivisionError), deterministic(of(strict=False)):
        assert torch.are_deterministic_algorithms_enabled()
        raise ZeroDivisionError
    assert torch.are_deterministic_algorithms_enabled() is before


def test_another_warning_of_a_phase_is_passed_on() -> None:
    with pytest.warns(UserWarning, match="something else"), deterministic(of(strict=False)):
        warnings.warn("something else", UserWarning, stacklevel=1)


@pytest.mark.parametrize("strict", [False, True])
def test_a_phase_records_such_a_kernel_or_ends_with_two(
    strict: bool, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    config = tiny.write_config(tmp_path / "c.yaml", model_folder, determinism__strict=strict)
    real = calibrate_module.open_model

    def with_kernel(*arguments: object) -> object:
        unordered_kernel()
        return real(*arguments)

    monkeypatch.setattr(calibrate_module, "open_model", with_kernel)
    code = main(["phase1_calibrate", "--config", str(config), "--runs_dir", str(tmp_path / "runs")])
    record = read_record(tiny.run_of(tmp_path / "runs", "S01"))
    if strict:
        assert code == 2
        assert "error: determinism.strict is on and put_ does not have a deterministic implementation" in capfd.readouterr().err
        assert record["stage_status"] == "started"
    else:
        assert code == 0
        assert any(PUT in line for line in record["determinism"]["unavailable"])
        assert record["determinism"]["flags"]["torch_num_threads"] == torch.get_num_threads()


def test_another_process_folder_and_hash_seed_give_equal_bytes(pipeline: Path, model_folder: Path, tmp_path: Path) -> None:
    """The fixture's run came from this process; threads and other batch sizes: `python tests/determinism_cases.py`."""
    values = tiny.values(model_folder)
    elsewhere = determinism_cases.Case("elsewhere", {"PYTHONHASHSEED": "4242", "OMP_NUM_THREADS": str(torch.get_num_threads())})
    runs = determinism_cases.run_case(elsewhere, values, tmp_path / "elsewhere", phases=determinism_cases.PHASES[:3])
    for tag in ("S01", "S02", "S02B"):
        assert determinism_cases.equal_results(tiny.run_of(pipeline, tag), runs[tag])
    assert read_record(runs["S01"])["determinism"]["flags"]["pythonhashseed"] == "4242"
    assert os.environ.get("PYTHONHASHSEED") != "4242"
