"""The webhooks file, its secrets, and the command that tries what it names."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from webhook_receiver import SECRET, Receiver

from producers.errors import SettingsError
from producers.strict_yaml import ConfigurationFileError
from stagekeeper.commands import cli
from streams.webhooks.endpoints import Webhooks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as one:
        yield one


FILE = """
version: 1
page: https://stagekeeper.example.com/
endpoints:
  - {name: payments, owners: [payments], url: "https://hooks.example.com/x", secret_env: HOOK_SECRET}
  - {name: slack, format: slack, url_file: URL, lives: [open, not in force]}
"""


def test_the_file_and_its_secrets_are_read_and_never_shown(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("https://hooks.slack.example/T0/secret\n")
    path = tmp_path / "webhooks.yaml"
    path.write_text(FILE.replace("URL", str(tmp_path / "url")))
    held = Webhooks.load(path, environment={"HOOK_SECRET": f"{SECRET} whsec_{'A' * 32}"})
    payments, slack = held.endpoints
    assert (len(payments.secrets), payments.owners) == (2, {"payments"})
    assert (slack.url, slack.secrets) == ("https://hooks.slack.example/T0/secret", ())
    assert len(slack.lives) == 2
    assert "secret" not in repr(held).replace("secrets", "")


@pytest.mark.parametrize(
    ("text", "environment", "message"),
    [
        (FILE, {}, "HOOK_SECRET holds no secret"),
        (FILE, {"HOOK_SECRET": "hunter2"}, "is not `whsec_` and base64 of 24 to 64 bytes; make one with"),
        (FILE, {"HOOK_SECRET": SECRET}, "its URL cannot be read from URL"),
        (FILE.replace("https://hooks.example.com/x", "ftp://x"), {}, "begins with http"),
        (FILE.replace("https://hooks", "https://me:hunter2@hooks"), {}, "name or password"),
        (FILE.replace(", secret_env: HOOK_SECRET", ""), {}, "what is not signed is not believed"),
        (FILE.replace("url_file: URL", 'url: "https://hooks.slack.example/hunter2"'), {}, "the URL is the secret"),
        (FILE.replace("name: slack", "name: payments"), {}, "twice there: payments"),
        (FILE.replace("page:", "pages:"), {}, "pages"),
    ],
)
def test_what_is_wrong_with_the_file_is_named_without_any_secret(
    tmp_path: Path, text: str, environment: dict[str, str], message: str
) -> None:
    path = tmp_path / "webhooks.yaml"
    path.write_text(text)
    with pytest.raises((SettingsError, ConfigurationFileError)) as refused:
        Webhooks.load(path, environment=environment)
    assert message in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_the_command_lists_endpoints_and_tries_whether_they_can_be_reached(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "webhooks.yaml"
    path.write_text(
        "version: 1\nendpoints:\n"
        f"  - {{name: a, url: '{receiver.url}', secret_env: HOOK_SECRET, allow_private: true}}\n"
        f"  - {{name: b, url: '{receiver.url}', secret_env: HOOK_SECRET}}\n"
    )
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    monkeypatch.setenv("STAGEKEEPER_WEBHOOKS_FILE", str(path))
    listed = CliRunner().invoke(cli, ["webhooks", "list"])
    assert listed.output.splitlines()[0].startswith("a  standard  of all gates  when accepted, ")
    assert SECRET not in listed.output
    tried = CliRunner().invoke(cli, ["webhooks", "try", "--json"])
    assert tried.exit_code == 1
    first, second = json.loads(tried.output)
    assert (first["delivered"], first["answer"], second["delivered"]) == (True, "204", False)
    assert "127.0.0.1 is not a public address; `allow_private: true` allows it" in second["answer"]
    assert [body["type"] for body in receiver.verified()] == ["stagekeeper.trial"]
    assert CliRunner().invoke(cli, ["webhooks", "try", "--endpoint", "a"]).exit_code == 0
    assert "did you mean" in str(CliRunner().invoke(cli, ["webhooks", "try", "--endpoint", "aa"]).exception)
