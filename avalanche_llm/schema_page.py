"""docs/schemas.md: what every artifact holds, from the code's own tables and from a complete run of each phase.

`python -m avalanche_llm.schema_page RUNS_DIR > docs/schemas.md`. Names, columns and dtypes come from the files themselves; units
and meanings of the result tables from `plotting.columns`; the run record from its JSON schema. A test compares the committed page
with what this gives over a fresh measurement.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq

from avalanche_llm.errors import MissingArtifact
from avalanche_llm.io.store import RunStore, Upstream
from avalanche_llm.plotting.schemas import SCHEMAS
from avalanche_llm.report.captions import TABLES
from avalanche_llm.resources import packaged
from avalanche_llm.stages import Stage, stages

HEAD: Final = """# What every artifact holds

<!-- made by `make schemas`; do not edit -->

Every file of a run directory, by phase. Names and dtypes are those of the files of a complete run; the axes of an array are
always in the order condition, sequence, layer, token. `run_record.json` lists each file with its sha256, and
`config_resolved.yaml` is the config that made it.
"""
KINDS: Final = {str: "string", bool: "boolean", int: "integer", float: "number", list: "list", dict: "mapping"}
DOCUMENTS: Final = frozenset({".md", ".bib", ".csv", ".pdf", ".png", ".zip", ".html"})


def page(store: RunStore) -> str:
    """The whole page. Raises MissingArtifact where a phase has no complete run."""
    parts = [HEAD]
    for stage in stages().values():
        parts += [f"## {stage.command}", "", *_phase(stage, _run(store, stage))]
    parts += ["## Result tables", "", *_tables(), "## The run record", "", *_record()]
    return "\n".join(parts).rstrip() + "\n"


def _run(store: RunStore, stage: Stage) -> Upstream:
    found = store.complete_runs(stage.tag)
    if not found:
        raise MissingArtifact(f"no complete {stage.command} run under {store.root}; run_all makes one of each phase")
    return found[-1]


def _phase(stage: Stage, run: Upstream) -> Iterator[str]:
    needs = ", ".join(f"`{stages()[phase].command}`" for phase in stage.needs)
    yield f"`RUN_{stage.tag}_...`" + (f", reads {needs}." if needs else ", reads the model and data set A.")
    yield ""
    plain = []
    for name, relative in stage.artifacts.items():
        if name.endswith("_parquet") or Path(relative).suffix in DOCUMENTS:
            plain.append(f"`{relative}`" + (" (where it can be made)" if name in stage.optional else ""))
            continue
        yield f"### {relative} ({stage.tag})"
        yield ""
        yield from _contents(run.folder / relative)
        yield ""
    if plain:
        yield f"Also: {', '.join(plain)}."
        yield ""


def _contents(path: Path) -> Iterator[str]:
    if path.suffix == ".parquet":
        yield from _table(("column", "dtype"), [(field.name, str(field.type)) for field in pq.read_schema(path)])
    elif path.suffix == ".npz":
        with np.load(path) as arrays:
            rows = [(name, str(arrays[name].dtype), str(arrays[name].ndim)) for name in arrays.files]
        yield from _table(("array", "dtype", "axes"), rows)
    elif path.suffix == ".json":
        yield from _table(("key", "holds"), list(_keys(json.loads(path.read_bytes()), "")))
    else:
        yield "One line a file: sha256, two spaces, path."


def _keys(node: Any, place: str) -> Iterator[tuple[str, str]]:
    """The keys of a mapping and, of a list of mappings, those of its first entry."""
    for key, value in node.items():
        inner = value[0] if isinstance(value, list) and value else None
        yield f"{place}{key}", _kind(value) + (f" of {_kind(inner)}s" if inner is not None else "")
        if isinstance(inner, dict):
            yield from _keys(inner, f"{place}{key}[].")


def _kind(value: Any) -> str:
    return "null" if value is None else KINDS[type(value)]


def _tables() -> Iterator[str]:
    yield "As CSV and as Parquet. Names and order of the columns without `opt_` are binding; the key names a row."
    yield ""
    for schema in SCHEMAS.values():
        yield f"### {schema.table_id}"
        yield ""
        yield f"{TABLES[schema.table_id]}. Key: {', '.join(f'`{name}`' for name in schema.key)}."
        yield ""
        rows = [
            (column.name, column.dtype + (", may be empty" if column.nullable else ""), column.unit, column.meaning)
            for column in schema.columns
        ]
        yield from _table(("column", "dtype", "unit", "meaning"), rows)
        yield ""


def _record() -> Iterator[str]:
    schema = json.loads(packaged("spec/run_record.schema.json").read_bytes())
    yield f"{schema['title']}: `run_record.json`, checked against `spec/run_record.schema.json` whenever it is written or read."
    yield ""
    rows = []
    for name, entry in schema["properties"].items():
        inner = entry.get("properties") or entry.get("items", {}).get("properties") or {}
        rows.append((name, "yes" if name in schema["required"] else "no", ", ".join(f"`{key}`" for key in inner)))
    yield from _table(("field", "required", "of which"), rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield "|" + "---|" * len(heads)
    for name, *rest in rows:
        yield f"| `{name}` | {' | '.join(cell.replace('|', chr(92) + '|') for cell in rest)} |"


if __name__ == "__main__":
    print(page(RunStore(Path(sys.argv[1]))), end="")
