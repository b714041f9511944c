"""Recordings in the shapes of several model servers and benchmarks, and what makes a call failed or counted twice."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from fakes import FakeClock, FakeEmitter
from shared_recordings import EXAMPLES, ROOT

from producers.importers.catalog import Catalog
from producers.importers.failures import FailureRules
from producers.importers.importer import TranscriptImporter, require_usable
from producers.importers.transcript import TranscriptError, TranscriptReader, examples_of, read_transcript
from producers.wire import events
from stagekeeper.commands.imports import command

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from producers.importers.transcript import Transcript

    Write = Callable[..., Path]

CASES = ROOT / "tests" / "recordings"


def chat(tool: str, result: object, call_id: str = "c") -> list[dict[str, Any]]:
    """A call and its result in OpenAI's chat format."""
    call = {"id": call_id, "type": "function", "function": {"name": tool, "arguments": "{}"}}
    return [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call_id, "content": result},
    ]


def counted(path: Path, rules: FailureRules | None = None) -> dict[str, tuple[int, int, int]]:
    """Calls, failures and unanswered calls by tool."""
    transcript = TranscriptReader(rules or FailureRules()).read([path])
    return {tool.tool: (tool.calls, tool.failed, tool.unanswered) for tool in examples_of(transcript)}


def imported(transcript: Transcript, reward_field: str | None = None) -> tuple[FakeEmitter, TranscriptImporter]:
    """What is emitted of a transcript, and by which importer."""
    emitter, catalog = FakeEmitter(), Catalog.load(EXAMPLES / "catalog.yaml")
    require_usable(transcript, catalog, reward_field=reward_field, skip_unknown=False)
    importer = TranscriptImporter(transcript, catalog, emitter, reward_field=reward_field, key=None, now=FakeClock())
    for conversation in transcript.conversations:
        importer.add(conversation)
    return emitter, importer


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(value: object, name: str = "transcript.json") -> Path:
        path = tmp_path / name
        path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
        return path

    return written


ANTHROPIC = [
    {"role": "user", "content": "hello"},
    {
        "role": "assistant",
        "content": [
            {"type": "text", "text": "let me look"},
            {"type": "tool_use", "id": "t1", "name": "look", "input": {"n": 1}},
            {"type": "tool_use", "id": "t2", "name": "write", "input": {}},
        ],
    },
    {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "t2", "content": [{"type": "text", "text": "no"}], "is_error": True},
            {"type": "tool_result", "tool_use_id": "t1", "content": "ok"},
        ],
    },
]
RESPONSES = {
    "output": [
        {"type": "reasoning", "summary": []},
        {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "look", "arguments": "{}"},
        {"type": "function_call", "id": "fc_2", "call_id": "c2", "name": "write", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c2", "output": "Error: refused"},
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "fine"}]},
        {"type": "mcp_call", "id": "m1", "name": "look", "arguments": "{}", "output": None, "error": "gone"},
        {"role": "assistant", "content": "done"},
    ]
}
TAU2 = {
    "simulations": [
        {
            "task_id": "1",
            "trial": 0,
            "reward_info": {"reward": 1.0},
            "messages": [
                {
                    "role": "assistant",
                    "tool_calls": [
                        {"id": "1", "name": "look", "arguments": {}, "requestor": "assistant"},
                        {"id": "2", "name": "write", "arguments": {}, "requestor": "assistant"},
                    ],
                },
                {
                    "role": "tool",
                    "tool_messages": [
                        {
                            "role": "tool",
                            "id": "1",
                            "content": "Error budget: 3",
                            "error": False,
                            "requestor": "assistant",
                        },
                        {"role": "tool", "id": "2", "content": "no seat", "error": True, "requestor": "assistant"},
                    ],
                },
                {"role": "user", "tool_calls": [{"id": "u", "name": "toggle", "arguments": {}, "requestor": "user"}]},
                {"role": "tool", "id": "u", "content": "on", "error": False, "requestor": "user"},
            ],
        }
    ]
}
AGENTDOJO = {
    "suite_name": "banking",
    "messages": [
        {
            "role": "assistant",
            "content": [{"type": "text", "content": "calling"}],
            "tool_calls": [
                {"function": "look", "args": {"n": 1}, "id": "a"},
                {"function": "write", "args": {}, "id": "b"},
            ],
        },
        {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "content": "fine"}], "error": None},
        {"role": "tool", "tool_call_id": "b", "content": [{"type": "text", "content": ""}], "error": "ValueError: x"},
    ],
}
INSPECT = {
    "eval": {"task": "t", "model": "m"},
    "samples": [
        {
            "id": 1,
            "epoch": 1,
            "messages": [
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [
                        {"id": "a", "function": "look", "arguments": {}, "type": "function"},
                        {"id": "b", "function": "write", "arguments": {}, "type": "function"},
                    ],
                },
                {"role": "tool", "tool_call_id": "a", "function": "look", "content": "fine"},
                {
                    "role": "tool",
                    "tool_call_id": "b",
                    "function": "write",
                    "content": "",
                    "error": {"type": "timeout", "message": "slow"},
                },
            ],
        }
    ],
}
CODING_AGENT = [
    {"type": "summary", "summary": "x", "sessionId": "s"},
    *(
        {"type": message["role"], "sessionId": "s", "uuid": str(number), "message": message}
        for number, message in enumerate(ANTHROPIC)
    ),
]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (ANTHROPIC, {"look": (1, 0, 0), "write": (1, 1, 0)}),
        (RESPONSES, {"look": (2, 1, 0), "write": (1, 1, 0)}),
        (TAU2, {"look": (1, 0, 0), "write": (1, 1, 0)}),
        (AGENTDOJO, {"look": (1, 0, 0), "write": (1, 1, 0)}),
        (INSPECT, {"look": (1, 0, 0), "write": (1, 1, 0)}),
    ],
    ids=["anthropic", "responses", "tau2", "agentdojo", "inspect"],
)
def test_each_shape_gives_its_calls_and_failures(
    write: Write, value: object, expected: dict[str, tuple[int, int, int]]
) -> None:
    assert counted(write(value)) == expected


