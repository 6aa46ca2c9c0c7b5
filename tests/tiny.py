"""A whole measurement in seconds: a seeded Llama-shaped model with its tokenizer on disk, and a config that measures it.

torch is imported where a model is made: processes that only need a config start at once.
"""

import copy
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml

from avalanche_llm.config import Overrides, merge
from avalanche_llm.io.artifacts import RECORD_NAME, Run, read_record
from avalanche_llm.io.files import json_bytes
from avalanche_llm.io.store import Upstream
from avalanche_llm.phases.job import Job, JobRequest
from avalanche_llm.settings_sources import HookNames, ModelChoice
from avalanche_llm.stages import stages

REPO = Path(__file__).resolve().parents[1]
SHIPPED = {"A": "data/jargon.txt", "B": "data/devil.txt", "ARC_MCQ": "data/arc_demo.jsonl"}
"""By name, which the program resolves in every folder: the windows of a text are drawn by its name, not by where the checkout lies."""
TEXT, OTHER_TEXT, QUESTIONS = (REPO / name for name in SHIPPED.values())
DEMO_MODEL = REPO / "models" / "SmolLM2-135M-Instruct"
GAINS = [0.8, 1.0, 1.1, 1.3]
RATES = [2e-3, 8e-3]
N_LAYERS, D_FF, SEQ_LEN, N_WINDOWS, BATCH = 3, 64, 64, 16, 4
N_QUESTIONS = 15
VOCABULARY = 320
PHASES = ("phase1_calibrate", "phase2_gain_grid", "phase2_select_gstar")


def save_tokenizer(folder: Path) -> None:
    """A byte-level BPE tokenizer trained on the first lines of the text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT.read_text(encoding="utf-8").splitlines()[:60], trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>").save_pretrained(folder)


def llama(*, seed: int = 0) -> Any:
    """Three layers with weights large enough that the gain changes what later layers see."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=D_FF,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config).eval()


GEMMA2_HOOKS = HookNames(
    layers="layers", mlp="post_feedforward_layernorm", attn="post_attention_layernorm", down="mlp.down_proj"
)
"""By name, as a config does for a family that the table does not hold: what a layer adds comes out of its norms."""


def gemma2() -> Any:
    """A model that caps its logits, tanh(logits / cap) * cap, and looks through a window of 64 tokens in every other layer."""
    import torch
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8, "initializer_range": 0.5}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 64, "max_position_embeddings": 128}
    return Gemma2ForCausalLM(Gemma2Config(vocab_size=VOCABULARY, final_logit_softcapping=3.0, **sizes, **heads)).eval()


def codegen(*, seed: int = 0) -> Any:
    """A model type that the table of families does not hold."""
    import torch
    from transformers import CodeGenConfig, CodeGenForCausalLM

    torch.manual_seed(seed)
    sizes = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "rotary_dim": 4}
    return CodeGenForCausalLM(CodeGenConfig(**sizes, bos_token_id=0, eos_token_id=0)).eval()


def save_model(model: Any, folder: Path) -> Path:
    """Model and tokenizer as a local checkpoint folder in safetensors."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def loaded(folder: Path, hooks: HookNames | None = None, dtype: str = "fp32") -> Any:
    """A checkpoint as the phases load it, on the CPU."""
    from avalanche_llm.model.loader import load_model

    return load_model(ModelChoice(hf_id=str(folder), hooks=hooks), role="INSTRUCT", device="cpu", dtype=dtype)


@contextmanager
def stopped_before(artifact: str) -> Iterator[None]:
    """What runs inside is interrupted before it writes `artifact`; the interrupt ends here. Fails if it never comes to that."""
    save = Run.save

    def stopped(run: Run, name: str, writer: Any) -> Path:
        if name == artifact:
            raise KeyboardInterrupt
        return save(run, name, writer)

    with patch.object(Run, "save", stopped), pytest.raises(KeyboardInterrupt):
        yield


def values(model: Path, **changes: Any) -> dict[str, Any]:
    """What the tiny config says over the canonical one; a change's dotted place is written with `__` for the dot."""
    own: dict[str, Any] = {
        "extends": str(REPO / "configs" / "pipeline.yaml"),
        "run": {"device": "cpu", "dtype": "fp32"},
        "pipeline": {"seq_len_tokens": SEQ_LEN, "batch_windows": BATCH},
        "models": {"INSTRUCT": {"hf_id": str(model)}, "BASE": None},
        "datasets": {
            "A": {
                "hf_id": SHIPPED["A"],
                "hf_config": None,
                "split": "train",
                "n_windows_calibration": N_WINDOWS,
                "n_windows_rasters": N_WINDOWS,
            },
            "B": {"hf_id": SHIPPED["B"], "hf_config": None, "split": "train", "n_windows_eval": 4},
            "ARC_MCQ": {"hf_id": SHIPPED["ARC_MCQ"], "hf_config": None, "split": "test", "n_questions": N_QUESTIONS},
        },
        "gains": {"grid": GAINS},
        "events": {"target_rates": RATES},
        "statistics": {"bootstrap_reps": 100, "null_draws": 9},
    }
    for place, value in changes.items():
        for key in reversed(place.split("__")):
            value = {key: value}
        own = merge(own, value)
    return copy.deepcopy(own)


