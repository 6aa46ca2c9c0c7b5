"""A measurement whose model id, data and tokens hold markup, through every phase up to the paper: what the report must survive."""

from collections.abc import Callable
from pathlib import Path

import tiny

from avalanche_llm.phases.analyze import analyze
from avalanche_llm.phases.arc import evaluate_arc
from avalanche_llm.phases.calibrate import calibrate
from avalanche_llm.phases.extract_rasters import extract_rasters
from avalanche_llm.phases.gain_grid import gain_grid
from avalanche_llm.phases.generalize import generalize
from avalanche_llm.phases.job import Job
from avalanche_llm.phases.paper_export import export_paper
from avalanche_llm.phases.run_nulls import run_nulls
from avalanche_llm.phases.select_gstar import select_gstar

BEFORE_THE_PAPER: tuple[Callable[[Job], str], ...] = (
    calibrate,
    gain_grid,
    select_gstar,
    extract_rasters,
    run_nulls,
    analyze,
    generalize,
    evaluate_arc,
)
EVIL_TOKEN = "<b><script>alert('token')</script>"
EVIL_MODEL = "<script>alert('model')</script>"
"""As a folder it is two: everything before the slash, and `script>`."""


def hostile_model(folder: Path) -> Path:
    """The tiny model under a hostile name, with one hostile token more in its vocabulary."""
    from transformers import AutoTokenizer

    model = tiny.llama()
    model.resize_token_embeddings(tiny.VOCABULARY + 1, mean_resizing=False)
    folder = folder / EVIL_MODEL
    folder.mkdir(parents=True)
    tiny.save_model(model, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([EVIL_TOKEN])
    tokenizer.save_pretrained(folder)
    return folder


def hostile_text(path: Path) -> Path:
    """The tiny config's text with the hostile token after every eighth letter or so."""
    lines = tiny.TEXT.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(line.replace("e", f"e{EVIL_TOKEN}") for line in lines), encoding="utf-8")
    return path


def measured(folder: Path) -> Job:
    """A job whose runs folder holds every phase up to the paper."""
    text = hostile_text(folder / "text.txt")
    config = tiny.write_config(folder / "tiny.yaml", hostile_model(folder), datasets__A__hf_id=str(text))
    job = tiny.job_of(config, folder / "runs")
    for step in (*BEFORE_THE_PAPER, export_paper):
        step(job)
    return job
