"""Tokens of every form are opened or refused, the same in any company, and again when they are remembered."""

from __future__ import annotations

import pytest
from fakes import KEY, a_receipt
from hypothesis import given, settings
from hypothesis import strategies as st

from producers.wire.receipt import Receipt, ReceiptError, write_token
from streams.ingest import receipt_cache
from streams.ingest.receipt_cache import NO_RECEIPT, ReceiptCache

GOOD = a_receipt().token(KEY)
UNSIGNED = a_receipt().token()
OTHERS_SIGNATURE = UNSIGNED + "." + a_receipt(decision_id="another").token(KEY).rpartition(".")[2]
SHORT_SIGNATURE = GOOD[:-1]
MALFORMED = [
    *(UNSIGNED + ".", UNSIGNED + "..", GOOD + ".", GOOD + ".x", GOOD[:-1] + "!", GOOD[:-2], UNSIGNED[:-1]),
    *(UNSIGNED[:-2], UNSIGNED[:-3], UNSIGNED + "A", UNSIGNED + "=", UNSIGNED + "==", UNSIGNED + "é"),
    *("sk2" + GOOD[3:], "sk1." + UNSIGNED, "sk1.." + GOOD[4:], "SK1." + GOOD[4:], "sk1.e30", "sk1.W10", "sk1.----"),
    *(UNSIGNED.replace("sk1.", "sk1.+", 1), UNSIGNED + "\n", "sk1.\n." + GOOD[4:], GOOD.replace(".", "\n", 2), "sk1._"),
    *("sk1.", "sk1", "", ".", "..", "sk1.\ud800", GOOD.replace("sk1.", "sk1.=")),
]
WITHOUT_A_KEY = {GOOD, UNSIGNED, OTHERS_SIGNATURE, SHORT_SIGNATURE}
WITH_A_KEY = {UNSIGNED: "unsigned_receipt", OTHERS_SIGNATURE: "forged_receipt", SHORT_SIGNATURE: "forged_receipt"}
TOKENS = [*WITHOUT_A_KEY, *MALFORMED]

NAMES = '"production","refunds","issue_refund","narrow_autonomy","all","e1"]'
AT = "2026-03-14T12:00:00.000001Z"


@pytest.mark.parametrize("key", [KEY, None])
@pytest.mark.parametrize("token", TOKENS)
def test_a_token_opens_or_says_why_not(token: str, key: bytes | None) -> None:
    faults: dict[int, receipt_cache.Fault] = {}
    (opened,) = ReceiptCache(key).open_all([token], faults)
    if token in ({GOOD} if key else WITHOUT_A_KEY):
        assert not faults
        assert opened[0] == a_receipt().decision_id
    else:
        assert opened == NO_RECEIPT
        (fault,) = faults.values()
        assert fault.reason == WITH_A_KEY.get(token, fault.reason)
        assert fault.reason == "malformed_receipt" or key, "without a key nobody looks at signatures"


@settings(deadline=None)
@given(st.lists(st.sampled_from([*TOKENS, None]), min_size=1, max_size=4), st.sampled_from([KEY, None]))
def test_company_and_memory_change_nothing(tokens: list[str | None], key: bytes | None) -> None:
    alone: dict[int, receipt_cache.Fault] = {}
    for place, token in enumerate(tokens):
        refused: dict[int, receipt_cache.Fault] = {}
        ReceiptCache(key).open_all([token], refused)
        if refused:
            alone[place] = refused[0]
    cache = ReceiptCache(key)
    for _ in range(3):
        together: dict[int, receipt_cache.Fault] = {}
        opened = cache.open_all(tokens, together)
        assert together == alone
        assert [place for place, each in enumerate(opened) if each == NO_RECEIPT] == [
            place for place, token in enumerate(tokens) if token is None or place in alone
        ]
        cache.begin_batch()


@pytest.mark.parametrize("key", [KEY, None])
@pytest.mark.parametrize("token", TOKENS)
def test_the_wire_and_the_stream_open_the_same_tokens(token: str, key: bytes | None) -> None:
    faults: dict[int, receipt_cache.Fault] = {}
    ReceiptCache(key).open_all([token], faults)
    if faults:
        with pytest.raises(ReceiptError) as refused:
            Receipt.from_token(token, key)
        assert faults[0].reason == refused.value.fault
    else:
        assert Receipt.from_token(token, key) == a_receipt()


@pytest.mark.parametrize(
    "names",
    [
        NAMES.replace("]", ',"more"]'),
        NAMES.replace("narrow_autonomy", "no_stage"),
        NAMES.replace("production", ""),
        NAMES.replace("production", r"\u0007"),
        NAMES.replace("production", "a\x7f"),
        NAMES[:-1],
        "17]",
        "",
    ],
)
def test_names_that_are_none_do_not_open_behind_any_id(names: str) -> None:
    cache = ReceiptCache(None)
    good, bad = ([write_token(f'["{n}","{AT}",{tail}'.encode(), None) for n in "ab"] for tail in (NAMES, names))
    faults: dict[int, receipt_cache.Fault] = {}
    opened = cache.open_all([good[0], bad[0], good[1], bad[1]], faults)
    assert [each[0] for each in opened] == ["a", "", "b", ""]
    assert {place: fault.reason for place, fault in faults.items()} == dict.fromkeys((1, 3), "malformed_receipt")
    assert opened[0][2] == opened[2][2]


def test_what_is_kept_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipt_cache, "KEPT", 2)
    monkeypatch.setattr(receipt_cache, "CELLS_KEPT", 5)
    cache = ReceiptCache(None)
    for number in range(20):
        cache.begin_batch()
        token = write_token(f'["{number}","{AT}",{NAMES.replace("e1", f"e{number}")}'.encode(), None)
        (opened,) = cache.open_all([token], {})
        assert opened[0] == str(number)
        assert cache.cells[opened[2]].epoch == f"e{number}"
        assert cache.actions[opened[2]] == ("issue_refund", "refunds", "production")
        assert len(cache.cells) <= 6
