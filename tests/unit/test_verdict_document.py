"""The verdict document: what is written, what is read back, and the event that publishes it."""

from __future__ import annotations

import json

import pytest
from verdict_cases import CELL, a_row, document_of, executions, gate_file, verdict_on

from analytics.judging.judge import recommendation_of
from analytics.verdicts.document import UnknownShapeError, VerdictDocument
from producers.wire.events import event_from_bytes, event_to_bytes
from producers.wire.receipt import Cell

ERRORS = gate_file("signal: execution_error, role: guardrail, limit: 0.1")


def test_the_document_is_json_and_the_event_survives_the_wire() -> None:
    found = verdict_on(ERRORS, a_row(**executions(104, 42)))
    document = json.loads(json.dumps(document_of(found), allow_nan=False))
    assert document["signals"][0]["state"] == "fail"
    assert document["risk_class"] == "external_effect"
    assert document["watermark"] == "2026-03-14T12:00:59Z"
    event = recommendation_of(VerdictDocument.from_verdict(found))
    assert event_from_bytes(event_to_bytes(event)) == event
    assert event.id == found.verdict_id
    assert event.subject == CELL.key


def test_a_row_of_a_newer_release_is_read_and_one_of_no_release_is_refused_by_name() -> None:
    document = VerdictDocument.from_verdict(verdict_on(ERRORS, a_row(**executions(104, 42))))
    stored = json.loads(document.model_dump_json())
    newer = {**stored, "later": 1, "signals": [{**part, "later": 1} for part in stored["signals"]]}
    assert VerdictDocument.from_json(json.dumps(newer)) == document
    for wrong in ({"verdict": "MAYBE"}, {"lake_version": "7"}, {"watermark": None}):
        with pytest.raises(UnknownShapeError, match=next(iter(wrong))):
            VerdictDocument.from_json(json.dumps({**stored, **wrong}))
    with pytest.raises(UnknownShapeError, match="the beginning"):
        VerdictDocument.from_json("{")


def test_a_cell_with_a_very_long_name_still_has_a_subject() -> None:
    long = Cell('"' * 200, '"' * 200, '"' * 200, "draft_write", '"' * 200)
    event = recommendation_of(VerdictDocument.from_verdict(verdict_on(ERRORS, a_row(long, **executions(377)))))
    assert event.subject == long.key
