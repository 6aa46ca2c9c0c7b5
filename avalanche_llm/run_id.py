"""Run ids: from the content of the config, or from the time.

content_hash:       RUN_{STAGE_TAG}_{first 12 hex of sha256(resolved config bytes + stage tag bytes)}
timestamp_counter:  RUN_{STAGE_TAG}_{UTC yyyymmddThhmmssZ}_{counter}, the first counter that no run has
"""

import hashlib
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final, Literal, get_args

from avalanche_llm.errors import UsageError

RunIdMode = Literal["content_hash", "timestamp_counter"]
RUN_ID: Final = re.compile(r"RUN_[A-Z0-9]{1,12}_([0-9a-f]{12}|\d{8}T\d{6}Z_\d{4})")


def content_run_id(stage_tag: str, resolved_config: bytes) -> str:
    """The run id of contract 23 for a stage tag such as S01 and the canonical bytes of the resolved config."""
    return f"RUN_{stage_tag}_{hashlib.sha256(resolved_config + stage_tag.encode()).hexdigest()[:12]}"


def candidate_run_ids(mode: RunIdMode, stage_tag: str, resolved_config: bytes) -> Iterator[str]:
    """Ids to try in order: exactly one for content_hash; for timestamp_counter the next counter until one is free."""
    if mode not in get_args(RunIdMode):
        raise UsageError(f"run_id_mode must be one of {', '.join(get_args(RunIdMode))}, found {mode!r}")
    if mode == "content_hash":
        yield content_run_id(stage_tag, resolved_config)
        return
    second = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    for counter in range(10_000):
        yield f"RUN_{stage_tag}_{second}_{counter:04d}"


def check_run_id(run_id: str) -> str:
    """`run_id` itself if it has the form of one: nothing that names a folder elsewhere gets past this."""
    if not RUN_ID.fullmatch(run_id):
        raise UsageError(f"{run_id!r} is not a run id; expected the form RUN_S01_0123456789ab")
    return run_id
