from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from lakes_of_events import EventLake

from analytics.lake.table_schemas import EVENTS
from producers.errors import UsageError
from stagekeeper.commands import cli

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result


@pytest.fixture
def events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EventLake:
    events = EventLake.at(tmp_path)
    events.act(0, "u-1")
    events.store()
    monkeypatch.setenv("STAGEKEEPER_LAKE_ROOT", events.lake.root)
    return events


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["audit", *arguments])


def test_keys_seals_proofs_and_tiles(events: EventLake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, proof = tmp_path / "audit.key", tmp_path / "proof"
    public = run("keygen", "audit.example", "--out", str(key)).output.strip()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert run("keygen", "audit.example", "--out", str(key)).exit_code != 0
    monkeypatch.setenv("STAGEKEEPER_AUDIT_KEY_FILE", str(key))
    sealed = json.loads(run("seal", "--json").output)
    assert (sealed["entries"], sealed["signed"], len(sealed["logs"])) == (2, True, 2)
    identity = events.lake.scan(EVENTS).collect()["id"][0]
    assert run("prove", identity, "--out", str(proof)).exit_code == 0
    monkeypatch.delenv("STAGEKEEPER_AUDIT_KEY_FILE")
    monkeypatch.delenv("STAGEKEEPER_LAKE_ROOT")
    proven = run("verify-proof", str(proof), "--key", public)
    assert proven.exit_code == 0, proven.output
    assert identity in proven.output
    written = json.loads(run("tiles", str(tmp_path / "tiles"), "--lake", events.lake.root, "--json").output)["tiles"]
    assert list(written.values()) == [1, 1]


def test_verify_tells_a_whole_record_from_a_changed_one(events: EventLake) -> None:
    assert run("seal").output.startswith("2 entries sealed; 2 logs, not signed.")
    whole = run("verify")
    assert whole.exit_code == 0, whole.output
    assert "The record is whole." in whole.output
    assert "No key is known" in whole.output
    events.lake.append(EVENTS, events.lake.scan(EVENTS).collect())
    changed = run("verify", "--json")
    assert changed.exit_code == 1
    document = json.loads(changed.output)
    assert not document["whole"]
    assert [fault["what"] for log in document["logs"] for fault in log["faults"]] == ["added", "added"]


def test_a_proof_or_a_key_that_cannot_be_written_is_named(events: EventLake, tmp_path: Path) -> None:
    run("seal")
    identity, missing = events.lake.scan(EVENTS).collect()["id"][0], tmp_path / "no" / "file"
    for words in (["prove", identity, "--out", str(missing)], ["keygen", "audit.example", "--out", str(missing)]):
        found = run(*words)
        assert isinstance(found.exception, UsageError), words
        assert f"{missing} cannot be written: No such file or directory" in str(found.exception)