def test_lines_of_a_coding_agent_are_joined_by_session(write: Write) -> None:
    lines = b"\n".join(json.dumps(line).encode() for line in CODING_AGENT)
    assert counted(write(lines, "log.jsonl")) == {"look": (1, 0, 0), "write": (1, 1, 0)}


def test_older_function_calls_stand_beside_newer_ones(write: Write) -> None:
    old = [
        {"role": "assistant", "content": None, "function_call": {"name": "write", "arguments": "{}"}},
        {"role": "function", "name": "write", "content": "Error: no"},
    ]
    assert counted(write([{"messages": chat("look", "ok")}, {"messages": old}])) == {
        "look": (1, 0, 0),
        "write": (1, 1, 0),
    }


def test_what_a_simulated_user_calls_is_not_the_agents(write: Write) -> None:
    (conversation,) = read_transcript(write(TAU2)).conversations
    assert conversation.left_out == {"calls of a simulated user": 1, "results of a simulated user's calls": 1}
    assert conversation.reward("reward_info.reward") == 1.0


@pytest.mark.parametrize(
    "result",
    [
        "Error: x", " error: not found", "Error 404", "Error executing tool look", "ERROR", "Error: no",
        "Traceback (most recent call last):\n  KeyError", "ValueError: bad", "requests.exceptions.HTTPError: 500",
        "HTTP 503", "HTTP/1.1 404 Not Found", "500 Internal Server Error", "<tool_use_error>x</tool_use_error>",
        "Tool execution failed: timeout", "Failed to connect", "Failure: x", "Process exited with code 1",
        "Exit code: 2", "Permission denied", "Request timed out", "Exception: boom", "Internal server error",
        '{"error": "not found"}', '{"error": {"code": 500}}', '{"isError": true, "content": []}', '{"success": false}',
        '{"ok": false}', '{"status": "failed"}', '{"status": 404}', '{"exit_code": 2}', '{"errors": [{"m": 1}]}',
        {"error": "x"}, {"isError": True, "content": []}, {"returncode": 1},
        [{"type": "text", "text": "Error: x"}], [{"type": "text", "content": "Error: x"}], ["Error: x"],
    ],
    ids=str,
)  # fmt: skip
def test_a_failure_is_known_by_what_services_write(write: Write, result: object) -> None:
    assert counted(write(chat("look", result))) == {"look": (1, 1, 0)}


@pytest.mark.parametrize(
    "result",
    [
        "Errors: 0, warnings: 0", "Error-free run", "Error rate: 2 %", "Error: none", "no Error here", "", None, 0, 3.5,
        True, [], {}, {"ok": True}, '{"error": null}', '{"error": ""}', '{"error": false, "n": 1}', '{"errors": []}',
        '{"status": "ok"}', '{"status": 200}', '{"exit_code": 0}', '{"code": 0}', "Exit code: 0", "{broken",
        "The command failed twice before, and then worked", [1, 2], "Terror: the film", "exceptional",
        [{"type": "image", "data": "…"}], [{"type": "text", "text": None}], "Timetable", "failed_login_count: 3",
    ],
    ids=str,
)  # fmt: skip
def test_whatever_else_was_answered_is_no_failure(write: Write, result: object) -> None:
    assert counted(write(chat("look", result))) == {"look": (1, 0, 0)}


