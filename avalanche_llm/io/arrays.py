"""Arrays out of an npz that somebody else may have written: nothing is allocated on the word of a header.

A member's npy header must declare exactly as many bytes as the zip says that the member holds, and the zip may not claim more
than deflate can pack into the bytes that are there. Only numbers, truth values and text are read, never a pickled object.
"""

import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, cast

import numpy as np

MAX_RATIO: Final = 1032
"""What deflate can reach, by its format: 258 bytes in two bits."""
KINDS: Final = frozenset("biufU")
METHODS: Final = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
ENCRYPTED: Final = 1
_HEADERS: Final[dict[tuple[int, int], Any]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_arrays(path: Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """The named arrays. Raises ValueError, or what zipfile and numpy raise for a damaged file (`DAMAGE`)."""
    size = path.stat().st_size
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
        members = {info.filename: info for info in infos}
        if len(members) < len(infos):
            raise ValueError("two members of the zip have one name")
        return {name: _read_member(archive, members, name, size) for name in names}


DAMAGE: Final = (
    *(OSError, ValueError, KeyError, EOFError, TypeError, SyntaxError, RuntimeError, OverflowError, MemoryError, IndexError),
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    tokenize.TokenError,
)
"""What a damaged or hostile zip or npy makes the libraries raise; NotImplementedError and RecursionError are RuntimeErrors."""


def _read_member(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], name: str, size: int) -> np.ndarray:
    info = members.get(f"{name}.npy")
    if info is None:
        raise ValueError(f"it holds no array {name!r}")
    if info.compress_type not in METHODS or info.flag_bits & ENCRYPTED:
        raise ValueError(f"array {name!r} is encrypted or packed by a method other than deflate")
    if info.compress_size > size or info.file_size > MAX_RATIO * max(info.compress_size, 1):
        raise ValueError(f"array {name!r} claims {info.file_size} bytes packed in {info.compress_size}, in a file of {size}")
    with cast(zipfile.ZipExtFile, archive.open(info)) as member:
        shape, fortran, dtype = _header(member, name)
        n_bytes = math.prod(shape) * dtype.itemsize
        if dtype.kind not in KINDS or min(shape, default=0) < 0 or n_bytes != info.file_size - member.tell():
            raise ValueError(f"array {name!r}: its header declares {dtype} of shape {shape}, which is not what is there")
        array = np.empty(shape, dtype, order="F" if fortran else "C")
        _fill(member, array.reshape(-1, order="A").view(np.uint8).data)  # a view: the order is the array's own
    return array


def _header(member: zipfile.ZipExtFile, name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(member)
    if version not in _HEADERS:
        raise ValueError(f"array {name!r} has the npy version {version}")
    shape, fortran, dtype = _HEADERS[version](member)
    return shape, fortran, dtype


def _fill(member: zipfile.ZipExtFile, target: memoryview) -> None:
    """Read to the end, where zipfile checks the CRC."""
    done = 0
    while block := member.read(min(2**20, len(target) - done + 1)):
        target[done : done + len(block)] = block
        done += len(block)
    if done != len(target):
        raise ValueError(f"{done} bytes instead of {len(target)}")
