"""Loading a decoder from a hub id or a local folder: safetensors only, no remote code, every parameter on one device."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import transformers
from jaxtyping import Int64
from torch import nn

from avalanche_llm.background import in_background
from avalanche_llm.errors import AvalancheError, DataError, DeterminismError, EnvironmentProblem, UnsupportedModel, reason
from avalanche_llm.io.hashing import CHECKPOINT_SUFFIXES, sha256_tree
from avalanche_llm.model.checkpoint import check_declared, refuse_foreign_kernels
from avalanche_llm.model.families import find_layers, find_modules, hook_names, input_width, refuse_experts
from avalanche_llm.model.finite import all_finite
from avalanche_llm.model.gain import GainPlan
from avalanche_llm.model.hook_checks import check_every_token_once
from avalanche_llm.model.hooks import ScaleOutput
from avalanche_llm.resources import local
from avalanche_llm.settings_sources import HookNames, ModelChoice

FETCH: Final = "python -m avalanche_llm.demo_model models/SmolLM2-135M-Instruct"
DTYPES: Final = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class LoadedModel:
    """A decoder ready to be measured. `causal` has the language-model head, `decoder` has not."""

    causal: nn.Module
    decoder: nn.Module
    tokenizer: Any
    names: HookNames
    layers: tuple[nn.Module, ...]
    device: torch.device
    identity: dict[str, Any]

    @property
    def n_layers(self) -> int:
        return len(self.layers)

    @property
    def d_ff(self) -> int:
        return input_width(self.modules("down")[0])

    def modules(self, which: str) -> list[nn.Module]:
        """One module a layer: `which` is mlp, attn or down."""
        return find_modules(list(self.layers), str(getattr(self.names, which)))

    def check_token_ids(self, ids: Int64[np.ndarray, "*any"]) -> None:
        """Raise DataError for an id that the model has no embedding for: a CPU would raise IndexError, a GPU stop altogether."""
        causal: Any = self.causal
        known = causal.get_input_embeddings().num_embeddings
        wrong = ids[(ids < 0) | (ids >= known)]
        if wrong.size:
            raise DataError(
                f"the tokenizer or the text gives token id {wrong.flat[0]}, the model embeds {known}; they do not match: use the "
                f"tokenizer that belongs to {self.identity['id']}"
            )

    def scaled(self, plan: GainPlan) -> ScaleOutput:
        """The hooks that put the gains of `plan` on the modules that it names."""
        return ScaleOutput(self.modules(plan.target.lower()), plan.gains)


def local_folder(hf_id: str) -> Path | None:
    """The local folder that an id stands for, or None for a hub id.

    An id that looks like a path, or whose first part is a folder here, is meant locally and must exist.
    """
    path = local(hf_id)
    if path.is_dir():
        return path
    meant_locally = path.is_absolute() or hf_id.startswith(".") or hf_id.count("/") > 1 or path.parts[0] in ("models", "~")
    if meant_locally or (len(path.parts) > 1 and Path(path.parts[0]).is_dir()):
        raise EnvironmentProblem(f"model folder {hf_id} does not exist; check models.*.hf_id ({FETCH} makes the demo's)")
    return None


def check_device(device: str) -> torch.device:
    """The torch device, if this machine has it. Raises EnvironmentProblem otherwise."""
    wanted = torch.device(device)
    if wanted.type == "cuda" and not torch.cuda.is_available():
        raise EnvironmentProblem(f"--device {device} needs a CUDA GPU and none is visible; use --device cpu --dtype fp32")
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise EnvironmentProblem(f"--device {device}: only {torch.cuda.device_count()} GPUs are visible")
    return wanted


def load_tokenizer(choice: ModelChoice) -> Any:
    """The tokenizer of a model, without its weights."""
    return _from_pretrained(transformers.AutoTokenizer, choice)


def content_sha256(choice: ModelChoice) -> str | None:
    """Hash of a local checkpoint's content; None for a hub id, which its revision identifies."""
    folder = local_folder(choice.hf_id)
    return None if folder is None else sha256_tree(folder, CHECKPOINT_SUFFIXES)


