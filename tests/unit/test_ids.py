from __future__ import annotations

import os
import threading
import uuid
from itertools import count
from types import SimpleNamespace
from typing import TYPE_CHECKING

from producers.wire import ids
from producers.wire.ids import random_id

if TYPE_CHECKING:
    import pytest


def test_ids_are_uuids_of_version_4_in_their_one_spelling() -> None:
    drawn = [random_id() for _ in range(1_000)]
    for each in drawn:
        read = uuid.UUID(each)
        assert (str(read), read.version, read.variant) == (each, 4, uuid.RFC_4122)
    assert {each[19] for each in drawn} == set("89ab"), "all variants come up"
    assert len(set(drawn)) == 1_000


def test_many_threads_draw_no_id_twice() -> None:
    drawn: list[str] = []
    threads = [threading.Thread(target=lambda: drawn.extend([random_id() for _ in range(2_000)])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(drawn)) == 16_000


def test_a_forked_child_draws_ids_of_its_own() -> None:
    random_id()  # there is something left that both could give out
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, "".join(random_id() for _ in range(20)).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as said:
        text = said.read()
    os.waitpid(child, 0)
    theirs = {text[start : start + 36] for start in range(0, len(text), 36)}
    assert len(theirs) == 20
    assert theirs.isdisjoint({random_id() for _ in range(300)})


def test_a_clock_that_stands_still_gives_no_id_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "time", SimpleNamespace(time_ns=lambda: 7))
    assert len({random_id() for _ in range(100)}) == 100


def test_two_copies_of_a_frozen_machine_give_out_different_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []
    for moment in (7, 8):  # thawed twice, with the same secret and the same numbers still to come
        monkeypatch.setattr(ids, "_numbers", count(5))
        monkeypatch.setattr(ids, "time", SimpleNamespace(time_ns=lambda moment=moment: moment))
        ids._drawn.clear()  # noqa: SLF001
        given.append({random_id() for _ in range(100)})
    assert given[0].isdisjoint(given[1])
