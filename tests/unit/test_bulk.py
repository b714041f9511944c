"""Tokens of every form are opened at once as they are one by one."""

from __future__ import annotations

import itertools
import json

import pytest
from fakes import KEY, a_receipt, an_executed
from hypothesis import given, settings
from hypothesis import strategies as st
from one_by_one import hold_to_one_by_one

from producers.wire.events import to_bytes
from producers.wire.receipt import sealed
from streams.ingest.receipt_cache import ReceiptOpener


def with_token(token: str) -> bytes:
    document = json.loads(to_bytes(an_executed(key=KEY)))
    document["data"]["receipt"] = token
    return json.dumps(document).encode()


GOOD = a_receipt().token(KEY)
UNSIGNED = a_receipt().token()
TOKENS = [
    *(GOOD, UNSIGNED, UNSIGNED + ".", UNSIGNED + "..", GOOD + ".", GOOD + ".x", GOOD[:-1], GOOD[:-1] + "!", GOOD[:-2]),
    *(UNSIGNED[:-1], UNSIGNED[:-2], UNSIGNED[:-3], UNSIGNED + "A", UNSIGNED + "=", UNSIGNED + "==", UNSIGNED + "é"),
    *("sk2" + GOOD[3:], "sk1." + UNSIGNED, "sk1.." + GOOD[4:], "SK1." + GOOD[4:], "sk1.e30", "sk1.W10", "sk1.----"),
    *(UNSIGNED.replace("sk1.", "sk1.+", 1), UNSIGNED + "\n", "sk1.\n." + GOOD[4:], GOOD.replace(".", "\n", 2), "sk1._"),
    UNSIGNED + "." + a_receipt(decision_id="another").token(KEY).rpartition(".")[2],
]


@settings(deadline=None)
@given(st.lists(st.sampled_from(TOKENS), min_size=1, max_size=4), st.sampled_from([KEY, None]))
def test_many_tokens_are_opened_as_one_by_one(tokens: list[str], key: bytes | None) -> None:
    hold_to_one_by_one([with_token(token) for token in tokens], key, None)


@pytest.mark.parametrize("key", [KEY, None])
def test_every_token_alone_is_opened_as_one_by_one(key: bytes | None) -> None:
    for token in TOKENS:
        hold_to_one_by_one([with_token(token), with_token(GOOD)], key, None)


IDS = [
    "0b5c1a52-7f0e-4c1d-9f3a-2f5d6e7a8b9c",
    "another id, 36 letters of any kind...",
    "a" * 35 + '"',
    "a" * 34 + r"\"",
    "a" * 34 + r"\n",
    "a" * 35 + "\x7f",
    "a" * 35 + "\x1f",
    "a" * 34 + "é",
    "short",
]
STARTS = [
    "2026-03-14T12:00:00.000001Z",
    "2026-02-30T12:00:00.000001Z",
    "2026-03-14T12:00:00Z",
    "2026-03-14T12:00:00+00:00",
]
NAMES_AFTER = [
    '"Production","refunds","issue_refund","narrow_autonomy","all","e1"]',
    '"production","refunds","issue_refund","narrow_autonomy","all","e1"]',
    '"production","refunds","issue_refund","narrow_autonomy","all","e1" ]',
    ' "production","refunds","issue_refund","narrow_autonomy","all","e1"]',
    '"production","refunds","issue_refund","narrow_autonomy","all"]',
    '"production","refunds","issue_refund","narrow_autonomy","all","e1","more"]',
    '"production","refunds","issue_refund","no_stage","all","e1"]',
    '"","refunds","issue_refund","narrow_autonomy","all","e1"]',
    r'"\u0007","refunds","issue_refund","narrow_autonomy","all","e1"]',
    '"é","refunds","issue_refund","narrow_autonomy","all","e1"]',
    '"production","refunds","issue_refund","narrow_autonomy","all","e1',
    "17]",
    "",
]


@pytest.mark.parametrize("key", [KEY, None])
@pytest.mark.parametrize("signed", [KEY, None])
def test_receipts_that_begin_as_our_own_do_are_opened_as_one_by_one(key: bytes | None, signed: bytes | None) -> None:
    values: list[bytes | None] = []
    frames = [("[", ","), ("[", ", "), ("[", ":"), ("{", ",")]
    for names, moment, decision_id, (bracket, separator) in itertools.product(NAMES_AFTER, STARTS, IDS, frames):
        document = json.loads(with_token(sealed(f'{bracket}"{decision_id}"{separator}"{moment}",{names}', signed)))
        document["subject"] = decision_id
        values.append(json.dumps(document).encode())
    hold_to_one_by_one(values, key, None)
    hold_to_one_by_one(values[::-1], key, None)


def test_names_that_could_not_be_read_once_are_not_read_behind_another_id() -> None:
    opener = ReceiptOpener(None)
    (good, bad), (other, worse) = (
        [sealed(f'["{decision_id}","{STARTS[0]}",{names}', None) for names in (NAMES_AFTER[0], NAMES_AFTER[6])]
        for decision_id in (IDS[0], IDS[0][::-1])
    )
    opened = opener.open_all([good, bad, good]) + opener.open_all([worse, other])
    assert [each and each[0] for each in opened] == [IDS[0], None, IDS[0], None, IDS[0][::-1]]
    assert opened[0] is not None
    assert opened[4] is not None
    assert opened[0][2] == opened[4][2]
