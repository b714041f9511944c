"""How the tests are spread over processes."""

from __future__ import annotations

from typing import Final

import pytest

_LONGEST_FIRST: Final = ("test_storm", "test_up", "test_data_plane", "test_workers", "test_security", "test_stress")
"""Modules with tests of half a minute; the two processes of `make test` end together when these begin early."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the random order, but put the longest tests first, then the other integration tests."""

    def turn(item: pytest.Item) -> tuple[int, bool]:
        module = item.path.stem
        longest = _LONGEST_FIRST.index(module) if module in _LONGEST_FIRST else len(_LONGEST_FIRST)
        return longest, item.get_closest_marker("integration") is None

    items.sort(key=turn)
