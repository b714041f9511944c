"""Look-up of a decision's receipt by its id: on this machine first, then in the lake."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from producers.boundary.approvals import UnknownReviewError
from producers.boundary.review_store import ReviewStore
from producers.delivery.outbox import Outbox
from producers.errors import UsageError
from producers.wire.events import ActionDecided, event_from_bytes
from producers.wire.receipt import Receipt

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
    if not settings.review_store.is_file():
        return None
    with ReviewStore(settings.review_store, key=settings.signing_key) as store, suppress(UnknownReviewError):
        return store.get(decision_id).queued.receipt
    return None


def _waiting(decision_id: str, settings: Settings) -> str | None:
    if not settings.outbox.is_file():
        return None
    with Outbox(settings.outbox) as outbox:
        values = [record.value for record in outbox.of_key(decision_id.encode())]
    return _token_in(values, decision_id)


def _in_lake(decision_id: str, settings: Settings) -> str | None:
    try:
        import polars as pl  # noqa: PLC0415 - an extra: without it there is no lake to look into

        from analytics.lake.tables import Lake  # noqa: PLC0415 - as above
    except ModuleNotFoundError:
        return None
    lake = Lake.existing(settings.lake)
    if lake is None:
        return None
    decided = (pl.col("subject") == decision_id) & (pl.col("type") == "stagekeeper.action.decided.v1")
    rows = lake.scan("events").filter(decided).select("value").head(1).collect()
    return _token_in(rows["value"].to_list(), decision_id)


def _token_in(values: list[bytes], decision_id: str) -> str | None:
    for value in values:
        event = event_from_bytes(value)
        if isinstance(event, ActionDecided) and event.subject == decision_id:
            return event.data.receipt
    return None
