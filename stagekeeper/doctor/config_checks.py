"""What can be told from files: the gate file, and whether the lake can be read and written."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from analytics.gates.gate_file import GateFile
from analytics.gates.lint import lint_gates
from analytics.lake.errors import READ_FAILURES, LakeError
from analytics.lake.storage import check_store, damaged_files, unreadable
from analytics.lake.table_schemas import TABLES
from analytics.lake.tables import Lake
from producers.strict_yaml import ConfigurationFileError
from stagekeeper.doctor.finding import Finding, State, healthy

if TYPE_CHECKING:
    from collections.abc import Iterator

LAKE: Final = "lake"
GATES: Final = "gate file"

_TIGHT_BYTES: Final = 2 * 1024**3
_FULL_BYTES: Final = 200 * 1024**2


def gates_found(path: Path) -> tuple[Finding, GateFile | None]:
    """Whether the gate file can be used."""
    if not path.exists():
        mend = "Name it in STAGEKEEPER_GATE_FILE, or begin with examples/gates.yaml; until then nothing is judged."
        return Finding(GATES, State.FAIL, f"there is no gate file at {path}", mend), None
    try:
        gates = GateFile.load(path)
    except ConfigurationFileError as error:
        mend = "Mend the file (`stagekeeper gate lint` names every place); until then nothing is judged."
        return Finding(GATES, State.FAIL, str(error), mend), None
    said = [finding for finding in lint_gates(gates) if finding.level != "note"]
    evidence = f"{path}: {len(gates.gates)} gates, sha256 {gates.sha256[:12]}"
    if not said:
        return healthy(GATES, evidence), gates
    state = State.FAIL if any(finding.level == "error" for finding in said) else State.WARN
    first = f"{said[0].place}: {said[0].message}"
    more = f" (and {len(said) - 1} more)" if len(said) > 1 else ""
    return Finding(GATES, state, f"{evidence}; {first}{more}", f"See all with `stagekeeper gate lint {path}`."), gates


def lake_found(root: str) -> tuple[Finding, Lake | None]:
    """Whether the lake is there, whole, and can be written by whoever asks."""
    start = "Start a worker, which creates it; or name the right place in STAGEKEEPER_LAKE_ROOT."
    remote = "://" in root
    if not remote and Path(root).exists() and not Path(root).is_dir():
        return Finding(LAKE, State.FAIL, f"{root} is a file, not a folder", start), None
    try:
        lake = Lake.existing(root)
    except LakeError as error:
        return Finding(LAKE, State.FAIL, str(error), "Restore the tables from a backup of one moment."), None
    if lake is None:
        return Finding(LAKE, State.FAIL, f"there is no lake at {root}", start), None
    try:
        damaged = damaged_files(root)
    except READ_FAILURES as error:
        return Finding(LAKE, State.FAIL, str(unreadable(root, error)), "See that the lake can be reached."), None
    if damaged:
        more = f" (and {len(damaged) - 1} more)" if len(damaged) > 1 else ""
        mend = "Stop the workers, and restore the tables from a backup of one moment."
        return Finding(LAKE, State.FAIL, f"{root}: {damaged[0]}{more}", mend), None
    return _writable(root, remote=remote), lake


def _writable(root: str, *, remote: bool) -> Finding:
    tables = f"{len(TABLES)} tables at {root}"
    if remote:
        try:
            check_store(root)
        except LakeError as error:
            return Finding(LAKE, State.FAIL, f"{tables}; {error}", "Give the worker's principal what its work takes.")
        return healthy(LAKE, f"{tables}, writable; of two commits at once the store refuses one")
    refused = next(_refused(Path(root)), None)
    if refused is not None:
        mend = "Give the worker's user the right to write there, remount the file system, or free it of its limits."
        return Finding(LAKE, State.FAIL, f"{tables}; nothing can be written to {refused}", mend)
    free = shutil.disk_usage(root).free
    evidence = f"{tables}, writable, {free / 1024**3:,.1f} GiB free"
    if free < _TIGHT_BYTES:
        state = State.FAIL if free < _FULL_BYTES else State.WARN
        return Finding(LAKE, state, evidence, "Free some space: a commit that finds none stops the worker.")
    return healthy(LAKE, evidence)


def _refused(root: Path) -> Iterator[str]:
    """The folders that take no new file, with the reason. What is tried has no name and vanishes at once."""
    for folder in (root, *(root / table / part for table in TABLES for part in ("", "_delta_log"))):
        if not folder.exists():  # a table that came with a later version than the lake
            continue
        try:
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            yield f"{folder}: {error.strerror or error}"
