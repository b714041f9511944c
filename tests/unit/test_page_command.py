"""`stagekeeper page`: what it says before the page's own process takes over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from stagekeeper.commands import cli, page
from streams.ports import available_port

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("host", "reached"),
    [
        ("0.0.0.0", "127.0.0.1"),  # noqa: S104 - nothing is served
        ("::", "127.0.0.1"),
        ("::1", "[::1]"),
        ("page.test", "page.test"),
    ],
)
def test_the_address_that_is_named_can_be_opened(
    host: str, reached: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAGEKEEPER_HOME", str(tmp_path))
    monkeypatch.setattr(page.os, "execve", lambda *_: None)
    port = available_port()
    answer = CliRunner().invoke(cli, ["page", "--host", host, "--port", str(port)])
    assert answer.stderr == f"open http://{reached}:{port}\n"
