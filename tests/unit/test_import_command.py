from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result
from shared_recordings import EXAMPLES

from producers.errors import SettingsError
from producers.importers.catalog import UnknownToolsError
from producers.importers.transcript import TranscriptError
from producers.strict_yaml import ConfigurationFileError
from stagekeeper.commands.imports import command

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., Result]

TRANSCRIPT, CATALOG = str(EXAMPLES / "transcript.jsonl"), str(EXAMPLES / "catalog.yaml")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs the command where there is no broker: whatever is wrong with the files must be said first."""
    environment = {"STAGEKEEPER_HOME": str(tmp_path), "STAGEKEEPER_KAFKA_BOOTSTRAP_SERVERS": None}

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(command, ["transcript", *arguments], env=environment)

    return run


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        (("nowhere.json", "--catalog", CATALOG), TranscriptError, "nowhere.json cannot be read"),
        ((CATALOG, "--catalog", CATALOG), TranscriptError, "neither JSON nor JSON lines"),
        ((TRANSCRIPT, "--catalog", "nowhere.yaml"), ConfigurationFileError, "nowhere.yaml cannot be read"),
        ((TRANSCRIPT, "--catalog", TRANSCRIPT), ConfigurationFileError, "transcript.jsonl is not YAML"),
        (
            (TRANSCRIPT, "--catalog", str(EXAMPLES / "catalog-airline.yaml")),
            UnknownToolsError,
            "lacks 4 of the transcript's tools",
        ),
        ((TRANSCRIPT, "--catalog", CATALOG, "--reward-field", "rewards"), TranscriptError, "did you mean `reward`"),
        ((TRANSCRIPT, "--catalog", CATALOG), SettingsError, "stagekeeper up"),
    ],
)
def test_what_cannot_be_imported_is_named_before_anything_is_emitted(
    run: Run, arguments: tuple[str, ...], error: type[Exception], named: str
) -> None:
    result = run(*arguments)
    assert isinstance(result.exception, error)
    assert named in str(result.exception)


def test_a_catalog_is_required(run: Run) -> None:
    result = run(TRANSCRIPT)
    assert result.exit_code == 2
    assert "--catalog" in result.output
