"""Tokens of every form are opened at once as they are one by one."""

from __future__ import annotations

import json

import pytest
from fakes import KEY, a_receipt, an_executed
from hypothesis import given, settings
from hypothesis import strategies as st
from one_by_one import hold_to_one_by_one

from producers.wire.codec import to_bytes


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
