"""What tests need of any broker, embedded or not."""

from __future__ import annotations

from typing import Protocol


class Broker(Protocol):
    """What a test needs of any broker."""

    @property
    def address(self) -> str: ...

    @property
    def cluster_id(self) -> str: ...

    @property
    def pid(self) -> int: ...
