"""How the tests are spread over processes, on how many examples a law is tried, and how a lake begins."""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import settings
from laws import examples
from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xdist.remote import Producer

settings.register_profile("here", max_examples=examples(100))
settings.load_profile("here")

_LONGEST_FIRST: Final = (
    "test_storm",
    "test_demonstration",
    "test_data_plane",
    "test_up",
    "test_unleash",
    "test_browser",
    "test_workers",
    "test_security",
    "test_doctor",
    "test_comparators",
    "test_quality",
    "test_unleash",
)
"""Modules with tests of half a minute, or whose tests run together; the processes of `make test` end together when
these begin early."""

_FIRST_COMMIT: Final = Path("_delta_log", f"{0:020}.json")

_TOGETHER: Final = (
    "test_demonstration.py",
    "test_security.py",
    "test_browser.py",
    "test_storm.py",
    "test_unleash.py",
    "test_comparators.py",
    "test_quality.py",
    "test_unleash.py",
)
"""Modules of which one process runs all tests: they share a fixture that takes many seconds to make, or each of them
takes so much of the machine that two at once only wait for each other."""


_SECONDS_TO_IMPORT: Final = "test_mcp_"
"""Modules whose imports (FastMCP and all that it brings) take a third of the time in which all others are read."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Where slow tests are left out, leave out also the import of modules that are slow for it."""
    is_left_out = collection_path.name.startswith(_SECONDS_TO_IMPORT) and "not slow" in config.getoption("markexpr")
    return is_left_out or None


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark as slow what is left out with the slow ones, so that the others find it."""
    if item.path.name.startswith(_SECONDS_TO_IMPORT):
        item.add_marker(pytest.mark.slow)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the random order, but put the longest tests first, then the other integration tests."""

    def turn(item: pytest.Item) -> tuple[int, bool]:
        module = item.path.stem
        longest = _LONGEST_FIRST.index(module) if module in _LONGEST_FIRST else len(_LONGEST_FIRST)
        return longest, item.get_closest_marker("integration") is None

    items.sort(key=turn)


class _ByFixture(LoadScopeScheduling):
    """Hands out single tests, and whole modules where they share something dear.

    `pytest.mark.xdist_group` would say the same, but pytest 9.2 ignores how pytest-xdist 3.8 carries it.
    """

    def _split_scope(self, nodeid: str) -> str:
        path, _, _ = nodeid.partition("::")
        return path if path.endswith(_TOGETHER) else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling | None:
    """With `--dist loadscope`, spread by what is shared."""
    return _ByFixture(config, log) if config.getvalue("dist") == "loadscope" else None


@pytest.fixture(scope="session", autouse=True)
def _new_tables_are_copies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Create each empty table once, and copy it for every lake after that: of most lakes of a test creation took most.

    A copy has an identity and times of its own. What is not a new folder is created as ever.
    """
    from deltalake import DeltaTable  # noqa: PLC0415 - not in the process that only hands out tests

    from analytics.lake import storage  # noqa: PLC0415

    create, firsts = storage.create_table, dict[str, str]()

    def first_commit(name: str) -> str:
        # What tests of the log and of other layouts change.
        made_with = f"{name} {storage._CONFIGURATION} {storage.LAYOUT} {storage.SCHEMAS[name]}"  # noqa: SLF001
        if made_with not in firsts:
            root = tmp_path_factory.mktemp("new-tables")
            create(str(root), name)
            firsts[made_with] = (root / name / _FIRST_COMMIT).read_text(encoding="utf-8")
        return firsts[made_with]

    def copy(root: str, name: str) -> DeltaTable:
        path = Path(root, name, _FIRST_COMMIT)
        if storage.is_remote(root) or path.parent.exists():
            return create(root, name)
        text = first_commit(name)
        begun, metadata = (json.loads(line) for line in text.splitlines() if "commitInfo" in line or "metaData" in line)
        for old, new in (
            (metadata["metaData"]["id"], str(uuid.uuid4())),
            (str(metadata["metaData"]["createdTime"]), str(now_ms := round(time.time() * 1_000))),
            (str(begun["commitInfo"]["timestamp"]), str(now_ms)),
        ):
            text = text.replace(old, new)
        try:
            path.parent.mkdir(parents=True)
            path.write_text(text, encoding="utf-8")
        except OSError:
            return create(root, name)  # which says what stands in its way
        return DeltaTable(storage.uri_of(root, name), storage_options=storage.options_of(root))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "create_table", copy)
        yield
