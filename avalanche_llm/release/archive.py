"""The zip of a release: the same members give the same bytes, wherever and whenever it is made (spec 21).

Names are sorted, dates and permissions fixed, and every member is stored as it is: compressed bytes would depend on the zlib of
the machine, and what is large here (npz, parquet, png, pdf) is compressed already. Members are copied in blocks.
"""

import errno
import hashlib
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final

from avalanche_llm.errors import EnvironmentProblem, MissingArtifact, SchemaError
from avalanche_llm.io.arrays import DAMAGE
from avalanche_llm.release.manifest import MANIFEST, Member, check_name

FIRST_ZIP_DATE: Final = (1980, 1, 1, 0, 0, 0)
PLAIN_FILE: Final = 0o100644 << 16
UNIX: Final = 3
BLOCK: Final = 2**20


def write_archive(file: BinaryIO, members: Iterable[Member], manifest: bytes) -> None:
    """Manifest first, then the members by name. Raises MissingArtifact if one is gone or no longer what the manifest says."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_entry(MANIFEST), manifest)
        for member in sorted(members, key=lambda one: one.name):
            entry = _entry(member.name)
            digest = hashlib.sha256()
            with _opened(member) as source:
                entry.file_size = os.fstat(source.fileno()).st_size  # zipfile decides by it whether the entry needs ZIP64
                with archive.open(entry, "w") as target:
                    while block := source.read(BLOCK):
                        digest.update(block)
                        target.write(block)
            if digest.hexdigest() != member.sha256:
                raise MissingArtifact(f"{member.path} changed while it was archived; restore it and try again")


def _opened(member: Member) -> BinaryIO:
    try:
        return member.path.open("rb")
    except OSError as error:  # said here: as an error of the archive's file it would blame the disk
        raise MissingArtifact(
            f"{member.path} cannot be read any more ({error.strerror or error}); restore it and try again"
        ) from error


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, FIRST_ZIP_DATE)
    entry.create_system = UNIX
    entry.external_attr = PLAIN_FILE
    return entry


@contextmanager
def unpacked(release: Path) -> Iterator[Path]:
    """The folder of a release: itself, or for a zip a temporary one that holds its members.

    Raises SchemaError for what is no zip or has a member that would leave the folder, EnvironmentProblem if it does not fit. What
    is raised while the folder is in use passes through.
    """
    if release.is_dir():
        yield release
        return
    with tempfile.TemporaryDirectory() as name:
        _unpack(release, Path(name))
        yield Path(name)


def _unpack(release: Path, folder: Path) -> None:
    try:
        with zipfile.ZipFile(release) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            names = {check_name(entry.filename) for entry in entries}
            folders = {str(parent) for name in names for parent in PurePosixPath(name).parents}
            if len(names) != len(entries) or names & folders:
                raise SchemaError(f"{release} holds a name more than once, or a file under the name of a folder")
            needed, free = sum(entry.file_size for entry in entries), shutil.disk_usage(folder).free
            if needed > free:
                raise EnvironmentProblem(f"{release} unpacks to {needed} bytes, {free} are free in {folder}; set TMPDIR")
            archive.extractall(folder, entries)
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: a damaged offset points before the file
            raise EnvironmentProblem(
                f"{release} cannot be unpacked to {folder}: {error.strerror or error}; check the file, or set TMPDIR"
            ) from error
        raise SchemaError(f"{release} is not a zip that can be read: {error}") from error
