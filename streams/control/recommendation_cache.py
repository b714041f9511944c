"""Cache of the latest recommendation on each cell, filled from the ledger at start and kept up from the topic."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from analytics.signals.cells import CELL
from analytics.verdicts.ledger import latest_verdicts
from producers.wire.events import EventError, StageRecommended, StageRecommendedData, event_from_bytes

if TYPE_CHECKING:
    from analytics.lake.tables import Lake
    from analytics.verdicts.document import VerdictDocument

LOG: Final = logging.getLogger(__name__)


class Recommendations:
    """What was last recommended, by cell."""

    def __init__(self) -> None:
        self._latest: dict[tuple[str, ...], dict[str, Any]] = {}

    def fill(self, lake: Lake) -> None:
        """Take what the ledger says last about every cell; raises `LakeError` where the lake cannot be read."""
        for document in latest_verdicts(lake):
            self._keep(document)

    def take(self, value: bytes | None) -> None:
        """Take a record of the topic; one that is no recommendation is left to the data plane, which rejects it."""
        try:
            event = event_from_bytes(value or b"")
        except EventError as error:
            LOG.debug("not a recommendation: %s", error)
            return
        if isinstance(event, StageRecommended):
            self._keep(event.data)

    def as_list(self) -> list[dict[str, Any]]:
        """One JSON object a cell, in the order of the cells' names."""
        return [self._latest[cell] for cell in sorted(self._latest)]

    def _keep(self, verdict: VerdictDocument | StageRecommendedData) -> None:
        shown = verdict.model_dump(mode="json", include={*CELL, *_SHOWN})
        self._latest[tuple(shown[name] for name in CELL)] = shown


_SHOWN: Final = ("epoch", "verdict_id", "verdict", "to_stage", "reasons", "gate_sha256", "lake_version", "watermark")
