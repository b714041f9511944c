"""Steps of a conversation, calls and results, read from the shapes in which messages are recorded.

Shapes are told by their fields, message by message, so that one file may mix them: OpenAI's chat format with its older
function calls, OpenAI's response items, Anthropic's content blocks, and the messages of tau2, AgentDojo and Inspect.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from producers.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

_AGENTS: Final = frozenset({"assistant", "ai", "model"})
_TOOLS: Final = frozenset({"tool", "function"})
_OTHERS: Final = frozenset({"system", "developer", "user", "human", "exit", "critic"})
_USE: Final = frozenset({"tool_use", "server_tool_use", "mcp_tool_use"})
_CALL_ITEMS: Final = frozenset(
    {"function_call", "custom_tool_call", "shell_call", "local_shell_call", "apply_patch_call", "computer_call"}
)
_FAILED_ITEMS: Final = frozenset({"failed", "error", "incomplete"})


class TranscriptError(UsageError):
    """A file is not a transcript; the message names the place."""


@dataclass(frozen=True)
class Call:
    """A tool call: the tool's name, the model's id of the call (None where it has none), and its arguments."""

    tool: str
    id: str | None
    arguments: object


@dataclass(frozen=True)
class Result:
    """An answer: to which id or tool where that is said, and whether it failed where the recording says so."""

    id: str | None
    tool: str | None
    answer: object
    failed: bool | None


@dataclass(frozen=True)
class Words:
    """Anything else that was said: it ends a group of calls."""

    text: str


@dataclass(frozen=True)
class NotTheAgents:
    """A call or result of somebody else, such as a simulated user; the reason says whose."""

    reason: str


Step: TypeAlias = Call | Result | Words | NotTheAgents
_Fields: TypeAlias = dict[str, object]


def steps_of(message: object, place: str) -> Iterator[Step]:
    """The steps that a message records, in order; `TranscriptError` names the place where it has no shape we know."""
    if not isinstance(message, dict):
        raise TranscriptError(f"{place} is {type(message).__name__}, not a message")
    if "role" not in message and isinstance(inner := message.get("message"), dict):
        message = inner  # a line of a coding agent's log
    role, kind = message.get("role"), message.get("type")
    if role is None and isinstance(kind, str):
        yield from _item(message, kind, place)
    elif not isinstance(role, str):
        raise TranscriptError(f"{place}, role: is {role!r:.40}, not a role")
    elif role in _AGENTS:
        yield from _of_agent(message, place)
    elif role in _TOOLS:
        yield from _of_tool(message, place)
    elif role in _OTHERS:
        yield from _of_other(message, place)
    else:
        raise TranscriptError(f"{place}, role: {role!r} is none of assistant, tool, function, user, system, developer")


def text_of(value: object) -> str:
    """What an answer says: a text, the texts of its parts, or its JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(part, str) or _is_text(part) for part in value):
        return "".join(part if isinstance(part, str) else _part_text(part) for part in value)
    return json.dumps(value, ensure_ascii=False, default=str)


def _is_text(part: object) -> bool:
    if not isinstance(part, dict) or not ("text" in part or "content" in part):
        return False
    kind = part.get("type", "text")
    return isinstance(kind, str) and kind in {"text", "input_text", "output_text"}


def _part_text(part: _Fields) -> str:
    return text_of(part.get("text", part.get("content")))


def _item(item: _Fields, kind: str, place: str) -> Iterator[Step]:
    """An item of OpenAI's Responses, where calls and results are items beside the messages."""
    id_ = _name(item.get("call_id")) or _name(item.get("id"))
    if kind == "mcp_call":
        yield Call(_tool(item, place), id_, item.get("arguments"))
        if item.get("output") is not None or item.get("error"):
            yield Result(id_, None, item.get("output"), _flag(item))
    elif kind in _CALL_ITEMS:
        tool = _name(item.get("name")) or (
            kind.removesuffix("_call") if kind != "function_call" else _tool(item, place)
        )
        yield Call(tool, id_, next((item[key] for key in ("arguments", "input", "action") if key in item), None))
    elif kind.endswith("_call_output"):
        yield Result(_name(item.get("call_id")), _name(item.get("name")), item.get("output"), _flag(item))


