from __future__ import annotations

import sqlite3
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from fakes import a_contract, a_decision
from lakes_of_events import NOON, EventLake

from analytics.audit.search import DecisionQuery, UnusableSearchError, search
from analytics.audit.search_index import SearchIndex, SearchIndexError, index_path, term
from analytics.lake.table_schemas import EVENTS
from analytics.moments import UnusableMomentError
from producers.wire.decision import Allow, Authorization, Deny
from producers.wire.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from producers.wire.decision import Outcome

INTENTS = ("the customer was charged twice", "Refund a PARCEL that was lost", "über-zahlung zurück")


def act(
    lake: EventLake,
    minute: float,
    *,
    user: str | None = None,
    tool: str = "issue_refund",
    intent: str = "-",
    result: Outcome | None = None,
    rule: str = "refunds-small",
    stage: Stage = Stage.DRAFT_WRITE,
) -> str:
    contract = a_contract(tool=tool)
    actor = contract.actor.model_copy(update={"user": user})
    decision = a_decision(result or Allow()).model_copy(
        update={"authorization": Authorization(permitted=True, rule=rule)}
    )
    receipt = lake.recorder.decided(
        contract.model_copy(update={"actor": actor, "intent": intent}),
        decision,
        stage=stage,
        decided_at=NOON + timedelta(minutes=minute),
    )
    return receipt.decision_id


@pytest.fixture
def lake(tmp_path: Path) -> EventLake:
    return EventLake.at(tmp_path)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[SearchIndex]:
    opened = SearchIndex(index_path(str(tmp_path / "lake"), tmp_path))
    yield opened
    opened.close()


def found(lake: EventLake, index: SearchIndex, **query: Any) -> list[str]:
    version = index.follow(lake.lake)
    page = search(index, DecisionQuery(**query), events_version=version)
    return [hit.decision_id for hit in page.hits]


def test_every_field_finds_what_it_names_and_nothing_else(lake: EventLake, index: SearchIndex) -> None:
    first = act(lake, 0, user="u-1", intent=INTENTS[0], rule="small")
    second = act(lake, 1, user="u-2", intent=INTENTS[1], tool="send_reply", stage=Stage.SEARCH_ONLY)
    third = act(lake, 2, user="u-2", intent=INTENTS[2], result=Deny(reason="on_denylist"))
    lake.store()
    assert found(lake, index) == [third, second, first]
    for query, expected in (
        ({"user": "u-2"}, [third, second]),
        ({"actor": "u-1"}, [first]),
        ({"actor": "support-agent"}, [third, second, first]),
        ({"account": "acct-9"}, [third, second, first]),
        ({"account": "acct"}, []),
        ({"tool": "send_reply"}, [second]),
        ({"target": "invoice-4711", "user": "u-1"}, [first]),
        ({"target": "billing", "tool": "send_reply"}, [second]),
        ({"outcome": "deny"}, [third]),
        ({"reason": "on_denylist"}, [third]),
        ({"rule": "small"}, [first]),
        ({"stage": "search_only"}, [second]),
        ({"text": "refund parcel"}, [second]),
        ({"text": "charg*"}, [first]),
        ({"text": "ZAHLUNG zuruck"}, [third]),
        ({"text": "refund twice"}, []),
        ({"text": "refund", "user": "u-1"}, []),
        ({"since": NOON + timedelta(minutes=1)}, [third, second]),
        ({"until": NOON + timedelta(minutes=1)}, [first]),
        ({"since": NOON + timedelta(minutes=1), "until": NOON + timedelta(minutes=2), "user": "u-2"}, [second]),
    ):
        assert found(lake, index, **query) == expected, query


def test_a_hit_says_what_was_decided(lake: EventLake, index: SearchIndex) -> None:
    decision_id = act(lake, 0, user="u-1", intent=INTENTS[0])
    lake.store()
    hit = search(index, DecisionQuery(), events_version=index.follow(lake.lake)).hits[0]
    assert (hit.decision_id, hit.decided_at, hit.intent, hit.user) == (decision_id, NOON, INTENTS[0], "u-1")
    assert (hit.outcome, hit.reason, hit.rule, hit.stage) == ("allow", "policy_allows", "refunds-small", "draft_write")


