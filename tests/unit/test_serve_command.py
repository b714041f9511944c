from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from service_cases import settings_in, write_files

from stagekeeper.api.decision_log import DecisionLog, ServiceRunsError
from stagekeeper.api.request_limits import RequestLimits
from stagekeeper.commands import cli

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of a service, in the working folder."""
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STAGEKEEPER_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("options", "variables", "message"),
    [
        (["--host", "0.0.0.0"], {}, "in the clear"),  # noqa: S104 - it is refused
        (["--host", "192.0.2.1"], {}, "in the clear"),
        ([], {"TLS_CERTIFICATE": "c.pem"}, "TLS takes"),
        ([], {"TLS_CLIENT_CA": "ca.pem"}, "TLS takes"),
        ([], {"TLS_CERTIFICATE": "c.pem", "TLS_KEY": "k.pem"}, "is no file"),
    ],
)
def test_tokens_do_not_cross_a_network_in_the_clear(
    folder: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], variables: dict[str, str], message: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"STAGEKEEPER_SERVICE_{name}", value)
    refused = CliRunner().invoke(cli, ["serve", *options])
    assert message in str(refused.exception)


@pytest.mark.parametrize("missing", ["tokens.yaml", "authorization.yaml", "flags.json"])
def test_what_it_decides_by_must_be_there(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    refused = CliRunner().invoke(cli, ["serve", "--port", "0"])
    assert missing in str(refused.exception)


def test_a_port_that_is_taken_is_named(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = CliRunner().invoke(cli, ["serve", "--port", str(port)])
        assert f"127.0.0.1:{port}" in str(refused.exception)


def test_one_service_at_a_time_uses_the_decisions_of_a_folder(tmp_path: Path) -> None:
    path = settings_in(tmp_path).service_log
    with DecisionLog(path) as log:
        with pytest.raises(ServiceRunsError, match="another service"):
            DecisionLog(path)
        log.outbox.close()
    with DecisionLog(path) as log:
        log.outbox.close()


async def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    sent: list[dict[str, Any]] = []

    async def never(*_: object) -> None:
        pytest.fail("the application was asked")

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "headers": [(b"content-length", b"10")]}
    await RequestLimits(never, body_s=0.01)(scope, receive, send)  # type: ignore[arg-type]
    assert sent[0]["status"] == 408