def _of_agent(message: _Fields, place: str) -> Iterator[Step]:
    yield from _blocks(message, place)
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise TranscriptError(f"{place}, tool_calls: is {type(calls).__name__}, not a list")
    for position, call in enumerate(calls):
        yield _tool_call(call, f"{place}, tool_calls.{position}")
    if isinstance(old := message.get("function_call"), dict):
        yield Call(_tool(old, f"{place}, function_call"), None, old.get("arguments"))


def _tool_call(call: object, place: str) -> Step:
    if not isinstance(call, dict):
        raise TranscriptError(f"{place} is {type(call).__name__}, not a tool call")
    if call.get("requestor") == "user":
        return NotTheAgents("calls of a simulated user")
    id_ = _name(call.get("id"))
    for key in ("function", "custom"):
        if isinstance(inner := call.get(key), dict):
            return Call(_tool(inner, f"{place}.{key}"), id_, _arguments(inner))
    if isinstance(name := call.get("function"), str) and name:
        return Call(name, id_, _arguments(call))
    return Call(_tool(call, place), id_, _arguments(call))


def _arguments(call: _Fields) -> object:
    return next((call[key] for key in ("arguments", "args", "input") if key in call), None)


def _of_tool(message: _Fields, place: str) -> Iterator[Step]:
    if isinstance(several := message.get("tool_messages"), list):
        for each in several:
            yield from steps_of(each, place)
        return
    if message.get("requestor") == "user":
        yield NotTheAgents("results of a simulated user's calls")
        return
    blocks = list(_blocks(message, place))
    if any(isinstance(step, Result) for step in blocks):
        yield from blocks
        return
    answers = message["tool_call_id"] if "tool_call_id" in message else message.get("id")
    tool = _name(message.get("name")) or _name(message.get("function"))
    yield Result(_name(answers), tool, message.get("content"), _flag(message))


def _of_other(message: _Fields, place: str) -> Iterator[Step]:
    calls = message.get("tool_calls")
    for _ in calls if isinstance(calls, list) else ():
        yield NotTheAgents("calls of a simulated user")
    blocks = list(_blocks(message, place))
    yield from blocks
    if not any(isinstance(step, Result) for step in blocks):
        yield Words(text_of(message.get("content")))


def _blocks(message: _Fields, place: str) -> Iterator[Step]:
    """Anthropic's content blocks: calls and results stand among the texts."""
    content = message.get("content")
    for position, block in enumerate(content if isinstance(content, list) else ()):
        kind = block.get("type") if isinstance(block, dict) else None
        if not isinstance(kind, str):
            continue
        if kind in _USE:
            yield Call(_tool(block, f"{place}, content.{position}"), _name(block.get("id")), block.get("input"))
        elif kind.endswith("tool_result"):
            yield Result(_name(block.get("tool_use_id")), None, block.get("content"), _flag(block))


def _flag(result: _Fields) -> bool | None:
    """Whether a result is recorded as failed; None where the recording does not say."""
    for key in ("is_error", "isError", "error", "failed"):
        value = result.get(key)
        if isinstance(value, bool):
            return value
        if value:
            return True
    status = result.get("status")
    return True if isinstance(status, str) and status.lower() in _FAILED_ITEMS else None


def _tool(call: _Fields, place: str) -> str:
    if (name := _name(call.get("name"))) is None:
        raise TranscriptError(f"{place}.name: the tool has no name")
    return name


def _name(value: object) -> str | None:
    """A name or an id; an empty one is none, and a number is its digits."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return str(value) or None
