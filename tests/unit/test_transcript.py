from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from fakes import FakeClock, FakeEmitter
from shared_recordings import CALLS, EXAMPLES, FILE, needs_recorded_calls

from producers.importers.catalog import Catalog, UnknownToolsError
from producers.importers.importer import TranscriptImporter
from producers.importers.transcript import TranscriptError, read_transcript
from producers.wire import events
from producers.wire.decision import Provenance
from producers.wire.receipt import Receipt

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from producers.importers.transcript import Transcript

    Write = Callable[[object], Path]


def _call(tool: str, call_id: str | None = None, arguments: str = "{}") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": tool, "arguments": arguments}}


def _asks(*calls: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(calls)}


def _answer(content: object, call_id: str | None = None, tool: str | None = None) -> dict[str, Any]:
    return {"role": "tool", "content": content, "tool_call_id": call_id, "name": tool}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(value: object) -> Path:
        path = tmp_path / "transcript.json"
        path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
        return path

    return written


@pytest.fixture
def bookshop() -> Catalog:
    return Catalog.load(EXAMPLES / "catalog.yaml")


def _import(
    transcript: Transcript,
    catalog: Catalog,
    *,
    reward_field: str | None = None,
    skip_unknown: bool = False,
    known: frozenset[str] = frozenset(),
) -> tuple[TranscriptImporter, list[events.Event]]:
    emitter = FakeEmitter()
    importer = TranscriptImporter(
        transcript,
        catalog,
        emitter,
        reward_field=reward_field,
        skip_unknown=skip_unknown,
        key=None,
        now=FakeClock(),
        known=known,
    )
    for conversation in transcript.conversations:
        importer.add(conversation)
    return importer, emitter.events


def test_results_find_their_calls_by_id_in_any_order(write: Write) -> None:
    messages = [
        _asks(_call("a", "1"), _call("b", "2")),
        _answer("for b", "2"),
        _answer("Error: for a", "1"),
    ]
    (conversation,) = read_transcript(write([{"messages": messages}])).conversations
    assert [(call.tool, call.result, call.failed) for call in conversation.calls] == [
        ("a", "Error: for a", True),
        ("b", "for b", False),
    ]


def test_results_without_ids_go_by_name_and_then_by_order(write: Write) -> None:
    messages = [_asks(_call("a"), _call("b"), _call("a")), _answer("b1", tool="b"), _answer("a1"), _answer("a2")]
    (conversation,) = read_transcript(write([messages])).conversations
    assert [call.result for call in conversation.calls] == ["a1", "b1", "a2"]


def test_an_id_that_repeats_in_one_conversation_answers_in_order(write: Write) -> None:
    messages = [_asks(_call("a", "1")), _answer("first", "1"), _asks(_call("a", "1")), _answer("second", "1")]
    (conversation,) = read_transcript(write([messages])).conversations
    assert [call.result for call in conversation.calls] == ["first", "second"]


def test_an_answer_to_nothing_is_counted_and_a_call_without_one_stays_open(write: Write) -> None:
    messages = [_asks(_call("a", "1")), _answer("stray", "9")]
    (conversation,) = read_transcript(write([messages])).conversations
    assert conversation.left_out == {"results that answer no call": 1}
    assert conversation.calls[0].result is None
    assert not conversation.calls[0].failed


def test_content_in_parts_is_read_as_text(write: Write) -> None:
    parts = [{"type": "text", "text": "Err"}, {"type": "text", "text": "or: full"}]
    (conversation,) = read_transcript(write([[_asks(_call("a", "1")), _answer(parts, "1")]])).conversations
    assert conversation.calls[0].failed


def test_a_result_that_merely_speaks_of_errors_did_not_fail(write: Write) -> None:
    messages = [_asks(_call("a", "1"), _call("a", "2")), _answer("no Error here", "1"), _answer("", "2")]
    (conversation,) = read_transcript(write([messages])).conversations
    assert [call.failed for call in conversation.calls] == [False, False]
    assert [call.result for call in conversation.calls] == ["no Error here", ""]


