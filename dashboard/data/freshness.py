"""How old the evidence is: by the rule of the gate, so that nothing is green here that the gate would refuse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from analytics.verdicts.heartbeats import evidence_age_s

if TYPE_CHECKING:
    from datetime import datetime

    from dashboard.data.reader import LakeSnapshot

LATE_S: Final = 60.0
"""From when on evidence is called late although the gate still takes it: a judge looks every few seconds."""


@dataclass(frozen=True, slots=True)
class EvidenceFreshness:
    """How old the evidence behind every verdict is."""

    state: Literal["fresh", "late", "stale", "none"]  # stale: no verdict opens the gate
    through: datetime | None  # up to when events are known that were judged
    age_s: float | None
    limit_s: float


def freshness(snapshot: LakeSnapshot | None, now: datetime, limit_s: float) -> EvidenceFreshness:
    """How old the evidence is: the older of the judge's last look, and of what it knew then."""
    if snapshot is None or snapshot.heartbeat is None:
        return EvidenceFreshness("none", None, None, limit_s)
    beat = snapshot.heartbeat
    age_s = evidence_age_s(beat.judged_at, beat.watermark, now)
    state: Literal["fresh", "late", "stale"] = (
        "stale" if age_s > limit_s else "late" if age_s > min(LATE_S, limit_s) else "fresh"
    )
    return EvidenceFreshness(state, min(beat.judged_at, beat.watermark), age_s, limit_s)
