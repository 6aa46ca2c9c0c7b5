"""Text in, windows of tokens out: which tokens a measurement sees, and their hash (SCIENCE section 5; spec 03).

Texts are joined in stored order, each ending in one line break, and cut into windows of T tokens with stride T. The pool
is the first max(n, min(BOOTSTRAP_REPS, n * factor)) windows; the n of a slice are drawn from it by PCG64 seeded with
sha256(seed | data set id, config, split | T | slice role) and sorted. No run id, device, dtype or model role enters, so
every run that shares a tokenizer sees the same windows.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Int64

from avalanche_llm.errors import DataError, EnvironmentProblem
from avalanche_llm.io.hashing import sha256_file, sha256_tree
from avalanche_llm.resources import local
from avalanche_llm.settings import TextData

READERS: Final = {".txt": "text", ".jsonl": "json", ".parquet": "parquet"}
TEXTS_PER_BATCH: Final = 512


@dataclass(frozen=True)
class TokenSlice:
    """windows[seq, token] of token ids, with the index of each window in the token stream."""

    role: str
    windows: Int64[np.ndarray, "seq token"]
    chunk_index: Int64[np.ndarray, " seq"]

    @property
    def sha256(self) -> str:
        """Hash over the ordered (role, chunk index, token ids)."""
        digest = hashlib.sha256()
        for index, window in zip(self.chunk_index, self.windows, strict=True):
            digest.update(f"{self.role}\0{index}\0".encode())
            digest.update(window.astype("<i8").tobytes())
        return digest.hexdigest()

    def describe(self, data: TextData) -> dict[str, Any]:
        """The slice's entry in a run record."""
        path = local(data.hf_id)
        return {
            "role": self.role,
            "id": data.hf_id,
            "config": data.hf_config,
            "split": data.split,
            "source_sha256": source_sha256(path) if path.exists() else None,
            "n_windows": len(self.windows),
            "seq_len_tokens": int(self.windows.shape[1]),
            "chunk_index": self.chunk_index.tolist(),
            "sha256": self.sha256,
        }


@dataclass(frozen=True)
class SliceRequest:
    """One slice of a data set: its role (A_CALIBRATION, A_RASTERS, B_EVAL) and its number of windows."""

    role: str
    n_windows: int


def token_slices(
    data: TextData, requests: Sequence[SliceRequest], tokenizer: Any, *, seq_len: int, seed: int, pool_cap: int
) -> list[TokenSlice]:
    """Disjoint slices of one data set: each is drawn from what those before it left of its pool.

    Raises DataError when the data set has too few windows, saying how many there are and how many were needed.
    """
    pools = [max(request.n_windows, min(pool_cap, request.n_windows * data.window_pool_factor)) for request in requests]
    needed = max(max(pools), sum(request.n_windows for request in requests))
    stream = token_windows(data, tokenizer, seq_len=seq_len, at_most=needed)
    taken: set[int] = set()
    slices = []
    for request, pool in zip(requests, pools, strict=True):
        width = max(pool, len(taken) + request.n_windows)
        free = np.array([index for index in range(min(width, len(stream))) if index not in taken], dtype=np.int64)
        if len(free) < request.n_windows:
            raise DataError(
                f"data set {data.hf_id} has {len(free)} windows of {seq_len} tokens left for {request.role}, {request.n_windows} "
                "are needed: use a longer text, fewer windows, or a shorter pipeline.seq_len_tokens"
            )
        rng = np.random.Generator(np.random.PCG64(_slice_seed(data, request.role, seq_len, seed)))
        chosen = np.sort(rng.choice(free, size=request.n_windows, replace=False))
        taken.update(chosen.tolist())
        slices.append(TokenSlice(request.role, stream[chosen], chosen))
    return slices


def _slice_seed(data: TextData, role: str, seq_len: int, seed: int) -> int:
    key = f"{seed}|{data.hf_id},{data.hf_config},{data.split}|{seq_len}|{role}"
    return int.from_bytes(hashlib.sha256(key.encode()).digest(), "big")


def token_windows(data: TextData, tokenizer: Any, *, seq_len: int, at_most: int) -> Int64[np.ndarray, "chunk token"]:
    """The first windows of the token stream, no more text tokenised than they need."""
    wanted = at_most * seq_len
    tokens: list[int] = []
    batch: list[str] = []

    def flush() -> None:
        for ids in tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]:
            tokens.extend(ids)
        batch.clear()

    for text in read_texts(data):
        batch.append(text)
        if len(batch) == TEXTS_PER_BATCH:
            flush()
            if len(tokens) >= wanted:
                break
    if batch:
        flush()
    n_windows = min(len(tokens) // seq_len, at_most)
    if n_windows == 0:
        raise DataError(f"data set {data.hf_id} gives {len(tokens)} tokens, not one window of {seq_len}; use a longer text")
    return np.array(tokens[: n_windows * seq_len], dtype=np.int64).reshape(n_windows, seq_len)


def read_texts(data: TextData) -> Iterator[str]:
    """The texts of a data set in stored order, blank ones left out, each ending in one line break."""
    for row in load_rows(data.hf_id, data.hf_config, data.split):
        text = row.get(data.text_column)
        if not isinstance(text, str):
            known = ", ".join(row)
            raise DataError(f"data set {data.hf_id} has no text column {data.text_column!r} (columns: {known}); set text_column")
        if text.strip():
            yield text if text.endswith("\n") else text + "\n"


def load_rows(hf_id: str, hf_config: str | None, split: str) -> Iterator[dict[str, Any]]:
    """Rows of a hub data set or of local files, through the `datasets` library.

    Raises EnvironmentProblem for what cannot be found or read (some of it only when its row is reached), DataError for a
    folder that holds no or several kinds of files.
    """
    import datasets

    datasets.disable_progress_bars()
    path = local(hf_id)
    try:
        if path.exists():
            files = local_files(path)
            reader, names = READERS[files[0].suffix], {split: [str(file.resolve()) for file in files]}
            yield from datasets.load_dataset(reader, data_files=names, split=split, streaming=True)
        elif path.suffix in READERS or path.is_absolute() or hf_id.startswith("."):
            raise EnvironmentProblem(f"data file {hf_id} does not exist; check datasets.*.hf_id")
        else:
            yield from datasets.load_dataset(hf_id, hf_config, split=split, streaming=True)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise EnvironmentProblem(f"data set {hf_id!r} cannot be read: {str(error).strip().splitlines()[0]}") from error


def local_files(path: Path) -> list[Path]:
    """The file itself, or the files of one readable kind in a folder, by name."""
    found = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.suffix in READERS)
    kinds = {file.suffix for file in found}
    if len(kinds) != 1 or not kinds <= READERS.keys():
        raise DataError(
            f"{path} must be, or hold, files of one kind ({', '.join(READERS)}); found {', '.join(sorted(kinds)) or 'none'}"
        )
    return found


def source_sha256(path: Path) -> str:
    """Hash of a local data file or folder."""
    return sha256_file(path) if path.is_file() else sha256_tree(path, frozenset(READERS))
