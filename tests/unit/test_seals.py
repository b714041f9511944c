"""A sealed lake: whatever is changed in it is found, and said where."""

from __future__ import annotations

import base64
import copy
import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake
from lakes_of_events import NOON, EventLake

from analytics.audit import sealing
from analytics.audit.merkle import Frontier, ProofError
from analytics.audit.proof import check_proof, prove
from analytics.audit.seal_check import LogCheck, SealCheck
from analytics.audit.sealing import Anchor, KnownHeads, SealedVersion, Sealer, heads
from analytics.audit.signed_note import Checkpoint, Signer
from analytics.audit.tiles import export_tiles
from analytics.judging.judge import Judge
from analytics.lake.chain import AlteredHistoryError
from analytics.lake.commits import Advance
from analytics.lake.errors import FencedError, ForgottenError, LakeError
from analytics.lake.table_schemas import COLUMNS, EVENTS, SEALS, TABLES, VERDICTS
from analytics.lake.tables import Lake

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SIGNER = Signer.new("audit.example")
LATER = NOON + timedelta(days=10)
GATES = (
    "version: 1\ngates: [{name: g, unit: action, signals: [{signal: execution_error, role: guardrail, limit: 0.1}]}]"
)


def seal(lake: Lake, anchor: Anchor | None = None, at: datetime = LATER) -> int:
    return Sealer(lake, [SIGNER], anchor, now=lambda: at).run()


def check(root: str, checkpoints: Sequence[str] = (), **more: Any) -> list[LogCheck]:
    arguments = {"now": LATER, "kept": None, "verifiers": [SIGNER.verifier]} | more
    return SealCheck(Lake.open(root), **arguments).run(checkpoints)


def faults(checks: list[LogCheck]) -> list[tuple[str, int | None]]:
    return [(fault.what, fault.position) for one in checks for fault in one.faults]


