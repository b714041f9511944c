"""Declared splits: what is counted, from when on, what follows, and that it is reached again."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from lakes_of_events import NOON, EventLake
from verdict_cases import (
    CELL,
    COHORTS,
    a_row,
    codes,
    document_of,
    executions,
    latest_documents,
    split_gates,
    verdict_on,
    verdicts_on,
)

from analytics.audit.replay import ReplayMismatchError, replay
from analytics.backtest.compare import backtest
from analytics.backtest.history import History
from analytics.evidence.sample_ratio import log_mismatch
from analytics.gates.gate_file import GateFile
from analytics.judging.judge import Judge
from analytics.judging.latches import Latches
from analytics.verdicts.verdict import Latch
from producers.wire.events import VerdictName

if TYPE_CHECKING:
    from pathlib import Path

    from analytics.verdicts.evidence_models import SplitEvidence
    from analytics.verdicts.verdict import Verdict

NEW = CELL._replace(cohort="new")
HELD = CELL._replace(cohort="held-back")


def minutes(cell: Any, each: list[int], *, epoch: str = "e1", first: int = 0, failed: int = 0) -> list[dict[str, Any]]:
    return [
        a_row(cell, epoch=epoch, minute=first + at, **executions(count, min(failed, count)))
        for at, count in enumerate(each)
        if count
    ]


def arm(split: SplitEvidence | None) -> dict[str, int]:
    assert split is not None
    return {each.arm: each.assigned for each in split.arms}


def on(found: list[Verdict], cohort: str, stage: str = "draft_write") -> Verdict:
    (verdict,) = [each for each in found if (each.inputs.cell.cohort, each.inputs.cell.stage) == (cohort, stage)]
    return verdict


def judged(
    new: list[int], held: list[int], *, split: str = COHORTS, failed: int = 0, watermark: int = 60
) -> list[Verdict]:
    rows = [*minutes(NEW, new, failed=failed), *minutes(HELD, held)]
    return verdicts_on(split_gates(split), *rows, watermark=NOON + timedelta(minutes=watermark))


class TestByAction:
    def test_a_split_as_declared_stands_in_no_ones_way(self) -> None:
        found = on(judged([90] * 30, [10] * 30), "new")
        assert found.result.verdict == "PROMOTE"
        assert found.inputs.split is not None
        assert (found.inputs.split.state, arm(found.inputs.split)) == (
            "as_declared",
            {"new": 90 * 29, "held-back": 10 * 29},
        )
        assert found.inputs.split.log_e < 0

    def test_a_split_that_is_not_holds_the_promotion_up_with_its_numbers(self) -> None:
        found = on(judged([80] * 30, [20] * 30), "new")
        assert (found.result.verdict, codes(found)) == ("HOLD", ["split_mismatch"])
        (reason,) = found.result.reasons
        assert reason.message.startswith(
            "traffic is not split as declared since 2026-03-14T12:01:00Z: new 80 % (2,320 of 2,900 actions), declared "
            "90 %; held-back 20 % (580 of 2,900 actions), declared 10 %."
        )
        assert "(1,000 to 1 suffice)" in reason.message
        split = document_of(found)["split"]
        levels = log_mismatch(np.cumsum(np.tile([80, 20], (29, 1)), axis=0), [0.9, 0.1])
        assert split["log_e"] == float(levels[-1])
        assert split["threshold"] == pytest.approx(np.log(1_000))
        crossed = int(np.flatnonzero(levels >= np.log(1_000))[0])
        assert split["mismatch_at"] == f"2026-03-14T12:{2 + crossed:02}:00Z"
        assert [each["share"] for each in split["arms"]] == [0.8, 0.2]

    def test_every_arm_is_held_up(self) -> None:
        assert {each.result.verdict for each in judged([80] * 30, [20] * 30)} == {"HOLD"}

    def test_it_never_holds_up_a_rollback_and_says_that_the_comparison_is_in_doubt(self) -> None:
        found = on(judged([80] * 30, [20] * 30, failed=40), "new")
        assert (found.result.verdict, codes(found)) == ("ROLL_BACK", ["harm", "split_mismatch"])

    def test_what_else_is_missing_is_still_said(self) -> None:
        rows = [*minutes(NEW, [80] * 30), *minutes(HELD, [20] * 30)]
        more = {"minimum_exposure": "{actions: 9000}"}
        found = verdicts_on(split_gates(**more), *rows, watermark=NOON + timedelta(minutes=60))
        assert codes(on(found, "new")) == ["split_mismatch", "below_minimum_exposure"]

    def test_a_promotion_that_stood_stands_no_longer(self) -> None:
        made = split_gates()
        latch = {VerdictName.PROMOTE: Latch(VerdictName.PROMOTE, "approval_gated", "first")}
        rows = [*minutes(NEW, [80] * 30), *minutes(HELD, [20] * 30)]
        mark = NOON + timedelta(minutes=60)
        found = verdicts_on(made, *rows, watermark=mark, latches=Latches({(NEW, "e1", made.contents["g"]): latch}))
        assert on(found, "new").result.verdict == "HOLD"

    def test_a_mismatch_that_was_there_once_stays(self) -> None:
        found = on(judged([60] * 10 + [110] * 30, [40] * 10 + [2] * 30), "new")
        assert found.inputs.split is not None
        assert found.inputs.split.log_e < np.log(1_000) <= found.inputs.split.log_e_highest
        assert codes(found) == ["split_mismatch"]

    def test_an_arm_that_never_gets_anything_is_a_mismatch(self) -> None:
        found = on(judged([50] * 10, []), "new")
        assert arm(found.inputs.split) == {"new": 450, "held-back": 0}
        assert codes(found) == ["split_mismatch"]

    def test_nothing_assigned_yet_is_no_mismatch(self) -> None:
        found = on(judged([50], [], watermark=1), "new")
        assert found.inputs.split is not None
        assert (found.inputs.split.log_e, found.inputs.split.state, found.inputs.split.assigned) == (
            0.0,
            "as_declared",
            0,
        )

    def test_a_cohort_without_a_share_is_held_and_changes_nothing_for_the_others(self) -> None:
        other = CELL._replace(cohort="all")
        rows = [*minutes(NEW, [90] * 30), *minutes(HELD, [10] * 30), *minutes(other, [500] * 30)]
        found = verdicts_on(split_gates(), *rows, watermark=NOON + timedelta(minutes=60))
        assert codes(on(found, "all")) == ["undeclared_arm"]
        assert (
            "cohort `all` has no share in the declared split (new, held-back)"
            in on(found, "all").result.reasons[0].message
        )
        mine = on(found, "new").inputs.split
        assert mine is not None
        assert (mine.state, mine.outside) == ("as_declared", 500 * 29)

    def test_a_new_prompt_in_one_arm_does_not_cut_its_traffic_in_two(self) -> None:
        rows = [*minutes(NEW, [90] * 20), *minutes(NEW, [90] * 20, epoch="e2", first=20), *minutes(HELD, [10] * 40)]
        found = verdicts_on(split_gates(), *rows, watermark=NOON + timedelta(minutes=60))
        for cohort in ("new", "held-back"):
            assert arm(on(found, cohort).inputs.split) == {"new": 90 * 19, "held-back": 10 * 19}, "since the new prompt"

    def test_since_is_when_the_shares_became_so(self) -> None:
        rows = [*minutes(NEW, [50] * 20 + [90] * 20), *minutes(HELD, [50] * 20 + [10] * 20)]
        mark = NOON + timedelta(minutes=60)
        assert codes(on(verdicts_on(split_gates(), *rows, watermark=mark), "new")) == ["split_mismatch"]
        since = COHORTS.replace("}, unit", "}, since: 2026-03-14T13:20:00+01:00, unit")
        found = on(verdicts_on(split_gates(since), *rows, watermark=mark), "new")
        assert found.result.verdict == "PROMOTE"
        assert document_of(found)["split"]["since"] == "2026-03-14T12:20:00Z"


class TestByStage:
    STAGES = "{by: stage, shares: {approval_gated: 0.9, narrow_autonomy: 0.1}, unit: action}"
    BELOW, ABOVE = CELL._replace(stage="approval_gated"), CELL._replace(stage="narrow_autonomy")

    def test_a_stage_that_ran_alone_before_was_not_split_then(self) -> None:
        rows = [*minutes(self.BELOW, [100] * 60 + [90] * 20), *minutes(self.ABOVE, [10] * 20, first=60)]
        found = verdicts_on(split_gates(self.STAGES), *rows, watermark=NOON + timedelta(minutes=90))
        for stage in ("approval_gated", "narrow_autonomy"):
            split = on(found, "all", stage).inputs.split
            assert arm(split) == {"approval_gated": 90 * 19, "narrow_autonomy": 10 * 19}
            assert split is not None
            assert split.state == "as_declared"

    def test_another_cohort_at_the_same_stages_is_another_split(self) -> None:
        other = self.ABOVE._replace(cohort="eu")
        rows = [*minutes(self.BELOW, [90] * 20), *minutes(self.ABOVE, [10] * 20), *minutes(other, [900] * 20)]
        found = verdicts_on(split_gates(self.STAGES), *rows, watermark=NOON + timedelta(minutes=90))
        assert arm(on(found, "all", "narrow_autonomy").inputs.split) == {
            "approval_gated": 90 * 19,
            "narrow_autonomy": 10 * 19,
        }
        assert codes(on(found, "eu", "narrow_autonomy"))[0] == "split_mismatch"

    def test_a_stage_outside_the_split_is_asked_nothing(self) -> None:
        found = verdict_on(split_gates(self.STAGES), *minutes(CELL, [50] * 20), watermark=NOON + timedelta(minutes=60))
        assert found.inputs.split is None
        assert document_of(found)["split"] is None
        assert found.result.verdict == "PROMOTE"

    def test_an_arm_that_was_rolled_back_leaves_a_split_that_is_no_more(self) -> None:
        rows = [*minutes(self.BELOW, [90] * 20 + [100] * 20), *minutes(self.ABOVE, [10] * 20)]
        found = verdicts_on(split_gates(self.STAGES), *rows, watermark=NOON + timedelta(minutes=60))
        assert codes(on(found, "all", "approval_gated")) == ["split_mismatch"]


USERS = """\
version: 1
user_window: 10m
freshness: 30d
gates:
  - name: g
    ladder: [draft_write, approval_gated]
    split: {by: cohort, shares: {new: 0.5, held-back: 0.5}}
    signals: [{signal: execution_error, role: guardrail, limit: 0.1}]