def write_config(path: Path, model: Path, **changes: Any) -> Path:
    """The tiny config as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(values(model, **changes), sort_keys=False), encoding="utf-8")
    return path


def job_of(config: Path, runs: Path, **options: Any) -> Job:
    """A resolved request for the tiny config."""
    overrides = Overrides(**{name: options.pop(name) for name in list(options) if hasattr(Overrides(), name)})
    return replace(JobRequest(config, overrides, runs), **options).job()


def run_of(runs: Path, tag: str) -> Path:
    """The only run directory with this tag."""
    (folder,) = runs.glob(f"RUN_{tag}_*")
    return folder


def file_hashes(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder, by relative path."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def result_hashes(folder: Path) -> dict[str, str]:
    """sha256 of every artifact of a run, checked to be the recorded one."""
    found = file_hashes(folder / "results")
    recorded = {
        entry["relative_path"].removeprefix("results/"): entry["sha256"] for entry in read_record(folder)["artifact_index"]
    }
    assert found == recorded
    return found


def outputs(folder: Path) -> dict[str, str]:
    """sha256 of everything that a run is made for: results, figures and tables."""
    return {name: digest for name, digest in file_hashes(folder).items() if name.split("/")[0] in ("results", "figs", "tables")}


def events_of(folder: Path) -> list[Mapping[str, Any]]:
    """The lines of a run's event log."""
    return [json.loads(line) for line in (folder / "logs" / "events.jsonl").read_text(encoding="utf-8").splitlines()]


def copied(runs: Path, folder: Path, *tags: str) -> Path:
    """A runs folder of our own with the runs of these tags, all without; writable, so that it can be changed without being root."""
    for source in sorted(runs.iterdir()):
        if not tags or source.name.split("_")[1] in tags:
            shutil.copytree(source, folder / source.name)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


def flip_a_byte(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def edited(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the record of a run in a copy of our own."""
    record = json.loads((folder / RECORD_NAME).read_bytes())
    change(record)
    (folder / RECORD_NAME).write_bytes(json_bytes(record))


def rewritten(folder: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    """Change an artifact of a complete run and its hash on record, as if the run had measured that; in a copy of our own."""
    relative = read_record(folder)["artifacts"][name]
    data = change((folder / relative).read_bytes())
    (folder / relative).write_bytes(data)
    rehashed(folder, relative)


def rehashed(folder: Path, relative: str) -> None:
    """Put the present hash of an artifact on record, as one who covers a change would."""
    data = (folder / relative).read_bytes()

    def change(record: dict[str, Any]) -> None:
        (entry,) = (entry for entry in record["artifact_index"] if entry["relative_path"] == relative)
        entry |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}

    edited(folder, change)


def choosing(gains: list[float]) -> Callable[[bytes], bytes]:
    """A gstar.json in which the cells chose these gains."""

    def change(data: bytes) -> bytes:
        chosen = json.loads(data)
        for row, gain in zip(chosen["selections"], gains, strict=True):
            row["gstar"] = gain
        return json.dumps(chosen).encode()

    return change


def model_of(job: Job) -> Any:
    """The loaded model that the job's phases use."""
    from avalanche_llm.phases import context

    where = job.settings.run
    return context._loaded(job.settings.model, where.model_role, where.device, where.dtype)


@contextmanager
def counted_windows(job: Job) -> Iterator[list[int]]:
    """How many windows each pass over the job's model takes that is made inside."""
    sizes: list[int] = []
    count = model_of(job).layers[0].register_forward_pre_hook(lambda module, arguments: sizes.append(len(arguments[0])))
    try:
        yield sizes
    finally:
        count.remove()


@contextmanager
def watched_reads() -> Iterator[dict[str, set[tuple[str, str]]]]:
    """By phase, the (phase, artifact) that it reads of the runs that it needs, while steps run one after the other."""
    from avalanche_dagster.assets import single_step

    seen: dict[str, set[tuple[str, str]]] = {}
    phases = {f"avalanche_llm.phases.{place.split(':')[0]}": phase_id for phase_id, place in single_step.FUNCTIONS.items()}
    imported, begin, artifact = single_step.import_module, Job.begin, Upstream.artifact

    def loaded(name: str) -> Any:  # a step of one phase begins
        seen[phases[name]] = set()
        return imported(name)

    def begun(job: Job, phase_id: str, *beside: Any) -> Any:  # the grid's steps begin
        seen.setdefault(phase_id, set())
        return begin(job, phase_id, *beside)

    def read(run: Upstream, name: str) -> Path:
        phase_id = next(reversed(seen))
        if run.phase_id in stages()[phase_id].needs:  # checks and previews read what the phase itself has made
            seen[phase_id].add((run.phase_id, name))
        return artifact(run, name)

    with (
        patch.object(single_step, "import_module", loaded),
        patch.object(Job, "begin", begun),
        patch.object(Upstream, "artifact", read),
    ):
        yield seen
