"""Transcripts: which tools were called in recorded conversations, and what came back.

A file holds one JSON value (a list of conversations, one conversation, or a run that holds a list of them) or JSON
lines, gzipped or not. A conversation is a list of messages, or an object that holds such a list under one of
`MESSAGES_KEYS` beside whatever else was recorded about it. `producers.importers.steps` says which messages are known.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import math
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from producers.boundary.canonical_json import ArgumentError, digest
from producers.importers.failures import FailureRules
from producers.importers.pairing import Pairs
from producers.importers.steps import Call, TranscriptError, Words, steps_of, text_of
from producers.strict_yaml import ConfigurationFileError, read_file, suggest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

MESSAGES_KEYS: Final = ("messages", "traj", "output", "items")
"""Names under which a conversation object may keep its messages."""
RUN_KEYS: Final = ("simulations", "samples", "conversations")
"""Names under which a run may keep its conversations."""
_IDENTITY: Final = (
    "conversation_id", "conversationId", "session_id", "sessionId", "thread_id", "id", "uuid", "task_id", "trial",
    "epoch", "user_task_id", "injection_task_id", "created_at", "start_time", "timestamp",
)  # fmt: skip
_UNKNOWN: Final = {
    "trajectory": "a SWE-agent trajectory",
    "resourceSpans": "an OpenTelemetry trace",
    "run_type": "a LangSmith run",
    "observations": "a Langfuse trace",
}
_MOST_BYTES: Final = 1 << 30
STDIN: Final = Path("-")


@dataclass(frozen=True)
class ToolCall:
    """One tool call."""

    index: int  # its position among the conversation's calls, from 0
    tool: str  # name of the tool
    tool_call: str | None  # the model's own id of the call; it may repeat elsewhere
    arguments_sha256: str  # digest of the canonical JSON of its arguments
    result: str | None  # what the tool answered; None where the file holds no answer
    failed: bool  # whether the answer reports a failure
    key: str  # the same for this call in a grown or mended file, different for any other; a SHA-256 digest


@dataclass(frozen=True)
class Conversation:
    """One conversation."""

    index: int  # its position among all conversations, from 0
    calls: tuple[ToolCall, ...]  # its tool calls, in order
    left_out: Counter[str]  # what was not counted, by reason
    about: Mapping[str, object]  # whatever was recorded beside the messages
    place: str  # where it stands

    def reward(self, field: str) -> float | None:
        """The number at a dotted path beside the messages; None where absent, null or not finite."""
        value: object = self.about
        for part in field.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is None:
            return None
        if not isinstance(value, int | float):
            raise TranscriptError(f"{self.place}: `{field}` is not a number: {value!r:.60}")
        return float(value) if math.isfinite(value) else None


@dataclass(frozen=True)
class Transcript:
    """All files of one import."""

    sha256: str  # digest of their bytes
    conversations: tuple[Conversation, ...]  # their conversations, in order
    bad: tuple[str, ...] = ()  # conversations that were left out, each with its fault

    @property
    def tools(self) -> set[str]:
        """Every tool that is called in it."""
        return {call.tool for conversation in self.conversations for call in conversation.calls}

    def require_reward(self, field: str) -> None:
        """Make sure that a conversation has a reward; else `TranscriptError` offers the nearest field."""
        if all(conversation.reward(field) is None for conversation in self.conversations):
            fields = sorted({key for conversation in self.conversations for key in conversation.about})
            hint = suggest(field, fields) if fields else "the conversations have no fields beside their messages"
            raise TranscriptError(f"no conversation has a number at `{field}`: {hint}")


@dataclass
class TranscriptReader:
    """Reads files into one transcript.

    `run` names the run, so that equal conversations of two runs are told apart. With `skip_bad`, a conversation that
    cannot be read is left out and listed.
    """

    rules: FailureRules = field(default_factory=FailureRules)
    run: str = ""
    skip_bad: bool = False
    _seen: Counter[str] = field(default_factory=Counter)
    """How many calls had the same beginning of a conversation before them."""

    def read(self, paths: Sequence[Path]) -> Transcript:
        """Read files, folders of `.json`, `.jsonl` and `.gz` files, or standard input (`-`); else `TranscriptError`."""
        whole, bad = hashlib.sha256(), list[str]()
        conversations: list[Conversation] = []
        for path in _files(paths):
            raw = _bytes_of(path)
            whole.update(hashlib.sha256(raw).digest() if len(paths) > 1 else raw)
            if not (items := _items(raw, str(path))):
                raise TranscriptError(f"{path} holds no conversation")
            name = f"{path}, " if len(paths) > 1 or path.is_dir() else ""
            for number, item in enumerate(items):
                try:
                    conversations.append(self._conversation(len(conversations), item, f"{name}conversation {number}"))
                except TranscriptError as error:
                    if not self.skip_bad:
                        raise
                    bad.append(str(error))
                except RecursionError as error:
                    raise TranscriptError(
                        f"{path} nests too deep to be read; leave out the conversation that does"
                    ) from error
        transcript = Transcript(whole.hexdigest(), tuple(conversations), tuple(bad))
        if not transcript.tools:
            raise TranscriptError(
                f"{', '.join(map(str, paths))}: no tool call in {len(conversations):,} conversations. Calls are read "
                "from OpenAI's chat and Responses formats, Anthropic's content blocks, and the exports of tau2, "
                "AgentDojo and Inspect: convert others to OpenAI's chat format"
            )
        return transcript

    def _conversation(self, index: int, item: object, place: str) -> Conversation:
        messages, about = _parts(item, place)
        identity = [[name, about[name]] for name in _IDENTITY if isinstance(about.get(name), str | int | float)]
        beginning = hashlib.sha256(json.dumps([self.run, identity]).encode())
        pairs, digests, keys = Pairs(), list[str](), list[str]()
        for position, message in enumerate(messages):
            for step in steps_of(message, f"{place}, message {position}"):
                pairs.add(step)
                if isinstance(step, Call):
                    digests.append(_digest(step.arguments))
                    beginning.update(f"\n{step.tool} {digests[-1]}".encode("utf-8", "surrogatepass"))
                    keys.append(self._key(beginning.hexdigest()))
                elif isinstance(step, Words):
                    beginning.update(f"\n{step.text}".encode("utf-8", "surrogatepass"))
        calls = tuple(self._call(number, pairs, *each) for number, each in enumerate(zip(digests, keys, strict=True)))
        return Conversation(index, calls, pairs.left_out, about, place)

    def _key(self, beginning: str) -> str:
        self._seen[beginning] += 1
        return hashlib.sha256(f"{beginning} {self._seen[beginning]}".encode()).hexdigest()

    def _call(self, number: int, pairs: Pairs, arguments_sha256: str, key: str) -> ToolCall:
        call, result = pairs.calls[number], pairs.results.get(number)
        text = None if result is None else text_of(result.answer)
        failed = result is not None and (
            self.rules.failure_in(result.answer, text or "") if result.failed is None else result.failed
        )
        return ToolCall(number, call.tool, call.id, arguments_sha256, text, failed, key)


def read_transcript(path: Path) -> Transcript:
    """Read one file by the rules that are there; else `TranscriptError` names the line, or the message."""
    return TranscriptReader().read([path])


@dataclass(frozen=True)
class ToolExamples:
    """What would be counted of one tool, with a few results of either kind, cut short."""

    tool: str
    calls: int
    failed: int
    unanswered: int
    failures: tuple[str, ...]
    successes: tuple[str, ...]


def examples_of(transcript: Transcript, most: int = 3) -> list[ToolExamples]:
    """Each tool with at most so many of its results, the most called one first."""
    tools: dict[str, list[ToolCall]] = {}
    for conversation in transcript.conversations:
        for call in conversation.calls:
            tools.setdefault(call.tool, []).append(call)

    def shown(calls: list[ToolCall], *, failed: bool) -> tuple[str, ...]:
        results = (call.result for call in calls if call.failed == failed)
        return tuple(dict.fromkeys(" ".join(result.split())[:100] for result in results if result is not None))[:most]

    return [
        ToolExamples(
            tool=tool,
            calls=len(calls),
            failed=sum(call.failed for call in calls),
            unanswered=sum(call.result is None for call in calls),
            failures=shown(calls, failed=True),
            successes=shown(calls, failed=False),
        )
        for tool, calls in sorted(tools.items(), key=lambda item: (-len(item[1]), item[0]))
    ]


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path != STDIN and path.is_dir():
            files = sorted(each for each in path.rglob("*") if each.suffix in {".json", ".jsonl", ".gz"})
            if not files:
                raise TranscriptError(f"{path} holds no .json, .jsonl or .gz file")
            yield from files
        else:
            yield path


def _bytes_of(path: Path) -> bytes:
    if path == STDIN:
        raw = sys.stdin.buffer.read(_MOST_BYTES + 1)
    else:
        try:
            raw = read_file(path, name="the transcript", most_bytes=_MOST_BYTES)
        except ConfigurationFileError as error:
            raise TranscriptError(str(error)) from error
    if raw[:2] == b"\x1f\x8b":
        try:
            with gzip.open(io.BytesIO(raw)) as opened:
                raw = opened.read(_MOST_BYTES + 1)
        except (OSError, EOFError) as error:
            raise TranscriptError(f"{path} is not whole as a gzip file: {error}") from error
    if len(raw) > _MOST_BYTES:
        raise TranscriptError(f"{path} holds more than {_MOST_BYTES:,} bytes; split it")
    return raw


def _items(raw: bytes, origin: str) -> list[object]:
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TranscriptError(f"{origin} is not UTF-8 text: {error}") from error
    try:
        value = json.loads(text)
    except ValueError as whole:  # no JSON, or a number of thousands of digits
        return _sessions(list(_lines(text, origin, whole)))
    except RecursionError as error:
        raise TranscriptError(f"{origin} nests too deep to be read; leave out the conversation that does") from error
    if isinstance(value, dict):
        run = next((value[key] for key in RUN_KEYS if isinstance(value.get(key), list)), None)
        return [value] if run is None else list(run)
    if isinstance(value, list) and not _is_messages(value):
        return _sessions(value)
    return [value]


def _lines(text: str, origin: str, whole: ValueError) -> Iterator[object]:
    # Not splitlines: strings in JSON may hold U+2028 and its like.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except RecursionError as error:
            raise TranscriptError(f"{origin}, line {number} nests too deep to be read") from error
        except ValueError as error:
            if number == 1:  # then it is no JSON-lines file at all: say what is wrong with the file as a whole
                raise TranscriptError(f"{origin} is neither JSON nor JSON lines: {whole}") from whole
            raise TranscriptError(f"{origin}, line {number} is not JSON: {error}") from error


def _sessions(items: list[object]) -> list[object]:
    """Lines of a coding agent's log, joined by session; anything else as it is."""
    sessions: dict[str, list[object]] = {}
    for item in items:
        if not isinstance(item, dict) or not isinstance(session := item.get("sessionId"), str):
            return items
        if isinstance(item.get("message"), dict):
            sessions.setdefault(session, []).append(item)
    return [{"sessionId": session, "messages": messages} for session, messages in sessions.items()]


