"""Export everything recorded about the decisions of a search, in parts, with a manifest that says what is in them.

A part is written under another name, synced, and named by the manifest once it is whole. So an export that was stopped
goes on after its last whole part, and what is exported does not depend on where it was stopped: the manifest holds
the last key that it goes to, and the version of `events`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, ValidationError

from analytics.audit.search import DecisionHit, DecisionQuery, hits_of
from analytics.lake.storage import reading
from analytics.lake.table_schemas import EVENTS
from producers.errors import StagekeeperError, UsageError
from producers.written_files import writing

if TYPE_CHECKING:
    from collections.abc import Callable

    from analytics.audit.search_index import SearchIndex
    from analytics.lake.tables import Lake

ExportFormat = Literal["csv", "parquet", "jsonl"]

MANIFEST: Final = "manifest.json"
SUMS: Final = "SHA256SUMS"
PART_DECISIONS: Final = 20_000
_DECISION: Final = [
    name for name in DecisionHit.model_fields if name not in {"key", "source", "decision_id", "decided_at"}
]
_PLACE: Final = ["log_id", "topic", "partition", "offset"]
COLUMNS: Final = [
    *("decision_id", "decided_at", "event_id", "type", "time", "source"),
    *_PLACE,
    *_DECISION,
    *("event_sha256", "event"),
]
"""The columns of an export: a row for each event, with what was asked and decided beside it, and its exact text."""


class OtherExportError(UsageError):
    """The folder holds another export, or something else."""


class AlteredExportError(StagekeeperError):
    """A part of an export is not what its manifest says."""


class ExportPart(BaseModel):
    """One file of an export."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    file: str
    decisions: int
    events: int
    bytes: int
    sha256: str
    last_key: int
    """The key of its last decision, in the search index."""


class ExportManifest(BaseModel):
    """What an export holds."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    format: ExportFormat
    query: DecisionQuery
    lake: str
    """Name of the lake's folder."""
    events_version: int
    """Version of the table `events` that it is complete for."""
    last_key: int
    columns: tuple[str, ...]
    parts: tuple[ExportPart, ...] = ()
    complete: bool = False

    @property
    def decisions(self) -> int:
        """Decisions in all parts."""
        return sum(part.decisions for part in self.parts)

    @property
    def events(self) -> int:
        """Events in all parts."""
        return sum(part.events for part in self.parts)


def export(
    lake: Lake,
    index: SearchIndex,
    query: DecisionQuery,
    folder: Path,
    *,
    form: ExportFormat,
    events_version: int,
    progress: Callable[[ExportManifest], None] = lambda _: None,
    part_decisions: int = PART_DECISIONS,
) -> ExportManifest:
    """Write what is recorded about the decisions of a search to a folder, oldest first, or go on with that.

    The index has followed the lake to `events_version`. `progress` is told the manifest after each part.

    Raises `OtherExportError`, `AlteredExportError` where a part that is there was changed, and `LakeError`.
    """
    manifest = _begun(lake, index, query, folder, form=form, events_version=events_version)
    progress(manifest)
    while not manifest.complete:
        after = manifest.parts[-1].last_key if manifest.parts else None
        hits = list(
            hits_of(index, query, limit=part_decisions, after=after, before=manifest.last_key + 1, oldest_first=True)
        )
        if hits:
            part = _write_part(lake, hits, folder, len(manifest.parts) + 1, manifest)
            manifest = manifest.model_copy(update={"parts": (*manifest.parts, part)})
        manifest = manifest.model_copy(update={"complete": len(hits) < part_decisions})
        if manifest.complete:
            _replace(folder / SUMS, "".join(f"{part.sha256}  {part.file}\n" for part in manifest.parts).encode())
        _replace(folder / MANIFEST, manifest.model_dump_json(indent=2).encode())
        progress(manifest)
    return manifest


def verify_export(folder: Path) -> ExportManifest:
    """Check that every part is what the manifest says. Raises `AlteredExportError`."""
    manifest = _read(folder)
    for part in manifest.parts:
        path = folder / part.file
        if not path.is_file():
            raise AlteredExportError(f"{path} is gone. Delete {folder} and export anew.")
        if (found := _sha256(path)) != part.sha256:
            raise AlteredExportError(f"{path} has the digest {found}, and was written with {part.sha256}.")
    return manifest


