"""Import of transcripts: recorded calls as decisions, executions and quality impacts; what was not recorded is null.

A transcript has no times: every decision is dated to the moment of its import and marked `imported`. Ids are digests of
what was said and called up to the call, and of its cell: whatever file it stands in, grown or mended, the same call is
the same events. A second import is dated anew, so it is dropped only within the hour of events that the worker holds in
memory.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydantic import ValidationError

from producers.delivery.recorder import Recorder
from producers.importers.steps import TranscriptError
from producers.wire.decision import Allow, Decision, Provenance
from producers.wire.events import ExecutionStatus, Quality
from producers.wire.model import NAME_PATTERN

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from datetime import datetime

    from producers.delivery.kafka_emitter import DeliveryStats, Emitter
    from producers.importers.catalog import Catalog
    from producers.importers.transcript import Conversation, ToolCall, Transcript
    from producers.wire.contract import ActionContract
    from producers.wire.events import EventRecord

IMPORTS = "/imports/"  # how the `source` of every imported event begins
TOOL_ERROR = "tool_error"  # `error.type` of a call whose result reports an error
_IN_FLIGHT_LIMIT = 50_000
_LONGEST_ID = 200  # characters
_RECORDED = Decision(result=Allow(reason="recorded"), provenance=Provenance.IMPORTED)


@dataclass
class ToolCount:
    """Calls of one tool that were imported, and of those how many ran, failed, or were never answered."""

    calls: int = 0
    executed: int = 0
    failed: int = 0
    unanswered: int = 0


@dataclass
class ImportCounts:
    """What an import did."""

    tools: dict[str, ToolCount] = field(default_factory=dict)  # counts by tool
    skipped: Counter[str] = field(default_factory=Counter)  # calls of tools that the catalog lacks, by tool
    left_out: Counter[str] = field(default_factory=Counter)  # what else was not counted, by reason
    quality_checks: int = 0  # executions with a reward
    events: int = 0  # events of the calls
    known: int = 0  # of these, events that were imported before, and so were not emitted again


def require_usable(transcript: Transcript, catalog: Catalog, *, reward_field: str | None, skip_unknown: bool) -> None:
    """Make sure, before anything is emitted, that a transcript can be imported with a catalog.

    Raises `UnknownToolsError` where the catalog lacks tools that may not be left out, `TranscriptError` where no
    conversation has the reward, or where a call cannot be written as an event.
    """
    if not skip_unknown:
        catalog.require(transcript.tools)
    if reward_field is not None:
        transcript.require_reward(reward_field)
    for conversation in transcript.conversations:
        for call in conversation.calls:
            if call.tool in catalog.tools:
                _contract(catalog, conversation, call)


class TranscriptImporter:
    """Imports one transcript, conversation by conversation; raises as `require_usable` does.

    `reward_field` is the dotted path of a conversation's reward: one below 1 fails the quality check of every executed
    call, and None emits no quality. With `skip_unknown`, tools that the catalog lacks are left out. Events whose ids
    are `known` from an earlier import are counted and not emitted: dated anew, they would count again.
    """

    def __init__(
        self,
        transcript: Transcript,
        catalog: Catalog,
        emitter: Emitter,
        *,
        reward_field: str | None,
        key: bytes | None,
        now: Callable[[], datetime],
        skip_unknown: bool = False,
        known: Collection[str] = (),
    ) -> None:
        require_usable(transcript, catalog, reward_field=reward_field, skip_unknown=skip_unknown)
        self._transcript, self._catalog, self._emitter, self._reward_field = transcript, catalog, emitter, reward_field
        self._ids = _CallIds()
        self.counts = ImportCounts()
        once = _OnlyNew(emitter, known, self.counts)
        self._recorder = Recorder(once, source=f"{IMPORTS}{transcript.sha256[:16]}", key=key, now=now, new_id=self._ids)

    def add(self, conversation: Conversation) -> None:
        """Emit everything about one conversation."""
        reward = conversation.reward(self._reward_field) if self._reward_field is not None else None
        self.counts.left_out += conversation.left_out
        if self._reward_field is not None and reward is None:
            self.counts.left_out[f"conversations without a number at {self._reward_field}"] += 1
        for call in conversation.calls:
            if call.tool in self._catalog.tools:
                self._add_call(conversation, call, reward)
            else:
                self.counts.skipped[call.tool] += 1
        while self._emitter.stats.in_flight > _IN_FLIGHT_LIMIT:  # the file is patient, the emitter's queue is not
            self._emitter.flush(0.5)

    def _add_call(self, conversation: Conversation, call: ToolCall, reward: float | None) -> None:
        contract = _contract(self._catalog, conversation, call)
        stage = self._catalog.stage_of(call.tool)
        actor = contract.actor
        place = (
            contract.target.environment,
            contract.workflow,
            call.tool,
            stage.value,
            actor.model,
            actor.prompt_version,
        )
        self._ids.begin(call.key, *place)
        receipt = self._recorder.decided(contract, _RECORDED, stage=stage)
        count = self.counts.tools.setdefault(call.tool, ToolCount())
        count.calls += 1
        self.counts.events += 1
        if call.result is None:
            count.unanswered += 1
            return
        status = ExecutionStatus.FAILED if call.failed else ExecutionStatus.SUCCEEDED
        error_type = TOOL_ERROR if call.failed else None
        self._recorder.executed(receipt, status, error_type=error_type, provenance=Provenance.IMPORTED)
        count.executed += 1
        count.failed += call.failed
        self.counts.events += 1
        if reward is not None:
            score = reward if 0 <= reward <= 1 else None
            self._recorder.impact(receipt, Quality(passed=reward >= 1, score=score, evaluator=self._reward_field))
            self.counts.quality_checks += 1
            self.counts.events += 1


class _OnlyNew:
    """Hands on the events that nobody imported before."""

    def __init__(self, emitter: Emitter, known: Collection[str], counts: ImportCounts) -> None:
        self._emitter, self._known, self._counts = emitter, known, counts

    def emit(self, record: EventRecord) -> None:
        if self._known and json.loads(record.value)["id"] in self._known:
            self._counts.known += 1
        else:
            self._emitter.emit(record)

    def flush(self, timeout_s: float) -> int:
        return self._emitter.flush(timeout_s)

    @property
    def stats(self) -> DeliveryStats:
        return self._emitter.stats


def _contract(catalog: Catalog, conversation: Conversation, call: ToolCall) -> ActionContract:
    try:
        return catalog.contract(
            call.tool,
            conversation=conversation.calls[0].key[:32],
            tool_call=_bounded(call.tool_call),
            arguments_sha256=call.arguments_sha256,
        )
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise TranscriptError(
            f"{conversation.place}, call {call.index} of {call.tool!r}: {where}: {fault['msg']}"
        ) from error


def _bounded(tool_call: str | None) -> str | None:
    """An id as an event can hold it: a longer one is known by its digest."""
    if tool_call is None or (len(tool_call) <= _LONGEST_ID and re.match(NAME_PATTERN, tool_call)):
        return tool_call
    return "sha256:" + hashlib.sha256(tool_call.encode("utf-8", "surrogatepass")).hexdigest()


class _CallIds:
    """Ids of one call's events: the same for the same call, different for any two calls, in any file."""

    def __init__(self) -> None:
        self._base = hashlib.sha256()
        self._serial = 0

    def begin(self, *place: str | None) -> None:
        self._base = hashlib.sha256("\n".join(map(str, place)).encode())
        self._serial = 0

    def __call__(self) -> str:
        self._serial += 1
        digest = self._base.copy()
        digest.update(f"\n{self._serial}".encode())
        return digest.hexdigest()[:32]
