"""Transcripts in the OpenAI chat format: which tools were called, and what came back.

A file holds one JSON value (a list of conversations, or one conversation) or JSON lines. A conversation is a list of
messages, or an object that holds such a list as `messages` or `traj` beside whatever else was recorded about it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from producers.boundary.canonical_json import ArgumentError, digest
from producers.errors import UsageError
from producers.strict_yaml import ConfigurationFileError, read_file, suggest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

MESSAGES_KEYS = ("messages", "traj")  # names under which a conversation object may keep its messages
_MOST_BYTES = 1 << 30
ERROR_PREFIX = "Error"  # a tool result that starts like this reports a failure


class TranscriptError(UsageError):
    """A file is not a transcript; the message names the place."""


@dataclass(frozen=True)
class ToolCall:
    """One tool call."""

    index: int  # its position among the conversation's calls, from 0
    tool: str  # name of the tool
    tool_call: str | None  # the model's own id of the call; it may repeat elsewhere
    arguments_sha256: str  # digest of the canonical JSON of its arguments
    result: str | None  # what the tool answered; None where the file holds no answer

    @property
    def failed(self) -> bool:
        """Whether the tool answered with an error."""
        return self.result is not None and self.result.startswith(ERROR_PREFIX)


@dataclass(frozen=True)
class Conversation:
    """One conversation."""

    index: int  # its position in the file, from 0
    calls: tuple[ToolCall, ...]  # its tool calls, in order
    stray_results: int  # tool results that answer none of its calls
    about: Mapping[str, object]  # whatever was recorded beside the messages

    def reward(self, field: str) -> float | None:
        """The number at a dotted path beside the messages, None where absent or null; else `TranscriptError`."""
        value: object = self.about
        for part in field.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is None:
            return None
        if not isinstance(value, int | float):
            raise TranscriptError(f"conversation {self.index}: `{field}` is not a number: {value!r:.60}")
        return float(value)


@dataclass(frozen=True)
class Transcript:
    """A whole file."""

    sha256: str  # digest of its bytes
    conversations: tuple[Conversation, ...]  # its conversations, in order

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


class _Lenient(BaseModel):
    """Reads what it needs and ignores the rest: the format has many dialects."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class _Function(_Lenient):
    name: str
    arguments: str | dict[str, object] | None = None


class _CallMessage(_Lenient):
    id: str | None = None
    function: _Function


class _ContentPart(_Lenient):
    type: str = "text"
    text: str = ""


class _Message(_Lenient):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[_ContentPart] | None = None
    name: str | None = None
    tool_calls: list[_CallMessage] | None = None
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


def read_transcript(path: Path) -> Transcript:
    """Read a transcript; else `TranscriptError` names the line, or the conversation and the message."""
    try:
        raw = read_file(path, name="the transcript", most_bytes=_MOST_BYTES)
    except ConfigurationFileError as error:
        raise TranscriptError(str(error)) from error
    try:
        items = _items(raw, str(path))
        if not items:
            raise TranscriptError(f"{path} holds no conversation")
        conversations = tuple(_conversation(index, item) for index, item in enumerate(items))
    except RecursionError as error:
        raise TranscriptError(f"{path} nests too deep to be read; leave out the conversation that does") from error
    return Transcript(hashlib.sha256(raw).hexdigest(), conversations)


def _items(raw: bytes, origin: str) -> list[object]:
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TranscriptError(f"{origin} is not UTF-8 text: {error}") from error
    try:
        value = json.loads(text)
    except ValueError as whole:  # no JSON, or a number of thousands of digits
        return list(_lines(text, origin, whole))
    if isinstance(value, list) and not _is_messages(value):
        return value
    return [value]


def _lines(text: str, origin: str, whole: ValueError) -> Iterator[object]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except ValueError as error:
            if number == 1:  # then it is no JSON-lines file at all: say what is wrong with the file as a whole
                raise TranscriptError(f"{origin} is neither JSON nor JSON lines: {whole}") from whole
            raise TranscriptError(f"{origin}, line {number} is not JSON: {error}") from error


def _is_messages(value: list[object]) -> bool:
    return bool(value) and all(isinstance(item, dict) and "role" in item for item in value)


def _conversation(index: int, item: object) -> Conversation:
    about: dict[str, object] = {}
    messages = item
    if isinstance(item, dict):
        key = next((key for key in MESSAGES_KEYS if key in item), None)
        if key is None:
            raise TranscriptError(f"conversation {index}: has neither `messages` nor `traj`; its keys: {sorted(item)}")
        messages = item[key]
        about = {name: value for name, value in item.items() if name != key}
    if not isinstance(messages, list):
        raise TranscriptError(f"conversation {index}: its messages are a {type(messages).__name__}, not a list")
    calls, stray_results = _calls([_message(index, position, raw) for position, raw in enumerate(messages)])
    return Conversation(index, calls, stray_results, about)


def _message(conversation: int, position: int, raw_message: object) -> _Message:
    try:
        return _Message.model_validate(raw_message)
    except ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(map(str, fault["loc"])) or "message"
        raise TranscriptError(f"conversation {conversation}, message {position}, {field}: {fault['msg']}") from error


def _calls(messages: list[_Message]) -> tuple[tuple[ToolCall, ...], int]:
    """Pair calls and results: by id, and where a result has none by the tool's name, else in order."""
    call_messages: list[_CallMessage] = []
    answers: dict[int, str] = {}
    stray_results = 0
    for message in messages:
        call_messages += message.tool_calls or []
        if message.role != "tool":
            continue
        open_calls = [index for index in range(len(call_messages)) if index not in answers]
        answered = next((index for index in open_calls if _answers(message, call_messages[index])), None)
        if answered is None:
            stray_results += 1
        else:
            answers[answered] = message.text
    calls = tuple(
        ToolCall(index, call.function.name, call.id, _digest(call.function.arguments), answers.get(index))
        for index, call in enumerate(call_messages)
    )
    return calls, stray_results


def _answers(message: _Message, call: _CallMessage) -> bool:
    if message.tool_call_id is not None and call.id is not None:
        return message.tool_call_id == call.id
    return message.name is None or message.name == call.function.name


def _digest(arguments: str | dict[str, object] | None) -> str:
    """Digest of the arguments' canonical JSON; what has none, or is not JSON, counts as the text that it is."""
    try:
        return digest(json.loads(arguments) if isinstance(arguments, str) else arguments)
    except (ArgumentError, ValueError, RecursionError):
        return digest(json.dumps(arguments, sort_keys=True))
