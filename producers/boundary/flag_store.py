"""Entries in a flagd file: single tools, workflows or accounts switched off, and on again; and attempts of actions.

They stand in the targeting of `agent-action-denylist`, and of `agent-action-attempt`, in front of whatever targeting
the flag had before; nothing else in the file is touched.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from producers.boundary.flagd_file import flags_document, read_flag_file
from producers.boundary.policy_flags import ATTEMPT, DENYLIST
from producers.boundary.stage_store import ActionName
from producers.errors import UsageError
from producers.wire.receipt import rung_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Json = Any  # a flagd document, as JSON has it


class FlagFileError(UsageError):
    """The flag file cannot be read, understood or written."""


class DenylistEntry(NamedTuple):
    """What is switched off: every action that has all of the values given."""

    tool: str | None = None
    workflow: str | None = None
    account: str | None = None

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self._asdict().items() if value is not None)


def read_flags(path: Path) -> dict[str, Json]:
    """The document of a flag file; `FlagFileError` where there is none, or it cannot be used."""
    try:
        return flags_document(read_flag_file(path))
    except OSError as error:
        raise _unreadable(path, error) from error
    except (ValueError, TypeError) as error:
        raise FlagFileError(
            f"{path} is not a flagd file: {error}. examples/flags.json is one to start from."
        ) from error


def denylist_entries(document: dict[str, Json]) -> list[DenylistEntry]:
    """What is switched off in a document by entries of ours."""
    conditions, _ = _conditions(_denylist(document))
    return [DenylistEntry(**{part["=="][0]["var"]: part["=="][1] for part in item["and"]}) for item in conditions]


def disable(path: Path, entry: DenylistEntry) -> str | None:
    """Add an entry; the new SHA-256, None where it was there already, `FlagFileError` where it cannot be added."""
    return _rewrite(path, entry, enabled=False, before_write=lambda _sha256: None)


def enable(
    path: Path, entry: DenylistEntry, *, before_write: Callable[[str], None] = lambda _sha256: None
) -> str | None:
    """Take exactly this entry away; the file's new SHA-256, None where there was no such entry.

    `before_write` gets the new SHA-256 before the file has it: nothing is released off the record. What it raises
    leaves the file as it is; `FlagFileError` says that the file cannot be read, understood or written.
    """
    return _rewrite(path, entry, enabled=True, before_write=before_write)


def start_attempt(
    path: Path, action: ActionName, *, earlier: int = 1, before_write: Callable[[int, int, str], None]
) -> int:
    """Put an action's next attempt into force, after `earlier`, the highest that is on record elsewhere; its number.

    `before_write` gets the number before, the new one and the new SHA-256 before the file has it: no attempt begins off
    the record. What it raises leaves the file as it is; `FlagFileError` says that it cannot be read or written.
    """
    with _locked(path):
        document = read_flags(path)
        flag = document["flags"].setdefault(ATTEMPT.key, _no_attempts())
        if not isinstance(flag, dict) or flag.get("state") != "ENABLED" or not isinstance(flag.get("variants"), dict):
            raise FlagFileError(f"{ATTEMPT.key} is disabled or has no variants; set its state to ENABLED, or remove it")
        attempts, rest = _attempts(flag)
        # What a targeting of somebody's own says of the action is not known: the next number is one that nobody used.
        used = [attempts.get(action, ATTEMPT.safe), *([] if rest is None else flag["variants"].values())]
        before = max((rung_of(str(value)) or (1, None))[0] for value in used)
        attempt = max(before, earlier) + 1
        attempts[action] = flag["variants"][str(attempt)] = str(attempt)
        chain = [part for named, variant in attempts.items() for part in (_named(named), variant)]
        flag["targeting"] = {"if": [*chain, rest]}
        text = (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()
        before_write(before, attempt, hashlib.sha256(text).hexdigest())
        _replace(path, text)
        return attempt


def _no_attempts() -> Json:
    metadata = {"owner": "stagekeeper", "kind": "permanent", "description": ATTEMPT.purpose}
    return {"state": "ENABLED", "variants": {"1": "1"}, "defaultVariant": "1", "metadata": metadata}


def _attempts(flag: dict[str, Json]) -> tuple[dict[ActionName, str], Json]:
    """The attempts of our entries by action, and what other targeting there is."""
    targeting: Json = flag.get("targeting") or None
    match targeting:
        case {"if": [_, _, _, *_] as parts} if len(parts) % 2:
            names = [name for condition in parts[:-1:2] if (name := _action_of(condition)) is not None]
            if len(names) == len(parts) // 2 and all(isinstance(variant, str) for variant in parts[1::2]):
                return dict(zip(names, parts[1::2], strict=True)), parts[-1]
    return {}, targeting


def _named(action: ActionName) -> Json:
    return {"and": [{"==": [{"var": name}, value]} for name, value in action._asdict().items()]}


def _action_of(condition: Json) -> ActionName | None:
    match condition:
        case {
            "and": [
                {"==": [{"var": "environment"}, str(environment)]},
                {"==": [{"var": "workflow"}, str(workflow)]},
                {"==": [{"var": "tool"}, str(tool)]},
            ]
        } if len(condition) == 1:
            return ActionName(environment, workflow, tool)
    return None


def _rewrite(path: Path, entry: DenylistEntry, *, enabled: bool, before_write: Callable[[str], None]) -> str | None:
    if not any(entry):
        raise UsageError("say what to switch: a tool, a workflow or an account")
    with _locked(path):
        document = read_flags(path)
        flag = _denylist(document)
        conditions, rest = _conditions(flag)
        condition = _condition(entry)
        if (condition in conditions) is not enabled:
            return None
        conditions = [other for other in conditions if other != condition] if enabled else [*conditions, condition]
        if conditions:
            flag["targeting"] = {"if": [{"or": conditions}, _variant(flag, denied=True), rest]}
        elif rest is not None:
            flag["targeting"] = rest
        else:
            del flag["targeting"]
        text = (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()
        sha256 = hashlib.sha256(text).hexdigest()
        before_write(sha256)
        _replace(path, text)
        return sha256


def _unreadable(path: Path, error: OSError) -> FlagFileError:
    why = error.strerror or error
    return FlagFileError(f"the flag file {path} cannot be read: {why}. Name it with --flags or STAGEKEEPER_FLAG_FILE.")


def _denylist(document: dict[str, Json]) -> dict[str, Json]:
    flag = document["flags"].get(DENYLIST.key)
    if not isinstance(flag, dict):
        raise FlagFileError(
            f"the file has no flag {DENYLIST.key}, so every action is denied; take it over from examples/flags.json"
        )
    if flag.get("state") != "ENABLED":
        raise FlagFileError(f"{DENYLIST.key} is disabled, so every action is denied; set its state to ENABLED")
    _variant(flag, denied=True)
    return flag


def _variant(flag: dict[str, Json], *, denied: bool) -> str:
    names = [name for name, value in flag.get("variants", {}).items() if value is denied]
    if not names:
        raise FlagFileError(f"{DENYLIST.key} has no variant whose value is {str(denied).lower()}; add one")
    return str(names[0])


def _condition(entry: DenylistEntry) -> Json:
    return {"and": [{"==": [{"var": name}, value]} for name, value in entry._asdict().items() if value is not None]}


def _conditions(flag: dict[str, Json]) -> tuple[list[Json], Json]:
    match flag.get("targeting"):
        case {"if": [{"or": [*conditions]}, str(), rest]} if all(map(_is_ours, conditions)):
            return list(conditions), rest
        case targeting:
            return [], targeting or None


def _is_ours(condition: Json) -> bool:
    match condition:
        case {"and": [_, *_] as parts} if len(condition) == 1:
            return all(map(_is_part, parts))
    return False


def _is_part(part: Json) -> bool:
    match part:
        case {"==": [{"var": str(name)}, str()]}:
            return name in DenylistEntry._fields
    return False


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the file against other operators; it is replaced while held, so the lock is checked against its name."""
    while True:
        try:
            # Without O_NONBLOCK, opening a FIFO would wait for somebody to write to it.
            held = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise _unreadable(path, error) from error
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
            if os.fstat(held).st_ino == path.stat().st_ino:
                yield
                return
        finally:
            os.close(held)


def _replace(path: Path, text: bytes) -> None:
    """Put the new text in the file's place in one step, on the medium before its name points to it."""
    target = path.resolve()
    try:
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as draft:
            try:
                draft.write(text)
                draft.flush()
                os.fsync(draft.fileno())
                Path(draft.name).chmod(target.stat().st_mode & 0o777)
                Path(draft.name).replace(target)
            except OSError:
                Path(draft.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise FlagFileError(f"{path} cannot be written: {error.strerror}; it is as it was") from error
