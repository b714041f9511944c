from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from producers.delivery.outbox import Outbox, OutboxError

if TYPE_CHECKING:
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
