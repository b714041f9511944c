"""Leases that one process at a time holds: taken, kept, given up, lost, without comparing clocks."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from analytics.lake.commits import Fence
from analytics.lake.errors import FencedError, LakeError
from analytics.lake.leases import JUDGE, MAINTENANCE, Lease, holders
from analytics.lake.table_schemas import LEASES, VERDICTS
from analytics.lake.tables import Lake

if TYPE_CHECKING:
    from pathlib import Path

LEASE_S = 10.0


class Clock:
    """Seconds that rise when the test says so."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def root(tmp_path: Path) -> str:
    Lake.open(str(tmp_path))
    return str(tmp_path)


def a_lease(root: str, clock: Clock, name: str = JUDGE, holder: str | None = None) -> Lease:
    return Lease(root, name, lease_s=LEASE_S, clock=clock, holder=holder)


def test_the_first_to_ask_gets_it_and_the_second_does_not(root: str) -> None:
    clock = Clock()
    first, second = a_lease(root, clock), a_lease(root, clock)
    assert first.fence is None
    assert first.held()
    assert first.fence == Fence(JUDGE, 1)
    assert not second.held()
    assert second.fence is None
    assert a_lease(root, clock, MAINTENANCE).held()


@pytest.mark.slow
def test_a_holder_keeps_it_for_as_long_as_it_asks(root: str) -> None:
    clock, others = Clock(), Clock(500.0)
    first, second = a_lease(root, clock), a_lease(root, others)
    assert first.held()
    for _ in range(40):
        clock.now += LEASE_S / 4
        others.now += LEASE_S / 4
        assert first.held()
        assert not second.held()
    assert first.fence == Fence(JUDGE, 1)


def test_a_silent_holder_loses_it_after_a_lease_of_the_other_s_clock(root: str) -> None:
    clock, others = Clock(), Clock(-1e6)
    first, second = a_lease(root, clock), a_lease(root, others)
    assert first.held()
    assert not second.held()
    others.now += LEASE_S - 0.01
    assert not second.held()
    others.now += 0.02
    assert second.held()
    assert (second.fence or Fence("", 0)).epoch > (first.fence or Fence("", 99)).epoch
    assert first.fence == Fence(JUDGE, 1)  # it does not know yet
    clock.now += LEASE_S * 3
    assert not first.held()
    assert first.fence is None
    assert not first.held()


def test_who_gives_it_up_makes_nobody_wait(root: str) -> None:
    clock = Clock()
    first, second = a_lease(root, clock, holder="a"), a_lease(root, clock, holder="b")
    assert first.held()
    assert not second.held()
    first.release()
    assert first.fence is None
    assert second.held()
    assert holders(Lake.open(root))[JUDGE].holder == "b"
    second.release()
    assert holders(Lake.open(root))[JUDGE].holder is None
    assert a_lease(root, clock).held()


def test_a_holder_that_overslept_unnoticed_goes_on(root: str) -> None:
    clock = Clock()
    only = a_lease(root, clock)
    assert only.held()
    clock.now += LEASE_S * 100
    assert only.held()
    assert only.fence == Fence(JUDGE, 1)


def test_giving_up_what_was_lost_takes_nothing_from_the_new_holder(root: str) -> None:
    clock, others = Clock(), Clock()
    first, second = a_lease(root, clock), a_lease(root, others)
    assert first.held()
    assert not second.held()
    others.now += LEASE_S
    assert second.held()
    first.release()
    others.now += LEASE_S / 2
    assert second.held()
    assert not a_lease(root, others).held()


def test_a_zombie_is_refused_where_the_new_holder_has_been(root: str) -> None:
    lake, clock, others = Lake.open(root), Clock(), Clock()
    zombie, heir = a_lease(root, clock), a_lease(root, others)
    assert zombie.held()
    nothing = lake.scan(VERDICTS).collect()
    lake.append(VERDICTS, nothing, fence=zombie.fence)
    assert not heir.held()
    others.now += LEASE_S
    assert heir.held()
    lake.append(VERDICTS, nothing, fence=heir.fence)
    with pytest.raises(FencedError, match="lease judge is with a later holder"):
        Lake.open(root).append(VERDICTS, nothing, fence=zombie.fence)


def test_of_many_that_ask_at_once_one_gets_it(root: str) -> None:
    clock = Clock()
    claims = [a_lease(root, clock) for _ in range(6)]
    got: list[bool] = []
    threads = [threading.Thread(target=lambda each=each: got.append(each.held())) for each in claims]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == [False] * 5 + [True]


def test_a_store_that_does_not_answer_costs_the_right_after_a_lease(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    claim = a_lease(root, clock)
    assert claim.held()

    def refuse(*_: object, **__: object) -> int:
        raise LakeError("the store is away")

    with monkeypatch.context() as away:
        away.setattr(Lake, "append", refuse)
        clock.now += LEASE_S / 2
        assert claim.held()  # nobody may take it before the lease is over
        clock.now += LEASE_S
        with pytest.raises(LakeError, match="away"):
            claim.held()
        assert claim.fence is None
    assert not claim.held()  # the beat stands where it left it; nobody can know whether it still lives
    clock.now += LEASE_S
    assert claim.held()


def test_a_store_that_does_not_answer_at_the_end_is_named(
    root: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    claim = a_lease(root, Clock())
    assert claim.held()
    assert a_lease(root, Clock(), MAINTENANCE).held()  # whose commit makes the claim ask the log anew

    def refuse(*_: object) -> int:
        raise DeltaError("the store is away")

    monkeypatch.setattr(DeltaTable, "transaction_version", refuse)
    claim.release()
    assert claim.fence is None
    assert f"the lease judge could not be given up (the table leases at {root}/leases cannot be read" in caplog.text
    assert "another worker gets it after 10 s" in caplog.text


@pytest.mark.slow
def test_the_log_of_the_beats_stays_short(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    claim = a_lease(root, clock)
    for _ in range(320):
        clock.now += LEASE_S / 2
        assert claim.held()
    assert Lake.open(root).scan(LEASES).collect().height == 1
    assert len(list((tmp_path / LEASES).glob("*.parquet"))) == 1
    assert list((tmp_path / LEASES / "_delta_log").glob("*.checkpoint.parquet"))
