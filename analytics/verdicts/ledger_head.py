"""The head of the ledger, kept in a file outside the lake: what history must end with, so that none is put back.

Before a judge commits rows it notes the end that they will make, and afterwards that they are there. So wherever it
dies, the ledger ends with one of the two. The file also says which versions the tables had, which only rise.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError

from analytics.lake.chain import AlteredHistoryError, ChainEnd
from analytics.lake.errors import LakeError
from analytics.lake.storage import StorageSettings, is_remote
from analytics.lake.table_schemas import EVENTS, SIGNALS, VERDICTS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from analytics.lake.tables import Lake

PINNED: Final = (EVENTS, SIGNALS, VERDICTS)  # tables whose versions are noted


class KeptHead(BaseModel):
    """What the file says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sequence: NonNegativeInt
    sha256: str
    pending_sha256: str | None = None
    """The end that a commit under way will make; null where none is."""
    versions: dict[str, NonNegativeInt]
    """The least version of each table."""


class LedgerHead:
    """The file that holds the head of one lake's ledger."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of_lake(cls, root: str) -> LedgerHead | None:
        """The configured one, or the one beside the lake's folder; None for a bucket where none is configured."""
        path = StorageSettings().head
        if path is not None:
            return cls(path)
        if is_remote(root):
            return None
        folder = Path(os.path.realpath(root))
        return cls(folder.with_name(f"{folder.name}.head.json"))

    def read(self) -> KeptHead | None:
        """What is kept; None where there is no file. Raises `AlteredHistoryError` where it cannot be read."""
        try:
            return KeptHead.model_validate_json(self.path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            reason = str(error).partition("\n")[0]
            raise AlteredHistoryError(
                f"the head of the ledger at {self.path} cannot be read: {reason}. Restore it from a backup; without "
                "one, see that the lake is as it should be, move the file away and start the worker."
            ) from error

    def write(self, end: ChainEnd, *, versions: Mapping[str, int], pending: ChainEnd | None = None) -> None:
        """Note an end, and the one that a commit under way will make. Raises `LakeError` where it cannot be kept."""
        kept = KeptHead(
            sequence=end.sequence,
            sha256=end.sha256,
            pending_sha256=None if pending is None else pending.sha256,
            versions=dict(versions),
        )
        draft = self.path.with_name(f"{self.path.name}.draft")
        try:
            with draft.open("w", encoding="utf-8") as opened:
                opened.write(kept.model_dump_json())
                if pending is not None:
                    # On disk before the rows may be: what is lost of later notes, this one makes good.
                    opened.flush()
                    os.fsync(opened.fileno())
            draft.replace(self.path)
        except OSError as error:
            raise LakeError(
                f"the head of the ledger cannot be kept at {self.path}: {error.strerror}. Make the folder writable, or "
                "set STAGEKEEPER_LAKE_HEAD to a file outside the lake."
            ) from error

    def check(self, kept: KeptHead, lake: Lake, end: ChainEnd) -> None:
        """Raise `AlteredHistoryError` where the ledger does not end as is kept, or a table has fewer versions."""
        behind = [name for name, version in kept.versions.items() if lake.version(name) < version]
        if end.sha256 in {kept.sha256, kept.pending_sha256} and not behind:
            return
        what = f"the ledger ends with row {end.sequence:,}, another one than row {kept.sequence:,}"
        if end.sequence < kept.sequence:
            what = f"the ledger ends with row {end.sequence:,}, before row {kept.sequence:,}"
        elif behind:
            what = f"{', '.join(behind)} {'has' if len(behind) == 1 else 'have'} fewer versions than"
        raise AlteredHistoryError(
            f"the lake at {lake.root} is not the one that was judged: {what} that {self.path} names. It was put back, "
            "cut off or exchanged. Restore a copy that holds that row; or, if this history is to count from now on, "
            "move that file away and start the worker, which begins a new one."
        )


def pinned_versions(lake: Lake) -> dict[str, int]:
    """The versions that a head notes."""
    return {name: lake.version(name) for name in PINNED}
