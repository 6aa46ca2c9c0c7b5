"""Text in, windows of tokens out: which tokens a measurement sees, and their hash (SCIENCE section 5; spec 03).

Texts are joined in stored order, each ending in one line break, and cut into windows of T tokens with stride T. The pool
is the first max(n, min(BOOTSTRAP_REPS, n * factor)) windows; the n of a slice are drawn from it by PCG64 seeded with
sha256(seed | data set id, config, split | T | slice role) and sorted. No run id, device, dtype or model role enters, so
every run that shares a tokenizer sees the same windows.
"""

import glob
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Int64

from avalanche_llm.errors import AvalancheError, DataError, EnvironmentProblem, reason
from avalanche_llm.io.hashing import sha256_file, sha256_tree
from avalanche_llm.resources import local
from avalanche_llm.settings_sources import TextData

READERS: Final = {".txt": "text", ".jsonl": "json", ".parquet": "parquet"}
TEXTS_PER_BATCH: Final = 512
MAX_TEXT_CHARACTERS: Final = 2**22
"""A tokenizer takes seconds and hundreds of MB for a million characters; a file without line breaks is one text."""
MAX_TOKEN_ID: Final = 2**31


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
    """The first windows of a data set's token stream; those of the last local files are kept for the next gain."""
    path = local(data.hf_id)
    if not path.exists():
        return _windows(data, tokenizer, seq_len, at_most)
    local_files(path)  # nothing but regular files is hashed
    return _windows_of_files(data, tokenizer, seq_len, at_most, source_sha256(path)).copy()


def _windows(data: TextData, tokenizer: Any, seq_len: int, at_most: int) -> Int64[np.ndarray, "chunk token"]:
    return windows_of(read_texts(data), tokenizer, seq_len=seq_len, at_most=at_most, source=f"data set {data.hf_id}")


@lru_cache(maxsize=2)
def _windows_of_files(
    data: TextData, tokenizer: Any, seq_len: int, at_most: int, content_sha256: str
) -> Int64[np.ndarray, "chunk token"]:
    """The hash only tells the cache when the files are others."""
    windows = _windows(data, tokenizer, seq_len, at_most)
    windows.flags.writeable = False
    return windows


def windows_of(
    texts: Iterable[str], tokenizer: Any, *, seq_len: int, at_most: int | None = None, source: str = "the text"
) -> Int64[np.ndarray, "chunk token"]:
    """The first windows (all without `at_most`) of the tokens of texts, no more text tokenised than they need.

    No special token is added. Raises DataError, naming `source`, where there is not one window.
    """
    tokens: list[int] = []
    batch: list[str] = []

    def flush() -> None:
        tokens.extend(_encoded(tokenizer, batch))
        batch.clear()

    for text in texts:
        batch.append(text)
        if len(batch) == TEXTS_PER_BATCH:
            flush()
            if at_most is not None and len(tokens) >= at_most * seq_len:
                break
    if batch:
        flush()
    found = len(tokens) // seq_len
    n_windows = found if at_most is None else min(found, at_most)
    if n_windows == 0:
        raise DataError(f"{source} gives {len(tokens)} tokens, not one window of {seq_len}; use a longer text")
    return np.array(tokens[: n_windows * seq_len], dtype=np.int64).reshape(n_windows, seq_len)


def _encoded(tokenizer: Any, texts: list[str]) -> list[int]:
    """The token ids of these texts in order. Raises DataError where the tokenizer gives something else."""
    try:
        lists = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        ids = [int(token) for found in lists for token in found]
    except Exception as error:  # a tokenizer comes with its checkpoint: foreign input
        raise DataError(f"the model's tokenizer cannot encode this data set: {reason(error)}; check models.*.hf_id") from error
    if len(lists) != len(texts) or min(ids, default=0) < 0 or max(ids, default=0) >= MAX_TOKEN_ID:
        raise DataError(f"the model's tokenizer gave {len(lists)} lists for {len(texts)} texts, or ids that are none")
    return ids


def read_texts(data: TextData) -> Iterator[str]:
    """The texts of a data set in stored order, as `ended` gives them."""
    return ended(_stored_texts(data))


def ended(texts: Iterable[str]) -> Iterator[str]:
    """Texts without the blank ones, each ending in one line break."""
    return (text if text.endswith("\n") else text + "\n" for text in texts if text.strip())


def _stored_texts(data: TextData) -> Iterator[str]:
    for index, row in enumerate(load_rows(data.hf_id, data.hf_config, data.split)):
        if data.text_column not in row:
            known = ", ".join(row)
            raise DataError(f"data set {data.hf_id} has no text column {data.text_column!r} (columns: {known}); set text_column")
        text = row[data.text_column]
        if not isinstance(text, str):
            raise DataError(
                f"data set {data.hf_id}, row {index}: column {data.text_column!r} holds {type(text).__name__}, not text; "
                "leave the row out or set text_column"
            )
        if len(text) > MAX_TEXT_CHARACTERS:
            raise DataError(
                f"data set {data.hf_id}, row {index} is one text of {len(text)} characters, at most {MAX_TEXT_CHARACTERS} are "
                "tokenised at once; break it into lines"
            )
        yield text


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
            empty = [file for file in files if file.suffix != ".txt" and not file.stat().st_size]  # the library trips over them
            if empty:
                raise DataError(f"data file {empty[0]} is empty; leave it out or fill it")
            reader, names = READERS[files[0].suffix], {split: [glob.escape(str(file.resolve())) for file in files]}
            yield from datasets.load_dataset(reader, data_files=names, split=split, streaming=True)
        elif path.suffix in READERS or path.is_absolute() or hf_id.startswith("."):
            raise EnvironmentProblem(f"data file {hf_id} does not exist; check datasets.*.hf_id")
        else:
            yield from datasets.load_dataset(hf_id, hf_config, split=split, streaming=True)
    except AvalancheError:
        raise
    except Exception as error:  # foreign files: the library raises whatever its code met in them
        raise EnvironmentProblem(f"data set {hf_id!r} cannot be read: {reason(error)}") from error


def local_files(path: Path) -> list[Path]:
    """The file itself, or the files of one readable kind in a folder, by name."""
    found = [path] if not path.is_dir() else sorted(file for file in path.iterdir() if file.suffix in READERS)
    if not all(file.is_file() for file in found):
        raise DataError(f"{path} is, or holds, what is no regular file (a pipe, a device); save the data to a file")
    kinds = {file.suffix for file in found}
    if len(kinds) != 1 or not kinds <= READERS.keys():
        raise DataError(
            f"{path} must be, or hold, files of one kind ({', '.join(READERS)}); found {', '.join(sorted(kinds)) or 'none'}"
        )
    return found


def source_sha256(path: Path) -> str:
    """Hash of a local data file, or over the names and contents of those that are read of a folder."""
    return sha256_file(path) if path.is_file() else sha256_tree(path, frozenset(READERS), pattern="*")
