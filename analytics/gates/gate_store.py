"""The gate files that verdicts were reached under, kept in the lake by the digest of their bytes."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import polars as pl

from analytics.gates.gate_file import GateFile
from analytics.lake.table_schemas import COLUMNS, GATES
from producers.errors import StagekeeperError
from producers.strict_yaml import ConfigurationFileError

if TYPE_CHECKING:
    from datetime import datetime

    from analytics.lake.tables import Lake


class GateFileNotKeptError(StagekeeperError):
    """A verdict names a gate file that the lake does not hold."""


class AlteredGateFileError(StagekeeperError):
    """The bytes that the lake holds for a gate file are not those that its digest stands for."""


class EarlierGateFileError(ConfigurationFileError):
    """A gate file that the lake keeps says what this version does not take any more."""


def save(lake: Lake, gates: GateFile, *, now: datetime) -> bool:
    """Store a gate file unless it is there already, before the first verdict under it. Raises `LakeError`."""
    if not _texts(lake, gates.sha256).is_empty():
        return False
    row = {"sha256": gates.sha256, "kept_at": now, "text": gates.text}
    lake.append(GATES, pl.DataFrame([row], schema=COLUMNS[GATES], orient="row"))
    return True


def load(lake: Lake, sha256: str) -> GateFile:
    """The gate file of a digest.

    Raises:
        GateFileNotKeptError: The lake does not hold it.
        AlteredGateFileError: What the lake holds has another digest.
        EarlierGateFileError: It says what this version does not take any more.
        LakeError: The lake cannot be read.
    """
    texts = _texts(lake, sha256)
    if texts.is_empty():
        raise GateFileNotKeptError(
            f"the lake keeps no gate file with sha256 {sha256}. Put the file back into use, or take the table `gates` "
            "from a backup."
        )
    text: bytes = texts[0]
    digest = hashlib.sha256(text).hexdigest()
    if digest != sha256:
        raise AlteredGateFileError(
            f"the gate file kept under sha256 {sha256} has sha256 {digest}: its bytes were changed since. "
            "Restore the table `gates` from a backup."
        )
    try:
        return GateFile.parse(text)
    except ConfigurationFileError as error:
        raise EarlierGateFileError(
            f"the gate file kept under sha256 {sha256} cannot be read by this version: {error}. A verdict under it is "
            "reached again by the version of Stagekeeper that reached it; what is judged now needs a file of today."
        ) from error


def _texts(lake: Lake, sha256: str) -> pl.Series:
    return lake.scan(GATES).filter(pl.col("sha256") == sha256).select("text").collect()["text"]
