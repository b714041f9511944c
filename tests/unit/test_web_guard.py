from __future__ import annotations

import pytest

from producers.web_guard import may_ask

NAMES = ("worker.example",)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:9101",
        "localhost:9101",
        "LOCALHOST",
        "[::1]:9101",
        "10.0.0.7:9101",
        "worker.example:9101",
    ],
)
def test_an_address_localhost_and_a_name_of_ours_may_ask(host: str) -> None:
    assert may_ask(host, None, NAMES)
    assert may_ask(host, f"http://{host}", NAMES)
    assert not may_ask(host, "http://evil.example", NAMES), "another site's page"
    assert not may_ask(host, "null", NAMES), "a page of no site"


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "evil.example:9101",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "evil.example:9101@127.0.0.1",
        "127.0.0.1/evil.example",
        "127.0.0.1#evil.example",
        "127.0.0.1:no",
        "[::1",
        "notworker.example",
        "worker.example.evil",
    ],
)
def test_no_other_name_may(host: str | None) -> None:
    assert not may_ask(host, None, NAMES)