def _begun(
    lake: Lake, index: SearchIndex, query: DecisionQuery, folder: Path, *, form: ExportFormat, events_version: int
) -> ExportManifest:
    """The manifest of an export that is there already, or of a new one."""
    if (folder / MANIFEST).is_file():
        manifest = verify_export(folder)
        asked = (form, query, Path(lake.root).name)
        if (manifest.format, manifest.query, manifest.lake) != asked:
            raise OtherExportError(f"{folder} holds another export; name a new folder, or ask for the same as before.")
        return manifest
    if folder.is_dir() and any(folder.iterdir()):
        raise OtherExportError(f"{folder} is not empty, and holds no export; name a new folder.")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    last = next(hits_of(index, query, limit=1), None)
    manifest = ExportManifest(
        format=form,
        query=query,
        lake=Path(lake.root).name,
        events_version=events_version,
        last_key=-1 if last is None else last.key,
        columns=tuple(COLUMNS),
    )
    _replace(folder / MANIFEST, manifest.model_dump_json(indent=2).encode())
    return manifest


def _read(folder: Path) -> ExportManifest:
    path = folder / MANIFEST
    try:
        return ExportManifest.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise AlteredExportError(f"{path} is no manifest of an export: {str(error).splitlines()[0]}") from error


def _write_part(lake: Lake, hits: list[DecisionHit], folder: Path, number: int, manifest: ExportManifest) -> ExportPart:
    rows = _rows(lake, hits, manifest.events_version)
    path = folder / f"part-{number:05}.{manifest.format}"
    _replace(path, _encoded(rows, manifest.format))
    return ExportPart(
        file=path.name,
        decisions=rows["decision_id"].n_unique(),
        events=rows.height,
        bytes=path.stat().st_size,
        sha256=_sha256(path),
        last_key=hits[-1].key,
    )


def _rows(lake: Lake, hits: list[DecisionHit], version: int) -> pl.DataFrame:
    """Every event about some decisions; all of them carry the decision's moment, by which files are skipped."""
    # Polars would infer a type from the first rows, and of many decisions these name nobody.
    columns = dict.fromkeys(("decision_id", *_DECISION), pl.String)
    decisions = pl.DataFrame([hit.model_dump(include=set(columns)) for hit in hits], schema=columns)
    with reading(lake.root):
        recorded = (
            lake.scan(EVENTS, version=version)
            .filter(pl.col("decided_at").is_between(hits[0].decided_at, hits[-1].decided_at))
            .filter(pl.col("subject").is_in(decisions["decision_id"].implode()))
            .select("id", "type", "time", "source", *_PLACE, "subject", "decided_at", "value")
            .collect()
        )
    digests = [hashlib.sha256(value).hexdigest() for value in recorded["value"]]
    return (
        recorded.with_columns(pl.Series("event_sha256", digests, pl.String), pl.col("value").cast(pl.String))
        .rename({"id": "event_id", "subject": "decision_id", "value": "event"})
        .join(decisions, on="decision_id")
        .sort("decided_at", "decision_id", "time", "topic", "offset")
        .select(COLUMNS)
    )


def _encoded(rows: pl.DataFrame, form: ExportFormat) -> bytes:
    if form == "parquet":
        written = io.BytesIO()
        rows.write_parquet(written)
        return written.getvalue()
    texts = rows.with_columns(pl.col("decided_at", "time").dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ"))
    if form == "jsonl":
        lines = (json.dumps(row, ensure_ascii=False) for row in texts.iter_rows(named=True))
        return "".join(f"{line}\n" for line in lines).encode()
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    writer.writerows([_inert(cell) for cell in row] for row in texts.iter_rows())
    return table.getvalue().encode()


def _inert(cell: Any) -> Any:  # noqa: ANN401 - a cell of any column
    """A cell that no spreadsheet takes for a formula: agents write some of them."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def _replace(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, also where the machine stops."""
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
