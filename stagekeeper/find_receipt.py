"""Look-up of a decision's receipt by its id: on this machine first, then in the lake."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from producers.boundary.approvals import UnknownReviewError
from producers.delivery.outbox import Outbox
from producers.errors import UsageError
from producers.wire.events import ActionDecided, event_from_bytes
from producers.wire.receipt import Receipt
from stagekeeper.factory import open_review_store

if TYPE_CHECKING:
    from stagekeeper.settings import Settings


class UnknownDecisionError(UsageError):
    """No decision with this id is known where we looked."""


def find_receipt(decision_id: str, settings: Settings) -> Receipt:
    """Look up the receipt of a decision: at this machine's review store and outbox, then in the lake.

    Raises `UnknownDecisionError`, and `ReceiptError` where its signature does not match the configured key.
    """
    token = _queued(decision_id, settings) or _waiting(decision_id, settings) or _in_lake(decision_id, settings)
    if token is None:
        raise UnknownDecisionError(
            f"no decision {decision_id} is known at the review store {settings.review_store}, in the outbox "
            f"{settings.outbox} or in the lake {settings.lake}. A decision of the last seconds may still "
            "be on its way; whoever has the receipt can report with --receipt."
        )
    return Receipt.from_token(token, settings.signing_key)


def _queued(decision_id: str, settings: Settings) -> str | None:
    if settings.review_database is None and not settings.review_store.is_file():
        return None
    with open_review_store(settings) as store, suppress(UnknownReviewError):
        return store.get(decision_id).queued.receipt
    return None


def _waiting(decision_id: str, settings: Settings) -> str | None:
    if not settings.outbox.is_file():
        return None
    with Outbox(settings.outbox) as outbox:
        values = [record.value for record in outbox.of_key(decision_id.encode())]
    return _token_in(values, decision_id)


def find_receipts_of_trace(trace_id: str, settings: Settings) -> list[Receipt]:
    """The receipts of all decisions in the lake that were made within a trace (W3C), which 32 digits name."""
    marks = b'"traceparent":"00-' + trace_id.encode()
    tokens = (_token_in([value]) for value in _decisions_in_lake(settings, containing=marks))
    return [Receipt.from_token(token, settings.signing_key) for token in tokens if token is not None]


def _in_lake(decision_id: str, settings: Settings) -> str | None:
    return _token_in(_decisions_in_lake(settings, decision_id=decision_id), decision_id)


def _decisions_in_lake(
    settings: Settings, *, decision_id: str | None = None, containing: bytes | None = None
) -> list[bytes]:
    try:
        import polars as pl  # noqa: PLC0415 - an extra: without it there is no lake to look into

        from analytics.lake.tables import Lake  # noqa: PLC0415 - as above
    except ModuleNotFoundError:
        return []
    lake = Lake.existing(settings.lake)
    if lake is None:
        return []
    wanted = pl.col("type") == "stagekeeper.action.decided.v1"
    if decision_id is not None:
        wanted &= pl.col("subject") == decision_id
    if containing is not None:
        wanted &= pl.col("value").bin.contains(containing)
    rows = lake.scan("events").filter(wanted).select("value").head(100).collect()
    return list(rows["value"])


def _token_in(values: list[bytes], decision_id: str | None = None) -> str | None:
    for value in values:
        event = event_from_bytes(value)
        if isinstance(event, ActionDecided) and decision_id in {None, event.subject}:
            return event.data.receipt
    return None