"""


@pytest.fixture
def event_lake(tmp_path: Path) -> EventLake:
    return EventLake.at(tmp_path)


def by_user(event_lake: EventLake, tmp_path: Path, minute: float, text: str = USERS) -> dict[str, dict[str, Any]]:
    (tmp_path / "gates.yaml").write_text(text)
    event_lake.store()
    Judge(event_lake.lake, tmp_path / "gates.yaml", settle_s=0).tick(NOON + timedelta(minutes=minute))
    return {found["cohort"]: found for found in latest_documents(event_lake.lake)}


def assigned(found: dict[str, Any]) -> dict[str, int]:
    return {each["arm"]: each["assigned"] for each in found["split"]["arms"]}


class TestByUser:
    def start(self, event_lake: EventLake) -> None:
        """The epochs of both arms begin in a window of their own, which is not whole."""
        for number in range(10):
            event_lake.act(0.1, f"early-{number}", cohort="new")
            event_lake.act(0.2, f"early-{number}-too", cohort="held-back")

    @pytest.mark.slow
    def test_a_user_counts_once_in_the_arm_of_the_first_action(self, event_lake: EventLake, tmp_path: Path) -> None:
        self.start(event_lake)
        for number in range(60):
            event_lake.act(11 + number / 10, f"user-{number}", cohort=("new", "held-back")[number % 2])
            event_lake.act(21 + number / 10, f"user-{number}", cohort=("new", "held-back")[number % 2])
        for _ in range(20):
            event_lake.act(18, "user-0", cohort="new")
        event_lake.act(28, "user-0", cohort="held-back")
        event_lake.act(31, "the next", cohort="new")
        found = by_user(event_lake, tmp_path, 31)["new"]
        assert assigned(found) == {"new": 30, "held-back": 30}
        assert (found["split"]["unit"], found["split"]["crossed"]) == ("user", 1)
        assert found["split"]["until"] == "2026-03-14T12:30:00Z"
        assert found["verdict"] == "PROMOTE"

    @pytest.mark.slow
    def test_users_that_go_missing_hold_it_up_and_it_is_reached_again(
        self, event_lake: EventLake, tmp_path: Path
    ) -> None:
        self.start(event_lake)
        for number in range(120):
            event_lake.act(11 + number / 20, f"user-{number}", cohort="new" if number % 4 else "held-back")
        event_lake.act(21, "the next", cohort="new")
        found = by_user(event_lake, tmp_path, 21)
        assert assigned(found["new"]) == {"new": 90, "held-back": 30}
        for one in found.values():
            assert (one["verdict"], one["reasons"][0]["code"]) == ("HOLD", "split_mismatch")
            assert "new 75 % (90 of 120 users), declared 50 %" in one["summary"]
        event_lake.act(19, "late", cohort="held-back")
        event_lake.store()
        for row in event_lake.lake.scan("verdicts").collect()["verdict_id"]:
            replay(event_lake.lake, row)

    def test_the_same_actions_counted_one_by_one_would_have_been_as_declared(
        self, event_lake: EventLake, tmp_path: Path
    ) -> None:
        self.start(event_lake)
        for number in range(120):
            cohort = "new" if number % 4 else "held-back"
            for again in range(1 if number % 4 else 3):
                event_lake.act(11 + number / 20 + again / 100, f"user-{number}", cohort=cohort)
        event_lake.act(21, "the next", cohort="new")
        assert by_user(event_lake, tmp_path, 21)["new"]["verdict"] == "HOLD"
        by_action = by_user(event_lake, tmp_path, 21, USERS.replace("0.5}}", "0.5}, unit: action}"))["new"]
        assert by_action["split"]["unit"] == "action"
        assert by_action["split"]["crossed"] is None
        assert by_action["verdict"] == "PROMOTE"

    @pytest.mark.slow
    def test_an_arm_in_another_epoch_still_counts(self, event_lake: EventLake, tmp_path: Path) -> None:
        self.start(event_lake)
        for number in range(60):
            event_lake.act(11 + number / 10, f"user-{number}", cohort=("new", "held-back")[number % 2])
        for number in range(3):
            event_lake.act(15, f"odd-{number}", cohort="held-back", model="m-2")
        event_lake.act(21, "the next", cohort="new")
        found = by_user(event_lake, tmp_path, 21)["new"]
        assert assigned(found) == {"new": 30, "held-back": 33}
        assert replay(event_lake.lake, found["verdict_id"]).document.to_dict()["split"] == found["split"]

    def test_where_nobody_is_named_actions_are_counted(self, event_lake: EventLake, tmp_path: Path) -> None:
        for number in range(60):
            event_lake.act(number / 10, None, cohort=("new", "held-back")[number % 2])
        found = by_user(event_lake, tmp_path, 10)["new"]
        assert (found["split"]["unit"], assigned(found)) == ("action", {"new": 20, "held-back": 20})

    @pytest.mark.slow
    def test_a_restart_and_a_bounded_memory_change_no_number(self, event_lake: EventLake, tmp_path: Path) -> None:
        (tmp_path / "gates.yaml").write_text(USERS.replace("0.5}}", "0.5}, unit: action}"))
        judge = Judge(event_lake.lake, tmp_path / "gates.yaml", settle_s=0)
        for hour in range(9):
            for number in range(20):
                event_lake.act(60 * hour + number, f"user-{number}", cohort=("new", "held-back")[number % 2])
            event_lake.store()
            judge.tick(NOON + timedelta(minutes=60 * hour + 30))
        rows = event_lake.lake.scan("verdicts").collect()["verdict_id"].to_list()
        assert len(rows) >= 9
        for row in rows:
            replay(event_lake.lake, row)
        assert assigned(latest_documents(event_lake.lake)[0]) == {"new": 89, "held-back": 88}

    @pytest.mark.slow
    def test_a_changed_assignment_is_found_out(self, event_lake: EventLake, tmp_path: Path) -> None:
        self.start(event_lake)
        for number in range(60):
            event_lake.act(11 + number / 10, f"user-{number}", cohort=("new", "held-back")[number % 2])
        event_lake.act(21, "the next", cohort="new")
        found = by_user(event_lake, tmp_path, 21)["new"]
        table = event_lake.lake.scan("verdicts").collect()
        (row,) = table.filter(table["verdict_id"] == found["verdict_id"]).to_dicts()
        document = json.loads(row["payload"])
        document["split"]["arms"][0]["assigned"] += 1
        forged = {**row, "verdict_id": "0123456789abcdef"}
        document["verdict_id"] = forged["verdict_id"]
        event_lake.lake.append(
            "verdicts",
            table.clear().vstack(type(table)([{**forged, "payload": json.dumps(document)}], schema=table.schema)),
        )
        with pytest.raises(ReplayMismatchError) as caught:
            replay(event_lake.lake, "0123456789abcdef")
        assert "split" in caught.value.differing


@pytest.mark.slow
def test_a_backtest_says_what_a_declared_split_would_have_changed(event_lake: EventLake, tmp_path: Path) -> None:
    TestByUser().start(event_lake)
    for number in range(240):
        event_lake.act(11 + number / 40, f"user-{number}", cohort="new" if number % 4 else "held-back")
    event_lake.act(41, "the next", cohort="new")
    event_lake.store()
    with_split = GateFile.parse(USERS.encode())
    without = GateFile.parse(
        USERS.replace("    split: {by: cohort, shares: {new: 0.5, held-back: 0.5}}\n", "").encode()
    )
    found = backtest(History.from_lake(event_lake.lake), without, with_split)
    said = {
        (one.cell.cohort, one.old.verdict.result.verdict.value, one.new.verdict.result.verdict.value)
        for one in found.differences
        if one.old is not None and one.new is not None
    }
    assert said == {("new", "PROMOTE", "HOLD"), ("held-back", "PROMOTE", "HOLD")}
    last = found.differences[-1].new
    assert last is not None
    assert last.verdict.result.reasons[0].code == "split_mismatch"
