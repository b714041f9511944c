"""What the documents say is held against what is there."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Self

import click
import pytest
from documents import DOCUMENTS, ROOT, anchors, blocks, links, mentioned_commands, name_of, whole_commands

import stagekeeper
from analytics.lake.storage import StorageSettings
from producers.delivery.kafka_emitter import DeliveryStats
from producers.wire.events import event_from_bytes
from stagekeeper.commands import COMMANDS, cli
from stagekeeper.settings import RENAMED_VARIABLES, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from producers.wire.events import EventRecord

CLI_PAGE = ROOT / "docs" / "cli.md"
VARIABLES = {f"STAGEKEEPER_{name.upper()}" for name in Settings.model_fields}
VARIABLES |= {f"STAGEKEEPER_LAKE_{name.upper()}" for name in StorageSettings.model_fields}
each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)


def command_of(words: list[str]) -> tuple[click.Command, str, list[str]]:
    """The command that words lead to, its full name, and what is left of the words."""
    command: click.Command = cli
    name, left = "stagekeeper", list(words)
    while isinstance(command, click.Group) and left and not left[0].startswith("-"):
        found = command.get_command(click.Context(command), left[0])
        assert found is not None, f"there is no command {name} {left[0]}"
        command, name = found, f"{name} {left.pop(0)}"
    return command, name, left


def commands_below(group: click.Group, name: str) -> Iterator[tuple[str, click.Command]]:
    for each in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), each)
        assert command is not None
        yield f"{name} {each}", command
        if isinstance(command, click.Group):
            yield from commands_below(command, f"{name} {each}")


@each_document
def test_every_command_in_a_shell_block_parses_as_it_stands(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for words in whole_commands(path):
        command, name, left = command_of(words)
        command.make_context(name, left)


@each_document
def test_every_command_in_a_sentence_exists_with_its_options(path: Path) -> None:
    for words in mentioned_commands(path):
        command, name, left = command_of(words)
        options = {option for parameter in command.params for option in [*parameter.opts, *parameter.secondary_opts]}
        for word in left:
            if word.startswith("-") and word not in {"-h", "--help"}:
                assert word.partition("=")[0] in options, f"{name} has no {word}"


@each_document
def test_every_link_leads_somewhere(path: Path) -> None:
    for target in links(path):
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), f"{target} does not exist"
        assert not anchor or anchor in anchors(there), f"{target}: no such heading"


def test_documents_and_settings_name_the_same_variables() -> None:
    places = [*DOCUMENTS, ROOT / "docker-compose.yml", ROOT / "Dockerfile"]
    for path in places:
        named = set(re.findall(r"STAGEKEEPER_[A-Z][A-Z_]*[A-Z]", path.read_text(encoding="utf-8")))
        ours = {name for name in named if not name.startswith("STAGEKEEPER_TEST_")}  # those are the tests' own
        old_names = RENAMED_VARIABLES.keys() if path.name == "CHANGELOG.md" else set()
        assert ours - old_names <= VARIABLES, name_of(path)
    for page in ("README.md", "docs/operations.md"):
        rows = set(re.findall(r"^\| `(STAGEKEEPER_\w+)`", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE))
        assert rows == VARIABLES, page


def sections_of_cli_page() -> dict[str, str]:
    parts = re.split(r"^## `(.+)`$", CLI_PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_command_has_its_section_and_no_other_has_one() -> None:
    assert set(sections_of_cli_page()) == {name for name, _ in commands_below(cli, "stagekeeper")}
    assert [name.split()[1] for name in sections_of_cli_page() if len(name.split()) == 2] == list(COMMANDS)


def test_every_section_names_exactly_the_options_that_its_command_has() -> None:
    sections = sections_of_cli_page()
    for name, command in commands_below(cli, "stagekeeper"):
        own = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
        # What another command's line shows is that command's.
        text = re.sub(r"`stagekeeper [^`]+`", "", sections[name])
        assert set(re.findall(r"--[a-z][a-z-]*[a-z]", text)) == own, name


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_every_make_target_exists(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE))
    assert named
    assert named <= targets


def test_every_folder_of_the_map_exists() -> None:
    rows = re.findall(r"^\| ((?:`[\w/]+/`(?:, )?)+) \|", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    folders = [folder for row in rows for folder in re.findall(r"`([\w/]+)`", row)]
    assert len(folders) >= 8
    assert [folder for folder in folders if not (ROOT / folder).is_dir()] == []


class Collector:
    """An emitter that keeps what it is given."""

    def __init__(self, bootstrap_servers: str) -> None:
        self.bootstrap_servers = bootstrap_servers
        self.records: list[EventRecord] = []
        self.stats = DeliveryStats()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def emit(self, record: EventRecord) -> None:
        self.records.append(record)

    def flush(self, timeout_s: float) -> int:
        return 0


def test_the_router_of_the_readme_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STAGEKEEPER_KAFKA_BOOTSTRAP_SERVERS", "kafka:9092")
    made: list[Collector] = []

    def collecting(bootstrap_servers: str) -> Collector:
        made.append(Collector(bootstrap_servers))
        return made[-1]

    monkeypatch.setattr(stagekeeper, "KafkaEmitter", collecting, raising=False)
    (program,) = blocks(ROOT / "README.md", "python")
    exec(compile(program, "README.md", "exec"), {})  # noqa: S102 - the document is ours
    (emitter,) = made
    assert emitter.bootstrap_servers == "kafka:9092"
    events = [event_from_bytes(record.value) for record in emitter.records]
    assert [type(event).__name__ for event in events] == ["ActionDecided", "ActionExecuted"]
    assert len({event.subject for event in events}) == 1
    assert len(program.splitlines()) <= 20, "the README promises to be short"


def test_no_file_has_grown_beyond_one_idea() -> None:
    packages = ("stagekeeper", "producers", "streams", "analytics", "dashboard", "tests", "benchmarks", "examples")
    sources = [path for package in packages for path in (ROOT / package).rglob("*.py")]
    long = {
        name_of(path): lines
        for path in [*sources, *DOCUMENTS]
        # The reference has a section for every command, and holds no idea but that.
        if (lines := path.read_text(encoding="utf-8").count("\n")) > (800 if path == CLI_PAGE else 420)
    }
    assert long == {}


def test_no_document_names_a_place_on_somebodys_machine() -> None:
    for path in DOCUMENTS:
        assert re.findall(r"/(?:home|root|Users)/\w+", path.read_text(encoding="utf-8")) == [], name_of(path)


def test_the_licence_is_the_one_that_is_declared() -> None:
    assert 'license = "Apache-2.0"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text


def test_the_published_schemas_are_readable_by_anybody() -> None:
    files = sorted((ROOT / "docs" / "schemas").glob("*.json"))
    assert len({json.loads(path.read_text(encoding="utf-8"))["$id"] for path in files}) == len(files) > 0