def test_a_recorded_flag_comes_before_the_text(write: Write) -> None:
    messages = chat("look", "Error: quoted from the log that was asked for")
    messages[-1]["is_error"] = False
    assert counted(write(messages)) == {"look": (1, 0, 0)}
    messages[-1] = {"role": "tool", "tool_call_id": "c", "content": "fine", "status": "error"}
    assert counted(write(messages)) == {"look": (1, 1, 0)}


def test_rules_of_ones_own_come_first(write: Write) -> None:
    refused, harmless = (
        write(chat("look", "refused by policy"), "a.json"),
        write(chat("look", "Error: 0 left"), "b.json"),
    )
    rules = FailureRules((re.compile("refused by"),), (re.compile("0 left$"),))
    assert counted(refused, rules) == {"look": (1, 1, 0)}
    assert counted(harmless, rules) == {"look": (1, 0, 0)}


def test_ids_that_each_turn_uses_anew_shift_nothing(write: Write) -> None:
    messages: list[dict[str, Any]] = []
    for tool, result in [("look", None), ("write", "Error: no"), ("look", "ok"), ("write", "Error: no")]:
        messages += chat(tool, result, "call_0")[: 2 if result is None else 3]
    assert counted(write(messages)) == {"look": (2, 0, 1), "write": (2, 2, 0)}


@pytest.mark.parametrize("call_id", ["", None, "same"])
def test_among_equal_or_missing_ids_the_name_decides(write: Write, call_id: str | None) -> None:
    calls = [{"id": call_id, "function": {"name": tool, "arguments": {}}} for tool in ("look", "write")]
    results = [
        {"role": "tool", "tool_call_id": call_id, "name": tool, "content": text}
        for tool, text in (("write", "Error: no"), ("look", "ok"))
    ]
    assert counted(write([{"role": "assistant", "tool_calls": calls}, *results])) == {
        "look": (1, 0, 0),
        "write": (1, 1, 0),
    }


def test_a_second_answer_to_an_id_answers_no_older_call(write: Write) -> None:
    messages = [*chat("look", "x", "call_0")[:2], *chat("look", "ok", "call_0"), chat("look", "Error", "call_0")[2]]
    (conversation,) = read_transcript(write(messages)).conversations
    assert [call.result for call in conversation.calls] == [None, "ok"]
    assert conversation.left_out == {"results that answer no call": 1}


def test_separators_inside_a_string_end_no_line(write: Write) -> None:
    lines = "\n".join(json.dumps({"messages": chat("look", "a\u2028b\u0085c")}, ensure_ascii=False) for _ in range(2))
    assert counted(write(lines.encode(), "lines.jsonl")) == {"look": (2, 0, 0)}


def test_gzip_folders_and_several_files_are_one_import(write: Write, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    (folder / "a.json").write_text(json.dumps(chat("look", "ok")))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(json.dumps({"messages": chat("write", "ok")}).encode()))
    (folder / "notes.txt").write_text("not a transcript")
    single = write(chat("look", "Error"))
    transcript = TranscriptReader().read([folder, single])
    assert {tool.tool: (tool.calls, tool.failed) for tool in examples_of(transcript)} == {
        "look": (2, 1),
        "write": (1, 0),
    }
    with pytest.raises(TranscriptError, match="is not whole as a gzip file"):
        read_transcript(write(gzip.compress(b"[]" * 4000)[:30], "cut.gz"))


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({"trajectory": []}, "a SWE-agent trajectory"),
        ({"resourceSpans": []}, "an OpenTelemetry trace"),
        ([{"run_type": "tool", "name": "look"}], "a LangSmith run"),
    ],
)
def test_a_recording_of_another_kind_is_named(write: Write, value: object, named: str) -> None:
    with pytest.raises(TranscriptError, match=named):
        read_transcript(write(value))


def keys(*items: object, run: str = "", write: Write) -> list[str]:
    transcript = TranscriptReader(run=run).read([write(list(items))])
    return [call.key for conversation in transcript.conversations for call in conversation.calls]


def test_a_call_keeps_its_key_when_the_file_grows_or_is_mended(write: Write) -> None:
    one, two = {"messages": chat("look", "ok")}, {"messages": chat("look", "ok")}
    before = keys(one, two, write=write)
    assert len(set(before)) == 2
    longer = {"messages": [*chat("look", "ok"), *chat("write", "ok")]}
    assert keys(longer, two, {"messages": chat("look", "ok")}, write=write)[:1] == before[:1]
    assert set(before) < set(keys(longer, two, {"messages": chat("look", "ok")}, write=write))
    assert keys({"messages": chat("look", "Error: mended", "another id")}, two, write=write) == before


