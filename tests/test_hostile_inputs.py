"""Checkpoints, tokenizers, data sets and ids that were made to break a phase: one line, the right exit code, no traceback."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
import torch

from avalanche_llm import datasets
from avalanche_llm.cli import main
from avalanche_llm.datasets import token_windows
from avalanche_llm.errors import AvalancheError, DataError, DeterminismError, EnvironmentProblem, UnsupportedModel
from avalanche_llm.model.families import GATED
from avalanche_llm.resources import local
from avalanche_llm.settings_sources import HookNames, TextData

LINE = "some plain words of a text, enough of them to fill a window or two of tokens\n"


@pytest.fixture
def copied(model_folder: Path, tmp_path: Path) -> Path:
    """A checkpoint to damage."""
    return Path(shutil.copytree(model_folder, tmp_path / "model"))


def configure(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


# --- checkpoints


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": "abc"},
        {"hidden_size": -4},
        {"num_attention_heads": 0},
        {"hidden_act": "nope"},
        {"model_type": ["a"]},
        {"rope_parameters": "x"},
        {"quantization_config": 5},
        {"text_config": 5},
        {"pad_token_id": 10**9},
    ],
)
def test_load_model_refuses_a_config_of_wrong_values_in_one_line(changes: dict[str, Any], copied: Path) -> None:
    configure(copied, **changes)
    with pytest.raises(AvalancheError, match="cannot be loaded: |weights of another shape") as caught:
        tiny.loaded(copied)
    assert caught.value.exit_code in (1, 2)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "changes", [{"num_hidden_layers": 10**7}, {"vocab_size": 10**9}, {"intermediate_size": 10**8}, {"head_dim": 10**9}]
)
def test_load_model_makes_nothing_of_the_size_that_a_config_declares(
    changes: dict[str, Any], copied: Path, bounded_memory: None
) -> None:
    configure(copied, **changes)
    with pytest.raises(DeterminismError, match=r"config\.json declares .* the weights hold 30 tensors with 48352 numbers in all"):
        tiny.loaded(copied)


def test_load_model_takes_no_attention_from_a_hub_repository(copied: Path) -> None:
    configure(copied, _attn_implementation="nobody/kernel")
    with pytest.raises((UnsupportedModel, EnvironmentProblem), match="code of others|cannot be loaded"):
        tiny.loaded(copied)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b"[" * 100_000),
        ("config.json", b"[]"),
        ("generation_config.json", b"[]"),
        ("tokenizer.json", b"{}"),
        ("tokenizer.json", b"[]"),
        ("tokenizer_config.json", b"5"),
        ("special_tokens_map.json", b"[]"),
        ("model.safetensors", b"\xff" * 100),
        ("model.safetensors", (2**40).to_bytes(8, "little") + b"{}"),
    ],
)
def test_load_model_refuses_files_that_are_not_what_they_are_called(name: str, content: bytes, copied: Path) -> None:
    (copied / name).write_bytes(content)
    with pytest.raises(EnvironmentProblem, match=r"model '.*' cannot be loaded: ") as caught:
        tiny.loaded(copied)
    assert str(caught.value).isprintable()


def test_load_model_unpickles_nothing(copied: Path) -> None:
    """A checkpoint in pickle format alone is refused before a byte of it is read as one."""

    class Runs:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
            return (os.mkdir, (str(copied / "ran"),))

    (copied / "model.safetensors").unlink()
    torch.save({"weight": Runs()}, copied / "pytorch_model.bin")
    with pytest.raises(EnvironmentProblem, match="cannot be loaded"):
        tiny.loaded(copied)
    assert not (copied / "ran").exists()


def test_load_model_measures_tied_weights_and_refuses_tied_modules(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two layers may own equal weights; one module object in two layers would count every event twice."""
    from transformers import AutoModelForCausalLM

    real = AutoModelForCausalLM.from_pretrained

    def tied(*arguments: Any, share: str, **options: Any) -> Any:
        model, report = real(*arguments, **options)
        first, second = model.base_model.layers[:2]
        if share == "weights":
            second.mlp.down_proj.weight = first.mlp.down_proj.weight
        elif share == "mlp":
            second.mlp = first.mlp
        else:
            second.mlp.down_proj = first.mlp.down_proj
        return model, report

    for share in ("weights", "mlp", "down"):
        monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *a, share=share, **o: tied(*a, share=share, **o))
        if share == "weights":
            tiny.loaded(copied)
        else:
            with pytest.raises(UnsupportedModel, match="layers 0 and 1 share one module 'mlp"):
                tiny.loaded(copied)


