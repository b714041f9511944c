"""Latches belong to the gate that set them: what an edit changes, what it does not, and what a person may set aside."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from verdict_cases import CELL, NOON, a_row, executions, increments

from analytics.audit.replay import replay
from analytics.gates.gate_file import GateFile
from analytics.judging.judge import Judge
from analytics.lake.table_schemas import GATES, VERDICTS
from analytics.lake.tables import Lake
from analytics.verdicts.gate_check import gate_check, sign_off
from analytics.verdicts.ledger import latest_verdicts
from analytics.verdicts.signoffs import NothingToSignOffError, SignOffKind, revoke

if TYPE_CHECKING:
    from analytics.verdicts.document import VerdictDocument

pytestmark = pytest.mark.slow

TEXT = """\
version: 1
freshness: 30d
gates:
  - name: errors
    owner: risk
    ladder: [draft_write, approval_gated]
    signals: [{signal: execution_error, role: guardrail, limit: 0.1}]
  - name: other
    match: {tool: other}
    signals: [{signal: execution_error, role: guardrail, limit: 0.3}]
"""
EDITS_OF_NO_MATTER = {
    "a comment": ("    owner: risk\n", "    owner: risk  # asked on Monday\n"),
    "another gate": ("limit: 0.3", "limit: 0.4"),
    "its name and owner": ("name: errors\n    owner: risk", "name: faults\n    owner: maria"),
    "another way to write it": ("limit: 0.1}", "limit: 0.10}"),
}
ITS_LIMIT = ("limit: 0.1}", "limit: 0.12}")


def seen_either_way(edits: dict[str, tuple[str, str]]) -> list[Any]:
    """Each edit while the judge watches, and the first while it does not; `make test-all` has the others then, too."""
    first = next(iter(edits))
    return [
        pytest.param(edit, restarted, id=f"{name}, {'restarted' if restarted else 'watching'}", marks=marks)
        for name, edit in edits.items()
        for restarted in (False, True)
        for marks in [[pytest.mark.exhaustive] if restarted and name != first else []]
    ]


MOVE = {"environment": CELL.environment, "workflow": CELL.workflow, "tool": CELL.tool, "to_stage": "approval_gated"}


class Place:
    """A lake, a gate file and a judge; time goes on by a minute whenever something is judged."""

    def __init__(self, folder: Path) -> None:
        self.path, self.minute = folder / "gates.yaml", 0
        self.lake = Lake.open(str(folder / "lake"))
        self.edit("", "")
        self.restart()

    @property
    def now(self) -> datetime:
        return NOON + timedelta(minutes=self.minute)

    def edit(self, old: str, new: str) -> None:
        assert old in TEXT
        self.path.write_text(TEXT.replace(old, new))

    def restart(self) -> None:
        self.judge = Judge(self.lake, self.path, settle_s=0)

    def judged(self, **counts: int) -> VerdictDocument:
        self.minute += 1
        self.lake.append("signals", increments(a_row(minute=self.minute - 1, **(counts or executions(1)))))
        self.judge.tick(self.now)
        (latest,) = latest_verdicts(self.lake)
        return latest

    def promoted(self) -> VerdictDocument:
        """A promotion that only stands because it crossed once."""
        crossed = self.judged(**executions(60))
        stands = self.judged(**executions(20, 5))
        assert (crossed.verdict, stands.latched_by) == ("PROMOTE", crossed.verdict_id)
        return crossed

    def rolled_back(self) -> VerdictDocument:
        """A rollback that only stands because it crossed once."""
        crossed = self.judged(**executions(40, 20))
        stands = self.judged(**executions(10_000))
        assert (crossed.verdict, stands.latched_by) == ("ROLL_BACK", crossed.verdict_id)
        assert codes(stands) == ["latched"]
        return crossed

    def overrides(self, hours: float = 1.0) -> str:
        return sign_off(
            self.lake,
            GateFile.load(self.path),
            SignOffKind.OVERRIDE,
            **MOVE,
            actor="maria",
            reason="fixed in 4.2",
            now=self.now,
            expires_at=self.now + timedelta(hours=hours),
        ).signoff_id

    def answer(self) -> str:
        gates = GateFile.load(self.path)
        return gate_check(self.lake, gates, **MOVE, now=self.now, freshness_s=1e9).answer.value

    def replays(self) -> None:
        """Every verdict is reached again."""
        for verdict_id in self.lake.scan(VERDICTS).collect()["verdict_id"]:
            replay(self.lake, verdict_id)

    def rewrite(self, table: str, change: pl.Expr) -> None:
        """Change what the rows of a table say."""
        for file in Path(self.lake.root, table).glob("*.parquet"):
            size = file.stat().st_size
            pl.DataFrame(pq.read_table(file)).with_columns(change).write_parquet(file)
            for log in Path(self.lake.root, table, "_delta_log").glob("*.json"):
                log.write_text(log.read_text().replace(f'"size":{size},', f'"size":{file.stat().st_size},'))
        self.lake = Lake.open(self.lake.root)
        self.restart()

    def as_before(self) -> None:
        """Leave the ledger as a release left it that knew no contents."""
        self.rewrite(VERDICTS, pl.col("payload").map_elements(without_content, return_dtype=pl.String))


def without_content(payload: str) -> str:
    document = json.loads(payload)
    for name in ("gate_content_sha256", "set_aside"):
        document.pop(name, None)
    return json.dumps(document)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def codes(verdict: VerdictDocument) -> list[str]:
    return [reason.code for reason in verdict.reasons]


@pytest.mark.parametrize(("edit", "restarted"), seen_either_way(EDITS_OF_NO_MATTER))
def test_an_edit_elsewhere_drops_no_latch(place: Place, edit: tuple[str, str], *, restarted: bool) -> None:
    crossed = place.promoted()
    place.edit(*edit)
    if restarted:
        place.restart()
    stands = place.judged()
    assert stands.gate_sha256 != crossed.gate_sha256
    assert stands.gate_content_sha256 == crossed.gate_content_sha256 is not None
    assert (stands.verdict, stands.latched_by, codes(stands)) == ("PROMOTE", crossed.verdict_id, ["latched"])
    assert "under this gate; it stands" in stands.summary
    place.replays()


def test_an_edit_of_its_limit_drops_a_promotion_until_it_is_as_before(place: Place) -> None:
    crossed = place.promoted()
    place.edit(*ITS_LIMIT)
    assert (other := place.judged()).verdict == "HOLD"
    assert other.gate_content_sha256 != crossed.gate_content_sha256
    place.edit("", "")
    assert place.judged().latched_by == crossed.verdict_id
    place.replays()


@pytest.mark.parametrize(("edit", "restarted"), seen_either_way({"its limit": ITS_LIMIT} | EDITS_OF_NO_MATTER))
def test_no_edit_clears_a_rollback(place: Place, edit: tuple[str, str], *, restarted: bool) -> None:
    crossed = place.rolled_back()
    place.edit(*edit)
    if restarted:
        place.restart()
    stands = place.judged()
    assert (stands.verdict, stands.latched_by, codes(stands)) == ("ROLL_BACK", crossed.verdict_id, ["latched"])
    if edit == ITS_LIMIT:
        assert f"under gate content {(crossed.gate_content_sha256 or '')[:12]}, not that of now" in stands.summary
    assert place.answer() == "ROLL_BACK"
    place.replays()


@pytest.mark.parametrize("restarted", [False, True], ids=["watching", "restarted"])
def test_an_override_clears_a_rollback_until_it_expires(place: Place, *, restarted: bool) -> None:
    crossed = place.rolled_back()
    place.overrides(hours=0.1)
    if restarted:
        place.restart()
    cleared = place.judged()
    assert (cleared.verdict, cleared.set_aside, cleared.latched_by) == ("PROMOTE", crossed.verdict_id, None)
    assert codes(cleared) == ["shown_safe", "set_aside"]
    place.edit(*EDITS_OF_NO_MATTER["a comment"])
    assert place.judged().set_aside == crossed.verdict_id
    place.minute += 10
    again = place.judged()
    assert (again.verdict, again.latched_by, again.set_aside) == ("ROLL_BACK", crossed.verdict_id, None)
    place.replays()


def test_a_rollback_stands_again_once_its_override_is_revoked_or_its_gate_is_another(place: Place) -> None:
    crossed = place.rolled_back()
    override = place.overrides()
    assert place.judged().set_aside == crossed.verdict_id
    place.edit(*ITS_LIMIT)
    assert place.judged().verdict == "ROLL_BACK", "nobody has signed off under this limit"
    place.edit("", "")
    assert place.judged().verdict == "PROMOTE"
    revoke(place.lake, override, actor="ali", reason="it was not fixed", now=place.now)
    assert place.judged().latched_by == crossed.verdict_id
    place.replays()


def test_an_override_is_judged_by_soon_although_nothing_else_is_new(place: Place) -> None:
    place.rolled_back()
    place.overrides()
    place.judge.tick(place.now + timedelta(seconds=4))
    assert latest_verdicts(place.lake)[0].verdict == "ROLL_BACK", "it may not be in the lake yet"
    place.judge.tick(place.now + timedelta(seconds=6))
    assert latest_verdicts(place.lake)[0].verdict == "PROMOTE"
    place.replays()


def test_an_override_opens_the_gate_once_it_is_judged_by_unless_the_evidence_shows_harm(place: Place) -> None:
    crossed = place.judged(**executions(60, 20))
    assert place.judged(**executions(140)).latched_by == crossed.verdict_id
    place.overrides()
    assert place.answer() == "ROLL_BACK", "the judge goes by it first"
    held = place.judged()
    assert (held.verdict, held.set_aside) == ("HOLD", crossed.verdict_id)
    assert place.answer() == "PROMOTE", "it was signed off, and has not expired"
    harmed = place.judged(**executions(60, 40))
    assert (harmed.verdict, codes(harmed)) == ("ROLL_BACK", ["harm"])
    assert place.answer() == "ROLL_BACK"
    with pytest.raises(NothingToSignOffError, match="shows harm"):
        place.overrides()
    place.replays()


def test_an_old_row_has_its_content_from_the_gate_file_that_is_kept(place: Place) -> None:
    crossed = place.promoted()
    place.as_before()
    place.edit(*EDITS_OF_NO_MATTER["a comment"])
    stands = place.judged()
    assert (stands.verdict, stands.latched_by) == ("PROMOTE", crossed.verdict_id)
    assert replay(place.lake, stands.verdict_id).earlier == (crossed.verdict_id,)


def test_without_its_gate_file_an_old_promotion_falls_and_an_old_rollback_stands(place: Place) -> None:
    place.promoted()
    place.as_before()
    place.edit(*EDITS_OF_NO_MATTER["a comment"])
    place.rewrite(GATES, pl.lit("0" * 64).alias("sha256"))
    assert place.judged().verdict == "HOLD"
    place.judged(**executions(60, 40))
    place.as_before()
    place.edit("", "")
    place.rewrite(GATES, pl.lit("1" * 64).alias("sha256"))
    stands = place.judged(**executions(10_000))
    assert (stands.verdict, codes(stands)) == ("ROLL_BACK", ["latched"])
    assert "under gate content that is not kept, not that of now" in stands.summary
