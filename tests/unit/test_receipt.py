from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from fakes import KEY, a_receipt

from producers.wire.receipt import Cell, Receipt, ReceiptError, epoch_of
from producers.wire.stage import Stage

# Written out by hand so that a router in another language can be held to the same bytes.
UNSIGNED = (
    "sk1.WyJkZWNpc2lvbi0xIiwiMjAyNi0wMy0xNFQxMjowMDowMFoiLCJwcm9kdWN0aW9uIiwicmVmdW5kcyIsImlzc3VlX3JlZnVuZCIs"
    "Im5hcnJvd19hdXRvbm9teSIsImFsbCIsImVwb2NoLTEiXQ"
)


def _token_of(values: object) -> str:
    return "sk1." + base64.urlsafe_b64encode(json.dumps(values).encode()).rstrip(b"=").decode()


def test_the_token_is_the_published_one() -> None:
    assert a_receipt().token() == UNSIGNED
    assert Receipt.from_token(UNSIGNED) == a_receipt()


def test_a_signed_token_comes_back_with_its_key() -> None:
    token = a_receipt().token(KEY)
    assert token.startswith(f"{UNSIGNED}.")
    assert Receipt.from_token(token, KEY) == a_receipt()
    assert Receipt.from_token(token) == a_receipt()  # without a key nobody can tell, and nobody is asked


def test_microseconds_and_letters_of_any_script_survive() -> None:
    receipt = a_receipt(
        decided_at=datetime(2026, 3, 14, 13, 59, 59, 999_999, tzinfo=timezone(timedelta(hours=2))),
        tool="erstatten/払い戻し",
        cohort="größe-m",
    )
    again = Receipt.from_token(receipt.token(KEY), KEY)
    assert again == receipt
    assert again.decided_at == datetime(2026, 3, 14, 11, 59, 59, 999_999, tzinfo=UTC)


@pytest.mark.parametrize(
    ("token", "fault"),
    [
        (UNSIGNED, "unsigned_receipt"),
        (a_receipt().token(b"a forger's key"), "forged_receipt"),
        (a_receipt(stage=Stage.SEARCH_ONLY).token() + "." + a_receipt().token(KEY).split(".")[2], "forged_receipt"),
        (f"{UNSIGNED}.", "malformed_receipt"),
        (f"{UNSIGNED}.a", "malformed_receipt"),
        ("", "malformed_receipt"),
        ("sk1", "malformed_receipt"),
        ("sk2." + UNSIGNED[4:], "malformed_receipt"),
        (f"{UNSIGNED}.a.b", "malformed_receipt"),
    ],
)
def test_a_configured_key_refuses_by_name(token: str, fault: str) -> None:
    with pytest.raises(ReceiptError) as refused:
        Receipt.from_token(token, KEY)
    assert refused.value.fault == fault


@pytest.mark.parametrize(
    "token",
    [
        "sk1.???",
        "sk1.bm90IGpzb24",  # "not json"
        _token_of({"decision_id": "d"}),
        _token_of(["too", "few"]),
        _token_of(["d", "2026-03-14T12:00:00", "production", "w", "t", "draft_write", "all", "e"]),  # no time zone
        _token_of(["d", "2026-03-14T12:00:00Z", "production", "w", "t", "no_such_stage", "all", "e"]),
        _token_of(["d", "2026-03-14T12:00:00Z", "production", "w", "", "draft_write", "all", "e"]),
        _token_of(["d", "2026-03-14T12:00:00Z", "production", "w", "t", "draft_write", "all", "e", "more"]),
    ],
)
def test_unusable_tokens_are_malformed_with_or_without_a_key(token: str) -> None:
    with pytest.raises(ReceiptError) as refused:
        Receipt.from_token(token)
    assert refused.value.fault == "malformed_receipt"


def test_the_cell_and_its_key() -> None:
    cell = a_receipt(cohort="eu").cell
    assert cell == Cell("production", "refunds", "issue_refund", "narrow_autonomy", "eu")
    assert json.loads(cell.key) == list(cell)


def test_an_epoch_is_the_same_on_every_machine() -> None:
    assert epoch_of(Stage.DRAFT_WRITE, model="m-1") == epoch_of(Stage.DRAFT_WRITE, model="m-1")
    # sha256 of ["draft_write","m-1",null,null,[]] in UTF-8
    assert epoch_of(Stage.DRAFT_WRITE, model="m-1") == "fc59eaf94b83"
