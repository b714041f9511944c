"""What a storm rages over, where it is run as a program: a broker, a lake and a folder."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

from apache_kafka import start_kafka
from brokers import embedded_broker
from object_store import ObjectStore
from storages import Bucket, Folder

from streams.broker import ensure_topics

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from brokers import Broker
    from storages import Storage


@contextmanager
def a_broker(name: str, folder: Path) -> Iterator[Broker]:
    """A broker of that name, with its topics."""
    if name == "embedded":
        with embedded_broker(folder / "broker") as embedded:
            yield embedded
    else:
        node = start_kafka(folder / "kafka")
        try:
            ensure_topics(node.address)
            yield node
        finally:
            node.stop()


@contextmanager
def a_storage(kind: str, folder: Path) -> Iterator[Storage]:
    """A folder or a bucket."""
    if kind == "folder":
        yield Folder(folder / "lake")
        return
    store = ObjectStore.start(folder / "store")
    os.environ.update(store.environment)
    try:
        yield Bucket(store)
    finally:
        store.stop()


@contextmanager
def a_folder(kept: Path | None) -> Iterator[str]:
    """A folder that is kept, or goes away."""
    if kept is not None:
        kept.mkdir(parents=True)
        yield str(kept)
    else:
        with tempfile.TemporaryDirectory() as name:
            yield name
