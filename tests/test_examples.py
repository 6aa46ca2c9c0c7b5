"""What the documents show of the Python API runs: both examples, and every python block of docs/python_api.md, in order."""

import re
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

DOCS = tiny.REPO / "docs"


@pytest.fixture(autouse=True)
def no_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples read data/ from the repository, and draw into files."""
    from matplotlib import pyplot

    monkeypatch.chdir(tiny.REPO)
    pyplot.switch_backend("agg")


def run(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> dict[str, Any]:
    from matplotlib import pyplot

    monkeypatch.setattr(sys, "argv", [name, *arguments])
    try:
        return runpy.run_path(str(DOCS / "examples" / name))
    finally:
        pyplot.close("all")


def test_the_example_of_a_recording_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    found = run("recording.py", monkeypatch, str(tmp_path))
    assert found["ratios"].n_sequences == 60
    assert (tmp_path / "recording.png").stat().st_size > 10_000
    assert "recording  along time" in capsys.readouterr().out


def test_the_example_of_a_model_runs(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    found = run("model.py", monkeypatch, str(model_folder), str(tmp_path))
    assert set(found["table"]["g"]) == {0.8, 1.0, 1.2}
    assert (tmp_path / "model.png").stat().st_size > 10_000
    assert "excess over permutation" in capsys.readouterr().out


def test_every_block_of_the_page_runs(model_folder: Path, capsys: pytest.CaptureFixture) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "python_api.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 3
    texts = tiny.TEXT.read_text(encoding="utf-8").splitlines()
    names: dict[str, Any] = {
        "model": AutoModelForCausalLM.from_pretrained(model_folder, dtype="float32"),
        "tokenizer": AutoTokenizer.from_pretrained(model_folder),
        "texts": texts[:60],
        "other_texts": texts[60:120],
        "recording": np.random.default_rng(0).poisson(0.3, (8, 1200)),
    }
    for block in blocks:
        exec(compile(block, "docs/python_api.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "SPIKE_TWO_SIDED_ABS b_tot" in printed and "seq_id" in printed
