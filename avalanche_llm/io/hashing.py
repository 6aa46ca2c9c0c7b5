"""sha256 of bytes, files, folders and of our own source."""

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Final

import avalanche_llm

BLOCK: Final = 2**24
"""Bytes hashed at a time: large, because another thread has the interpreter meanwhile."""
CHECKPOINT_SUFFIXES: Final = frozenset({".safetensors", ".json", ".jinja", ".model", ".txt"})


def sha256_bytes(data: bytes) -> str:
    """Lower-case hex sha256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Lower-case hex sha256 of the file's content, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def sha256_tree(folder: Path, suffixes: frozenset[str], pattern: str = "**/*") -> str:
    """sha256 over the sorted (relative name, sha256) of every file below `folder` of that glob pattern with one of `suffixes`.

    Where the folder lies and when its files were written do not enter.
    """
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.glob(pattern) if path.is_file() and path.suffix in suffixes):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{sha256_file(path)}\n".encode())
    return digest.hexdigest()


@lru_cache(maxsize=1)
def code_version() -> str:
    """The package version and 12 hex digits over its source without tests: equal code, equal string, with or without git."""
    package = Path(avalanche_llm.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        if "tests" not in path.relative_to(package).parts:
            digest.update(f"{path.relative_to(package).as_posix()}\0{sha256_file(path)}\n".encode())
    return f"{avalanche_llm.__version__}+src.{digest.hexdigest()[:12]}"
