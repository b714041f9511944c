"""A disk that is truly full: writes are denied with that reason, reads go on, and room ends it."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from boundary_cases import Permit, flag_evaluator

from producers.boundary.errors import ActionDeniedError
from producers.boundary.router import Router
from producers.delivery.kafka_emitter import KafkaEmitter
from producers.delivery.outbox import Outbox, OutboxError
from producers.delivery.outbox_emitter import OutboxEmitter
from producers.delivery.recorder import Recorder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SIZE = "16m"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if mount is None or umount is None:
        pytest.skip("there is no `mount` here: a full disk was not tried")
    asked = [mount, "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(place)]
    mounted = subprocess.run(asked, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"no file system may be mounted here, so a full disk was not tried: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run([umount, "--lazy", str(place)], check=True)


def _fill(place: Path) -> Path:
    """Take all the room that there is."""
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (65_536, 4_096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError as error:
                assert error.strerror == os.strerror(28)  # noqa: PT017 - the end of a loop, not what is tested
    return filler


def test_writes_are_denied_with_the_reason_reads_go_on_and_room_ends_it(small_disk: Path) -> None:
    emitter = OutboxEmitter(
        lambda hook: KafkaEmitter("127.0.0.1:1", on_undeliverable=hook), Outbox(small_disk / "outbox.db")
    )
    router = Router(
        authorizer=Permit(), flags=flag_evaluator(), recorder=Recorder(emitter, source="/t"), environment="production"
    )
    ran: list[str] = []

    def routed(name: str, risk: str) -> Any:
        said = router.action(tool=name, workflow="w", system="s", risk_class=risk, reversibility="automatic")
        return said(lambda: ran.append(name))

    read, write = routed("read", "search"), routed("write", "reversible_write")
    write()
    filler = _fill(small_disk)
    denied: ActionDeniedError | None = None
    for _ in range(2_000):  # the log of the file may have room left that was taken before
        try:
            write()
        except ActionDeniedError as error:
            denied = error
            break
    assert denied is not None, "the disk never was full"
    assert denied.decision.result.reason == "record_not_durable"
    assert "full" in str(denied)
    written = ran.count("write")
    for _ in range(3):
        read()
        with pytest.raises(ActionDeniedError, match="cannot be kept on disk"):
            write()
    assert (ran.count("write"), ran.count("read")) == (written, 3), "no write ran, every read did"

    filler.unlink()
    write()
    assert ran.count("write") == written + 1
    waiting = emitter.waiting
    assert waiting >= 2 * written, "each decision and each outcome that was confirmed is still there"
    emitter.close(0.1)
    assert emitter.lost == 0, "the records of the reads found room again when the router ended"


def test_what_the_broker_took_makes_room_again_on_a_full_disk(small_disk: Path) -> None:
    """Nobody adds room here: the outbox fills the disk, and must free it by itself."""
    with Outbox(small_disk / "outbox.db") as outbox:
        kept: list[int] = []
        with pytest.raises(OutboxError, match="full"):  # noqa: PT012 - the last of them raises
            while True:
                kept.append(outbox.put("t", b"k", b"v" * 2_000))
        assert len(outbox) == len(kept), "what was confirmed is there, and nothing else"
        for start in range(0, len(kept), 100):
            outbox.remove(kept[start : start + 100])
        assert len(outbox) == 0
        outbox.put("t", b"k", b"v" * 2_000)
