"""The enactor in a flag service: killed or refused anywhere, each change is made once and told once."""

from __future__ import annotations

import contextlib
from datetime import date
from typing import TYPE_CHECKING, Any

import pytest
from enactor_cases import ACTION, Place
from featbit_server import ENVIRONMENT, TOKEN, featbit_server
from flag_service_cases import put
from stage_stores import KilledError

from analytics.enactment.enactments import EnactmentPhase
from producers.boundary.policy_flags import MODE
from producers.flag_services.featbit_flags import FeatBitFlags
from producers.flag_services.flag_service import first_flags
from producers.flag_services.management_api import ManagementApi
from producers.flag_services.service_stages import ServiceStages
from producers.wire.stage import Mode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from featbit_server import FeatBitServer

pytestmark = pytest.mark.slow


@pytest.fixture
def server() -> Iterator[FeatBitServer]:
    with featbit_server() as running:
        yield running


@pytest.fixture
def place(server: FeatBitServer, tmp_path: Path) -> Iterator[Place]:
    """A lake in which an action at draft_write does harm, and an enactor that has its stage in FeatBit."""
    api = ManagementApi("FeatBit", server.url, TOKEN, 1.0, sleep=lambda _: None)
    with contextlib.closing(api):
        flags = FeatBitFlags(api, ENVIRONMENT)
        for new in first_flags(owner="ada", review_date=date(2027, 3, 1), cleanup_condition="done"):
            flags.create(new)
        place = Place(tmp_path)
        place.store = ServiceStages(flags)
        put(place.store, ACTION, Mode.DRAFT_WRITE)
        place.restarted()
        place.judged()
        yield place


def writes(server: FeatBitServer) -> int:
    return len([asked for asked in server.asked if asked.endswith(f"{MODE.key}/targeting")])


def test_a_rollback_is_carried_out_once(place: Place, server: FeatBitServer) -> None:
    before = writes(server)
    assert place.look().fault is None
    place.look()
    assert place.store.read(ACTION).mode is Mode.SEARCH_ONLY
    assert place.phases == [EnactmentPhase.INTENDED, EnactmentPhase.APPLIED]
    assert place.steps[-1].version_after == place.steps[0].version_after == place.store.read(ACTION).version
    assert (len(place.told), writes(server)) == (1, before + 1)


def test_killed_after_the_write_its_record_is_completed_and_the_change_not_repeated(
    place: Place, server: FeatBitServer
) -> None:
    made = FeatBitFlags.put

    def put_and_die(flags: FeatBitFlags, *rules: Any) -> None:
        made(flags, *rules)
        raise KilledError

    before = writes(server)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeatBitFlags, "put", put_and_die)
        with pytest.raises(KilledError):
            place.look()
    assert (place.phases, place.told) == ([EnactmentPhase.INTENDED], [])
    place.restarted()
    put(place.store, ACTION._replace(tool="close_account"), Mode.OBSERVE)
    place.look()
    assert place.phases == [EnactmentPhase.INTENDED, EnactmentPhase.APPLIED]
    assert "had it already" in place.steps[-1].note
    assert (len(place.told), writes(server)) == (1, before + 2), "ours, and that of the other action"


@pytest.mark.parametrize("status", [401, 500])
def test_a_service_that_refuses_is_a_fault_until_it_does_not(place: Place, server: FeatBitServer, status: int) -> None:
    def refuse() -> int:
        server.before = refuse
        return status

    server.before = refuse
    assert "FeatBit" in (place.look().fault or "")
    assert (place.store.read(ACTION).mode, place.told) == (Mode.DRAFT_WRITE, [])
    server.before = None
    assert place.look().fault is None
    assert place.store.read(ACTION).mode is Mode.SEARCH_ONLY
    assert place.phases[-1] is EnactmentPhase.APPLIED
    assert len(place.told) == 1


def test_a_person_who_writes_in_the_same_moment_is_heeded(place: Place, server: FeatBitServer) -> None:
    person = ServiceStages(place.store.service)
    server.before = lambda: put(person, ACTION, Mode.OBSERVE) and None
    place.look()
    place.look()
    assert place.store.read(ACTION).mode is Mode.OBSERVE
    assert EnactmentPhase.APPLIED not in place.phases