def load_model(choice: ModelChoice, *, role: str, device: str, dtype: str) -> LoadedModel:
    """Load, place and check a model. Raises EnvironmentProblem, UnsupportedModel, or DeterminismError for bad weights."""
    place = check_device(device)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()  # its report on a checkpoint is a table; what matters is raised below
    config = _from_pretrained(transformers.AutoConfig, choice)
    refuse_experts(config)
    refuse_foreign_kernels(config)
    folder = local_folder(choice.hf_id)
    if folder is not None:
        with _foreign(choice):
            check_declared(config, folder)
    content = in_background(partial(content_sha256, choice))
    causal, report = _from_pretrained(
        transformers.AutoModelForCausalLM,
        choice,
        dtype=DTYPES[dtype],
        use_safetensors=True,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    _check_all_loaded(choice, report)
    names, layers = _structure(causal, choice.hooks)
    try:
        causal = causal.to(place).eval().requires_grad_(False)
    except torch.OutOfMemoryError as error:
        raise EnvironmentProblem(
            f"{choice.hf_id} does not fit on {device} as {dtype}; nothing is offloaded to the CPU"
        ) from error
    identity = {
        "role": role,
        "id": choice.hf_id,
        "revision": (getattr(causal.config, "_commit_hash", None) or choice.revision) if folder is None else None,
        "content_sha256": content.result(),
        **_sizes(layers, names),
        "device": device,
        "dtype": dtype,
    }
    _check_tensors(causal, place, choice.hf_id)
    check_every_token_once(causal.base_model, layers, names, place)
    return LoadedModel(causal, causal.base_model, load_tokenizer(choice), names, tuple(layers), place, identity)


def in_memory(causal: Any, tokenizer: Any, hooks: HookNames | None = None) -> LoadedModel:
    """A transformers model that is loaded already, checked as `load_model` checks its own. Nothing of it is changed.

    Raises UnsupportedModel, EnvironmentProblem for a model on several devices, DeterminismError for one in training mode (its
    dropout would draw anew at every pass) or with weights that are not finite.
    """
    if not isinstance(getattr(causal, "config", None), transformers.PreTrainedConfig):
        raise UnsupportedModel(f"expected a transformers model, found {type(causal).__name__}; load one with from_pretrained")
    refuse_experts(causal.config)
    if causal.training:
        raise DeterminismError("the model is in training mode, where dropout changes every pass; call model.eval() first")
    names, layers = _structure(causal, hooks)
    first = next(causal.parameters())
    _check_tensors(causal, first.device, type(causal).__name__)
    check_every_token_once(causal.base_model, layers, names, first.device)
    identity = {
        "id": causal.config.name_or_path or type(causal).__name__,
        **_sizes(layers, names),
        "device": str(first.device),
        "dtype": str(first.dtype).removeprefix("torch."),
    }
    return LoadedModel(causal, causal.base_model, tokenizer, names, tuple(layers), first.device, identity)


def _structure(causal: Any, hooks: HookNames | None) -> tuple[HookNames, list[nn.Module]]:
    names = hook_names(causal.config, causal.base_model, hooks)
    return names, find_layers(causal.base_model, names)


def _sizes(layers: list[nn.Module], names: HookNames) -> dict[str, int]:
    return {"n_layers": len(layers), "d_ff": input_width(find_modules(layers, names.down)[0])}


def _check_tensors(causal: nn.Module, place: torch.device, name: str) -> None:
    """Every tensor on one device, every weight finite."""
    strays = [
        found
        for found, tensor in _tensors(causal)
        if tensor.device.type != place.type or place.index not in (None, tensor.device.index)
    ]
    if strays:
        raise EnvironmentProblem(f"{len(strays)} tensors of {name} are not on {place} (first: {strays[0]}); refusing to offload")
    broken = [found for found, parameter in causal.named_parameters() if not all_finite(parameter)]
    if broken:
        raise DeterminismError(f"{name} has NaN or infinite weights in {broken[0]}; the checkpoint is damaged")


def _check_all_loaded(choice: ModelChoice, report: Mapping[str, Any]) -> None:
    """transformers fills a tensor that the checkpoint lacks, or has in another shape, at random: refuse both."""
    mismatched = sorted(name for name, *_ in report["mismatched_keys"])
    for names, problem in ((sorted(report["missing_keys"]), "no weights"), (mismatched, "weights of another shape")):
        if names:
            raise DeterminismError(
                f"{choice.hf_id} has {problem} for {names[0]} ({len(names)} such tensors); "
                "the checkpoint is incomplete or not its config's"
            )


def _tensors(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def _from_pretrained(auto: Any, choice: ModelChoice, **options: Any) -> Any:
    folder = local_folder(choice.hf_id)
    with _foreign(choice):
        return auto.from_pretrained(
            str(folder or choice.hf_id),
            revision=None if folder else choice.revision,
            local_files_only=folder is not None,
            trust_remote_code=False,
            **options,
        )


@contextmanager
def _foreign(choice: ModelChoice) -> Iterator[None]:
    """The files of a checkpoint are foreign input: transformers raises whatever its code met in them (KeyError, ...)."""
    try:
        yield
    except AvalancheError:
        raise
    except Exception as error:
        raise EnvironmentProblem(f"model {choice.hf_id!r} cannot be loaded: {reason(error)}") from error