def test_equal_arguments_have_equal_digests_however_they_are_written(write: Write) -> None:
    calls = [_call("a", None, text) for text in ('{"x":1,"y":"é"}', '{ "y": "\\u00e9", "x": 1 }', '{"x":2}', "{broken")]
    (conversation,) = read_transcript(write([[_asks(*calls)]])).conversations
    first, second, third, fourth = (call.arguments_sha256 for call in conversation.calls)
    assert first == second
    assert len({first, third, fourth}) == 3


@pytest.mark.parametrize("key", ["messages", "traj"])
def test_one_conversation_many_and_lines_are_the_same(write: Write, key: str) -> None:
    messages = [_asks(_call("a", "1")), _answer("fine", "1")]
    lines = b"\n".join(json.dumps(item).encode() for item in ({key: messages}, messages)) + b"\n\n"
    as_lines = read_transcript(write(lines)).conversations
    as_list = read_transcript(write([{key: messages}, messages])).conversations
    assert as_lines == as_list
    assert read_transcript(write(messages)).conversations[0].calls == as_list[0].calls
    assert read_transcript(write({key: messages})).conversations[0].calls == as_list[0].calls


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"\n", "holds no conversation"),
        (b"role: user", "neither JSON nor JSON lines"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[]", "holds no conversation"),
        ([{"messages": [{"role": "user", "content": "hi"}]}], "no tool call in 1 conversations"),
        (b'{"messages": []}\n{"messages": [}\n', r"line 2 is not JSON"),
        (
            [{"messages": []}, {"chat": [], "id": 4}],
            r"conversation 1: has none of `messages`, .*`items`; .*'chat', 'id'",
        ),
        ([{"messages": []}, 7], r"conversation 1: its messages are a int"),
        ([{"messages": "hello"}], r"conversation 0: its messages are a str"),
        ([{"messages": [{"content": "who says so?"}]}], r"conversation 0, message 0, role"),
        ([[{"role": "user"}, {"role": "robot"}]], r"conversation 0, message 1, role"),
        ([[_asks({"id": "1", "function": {}})]], r"conversation 0, message 0, tool_calls.0.function.name"),
    ],
)
def test_a_bad_file_is_refused_with_the_place(write: Write, content: object, named: str) -> None:
    with pytest.raises(TranscriptError, match=named):
        read_transcript(write(content))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TranscriptError, match=r"nowhere\.json cannot be read"):
        read_transcript(tmp_path / "nowhere.json")


def test_a_reward_is_found_at_a_dotted_path(write: Write) -> None:
    items = [{"messages": [_asks(_call("a"))], "info": {"reward": reward}} for reward in (1, 0.5, None, True)]
    transcript = read_transcript(write(items))
    assert [conversation.reward("info.reward") for conversation in transcript.conversations] == [1.0, 0.5, None, 1.0]
    assert transcript.conversations[0].reward("info.reward.deeper") is None
    with pytest.raises(TranscriptError, match="did you mean `info`"):
        transcript.require_reward("inf")


def test_a_reward_that_is_no_number_is_refused(write: Write) -> None:
    transcript = read_transcript(write([{"messages": [_asks(_call("a"))], "reward": "high"}]))
    with pytest.raises(TranscriptError, match=r"conversation 0: `reward` is not a number: 'high'"):
        transcript.conversations[0].reward("reward")


def test_the_example_becomes_events(bookshop: Catalog) -> None:
    importer, emitted = _import(read_transcript(EXAMPLES / "transcript.jsonl"), bookshop, reward_field="reward")
    calls = {tool: (count.calls, count.failed, count.unanswered) for tool, count in importer.counts.tools.items()}
    assert calls == {
        "find_book": (2, 0, 0),
        "get_order": (4, 0, 0),
        "change_address": (2, 1, 0),
        "issue_voucher": (2, 0, 1),
    }
    decided = [event for event in emitted if isinstance(event, events.ActionDecided)]
    executed = [event for event in emitted if isinstance(event, events.ActionExecuted)]
    quality = [event for event in emitted if isinstance(event, events.ActionImpact)]
    assert (len(decided), len(executed), len(quality)) == (10, 9, 8)  # one conversation has no reward
    assert all(event.data.decision.provenance is Provenance.IMPORTED for event in decided)
    assert all(event.data.latency_ms is None and event.data.cost_usd is None for event in executed)
    assert [event.data.error_type for event in executed].count("tool_error") == 1
    assert sum(event.data.impact.kind == "quality" and event.data.impact.passed for event in quality) == 5
    cells = {Receipt.from_token(event.data.receipt).cell[1:4] for event in decided}
    assert ("bookshop-goodwill", "issue_voucher", "approval_gated") in cells
    assert ("bookshop", "get_order", "search_only") in cells
    assert importer.counts.events == len(emitted)


