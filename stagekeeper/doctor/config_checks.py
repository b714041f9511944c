"""Checks of the gate file, the lake's storage and the review store: whether they are there, usable and safe."""

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
from producers.boundary.approvals import ReviewError
from producers.boundary.review_store import ReviewStore
from producers.errors import SettingsError
from producers.strict_yaml import ConfigurationFileError
from stagekeeper.doctor.check_result import CheckResult, CheckState, failed, passed, warned

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LAKE: Final = "lake"
GATES: Final = "gate file"
REVIEWS: Final = "reviews"
KEY: Final = "key"

_LITTLE_FREE_BYTES: Final = 2 * 1024**3
_NO_FREE_BYTES: Final = 200 * 1024**2


def check_gate_file(path: Path) -> tuple[CheckResult, GateFile | None]:
    """Whether the gate file can be used."""
    if not path.exists():
        fix = "Name it in STAGEKEEPER_GATE_FILE, or begin with examples/gates.yaml; until then nothing is judged."
        return failed(GATES, f"there is no gate file at {path}", fix), None
    try:
        gates = GateFile.load(path)
    except ConfigurationFileError as error:
        fix = "Mend the file (`stagekeeper gate lint` names every place); until then nothing is judged."
        return failed(GATES, str(error), fix), None
    issues = [issue for issue in lint_gates(gates) if issue.level != "note"]
    evidence = f"{path}: {len(gates.gates)} gates, sha256 {gates.sha256[:12]}"
    if not issues:
        return passed(GATES, evidence), gates
    state = CheckState.FAIL if any(issue.level == "error" for issue in issues) else CheckState.WARN
    evidence = f"{evidence}; {issues[0].place}: {issues[0].message}{_and_more(issues)}"
    return CheckResult(GATES, state, evidence, f"See all with `stagekeeper gate lint {path}`."), gates


def check_lake(root: str) -> tuple[CheckResult, Lake | None]:
    """Whether the lake is there, whole, and can be written by whoever asks."""
    start = "Start a worker, which creates it; or name the right place in STAGEKEEPER_LAKE_ROOT."
    remote = "://" in root
    if not remote and Path(root).exists() and not Path(root).is_dir():
        return failed(LAKE, f"{root} is a file, not a folder", start), None
    restore = "Stop the workers, and restore the tables from a backup of one moment."
    try:
        lake = Lake.existing(root)
    except (LakeError, SettingsError) as error:
        elsewhere = "Name another place in STAGEKEEPER_LAKE_ROOT."
        return failed(LAKE, str(error), restore if isinstance(error, LakeError) else elsewhere), None
    if lake is None:
        return failed(LAKE, f"there is no lake at {root}", start), None
    try:
        damaged = damaged_files(root)
    except READ_FAILURES as error:
        reach = "See that the lake can be reached."
        return failed(LAKE, str(unreadable(root, error)), reach), None
    if damaged:
        return failed(LAKE, f"{root}: {damaged[0]}{_and_more(damaged)}", restore), None
    return (_check_bucket_writable if remote else _check_folder_writable)(root), lake


def check_receipt_key(key: bytes | None) -> CheckResult:
    """Whether receipts are signed, as far as the settings here say."""
    if key is not None:
        return passed(KEY, "receipts are signed, and unsigned or forged ones are rejected")
    evidence = "no receipt key is set: whoever can write to the topics can make up decisions, and what came of them"
    return warned(KEY, evidence, "Set STAGEKEEPER_RECEIPT_KEY for routers, reviewers and workers.")


def check_reviews(path: Path, key: bytes | None) -> CheckResult:
    """Whether the rows of the review store are protected, and as they were written."""
    if not path.is_file():
        how = "no key protects its rows" if key is None else "a key protects its rows"
        return passed(REVIEWS, f"nothing was queued at {path}; {how}")
    if key is None:
        evidence = f"the rows of {path} are unprotected: whoever can write that file can approve"
        return warned(REVIEWS, evidence, "Set STAGEKEEPER_RECEIPT_KEY for routers, reviewers and workers.")
    refused: list[ReviewError] = []
    try:
        with ReviewStore(path, key=key) as store:
            waiting = store.waiting(refused.append)
    except ReviewError as error:
        return failed(REVIEWS, str(error), "See that the file can be read, and whose it is.")
    if refused:
        fix = "See who can write that file; ask anew for what waited there."
        return failed(REVIEWS, f"{refused[0]}{_and_more(refused)}", fix)
    return passed(REVIEWS, f"{len(waiting)} wait at {path}; a key protects its rows")


def _check_bucket_writable(root: str) -> CheckResult:
    tables = f"{len(TABLES)} tables at {root}"
    try:
        check_store(root)
    except LakeError as error:
        return failed(LAKE, f"{tables}; {error}", "Give the worker's principal what its work takes.")
    return passed(LAKE, f"{tables}, writable; of two commits at once the store refuses one")


def _check_folder_writable(root: str) -> CheckResult:
    tables = f"{len(TABLES)} tables at {root}"
    refused = next(_unwritable_folders(Path(root)), None)
    if refused is not None:
        fix = "Give the worker's user the right to write there, remount the file system, or free it of its limits."
        return failed(LAKE, f"{tables}; nothing can be written to {refused}", fix)
    free = shutil.disk_usage(root).free
    evidence = f"{tables}, writable, {free / 1024**3:,.1f} GiB free"
    if free < _LITTLE_FREE_BYTES:
        state = CheckState.FAIL if free < _NO_FREE_BYTES else CheckState.WARN
        return CheckResult(LAKE, state, evidence, "Free some space: a commit that finds none stops the worker.")
    return passed(LAKE, evidence)


def _unwritable_folders(root: Path) -> Iterator[str]:
    """The folders that take no new file, with the reason. The file that is tried has no name and vanishes at once."""
    for folder in (root, *(root / table / part for table in TABLES for part in ("", "_delta_log"))):
        if not folder.exists():  # a table that came with a later version than the lake
            continue
        try:
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            yield f"{folder}: {error.strerror or error}"


def _and_more(listed: Sequence[object]) -> str:
    return f" (and {len(listed) - 1} more)" if len(listed) > 1 else ""
