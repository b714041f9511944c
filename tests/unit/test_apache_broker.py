from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

from streams import apache_broker

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


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