def test_no_reward_field_no_quality(bookshop: Catalog) -> None:
    _, emitted = _import(read_transcript(EXAMPLES / "transcript.jsonl"), bookshop)
    assert not any(isinstance(event, events.ActionImpact) for event in emitted)


def test_importing_twice_gives_the_same_ids_and_no_two_events_share_one(bookshop: Catalog) -> None:
    transcript = read_transcript(EXAMPLES / "transcript.jsonl")
    ids = [[event.id for event in _import(transcript, bookshop, reward_field="reward")[1]] for _ in range(2)]
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == len(ids[0])
    without_reward = {event.id for event in _import(transcript, bookshop)[1]}
    assert without_reward < set(ids[0])


def test_what_was_imported_before_is_not_emitted_again(bookshop: Catalog) -> None:
    transcript = read_transcript(EXAMPLES / "transcript.jsonl")
    before = frozenset(event.id for event in _import(transcript, bookshop)[1])
    importer, emitted = _import(transcript, bookshop, reward_field="reward", known=before)
    assert {type(event) for event in emitted} == {events.ActionImpact}
    assert importer.counts.known == len(before) == importer.counts.events - len(emitted)


def test_another_cell_is_another_event(bookshop: Catalog) -> None:
    transcript = read_transcript(EXAMPLES / "transcript.jsonl")
    elsewhere = bookshop.model_copy(update={"environment": "staging"})
    first, second = ({event.id for event in _import(transcript, catalog)[1]} for catalog in (bookshop, elsewhere))
    assert not first & second


def test_no_words_of_the_conversation_leave_it(bookshop: Catalog) -> None:
    _, emitted = _import(read_transcript(EXAMPLES / "transcript.jsonl"), bookshop, reward_field="reward")
    texts = "".join(event.model_dump_json() for event in emitted)
    assert "5 Mill Lane" not in texts
    assert "B-204" not in texts
    assert "parcel has left" not in texts


def test_tools_that_the_catalog_lacks_are_refused_with_a_stanza_or_left_out(write: Write, bookshop: Catalog) -> None:
    messages = [_asks(_call("burn_books", "1"), _call("find_book", "2"), _call("ban_books", "3"))]
    transcript = read_transcript(write([messages]))
    with pytest.raises(UnknownToolsError) as refused:
        _import(transcript, bookshop)
    assert "ban_books, burn_books" in str(refused.value)
    assert "  burn_books: {risk_class: scoped_read" in str(refused.value)
    importer, emitted = _import(transcript, bookshop, skip_unknown=True)
    assert importer.counts.skipped == {"burn_books": 1, "ban_books": 1}
    assert len(emitted) == 1


@needs_recorded_calls
def test_the_recorded_airline_agent_is_read_to_the_last_call() -> None:
    transcript = read_transcript(FILE)
    importer, emitted = _import(transcript, Catalog.load(EXAMPLES / "catalog-airline.yaml"), reward_field="reward")
    tools = importer.counts.tools
    assert {tool: (count.executed, count.failed) for tool, count in tools.items()} == CALLS
    assert sum(count.calls for count in tools.values()) == sum(count.executed for count in tools.values()) == 1_164
    assert not importer.counts.left_out
    assert len({event.id for event in emitted}) == len(emitted) == 3 * 1_164  # although its call ids repeat
    decisions = {event.subject for event in emitted if isinstance(event, events.ActionDecided)}
    assert len(decisions) == 1_164
