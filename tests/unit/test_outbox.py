from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from producers.boundary.review_database import SqliteReviews
from producers.delivery.outbox import Outbox, OutboxError
from stagekeeper.api.decision_log import DecisionLog

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_records_come_back_in_order_until_they_are_removed(tmp_path: Path) -> None:
    with Outbox(tmp_path / "deep" / "outbox.db") as outbox:
        seqs = [outbox.put("t", b"k%d" % number, b"v") for number in range(5)]
        assert [record.key for record in outbox.after(seqs[1], 2)] == [b"k2", b"k3"]
        outbox.remove(seqs[:4])
        assert [record.seq for record in outbox.after(0, 10)] == seqs[4:]
        assert len(outbox) == 1


def test_a_number_is_never_given_twice(tmp_path: Path) -> None:
    with Outbox(tmp_path / "outbox.db") as outbox:
        first = outbox.put("t", b"k", b"v")
        outbox.remove([first])
        assert outbox.put("t", b"k", b"v") > first


def test_what_was_put_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    code = (
        "import sys; from pathlib import Path; from producers.delivery.outbox import Outbox\n"
        "outbox = Outbox(Path(sys.argv[1]))\n"
        "while True:\n"
        "    print(outbox.put('t', b'k', b'v'), flush=True)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    confirmed = [int(writer.stdout.readline()) for _ in range(50)]
    os.kill(writer.pid, signal.SIGKILL)
    confirmed += [int(line) for line in writer.stdout.read().split("\n")[:-1]]
    writer.stdout.close()
    writer.wait()
    with Outbox(path) as outbox:
        kept = {record.seq for record in outbox.after(0, 1_000_000)}
    assert set(confirmed) <= kept


def test_many_threads_put_without_losing_any(tmp_path: Path) -> None:
    with Outbox(tmp_path / "outbox.db", sync=False) as outbox:
        threads = [threading.Thread(target=lambda: [outbox.put("t", b"k", b"v") for _ in range(200)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(outbox) == 1600


def test_a_full_disk_is_a_named_error_and_the_outbox_goes_on_when_there_is_room(tmp_path: Path) -> None:
    with Outbox(tmp_path / "outbox.db") as outbox:
        (pages,) = outbox._file.execute("PRAGMA page_count").fetchone()  # noqa: SLF001 - the limit stands for the disk
        outbox._file.execute(f"PRAGMA max_page_count = {pages + 2}")  # noqa: SLF001
        with pytest.raises(OutboxError, match="full"):
            outbox.put("t", b"k", b"v" * 100_000)
        before = len(outbox)
        outbox._file.execute("PRAGMA max_page_count = 100000")  # noqa: SLF001
        outbox.put("t", b"k", b"v")
        assert len(outbox) == before + 1


def test_a_file_that_is_no_outbox_is_named(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    path.write_bytes(b"something else entirely" * 100)
    with pytest.raises(OutboxError, match=r"outbox\.db cannot be used"):
        Outbox(path)


def test_an_outbox_held_by_another_says_so(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    with Outbox(path) as outbox:
        outbox._file.execute("PRAGMA busy_timeout = 50")  # noqa: SLF001
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            with pytest.raises(OutboxError, match="locked"):
                outbox.put("t", b"k", b"v")
        finally:
            other.close()


def _delete(path: Path) -> None:
    path.unlink()


def _delete_the_log(path: Path) -> None:
    path.with_name(f"{path.name}-wal").unlink()


def _delete_the_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))


def _replace(path: Path) -> None:
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    copy.replace(path)


def _cut(path: Path) -> None:
    os.truncate(path, 1_000)


@pytest.mark.parametrize("harm", [_delete, _delete_the_log, _delete_the_folder, _replace, _cut])
@pytest.mark.parametrize("before", [0, 3])
def test_a_file_that_is_tampered_with_is_noticed_at_the_next_write(
    tmp_path: Path, harm: Callable[[Path], None], before: int
) -> None:
    """SQLite itself goes on writing to a file that nobody finds again."""
    path = tmp_path / "home" / "outbox.db"
    outbox = Outbox(path)
    for _ in range(before):
        outbox.put("t", b"k", b"v")
    harm(path)
    for _ in range(2):
        with pytest.raises(OutboxError, match="while this router was writing to it"):
            outbox.put("t", b"k", b"v")
    outbox.close()


def test_a_record_that_was_altered_is_not_delivered_and_stops_writes(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    with Outbox(path) as outbox:
        seqs = [outbox.put("t", b"k", b"value %d" % number) for number in range(5)]
        with contextlib.closing(sqlite3.connect(path)) as other, other:
            other.execute("UPDATE records SET value = 'x' WHERE seq = ?", seqs[:1])
            other.execute("UPDATE records SET value = x'00' WHERE seq = ?", seqs[1:2])
        assert [record.seq for record in outbox.after(0, 2)] == seqs[2:4], "what is intact is delivered"
        assert [record.seq for record in outbox.of_key(b"k")] == seqs[2:]
        with pytest.raises(OutboxError, match=r"altered since they were written \(seq 1, 2, 2 in all\)"):
            outbox.put("t", b"k", b"v")
        assert len(outbox) == 5, "nothing is thrown away"


def test_an_outbox_of_an_earlier_version_is_read_on(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    table = "CREATE TABLE records (seq INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT, key BLOB, value BLOB)"
    with contextlib.closing(sqlite3.connect(path)) as old, old:
        old.execute(table)
        old.execute("INSERT INTO records (topic, key, value) VALUES ('t', x'6b', x'76')")
    with Outbox(path) as outbox:
        outbox.put("t", b"k", b"new")
        assert [record.value for record in outbox.after(0, 10)] == [b"v", b"new"]


def test_nobody_else_can_read_databases_and_their_logs(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("reviews.db", "service.db", "old.db")]
    files[2].touch(mode=0o644)
    files[2].chmod(0o644)  # as earlier versions made it
    with contextlib.closing(SqliteReviews(files[0])), DecisionLog(files[1]), Outbox(files[2]):
        modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir() if ".db" in path.name}
    holding = {name: mode for name, mode in modes.items() if not name.endswith(("-lock", "-spare"))}
    assert {name: mode for name, mode in holding.items() if mode & 0o077} == {}
    assert {"reviews.db-wal", "service.db-wal", "old.db-wal"} <= modes.keys()


def test_a_file_that_a_group_was_given_stays_with_it(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    path.touch()
    path.chmod(0o660)
    with Outbox(path):
        assert path.stat().st_mode & 0o777 == 0o660
