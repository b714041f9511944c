"""Check of the flag providers that recent decisions rest on: how soon each sees a change, and whether it decides."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import polars as pl

from analytics.lake.table_schemas import EVENTS
from producers.boundary.policy_flags import FLAGS
from producers.wire.events import ActionDecided, EventError, event_from_bytes, type_of
from stagekeeper.doctor.check_result import passed, warned

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from analytics.lake.tables import Lake
    from stagekeeper.doctor.check_result import CheckResult

FLAG_PROVIDERS: Final = "flags"

_RECENT: Final = timedelta(hours=24)
_KEYS: Final = frozenset(flag.key for flag in FLAGS)
_MOST: Final = 200  # decisions that are looked at, the newest
_REFRESH: Final = {
    "flagd": "a flag file, in force within 1 s, or else the safe values are",
    "FlagdProvider": "streams changes; the safe values apply once it says that its connection is lost",
    "featbit-openfeature-server": "streams changes; the safe values apply once it says that its stream is lost",
    "Unleash Provider": "polls each 15 s, or each `unleash_refresh_interval`: so old its values may be",
}
_OTHER: Final = "has a refresh time of its own, which its documentation says; its values are reused for 1 s"


def check_flag_providers(lake: Lake | None, now: datetime) -> CheckResult:
    """How old the rules of each provider may be, and whether recent decisions rest on safe values in their place."""
    decisions = [] if lake is None else list(_recent(lake, now))
    flags = [[flag for flag in event.data.decision.flags if flag.key in _KEYS] for event in decisions]
    providers = Counter(evaluated[0].provider or "unnamed" for evaluated in flags if evaluated)
    if not providers:
        return passed(FLAG_PROVIDERS, "no decision of the last day rests on a flag")
    evidence = "; ".join(f"{name} {_REFRESH.get(name, _OTHER)}" for name, _ in providers.most_common())
    errors = [next(flag for flag in evaluated if flag.error) for evaluated in flags if any(f.error for f in evaluated)]
    if not errors:
        return passed(FLAG_PROVIDERS, evidence)
    worst = errors[0]
    evidence = (
        f"{len(errors):,} of the newest {sum(providers.values()):,} decisions rest on a safe value, the latest for "
        f"{worst.key} ({worst.error}); {evidence}"
    )
    return warned(FLAG_PROVIDERS, evidence, "Mend the flag that is named, or the provider; docs/boundary.md, `Flags`.")


def _recent(lake: Lake, now: datetime) -> Iterable[ActionDecided]:
    decided = lake.scan(EVENTS).filter(pl.col("type") == type_of(ActionDecided), pl.col("time") > now - _RECENT)
    rows = decided.select("time", "value").sort("time", descending=True).head(_MOST).collect()
    for value in rows["value"]:
        try:
            event = event_from_bytes(value)
        except EventError:
            continue  # of another writer or version; it counts, and tells nothing of flags that this one knows
        if isinstance(event, ActionDecided):
            yield event
