"""Phase 8: the pack and the runs that the paper rests on, listed in MANIFEST.sha256 and archived (S08; spec 21).

Everything is checked before anything is written. The model is not needed.
"""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from avalanche_llm.errors import DeterminismError
from avalanche_llm.io.artifacts import CONFIG_NAME
from avalanche_llm.io.files import raw
from avalanche_llm.io.hashing import code_version
from avalanche_llm.io.store import Upstream
from avalanche_llm.phases.context import guard
from avalanche_llm.phases.job import Job
from avalanche_llm.plain_yaml import read_yaml
from avalanche_llm.release.archive import write_archive
from avalanche_llm.release.chain import require_intact
from avalanche_llm.release.manifest import manifest_bytes, pack_members, run_members

_log = logging.getLogger("avalanche_llm")


def release(job: Job) -> str:
    """Run the phase and return its run id."""
    paper = job.upstream("PHASE7_PAPER_EXPORT")
    chosen = require_intact(job.store, [paper.run_id])
    members = [*pack_members(), *run_members(job.store, chosen)]
    manifest = manifest_bytes(members)
    run = job.begin("PHASE8_RELEASE")
    with guard(job, run):
        run.describe(model=paper.record["model"], dataset=paper.record["dataset"])
        if run.save("manifest", raw(manifest)).read_bytes() != manifest:
            raise DeterminismError(f"{run.folder} was begun over another pack; remove the folder and run the phase again")
        run.save("release_zip", partial(write_archive, members=members, manifest=manifest))
    run.complete()
    _warn([job.store.get(run_id) for run_id in chosen])
    return run.run_id


def _warn(released: Sequence[Upstream]) -> None:
    """Runs of other code than the pack, and folders of this machine in the config of any run."""
    for run in released:
        made_by = run.record["hashes"]["code_version"]
        if made_by != code_version():
            _log.warning("%s was made by %s; the pack holds the source of %s", run.run_id, made_by, code_version())
    for place in sorted({place for run in released for place in foreign_places(read_yaml(run.folder / CONFIG_NAME))}):
        _log.warning("the release tells a folder of this machine, %s; measure with a path relative to the working folder", place)


def foreign_places(values: Mapping[str, Any]) -> list[str]:
    """Where a config names a model, a data set or the runs folder by an absolute path: runs hold it as it was typed (spec 14)."""
    named = {
        f"{section}.{name}.hf_id": entry["hf_id"]
        for section in ("models", "datasets")
        for name, entry in values[section].items()
        if entry
    }
    named["paths.runs_dir"] = values["paths"]["runs_dir"]
    return [f"{place}: {path}" for place, path in named.items() if path.startswith(("/", "~"))]