def test_decisions_of_one_microsecond_are_all_found(lake: EventLake, index: SearchIndex) -> None:
    first = {act(lake, 0) for _ in range(3)}
    lake.store()
    assert set(found(lake, index)) == first
    late = {act(lake, 0) for _ in range(3)}
    lake.store()
    assert set(found(lake, index)) == first | late


def test_pages_follow_one_another_without_a_gap(lake: EventLake, index: SearchIndex) -> None:
    expected = [act(lake, minute) for minute in range(7)][::-1]
    lake.store()
    version, before, pages = index.follow(lake.lake), None, []
    while True:
        page = search(index, DecisionQuery(tool="issue_refund"), events_version=version, limit=3, before=before)
        pages.append([hit.decision_id for hit in page.hits])
        if (before := page.before) is None:
            break
    assert pages == [expected[:3], expected[3:6], expected[6:]]


def test_it_follows_the_lake_and_reads_nothing_twice(lake: EventLake, index: SearchIndex) -> None:
    first = act(lake, 5)
    lake.store()
    assert found(lake, index) == [first]
    late = act(lake, 0)  # what is decided earlier and comes later is in its place
    lake.store()
    assert found(lake, index) == [first, late]
    assert found(lake, index) == [first, late]


def test_what_retention_took_is_found_no_more(
    lake: EventLake, index: SearchIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, kept = act(lake, 0), act(lake, 60)
    lake.store()
    assert found(lake, index) == [kept, gone]
    whole = lake.lake.scan(EVENTS)
    monkeypatch.setattr(lake.lake, "taken", lambda _table: 1)
    monkeypatch.setattr(lake.lake, "scan", lambda _table, **_: whole.filter(pl.col("subject") == kept))
    assert found(lake, index) == [kept]


def test_a_build_that_was_killed_begins_anew(
    lake: EventLake, index: SearchIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analytics.audit.search_index._CHUNK", 2)
    expected = [act(lake, minute) for minute in range(5)][::-1]
    lake.store()

    def die(done: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index.follow(lake.lake, die)
    told: list[int] = []
    index.follow(lake.lake, told.append)
    assert told == [2, 4, 5]
    assert found(lake, index) == expected


def test_a_damaged_index_is_named_and_can_be_deleted(lake: EventLake, index: SearchIndex, tmp_path: Path) -> None:
    act(lake, 0)
    lake.store()
    index.follow(lake.lake)
    index.connection.execute("DROP TABLE decisions")
    with pytest.raises(SearchIndexError, match=r"lake\.search\.sqlite.*delete it"):
        found(lake, index)
    other = tmp_path / "no.sqlite"
    other.write_bytes(b"this is no database at all" * 100)
    with pytest.raises(SearchIndexError, match=r"no\.sqlite"):
        SearchIndex(other)


def test_nobody_else_can_read_the_file(index: SearchIndex) -> None:
    assert index.path.stat().st_mode & 0o077 == 0
    assert sqlite3.connect(index.path).execute("SELECT count(*) FROM decisions").fetchone() == (0,)


@pytest.mark.parametrize("query", [{"text": "***"}, {"since": NOON.replace(tzinfo=None)}])
def test_an_unusable_search_is_named(lake: EventLake, index: SearchIndex, query: dict[str, Any]) -> None:
    with pytest.raises((UnusableSearchError, UnusableMomentError)):
        found(lake, index, **query)


def test_the_words_of_the_index_language_are_words_of_the_intent(lake: EventLake, index: SearchIndex) -> None:
    decision_id = act(lake, 0, intent='AND "near" (or) not: issue_refund')
    lake.store()
    assert found(lake, index, text='and NEAR "or" NOT issue_refund') == [decision_id]


def test_no_intent_passes_for_the_value_of_a_field(lake: EventLake, index: SearchIndex) -> None:
    word = term("agent", "innocent-bot")
    act(lake, 0, intent=f"refund {word} x{word[1:]} {word.upper()}")
    lake.store()
    assert found(lake, index, actor="innocent-bot") == []
    assert found(lake, index, text=word) == found(lake, index, text="refund") != []
    assert found(lake, index, text=term("account", "acct-9")) == []
