"""How the tests are spread over processes, and on how many examples a law is tried."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import settings
from laws import examples
from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    from xdist.remote import Producer

settings.register_profile("here", max_examples=examples(100))
settings.load_profile("here")

_LONGEST_FIRST: Final = (
    "test_storm",
    "test_demonstration",
    "test_data_plane",
    "test_up",
    "test_workers",
    "test_doctor",
)
"""Modules with tests of half a minute; the processes of `make test` end together when these begin early."""

_TOGETHER: Final = ("test_demonstration.py", "test_security.py", "test_browser.py", "test_storm.py")
"""Modules of which one process runs all tests: they share a fixture that takes many seconds to make, or each of them
takes so much of the machine that two at once only wait for each other."""


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