@pytest.mark.parametrize(
    "change", [{"mlp": ""}, {"mlp": "self_attn"}, {"down": "mlp..down"}, {"layers": "a b"}, {"attn": "x\ny"}]
)
def test_hook_names_are_module_names_and_mlp_is_not_attn(change: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="pattern|mlp and attn name one module"):
        HookNames.model_validate(GATED.model_dump() | change)


@pytest.mark.parametrize("hf_id", ["~nobody_of_that_name/x", "a" * 300])
def test_an_id_that_cannot_be_a_path_is_an_environment_problem(hf_id: str) -> None:
    with pytest.raises(EnvironmentProblem, match="cannot be a path here"):
        local(hf_id)


# --- data


def data(path: Path, **changes: Any) -> TextData:
    fields: dict[str, Any] = {"hf_config": None, "split": "train", "text_column": "text", "window_pool_factor": 3}
    return TextData(hf_id=str(path), **(fields | changes))


def plain_ids(texts: list[str], **_: Any) -> dict[str, Any]:
    return {"input_ids": [list(text.encode("utf-8")) for text in texts]}


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.txt", b"", r"a\.txt gives 0 tokens"),
        ("a.jsonl", b"", r"a\.jsonl is empty"),
        ("a.txt", b"x \xed\xa0\x80 y\n", "cannot be read"),
        ("a.jsonl", b'{"text": "x \\ud800 y"}\n' * 40, "cannot be read|holds|surrogate"),
        ("a.jsonl", b'{"text": null}\n', "row 0: column 'text' holds NoneType, not text"),
        ("a.jsonl", b'{"text": NaN}\n', "row 0: column 'text' holds .*, not text|cannot be read"),
        ("a.jsonl", b'{"text": 5}\n', "row 0: column 'text' holds int, not text"),
        ("a.jsonl", b"[1, 2]\n" * 3, "cannot be read|no text column"),
        ("a.jsonl", b"5\n" * 3, "cannot be read|no text column"),
        ("a.parquet", b"PAR1", "cannot be read"),
    ],
    ids=range(10),
)
def test_token_windows_of_hostile_files_is_one_line(name: str, content: bytes, complaint: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises((DataError, EnvironmentProblem), match=complaint) as caught:
        token_windows(data(tmp_path / name), plain_ids, seq_len=8, at_most=4)
    assert str(caught.value).isprintable()


def test_token_windows_of_a_parquet_column_of_bytes_or_without_rows(tmp_path: Path) -> None:
    for name, column in (("bytes", pa.array([b"\xff"])), ("none", pa.array([], pa.string()))):
        pq.write_table(pa.table({"text": column}), tmp_path / f"{name}.parquet")
        with pytest.raises((DataError, EnvironmentProblem), match="holds bytes, not text|cannot be read|gives 0 tokens"):
            token_windows(data(tmp_path / f"{name}.parquet"), plain_ids, seq_len=8, at_most=4)


def test_token_windows_reads_nuls_as_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a\0b \0\0 c\n" * 20)
    assert token_windows(data(tmp_path / "a.txt"), plain_ids, seq_len=8, at_most=4).min() == 0


def test_token_windows_refuses_one_giant_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "MAX_TEXT_CHARACTERS", 1000)
    (tmp_path / "a.txt").write_text("word " * 500 + "\n", encoding="utf-8")
    with pytest.raises(
        DataError, match=r"row 0 is one text of 25\d\d characters, at most 1000 are tokenised at once; break it into lines"
    ):
        token_windows(data(tmp_path / "a.txt"), plain_ids, seq_len=8, at_most=4)


