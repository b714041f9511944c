"""The examples run, and show what they say they show."""

from __future__ import annotations

import json
import runpy
from datetime import date
from typing import TYPE_CHECKING

from documents import ROOT

from producers.boundary.authorization import FileAuthorizer
from producers.boundary.flags import FlagEvaluator
from producers.boundary.policy_flags import FLAGS
from producers.delivery.outbox import Outbox
from producers.wire.events import ActionDecided, ActionExecuted, event_from_bytes

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

EXAMPLES = ROOT / "examples"


def test_the_router_drafts_for_most_accounts_and_refunds_for_some(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STAGEKEEPER_HOME", str(tmp_path))
    monkeypatch.delenv("STAGEKEEPER_KAFKA_BOOTSTRAP_SERVERS", raising=False)
    program = EXAMPLES / "router.py"
    runpy.run_path(str(program), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert sum("| refunded 12 euros" in line for line in lines) == 2
    assert sum("| drafted 12 euros" in line for line in lines) == 3
    with Outbox(tmp_path / "outbox.db") as outbox:
        events = [event_from_bytes(record.value) for record in outbox.after(0, 100)]
    assert sum(isinstance(event, ActionDecided) for event in events) == 10
    assert sum(isinstance(event, ActionExecuted) for event in events) == 10
    assert len(program.read_text().splitlines()) <= 40, "it is to be read at a glance"


def test_every_flag_of_the_example_is_ours_owned_dated_and_has_an_end() -> None:
    stated = json.loads((EXAMPLES / "flags.json").read_text())["flags"]
    assert set(stated) == {flag.key for flag in FLAGS}
    for flag in stated.values():
        assert flag["metadata"]["owner"]
        assert date.fromisoformat(flag["metadata"]["review_date"])
        assert flag["metadata"]["cleanup_condition"]


def test_the_example_flags_and_the_example_authorization_can_be_used() -> None:
    held = FlagEvaluator.from_file(EXAMPLES / "flags.json")
    try:
        assert [each.error for each in held.evaluate(("anybody", ())).evaluations] == [None] * len(FLAGS)
    finally:
        held.close()
    FileAuthorizer.load(EXAMPLES / "authorization.yaml")