def rewrite(root: str, table: str, change: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    """What somebody with write access can do: put other rows in the place of all, leaving the numbers in the log."""
    rows = change(Lake.open(root).scan(table).collect())
    write_deltalake(f"{root}/{table}", rows.to_arrow().cast(TABLES[table]), mode="overwrite")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> EventLake:
    folder = tmp_path_factory.mktemp("sealed")
    events = EventLake.at(folder)
    (folder / "gates.yaml").write_text(GATES)
    judge = Judge(events.lake, folder / "gates.yaml", settle_s=0)
    for part in range(3):
        for minute in range(4):
            events.act(part * 4 + minute, f"u-{minute}", failed=minute == 0, latency_ms=5.0)
        events.store()
        judge.tick(NOON + timedelta(minutes=part * 4 + 5))
        if part != 1:
            seal(events.lake)
    return events


@pytest.fixture
def events(template: EventLake, tmp_path: Path) -> EventLake:
    shutil.copytree(template.lake.root, tmp_path / "lake")
    emitter, ingest, recorder = copy.deepcopy((template.emitter, template.ingest, template.recorder))
    events = EventLake(Lake.open(str(tmp_path / "lake")), ingest, emitter)
    events.recorder = recorder
    return events


@pytest.fixture
def lake(events: EventLake) -> Lake:
    return events.lake


def test_a_lake_that_nobody_changed_is_whole(lake: Lake) -> None:
    checks = check(lake.root)
    assert faults(checks) == []
    by_log = {one.log: one for one in checks}
    for topic in ("decisions", "outcomes"):
        events = by_log[f"stagekeeper/events/v1/in-process/agent.{topic}/0"]
        assert (events.size, events.checked, events.signed) == (12, 12, True)
    ledger = by_log["stagekeeper/verdicts/v1"]
    assert ledger.checked == ledger.size == lake.scan(VERDICTS).filter("changed").collect().height > 0
    assert seal(lake) == 0


def other(value: Any, kind: pl.DataType) -> Any:
    """Another value of a column's kind."""
    if kind == pl.Binary:
        return value[:-1] + bytes([value[-1] ^ 1])
    if isinstance(kind, pl.Datetime):
        return (value or NOON) + timedelta(microseconds=1)
    if kind == pl.String:
        return f"{value or ''}x"
    return (value or 0) + 1


COLUMNS_OF_EVENTS = [(name, kind) for name, kind in COLUMNS[EVENTS].items()]


@pytest.mark.parametrize(("name", "kind"), COLUMNS_OF_EVENTS, ids=[name for name, _ in COLUMNS_OF_EVENTS])
def test_another_value_in_any_column_of_an_event_is_found(lake: Lake, name: str, kind: pl.DataType) -> None:
    def change(rows: pl.DataFrame) -> pl.DataFrame:
        rows = rows.sort("topic", "offset")
        value = pl.Series([other(rows[name][7], kind)], dtype=kind)[0]
        column = rows[name].to_list()
        column[7] = value
        return rows.with_columns(pl.Series(name, column, dtype=kind))

    rewrite(lake.root, EVENTS, change)
    found = faults(check(lake.root))
    named = {position for _, position in found}
    assert found, name
    assert len(found) <= 3, "only what was changed is named"
    assert 7 in named or name in {"log_id", "topic", "partition", "offset"}


MUTATIONS: dict[str, Callable[[pl.DataFrame], pl.DataFrame]] = {
    "removed": lambda rows: rows.slice(0, 5).vstack(rows.slice(6)),
    "cut off": lambda rows: rows.slice(0, rows.height - 1),
    "emptied": lambda rows: rows.clear(),
    "put in twice": lambda rows: rows.vstack(rows.slice(5, 1)),
    "bytes exchanged": lambda rows: rows.with_columns(
        value=pl.concat([rows["value"].slice(1, 1), rows["value"].slice(0, 1), rows["value"].slice(2)])
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_rows_that_are_gone_added_or_exchanged_are_found(lake: Lake, name: str) -> None:
    rewrite(lake.root, EVENTS, lambda rows: MUTATIONS[name](rows.sort("topic", "offset")))
    assert faults(check(lake.root))


@pytest.mark.parametrize(("name", "kind"), COLUMNS[VERDICTS].items(), ids=COLUMNS[VERDICTS].names())
def test_another_value_in_any_column_of_the_ledger_is_found(lake: Lake, name: str, kind: pl.DataType) -> None:
    def change(rows: pl.DataFrame) -> pl.DataFrame:
        rows = rows.sort("changed", "news", descending=[True, False])
        column = rows[name].to_list()
        column[0] = not column[0] if kind == pl.Boolean else other(column[0], kind)
        return rows.with_columns(pl.Series(name, column, dtype=kind))

    rewrite(lake.root, VERDICTS, change)
    assert faults(check(lake.root))


SEALED_COLUMNS = [(name, kind) for name, kind in COLUMNS[SEALS].items() if kind != pl.List(pl.Int64)]


@pytest.mark.parametrize(("name", "kind"), SEALED_COLUMNS, ids=[name for name, _ in SEALED_COLUMNS])
def test_another_value_in_any_column_of_a_seal_is_found(lake: Lake, name: str, kind: pl.DataType) -> None:
    def change(rows: pl.DataFrame) -> pl.DataFrame:
        rows = rows.sort("log", "size")
        column = rows[name].to_list()
        column[0] = other(column[0], kind) if column[0] != b"" else b"\0" * 32
        return rows.with_columns(pl.Series(name, column, dtype=kind))

    rewrite(lake.root, SEALS, change)
    assert faults(check(lake.root))


def forgotten(*_: object, **__: object) -> pl.DataFrame:
    raise ForgottenError("the log was trimmed")


def test_a_log_that_was_forged_whole_has_no_signature_of_the_key(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    rewrite(lake.root, EVENTS, lambda rows: rows.with_columns(user=pl.lit("somebody")))
    shutil.rmtree(f"{lake.root}/{SEALS}")
    forged = Lake.open(lake.root)
    monkeypatch.setattr(forged, "increments", forgotten)
    Sealer(forged, [Signer.new(SIGNER.name)], None, now=lambda: LATER).run()
    assert {what for what, _ in faults(check(lake.root, verifiers=()))} == set()
    found = check(lake.root)
    assert {fault.what for one in found for fault in one.faults} == {"seal"}
    assert "signed by none of the known keys" in found[0].faults[0].detail


def test_a_lake_that_was_put_back_does_not_go_on(lake: Lake, tmp_path: Path) -> None:
    anchor = Anchor(tmp_path / "checkpoints")
    seal(lake, anchor)
    notes = anchor.read()
    rewrite(lake.root, SEALS, lambda rows: rows.sort("log", "size").group_by("log").head(1))
    with pytest.raises(AlteredHistoryError, match="was changed or put back"):
        seal(Lake.open(lake.root), anchor)
    assert anchor.read() == notes
    assert ("checkpoint", None) in faults(check(lake.root, notes.values()))


def test_a_checkpoint_of_another_history_is_named(lake: Lake) -> None:
    log, head = next(iter(heads(lake).items()))
    forged = Checkpoint(log, head.size, Frontier().root).note([SIGNER])
    assert ("checkpoint", None) in faults(check(lake.root, [forged]))
    with pytest.raises(ProofError, match="signed by none"):
        check(lake.root, [Checkpoint(log, head.size, Frontier().root).note([Signer.new("audit.example")])])


def test_compaction_and_retention_break_nothing(lake: Lake) -> None:
    lake.compact(EVENTS)
    lake.compact(SEALS)
    assert faults(check(lake.root)) == []
    gone = 10
    rewrite(lake.root, EVENTS, lambda rows: rows.sort("topic", "offset").slice(gone))
    young = check(lake.root, kept=timedelta(days=30))
    assert [what for what, _ in faults(young)] == ["missing"] * gone
    old = check(lake.root, kept=timedelta(days=30), now=LATER + timedelta(days=31))
    assert faults(old) == []
    assert sum(one.no_longer_kept for one in old) == gone


def test_a_row_before_all_others_is_found(lake: Lake) -> None:
    row = lake.scan(EVENTS).head(1).collect().with_columns(offset=pl.lit(-1, dtype=pl.Int64), id=pl.lit("forged"))
    lake.append(EVENTS, row)
    assert faults(check(lake.root)) == [("added", -1)]


def test_seals_that_are_gone_are_missed_also_without_checkpoints(lake: Lake) -> None:
    DeltaTable(f"{lake.root}/{SEALS}").delete()
    lake = Lake.open(lake.root)
    (fault,) = (fault for one in check(lake.root) for fault in one.faults)
    assert "entries were sealed, and the seals of 0 are there" in fault.detail
    with pytest.raises(AlteredHistoryError, match="the seals of 0 are there"):
        seal(lake)


def test_what_is_no_checkpoint_among_the_checkpoints_is_named(lake: Lake, tmp_path: Path) -> None:
    anchor = Anchor(tmp_path / "checkpoints")
    seal(lake, anchor)
    (anchor.folder / "folder").mkdir()
    with pytest.raises(LakeError, match="is no checkpoint"):
        seal(lake, anchor)


def test_events_after_the_last_seal_are_counted(events: EventLake) -> None:
    events.act(30, "u-1")
    events.store()
    checks = check(events.lake.root)
    assert faults(checks) == []
    assert sum(one.not_sealed for one in checks) == 2
    assert sum(one.not_sealed for one in check(EventLake.at(Path(f"{events.lake.root}-new")).lake.root)) == 0


def test_a_sealer_that_is_killed_seals_nothing_twice(events: EventLake, monkeypatch: pytest.MonkeyPatch) -> None:
    for minute in range(20, 30):
        events.act(minute, "u-1")
    events.store()
    lake = events.lake

    monkeypatch.setattr(lake, "increments", forgotten)
    monkeypatch.setattr(sealing, "_ROWS", 3)
    append, left = lake.append, iter(range(2))

    def killed(*arguments: Any, **more: Any) -> int:
        if next(left, None) is None:
            raise LakeError("killed")
        return append(*arguments, **more)

    monkeypatch.setattr(lake, "append", killed)
    with pytest.raises(LakeError, match="killed"):
        seal(lake)
    monkeypatch.setattr(lake, "append", append)
    assert seal(lake) == 20 - 2 * 3, "two parts of three were sealed"
    checks = check(lake.root)
    assert (faults(checks), sum(one.not_sealed for one in checks)) == ([], 0)


def test_a_sealer_that_goes_on_reads_no_earlier_seal(
    events: EventLake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, anchor = KnownHeads(), Anchor(tmp_path / "checkpoints")
    sealer = Sealer(events.lake, [SIGNER], anchor, now=lambda: LATER, known=known)
    sealer.run()
    with monkeypatch.context() as patched:
        patched.setattr(sealing, "heads", forgotten)
        patched.setattr(sealing, "missing_entries", forgotten)
        events.act(30, "u-1")
        events.store()
        assert sealer.run() == 2
    events.act(31, "u-1")
    events.store()
    assert seal(Lake.open(events.lake.root)) == 2, "another one, meanwhile"
    events.act(32, "u-1")
    events.store()
    assert sealer.run() == 2
    assert faults(check(events.lake.root)) == []


def test_of_two_sealers_one_is_refused(events: EventLake) -> None:
    events.act(30, "u-1")
    events.store()
    slow = Lake.open(events.lake.root)
    sealer = Sealer(slow, [SIGNER], None, now=lambda: LATER)
    ends = heads(slow)
    slow.stored_offsets(SEALS, [])
    assert seal(events.lake) == 2
    with pytest.raises(FencedError):
        sealer._commit(EVENTS, slow.scan(EVENTS).collect(), ends, {SealedVersion(EVENTS): Advance(0, 99)})  # noqa: SLF001
    assert faults(check(events.lake.root)) == []


def test_a_proof_needs_neither_lake_nor_network(lake: Lake) -> None:
    row = lake.scan(EVENTS).sort("topic", "offset").collect().row(9, named=True)
    proof = prove(lake, row["id"])
    proven = check_proof(proof, [SIGNER.verifier])
    assert proven.index == 9
    assert proven.entry.endswith(row["value"])
    verdict = lake.scan(VERDICTS).filter("changed").collect()["verdict_id"][0]
    assert verdict.encode() in check_proof(prove(lake, verdict), [SIGNER.verifier]).entry
    with pytest.raises(ProofError, match="signed by none"):
        check_proof(proof, [Signer.new("audit.example").verifier])
    entry = base64.b64encode(proven.entry.replace(b"u-1", b"u-9")).decode()
    forged = "\n".join([proof.split("\n")[0], f"extra {entry}", *proof.split("\n")[2:]])
    assert forged != proof
    for text in (forged, proof.replace("index 9\n", "index 8\n"), "", proof.replace("\n\n", "\n")):
        with pytest.raises(ProofError):
            check_proof(text)


def test_what_is_not_sealed_or_not_what_was_sealed_is_not_proven(events: EventLake) -> None:
    events.act(30, "u-1")
    events.store()
    rows = events.lake.scan(EVENTS).sort("topic", "offset").collect()
    with pytest.raises(ProofError, match="is not sealed yet"):
        prove(events.lake, rows["id"][12])
    with pytest.raises(ProofError, match="has the id nobody"):
        prove(events.lake, "nobody")
    rewrite(events.lake.root, EVENTS, lambda rows: rows.with_columns(user=pl.lit("somebody")))
    with pytest.raises(ProofError, match="is not what was sealed"):
        prove(Lake.open(events.lake.root), rows["id"][0])


def test_tiles_are_brought_up_to_date(lake: Lake, tmp_path: Path) -> None:
    log = next(log for log in heads(lake) if "decisions" in log)
    assert export_tiles(lake, log, tmp_path / "tiles") == 1
    assert export_tiles(lake, log, tmp_path / "tiles") == 0
    (tile,) = (tmp_path / "tiles" / "tile" / "0").glob("*/*")
    assert (tile.parent.name, tile.name, tile.stat().st_size) == ("000.p", "12", 12 * 32)
    assert Checkpoint.parse((tmp_path / "tiles" / "checkpoint").read_text(), [SIGNER.verifier]).size == 12
