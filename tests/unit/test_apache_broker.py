from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from streams import apache_broker
from streams.apache_broker import ApacheBroker
from streams.broker import BrokerError
from streams.children import Child
from streams.ports import available_port

if TYPE_CHECKING:
    from pathlib import Path


def test_of_two_that_want_its_jars_at_once_one_fetches_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched, both = list[str](), threading.Barrier(2)

    def fetch(command: list[str], _timeout_s: float) -> None:
        fetched.append(command[0])
        with suppress(threading.BrokenBarrierError):
            both.wait(0.2)

    monkeypatch.delenv("KAFKA_HOME", raising=False)
    monkeypatch.setattr(apache_broker, "_done", fetch)
    jars = tmp_path / "new" / "jars"
    with ThreadPoolExecutor(2) as processes:
        paths = list(processes.map(apache_broker._fetched, [jars, jars]))  # noqa: SLF001
    assert paths == [f"{jars}/*"] * 2
    assert fetched == ["mvn"]


def test_a_node_that_does_not_answer_again_is_not_left_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_: object) -> Child:
        return Child.start("silent", [sys.executable, "-c", "import signal; signal.pause()"], log=tmp_path / "log")

    monkeypatch.setattr(apache_broker, "_run", silent)
    monkeypatch.setattr(apache_broker, "READY_S", 0.1)
    broker = ApacheBroker(f"127.0.0.1:{available_port()}", "id", tmp_path, silent(), "")
    broker.stop()
    with pytest.raises(BrokerError, match="did not answer"):
        broker.restart()
    assert not broker.child.running