def _is_messages(value: list[object]) -> bool:
    return bool(value) and all(isinstance(item, dict) and ("role" in item or "call_id" in item) for item in value)


def _parts(item: object, place: str) -> tuple[list[object], dict[str, object]]:
    """A conversation's messages, and what was recorded beside them."""
    if not isinstance(item, dict):
        if isinstance(item, list):
            return item, {}
        raise TranscriptError(f"{place}: its messages are a {type(item).__name__}, not a list")
    key = next((key for key in MESSAGES_KEYS if key in item), None)
    if key is None:
        known = next((name for field, name in _UNKNOWN.items() if field in item), None)
        if known is not None:
            raise TranscriptError(
                f"{place} looks like {known}, which is not read; write its calls as messages in OpenAI's chat format"
            )
        wanted = ", ".join(f"`{name}`" for name in MESSAGES_KEYS)
        raise TranscriptError(f"{place}: has none of {wanted}; its keys: {sorted(map(str, item))}")
    messages = item[key]
    if not isinstance(messages, list):
        raise TranscriptError(f"{place}: its messages are a {type(messages).__name__}, not a list")
    return messages, {name: value for name, value in item.items() if name != key}


def _digest(arguments: object) -> str:
    """Digest of the arguments' canonical JSON; what has none, or is not JSON, counts as the text that it is."""
    try:
        return digest(json.loads(arguments) if isinstance(arguments, str) else arguments)
    except (ArgumentError, ValueError, RecursionError):
        return digest(json.dumps(arguments, sort_keys=True))