def test_load_rows_opens_no_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    for path in (tmp_path / "a.txt", tmp_path):
        with pytest.raises(DataError, match="is no regular file"):
            token_windows(data(path), plain_ids, seq_len=8, at_most=4)


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ({"input_ids": [[]] * 40}, "gives 0 tokens, not one window of 8"),
        ({"input_ids": []}, "gave 0 lists for 40 texts"),
        ({}, "tokenizer cannot encode this data set: 'input_ids'"),
        ({"input_ids": [None] * 40}, "tokenizer cannot encode this data set"),
        (None, "tokenizer cannot encode this data set"),
        ({"input_ids": [[-1] * 9] * 40}, "or ids that are none"),
        ({"input_ids": [[2**40] * 9] * 40}, "or ids that are none"),
    ],
)
def test_token_windows_of_a_tokenizer_that_gives_no_tokens(answer: Any, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(LINE * 40, encoding="utf-8")
    with pytest.raises(DataError, match=complaint):
        token_windows(data(tmp_path / "a.txt"), lambda texts, **_: answer, seq_len=8, at_most=4)


# --- through the command line


def fails(capfd: pytest.CaptureFixture[str], code: int, pattern: str, *arguments: object) -> None:
    capfd.readouterr()
    found = main([str(argument) for argument in arguments])
    lines = capfd.readouterr().err.splitlines()
    assert found == code, lines
    assert re.search(pattern, lines[-1]), lines
    assert lines[-1].startswith("error: ")
    assert not any("Traceback" in line for line in lines)


@pytest.mark.parametrize("phase", ["phase0_validate_env", "phase1_calibrate"])
def test_a_token_without_an_embedding_is_exit_two(
    phase: str, copied: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(copied / "tokenizer.json"))
    tokenizer.add_tokens(["the", "of", "a"])
    tokenizer.save(str(copied / "tokenizer.json"))
    config = tiny.write_config(tmp_path / "c.yaml", copied)
    pattern = r"gives token id 32\d, the model embeds 320; they do not match"
    fails(capfd, 2, pattern, phase, "--config", config, "--runs_dir", tmp_path / "runs")


FOLDERS = ("/etc", "..", "")
NO_RUN_IDS = (*FOLDERS, "../RUN_S01_0123456789ab", "RUN_S01_0123456789ab/..", "RUN_S01_0123456789ab\n", "RUN_S01_\0", "a" * 5000)
NAMED = [
    (command, run_id)
    for command in ("phase2_gain_grid", "runs", "verify", "register", "report")
    for run_id in NO_RUN_IDS
    if command != "verify" or run_id not in FOLDERS  # verify takes the folder of a release, which may lie anywhere; it only reads
]


@pytest.mark.parametrize(("command", "run_id"), NAMED)
def test_a_run_id_never_becomes_a_path_elsewhere(
    command: str, run_id: str, config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").mkdir()
    before = sorted(tmp_path.rglob("*"))
    named = ["--dep", run_id] if command == "phase2_gain_grid" else ["show", run_id] if command == "runs" else [run_id]
    found = main([command, "--config", str(config), "--runs_dir", str(tmp_path / "runs"), *named])
    error = capfd.readouterr().err
    assert found in (1, 3), error
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a: &a [*a]\n", "contains itself"),
        ("run: {device: 'cuda:99999999999999999999'}\n", "run.device"),
        ("determinism: {cublas_workspace_config: 'x=y'}\n", "cublas_workspace_config"),
        ("statistics: {bootstrap_reps: 1000000000000}\n", "bootstrap_reps"),
        ("models: {INSTRUCT: {hf_id: m, revision: '../../../x y'}}\n", "revision"),
    ],
)
def test_a_hostile_config_is_exit_two(text: str, complaint: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.yaml").write_text(f"extends: {tiny.REPO}/configs/demo.yaml\n{text}", encoding="utf-8")
    fails(capfd, 2, complaint, "phase1_calibrate", "--config", tmp_path / "c.yaml", "--runs_dir", tmp_path / "runs")
