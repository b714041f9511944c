"""The service as a process: killed before it answers, without its broker, and with it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from service_cases import KEY, asked, write_files
from workers import await_that

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.integration, pytest.mark.slow]
ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def service(folder: Path, **environment: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    ready = folder / "ready"
    child = subprocess.Popen(
        [sys.executable, "-m", "stagekeeper", "serve", "--port", "0", "--ready-file", str(ready)],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "STAGEKEEPER_HOME": str(folder),
            "STAGEKEEPER_RECEIPT_KEY": KEY,
            **environment,
        },
    )
    try:
        await_that(lambda: ready.exists() or child.poll() is not None, "the service to start")
        yield child, ready.read_text().strip()
    finally:
        if child.poll() is None:
            child.terminate()
        child.wait(30)
        ready.unlink(missing_ok=True)


def request_for(address: str, path: str, token: str, **headers: str) -> urllib.request.Request:
    body = json.dumps(asked()).encode() if path == "/v1/decisions" else None
    return urllib.request.Request(  # noqa: S310 - our own address
        f"{address}{path}", body, {"Authorization": f"Bearer {token}", "Content-Type": "application/json", **headers}
    )


def answer(request: urllib.request.Request) -> dict[str, Any]:
    with urllib.request.urlopen(request, timeout=20) as response:  # noqa: S310
        loaded: dict[str, Any] = json.loads(response.read())
        return loaded


def decisions_on_disk(folder: Path) -> list[str]:
    path = folder / "service.db"
    if not path.exists():
        return []
    with contextlib.closing(sqlite3.connect(path)) as file:
        return [row[0] for row in file.execute("SELECT decision_id FROM decisions")]


def test_a_retry_after_a_kill_gets_the_decision_that_nobody_heard(tmp_path: Path) -> None:
    token = write_files(tmp_path)["bot"]
    longer = {"STAGEKEEPER_PERMIT_S": "300"}  # than another process takes to start on a busy machine
    with service(tmp_path, **longer) as (child, address):
        host, port = address.removeprefix("http://").split(":")
        body = json.dumps(asked()).encode()
        head = f"POST /v1/decisions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nIdempotency-Key: k-1\r\n"
        with socket.create_connection((host, int(port))) as unread:
            unread.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            await_that(lambda: len(decisions_on_disk(tmp_path)) == 1, "the decision to be on disk")
            child.send_signal(signal.SIGKILL)
            child.wait(30)
    with service(tmp_path, **longer) as (child, address):
        again = answer(request_for(address, "/v1/decisions", token, **{"Idempotency-Key": "k-1"}))
        assert [again["decision_id"]] == decisions_on_disk(tmp_path)
        assert again["permit"] is not None
        child.terminate()
        assert child.wait(30) == 0
    assert not (tmp_path / "service.db-wal").exists(), "it closes its files when it is asked to stop"


def test_without_its_broker_it_decides_says_so_and_leaves_in_time(tmp_path: Path) -> None:
    token = write_files(tmp_path)["bot"]
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        servers = f"127.0.0.1:{nobody.getsockname()[1]}"
        with service(tmp_path, STAGEKEEPER_KAFKA_BOOTSTRAP_SERVERS=servers) as (child, address):
            assert answer(request_for(address, "/v1/decisions", token))["permit"] is not None
            state = answer(request_for(address, "/readyz", token))
            assert state["ready"] is True
            assert any("broker does not answer" in line for line in state["degraded"])
            assert state["records_waiting"] == 1
            child.terminate()
            assert child.wait(30) == 0
