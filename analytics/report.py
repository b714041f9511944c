"""The one document that commands and the page show: signals, verdicts and rejects, ready for JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypedDict

import numpy as np
import polars as pl

from analytics.counted import DEFAULT_OUTCOME_DEADLINE_S, Counted
from analytics.lake.schemas import REJECTS, SIGNALS
from analytics.verdicts.explain import iso
from analytics.verdicts.ledger import latest_verdicts

if TYPE_CHECKING:
    from analytics.lake.tables import Lake

LATEST_REJECTS: Final = 20


class Report(TypedDict):
    """The document; the shape of its parts is described in docs/gates.md."""

    signals: list[dict[str, Any]]
    verdicts: list[dict[str, Any]]
    rejects: dict[str, Any]


def build_report(lake: Lake | None, *, outcome_deadline_s: float = DEFAULT_OUTCOME_DEADLINE_S) -> Report:
    """Put everything that is known about every cell into one document.

    Args:
        lake: The lake; None where there is none yet, which gives the same document with nothing in it.
        outcome_deadline_s: Seconds after which an execution that did not come counts as missing.

    Returns:
        `signals`, `verdicts` and `rejects`, of JSON types alone.
    """
    if lake is None:
        return {"signals": [], "verdicts": [], "rejects": {"total": 0, "by_reason": {}, "latest": []}}
    counted = Counted(outcome_deadline_s)
    for _ in counted.read(lake, lake.version(SIGNALS)):
        pass
    return {
        "signals": counted.rows(np.arange(len(counted.columns.cells))),
        "verdicts": latest_verdicts(lake),
        "rejects": rejected(lake),
    }


def rejected(lake: Lake) -> dict[str, Any]:
    """How many records were rejected, for what, and the latest of them, of JSON types alone."""
    rejects = lake.scan(REJECTS)
    by_reason = rejects.group_by("reason").agg(pl.len().alias("n")).sort("n", "reason", descending=[True, False])
    counted = dict(by_reason.collect().iter_rows())
    latest = rejects.sort("rejected_at", "topic", "partition", "offset", descending=True).head(LATEST_REJECTS)
    return {
        "total": sum(counted.values()),
        "by_reason": counted,
        "latest": [
            {
                "topic": row["topic"],
                "partition": row["partition"],
                "offset": row["offset"],
                "reason": row["reason"],
                "detail": row["detail"],
                "size": row["size"],
                # Bytes that were refused can be anything; what is not text is shown as its escape.
                "first_bytes": row["first_bytes"].decode("utf-8", "backslashreplace"),
                "rejected_at": iso(row["rejected_at"]),
            }
            for row in latest.collect().iter_rows(named=True)
        ],
    }
