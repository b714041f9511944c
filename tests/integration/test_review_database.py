"""The desk in a real PostgreSQL: one queue for all, each approval spent once, and named errors while it is away."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from service_cases import asked, running_service

from producers.boundary.approvals import (
    AlteredReviewError,
    ApprovalUsedError,
    QueuedAction,
    ReviewError,
    ReviewState,
    UnknownReviewError,
)
from producers.boundary.review_database import PostgresReviews
from producers.boundary.review_store import ReviewStore
from producers.boundary.reviewers import Reviewer
from producers.errors import SettingsError
from producers.wire.contract import ActionContract
from producers.wire.events import Resolution
from streams.ports import available_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from producers.boundary.approvals import Review

pytestmark = [pytest.mark.integration, pytest.mark.slow]
pytest.importorskip("psycopg", reason="psycopg is not installed: the desk in PostgreSQL was not tested")

SECRET = "a-password-that-nobody-may-see"  # noqa: S105 - of a server that lives for these tests
KEY = b"a receipt key for tests"
ADA = Reviewer("ada@example.org", authenticated=True)


def _programs() -> Path | None:
    """The folder of PostgreSQL's programs: Debian keeps them off PATH."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if (named := shutil.which("initdb")) is not None:
        folders.append(Path(named).parent)
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


class Server:
    """A PostgreSQL of these tests' own, on a port of its own."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.port, self._data, self._programs = available_port(), folder / "data", programs
        # It refuses to be run by root.
        self._as = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
        if self._as:
            os.chown(folder, pwd.getpwnam("postgres").pw_uid, -1)
        secret = folder / "secret"
        secret.write_text(SECRET)
        secret.chmod(0o644)
        self._run("initdb", "-D", str(self._data), "-U", "desk", "--auth=scram-sha-256", f"--pwfile={secret}", "-N")
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql://desk:{SECRET}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories="
        self._run("pg_ctl", "-D", str(self._data), "-w", "-l", str(self._data / "log"), "-o", options, "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self._data), "-w", "-m", "immediate", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        done = subprocess.run(
            command, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=90, check=False, **self._as
        )
        assert done.returncode == 0, done.stdout.decode()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    programs = _programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt install postgresql): the desk in it was not tested")
    # Pytest's own folders are closed to others, and the server is another user where root tests.
    with tempfile.TemporaryDirectory(prefix="stagekeeper-postgres-") as folder:
        Path(folder).chmod(0o755)
        started = Server(Path(folder), programs)
        try:
            yield started
        finally:
            started.stop()


@pytest.fixture
def store(server: Server) -> Iterator[ReviewStore]:
    with ReviewStore(PostgresReviews(server.url), key=KEY) as opened:
        yield opened


def queued(**changed: object) -> QueuedAction:
    now = datetime.now(UTC)
    fields = {
        "decision_id": str(uuid.uuid4()),
        "receipt": "sk1.x",
        "contract": ActionContract.model_validate(asked()["contract"]),
        "arguments": {"text": "nul \x00 and é"},
        "consequence": None,
        "rule": "risk_class_external_effect",
        "ruleset_sha256": "0" * 64,
        "queued_at": now,
        "expires_at": now + timedelta(hours=1),
        **changed,
    }
    return QueuedAction.model_validate(fields)


def approved(store: ReviewStore, action: QueuedAction, record: Callable[[Review], None] = lambda _: None) -> Review:
    store.submit(action)
    said = {"reviewer": ADA, "rationale": "agreed by phone"}
    return store.resolve(action.decision_id, Resolution.APPROVED, record=record, **said)  # type: ignore[arg-type]


def test_what_one_queues_all_see_and_an_approval_is_spent_once(server: Server, store: ReviewStore) -> None:
    action = queued()
    with ReviewStore(PostgresReviews(server.url), key=KEY) as other:
        store.submit(action)
        (seen,) = [review for review in other.waiting() if review.queued.decision_id == action.decision_id]
        assert seen.queued == action
        other.resolve(action.decision_id, Resolution.APPROVED, reviewer=ADA, rationale="agreed by phone")
        assert store.wait_for_resolution(action.decision_id, 5).state is ReviewState.APPROVED

        def redeem(where: ReviewStore) -> str:
            try:
                where.redeem(action.decision_id, action.contract.arguments_digest, ruleset_sha256="0" * 64)
            except ApprovalUsedError:
                return "used"
            return "redeemed"

        with ThreadPoolExecutor(8) as threads:
            fates = list(threads.map(redeem, [store, other] * 4))
        assert sorted(fates) == ["redeemed", *["used"] * 7]
        with pytest.raises(UnknownReviewError):
            other.get("none")


def test_a_word_that_cannot_be_recorded_is_not_in_force(store: ReviewStore) -> None:
    def full(_: Review) -> None:
        raise OSError("the disk is full")

    action = queued()
    with pytest.raises(OSError, match="disk is full"):
        approved(store, action, full)
    assert store.get(action.decision_id).state is ReviewState.WAITING


def test_a_row_that_was_changed_without_the_key_is_refused(server: Server, store: ReviewStore) -> None:
    action = queued()
    store.submit(action)
    rows = PostgresReviews(server.url)
    rows.change("UPDATE reviews SET state = ? WHERE decision_id = ?", ("approved", action.decision_id), lambda: None)
    rows.close()
    with pytest.raises(AlteredReviewError):
        store.get(action.decision_id)


def test_a_server_that_went_away_is_named_and_found_again_and_its_password_is_nowhere(
    server: Server, store: ReviewStore
) -> None:
    action = queued()
    store.submit(action)
    server.stop()
    try:
        for _ in range(2):
            with pytest.raises(ReviewError, match="cannot be read") as away:
                store.get(action.decision_id)
            assert SECRET not in str(away.value)
            assert "127.0.0.1/postgres" in str(away.value)
    finally:
        server.start()
    assert store.get(action.decision_id).queued == action
    assert SECRET not in store.name
    with pytest.raises(SettingsError, match="reads postgresql://"):
        PostgresReviews(f"mysql://desk:{SECRET}@127.0.0.1/x")


async def test_an_approval_that_one_service_queued_is_given_at_another(tmp_path: Path, server: Server) -> None:
    changed = {"review_database": server.url}
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    async with (
        running_service(folders[0], changed=changed, approval=True) as one,
        running_service(folders[1], changed=changed, approval=True) as two,
    ):
        decision_id = (await one.post("/v1/decisions", asked())).json()["decision_id"]
        waiting = (await two.get("/v1/reviews", by="ada")).json()
        assert decision_id in {review["queued"]["decision_id"] for review in waiting}
        said = await two.post(f"/v1/reviews/{decision_id}/approve", {"because": "agreed by phone"}, by="ada")
        assert said.status_code == 200, said.text
        # The other service's flag file has a ruleset of its own, and the same content.
        assert (await one.post(f"/v1/decisions/{decision_id}/redeem", asked())).json()["permit"] is not None
