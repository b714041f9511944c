"""Who may approve: never the asker, never the same person twice, and no mere name where a second person is needed."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from boundary_cases import Shelf, contract, flag_evaluator

from producers.boundary.action import Action, acting
from producers.boundary.approvals import (
    AlteredReviewError,
    ApprovalExpiredError,
    ApprovalMismatchError,
    ApprovalUsedError,
    QueuedAction,
    ReviewPendingError,
    ReviewResolvedError,
    ReviewState,
    SelfApprovalError,
    UnauthenticatedReviewerError,
)
from producers.boundary.authorization import AuthorizationFile, FileAuthorizer
from producers.boundary.errors import ReviewRequiredError
from producers.boundary.review_clock import ClockMark, ReviewClock
from producers.boundary.review_store import ReviewStore
from producers.boundary.reviewers import Reviewer, ReviewersFile, UnknownTokenError, token_sha256
from producers.boundary.router import Router
from producers.delivery.recorder import Recorder
from producers.strict_yaml import ConfigurationFileError
from producers.wire.contract import Actor, ArgumentsDigest, Reversibility, RiskClass
from producers.wire.events import ActionDecided, Resolution
from producers.wire.receipt import Receipt
from producers.wire.stage import Stage

if TYPE_CHECKING:
    from pathlib import Path

KEY = b"a key for these tests"
START = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
ADA, BOB, EVE = (Reviewer(f"{name}@example.org", authenticated=True) for name in ("ada", "bob", "eve"))


def queued(**changes: Any) -> QueuedAction:
    """An action that waits, asked for by the agent support-bot and, where `user` is given, for that user."""
    user = changes.pop("user", None)
    receipt = Receipt(
        decision_id="d-1",
        decided_at=START,
        environment="production",
        workflow="support",
        tool="update_ticket",
        stage=Stage.APPROVAL_GATED,
        epoch="e",
    )
    asked = contract().model_copy(update={"actor": Actor(agent="support-bot", user=user, service_identity="router-1")})
    fields: dict[str, Any] = {
        "decision_id": "d-1",
        "receipt": receipt.token(),
        "contract": asked,
        "arguments": {"ticket": 7},
        "consequence": None,
        "rule": "risk_class_external_effect",
        "ruleset_sha256": "a" * 64,
        "queued_at": START,
        "expires_at": START + timedelta(hours=1),
    }
    return QueuedAction(**(fields | changes))


class Clock:
    def __init__(self) -> None:
        self.moment = START

    def __call__(self) -> datetime:
        return self.moment


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "reviews.db"


def approve(store: ReviewStore, who: Reviewer | str, decision_id: str = "d-1") -> ReviewState:
    return store.resolve(decision_id, Resolution.APPROVED, reviewer=who, rationale="as agreed").state


def redeem(store: ReviewStore) -> None:
    store.redeem("d-1", ArgumentsDigest(), ruleset_sha256="a" * 64)


def written(path: Path, statement: str, *values: object) -> None:
    """What somebody does to the file by hand."""
    with closing(sqlite3.connect(path)) as file, file:
        file.execute(statement, values)


def row_of(path: Path, columns: str) -> tuple[str, ...]:
    with closing(sqlite3.connect(path)) as file:
        row: tuple[str, ...] = file.execute(f"SELECT {columns} FROM reviews").fetchone()  # noqa: S608
    return row


@pytest.mark.parametrize(
    "name", ["support-bot", "SUPPORT-BOT", " support-bot ", "support\u200b-bot", "Carol", "\uff43arol", "router-1"]
)
def test_whoever_asks_cannot_approve_under_any_writing_of_the_name(path: Path, clock: Clock, name: str) -> None:
    with ReviewStore(path, key=KEY, now=clock) as store:
        store.submit(queued(user="carol"))
        with pytest.raises(SelfApprovalError, match="cannot approve it"):
            approve(store, Reviewer(name, authenticated=True))
        assert store.get("d-1").state is ReviewState.WAITING
        rejected = store.resolve("d-1", Resolution.REJECTED, reviewer=name, rationale="I withdraw it")
        assert rejected.state is ReviewState.REJECTED, "who asked may take it back"


def test_a_mere_name_is_no_second_person(path: Path, clock: Clock) -> None:
    with ReviewStore(path, key=KEY, now=clock) as store:
        store.submit(queued(user="carol"))
        with pytest.raises(UnauthenticatedReviewerError, match=r"asked for by carol.*STAGEKEEPER_REVIEWER_TOKEN"):
            approve(store, "bob@example.org")
        assert approve(store, BOB) is ReviewState.APPROVED


def test_a_quorum_takes_as_many_persons_as_it_says(path: Path, clock: Clock) -> None:
    spoken: list[Any] = []
    with ReviewStore(path, key=KEY, now=clock) as store:
        store.submit(queued(approvers=2))
        with pytest.raises(UnauthenticatedReviewerError, match="needs 2 approver"):
            approve(store, "bob@example.org")
        store.resolve("d-1", Resolution.APPROVED, reviewer=ADA, rationale="fine", record=spoken.append)
        assert spoken == [], "what settles nothing is no event"
        with pytest.raises(ReviewPendingError, match="1 more of 2 persons"):
            redeem(store)
        with pytest.raises(ReviewResolvedError, match="has approved d-1 already"):
            approve(store, Reviewer("Ada@Example.org", authenticated=True))
        assert store.get("d-1").state is ReviewState.WAITING
        store.resolve("d-1", Resolution.APPROVED, reviewer=BOB, rationale="fine, too", record=spoken.append)
        assert [review.state for review in spoken] == [ReviewState.APPROVED]
        assert [word.reviewer for word in store.get("d-1").approvals] == [ADA.name, BOB.name]


def test_one_rejection_ends_a_quorum(path: Path, clock: Clock) -> None:
    with ReviewStore(path, key=KEY, now=clock) as store:
        store.submit(queued(approvers=3))
        approve(store, ADA)
        assert store.resolve("d-1", Resolution.REJECTED, reviewer=BOB, rationale="no").state is ReviewState.REJECTED
        with pytest.raises(ReviewResolvedError, match="rejected by bob"):
            approve(store, EVE)


ALTERATIONS = {
    "approved by hand": ("UPDATE reviews SET state = 'approved', resolution = ?", True),
    "state alone": ("UPDATE reviews SET state = 'approved'", False),
    "seal taken away": ("UPDATE reviews SET seal = NULL", False),
    "another seal": ("UPDATE reviews SET seal = hex(randomblob(32))", False),
    "a longer life": ("UPDATE reviews SET queued = replace(queued, '10:00:00', '23:00:00')", False),
    "other arguments shown": ("UPDATE reviews SET queued = replace(queued, '\"ticket\":7', '\"ticket\":8')", False),
    "fewer approvers": ("UPDATE reviews SET queued = replace(queued, '\"approvers\":2', '\"approvers\":1')", False),
    "no text": ("UPDATE reviews SET queued = CAST(queued AS BLOB)", False),
    "no JSON": ("UPDATE reviews SET queued = '{'", False),
}


@pytest.mark.parametrize("alteration", ALTERATIONS)
def test_an_altered_row_is_refused_and_named(path: Path, clock: Clock, alteration: str) -> None:
    statement, with_word = ALTERATIONS[alteration]
    with ReviewStore(path, key=KEY, now=clock) as store:
        store.submit(queued(approvers=2))
        approve(store, ADA)
        word = store.get("d-1").words[0].model_copy(update={"reviewer": BOB.name}).model_dump_json()
        written(path, statement, *([f"[{word},{word}]"] if with_word else []))
        with pytest.raises(AlteredReviewError, match="d-1"):
            redeem(store)
        with pytest.raises(AlteredReviewError):
            approve(store, BOB)
        refused: list[Exception] = []
        assert store.waiting(refused.append) == []
        assert bool(refused) == (row_of(path, "state") == ("waiting",))


def test_a_row_of_another_action_is_refused(path: Path, clock: Clock) -> None:
    with ReviewStore(path, key=KEY, now=clock) as store:
        store.submit(queued())
        store.submit(queued(decision_id="d-2"))
        approve(store, ADA, "d-2")
        written(path, "DELETE FROM reviews WHERE decision_id = 'd-1'")
        written(path, "UPDATE reviews SET decision_id = 'd-1'")
        with pytest.raises(AlteredReviewError):
            redeem(store)


def test_a_row_written_without_the_key_or_with_another_is_refused(path: Path, clock: Clock) -> None:
    with ReviewStore(path, now=clock) as unprotected:
        assert not unprotected.is_protected
        unprotected.submit(queued())
        approve(unprotected, "bob")
        with ReviewStore(path, key=KEY, now=clock) as store, pytest.raises(AlteredReviewError, match="without"):
            redeem(store)
    with ReviewStore(path, key=KEY, now=clock) as store:
        store.submit(queued(decision_id="d-2"))
    with ReviewStore(path, key=b"another", now=clock) as other, pytest.raises(AlteredReviewError, match="another one"):
        other.get("d-2")
    with ReviewStore(path, now=clock) as keyless, pytest.raises(AlteredReviewError, match="this process has none"):
        approve(keyless, "bob", "d-2")


def test_without_a_key_a_state_set_by_hand_still_lacks_its_approvals(path: Path, clock: Clock) -> None:
    with ReviewStore(path, now=clock) as store:
        store.submit(queued(approvers=2))
        approve(store, ADA)
        written(path, "UPDATE reviews SET state = 'approved'")
        with pytest.raises(ApprovalMismatchError, match=r"1 approval\(s\) that count are missing"):
            redeem(store)


def test_an_approval_that_was_used_is_not_used_again_though_its_row_is_put_back(path: Path, clock: Clock) -> None:
    approved = queued(contract=contract().model_copy(update={"arguments_sha256": "b" * 64}))
    with ReviewStore(path, key=KEY, now=clock) as store:
        store.submit(approved)
        approve(store, ADA)
        row = row_of(path, "state, seal")
        store.redeem("d-1", ArgumentsDigest("b" * 64), ruleset_sha256="a" * 64)
        written(path, "UPDATE reviews SET state = ?, seal = ?", *row)
        with pytest.raises(ApprovalUsedError):
            store.redeem("d-1", ArgumentsDigest("b" * 64), ruleset_sha256="a" * 64)


def test_a_file_of_an_older_version_is_read_on(path: Path, clock: Clock) -> None:
    written(
        path,
        "CREATE TABLE reviews (decision_id TEXT PRIMARY KEY, state TEXT NOT NULL, queued_at TEXT NOT NULL, "
        "queued TEXT NOT NULL, resolution TEXT)",
    )
    old = queued().model_dump_json(exclude={"approvers"})
    written(path, "INSERT INTO reviews VALUES ('d-1', 'waiting', '2026', ?, NULL)", old)
    with ReviewStore(path, now=clock) as store:
        assert approve(store, "bob") is ReviewState.APPROVED
        word = store.get("d-1").words[0].model_dump_json(exclude={"authenticated"})
    written(path, "UPDATE reviews SET resolution = ?", word)
    with ReviewStore(path, now=clock) as store:
        assert store.get("d-1").words[0].reviewer == "bob"
    with (
        ReviewStore(path, key=KEY, now=clock) as store,
        pytest.raises(AlteredReviewError, match="ask for the action anew"),
    ):
        store.get("d-1")


@pytest.mark.parametrize("reopen", [False, True])
def test_a_clock_that_is_set_back_gives_an_approval_no_more_time(path: Path, clock: Clock, *, reopen: bool) -> None:
    store = ReviewStore(path, key=KEY, now=clock)
    store.submit(queued())
    approve(store, ADA)
    clock.moment += timedelta(hours=2)
    with pytest.raises(ApprovalExpiredError):
        redeem(store)
    clock.moment -= timedelta(hours=2)
    if reopen:
        store.close()
        store = ReviewStore(path, key=KEY, now=clock)
    with pytest.raises(ApprovalExpiredError):
        redeem(store)
    assert store.waiting() == []
    store.close()


def test_time_passes_by_the_machines_uptime_though_the_clock_stands_or_goes_back(clock: Clock) -> None:
    uptime = [100.0]
    router = ReviewClock(clock, lambda: uptime[0])
    mark = router.read(None)
    uptime[0] += 3_600
    clock.moment -= timedelta(days=1)
    in_another_process = ReviewClock(clock, lambda: uptime[0]).read(mark)
    assert in_another_process.moment == router.read(None).moment == START + timedelta(hours=1)
    after_a_restart = ReviewClock(clock, lambda: 5.0).read(ClockMark(START, "another boot", 100.0))
    assert after_a_restart.moment == START


def test_what_is_queued_while_a_clock_is_behind_lives_as_long_as_it_may(path: Path, clock: Clock) -> None:
    clock.moment += timedelta(days=300)  # by mistake
    with ReviewStore(path, key=KEY, now=clock) as store:
        store.moment()
        clock.moment = START
        ran: list[int] = []
        _, router = a_router(store, clock, ran, approvers=None, approval=True)
        with pytest.raises(ReviewRequiredError) as caught:
            router.call(action(ran), 5)
        approve(store, ADA, caught.value.receipt.decision_id)
        assert router.resume(caught.value.receipt, 5) is None
    assert ran == [5]


def action(ran: list[int]) -> Action:
    return Action(
        tool="wire_money",
        workflow="payments",
        system="bank",
        environment="production",
        risk_class=RiskClass.EXTERNAL_EFFECT,
        reversibility=Reversibility.AUTOMATIC,
        run=lambda amount: ran.append(amount),  # noqa: PLW0108 - it takes its argument by name
    )


def a_router(
    store: ReviewStore, clock: Clock, ran: list[int], *, approvers: int | None, approval: bool = False
) -> tuple[Shelf, Router]:
    rule = {
        "name": "money",
        "tools": ["wire_money"],
        "environments": ["production"],
        "highest_risk_class": "irreversible",
        "approvers": approvers,
    }
    shelf = Shelf()
    router = Router(
        authorizer=FileAuthorizer(AuthorizationFile.model_validate({"version": 1, "rules": [rule]}), "0" * 64),
        flags=flag_evaluator(approval=approval),
        recorder=Recorder(shelf, source="/test", key=KEY, now=clock),
        environment="production",
        reviews=store,
        approval_holds=timedelta(hours=1),
    )
    router.register(action(ran))
    return shelf, router


def test_a_rule_with_approvers_queues_whatever_the_flags_release(path: Path, clock: Clock) -> None:
    ran: list[int] = []
    with ReviewStore(path, key=KEY, now=clock) as store:
        shelf, router = a_router(store, clock, ran, approvers=2)
        with acting(user="carol", agent="bot"), pytest.raises(ReviewRequiredError) as caught:
            router.call(action(ran), 5)
        decided = shelf.events[-1]
        assert isinstance(decided, ActionDecided)
        assert decided.data.decision.authorization is not None
        assert decided.data.decision.authorization.approvers == 2
        receipt = caught.value.receipt
        approve(store, ADA, receipt.decision_id)
        with pytest.raises(ReviewPendingError):
            router.resume(receipt, 5)
        approve(store, BOB, receipt.decision_id)
        router.resume(receipt, 5)
    assert ran == [5]


def test_a_queue_without_a_key_says_so(path: Path, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    with ReviewStore(path, now=clock) as store:
        a_router(store, clock, [], approvers=None)
    assert "are unprotected" in caplog.text
    caplog.clear()
    with ReviewStore(path, key=KEY, now=clock) as store:
        a_router(store, clock, [], approvers=None)
    assert caplog.text == ""


def test_a_token_is_one_persons(tmp_path: Path) -> None:
    path = tmp_path / "reviewers.yaml"
    entry = "  - {{name: {}, token_sha256: {}}}\n"
    path.write_text("version: 1\nreviewers:\n" + entry.format("ada@example.org", token_sha256("t")))
    file = ReviewersFile.load(path)
    assert file.authenticate("t") == ADA
    with pytest.raises(UnknownTokenError):
        file.authenticate("T")
    for second, what in (
        (entry.format("Ada@example.org", "b" * 64), "name"),
        (entry.format("b", token_sha256("t")), "token"),
    ):
        path.write_text("version: 1\nreviewers:\n" + entry.format("ada@example.org", token_sha256("t")) + second)
        with pytest.raises(ConfigurationFileError, match=f"a {what} of their own"):
            ReviewersFile.load(path)
