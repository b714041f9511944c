"""Progressive expansion by rungs: a share of accounts, always the same, on evidence."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest
from stage_cases import ACTION, NAMED, WHO, changes, judged, make_home, run, set_to
from verdict_cases import CELL, a_row, executions

from producers.boundary.flagd_attempts import start_attempt
from producers.boundary.flagd_stages import FlagdStages
from producers.boundary.flags import FlagEvaluator
from producers.boundary.policy_flags import MODE
from producers.boundary.stage_store import StageChange
from producers.wire.receipt import attempt_of
from producers.wire.stage import Mode

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_home(tmp_path, monkeypatch)


def test_a_roll_out_grows_by_the_same_accounts_and_tells_its_rung(home: Path) -> None:
    store, path = FlagdStages(home / "flags.json"), home / "flags.json"
    before = path.read_bytes()

    def by_account(share: int | None, to: Mode = Mode.EXPANDED) -> dict[str, tuple[str, tuple[int, int | None]]]:
        store.change(StageChange(ACTION, to, store.read(ACTION).version, share), before_write=lambda _: None)
        held = FlagEvaluator.from_file(path)
        try:
            accounts = [f"acct-{number}" for number in range(300)]
            values = [held.evaluate((account, tuple(sorted(ACTION._asdict().items())))) for account in accounts]
        finally:
            held.close()
        return {name: (one.mode.value, attempt_of(one.evaluations)) for name, one in zip(accounts, values, strict=True)}

    start_attempt(path, ACTION, before_write=lambda *_: None)
    earlier: set[str] = set()
    for rung, share in enumerate((1, 5, 25, 50), 1):
        answers = by_account(share)
        assert set(answers.values()) <= {("expanded", (2, rung)), ("autonomous", (2, None))}, "a rung without its stage"
        expanded = {name for name, (mode, _) in answers.items() if mode == "expanded"}
        assert earlier <= expanded
        assert abs(len(expanded) - 3 * share) <= 30
        earlier = expanded
        setting = store.read(ACTION)
        assert (setting.mode, setting.share, setting.attempt) == (None, share, 2)
    assert set(by_account(None).values()) == {("expanded", (2, 5))}
    assert set(by_account(None).values()) == {("expanded", (2, 5))}
    assert set(by_account(25).values()) == {("expanded", (2, 3)), ("autonomous", (2, None))}
    assert start_attempt(path, ACTION, before_write=lambda *_: None) == 3
    assert set(by_account(None, Mode.SEARCH_ONLY).values()) == {("search_only", (3, None))}
    assert targeting_is_kept(before, path.read_bytes())


def targeting_is_kept(before: bytes, after: bytes) -> bool:
    """Whether each line that was there is there, in its order."""
    lines = iter(after.splitlines())
    return all(any(line.rstrip(b",") in other for other in lines) for line in before.splitlines())


@pytest.mark.slow
def test_a_share_grows_on_evidence_and_shrinks_without(home: Path) -> None:
    path = home / "flags.json"
    document = json.loads(path.read_text())
    document["flags"][MODE.key] |= {"targeting": None, "defaultVariant": "autonomous"}
    path.write_text(json.dumps(document, indent=2))
    assert "may not move up" in str(set_to("progressive_expansion", "--share", "5").exception)
    judged(home, a_row(CELL._replace(stage="narrow_autonomy"), **executions(377)))
    for share in ("5", "25"):
        result = set_to("progressive_expansion", "--share", share)
        assert result.exit_code == 0, result.output
    shutil.rmtree(home / "lake")
    assert "may not move up" in str(set_to("progressive_expansion", "--share", "50").exception)
    assert "may not move up" in str(set_to("progressive_expansion").exception)
    assert set_to("progressive_expansion", "--share", "1").exit_code == 0
    after = [change.after for change in changes(home)]
    assert after == [f"expanded ({share} % of accounts)" for share in (5, 25, 1)]
    assert FlagdStages(path).read(ACTION).share == 1
    assert "expanded (1 % of accounts)" in run("stage", "show").output
    refused = run("stage", "revert", *NAMED, *WHO, "--yes")
    assert "may not move up" in str(refused.exception), "to 25 % it goes on evidence alone"
    assert "a roll-out by share" in str(set_to("narrow_autonomy", "--share", "5").exception)