def test_conversations_that_say_who_they_are_are_told_apart_wherever_they_stand(write: Write) -> None:
    trials = [{"task_id": 1, "trial": trial, "messages": chat("look", "ok")} for trial in range(3)]
    assert keys(*trials, write=write) == keys(*reversed(trials), write=write)[::-1]
    assert not set(keys(*trials, write=write)) & set(keys(*trials, run="second", write=write))


def test_a_bad_conversation_can_be_left_out_and_is_listed(write: Write) -> None:
    path = write([{"messages": chat("look", "ok")}, {"messages": [{"role": "robot"}]}, 7])
    with pytest.raises(TranscriptError, match="conversation 1, message 0, role"):
        read_transcript(path)
    transcript = TranscriptReader(skip_bad=True).read([path])
    assert len(transcript.conversations) == 1
    assert [fault.split(":")[0] for fault in transcript.bad] == ["conversation 1, message 0, role", "conversation 2"]


def test_a_reward_that_is_no_finite_number_is_unknown_and_said(write: Write) -> None:
    items = [{"reward": reward, "messages": chat("find_book", "ok")} for reward in (1.0, float("nan"), float("inf"))]
    emitter, importer = imported(read_transcript(write(items)), reward_field="reward")
    impacts = [event for event in emitter.events if isinstance(event, events.ActionImpact)]
    assert len(impacts) == 1
    assert importer.counts.left_out == {"conversations without a number at reward": 2}


@pytest.mark.parametrize("call_id", ["x" * 5_000, "with\x00control"])
def test_an_id_that_no_event_can_hold_is_known_by_its_digest(write: Write, call_id: str) -> None:
    emitter, _ = imported(read_transcript(write(chat("find_book", "ok", call_id))))
    (decided,) = (event for event in emitter.events if isinstance(event, events.ActionDecided))
    assert decided.data.contract.tool_call == f"sha256:{hashlib.sha256(call_id.encode()).hexdigest()}"


def test_a_dry_run_shows_examples_and_needs_no_broker(write: Write) -> None:
    path = write([*chat("find_book", "Error: no such book"), *chat("find_book", "found", "d")])
    arguments = ["transcript", str(path), "--catalog", str(EXAMPLES / "catalog.yaml"), "--dry-run"]
    shown = CliRunner().invoke(command, arguments)
    assert shown.exit_code == 0, shown.output
    assert "find_book: 2 calls, 1 failed, 0 unanswered" in shown.output
    assert "Error: no such book" in shown.output
    document = json.loads(CliRunner().invoke(command, [*arguments, "--json"]).output)
    assert document["tools"][0]["successes"] == ["found"]
    mistaken = CliRunner().invoke(command, [*arguments, "--failed-when", "("])
    assert mistaken.exit_code == 2
    assert "no regular expression" in mistaken.output


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("turn_scoped_ids_after_one_unanswered_call_shift_all_results", {"get_item": (3, 0, 1), "set_note": (2, 2, 0)}),
        ("empty_string_ids_ignore_the_names", {"get_item": (1, 0, 0), "set_note": (1, 1, 0)}),
        ("legacy_and_new_in_one_file_failed_write_vanishes", {"get_item": (1, 0, 0), "set_note": (1, 1, 0)}),
        ("anthropic_tool_use_blocks_ignored_exit_0", {"get_item": (1, 0, 0)}),
        ("u2028_inside_a_jsonl_string", {"get_item": (2, 0, 0)}),
        ("five_failures_counted_as_successes", {"get_item": (5, 5, 0)}),
        ("two_successes_counted_as_failures", {"get_item": (2, 0, 0)}),
        ("part_text_null_refuses_file", {"get_item": (1, 0, 0)}),
        ("tool_content_object_refuses_file", {"get_item": (1, 0, 0)}),
        ("part_text_under_another_key", {"look": (1, 1, 0)}),
        ("partial_import_long_tool_call_id_at_conversation_10_of_20", {"get_item": (20, 0, 0)}),
        ("every_call_failed_but_none_starts_with_Error", {"get_item": (200, 200, 0)}),
    ],
)
def test_small_recordings_that_were_misread(name: str, expected: dict[str, tuple[int, int, int]]) -> None:
    (path,) = CASES.glob(f"{name}.*")
    assert counted(path) == expected
