"""Phase 0: is everything here that the later phases need? No run directory, no artifact (spec 11).

Checks the device, the libraries' versions, the configured model and data ids, and, on one window of the calibration text,
that the tensor read at the down projection is what gate, up and act compute within U_HOOK_MATCH_TOL_ABS, and that what the
MLP adds to the residual stream is scaled by the gain.
"""

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import torch
from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from avalanche_llm.canon import load_canon
from avalanche_llm.datasets import load_rows, token_windows
from avalanche_llm.determinism import deterministic
from avalanche_llm.errors import AvalancheError, DeterminismError, EnvironmentProblem
from avalanche_llm.io.new_record import library_versions
from avalanche_llm.io.store import writable
from avalanche_llm.model.hook_checks import GainEffect, gain_effect, hook_difference
from avalanche_llm.model.loader import LoadedModel, check_device, load_model, local_folder
from avalanche_llm.phases.job import Job
from avalanche_llm.resources import local
from avalanche_llm.settings import Settings
from avalanche_llm.settings_sources import ModelChoice

HUB_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Finding:
    """One line of the report. A failed required finding fails the phase."""

    subject: str
    text: str
    ok: bool = True
    required: bool = True


def validate_env(job: Job) -> Iterator[Finding]:
    """Yield findings as they are made; the caller prints them. Raises the first error that makes the rest pointless."""
    settings = job.settings
    pin = load_canon()["CONST.TRANSFORMERS_VERSION_PIN"]
    versions = library_versions()
    yield Finding("versions", ", ".join(f"{name} {version}" for name, version in versions.items()))
    yield Finding(
        "transformers pin", f"{versions['transformers']}, pinned {pin}", versions["transformers"] == pin, required=False
    )
    yield Finding("runs folder", str(job.store.root), writable(job.store.root))
    yield Finding("device", _device_text(settings))
    yield from _reachable(settings)
    with deterministic(settings.determinism) as record:
        model = load_model(settings.model, role=settings.run.model_role, device=settings.run.device, dtype=settings.run.dtype)
        yield Finding("model", f"{model.identity['id']}: {model.n_layers} layers, d_ff {model.d_ff}, {settings.run.dtype}")
        yield from _hook_checks(model, settings)
    flags = ", ".join(f"{name}={value}" for name, value in record["flags"].items())
    yield Finding("determinism", flags + (f"; unavailable: {record['unavailable']}" if record["unavailable"] else ""))


def require(findings: list[Finding]) -> None:
    """Raise EnvironmentProblem, or DeterminismError for the hook check, if a required finding failed."""
    for finding in findings:
        if not finding.ok and finding.required:
            kind = DeterminismError if finding.subject == "hook check" else EnvironmentProblem
            raise kind(f"{finding.subject}: {finding.text}")


def _device_text(settings: Settings) -> str:
    device = check_device(settings.run.device)
    if device.type == "cuda":
        return f"{device}: {torch.cuda.get_device_name(device)}"
    return f"cpu: {platform.machine()}, {torch.get_num_threads()} threads"


def _reachable(settings: Settings) -> Iterator[Finding]:
    for role in ("INSTRUCT", "BASE"):
        choice: ModelChoice | None = getattr(settings.models, role)
        if choice is not None:
            problem = _model_problem(choice)
            yield Finding(
                f"model {role}", problem or f"{choice.hf_id} is reachable", not problem, role == settings.run.model_role
            )
    for role in ("A", "B", "ARC_MCQ"):
        data = getattr(settings.datasets, role)
        problem = _data_problem(data.hf_id, data.hf_config, data.split)
        yield Finding(f"data {role}", problem or f"{data.hf_id} is reachable", not problem, role == "A")


def _model_problem(choice: ModelChoice) -> str:
    try:
        if local_folder(choice.hf_id) is None:
            return _hub_problem(choice.hf_id, "model", choice.revision)
    except AvalancheError as error:
        return str(error)
    return ""


def _data_problem(hf_id: str, config: str | None, split: str) -> str:
    try:
        if not local(hf_id).exists() and not Path(hf_id).suffix:
            return _hub_problem(hf_id, "dataset")
        next(iter(load_rows(hf_id, config, split)))
    except AvalancheError as error:
        return str(error)
    except StopIteration:
        return f"{hf_id} holds no rows"
    return ""


def _hub_problem(hf_id: str, kind: str, revision: str | None = None) -> str:
    if kind == "model" and isinstance(try_to_load_from_cache(hf_id, "config.json", revision=revision), str):
        return ""
    try:
        HfApi().repo_info(hf_id, repo_type=kind, revision=revision, timeout=HUB_TIMEOUT_S)
    except (HfHubHTTPError, HFValidationError, httpx.HTTPError, OSError) as error:
        return f"{hf_id} cannot be reached on the hub ({type(error).__name__}) and is no local path"
    return ""


def _hook_checks(model: LoadedModel, settings: Settings) -> Iterator[Finding]:
    """On one window of data set A. Names from the config are tried nowhere else, so a gain that they misplace fails the phase."""
    windows = token_windows(settings.datasets.A, model.tokenizer, seq_len=settings.pipeline.seq_len_tokens, at_most=1)
    model.check_token_ids(windows)
    parts = (model.decoder, list(model.layers), model.names, torch.from_numpy(windows).to(model.device))
    found = hook_difference(*parts)
    tolerance = settings.events.u_hook_match_tol_abs
    if not found.n_layers:
        yield Finding("hook check", "the hooks name no up and act to compute u from", required=False)
    else:
        text = f"{found.n_layers} layers, largest difference {found.largest:.2g} (tolerance {tolerance:g})"
        yield Finding("hook check", text, found.largest <= tolerance)
    effect = gain_effect(*parts)
    yield Finding(
        "gain check",
        _gain_text(effect, model.names.mlp),
        effect.follows and effect.leaves_the_stream,
        required=settings.model.hooks is not None,
    )


def _gain_text(effect: GainEffect, name: str) -> str:
    if not effect.follows:
        return (
            f"the output of layer 0 does not follow the gain on {name!r}: a norm follows that module, before or after the sum; "
            "before the sum, name the norm instead; after it, the gain acts on what is added and the norm on the sum (spec/12)"
        )
    if not effect.leaves_the_stream:
        return f"{name!r} returns the residual stream along with what it adds; name the module before that sum (spec/12)"
    return f"the gain scales what {name!r} adds to the residual stream (times {effect.share:.3g}) and nothing else of layer 0"
